"""Which ceiling binds a case, and how long the case must take at least because of it.

Three things bound a time step: its multiply-adds; the weights of the recurrence, which every thread must
read anew from the level of cache that holds its slice; and, when threads share the hidden units, one barrier.
The work can be divided in three ways, and the bound is that of the best one. `docs/performance.md` has the
formula.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from .cases import Case
from .machine import LEVELS, Ceilings

__all__ = ["Bound", "bound", "predict"]


class Bound(NamedTuple):
    """The seconds that a case takes at least, the ceiling that says so, and how the work is divided then."""

    seconds: float
    ceiling: str
    split: str
    threads: int


def _passes(case: Case) -> tuple[float, float]:
    """Return how often the recurrent weights are read in a step, and how many a layer's direction has."""
    ahead = "weight_ih" if case.mode != "stream" else "bias"  # a sequence can do its input products ahead
    shapes = {name: s for name, s in case.shapes().items() if len(s) == 2 and not name.startswith(ahead)}
    elements = sum(rows * columns for name, (rows, columns) in shapes.items())
    return (2.0 if case.mode == "training" else 1.0), elements / (case.layers * case.directions)


def _divisions(case: Case, threads: int) -> list[tuple[str, int, float, float]]:
    """Return ways to divide a case: name, threads, the busiest one's share of the rows and of the units."""
    ways = [("serial", 1, 1.0, 1.0)]
    if threads > 1:
        rows, units = min(threads, case.B), min(threads, case.H)
        ways.append(("rows", rows, math.ceil(case.B / rows) / case.B, 1.0))
        ways.append(("hidden", units, 1.0, math.ceil(case.H / units) / case.H))
    return ways


def _terms(case: Case, ceilings: Ceilings, way: tuple[str, int, float, float]) -> dict[str, float]:
    """Return the seconds that each ceiling asks for."""
    name, threads, rows, units = way
    busy = 0 if threads == 1 else 1
    passes, elements = _passes(case)
    slice_bytes = elements * units * case.real.itemsize
    level = ceilings.level(slice_bytes, elements * case.real.itemsize)
    bandwidth, parts = ceilings.read[level][busy] * 1e9, case.layers * case.directions
    terms = {
        "FMA": case.flops * rows * units / (ceilings.multiply_adds[case.dtype][busy] * 1e9),
        level: case.T * parts * passes * slice_bytes / bandwidth,
    }
    if name == "hidden":
        terms["barrier"] = case.T * parts * passes * ceilings.barrier
    return terms


def bound(case: Case, ceilings: Ceilings) -> Bound:
    """Return the roofline of a case: over the ways to divide it, the least of the greatest of its terms."""
    best = Bound(math.inf, "", "", 0)
    for way in _divisions(case, ceilings.threads):
        ceiling, seconds = max(_terms(case, ceilings, way).items(), key=lambda item: item[1])
        if seconds < best.seconds:
            best = Bound(seconds, ceiling, way[0], way[1])
    return best


def predict(case: Case, ceilings: Ceilings, threads: int) -> Bound:
    """Return what the cost model expects of more threads than were measured, on cores of the same kind.

    Multiply-adds, L1 and L2 grow with the cores. L3 and memory do not grow beyond what the measured threads
    drew together. A barrier costs in proportion to the flags that a thread looks at. Multiply-adds and
    reading overlap, the barrier is added, and so is entering the call on several threads.
    """
    more = scaled(ceilings, threads)
    best = Bound(math.inf, "", "", 0)
    for way in _divisions(case, threads):
        terms = _terms(case, more, way)
        waits = terms.pop("barrier", 0.0)
        ceiling, seconds = max(terms.items(), key=lambda item: item[1])
        total = seconds + waits + (more.region if way[1] > 1 else 0.0)
        if total < best.seconds:
            best = Bound(total, "barrier" if waits > seconds else ceiling, way[0], way[1])
    return best


def scaled(ceilings: Ceilings, threads: int) -> Ceilings:
    """Return the ceilings of `threads` cores like those that were measured."""
    measured = ceilings.threads
    grow = threads / measured
    read = dict(ceilings.read)
    for level in LEVELS[2:]:
        alone, together = ceilings.read[level]
        read[level] = [alone, min(together, together / grow)]
    waits = ceilings.barrier / max(1, measured - 1) * (threads - 1)
    sizes = {**ceilings.sizes, "L3": max(1, int(ceilings.sizes["L3"] / grow))}
    return Ceilings(
        ceilings.cpu, ceilings.variant, threads, ceilings.multiply_adds, read, sizes, waits, ceilings.region
    )
