"""How the rows of a batch go through time: in which order, how far, and where they begin anew."""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from ._check import Layout
from ._memory import empty
from ._program import Program

__all__ = ["ALL_STEPS", "Course", "course_of", "cut", "in_order"]

Array: TypeAlias = "NDArray[Any]"

FEWEST_DEALT = 16  # rows; a half of fewer leaves tiles half empty


class Course(NamedTuple):
    """How rows go through time.

    Attributes
    ----------
    order : ndarray of int, (B,), or None
        Rows as they run, longest first, in all or in each half (`dealt`); None: as they came.
    lengths : ndarray of int64, (B,), or None
        Steps of each row as they run; None: all.
    resets : tuple of ndarray of bool, (T, B), or None
        Where rows start anew, for each direction as it meets the steps; None: nowhere.
    mirror : ndarray of int, (T, B, 1), or None
        The step that stands at each step once a row is turned round within its length; None: T - 1 - t.
    """

    order: Array | None = None
    lengths: Array | None = None
    resets: tuple[Array, ...] | None = None
    mirror: Array | None = None

    def of(self, direction: int) -> tuple[Array | None, Array | None]:
        """Return lengths and resets as the kernels take them."""
        return self.lengths, None if self.resets is None else self.resets[direction]

    @overload
    def sorted(self, array: Array) -> Array: ...
    @overload
    def sorted(self, array: None) -> None: ...
    def sorted(self, array: Array | None) -> Array | None:
        """Return (.., .., B, ..) rows on axis 1 as they run."""
        if array is None or self.order is None:
            return array
        return np.take(array, self.order, 1)

    @overload
    def moved(self, program: Program, array: Array, back: bool = False) -> Array: ...
    @overload
    def moved(self, program: Program, array: None, back: bool = False) -> None: ...
    def moved(self, program: Program, array: Array | None, back: bool = False) -> Array | None:
        """Return a sequence (T, B, N), rows as they run, or `back`: as they came; filled by `program`.

        Zeros stand past the ends of rows.
        """
        if array is None or self.order is None:
            return array
        to = empty(array.shape, array.dtype)
        program.move(to, array, order=self.order, back=back, lengths=self.lengths)
        return to

    @overload
    def unsorted(self, array: Array, axis: int = 1) -> Array: ...
    @overload
    def unsorted(self, array: None, axis: int = 1) -> None: ...
    def unsorted(self, array: Array | None, axis: int = 1) -> Array | None:
        """Return rows as they came."""
        if array is None or self.order is None:
            return array
        back = empty(array.shape, array.dtype)
        back[(slice(None),) * axis + (self.order,)] = array
        return back

    def between(self, begin: int, end: int) -> Course:
        """Return the course of steps [begin, end) of one direction."""
        lengths, resets = cut(*self.of(0), begin, end)
        return Course(None, lengths, None if resets is None else (resets,))


def course_of(layout: Layout, lengths: Any, resets: Any, T: int, B: int, batched: bool) -> Course:
    """Return how rows go through time, from lengths and resets as the user gave them."""
    if lengths is None and resets is None:
        return ALL_STEPS
    lengths, resets = layout.lengths(lengths, T, B, batched), layout.resets(resets, T, B, batched)
    directions = layout.directions
    if lengths is not None and (lengths == T).all():
        lengths = None
    order = mirror = None
    if lengths is not None:
        order = dealt(np.argsort(-lengths, kind="stable").astype(np.int64, copy=False))
        if (lengths[order] == lengths).all():
            order = None
        else:
            lengths = lengths[order]
        if directions == 2:
            t = np.arange(T)[:, None]
            mirror = np.where(t < lengths, lengths - 1 - t, t)
    both: tuple[Array, ...] | None = None
    if resets is not None and resets.any():
        ahead = np.ascontiguousarray(resets if order is None else resets[:, order])
        both = (ahead,)
        if directions == 2:  # no way from t to t-1 there: the reverse direction starts anew at t-1
            back = np.zeros_like(ahead)
            if T:
                back[:-1] = ahead[1:]
                last = np.full(B, T) if lengths is None else lengths
                rows = np.flatnonzero(last > 0)
                back[last[rows] - 1, rows] = False
                back = back[::-1] if mirror is None else np.take_along_axis(back, mirror, 0)
            both = (ahead, np.ascontiguousarray(back))
    return Course(order, lengths, both, None if mirror is None else mirror[..., None])


def dealt(order: Array) -> Array:
    """Return rows, given longest first, as two halves that are: the first is the larger by one at most.

    Two threads that take a half each then have as much to do at any time. Few rows stay as they are.
    """
    B = len(order)
    if B < FEWEST_DEALT:
        return order
    turn = np.arange(B) % 4
    turn = (turn == 0) | (turn == 3)
    halves = order[turn], order[~turn]
    return np.concatenate(halves if len(halves[0]) >= len(halves[1]) else halves[::-1])


ALL_STEPS = Course()


def in_order(parts: Array | None, directions: int, course: Course) -> Array | None:
    """Return (L*D, T, B, ...) arrays with time ascending in every part and rows as they came."""
    if parts is None:
        return None
    if directions == 2:
        ordered = empty(parts.shape, parts.dtype)
        ordered[::2], back, mirror = parts[::2], parts[1::2], course.mirror
        if mirror is None:
            ordered[1::2] = back[:, ::-1]
        else:
            places = mirror.reshape(1, *mirror.shape[:2], *[1] * (back.ndim - 3))
            ordered[1::2] = np.take_along_axis(back, places, 1)
        parts = ordered
    return course.unsorted(parts, 2)


def cut(
    lengths: Array | None, resets: Array | None, begin: int, end: int
) -> tuple[Array | None, Array | None]:
    """Return the lengths and resets of steps [begin, end)."""
    inside = None if lengths is None else np.clip(lengths - begin, 0, end - begin)
    return inside, None if resets is None else resets[begin:end]
