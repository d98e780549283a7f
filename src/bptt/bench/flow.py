"""What measuring the flow of gradients costs: backward passes with and without it, by turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, NamedTuple

import bptt

from .cases import Case
from .contenders import Bptt

__all__ = ["FLOW", "MOST", "Cost", "Watch", "cost"]

MOST = 0.1  # of the time of the pass without it


class Watch(NamedTuple):
    """One row: what is measured ("flow": of the last states; "monitor": of the training loss), and where."""

    what: str
    case: Case


class Cost(NamedTuple):
    """Median seconds of a backward pass alone, and with the flow measured and judged."""

    plain: float
    measured: float

    @property
    def share(self) -> float:
        return self.measured / self.plain - 1

    @property
    def met(self) -> bool:
        return self.share < MOST


def cost(watch: Watch, threads: int, seconds: float) -> Cost:
    """Run both by turns on one tape for so many seconds each, and at least once."""
    with bptt.num_threads(threads):
        calls = {"flow": of_last_states, "monitor": of_training}[watch.what](watch.case)
        spent: tuple[list[float], list[float]] = ([], [])
        for call in calls:
            call()
        while not spent[0] or sum(map(sum, spent)) < 2 * seconds:
            for call, found in zip(calls, spent, strict=True):
                start = perf_counter()
                call()
                found.append(perf_counter() - start)
    return Cost(*map(statistics.median, spent))


def of_last_states(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the passes of `gradient_flow`."""
    layer, tape = made(case)
    state = tape.state[0] if isinstance(tape.state, tuple) else tape.state
    errors = state * 0
    errors[-1 - layer.bidirectional :] = 1
    d_state = (errors, None) if isinstance(tape.state, tuple) else errors

    def measured() -> None:
        bptt.flow.flow_of(layer, tape, layer.backward(tape, None, d_state, steps="norms"))

    return lambda: layer.backward(tape, None, d_state), measured


def of_training(case: Case) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return the passes of training under a `GradientMonitor`."""
    layer, tape = made(case)
    errors, monitor = case.output_gradient(), bptt.GradientMonitor(layer, patience=1 << 60)

    def measured() -> None:
        monitor(layer.backward(tape, errors, steps="norms"))

    return lambda: layer.backward(tape, errors), measured


def made(case: Case) -> tuple[Any, Any]:
    """Return the layer of a case and its tape."""
    layer = Bptt(0).layer(case)
    return layer, layer.forward(case.input())


SIZE, STACK = "100x32x128x128", "100x16x96x96"
FLOW = tuple(
    Watch(what, Case.of("training", shape, **options))
    for what in ("flow", "monitor")
    for shape, options in (
        (SIZE, {}),
        (SIZE, {"cell": "GRU"}),
        (SIZE, {"cell": "RNN"}),
        ("100x8x64x64", {}),
        (STACK, {"layers": 2}),
        (STACK, {"bidirectional": True}),
    )
)
