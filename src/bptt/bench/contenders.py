"""The contenders: how a library does the work of a case. Imported in the processes that are measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

import bptt
from bptt import reference

from .cases import STREAM_STEPS, Array, Case

__all__ = ["PACKAGES", "Contender", "Results", "Task", "contender", "first_steps"]

Results = dict[str, Array]


class Task(NamedTuple):
    """Work that is ready to be done.

    `call` does it once and is what is timed; `results` does it once and returns what came out, by the names
    that all contenders use: output, h_n, c_n; d_input, d_weight_ih, ...; for a stream the outputs of its
    first steps.
    """

    call: Callable[[], Any]
    results: Callable[[], Results]


class Contender:
    """A library at a fixed thread count (0: its own choice). Methods named as the modes return its Task."""

    package = ""
    tolerance = 1e-4  # of the results, relative, in the Euclidean norm

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def facts(self) -> dict[str, str]:
        """Return what the report says of it."""
        return {"version": importlib.metadata.version(self.package)}


class Reference(Contender):
    """The specification in NumPy."""

    package = "numpy"

    def _real(self, case: Case) -> Any:
        return case.real

    def _given(self, case: Case) -> tuple[Array, Array, dict[str, Array]]:
        real = self._real(case)
        weights = {name: array.astype(real) for name, array in case.weights().items()}
        return case.input().astype(real), np.zeros((case.B, case.H), real), weights

    def forward(self, case: Case) -> Task:
        x, zero, weights = self._given(case)
        call = partial(reference.lstm_forward, x, zero, zero, weights)
        return Task(call, lambda: dict(zip(("output", "h_n", "c_n"), call()[:3], strict=True)))

    def training(self, case: Case) -> Task:
        x, zero, weights = self._given(case)
        d_output = case.output_gradient().astype(x.dtype)

        def call() -> Any:
            output, _, _, cells, gates = reference.lstm_forward(x, zero, zero, weights)
            kept = (output, cells, gates, d_output, zero, zero)
            return output, reference.lstm_backward(x, zero, zero, weights, *kept)

        def results() -> Results:
            output, (d_input, _, _, d_weights, _, _) = call()
            return {"output": output, "d_input": d_input, **{f"d_{k}": v for k, v in d_weights.items()}}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        x, zero, weights = self._given(case)
        state = [zero, zero]

        def call(t: int = 0) -> Any:
            output, *state[:] = reference.lstm_forward(x[t : t + 1], state[0], state[1], weights)[:3]
            return output[0]

        return Task(call, partial(first_steps, call))


class Oracle(Reference):
    """The specification in float64: what the others' results are compared with."""

    WORTH = 2e10  # operations up to which float64 does not take too long; beyond, the case's own dtype

    def _real(self, case: Case) -> Any:
        return np.dtype(np.float64) if case.flops < self.WORTH else case.real


class Bptt(Contender):
    """This library: a frozen engine for inference, layer.forward and layer.backward for training."""

    package = "bptt"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        if threads:
            bptt.set_num_threads(threads)

    def facts(self) -> dict[str, str]:
        return {"version": bptt.__version__, "variant": bptt.active_variant()}

    def _real(self, case: Case) -> Any:
        return case.real

    def _layer(self, case: Case) -> Any:
        layer = bptt.LSTM(case.I, case.H, peephole=case.peephole, dtype=self._real(case))
        layer.load_state_dict({f"{name}_l0": array for name, array in case.weights().items()})
        return layer

    def forward(self, case: Case) -> Task:
        engine, x = self._layer(case).freeze(), case.input().astype(self._real(case))

        def results() -> Results:
            output, (h_n, c_n) = engine(x)
            return {"output": output, "h_n": h_n[0], "c_n": c_n[0]}

        return Task(partial(engine, x), results)

    def training(self, case: Case) -> Task:
        layer, real = self._layer(case), self._real(case)
        x, d_output = case.input().astype(real), case.output_gradient().astype(real)

        def call() -> Any:
            tape = layer.forward(x)
            return tape, layer.backward(tape, d_output)

        def results() -> Results:
            tape, gradients = call()
            by_name = {f"d_{k.removesuffix('_l0')}": v for k, v in gradients.parameters.items()}
            return {"output": tape.output, "d_input": gradients.input, **by_name}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        x = case.input().astype(self._real(case))
        x = x if case.B > 1 else x[:, 0]
        stream = self._layer(case).freeze().stream(case.B if case.B > 1 else None)
        return Task(
            partial(stream.step, x[0]),
            partial(first_steps, lambda t: stream.step(x[t]).reshape(case.B, case.H)),
        )


class BpttDouble(Bptt):
    """This library in float64, whatever the case asks for."""

    def _real(self, case: Case) -> Any:
        return np.dtype(np.float64)


def first_steps(step: Callable[[int], Array]) -> Results:
    """Run the first steps of a stream."""
    return {"output": np.stack([step(t) for t in range(STREAM_STEPS)])}


OWN = {"reference": Reference, "oracle": Oracle, "bptt": Bptt, "bptt64": BpttDouble}
PEERS = {
    "torch": "peer_torch.Torch",
    "torchscript": "peer_torch.TorchScript",
    "bptt.torch": "peer_torch.Module",
    "onnxruntime": "peer_onnx.OnnxRuntime",
    "openvino": "peer_onnx.OpenVino",
}
PACKAGES = {
    "torch": ("torch",),
    "torchscript": ("torch",),
    "bptt.torch": ("torch",),
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
}  # that a peer needs


def contender(name: str, threads: int) -> Contender:
    """Return the contender of that name; only here a peer is imported."""
    name = name.partition("@")[0]
    if name in OWN:
        return OWN[name](threads)
    module, _, kind = PEERS[name].partition(".")
    made: Contender = getattr(import_module(f"{__package__}.{module}"), kind)(threads)
    return made
