"""Stacks over pieces of time: the bits of one layer after the other, in less memory, two layers at a time."""

import itertools

import numpy as np
import pytest

import bptt
from bptt import _core, _waves

KINDS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True, "bias": False}),
    "projection": (bptt.LSTM, {"proj_size": 5}),
    "drawn": (bptt.LSTM, {"dropout": 0.3, "recurrent_dropout": 0.2, "zoneout": 0.1}),
    "gru": (bptt.GRU, {"dropout": 0.3}),
    "original gru": (bptt.GRU, {"reset_after": False}),
    "rnn": (bptt.RNN, {}),
}


def cut_finely(monkeypatch, rows):
    """Pieces of a few steps whatever the size, two layers side by side with few rows."""
    monkeypatch.setattr(_waves, "PIECE_FLOPS", 1.0)
    monkeypatch.setattr(_waves, "PIECE_BYTES", 900)
    monkeypatch.setattr(_waves, "FEW_ROWS", rows)


def everything(layer, x, state, errors, spans, rng):
    """Return what inference, training and the way back give, as one list of arrays."""
    output, last = layer(x, state, **spans)
    frozen, frozen_last = layer.freeze()(x, state, **spans)
    tape = layer.forward(x, state, rng=rng, **spans)
    gradients = layer.backward(tape, errors, steps=True)
    arrays = [
        output,
        frozen,
        tape.output,
        tape.hidden,
        gradients.parameters.flat,
        gradients.input,
        gradients.hidden,
    ]
    for states in (last, frozen_last, tape.state, gradients.state):
        arrays += states if isinstance(states, tuple) else [states]
    return [np.array(array) for array in arrays]


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("spans", [False, True])
@pytest.mark.parametrize("layers", [2, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_pieces(kind, layers, spans, backend, monkeypatch):
    T, B, I, H = 41, 3, 4, 9
    cell, settings = KINDS[kind]
    rng = np.random.default_rng(0)
    layer = cell(I, H, layers, seed=1, **settings)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    x, h_0 = draw(T, B, I), draw(layers, B, settings.get("proj_size") or H)
    state = (h_0, draw(layers, B, H)) if cell is bptt.LSTM else h_0
    errors = draw(*layer(x)[0].shape)
    given = {"lengths": np.array([17, 0, 41]), "resets": rng.random((T, B)) < 0.1} if spans else {}
    seed = 5 if kind == "drawn" or "dropout" in settings else None
    with bptt.backend(backend):
        expected = everything(layer, x, state, errors, given, seed)
        for rows, threads in ((0, 1), (0, 2), (3, 2), (3, 3)):
            with monkeypatch.context() as patch, bptt.num_threads(threads):
                cut_finely(patch, rows)
                for found, array in zip(
                    everything(layer, x, state, errors, given, seed), expected, strict=True
                ):
                    np.testing.assert_array_equal(found, array, err_msg=f"{rows} rows, {threads} threads")


def test_two_layers_at_a_time(monkeypatch):
    """One program, in which every call but those of the first and last pieces has company."""
    ran = []
    run = _core.run
    monkeypatch.setattr(_core, "run", lambda *stages: ran.append(stages) or run(*stages))
    layer, x = bptt.LSTM(4, 8, 2, seed=0), np.ones((64, 1, 4), np.float32)
    cut_finely(monkeypatch, 1)
    with bptt.num_threads(2):
        layer(x)
    (stages,) = ran
    assert [isinstance(stage, tuple) for stage in stages] == [False, *[True] * 15, False]


def test_pieces():
    few = {"row_bytes": 256, "weight_bytes": 100_000, "flops": 5e4}
    whole = lambda T: _waves.Pieces([(0, T)], False)  # noqa: E731
    assert _waves.pieces_of(100, 32, **few, threads=2, keeps=False) == whole(100)
    assert _waves.pieces_of(100, 1, **few, threads=1, keeps=False) == whole(100)
    assert _waves.pieces_of(10**6, 32, **few, threads=2, keeps=True) == whole(10**6)
    spans, beside = _waves.pieces_of(10**6, 32, **few, threads=2, keeps=False)
    assert not beside
    assert (spans[0], spans[-1][1]) == ((0, 2_000_000 // (32 * 256)), 10**6)
    assert all(a[1] == b[0] for a, b in itertools.pairwise(spans))
    spans, beside = _waves.pieces_of(1000, 1, **few, threads=2, keeps=True)
    assert beside
    assert 2 <= len(spans) <= 3  # no piece of less work than PIECE_FLOPS
    assert len(_waves.pieces_of(100_000, 1, **few, threads=3, keeps=True).spans) == 16
    assert not _waves.pieces_of(100_000, 1, **few, threads=4, keeps=True).beside
    for T, B in ((0, 1), (0, 0), (5, 0)):
        assert len(_waves.pieces_of(T, B, **few, threads=2, keeps=False).spans) <= 1


@pytest.mark.parametrize("shape", [(0, 1), (5, 0), (0, 0)])
def test_nothing_to_run(shape, monkeypatch):
    cut_finely(monkeypatch, 3)
    layer = bptt.GRU(2, 3, 2)
    output, state = layer(np.ones((*shape, 2), np.float32), np.ones((2, shape[1], 3), np.float32))
    assert output.shape == (*shape, 3)
    assert (state == 1).all() or shape[0]
