"""Contests as rows of pytest-benchmark: each test is one contender of a contest that is held once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import bptt
from bptt.bench.cases import Case
from bptt.bench.contenders import PACKAGES
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
        reason = left_out(request, case, row, benchmark.disabled)
        if reason:
            pytest.skip(reason)
        if benchmark.disabled and case.flops > SMOKE_FLOPS:
            case = case.small()
        key = (request.node.originalname, request.node.callspec.params["shape"])
        if key not in outcomes:
            seconds = 0.0 if benchmark.disabled else float(request.config.getoption("benchmark_max_time"))
            turns = 1 if benchmark.disabled else int(request.config.getoption("benchmark_min_rounds"))
            rows = entrants(request, case, benchmark.disabled)
            outcomes[key] = contests.hold(case, rows, seconds, turns)
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


def left_out(request: pytest.FixtureRequest, case: Case, row: Row, smoke: bool) -> str:
    """Return why a row takes no part; empty if it does."""
    if missing(row):
        return f"{missing(row)} is not installed"
    if row.name == COMPILED and not request.config.getoption("compiled"):
        return "takes minutes: --compiled"
    if smoke and not case.kind and case.flops > SMOKE_FLOPS:  # others of its kind are small
        return "takes too long for a smoke run"
    if smoke and case.kind and row.name in PACKAGES and row.threads > 1:
        return "a smoke run starts a peer on one thread only"
    return ""


def entrants(request: pytest.FixtureRequest, case: Case, smoke: bool) -> list[Row]:
    """Return the rows of the tests that were selected for the case of the running one."""
    same = [
        item.callspec.params["row"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.function is request.function
        and item.callspec.params["shape"] == request.node.callspec.params["shape"]
    ]
    return [row for row in map(Row.of, same) if not left_out(request, case, row, smoke)]
