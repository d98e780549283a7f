"""Other cells, stacks, lengths, resets, regularisers, and where peers are slow."""

from __future__ import annotations

import pytest

from bptt.bench.contest import thread_counts
from bptt.bench.suites import CELLS, SLOW_PATHS, label
from replay import clock

COUNTS = thread_counts()
GOALS = {label(goal.case): goal for goal in (*CELLS, *SLOW_PATHS)}


def rows(goals):
    """Return pairs of label and row: this library and what it is compared with, peers at two counts."""
    found = []
    for goal in goals:
        names = [f"{name}-{n}" for name in goal.rivals for n in (COUNTS[-1:] if name == "plain" else COUNTS)]
        found += [(label(goal.case), row) for row in (f"bptt-{COUNTS[-1]}", *names)]
    return found


@pytest.mark.benchmark(group="cells", timer=clock)
@pytest.mark.parametrize(("shape", "row"), rows(CELLS))
def test_cells(row_of_contest, shape, row):
    row_of_contest(GOALS[shape].case, row)


@pytest.mark.benchmark(group="peers-slow-paths", timer=clock)
@pytest.mark.parametrize(("shape", "row"), rows(SLOW_PATHS))
def test_slow_paths(row_of_contest, shape, row):
    row_of_contest(GOALS[shape].case, row)
