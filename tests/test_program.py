"""Programs: one call into C for all layers, directions and blocks, and the moves between them."""

import numpy as np
import pytest

import bptt
from bptt import _core, _program, _reference_core

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
@pytest.mark.parametrize("shape", [(4, 3, 5), (1, 1, 70_000), (300, 40, 16), (1, 4, 1), (0, 2, 3), (3, 0, 2)])
def test_moves_are_those_of_the_specification(shape, dtype, threads):
    """Whole arrays and parts of wider ones; lengths, scale, turned, added up, from nothing, in order."""
    T, B, N = shape
    draw = lambda: (RNG.standard_normal((T, B, N + 3)) * 100).astype(dtype)  # noqa: E731
    lengths = np.sort(RNG.integers(0, T + 1, B))[::-1].astype(np.int64)
    inner, shuffled = slice(2, 2 + N), RNG.permutation(B)
    for scale in [None] if dtype is np.int64 else [None, draw()[..., inner]]:
        for turned in (False, True):
            for spans in (None, lengths):
                for add in (False, True):
                    for source in (None, draw()[..., inner], np.ascontiguousarray(draw()[..., inner])):
                        for order, back in ((None, False), (shuffled, False), (shuffled, True)):
                            to = draw()
                            expected = to.copy()
                            how = (source, scale, spans, turned, add, order, back)
                            _reference_core.run(_reference_core.move(1, expected[..., inner], *how))
                            _core.run(_core.move(threads, to[..., inner], *how))
                            np.testing.assert_array_equal(to, expected, strict=True)


def test_a_move_reads_nothing_past_the_lengths():
    source, lengths, order = np.full((5, 3, 2), np.nan), np.array([4, 2, 0]), np.array([2, 0, 1])
    for b, length in enumerate(lengths):
        source[:length, order[b]] = 1 + b
    to = np.full((5, 3, 2), 7.0)
    _core.run(_core.move(2, to, source, None, lengths, True, False, order))
    expected = np.where(np.arange(5)[:, None] < lengths, [1, 2, 3], 0)
    np.testing.assert_array_equal(to, np.stack([expected, expected], -1))


def test_a_move_in_place():
    to, scale = (RNG.standard_normal((50, 8, 64)).astype(np.float32) for _ in range(2))
    expected = to * scale
    _core.run(_core.move(2, to, to, scale))
    np.testing.assert_array_equal(to, expected)


def test_bad_moves_raise():
    good, flat = np.zeros((3, 2, 4), np.float32), np.zeros(24, np.float32)
    fixed = good.copy()
    fixed.flags.writeable = False
    for arguments, error, message in (
        ((flat,), ValueError, "^to: expected a writable array of 3 axes"),
        ((fixed,), ValueError, "^to: expected a writable array of 3 axes"),
        ((good.astype(np.float16),), TypeError, "^to: expected float32, float64 or int64, got float16"),
        ((good[..., ::2],), ValueError, "^to: expected aligned, contiguous rows"),
        ((good, good[:2]), ValueError, r"^source: expected shape \(3, 2, 4\), got \(2, 2, 4\)"),
        ((good, flat), ValueError, "^source: expected shape"),
        ((good, good.astype(np.float64)), TypeError, "^source: expected float32, got float64"),
        ((good, good.tolist()), TypeError, "^source: expected an ndarray, got list"),
        ((good, good, good.T), ValueError, "^scale: expected shape"),
        ((good, good, None, np.zeros(3, np.int64)), ValueError, "^lengths: expected 2 contiguous elements"),
        ((good, good, None, None, False, False, flat), TypeError, "^order: expected int64"),
    ):
        with pytest.raises(error, match=message):
            _core.move(1, *arguments)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("threads", [1, 2])
def test_errors_and_inputs_that_lie_apart(kind, dtype, threads):
    """Backwards through time, inside wider rows, rows before steps: the bits of contiguous copies."""
    T, B, I, H = 37, 9, 6, 21
    layer = getattr(bptt, kind)(I, H, dtype=dtype, seed=0)
    x, errors = (RNG.standard_normal((T, B, n)).astype(dtype) for n in (I, H))
    tape, weights = layer.forward(x), tuple(layer.parameters.values())
    part, cell = (*weights, *[None] * (6 - len(weights))), _core.Cell(kind)
    cells = tape.cells[0] if kind == "LSTM" else None
    gates = None if kind == "RNN" else tape._kept.gates[0]

    def gradients(x, errors):
        found = tuple(None if a is None else np.zeros_like(a) for a in part)
        d_x, d_h, d_c = np.zeros((T, B, I), dtype), np.zeros((B, H), dtype), np.zeros((B, H), dtype)
        given = (cell, threads, part, x, None, None, tape.hidden[0], cells, gates, errors, None, None)
        _core.backward(*given, d_x, d_h, d_c if kind == "LSTM" else None, found, None, None)
        return [d_x, d_h, *(a for a in found if a is not None)]

    def apart(array):
        n = array.shape[2]
        wide = np.full((T, B, n + 3), np.nan, dtype)
        wide[..., 2 : 2 + n] = array
        upwards = np.ascontiguousarray(array[::-1])
        rows_first = np.ascontiguousarray(array.swapaxes(0, 1))
        return wide[..., 2 : 2 + n], upwards[::-1], rows_first.swapaxes(0, 1)

    expected = gradients(x, errors)
    for given in zip(apart(x), apart(errors), strict=True):
        for found, exact in zip(gradients(*given), expected, strict=True):
            np.testing.assert_array_equal(found, exact)
    for bad in (np.broadcast_to(errors[:1], errors.shape), errors[..., None].repeat(2, -1)[..., 0]):
        with pytest.raises(ValueError, match=r"^d_output: expected"):
            gradients(x, bad)


def test_stages_of_no_kind_raise():
    for stage in (None, 3, (None,), ()):
        with pytest.raises((TypeError, ValueError)):
            _core.run(stage)
    for kind in (_core.Move, _core.Call):
        with pytest.raises(TypeError, match="are made by"):
            kind()


@pytest.mark.parametrize("shape", [(200, 8, 248, 48), (64, 2, 100, 200), (60, 5, 31, 130)])
@pytest.mark.parametrize("cell", ["LSTM", "GRU", "RNN"])
def test_directions_beside_one_another_have_room(cell, shape):
    """On one thread each, whose plan may need a larger workspace than that of two."""
    T, B, I, H = shape
    layer = getattr(bptt, cell)(I, H, bidirectional=True, seed=0)
    x = RNG.standard_normal((T, B, I)).astype(np.float32)
    with bptt.num_threads(1):
        expected = everything(layer, x, np.ones((T, B, 2 * H), np.float32), None, {}, {})
    with bptt.num_threads(2):
        for found, array in zip(
            everything(layer, x, np.ones((T, B, 2 * H), np.float32), None, {}, {}), expected, strict=True
        ):
            np.testing.assert_array_equal(found, array)


KINDS = {
    "bidirectional lstm": (bptt.LSTM, {"bidirectional": True, "dropout": 0.3}),
    "bidirectional gru": (bptt.GRU, {"bidirectional": True}),
    "projected": (bptt.LSTM, {"proj_size": 3, "dropout": 0.2, "zoneout": 0.1}),
    "rnn": (bptt.RNN, {}),
}
CURES = {
    "plain": ({}, {}),
    "recompute": ({"recompute": 20}, {}),
    "truncated": ({}, {"truncate": (7, 20), "step_clip": 0.05}),
    "both": ({"recompute": 20}, {"truncate": (7, 20)}),
}


def everything(layer, x, errors, lengths, onward, back):
    """Return all that inference, training and the way back give, in order."""
    tape = layer.forward(x, lengths=lengths, rng=3, **onward)
    gradients = layer.backward(tape, errors, steps=True, **back)
    state = gradients.state if isinstance(gradients.state, tuple) else (gradients.state,)
    found = [layer(x, lengths=lengths)[0], tape.output, gradients.parameters.flat, gradients.input, *state]
    return [*found, gradients.hidden, *(gradients.clipped or {}).values()]


@pytest.mark.parametrize("lengths", [None, [61, 0, 17, 61, 40]])
@pytest.mark.parametrize(
    ("kind", "cure"),
    [
        (kind, cure)
        for kind in KINDS
        for cure in CURES
        if not (CURES[cure][1] and KINDS[kind][1].get("bidirectional"))  # truncation has no meaning there
    ],
)
def test_programs_that_are_too_long_are_run_in_pieces(kind, cure, lengths, monkeypatch):
    """And every layer, direction and block stands in one program otherwise."""
    cell, settings = KINDS[kind]
    onward, back = CURES[cure]
    layer = cell(4, 6, 3, seed=1, **settings)
    x = RNG.standard_normal((61, 5, 4)).astype(np.float32)
    errors = RNG.standard_normal(layer(x)[0].shape).astype(np.float32)
    ran, by_core = [], []
    for name, calls in (("run", ran), ("forward_layers", by_core), ("backward_layers", by_core)):
        function = getattr(_core, name)
        counted = lambda *given, calls=calls, function=function: calls.append(1) or function(*given)  # noqa: E731
        monkeypatch.setattr(_core, name, counted)
    expected = everything(layer, x, errors, lengths, onward, back)
    programs = len(ran)
    assert programs + len(by_core) == 3, "one call forward, one back, one for inference"
    for most in (1, 2, 7):
        monkeypatch.setattr(_program, "STAGES", most)
        found = everything(layer, x, errors, lengths, onward, back)
        for array, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(array, other, err_msg=f"{most} stages at once")
    assert len(ran) > 3 * programs or not programs
    with bptt.backend("reference"):
        for array, other in zip(everything(layer, x, errors, lengths, onward, back), expected, strict=True):
            np.testing.assert_allclose(array, other, rtol=2e-3, atol=2e-4)
