"""Fixtures that several test modules share."""

from collections.abc import Iterator

import pytest

import bptt


@pytest.fixture(params=["native", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the test on each backend in turn."""
    if request.param == "native" and not bptt.variants():
        pytest.skip("the compiled core is not built")
    with bptt.backend(request.param):
        yield request.param
