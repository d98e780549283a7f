"""Clipping inside the recursion: against autograd with hooks, between backends, and to the bit."""

import itertools
from functools import partial

import numpy as np
import pytest

import bptt

CELLS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True}),
    "options": (
        bptt.LSTM,
        {
            "peephole": True,
            "coupled": True,
            "cell_clip": 0.7,
            "activations": ("sigmoid", "softsign", "identity"),
        },
    ),
    "projection": (bptt.LSTM, {"peephole": True, "proj_size": 4, "proj_clip": 0.3, "zoneout": 0.2}),
    "gru": (bptt.GRU, {}),
    "reset before": (bptt.GRU, {"reset_after": False}),
    "tanh": (bptt.RNN, {}),
    "relu": (bptt.RNN, {"nonlinearity": "relu"}),
}
KEYS = ("hidden", "cell", "gates")
CLIPS = [
    {"hidden": 0.3},
    {"cell": 0.2},
    {"gates": 0.1},
    {"hidden": 0.4, "cell": 0.5, "gates": 0.2},
    {"hidden": 0},
]
EVERY = pytest.mark.parametrize("name", bptt.variants())


def clips_of(cell):
    """Bounds that this cell can have."""
    pair = CELLS[cell][0] is bptt.LSTM
    kept = [{key: v for key, v in clip.items() if pair or key != "cell"} for clip in CLIPS]
    return [clip for clip in kept if clip]


def case(cell, T=9, B=3, I=4, H=6, layers=1, bidirectional=False, dtype=np.float64, seed=0):
    """Return a layer with large recurrent weights, input, states and errors."""
    rng = np.random.default_rng(seed)
    kind, settings = CELLS[cell]
    layer = kind(I, H, layers, bidirectional=bidirectional, dtype=dtype, seed=seed, **settings)
    layer.parameters.flat[...] *= 2
    parts, count = layers * (1 + bidirectional), 1 + (kind is bptt.LSTM)
    draw = lambda *shape: rng.standard_normal(shape).astype(dtype)  # noqa: E731
    P = settings.get("proj_size", H)
    states = [tuple(draw(parts, B, width) for width in (P, H)[:count]) for _ in range(2)]
    return layer, draw(T, B, I), states[0], draw(T, B, P * (1 + bidirectional)), states[1]


def one(states):
    return states if len(states) == 2 else states[0]


def pair(state):
    return state if isinstance(state, tuple) else (state,)


def everything(gradients):
    """Return all that a backward pass gives, by name."""
    found = {"input": gradients.input, **gradients.parameters}
    found |= {f"state {n}": array for n, array in enumerate(pair(gradients.state))}
    found |= {"hidden": gradients.hidden, "cells": gradients.cells}
    found |= {f"clipped {name}": counts for name, counts in (gradients.clipped or {}).items()}
    return {name: array for name, array in found.items() if array is not None}


class Autograd:
    """The layer's equations in torch, a hook wherever something is clipped; row by row."""

    def __init__(self, torch, layer, clip, T):
        self.torch, self.layer, self.clip = torch, layer, clip
        self.parameters = {
            n: torch.from_numpy(a.copy()).requires_grad_() for n, a in layer.parameters.items()
        }
        D = 1 + layer.bidirectional
        self.counts = {name: np.zeros((layer.num_layers * D, T), np.int64) for name in clip}

    def clipped(self, what, part, t, value):
        bound = self.clip.get(what)
        if bound is None:
            return value
        value = value * 1

        def hook(gradient):
            self.counts[what][part, t] += int((gradient.abs() > bound).sum())
            return gradient.clamp(-bound, bound)

        value.register_hook(hook)
        return value

    def step(self, part, suffix, t, x, state):
        """One step from the states handed over; the gates by name i, f, .. in local variables."""
        torch, layer = self.torch, self.layer
        own = lambda name: self.parameters[f"{name}_{suffix}"]  # noqa: E731
        act = {"sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": torch.relu, "identity": lambda z: z}
        act["softsign"] = torch.nn.functional.softsign
        gate = partial(self.clipped, "gates", part, t)
        a, b = own("weight_ih") @ x + own("bias_ih"), own("weight_hh") @ state[0] + own("bias_hh")
        if isinstance(layer, bptt.RNN):
            return (act[layer.nonlinearity](gate(a + b)),)
        if isinstance(layer, bptt.GRU):
            (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3), b.chunk(3)
            r, z = torch.sigmoid(gate(a_r + b_r)), torch.sigmoid(gate(a_z + b_z))
            if not layer.reset_after:
                W, bias = own("weight_hh").chunk(3)[2], own("bias_hh").chunk(3)[2]
                b_n = W @ (r * state[0]) + bias
            n = torch.tanh(gate(a_n + (r * b_n if layer.reset_after else b_n)))
            return ((1 - z) * n + z * state[0],)
        inner, candidate, outer = (act[name] for name in layer.activations)
        (z_i, z_f, z_g, z_o), c = (a + b).chunk(4), state[1]
        p_i, p_f, p_o = own("weight_peephole") if layer.peephole else (0, 0, 0)
        i, g = inner(gate(z_i + p_i * c)), candidate(gate(z_g))
        f = 1 - i if layer.coupled else inner(gate(z_f + p_f * c))
        c = f * c + i * g
        c = c if layer.cell_clip is None else c.clamp(-layer.cell_clip, layer.cell_clip)
        h = inner(gate(z_o + p_o * c)) * outer(c)
        if layer.proj_size:
            h = own("weight_hr") @ h
        h = h if layer.proj_clip is None else h.clamp(-layer.proj_clip, layer.proj_clip)
        kept = layer.zoneout
        return tuple((1 - kept) * new + kept * old for new, old in zip((h, c), state, strict=True))

    def row(self, x, state, resets):
        """Run all layers over one row (n, I); return the output and the last states of each part."""
        D, last = 1 + self.layer.bidirectional, []
        for level in range(self.layer.num_layers):
            outputs = []
            for d in range(D):
                part, suffix = level * D + d, f"l{level}" + "_reverse" * d
                now, found = tuple(s[part] for s in state), [None] * len(x)
                for t in reversed(range(len(x))) if d else range(len(x)):
                    handed = [self.clipped(what, part, t, s) for what, s in zip(KEYS, now, strict=False)]
                    anew = t + 1 < len(x) and resets[t + 1] if d else resets[t]
                    now = self.step(part, suffix, t, x[t], [0 * s for s in now] if anew else handed)
                    found[t] = now[0]
                outputs.append(self.torch.stack(found) if found else x.new_zeros(0, len(now[0])))
                last.append(now)
            x = self.torch.cat(outputs, 1)
        return x, last


def by_autograd(layer, x, state, errors, d_state, clip, lengths=None, resets=None):
    torch = pytest.importorskip("torch")
    T, B = x.shape[:2]
    model = Autograd(torch, layer, clip, T)
    given = torch.from_numpy(x).requires_grad_()
    first = [torch.from_numpy(s).requires_grad_() for s in state]
    for b in range(B):
        n = T if lengths is None else lengths[b]
        anew = np.zeros(T, bool) if resets is None else resets[:, b]
        output, last = model.row(given[:n, b], [s[:, b] for s in first], anew)
        loss = (output * torch.from_numpy(errors[:n, b])).sum()
        for part, states in enumerate(last):
            loss = loss + sum(
                (s * torch.from_numpy(d[part, b])).sum() for s, d in zip(states, d_state, strict=True)
            )
        loss.backward()
    found = {"input": given.grad, **{name: p.grad for name, p in model.parameters.items()}}
    found |= {f"state {n}": s.grad for n, s in enumerate(first)}
    found = {name: array.numpy() for name, array in found.items()}
    return found | {f"clipped {name}": counts for name, counts in model.counts.items()}


def assert_agree(gradients, expected):
    found = everything(gradients)
    for name, array in expected.items():
        if name.startswith("clipped"):
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        else:
            np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("cell", CELLS)
def test_against_autograd(cell, backend):
    layer, x, state, errors, d_state = case(cell)
    tape = layer.forward(x, one(state))
    free = layer.backward(tape, errors, one(d_state))
    for clip in clips_of(cell):
        found = layer.backward(tape, errors, one(d_state), step_clip=clip, steps=True)
        assert_agree(found, by_autograd(layer, x, state, errors, d_state, clip))
        assert not np.allclose(found.parameters.flat, free.parameters.flat), clip
        assert all(counts.dtype == np.int64 for counts in found.clipped.values())
        assert len(clip) > 1 or found.clipped[next(iter(clip))].any()


@pytest.mark.parametrize("cell", ["peephole", "gru", "tanh"])
@pytest.mark.parametrize(("layers", "bidirectional"), [(2, False), (2, True)])
def test_stacks_directions_lengths_and_resets(cell, layers, bidirectional, backend):
    layer, x, state, errors, d_state = case(cell, B=4, layers=layers, bidirectional=bidirectional, seed=1)
    lengths = np.array([5, 9, 0, 7])
    resets = np.zeros((9, 4), bool)
    resets[[0, 3, 3, 6], [1, 1, 3, 3]] = True
    clip = clips_of(cell)[-2]
    for spans in ({}, {"lengths": lengths}, {"resets": resets}, {"lengths": lengths, "resets": resets}):
        found = layer.backward(
            layer.forward(x, one(state), **spans), errors, one(d_state), step_clip=clip, steps=True
        )
        assert_agree(found, by_autograd(layer, x, state, errors, d_state, clip, **spans))


@pytest.mark.parametrize("cell", ["peephole", "gru", "relu"])
@pytest.mark.parametrize(("k1", "k2"), [(2, 5), (4, 4), (5, 2), (1, 30)])
def test_truncated(cell, k1, k2, backend):
    """The sum over blocks, each a sequence of its own; what its first step hands on reaches nothing."""
    layer, x, state, errors, d_state = case(cell, layers=2, seed=2)
    T, clip = len(x), clips_of(cell)[-2]
    whole = layer.forward(x, one(state))
    found = layer.backward(whole, errors, one(d_state), truncate=(k1, k2), step_clip=clip, steps=True)
    total = {name: np.zeros_like(array) for name, array in everything(found).items()}
    for start in range(0, T, k1):
        end = min(start + k1, T)
        begin = max(0, end - k2)
        entry = one(state) if begin == 0 else layer(x[:begin], one(state))[1]
        inside = errors[begin:end].copy()
        inside[: max(0, start - begin)] = 0
        last = one(d_state) if end == T else None
        tape = layer.forward(x[begin:end], entry)
        for name, array in everything(layer.backward(tape, inside, last, step_clip=clip, steps=True)).items():
            if name.startswith("clipped"):
                total[name][:, begin:end] += array
                if begin and "gates" not in name:
                    total[name][:, begin] -= array[:, 0]
            elif name in ("hidden", "cells"):
                total[name][:, begin:end] += array
            elif name == "input":
                total[name][begin:end] += array
            elif begin == 0 or not name.startswith("state"):
                total[name] += array
    for name, array in everything(found).items():
        np.testing.assert_allclose(array, total[name], rtol=1e-9, atol=1e-12, err_msg=name)


@EVERY
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variants_and_bits(cell, dtype, name):
    """Every variant agrees with the reference; threads, splits and the batch around change no bit."""
    core, before = pytest.importorskip("bptt._core"), bptt.active_variant()
    clip = clips_of(cell)[-2]
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    for T, B, H in ((5, 7, 5), (7, 1, 40), (3, 18, 37)):
        layer, x, state, errors, d_state = case(cell, T, B, 3, H, dtype=dtype)
        with bptt.backend("reference"):
            tape = layer.forward(x, one(state))
            expected = everything(layer.backward(tape, errors, one(d_state), step_clip=clip, steps=True))
        serial = None
        try:
            bptt.use_variant(name)
            for threads, split in itertools.product((1, 2), (0, 1, 2, 3)):
                core.plan_hint(split)
                with bptt.num_threads(threads):
                    tape = layer.forward(x, one(state))
                    found = everything(layer.backward(tape, errors, one(d_state), step_clip=clip, steps=True))
                serial = serial or found
                for key, array in found.items():
                    assert array.tobytes() == serial[key].tobytes(), (key, threads, split)
            row = layer.forward(x[:, :1].copy(), one(tuple(s[:, :1] for s in state)))
            alone = layer.backward(row, errors[:, :1], one(tuple(d[:, :1] for d in d_state)), step_clip=clip)
        finally:
            core.plan_hint()
            bptt.use_variant(before)
        np.testing.assert_array_equal(alone.input, serial["input"][:, :1])
        for key, array in expected.items():
            if not key.startswith("clipped"):
                size = max(1.0, float(np.abs(array).max()))
                np.testing.assert_allclose(serial[key], array, atol=tolerance * size, err_msg=key)
            elif dtype == np.float64:  # in float32 an element near its bound may count here and not there
                np.testing.assert_array_equal(serial[key], array, err_msg=key)


@pytest.mark.parametrize("cell", CELLS)
def test_off_and_infinite_are_the_same_bits(cell, backend):
    layer, x, state, errors, d_state = case(cell, dtype=np.float32)
    tape = layer.forward(x, one(state))
    free = layer.backward(tape, errors, one(d_state), steps=True)
    assert free.clipped is None
    for clip in ({}, np.inf, {"hidden": np.inf, "gates": 1e300}):
        same = layer.backward(tape, errors, one(d_state), step_clip=clip, steps=True)
        for name, array in everything(free).items():
            np.testing.assert_array_equal(everything(same)[name], array, err_msg=name)


@pytest.mark.parametrize("cell", ["peephole", "gru", "tanh"])
def test_a_number_means_the_gates_and_nothing_exceeds_its_bound(cell, backend):
    layer, x, state, errors, d_state = case(cell, B=1, seed=4)
    tape = layer.forward(x, one(state))
    gates, same = (layer.backward(tape, errors, one(d_state), step_clip=c) for c in ({"gates": 0.05}, 0.05))
    np.testing.assert_array_equal(same.parameters.flat, gates.parameters.flat)
    assert same.clipped is None
    last = layer.backward(tape, errors, one(d_state), step_clip={"hidden": 0.01, "gates": 0.05}, steps=True)
    assert np.abs(pair(last.state)[0]).max() <= 0.01
    assert np.abs(last.hidden[0, :-1] - errors[:-1]).max() <= 0.01 + 1e-12
    np.testing.assert_allclose(last.hidden[0, -1], errors[-1] + d_state[0][0])  # given, so not clipped
    assert list(last.clipped) == ["hidden", "gates"]
    assert np.abs(last.parameters["bias_ih_l0"]).max() <= 0.05 * len(x)


def test_nothing_is_clipped_without_steps(backend):
    layer, _, state, _, d_state = case("peephole")
    tape = layer.forward(np.zeros((0, 3, 4)), one(state))
    found = layer.backward(
        tape, None, one(d_state), step_clip={"hidden": 0, "cell": 0, "gates": 0}, steps=True
    )
    for gradient, given in zip(found.state, d_state, strict=True):
        np.testing.assert_array_equal(gradient, given)
    assert found.clipped["cell"].shape == (1, 0)


@EVERY
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("cell", ["peephole", "gru", "tanh"])
def test_nan_stays_and_infinity_is_clipped(cell, dtype, name):
    before, clip = bptt.active_variant(), clips_of(cell)[-2]
    layer, x, state, errors, _ = case(cell, B=3, H=19, dtype=dtype)
    tape = layer.forward(x, one(state))
    errors[6, 1, :] = np.nan
    errors[6, 2, 3] = np.inf
    try:
        bptt.use_variant(name)
        found = layer.backward(tape, errors, step_clip=clip, steps=True)
    finally:
        bptt.use_variant(before)
    assert np.isnan(found.input[:7, 1]).all()
    assert np.isnan(found.hidden[0, :7, 1]).all()
    assert np.isfinite(found.input[:, 0]).all()
    assert np.isfinite(found.input[7:]).all()
    assert not np.isinf(found.input).any()
    if cell == "tanh":
        assert np.isfinite(found.input[:, 2]).all()


@pytest.mark.parametrize(
    ("step_clip", "error", "message"),
    [
        (-1.0, ValueError, "step_clip: expected a number at least 0, got -1.0"),
        (np.nan, ValueError, "step_clip: expected a number at least 0, got nan"),
        ("gates", TypeError, "step_clip: expected a number, got str 'gates'"),
        (True, TypeError, "step_clip: expected a number, got bool True"),
        ({"gates": None}, TypeError, "step_clip: expected a number, got NoneType None"),
        ({"weights": 1}, ValueError, "step_clip: expected keys among hidden, cell, gates, got 'weights'"),
        ({"cell": 1}, ValueError, "step_clip: 'cell' has no meaning in a layer without a cell state"),
    ],
)
def test_errors(step_clip, error, message):
    layer, x, *_ = case("gru")
    with pytest.raises(error, match=message):
        layer.backward(layer.forward(x), step_clip=step_clip)
