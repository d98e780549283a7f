"""One LSTM layer: forward, training and stream against the peers."""

from __future__ import annotations

import pytest

from bptt.bench.cases import Case
from bptt.bench.contest import thread_counts
from replay import clock

# TxBxIxH: one for each way of losing time: large and small batches, one row, one unit of input.
SHAPES = ("100x32x128x128", "100x32x40x40", "2048x1x1x20", "100x1x256x256", "16x64x64x64", "32x1x128x128")
STREAM_SHAPES = ("1x1x64x64", "1x1x1x20", "1x1x128x128", "1x1x256x256", "1x1x512x512", "1x16x64x64")
PEERS = [f"{name}-{threads}" for name in ("bptt", "torch", "onnxruntime") for threads in thread_counts()]
TRAINERS = [row for row in PEERS if not row.startswith("onnxruntime")]


@pytest.mark.benchmark(group="forward", timer=clock)
@pytest.mark.parametrize("row", [*PEERS, "reference-1"])
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(row_of_contest, shape, row):
    row_of_contest(Case.of("forward", shape), row)


@pytest.mark.benchmark(group="training", timer=clock)
@pytest.mark.parametrize("row", [*TRAINERS, "reference-1"])
@pytest.mark.parametrize("shape", SHAPES)
def test_training(row_of_contest, shape, row):
    row_of_contest(Case.of("training", shape), row)


@pytest.mark.benchmark(group="stream", timer=clock)
@pytest.mark.parametrize("row", [*PEERS, "reference-1"])
@pytest.mark.parametrize("shape", STREAM_SHAPES)
def test_stream(row_of_contest, shape, row):
    row_of_contest(Case.of("stream", shape), row)
