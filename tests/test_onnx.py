"""ONNX: nodes against ONNX Runtime and ONNX's own tests, models that ONNX Runtime runs, malformed models."""

import copy
import doctest
import importlib
import os
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest

import bptt

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper, numpy_helper  # noqa: E402

import bptt.onnx  # noqa: E402
from onnx_models import (  # noqa: E402
    GATES,
    B,
    H,
    I,
    T,
    arrays_of,
    by_layer,
    by_onnx_runtime,
    feeds_of,
    model_of,
    node_of,
    tensor_of,
)

BOTH = {"bidirectional": 2}
CASES = {
    "lstm": ("LSTM", {}, {}),
    "lstm peepholes": ("LSTM", {}, {"peepholes": True}),
    "lstm input_forget": ("LSTM", {"input_forget": 1}, {"peepholes": True}),
    "lstm activations": ("LSTM", {"activations": ["HardSigmoid", "Softsign", "Tanh"]}, {"peepholes": True}),
    "lstm relu": ("LSTM", {"activations": ["Sigmoid", "Relu", "Softsign"]}, {}),
    "lstm scaled": (
        "LSTM",
        {"activations": ["HardSigmoid", "Affine", "Affine"], "activation_alpha": [1 / 6, 0.3, 1.0]}
        | {"activation_beta": [0.4, 0.1, 0.0]},
        {"peepholes": True},
    ),
    "lstm scaled, no bias": (
        "LSTM",
        {
            "activations": ["HardSigmoid", "Tanh", "Tanh"],
            "activation_alpha": [0.3],
            "activation_beta": [0.45],
        },
        {"bias": False},
    ),
    "lstm wide clip": ("LSTM", {"clip": 9999.0}, {}),
    "gru": ("GRU", {"linear_before_reset": 1}, {}),
    "gru original": ("GRU", {}, {}),
    "gru original, no bias": ("GRU", {}, {"bias": False}),
    "gru scaled": (
        "GRU",
        {"linear_before_reset": 1, "activations": ["Sigmoid", "ScaledTanh"], "activation_alpha": [1.0]}
        | {"activation_beta": [0.7]},
        {},
    ),
    "rnn": ("RNN", {}, {}),
    "rnn relu": ("RNN", {"activations": ["Relu"]}, {}),
    "rnn affine": (
        "RNN",
        {"activations": ["Affine"], "activation_alpha": [0.25], "activation_beta": [-0.5]},
        {},
    ),
}


def assert_close(found, expected):
    """Within float32's rounding of sums of this length, relative to the largest number."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * max(1, np.abs(expected).max(initial=0)))


def made(case, direction, seed=0, **more):
    """Return a node, its inputs and its model; lists among the attributes are given for each direction."""
    operator, attributes, of_arrays = CASES[case]
    D = BOTH.get(direction, 1)
    arrays = arrays_of(operator, np.random.default_rng(seed), D, **{**of_arrays, **more})
    attributes = {k: v * D if isinstance(v, list) else v for k, v in attributes.items()}
    node = node_of(operator, arrays, direction=direction, **attributes)
    return node, arrays, model_of(node, arrays)


@pytest.mark.parametrize("spans", ["plain", "states", "lengths", "both"])
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("case", CASES)
def test_against_onnx_runtime(case, direction, spans):
    _, arrays, model = made(
        case, direction, states=spans in ("states", "both"), lengths=spans in ("lengths", "both")
    )
    expected = by_onnx_runtime(model, feeds_of(model, arrays))
    (layer,) = bptt.onnx.load(model).values()
    prepared = bptt.onnx.backend.prepare(model)
    by_backend = prepared.run(feeds_of(model, arrays))
    for found in (by_layer(layer, arrays), by_backend, prepared.run(list(feeds_of(model, arrays).values()))):
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)
            assert a.dtype == np.float32


def test_onnx_own_tests_pass():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of making all the other operators' tests
        from onnx.backend.test import BackendTest

        cases = (
            BackendTest(bptt.onnx.backend, __name__).include(r"^test_(lstm|gru|rnn|simple_rnn)_").test_cases
        )
    passed = []
    for kind in cases.values():
        for name in dir(kind):
            if re.match(r"test_(lstm|gru|rnn|simple_rnn)_.*_cpu$", name):
                kind(name).debug()
                passed.append(name)
    assert len(passed) >= 13, passed


@pytest.mark.parametrize("opset", [7, 13, 14, 17, 22])
@pytest.mark.parametrize("weights", ["initializers", "constants", "identities"])
@pytest.mark.parametrize("operator", GATES)
def test_where_weights_stand_and_versions(operator, weights, opset):
    arrays = arrays_of(operator, np.random.default_rng(1), 2)
    flags = {"linear_before_reset": 1} if operator == "GRU" else {}
    node = node_of(operator, arrays, direction="bidirectional", **flags)
    model = model_of(node, arrays, weights, opset)
    expected = by_onnx_runtime(model, feeds_of(model, arrays))
    for given in (model, model.SerializeToString()):
        (layer,) = bptt.onnx.load(given).values()
        for a, b in zip(by_layer(layer, arrays), expected, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("operator", GATES)
def test_batch_first_is_layout_1(operator, direction):
    """ONNX Runtime refuses this layout: layout 0 of it is the oracle."""
    arrays = arrays_of(operator, np.random.default_rng(2), BOTH.get(direction, 1), lengths=True)
    flags = {"linear_before_reset": 1} if operator == "GRU" else {}
    model = model_of(node_of(operator, arrays, direction=direction, **flags), arrays)
    expected = by_onnx_runtime(model, feeds_of(model, arrays))
    turned = {
        k: np.swapaxes(a, 0, 1) if k in ("X", "initial_h", "initial_c") else a for k, a in arrays.items()
    }
    model = model_of(node_of(operator, arrays, direction=direction, layout=1, **flags), turned)
    (layer,) = bptt.onnx.load(model).values()
    y, *final = expected
    expected = [y.transpose(2, 0, 1, 3), *(state.swapaxes(0, 1) for state in final)]
    for found in (
        by_layer(layer, turned, True),
        bptt.onnx.backend.prepare(model).run(feeds_of(model, turned)),
    ):
        for a, b in zip(found, expected, strict=True):
            assert_close(a, b)


@pytest.mark.parametrize("name", ["float64", "float16", "bfloat16"])
@pytest.mark.parametrize("operator", GATES)
def test_other_dtypes(operator, name):
    rng, flags = np.random.default_rng(3), {"linear_before_reset": 1} if operator == "GRU" else {}
    arrays = arrays_of(operator, rng, dtype=np.float64)
    if name != "float64":  # numbers that a half has
        half = helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, name.upper()))
        arrays = {key: array.astype(half) for key, array in arrays.items()}
    model = model_of(node_of(operator, arrays, **flags), arrays, opset=22)
    wide = {key: array.astype(np.float64) for key, array in arrays.items()}
    exact = onnx.reference.ReferenceEvaluator(model_of(node_of(operator, wide, **flags), wide)).run(
        ["Y"], {key: wide[key] for key in feeds_of(model, arrays)}
    )
    (layer,) = bptt.onnx.load(model).values()
    assert layer.dtype == (np.float64 if name == "float64" else np.float32)
    tolerance = {"float64": 1e-12, "float16": 1e-3, "bfloat16": 1e-2}[name]
    found = bptt.onnx.backend.prepare(model).run(feeds_of(model, arrays))
    assert found[0].dtype == arrays["X"].dtype
    np.testing.assert_allclose(found.Y.astype(np.float64), exact[0], atol=tolerance)
    of_layer = by_layer(layer, {key: array.astype(layer.dtype) for key, array in arrays.items()})
    np.testing.assert_allclose(of_layer[0], exact[0], atol=1e-12 if name == "float64" else 2e-6)


def whole_model():
    """Two nodes of one name, one without, between other operators, one of them in a branch."""
    rng = np.random.default_rng(4)
    nodes, initializers = [], []
    for n, (operator, name) in enumerate([("LSTM", "same"), ("RNN", "same"), ("RNN", "")]):
        arrays = arrays_of(operator, rng, states=False)
        width = I if n == 0 else H
        arrays["W"] = rng.standard_normal((1, GATES[operator] * H, width)).astype("f")
        node = node_of(operator, arrays, name=name)
        node.input[:] = [f"x_{n}", *(f"{key}_{n}" for key in node.input[1:])]
        node.output[:] = [f"y_{n}"]
        nodes += [node, helper.make_node("Squeeze", [f"y_{n}", "axis"], [f"x_{n + 1}"])]
        initializers += [numpy_helper.from_array(arrays[key], f"{key}_{n}") for key in ("W", "R", "B")]
    initializers.append(numpy_helper.from_array(np.array([1]), "axis"))
    info = helper.make_tensor_value_info
    same = helper.make_graph(
        [helper.make_node("Identity", ["x_2"], ["kept"])], "no", [], [info("kept", 1, "TBH")]
    )
    branch = helper.make_graph(nodes[4:], "yes", [], [info("x_3", 1, "TBH")])
    choose = helper.make_node("If", ["flag"], ["z"], then_branch=branch, else_branch=same)
    inputs = [info("x_0", 1, (T, B, I)), info("flag", onnx.TensorProto.BOOL, ())]
    graph = helper.make_graph([*nodes[:4], choose], "g", inputs, [info("z", 1, "TBH")], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run_whole_model(x, flag):
    model = whole_model()
    model.graph.node[2].name = "other"  # ONNX Runtime wants names to differ
    return by_onnx_runtime(model, {"x_0": x, "flag": np.array(flag)})[0]


def test_several_nodes_names_and_subgraphs(tmp_path):
    model, x = whole_model(), np.random.default_rng(5).standard_normal((T, B, I)).astype("f")
    onnx.save(model, tmp_path / "model.onnx")
    twin = copy.deepcopy(model)
    onnx.save(twin, tmp_path / "outside.onnx", save_as_external_data=True, location="data", size_threshold=0)
    for given in (model, tmp_path / "model.onnx", str(tmp_path / "outside.onnx")):
        layers = bptt.onnx.load(given)
        assert list(layers) == ["same", "same_1", "RNN_2"]
        assert [type(layer) for layer in layers.values()] == [bptt.LSTM, bptt.RNN, bptt.RNN]
        found = x
        for count, layer in enumerate(layers.values()):
            if count == 2:
                assert_close(found, run_whole_model(x, False))
            found, _ = layer(found)
        assert_close(found, run_whole_model(x, True))
    assert_close(bptt.onnx.backend.run_model(model, [x, np.array(True)]).z, found)
    with pytest.raises(ValueError, match=r"^same: W: its data are in another file"):
        bptt.onnx.load(onnx.load(tmp_path / "outside.onnx", load_external_data=False))
    assert bptt.onnx.load(helper.make_model(helper.make_graph([], "empty", [], []))) == {}


def test_nodes_in_functions():
    arrays = arrays_of("LSTM", np.random.default_rng(6), states=False)
    node = node_of("LSTM", arrays)
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    function = helper.make_function("own", "Block", list(node.input), list(node.output), [node], opset[:1])
    call = helper.make_node("Block", list(node.input), list(node.output), domain="own")
    model = model_of(call, arrays, opset=17)
    model.opset_import.append(opset[1])
    model.functions.append(function)
    (layer,) = bptt.onnx.load(model).values()
    expected = by_onnx_runtime(model, feeds_of(model, arrays))
    assert_close(by_layer(layer, arrays)[0], expected[0])
    assert_close(bptt.onnx.backend.run_model(model, [arrays["X"]])[0], expected[0])


def changed(change, case="lstm", **more):
    node, arrays, _ = made(case, "forward", **more)
    change(node, arrays)
    return model_of(node, arrays)


def with_attribute(name, value):
    def change(node, arrays):
        for index, attribute in enumerate(node.attribute):
            if attribute.name == name:
                del node.attribute[index]
                break
        node.attribute.append(helper.make_attribute(name, value))

    return change


def with_array(name, of):
    return lambda node, arrays: arrays.update({name: of(arrays[name])})


def without(name):
    def change(node, arrays):
        node.input[list(node.input).index(name)] = ""
        del arrays[name]

    return change


LIMITED = "would bound the input of"
MALFORMED = {
    "hidden_size": (with_attribute("hidden_size", H + 1), "hidden_size: expected H = 5 as in R, got 6"),
    "negative hidden_size": (with_attribute("hidden_size", -1), "hidden_size: expected H = 5"),
    "rank of W": (with_array("W", lambda a: a[0]), "W: expected 3 dimensions"),
    "rank of R": (with_array("R", lambda a: a[..., None]), "R: expected 3 dimensions"),
    "rank of B": (
        with_array("B", lambda a: a[0]),
        r"B: expected shape \(D, 2\*4\*H\) = \(1, 40\), got \(40,\)",
    ),
    "rows of W": (
        with_array("W", lambda a: a[:, 1:]),
        r"W: expected shape \(D, 4\*H, I\) = \(1, 20, 4\), got",
    ),
    "rows of R": (with_array("R", lambda a: a[:, :3]), r"R: expected shape \(D, 4\*H, H\)"),
    "directions": (with_attribute("direction", "bidirectional"), r"W: expected shape .* = \(2, 20, 4\)"),
    "no inputs": (with_array("W", lambda a: a[:, :, :0]), "W: expected no zero among the sizes"),
    "no units": (
        lambda n, a: a.update(W=a["W"][:, :0], R=np.zeros((1, 0, 0), "f"), B=a["B"][:, :0]),
        "W: expected no zero among the sizes",
    ),
    "B of others": (with_array("B", lambda a: a[:, :20]), "B: expected shape"),
    "integers": (
        with_array("W", lambda a: a.astype(np.int32)),
        "malformed node|W, R, B, P: expected one dtype",
    ),
    "dtypes": (with_array("R", lambda a: a.astype(np.float64)), "W, R, B, P: expected one dtype, got"),
    "no W": (without("W"), "malformed node|W: missing"),
    "no R": (without("R"), "malformed node|R: missing"),
    "direction": (with_attribute("direction", "sideways"), "direction: expected forward"),
    "not text": (with_attribute("direction", b"\xff"), "malformed node|direction"),
    "layout": (with_attribute("layout", 2), "layout: expected 0 or 1, got 2"),
    "input_forget": (with_attribute("input_forget", 7), "input_forget: expected 0 or 1, got 7"),
    "type of attribute": (with_attribute("hidden_size", "5"), "malformed node: "),
    "unknown attribute": (with_attribute("linear_before_reset", 1), "malformed node: .*linear_before_reset"),
    "activation": (
        with_attribute("activations", ["Sigmoid", "Softplus", "Tanh"]),
        "activations: .* got Softplus",
    ),
    "unknown activation": (with_attribute("activations", ["A", "Tanh", "Tanh"]), "activations: .* got A"),
    "too few": (
        with_attribute("activations", ["Sigmoid", "Tanh"]),
        "activations: expected 3 for each direction",
    ),
    "alpha left": (with_attribute("activation_alpha", [0.5]), "activation_alpha: 1 more than"),
    "beta left": (with_attribute("activation_beta", [0.5]), "activation_beta: 1 more than"),
    "affine": (with_attribute("activations", ["Sigmoid", "Affine", "Tanh"]), ".*Affine has no default"),
    "clip": (with_attribute("clip", 3.0), f"clip: 3 {LIMITED} sigmoid"),
    "no clip": (with_attribute("clip", 0.0), "clip: expected a number above 0"),
    "clip NaN": (with_attribute("clip", float("nan")), "clip: expected a number above 0"),
}


@pytest.mark.parametrize(("change", "message"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_nodes(change, message):
    model = changed(change)
    with pytest.raises(ValueError, match=f"^node: (?s:{message})"):
        bptt.onnx.load(model)


def test_backend_refuses_what_load_refuses():
    model = changed(with_attribute("clip", 3.0))
    arrays = made("lstm", "forward")[1]
    with pytest.raises(ValueError, match=LIMITED):
        bptt.onnx.backend.run_model(model, feeds_of(model, arrays))
    model = changed(with_attribute("activations", ["Sigmoid", "Softplus", "Tanh"]))
    assert not bptt.onnx.backend.is_compatible(model)
    with pytest.raises(ValueError, match="got Softplus"):
        bptt.onnx.backend.prepare(model)
    with pytest.raises(ValueError, match=r"^model: "):
        bptt.onnx.backend.prepare(changed(with_attribute("linear_before_reset", 1)))


def test_other_refusals():
    def last_is_scaled(node, arrays):
        names = ["Sigmoid", "Tanh", "HardSigmoid"]
        node.attribute.append(helper.make_attribute("activations", names))
        node.attribute.append(helper.make_attribute("activation_alpha", [0.4]))

    with pytest.raises(ValueError, match=r"alpha and beta of the third \(h\) cannot be computed"):
        bptt.onnx.load(changed(last_is_scaled))
    with pytest.raises(ValueError, match="expected Sigmoid, Tanh for a GRU, got relu, tanh"):
        bptt.onnx.load(changed(with_attribute("activations", ["Relu", "Tanh"]), "gru"))
    with pytest.raises(ValueError, match="nonlinearity: expected one of tanh, relu, identity, got 'sigmoid'"):
        bptt.onnx.load(changed(with_attribute("activations", ["Sigmoid"]), "rnn"))
    node, arrays, _ = made("rnn", "bidirectional")
    with_attribute("activations", ["Tanh", "Relu"])(node, arrays)
    with pytest.raises(ValueError, match="activations: expected the same ones in both directions"):
        bptt.onnx.load(model_of(node, arrays))
    node, arrays, _ = made("rnn affine", "forward")
    with_attribute("clip", 50.0)(node, arrays)
    with pytest.raises(ValueError, match=f"clip: 50 {LIMITED} identity"):
        bptt.onnx.load(model_of(node, arrays))


def test_clips_that_change_nothing():
    """The smallest clips that are taken, at numbers that they bound: ONNX Runtime clips, bptt does not."""
    names, alphas = ["HardSigmoid", "Tanh", "Tanh"], {"activation_alpha": [0.25], "activation_beta": [0.5]}
    arrays = arrays_of("LSTM", np.random.default_rng(7))
    arrays["X"] *= 30
    node = node_of("LSTM", arrays, activations=names, clip=9.2, **alphas)
    model = model_of(node, arrays)
    expected = by_onnx_runtime(model, feeds_of(model, arrays))
    (layer,) = bptt.onnx.load(model).values()
    assert_close(by_layer(layer, arrays)[0], expected[0])
    node = node_of("LSTM", arrays, activations=names, clip=9.0, **alphas)
    with pytest.raises(ValueError, match=f"clip: 9 {LIMITED} tanh"):
        bptt.onnx.load(model_of(node, arrays))


def test_inputs_of_a_call_that_are_constants():
    arrays = arrays_of("LSTM", np.random.default_rng(8), lengths=True)
    for name in ("sequence_lens", "initial_h", "initial_c"):
        only = {k: a for k, a in arrays.items() if k in ("X", "W", "R", "B", name)}
        model = model_of(node_of("LSTM", only), only)
        assert list(bptt.onnx.load(model)) == ["node"]
        del model.graph.input[1]
        model.graph.initializer.append(numpy_helper.from_array(only[name], name))
        with pytest.raises(ValueError, match=f"^node: {name}: a constant of the model"):
            bptt.onnx.load(model)
        if name != "sequence_lens":
            model.graph.initializer[-1].CopyFrom(numpy_helper.from_array(0 * only[name], name))
            assert list(bptt.onnx.load(model)) == ["node"]


def test_weights_that_are_not_constant():
    _, arrays, model = made("lstm", "forward")
    info = helper.make_tensor_value_info("W", 1, arrays["W"].shape)
    index = [tensor.name for tensor in model.graph.initializer].index("W")
    del model.graph.initializer[index]
    computed = copy.deepcopy(model)
    model.graph.input.append(info)
    with pytest.raises(ValueError, match=r"^node: W: expected an initializer or a Constant, got an input"):
        bptt.onnx.load(model)
    found = bptt.onnx.backend.run_model(model, [*feeds_of(model, arrays | {"W": arrays["W"]}).values()])
    assert_close(found.Y, by_onnx_runtime(model, feeds_of(model, arrays))[0])
    computed.graph.node.insert(0, helper.make_node("Neg", ["R"], ["W"]))
    with pytest.raises(ValueError, match=r"^node: W: .* got what Neg makes"):
        bptt.onnx.load(computed)
    computed.graph.node[0].CopyFrom(helper.make_node("Identity", ["W"], ["W"]))
    with pytest.raises(ValueError, match=r"^node: W: W: an Identity of itself"):
        bptt.onnx.load(computed)
    computed.graph.node[0].CopyFrom(helper.make_node("Constant", [], ["W"], value_float=1.0))
    with pytest.raises(ValueError, match=r"^node: W: expected an initializer or a Constant"):
        bptt.onnx.load(computed)


@pytest.mark.parametrize(
    "tensor",
    [
        tensor_of([1, 4 * H, I]),
        tensor_of([1, 4 * H, I], raw=bytes(3)),
        tensor_of([1, 2**40, 2**40], raw=bytes(4)),
        tensor_of([-1, 4 * H, I], raw=bytes(4 * 4 * H * I)),
        tensor_of([1, 4 * H, I], kind=0, raw=bytes(4)),
        tensor_of([1, 4 * H, I], kind=99, raw=bytes(4)),
        tensor_of([1, 4 * H, I], kind=onnx.TensorProto.STRING),
        tensor_of([1, 4194305**2, 211106198978564], raw=bytes(4)),
    ],
    ids=["no data", "odd data", "huge", "negative", "no dtype", "unknown dtype", "text", "wraps"],
)
def test_malformed_tensors(tensor):
    _, _, model = made("lstm", "forward")
    index = [entry.name for entry in model.graph.initializer].index("W")
    model.graph.initializer[index].CopyFrom(tensor)
    with pytest.raises(ValueError, match=r"^node: W: "):
        bptt.onnx.load(model)


def test_malformed_models(tmp_path):
    _, _, model = made("lstm", "forward")
    whole = model.SerializeToString()
    for content in (b"not a model", whole[:-1], whole[: len(whole) // 2], b"\xff" * 100, b""):
        with pytest.raises(ValueError, match=r"^(model: not an ONNX model|opset_import: )"):
            bptt.onnx.load(content)
        (tmp_path / "model").write_bytes(content)
        with pytest.raises(ValueError, match=r"^(model: not an ONNX model|opset_import: )"):
            bptt.onnx.load(tmp_path / "model")
    for versions, message in (
        ([6], "opset: expected 7 or later, got 6"),
        ([], "opset_import"),
        ([7, 14], "opset_import"),
    ):
        twin = copy.deepcopy(model)
        del twin.opset_import[:]
        twin.opset_import.extend(helper.make_opsetid("", version) for version in versions)
        with pytest.raises(ValueError, match=message):
            bptt.onnx.load(twin)
    with pytest.raises(FileNotFoundError):
        bptt.onnx.load(tmp_path / "nowhere.onnx")
    with pytest.raises(TypeError, match=r"^model: expected a path, bytes or a ModelProto, got int"):
        bptt.onnx.load(3)


def test_changed_bytes_raise_or_load():
    _, _, model = made("lstm peepholes", "bidirectional", lengths=True)
    whole, rng, refused = model.SerializeToString(), np.random.default_rng(12), 0
    for _ in range(600):
        content = bytearray(whole)
        content[rng.integers(300)] = rng.integers(256)  # names, attributes, sizes
        try:
            bptt.onnx.load(bytes(content))
        except ValueError:
            refused += 1
    assert refused > 100


def test_arrays_that_do_not_fit():
    _, arrays, model = made("lstm", "forward", lengths=True)
    prepared, feeds = bptt.onnx.backend.prepare(model), feeds_of(model, arrays)
    for name, wrong, message in (
        ("X", arrays["X"].astype(np.float64), "X: expected float32 as W, got float64"),
        ("X", arrays["X"][..., 1:], "x: expected shape"),
        ("sequence_lens", np.array([T + 1, 1, 1], np.int32), "lengths: expected 0 to T = 6, got 7"),
        ("initial_h", arrays["initial_h"][:, 1:], "h_0: expected shape"),
    ):
        with pytest.raises(ValueError, match=message):
            prepared.run({**feeds, name: wrong})


LAYERS = {
    "lstm": lambda **k: bptt.LSTM(I, H, **k),
    "lstm options": lambda **k: bptt.LSTM(
        I, H, peephole=True, coupled=True, activations=("hard_sigmoid", "identity", "softsign"), **k
    ),
    "lstm relu": lambda **k: bptt.LSTM(I, H, activations=("sigmoid", "relu", "identity"), **k),
    "gru": lambda **k: bptt.GRU(I, H, **k),
    "gru original": lambda **k: bptt.GRU(I, H, reset_after=False, **k),
    "rnn": lambda **k: bptt.RNN(I, H, **k),
    "rnn relu": lambda **k: bptt.RNN(I, H, nonlinearity="relu", **k),
    "rnn identity": lambda **k: bptt.RNN(I, H, nonlinearity="identity", **k),
}
FORMS = {
    "plain": {},
    "no bias": {"bias": False},
    "stacked": {"num_layers": 3, "batch_first": True},
    "both ways": {"num_layers": 2, "bidirectional": True},
    "one, both ways": {"bidirectional": True, "batch_first": True},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", LAYERS)
def test_saved_models_in_onnx_runtime(kind, form, tmp_path):
    layer, path = LAYERS[kind](seed=1, **FORMS[form]), tmp_path / "model.onnx"
    layer.parameters.flat[...] *= 1.5
    rng, parts = np.random.default_rng(9), layer.num_layers * (1 + layer.bidirectional)
    for state, lengths in ((False, False), (True, False), (False, True), (True, True)):
        bptt.onnx.save(layer, path, state=state, lengths=lengths)
        onnx.checker.check_model(onnx.load(path), full_check=True)
        for steps, rows in ((7, 3), (1, 1), (4, 6)):
            x = rng.standard_normal((rows, steps, I) if layer.batch_first else (steps, rows, I)).astype("f")
            names = ("h_0", "c_0") if isinstance(layer, bptt.LSTM) else ("h_0",)
            states = {name: rng.standard_normal((parts, rows, H)).astype("f") for name in names if state}
            spans = {"lengths": rng.integers(1, steps + 1, rows).astype(np.int32)} if lengths else {}
            found = by_onnx_runtime(path, {"x": x, **states, **spans})
            given = tuple(states.values()) if len(states) > 1 else states.get("h_0")
            output, final = layer(x, given, **spans)
            final = final if isinstance(final, tuple) else (final,)
            for a, b in zip(found, (output, *final), strict=True):
                assert_close(a, b)


def test_saved_models_come_back(tmp_path, backend):
    path = tmp_path / "model.onnx"
    layer = bptt.LSTM(I, H, 2, bidirectional=True, peephole=True, dtype=np.float64, seed=2)
    bptt.onnx.save(layer, path, state=True)
    loaded = bptt.onnx.load(path)
    assert list(loaded) == ["layer_0", "layer_1"]
    rng = np.random.default_rng(10)
    x, h, c = rng.standard_normal((T, B, I)), rng.standard_normal((4, B, H)), rng.standard_normal((4, B, H))
    expected, (h_n, c_n) = layer(x, (h, c))
    first, _ = loaded["layer_0"](x, (h[:2], c[:2]))
    np.testing.assert_array_equal(loaded["layer_1"](first, (h[2:], c[2:]))[0], expected)
    found = bptt.onnx.backend.prepare(onnx.load(path)).run({"x": x, "h_0": h, "c_0": c})
    np.testing.assert_array_equal(found.output, expected)
    np.testing.assert_array_equal(found.h_n, h_n)
    np.testing.assert_array_equal(found.c_n, c_n)
    for steps, rows in ((0, 3), (4, 0)):
        empty = np.zeros((steps, rows, I))
        found = bptt.onnx.backend.prepare(onnx.load(path)).run([empty, h[:, :rows], c[:, :rows]])
        assert found.output.shape == (steps, rows, 2 * H)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["lstm", "gru", "rnn"])
def test_reversed_saved(kind, layers, tmp_path):
    layer, path = bptt.Reversed(LAYERS[kind](seed=3, num_layers=layers)), tmp_path / "model.onnx"
    bptt.onnx.save(layer, path, lengths=True)
    x, lengths = (
        np.random.default_rng(11).standard_normal((T, B, I)).astype("f"),
        np.array([2, 6, 5], np.int32),
    )
    found = by_onnx_runtime(path, {"x": x, "lengths": lengths})
    assert_close(found[0], layer(x, lengths=lengths)[0])
    first = bptt.onnx.load(path)["layer_0"]
    assert isinstance(first, bptt.Reversed)
    assert repr(first).startswith("Reversed(")


def test_what_is_not_saved(tmp_path):
    path = tmp_path / "model.onnx"
    for layer, message in (
        (bptt.LSTM(I, H, cell_clip=1.0), "cell_clip: ONNX has no such thing, got 1.0"),
        (bptt.LSTM(I, H, zoneout=0.1), "zoneout: ONNX has no such thing, got 0.1"),
        (bptt.LSTM(I, H, proj_size=2), "proj_size: ONNX has no such thing, got 2"),
        (bptt.LSTM(0, H), "input_size: expected at least 1"),
        (bptt.Reversed(bptt.RNN(I, H), in_order=False), "in_order=True"),
    ):
        with pytest.raises(ValueError, match=message):
            bptt.onnx.save(layer, path)
    for wrong in (None, bptt.LSTM(I, H).freeze()):
        with pytest.raises(TypeError, match=r"^layer: expected a layer"):
            bptt.onnx.save(wrong, path)
    with pytest.raises(FileNotFoundError):
        bptt.onnx.save(bptt.RNN(I, H), tmp_path / "nowhere" / "model")
    assert not list(tmp_path.iterdir())


def test_backend_interface():
    node, arrays, model = made("rnn", "forward", states=False)
    inputs = [arrays[name] for name in node.input if name]
    expected = bptt.onnx.backend.run_model(model, [arrays["X"]])
    for opset in ({}, {"opset_version": 14}):
        np.testing.assert_array_equal(bptt.onnx.backend.run_node(node, inputs, **opset).Y, expected.Y)
    assert bptt.onnx.backend.supports_device("CPU")
    assert not bptt.onnx.backend.supports_device("CUDA:0")
    assert bptt.onnx.backend.is_compatible(model)
    with pytest.raises(ValueError, match=r"^device: expected CPU, got CUDA"):
        bptt.onnx.backend.prepare(model, "CUDA")
    prepared = bptt.onnx.backend.prepare(model)
    for wrong in ([], [arrays["X"], arrays["X"]]):
        with pytest.raises(ValueError, match=r"^inputs: expected X, got"):
            prepared.run(wrong)
    with pytest.raises(ValueError, match=r"^inputs: expected X, W, R, B"):
        bptt.onnx.backend.run_node(node, inputs[:2])
    np.testing.assert_array_equal(prepared.run(arrays["X"])[0], expected[0])


def test_constant_weights_make_one_layer():
    _, arrays, model = made("lstm", "forward")
    prepared = bptt.onnx.backend.prepare(model)
    node = prepared._evaluator.rt_nodes_[0]
    layers = []
    for _ in range(2):
        prepared.run(feeds_of(model, arrays))
        layers.append(node._kept[1])
    assert layers[0] is layers[1]


def test_examples_in_docstrings_run():
    for name in ("reader", "runner", "writer"):
        assert doctest.testmod(importlib.import_module(f"bptt.onnx.{name}")).failed == 0


def test_without_the_package():
    code = """
import sys
sys.modules["onnx"] = None
try:
    import bptt.onnx
except ImportError as error:
    print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, timeout=60
    )
    assert found.stdout == "bptt.onnx needs the package onnx: pip install 'bptt[onnx]'\n", found.stderr
