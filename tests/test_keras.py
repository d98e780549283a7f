"""Keras: its layers' own results, from weights and from files; files that lie."""

import doctest
import importlib
import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest

import bptt
import bptt.keras

os.environ.setdefault("KERAS_BACKEND", "torch")
h5py = pytest.importorskip("h5py")
pytest.importorskip("torch")
keras = pytest.importorskip("keras")

# Keras's own, of its backend's arrays.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

T, B, I, H = 7, 3, 4, 5
LAYERS = {
    "lstm": ("LSTM", {}),
    "lstm activations": ("LSTM", {"activation": "softsign", "recurrent_activation": "tanh"}),
    "lstm hard_sigmoid": ("LSTM", {"recurrent_activation": "hard_sigmoid", "activation": "linear"}),
    "lstm relu": ("LSTM", {"activation": "relu", "unit_forget_bias": False, "use_bias": False}),
    "gru": ("GRU", {}),
    "gru original": ("GRU", {"reset_after": False}),
    "gru no bias": ("GRU", {"use_bias": False}),
    "gru original no bias": ("GRU", {"use_bias": False, "reset_after": False}),
    "rnn": ("SimpleRNN", {}),
    "rnn relu": ("SimpleRNN", {"activation": "relu"}),
    "rnn linear": ("SimpleRNN", {"activation": None, "use_bias": False}),
}


def built(case, seed=0, **more):
    """Return a layer of Keras whose weights are away from where they start, biases too."""
    name, settings = LAYERS[case]
    layer = getattr(keras.layers, name)(H, return_sequences=True, return_state=True, **settings, **more)
    return with_weights(layer, seed)


def with_weights(layer, seed=0, inputs=I):
    if not layer.built:
        layer.build((B, T, inputs))
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.standard_normal(w.shape).astype(w.dtype) * 0.4 for w in layer.get_weights()])
    return layer


def result(layer, x, state=None):
    """Return what Keras computes: the output, and the states in one list."""
    found = layer(x) if state is None else layer(x, initial_state=list(state))
    return [np.asarray(keras.ops.convert_to_numpy(array)) for array in found]


def assert_close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * max(1, np.abs(expected).max()))


def assert_same(layer, twin, states=True):
    """bptt's layer does what that of Keras does."""
    rng, pair = np.random.default_rng(1), type(layer).__name__ == "LSTM"
    x = rng.standard_normal((B, T, I)).astype("f")
    state = [rng.standard_normal((B, H)).astype("f") for _ in range(1 + pair)] if states else None
    given = None if state is None else tuple(a[None] for a in state) if pair else state[0][None]
    output, final = twin(x, given)
    expected = result(layer, x, state)
    assert_close(output, expected[0])
    for a, b in zip(final if pair else (final,), expected[1:], strict=True):
        assert_close(a[0], b)


@pytest.mark.parametrize("case", LAYERS)
def test_from_weights_against_keras(case):
    layer = built(case)
    name, settings = LAYERS[case]
    for config in (layer.get_config(), settings):
        twin = bptt.keras.from_weights(name, layer.get_weights(), **config)
        assert_same(layer, twin)
        assert_same(layer, twin, states=False)
        assert twin.dtype == np.float32


@pytest.mark.parametrize("case", ["lstm", "gru", "rnn"])
def test_going_backwards(case):
    layer = built(case, go_backwards=True)
    twin = bptt.keras.from_weights(LAYERS[case][0], layer.get_weights(), **layer.get_config())
    assert isinstance(twin, bptt.Reversed)
    assert_same(layer, twin)
    assert_same(layer, twin.freeze())


@pytest.mark.parametrize("case", LAYERS)
def test_bidirectional_against_keras(case):
    name, settings = LAYERS[case]
    inner = getattr(keras.layers, name)(H, return_sequences=True, return_state=True, **settings)
    layer = with_weights(keras.layers.Bidirectional(inner))
    x = np.random.default_rng(2).standard_normal((B, T, I)).astype("f")
    expected = result(layer, x)
    for config in (layer.get_config(), {"layer": name, **settings}, settings):
        output, states = bptt.keras.from_weights("Bidirectional", layer.get_weights(), **config)(x)
        states = states if isinstance(states, tuple) else (states,)
        assert_close(output, expected[0])
        flat = [state[d] for d in range(2) for state in states]
        for a, b in zip(flat, expected[1:], strict=True):
            assert_close(a, b)


def test_hard_sigmoid_of_keras_2():
    weights = built("lstm").get_weights()
    names = {"recurrent_activation": "hard_sigmoid", "activation": "hard_sigmoid"}
    layer = bptt.keras.from_weights("LSTM", weights, keras_version=2, **names)
    assert layer.activations == ("hard_sigmoid",) * 3
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], weights[0].T)
    with pytest.raises(ValueError, match=r"^activation: hard_sigmoid cannot be computed"):
        bptt.keras.from_weights("LSTM", weights, **names)


def test_dtypes():
    weights = built("lstm").get_weights()
    for given, expected in (("float64", np.float64), ("float16", np.float32), ("float32", np.float32)):
        layer = bptt.keras.from_weights("LSTM", [a.astype(given) for a in weights])
        assert layer.dtype == expected


REFUSED = {
    "class": (
        ("RNN", {}),
        "layer_class_name: expected one of LSTM, GRU, SimpleRNN, Bidirectional, got 'RNN'",
    ),
    "other class": (("GRU", {}), r"kernel: expected shape \(I, 3\*H\) = \(4, 15\), got \(4, 20\)"),
    "units": (("LSTM", {"units": 6}), "units: expected 5 as in the weights, got 6"),
    "use_bias": (("LSTM", {"use_bias": False}), "use_bias: expected True as in the weights, got False"),
    "activation": (("LSTM", {"activation": "gelu"}), "activation: expected one of .*, got 'gelu'"),
    "gates": (
        ("LSTM", {"recurrent_activation": "elu"}),
        "recurrent_activation: expected one of .*, got 'elu'",
    ),
    "own activation": (("LSTM", {"activation": {"class_name": "F"}}), "activation: expected one of"),
    "unknown": (("LSTM", {"colour": 1}), "config: unknown colour"),
    "version": (("LSTM", {"keras_version": 4}), "keras_version: expected 2 or 3, got 4"),
    "halves": (("Bidirectional", {}), "weights: expected as many forward as backward, got 3"),
}


@pytest.mark.parametrize(("call", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals(call, message):
    name, config = call
    with pytest.raises(ValueError, match=f"^{message}"):
        bptt.keras.from_weights(name, built("lstm").get_weights(), **config)


def test_more_refusals():
    kernel, recurrent, bias = built("lstm").get_weights()
    for weights, message in (
        ([], "weights: expected kernel, recurrent kernel and bias, got 0 arrays"),
        ([kernel], "weights: expected kernel, recurrent kernel and bias, got 1 arrays"),
        ([kernel, recurrent, bias, bias], "weights: expected kernel, recurrent kernel and bias, got 4"),
        ([kernel[0], recurrent, bias], "kernel: expected two dimensions"),
        ([kernel[:0], recurrent, bias], "kernel: expected two dimensions of at least 1"),
        ([kernel, recurrent[1:], bias], r"kernel: expected shape \(I, 4\*H\) = \(4, 16\), got \(4, 20\)"),
        ([kernel, recurrent, bias[1:]], r"bias: expected shape \(4\*H,\) = \(20,\)"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            bptt.keras.from_weights("LSTM", weights)
    weights = built("gru").get_weights()
    with pytest.raises(ValueError, match=r"^bias: expected shape \(3\*H,\)"):
        bptt.keras.from_weights("GRU", weights, reset_after=False)
    with pytest.raises(
        ValueError, match=r"^recurrent_activation, activation: expected sigmoid, tanh in a GRU"
    ):
        bptt.keras.from_weights("GRU", weights, activation="relu")
    for config, message in (
        ({"merge_mode": "sum"}, "merge_mode: expected concat, got 'sum'"),
        ({"merge_mode": None}, "merge_mode: expected concat, got None"),
        ({"layer": "Dense"}, "layer: expected one of LSTM, GRU, SimpleRNN, got 'Dense'"),
        ({"layer": {"class_name": "LSTM"}}, "layer: expected a configuration, got None"),
        ({"go_backwards": True}, "go_backwards: expected False in the forward layer"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            bptt.keras.from_weights("Bidirectional", [kernel, recurrent, bias] * 2, **config)
    inner = [{"class_name": "LSTM", "config": {"activation": name}} for name in ("tanh", "relu")]
    with pytest.raises(ValueError, match=r"^backward_layer: expected the settings of layer, got others"):
        bptt.keras.from_weights(
            "Bidirectional", [kernel, recurrent, bias] * 2, layer=inner[0], backward_layer=inner[1]
        )


def model():
    """Layers of every kind, one of them in a model inside and one in a wrapper."""
    layers = keras.layers
    x = keras.Input((None, I), name="x")
    first = layers.LSTM(H, return_sequences=True, recurrent_activation="hard_sigmoid", name="first")(x)
    both = layers.Bidirectional(layers.GRU(6, return_sequences=True), name="both")(first)
    second = layers.LSTM(H, name="second")(both)
    last = layers.SimpleRNN(2, go_backwards=True, activation="relu", use_bias=False, name="last")(both)
    inner = keras.Sequential(
        [keras.Input((None, H)), layers.LSTM(3, name="deep"), layers.Dense(2)], name="inner"
    )
    videos = keras.Input((None, None, I), name="videos")
    wrapped = layers.TimeDistributed(layers.LSTM(4, name="wrapped"), name="each")(videos)
    made = keras.Model([x, videos], [second, last, inner(first), wrapped])
    with_weights(made)
    return made


NAMES = ["first", "both", "second", "last", "deep", "wrapped"]


def test_files_against_keras(tmp_path):
    made = model()
    made.save(tmp_path / "model.keras")
    made.save_weights(tmp_path / "model.weights.h5")
    layers = bptt.keras.load(tmp_path / "model.keras")
    assert sorted(layers) == sorted(NAMES)
    x = np.random.default_rng(3).standard_normal((B, T, I)).astype("f")
    videos = np.random.default_rng(4).standard_normal((B, 2, T, I)).astype("f")
    second, last, deep, wrapped = (keras.ops.convert_to_numpy(array) for array in made([x, videos]))
    first, _ = layers["first"](x)
    both, _ = layers["both"](first)
    assert_close(layers["second"](both)[0][:, -1], second)
    assert_close(layers["last"](both)[1][0], last)
    kernel, bias = made.get_layer("inner").layers[-1].get_weights()
    assert_close(layers["deep"](first)[0][:, -1] @ kernel + bias, deep)
    for n in range(2):
        assert_close(layers["wrapped"](videos[:, n])[0][:, -1], wrapped[:, n])
    alone = bptt.keras.load(str(tmp_path / "model.weights.h5"))
    assert sorted(alone) == sorted(NAMES)
    for name in ("both", "second", "deep", "wrapped"):  # Keras's defaults
        np.testing.assert_array_equal(alone[name].parameters.flat, layers[name].parameters.flat)
        assert repr(alone[name]) == repr(layers[name])


def test_names_that_occur_twice(tmp_path):
    inner = [keras.Sequential([keras.layers.SimpleRNN(2, name="same")], name=f"m{n}") for n in range(2)]
    x = keras.Input((None, I))
    made = with_weights(keras.Model(x, [one(x) for one in inner]))
    made.save(tmp_path / "model.keras")
    layers = bptt.keras.load(tmp_path / "model.keras")
    assert list(layers) == ["same", "layers/sequential_1/layers/simple_rnn"]
    for layer, one in zip(layers.values(), inner, strict=True):
        np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], one.get_weights()[0].T)


def test_layout_of_keras_2(tmp_path):
    """Its files name the groups otherwise, and mean another hard_sigmoid."""
    x = keras.Input((None, I))
    made = with_weights(
        keras.Model(x, keras.layers.LSTM(H, recurrent_activation="hard_sigmoid", name="one")(x))
    )
    made.save(tmp_path / "model.keras")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        config = archive.read("config.json")
        (tmp_path / "weights.h5").write_bytes(archive.read("model.weights.h5"))
    with h5py.File(tmp_path / "weights.h5", "a") as weights:
        weights.move("layers", "_layer_checkpoint_dependencies")
    with zipfile.ZipFile(tmp_path / "older.keras", "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0"}))
        archive.write(tmp_path / "weights.h5", "model.weights.h5")
    layer = bptt.keras.load(tmp_path / "older.keras")["one"]
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], made.get_weights()[0].T)
    assert layer.activations[0] == "hard_sigmoid"


def test_what_a_file_asks_for_in_vain(tmp_path):
    x = keras.Input((None, I))
    for layer, message in (
        (
            keras.layers.LSTM(H, activation="gelu", name="one"),
            "one: activation: expected one of .* got 'gelu'",
        ),
        (
            keras.layers.Bidirectional(keras.layers.LSTM(H), merge_mode="ave", name="two"),
            "two: merge_mode: .* 'ave'",
        ),
    ):
        keras.Model(x, layer(x)).save(tmp_path / "model.keras")
        with pytest.raises(ValueError, match=rf"model\.keras: {message}"):
            bptt.keras.load(tmp_path / "model.keras")


def test_damaged_files(tmp_path):
    x = keras.Input((None, I))
    made = keras.Model(x, keras.layers.GRU(H, name="one")(x))
    made.save(tmp_path / "model.keras")
    made.save_weights(tmp_path / "model.weights.h5")
    for name in ("model.keras", "model.weights.h5"):
        whole = (tmp_path / name).read_bytes()
        for content in (b"", b"text", whole[: len(whole) // 2], whole[: len(whole) - 1], whole[:100]):
            (tmp_path / "damaged").write_bytes(content)
            with pytest.raises(ValueError, match="damaged: "):
                bptt.keras.load(tmp_path / "damaged")
    with zipfile.ZipFile(tmp_path / "model.keras") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for name, content in (
        *(("config.json", text) for text in (b"{", b"[" * 100_000)),
        ("metadata.json", b"[]"),
        ("model.weights.h5", b"text"),
        ("config.json", contents["config.json"].replace(b'"units": 5', b'"units": 1000000000')),
        ("config.json", contents["config.json"].replace(b'"class_name": "GRU"', b'"class_name": "LSTM"')),
    ):
        with zipfile.ZipFile(tmp_path / "damaged", "w") as archive:
            for other, text in {**contents, name: content}.items():
                archive.writestr(other, text)
        with pytest.raises(ValueError, match="damaged: "):
            bptt.keras.load(tmp_path / "damaged")
    with pytest.raises(FileNotFoundError):
        bptt.keras.load(tmp_path / "nowhere.keras")


def test_weights_that_lie(tmp_path):
    """Arrays that are larger than the file, and those that stand in other files, are not read."""
    path, other = tmp_path / "model.weights.h5", tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["0"] = np.ones((I, 3 * H), "f")
    for kind in ("huge", "link", "soft link", "raw"):
        with h5py.File(path, "w") as file:
            variables = file.create_group("layers/gru/cell/vars")
            variables["1"] = np.ones((H, 3 * H), "f")
            if kind == "huge":
                variables.create_dataset("0", (10**9, 3 * H), "f", chunks=(1, 3 * H))
            elif kind == "link":
                variables["0"] = h5py.ExternalLink(str(other), "0")
            elif kind == "soft link":
                variables["0"] = h5py.SoftLink("/layers/gru/cell/vars/1")
            else:
                size = 4 * I * 3 * H
                variables.create_dataset("0", (I, 3 * H), "f", external=[(str(other), 0, size)])
        with pytest.raises(
            ValueError, match=r"array 0 (is a link, or stands in another file|of 60000000000 bytes)"
        ):
            bptt.keras.load(path)


def test_examples_in_docstrings_run():
    assert doctest.testmod(importlib.import_module("bptt.keras.weights")).failed == 0


def test_without_the_package(tmp_path):
    code = """
import sys
sys.modules["h5py"] = None
import bptt.keras
try:
    bptt.keras.load("model.keras")
except ImportError as error:
    print(error)
print(sorted({"keras", "torch", "tensorflow"} & set(sys.modules)))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    message = "bptt.keras.load needs the package h5py: pip install 'bptt[keras]'"
    assert found.stdout.splitlines() == [message, "[]"], found.stderr
