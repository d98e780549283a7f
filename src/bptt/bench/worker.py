"""A process of one contender: ``python -m bptt.bench.worker NAME THREADS``.

It answers requests until its input ends. A request is a pickled pair of a method of `Worker` and its
arguments; the answer a pickled pair of "done" and what it returned, or of "failed" and a traceback.
"""

from __future__ import annotations

import ctypes
import os
import pickle
import signal
import sys
import traceback
from typing import Any

from .cases import Case
from .clock import samples
from .contenders import Results, Task, contender
from .memory import MEASURES, Need

__all__ = ["Worker", "main"]

PR_SET_PDEATHSIG = 1


class Worker:
    """The requests that a process answers."""

    def __init__(self, name: str, threads: int) -> None:
        self.contender = contender(name, threads)
        self.task: Task | None = None

    def prepare(self, case: Case) -> dict[str, str]:
        """Get ready for a case: what a user does once. Returns facts for the report."""
        self.task = None  # its memory first
        self.task = getattr(self.contender, case.mode)(case)
        return self.contender.facts()

    def results(self) -> tuple[float, Results]:
        """Return the tolerance and what the work yields, from a fresh start."""
        assert self.task is not None
        return self.contender.tolerance, self.task.results()

    def turn(self, count: int, calls: int, warm: int = 1) -> list[float]:
        """Return the seconds per call of each of `count` samples of so many calls, after `warm` more."""
        assert self.task is not None
        return samples(self.task.call, count, calls, warm)

    def memory(self, what: str, case: Case) -> Need:
        """Measure what a case needs of memory; the first request of a process, and its last."""
        return MEASURES[what](case)


def answer(worker: Worker, name: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    """Carry out one request."""
    try:
        return "done", getattr(worker, name)(*arguments)
    except Exception:
        return "failed", traceback.format_exc()


def main() -> None:
    """Answer requests."""
    if sys.platform == "linux":  # the parent stops its workers; killed, it could not wake them to end
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is not an answer
    worker = Worker(sys.argv[1], int(sys.argv[2]))
    while True:
        try:
            name, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(answer(worker, name, arguments), replies)
        replies.flush()


if __name__ == "__main__":
    main()
