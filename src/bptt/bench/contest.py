"""Contests: every contender does the same work in a process of its own, in turns, checked before it is timed.

Thread pools spin for a while after a call, and would spin against the next contender's: a process is stopped
while it is not its turn.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

import bptt

from .cases import Array, Case
from .clock import TURN, calls_of
from .contenders import PACKAGES
from .memory import Need, Subject

__all__ = [
    "ORACLE",
    "ContenderError",
    "Contests",
    "Outcome",
    "Row",
    "Timing",
    "missing",
    "need",
    "thread_counts",
]

MIN_TURNS = 5
LONG = 0.2  # seconds of a call from which warming up before each turn changes nothing
HOPELESS = 1.5  # times the median of the same library with other threads: no more turns


class Row(NamedTuple):
    """A contender at a thread count: "torch-2"; 0 threads: its own choice. "bptt@avx2-1" forces a variant.

    "plain-2" is this library at work on `Case.plain` in place of the case: what its options cost.
    """

    name: str
    threads: int

    @classmethod
    def of(cls, text: str) -> Row:
        name, _, threads = text.rpartition("-")
        return cls(name, int(threads))

    def work(self, case: Case) -> Case:
        """Return what the row does in a contest over a case."""
        return case.plain() if self.name == "plain" else case

    def __str__(self) -> str:
        return f"{self.name}-{self.threads}"


@dataclass
class Timing:
    """What a row yields: seconds per call of every sample, and facts for the report."""

    facts: dict[str, str]
    seconds: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


class ContenderError(Exception):
    """A contender failed, or its results are wrong."""


Outcome = dict[Row, Timing | ContenderError]

ORACLE = Row("oracle", 0)


def missing(row: Row) -> str:
    """Return the name of a package that a row needs and that is not installed; empty if there is none."""
    packages = PACKAGES.get(row.name, ())
    return next((name for name in packages if importlib.util.find_spec(name) is None), "")


def thread_counts(most: int | None = None) -> tuple[int, ...]:
    """Return the thread counts to try: one, and `most` (the default count of this library, two at most)."""
    most = most or min(2, bptt.get_num_threads())
    return (1, most) if most > 1 else (1,)


class Process:
    """A worker process with environment variables of its own; stopped whenever it has no request."""

    def __init__(self, row: Row, **variables: str) -> None:
        self.row = row
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "bptt.bench.worker", row.name, str(row.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**environment(row), **variables},
        )

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send a request and wait for the answer."""
        requests, replies = self._popen.stdin, self._popen.stdout
        assert requests is not None
        assert replies is not None
        self._popen.send_signal(signal.SIGCONT)
        try:
            pickle.dump((name, arguments), requests)
            requests.flush()
            status, value = pickle.load(replies)
        except (EOFError, BrokenPipeError):
            raise ContenderError(f"{self.row}: the process ended with status {self._popen.wait()}") from None
        self._popen.send_signal(signal.SIGSTOP)
        if status == "failed":
            raise ContenderError(f"{self.row}: {value}")
        return value

    def close(self) -> None:
        """End the process."""
        self._popen.kill()  # also wakes it
        self._popen.communicate()


def need(subject: Subject, threads: int) -> Need:
    """Measure in a fresh process what a row of `memory.MEMORY` needs."""
    process = Process(Row("bptt", threads), BPTT_KEEP_MB=subject.keep)
    try:
        found: Need = process.ask("memory", subject.what, subject.case)
    finally:
        process.close()
    return found


def environment(row: Row) -> dict[str, str]:
    """Return the environment of a row's process: its thread count, its variant."""
    added = {}
    if row.threads:
        added = {name: str(row.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    variant = row.name.partition("@")[2]
    return {**os.environ, **added, **({"BPTT_VARIANT": variant} if variant else {})}


class Contests:
    """The processes, started when first needed, and the contests among them; a context manager."""

    def __init__(self) -> None:
        self._processes: dict[Row, Process] = {}

    def __enter__(self) -> Contests:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes.values():
            process.close()

    def _process(self, row: Row) -> Process:
        if row not in self._processes:
            self._processes[row] = Process(row)
        return self._processes[row]

    def hold(self, case: Case, rows: Iterable[Row], seconds: float, min_turns: int = MIN_TURNS) -> Outcome:
        """Compare the results of all rows, then time them in turns.

        Parameters
        ----------
        case : Case
        rows : iterable of Row
        seconds : float
            To spend on the samples of each row.
        min_turns : int
            That each row gets at least; with 0 seconds and 1 turn it is one sample of one call.

        Returns
        -------
        dict
            For each row its Timing, or the error that kept it out.
        """
        rows = list(rows)
        expected = {work: self._expected(work) for work in dict.fromkeys(row.work(case) for row in rows)}
        outcome: Outcome = {}
        timings: dict[Row, Timing] = {}
        plans: dict[Row, tuple[int, int, int]] = {}
        for row in rows:
            try:
                facts = self._process(row).ask("prepare", row.work(case))
                compare(row, self._process(row).ask("results"), expected[row.work(case)])
                plans[row] = self._plan(row) if seconds else (1, 1, 1)
                outcome[row] = timings[row] = Timing(facts)
            except ContenderError as error:
                outcome[row] = error
        turn = 0
        while plans:
            turn += 1
            for row, plan in list(plans.items()):
                timing = timings[row]
                timing.seconds += self._process(row).ask("turn", *plan)
                if turn >= min_turns and sum(timing.seconds) * plan[1] >= seconds:
                    del plans[row]
            for row in [row for row in plans if turn >= 2 and hopeless(row, timings)]:
                del plans[row]
        return outcome

    def _expected(self, case: Case) -> dict[str, Array]:
        oracle = self._process(ORACLE)
        oracle.ask("prepare", case)
        return dict(oracle.ask("results")[1])

    def _plan(self, row: Row) -> tuple[int, int, int]:
        """Return the samples of a turn, the calls of a sample, and the samples to warm up with."""
        estimate = float(self._process(row).ask("turn", 1, 1, 0)[0])
        if estimate < LONG:
            estimate = min(self._process(row).ask("turn", 2, 1))
        calls = calls_of(estimate)
        return max(1, round(TURN / (calls * max(estimate, 1e-9)))), calls, int(estimate < LONG)


def hopeless(row: Row, timings: dict[Row, Timing]) -> bool:
    """Whether the same library is so much faster with other threads that the row cannot count as its best."""
    others = [t.median for r, t in timings.items() if r.name == row.name and r != row and t.seconds]
    return row.name in PACKAGES and bool(others) and timings[row].median > HOPELESS * min(others)


def compare(row: Row, given: tuple[float, dict[str, Array]], expected: dict[str, Array]) -> None:
    """Raise if any result is further from the oracle's than the tolerance, in the Euclidean norm."""
    tolerance, results = given
    for name, wanted in expected.items():
        if results[name].shape != wanted.shape:
            raise ContenderError(f"{row}: {name}: shape {results[name].shape}, not {wanted.shape}")
        error = float(np.linalg.norm(results[name] - wanted) / (np.linalg.norm(wanted) or 1))
        if not error <= tolerance:
            raise ContenderError(f"{row}: {name}: off by {error:.1e}, more than {tolerance:.0e}")
