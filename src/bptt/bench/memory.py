"""How much memory a call needs: what the process holds before, at most during, and after it (Linux only).

To be run in a fresh process (`Worker.memory`): the memory that is used again would hide what a call takes.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .cases import Array, Case
from .contenders import Bptt

__all__ = ["MEASURES", "MEMORY", "Need", "Subject"]

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SLACK = 16e6  # bytes that a call may use for itself
TAPE = 1.15 * 24 / 4  # numbers for each unit and token: i, f, g, o, c, h, and 15 %
LESS = 0.4  # of what is needed else, where cells and gates are computed again
STEADY = 2e6  # bytes that are no growth: the counters of pages are not exact
WARM, CALLS = 20, 100


class Need(NamedTuple):
    """Bytes that were needed, and that may be."""

    used: int
    allowed: int

    @property
    def met(self) -> bool:
        return self.used <= self.allowed


class Subject(NamedTuple):
    """One row: a key of `MEASURES`, a case, and BPTT_KEEP_MB ("" for the default)."""

    what: str
    case: Case
    keep: str = ""


def held(name: str = "VmRSS") -> int:
    """Return the bytes that this process holds, or with "VmHWM" held at most since `forget`."""
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.M)
    if not found:
        raise OSError(f"{STATUS} has no {name}")
    return 1024 * int(found[1])


def forget() -> int:
    """Start to observe the most that is held; return what is held now."""
    gc.collect()
    FORGET.write_text("5")
    return held()


def drawn(*shape: int, dtype: Any) -> Array:
    """Return random numbers without a second array beside them."""
    array = np.empty(shape, dtype)
    np.random.default_rng(1).standard_normal(out=array, dtype=dtype)
    return array


def made(case: Case) -> tuple[Any, Array]:
    """Return layer and input, once threads and code have been at work on something small."""
    small = case.small()
    layer = Bptt(0).layer(small)
    tape = layer.forward(small.input())
    layer.backward(tape, np.ones_like(tape.output))
    return Bptt(0).layer(case), drawn(case.T, case.B, case.I, dtype=case.real)


def tape_bytes(case: Case) -> float:
    """Return what may be kept where nothing is computed again."""
    return float(TAPE * case.real.itemsize * case.H * case.layers * case.directions * case.tokens)


def inference(case: Case) -> Need:
    """Measure a call of the layer: output and state, the packed weights and some to work with."""
    layer, x = made(case)
    before = forget()
    output, _ = layer(x, lengths=case.row_lengths())
    used = held("VmHWM") - before
    return Need(used, int(output.nbytes + layer.parameters.flat.nbytes + SLACK))


def tape(case: Case) -> Need:
    """Measure what `forward` leaves behind; the output is a part of it where it is h of the one layer."""
    layer, x = made(case)
    before = forget()
    kept = layer.forward(x, recompute=case.recompute or None)
    used = held() - before
    if case.recompute:
        return Need(used, int(LESS * tape_bytes(case)))
    parts = case.layers * case.directions
    output = kept.output.nbytes if parts > 1 else 0
    return Need(used, int(tape_bytes(case) + output))


def training(case: Case) -> Need:
    """Measure the most that a step holds: tape, output, gradients, packed weights, some to work with."""
    layer, x = made(case)
    d_output = drawn(case.T, case.B, case.directions * case.width, dtype=case.real)
    before = forget()
    kept = layer.forward(x, recompute=case.recompute or None)
    gradients = layer.backward(kept, d_output)
    used = held("VmHWM") - before
    weights = layer.parameters.flat.nbytes
    results = kept.output.nbytes + gradients.input.nbytes + weights
    whole = tape_bytes(case) + results + 2 * weights + SLACK
    return Need(used, int(LESS * whole if case.recompute else whole))


def growth(case: Case) -> Need:
    """Measure how much more is held after many steps of training and inference than after some."""
    layer, x = made(case)
    d_output = drawn(case.T, case.B, case.directions * case.width, dtype=case.real)

    lengths = case.row_lengths()

    def calls(count: int) -> int:
        for _ in range(count):
            layer.backward(layer.forward(x, lengths=lengths), d_output)
            layer(x, lengths=lengths)
        return forget()

    return Need(-calls(WARM) + calls(CALLS), int(STEADY))


MEASURES: dict[str, Callable[[Case], Need]] = {
    "inference": inference,
    "tape": tape,
    "training": training,
    "growth": growth,
}

LONG, TRAINED = Case.of("forward", "4000x32x256x256"), Case.of("training", "100x128x256x256")
AGAIN = Case.of("training", "40000x4x64x128", recompute=256)
STEP = Case.of("training", "20x16x96x96")
MEMORY = (
    Subject("inference", Case.of("forward", "500x32x256x256")),
    Subject("inference", LONG),
    Subject("inference", LONG, "0"),
    Subject("inference", LONG._replace(lengths=True), "0"),
    Subject("inference", LONG._replace(cell="GRU"), "0"),
    Subject("inference", LONG._replace(T=2000, layers=2), "0"),
    Subject("tape", TRAINED, "0"),
    Subject("tape", TRAINED._replace(cell="GRU"), "0"),
    Subject("tape", TRAINED._replace(peephole=True, zoneout=0.1), "0"),
    Subject("tape", TRAINED._replace(layers=2, bidirectional=True), "0"),
    Subject("tape", TRAINED._replace(recompute=10), "0"),
    Subject("tape", AGAIN, "0"),
    Subject("training", TRAINED),
    Subject("training", TRAINED, "0"),
    Subject("training", TRAINED._replace(layers=2, bidirectional=True), "0"),
    Subject("training", AGAIN._replace(recompute=0), "0"),
    Subject("training", AGAIN, "0"),
    Subject("growth", STEP),
    Subject("growth", STEP, "0"),
    Subject("growth", STEP._replace(layers=2, bidirectional=True, lengths=True), "0"),
)
