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
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cases import Array, Case

WORKER = Path(__file__).with_name("worker.py")
SAMPLE = 1e-4  # seconds that a sample lasts at least: calls are grouped until it does
TURN = 0.03  # seconds of samples in a turn
MIN_TURNS = 5


class Row(NamedTuple):
    """A contender at a thread count: "torch-2"."""

    name: str
    threads: int

    @classmethod
    def of(cls, text: str) -> Row:
        name, _, threads = text.rpartition("-")
        return cls(name, int(threads))

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


ORACLE = Row("oracle", 1)
PACKAGES = {"torch": ("torch",), "onnxruntime": ("onnxruntime", "onnx")}  # the other contenders need none


def missing(row: Row) -> str:
    """Return the name of a package that a row needs and that is not installed; empty if there is none."""
    packages = PACKAGES.get(row.name, ())
    return next((name for name in packages if importlib.util.find_spec(name) is None), "")


def thread_counts() -> tuple[int, ...]:
    """Return the thread counts to try: one, and two where there are as many CPUs."""
    return (1, 2) if len(os.sched_getaffinity(0)) > 1 else (1,)


class Process:
    """A worker process; stopped whenever it has no request."""

    def __init__(self, row: Row) -> None:
        self.row = row
        count = {name: str(row.threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
        self._popen = subprocess.Popen(
            [sys.executable, str(WORKER), row.name, str(row.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **count},
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

    def hold(
        self, case: Case, rows: Iterable[Row], seconds: float, min_turns: int = MIN_TURNS
    ) -> dict[Row, Timing | ContenderError]:
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
        expected = self._expected(case)
        outcome: dict[Row, Timing | ContenderError] = {}
        plans: dict[Row, tuple[int, int]] = {}
        for row in rows:
            try:
                facts = self._process(row).ask("prepare", case)
                compare(row, self._process(row).ask("results"), expected)
                plans[row] = self._plan(row) if seconds else (1, 1)
                outcome[row] = Timing(facts)
            except ContenderError as error:
                outcome[row] = error
        turn = 0
        while plans:
            for row, plan in list(plans.items()):
                timing = outcome[row]
                assert isinstance(timing, Timing)
                timing.seconds += self._process(row).ask("turn", *plan)
                if turn + 1 >= min_turns and sum(timing.seconds) * plan[1] >= seconds:
                    del plans[row]
            turn += 1
        return outcome

    def _expected(self, case: Case) -> dict[str, Array]:
        oracle = self._process(ORACLE)
        oracle.ask("prepare", case)
        return dict(oracle.ask("results")[1])

    def _plan(self, row: Row) -> tuple[int, int]:
        """Return the samples of a turn and the calls of a sample."""
        estimate = min(self._process(row).ask("turn", 3, 1))
        calls = max(1, round(SAMPLE / estimate))
        return max(1, round(TURN / (calls * estimate))), calls


def compare(row: Row, given: tuple[float, dict[str, Array]], expected: dict[str, Array]) -> None:
    """Raise if any result is further from the oracle's than the tolerance, in the Euclidean norm."""
    tolerance, results = given
    for name, wanted in expected.items():
        if results[name].shape != wanted.shape:
            raise ContenderError(f"{row}: {name}: shape {results[name].shape}, not {wanted.shape}")
        error = float(np.linalg.norm(results[name] - wanted) / (np.linalg.norm(wanted) or 1))
        if not error <= tolerance:
            raise ContenderError(f"{row}: {name}: off by {error:.1e}, more than {tolerance:.0e}")
