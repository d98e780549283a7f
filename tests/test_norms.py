"""Norms in C: of rows, and of the gradients of single steps inside the backward pass."""

import itertools

import numpy as np
import pytest

import bptt
from bptt import _reference_core
from problems import VARIANTS, core, variant

LAYERS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True}),
    "projected": (bptt.LSTM, {"proj_size": 3}),
    "zoneout": (bptt.LSTM, {"zoneout": 0.2}),
    "gru": (bptt.GRU, {}),
    "gru before": (bptt.GRU, {"reset_after": False}),
    "rnn": (bptt.RNN, {}),
}
EVERY = pytest.mark.parametrize("name", VARIANTS)
BOTH = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@BOTH
def test_rows_of_every_size(dtype):
    rng = np.random.default_rng(0)
    for n in (*range(70), 127, 128, 1000):
        x = rng.standard_normal((3, 5, n)).astype(dtype)
        exact = np.sqrt(np.square(x.astype(np.longdouble)).sum(2)).astype(np.float64)
        found = []
        for name, threads in itertools.product(VARIANTS, (1, 2)):
            with variant(name):
                found.append(core.row_norms(threads, x))
        np.testing.assert_allclose(found[0], exact, rtol=1e-15 * (1 + n**0.5), err_msg=str(n))
        assert {a.tobytes() for a in found} == {found[0].tobytes()}, n
        np.testing.assert_allclose(_reference_core.row_norms(1, x), exact, rtol=1e-14)


@EVERY
@BOTH
def test_many_rows_are_divided(dtype, name):
    x = np.random.default_rng(0).standard_normal((1001, 131)).astype(dtype)
    with variant(name):
        one, two = core.row_norms(1, x), core.row_norms(2, x)
    np.testing.assert_array_equal(one, two)
    np.testing.assert_allclose(one, np.linalg.norm(x.astype(np.float64), axis=1), rtol=1e-13)


@pytest.mark.parametrize(
    "shape", [(1, 20, 3), (4, 7, 1), (2, 1, 5), (3, 0, 2), (2, 5, 0), (0, 4, 4), (1, 300, 65)]
)
def test_norms_by_step_and_their_slope(shape):
    """Both backends against a line fitted by NumPy; extremes of double neither overflow nor underflow."""
    rng = np.random.default_rng(0)
    for scale in (1.0, 1e-280, 1e300):
        rows = rng.random((*shape, 2)) * scale * 0.9 ** np.arange(shape[1])[:, None, None]
        expected = np.sqrt(np.square(rows / scale).sum(2)).transpose(2, 0, 1) * scale
        for state in (0, 1):
            for module in (core, _reference_core):
                totals, slopes = module.flow(rows, state)
                np.testing.assert_allclose(totals, expected, rtol=1e-14)
                for n in range(shape[0]):
                    if shape[1] > 1 and shape[2]:
                        line = np.polyfit(np.arange(shape[1]), np.log(totals[state, n]), 1)
                        assert slopes[n] == pytest.approx(line[0], rel=1e-9, abs=1e-12)
                    else:
                        assert np.isnan(slopes[n])


@pytest.mark.parametrize("value", [0.0, np.inf, np.nan])
def test_no_slope_through_what_has_no_logarithm(value):
    for module in (core, _reference_core):
        rows = np.ones((2, 4, 1, 2))
        rows[1, 2, :, 1] = value
        totals, slopes = module.flow(rows, 1)
        np.testing.assert_array_equal(totals[1, 1, 2], value)
        assert slopes[0] == 0
        assert np.isnan(slopes[1])
        assert module.flow(rows, 0)[1].tolist() == [0, 0]


def test_norms_of_a_wrong_kind_raise():
    bad = (np.ones((2, 3, 2)), ValueError), (np.ones((1, 2, 3, 2), "f"), TypeError), (3, ValueError)
    for norms, error in bad:
        with pytest.raises(error, match=r"^norms: expected"):
            core.flow(norms, 0)
    with pytest.raises(ValueError, match="argument is out of range"):
        core.flow(np.ones((1, 2, 3, 2)), 2)


@EVERY
@pytest.mark.parametrize("norms", [core.row_norms, _reference_core.row_norms])
def test_ends_of_the_range(name, norms):
    for n in (4, 40):
        row = np.zeros((6, n))
        row[0, :4], row[1, :4], row[2, -1], row[3, 0], row[4, 1] = 1e300, 1e-300, 1e-200, np.nan, -np.inf
        row[3, 1] = np.inf
        with variant(name):
            found = norms(2, row)
            single = norms(1, np.array([[3e38, 4e38 / 1.5], [3e-38, 4e-38], [0, 0]], np.float32))
        np.testing.assert_allclose(found[:3], [2e300, 2e-300, 1e-200], rtol=1e-15)
        assert np.isnan(found[3])
        assert (found[4], found[5]) == (np.inf, 0)
        np.testing.assert_allclose(single, [4.0139e38, 5e-38, 0], rtol=1e-4)


def test_shapes_and_refusals():
    for x, shape in ((np.ones(3), ()), (np.ones((0, 3)), (0,)), (np.ones((2, 0)), (2,))):
        found = core.row_norms(1, x)
        assert found.shape == shape == _reference_core.row_norms(1, x).shape
        assert found.dtype == np.float64
    assert core.row_norms(1, np.ones((2, 0))).tolist() == [0, 0]
    for x in (np.ones((4, 4))[:, ::2], np.ones((4, 4)).T[1:]):
        with pytest.raises(ValueError, match=r"^x: expected \d+ contiguous elements"):
            core.row_norms(1, x)
    for x in (np.ones(3, int), np.float64(3), np.array(3.0), [1.0], None):
        with pytest.raises(TypeError, match=r"^x: expected float32 or float64 with an axis"):
            core.row_norms(1, x)
    with pytest.raises(ValueError, match="argument is out of range"):
        core.row_norms(0, np.ones((2, 2)))


def case(kind, dtype, T=7, B=5, H=19, layers=1, **settings):
    of_kind, options = LAYERS[kind]
    layer = of_kind(3, H, layers, dtype=dtype, seed=1, **options, **settings)
    rng = np.random.default_rng(2)
    x = rng.standard_normal((T, B, 3)).astype(dtype)
    width = layer.forward(x[:1]).output.shape[2]
    return layer, x, rng.standard_normal((T, B, width)).astype(dtype)


def expected(gradients):
    """Norms of the arrays themselves, by the specification."""
    both = [gradients.hidden, gradients.cells]
    zeros = np.zeros(gradients.hidden.shape[:3])
    return np.stack([zeros if a is None else _reference_core.row_norms(1, a) for a in both], -1)


@EVERY
@BOTH
@pytest.mark.parametrize("kind", LAYERS)
def test_norms_of_a_pass(kind, dtype, name):
    serial = None
    try:
        with variant(name):
            for T, B, H in ((7, 5, 19), (3, 1, 40), (300, 3, 4), (2, 0, 5), (0, 2, 5)):
                layer, x, errors = case(kind, dtype, T, B, H)
                serial = plain = None
                for threads, split in itertools.product((1, 2), (0, 1, 2, 3)):
                    core.plan_hint(split)
                    with bptt.num_threads(threads):
                        tape = layer.forward(x)
                        whole = layer.backward(tape, errors, steps=True)
                        alone = layer.backward(tape, errors, steps="norms")
                    if serial is None:
                        serial, plain = whole, layer.backward(tape, errors)
                        np.testing.assert_allclose(serial.norms, expected(serial), rtol=1e-13)
                    assert alone.hidden is alone.cells is None
                    for found in (whole, alone):
                        np.testing.assert_array_equal(found.norms, serial.norms)
                        np.testing.assert_array_equal(found.parameters.flat, plain.parameters.flat)
                        np.testing.assert_array_equal(found.input, plain.input)
    finally:
        core.plan_hint()


@pytest.mark.parametrize("lengths", [None, [2, 7, 0, 5, 7]])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", LAYERS)
def test_norms_with_options(backend, kind, bidirectional, lengths):
    layer, x, errors = case(kind, np.float64, layers=2, bidirectional=bidirectional)
    resets = np.random.default_rng(0).random((7, 5)) < 0.2
    for forward, options in (
        ({}, {}),
        ({"resets": resets}, {"step_clip": 0.01}),
        ({"recompute": 2}, {}),
        ({}, {} if bidirectional else {"truncate": (2, 3)}),
    ):
        tape = layer.forward(x, lengths=lengths, **forward)
        whole = layer.backward(tape, errors, steps=True, **options)
        alone = layer.backward(tape, errors, steps="norms", **options)
        np.testing.assert_allclose(whole.norms, expected(whole), rtol=1e-13)
        np.testing.assert_array_equal(alone.norms, whole.norms)
        assert alone.hidden is alone.cells is None
        assert whole.norms.any()
        assert (alone.clipped is None) == ("step_clip" not in options)


def test_steps_is_checked():
    layer, x, errors = case("rnn", np.float32)
    tape = layer.forward(x)
    assert layer.backward(tape, errors).norms is None
    with pytest.raises(ValueError, match=r"^steps: expected True, False or 'norms', got 'all'"):
        layer.backward(tape, errors, steps="all")


@pytest.mark.parametrize("kind", ["lstm", "rnn"])
def test_flow_needs_the_norms_alone(kind):
    layer, x, errors = case(kind, np.float32)
    tape = layer.forward(x)
    flows = [
        bptt.flow.flow_of(layer, tape, layer.backward(tape, errors, steps=steps), errors)
        for steps in (True, "norms")
    ]
    assert flows[0].everywhere
    assert flows[0].growth == flows[1].growth
    np.testing.assert_array_equal(flows[0].lags, flows[1].lags)
