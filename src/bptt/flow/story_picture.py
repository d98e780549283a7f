"""The picture of the story: four panels on logarithmic axes."""

from __future__ import annotations

from typing import Any

import numpy as np

from .pictures import COLOURS, drawable, figure, tidy
from .story import GAIN, HIDDEN, Story

__all__ = ["draw"]


def draw(told: Story) -> Any:
    """Return the figure."""
    drawn = figure(11.0, 7.6)
    (scalar, cells), (cures, growth) = drawn.subplots(2, 2)
    for ax in (scalar, cells, cures, growth):
        tidy(ax)
        ax.set_yscale("log")
    _scalar(scalar, told)
    _cells(cells, told)
    _cures(cures, told)
    _growth(growth, told)
    drawn.suptitle("Gradients through time: why they vanish and explode, and what helps", fontsize=13)
    return drawn


def _scalar(ax: Any, told: Story) -> None:
    for colour, (weight, flow) in zip((COLOURS[0], COLOURS[2], COLOURS[1]), told.scalar.items(), strict=True):
        n = np.arange(len(flow.lags))
        exact = weight**n
        ax.plot(n, exact, color=colour, linewidth=1.2)
        every = slice(None, None, max(1, len(n) // 25))
        ax.plot(n[every], drawable(flow.lags)[every], "o", color=colour, ms=3.5)
        away = {
            "xytext": (4, 0),
            "textcoords": "offset points",
            "va": "center",
            "color": colour,
            "fontsize": 9,
        }
        ax.annotate(f"W = {weight:g}", (n[-1], exact[-1]), **away)
    ax.margins(x=0.14)
    ax.set_title("One linear unit: dots measured, lines $W^n$", fontsize=10)
    ax.set_xlabel("n, steps back from the error")
    ax.set_ylabel(r"$|\partial L / \partial h|$")


def _cells(ax: Any, told: Story) -> None:
    for colour, (name, (flow, _)) in zip(
        (COLOURS[1], *COLOURS[4:2:-1], COLOURS[0]), told.cells.items(), strict=True
    ):
        label = f"{name}: {flow.growth:.2f} per step"
        ax.plot(drawable(flow.lags / flow.lags[0]), color=colour, linewidth=1.8, label=label)
    ax.set_ylim(bottom=1e-25)
    ax.set_title(f"{HIDDEN} units on noise: the cell carries where its forget gate is open", fontsize=10)
    ax.set_xlabel("steps back from the error")
    ax.set_ylabel(r"$\|\partial L / \partial c\|$ (RNN: $h$), relative")
    ax.legend(frameon=False, fontsize=8, loc="lower left")


def _cures(ax: Any, told: Story) -> None:
    for colour, (name, flow) in zip((COLOURS[1], COLOURS[0], COLOURS[2]), told.cures.items(), strict=False):
        shown = drawable(flow.lags)
        ax.plot(shown, color=colour, linewidth=1.8, label=name)
        end = np.flatnonzero(np.isfinite(shown))[-1]
        if end < len(shown) - 1:
            ax.plot(end, shown[end], "o", color=colour, ms=5)
            away = {"xytext": (8, -6), "textcoords": "offset points", "color": colour, "fontsize": 9}
            what = "zero" if flow.lags[end + 1] == 0 else "beyond float32"
            ax.annotate(f"{what} from here on", (end, shown[end]), **away)
    ax.set_title(f"tanh RNN with spectral radius {GAIN:g}: cures in the backward pass", fontsize=10)
    ax.set_xlabel("steps back from the error")
    ax.set_ylabel(r"$\|\partial L / \partial h\|$")
    ax.legend(frameon=False, fontsize=8, loc="upper left")


def _growth(ax: Any, told: Story) -> None:
    marks = zip((COLOURS[1], COLOURS[0], COLOURS[3]), told.growth.norms.items(), strict=True)
    for colour, (name, norms) in marks:
        ax.plot(told.growth.lengths, norms, "o-", ms=3.5, color=colour, linewidth=1.5, label=name)
    ax.set_title("The same RNN: what an optimizer gets", fontsize=10)
    ax.set_xlabel("T, length of the sequence")
    ax.set_ylabel(r"norm of $\partial L / \partial$ parameters")
    ax.legend(frameon=False, fontsize=8, loc="upper left")
