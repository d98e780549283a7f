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
        session = self._session(case)
        call, names = partial(session.run, None, feed_of(case)), [made.name for made in session.get_outputs()]
        return Task(call, lambda: results_of(case, dict(zip(names, call(), strict=True))))

    def stream(self, case: Case) -> Task:
        value: Any = import_module("onnxruntime").OrtValue
        session, x = self._session(case), case.input()
        given, output = np.zeros_like(x[:1]), np.zeros((1, 1, case.B, case.H), np.float32)
        state = partial(np.zeros, (1, case.B, case.H), np.float32)
        kept = [[value.ortvalue_from_numpy(state()) for _ in state_names(case, "0")] for _ in "ab"]
        result = value.ortvalue_from_numpy(output)
        bindings = []
        for before, after in (kept, kept[::-1]):
            binding = session.io_binding()
            binding.bind_ortvalue_input("x", value.ortvalue_from_numpy(given))
            binding.bind_ortvalue_output("output", result)
            for name, held in zip(state_names(case, "0"), before, strict=True):
                binding.bind_ortvalue_input(name, held)
            for name, held in zip(state_names(case, "n"), after, strict=True):
                binding.bind_ortvalue_output(name, held)
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
        request = self._request(self._compiled(case), feed_of(case))

        def results() -> Results:
            request.infer()
            names = ["output", *state_names(case, "n")]
            return results_of(case, {name: request.get_tensor(name).data.copy() for name in names})

        return Task(request.infer, results)

    def stream(self, case: Case) -> Task:
        compiled, x = self._compiled(case), case.input()
        given, output = np.zeros_like(x[:1]), np.zeros((1, 1, case.B, case.H), np.float32)
        names = state_names(case, "0"), state_names(case, "n")
        kept = [[np.zeros((1, case.B, case.H), np.float32) for _ in names[0]] for _ in "ab"]
        requests = []
        for pair in (kept, kept[::-1]):
            states = {k: v for n, held in zip(names, pair, strict=True) for k, v in zip(n, held, strict=True)}
            requests.append(self._request(compiled, {"x": given, "output": output, **states}))

        def call(t: int = 0) -> Any:
            given[...] = x[t]
            requests[0].infer()
            requests.reverse()
            return output

        return Task(call, partial(first_steps, lambda t: call(t)[0, 0].copy()))


def onnx_model(case: Case) -> bytes:
    """Return a model with the weights of a case, one node for each layer.

    Its inputs are those of `feed_of`; its outputs `output` (T,D,B,H) of the last layer, and `h_n_l0`,
    `c_n_l0` (D,B,H), .. of every layer.
    """
    refused = ("proj_size", "resets", "recurrent_dropout", "zoneout", "truncate")
    if case.dtype != "float32" or any(getattr(case, name) for name in refused):
        raise ValueError(f"ONNX has float32 without {', '.join(refused)} only")
    onnx: Any = import_module("onnx")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    nodes, sequence = list[Any](), "x"
    joined = {"joined": np.array([0, 0, -1])} if case.layers > 1 else {}
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in joined.items()]
    for layer in range(case.layers):
        arrays = layer_arrays(case, layer)
        constants += [onnx.numpy_helper.from_array(v, f"{k}_l{layer}") for k, v in arrays.items()]
        if layer:  # (T,D,B,H) to (T,B,D*H)
            nodes.append(helper.make_node("Transpose", [sequence], [f"t_l{layer}"], perm=[0, 2, 1, 3]))
            nodes.append(helper.make_node("Reshape", [f"t_l{layer}", "joined"], [f"x_l{layer}"]))
            sequence = f"x_l{layer}"
        nodes.append(node_of(helper, case, layer, sequence))
        sequence = nodes[-1].output[0]
    given = [
        helper.make_tensor_value_info(k, real if v.dtype == np.float32 else onnx.TensorProto.INT32, v.shape)
        for k, v in feed_of(case).items()
    ]
    shape = (case.directions, case.B, case.H)
    made = [helper.make_tensor_value_info("output", real, (case.T, *shape))]
    made += [helper.make_tensor_value_info(name, real, shape) for name in state_names(case, "n")]
    graph = helper.make_graph(nodes, "layers", given, made, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(model.SerializeToString())


def node_of(helper: Any, case: Case, layer: int, sequence: str) -> Any:
    """Return the node of a layer."""
    end, last = f"_l{layer}", layer == case.layers - 1
    states = [name for name in state_names(case, "0") if name.endswith(end)]
    inputs = [sequence, f"W{end}", f"R{end}", f"bias{end}", "lengths" if case.lengths else "", *states]
    if case.peephole:
        inputs.append(f"P{end}")
    outputs = ["output" if last else f"output{end}"]
    outputs += [name for name in state_names(case, "n") if name.endswith(end)]
    options: dict[str, Any] = {"direction": "bidirectional"} if case.bidirectional else {}
    if case.cell == "GRU":
        options["linear_before_reset"] = 1
    return helper.make_node(case.cell, inputs, outputs, hidden_size=case.H, **options)


def layer_arrays(case: Case, layer: int) -> dict[str, Array]:
    """Return W, R, bias and P of a layer in ONNX's order of gates, the directions one after the other."""
    weights = case.weights()
    found: dict[str, list[Array]] = {"W": [], "R": [], "bias": []}
    for suffix in (f"l{layer}", f"l{layer}_reverse")[: case.directions]:
        found["W"].append(onnx_gates(case, weights[f"weight_ih_{suffix}"]))
        found["R"].append(onnx_gates(case, weights[f"weight_hh_{suffix}"]))
        biases = (onnx_gates(case, weights[f"bias_{kind}_{suffix}"]) for kind in ("ih", "hh"))
        found["bias"].append(np.concatenate(list(biases)))
        if case.peephole:  # i, f, o to i, o, f
            found.setdefault("P", []).append(weights[f"weight_peephole_{suffix}"][[0, 2, 1]].ravel())
    return {name: np.stack(arrays) for name, arrays in found.items()}


def onnx_gates(case: Case, array: Array) -> Array:
    """Put gate blocks in ONNX's order: i, o, f, g or z, r, h."""
    order = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}[case.cell]
    blocks = np.split(array, len(order))
    return np.concatenate([blocks[n] for n in order])


def state_names(case: Case, time: str) -> list[str]:
    """Return the names of h, and of c if there is one, of every layer: h_0_l0, c_0_l0, h_0_l1, .."""
    kinds = "hc" if case.cell == "LSTM" else "h"
    return [f"{kind}_{time}_l{layer}" for layer in range(case.layers) for kind in kinds]


def feed_of(case: Case) -> dict[str, Array]:
    """Return the inputs of the model: x, the states (zeros), the lengths if rows have some."""
    feed = {"x": case.input()[: case.T]}
    feed |= {name: np.zeros((case.directions, case.B, case.H), np.float32) for name in state_names(case, "0")}
    lengths = case.row_lengths()
    return feed if lengths is None else {**feed, "lengths": lengths.astype(np.int32)}


def results_of(case: Case, made: dict[str, Array]) -> Results:
    """Return the outputs of the model by the names and in the shapes of all contenders."""
    output = made["output"].transpose(0, 2, 1, 3).reshape(case.T, case.B, -1)
    found = {"output": output}
    for kind in "hc" if case.cell == "LSTM" else "h":
        found[f"{kind}_n"] = np.concatenate([made[f"{kind}_n_l{layer}"] for layer in range(case.layers)])
    return found
