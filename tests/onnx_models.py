"""Small ONNX models with random weights, for the tests of `bptt.onnx`."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, I, H = 6, 3, 4, 5


def arrays_of(
    operator, rng, directions=1, dtype=np.float32, bias=True, peepholes=False, states=True, lengths=False
):
    """Return the inputs of a node by ONNX's names, layout 0."""
    G, D = GATES[operator], directions

    def draw(*shape):
        return rng.standard_normal(shape).astype(dtype)

    found = {"X": draw(T, B, I), "W": draw(D, G * H, I), "R": draw(D, G * H, H) * dtype(0.4)}
    if bias:
        found["B"] = draw(D, 2 * G * H)
    if lengths:
        found["sequence_lens"] = np.array([4, 6, 1], np.int32)
    if states:
        found["initial_h"] = draw(D, B, H)
    if states and operator == "LSTM":
        found["initial_c"] = draw(D, B, H)
    if peepholes:
        found["P"] = draw(D, 3 * H)
    return found


ORDER = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
WEIGHTS = ("W", "R", "B", "P")


def node_of(operator, arrays, name="node", **attributes):
    """Return a node that has these inputs, and all of its outputs."""
    given = [key if key in arrays else "" for key in ORDER]
    while not given[-1]:
        given.pop()
    made = ["Y", "Y_h", "Y_c"][: 2 + (operator == "LSTM")]
    return helper.make_node(operator, given, made, name=name, **{"hidden_size": H, **attributes})


def model_of(node, arrays, weights="initializers", opset=14, more=()):
    """Return a model of one node: its weights as initializers, as Constant nodes or behind Identity nodes."""
    nodes, inside = [node], {key: arrays[key] for key in WEIGHTS if key in arrays}
    initializers = []
    for key, array in inside.items():
        tensor = numpy_helper.from_array(array, key)
        if weights == "constants":
            nodes.insert(0, helper.make_node("Constant", [], [key], value=tensor))
        elif weights == "identities":
            nodes.insert(0, helper.make_node("Identity", [f"{key}_0"], [key]))
            tensor.name = f"{key}_0"
            initializers.append(tensor)
        else:
            initializers.append(tensor)
    free = {key: array for key, array in arrays.items() if key not in inside}
    inputs = [
        helper.make_tensor_value_info(key, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
        for key, a in free.items()
    ]
    real = helper.np_dtype_to_tensor_dtype(arrays["X"].dtype)
    ranks = zip(node.output, (4, 3, 3), strict=False)
    outputs = [
        helper.make_tensor_value_info(key, real, [f"{key}_{n}" for n in range(rank)]) for key, rank in ranks
    ]
    graph = helper.make_graph([*nodes, *more], "graph", inputs, outputs, initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def feeds_of(model, arrays):
    return {value.name: arrays[value.name] for value in model.graph.input}


def by_onnx_runtime(model, feeds):
    """Return what ONNX Runtime makes of a model (path, bytes or ModelProto)."""
    import onnxruntime

    content = model.SerializeToString() if isinstance(model, onnx.ModelProto) else str(model)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def by_layer(layer, arrays, batch_first=False):
    """Return Y, Y_h, Y_c as a loaded layer computes them."""
    turn = (lambda a: a.swapaxes(0, 1)) if batch_first else (lambda a: a)
    states = [turn(arrays[key]) for key in ("initial_h", "initial_c") if key in arrays]
    state = tuple(states) if len(states) == 2 else states[0] if states else None
    output, final = layer(arrays["X"], state, lengths=arrays.get("sequence_lens"))
    D = arrays["W"].shape[0]
    y = output.reshape(*output.shape[:2], D, H)
    final = final if isinstance(final, tuple) else (final,)
    return [y if batch_first else y.swapaxes(1, 2), *map(turn, final)]


def tensor_of(dims, kind=TensorProto.FLOAT, raw=b"", name="W"):
    """Return a tensor whose sizes need not fit its data."""
    tensor = TensorProto(name=name, data_type=kind, raw_data=raw)
    tensor.dims.extend(dims)
    return tensor
