"""Sums over tokens in two groups of batch rows: the same bits whoever sums, in one call or in blocks."""

import numpy as np
import pytest

import bptt

RNG = np.random.default_rng(0)
KINDS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True, "bias": False}),
    "projection": (bptt.LSTM, {"proj_size": 7, "peephole": True}),
    "drawn": (bptt.LSTM, {"recurrent_dropout": 0.3, "zoneout": 0.2, "peephole": True}),
    "gru": (bptt.GRU, {}),
    "original gru": (bptt.GRU, {"reset_after": False}),
    "rnn": (bptt.RNN, {"num_layers": 2}),
}
T, I, H = 53, 5, 19


def gradients(layer, tape, errors, threads, **how):
    with bptt.num_threads(threads):
        found = layer.backward(tape, errors, steps="norms", **how)
    state = found.state if isinstance(found.state, tuple) else (found.state,)
    return [found.parameters.flat, found.input, *state, found.norms]


def made(kind, B, dtype=np.float32, spans=False):
    cell, settings = KINDS[kind]
    layer = cell(I, H, dtype=dtype, seed=1, **settings)
    x = RNG.standard_normal((T, B, I)).astype(dtype)
    given = {}
    if spans:
        given = {"lengths": RNG.integers(0, T + 1, B), "resets": RNG.random((T, B)) < 0.1}
    tape = layer.forward(x, rng=3 if kind == "drawn" else None, **given)
    return layer, x, tape, RNG.standard_normal(tape.output.shape).astype(dtype), given


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("B", [15, 16, 17, 64, 255, 257])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(kind, B, spans, dtype):
    layer, _, tape, errors, _ = made(kind, B, dtype, spans)
    expected = gradients(layer, tape, errors, 1)
    for threads in (2, 3):
        for found, exact in zip(gradients(layer, tape, errors, threads), expected, strict=True):
            np.testing.assert_array_equal(found, exact)
    if B < 65:
        with bptt.backend("reference"):
            found = gradients(layer, tape, errors, 1)
        for array, exact in zip(found, expected, strict=True):
            error = np.abs(array - exact).max(initial=0)
            assert error <= (1e-4 if dtype is np.float32 else 1e-12) * (1 + np.abs(exact).max(initial=0))


@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("B", [16, 33, 200])
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "drawn"])
def test_blocks_give_the_same_bits(kind, B, threads, spans):
    """Truncated blocks in one call are calls of their own added up; a tape that is made again is the tape."""
    layer, x, tape, errors, given = made(kind, B, spans=spans)
    with bptt.num_threads(threads):
        again = layer.forward(x, recompute=10, **given)
    for found, exact in zip(
        gradients(layer, again, errors, threads), gradients(layer, tape, errors, threads), strict=True
    ):
        np.testing.assert_array_equal(found, exact)
    for blocks in ((12, 12), (20, 5)):
        whole = gradients(layer, tape, errors, threads, truncate=blocks)
        apart = gradients(layer, again, errors, threads, truncate=blocks)  # a call for each block
        for found, exact in zip(whole[:-1], apart[:-1], strict=True):
            np.testing.assert_array_equal(found, exact)


@pytest.mark.parametrize("kind", ["lstm", "gru"])
def test_no_steps_give_no_gradient(kind):
    """Whoever adds up: the threads have nothing to hand over."""
    cell, settings = KINDS[kind]
    layer = cell(40, 3, seed=1, **settings)
    bptt._core.plan_hint(2)
    try:
        with bptt.num_threads(2):
            for _ in range(50):
                found = layer.backward(layer.forward(np.zeros((0, 16, 40), np.float32), recompute=5))
                assert not found.parameters.flat.any()
    finally:
        bptt._core.plan_hint()
