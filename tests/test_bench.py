"""The bench command: cases, contests with made-up contenders, ceilings, tables, files; never how fast."""

import argparse
import importlib.util
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt

pytest.importorskip("bptt._core", reason="the compiled core is not built")

from bptt import _core, bench
from bptt.bench import (
    choice,
    clock,
    command,
    contenders,
    contest,
    costs,
    grid,
    growth,
    machine,
    memory,
    report,
    roofline,
    suites,
)
from bptt.bench.cases import Case
from bptt.bench.contest import ContenderError, Contests, Row, Timing


def made_up(threads=2, variant="made-up"):
    """Ceilings in round numbers."""
    return machine.Ceilings(
        cpu="A CPU",
        variant=variant,
        threads=threads,
        multiply_adds={"float32": [100.0, 100.0], "float64": [50.0, 50.0]},
        read={"L1": [200.0, 200.0], "L2": [100.0, 100.0], "L3": [80.0, 60.0], "memory": [20.0, 10.0]},
        sizes={"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20},
        barrier=1e-7,
        region=1e-6,
    )


def lines_of(ratio=2.0):
    """One line in each mode, this library taking a millisecond."""
    own, peer = Row("bptt", 2), Row("torch", 1)
    outcome = {own: Timing({}, [1e-3] * 3), peer: Timing({}, [ratio * 1e-3])}
    outcome[Row("openvino", 1)] = ContenderError("openvino-1: Traceback\nValueError: no")
    entries = [
        grid.Entry(Case("stream", 1, 1, 64, 64), "table"),
        grid.Entry(Case("forward", 5, 2, 7, 9), "own"),
    ]
    entries.append(grid.Entry(Case.of("training", "16x64x64x64"), "table"))
    return [report.line_of(entry, outcome, own, made_up()) for entry in entries]


def errors(outcome):
    """The errors of a contest."""
    return [error for error in outcome.values() if isinstance(error, ContenderError)]


def parse(*arguments):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize("text", ["", "1,2,3", "1x2x3x4x5", "1,2,3,0", "0,1,1,1", "a,b,c,d", "-1,1,1,1"])
def test_shapes_that_are_none(text):
    with pytest.raises(ValueError, match=r"^shape: "):
        Case.of("forward", text)


def test_case():
    case = Case.of("forward", " 5, 3,2 ,4")
    assert case == Case.of("forward", "5x3x2x4")
    assert case.shape == "5x3x2x4"
    assert case.flops == 8 * 5 * 3 * 4 * (2 + 4)
    assert case._replace(mode="training").flops == 3 * case.flops
    assert case.bytes == 4 * (4 * 4 * (2 + 4 + 2) + 15 * (2 + 4) + 4 * 3 * 4)
    assert case._replace(dtype="float64").bytes == 2 * case.bytes
    assert case.input().shape == (5, 3, 2)
    assert set(Case.of("forward", "5x3x2x4", peephole=True).weights()) == set(case.weights()) | {
        "weight_peephole_l0"
    }


def test_cases_of_other_kinds():
    gru = Case.of("forward", "5x3x2x4", cell="GRU", layers=2, bidirectional=True)
    assert gru.flops == 2 * 15 * 2 * 3 * 4 * ((2 + 4) + (8 + 4))
    assert gru.kind == "GRU 2 layers bidirectional"
    assert Case.of("forward", "5x3x2x4").kind == ""
    projected = Case.of("forward", "5x3x2x4", proj_size=3)
    assert projected.flops == 2 * 15 * (16 * (2 + 3) + 3 * 4)
    assert projected.output_gradient().shape == (5, 3, 3)
    assert projected.bytes < Case.of("forward", "5x3x2x4").bytes + 4 * 2 * 15 * 4
    assert Case.of("training", "5x3x2x4", cell="RNN").bytes < gru._replace(mode="training").bytes
    special = Case.of(
        "training", "50x8x2x4", lengths=True, resets=0.2, truncate=5, zoneout=0.1, peephole=True
    )
    assert special.kind == "peephole lengths resets 20% zoneout 0.1 truncate 5"
    lengths, resets = special.row_lengths(), special.reset_steps()
    assert special.tokens == lengths.sum() < 400
    assert lengths.min() >= 1
    assert lengths.max() <= 50
    assert special.flops < special.plain().flops
    assert 0.1 < resets.mean() < 0.3
    assert special.plain() == Case.of("training", "50x8x2x4", peephole=True)
    small = Case.of("training", "500x80x200x400", proj_size=300, truncate=100, resets=0.01).small()
    assert small.flops < 1e6
    assert small.proj_size < small.H
    assert small.truncate < small.T
    assert small.reset_steps().any()


def test_suites():
    goals = (*suites.LSTM, *suites.CELLS, *suites.SLOW_PATHS)
    for table in (suites.LSTM, (*suites.CELLS, *suites.SLOW_PATHS)):
        labels = [suites.label(goal.case) for goal in table]
        assert len(set(labels)) == len(labels)
    known = {*contenders.OWN, *contenders.PEERS}
    for goal in goals:
        assert set(goal.rivals) <= known
        assert goal.case.small().kind or not goal.case.kind
        for aim in goal.aims:
            assert aim.ratio is None or 0.8 < aim.ratio <= 5
    assert {goal.case.cell for goal in goals} == {"LSTM", "GRU", "RNN"}


def test_what_options_cost_is_measured_against_the_plain_case():
    inside = {"lengths": True, "zoneout": 0.3, "truncate": 2, "step_clip": 0.01, "recompute": 4}
    case = Case.of("training", "6x4x3x5", **inside)
    assert Row("plain", 1).work(case) == case.plain()
    with Contests() as contests:
        outcome = contests.hold(case, [Row("bptt", 1), Row("plain", 1), Row("reference", 1)], 0.0, 1)
        assert not errors(outcome)
        plain = contests._process(Row("plain", 1)).ask("results")[1]["output"]
        own = contests._process(Row("bptt", 1)).ask("results")[1]["output"]
    assert np.linalg.norm(plain - own) > 0.1 * np.linalg.norm(plain)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_measured():
    case = Case.of("training", "200x64x32x128")  # a tape of 39 MB
    found = {
        what: contest.need(memory.Subject(what, case, "0"), 1) for what in ("inference", "tape", "training")
    }
    numbers = 4 * case.tokens * case.H
    for what, least in (("inference", 1), ("tape", 6), ("training", 7)):
        assert 0.6 * least * numbers < found[what].used < least * numbers + 12e6, what
    assert found["tape"].allowed == pytest.approx(1.15 * 6 * numbers)
    assert found["inference"].met
    assert not memory.Need(2, 1).met
    assert contest.need(memory.Subject("growth", case.small(), "0"), 1).met


def load_compare():
    path = Path(__file__).parents[1] / "benchmarks" / "compare.py"
    if not path.exists():
        pytest.skip("the benchmarks are not beside the tests")
    spec = importlib.util.spec_from_file_location("compare", path)
    compare = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(compare)
    return compare


def test_compare_reports_aims(capsys):
    compare = load_compare()

    class Held:
        """A contest whose times are known: the rivals take 1, 2, .. times a millisecond, this library 2."""

        def hold(self, case, rows, seconds):
            times = {row: Timing({}, [1e-3 * (n or 2)]) for n, row in enumerate(rows)}
            return {**times, Row("bad", 1): ContenderError("bad-1: off by 1e-1")}

    case = Case.of("forward", "5x3x2x4", cell="GRU")
    met = suites.Goal(case, (suites.Aim(0.5, ("plain",)), suites.Aim(None, ("reference",))))
    assert compare.report(Held(), met, 1.0, False, made_up())
    out = capsys.readouterr().out
    assert "0.50   0.50  pass" in out
    assert "GRU" in out
    assert "left out: bad-1: off by 1e-1" in out
    assert not compare.report(Held(), suites.Goal(case, (suites.Aim(0.6, ("plain",)),)), 1.0, False, None)
    assert not compare.report(
        Held(), suites.Goal(case, (suites.Aim(0.6, ("torchcompile",)),)), 1.0, False, None
    )
    assert capsys.readouterr().out.count("FAIL") == 2
    entry = suites.Published(2, 3, 2e-3 / 2048, 1.5)
    assert not compare.report_published(Held(), entry, 1.0)
    assert "1.00   1.50  FAIL" in capsys.readouterr().out


def test_steps_through_autograd_are_compared_and_timed():
    pytest.importorskip("torch")
    from bptt.bench import peer_autograd

    labels = [(share.of_input, suites.label(share.case)) for share in suites.TORCH]
    assert len(set(labels)) == len(labels)
    threads = bptt.get_num_threads()
    try:
        for of_input in (True, False):
            found = peer_autograd.medians(Case.of("training", "4x2x3x5", cell="GRU"), of_input, 1, 0.0)
            assert tuple(found) == peer_autograd.CONTENDERS
            assert found["least"] > found["bptt"] > 0
    finally:
        bptt.set_num_threads(threads)


def test_the_flow_of_gradients_has_a_cost(capsys):
    compare = load_compare()
    for watch in (*costs.FLOW, *costs.CURES):
        small = watch._replace(case=watch.case.small())
        assert min(costs.cost(small, 1, 0.0)[:2]) > 0
    assert costs.Cost(2.0, 2.19, 0.1).met
    assert not costs.Cost(2.0, 2.2, 0.1).met
    assert costs.Cost(2.0, 9.0, None).met
    compare.report_flow(costs.Watch("monitor", Case.of("training", "5x3x2x4", cell="GRU")), 1, 0.0)
    compare.report_flow(costs.Watch("truncate", Case.of("training", "5x3x2x4"), None, (2, 4)), 1, 0.0)
    first, second = capsys.readouterr().out.splitlines()
    assert re.match(r"monitor +5x3x2x4 +1 +[\d.]+ +[\d.]+ +-?[\d.]+% +10% +(pass|FAIL) +GRU", first)
    assert re.match(r"truncate +5x3x2x4 +1 +[\d.]+ +[\d.]+ +-?[\d.]+% +- +k1=2 k2=4$", second)


def test_grids():
    full, quick = grid.full_grid(), grid.quick_grid()
    assert len(set(e.case for e in full)) == len(full) > 60
    assert {e.case for e in quick} <= {e.case for e in full}
    assert sum(grid.target(e.case) is not None for e in full) == 3 + 2 * 12
    assert {e.case.H for e in full} >= {50, 96, 160, 200, 333, 640, 1150}
    assert {e.case.B for e in full} >= {1, 3, 7, 24, 65, 200}
    assert [e.case.mode for e in grid.own_grid("1,1,2,3; 4,1,2,3")] == [
        *("stream", "forward", "training"),
        *("forward", "training"),
    ]


@pytest.mark.parametrize("kind", ["fma32", "fma64"])
def test_multiply_adds_are_counted(kind):
    rate = _core.measure(kind)
    assert 0.2 < rate < 2000
    assert _core.measure(kind, 2) > 0.1


def test_measure_refuses():
    for arguments in (("read", 1, 0), ("read", 2, 4096), ("fma32", 0), ("fma32", 1000)):
        with pytest.raises(ValueError, match=r"size|argument"):
            _core.measure(*arguments)
    with pytest.raises(KeyError):
        _core.measure("nonsense")


def test_every_variant_measures():
    before = bptt.active_variant()
    try:
        for name in bptt.variants():
            bptt.use_variant(name)
            assert _core.measure("fma32") > 0.2
            assert _core.measure("read", 1, 16384) > 0.2
    finally:
        bptt.use_variant(before)


def test_ceilings_are_positive_and_plausible():
    found = machine.measure_ceilings(1)
    single, double = found.multiply_adds["float32"], found.multiply_adds["float64"]
    assert min(*single, *double) > 0.1
    assert single[0] > 1.2 * double[0]  # twice as many lanes
    assert found.read["L1"][0] > found.read["memory"][0] > 0.05
    assert found.barrier == 0
    assert found.region > 0
    assert json.loads(json.dumps(found.as_dict()))["threads"] == 1
    assert len(found.lines()) == 8


def test_barrier_and_region_of_two():
    assert 0 < _core.measure("barrier", 2) < 1e8
    assert 0 < _core.measure("region", 2) < 1e8


def test_cache_sizes(tmp_path):
    assert machine.cache_sizes(2, tmp_path) == {"L1": 32 << 10, "L2": 1 << 20, "L3": 16 << 20}
    folder = tmp_path / "sys/devices/system/cpu/cpu0/cache"
    caches = [("Data", 1, "48K", "1"), ("Instruction", 1, "7K", "1"), ("Unified", 2, "2048K", "1")]
    caches.append(("Unified", 3, "32M", "ffff,00000000"))
    for n, (kind, level, size, shared) in enumerate(caches):
        (folder / f"index{n}").mkdir(parents=True)
        for name, text in (("type", kind), ("level", level), ("size", size), ("shared_cpu_map", shared)):
            (folder / f"index{n}" / name).write_text(f"{text}\n")
    assert machine.cache_sizes(4, tmp_path) == {"L1": 48 << 10, "L2": 2 << 20, "L3": 8 << 20}
    assert machine.cache_sizes(64, tmp_path)["L3"] == 2 << 20  # no more than 16 of them share it


def test_bounds():
    ceilings = made_up()
    large = roofline.bound(Case.of("forward", "10x64x256x256"), ceilings)
    assert (large.ceiling, large.threads) == ("FMA", 2)
    assert large.seconds == pytest.approx(8 * 10 * 64 * 256 * 512 / 200e9)
    lone = roofline.bound(Case.of("forward", "100x1x512x512"), ceilings)
    assert (lone.ceiling, lone.split) == ("L3", "hidden")
    assert lone.seconds == pytest.approx(100 * 2 * 512 * 512 * 4 / 60e9)
    small = roofline.bound(Case.of("forward", "100x1x8x8"), ceilings)
    assert (small.split, small.threads) == ("serial", 1)
    step = roofline.bound(Case.of("stream", "1x1x128x128"), made_up(1))
    assert step.seconds == pytest.approx(4 * 128 * 256 * 4 / 100e9)
    assert roofline.bound(Case("training", 9, 1, 8, 4096), ceilings).ceiling == "memory"
    stacked = roofline.bound(Case.of("forward", "10x1x512x512", cell="GRU", layers=2), ceilings)
    assert stacked.seconds == pytest.approx(10 * 2 * (3 * 512 * 512 / 2) * 4 / 60e9)


def test_prediction_grows_with_cores():
    case, ceilings = Case.of("forward", "100x128x256x256"), made_up()
    seconds = [roofline.predict(case, ceilings, n).seconds for n in (1, 2, 8, 64)]
    assert seconds == sorted(seconds, reverse=True)
    assert seconds[0] / seconds[2] == pytest.approx(8, rel=0.05)
    small = Case.of("forward", "100x1x8x8")
    assert roofline.predict(small, ceilings, 64) == roofline.predict(small, ceilings, 1)
    text = growth.prediction(lines_of(), ceilings, (1, 8))
    assert len(text) == 5
    assert "P=8" in text[0]


def test_samples():
    calls = []
    seconds = clock.samples(lambda: calls.append(1), 3, 4, 2)
    assert len(seconds) == 3
    assert len(calls) == 20
    assert min(seconds) > 0
    assert clock.calls_of(0) > 1 == clock.calls_of(1.0)


def test_contest_times_and_compares(monkeypatch):
    case = Case.of("forward", "4x2x3x5")
    monkeypatch.setitem(contest.PACKAGES, "reference", ("numpy",))
    rows = [Row("bptt", 1), Row("reference", 1), Row("bptt64", 1), Row(f"bptt@{bptt.variants()[-1]}", 1)]
    with Contests() as contests:
        outcome = contests.hold(case, [*rows, Row("nonsense", 1)], 0.001, 1)
        double = contests.hold(
            case._replace(mode="training", dtype="float64", peephole=True), rows[:2], 0.0, 1
        )
    for row in rows:
        assert isinstance(outcome[row], Timing), outcome[row]
        assert outcome[row].median > 0
    assert outcome[rows[3]].facts["variant"] == bptt.variants()[-1]
    assert isinstance(outcome[Row("nonsense", 1)], ContenderError)
    assert all(len(double[row].seconds) == 1 for row in rows[:2])
    line = report.line_of(grid.Entry(case, "own"), {rows[0]: outcome[rows[0]]}, rows[0], made_up(1))
    assert line.ratio is None
    assert line.share > 0


def test_wrong_results_are_kept_out():
    expected = {"output": np.ones((2, 3))}
    contest.compare(Row("a", 1), (1e-4, {"output": np.ones((2, 3), "f")}), expected)
    for wrong in (np.full((2, 3), 1.01), np.ones((3, 2)), np.full((2, 3), np.nan)):
        with pytest.raises(ContenderError, match=r"^a-1: output"):
            contest.compare(Row("a", 1), (1e-4, {"output": wrong}), expected)


def test_rows():
    assert Row.of("bptt@avx2-2") == Row("bptt@avx2", 2)
    assert str(Row("torch", 1)) == "torch-1"
    assert contest.environment(Row("bptt@avx2", 2))["BPTT_VARIANT"] == "avx2"
    assert contest.missing(Row("bptt", 1)) == ""
    slow, fast = Row("torch", 2), Row("torch", 1)
    timings = {slow: Timing({}, [2.0]), fast: Timing({}, [1.0])}
    assert contest.hopeless(slow, timings)
    assert not contest.hopeless(fast, timings)
    assert not contest.hopeless(
        Row("bptt", 1), {Row("bptt", 1): Timing({}, [9.0]), Row("bptt", 2): Timing({}, [1.0])}
    )


def test_lines_and_summary():
    stream, forward, training = lines_of()
    assert [line.verdict for line in (stream, forward, training)] == ["miss", "", "miss"]
    assert [line.ratio for line in (stream, forward, training)] == [2.0] * 3
    assert report.means([stream, forward, training]) == pytest.approx({"forward": 2, "training": 2})
    assert "1.00 ms" in str(forward)
    assert "torch-1" in str(forward)
    text = "\n".join(report.summary([stream, forward, training]))
    assert "misses: stream 1x1x64x64 (2.00), training 16x64x64x64 (2.00)" in text
    assert "ValueError: no" in text
    assert [line.verdict for line in lines_of(9.0)] == ["pass", "", "pass"]
    assert [line.verdict for line in lines_of(0.5)] == ["miss"] * 3
    assert [report.time_text(s) for s in (1.234e-6, 0.5, 123e-6, 12.0)] == [
        "1.23 us",
        "500 ms",
        "123 us",
        "12.0 s",
    ]


def test_arguments(capsys):
    quick = parse("--quick")
    assert quick.quick
    assert command.entries(quick) == grid.quick_grid()
    assert command.entries(parse()) == grid.full_grid()
    only = parse("--shapes", "1,1,2,3;5,1,2,3", "--modes", "stream,training", "--threads", "2", "--peers", "")
    assert [e.case.mode for e in command.entries(only)] == ["stream", "training", "training"]
    assert (only.threads, only.peers) == (2, ())
    for wrong in (
        ("--threads", "0"),
        ("--modes", "fast"),
        ("--shapes", "1,2"),
        ("--seconds", "-1"),
        ("--peers", "x"),
    ):
        with pytest.raises(SystemExit):
            parse(*wrong)
        assert "expected" in capsys.readouterr().err


def run(arguments, capsys, monkeypatch):
    """Run the command with ceilings that need no measuring."""
    monkeypatch.setattr(command, "measure_ceilings", made_up)
    assert bench.main(parse(*arguments)) == 0
    return capsys.readouterr().out


def test_command_prints_and_writes(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.delitem(sys.modules, "bptt.bench.peer_torch", raising=False)  # of another test
    monkeypatch.setattr(command, "PEERS", dict.fromkeys(command.PEERS, ("reference", "torch")))
    monkeypatch.setattr(command, "missing", lambda row: "torch" if row.name == "torch" else "")
    written, drawn = tmp_path / "run.json", tmp_path / "run.png"
    arguments = [
        "--shapes",
        "1,1,2,3;4,2,3,5",
        "--seconds",
        "0.001",
        "--threads",
        "1",
        "--predict",
        "--quick",
    ]
    out = run([*arguments, "--json", str(written), "--plot", str(drawn)], capsys, monkeypatch)
    assert "torch takes no part: torch is not installed" in out
    assert "A CPU, variant made-up, 1 thread(s)" in out
    assert out.count("reference-1") == 5
    assert "geometric mean of 3 ratios, forward and stream" in out
    assert "P=64" in out
    content = json.loads(written.read_text())
    assert [line["mode"] for line in content["lines"]] == [
        "stream",
        "forward",
        "training",
        "forward",
        "training",
    ]
    for line in content["lines"]:
        assert line["seconds"] > 0
        assert line["ratio"] == pytest.approx(line["medians"]["reference-1"] / line["seconds"])
        assert math.isclose(line["share"], line["bound"]["seconds"] / line["seconds"])
    assert content["ceilings"]["threads"] == 1
    assert drawn.read_bytes().startswith(b"\x89PNG")
    assert "bptt.bench.peer_torch" not in sys.modules


def test_ceilings_only(tmp_path, capsys, monkeypatch):
    written = tmp_path / "ceilings.json"
    assert "barrier 100 ns" in run(
        ["--ceilings", "--threads", "2", "--json", str(written)], capsys, monkeypatch
    )
    assert json.loads(written.read_text())["ceilings"]["barrier"] == 1e-7


def test_sweep(tmp_path, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    short = (("T", (None, 1, 3, 4), (1, 2)), ("H", (2, 2, None, None), (3, 4)))
    monkeypatch.setattr(command, "sweep", lambda ceilings, seconds: growth.sweep(ceilings, 0.001, short))
    drawn = tmp_path / "growth.png"
    out = run(["--sweep", str(drawn), "--threads", "1"], capsys, monkeypatch)
    assert out.count("H=") == 4
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_choices_force_every_way_and_leave_none(capsys, monkeypatch):
    hints = []
    made = choice.time_choice(
        Case.of("training", "3x2x3x5"), 1, 0.001, lambda *way: hints.append(way) or _core.plan_hint(*way)
    )
    assert set(hints) == set(choice.WAYS)
    assert hints[-1] == (0, 0)
    assert set(made.medians) == set(choice.WAYS.values())
    assert made.loss >= 1
    poor = choice.Choice(made.case, {"automatic": 3.0, "serial, fused": 1.0})
    assert "automatic takes 3.00 times serial, fused" in str(poor)
    good = choice.Choice(made.case, {"automatic": 1.0, "serial, fused": 1.0})
    assert "in 1 of 2 cases; at worst 3.00 times" in choice.judge([poor, good])
    out = run(
        ["--choices", "--shapes", "1,1,2,3", "--modes", "stream", "--seconds", "0.001"], capsys, monkeypatch
    )
    assert "1x1x2x3 stream" in out


@pytest.mark.parametrize("way", [way for way in choice.WAYS if any(way)])
def test_every_way_gives_the_same_bits(way):
    case = Case.of("training", "6x3x4x37")
    before = bptt.get_num_threads()
    try:
        expected = contenders.Bptt(2).training(case).results()
        _core.plan_hint(*way)
        results = contenders.Bptt(2).training(case).results()
    finally:
        _core.plan_hint()
        bptt.set_num_threads(before)
    for name, array in expected.items():
        assert np.array_equal(results[name], array), name


def test_without_the_compiled_core(capsys):
    with bptt.backend("reference"):
        assert bench.main(parse("--quick")) == 2
    assert "needs the compiled core" in capsys.readouterr().err


def test_peers_answer_as_the_oracle_does():
    names = [name for name in contenders.PEERS if not contest.missing(Row(name, 1))]
    with Contests() as contests:
        for mode in ("stream", "forward", "training"):
            takers = (*command.PEERS[mode], *(["bptt.torch"] if mode != "stream" else []))
            rows = [Row(n, 1) for n in names if n in takers]
            for options in ({}, {"cell": "GRU", "layers": 2}, {"cell": "RNN"}):
                case = Case.of(mode, "1x2x3x5" if mode == "stream" else "4x2x3x5", **options)
                assert not errors(contests.hold(case, rows, 0.0, 1))


SPECIAL = [
    ({"peephole": True}, ("torchloop", "torchscript"), ("onnxruntime",)),
    ({"lengths": True, "layers": 2, "bidirectional": True}, ("torch",), ("onnxruntime",)),
    ({"lengths": True, "cell": "GRU", "bidirectional": True}, ("torch",), ("onnxruntime",)),
    ({"resets": 0.3}, ("torchcell",), ()),
    ({"proj_size": 4, "layers": 2}, ("torch",), ()),
    ({"dtype": "float64"}, ("torch",), ()),
]


def test_peers_have_the_options_that_they_are_compared_in():
    with Contests() as contests:
        for options, trainers, runtimes in SPECIAL:
            for mode, names in (("training", trainers), ("forward", trainers + runtimes)):
                rows = [Row(n, 1) for n in ("bptt", *names) if not contest.missing(Row(n, 1))]
                assert not errors(contests.hold(Case.of(mode, "7x5x3x6", **options), rows, 0.0, 1)), options


def test_a_peer_without_an_option_is_left_out_with_a_reason():
    if contest.missing(Row("torch", 1)):
        pytest.skip("torch is not installed")
    with Contests() as contests:
        for options in ({"resets": 0.3}, {"peephole": True}, {"truncate": 2}):
            found = errors(
                contests.hold(Case.of("training", "4x2x3x5", **options), [Row("torch", 1)], 0.0, 1)
            )
            assert len(found) == 1
            assert f"LSTM with {next(iter(options))} is not there" in str(found[0])


def test_no_peer_is_imported_by_the_command():
    for path in Path(bench.__file__).parent.glob("*.py"):
        if not path.stem.startswith("peer_"):
            assert "from .peer_" not in path.read_text()
