"""Voice activity, streamed: silero-vad with bptt in place of its LSTM.

Measured over 60 s of synthetic audio, one thread, AMD EPYC, November 2026: a chunk of 32 ms takes 350 us in
the package's TorchScript model, 236 us in its ONNX model and 52 us here (34 us in a whole recording at once);
the probabilities differ by 1.0e-06 at most. The LSTM alone: 40 us in torch, 5.4 us here.

    pip install silero-vad onnxruntime
    python examples/voice_activity.py

The weights are those of the package's TorchScript model (the .safetensors file beside it, in silero-vad 6.2,
holds another model's). The spectrum and the four small convolutions run in NumPy, the LSTM as
``stream.step``.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterator, Mapping

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # for products as small as these

import numpy as np
import torch
from silero_vad import load_silero_vad

import bptt

RATE = 16000  # samples per second
CHUNK = 512  # samples that one probability is of
CONTEXT = 64  # samples of the chunk before that the model sees too
BINS = 129  # of the spectrum of 256 samples
FORMANTS = [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480)]  # Hz, of four vowels


class VoiceActivity:
    """The 16 kHz model of silero-vad without torch: NumPy, and bptt for the LSTM.

    Parameters
    ----------
    weights : mapping of str to ndarray
        The names and shapes of the package's model.
    """

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.basis = weights["stft.forward_basis_buffer"][:, 0].T.copy()
        self.convolutions = []
        for n, stride in enumerate((1, 2, 2, 1)):
            name = f"encoder.{n}.reparam_conv"
            kernel = weights[f"{name}.weight"].transpose(2, 1, 0)  # (3, inputs, outputs)
            flat = kernel.reshape(-1, kernel.shape[2]).copy()
            self.convolutions.append((flat, weights[f"{name}.bias"], stride))
        self.head = weights["decoder.decoder.2.weight"].ravel()
        self.bias = weights["decoder.decoder.2.bias"].item()
        lstm = bptt.LSTM(128, 128)
        lstm.load_state_dict(
            {
                f"{name}_l0": weights[f"decoder.rnn.{name}"]
                for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            }
        )
        self.engine = lstm.freeze()
        self.reset()

    def reset(self) -> None:
        """Begin a new recording."""
        self.stream = self.engine.stream()
        self.context = np.zeros(CONTEXT, np.float32)

    def __call__(self, chunk: np.ndarray) -> float:
        """Return the probability that the next (512,) samples hold speech."""
        frame = np.concatenate([self.context, chunk])
        self.context = chunk[-CONTEXT:]
        return float(self.probability(self.stream.step(self.features(frame[None])[0])))

    def recording(self, audio: np.ndarray) -> np.ndarray:
        """Return the probability of each chunk of a whole recording, without a loop over them."""
        self.reset()
        chunks = audio.reshape(-1, CHUNK)
        contexts = np.zeros((len(chunks), CONTEXT), np.float32)
        contexts[1:] = chunks[:-1, -CONTEXT:]
        return self.probability(self.stream.run(self.features(np.concatenate([contexts, chunks], axis=1))))

    def features(self, frames: np.ndarray) -> np.ndarray:
        """Return what the LSTM sees of each frame: (N, 576) samples to (N, 128)."""
        mirrored = np.concatenate([frames, frames[:, -2 : -2 - CONTEXT : -1]], axis=1)
        z = windows(mirrored, 256, 128) @ self.basis
        x = np.sqrt(z[..., :BINS] ** 2 + z[..., BINS:] ** 2)  # (N, 4, 129)
        for kernel, bias, stride in self.convolutions:
            N, steps, width = x.shape
            padded = np.zeros((N, steps + 2, width), np.float32)
            padded[:, 1:-1] = x
            x = windows(padded.reshape(N, -1), 3 * width, stride * width) @ kernel
            x += bias
            np.maximum(x, 0, out=x)
        return x[:, 0]

    def probability(self, hidden: np.ndarray) -> np.ndarray:
        """Return the probability that each h_t, (..., 128), stands for."""
        return 1 / (1 + np.exp(-(np.maximum(hidden, 0) @ self.head + self.bias)))


def windows(rows: np.ndarray, size: int, step: int) -> np.ndarray:
    """Return a copy of every step-th window of each contiguous row: (N, L) to (N, windows, size)."""
    N, L = rows.shape
    along, across = rows.strides
    shape = N, (L - size) // step + 1, size
    return np.ndarray(shape, rows.dtype, rows, 0, (along, step * across, across)).copy()


def voice(seconds: float, seed: int) -> np.ndarray:
    """Return whole chunks of vowels, noise and near silence in turn."""
    rng = np.random.default_rng(seed)
    t = np.arange(RATE) / RATE
    parts = []
    for second in range(int(np.ceil(seconds))):
        noise = rng.standard_normal(RATE)
        if second % 4 > 1:
            parts.append((0.05 if second % 4 == 2 else 0.001) * noise)
            continue
        pitch = rng.uniform(110, 150)  # Hz, and some vibrato
        phase = 2 * np.pi * np.cumsum(pitch + 8 * np.sin(2 * np.pi * 3 * t)) / RATE
        vowels = [sum_of_harmonics(phase, pitch, peaks) for peaks in FORMANTS]
        mix = [np.maximum(np.sin(2 * np.pi * (2 * t + n / 4)), 0) for n in range(4)]  # from one to the next
        tone = sum(a * b for a, b in zip(vowels, mix, strict=True)) + 0.01 * noise
        parts.append(0.3 * tone / np.abs(tone).max())
    audio = np.concatenate(parts).astype(np.float32)
    return audio[: int(seconds * RATE) // CHUNK * CHUNK]


def sum_of_harmonics(phase: np.ndarray, pitch: float, peaks: tuple[int, ...]) -> np.ndarray:
    """Return a tone whose harmonics are strong near the peaks."""
    tone = np.zeros_like(phase)
    for k in range(1, int(4000 / pitch)):
        size = sum(1 / (1 + ((k * pitch - peak) / 80) ** 2) for peak in peaks)
        tone += size * np.sin(k * phase)
    return tone


def timed(call: Callable[[np.ndarray], float], chunks: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the result of each chunk and the median time of one, in microseconds."""
    results, times = [], []
    for chunk in chunks:
        start = time.perf_counter()
        results.append(call(chunk))
        times.append(time.perf_counter() - start)
    return np.array(results), 1e6 * float(np.median(times))


def contenders(onnx: bool) -> Iterator[tuple[str, Callable[[np.ndarray], float]]]:
    """Yield the package's own models by name: TorchScript, and ONNX Runtime if it is asked for."""
    for name in ("TorchScript", "ONNX Runtime")[: 1 + onnx]:
        model = load_silero_vad(onnx=name != "TorchScript")
        model.reset_states()
        yield name, lambda chunk, model=model: model(torch.from_numpy(chunk), RATE).item()


def main(arguments: list[str] | None = None) -> dict[str, float]:
    """Run all models over the same audio; return the largest difference and the times in microseconds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of audio (default: 60)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-onnx", action="store_true", help="compare with the TorchScript model only")
    args = parser.parse_args(arguments)

    own = load_silero_vad()
    detector = VoiceActivity(weights_of(own._model))
    audio = voice(args.seconds, args.seed)
    chunks = audio.reshape(-1, CHUNK)
    with torch.inference_mode(), bptt.num_threads(1):
        streamed, microseconds = timed(detector, chunks)
        start = time.perf_counter()
        whole = detector.recording(audio)
        at_once = 1e6 * (time.perf_counter() - start) / len(chunks)
        difference = float(np.abs(whole - streamed).max())
        figures = {"bptt": microseconds, "bptt, whole recording": at_once, "difference": difference}
        print(f"{len(chunks)} chunks of 32 ms, {100 * np.mean(streamed > 0.5):.0f}% of them speech")
        for name, model in contenders(not args.no_onnx):
            expected, figures[name] = timed(model, chunks)
            difference = float(np.abs(streamed - expected).max())
            figures["difference"] = max(figures["difference"], difference)
            print(f"{name}: {figures[name]:.0f} us a chunk; probabilities differ by {difference:.1e} at most")
        cell, state = own._model.decoder.rnn, (torch.zeros(1, 128), torch.zeros(1, 128))
        inputs = np.random.default_rng(args.seed).standard_normal((len(chunks), 128), np.float32)
        _, figures["LSTM, torch"] = timed(lambda x: cell(torch.from_numpy(x)[None], state), inputs)
        _, figures["LSTM, bptt"] = timed(detector.stream.step, inputs)
    print(f"bptt: {microseconds:.0f} us a chunk, {at_once:.0f} us in a whole recording")
    print(f"LSTM alone: torch {figures['LSTM, torch']:.0f} us, bptt {figures['LSTM, bptt']:.1f} us")
    return figures


def weights_of(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Return the weights of a module as arrays."""
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


if __name__ == "__main__":
    main()
