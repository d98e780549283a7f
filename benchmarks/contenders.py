"""The contenders: how each library does the work of a case. Imported in the processes that are measured."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cases import STREAM_STEPS, Array, Case

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
    """A library at a fixed thread count. The methods named as the modes of a case return its Task."""

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
    dtype = np.float32

    def _given(self, case: Case) -> tuple[Array, Array, dict[str, Array]]:
        weights = {name: array.astype(self.dtype) for name, array in case.weights().items()}
        return case.input().astype(self.dtype), np.zeros((case.B, case.H), self.dtype), weights

    def forward(self, case: Case) -> Task:
        from bptt import reference

        x, zero, weights = self._given(case)
        call = partial(reference.lstm_forward, x, zero, zero, weights)
        return Task(call, lambda: dict(zip(("output", "h_n", "c_n"), call()[:3], strict=True)))

    def training(self, case: Case) -> Task:
        from bptt import reference

        x, zero, weights = self._given(case)
        d_output = case.output_gradient().astype(self.dtype)

        def call() -> Any:
            output, _, _, cells, gates = reference.lstm_forward(x, zero, zero, weights)
            kept = (output, cells, gates, d_output, zero, zero)
            return output, reference.lstm_backward(x, zero, zero, weights, *kept)

        def results() -> Results:
            output, (d_input, _, _, d_weights, _, _) = call()
            return {"output": output, "d_input": d_input, **{f"d_{k}": v for k, v in d_weights.items()}}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        from bptt import reference

        x, zero, weights = self._given(case)
        state = [zero, zero]

        def call(t: int = 0) -> Any:
            output, *state[:] = reference.lstm_forward(x[t : t + 1], *state, weights)[:3]
            return output[0]

        return Task(call, partial(first_steps, call))


class Oracle(Reference):
    """The specification in float64: what the others' results are compared with."""

    dtype = np.float64


class Bptt(Contender):
    """This library: a frozen engine for inference, layer.forward and layer.backward for training."""

    package = "bptt"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import bptt

        bptt.set_num_threads(threads)

    def facts(self) -> dict[str, str]:
        import bptt

        return {**super().facts(), "variant": bptt.active_variant()}

    def _layer(self, case: Case) -> Any:
        import bptt

        layer = bptt.LSTM(case.I, case.H)
        layer.load_state_dict({f"{name}_l0": array for name, array in case.weights().items()})
        return layer

    def forward(self, case: Case) -> Task:
        engine, x = self._layer(case).freeze(), case.input()

        def results() -> Results:
            output, (h_n, c_n) = engine(x)
            return {"output": output, "h_n": h_n[0], "c_n": c_n[0]}

        return Task(partial(engine, x), results)

    def training(self, case: Case) -> Task:
        layer, x, d_output = self._layer(case), case.input(), case.output_gradient()

        def call() -> Any:
            tape = layer.forward(x)
            return tape, layer.backward(tape, d_output)

        def results() -> Results:
            tape, gradients = call()
            by_name = {f"d_{k.removesuffix('_l0')}": v for k, v in gradients.parameters.items()}
            return {"output": tape.output, "d_input": gradients.input, **by_name}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        x = case.input() if case.B > 1 else case.input()[:, 0]
        stream = self._layer(case).freeze().stream(case.B if case.B > 1 else None)
        return Task(
            partial(stream.step, x[0]),
            partial(first_steps, lambda t: stream.step(x[t]).reshape(case.B, case.H)),
        )


class Torch(Contender):
    """PyTorch: nn.LSTM under inference_mode, or with autograd; nn.LSTMCell, the faster one, for streams."""

    package = "torch"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        import torch

        torch.set_num_threads(threads)

    def _module(self, kind: Any, case: Case, suffix: str) -> Any:
        import torch

        module = kind(case.I, case.H)
        module.load_state_dict({k + suffix: torch.from_numpy(v) for k, v in case.weights().items()})
        return module

    def forward(self, case: Case) -> Task:
        import torch

        module, x = self._module(torch.nn.LSTM, case, "_l0"), torch.from_numpy(case.input())
        call = torch.inference_mode()(partial(module, x))

        def results() -> Results:
            output, (h_n, c_n) = call()
            return {"output": output.numpy(), "h_n": h_n[0].numpy(), "c_n": c_n[0].numpy()}

        return Task(call, results)

    def training(self, case: Case) -> Task:
        import torch

        module = self._module(torch.nn.LSTM, case, "_l0")
        x = torch.from_numpy(case.input()).requires_grad_()
        d_output = torch.from_numpy(case.output_gradient())
        names, parameters = zip(*module.named_parameters(), strict=True)

        def call() -> Any:
            output, _ = module(x)
            return output, torch.autograd.grad(output, (x, *parameters), d_output)

        def results() -> Results:
            output, (d_input, *gradients) = call()
            by_name = {f"d_{k.removesuffix('_l0')}": v.numpy() for k, v in zip(names, gradients, strict=True)}
            return {"output": output.detach().numpy(), "d_input": d_input.numpy(), **by_name}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        import torch

        cell, x = self._module(torch.nn.LSTMCell, case, ""), torch.from_numpy(case.input())
        state = [torch.zeros(case.B, case.H), torch.zeros(case.B, case.H)]
        steps = list(x)

        @torch.inference_mode()
        def call(t: int = 0) -> Any:
            state[:] = cell(steps[t], state)
            return state[0]

        return Task(call, partial(first_steps, lambda t: call(t).numpy()))


class OnnxRuntime(Contender):
    """ONNX Runtime: a session with the weights inside; for streams with bound buffers, faster than run()."""

    package = "onnxruntime"

    def _session(self, case: Case) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        model = onnx_model(case)
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def forward(self, case: Case) -> Task:
        zero = np.zeros((1, case.B, case.H), np.float32)
        feed = {"x": case.input(), "h_0": zero, "c_0": zero}
        call = partial(self._session(case).run, None, feed)

        def results() -> Results:
            output, h_n, c_n = call()
            return {"output": output[:, 0], "h_n": h_n[0], "c_n": c_n[0]}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        from onnxruntime import OrtValue

        session, x = self._session(case), case.input()
        given, output = np.zeros_like(x[:1]), np.zeros((1, 1, case.B, case.H), np.float32)
        h, c = (
            [OrtValue.ortvalue_from_numpy(np.zeros((1, case.B, case.H), np.float32)) for _ in "ab"]
            for _ in "hc"
        )
        result = OrtValue.ortvalue_from_numpy(output)
        bindings = []
        for before, after in ((0, 1), (1, 0)):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", OrtValue.ortvalue_from_numpy(given))
            binding.bind_ortvalue_input("h_0", h[before])
            binding.bind_ortvalue_input("c_0", c[before])
            binding.bind_ortvalue_output("output", result)
            binding.bind_ortvalue_output("h_n", h[after])
            binding.bind_ortvalue_output("c_n", c[after])
            bindings.append(binding)

        def call(t: int = 0) -> Any:
            given[...] = x[t]
            session.run_with_iobinding(bindings[0])
            bindings.reverse()
            return result.numpy()

        return Task(call, partial(first_steps, lambda t: call(t)[0, 0].copy()))


def first_steps(step: Callable[[int], Array]) -> Results:
    """Run the first steps of a stream."""
    return {"output": np.stack([step(t) for t in range(STREAM_STEPS)])}


def onnx_model(case: Case) -> bytes:
    """Return a model of one LSTM node with the weights of a case: x, h_0, c_0 to output, h_n, c_n."""
    from onnx import TensorProto, helper, numpy_helper

    weights = {name: onnx_gates(array) for name, array in case.weights().items()}
    inside = {
        "W": weights["weight_ih"][None],
        "R": weights["weight_hh"][None],
        "bias": np.concatenate([weights["bias_ih"], weights["bias_hh"]])[None],
    }
    given = {"x": (case.T, case.B, case.I), "h_0": (1, case.B, case.H), "c_0": (1, case.B, case.H)}
    made = {"output": (case.T, 1, case.B, case.H), "h_n": (1, case.B, case.H), "c_n": (1, case.B, case.H)}
    inputs = ["x", "W", "R", "bias", "", "h_0", "c_0"]
    graph = helper.make_graph(
        [helper.make_node("LSTM", inputs, list(made), hidden_size=case.H)],
        "lstm",
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in given.items()],
        [helper.make_tensor_value_info(k, TensorProto.FLOAT, v) for k, v in made.items()],
        [numpy_helper.from_array(v, k) for k, v in inside.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(model.SerializeToString())


def onnx_gates(array: Array) -> Array:
    """Put gate blocks in ONNX's order i, o, f, g."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])


CONTENDERS: dict[str, type[Contender]] = {
    "reference": Reference,
    "oracle": Oracle,
    "bptt": Bptt,
    "torch": Torch,
    "onnxruntime": OnnxRuntime,
}
