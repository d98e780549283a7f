"""Gradient clipping against torch."""

import numpy as np
import pytest

import bptt


def layer_and_gradients(seed=0, scale=1.0):
    layer = bptt.LSTM(3, 4, seed=seed)
    rng = np.random.default_rng(seed)
    tape = layer.forward(rng.standard_normal((5, 2, 3)).astype(np.float32))
    return layer, layer.backward(tape, scale * rng.standard_normal((5, 2, 4)).astype(np.float32))


def as_torch(torch, *gradients):
    parameters = []
    for array in (array for g in gradients for array in g.parameters.values()):
        parameters.append(torch.nn.Parameter(torch.zeros(array.shape)))
        parameters[-1].grad = torch.tensor(array.copy())
    return parameters


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 2, 3.5, np.inf])
@pytest.mark.parametrize("max_norm", [0.0, 0.1, 5.0, 1e6])
@pytest.mark.parametrize("count", [1, 2])
def test_norm_agrees_with_torch(norm_type, max_norm, count):
    torch = pytest.importorskip("torch")
    gradients = [layer_and_gradients(seed, scale=seed + 1)[1] for seed in range(count)]
    peers = as_torch(torch, *gradients)
    expected = torch.nn.utils.clip_grad_norm_(peers, max_norm, norm_type)
    untouched = [g.input.copy() for g in gradients]
    norm = bptt.clip_grad_norm_(gradients if count > 1 else gradients[0], max_norm, norm_type)
    assert isinstance(norm, float)
    assert norm == pytest.approx(float(expected), rel=1e-5)
    arrays = [array for g in gradients for array in g.parameters.values()]
    for array, peer in zip(arrays, peers, strict=True):
        np.testing.assert_allclose(array, peer.grad.numpy(), rtol=1e-5, atol=1e-9)
    for g, before in zip(gradients, untouched, strict=True):
        np.testing.assert_array_equal(g.input, before)


@pytest.mark.parametrize("value", [0.0, 0.05, 1, 1e9])
def test_value_agrees_with_torch(value):
    torch = pytest.importorskip("torch")
    gradients = [layer_and_gradients(seed)[1] for seed in range(2)]
    peers = as_torch(torch, *gradients)
    torch.nn.utils.clip_grad_value_(peers, value)
    bptt.clip_grad_value_(gradients, value)
    arrays = [array for g in gradients for array in g.parameters.values()]
    for array, peer in zip(arrays, peers, strict=True):
        np.testing.assert_array_equal(array, peer.grad.numpy())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_visible(bad):
    torch = pytest.importorskip("torch")
    _, gradients = layer_and_gradients()
    gradients.parameters.flat[3] = bad
    peers = as_torch(torch, gradients)
    expected = float(torch.nn.utils.clip_grad_norm_(peers, 1.0))
    np.testing.assert_equal(bptt.clip_grad_norm_(gradients, 1.0), expected)
    for array, peer in zip(gradients.parameters.values(), peers, strict=True):
        np.testing.assert_array_equal(np.isnan(array), torch.isnan(peer.grad).numpy())
    _, gradients = layer_and_gradients()
    gradients.parameters.flat[3] = bad
    bptt.clip_grad_value_(gradients, 0.5)
    np.testing.assert_equal(
        float(gradients.parameters.flat[3]), np.nan if np.isnan(bad) else np.sign(bad) * 0.5
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("norm_type", [2.0, np.inf])
def test_error_if_nonfinite(bad, norm_type):
    torch = pytest.importorskip("torch")
    _, one = layer_and_gradients()
    _, other = layer_and_gradients(1)
    other.parameters.flat[[3, 5]] = bad
    before = [g.parameters.flat.copy() for g in (one, other)]
    with pytest.raises(RuntimeError):
        torch.nn.utils.clip_grad_norm_(as_torch(torch, one, other), 1.0, norm_type, error_if_nonfinite=True)
    size = sum(array.size for array in before)
    with pytest.raises(RuntimeError, match=f"^grads: their norm is (nan|inf), 2 of {size} elements are not"):
        bptt.clip_grad_norm_([one, other], 1.0, norm_type, error_if_nonfinite=True)
    for gradients, array in zip((one, other), before, strict=True):
        np.testing.assert_array_equal(gradients.parameters.flat, array)
    assert bptt.clip_grad_norm_(one, 1.0, norm_type, error_if_nonfinite=True) > 0
    with pytest.raises(TypeError, match=r"^error_if_nonfinite: expected True or False"):
        bptt.clip_grad_norm_(one, 1.0, error_if_nonfinite=1)


def test_mappings_arrays_and_mixtures():
    _, gradients = layer_and_gradients()
    extra = {"w": np.full((2, 2), 3.0, np.float32), "b": np.full(2, -4.0)}
    total = np.sqrt(np.sum(gradients.parameters.flat.astype(float) ** 2) + 4 * 9 + 2 * 16)
    assert bptt.clip_grad_norm_([gradients, extra], 1.0) == pytest.approx(total, rel=1e-6)
    assert extra["w"].dtype == np.float32
    np.testing.assert_allclose(extra["b"], -4 / total, rtol=1e-5)
    assert bptt.clip_grad_norm_([gradients, extra], 2.0) == pytest.approx(1.0, rel=1e-5)
    strided = np.arange(6.0).reshape(2, 3).T
    bptt.clip_grad_value_(strided, 2.0)
    assert strided.max() == 2.0


def test_empty_and_extreme_gradients():
    assert bptt.clip_grad_norm_([], 1.0) == 0.0
    assert bptt.clip_grad_norm_(np.zeros(0, np.float32), 1.0) == 0.0
    assert bptt.clip_grad_norm_(np.zeros(3), 1.0) == 0.0
    large, small = np.full(4, 1e300), np.full(4, 1e-300)
    assert bptt.clip_grad_norm_(large, 1.0) == pytest.approx(2e300)
    np.testing.assert_allclose(large, 0.5)
    assert bptt.clip_grad_norm_(small, 1.0) == pytest.approx(2e-300)


def test_arguments_that_do_not_fit():
    _, gradients = layer_and_gradients()
    for arguments, name in [
        ((-1.0,), "max_norm"),
        (("1",), "max_norm"),
        ((np.nan,), "max_norm"),
        ((1.0, 0.0), "norm_type"),
    ]:
        with pytest.raises((TypeError, ValueError), match=f"^{name}: "):
            bptt.clip_grad_norm_(gradients, *arguments)
    with pytest.raises(ValueError, match=r"^value: "):
        bptt.clip_grad_value_(gradients, -1.0)
    for wrong in (None, 3.0, "g", [None], np.arange(3), {"w": [1.0]}):
        with pytest.raises(TypeError, match=r"^grads: "):
            bptt.clip_grad_value_(wrong if not isinstance(wrong, dict) else {"w": None}, 1.0)
