"""Times that were measured in other processes, put before pytest-benchmark as if it had taken them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

_now = 0.0


def clock() -> float:
    """Return the time of a clock that moves only while `replay` moves it: the timer of the rows."""
    return _now


def replay(benchmark: Any, seconds: Iterable[float]) -> None:
    """Let a benchmark fixture, whose timer is `clock`, see one round for each duration."""
    durations = list(seconds)
    left = iter(durations)

    def play() -> None:
        global _now
        _now += next(left)

    benchmark.pedantic(play, rounds=len(durations), iterations=1)
