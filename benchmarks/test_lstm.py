"""One LSTM layer: forward, training and stream against the peers."""

from __future__ import annotations

import pytest

from cases import SHAPES, STREAM_SHAPES, Case
from contest import thread_counts
from replay import clock

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
