"""Same weights, same sequence, same bits: in any batch, cut in any way, on any number of threads."""

import functools
import itertools
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bptt
from problems import BACKWARD, KINDS, VARIANTS, assert_same_bits, backward, core, forward, make, pack, variant

EVERY = pytest.mark.parametrize("name", VARIANTS)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
THREADS = (1, 2, 3, 4)

# T, B, I, H: what the cost model does with more than one thread, in float32 on AVX-512.
REGIMES = {
    "serial": (5, 3, 4, 10),
    "rows": (20, 64, 32, 64),
    "rows, odd": (15, 61, 13, 67),
    "rows, few": (60, 9, 20, 41),
    "rows, outputs beyond the L2": (800, 34, 6, 30),
    "rows, each with its own dx": (25, 53, 150, 240),
    "units forward, rows backward": (200, 5, 40, 130),
    "units, one row": (80, 1, 30, 400),
    "units, few rows": (8, 3, 50, 600),
    "beyond the L2, a row more than a tile": (5, 7, 24, 500),
    "one row, hoisted": (500, 1, 70, 40),
    "one step": (1, 50, 100, 300),
    "many rows a step": (3, 530, 9, 21),
    "few inputs": (60, 21, 2, 37),
    "one row, tiny": (600, 1, 1, 20),
}
SHAPES = pytest.mark.parametrize("regime", REGIMES)


@functools.lru_cache(maxsize=2)
def case(regime, dtype):
    return make(REGIMES[regime], dtype, "bias peephole")


@functools.lru_cache(maxsize=2)
def alone(regime, dtype, name):
    """Forward and backward on one thread."""
    tape = forward(case(regime, dtype))
    return tape, backward(case(regime, dtype), tape)


@EVERY
@BOTH
@SHAPES
def test_threads(regime, dtype, name):
    problem = case(regime, dtype)
    with variant(name):
        tape, gradients = alone(regime, dtype, name)
        for threads in THREADS:
            assert_same_bits(forward(problem, threads), tape, f"{threads} threads")
            assert_same_bits(backward(problem, tape, threads), gradients, f"{threads} threads")


@EVERY
@BOTH
@SHAPES
def test_run_after_run(regime, dtype, name):
    """Also with other work in between, so that memory and threads are found in another state."""
    problem, other = case(regime, dtype), make((3, 7, 5, 33), dtype)
    with variant(name):
        tape, gradients = alone(regime, dtype, name)
        for _ in range(3):
            forward(other, 3)
            assert_same_bits(forward(problem, 2), tape, "forward again")
            assert_same_bits(backward(problem, tape, 2), gradients, "backward again")


@EVERY
@BOTH
@SHAPES
def test_inference_training_and_packed(regime, dtype, name):
    problem = case(regime, dtype)
    with variant(name):
        tape, _ = alone(regime, dtype, name)
        for threads in (1, 2):
            packed = pack(problem, threads)
            assert packed.variant == name
            for training in (False, True):
                assert_same_bits(forward(problem, threads, None, training), tape, "packed on the way")
                assert_same_bits(forward(problem, threads, packed, training), tape, "packed beforehand")


@EVERY
@BOTH
@SHAPES
def test_cut_into_chunks(regime, dtype, name):
    problem = case(regime, dtype)
    T = problem.T
    with variant(name):
        tape, _ = alone(regime, dtype, name)
        for threads, cuts in ((1, (0, 1, T)), (2, (0, T // 3, T // 2, T)), (3, (0, 0, T - 1, T))):
            assert_same_bits(in_chunks(problem, cuts, threads), tape, f"cut at {cuts}, {threads} threads")


def in_chunks(problem, cuts, threads):
    """Run forward piece by piece, each from the state that the one before has left."""
    pieces, h, c = [], problem.h_0, problem.c_0
    for t0, t1 in itertools.pairwise(cuts):
        x = np.ascontiguousarray(problem.x[t0:t1])
        pieces.append(forward(replace(problem, T=t1 - t0, x=x, h_0=h, c_0=c), threads))
        h, c = pieces[-1]["h_n"], pieces[-1]["c_n"]
    joined = {key: np.concatenate([piece[key] for piece in pieces]) for key in ("output", "cells", "gates")}
    return joined | {"h_n": h, "c_n": c}


@EVERY
@BOTH
@SHAPES
def test_streamed(regime, dtype, name):
    problem = case(regime, dtype)
    with variant(name):
        tape, _ = alone(regime, dtype, name)
        for threads in (1, 2):
            h, c = problem.h_0.copy(), problem.c_0.copy()
            stream = core.Stream((pack(problem, threads),), problem.B, h[None], c[None])
            for t, x in enumerate(problem.x[:40]):
                got = {"output": stream.step(x), "h": h, "c": c}
                want = {"output": tape["output"][t], "h": tape["output"][t], "c": tape["cells"][t]}
                assert_same_bits(got, want, f"step {t} on {threads} threads")


def take_rows(problem, rows):
    """The problem of these batch rows, in this order."""
    cut = {key: np.ascontiguousarray(getattr(problem, key)[:, rows]) for key in ("x", "d_output")}
    cut |= {key: getattr(problem, key)[rows] for key in ("h_0", "c_0", "d_h_n", "d_c_n")}
    return replace(problem, B=len(rows), **cut)


def batches(B):
    """Rows alone, pairs, a batch of every size up to 17, halves, orders turned round and shuffled."""
    shuffled = np.random.default_rng(B).permutation(B)
    yield from ([int(b)] for b in shuffled[:6])
    yield [0] * min(B, 5)
    yield from (list(shuffled[:size]) for size in range(2, min(B, 18)))
    yield from (list(range(B // 2)), list(range(B // 2, B)), list(range(B))[::-1], list(shuffled))


@EVERY
@BOTH
@SHAPES
def test_batch_around_a_row(regime, dtype, name):
    """Every result that belongs to a row, gradients included."""
    problem = case(regime, dtype)
    with variant(name):
        tape, gradients = alone(regime, dtype, name)
        for n, rows in enumerate(rows for rows in batches(problem.B) if rows):
            piece, threads = take_rows(problem, rows), 1 + n % 3
            got = forward(piece, threads)
            assert_same_bits(got, of_rows(tape, rows), f"rows {rows}")
            results = backward(piece, got, threads)
            own = {key: results[key] for key in BACKWARD}
            assert_same_bits(own, of_rows(gradients, rows), f"gradients of rows {rows}")


def of_rows(results, rows):
    whole = {key: a for key, a in results.items() if not key.startswith(("d_weight", "d_bias"))}
    return {key: a[rows] if a.ndim == 2 else a[:, rows] for key, a in whole.items()}


@EVERY
@BOTH
@settings(deadline=None, max_examples=20, derandomize=True, database=None)
@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(0, 40), st.integers(1, 90)),
    st.sampled_from(KINDS),
    st.integers(2, 5),
    st.data(),
)
def test_any_size(dtype, name, sizes, kind, threads, data):
    problem = make(sizes, dtype, kind)
    cut = data.draw(st.integers(0, sizes[0]))
    rows = data.draw(st.lists(st.integers(0, sizes[1] - 1), min_size=1, max_size=20))
    with variant(name):
        tape = forward(problem)
        gradients = backward(problem, tape)
        assert_same_bits(forward(problem, threads), tape, "threads")
        assert_same_bits(backward(problem, tape, threads), gradients, "threads, backward")
        assert_same_bits(in_chunks(problem, (0, cut, sizes[0]), threads), tape, f"cut at {cut}")
        assert_same_bits(forward(take_rows(problem, rows), threads), of_rows(tape, rows), f"rows {rows}")


@EVERY
@BOTH
def test_denormal_biases(dtype, name):
    """Their sum is normal, or cancels to a denormal: taken in the same way by every road to the weights."""
    tiny = np.finfo(dtype).tiny
    problem = make((3, 2, 4, 37), dtype, "bias")
    for array in problem.weights.values():
        array *= 0
    problem.weights["bias_ih"][:] = dtype(0.9) * tiny
    problem.weights["bias_hh"][:] = np.tile([0.9, -1.1], 74).astype(dtype) * tiny
    with variant(name):
        tape = forward(problem)
        for threads in (1, 2):
            assert_same_bits(forward(problem, threads), tape, "packed on the way")
            assert_same_bits(forward(problem, threads, pack(problem)), tape, "packed beforehand")


@EVERY
@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("peephole", [False, True])
def test_layer_engine_and_stream(peephole, precision, name):
    """The same through the public names, from strided and batch-first arrays too."""
    with variant(name):
        layer = bptt.LSTM(19, 45, peephole=peephole, dtype=precision, seed=3)
        flipped = bptt.LSTM(19, 45, batch_first=True, peephole=peephole, dtype=precision, seed=3)
        engine = layer.freeze()
        x = np.random.default_rng(0).standard_normal((23, 9, 19)).astype(precision)
        with bptt.num_threads(1):
            want, (h_n, c_n) = layer(x)
        for threads in THREADS:
            with bptt.num_threads(threads):
                stream = engine.stream(9)
                strided = np.repeat(x, 2, axis=2)[::-1, :, ::2][::-1]
                tape = layer.forward(x)
                streamed = np.stack([stream.step(row) for row in x[:11]] + list(stream.run(x[11:])))
                results = [layer(x), engine(x), engine(strided), (tape.output, tape.state), (streamed, None)]
                results.append((flipped(x.swapaxes(0, 1))[0].swapaxes(0, 1), stream.state))
                for output, state in results:
                    np.testing.assert_array_equal(output, want)
                    for got, expected in zip(state or (h_n, c_n), (h_n, c_n), strict=True):
                        np.testing.assert_array_equal(got, expected)


DIGEST = """
import hashlib, itertools, numpy as np, bptt
digest, rng = hashlib.sha256(), np.random.default_rng(0)
LSTMS = [(bptt.LSTM, {"peephole": True}), (bptt.LSTM, {"proj_size": 5})]
KINDS = [*LSTMS, (bptt.GRU, {}), (bptt.GRU, {"reset_after": False}), (bptt.RNN, {})]
for H, B, (kind, more) in itertools.product((7, 17, 20, 40, 72, 100, 130), (1, 2, 33), KINDS):
    layer = kind(9, H, seed=1, **more)
    x = rng.standard_normal((12, B, 9)).astype(np.float32)
    tape = layer.forward(x)
    errors = rng.standard_normal(tape.output.shape).astype(np.float32)
    gradients = layer.backward(tape, errors, steps=True)
    inferred = layer(x)[0], layer.freeze().stream(B).run(x)
    for array in (tape.output, *inferred, gradients.parameters.flat, gradients.input, gradients.hidden):
        digest.update(array.tobytes())
print(digest.hexdigest())
"""


def test_width_of_vectors():
    """Whole or half registers: which one small sizes run on depends on the machine, and shows nowhere."""
    found = set()
    for width in ("half", "whole", ""):
        command, env = [sys.executable, "-c", DIGEST], {**os.environ, "BPTT_WIDTH": width}
        found.add(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1
    assert len(found.pop()) == 65
