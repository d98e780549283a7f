"""Every variant and dtype over odd sizes: values and gradients against the specification and PyTorch."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from problems import (
    BACKWARD,
    KINDS,
    VARIANTS,
    assert_promised,
    assert_same_bits,
    backward,
    expected,
    forward,
    forward_bound,
    gradient_bound,
    largest_error,
    make,
    pack,
    relative_error,
    torch_results,
    variant,
)

DTYPES = (np.float32, np.float64)
EVERY = pytest.mark.parametrize("name", VARIANTS)
BOTH = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
H_SIZES = (*range(1, 68), 96, 130, 200)

# T, B, I, H where the work is divided in another way, or where one piece of it is full: many rows, many steps
# of one row (input product ahead of the recurrence, in chunks), more rows than a sum has, weights beyond L2.
LARGE = (
    (40, 64, 40, 100),
    (400, 1, 3, 200),
    (150, 2, 70, 130),
    (3, 300, 7, 20),
    (2, 523, 1, 3),
    (300, 9, 2, 5),
    (6, 1, 200, 600),
    (5, 4, 10, 500),
    (1, 1, 1, 1),
    (1, 40, 90, 260),
    (40, 35, 4, 90),
)
EMPTY = ((0, 3, 2, 5), (4, 3, 0, 5), (0, 0, 0, 1), (4, 0, 2, 5), (1, 1, 0, 1))
AGAINST_TORCH = (
    (100, 32, 128, 128),
    (100, 32, 40, 40),
    (1000, 1, 1, 20),
    (30, 8, 64, 256),
    (20, 200, 10, 33),
)


@functools.lru_cache(maxsize=4)
def case(sizes, dtype, kind, states, errors):
    problem = make(sizes, dtype, kind, states, errors)
    return problem, *expected(problem)


def covering(H, dtype):
    """T, B, I and the kind of problem that goes with H: each runs through all of its values as H does."""
    n = H_SIZES.index(H) + (11 if dtype == np.float64 else 0)
    sizes = (1 + n * 37 % 50, 1 + n * 28 % 65, n * 29 % 71, H)
    return sizes, dtype, KINDS[n % 4], n % 3 != 0, n % 5 != 0


def check(problem, tape, gradients, threads, what):
    """Run forward for training and for inference, and backward; everything within the promised bounds."""
    real = problem.dtype
    got = forward(problem, threads)
    assert_promised(got, tape, forward_bound(problem.T, real), largest_error, what)
    assert_same_bits(forward(problem, threads, training=False), got, f"{what}, inference")
    results = backward(problem, got, threads)
    assert_promised(results, gradients, gradient_bound(real), relative_error, what)
    return got, results


@BOTH
@pytest.mark.parametrize("H", H_SIZES)
def test_odd_sizes(H, dtype):
    problem, tape, gradients = case(*covering(H, dtype))
    for name in VARIANTS:
        with variant(name):
            first, second = (
                check(problem, tape, gradients, threads, f"{name}, {threads} threads") for threads in (1, 2)
            )
        for one, other in zip(first, second, strict=True):
            assert_same_bits(one, other, f"{name} on 1 and 2 threads")


def test_covering_reaches_every_size():
    cases = [covering(H, dtype) for H in H_SIZES for dtype in DTYPES]
    T, B, I, _ = map(set, zip(*(sizes for sizes, *_ in cases), strict=True))
    assert set(range(1, 51)) == T
    assert set(range(1, 66)) == B
    assert set(range(71)) == I
    assert {c[2:] for c in cases} == {(k, s, e) for k in KINDS for s in (True, False) for e in (True, False)}


@EVERY
@BOTH
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_large_sizes(sizes, dtype, name):
    problem, tape, gradients = case(sizes, dtype, "bias peephole", True, True)
    with variant(name):
        for threads in (1, 2):
            check(problem, tape, gradients, threads, f"{threads} threads")


@EVERY
@BOTH
@pytest.mark.parametrize("sizes", EMPTY, ids=str)
def test_empty_sizes(sizes, dtype, name):
    problem, tape, gradients = case(sizes, dtype, "bias peephole", True, True)
    with variant(name):
        for threads in (1, 2):
            check(problem, tape, gradients, threads, f"{threads} threads")


@EVERY
@BOTH
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_asked_for_is_not_needed(kind, dtype, name):
    """Each result that may be absent is left out in turn, then all of them; the others keep their bits."""
    problem = make((6, 5, 4, 19), dtype, kind)
    with variant(name):
        tape = forward(problem)
        whole = backward(problem, tape)
        for wanted in (*(tuple(r for r in BACKWARD if r != missing) for missing in BACKWARD), ()):
            assert_same_bits(backward(problem, tape, wanted=wanted), whole, f"without {wanted}")


@EVERY
@BOTH
@pytest.mark.parametrize("absent", ["h_0", "c_0", "d_output", "d_h_n", "d_c_n"])
def test_one_absent_input_counts_as_zeros(absent, dtype, name):
    problem = make((6, 5, 4, 19), dtype, "bias peephole")
    setattr(problem, absent, None)
    zeros = make((6, 5, 4, 19), dtype, "bias peephole")
    setattr(zeros, absent, np.zeros_like(getattr(zeros, absent)))
    with variant(name):
        check(problem, *expected(problem), 1, f"no {absent}")
        tape, want = forward(problem), forward(zeros)
        assert_same_bits(tape, want, "forward")
        assert_same_bits(backward(problem, tape), backward(zeros, want), "backward")


@pytest.mark.parametrize("missing", ["bias_ih", "bias_hh"])
@EVERY
def test_one_bias_alone(missing, name):
    problem = make((3, 4, 2, 9), np.float32)
    del problem.weights[missing]
    with variant(name):
        check(problem, *expected(problem), 2, f"no {missing}")


@EVERY
@BOTH
def test_backward_is_linear_and_leaves_the_tape_alone(dtype, name):
    """Twice the error, twice the gradient, to the last bit; the second run reads the same tape."""
    problem = make((9, 6, 5, 21), dtype, "bias peephole")
    doubled = make((9, 6, 5, 21), dtype, "bias peephole")
    for error in ("d_output", "d_h_n", "d_c_n"):
        setattr(doubled, error, 2 * getattr(doubled, error))
    with variant(name):
        tape = forward(problem)
        before = {key: array.copy() for key, array in tape.items()}
        once, twice = backward(problem, tape), backward(doubled, tape)
        assert_same_bits(tape, before, "tape")
    assert_same_bits({key: 2 * array for key, array in once.items()}, twice, "twice the error")


@EVERY
@BOTH
@settings(deadline=None, max_examples=25, derandomize=True, database=None)
@given(
    st.tuples(st.integers(0, 12), st.integers(0, 40), st.integers(0, 40), st.integers(1, 80)),
    st.sampled_from(KINDS),
    st.booleans(),
    st.booleans(),
    st.integers(1, 4),
    st.integers(0, 2**32 - 1),
)
def test_any_size(dtype, name, sizes, kind, states, errors, threads, seed):
    problem = make(sizes, dtype, kind, states, errors, seed)
    with variant(name):
        tape, _ = check(problem, *expected(problem), threads, f"{threads} threads")
        packed = forward(problem, threads, pack(problem))
        assert_same_bits(packed, tape, "packed beforehand")


@EVERY
@pytest.mark.parametrize("kind", ["bias", "plain"])
@pytest.mark.parametrize("sizes", [(1, 1, 1, 1), (7, 3, 5, 11), (20, 17, 33, 40)], ids=str)
def test_float64_equals_torch(sizes, kind, name):
    """An oracle that shares no line with the specification."""
    problem = make(sizes, np.float64, kind)
    want = torch_results(problem, np.float64)
    with variant(name):
        tape = forward(problem)
        gradients = backward(problem, tape)
    named = tuple({key: got[key] for key in want[n]} for n, got in enumerate((tape, gradients)))
    assert_promised(named[0], want[0], 1e-14 * sizes[0] ** 0.5, largest_error, "forward")
    assert_promised(named[1], want[1], gradient_bound(np.float64), relative_error, "backward")


@pytest.mark.parametrize("sizes", AGAINST_TORCH, ids=str)
def test_no_more_than_twice_the_error_of_torch(sizes):
    """Both in float32, from the same float32 numbers, against the specification in float64."""
    problem = make(sizes, np.float32)
    exact = expected(problem)
    theirs = torch_results(problem, np.float32)
    floors = 2 * float(np.finfo(np.float32).eps), 1e-7
    for name in VARIANTS:
        with variant(name):
            tape = forward(problem, 2)
            ours = tape, backward(problem, tape, 2)
        for n, (measure, floor) in enumerate(zip((largest_error, relative_error), floors, strict=True)):
            for key, array in theirs[n].items():
                got, others = measure(ours[n][key], exact[n][key]), measure(array, exact[n][key])
                assert got <= 2 * others + floor, f"{key}, {name}: error {got:.3g}, of PyTorch {others:.3g}"
