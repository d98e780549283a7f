"""Truncated backpropagation: against autograd over blocks that start from detached states, and its limits."""

import itertools

import numpy as np
import pytest

import bptt
from bptt import _core
from problems import VARIANTS, variant

KINDS = [(bptt.LSTM, {"peephole": False}), (bptt.GRU, {}), (bptt.RNN, {})]
PAIRS = [(3, 3), (2, 5), (4, 1), (1, 1), (5, 30), (7, 8), (13, 13), (100, 2), (9, 7)]
T, B, I, H = 13, 4, 3, 6


def case(kind, settings, layers, seed=0):
    rng = np.random.default_rng(seed)
    layer = kind(I, H, layers, dtype=np.float64, seed=seed, **settings)
    x = rng.standard_normal((T, B, I))
    pair = kind is bptt.LSTM
    draw = lambda: tuple(rng.standard_normal((layers, B, H)) for _ in ("hc" if pair else "h"))  # noqa: E731
    state, d_state = draw(), draw()
    return layer, x, state, rng.standard_normal((T, B, H)), d_state


def one(states):
    return states if len(states) == 2 else states[0]


def pair(state):
    return state if isinstance(state, tuple) else (state,)


@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize(("kind", "settings"), KINDS)
@pytest.mark.parametrize(("k1", "k2"), PAIRS)
def test_against_autograd(kind, settings, layers, k1, k2):
    torch = pytest.importorskip("torch")
    layer, x, state, errors, d_state = case(kind, settings, layers)
    found = layer.backward(layer.forward(x, one(state)), errors, one(d_state), truncate=(k1, k2), steps=True)
    twin = getattr(torch.nn, kind.__name__)(I, H, layers, dtype=torch.float64)
    twin.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    given, first = torch.from_numpy(x).requires_grad_(), [torch.from_numpy(s).requires_grad_() for s in state]
    d_output, d_last = torch.from_numpy(errors), [torch.from_numpy(d) for d in d_state]
    for start in range(0, T, k1):
        end = min(start + k1, T)
        begin = max(0, end - k2)
        entry = one(tuple(first))
        if begin:
            with torch.no_grad():
                entry = twin(given[:begin], one(tuple(first)))[1]
        output, last = twin(given[begin:end], entry)
        inside = max(start, begin)
        loss = (output[inside - begin :] * d_output[inside:end]).sum()
        if end == T:
            loss = loss + sum((s * d).sum() for s, d in zip(pair(last), d_last, strict=True))
        loss.backward()
    for name, p in twin.named_parameters():
        np.testing.assert_allclose(found.parameters[name], p.grad, rtol=1e-10, atol=1e-12, err_msg=name)
    np.testing.assert_allclose(found.input, given.grad, rtol=1e-10, atol=1e-12)
    for gradient, initial in zip(pair(found.state), first, strict=True):
        wanted = np.zeros(gradient.shape) if initial.grad is None else initial.grad
        np.testing.assert_allclose(gradient, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_no_truncation_is_the_full_gradient(kind, settings):
    layer, x, state, errors, d_state = case(kind, settings, 2)
    tape = layer.forward(x, one(state))
    full = layer.backward(tape, errors, one(d_state))
    for truncate in (T, (T, T), (T + 5, T)):
        same = layer.backward(tape, errors, one(d_state), truncate=truncate)
        np.testing.assert_array_equal(same.parameters.flat, full.parameters.flat)
        np.testing.assert_array_equal(same.input, full.input)
    deep = layer.backward(tape, errors, one(d_state), truncate=(3, T))
    np.testing.assert_allclose(deep.parameters.flat, full.parameters.flat, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(deep.input, full.input, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_lengths_are_rows_on_their_own(backend):
    layer, x, state, errors, d_state = case(bptt.LSTM, {}, 2)
    lengths = np.array([5, 0, 13, 9])
    with bptt.backend(backend):
        found = layer.backward(
            layer.forward(x, state, lengths=lengths), errors, d_state, truncate=(4, 6), steps=True
        )
        total = np.zeros_like(found.parameters.flat)
        for b, n in enumerate(lengths):
            row = slice(b, b + 1)
            tape = layer.forward(x[:, row], tuple(s[:, row] for s in state), lengths=[n])
            alone = layer.backward(tape, errors[:, row], tuple(d[:, row] for d in d_state), truncate=(4, 6))
            np.testing.assert_allclose(found.input[:, row], alone.input, atol=1e-12)
            assert not found.input[n:, row].any()
            for one_state, whole in zip(alone.state, found.state, strict=True):
                np.testing.assert_allclose(whole[:, row], one_state, atol=1e-12)
            total += alone.parameters.flat
    np.testing.assert_allclose(found.parameters.flat, total, atol=1e-11)


def test_resets_and_errors_of_steps():
    layer, x, state, errors, _ = case(bptt.GRU, {}, 2)
    resets = np.zeros((T, B), bool)
    resets[6, 1] = True
    with bptt.backend("reference"):
        tape = layer.forward(x, state[0], resets=resets)
        expected = layer.backward(tape, errors, truncate=(3, 5), steps=True)
    tape = layer.forward(x, state[0], resets=resets)
    found = layer.backward(tape, errors, truncate=(3, 5), steps=True)
    np.testing.assert_allclose(found.parameters.flat, expected.parameters.flat, atol=1e-12)
    np.testing.assert_allclose(found.hidden, expected.hidden, atol=1e-12)


WIDE = {
    "lstm": (bptt.LSTM, {}),
    "no bias": (bptt.LSTM, {"bias": False}),
    "peephole, zoneout": (bptt.LSTM, {"peephole": True, "zoneout": 0.2}),
    "projection, drawn": (bptt.LSTM, {"proj_size": 5, "recurrent_dropout": 0.3, "zoneout": 0.1}),
    "gru": (bptt.GRU, {}),
    "original gru": (bptt.GRU, {"reset_after": False}),
    "rnn": (bptt.RNN, {}),
}


def arrays_of(gradients):
    """Return all that a backward pass returns, by name."""
    found = {"parameters": gradients.parameters.flat, "input": gradients.input, "hidden": gradients.hidden}
    found |= {"cells": gradients.cells, **{f"state {n}": s for n, s in enumerate(pair(gradients.state))}}
    found |= {f"clipped {name}": count for name, count in (gradients.clipped or {}).items()}
    return {name: array for name, array in found.items() if array is not None}


# Summed over two groups of rows, and over all, where a chunk of the backward pass has 34 steps (float64: 17).
BLOCKS = [
    (29, 37, [(9, 9), (9, 4), (3, 3), (29, 11), (8, 7)]),
    (80, 15, [(40, 40), (60, 36), (50, 20)]),
]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize(("steps", "rows", "blocks"), BLOCKS)
@pytest.mark.parametrize("cell", WIDE)
def test_one_call_has_the_bits_of_a_call_for_each_block(
    cell, steps, rows, blocks, spans, dtype, name, monkeypatch
):
    """Blocks of more tokens than one sum takes; shorter than their depth, or the last one cut off."""
    units = 21
    kind, settings = WIDE[cell]
    rng = np.random.default_rng(3)
    layer = kind(I, units, 2, dtype=dtype, seed=1, **settings)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    widths = (settings.get("proj_size") or units, units)[: 2 if kind is bptt.LSTM else 1]
    states = [tuple(draw(2, rows, width) for width in widths) for _ in "01"]
    given = {}
    if spans:
        given = {"lengths": rng.integers(0, steps + 1, rows), "resets": rng.random((steps, rows)) < 0.1}
    if "drawn" in cell:
        given["rng"] = 7
    x = draw(steps, rows, I)
    try:
        with variant(name):
            tape = layer.forward(x, one(states[0]), **given)
            errors, d_state = draw(*tape.output.shape), one(states[1])
            for truncate, clip in itertools.product(blocks, [None, 0.3]):
                ways = {"truncate": truncate, "step_clip": clip, "steps": True}
                with monkeypatch.context() as patch:
                    patch.setattr(_core, "TRUNCATES", False)
                    expected = arrays_of(layer.backward(tape, errors, d_state, **ways))
                for threads, split in [(1, 0), (2, 0), (2, 2), (2, 3)]:
                    _core.plan_hint(split)
                    with bptt.num_threads(threads):
                        found = arrays_of(layer.backward(tape, errors, d_state, **ways))
                        plain = layer.backward(tape, errors, d_state, truncate=truncate, step_clip=clip)
                    for key, array in expected.items():
                        message = f"{key}, {truncate}, clip {clip}, {threads} threads, split {split}"
                        np.testing.assert_array_equal(found[key], array, err_msg=message)
                    np.testing.assert_array_equal(plain.parameters.flat, expected["parameters"])
                    np.testing.assert_array_equal(plain.input, expected["input"])
    finally:
        _core.plan_hint()


@pytest.mark.parametrize(
    ("truncate", "error", "message"),
    [
        (0, ValueError, "truncate: expected at least 1, got 0"),
        ((3, 0), ValueError, "truncate: expected at least 1, got 0"),
        ((1, 2, 3), ValueError, r"truncate: expected k or \(k1, k2\), got \(1, 2, 3\)"),
        (2.5, TypeError, "truncate: expected an integer, got float 2.5"),
    ],
)
def test_errors(truncate, error, message):
    layer, x, *_ = case(bptt.LSTM, {}, 1)
    with pytest.raises(error, match=message):
        layer.backward(layer.forward(x), truncate=truncate)


def test_bidirectional_layers_refuse():
    layer = bptt.LSTM(2, 3, bidirectional=True)
    tape = layer.forward(np.zeros((4, 1, 2), np.float32))
    with pytest.raises(ValueError, match="truncate: has no meaning in a bidirectional layer, got 2"):
        layer.backward(tape, truncate=2)


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("blocks", [3, (3, 5), (5, 5), (5, 2)])
@pytest.mark.parametrize("recompute", [None, 4])
def test_no_rows(blocks, recompute, backend):
    """Without rows every gradient of a parameter is zero, whatever the memory held."""
    with bptt.backend(backend):
        layer = bptt.LSTM(3, 8, 2, seed=0)
        tape = layer.forward(np.zeros((10, 0, 3), np.float32), recompute=recompute)
        for _ in range(5):
            dirty = np.full(layer.parameters.flat.size, 7, np.float32)
            del dirty
            found = layer.backward(tape, truncate=blocks, steps=True)
            assert not found.parameters.flat.any()
            assert found.input.shape == (10, 0, 3)
            assert found.hidden.shape == (2, 10, 0, 8)
