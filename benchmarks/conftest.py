"""Contests as rows of pytest-benchmark: each test is one contender of a contest that is held once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bptt
from bptt.bench.cases import Case
from bptt.bench.contest import ContenderError, Contests, Outcome, Row, missing
from replay import replay

SMOKE_FLOPS = 1.5e8  # operations of a case that is still run when nothing is timed
COMPILED = "torchcompile"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compiled", action="store_true", help="time loops that torch.compile unrolls, too: minutes each"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Show one table for each shape of a group, sorted by median, unless told otherwise."""
    option = config.option
    if getattr(option, "benchmark_group_by", None) == "group":
        option.benchmark_group_by = "group,param:shape"
        option.benchmark_sort = "median"
        option.benchmark_columns = ["median", "iqr", "min", "max", "rounds"]


@pytest.fixture(scope="session")
def contests() -> Iterator[Contests]:
    with Contests() as started:
        yield started


@pytest.fixture(scope="session")
def outcomes() -> dict[tuple[str, str], Outcome]:
    """What has been measured so far."""
    return {}


@pytest.fixture
def row_of_contest(
    request: pytest.FixtureRequest,
    benchmark: Any,
    contests: Contests,
    outcomes: dict[tuple[str, str], Outcome],
) -> Callable[[Case, str], None]:
    """Return a function that reports one row of the contest over a case, and holds it if it is the first."""

    def report(case: Case, name: str) -> None:
        row = Row.of(name)
        if missing(row):
            pytest.skip(f"{missing(row)} is not installed")
        if row.name == COMPILED and not request.config.getoption("compiled"):
            pytest.skip("takes minutes: --compiled")
        if benchmark.disabled and case.flops > SMOKE_FLOPS:
            if not case.kind:  # others of its kind are small
                pytest.skip("takes too long for a smoke run")
            case = case.small()
        key = (request.node.originalname, request.node.callspec.params["shape"])
        if key not in outcomes:
            seconds = 0.0 if benchmark.disabled else float(request.config.getoption("benchmark_max_time"))
            turns = 1 if benchmark.disabled else int(request.config.getoption("benchmark_min_rounds"))
            outcomes[key] = contests.hold(case, entrants(request), seconds, turns)
        timing = outcomes[key][row]
        if isinstance(timing, ContenderError):
            raise timing
        benchmark.extra_info.update(
            cpu=bptt.config()["cpu"],
            contender=row.name,
            threads=row.threads,
            flops=case.flops,
            bytes=case.bytes,
            gflops_per_second=round(case.flops / timing.median / 1e9, 3),
            **timing.facts,
        )
        replay(benchmark, timing.seconds)

    return report


def entrants(request: pytest.FixtureRequest) -> list[Row]:
    """Return the rows of the tests that were selected for the case of the running one."""
    same = [
        item.callspec.params["row"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.function is request.function
        and item.callspec.params["shape"] == request.node.callspec.params["shape"]
    ]
    compiled = request.config.getoption("compiled")
    return [row for row in map(Row.of, same) if not missing(row) and (compiled or row.name != COMPILED)]
