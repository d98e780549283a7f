"""Is the automatic choice of threads and hoisting the best one? Each way is forced and timed in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import bptt

from .cases import Case
from .clock import TURN, calls_of, samples
from .contenders import contender

__all__ = ["SLACK", "WAYS", "Choice", "judge", "time_choice"]

SLACK = 1.1  # times the best way that the automatic one may take

AUTOMATIC = (0, 0)
SPLITS = {1: "serial", 2: "rows", 3: "hidden"}  # of the plan, in C
HOISTS = {1: "fused", 2: "hoisted"}
WAYS = {AUTOMATIC: "automatic"} | {(s, h): f"{SPLITS[s]}, {HOISTS[h]}" for s in SPLITS for h in HOISTS}


class Choice(NamedTuple):
    """Median seconds of a case by the name of each way."""

    case: Case
    medians: dict[str, float]

    @property
    def best(self) -> str:
        return min(self.medians, key=lambda name: self.medians[name])

    @property
    def loss(self) -> float:
        """How many times as long as the best way the automatic one takes."""
        return self.medians["automatic"] / self.medians[self.best]

    def __str__(self) -> str:
        case, told = (
            self.case,
            "" if self.loss <= SLACK else f"automatic takes {self.loss:.2f} times {self.best}",
        )
        times = " ".join(f"{seconds * 1e6:10.1f}" for seconds in self.medians.values())
        return f"{case.shape:>16} {case.mode:9} {times} {self.best:16} {told}"

    @staticmethod
    def header() -> str:
        names = " ".join(f"{name.replace(', ', '/')[:10]:>10}" for name in WAYS.values())
        return f"{'T x B x I x H':>16} {'mode':9} {names} {'best':16} (microseconds)"


def time_choice(
    case: Case, threads: int, seconds: float, plan_hint: Callable[[int, int], Any] | None = None
) -> Choice:
    """Time a case as the cost model has it, and with every way forced, in turns, in this process.

    Parameters
    ----------
    case : Case
    threads : int
    seconds : float
        To spend on each way.
    plan_hint : callable, optional
        As in ``bptt._core``.
    """
    if plan_hint is None:
        from bptt import _core

        plan_hint = _core.plan_hint
    calls: dict[tuple[int, int], Callable[[], Any]] = {}
    found: dict[tuple[int, int], list[float]] = {way: [] for way in WAYS}
    before = bptt.get_num_threads()
    try:
        for way in WAYS:
            plan_hint(*way)  # a stream keeps what it was made with
            calls[way] = getattr(contender("bptt", threads), case.mode)(case).call
        spent = 0.0
        while spent < seconds:
            spent += sum(_turn(calls[way], way, found[way], plan_hint) for way in WAYS) / len(WAYS)
    finally:
        plan_hint(*AUTOMATIC)
        bptt.set_num_threads(before)
    return Choice(case, {name: statistics.median(found[way]) for way, name in WAYS.items()})


def _turn(
    call: Callable[[], Any], way: tuple[int, int], found: list[float], plan_hint: Callable[[int, int], Any]
) -> float:
    """Add the samples of one turn; return the seconds it took."""
    plan_hint(*way)
    if not found:
        samples(call, 1, 1, 0)  # the first call of all has its own costs
    estimate = samples(call, 1, 1)[0]
    calls = calls_of(estimate)
    taken = samples(call, max(1, round(TURN / (calls * max(estimate, 1e-9)))), calls)
    found += taken
    return sum(taken) * calls


def judge(choices: Sequence[Choice]) -> str:
    """Return what the choices say as a whole."""
    poor = [c for c in choices if c.loss > SLACK]
    worst = max(choices, key=lambda c: c.loss)
    return (
        f"automatic is more than 10 % off the best way in {len(poor)} of {len(choices)} cases;"
        f" at worst {worst.loss:.2f} times ({worst.case.mode} {worst.case.shape})"
    )
