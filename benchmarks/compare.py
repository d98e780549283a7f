"""Ratios to the fastest peer, each at its better thread count, against what they have to be.

    python benchmarks/compare.py [--seconds 2] [--only training]
    python benchmarks/compare.py --suite cells [--match peephole] [--compiled]
    python benchmarks/compare.py --suite rtneural
    python benchmarks/compare.py --suite memory
    python benchmarks/compare.py --suite torch
    python benchmarks/compare.py --suite flow
    python benchmarks/compare.py --suite cures

Median times of interleaved turns; this library on two threads (rtneural: one, against published figures).
torch is about bptt.torch: the share of the bare layer's speed that its module keeps, and what share a module
could keep that only hands arrays over. flow is what measuring the flow of gradients costs; cures, what
truncating it, clipping it inside the recursion and computing the tape again do.
Ends with status 1 if a ratio falls short, a call needs more memory than it may, or a measurement more time.
"""

from __future__ import annotations

import argparse
import sys

import bptt
from bptt.bench.cases import MODES
from bptt.bench.contest import (
    ContenderError,
    Contests,
    Outcome,
    Row,
    Timing,
    missing,
    need,
    thread_counts,
)
from bptt.bench.costs import CURES, FLOW, Watch, cost
from bptt.bench.machine import Ceilings, measure_ceilings
from bptt.bench.memory import MEMORY, Subject
from bptt.bench.roofline import bound
from bptt.bench.suites import CELLS, LSTM, RTNEURAL, SLOW_PATHS, TORCH, Aim, Goal, Published, Share, label

SUITES = {
    "lstm": LSTM,
    "cells": (*CELLS, *SLOW_PATHS),
    "rtneural": RTNEURAL,
    "memory": MEMORY,
    "torch": TORCH,
    "flow": FLOW,
    "cures": CURES,
}
COMPILED = "torchcompile"  # takes a hundred seconds before its first call


def entrants(goal: Goal, compiled: bool) -> list[Row]:
    """Return the rows of a contest: this library first; peers at one thread and at the most."""
    counts, rows = thread_counts(), [Row("bptt", max(thread_counts()))]
    for name in goal.rivals:
        if name != COMPILED or compiled:
            rows += [Row(name, n) for n in (counts[-1:] if name == "plain" else counts)]
    return rows


def verdict(ratio: float, wanted: float | None) -> str:
    """Return a ratio, what it has to be, and whether it is; nothing is wanted where it is only told."""
    if wanted is None:
        return f"{ratio:6.2f} {'-':>6}      "
    return f"{ratio:6.2f} {wanted:6.2f}  {'pass' if ratio >= wanted else 'FAIL'}"


def line(goal: Goal, aim: Aim, outcome: Outcome, own: Timing) -> tuple[str, bool]:
    """Return the line of an aim and whether it is met."""
    timings = {row: t for row, t in outcome.items() if row.name in aim.rivals and isinstance(t, Timing)}
    start = f"{goal.case.mode:9} {goal.case.shape:15} {own.median * 1e6:10.1f}"
    if not timings:
        return f"{start} {'-':>10}  {'nobody':14} FAIL: none of {', '.join(aim.rivals)} took part", False
    best = min(timings, key=lambda row: timings[row].median)
    ratio = timings[best].median / own.median
    text = f"{start} {timings[best].median * 1e6:10.1f}  {best!s:14} {verdict(ratio, aim.ratio)}"
    return text, aim.ratio is None or ratio >= aim.ratio


def report(contests: Contests, goal: Goal, seconds: float, compiled: bool, ceilings: Ceilings | None) -> bool:
    """Hold the contest of a goal and print a line for each aim; return whether all are met."""
    rows = entrants(goal, compiled)
    absent = {row.name: missing(row) for row in rows if missing(row)}
    outcome = contests.hold(goal.case, [row for row in rows if row.name not in absent], seconds)
    own = outcome[rows[0]]
    if isinstance(own, ContenderError):
        raise own
    note = goal.case.kind
    if ceilings:
        limit = bound(goal.case, ceilings)
        note = f"{100 * limit.seconds / own.median:3.0f}% of {limit.ceiling:8} {note}"
    lines = [line(goal, aim, outcome, own) for aim in goal.aims]
    for text, _ in lines:
        print(f"{text}  {note}".rstrip(), flush=True)
    for name, package in absent.items():
        print(f"    left out: {name}, {package} is not installed")
    for row, error in outcome.items():
        if isinstance(error, ContenderError):
            reason = str(error).strip().splitlines()[-1].removeprefix(f"{row}: ")
            print(f"    left out: {row}: {reason}")
    return all(met for _, met in lines)


def report_published(contests: Contests, entry: Published, seconds: float) -> bool:
    """Print the line of a figure that others have published; return whether the ratio is met."""
    own = contests.hold(entry.case, [Row("bptt", 1)], seconds)[Row("bptt", 1)]
    if isinstance(own, ContenderError):
        raise own
    step = own.median / entry.case.T
    ratio = entry.seconds / step
    text = f"{entry.I:4} -> {entry.H:<4} {step * 1e9:10.1f} {entry.seconds * 1e9:10.0f}"
    print(f"{text}  {verdict(ratio, entry.ratio)}", flush=True)
    return entry.ratio is None or ratio >= entry.ratio


def report_memory(subject: Subject) -> bool:
    """Print the line of a measurement of memory; return whether no more was needed than may be."""
    found = need(subject, max(thread_counts()))
    keep = f"BPTT_KEEP_MB={subject.keep or '256'}"
    text = f"{subject.what:9} {subject.case.shape:16} {found.used / 1e6:9.1f} {found.allowed / 1e6:9.1f}"
    print(f"{text}  {'pass' if found.met else 'FAIL'}  {keep:16} {subject.case.kind}".rstrip(), flush=True)
    return found.met


def report_share(share: Share, seconds: float, threads: int) -> bool:
    """Print the line of a step through autograd; return whether enough of the bare layer's speed is kept."""
    from bptt.bench.peer_autograd import CONTENDERS, medians  # imports PyTorch

    found = medians(share.case, share.of_input, threads, seconds)
    peer, bare, module, least = (found[name] for name in CONTENDERS)
    met = bare / module >= share.ratio
    times = " ".join(f"{time * 1e6:10.1f}" for time in (peer, bare, module))
    note = share.case.kind + ("" if share.of_input else " x without gradient")
    text = f"{share.case.shape:15} {times}  {verdict(bare / module, share.ratio)} {bare / least:9.2f}"
    print(f"{text}  {note.strip()}".rstrip(), flush=True)
    return met


def report_flow(watch: Watch, threads: int, seconds: float) -> bool:
    """Print the line of what seeing or curing the flow of gradients costs; return whether that is met."""
    found = cost(watch, threads, seconds)
    times = f"{found.plain * 1e6:10.1f} {found.measured * 1e6:10.1f}"
    text = f"{watch.what:9} {watch.case.shape:15} {threads:7} {times} {found.share:7.1%}"
    most = "     -      " if found.most is None else f"{found.most:6.0%}  {'pass' if found.met else 'FAIL'}"
    print(f"{text} {most}  {watch.note}".rstrip(), flush=True)
    return found.met


def parse() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--suite", choices=SUITES, default="lstm", help="what is measured (default: lstm)")
    add("--seconds", type=float, default=2.0, help="to spend on each row (default: 2)")
    add("--only", choices=sorted(MODES), help="one kind of work")
    add("--match", default="", help="cases whose line has this text only: peephole, GRU, 128x64, ..")
    add("--compiled", action="store_true", help="PyTorch's compiled loops, too: minutes each")
    return parser.parse_args()


def main() -> int:
    """Print the table."""
    arguments = parse()
    suite, seconds, threads = arguments.suite, arguments.seconds, max(thread_counts())
    facts = bptt.config()
    chosen = [
        entry
        for entry in SUITES[suite]
        if arguments.only in (None, entry.case.mode) and arguments.match in label(entry.case)
    ]
    machine = f"{facts['cpu']}, {facts['active_variant']}"
    if suite == "memory":
        print(f"{machine}, {threads} threads; megabytes that a call holds beside what it was given")
        print(f"{'what':9} {'TxBxIxH':16} {'needed':>9} {'allowed':>9}")
        return 0 if all([report_memory(subject) for subject in chosen]) else 1
    if suite == "torch":
        print(f"{machine}, {threads} threads, float32, training through autograd; times in us")
        head = f"{'TxBxIxH':15} {'torch.nn':>10} {'bare':>10} {'module':>10}"
        print(f"{head}  {'share':>6} {'wanted':>6}       {'at best':>9}")
        return 0 if all([report_share(share, seconds, threads) for share in chosen]) else 1
    if suite in ("flow", "cures"):
        print(f"{machine}; times in us, without and with what the first column names")
        columns = f"{'threads':>7} {'plain':>10} {'measured':>10} {'cost':>7} {'most':>6}"
        print(f"{'what':9} {'TxBxIxH':15} {columns}")
        met = [report_flow(entry, n, seconds) for n in reversed(thread_counts()) for entry in chosen]
        return 0 if all(met) else 1
    with Contests() as contests:
        if suite == "rtneural":
            print(f"{machine}, one thread, float32, a call over 2048 steps; nanoseconds a step")
            print("published: RTNeural, a streamed step on one Zen 4 core, not measured here")
            print(f"{'I -> H':12} {'bptt':>10} {'published':>10}  {'ratio':>6} {'wanted':>6}")
            return 0 if all([report_published(contests, entry, seconds) for entry in chosen]) else 1
        print(f"{machine}, {threads} threads, float32; times in us")
        print(f"{'work':9} {'TxBxIxH':15} {'bptt':>10} {'peer':>10}  {'which':14} {'ratio':>6} {'wanted':>6}")
        ceilings = measure_ceilings(threads) if suite == "cells" else None
        met = [report(contests, goal, seconds, arguments.compiled, ceilings) for goal in chosen]
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
