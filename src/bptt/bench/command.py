"""The command: what its arguments mean, and the order of the work."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import bptt

from .cases import MODES
from .choice import Choice, judge, time_choice
from .contest import ContenderError, Contests, Row, missing, thread_counts
from .grid import Entry, full_grid, own_grid, quick_grid
from .growth import prediction, sweep
from .machine import Ceilings, measure_ceilings
from .progress import Progress
from .report import HEADER, Line, line_of, summary, time_text, to_json

__all__ = ["add_arguments", "main"]

PEERS = {
    "stream": ("torch", "onnxruntime", "openvino"),
    "forward": ("torch", "onnxruntime", "openvino"),
    "training": ("torch",),
}
SECONDS, QUICK_SECONDS = 1.0, 0.15  # of samples of each row
TURNS, QUICK_TURNS = 5, 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command to a parser.

    Parameters
    ----------
    parser : argparse.ArgumentParser
    """
    add = parser.add_argument
    add("--threads", type=_count, help="of this library, and the most of a peer (default: the library's own)")
    add("--quick", action="store_true", help="fewer shapes and turns: within two minutes")
    add("--shapes", type=_shapes, metavar="T,B,I,H;...", help="these shapes only")
    add(
        "--modes",
        type=_modes,
        default=MODES,
        help="stream, forward, training: comma-separated (default: all)",
    )
    add("--seconds", type=_seconds, help=f"of samples of each contender (default: {SECONDS:g})")
    add("--peers", type=_peers, help="these peers only, comma-separated; empty: none")
    add("--json", metavar="FILE", help="write everything that was measured")
    add("--plot", metavar="FILE.png", help="draw the roofline and the ratios (needs matplotlib)")
    add("--ceilings", action="store_true", help="measure the machine's ceilings only")
    add("--predict", action="store_true", help="print what the cost model expects of more cores, too")
    add(
        "--choices",
        action="store_true",
        help="time the automatic division of work against forced ones instead",
    )
    add("--sweep", metavar="FILE.png", help="draw how cost grows with T, B and H instead (needs matplotlib)")


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 256:
        raise argparse.ArgumentTypeError(f"expected 1 to 256, got {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}")
    return value


def _shapes(text: str) -> list[Entry]:
    try:
        return own_grid(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _modes(text: str) -> tuple[str, ...]:
    return _choose(text, MODES)


def _peers(text: str) -> tuple[str, ...]:
    return _choose(text, PEERS["forward"]) if text.strip() else ()


def _choose(text: str, known: Sequence[str]) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"expected {', '.join(known)}, got {unknown[0]!r}")
    return names


def main(arguments: argparse.Namespace) -> int:
    """Carry out the command and return its exit status.

    Parameters
    ----------
    arguments : argparse.Namespace
        As `add_arguments` describes them.
    """
    if bptt.config()["backend"] != "native" or not bptt.variants():
        print("bptt: bench needs the compiled core", file=sys.stderr)
        return 2
    if (arguments.plot or arguments.sweep) and not importlib.util.find_spec("matplotlib"):
        print("bptt: --plot and --sweep need matplotlib", file=sys.stderr)
        return 2
    threads = arguments.threads or bptt.get_num_threads()
    ceilings = measure_ceilings(threads)
    print("\n".join(ceilings.lines()), flush=True)
    if arguments.ceilings:
        _write(arguments.json, {"ceilings": ceilings.as_dict()})
    elif arguments.choices:
        _choices(arguments, threads)
    elif arguments.sweep:
        _sweep(arguments, ceilings)
    else:
        _contests(arguments, ceilings)
    return 0


def entries(arguments: argparse.Namespace) -> list[Entry]:
    """Return the cases that were asked for."""
    grid = arguments.shapes or (quick_grid() if arguments.quick else full_grid())
    return [entry for entry in grid if entry.case.mode in arguments.modes]


def _write(path: str | None, content: dict[str, object]) -> None:
    if path:
        Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _contests(arguments: argparse.Namespace, ceilings: Ceilings) -> None:
    """Hold a contest over each case, print its line at once, then the summary and the files."""
    wanted = PEERS["forward"] if arguments.peers is None else arguments.peers
    absent = {name: missing(Row(name, 1)) for name in wanted}
    for name, package in absent.items():
        if package:
            print(f"{name} takes no part: {package} is not installed")
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    turns = QUICK_TURNS if arguments.quick else TURNS
    own, chosen = Row("bptt", ceilings.threads), entries(arguments)
    lines: list[Line] = []
    print(HEADER, flush=True)
    with Contests() as contests, Progress(len(chosen)) as progress:
        for entry in chosen:
            progress.at(f"{entry.case.mode} {entry.case.shape}")
            names = [n for n in PEERS[entry.case.mode] if n in wanted and not absent[n]]
            rows = [own] + [Row(n, count) for n in names for count in thread_counts(ceilings.threads)]
            try:
                lines.append(line_of(entry, contests.hold(entry.case, rows, seconds, turns), own, ceilings))
                progress.done(str(lines[-1]))
            except ContenderError as error:
                progress.done(f"{entry.case.shape:>16} {entry.case.mode:9} failed: {error}")
    print("\n".join(summary(lines)))
    if arguments.predict:
        print("\n".join(prediction(lines, ceilings)))
    facts = {key: bptt.config()[key] for key in ("version", "python", "numpy", "platform", "cpu", "build")}
    _write(arguments.json, to_json(lines, ceilings, facts))
    if arguments.plot and lines:
        from .picture import save_run

        save_run(arguments.plot, lines, ceilings)


def _choices(arguments: argparse.Namespace, threads: int) -> None:
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS / 2)
    chosen, found = entries(arguments), list[Choice]()
    print(Choice.header(), flush=True)
    with Progress(len(chosen)) as progress:
        for entry in chosen:
            progress.at(f"{entry.case.mode} {entry.case.shape}")
            found.append(time_choice(entry.case, threads, seconds))
            progress.done(str(found[-1]))
    if found:
        print(judge(found))
    rows = [{**c.case._asdict(), "medians": c.medians, "best": c.best, "loss": c.loss} for c in found]
    _write(arguments.json, {"threads": threads, "choices": rows})


def _sweep(arguments: argparse.Namespace, ceilings: Ceilings) -> None:
    from .picture import save_growth

    points = []
    for point in sweep(ceilings, arguments.seconds or QUICK_SECONDS):
        points.append(point)
        share = f"{100 * point.bound.seconds / point.seconds:3.0f}% of {point.bound.ceiling}"
        print(
            f"{point.axis}={point.value:<5} {point.case.mode:9} {time_text(point.seconds):>9} {share}",
            flush=True,
        )
    rows = [
        {**p.case._asdict(), "axis": p.axis, "seconds": p.seconds, "bound": p.bound._asdict()} for p in points
    ]
    _write(arguments.json, {"ceilings": ceilings.as_dict(), "sweep": rows})
    save_growth(arguments.sweep, points, ceilings)
