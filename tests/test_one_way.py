"""Layers in one direction by one call: what the core makes itself is what it fills for others."""

import numpy as np
import pytest

import bptt
from bptt import _core, _program, _reference_core

RNG = np.random.default_rng(0)
LAYERS = {
    "LSTM": lambda I, **more: bptt.LSTM(I, 7, seed=0, **more),
    "peephole, projection": lambda I, **more: bptt.LSTM(I, 7, peephole=True, proj_size=3, seed=1, **more),
    "drawn": lambda I, **more: bptt.LSTM(I, 7, recurrent_dropout=0.3, zoneout=0.2, seed=2, **more),
    "no bias": lambda I, **more: bptt.LSTM(I, 7, bias=False, peephole=True, seed=3, **more),
    "GRU": lambda I, **more: bptt.GRU(I, 7, seed=4, **more),
    "GRU, reset before": lambda I, **more: bptt.GRU(I, 7, reset_after=False, seed=5, **more),
    "RNN": lambda I, **more: bptt.RNN(I, 7, seed=6, **more),
}


def draw(*shape, dtype):
    return RNG.standard_normal(shape).astype(dtype)


def by_one_call(core, layer, x, states, errors, rows, draws, step_clip):
    """Forward for inference and for training, and backward, with gradients of the steps."""
    layout, weights, has_c = layer._layout, layer._weights, layer._layout.has_cell_state
    cell = _program.cell_of(core, layout.cell)
    given = cell, 2, weights, None, x, *states
    output, h_n, c_n, first, hidden, cells, gates = core.forward_layers(*given, True, *rows, *draws)
    assert first is x
    np.testing.assert_array_equal(output, hidden[-1], strict=True)
    packs = [core.pack(cell, 2, part) for part in weights]
    inferred = core.forward_layers(cell, 2, None, packs, x, *states, False, *rows, *draws)
    assert inferred[3:] == (None,) * 4
    L, T, B, W = hidden.shape
    flat, H = np.full(layer.parameters.flat.shape, np.nan, x.dtype), layout.hidden_size
    steps = np.empty((L, T, B, W), x.dtype), np.empty((L, T, B, H), x.dtype) if has_c else None
    counted = np.zeros((L, T, B, 3), np.int64), np.empty((L, T, B, 2))
    tape, how = (x, *states, hidden, cells, gates), (*rows, *(draws or (None, 0)), step_clip, None)
    found = core.backward_layers(cell, 2, weights, *tape, *errors, True, flat, *how, *steps, *counted)
    assert core.backward_layers(cell, 2, weights, *tape, *errors, False, flat.copy(), *how)[0] is None
    return [hidden, h_n, c_n, *inferred[:3], cells, gates, *found, flat, *steps, *counted]


def by_calls(layer, x, states, errors, rows, draws, step_clip):
    """The same by a call for each layer that fills what it is given."""
    layout, L = layer._layout, layer.num_layers
    (T, B, _), W, H, has_c = x.shape, layout.width, layout.hidden_size, layout.has_cell_state
    cell, seeds = _program.cell_of(_core, layout.cell), draws[0] if draws else [None] * L

    def new(*shape, there=True):
        return np.full(shape, np.nan, x.dtype) if there else None

    def at(parts, n):
        return None if parts is None else parts[n]

    hidden, h_n, c_n = new(L, T, B, W), new(L, B, W), new(L, B, H, there=has_c)
    cells, gates = new(L, T, B, H, there=has_c), new(L, T, B, 4, H, there=layout.saved)
    for n, weights in enumerate(layer._weights):
        a, before = hidden[n - 1] if n else x, (at(states[0], n), at(states[1], n))
        filled = hidden[n], h_n[n], at(c_n, n), at(cells, n), at(gates, n)
        _core.forward(cell, 2, weights, None, a, *before, *filled, *rows, seeds[n], *draws[1:])
    grads = layer.parameters.empty_like()
    d_h_0, d_c_0 = new(L, B, W), new(L, B, H, there=has_c)
    steps = new(L, T, B, W), new(L, T, B, H, there=has_c)
    counted = np.zeros((L, T, B, 3), np.int64), np.empty((L, T, B, 2))
    d_output = errors[0]
    for n in reversed(range(L)):
        a = hidden[n - 1] if n else x
        d_x, d_weights = new(*a.shape), tuple(grads.get(f"{name}_l{n}") for name in _reference_core._NAMES)
        tape = a, at(states[0], n), at(states[1], n), hidden[n], at(cells, n), at(gates, n)
        filled = d_x, d_h_0[n], at(d_c_0, n), d_weights, steps[0][n], at(steps[1], n)
        how = *rows, seeds[n], *(draws[1:] or (0,)), step_clip, counted[0][n], counted[1][n]
        given = d_output, at(errors[1], n), at(errors[2], n)
        _core.backward(cell, 2, layer._weights[n], *tape, *given, *filled, *how)
        d_output = d_x
    return [
        hidden,
        h_n,
        c_n,
        hidden[-1],
        h_n,
        c_n,
        cells,
        gates,
        d_x,
        d_h_0,
        d_c_0,
        grads.flat,
        *steps,
        *counted,
    ]


@pytest.mark.parametrize("shape", [(6, 5, 4), (40, 1, 33), (0, 3, 2), (5, 2, 0), (90, 33, 20)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("how", ["plain", "all"])
@pytest.mark.parametrize("L", [1, 2, 4])
def test_the_same_as_calls(shape, dtype, kind, how, L):
    T, B, I = shape
    layer = LAYERS[kind](I, dtype=dtype, num_layers=L)
    layout, x = layer._layout, draw(T, B, I, dtype=dtype)
    has_c, W, H = layout.has_cell_state, layout.width, layout.hidden_size
    states, errors, rows, draws, step_clip = (None, None), (None, None, None), (None, None), (), None
    if how == "all":
        of_states = lambda: (draw(L, B, W, dtype=dtype), draw(L, B, H, dtype=dtype) if has_c else None)  # noqa: E731
        states, errors = of_states(), (draw(T, B, W, dtype=dtype), *of_states())
        rows = np.sort(RNG.integers(0, T + 1, B))[::-1].astype(np.int64), RNG.random((T, B)) < 0.1
        draws = ([11, 22, 33, 44][:L], 3) if layout.draws else ()
        step_clip = 0.5, 0.5 if has_c else np.inf, 0.1
    given = layer, x, states, errors, rows, draws, step_clip
    mine, calls = by_one_call(_core, *given), by_calls(*given)
    for n, (found, expected) in enumerate(zip(mine, calls, strict=True)):
        assert (found is None) == (expected is None), n
        if found is not None:
            np.testing.assert_array_equal(found, expected, f"result {n}", strict=True)
    for n, (found, expected) in enumerate(zip(mine, by_one_call(_reference_core, *given), strict=True)):
        assert (found is None) == (expected is None), n
        if (
            found is not None and n != len(mine) - 2
        ):  # counts of what stands at a bound may differ by rounding
            tolerance = 2e-3 if dtype is np.float32 else 1e-10
            np.testing.assert_allclose(found, expected, tolerance, tolerance, err_msg=f"result {n}")


@pytest.mark.parametrize("core", [_core, _reference_core])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(9, 5, 4), (30, 33, 20), (4, 2, 0)])
@pytest.mark.parametrize("L", [1, 2, 3])
def test_an_order(shape, dtype, core, L):
    """Rows of x and of the output stand as they came, states as they run; what no row reaches is zero."""
    T, B, I = shape
    layer = LAYERS["peephole, projection"](I, dtype=dtype, num_layers=L)
    x, order, lengths = (
        draw(T, B, I, dtype=dtype),
        RNG.permutation(B),
        np.sort(RNG.integers(0, T + 1, B))[::-1],
    )
    states, lengths = (draw(L, B, 3, dtype=dtype), draw(L, B, 7, dtype=dtype)), lengths.astype(np.int64)
    cell, weights = _program.cell_of(core, layer._layout.cell), layer._weights
    for b in range(B):  # never read
        x[lengths[b] :, order[b]] = np.nan
    given = cell, 2, weights, None, x, *states, False, lengths, None, None, 0
    output, h_n, c_n, *_ = core.forward_layers(*given, order)
    ran = np.ascontiguousarray(x[:, order])
    expected = core.forward_layers(*given[:4], ran, *given[5:])
    np.testing.assert_array_equal(output[:, order], expected[0], strict=True)
    np.testing.assert_array_equal(h_n, expected[1], strict=True)
    np.testing.assert_array_equal(c_n, expected[2], strict=True)

    steps = [core.forward_layers(*given[:7], True, *given[8:], order)]
    steps.append(core.forward_layers(*given[:4], ran, *given[5:7], True, *given[8:]))
    np.testing.assert_array_equal(steps[0][0][:, order], steps[1][0], strict=True)
    first, *tape = steps[0][3:]
    np.testing.assert_array_equal(first, np.nan_to_num(ran, nan=0.0), strict=True)
    for array, other in zip((*steps[0][1:3], *tape), (*steps[1][1:3], *steps[1][4:]), strict=True):
        np.testing.assert_array_equal(array, other, strict=True)
    d_output, flats = draw(T, B, 3, dtype=dtype), [np.empty_like(layer.parameters.flat) for _ in range(2)]
    for b in range(B):
        d_output[lengths[b] :, order[b]] = np.nan
    how = lengths, None, None, 0, None, None, None, None, None, None
    found = core.backward_layers(
        cell, 2, weights, first, *states, *tape, d_output, *states, True, flats[0], *how, order
    )
    errors = np.ascontiguousarray(d_output[:, order]), *states
    expected = core.backward_layers(
        cell, 2, weights, ran, *states, *steps[1][4:], *errors, True, flats[1], *how
    )
    np.testing.assert_array_equal(found[0][:, order], expected[0], strict=True)
    for array, other in zip((*found[1:], flats[0]), (*expected[1:], flats[1]), strict=True):
        np.testing.assert_array_equal(array, other, strict=True)


@pytest.mark.parametrize("core", [_core, _reference_core])
def test_no_rows(core):
    layer = bptt.LSTM(3, 4, seed=0)
    cell, x = _program.cell_of(core, layer._layout.cell), np.zeros((5, 0, 3), np.float32)
    found = core.forward_layers(cell, 2, layer._weights, None, x, None, None, True)
    assert found[3] is x
    assert [a.shape for a in found] == [
        (5, 0, 4),
        (1, 0, 4),
        (1, 0, 4),
        (5, 0, 3),
        (1, 5, 0, 4),
        (1, 5, 0, 4),
        (1, 5, 0, 4, 4),
    ]
    given = x, None, None, *found[4:], None, None, None, True
    slopes = core.backward_layers(cell, 2, layer._weights, *given, layer.parameters.empty_like().flat)
    assert [a.shape for a in slopes] == [(5, 0, 3), (1, 0, 4), (1, 0, 4)]


def test_bad_arguments_raise():
    layer = bptt.LSTM(3, 4, seed=0)
    cell, weights = _program.cell_of(_core, layer._layout.cell), layer._weights
    x, state, flat = np.zeros((5, 2, 3), np.float32), np.zeros((1, 2, 4), np.float32), layer.parameters.flat
    with pytest.raises(TypeError, match=r"x: expected float32, got float64"):
        _core.forward_layers(cell, 2, weights, None, x.astype(np.float64), None, None, True)
    with pytest.raises(ValueError, match=r"x: expected 30 contiguous elements"):
        _core.forward_layers(
            cell, 2, weights, None, np.zeros((5, 2, 4), np.float32)[..., :3], None, None, True
        )
    with pytest.raises(TypeError, match="list"):
        _core.forward_layers(cell, 2, weights, None, [[[1.0] * 3]], None, None, True)
    for bad, error in (
        (np.array([1]), ValueError),
        (np.array([2, 0]), ValueError),
        (np.array([1.0, 0]), TypeError),
    ):
        lengths = np.array([5, 3])
        with pytest.raises(error):
            _core.forward_layers(cell, 2, weights, None, x, None, None, True, lengths, None, None, 0, bad)
    with pytest.raises(TypeError, match="x: expected an ndarray, got NoneType"):
        _core.forward_layers(cell, 2, weights, None, None, None, None, True)
    with pytest.raises(TypeError, match="packs: expected what pack"):
        _core.forward_layers(cell, 2, None, [None], x, None, None, True)
    with pytest.raises(ValueError, match="seeds: expected one for each of 2 layers, got 1"):
        _core.forward_layers(cell, 2, bptt.LSTM(3, 4, 2)._weights, None, x, None, None, True, None, None, [1])
    for bad, error in ((None, TypeError), (np.float32(1), TypeError), (np.zeros((), np.float32), ValueError)):
        with pytest.raises(error, match="weight_hh: expected"):
            _core.forward_layers(cell, 2, [(weights[0][0], bad, *weights[0][2:])], None, x, None, None, True)
    with pytest.raises(ValueError, match="expected at least one layer"):
        _core.forward_layers(cell, 2, [], None, x, None, None, True)
    with pytest.raises(ValueError, match=r"x: expected 3 axes, got shape \(30,\)"):
        _core.forward_layers(cell, 2, weights, None, np.zeros(30, np.float32), None, None, True)
    for other in (
        bptt.LSTM(3, 4),
        bptt.LSTM(4, 5),
        bptt.LSTM(4, 4, proj_size=2),
        bptt.LSTM(4, 4, dtype=np.float64),
    ):
        with pytest.raises(ValueError, match="layer 1: expected the sizes and the dtype of the first"):
            _core.forward_layers(cell, 2, [*weights, *other._weights], None, x, None, None, True)
    with pytest.raises(ValueError, match=r"h_0: expected 8 contiguous elements"):
        _core.forward_layers(cell, 2, weights, None, x, state[:, :1], None, True)
    _, _, _, *kept = _core.forward_layers(cell, 2, weights, None, x, state, state, True)
    tape = kept[0], state, state, *kept[1:]
    for bad, error, message in (
        (np.zeros(flat.size - 1, np.float32), ValueError, f"flat: expected {flat.size} contiguous elements"),
        (np.zeros(flat.size, np.float64), TypeError, "flat: expected float32, got float64"),
        (None, TypeError, "flat: expected an ndarray, got NoneType"),
        (np.zeros(2 * flat.size, np.float32)[::2], ValueError, f"flat: expected {flat.size} contiguous"),
    ):
        with pytest.raises(error, match=message):
            _core.backward_layers(cell, 2, weights, *tape, None, None, None, True, bad)
    with pytest.raises(ValueError, match=r"d_output: expected shape \(5, 2, 4\), got \(5, 2, 3\)"):
        _core.backward_layers(cell, 2, weights, *tape, x, None, None, True, flat.copy())
    with pytest.raises(ValueError, match=r"gates: expected 160 contiguous elements"):
        _core.backward_layers(
            cell, 2, weights, *tape[:5], tape[5][:, :1], None, None, None, True, flat.copy()
        )


def test_views_of_gradients_are_made_when_asked_for():
    layer = bptt.LSTM(3, 4, seed=0)
    tape = layer.forward(np.ones((5, 2, 3), np.float32))
    found = layer.backward(tape, np.ones_like(tape.output)).parameters
    assert found._named is None
    assert list(found) == list(layer.parameters)
    assert len(found) == 4
    assert found._named is None
    found["bias_ih_l0"][:] = 7
    assert found["bias_ih_l0"] is found["bias_ih_l0"]
    assert (found.flat == 7).sum() >= 16
    assert np.shares_memory(found["weight_hh_l0"], found.flat)
