"""Recomputing in place of keeping: a part runs in blocks of steps; the cell state before each is kept.

A part is one layer in one direction, its arrays as it meets the steps. Blocks are whole chunks of the
backward pass, counted from the last step, so that the sums over tokens are taken in the order of one call
over all steps: the gradients are the same to the bit.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._course import cut
from ._memory import empty
from ._threads import get_num_threads

__all__ = ["Part", "Starts", "backward", "blocks", "cell_before", "cut", "forward", "whole_chunks"]

Array: TypeAlias = "NDArray[Any]"

CHUNK_TOKENS = 256  # as csrc/plan.h


class Starts(NamedTuple):
    """What is kept in place of cells and gates.

    Attributes
    ----------
    every : int
        Steps of a block; the first may have fewer.
    cells : ndarray, (L*D, blocks, B, H), or None
        c before the first step of each block; None where there is no cell state.
    """

    every: int
    cells: Array | None


class Part(NamedTuple):
    """How one part runs: functions, cell, weights as given and packed, and its rows through time.

    Attributes
    ----------
    x : ndarray, (T, B, I)
    h_0 : ndarray, (B, H), or None
    lengths, resets : ndarray, or None
    draws : tuple of int
        Seed and number of the first step, or nothing.
    """

    core: Any
    cell: Any
    weights: Any
    packed: Any
    x: Array
    h_0: Array | None
    lengths: Array | None
    resets: Array | None
    draws: tuple[int, ...] = ()

    def drawn(self, begin: int) -> tuple[int, ...]:
        """Return the draws of a call that starts at step `begin`."""
        return (self.draws[0], self.draws[1] + begin) if self.draws else ()

    def run(self, begin: int, end: int, h: Array | None, c: Array | None, *results: Array | None) -> None:
        """Run steps [begin, end) from states h, c: fills output, h_n, c_n, cells, gates, or None."""
        spans = cut(self.lengths, self.resets, begin, end)
        given = (self.cell, get_num_threads(), None, self.packed, self.x[begin:end], h, c)
        self.core.forward(*given, *results, *spans, *self.drawn(begin))


def whole_chunks(steps: int, B: int) -> int:
    """Return `steps`, rounded up to whole chunks of the backward pass."""
    chunk = max(1, CHUNK_TOKENS // max(1, B))
    return -(-steps // chunk) * chunk


def blocks(T: int, every: int) -> list[tuple[int, int]]:
    """Return where blocks of `every` steps begin and end, counted from the last step; one block if T is 0."""
    ends = range(T, 0, -every) if T else [0]
    return [(max(0, end - every), end) for end in ends][::-1]


def forward(
    part: Part,
    c_0: Array | None,
    every: int,
    output: Array,
    h_n: Array,
    c_n: Array | None,
    starts: Array | None,
) -> None:
    """Run block after block: fills output, the last states, and `starts` (blocks, B, H) if given."""
    h, c = part.h_0, c_0
    for n, (begin, end) in enumerate(blocks(len(output), every)):
        if starts is not None:
            starts[n] = 0 if c is None else c
        part.run(begin, end, h, c, output[begin:end], h_n, c_n, None, None)
        h, c = h_n, c_n


def cell_before(part: Part, hidden: Array, starts: Starts, n: int, step: int) -> Array | None:
    """Return c before a step, (B, H), from the start of its block in part n; None without a cell state."""
    if starts.cells is None:
        return None
    ways = [begin for begin, _ in blocks(len(hidden), starts.every)]
    block = int(np.searchsorted(ways, step, "right")) - 1
    begin = ways[block]
    c: Array = starts.cells[n, block]
    if begin == step:
        return c
    h_n, c_n = empty(hidden.shape[1:], c.dtype), empty(c.shape, c.dtype)
    h = hidden[begin - 1] if begin else part.h_0
    part.run(begin, step, h, c, empty(hidden[begin:step].shape, c.dtype), h_n, c_n, None, None)
    return c_n


def backward(
    part: Part,
    gate_shape: tuple[int, int],
    hidden: Array,
    starts: Array | None,
    every: int,
    errors: tuple[Array | None, Array | None, Array | None],
    d_x: Array | None,
    d_states: tuple[Array, Array | None],
    d_weights: Any,
    steps: tuple[Array | None, Array | None],
    step_clip: Any,
    counted: tuple[Array | None, Array | None],
) -> None:
    """Run each block forward again, then backward, from the last to the first.

    Parameters
    ----------
    part : Part
    gate_shape : tuple of int
        How many gates of each unit a tape keeps, and H.
    hidden : ndarray, (T, B, P)
    starts : ndarray, (blocks, B, H), or None
        c before the first step of each block.
    every : int
        Steps of a block.
    errors : tuple of ndarray, or None
        d_output (T, B, H), d_h_n and d_c_n (B, H).
    d_x, d_states, d_weights, steps, counted
        To be filled, as by ``core.backward``: (T, B, I), two of (B, H), parameters, two of (T, B, H),
        `clipped` (T, B, 3) and `norms` (T, B, 2).
    step_clip : tuple of float, or None
    """
    T, B, P = hidden.shape
    H = gate_shape[1]
    most, dtype, has_c = min(every, T), hidden.dtype, starts is not None
    again, gates = empty((most, B, P), dtype), empty((most, B, *gate_shape), dtype)
    cells = empty((most, B, H), dtype) if has_c else None
    d_output, *handed = errors
    clipped, norms = counted
    for n, (begin, end) in reversed(list(enumerate(blocks(T, every)))):
        h = hidden[begin - 1] if begin else part.h_0
        c = None if starts is None else starts[n]
        ran, kept_c = slice(begin, end), None if cells is None else cells[: end - begin]
        last = [empty((B, P), dtype), empty((B, H), dtype) if has_c else None]
        part.run(begin, end, h, c, again[: end - begin], *last, kept_c, gates[: end - begin])
        tape = (part.x[ran], h, c, hidden[ran], kept_c, gates[: end - begin])
        received = list(d_states) if begin == 0 else last
        part.core.backward(
            *(part.cell, get_num_threads(), part.weights, *tape, _in(d_output, ran), *handed),
            *(_in(d_x, ran), *received, d_weights, *(_in(array, ran) for array in steps)),
            *cut(part.lengths, part.resets, begin, end),
            *part.drawn(begin),
            step_clip=step_clip,
            clipped=_in(clipped, ran),
            norms=_in(norms, ran),
            accumulate=end < T,
        )
        handed = received


def _in(array: Array | None, steps: slice) -> Array | None:
    return None if array is None else array[steps]
