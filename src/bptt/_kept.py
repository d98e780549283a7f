"""What a forward pass keeps for the backward pass, and what that is asked for and returns."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ._check import Layout
from ._course import Course
from ._memory import empty
from ._recompute import Starts

__all__ = ["Kept", "Slopes", "StepClip", "Wanted", "at", "new_slopes", "new_steps", "states_of"]

Array: TypeAlias = "NDArray[Any]"
StepClip: TypeAlias = "tuple[float, float, float]"


class Kept(NamedTuple):
    """What a training forward pass keeps for the backward pass, each first axis one part.

    Attributes
    ----------
    inputs : list of ndarray, (T, B, I) or (T, B, D*P)
        Of each layer, time ascending.
    h_0, c_0 : ndarray, (L*D, B, P) and (L*D, B, H), or None
    hidden, cells : ndarray, (L*D, T, B, P) and (L*D, T, B, H)
        Cells are None where there is no cell state.
    gates : ndarray, (L*D, T, B, 4, H), or None
    masks : list of ndarray, (T, B, D*P)
        What dropout multiplied the input of layers 1, 2, .. by; empty without dropout.
    seeds : list of int
        What each part drew from for recurrent dropout and zoneout; empty if it did not.
    course : Course
        Rows stand as they run.
    first_step : int
        What the draws count step 0 as.
    starts : Starts or None
        With it there are no cells and gates: they are computed again.
    """

    inputs: list[Array]
    h_0: Array | None
    c_0: Array | None
    hidden: Array
    cells: Array | None
    gates: Array | None
    masks: list[Array]
    seeds: list[int]
    course: Course
    first_step: int = 0
    starts: Starts | None = None

    def draws(self, n: int, begin: int = 0) -> tuple[int, ...]:
        """Return seed and number of step `begin` of part n, as the kernels take them, if it draws."""
        return (self.seeds[n], self.first_step + begin) if self.seeds else ()

    def between(self, begin: int, end: int) -> Kept:
        """Return what a forward pass over steps [begin, end) would have kept; one direction."""
        h_0, c_0 = self.h_0, self.c_0
        if begin:
            h_0 = self.hidden[:, begin - 1]
            c_0 = None if self.cells is None else self.cells[:, begin - 1]
        return Kept(
            [x[begin:end] for x in self.inputs],
            h_0,
            c_0,
            self.hidden[:, begin:end],
            None if self.cells is None else self.cells[:, begin:end],
            None if self.gates is None else self.gates[:, begin:end],
            [mask[begin:end] for mask in self.masks],
            self.seeds,
            self.course.between(begin, end),
            self.first_step + begin,
        )

    def last(self, steps: int) -> Kept:
        """Return the last `steps` steps of one direction, or all if there are no more."""
        T = len(self.inputs[0])
        return self.between(max(0, T - steps), T)

    def copied(self) -> Kept:
        """Return the same in arrays of its own."""
        return self._replace(
            inputs=[x.copy() for x in self.inputs],
            h_0=copy_of(self.h_0),
            c_0=copy_of(self.c_0),
            hidden=self.hidden.copy(),
            cells=copy_of(self.cells),
            gates=copy_of(self.gates),
            masks=[mask.copy() for mask in self.masks],
        )

    def followed_by(self, other: Kept) -> Kept:
        """Return this and what the steps after it have kept, in arrays of their own; one direction."""
        shapes = [(len(kept.inputs[0]), *kept.inputs[0].shape[1:2]) for kept in (self, other)]
        both = [kept.course.resets for kept in (self, other)]
        resets = None
        if any(both):
            resets = (
                np.concatenate(
                    [r[0] if r else np.zeros(s, np.bool_) for r, s in zip(both, shapes, strict=True)]
                ),
            )
        return Kept(
            [np.concatenate(pair) for pair in zip(self.inputs, other.inputs, strict=True)],
            copy_of(self.h_0),
            copy_of(self.c_0),
            np.concatenate([self.hidden, other.hidden], 1),
            joined_steps(self.cells, other.cells),
            joined_steps(self.gates, other.gates),
            joined_masks(self, other),
            [],
            Course(resets=resets),
        )


class Slopes(NamedTuple):
    """Gradients that a backward pass returns beside those of the parameters.

    Attributes
    ----------
    x : ndarray, (T, B, I), or None
    h_0, c_0 : ndarray, (L*D, B, P) and (L*D, B, H)
        c_0 is None where there is no cell state.
    hidden, cells : ndarray, (L*D, T, B, P) and (L*D, T, B, H), or None
    clipped : ndarray of int64, (L*D, T, B, 3), or None
        How many elements of each row each of the bounds held.
    norms : ndarray of float64, (L*D, T, B, 2), or None
        Of the rows of hidden and cells.
    """

    x: Array | None
    h_0: Array
    c_0: Array | None
    hidden: Array | None
    cells: Array | None
    clipped: Array | None
    norms: Array | None

    def clear(self) -> None:
        """Set everything to zero."""
        for array in self:
            if array is not None:
                array[...] = 0

    def between(self, begin: int, end: int) -> Slopes:
        """Return what there is of steps [begin, end), and the states: views."""
        steps = (None if array is None else array[:, begin:end] for array in self[3:])
        x = None if self.x is None else self.x[begin:end]
        return Slopes(x, self.h_0, self.c_0, *steps)

    def counts(self, bounds: StepClip | None) -> dict[str, Array] | None:
        """Return how many elements each of the finite bounds held at each step, (L*D, T)."""
        if self.clipped is None or bounds is None:
            return None
        summed = self.clipped.sum(axis=2)
        names = ("hidden", "cell", "gates")
        return {name: summed[..., n] for n, name in enumerate(names) if bounds[n] < np.inf}


class Wanted(NamedTuple):
    """How a backward pass goes: with gradients of steps, their norms, in blocks, clipped, down to x."""

    steps: bool = False
    norms: bool = False
    truncate: tuple[int, int] | None = None
    step_clip: StepClip | None = None
    input: bool = True


def copy_of(array: Array | None) -> Array | None:
    return None if array is None else array.copy()


def joined_steps(first: Array | None, second: Array | None) -> Array | None:
    """Return (L*D, T, ...) arrays one after the other in time."""
    return None if first is None or second is None else np.concatenate([first, second], 1)


def joined_masks(first: Kept, second: Kept) -> list[Array]:
    """Return the masks one after the other in time; where only one has them, the other dropped nothing."""
    if not first.masks and not second.masks:
        return []
    pairs = [kept.masks or [np.ones_like(h) for h in kept.hidden[:-1]] for kept in (first, second)]
    return [np.concatenate(pair) for pair in zip(*pairs, strict=True)]


def new_slopes(layout: Layout, kept: Kept, steps: int, wanted: Wanted) -> Slopes:
    """Return arrays, not filled, for all that a backward pass over so many steps returns."""
    d_x = empty((steps, *kept.inputs[0].shape[1:]), layout.dtype) if wanted.input else None
    return Slopes(d_x, *states_of(layout, kept.hidden.shape[2]), *new_steps(layout, kept, steps, wanted))


def new_steps(
    layout: Layout, kept: Kept, steps: int, wanted: Wanted
) -> tuple[Array | None, Array | None, Array | None, Array | None]:
    """Return hidden, cells, clipped and norms of `Slopes`, not filled, or None where they are not wanted."""
    if not (wanted.steps or wanted.norms):
        return None, None, None, None
    (N, _, B, P), dtype, H = kept.hidden.shape, layout.dtype, layout.hidden_size
    return (
        empty((N, steps, B, P), dtype) if wanted.steps else None,
        empty((N, steps, B, H), dtype) if wanted.steps and layout.has_cell_state else None,
        np.zeros((N, steps, B, 3), np.int64) if wanted.step_clip else None,
        empty((N, steps, B, 2), np.dtype(np.float64)) if wanted.norms else None,
    )


def states_of(layout: Layout, B: int) -> tuple[Array, Array | None]:
    """Return new states h (L*D, B, P) and c (L*D, B, H); None for c where there is no cell state."""
    rows, dtype = (layout.parts, B), layout.dtype
    h = empty((*rows, layout.width), dtype)
    return h, empty((*rows, layout.hidden_size), dtype) if layout.has_cell_state else None


def at(parts: Array | None, n: int) -> Array | None:
    """Return part n of what may not be there."""
    return None if parts is None else parts[n]
