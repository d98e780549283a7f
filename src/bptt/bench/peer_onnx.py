"""ONNX Runtime and OpenVINO as contenders, from one model. Imported in their own processes only."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from .cases import Array, Case
from .contenders import Contender, Results, Task, first_steps

__all__ = ["OnnxRuntime", "OpenVino", "onnx_model"]


class OnnxRuntime(Contender):
    """ONNX Runtime: a session with the weights inside; for streams with bound buffers, faster than run()."""

    package = "onnxruntime"

    def _session(self, case: Case) -> Any:
        library: Any = import_module("onnxruntime")
        options = library.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.threads, 1
        return library.InferenceSession(onnx_model(case), options, providers=["CPUExecutionProvider"])

    def forward(self, case: Case) -> Task:
        zero = np.zeros((1, case.B, case.H), np.float32)
        feed = {"x": case.input(), "h_0": zero, "c_0": zero}
        call = partial(self._session(case).run, None, feed)

        def results() -> Results:
            output, h_n, c_n = call()
            return {"output": output[:, 0], "h_n": h_n[0], "c_n": c_n[0]}

        return Task(call, results)

    def stream(self, case: Case) -> Task:
        value: Any = import_module("onnxruntime").OrtValue
        session, x = self._session(case), case.input()
        given, output = np.zeros_like(x[:1]), np.zeros((1, 1, case.B, case.H), np.float32)
        h, c = (
            [value.ortvalue_from_numpy(np.zeros((1, case.B, case.H), np.float32)) for _ in "ab"] for _ in "hc"
        )
        result = value.ortvalue_from_numpy(output)
        bindings = []
        for before, after in ((0, 1), (1, 0)):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", value.ortvalue_from_numpy(given))
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


class OpenVino(Contender):
    """OpenVINO: the model compiled for latency in float32; no copies of tensors, two requests for streams."""

    package = "openvino"

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._kept: list[Any] = []  # a request does not own the arrays it uses

    def _compiled(self, case: Case) -> Any:
        self._kept.clear()
        library: Any = import_module("openvino")
        core = library.Core()
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": "1"}
        if self.threads:
            hints["INFERENCE_NUM_THREADS"] = str(self.threads)
        return core.compile_model(core.read_model(model=onnx_model(case)), "CPU", hints)

    def _request(self, compiled: Any, tensors: dict[str, Array]) -> Any:
        tensor: Any = import_module("openvino").Tensor
        request = compiled.create_infer_request()
        for name, array in tensors.items():
            shared = tensor(array, shared_memory=True)
            self._kept += [array, shared]
            request.set_tensor(name, shared)
        return request

    def forward(self, case: Case) -> Task:
        zero = np.zeros((1, case.B, case.H), np.float32)
        request = self._request(self._compiled(case), {"x": case.input(), "h_0": zero, "c_0": zero})

        def results() -> Results:
            request.infer()
            output, h_n, c_n = (request.get_tensor(name).data.copy() for name in ("output", "h_n", "c_n"))
            return {"output": output[:, 0], "h_n": h_n[0], "c_n": c_n[0]}

        return Task(request.infer, results)

    def stream(self, case: Case) -> Task:
        compiled, x = self._compiled(case), case.input()
        given, output = np.zeros_like(x[:1]), np.zeros((1, 1, case.B, case.H), np.float32)
        h, c = ([np.zeros((1, case.B, case.H), np.float32) for _ in "ab"] for _ in "hc")
        requests = [
            self._request(
                compiled,
                {"x": given, "h_0": h[a], "c_0": c[a], "output": output, "h_n": h[1 - a], "c_n": c[1 - a]},
            )
            for a in (0, 1)
        ]

        def call(t: int = 0) -> Any:
            given[...] = x[t]
            requests[0].infer()
            requests.reverse()
            return output

        return Task(call, partial(first_steps, lambda t: call(t)[0, 0].copy()))


def onnx_model(case: Case) -> bytes:
    """Return a model of one LSTM node with the weights of a case: x, h_0, c_0 to output, h_n, c_n."""
    onnx: Any = import_module("onnx")
    if case.dtype != "float32" or case.peephole:
        raise ValueError("float32 without peepholes only")
    weights = {name: onnx_gates(array) for name, array in case.weights().items()}
    inside = {
        "W": weights["weight_ih"][None],
        "R": weights["weight_hh"][None],
        "bias": np.concatenate([weights["bias_ih"], weights["bias_hh"]])[None],
    }
    given = {"x": (case.T, case.B, case.I), "h_0": (1, case.B, case.H), "c_0": (1, case.B, case.H)}
    made = {"output": (case.T, 1, case.B, case.H), "h_n": (1, case.B, case.H), "c_n": (1, case.B, case.H)}
    inputs, real = ["x", "W", "R", "bias", "", "h_0", "c_0"], onnx.TensorProto.FLOAT
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("LSTM", inputs, list(made), hidden_size=case.H)],
        "lstm",
        [helper.make_tensor_value_info(k, real, v) for k, v in given.items()],
        [helper.make_tensor_value_info(k, real, v) for k, v in made.items()],
        [onnx.numpy_helper.from_array(v, k) for k, v in inside.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(model.SerializeToString())


def onnx_gates(array: Array) -> Array:
    """Put gate blocks in ONNX's order i, o, f, g."""
    i, f, g, o = np.split(array, 4)
    return np.concatenate([i, o, f, g])
