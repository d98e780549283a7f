"""Norms of gradients over steps, the factor per step that fits them, and what it means."""

from __future__ import annotations

import math
import sys
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .._backend import core
from .._threads import get_num_threads

__all__ = ["Way", "by_lag", "by_step", "fitted", "judged", "norms", "reach"]

Way: TypeAlias = "tuple[NDArray[np.int64], NDArray[np.int64]]"

# A factor per step outside of these vanishes or explodes whatever the length of the sequence,
FACTORS = (0.9, 1.1)
# and one inside does when all steps together change the norm by more than this.
TOTAL = 100.0
LARGEST = math.log(sys.float_info.max)


def norms(array: NDArray[Any], axis: int) -> NDArray[np.float64]:
    """Return Euclidean norms along an axis, whose squares neither overflow nor underflow."""
    if axis != array.ndim - 1:
        array = np.moveaxis(array, axis, -1)
    found: NDArray[np.float64] = core().row_norms(get_num_threads(), np.ascontiguousarray(array))
    return found


def by_step(rows: NDArray[np.float64], state: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return norms over the batch (2, N, T) of norms (N, T, B, 2), and the slopes (N) of logarithms.

    Slopes over the steps, of what reaches h (0) or c (1); NaN where not all is positive and finite.
    """
    found: tuple[NDArray[np.float64], NDArray[np.float64]] = core().flow(rows, state)
    return found


def reach(
    injected: NDArray[np.bool_], lengths: NDArray[np.int64], reverse: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each row the step that lags are counted from, and how many steps the error can reach.

    Lags are counted from the error that the direction meets first, since nothing is injected on the steps
    before it. Only where that leaves no way in any row are they counted from the error it meets last.

    Parameters
    ----------
    injected : ndarray of bool, (T, B)
        Where errors enter.
    lengths : ndarray of int, (B,)
        Steps of each row.
    reverse : bool
        Whether the direction runs from the last step to the first.

    Returns
    -------
    origin, count : ndarray of int, (B,)
        Without an error in the row, count is 0.
    """
    T = len(injected)
    t = np.arange(T)[:, None]
    first = np.min(np.where(injected, t, T), 0, initial=T)
    last = np.max(np.where(injected, t, -1), 0, initial=-1)
    some = last >= 0
    if reverse:
        origin, other = last, first
        count = np.where(some, lengths - last, 0)
        if count.max(initial=0) < 2:
            origin, count = other, np.where(some, lengths - first, 0)
    else:
        origin, other = first, last
        count = np.where(some, first + 1, 0)
        if count.max(initial=0) < 2:
            origin, count = other, np.where(some, last + 1, 0)
    return origin, np.maximum(count, 0)


def by_lag(
    rows: NDArray[np.float64], origin: NDArray[np.int64], count: NDArray[np.int64], reverse: bool
) -> NDArray[np.float64]:
    """Return the norm over the batch of (T, B) norms, by the distance of a step from the row's origin.

    Where a row is too short for a lag, the others stand for it: the mean square over the rows that are there,
    times the number of all.
    """
    k = np.arange(int(count.max(initial=0)))[:, None]
    if not k.size:
        return np.zeros(0)
    steps = np.clip(origin + k if reverse else origin - k, 0, len(rows) - 1)
    there = k < count
    found = norms(np.where(there, np.take_along_axis(rows, steps, 0), 0.0), 1)
    return np.asarray(found * np.sqrt(np.count_nonzero(count) / np.maximum(there.sum(1), 1)))


def fitted(
    rows: NDArray[np.float64], total: NDArray[np.float64], slope: float, way: Way | None, reverse: bool
) -> tuple[NDArray[np.float64], float, str]:
    """Return the norms of a direction by lag, the factor per step, and the verdict.

    Parameters
    ----------
    rows, total : ndarray, (T, B) and (T,)
        Norms of each row and of all together.
    slope : float
        As `by_step` fits it to `total`.
    way : pair of ndarray, or None
        As `reach` says; None: every row goes all steps, from the last that the direction takes.
    """
    if way is not None:
        lags = by_lag(rows, *way, reverse)
        return lags, *judged(lags)
    lags = total if reverse else total[::-1]
    return lags, *judged(lags, slope if reverse else -slope)


def judged(lags: NDArray[np.float64], slope: float | None = None) -> tuple[float, str]:
    """Return the factor per step that fits norms by lag best, and the verdict.

    `slope` is that of the logarithms by lag, NaN where not all are positive and finite; None: found here.

    The factor is a least-squares line through the logarithms of those that are positive and finite: 1.0 where
    there is nothing to fit (fewer than two steps). An underflow to exactly zero at the end is vanishing,
    infinity or NaN anywhere is exploding. Else: below 0.9 vanishing, above 1.1 exploding; in between when
    all steps together make the norm 100 times smaller or larger.
    """
    n = len(lags)
    if slope is None:
        slope = math.nan
        if n > 1 and np.count_nonzero(lags) == n:
            slope = _slope(np.arange((1 - n) / 2, n / 2), np.log(lags))
    if not math.isfinite(slope):  # not all norms are positive and finite, or there are no two
        finite = np.isfinite(lags)
        usable = np.flatnonzero(finite & (lags > 0))
        slope = _slope(usable - usable.mean(), np.log(lags[usable])) if len(usable) > 1 else math.nan
        if not finite.all():
            return (math.inf if math.isnan(slope) else _power(slope)), "exploding"
        if n < 2:
            return 1.0, "steady"
        if lags[-1] == 0:
            return (0.0 if math.isnan(slope) else _power(slope)), "vanishing"
        if math.isnan(slope):  # one positive norm, at the end
            return math.inf, "exploding"
    growth, change = _power(slope), slope * (n - 1)
    if growth < FACTORS[0] or change < -math.log(TOTAL):
        return growth, "vanishing"
    if growth > FACTORS[1] or change > math.log(TOTAL):
        return growth, "exploding"
    return growth, "steady"


def _slope(away: NDArray[np.float64], logs: NDArray[np.float64]) -> float:
    """Return the slope of the line that fits `logs` best over places `away` from their mean."""
    return float(away.dot(logs)) / float(away.dot(away))


def _power(slope: float) -> float:
    return math.exp(slope) if slope < LARGEST else math.inf
