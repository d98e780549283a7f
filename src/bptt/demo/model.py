"""The model of the demo: an embedding, a recurrent layer and a softmax over the next character, in NumPy."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bptt
from bptt import GRU, LSTM, RNN, Gradients

from .text import Vocabulary

__all__ = ["CELLS", "CharacterModel", "Step"]

State = Any  # as the layer gives it

# What reading a file may end with that is something else.
NOT_A_MODEL = (
    zipfile.BadZipFile,
    EOFError,
    LookupError,
    StopIteration,
    AttributeError,
    TypeError,
    ValueError,
)

# What --cell may be, its name in words, and how its layer is made.
CELLS: dict[str, tuple[str, Callable[..., LSTM | GRU | RNN]]] = {
    "lstm": ("LSTM", LSTM),
    "peephole": ("LSTM with peepholes", partial(LSTM, peephole=True)),
    "gru": ("GRU", GRU),
    "rnn": ("RNN", RNN),
}


class Step(NamedTuple):
    """What one window gives: its loss, the state after it, and the gradients of all parameters."""

    bits: float
    state: State
    gradients: tuple[Gradients, dict[str, NDArray[Any]]]


class CharacterModel:
    """Predicts the next symbol from all before it.

    Parameters
    ----------
    symbols : int
        V, the size of the vocabulary.
    hidden : int
        H, the units of the layer.
    embedding : int
        E, the numbers that stand for an input symbol.
    cell : str
        One of `CELLS`.
    rng : numpy.random.Generator
        For the initial weights.

    Attributes
    ----------
    cell : str
        As given.
    layer : LSTM, GRU or RNN
        E to H.
    arrays : dict of str to ndarray
        ``embedding`` (V, E), ``output_weight`` (V, H), ``output_bias`` (V,).
    """

    def __init__(
        self, symbols: int, hidden: int, embedding: int, cell: str, rng: np.random.Generator
    ) -> None:
        self.cell = cell
        self.layer = CELLS[cell][1](embedding, hidden, seed=rng)
        if isinstance(self.layer, LSTM):
            # The forget gate is open at first, so that errors reach far back (Jozefowicz et al. 2015).
            bptt.init.forget_bias(self.layer, 1)
        self.arrays = {
            "embedding": rng.standard_normal((symbols, embedding)).astype(np.float32),
            "output_weight": rng.uniform(-1, 1, (symbols, hidden)).astype(np.float32) * hidden**-0.5,
            "output_bias": np.zeros(symbols, np.float32),
        }

    @property
    def parameters(self) -> list[Mapping[str, NDArray[Any]]]:
        """All parameters, as an optimizer takes them."""
        return [self.layer.parameters, self.arrays]

    def step(self, window: NDArray[np.int64], state: State | None) -> Step:
        """Run a window forward and backward.

        Parameters
        ----------
        window : ndarray of int, (T + 1, B)
            Inputs and, one row later, targets.
        state : tuple of ndarray, optional
            Where the window before ended; no error flows back into it.

        Returns
        -------
        Step
        """
        inputs, targets = window[:-1], window[1:].reshape(-1)
        tape = self.layer.forward(self.arrays["embedding"][inputs], state)
        hidden = tape.output.reshape(targets.size, -1)
        nats, errors = self._softmax(hidden, targets)
        np.put_along_axis(errors, targets[:, None], np.take_along_axis(errors, targets[:, None], 1) - 1, 1)
        errors /= np.float32(targets.size)
        d_output = (errors @ self.arrays["output_weight"]).reshape(tape.output.shape)
        gradients = self.layer.backward(tape, d_output)
        d_input = gradients.input.reshape(targets.size, -1)
        slopes = {
            "embedding": _added_up(inputs.reshape(-1), d_input, len(self.arrays["embedding"])),
            "output_weight": errors.T @ hidden,
            "output_bias": errors.sum(0),
        }
        return Step(_bits(nats), tape.state, (gradients, slopes))

    def bits(self, window: NDArray[np.int64], state: State | None) -> tuple[float, State]:
        """Return the loss of a window in bits per symbol, and the state after it."""
        targets = window[1:].reshape(-1)
        output, state = self.layer(self.arrays["embedding"][window[:-1]], state)
        return _bits(self._softmax(output.reshape(targets.size, -1), targets)[0]), state

    def _softmax(self, hidden: NDArray[Any], targets: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return -log p of the targets (n,) and p of every symbol (n, V)."""
        z = hidden @ self.arrays["output_weight"].T
        z += self.arrays["output_bias"]
        z -= z.max(1, keepdims=True)
        chosen = z[np.arange(len(z)), targets]
        np.exp(z, out=z)
        total = z.sum(1)
        z /= total[:, None]
        return np.log(total) - chosen, z

    def sample(
        self, prompt: NDArray[np.int64], count: int, temperature: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return `count` symbols that go on from a prompt (n,), drawn one by one with a stream."""
        stream = self.layer.freeze().stream()
        embedding = self.arrays["embedding"]
        weight, bias = self.arrays["output_weight"], self.arrays["output_bias"]
        hidden = stream.run(embedding[prompt])[-1]
        drawn = np.empty(count, np.int64)
        for n in range(count):
            z = (weight @ hidden + bias).astype(np.float64) / temperature
            p = np.exp(z - z.max())
            drawn[n] = rng.choice(len(p), p=p / p.sum())
            hidden = stream.step(embedding[drawn[n]])
        return drawn

    def save(self, path: str, vocabulary: Vocabulary) -> None:
        """Write all parameters to a file that `numpy.load` reads, whole or not at all.

        Parameters
        ----------
        path : str
            Any name.
        vocabulary : Vocabulary
            Its code points go into ``vocabulary`` (V - 1,); symbol V - 1 stands for all other characters.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        parameters = self.layer.parameters.items()
        named: dict[str, Any] = {f"{self.cell}.{name}": array for name, array in parameters}
        target = Path(path).resolve()  # what a symbolic link stands for
        part = target.with_name(f"{target.name}.part")
        try:
            with part.open("wb") as file:
                np.savez(file, vocabulary=vocabulary.points, **named, **self.arrays)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str) -> tuple[CharacterModel, Vocabulary]:
        """Read what `save` wrote.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is not a saved model.
        """
        try:
            with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
                saved = {name: file[name] for name in file.files}
            vocabulary = Vocabulary(saved.pop("vocabulary"))
            (_, E), (_, H) = saved["embedding"].shape, saved["output_weight"].shape
            cell = next(name.partition(".")[0] for name in saved if name.endswith(".weight_hh_l0"))
            model = cls(len(vocabulary), H, E, cell, np.random.default_rng(0))
            mark = f"{cell}."  # before the names of the layer's parameters
            model.layer.load_state_dict(
                {name.removeprefix(mark): saved.pop(name) for name in list(saved) if name.startswith(mark)}
            )
            for name, array in model.arrays.items():
                if saved[name].shape != array.shape:
                    raise ValueError(f"{name}: expected shape {array.shape}, got {saved[name].shape}")
                array[...] = saved[name]
            if not all(np.isfinite(array).all() for arrays in model.parameters for array in arrays.values()):
                raise ValueError("expected finite numbers")
        except NOT_A_MODEL as error:
            raise ValueError(f"expected a model that --save wrote ({error})") from None
        return model, vocabulary


def _bits(nats: NDArray[Any]) -> float:
    return float(nats.mean(dtype=np.float64) / np.log(2))


def _added_up(places: NDArray[np.int64], values: NDArray[Any], rows: int) -> NDArray[Any]:
    """Return (rows, E): for each row the sum of the values (n, E) that belong to it."""
    chosen: NDArray[Any] = np.zeros((rows, len(places)), values.dtype)
    chosen[places, np.arange(len(places))] = 1
    total: NDArray[Any] = chosen @ values  # a third of the time of np.add.at
    return total
