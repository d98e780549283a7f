"""Stacked and bidirectional layers, unequal lengths, resets: against torch, the reference, each other."""

import copy
import pickle

import numpy as np
import pytest

import bptt

SHAPES = [(7, 5, 3, 4), (12, 9, 6, 21), (1, 1, 2, 3), (5, 33, 4, 17), (20, 2, 1, 40), (9, 4, 70, 67)]
FORMS = [(1, False), (2, False), (1, True), (3, True)]
CELLS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True}),
    "options": (
        bptt.LSTM,
        {
            "peephole": True,
            "coupled": True,
            "cell_clip": 0.7,
            "activations": ("hard_sigmoid", "softsign", "identity"),
        },
    ),
    "relu cell": (bptt.LSTM, {"cell_clip": 0.5, "activations": ("sigmoid", "relu", "softsign")}),
    "gru": (bptt.GRU, {}),
    "tanh": (bptt.RNN, {}),
    "relu": (bptt.RNN, {"nonlinearity": "relu"}),
    "identity": (bptt.RNN, {"nonlinearity": "identity"}),
}


def draw(rng, *shape):
    return rng.standard_normal(shape)


def case(seed, shape, layers, bidirectional, dtype=np.float64, cell="lstm", **settings):
    """Return a layer with weights away from zero, an input, initial states, and the generator."""
    T, B, I, H = shape
    rng = np.random.default_rng(seed)
    kind, of_cell = CELLS[cell]
    settings |= of_cell
    layer = kind(I, H, layers, bidirectional=bidirectional, dtype=dtype, seed=seed, **settings)
    parts = layers * (1 + bidirectional)
    x = draw(rng, T, B, I).astype(dtype)
    state = tuple(draw(rng, parts, B, H).astype(dtype) for _ in ("hc" if kind is bptt.LSTM else "h"))
    return layer, x, state, rng


def given_state(states):
    """Return the pair, or the one of a cell without a cell state, or None."""
    return states[0] if states is not None and len(states) == 1 else states


def pair(state):
    """Return what a call returned as a tuple."""
    return state if isinstance(state, tuple) else (state,)


def train(layer, x, state, errors, d_state, **spans):
    """Return everything that a training step gives, by name."""
    tape = layer.forward(x, given_state(state), **spans)
    gradients = layer.backward(tape, errors, given_state(d_state), steps=True)
    found = {"output": tape.output, "hidden": tape.hidden, "cells": tape.cells, "gates": tape.gates}
    found |= {"d_x": gradients.input, "d_hidden": gradients.hidden, "d_cells": gradients.cells}
    for name, array, gradient in zip("hc", pair(tape.state), pair(gradients.state), strict=False):
        found |= {f"{name}_n": array, f"d_{name}_0": gradient}
    found |= {f"d_{name}": array for name, array in gradients.parameters.items()}
    return {name: array for name, array in found.items() if array is not None}


def assert_close(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name in found:
        size = np.abs(expected[name]).max() if expected[name].size else 0
        np.testing.assert_allclose(
            found[name], expected[name], rtol=0, atol=tolerance * max(1, size), err_msg=name
        )


def spans_of(rng, T, B, lengths, resets):
    spans = {}
    if lengths:
        spans["lengths"] = rng.integers(0, T + 1, B)
    if resets:
        spans["resets"] = rng.random((T, B)) < 0.2
    return spans


@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "relu"])
def test_against_torch(cell, layers, bidirectional, packed):
    torch = pytest.importorskip("torch")
    T, B, I, H = 8, 6, 5, 7
    layer, x, state, rng = case(3, (T, B, I, H), layers, bidirectional, cell=cell)
    lengths = np.array([3, 8, 1, 5, 8, 2]) if packed else None
    errors, d_state = draw(rng, T, B, H * (1 + bidirectional)), tuple(draw(rng, *s.shape) for s in state)
    kind = getattr(torch.nn, type(layer).__name__)
    settings = CELLS[cell][1]
    twin = kind(I, H, layers, bidirectional=bidirectional, dtype=torch.float64, **settings)
    twin.load_state_dict({name: torch.from_numpy(a) for name, a in layer.state_dict().items()})
    inputs = [torch.from_numpy(a).requires_grad_() for a in (x, *state)]
    given = inputs[0]
    if packed:
        given = torch.nn.utils.rnn.pack_padded_sequence(given, torch.tensor(lengths), enforce_sorted=False)
    output, states = twin(given, given_state(tuple(inputs[1:])))
    if packed:
        output, _ = torch.nn.utils.rnn.pad_packed_sequence(output, total_length=T)
    loss = (output * torch.from_numpy(errors)).sum()
    loss = loss + sum((a * torch.from_numpy(b)).sum() for a, b in zip(pair(states), d_state, strict=True))
    loss.backward()
    found = train(layer, x, state, errors, d_state, lengths=lengths)
    expected = {"output": output, "d_x": inputs[0].grad}
    for name, array, initial in zip("hc", pair(states), inputs[1:], strict=False):
        expected |= {f"{name}_n": array, f"d_{name}_0": initial.grad}
    expected |= {f"d_{name}": p.grad for name, p in twin.named_parameters()}
    assert_close(
        {name: found[name] for name in expected}, {k: v.detach().numpy() for k, v in expected.items()}, 1e-12
    )
    called = layer(x, given_state(state), lengths=lengths)
    np.testing.assert_array_equal(called[0], found["output"])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("spans", ["lengths", "resets", "both", "none"])
@pytest.mark.parametrize(("layers", "bidirectional"), FORMS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cell", CELLS)
def test_against_the_reference(cell, shape, layers, bidirectional, spans, threads):
    seed = sum(shape) + layers
    for dtype, tolerance in ((np.float32, 2e-5), (np.float64, 1e-12)):
        layer, x, state, rng = case(seed, shape, layers, bidirectional, dtype, cell)
        if cell in ("relu", "identity"):  # no saturation holds the values down
            layer.parameters.flat[...] *= 0.5
        T, B, _, H = shape
        given = spans_of(rng, T, B, spans in ("lengths", "both"), spans in ("resets", "both"))
        errors = draw(rng, T, B, H * (1 + bidirectional)).astype(dtype)
        d_state = tuple(draw(rng, *s.shape).astype(dtype) for s in state)
        exact = layer.astype(np.float64)
        with bptt.backend("reference"):
            wide = [a.astype(np.float64) for a in (x, *state, errors, *d_state)]
            n = 1 + len(state)
            expected = train(exact, wide[0], tuple(wide[1:n]), wide[n], tuple(wide[n + 1 :]), **given)
        for split in (0, 2, 3):
            for hoist in (0, 1, 2):
                bptt._core.plan_hint(split, hoist)
                try:
                    with bptt.num_threads(threads):
                        found = train(layer, x, state, errors, d_state, **given)
                        assert_close(found, expected, tolerance)
                        np.testing.assert_array_equal(
                            layer(x, given_state(state), **given)[0], found["output"]
                        )
                        engine = layer.freeze()
                        output, states = engine(x, given_state(state), **given)
                finally:
                    bptt._core.plan_hint(0, 0)
                np.testing.assert_array_equal(output, found["output"])
                for name, array in zip("hc", pair(states), strict=False):
                    np.testing.assert_array_equal(array, found[f"{name}_n"])


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("variant", bptt.variants())
def test_every_variant(variant, cell):
    active = bptt.active_variant()
    layer, x, state, rng = case(1, (9, 11, 5, 37), 2, True, np.float32, cell)
    given = spans_of(rng, 9, 11, True, True)
    errors, d_state = (
        draw(rng, 9, 11, 74).astype(np.float32),
        tuple(draw(rng, *s.shape).astype("f") for s in state),
    )
    with bptt.backend("reference"):
        expected = train(layer.astype(np.float64), x, state, errors, d_state, **given)
    try:
        bptt.use_variant(variant)
        assert_close(train(layer, x, state, errors, d_state, **given), expected, 2e-5)
    finally:
        bptt.use_variant(active)


@pytest.mark.parametrize("cell", ["peephole", "options", "relu cell", "gru", "tanh", "identity"])
def test_reference_by_finite_differences(cell):
    """Lengths and resets together, in the specification itself."""
    layer, x, state, rng = case(5, (5, 4, 2, 3), 2, True, cell=cell)
    given = {"lengths": np.array([2, 5, 0, 4]), "resets": rng.random((5, 4)) < 0.3}
    errors, d_state = draw(rng, 5, 4, 6), tuple(draw(rng, *s.shape) for s in state)

    def loss():
        output, states = layer(x, given_state(state), **given)
        return (output * errors).sum() + sum(
            (a * b).sum() for a, b in zip(pair(states), d_state, strict=True)
        )

    with bptt.backend("reference"):
        found = train(layer, x, state, errors, d_state, **given)
        pairs = [(x, found["d_x"]), *((a, found[f"d_{n}_0"]) for n, a in zip("hc", state, strict=False))]
        pairs += [(layer.parameters[name], found[f"d_{name}"]) for name in layer.parameters]
        for array, gradient in pairs:
            for index in rng.choice(array.size, min(array.size, 12), replace=False):
                at = np.unravel_index(index, array.shape)
                keep, step = array[at], 1e-5
                array[at] = keep + step
                above = loss()
                array[at] = keep - step
                slope = (above - loss()) / (2 * step)
                array[at] = keep
                assert abs(slope - gradient[at]) < 1e-8 * max(1, abs(slope))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh"])
def test_bits_of_a_row_are_those_of_the_row_alone(cell, bidirectional):
    layer, x, _, rng = case(2, (13, 21, 6, 24), 2, bidirectional, np.float32, cell)
    lengths = rng.integers(0, 14, 21)
    for threads in (1, 2):
        with bptt.num_threads(threads):
            output, states = layer(x, lengths=lengths)
        for b, n in enumerate(lengths):
            alone, states_alone = layer(x[:n, b : b + 1])
            np.testing.assert_array_equal(output[:n, b], alone[:, 0])
            for found, expected in zip(pair(states), pair(states_alone), strict=True):
                np.testing.assert_array_equal(found[:, b], expected[:, 0])
            assert not output[n:, b].any()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("split", [0, 1, 2, 3])
@pytest.mark.parametrize("B", [1, 3, 33])
def test_rows_of_one_length_are_a_shorter_call(B, split, cell):
    T, n = 19, 16
    layer, x, state, rng = case(B, (T, B, 6, 13), 1, False, np.float64, cell)
    errors, d_state = draw(rng, T, B, 13), tuple(draw(rng, *s.shape) for s in state)
    x[n:] = errors[n:] = np.nan
    bptt._core.plan_hint(split)
    try:
        with bptt.num_threads(2):
            found = train(layer, x, state, errors, d_state, lengths=[n] * B)
            expected = train(layer, x[:n], state, errors[:n], d_state)
    finally:
        bptt._core.plan_hint()
    for name in ("output", "d_x"):
        assert not found[name][n:].any()
        found[name] = found[name][:n]
    names = [name for name in expected if name in found and expected[name].shape == found[name].shape]
    assert {"output", "d_x", "h_n", "d_weight_hh_l0", "d_h_0"} <= {*names}
    assert_close({name: found[name] for name in names}, {name: expected[name] for name in names}, 1e-12)


@pytest.mark.parametrize("lengths", [None, [40, 0, 17]])
def test_directions_side_by_side_have_the_same_bits(lengths):
    layer, x, state, rng = case(3, (40, 3, 9, 64), 2, True, np.float32, "lstm")
    given = x, state, draw(rng, 40, 3, 128).astype(np.float32), None
    found = []
    for threads in (1, 2, 3, 4):
        with bptt.num_threads(threads):
            found.append(
                train(layer, *given, lengths=lengths) | {"inferred": layer(x, state, lengths=lengths)[0]}
            )
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(other[name], array, err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("B", [12, 25])
def test_padding_is_never_read(B, cell):
    layer, x, state, rng = case(4, (9, B, 5, 18), 2, True, np.float32, cell)
    lengths = np.resize([0, 9, 3, 3, 8, 1, 5, 9, 2, 0, 7, 4], B)
    errors = draw(rng, 9, B, 36).astype(np.float32)
    clean = train(layer, x, state, errors, None, lengths=lengths)
    for b, n in enumerate(lengths):
        x[n:, b], errors[n:, b] = np.nan, np.nan
    for order in (
        np.arange(B),
        np.argsort(-lengths),
    ):  # as it comes, and longest first: a few rows run as they stand then
        found = train(layer, x[:, order], tuple(s[:, order] for s in state), errors[:, order], None,
                      lengths=lengths[order])  # fmt: skip
        for name, array in found.items():
            assert np.isfinite(array).all(), name
        np.testing.assert_array_equal(found["d_x"], clean["d_x"][:, order])
        np.testing.assert_array_equal(found["output"], clean["output"][:, order])
        assert not any(found["d_x"][n:, b].any() for b, n in enumerate(lengths[order]))


def test_resets_are_episodes_on_their_own():
    layer, x, state, _ = case(6, (11, 3, 4, 10), 2, True, np.float32)
    resets = np.zeros((11, 3), bool)
    resets[[4, 7], 0], resets[0, 1], resets[9, 2] = True, True, True
    output, _ = layer(x, state, resets=resets)
    for b, starts in enumerate([(0, 4, 7), (0,), (0, 9)]):
        ends = (*starts[1:], 11)
        for start, end in zip(starts, ends, strict=True):
            part = x[start:end, b : b + 1]
            first = [np.zeros((4, 1, 10), np.float32) for _ in "hc"]
            for given, whole in zip(first, state, strict=True):
                if start == 0 and not resets[0, b]:
                    given[::2] = whole[::2, b : b + 1]
                if end == 11:
                    given[1::2] = whole[1::2, b : b + 1]
            # the layers mix directions, so whole episodes agree in the first layer only: compare that
            one = bptt.LSTM(4, 10, bidirectional=True)
            one.load_state_dict({k: v for k, v in layer.state_dict().items() if "_l0" in k})
            expected, _ = one(part, tuple(s[:2] for s in first))
            np.testing.assert_array_equal(layer.forward(x, state, resets=resets).hidden[0, start:end, b],
                                          expected[:, 0, :10])  # fmt: skip
            np.testing.assert_array_equal(layer.forward(x, state, resets=resets).hidden[1, start:end, b],
                                          expected[:, 0, 10:])  # fmt: skip
    assert output.shape == (11, 3, 20)


def test_no_gradient_crosses_a_reset():
    layer, x, state, _ = case(8, (6, 2, 3, 5), 2, False)
    resets = np.zeros((6, 2), bool)
    resets[3, 0] = True
    errors = np.zeros((6, 2, 5))
    errors[5] = 1
    found = train(layer, x, state, errors, None, resets=resets)
    assert not found["d_x"][:3, 0].any()
    assert found["d_x"][3:, 0].any()
    assert found["d_x"][:3, 1].any()
    assert not found["d_h_0"][:, 0].any()
    assert found["d_h_0"][:, 1].any()


def test_layouts():
    layer, x, state, _ = case(9, (6, 4, 3, 5), 2, True, np.float32)
    lengths = np.array([6, 2, 5, 3])
    expected, states = layer(x, state, lengths=lengths)
    twin = bptt.LSTM(3, 5, 2, bidirectional=True, batch_first=True)
    twin.load_state_dict(layer.state_dict())
    output, found = twin(x.transpose(1, 0, 2), state, lengths=lengths)
    np.testing.assert_array_equal(output, expected.transpose(1, 0, 2))
    np.testing.assert_array_equal(found, states)
    output, (h_n, _) = layer(x[:, 1], tuple(s[:, 1] for s in state), lengths=2)
    np.testing.assert_array_equal(output, expected[:, 1])
    np.testing.assert_array_equal(h_n, states[0][:, 1])


def test_dropout():
    layer, x, _, _ = case(10, (5, 30, 4, 40), 3, False, np.float32, dropout=0.25)
    plain = layer(x)[0]
    np.testing.assert_array_equal(layer.forward(x).output, plain)  # off without an rng
    first, second = layer.forward(x, rng=7), layer.forward(x, rng=np.random.default_rng(7))
    np.testing.assert_array_equal(first.output, second.output)
    assert (first.output != plain).any()
    masks = first._kept.masks
    assert len(masks) == 2
    for mask in masks:
        assert set(np.unique(mask)) == {np.float32(0), np.float32(1) / np.float32(0.75)}
        assert abs((mask == 0).mean() - 0.25) < 0.03
    with pytest.warns(UserWarning, match="dropout"):
        bptt.LSTM(2, 2, dropout=0.5)


def test_dropout_gradient():
    layer, x, _, rng = case(11, (4, 3, 2, 5), 2, True, dropout=0.4)
    errors = draw(rng, 4, 3, 10)
    gradients = layer.backward(layer.forward(x, rng=3), errors)
    for array, gradient in [
        (x, gradients.input),
        *((layer.parameters[n], gradients.parameters[n]) for n in layer.parameters),
    ]:
        at = tuple(rng.integers(0, n) for n in array.shape)
        keep = array[at]
        values = []
        for step in (1e-6, -1e-6):
            array[at] = keep + step
            values.append((layer.forward(x, rng=3).output * errors).sum())
        array[at] = keep
        assert abs((values[0] - values[1]) / 2e-6 - gradient[at]) < 1e-6


@pytest.mark.parametrize("batch", [None, 1, 4])
@pytest.mark.parametrize("layers", [1, 3])
@pytest.mark.parametrize("cell", CELLS)
def test_stream(cell, layers, batch):
    layer, x, _, _ = case(12, (9, batch or 1, 3, 20), layers, False, np.float32, cell)
    engine = layer.freeze()
    stream = engine.stream(batch)
    given = x if batch else x[:, 0]
    expected, _ = layer(given)
    rows = [stream.step(row) for row in given[:3]]
    rows += [stream.step(given[3], out=np.empty_like(rows[0]))]
    np.testing.assert_array_equal(np.stack(rows), expected[:4])
    kept = pickle.loads(pickle.dumps(stream))
    np.testing.assert_array_equal(stream.run(given[4:]), expected[4:])
    np.testing.assert_array_equal(kept.run(given[4:]), expected[4:])
    assert pair(stream.state)[0].shape == ((layers, batch, 20) if batch else (layers, 20))
    stream.reset()
    np.testing.assert_array_equal(stream.run(given), expected)
    before = stream.state
    with pytest.raises(ValueError, match="out: expected shape"):
        stream.step(given[0], out=np.empty(3, np.float32))
    with pytest.raises(ValueError, match="x: expected shape"):
        stream.step(given[0][..., :2])
    np.testing.assert_array_equal(stream.state, before)
    stream.state = before
    if batch:
        stream.reset(np.arange(batch) % 2 == 0)
        assert not pair(stream.state)[0][:, ::2].any()
        assert pair(stream.state)[0][:, 1::2].any() or batch == 1


def test_streams_are_unidirectional():
    with pytest.raises(ValueError, match="stream: a bidirectional layer"):
        bptt.LSTM(2, 3, bidirectional=True).freeze().stream()


@pytest.mark.parametrize("cell", CELLS)
def test_empty(cell):
    layer, *_ = case(0, (1, 1, 2, 3), 2, True, np.float32, cell)
    for T, B in ((0, 4), (4, 0), (0, 0)):
        x = np.zeros((T, B, 2), np.float32)
        for spans in ({}, {"lengths": np.zeros(B, int)}, {"resets": np.ones((T, B), bool)}):
            tape = layer.forward(x, **spans)
            gradients = layer.backward(tape, np.zeros((T, B, 6), np.float32))
            assert tape.output.shape == (T, B, 6)
            assert gradients.input.shape == x.shape
            assert not gradients.parameters.flat.any()
            assert pair(gradients.state)[0].shape == (4, B, 3)


def test_names_pickle_and_copies():
    layer = bptt.LSTM(3, 4, 2, bidirectional=True, peephole=True)
    ends = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"]
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole"]
    assert list(layer.parameters) == [kind + end for end in ends for kind in kinds]
    assert layer.parameters["weight_ih_l1"].shape == (16, 8)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        x = np.ones((3, 2, 3), np.float32)
        np.testing.assert_array_equal(twin(x)[0], layer(x)[0])
    assert repr(layer) == "LSTM(3, 4, num_layers=2, bidirectional=True, peephole=True)"
    assert pickle.loads(pickle.dumps(layer.freeze()))(x)[0].shape == (3, 2, 8)


@pytest.mark.parametrize(
    ("spans", "error", "message"),
    [
        ({"lengths": [1.0, 2.0]}, TypeError, "lengths: expected integers, got float64"),
        ({"lengths": [1, 2, 3]}, ValueError, r"lengths: expected shape \(B,\) = \(2,\), got \(3,\)"),
        ({"lengths": [1, 5]}, ValueError, "lengths: expected 0 to T = 4, got 5"),
        ({"lengths": [-1, 2]}, ValueError, "lengths: expected 0 to T = 4, got -1"),
        ({"resets": np.zeros((4, 2))}, TypeError, "resets: expected bool, got float64"),
        (
            {"resets": np.zeros((2, 4), bool)},
            ValueError,
            r"resets: expected shape \(T, B\) = \(4, 2\), got \(2, 4\)",
        ),
    ],
)
def test_bad_spans(spans, error, message):
    layer, x = bptt.LSTM(3, 4), np.zeros((4, 2, 3), np.float32)
    for call in (layer, layer.forward, layer.freeze()):
        with pytest.raises(error, match=message):
            call(x, **spans)


def test_states_of_cells_without_a_cell_state():
    layer, x = bptt.GRU(3, 4), np.zeros((5, 2, 3), np.float32)
    h_0 = np.ones((1, 2, 4), np.float32)
    with pytest.raises(TypeError, match="state: expected an array, h_0, got tuple of 2"):
        layer(x, (h_0, h_0))
    tape = layer.forward(x, h_0)
    assert tape.cells is None
    assert tape.gates.shape == (1, 5, 2, 3, 4)
    assert tape.state.shape == (1, 2, 4)
    tape = bptt.RNN(3, 4).forward(x)
    assert tape.cells is None
    assert tape.gates is None


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (
            bptt.RNN,
            {"nonlinearity": "sine"},
            "nonlinearity: expected one of tanh, relu, identity, got 'sine'",
        ),
    ],
)
def test_settings_of_cells(kind, setting, message):
    with pytest.raises(ValueError, match=message):
        kind(2, 3, **setting)


def test_a_shape_that_does_not_fit_is_spelled_for_the_cell():
    with pytest.raises(
        ValueError, match=r"weight_hh_l0: expected shape \(3\*H, H\) = \(12, 4\), got \(16, 4\)"
    ):
        bptt.GRU(3, 4).parameters["weight_hh_l0"] = np.zeros((16, 4))
    with pytest.raises(ValueError, match=r"weight_hh_l0: expected shape \(H, H\) = \(4, 4\), got \(16, 4\)"):
        bptt.RNN(3, 4).parameters["weight_hh_l0"] = np.zeros((16, 4))


@pytest.mark.parametrize(("T", "B"), [(0, 2), (3, 0), (0, 0)])
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh"])
def test_steps_of_nothing_in_two_directions(cell, T, B):
    layer, x, state, _ = case(0, (T, B, 3, 4), 2, True, cell=cell)
    tape = layer.forward(x, given_state(state))
    gradients = layer.backward(tape, np.ones((T, B, 8)), steps=True)
    assert tape.hidden.shape == gradients.hidden.shape == (4, T, B, 4)
    assert cell == "tanh" or tape.gates.shape == (4, T, B, 4 if cell == "lstm" else 3, 4)
    assert not gradients.parameters.flat.any()
