"""The contenders: how a library does the work of a case. Imported in the processes that are measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

import bptt

from .cases import STREAM_STEPS, Array, Case

__all__ = ["PACKAGES", "Contender", "Results", "Task", "contender", "first_steps"]

Results = dict[str, Array]


class Task(NamedTuple):
    """Work that is ready to be done.

    `call` does it once and is what is timed; `results` does it once and returns what came out, by the names
    that all contenders use: output, h_n, c_n; d_input, d_weight_ih_l0, ...; for a stream the outputs of its
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

    def layer(self, case: Case) -> Any:
        """Return the layer of a case."""
        made = getattr(bptt, case.cell)(case.I, case.H, dtype=self._real(case), **case.settings())
        made.load_state_dict(case.weights())
        return made

    def forward(self, case: Case) -> Task:
        engine, x = self.layer(case).freeze(), case.input().astype(self._real(case))
        call = partial(engine, x, lengths=case.row_lengths(), resets=case.reset_steps())

        def results() -> Results:
            output, state = call()
            return {"output": output, **states(state)}

        return Task(call, results)

    def training(self, case: Case) -> Task:
        layer, real = self.layer(case), self._real(case)
        x, d_output = case.input().astype(real), case.output_gradient().astype(real)
        rng = 0 if case.recurrent_dropout or case.zoneout else None
        given = {"lengths": case.row_lengths(), "resets": case.reset_steps(), "rng": rng}
        forward = partial(layer.forward, x, recompute=case.recompute or None, **given)
        how = {"truncate": case.truncate or None, "step_clip": case.step_clip or None}

        def call() -> Any:
            tape = forward()
            return tape, layer.backward(tape, d_output, **how)

        def results() -> Results:
            tape, gradients = call()
            by_name = {f"d_{name}": array for name, array in gradients.parameters.items()}
            return {"output": tape.output, "d_input": gradients.input, **by_name}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        x = case.input().astype(self._real(case))
        x = x if case.B > 1 else x[:, 0]
        stream = self.layer(case).freeze().stream(case.B if case.B > 1 else None)
        return Task(
            partial(stream.step, x[0]),
            partial(first_steps, lambda t: stream.step(x[t]).reshape(case.B, case.width)),
        )


class BpttDouble(Bptt):
    """This library in float64, whatever the case asks for."""

    def _real(self, case: Case) -> Any:
        return np.dtype(np.float64)


class Reference(Bptt):
    """The specification in NumPy, in the place of the kernels."""

    package = "numpy"

    def facts(self) -> dict[str, str]:
        return Contender.facts(self)

    def forward(self, case: Case) -> Task:
        return in_numpy(super().forward, case)

    def training(self, case: Case) -> Task:
        return in_numpy(super().training, case)

    def stream(self, case: Case) -> Task:
        return in_numpy(super().stream, case)


class Oracle(Reference):
    """The specification in float64: what the others' results are compared with."""

    WORTH = 2e10  # operations up to which float64 does not take too long; beyond, the case's own dtype

    def _real(self, case: Case) -> Any:
        return np.dtype(np.float64) if case.flops < self.WORTH else case.real


def in_numpy(make: Callable[[Case], Task], case: Case) -> Task:
    """Make a task, and do it, on the specification."""
    with bptt.backend("reference"):
        task = make(case)

    def within(function: Callable[[], Any]) -> Any:
        with bptt.backend("reference"):
            return function()

    return Task(partial(within, task.call), partial(within, task.results))


def states(state: Any) -> Results:
    """Return h_n and c_n, or h_n alone, (L*D, B, H), by name; of arrays or of torch's tensors."""
    arrays = state if isinstance(state, tuple) else (state,)
    return {name: np.asarray(array) for name, array in zip(("h_n", "c_n"), arrays, strict=False)}


def first_steps(step: Callable[[int], Array]) -> Results:
    """Run the first steps of a stream."""
    return {"output": np.stack([step(t) for t in range(STREAM_STEPS)])}


OWN = {"reference": Reference, "oracle": Oracle, "bptt": Bptt, "bptt64": BpttDouble, "plain": Bptt}
PEERS = {
    "torch": "peer_torch.Torch",
    "torchcell": "peer_loops.CellLoop",
    "torchloop": "peer_loops.Loop",
    "torchscript": "peer_loops.ScriptedLoop",
    "torchcompile": "peer_loops.CompiledLoop",
    "bptt.torch": "peer_torch.Module",
    "onnxruntime": "peer_onnx.OnnxRuntime",
    "openvino": "peer_onnx.OpenVino",
}
PACKAGES = {
    **{name: ("torch",) for name in PEERS if "torch" in name},
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
