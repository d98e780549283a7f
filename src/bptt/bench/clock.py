"""Timing a call within this process."""

from __future__ import annotations

import gc
from collections.abc import Callable
from itertools import repeat
from time import perf_counter
from typing import Any

__all__ = ["SAMPLE", "TURN", "calls_of", "samples"]

SAMPLE = 1e-4  # seconds that a sample lasts at least: calls are grouped until it does
TURN = 0.03  # seconds of samples in a turn


def samples(call: Callable[[], Any], count: int, calls: int, warm: int = 1) -> list[float]:
    """Return the seconds per call of each of `count` samples of so many calls.

    `warm` samples before them are not kept: after a pause caches are cold and threads asleep.
    """
    seconds = []
    enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(warm + count):
            start = perf_counter()
            for _ in repeat(None, calls):
                call()
            seconds.append((perf_counter() - start) / calls)
    finally:
        if enabled:
            gc.enable()
    return seconds[warm:]


def calls_of(estimate: float) -> int:
    """Return how many calls of so many seconds make a sample."""
    return max(1, round(SAMPLE / max(estimate, 1e-9)))
