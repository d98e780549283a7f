"""How the cost of a call grows: along T, B and H on this machine, and with more cores by the cost model."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from .cases import Case
from .clock import TURN, calls_of, samples
from .contenders import contender
from .grid import SWEEPS
from .machine import Ceilings
from .report import Line, time_text
from .roofline import Bound, bound, predict

__all__ = ["CORES", "Point", "prediction", "sweep"]

CORES = (1, 2, 8, 16, 64)


class Point(NamedTuple):
    """The median seconds of one call, and its bound."""

    axis: str
    value: int
    case: Case
    seconds: float
    bound: Bound


def sweep(
    ceilings: Ceilings,
    seconds: float,
    sweeps: Sequence[tuple[str, tuple[int | None, ...], tuple[int, ...]]] = SWEEPS,
) -> Iterator[Point]:
    """Time this library, forward and in training, while one size varies and the others stay."""
    for axis, sizes, values in sweeps:
        for mode in ("forward", "training"):
            for value in values:
                T, B, I, H = (value if size is None else size for size in sizes)
                case = Case(mode, T, B, I, H)
                yield Point(axis, value, case, median(case, ceilings.threads, seconds), bound(case, ceilings))


def median(case: Case, threads: int, seconds: float) -> float:
    """Return the median seconds of this library's call, in this process."""
    call = getattr(contender("bptt", threads), case.mode)(case).call
    estimate = samples(call, 1, 1)[0]
    calls = calls_of(estimate)
    each = max(1, round(TURN / (calls * estimate)))
    found: list[float] = []
    while not found or sum(found) * calls < seconds:
        found += samples(call, each, calls)
    return statistics.median(found)


def prediction(lines: Iterable[Line], ceilings: Ceilings, cores: Sequence[int] = CORES) -> list[str]:
    """Return what the cost model expects of more cores, as a table.

    The model's time at P cores is multiplied with what this machine took over the model's time for the
    threads that were measured: what the model does not know is taken to stay the same factor.
    """
    found = [f"{'T x B x I x H':>16} {'mode':9} {'factor':>7} " + " ".join(f"{f'P={n}':>19}" for n in cores)]
    for line in lines:
        factor = line.own / predict(line.case, ceilings, ceilings.threads).seconds
        alone = predict(line.case, ceilings, 1).seconds
        cells = []
        for count in cores:
            there = predict(line.case, ceilings, count)
            if not math.isfinite(there.seconds):
                continue
            cells.append(
                f"{time_text(factor * there.seconds):>9} {alone / there.seconds:4.1f}x {there.split[:4]}"
            )
        found.append(f"{line.case.shape:>16} {line.case.mode:9} {factor:7.2f} " + " ".join(cells))
    found.append(
        "factor: measured over model. Each column: the predicted time, how many times as fast as one core,"
        " and how the work is divided (serial, rows, hidden units)."
    )
    return found
