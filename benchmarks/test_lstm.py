"""One LSTM layer against the peers, with each variant, and at several thread counts."""

from __future__ import annotations

import pytest

import bptt
from bptt.bench.cases import Case
from bptt.bench.contest import thread_counts
from bptt.bench.grid import REAL, STREAM_TARGETS, TARGETS
from replay import clock

COUNTS = thread_counts()
MOST = max(COUNTS)


def rows(*names: str) -> list[str]:
    """Return the rows of contenders, each at one thread and at the most."""
    return [f"{name}-{threads}" for name in names for threads in COUNTS]


def shapes(mode: str, table: dict[str, object]) -> list[str]:
    """Return the shapes of the table and of real models for a mode, without repetition."""
    real = [shape for _, its_mode, shape in REAL if its_mode == mode]
    return [shape.replace(",", "x") for shape in dict.fromkeys([*table, *real])]


def both(*shapes: str) -> list[str]:
    """Return a shape with each mode in front: "forward 100x32x128x128"."""
    return [f"{mode} {shape}" for mode in ("forward", "training") for shape in shapes]


PEERS = [*rows("bptt", "torch", "onnxruntime", "openvino"), f"bptt64-{MOST}", "reference-1"]
TRAINERS = [*rows("bptt", "torch"), f"bptt64-{MOST}", "reference-1"]
VARIANTS = [f"bptt@{name}-{MOST}" for name in bptt.variants()]
SAMPLES = ("100x32x128x128", "100x1x256x256", "16x64x64x64")  # compute, reading, short vectors' worth
DIVIDED = ("2048x1x1x20", "32x1x128x128", "100x1x512x512", "16x64x64x64", "50x32x512x512")


@pytest.mark.benchmark(group="stream", timer=clock)
@pytest.mark.parametrize("row", PEERS)
@pytest.mark.parametrize("shape", shapes("stream", STREAM_TARGETS))
def test_stream(row_of_contest, shape, row):
    row_of_contest(Case.of("stream", shape), row)


@pytest.mark.benchmark(group="forward", timer=clock)
@pytest.mark.parametrize("row", PEERS)
@pytest.mark.parametrize("shape", shapes("forward", TARGETS))
def test_forward(row_of_contest, shape, row):
    row_of_contest(Case.of("forward", shape), row)


@pytest.mark.benchmark(group="training", timer=clock)
@pytest.mark.parametrize("row", TRAINERS)
@pytest.mark.parametrize("shape", shapes("training", TARGETS))
def test_training(row_of_contest, shape, row):
    row_of_contest(Case.of("training", shape), row)


@pytest.mark.benchmark(group="variants", timer=clock)
@pytest.mark.parametrize("row", VARIANTS)
@pytest.mark.parametrize("shape", both(*SAMPLES))
def test_variants(row_of_contest, shape, row):
    row_of_contest(Case.of(*shape.split()), row)


@pytest.mark.benchmark(group="threads", timer=clock)
@pytest.mark.parametrize("row", ["bptt-1", "bptt-2", "bptt-0"])  # 0: the library's own choice
@pytest.mark.parametrize("shape", both(*DIVIDED))
def test_threads(row_of_contest, shape, row):
    row_of_contest(Case.of(*shape.split()), row)


@pytest.mark.benchmark(group="modules", timer=clock)
@pytest.mark.parametrize("row", rows("bptt", "bptt.torch", "torch"))
@pytest.mark.parametrize("shape", ["100x32x128x128", "100x32x40x40", "32x1x128x128"])
def test_training_through_autograd(row_of_contest, shape, row):
    row_of_contest(Case.of("training", shape), row)
