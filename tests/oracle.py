"""An oracle for every option of the cells: rows one by one, steps one by one, gradients by torch's autograd.

It shares nothing with the library but the names of a layer's settings and parameters: no masks for lengths,
no sorted or turned arrays, the generator in Python's integers.
"""

from typing import Any

import numpy as np
import pytest

WORD, LONG = 2**32, 2**64


def splitmix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) % LONG
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) % LONG
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) % LONG
    return z ^ z >> 31


def hit(seed: int, kind: int, t: int, n: int, p: float) -> bool:
    """Whether draw n of a kind at step t is below p."""
    key = splitmix(splitmix((seed + kind) % LONG) ^ t)
    x = (n % WORD ^ key % WORD) * 0x9E3779B1 % WORD
    x = ((x ^ x >> 15) + (key >> 32)) % WORD
    x = x * 0x85EBCA77 % WORD
    x = (x ^ x >> 13) * 0xC2B2AE3D % WORD
    return (x ^ x >> 16) < int(p * WORD)


def mask(seed: int, kind: int, t: int, row: int, width: int, p: float) -> Any:
    """1 where a unit of a row is hit, else 0, as a tensor."""
    import torch

    return torch.tensor([float(hit(seed, kind, t, row * width + j, p)) for j in range(width)]).double()


def activation(name: str) -> Any:
    import torch

    return {
        "sigmoid": torch.sigmoid,
        "hard_sigmoid": lambda z: torch.clamp(0.2 * z + 0.5, 0, 1),
        "tanh": torch.tanh,
        "relu": torch.relu,
        "softsign": torch.nn.functional.softsign,
        "identity": lambda z: z,
    }[name]


def held(value: Any, bound: float | None) -> Any:
    return value if bound is None else value.clamp(-bound, bound)


class Row:
    """One row of one part (layer and direction) on its way through time."""

    def __init__(self, layer: Any, weights: dict[str, Any], seed: int | None, row: int) -> None:
        self.layer, self.weights, self.seed, self.row = layer, weights, seed, row

    def product(self, name: str, value: Any) -> Any:
        """W value + b, by gate."""
        b = self.weights.get(f"bias_{name}", 0)
        gates = {"LSTM": 4, "GRU": 3}[type(self.layer).__name__]
        return (self.weights[f"weight_{name}"] @ value + b).chunk(gates)

    def step(self, x: Any, h: Any, c: Any, t: int, bump: tuple[Any, Any]) -> tuple[Any, Any]:
        """Return the next h and c; `bump` is added to both, to have the gradient that reaches them."""
        cell = self.gru if c is None else self.lstm
        return cell(x, h, c, t, bump)

    def gru(self, x: Any, h: Any, c: None, t: int, bump: tuple[Any, Any]) -> tuple[Any, None]:
        import torch

        in_r, in_z, in_n = self.product("ih", x)
        re_r, re_z, re_n = self.product("hh", h)
        r, z = torch.sigmoid(in_r + re_r), torch.sigmoid(in_z + re_z)
        n = torch.tanh(in_n + (r * re_n if self.layer.reset_after else self.product("hh", r * h)[2]))
        return (1 - z) * n + z * h + bump[0], None

    def lstm(self, x: Any, h: Any, c: Any, t: int, bump: tuple[Any, Any]) -> tuple[Any, Any]:
        s, P, H = self.layer, len(h), len(c)
        gate, candidate, outward = (activation(name) for name in s.activations)
        p_i, p_f, p_o = self.weights.get("weight_peephole", (0, 0, 0))
        recurrent, k_c, k_h = h, s.zoneout, s.zoneout
        if self.seed is not None:
            dropped = mask(self.seed, 1, 0, self.row, P, s.recurrent_dropout)
            recurrent = h * (1 - dropped) / (1 - s.recurrent_dropout)
            k_c, k_h = (mask(self.seed, kind, t, self.row, n, s.zoneout) for kind, n in ((2, H), (3, P)))
        i, f, g, o = (
            a + b for a, b in zip(self.product("ih", x), self.product("hh", recurrent), strict=True)
        )
        i = gate(i + p_i * c)
        f = 1 - i if s.coupled else gate(f + p_f * c)
        fresh = held(f * c + i * candidate(g), s.cell_clip)
        seen = fresh + bump[1]
        out = gate(o + p_o * seen) * outward(seen)
        if s.proj_size:
            out = held(self.weights["weight_hr"] @ out, s.proj_clip)
        return k_h * h + (1 - k_h) * out + bump[0], k_c * c + (1 - k_c) * fresh + bump[1]


def train(
    layer: Any,
    x: Any,
    state: Any,
    errors: Any,
    d_state: Any,
    lengths: Any = None,
    resets: Any = None,
    seeds: Any = None,
) -> dict[str, Any]:
    """Return what a training step gives, by name, as `train` of test_sequences does; without gates."""
    torch = pytest.importorskip("torch")
    T, B, _ = x.shape
    D = 1 + layer.bidirectional
    lengths = np.full(B, T) if lengths is None else np.asarray(lengths)
    resets = np.zeros((T, B), bool) if resets is None else resets
    runs_as = np.argsort(np.argsort(-lengths, kind="stable"))
    leaf = lambda a: torch.tensor(np.asarray(a, np.float64), requires_grad=True)  # noqa: E731
    given, first = leaf(x), [leaf(s) for s in state]
    weights = {name: leaf(a) for name, a in layer.parameters.items()}
    widths = [s.shape[-1] for s in state]
    N = len(state[0])
    bumps = [leaf(np.zeros((N, T, B, width))) for width in widths]
    hidden = [torch.zeros(N, T, B, width, dtype=torch.float64) for width in widths]
    rows = [[given[t, b] for t in range(T)] for b in range(B)]
    last: list[list[Any]] = [[None] * B for _ in range(N)]
    for part in range(N):
        number, direction = divmod(part, D)
        end = f"_l{number}" + "_reverse" * direction
        own = {name.removesuffix(end): a for name, a in weights.items() if name.endswith(end)}
        if direction == 0:
            below, rows = rows, [[[] for _ in range(T)] for _ in range(B)]
        for b, n in enumerate(lengths):
            run = Row(layer, own, None if seeds is None else seeds[part], int(runs_as[b]))
            states = [s[part, b] for s in first]
            for position in range(n):
                t = n - 1 - position if direction else position
                anew = resets[t, b] if not direction else t + 1 < n and resets[t + 1, b]
                h, *c = [torch.zeros_like(s) for s in states] if anew else states
                bump = [a[part, t, b] for a in bumps]
                found = run.step(below[b][t], h, c[0] if c else None, position, (*bump, None)[:2])
                states = [s for s in found if s is not None]
                for into, s in zip(hidden, states, strict=True):
                    into[part, t, b] = s
                rows[b][t].append(states[0])
            last[part][b] = states
        if direction == D - 1:
            width = D * widths[0]
            nothing = torch.zeros(width, dtype=torch.float64)
            rows = [[torch.cat(parts) if parts else nothing for parts in row] for row in rows]
    output = torch.stack([torch.stack(row) for row in rows], 1)
    ends = [torch.stack([torch.stack([last[n][b][k] for b in range(B)]) for n in range(N)])
            for k in range(len(state))]  # fmt: skip
    loss = (output * torch.tensor(errors)).sum()
    loss = loss + sum((a * torch.tensor(d)).sum() for a, d in zip(ends, d_state, strict=True))
    loss.backward()
    found = {"output": output, "hidden": hidden[0], "d_x": given.grad, "d_hidden": bumps[0].grad}
    if len(state) == 2:
        found |= {"cells": hidden[1], "d_cells": bumps[1].grad}
    for name, a, initial in zip("hc", ends, first, strict=False):
        found |= {f"{name}_n": a, f"d_{name}_0": initial.grad}
    found |= {f"d_{name}": a.grad for name, a in weights.items()}
    return {name: a.detach().numpy() for name, a in found.items()}
