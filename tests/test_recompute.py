"""Recomputing in place of keeping gates and cells: the same gradients to the bit, in less memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt

CELLS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True, "cell_clip": 0.8}),
    "all options": (
        bptt.LSTM,
        {"peephole": True, "proj_size": 7, "proj_clip": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.1},
    ),
    "gru": (bptt.GRU, {}),
    "reset before": (bptt.GRU, {"reset_after": False}),
    "rnn": (bptt.RNN, {}),
}
T, B, I, H = 90, 13, 5, 19  # chunks of the backward pass have 38 steps, in float64 19
EVERY_VARIANT = pytest.mark.parametrize("name", bptt.variants())


def case(cell, layers=1, bidirectional=False, dtype=np.float32, shape=(T, B, I, H), **settings):
    kind, own = CELLS[cell]
    rng = np.random.default_rng(len(cell))
    T, B, I, H = shape
    layer = kind(I, H, layers, bidirectional=bidirectional, dtype=dtype, seed=1, **own, **settings)
    draw = lambda *size: rng.standard_normal(size).astype(dtype)  # noqa: E731
    parts, count = layers * (1 + bidirectional), 1 + (kind is bptt.LSTM)
    P = own.get("proj_size", H)
    states = [tuple(draw(parts, B, width) for width in (P, H)[:count]) for _ in range(2)]
    return layer, draw(T, B, I), one(states[0]), draw(T, B, P * (1 + bidirectional)), one(states[1])


def one(states):
    return states if len(states) == 2 else states[0]


def pair(state):
    return state if isinstance(state, tuple) else (state,)


def results(layer, x, state, errors, d_state, spans=None, recompute=None, **options):
    tape = layer.forward(x, state, recompute=recompute, rng=11, **(spans or {}))
    found = layer.backward(tape, errors, d_state, steps=True, **options)
    named = {"output": tape.output, "hidden": tape.hidden, "input": found.input, **found.parameters}
    named |= {f"state {n}": array for n, array in enumerate((*pair(tape.state), *pair(found.state)))}
    named |= {"d hidden": found.hidden, "d cells": found.cells, **(found.clipped or {})}
    return {name: array for name, array in named.items() if array is not None}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert np.isfinite(array).all(), name
        assert found[name].tobytes() == array.tobytes(), name


def some_spans(T, B):
    rng = np.random.default_rng(5)
    return {"lengths": rng.integers(0, T + 1, B), "resets": rng.random((T, B)) < 0.05}


@EVERY_VARIANT
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_same_bits(cell, dtype, name):
    given, before = case(cell, dtype=dtype), bptt.active_variant()
    try:
        bptt.use_variant(name)
        expected = results(*given)
        for every in (1, 20, 38, 89, 90, 1000):
            assert_same(results(*given, recompute=every), expected)
    finally:
        bptt.use_variant(before)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("layers", "bidirectional"), [(1, False), (2, False), (2, True)])
@pytest.mark.parametrize("options", [{}, {"step_clip": {"hidden": 0.2, "gates": 0.05}}])
def test_stacks_directions_lengths_and_resets(cell, layers, bidirectional, options):
    given, spans = case(cell, layers, bidirectional), some_spans(T, B)
    for some in ({}, {"lengths": spans["lengths"]}, {"resets": spans["resets"]}, spans):
        expected = results(*given, some, **options)
        assert_same(results(*given, some, recompute=25, **options), expected)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("truncate", [(7, 7), (10, 45), (30, 12), (60, 85), 90])
def test_truncated(cell, truncate):
    given, spans = case(cell, layers=2), some_spans(T, B)
    for some in ({}, spans):
        expected = results(*given, some, truncate=truncate, step_clip=0.05)
        for every in (5, 30):
            assert_same(results(*given, some, recompute=every, truncate=truncate, step_clip=0.05), expected)


def test_layers_whose_chunks_differ():
    # Chunks of 15 steps in the first layer, which sums in two groups, of 30 in the second.
    given = case("lstm", layers=2, shape=(70, 17, 5, 150))
    assert_same(results(*given, recompute=15), results(*given))


@pytest.mark.parametrize("shape", [(0, 3, 2, 4), (5, 0, 2, 4), (1, 1, 0, 1), (7, 300, 2, 3), (4, 600, 2, 3)])
@pytest.mark.parametrize(
    "cell", sorted(CELLS.keys() - {"all options"})
)  # whose projection is wider than these
def test_sizes(cell, shape):
    given = case(cell, shape=shape)
    assert_same(results(*given, recompute=2), results(*given))


def test_dropout_drops_the_same_and_a_tape_serves_twice():
    layer, x, state, errors, d_state = case("lstm", layers=3, dropout=0.4)
    expected = layer.backward(layer.forward(x, state, rng=3), errors, d_state)
    tape = layer.forward(x, state, rng=3, recompute=40)
    for _ in range(2):
        found = layer.backward(tape, errors, d_state)
        np.testing.assert_array_equal(found.parameters.flat, expected.parameters.flat)
    assert not np.array_equal(layer.backward(layer.forward(x, state), errors, d_state).input, found.input)


@pytest.mark.parametrize("threads", [1, 2])
def test_no_errors_given_and_threads(threads):
    layer, x, state, *_ = case("peephole", layers=2)
    with bptt.num_threads(threads):
        expected = results(layer, x, None, None, tuple(0.5 + 0 * s for s in state))
        assert_same(results(layer, x, None, None, tuple(0.5 + 0 * s for s in state), recompute=38), expected)


@pytest.mark.parametrize("cell", CELLS)
def test_reference(cell):
    given = case(cell, layers=2, dtype=np.float64)
    expected = results(*given, some_spans(T, B))
    with bptt.backend("reference"):
        found = results(*given, some_spans(T, B), recompute=19)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-11, err_msg=name)


def test_what_was_not_kept_cannot_be_read():
    layer, x, *_ = case("lstm")
    tape = layer.forward(x, recompute=30)
    for name in ("cells", "gates"):
        with pytest.raises(ValueError, match=rf"^tape.{name}: not kept by forward with recompute"):
            getattr(tape, name)
    assert tape.hidden.shape == (1, T, B, H)
    gru, rnn = (case(cell)[0].forward(x, recompute=30) for cell in ("gru", "rnn"))
    with pytest.raises(ValueError, match=r"^tape.gates: not kept"):
        _ = gru.gates
    assert gru.cells is rnn.cells is rnn.gates is None


MEMORY = """
import sys
import numpy as np, bptt
def peak():  # of this process; ru_maxrss would be that of the parent if that is larger
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
T, B, I, H = 8000, 4, 64, 128
layer, x = bptt.LSTM(I, H, seed=0), np.ones((T, B, I), np.float32)
layer.backward(layer.forward(x[:8]))
before = peak()
recompute = int(sys.argv[1]) or None
layer.backward(layer.forward(x, recompute=recompute), d_state=(np.ones((1, B, H), np.float32), None))
print(peak() - before)
"""


def test_memory():
    """Of the whole process, above what it took before: output and input's gradient remain."""
    if not bptt.variants() or not Path("/proc/self/status").exists():
        pytest.skip("the compiled core is not built, or the peak cannot be read")

    def grown(recompute):
        command = [sys.executable, "-c", MEMORY, str(recompute)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)

    assert grown(128) < 0.4 * grown(0)
