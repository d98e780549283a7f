"""Frozen engines and streams."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bptt

T, B, I, H = 6, 3, 4, 5


def draw(*shape, dtype=np.float32, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def states(rows=B, dtype=np.float32):
    return draw(1, rows, H, dtype=dtype, seed=1), draw(1, rows, H, dtype=dtype, seed=2)


def same(got, want, backend):
    """The kernels promise the same bits; NumPy's matrix products the same values."""
    if backend == "native":
        np.testing.assert_array_equal(got, want)
    else:
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("peephole", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_engine_equals_layer(backend, batched, batch_first, peephole):
    layer = bptt.LSTM(I, H, batch_first=batch_first, peephole=peephole, seed=0)
    x = draw(T, I) if not batched else draw(B, T, I) if batch_first else draw(T, B, I)
    state = states() if batched else tuple(s[:, 0] for s in states())
    engine = layer.freeze()
    for given in (None, state):
        output, (h_n, c_n) = engine(x, given)
        expected, (expected_h, expected_c) = layer(x, given)
        same(output, expected, backend)
        same(h_n, expected_h, backend)
        same(c_n, expected_c, backend)
        assert output.any()


@pytest.mark.parametrize("made", [np.float32, np.float64])
@pytest.mark.parametrize("precision", ["float32", "float64", None])
def test_precision(backend, made, precision):
    layer = bptt.LSTM(I, H, dtype=made, seed=0)
    engine = layer.freeze(precision)
    dtype = np.dtype(precision or made)
    assert (engine.dtype, engine.precision) == (dtype, dtype.name)
    x = draw(T, B, I, dtype=dtype)
    output, _ = engine(x, states(dtype=dtype))
    assert output.dtype == dtype
    same(output, layer.astype(dtype)(x, states(dtype=dtype))[0], backend)
    if dtype == np.float32:
        with pytest.raises(TypeError, match=r"^x: expected float32, got float64"):
            engine(x.astype(np.float64))
    else:
        np.testing.assert_array_equal(
            engine(x.astype(np.float32))[0], engine(x.astype(np.float32).astype(float))[0]
        )


def test_an_engine_is_immutable():
    layer = bptt.LSTM(I, H, seed=0)
    engine = layer.freeze()
    x = draw(T, B, I)
    expected = engine(x)[0]
    layer.parameters.flat[...] = 7
    np.testing.assert_array_equal(engine(x)[0], expected)
    for name in ("input_size", "dtype", "parameters", "anything"):
        with pytest.raises(AttributeError):
            setattr(engine, name, 1)
    for array in (engine.parameters.flat, *engine.parameters.values()):
        with pytest.raises(ValueError, match=r"read-only"):
            array[...] = 0
        with pytest.raises(ValueError, match=r"WRITEABLE"):
            array.flags.writeable = True
    assert (engine.input_size, engine.hidden_size, engine.batch_first) == (I, H, False)


def test_engines_can_be_pickled_and_copied(backend):
    engine = bptt.LSTM(I, H, batch_first=True, seed=0).freeze()
    x = draw(B, T, I)
    for twin in (pickle.loads(pickle.dumps(engine)), copy.deepcopy(engine)):
        np.testing.assert_array_equal(twin(x)[0], engine(x)[0])
        assert repr(twin) == repr(engine)
        assert not twin.parameters.flat.flags.writeable


def test_an_engine_serves_each_backend():
    engine = bptt.LSTM(I, H, seed=0).freeze()
    x = draw(T, B, I)
    with bptt.backend("reference"):
        expected = engine(x, states())[0]
        assert engine.variant == "reference"
    np.testing.assert_allclose(engine(x, states())[0], expected, rtol=1e-5, atol=1e-6)
    assert engine.variant == bptt.active_variant()


def test_concurrent_calls_on_one_engine_give_the_serial_bits(backend):
    engine = bptt.LSTM(I, H, seed=0).freeze()
    inputs = [draw(T, B, I, seed=seed) for seed in range(16)]

    def run(x):
        with bptt.backend(backend):
            return engine(x, states())[0].tobytes()

    expected = [run(x) for x in inputs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(run, inputs * 8)) == expected * 8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch_size", [None, 1, B])
def test_a_stream_equals_one_call(backend, batch_size, dtype):
    layer = bptt.LSTM(I, H, peephole=True, dtype=dtype, seed=0)
    x = draw(T, I, dtype=dtype) if batch_size is None else draw(T, batch_size, I, dtype=dtype)
    state = states(batch_size or 1, dtype)
    state = tuple(s[:, 0] for s in state) if batch_size is None else state
    output, (h_n, c_n) = layer(x, state)
    stream = layer.freeze().stream(batch_size)
    for chunks in ([1] * T, [T], [2, 1, 3], [0, T]):
        stream.state = state
        t, parts = 0, []
        for chunk in chunks:
            run = chunk != 1
            parts.append(stream.run(x[t : t + chunk]) if run else stream.step(x[t])[None])
            t += chunk
        same(np.concatenate(parts), output, backend)
        for got, want in zip(stream.state, (h_n, c_n), strict=True):
            assert got.shape == want.shape
            same(got, want, backend)
    stream.reset()
    same(stream.step(x[0]), layer(x[:1])[0][0], backend)


def test_step_writes_into_out(backend):
    stream = bptt.LSTM(I, H, seed=0).freeze().stream(B)
    x, out = draw(B, I), np.full((B, H), np.nan, np.float32)
    assert stream.step(x, out) is out
    stream.reset()
    assert stream.step(x, out=out) is out
    stream.reset()
    np.testing.assert_array_equal(stream.step(x), out)
    state = stream.state
    np.testing.assert_array_equal(state[0][0], out)


def test_out_that_does_not_fit_or_overlaps_raises_and_changes_nothing(backend):
    layer = bptt.LSTM(H, H, seed=0)
    stream = layer.freeze().stream(B)
    x = draw(B, H)
    stream.step(x)
    before = stream.state
    memory = np.zeros((2 * B, H), np.float32)
    frozen = np.zeros((B, H), np.float32)
    frozen.flags.writeable = False
    wrong = [
        np.zeros((B, H + 1), np.float32),
        np.zeros((B + 1, H), np.float32),
        np.zeros(H, np.float32),
        np.zeros((1, B, H), np.float32),
        np.zeros((B, H), np.float64),
        np.zeros((H, B), np.float32).T,
        np.zeros((B, 2 * H), np.float32)[:, ::2],
        frozen,
        [[0.0] * H] * B,
        x,
    ]
    for out in wrong:
        with pytest.raises((TypeError, ValueError), match=r"out"):
            stream.step(x, out)
    memory[:B] = x
    with pytest.raises(ValueError, match=r"out"):
        stream.step(memory[:B], memory[1 : B + 1])
    for got, want in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_steps_take_any_strides_and_refuse_what_does_not_fit(backend):
    layer = bptt.LSTM(I, H, seed=0)
    stream = layer.freeze().stream(B)
    x = draw(B, I)
    expected = stream.step(x)
    frozen = x.copy()
    frozen.flags.writeable = False
    for odd in (
        np.asfortranarray(x),
        np.repeat(x, 2, 1)[:, ::2],
        x[::-1].copy()[::-1],
        x.astype(">f4"),
        frozen,
    ):
        stream.reset()
        np.testing.assert_array_equal(stream.step(odd), expected)
    before = stream.state
    for wrong in (draw(B, I + 1), draw(B + 1, I), draw(I), draw(1, B, I), draw(0), np.float32(1)):
        with pytest.raises(ValueError, match=r"x"):
            stream.step(wrong)
    for wrong in (x.astype(np.float64), x.astype(int), x.astype(np.float16), x.astype(complex), None, "x"):
        with pytest.raises((TypeError, ValueError)):
            stream.step(wrong)
    single = layer.freeze().stream()
    for wrong in (draw(1, I), draw(I + 1), draw(B, I)):
        with pytest.raises(ValueError, match=r"x"):
            single.step(wrong)
    for got, want in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(got, want)


def test_run_refuses_what_does_not_fit():
    engine = bptt.LSTM(I, H, batch_first=True, seed=0).freeze()
    for stream, wrong in [
        (engine.stream(B), [draw(T, I), draw(T, B + 1, I), draw(B, T, I), draw(T, B, I + 1), draw(I)]),
        (engine.stream(), [draw(T, 1, I), draw(T, I + 1), draw(I)]),
    ]:
        for x in wrong:
            with pytest.raises(ValueError, match=r"^x: expected shape"):
                stream.run(x)
        assert not any(s.any() for s in stream.state)
    assert engine.stream(B).run(draw(T, B, I)).shape == (T, B, H)


def test_state_and_reset(backend):
    stream = bptt.LSTM(I, H, seed=0).freeze().stream(B)
    state = states()
    stream.state = state
    stream.reset([True, False, True])
    for got, given in zip(stream.state, state, strict=True):
        assert not got[0, [0, 2]].any()
        np.testing.assert_array_equal(got[0, 1], given[0, 1])
        got[...] = 7
    assert not (stream.state[0] == 7).any()
    after = stream.step(draw(B, I))
    twin = stream.engine.stream(B)
    twin.state = (
        (state[0] * [[[0], [1], [0]]]).astype(np.float32),
        (state[1] * [[[0], [1], [0]]]).astype(np.float32),
    )
    same(after, twin.step(draw(B, I)), backend)
    h, c = stream.state
    stream.state = c, h
    np.testing.assert_array_equal(stream.state[0], c)
    for wrong in ([1, 0, 1], [True], np.ones((B, 1), bool), True, "no"):
        with pytest.raises((TypeError, ValueError), match=r"^mask: "):
            stream.reset(wrong)
    for wrong in (None, (h, None), (h[0], c), (h, c[:, :1]), (h, c.astype(float))):
        with pytest.raises((TypeError, ValueError), match=r"^state: |^h: |^c: "):
            stream.state = wrong


def test_batch_sizes(backend):
    engine = bptt.LSTM(I, H, seed=0).freeze()
    for wrong, error in [(-1, ValueError), (1.0, TypeError), (True, TypeError), ("3", TypeError)]:
        with pytest.raises(error, match=r"^batch_size: "):
            engine.stream(wrong)
    empty = engine.stream(0)
    assert empty.step(draw(0, I)).shape == (0, H)
    assert empty.run(draw(T, 0, I)).shape == (T, 0, H)
    assert empty.state[0].shape == (1, 0, H)


def test_streams_can_be_pickled_and_do_not_share_state(backend):
    stream = bptt.LSTM(I, H, seed=0).freeze().stream(B)
    stream.run(draw(T, B, I))
    for twin in (pickle.loads(pickle.dumps(stream)), copy.deepcopy(stream)):
        first, x = stream.state, draw(B, I, seed=9)
        np.testing.assert_array_equal(twin.state[1], first[1])
        expected = twin.step(x)
        np.testing.assert_array_equal(stream.state[0], first[0])
        np.testing.assert_array_equal(stream.step(x), expected)
        stream.state = first
