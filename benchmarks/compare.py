"""Ratios to the fastest peer, each at its better thread count, against what they have to be.

    python benchmarks/compare.py [--seconds 2] [--only training]

Median times of interleaved turns; this library on two threads. Ends with status 1 if a ratio falls short.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

import bptt
from bptt.bench.cases import Case
from bptt.bench.contest import ContenderError, Contests, Row, Timing, missing, thread_counts


class Target(NamedTuple):
    """How many times as fast as the fastest peer a case has to be."""

    case: Case
    ratio: float


TARGETS = (
    Target(Case.of("forward", "100x32x128x128"), 1.0),
    Target(Case.of("forward", "2048x1x1x20"), 3.0),
    Target(Case.of("stream", "1x1x64x64"), 5.0),
    Target(Case.of("training", "100x32x128x128"), 1.15),
    Target(Case.of("training", "100x32x40x40"), 2.5),
)
PEERS = {"forward": ("torch", "onnxruntime"), "stream": ("torch", "onnxruntime"), "training": ("torch",)}


def measure(contests: Contests, case: Case, seconds: float) -> tuple[Timing, Row, Timing]:
    """Return this library's timing, and the fastest peer with its own."""
    own = Row("bptt", max(thread_counts()))
    peers = [Row(name, threads) for name in PEERS[case.mode] for threads in thread_counts()]
    for row in peers:
        if missing(row):
            raise ContenderError(f"{row}: {missing(row)} is not installed")
    timings: dict[Row, Timing] = {}
    for row, outcome in contests.hold(case, (own, *peers), seconds).items():
        if isinstance(outcome, ContenderError):
            raise outcome
        timings[row] = outcome
    best = min(peers, key=lambda row: timings[row].median)
    return timings[own], best, timings[best]


def report(contests: Contests, target: Target, seconds: float) -> bool:
    """Print one line; return whether the target is met."""
    case = target.case
    own, best, peer = measure(contests, case, seconds)
    ratio = peer.median / own.median
    met = ratio >= target.ratio
    times = f"{own.median * 1e6:10.1f} {peer.median * 1e6:10.1f}  {best!s:14}"
    verdict = f"{ratio:6.2f} {target.ratio:6.2f}  {'pass' if met else 'FAIL'}"
    print(f"{case.mode:9} {case.shape:15} {times} {verdict}", flush=True)
    return met


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="to spend on each row (default: 2)")
    parser.add_argument("--only", choices=sorted(PEERS), help="one kind of work")
    arguments = parser.parse_args()
    facts = bptt.config()
    print(f"{facts['cpu']}, {facts['active_variant']}, {max(thread_counts())} threads, float32; times in us")
    print(f"{'work':9} {'TxBxIxH':15} {'bptt':>10} {'peer':>10}  {'which':14} {'ratio':>6} {'wanted':>6}")
    chosen = [target for target in TARGETS if arguments.only in (None, target.case.mode)]
    with Contests() as contests:
        return 0 if all([report(contests, target, arguments.seconds) for target in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
