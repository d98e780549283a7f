"""Pictures of flows, and of the states, gates and gradients of one sequence. Needs matplotlib."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..tape import Gradients, Tape

if TYPE_CHECKING:
    from .measure import GradientFlow

__all__ = ["COLOURS", "figure", "heat_maps", "plot_flow", "tidy"]

COLOURS = ("#1f5fbf", "#d9480f", "#1b9e77", "#7b3fa0", "#8a8a8a", "#c99700")
SMALLEST = 1e-30  # of a norm in a picture; what is smaller is not drawn


def figure(*size: float) -> Any:
    """Return a new figure of so many inches: of pyplot where that is in use, else one without a window."""
    try:
        pyplot: Any = sys.modules.get("matplotlib.pyplot")
        make: Any = pyplot.figure if pyplot else import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise ImportError(f"pictures need matplotlib ({error}); pip install 'bptt[plot]'") from None
    return make(figsize=size, layout="constrained", dpi=90)


def tidy(ax: Any) -> None:
    """Take away what says nothing."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(True, which="major", color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)


def plot_flow(flow: GradientFlow, ax: Any = None) -> Any:
    """Draw the norms of a flow by lag, each part of the top layer, and the fitted factor; return the axes."""
    if ax is None:
        ax = figure(6.4, 4.0).subplots()
    elif not hasattr(ax, "set_yscale"):
        raise TypeError(f"ax: expected axes of matplotlib, got {type(ax).__name__}")
    D, state = 1 + flow.layer.bidirectional, "h" if flow.cells is None else "c"
    tidy(ax)
    ax.set_yscale("log")
    for colour, part in zip(COLOURS, flow.parts[-D:], strict=False):
        shown = drawable(part.lags)
        ax.plot(
            shown, color=colour, linewidth=1.8, label=rf"$\|\partial L/\partial {state}_t\|$, {part.name}"
        )
    usable = np.flatnonzero(np.isfinite(drawable(flow.lags)))
    if len(usable) > 1 and 0 < flow.growth < np.inf:
        logs = np.log(flow.lags[usable])
        with np.errstate(over="ignore", under="ignore"):
            fitted = np.exp(logs.mean() + np.log(flow.growth) * (usable - usable.mean()))
        ax.plot(usable, fitted, "--", color=COLOURS[4], linewidth=1, label=f"{flow.growth:.3g} per step")
    ax.set_xlabel("steps back from the error")
    ax.set_ylabel("norm of the gradient")
    ax.set_title(
        f"{type(flow.layer).__name__}({flow.layer.input_size}, {flow.layer.hidden_size}): {flow.verdict}"
    )
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=9)
    return ax


def drawable(norms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return norms with NaN for those that a logarithmic axis cannot show."""
    there = np.isfinite(norms) & (norms > SMALLEST)
    return np.where(there, norms, np.nan)


def heat_maps(tape: Tape, gradients: Gradients | None = None, row: int = 0, part: int = -1) -> Any:
    """Draw h, c and gates of one row over steps and units, and the gradients that reach h and c.

    Parameters
    ----------
    tape : Tape
        From ``layer.forward``.
    gradients : Gradients, optional
        From ``layer.backward(..., steps=True)``; their absolute values are drawn by their logarithm.
    row, part : int
        Of the batch; which layer and direction.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        If there is no such row or part.
    """
    parts, _, B, _ = tape.hidden.shape
    for name, value, count in (("row", row, B), ("part", part, parts)):
        if not -count <= value < count:
            raise ValueError(f"{name}: expected one of {count}, got {value}")
    maps = [("h", tape.hidden[part, :, row], "state")]
    if tape.cells is not None:
        maps.append(("c", tape.cells[part, :, row], "state"))
    if tape.gates is not None:
        gates = tape.gates[part, :, row]
        candidate = 2  # g of i, f, g, o and n of r, z, n
        for q, name in enumerate("ifgo" if tape.cells is not None else "rzn"):
            maps.append((name, gates[:, q], "state" if q == candidate else "gate"))
    if gradients is not None and gradients.hidden is not None:
        maps.append((r"$|\partial L/\partial h|$", np.abs(gradients.hidden[part, :, row]), "slope"))
        if gradients.cells is not None:
            maps.append((r"$|\partial L/\partial c|$", np.abs(gradients.cells[part, :, row]), "slope"))
    columns = 2 if len(maps) > 3 else 1
    rows = -(-len(maps) // columns)
    drawn = figure(4.6 * columns, 0.5 + 1.7 * rows)
    axes = drawn.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for ax, (name, values, kind) in zip(axes, maps, strict=False):
        _heat_map(drawn, ax, name, values, kind)
    for ax in axes[len(maps) :]:
        ax.set_visible(False)
    for ax in axes[max(0, len(maps) - columns) : len(maps)]:
        ax.set_xlabel("step")
        ax.xaxis.set_tick_params(labelbottom=True)
    return drawn


def _heat_map(drawn: Any, ax: Any, name: str, values: NDArray[Any], kind: str) -> None:
    colours: Any = import_module("matplotlib.colors")
    shown = values.T
    if kind == "slope":
        positive = shown[np.isfinite(shown) & (shown > 0)]
        high = float(positive.max()) if positive.size else 1.0
        low = max(float(positive.min()), high * 1e-12) if positive.size else 0.1
        options = {"norm": colours.LogNorm(min(low, high / 10), high), "cmap": "viridis"}
    elif kind == "gate":
        options = {"vmin": 0, "vmax": 1, "cmap": "cividis"}
    else:
        finite = np.abs(shown[np.isfinite(shown)])
        span = float(finite.max(initial=0)) or 1.0
        options = {"vmin": -span, "vmax": span, "cmap": "RdBu_r"}
    image = ax.imshow(shown, aspect="auto", interpolation="nearest", origin="lower", **options)
    drawn.colorbar(image, ax=ax, pad=0.01)
    ax.set_title(name, fontsize=10)
    ax.set_ylabel("unit")
