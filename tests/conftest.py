"""Fixtures that several test modules share."""

import os
import sys
from collections.abc import Iterator

# Before NumPy is there: on a busy machine OpenBLAS's threads slow the reference's small products ten times.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

import bptt


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each backend in turn."""
    if request.param == "native" and not bptt.variants():
        pytest.skip("the compiled core is not built")
    with bptt.backend(request.param):
        yield request.param


@pytest.fixture(autouse=True)
def no_open_figures() -> Iterator[None]:
    """Close the figures of a test: pyplot keeps them, and warns of many."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")
