"""Initial weights: distributions, orthogonality, biases, seeds, errors."""

import numpy as np
import pytest

import bptt

KINDS = [bptt.LSTM, bptt.GRU, bptt.RNN]


@pytest.mark.parametrize("kind", KINDS)
def test_torch_is_the_default(kind):
    layer = kind(6, 25, 2, bidirectional=True, seed=3)
    other = kind(6, 25, 2, bidirectional=True, seed=4)
    assert bptt.init.torch(other, seed=3) is other
    np.testing.assert_array_equal(layer.parameters.flat, other.parameters.flat)
    assert abs(layer.parameters.flat).max() <= 0.2
    assert abs(layer.parameters.flat.std() - 0.2 / np.sqrt(3)) < 0.005


@pytest.mark.parametrize("kind", KINDS)
def test_keras(kind):
    layer = bptt.init.keras(kind(6, 25, 2, bidirectional=True, dtype=np.float64), seed=3)
    for name, array in layer.parameters.items():
        if name.startswith("weight_hh"):
            np.testing.assert_allclose(array.T @ array, np.eye(25), atol=1e-12)
        elif name.startswith("weight_ih"):
            bound = np.sqrt(6 / sum(array.shape))
            assert 0.95 * bound < abs(array).max() <= bound
        elif kind is bptt.LSTM and name.startswith("bias_ih"):
            np.testing.assert_array_equal(array.reshape(4, 25), np.repeat([[0], [1], [0], [0]], 25, 1))
        else:
            assert not array.any()
    twin = bptt.init.keras(kind(6, 25, 2, bidirectional=True, dtype=np.float64), seed=3)
    np.testing.assert_array_equal(layer.parameters.flat, twin.parameters.flat)


def test_keras_against_keras_shapes_without_biases():
    layer = bptt.init.keras(bptt.LSTM(3, 4, bias=False, peephole=True), seed=0)
    assert not layer.parameters["weight_peephole_l0"].any()


def test_forget_bias():
    layer = bptt.LSTM(3, 4, 2, bidirectional=True, seed=0)
    before = {name: array.copy() for name, array in layer.parameters.items()}
    bptt.init.forget_bias(layer, -2.5)
    for name, array in layer.parameters.items():
        if name.startswith("bias"):
            rows, old = array.reshape(4, 4), before[name].reshape(4, 4)
            assert (rows[1] == (-2.5 if name.startswith("bias_ih") else 0)).all()
            np.testing.assert_array_equal(rows[[0, 2, 3]], old[[0, 2, 3]])
        else:
            np.testing.assert_array_equal(array, before[name])


def test_chrono():
    layer = bptt.init.chrono(bptt.LSTM(3, 400, 2, dtype=np.float64), 100, seed=1)
    for end in ("_l0", "_l1"):
        i, f, g, o = layer.parameters["bias_ih" + end].reshape(4, 400)
        spans = np.exp(f)
        assert 1 <= spans.min() < 3
        assert 96 < spans.max() <= 99
        assert abs(spans.mean() - 50) < 5
        np.testing.assert_array_equal(i, -f)
        assert not g.any()
        assert not o.any()
        assert not layer.parameters["bias_hh" + end].any()
    r, z, n = bptt.init.chrono(bptt.GRU(3, 40), 100, seed=1).parameters["bias_ih_l0"].reshape(3, 40)
    assert (z >= 0).all()
    assert z.any()
    assert not r.any()
    assert not n.any()


def test_cells_remember_as_long_as_chrono_says():
    """Without input the state of a unit with span s falls to 1/e in about s steps."""
    layer = bptt.init.chrono(bptt.LSTM(1, 50, dtype=np.float64), 200, seed=2)
    for name in ("weight_ih_l0", "weight_hh_l0"):
        layer.parameters[name][...] = 0
    spans = np.exp(layer.parameters["bias_ih_l0"].reshape(4, 50)[1])
    tape = layer.forward(np.zeros((1, 1, 1)), (np.zeros((1, 1, 50)), np.ones((1, 1, 50))))
    np.testing.assert_allclose(-1 / np.log(tape.cells[0, 0, 0]), spans + 0.5, rtol=0.1)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bptt.init.torch(3), TypeError, "layer: expected an LSTM, GRU or RNN, got int"),
        (lambda: bptt.init.forget_bias(bptt.GRU(2, 3), 1), TypeError, "layer: expected an LSTM, got GRU"),
        (
            lambda: bptt.init.forget_bias(bptt.LSTM(2, 3, bias=False), 1),
            ValueError,
            "layer: .* got bias=False",
        ),
        (
            lambda: bptt.init.chrono(bptt.RNN(2, 3), 10),
            TypeError,
            "layer: expected an LSTM or a GRU, got RNN",
        ),
        (lambda: bptt.init.chrono(bptt.LSTM(2, 3), 2), ValueError, "longest: "),
        (lambda: bptt.init.forget_bias(bptt.LSTM(2, 3), "1"), TypeError, "value: "),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
