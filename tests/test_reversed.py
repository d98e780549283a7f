"""Layers that run from the last step to the first: against the other direction of a bidirectional one."""

import doctest
import importlib

import numpy as np
import pytest

import bptt

T, B, I, H = 6, 4, 3, 5


def pair(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("lengths", [None, [6, 2, 0, 5]])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("kind", [bptt.LSTM, bptt.GRU, bptt.RNN])
def test_is_the_reverse_direction(backend, kind, batch_first, lengths):
    both = kind(I, H, bidirectional=True, batch_first=batch_first, dtype=np.float64, seed=0)
    layer = kind(I, H, batch_first=batch_first, dtype=np.float64)
    names = {name: both.parameters[f"{name}_reverse"] for name in layer.parameters}
    layer.load_state_dict(names)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((B, T, I) if batch_first else (T, B, I))
    count = 2 if kind is bptt.LSTM else 1
    states = [rng.standard_normal((2, B, H)) for _ in range(count)]
    of = (lambda arrays: tuple(arrays)) if count == 2 else (lambda arrays: arrays[0])
    expected, final = both(x, of(states), lengths=lengths)
    for runner in (bptt.Reversed(layer), bptt.Reversed(layer).freeze()):
        output, found = runner(x, of([a[1:] for a in states]), lengths=lengths)
        np.testing.assert_array_equal(output, expected[..., H:])
        for a, b in zip(pair(found), pair(final), strict=True):
            np.testing.assert_array_equal(a[0], b[1])
    made, _ = bptt.Reversed(layer, in_order=False)(x)
    ordered, _ = bptt.Reversed(layer)(x)
    np.testing.assert_array_equal(np.flip(made, 1 if batch_first else 0), ordered)


def test_unbatched():
    layer = bptt.GRU(I, H, batch_first=True, seed=0)
    x = np.random.default_rng(2).standard_normal((T, I)).astype("f")
    output, h_n = bptt.Reversed(layer)(x)
    expected, h = layer(x[::-1])
    np.testing.assert_array_equal(output, expected[::-1])
    np.testing.assert_array_equal(h_n, h)


def test_errors_and_names():
    with pytest.raises(ValueError, match=r"^layer: expected one direction"):
        bptt.Reversed(bptt.GRU(I, H, bidirectional=True))
    with pytest.raises(TypeError, match=r"^layer: expected a layer or an engine, got int"):
        bptt.Reversed(3)
    with pytest.raises(ValueError, match=r"^x: expected shape"):
        bptt.Reversed(bptt.GRU(I, H))(np.zeros(3, "f"))
    with pytest.raises(ValueError, match=r"^lengths: expected 0 to T"):
        bptt.Reversed(bptt.GRU(I, H))(np.zeros((T, 1, I), "f"), lengths=[T + 1])
    assert repr(bptt.Reversed(bptt.GRU(I, H), in_order=False)) == "Reversed(GRU(3, 5), in_order=False)"


def test_examples_in_docstrings_run():
    assert doctest.testmod(importlib.import_module("bptt.reversed")).failed == 0
