"""Numbers at the edge: NaN, infinity, denormals, saturated gates; the floating-point mode of the caller."""

import ctypes
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import bptt
from problems import (
    VARIANTS,
    assert_same_bits,
    backward,
    expected,
    forward,
    make,
    pack,
    variant,
)

EVERY = pytest.mark.parametrize("name", VARIANTS)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
SIZES = (7, 5, 6, 21)
ROW, STEP = 3, 4
PLACES = ("x", "h_0", "c_0", "weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole")


def spoilt(place, value, dtype, **arguments):
    """A problem with one number replaced, in row ROW or unit 8 of some gate."""
    problem = make(SIZES, dtype, "bias peephole", **arguments)
    if place in problem.weights:
        array = problem.weights[place]
        unit = 3 * SIZES[3] + 8
        array[unit if array.ndim == 1 else (2, 8) if place == "weight_peephole" else (unit, -1)] = value
    else:
        array = getattr(problem, place)
        array[(ROW, 8) if array.ndim == 2 else (STEP, ROW, 2)] = value
    return problem


def assert_like_specification(got, want, dtype):
    """NaN and infinities where the specification has them, and close values elsewhere."""
    tolerance = 1e-4 if dtype == np.float32 else 1e-11
    for key, array in got.items():
        np.testing.assert_allclose(array, want[key], tolerance, tolerance, equal_nan=True, err_msg=key)


@EVERY
@BOTH
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", PLACES)
def test_nan_and_infinity_reach_the_output(place, value, dtype, name):
    problem, clean = spoilt(place, value, dtype), make(SIZES, dtype, "bias peephole")
    want, _ = expected(problem)
    with variant(name):
        before = forward(clean)
        for threads in (1, 2):
            for packed in (None, pack(problem)):
                got = forward(problem, threads, packed)
                assert_like_specification(got, want, dtype)
                assert_same_bits_but_nan(forward(problem, threads, packed, training=False), got)
    changed = got["output"] != before["output"]  # a NaN differs from everything
    if place == "x":
        assert changed[STEP:, ROW].any(axis=-1).all()
        assert not changed[:STEP].any()
    elif place in ("h_0", "c_0"):
        assert changed[0, ROW].any()
    else:
        assert changed.any(axis=(0, 2)).all()
    if place not in problem.weights:
        assert not np.delete(changed, ROW, axis=1).any()
    if np.isnan(value):
        assert np.isnan(got["output"][-1, ROW]).all()


def assert_same_bits_but_nan(got, want):
    for key, array in got.items():
        np.testing.assert_array_equal(array, want[key], err_msg=key)


@EVERY
@BOTH
@pytest.mark.parametrize("place", ["d_output", "d_h_n", "d_c_n"])
def test_nan_reaches_the_gradients(place, dtype, name):
    problem, clean = spoilt(place, np.nan, dtype), make(SIZES, dtype, "bias peephole")
    _, want = expected(problem)
    with variant(name):
        tape = forward(problem)
        before = backward(clean, tape)
        for threads in (1, 2):
            got = backward(problem, tape, threads)
            assert_like_specification(got, want, dtype)
    last = STEP if place == "d_output" else SIZES[0] - 1
    assert np.isnan(got["d_x"][: last + 1, ROW]).all()
    assert np.isnan(got["d_h_0"][ROW]).all()
    assert np.isnan(got["d_weight_hh"]).all()
    for key in ("d_x", "d_hidden", "d_cells"):
        others = np.delete(got[key], ROW, axis=1), np.delete(before[key], ROW, axis=1)
        assert_same_bits({key: others[0]}, {key: others[1]}, "other rows")
        assert_same_bits({key: got[key][last + 1 :]}, {key: before[key][last + 1 :]}, "later steps")


@EVERY
@BOTH
@pytest.mark.parametrize("place", PLACES)
def test_nan_in_the_forward_pass_reaches_the_gradients(place, dtype, name):
    problem = spoilt(place, np.nan, dtype)
    _, want = expected(problem)
    with variant(name):
        assert_like_specification(backward(problem, forward(problem)), want, dtype)


def gate_problem(z, gate, dtype):
    """One unit for each value of z, which is what that gate gets from its bias; the others get about 0.4."""
    H = len(z)
    problem = make((1, 2, 0, H), dtype, "bias")
    problem.weights["weight_hh"][:] = 0
    bias = np.full((4, H), 0.4, dtype)
    bias[gate] = z
    problem.weights["bias_ih"][:], problem.weights["bias_hh"][:] = bias.ravel(), 0
    problem.d_h_n[:], problem.d_c_n[:], problem.d_output[:], problem.c_0[:] = 0.5, 0.25, 0.125, 0.75
    return problem


def tail(dtype):
    return np.linspace(-80, -1, 237).astype(dtype) if dtype == np.float32 else np.linspace(-690, -1, 237)


@EVERY
@BOTH
@pytest.mark.parametrize("gate", [0, 1, 3], ids="ifo")
def test_closed_gates_keep_relative_accuracy(gate, dtype, name):
    """Of the gate itself and of every gradient through it, however small they are."""
    problem = gate_problem(tail(dtype), gate, dtype)
    tape, gradients = expected(problem)
    bound = 16 * float(np.finfo(dtype).eps)
    with variant(name):
        got = forward(problem)
        results = backward(problem, got)
    np.testing.assert_allclose(got["gates"], tape["gates"], bound, 0)
    for key in ("d_bias_ih", "d_bias_hh", "d_c_0", "d_hidden", "d_cells"):
        np.testing.assert_allclose(results[key], gradients[key], 4 * bound, 0, err_msg=key)
        assert (np.sign(results[key]) == np.sign(gradients[key])).all()


@EVERY
@BOTH
@pytest.mark.parametrize("gate", [0, 1, 2, 3], ids="ifgo")
def test_open_gates_keep_the_sign(gate, dtype, name):
    """Close to 1 a gate is known to half a unit in its last place, and so is the slope there."""
    problem = gate_problem(-tail(dtype), gate, dtype)
    _, gradients = expected(problem)
    with variant(name):
        results = backward(problem, forward(problem))
    got, want = results["d_bias_ih"].reshape(4, -1)[gate], gradients["d_bias_ih"].reshape(4, -1)[gate]
    np.testing.assert_allclose(got, want, 1e-3, 4 * np.finfo(dtype).eps)
    assert ((got == 0) | (np.sign(got) == np.sign(want))).all()


@EVERY
@BOTH
def test_huge_preactivations(dtype, name):
    """Far beyond the range of exp, all is finite and as the specification says."""
    edges = np.array([80, 87, 88, 88.5, 89, 100, 127, 128, 700, 709, 710, 745, 1e4, 1e10, 1e30], dtype)
    z = np.concatenate([-edges, edges])
    for gate in range(4):
        problem = gate_problem(z, gate, dtype)
        tape, gradients = expected(problem)
        with variant(name):
            got = forward(problem)
            results = backward(problem, got)
        for have, want in ((got, tape), (results, gradients)):
            for key, array in have.items():
                assert np.isfinite(array).all(), key
                np.testing.assert_allclose(array, want[key], 1e-5, 1e-6, err_msg=key)


def scaled(problem, what, scale):
    """The problem with some of its arrays multiplied by `scale`."""
    for key in what:
        if key == "weights":
            problem.weights = {name: array * scale for name, array in problem.weights.items()}
        else:
            setattr(problem, key, getattr(problem, key) * scale)
    return problem


def denormal(dtype):
    """Times a normal number of everyday size, a denormal."""
    return dtype(1e-3) * np.finfo(dtype).tiny


SMALL = {
    "inputs": ("x", "h_0", "c_0"),
    "weights": ("weights",),
    "gradients": ("d_output", "d_h_n", "d_c_n"),
    "all": ("x", "h_0", "c_0", "weights", "d_output", "d_h_n", "d_c_n"),
}


@EVERY
@BOTH
@pytest.mark.parametrize("small", SMALL)
def test_denormals_count_as_zero(small, dtype, name):
    """On every thread; so they cannot be slow, not even on the CPUs where this test does not run."""
    problem, zeros = (
        scaled(make((20, 24, 30, 100), dtype, "bias peephole"), SMALL[small], scale)
        for scale in (denormal(dtype), 0)
    )
    assert all(0 < np.abs(a).max() < np.finfo(dtype).tiny for a in inputs_of(problem, SMALL[small]))
    with variant(name):
        want = forward(zeros)
        want |= backward(zeros, want)
        for threads in (1, 2, 3):
            got = forward(problem, threads)
            got |= backward(problem, got, threads)
            for key, array in got.items():
                np.testing.assert_array_equal(array, want[key], err_msg=f"{key}, {threads} threads")


def inputs_of(problem, names):
    yield from (getattr(problem, name) for name in names if name != "weights")
    if "weights" in names:
        yield from problem.weights.values()


def shortest(problem, threads, repeats):
    """Shortest times of forward and backward."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        tape = forward(problem, threads)
        middle = time.perf_counter()
        backward(problem, tape, threads)
        times.append((middle - start, time.perf_counter() - middle))
    return np.min(times, axis=0)


@EVERY
@BOTH
@pytest.mark.parametrize("small", SMALL)
def test_denormals_are_not_slow(small, dtype, name):
    """Promised: 1.5 times the normal time. Asserted: 2.5 times, as the machine may have other work to do.

    The shortest of many runs of a few milliseconds each, taken in turns. Without the flush to zero the factor
    is about 2 on CPUs that treat denormals well and over 10 on the others.
    """
    sizes = (24, 24, 48, 72)
    usual = make(sizes, dtype, "bias peephole")
    problem = scaled(make(sizes, dtype, "bias peephole"), SMALL[small], denormal(dtype))
    with variant(name):
        normal = slow = np.array([np.inf, np.inf])
        for _ in range(12):
            normal = np.minimum(normal, shortest(usual, 1, 2))
            slow = np.minimum(slow, shortest(problem, 1, 2))
            if (slow < 1.4 * normal).all():
                break
    assert (slow < 2.5 * normal).all(), f"forward, backward: {slow} s, normally {normal} s"


def floating_point_mode():
    """Rounding, flushing and masks of the calling thread, without the flags of past events; then a sample.

    On x86-64 from the C library's fegetenv(), whose last word is MXCSR.
    """
    sample = np.float32(3e-40) * np.float32(0.5), np.float64(3e-310) * np.float64(0.5)
    if platform.machine() not in ("x86_64", "AMD64"):
        return sample
    environment = (ctypes.c_uint32 * 8)()
    assert ctypes.CDLL(None).fegetenv(environment) == 0
    return (environment[0] & 0xFFFF, environment[7] & ~0x3F, *sample)


def each_call(threads):
    """Yield after every kind of call; the last one is long enough to be polled for signals."""
    layer = bptt.LSTM(24, 70, seed=0)
    x = np.ones((40, 16, 24), np.float32)
    with bptt.num_threads(threads):
        layer(x)
        yield "layer"
        tape = layer.forward(x)
        yield "forward"
        layer.backward(tape, tape.output)
        yield "backward"
        engine = layer.freeze()
        yield "freeze"
        engine(x)
        yield "engine"
        stream = engine.stream(16)
        stream.step(x[0])
        yield "step"
        stream.run(x)
        yield "run"
        with pytest.raises(ValueError, match="x"):
            layer(x[..., 1:])
        yield "error"
        layer(np.ones((1500, 16, 24), np.float32))
        yield "long call"


@EVERY
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_floating_point_mode_unchanged(threads, name):
    def check(_):
        before = floating_point_mode()
        assert min(before[-2:]) > 0
        for call in each_call(threads):
            assert floating_point_mode() == before, call
        return True

    with variant(name):
        assert check(0)
        with ThreadPoolExecutor(3) as pool:
            assert all(pool.map(check, range(3)))


IMPORT = """
import numpy as np

def sample():
    return np.float32(3e-40) * np.float32(0.5), np.float64(3e-310) * np.float64(0.5)

before = sample()
import bptt._core
assert before == sample() and min(before) > 0
"""


def test_floating_point_mode_unchanged_by_import():
    subprocess.run([sys.executable, "-c", IMPORT], check=True, timeout=60)


def test_signal_handlers_have_denormals():
    """A handler runs in the middle of a long call, with the floating-point mode of everybody else."""
    seen = []

    def handler(*_):
        seen.append(floating_point_mode())

    layer = bptt.LSTM(64, 256, seed=0)
    x = np.ones((2000, 16, 64), np.float32)
    before = floating_point_mode()
    previous = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
        while len(seen) < 12:
            layer(x)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert set(seen) == {before}
