"""Gradient flow: exact powers, autograd's norms, robust fits and verdicts, reports, the monitor."""

import csv
import doctest
import importlib
import math
import re
import sys
import types
import warnings

import numpy as np
import pytest

import bptt
from bptt.flow import GradientFlowWarning, flow_of
from bptt.flow.norms import by_lag, judged, norms, reach

CELLS = {
    "lstm": (bptt.LSTM, {}),
    "peephole": (bptt.LSTM, {"peephole": True}),
    "gru": (bptt.GRU, {}),
    "tanh": (bptt.RNN, {}),
    "relu": (bptt.RNN, {"nonlinearity": "relu"}),
}


def scalar(weight, dtype=np.float64):
    """A linear layer of one unit, whose gradient is that weight to the power of the distance."""
    layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False, dtype=dtype, seed=0)
    layer.parameters["weight_hh_l0"] = [[weight]]
    return layer


def case(cell, layers=1, bidirectional=False, seed=0, T=11, B=4, I=3, H=5, **settings):
    kind, of_cell = CELLS[cell]
    rng = np.random.default_rng(seed)
    layer = kind(
        I, H, layers, bidirectional=bidirectional, dtype=np.float64, seed=seed, **of_cell, **settings
    )
    state = [rng.standard_normal((layers * (1 + bidirectional), B, H)) for _ in "hc"]
    x = rng.standard_normal((T, B, I))
    return layer, x, tuple(state) if kind is bptt.LSTM else state[0], rng


@pytest.mark.parametrize("module", ["measure", "dynamics", "monitor"])
def test_examples_in_docstrings_run(module):
    result = doctest.testmod(importlib.import_module(f"bptt.flow.{module}"))
    assert result.failed == 0
    assert result.attempted > 0


@pytest.mark.parametrize(
    ("weight", "verdict"), [(0.8, "vanishing"), (1.0, "steady"), (-1.0, "steady"), (1.25, "exploding")]
)
def test_linear_layer_is_a_power(weight, verdict):
    T, B = 40, 3
    flow = bptt.gradient_flow(scalar(weight), np.ones((T, B, 1)))
    exact = np.sqrt(B) * np.abs(weight) ** np.arange(T)
    np.testing.assert_allclose(flow.lags, exact, rtol=1e-12)
    np.testing.assert_allclose(flow.hidden, exact[::-1], rtol=1e-12)
    assert flow.cells is None
    assert flow.growth == pytest.approx(abs(weight), rel=1e-12)
    assert flow.verdict == verdict
    assert repr(flow) == f"GradientFlow(T=40, growth={abs(weight):.4g}, {verdict})"


def test_linear_layer_with_unequal_lengths_is_the_same_power():
    lengths = np.array([3, 17, 0, 9])
    flow = bptt.gradient_flow(scalar(0.7), np.full((20, 4, 1), np.nan), lengths=lengths)
    np.testing.assert_allclose(flow.lags, np.sqrt(3) * 0.7 ** np.arange(17), rtol=1e-12)
    expected = [sum(0.49 ** (n - 1 - t) for n in lengths if t < n) ** 0.5 for t in range(20)]
    np.testing.assert_allclose(flow.hidden, expected, rtol=1e-12)
    assert flow.growth == pytest.approx(0.7, rel=1e-12)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "gru", "tanh", "relu"])
def test_against_autograd_step_by_step(cell, bidirectional):
    """torch's own gradient of every output of a one-step-at-a-time run, kept by retain_grad."""
    torch = pytest.importorskip("torch")
    layer, x, state, _ = case(cell, 1, bidirectional)
    T, _, I = x.shape
    kind = {"lstm": torch.nn.LSTMCell, "gru": torch.nn.GRUCell}.get(cell, torch.nn.RNNCell)
    settings = {"nonlinearity": cell} if kind is torch.nn.RNNCell else {}
    hidden, cells = np.zeros((1 + bidirectional, T)), np.zeros((1 + bidirectional, T))
    for d, end in enumerate(("", "_reverse")[: 1 + bidirectional]):
        twin = kind(I, layer.hidden_size, dtype=torch.float64, **settings)
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        twin.load_state_dict({n: torch.from_numpy(layer.parameters[f"{n}_l0{end}"]) for n in names})
        h = [torch.from_numpy(s[d]) for s in (state if cell == "lstm" else [state])]
        kept = {}
        for t in reversed(range(T)) if d else range(T):
            given = torch.from_numpy(x[t])
            h = list(twin(given, tuple(h))) if cell == "lstm" else [twin(given, h[0])]
            for s in h:
                s.requires_grad_().retain_grad()
            kept[t] = h
        h[0].sum().backward()
        for t in range(T):
            hidden[d, t] = torch.linalg.vector_norm(kept[t][0].grad)
            # A cell state after the last is read by nothing but h, so autograd gives all of them.
            cells[d, t] = torch.linalg.vector_norm(kept[t][1].grad) if cell == "lstm" else 0
    flow = bptt.gradient_flow(layer, x, state)
    np.testing.assert_allclose([part.hidden for part in flow.parts], hidden, rtol=1e-11)
    np.testing.assert_allclose(flow.hidden, np.sqrt((hidden**2).sum(0)), rtol=1e-11)
    if cell == "lstm":
        np.testing.assert_allclose([part.cells for part in flow.parts], cells, rtol=1e-11)
        np.testing.assert_allclose(flow.cells, np.sqrt((cells**2).sum(0)), rtol=1e-11)
        np.testing.assert_allclose(flow.parts[0].lags, cells[0, ::-1], rtol=1e-11)
    else:
        np.testing.assert_allclose(flow.parts[0].lags, hidden[0, ::-1], rtol=1e-11)
    if bidirectional:  # the loss of the reverse direction is at its last step, step 0
        carried = cells if cell == "lstm" else hidden
        np.testing.assert_allclose(flow.parts[1].lags, carried[1], rtol=1e-11)


@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_norms_are_those_of_backward_and_the_loss_is_the_last_state(cell, bidirectional, batch_first):
    layer, x, state, _ = case(cell, 2, bidirectional, batch_first=batch_first)
    lengths = np.array([11, 4, 0, 7])
    given = x.swapaxes(0, 1) if batch_first else x
    flow = bptt.gradient_flow(layer, given, state, lengths=lengths)
    tape = layer.forward(given, state, lengths=lengths)
    D = 1 + bidirectional
    d_h = np.zeros_like(state[0] if cell in ("lstm", "peephole") else state)
    d_h[-D:, lengths > 0] = 1
    d_state = (d_h, None) if cell in ("lstm", "peephole") else d_h
    gradients = layer.backward(tape, None, d_state, steps=True)
    assert [part.name for part in flow.parts] == [
        f"l{n}{way}" for n in (0, 1) for way in ("", "_reverse")[:D]
    ]
    for n, part in enumerate(flow.parts):
        np.testing.assert_allclose(part.hidden, np.linalg.norm(gradients.hidden[n], axis=(1, 2)), rtol=1e-12)
        if gradients.cells is not None:
            np.testing.assert_allclose(
                part.cells, np.linalg.norm(gradients.cells[n], axis=(1, 2)), rtol=1e-12
            )
    flow_again = flow_of(layer, tape, gradients, lengths=lengths)
    np.testing.assert_array_equal(flow_again.hidden, flow.hidden)


@pytest.mark.parametrize("kind", [bptt.LSTM, bptt.RNN])
@pytest.mark.parametrize("lengths", [0, 4, [4]])
def test_unbatched_lengths(kind, lengths):
    layer, x = kind(2, 3, dtype=np.float64, seed=0), np.random.default_rng(0).standard_normal((6, 2))
    flow = bptt.gradient_flow(layer, x, lengths=lengths)
    assert flow.hidden.any() == (lengths != 0)
    short = bptt.gradient_flow(layer, x[: int(np.ravel(lengths)[0])])
    np.testing.assert_allclose(flow.hidden[: len(short.hidden)], short.hidden, rtol=1e-12)
    np.testing.assert_allclose(flow.lags, short.lags, rtol=1e-12)


def test_given_errors_and_unbatched_input():
    layer = scalar(0.5)
    errors = np.zeros((9, 1))
    errors[6] = 2.0
    flow = bptt.gradient_flow(layer, np.ones((9, 1)), d_output=errors)
    np.testing.assert_allclose(flow.hidden, [*(2 * 0.5 ** np.arange(6, -1, -1)), 0, 0], rtol=1e-14)
    np.testing.assert_allclose(flow.lags, 2 * 0.5 ** np.arange(7), rtol=1e-14)
    assert not flow.everywhere
    errors[4] = 1.0  # the factor is fitted before the first error, where nothing but the flow acts
    flow = bptt.gradient_flow(layer, np.ones((9, 1)), d_output=errors)
    assert len(flow.lags) == 5
    assert flow.growth == pytest.approx(0.5)
    flow = bptt.gradient_flow(layer, np.ones((9, 1)), d_output=np.ones((9, 1)))
    assert flow.everywhere
    assert len(flow.lags) == 9
    assert "Errors enter at every step" in flow.report()


def test_reverse_direction_counts_from_the_error_it_meets_last_going_ahead():
    injected = np.zeros((8, 2), bool)
    injected[3, 0] = injected[5, 0] = injected[0, 1] = True
    lengths = np.array([8, 6])
    assert [a.tolist() for a in reach(injected, lengths, False)] == [[3, 0], [4, 1]]
    assert [a.tolist() for a in reach(injected, lengths, True)] == [[5, 0], [3, 6]]
    rows = np.arange(16.0).reshape(8, 2)
    np.testing.assert_allclose(by_lag(rows, np.array([5, 0]), np.array([3, 0]), True), [10, 12, 14])
    np.testing.assert_allclose(by_lag(rows, np.array([2, 0]), np.array([3, 0]), False), [4, 2, 0])


@pytest.mark.parametrize(
    ("lags", "growth", "verdict"),
    [
        ([], 1.0, "steady"),
        ([3.0], 1.0, "steady"),
        ([0.0], 1.0, "steady"),
        ([1, 0.5, 0.25], 0.5, "vanishing"),
        ([1, 0.5, 0.25, 0, 0], 0.5, "vanishing"),  # underflow
        ([1, 1, 1, 0], 1.0, "vanishing"),  # cut off
        ([1, 0, 0], 0.0, "vanishing"),
        ([0, 0, 0], 0.0, "vanishing"),
        ([0, 0, 1.0], math.inf, "exploding"),
        ([1, 2, 4, np.inf, np.nan], 2.0, "exploding"),
        ([np.nan, np.nan], math.inf, "exploding"),
        ([np.inf], math.inf, "exploding"),
        (0.99 ** np.arange(100), 0.99, "steady"),
        (0.99 ** np.arange(1000), 0.99, "vanishing"),
        (1.02 ** np.arange(1000), 1.02, "exploding"),
        (0.91 ** np.arange(9), 0.91, "steady"),
        (0.89 ** np.arange(9), 0.89, "vanishing"),
        (1.11 ** np.arange(9), 1.11, "exploding"),
        ([1e-300, 1e300], 1e600, "exploding"),
        ([1e300, 1e-300], 0.0, "vanishing"),
    ],
)
def test_verdicts(lags, growth, verdict):
    found = judged(np.asarray(lags, np.float64))
    assert found[1] == verdict
    assert found[0] == pytest.approx(growth, rel=1e-12)


def test_norms_at_the_ends_of_the_range():
    steps = np.full((1, 2, 1, 4), 1e200)
    steps[0, 1] = 1e-200
    np.testing.assert_allclose(norms(steps, 3)[0, :, 0], [2e200, 2e-200], rtol=1e-15)
    np.testing.assert_allclose(norms(np.float32([[[[3e38, 4e38 / 1.5]]]]), 3)[0, 0, 0], 4.0139e38, rtol=1e-4)
    assert norms(np.zeros((0, 3)), 0).tolist() == [0, 0, 0]
    assert np.isnan(norms(np.array([1.0, np.nan]), 0))
    assert norms(np.array([1.0, np.inf]), 0) == np.inf


@pytest.mark.parametrize("shape", [(0, 3, 1), (5, 0, 1), (1, 2, 1), (0, 1)])
def test_empty_and_short(shape):
    flow = bptt.gradient_flow(scalar(0.5), np.ones(shape))
    assert flow.hidden.shape == (shape[0],)
    assert (flow.growth, flow.verdict) == (1.0, "steady")
    assert flow.report()


def test_underflow_and_overflow_of_float32():
    flow = bptt.gradient_flow(scalar(0.1, np.float32), np.ones((100, 1), np.float32))
    assert flow.hidden[0] == 0
    assert flow.growth == pytest.approx(0.1, rel=1e-3)
    assert flow.verdict == "vanishing"
    with np.errstate(all="ignore"):
        flow = bptt.gradient_flow(scalar(8, np.float32), np.ones((100, 1), np.float32))
    assert not np.isfinite(flow.hidden[0])
    assert flow.growth == pytest.approx(8, rel=1e-3)
    assert flow.verdict == "exploding"
    assert "forward pass itself is not finite" in flow.report()


def test_arguments_are_checked():
    with pytest.raises(TypeError, match=r"^layer: expected an LSTM, GRU or RNN, got str"):
        bptt.gradient_flow("layer", np.ones((2, 1)))
    with pytest.raises(ValueError, match=r"^d_output: "):
        bptt.gradient_flow(scalar(1), np.ones((3, 2, 1)), d_output=np.ones((2, 2, 1)))
    layer = scalar(1)
    tape = layer.forward(np.ones((3, 1)))
    with pytest.raises(ValueError, match=r"^gradients: expected those of backward\(\.\.\., steps=True\)"):
        flow_of(layer, tape, layer.backward(tape), np.ones((3, 1)))


def test_truncated():
    flow = bptt.gradient_flow(scalar(1.25), np.ones((50, 1)), truncate=10)
    np.testing.assert_allclose(flow.lags[:10], 1.25 ** np.arange(10), rtol=1e-12)
    assert not flow.lags[10:].any()
    text = flow.report()
    assert "truncate=10: nothing flows further than that" in text
    assert "exactly zero at the far end" in text
    assert "100 times" not in text


def test_clipped_inside():
    layer, x = scalar(1.25), np.ones((50, 2, 1))
    flow = bptt.gradient_flow(layer, x, step_clip={"hidden": 3.0})
    np.testing.assert_allclose(flow.lags, np.sqrt(2) * np.minimum(3, 1.25 ** np.arange(50)), rtol=1e-12)
    assert flow.clipped["hidden"].sum() == 2 * np.sum(flow.gradients.hidden[0, :, 0] * 1.25 > 3)
    assert "clipped elements (hidden): " in flow.report()
    assert "step_clip=1.0" in bptt.gradient_flow(layer, x).report()


def test_saturated_shares():
    layer = bptt.LSTM(1, 2, dtype=np.float64, seed=0)
    layer.parameters.flat[...] = 0
    layer.parameters["bias_ih_l0"] = [5, 0, 5, -5, 0, 0, 0, 0]
    x = np.zeros((6, 2, 1))
    [shares] = bptt.gradient_flow(layer, x, lengths=[6, 2]).saturated
    assert shares["i"] == (0, 0.5)
    assert shares["f"] == (0.5, 0.5)
    assert shares["g"] == shares["o"] == shares["tanh(c)"] == (0, 0)
    layer = bptt.RNN(1, 2, nonlinearity="relu", bias=True, seed=0)
    layer.parameters.flat[...] = 0
    layer.parameters["bias_ih_l0"] = [1, -1]
    [shares] = bptt.gradient_flow(layer, np.zeros((4, 1), np.float32)).saturated
    assert shares == {"h": (0.5, 0)}
    [shares] = bptt.gradient_flow(bptt.GRU(2, 3), np.zeros((4, 2), np.float32)).saturated
    assert set(shares) == set("rzn")


def advised(layer, x, **arguments):
    """Return the advice, and run what it says as code."""
    flow = bptt.gradient_flow(layer, x, **arguments)
    _, _, advice = flow.report().partition("What helps:\n")
    return flow, advice


def test_advice_against_vanishing_works():
    layer = bptt.LSTM(4, 32, seed=0)
    x = np.random.default_rng(0).standard_normal((60, 4, 4)).astype(np.float32)
    flow, advice = advised(layer, x)
    assert flow.verdict == "vanishing"
    calls = re.findall(r"bptt\.init\.\w+\(layer, [^)]*\)", advice)
    assert len(calls) == 2
    for call in calls:
        layer = bptt.LSTM(4, 32, seed=0)
        exec(call, {"bptt": bptt, "layer": layer})
        cured = bptt.gradient_flow(layer, x)
        assert cured.lags[-1] / cured.lags[0] > 1e6 * flow.lags[-1] / flow.lags[0], call
    assert "bptt.init.chrono(layer, longest=60)" in advised(bptt.GRU(4, 32, seed=0), x)[1]
    assert "bptt.LSTM or bptt.GRU" in advised(bptt.RNN(4, 32, seed=0), x)[1]
    assert "needs bias=True" in advised(bptt.LSTM(4, 32, bias=False, seed=0), x)[1]
    saturated = bptt.RNN(4, 32, seed=0)
    saturated.parameters["weight_ih_l0"] *= 100
    assert "of a state is saturated" in advised(saturated, x)[1]


def test_advice_against_exploding_works():
    layer = scalar(1.5)
    x = np.ones((60, 2, 1))
    flow, advice = advised(layer, x)
    assert flow.verdict == "exploding"
    [k] = re.findall(r"truncate=(\d+)", advice)
    assert 1.5 ** int(k) <= 100 < 1.5 ** (int(k) + 1)
    assert "bptt.clip_grad_norm_(gradients, max_norm=1.0)" in advice
    [scaling] = re.findall(r"layer\.parameters\['weight_hh_l0'\] \*= [\d.]+", advice)
    exec(scaling, {"layer": layer})
    assert bptt.gradient_flow(layer, x).verdict == "steady"
    assert "nothing: errors reach" in advised(layer, x)[1]
    assert "no error enters" in advised(layer, x, d_output=np.zeros((60, 2, 1)))[1]


def test_report_names_every_part():
    layer, x, state, _ = case("peephole", 2, True)
    text = bptt.gradient_flow(layer, x, state).report()
    for name in ("l0:", "l0_reverse:", "l1:", "l1_reverse:", "mean of the forget gate f"):
        assert name in text
    text = bptt.gradient_flow(scalar(0.8), np.ones((30, 1))).report()
    assert "spectral radius 0.8" in text
    assert "a hundredth is left after 21 steps" in text


def trained(monitor, layer, x, steps, **arguments):
    for step in range(steps):
        tape = layer.forward(x)
        gradients = layer.backward(tape, tape.output, steps=arguments.pop("steps", False))
        monitor(gradients, loss=float(step), **arguments)


def test_monitor_writes_a_table_and_keeps_statistics(tmp_path):
    layer, x = scalar(1.0), np.ones((7, 1))
    path = tmp_path / "flow.csv"
    with bptt.GradientMonitor(layer, path, every=2) as monitor:
        found = []
        for step in range(5):
            tape = layer.forward(x)
            gradients = layer.backward(tape, tape.output * (step + 1))
            found.append(np.linalg.norm(gradients.parameters.flat))
            monitor(gradients, loss=step, x=x)
            assert monitor.last.norm == pytest.approx(found[-1])
        lines = list(csv.DictReader(path.read_text().splitlines()))
    assert [int(line["step"]) for line in lines] == [0, 1, 2, 3, 4]
    assert [line["growth"] for line in lines] == ["1.0", "", "1.0", "", "1.0"]
    assert [line["verdict"] for line in lines] == ["steady", "", "steady", "", "steady"]
    np.testing.assert_allclose([float(line["norm"]) for line in lines], found)
    statistics = monitor.statistics["norm"]
    assert statistics.updates == 5
    expected = np.mean(found), np.std(found), min(found), max(found)
    np.testing.assert_allclose(statistics[1:], expected)
    assert monitor.statistics["growth"] == (3, 1.0, 0.0, 1.0, 1.0)
    assert "5 updates, warned of: nothing" in monitor.report()
    monitor.close()  # twice is fine


@pytest.mark.parametrize(("weight", "verdict"), [(0.5, "vanishing"), (2.0, "exploding")])
def test_monitor_warns_once(weight, verdict):
    layer, x = scalar(weight), np.ones((20, 2, 1))
    monitor = bptt.GradientMonitor(layer, every=1, patience=3)
    tape = layer.forward(x)
    gradients = layer.backward(tape, tape.output)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor(gradients, x=x)
        monitor(gradients, x=x)
    with pytest.warns(GradientFlowWarning, match=f"gradients are {verdict}, update 2: factor {weight:g} per"):
        monitor(gradients, x=x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(5):
            monitor(gradients, x=x)
    assert f"warned of: {verdict}" in monitor.report()


def test_monitor_counts_in_a_row_only():
    monitor = bptt.GradientMonitor(scalar(0.5), every=1, patience=2)
    bad, good = np.ones((20, 1)), np.ones((1, 1))
    tape = monitor.layer.forward(bad)
    gradients = monitor.layer.backward(tape, tape.output)
    for x in (bad, good, bad, good):
        monitor(gradients, x=x)
    assert monitor.statistics["growth"].updates == 4


def test_monitor_of_the_training_loss_and_what_is_not_finite():
    layer, x, state, _ = case("lstm", 2, True)
    tape = layer.forward(x, state)
    errors = np.zeros_like(tape.output)
    errors[-1] = 1
    gradients = layer.backward(tape, errors, steps=True)
    monitor = bptt.GradientMonitor(layer, patience=1000)
    monitor(gradients)
    exact = np.linalg.norm(gradients.cells[-2], axis=(1, 2))
    assert (monitor.last.first, monitor.last.last) == (pytest.approx(exact[0]), pytest.approx(exact[-1]))
    assert monitor.last.growth == pytest.approx(judged(exact[::-1])[0])
    gradients.parameters.flat[0] = np.inf
    before = gradients.parameters.flat.copy()
    with pytest.warns(GradientFlowWarning, match="exploding"):  # at once
        monitor(gradients)
    np.testing.assert_array_equal(gradients.parameters.flat, before)
    assert monitor.statistics["norm"].updates == 1
    monitor(layer.backward(tape, errors))  # nothing but the norm
    assert monitor.last.verdict == ""
    assert math.isnan(monitor.last.growth)


class Writer:
    def __init__(self, folder=None):
        self.folder, self.scalars, self.closed = folder, [], False

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def close(self):
        self.closed = True


def test_monitor_writes_for_tensorboard(monkeypatch, tmp_path):
    layer, x = scalar(1.0), np.ones((5, 1))
    gradients = layer.backward(layer.forward(x), np.ones((5, 1)))
    own = Writer()
    with bptt.GradientMonitor(layer, tensorboard=own) as monitor:
        monitor(gradients, x=x)
    assert not own.closed  # who made it closes it
    assert [tag for tag, _, _ in own.scalars] == [
        f"gradient_flow/{name}" for name in ("norm", "growth", "first", "last")
    ]
    made = []
    module = types.SimpleNamespace(Writer=lambda folder: made.append(Writer(folder)) or made[-1])
    monkeypatch.setitem(sys.modules, "tensorboard", types.ModuleType("tensorboard"))
    monkeypatch.setitem(sys.modules, "tensorboard.summary", module)
    with bptt.GradientMonitor(layer, tensorboard=tmp_path) as monitor:
        monitor(gradients, loss=0.5)
    assert made[0].closed
    assert made[0].folder == str(tmp_path)
    assert made[0].scalars[0] == ("gradient_flow/loss", 0.5, 0)
    monkeypatch.setitem(sys.modules, "tensorboard.summary", None)
    with pytest.raises(ImportError, match=r"^tensorboard: writing to a folder needs the package tensorboard"):
        bptt.GradientMonitor(layer, tensorboard=tmp_path)
    with pytest.raises(TypeError, match=r"^tensorboard: expected a folder or a writer"):
        bptt.GradientMonitor(layer, tensorboard=3)


def test_monitor_checks_its_arguments():
    with pytest.raises(TypeError, match=r"^layer: "):
        bptt.GradientMonitor(3)
    with pytest.raises(ValueError, match=r"^every: expected at least 1, got 0"):
        bptt.GradientMonitor(scalar(1), every=0)
    with pytest.raises(TypeError, match=r"^gradients: expected Gradients from backward, got ndarray"):
        bptt.GradientMonitor(scalar(1))(np.ones(3))


def test_monitor_counts_lengths_from_each_rows_last_step():
    T = B = 60
    layer, lengths = bptt.RNN(3, 16, seed=0), np.arange(1, T + 1)
    x = np.random.default_rng(0).standard_normal((T, B, 3)).astype(np.float32)
    tape = layer.forward(x, lengths=lengths)
    gradients = layer.backward(tape, None, np.ones((1, B, 16), np.float32), steps="norms")
    monitor = bptt.GradientMonitor(layer, patience=100)
    monitor(gradients, lengths=lengths)
    flow = flow_of(layer, tape, gradients, lengths=lengths)
    assert monitor.last.growth == pytest.approx(flow.growth)
    assert (monitor.last.verdict, monitor.last.last) == ("vanishing", flow.lags[0])
    with pytest.raises(ValueError, match=r"^lengths: expected shape \(B,\)"):
        monitor(gradients, lengths=lengths[:3])


@pytest.mark.parametrize("T", [2, 3, 10, 22, 100])
def test_a_forget_bias_that_is_advised_opens_the_gates(T):
    """To a factor that does not vanish by itself, and never less than they are open by default."""
    layer = bptt.LSTM(3, 16, seed=0)
    x = np.random.default_rng(0).standard_normal((T, 4, 3)).astype(np.float32)
    flow = bptt.gradient_flow(layer, x)
    (advised,) = [line for line in flow.report().splitlines() if "forget_bias" in line]
    bias = float(advised.split("layer, ")[1].split(")")[0])
    assert 1 / (1 + np.exp(-bias)) > 0.94
    assert bptt.gradient_flow(bptt.init.forget_bias(layer, bias), x).growth > flow.growth


def test_advice_names_the_reason():
    layer, x = bptt.LSTM(3, 8, seed=0), np.ones((20, 2, 3), np.float32)
    held = bptt.gradient_flow(layer, x, step_clip={"cell": 0.0, "hidden": 0.0})
    assert "step_clip holds elements" in held.report()
    errors = np.full((20, 2, 8), np.nan, np.float32)
    assert "errors themselves are not finite" in bptt.gradient_flow(layer, x, d_output=errors).report()
    assert "no distance to go" in bptt.gradient_flow(layer, x[:1]).report()
    gates = bptt.LSTM(3, 8, activations=("tanh", "tanh", "tanh"), seed=0)
    assert "forget_bias" not in bptt.gradient_flow(gates, x).report()
