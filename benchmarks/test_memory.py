"""What calls need of memory, each in a fresh process; the time is that of the whole measurement."""

from __future__ import annotations

import sys
from time import perf_counter

import pytest

from bptt.bench.contest import need, thread_counts
from bptt.bench.memory import MEMORY, SLACK
from bptt.bench.suites import label
from replay import clock, replay


@pytest.mark.benchmark(group="memory", timer=clock)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "subject", MEMORY, ids=lambda s: f"{s.what} {label(s.case)} keep={s.keep or 'default'}"
)
def test_memory(benchmark, subject):
    if benchmark.disabled:  # small: what is allowed is then little more than what every call may use
        subject = subject._replace(case=subject.case.small())
    start = perf_counter()
    found = need(subject, max(thread_counts()))
    seconds = perf_counter() - start
    benchmark.extra_info.update(what=subject.what, used=found.used, allowed=found.allowed)
    replay(benchmark, [seconds])
    assert found.used <= found.allowed + (SLACK if benchmark.disabled else 0)
