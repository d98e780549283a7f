"""Recomputing in place of keeping: a part runs in blocks of steps; the cell state before each is kept.

A part is one layer in one direction, its arrays as it meets the steps. Blocks are whole chunks of the
backward pass, counted from the last step, so that the sums over tokens are taken in the order of one call
over all steps: the gradients are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._course import cut
from ._memory import empty
from ._program import Program

if TYPE_CHECKING:
    from ._kept import Kept
    from .parameters import Weights

__all__ = ["Part", "Restart", "Starts", "add_backward", "add_forward", "blocks", "part_of", "whole_chunks"]

Array: TypeAlias = "NDArray[Any]"

CHUNK_TOKENS = 256  # as csrc/plan.h: a chunk holds as many steps as give that, or twice as many steps


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
    """How one part runs: weights as given and packed, and its rows through time.

    Attributes
    ----------
    x : ndarray, (T, B, I)
        As the part meets the steps.
    h_0 : ndarray, (B, H), or None
    lengths, resets : ndarray, or None
    draws : tuple of int
        Seed and number of the first step, or nothing.
    """

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

    def add(
        self, program: Program, begin: int, end: int, h: Array | None, c: Array | None, *results: Array | None
    ) -> None:
        """Go through steps [begin, end) from states h, c: fills output, h_n, c_n, cells, gates, or None."""
        spans = cut(self.lengths, self.resets, begin, end)
        given = (None, self.packed, self.x[begin:end], h, c)
        program.add(program.forward(*given, *results, *spans, *self.drawn(begin)))


def part_of(program: Program, weights: Sequence[Weights], kept: Kept, n: int, x: Array) -> Part:
    """Return how part n runs in blocks, over its input as it meets that."""
    packed = program.packed(n, weights[n])
    h_0 = None if kept.h_0 is None else kept.h_0[n]
    spans = kept.course.of(n % program.layout.directions)
    return Part(weights[n], packed, x, h_0, *spans, kept.draws(n))


def whole_chunks(steps: int, B: int) -> int:
    """Return `steps`, rounded up to whole chunks of the backward pass of any layer."""
    chunk = 2 * max(1, CHUNK_TOKENS // max(1, B))
    return -(-steps // chunk) * chunk


def blocks(T: int, every: int) -> list[tuple[int, int]]:
    """Return where blocks of `every` steps begin and end, counted from the last step; one block if T is 0."""
    ends = range(T, 0, -every) if T else [0]
    return [(max(0, end - every), end) for end in ends][::-1]


def add_forward(
    program: Program,
    part: Part,
    c_0: Array | None,
    every: int,
    output: Array,
    h_n: Array,
    c_n: Array | None,
    starts: Array | None,
) -> None:
    """Go through block after block: fills output, the last states, and `starts` (blocks, B, H) if given."""
    h, c = part.h_0, c_0
    for n, (begin, end) in enumerate(blocks(len(output), every)):
        if starts is not None:
            program.move(starts[n : n + 1], None if c is None else c[None])
        part.add(program, begin, end, h, c, output[begin:end], h_n, c_n, None, None)
        h, c = h_n, c_n


class Restart:
    """What a forward pass with `recompute` over some of the steps would have kept; one direction.

    The arrays for it are had once; stages that come later use them again.
    """

    def __init__(self, program: Program, weights: Sequence[Weights], kept: Kept, longest: int) -> None:
        assert kept.starts is not None
        layout, (N, _, B, P) = program.layout, kept.hidden.shape
        self._program, self._kept, self._starts = program, kept, kept.starts
        self._parts = [part_of(program, weights, kept, n, kept.inputs[n]) for n in range(N)]
        most, H, dtype = len(blocks(longest, kept.starts.every)), layout.hidden_size, layout.dtype
        self._cells = empty((N, most, B, H), dtype) if layout.has_cell_state else None
        self._c_0 = empty((N, B, H), dtype) if layout.has_cell_state else None
        steps = max(longest, min(len(kept.hidden[0]), kept.starts.every))
        self._output, self._h_n = empty((steps, B, P), dtype), empty((B, P), dtype)
        self._c_n = empty((B, H), dtype)
        self._begins = [begin for begin, _ in blocks(len(kept.hidden[0]), kept.starts.every)]

    def between(self, begin: int, end: int) -> Kept:
        """Return that over steps [begin, end), filled once the stages added for it have run."""
        kept, program, starts, c_0 = self._kept, self._program, self._starts, self._c_0
        spans = blocks(end - begin, starts.every)
        cells = None if self._cells is None else self._cells[:, : len(spans)]
        found = kept.between(begin, end)._replace(c_0=c_0, starts=Starts(starts.every, cells))
        for n, part in enumerate(self._parts):
            if c_0 is None or cells is None or not c_0.size:
                break
            self._add_cell_before(n, begin, c_0[n])
            h_0 = None if found.h_0 is None else found.h_0[n]
            again = part._replace(x=part.x[begin:end], h_0=h_0, draws=part.drawn(begin))
            lengths, resets = found.course.of(0)
            again = again._replace(lengths=lengths, resets=resets)
            if len(spans) > 1:
                output, states = self._output[: end - begin], (self._h_n, self._c_n)
                add_forward(program, again, c_0[n], starts.every, output, *states, cells[n])
            else:
                program.move(cells[n], c_0[n : n + 1])
        return found

    def _add_cell_before(self, n: int, step: int, to: Array) -> None:
        """Fill c before a step (B, H) from the start of its block in part n."""
        assert self._starts.cells is not None
        kept, part = self._kept, self._parts[n]
        block = int(np.searchsorted(self._begins, step, "right")) - 1
        begin, c = self._begins[block], self._starts.cells[n, block]
        if begin == step:
            self._program.move(to[None], c[None])
            return
        h = kept.hidden[n, begin - 1] if begin else part.h_0
        part.add(self._program, begin, step, h, c, self._output[: step - begin], self._h_n, to, None, None)


def add_backward(
    program: Program,
    part: Part,
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
    """Go through each block forward again, then backward, from the last to the first.

    Parameters
    ----------
    program : Program
    part : Part
    hidden : ndarray, (T, B, P)
    starts : ndarray, (blocks, B, H), or None
        c before the first step of each block.
    every : int
        Steps of a block.
    errors : tuple of ndarray, or None
        d_output (T, B, P), d_h_n (B, P) and d_c_n (B, H).
    d_x, d_states, d_weights, steps, counted
        To be filled, as by ``core.backward``: (T, B, I), two of (B, H), parameters, two of (T, B, H),
        `clipped` (T, B, 3) and `norms` (T, B, 2).
    step_clip : tuple of float, or None
    """
    (T, B, P), layout, has_c = hidden.shape, program.layout, starts is not None
    most, H, dtype = min(every, T), layout.hidden_size, hidden.dtype
    again, gates = empty((most, B, P), dtype), empty((most, B, layout.saved, H), dtype)
    cells = empty((most, B, H), dtype) if has_c else None
    # What a block hands to the one before: that reads one pair and fills the other.
    handing = [(empty((B, P), dtype), empty((B, H), dtype) if has_c else None) for _ in range(2)]
    d_output, *handed = errors
    clipped, norms = counted
    sums = program.core.Sums()
    for n, (begin, end) in reversed(list(enumerate(blocks(T, every)))):
        h = hidden[begin - 1] if begin else part.h_0
        c = None if starts is None else starts[n]
        ran, kept_c = slice(begin, end), None if cells is None else cells[: end - begin]
        received = handing[n % 2]
        part.add(program, begin, end, h, c, again[: end - begin], *received, kept_c, gates[: end - begin])
        tape = (part.x[ran], h, c, hidden[ran], kept_c, gates[: end - begin])
        received = received if begin else d_states
        call = program.backward(
            *(part.weights, *tape, _in(d_output, ran), *handed),
            *(_in(d_x, ran), *received, d_weights, *(_in(array, ran) for array in steps)),
            *cut(part.lengths, part.resets, begin, end),
            *part.drawn(begin),
            step_clip=step_clip,
            clipped=_in(clipped, ran),
            norms=_in(norms, ran),
            accumulate=end < T,
            sums=sums,
        )
        program.add(call)
        handed = [*received]


def _in(array: Array | None, steps: slice) -> Array | None:
    return None if array is None else array[steps]
