"""What it costs to see the flow of gradients and to cure it: passes with and without, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import bptt

from .cases import Case
from .contenders import Bptt

__all__ = ["CURES", "FLOW", "Cost", "Watch", "cost"]

Passes = tuple[Callable[[], Any], Callable[[], Any]]


class Watch(NamedTuple):
    """One row.

    Attributes
    ----------
    what : str
        A key of `PASSES`: what the second of two passes does beside the work of the first.
    case : Case
    most : float, or None
        Of the time of the first that it may take; None: only told.
    blocks : tuple of int
        k1 and k2 of a truncated pass.
    """

    what: str
    case: Case
    most: float | None = 0.1
    blocks: tuple[int, int] = (0, 0)

    @property
    def note(self) -> str:
        """What sets the row apart beside its sizes."""
        k1, k2 = self.blocks
        return " ".join(filter(None, [f"k1={k1} k2={k2}" if k1 else "", self.case.kind]))


class Cost(NamedTuple):
    """Median seconds of a pass without and with, and how much more that may be."""

    plain: float
    measured: float
    most: float | None

    @property
    def share(self) -> float:
        return self.measured / self.plain - 1

    @property
    def met(self) -> bool:
        return self.most is None or self.share < self.most


def cost(watch: Watch, threads: int, seconds: float) -> Cost:
    """Run both by turns for so many seconds each, and at least once."""
    with bptt.num_threads(threads):
        calls = PASSES[watch.what](watch)
        spent: tuple[list[float], list[float]] = ([], [])
        for call in calls:
            call()
        while not spent[0] or sum(map(sum, spent)) < 2 * seconds:
            for call, found in zip(calls, spent, strict=True):
                start = perf_counter()
                call()
                found.append(perf_counter() - start)
    plain, measured = map(statistics.median, spent)
    return Cost(plain, measured, watch.most)


def flow(watch: Watch) -> Passes:
    """Return the way back of `gradient_flow`, from the last states."""
    layer, tape = made(watch.case)
    state = tape.state[0] if isinstance(tape.state, tuple) else tape.state
    errors = state * 0
    errors[-1 - layer.bidirectional :] = 1
    d_state = (errors, None) if isinstance(tape.state, tuple) else errors

    def measured() -> None:
        bptt.flow.flow_of(layer, tape, layer.backward(tape, None, d_state, steps="norms"))

    return lambda: layer.backward(tape, None, d_state), measured


def monitor(watch: Watch) -> Passes:
    """Return the way back of training under a `GradientMonitor`."""
    layer, tape = made(watch.case)
    errors, watching = watch.case.output_gradient(), bptt.GradientMonitor(layer, patience=1 << 60)

    def measured() -> None:
        watching(layer.backward(tape, errors, steps="norms"))

    return lambda: layer.backward(tape, errors), measured


def clipped(watch: Watch) -> Passes:
    """Return the way back with all bounds inside the recursion at values that hold many elements."""
    layer, tape = made(watch.case)
    errors, bounds = watch.case.output_gradient(), {"hidden": 1.0, "gates": 0.1}
    if watch.case.cell == "LSTM":
        bounds["cell"] = 1.0
    return lambda: layer.backward(tape, errors), lambda: layer.backward(tape, errors, step_clip=bounds)


def truncated(watch: Watch) -> Passes:
    """Return the whole way back, and that in blocks."""
    layer, tape = made(watch.case)
    errors = watch.case.output_gradient()
    return lambda: layer.backward(tape, errors), lambda: layer.backward(tape, errors, truncate=watch.blocks)


def recomputed(watch: Watch) -> Passes:
    """Return the step of training that keeps all, and that which computes cells and gates again."""
    return Bptt(0).training(watch.case.plain()).call, Bptt(0).training(watch.case).call


def made(case: Case) -> tuple[Any, Any]:
    """Return the layer of a case and its tape."""
    layer = Bptt(0).layer(case)
    return layer, layer.forward(case.input())


PASSES: dict[str, Callable[[Watch], Passes]] = {
    "flow": flow,
    "monitor": monitor,
    "clip": clipped,
    "truncate": truncated,
    "recompute": recomputed,
}

SIZE, SMALL, STACK = "100x32x128x128", "100x8x64x64", "100x16x96x96"
CELLS: tuple[dict[str, Any], ...] = ({}, {"cell": "GRU"}, {"cell": "RNN"})
FLOW = tuple(
    Watch(what, Case.of("training", shape, **options))
    for what in ("flow", "monitor")
    for shape, options in (
        *((SIZE, cell) for cell in CELLS),
        (SMALL, {}),
        (STACK, {"layers": 2}),
        (STACK, {"bidirectional": True}),
    )
)
# k1, k2, and what the time may be of k2/k1 times that of the whole. Blocks that do not overlap take one pass.
BLOCKS = ((10, 10, 1.05), (50, 50, 1.05), (10, 20, 1.2), (20, 40, 1.2), (5, 20, 1.2))
CURES = (
    *(
        Watch("truncate", Case.of("training", SIZE, **options), most * k2 / k1 - 1, (k1, k2))
        for options in (*CELLS, {"layers": 2})
        for k1, k2, most in BLOCKS
    ),
    Watch("truncate", Case.of("training", SIZE), None, (1, 10)),
    Watch("truncate", Case.of("training", SMALL), None, (10, 20)),
    *(Watch("clip", Case.of("training", SIZE, **options), 0.03) for options in CELLS),
    Watch("clip", Case.of("training", "100x32x256x256"), 0.03),
    Watch("recompute", Case.of("training", "40000x4x64x128", recompute=256), 0.6),
)
