"""One small sequence: the loop over time with its state in registers gives the bits of the other ways."""

import contextlib
import itertools

import numpy as np
import pytest

import bptt
from problems import VARIANTS, variant

core = pytest.importorskip("bptt._core")
SIZES = [*range(1, 68), 79, 80, 81]
OPTIONS = {
    "plain": {},
    "no bias": {"bias": False},
    "peephole": {"peephole": True},
    "clip": {"cell_clip": 0.2},
    "two layers": {"num_layers": 2},
}


@contextlib.contextmanager
def forced(split, hoist=1):
    """Work divided so; only the cost model's own choice takes the special loop."""
    core.plan_hint(split, hoist)
    try:
        yield
    finally:
        core.plan_hint(0, 0)


def problem(H, I, T, options, given=True):
    rng = np.random.default_rng(1000 * H + I)
    layer = bptt.LSTM(I, H, seed=H, **options)
    x = rng.standard_normal((T, 1, I), np.float32)
    state = tuple(rng.standard_normal((layer.num_layers, 1, H), np.float32) for _ in "hc") if given else None
    return layer, x, state


def assert_equal(found, wanted):
    for a, b in zip(found, wanted, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(np.signbit(a), np.signbit(b))


@pytest.mark.parametrize("H", SIZES)
def test_bits_of_inference_and_tape(H):
    for I, given in itertools.product((0, 1, 3, 17, 40), (True, False)):
        layer, x, state = problem(H, I, 35, {}, given)
        with forced(1):
            tape = layer.forward(x, state)
            output, last = layer(x, state)
        assert_equal([output, *last], [tape.output, *tape.state])
        output, last = layer(x, state)
        assert_equal([output, *last], [tape.output, *tape.state])
        other = layer.forward(x, state)
        assert_equal(
            [other.output, *other.state, other.gates, other.cells, other.hidden],
            [tape.output, *tape.state, tape.gates, tape.cells, tape.hidden],
        )
        engine = layer.freeze()
        output, last = engine(x, state)
        assert_equal([output, *last], [tape.output, *tape.state])


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("H", [8, 20, 40, 64])
def test_options_batches_and_streams(H, options):
    layer, x, state = problem(H, 2, 150, options)
    engine, stream = layer.freeze(), layer.freeze().stream()
    output, last = engine(x, state)
    with forced(1):
        assert_equal([engine(x, state)[0]], [output])
    rows = engine(np.repeat(x, 3, axis=1), tuple(np.repeat(s, 3, axis=1) for s in state))
    assert_equal([rows[0][:, 2], rows[1][1][:, 2]], [output[:, 0], last[1][:, 0]])
    stream.state = tuple(s[:, 0] for s in state)
    assert_equal([np.stack([stream.step(step[0]) for step in x])], [output[:, 0]])
    halves = engine(x[:71], state)
    assert_equal([*engine(x[71:], halves[1])[1]], [*last])


@pytest.mark.parametrize("H", [4, 20, 33, 56])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e-40])
def test_special_numbers(H, bad):
    layer, x, state = problem(H, 3, 9, {})
    x[4, 0, 1] = bad
    state[0][0, 0, H // 2] = bad
    with forced(1), np.errstate(all="ignore"):
        wanted = layer(x, state)
    found = layer(x, state)
    for a, b in zip([found[0], *found[1]], [wanted[0], *wanted[1]], strict=True):
        assert np.array_equal(a, b, equal_nan=True)
    assert np.isnan(found[0][5:]).all() == np.isnan(bad)


def test_no_steps():
    layer, x, state = problem(20, 3, 0, {})
    output, last = layer(x, state)
    assert output.shape == (0, 1, 20)
    assert_equal(last, state)


@pytest.mark.parametrize("H", [12, 20, 40])
def test_close_to_the_specification(H):
    layer, x, state = problem(H, 5, 60, {})
    output, last = layer(x, state)
    with bptt.backend("reference"):
        wanted, final = layer.astype(np.float64)(
            x.astype(np.float64), tuple(s.astype(np.float64) for s in state)
        )
    for a, b in zip([output, *last], [wanted, *final], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6)


@pytest.mark.parametrize("options", [{}, {"dtype": "float64"}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("cell", [bptt.LSTM, bptt.GRU, bptt.RNN], ids=lambda cell: cell.__name__)
def test_bits_while_members_wait(cell, options):
    """Units split: what a member does of the next chunk while it waits for the others changes no bit."""
    rng = np.random.default_rng(5)
    for T, I, H in [(25, 9, 100), (61, 20, 133), (100, 8, 64)]:
        layer = cell(I, H, seed=H, **options)
        x = rng.standard_normal((T, 1, I)).astype(layer.dtype)
        resets = rng.random((T, 1)) < 0.1
        for given in ({}, {"resets": resets}):
            if given and options.get("bidirectional"):
                continue
            with bptt.num_threads(1), forced(1):
                alone = layer.forward(x, **given)
            for threads in (2, 3):
                with bptt.num_threads(threads), forced(3, 2):
                    tape = layer.forward(x, **given)
                    output, _ = layer(x, **given)
                assert np.array_equal(tape.output, alone.output)
                assert np.array_equal(tape.hidden, alone.hidden)
                assert np.array_equal(output, alone.output)


def results(layer, tape, errors, **how):
    """Gradients of the input, the initial state and the parameters."""
    found = layer.backward(tape, *errors, **how)
    states = found.state if isinstance(found.state, tuple) else (found.state,)
    return [found.input, *states, found.parameters.flat]


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", [bptt.LSTM, bptt.GRU, bptt.RNN], ids=lambda cell: cell.__name__)
def test_bits_of_one_row_backward(cell, dtype, name):
    """Asked for the gradients of all steps as well, backward goes the way that any batch goes."""
    rng = np.random.default_rng(11)

    def normal(*shape):
        return rng.standard_normal(shape).astype(dtype)

    ways = ({}, {"truncate": (20, 33)}, {"truncate": 9})
    with variant(name):
        for H in (1, 2, 7, 8, 9, 15, 16, 17, 20, 24, 25, 31, 32, 33, 40, 47, 48, 49):
            layer, T = cell(3, H, seed=H, dtype=dtype), 1100 if H in (7, 20) else 45
            for B, given, way in itertools.product((1, 2), (True, False), ways):
                states = normal(2, 1, B, H)
                state = None if not given else tuple(states) if cell is bptt.LSTM else states[0]
                with bptt.num_threads(B):
                    tape = layer.forward(normal(T, B, 3), state)
                    errors = normal(T, B, H), state
                    wanted = results(layer, tape, errors, steps=True, **way)
                    assert_equal(results(layer, tape, errors, **way), wanted)
