"""The driver over a stream against truncated backpropagation over a whole tape."""

import numpy as np
import pytest

import bptt

CELLS = {"lstm": (bptt.LSTM, {"peephole": True}), "gru": (bptt.GRU, {}), "rnn": (bptt.RNN, {})}
PAIRS = [(3, 3), (2, 5), (4, 1), (1, 1), (5, 30), (7, 8), (13, 13), (100, 2), (1, 4)]
T, B, I, H = 13, 4, 3, 6


def case(cell, layers=1, dtype=np.float32, **settings):
    kind, own = CELLS[cell]
    rng = np.random.default_rng(layers)
    layer = kind(I, H, layers, dtype=dtype, seed=0, **own, **settings)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    states = [tuple(draw(layers, B, H) for _ in range(1 + (kind is bptt.LSTM))) for _ in range(2)]
    return layer, draw(T, B, I), *(s if len(s) == 2 else s[0] for s in states), draw(T, B, H)


def pair(state):
    return state if isinstance(state, tuple) else (state,)


def online(driver, x, errors, d_state=None, resets=None, **options):
    """Run block by block; return the sums of the gradients, by name, and the output."""
    T, k1 = len(x), driver.k1
    total = {"input": np.zeros_like(x), "parameters": np.zeros_like(driver.layer.parameters.flat)}
    outputs = []
    for start in range(0, T, k1):
        end = min(start + k1, T)
        outputs.append(driver.forward(x[start:end], resets=None if resets is None else resets[start:end]))
        last = d_state if end == T else None
        found = driver.backward(errors[start:end], last, steps=True, **options)
        begin, stop = driver.window
        assert stop == end == driver.steps
        assert begin == max(0, end - driver.k2)
        total["parameters"] += found.parameters.flat
        total["input"][begin:end] += found.input
        for name, array in (("hidden", found.hidden), ("cells", found.cells)):
            if array is not None:
                total.setdefault(name, np.zeros((array.shape[0], T, B, H), x.dtype))[:, begin:end] += array
        for n, array in enumerate(pair(found.state)):
            total.setdefault(f"state {n}", np.zeros_like(array))
            if begin == 0:
                total[f"state {n}"] += array
    return total, np.concatenate(outputs)


def offline(layer, x, state, errors, d_state, truncate, resets=None, **options):
    tape = layer.forward(x, state, resets=resets)
    found = layer.backward(tape, errors, d_state, truncate=truncate, steps=True, **options)
    named = {"input": found.input, "parameters": found.parameters.flat}
    named |= {"hidden": found.hidden, "cells": found.cells}
    named |= {f"state {n}": array for n, array in enumerate(pair(found.state))}
    return {name: array for name, array in named.items() if array is not None}, tape


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("pair_", PAIRS)
def test_bits_of_the_offline_form(cell, layers, pair_):
    layer, x, state, d_state, errors = case(cell, layers)
    resets = np.zeros((T, B), bool)
    resets[[0, 4, 5, 6, 9], [1, 0, 2, 2, 3]] = True
    for spans in (None, resets):
        for options in ({}, {"step_clip": {"hidden": 0.3, "gates": 0.2}}):
            given = (x, state, errors, d_state, pair_, spans)
            expected, tape = offline(layer, *given, **options)
            driver = bptt.TruncatedBPTT(layer, *pair_, state=state)
            found, output = online(driver, x, errors, d_state, spans, **options)
            np.testing.assert_array_equal(output, tape.output)
            for mine, theirs in zip(pair(driver.state), pair(tape.state), strict=True):
                np.testing.assert_array_equal(mine, theirs)
            assert found.keys() == expected.keys()
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_reference_backend_and_one_number(backend):
    layer, x, state, d_state, errors = case("lstm", 2, np.float64)
    driver = bptt.TruncatedBPTT(layer, 4, state=state)
    assert driver.k2 == 4
    found, _ = online(driver, x, errors, d_state)
    expected, _ = offline(layer, x, state, errors, d_state, 4)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_reset_is_a_new_document(cell):
    """Rows named between blocks start anew; all of them: also the past is gone."""
    layer, x, state, _, errors = case(cell, 2)
    resets = np.zeros((T, B), bool)
    resets[4, [0, 2]] = resets[8] = True
    expected, tape = offline(layer, x, state, errors, None, (4, 7), resets)
    driver = bptt.TruncatedBPTT(layer, 4, 7, state)
    total = np.zeros_like(layer.parameters.flat)
    for start in range(0, T, 4):
        if start == 4:
            driver.reset(np.array([True, False, False, False]))
            driver.reset([False, False, True, False])
        if start == 8:
            driver.reset()
            assert driver.state is None
        output = driver.forward(x[start : start + 4])
        np.testing.assert_array_equal(output, tape.output[start : start + 4])
        total += driver.backward(errors[start : start + 4]).parameters.flat
        if start == 8:
            assert driver.window == (8, 12)
    np.testing.assert_allclose(total, expected["parameters"], rtol=2e-5, atol=1e-5)
    other = bptt.TruncatedBPTT(layer, 5)
    other.forward(x[:5])
    other.state = state
    np.testing.assert_array_equal(other.forward(x[:5]), layer(x[:5], state)[0])


def test_resets_inside_a_block_join_those_between():
    layer, x, state, _, errors = case("gru")
    inside = np.zeros((4, B), bool)
    inside[0, 3] = inside[2, 1] = True
    driver = bptt.TruncatedBPTT(layer, 4, 8, state)
    driver.forward(x[:4])
    driver.reset([True, False, False, False])
    driver.forward(x[4:8], resets=inside)
    resets = np.zeros((8, B), bool)
    resets[4:] = inside
    resets[4, 0] = True
    assert not inside[0, 0]
    tape = layer.forward(x[:8], state, resets=resets)
    zero = np.concatenate([np.zeros((4, B, H), np.float32), errors[4:8]])
    np.testing.assert_array_equal(
        driver.backward(errors[4:8]).parameters.flat, layer.backward(tape, zero).parameters.flat
    )


def test_weights_change_between_blocks():
    """Activations of earlier blocks are those of older weights, everything else of the weights of now."""
    layer, x, state, _, errors = case("lstm", 1, np.float64)
    driver = bptt.TruncatedBPTT(layer, 4, 8, state)
    driver.forward(x[:4])
    first = layer.forward(x[:4], state)
    layer.parameters.flat[...] *= 1.5
    driver.forward(x[4:8])
    found = driver.backward(errors[4:8])
    second = layer.forward(x[4:8], first.state)
    last = layer.backward(second, errors[4:8])
    before = layer.backward(first, None, last.state)  # walks with the weights of now, as documented
    total = last.parameters.flat + before.parameters.flat
    np.testing.assert_allclose(found.parameters.flat, total, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(
        found.input, np.concatenate([before.input, last.input]), rtol=1e-10, atol=1e-12
    )


@pytest.mark.parametrize("k2", [2, 4, 8])
def test_one_buffer_serves_all_blocks(k2):
    layer, x, *_, errors = case("lstm", 2)
    expected = layer.backward(layer.forward(x[:12]), errors[:12], truncate=(4, k2))
    driver, buffer = bptt.TruncatedBPTT(layer, 4, k2), np.empty_like(x[:4])
    total = np.zeros_like(expected.parameters.flat)
    for start in (0, 4, 8):
        buffer[...] = x[start : start + 4]
        driver.forward(buffer)
        buffer[...] = np.nan
        total += driver.backward(errors[start : start + 4]).parameters.flat
    np.testing.assert_array_equal(total, expected.parameters.flat)


def test_memory_is_that_of_the_window():
    layer, x, *_ = case("lstm")
    for k1, k2 in ((3, 5), (5, 2), (4, 4)):
        driver = bptt.TruncatedBPTT(layer, k1, k2)
        for start in range(0, 12, k1):
            driver.forward(x[start : start + k1])
            _, kept = driver._tape.kept(layer._owner, layer._layout)
            assert kept.gates.shape[1] == kept.hidden.shape[1] <= k2
            for array in (kept.hidden, kept.cells, kept.gates):
                owner = array if array.base is None else array.base
                assert owner.nbytes == array.nbytes or not isinstance(owner, np.ndarray)


@pytest.mark.parametrize("form", ["batch first", "unbatched"])
def test_order_of_axes(form):
    _, x, *_, errors = case("gru")
    if form == "unbatched":
        layer = bptt.GRU(I, H, seed=0)
        x, errors, cut = x[:, 0], errors[:, 0], lambda a, b, e: a[b:e]
    else:
        layer = bptt.GRU(I, H, batch_first=True, seed=0)
        x, errors, cut = x.swapaxes(0, 1), errors.swapaxes(0, 1), lambda a, b, e: a[:, b:e]
    driver = bptt.TruncatedBPTT(layer, 4, 6)
    expected = layer.backward(layer.forward(x), errors, truncate=(4, 6))
    total = np.zeros_like(expected.parameters.flat)
    for start in range(0, T, 4):
        output = driver.forward(cut(x, start, start + 4))
        total += driver.backward(cut(errors, start, start + 4)).parameters.flat
        assert output.shape == cut(errors, start, start + 4).shape
    np.testing.assert_array_equal(total, expected.parameters.flat)
    streamed = sum(g.parameters.flat for g in bptt.TruncatedBPTT(layer, 4, 6).over(x, of(errors, cut)))
    np.testing.assert_allclose(streamed, total, rtol=1e-6, atol=1e-6)


def of(errors, cut):
    return lambda output, steps: cut(errors, steps.start, steps.stop)


@pytest.mark.parametrize("sizes", [[13], [1] * 13, [5, 1, 7], [0, 6, 0, 7]])
def test_pieces_of_any_length(sizes):
    layer, x, state, _, errors = case("lstm", 2)
    expected, _ = offline(layer, x, state, errors, None, (4, 6))
    pieces = np.split(x, np.cumsum(sizes)[:-1])
    driver = bptt.TruncatedBPTT(layer, 4, 6, state)
    total = np.zeros_like(expected["parameters"])
    windows = []
    for gradients in driver.over(iter(pieces), lambda output, steps: errors[steps], steps=True):
        total += gradients.parameters.flat
        windows.append(gradients.hidden.shape[1])
    np.testing.assert_array_equal(total, expected["parameters"])
    assert windows == [4, 6, 6, 6]


def test_a_block_without_backward_injects_nothing_and_training_learns():
    layer, x, *_, errors = case("lstm")
    driver = bptt.TruncatedBPTT(layer, 4, 12)
    for start in (0, 4, 8):
        driver.forward(x[start : start + 4])
    zero = np.concatenate([np.zeros((8, B, H), np.float32), errors[8:12]])
    expected = layer.backward(layer.forward(x[:12]), zero)
    np.testing.assert_array_equal(driver.backward(errors[8:12]).parameters.flat, expected.parameters.flat)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2, (600, 8, 1)).astype(np.float32)
    target = np.concatenate([np.zeros((2, 8, 1), np.float32), bits[:-2]])  # what came in two steps ago
    learner, scale = bptt.LSTM(1, 8, seed=0), np.float32(0.1)
    optimizer, losses = bptt.optim.Adam(learner.parameters, 0.02), []

    def error(output, steps):
        wrong = output[..., :1] - target[steps]
        losses.append(float((wrong**2).mean()))
        return np.concatenate([wrong, 0 * output[..., 1:]], 2) * scale

    for gradients in bptt.TruncatedBPTT(learner, 5, 10).over(bits, error):
        optimizer.step(gradients)
    assert np.mean(losses[-10:]) < 0.3 * np.mean(losses[:10])


def test_dropout_masks_travel_with_their_steps():
    layer, x, *_, errors = case("lstm", 2, np.float64, dropout=0.5)
    driver = bptt.TruncatedBPTT(layer, 4, 8)
    driver.forward(x[:4])
    driver.forward(x[4:8], rng=7)
    second = layer.forward(x[4:8], layer(x[:4])[1], rng=7)
    last = layer.backward(second, errors[4:8])
    before = layer.backward(layer.forward(x[:4]), None, last.state)
    total = last.parameters.flat + before.parameters.flat
    np.testing.assert_allclose(driver.backward(errors[4:8]).parameters.flat, total, rtol=1e-10, atol=1e-12)


def test_tapes_that_cannot_be_cut():
    layer, x, *_ = case("lstm")
    tape = layer.forward(x)
    both = bptt.LSTM(I, H, bidirectional=True)
    with pytest.raises(ValueError, match="bidirectional layer cannot be cut in time"):
        both.forward(x).last(3)
    for options in ({"lengths": [3, 13, 2, 1]}, {"recompute": 2}):
        for cut in (
            lambda t: t.last(3),
            lambda t: tape.followed_by(t, 20),
            lambda t: t.followed_by(tape, 20),
        ):
            with pytest.raises(
                ValueError, match="made with lengths or recompute, which cannot be cut in time"
            ):
                cut(layer.forward(x, **options))
    with pytest.raises(ValueError, match="tape: made by another layer"):
        tape.followed_by(case("lstm")[0].forward(x), 20)
    assert tape.last(20) is tape


def test_errors():
    layer, x, *_, errors = case("lstm")
    with pytest.raises(ValueError, match="layer: truncation has no meaning in a bidirectional layer"):
        bptt.TruncatedBPTT(bptt.LSTM(2, 3, bidirectional=True), 4)
    with pytest.raises(TypeError, match="layer: expected an LSTM, GRU or RNN, got str"):
        bptt.TruncatedBPTT("lstm", 4)
    for wrong, name in (((0, 4), "k1"), ((4, 0), "k2")):
        with pytest.raises(ValueError, match=f"^{name}: expected at least 1, got 0"):
            bptt.TruncatedBPTT(layer, *wrong)
    driver = bptt.TruncatedBPTT(layer, 4, 8)
    with pytest.raises(RuntimeError, match="no block has been run"):
        driver.backward()
    with pytest.raises(ValueError, match="x: expected 1 to k1 = 4 steps, got 5"):
        driver.forward(x[:5])
    with pytest.raises(ValueError, match="x: expected 1 to k1 = 4 steps, got 0"):
        driver.forward(x[:0])
    with pytest.raises(ValueError, match=r"x: expected shape \(T, B, I\)"):
        driver.forward(x[0, 0])
    with pytest.raises(TypeError, match="mask: expected bool, got int64"):
        driver.reset([0, 1])
    driver.reset([True])
    with pytest.raises(ValueError, match=r"mask: expected shape \(B,\) = \(4,\), got \(1,\)"):
        driver.forward(x[:4])
    driver.state = None
    driver.forward(x[:4])
    with pytest.raises(ValueError, match="d_output: expected shape that of the output"):
        driver.backward(errors[:3])
    assert repr(driver) == f"TruncatedBPTT({layer!r}, k1=4, k2=8, steps=4)"
