"""Pictures of a run: roofline and ratios, and growth along T, B and H. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from .cases import MODES
from .grid import target
from .growth import Point
from .machine import LEVELS, Ceilings
from .report import Line

__all__ = ["save_growth", "save_run"]

COLOURS = {"stream": "#1b9e77", "forward": "#1f5fbf", "training": "#d9480f"}
MARKS = {"stream": "s", "forward": "o", "training": "^"}
GREY = "#8a8a8a"


def _axes(rows: int, columns: int, size: tuple[float, float], **layout: Any) -> tuple[Any, Any]:
    """Return a figure that needs no display, and its axes."""
    figure: Any = import_module("matplotlib.figure").Figure(figsize=size, layout="constrained", dpi=130)
    axes = figure.subplots(rows, columns, squeeze=False, gridspec_kw=layout or None)[0]
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
        axis.set_axisbelow(True)
    return figure, axes


def save_run(path: str | Path, lines: Sequence[Line], ceilings: Ceilings) -> None:
    """Save the roofline and, where there are peers, the ratios to the best one: a PNG, or what the name says.

    Parameters
    ----------
    path : path
    lines : sequence of Line
    ceilings : Ceilings
    """
    groups = [
        [line for line in lines if line.ratio is not None and (line.case.mode == "training") == training]
        for training in (False, True)
    ]
    groups = [group for group in groups if group]
    height = min(30.0, max(5.2, 1.2 + 0.21 * max(map(len, groups), default=0)))
    figure, axes = _axes(
        1, 1 + len(groups), (6.4 + 4.6 * len(groups), height), width_ratios=[1.35] + [1] * len(groups)
    )
    _roofline(axes[0], lines, ceilings)
    for axis, group in zip(axes[1:], groups, strict=True):
        _ratios(axis, group)
    plural = "threads" if ceilings.threads > 1 else "thread"
    figure.suptitle(
        f"bptt on {ceilings.cpu}: {ceilings.threads} {plural}, {ceilings.variant}, float32", fontsize=11
    )
    figure.savefig(path)


def _intensity(line: Line) -> float:
    """Return operations for each byte of weights that a time step reads."""
    case = line.case
    weights = 4 * case.H * (case.H + (case.I if case.mode == "stream" else 0)) * case.real.itemsize
    return float(case.flops / (case.T * weights * (2 if case.mode == "training" else 1)))


def _roofline(axis: Any, lines: Sequence[Line], ceilings: Ceilings) -> None:
    axis.set_xscale("log", base=2)  # before limits are set: a linear axis may have made room below zero
    axis.set_yscale("log")
    found = [_intensity(line) for line in lines]
    roofs = _roofs(axis, min(found, default=0.5) / 2, max([*found, 32.0]) * 2, ceilings)
    marks: list[Any] = []
    for mode in MODES:
        own = [(i, line) for i, line in zip(found, lines, strict=True) if line.case.mode == mode]
        peers = [(i, line.case.flops / line.medians[line.best] / 1e9) for i, line in own if line.best]
        if peers:
            axis.plot(*zip(*peers, strict=True), MARKS[mode], color=GREY, mfc="none", ms=4.5, zorder=2)
        if own:
            rates = [line.case.flops / line.own / 1e9 for _, line in own]
            marks += axis.plot([i for i, _ in own], rates, MARKS[mode], color=COLOURS[mode], ms=5.5, zorder=3)
            marks[-1].set_label(mode)
    if any(line.best for line in lines):
        marks += axis.plot([], [], "o", color=GREY, mfc="none", ms=4.5, label="best peer")
    every = [line.case.flops / seconds / 1e9 for line in lines for seconds in line.medians.values()]
    axis.set_ylim(bottom=min(every, default=1) / 2)
    axis.xaxis.set_major_formatter(_plain())
    axis.set_xlabel("operations per byte of recurrent weights read in a step")
    axis.set_ylabel("GFLOP/s")
    axis.set_title("Roofline", fontsize=10)
    axis.add_artist(axis.legend(handles=roofs, fontsize=8, loc="upper left", frameon=False))
    axis.legend(handles=marks, fontsize=8, loc="lower right", frameon=False)


def _roofs(axis: Any, low: float, high: float, ceilings: Ceilings) -> list[Any]:
    """Draw the ceilings from one intensity to another; return the lines."""
    x = np.geomspace(low, high, 200)
    peak = ceilings.multiply_adds["float32"][1] * ceilings.threads
    roofs: list[Any] = []
    for level, shade in zip(LEVELS, ("#333333", "#777777", "#aaaaaa", "#cccccc"), strict=True):
        total = ceilings.read[level][1] * ceilings.threads
        roofs += axis.plot(x, np.minimum(peak, total * x), color=shade, linewidth=1.3, zorder=1)
        roofs[-1].set_label(f"read {level} {total:.0f} GB/s")
    roofs += axis.plot(x, np.full(x.shape, peak), color="black", linewidth=1.6, zorder=1)
    roofs[-1].set_label(f"multiply-adds {peak:.0f} GFLOP/s")
    axis.set_ylim(top=peak * 12)
    return roofs


def _plain() -> Any:
    """Return a formatter that writes 0.5, 16, 1024."""
    return import_module("matplotlib.ticker").FuncFormatter(lambda value, _: f"{value:.4g}")


def _ratios(axis: Any, lines: Sequence[Line]) -> None:
    ordered = sorted(lines, key=lambda line: line.ratio or 0)
    ratios = [line.ratio or 0 for line in ordered]
    places = range(len(ordered))
    axis.barh(
        places,
        [r - 1 for r in ratios],
        left=1,
        color=[COLOURS[line.case.mode] for line in ordered],
        height=0.72,
    )
    for place, line, ratio in zip(places, ordered, ratios, strict=True):
        aim = target(line.case)
        text, end = f"{ratio:.2f}  {line.best.rpartition('-')[0]}", max(ratio, 1, aim or 0)
        offset = {"xytext": (3, 0), "textcoords": "offset points"}
        axis.annotate(text, (end, place), fontsize=6.5, va="center", **offset)
        if aim:
            axis.plot([aim, aim], [place - 0.42, place + 0.42], color="black", linewidth=1.4)
    axis.set_yticks(places, [line.case.shape.replace("x", ", ") for line in ordered], fontsize=7)
    axis.set_ylim(-0.6, len(ordered) - 0.4)
    axis.set_xscale("log", base=2)
    axis.set_xlim(min(0.8, *ratios) if ratios else 0.8, max([2.0, *ratios]) * 1.9)
    axis.xaxis.set_major_formatter(_plain())
    axis.axvline(1, color="black", linewidth=0.8)
    training = ordered[0].case.mode == "training"
    axis.set_title(
        "Training" if training else "Forward (blue) and streamed steps (green)",
        fontsize=10,
    )
    axis.set_xlabel("times as fast as the best peer (black: aim); T, B, I, H")


def save_growth(path: str | Path, points: Sequence[Point], ceilings: Ceilings) -> None:
    """Save how the time of a call grows along each axis that was swept, beside its bound."""
    names = list(dict.fromkeys(point.axis for point in points))
    figure, axes = _axes(1, len(names), (4.4 * len(names), 4.0))
    for axis, name in zip(axes, names, strict=True):
        for mode in MODES:
            own = [point for point in points if point.axis == name and point.case.mode == mode]
            if own:
                x = [point.value for point in own]
                axis.plot(
                    x,
                    [p.seconds * 1e6 for p in own],
                    MARKS[mode] + "-",
                    color=COLOURS[mode],
                    ms=5,
                    label=mode,
                )
                bounds = [p.bound.seconds * 1e6 for p in own]
                axis.plot(x, bounds, "--", color=COLOURS[mode], linewidth=1, label=f"{mode}, ceiling")
        first = next(point.case for point in points if point.axis == name)
        fixed = [
            f"{k}={v}"
            for k, v in zip("TBIH", first[1:5], strict=True)
            if k != name and (name != "H" or k != "I")
        ]
        axis.set_title(f"{name} varies, {', '.join(fixed)}{', I=H' if name == 'H' else ''}", fontsize=10)
        axis.set_xlabel(name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.xaxis.set_major_formatter(_plain())
    axes[0].set_ylabel("microseconds a call")
    axes[0].legend(fontsize=8, frameon=False)
    figure.suptitle(
        f"Cost of a call on {ceilings.cpu}, {ceilings.threads} thread(s), {ceilings.variant}", fontsize=11
    )
    figure.savefig(path)
