"""The examples: their tasks, the gradients of their model, and a short run of each."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt

EXAMPLES = Path(__file__).parent.parent / "examples"
RUNS = {
    "adding": ["--length", "12", "--steps", "3", "--hidden", "6"],
    "copying": ["--delay", "6", "--steps", "3", "--hidden", "6"],
    "exploding": ["--steps", "3", "--hidden", "12"],
    "truncation": ["--steps", "2", "--hidden", "4", "--rows", "3"],
    "heat_maps": ["--steps", "9", "--hidden", "5"],
    "characters": ["--parameters", "8000", "--steps", "2"],
}

if not EXAMPLES.is_dir():
    pytest.skip("the examples are not beside the tests", allow_module_level=True)


@pytest.fixture
def example(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in ("tasks", *RUNS):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", RUNS)
def test_short_run(name, example, capsys, tmp_path):
    plot = []
    if importlib.util.find_spec("matplotlib"):
        plot = ["--plot", str(tmp_path / "figure.png")]
    found = example(name).main([*RUNS[name], *plot])
    values = np.concatenate(
        [np.ravel(value) for value in (found.values() if isinstance(found, dict) else found)]
    )
    assert np.isfinite(values).all()
    assert capsys.readouterr().out.count("\n") >= 4
    assert not plot or (tmp_path / "figure.png").stat().st_size > 5000


def test_tasks(example):
    tasks = example("tasks")
    rng = np.random.default_rng(0)
    x, y = tasks.adding(20, 50, rng)
    assert (x[..., 1].sum(0) == 2).all()
    assert (x[:10, :, 1].sum(0) == 1).all()
    np.testing.assert_allclose(y[0, :, 0], [x[x[:, b, 1] == 1, b, 0].sum() for b in range(50)], rtol=1e-6)
    x, symbols = tasks.copying(7, 6, rng)
    assert x.shape == (17, 6, 10)
    assert (x.sum(2) == 1).all()
    assert (x[:5, :, :8].argmax(2) == symbols).all()
    assert np.flatnonzero(x[:, 0, 9]).tolist() == [12]  # from there on the symbols are to be said
    assert (x[5:, :, 8].sum(0) == 11).all()
    x, bits = tasks.recalling(3, 4, rng, steps=10)
    assert ((x[:7, :, 0] > 0) == bits).all()
    assert len(bits) == 7


@pytest.mark.parametrize("task", ["adding", "copying"])
def test_gradients_of_the_model_against_finite_differences(task, example):
    tasks = example("tasks")
    rng = np.random.default_rng(0)
    x, target = tasks.adding(6, 4, rng) if task == "adding" else tasks.copying(2, 4, rng)
    layer = bptt.LSTM(x.shape[2], 3, dtype=np.float64, seed=0)
    model = tasks.Model(layer, 1 if task == "adding" else 8, 0)
    model.readout = {name: array.astype(np.float64) for name, array in model.readout.items()}
    x = x.astype(np.float64)
    _, _, gradients = model.step(x, target)
    for arrays, slopes in zip(model.parameters, gradients, strict=True):
        slopes = getattr(slopes, "parameters", slopes)
        for name, array in arrays.items():
            place, e = np.unravel_index(rng.integers(array.size), array.shape), 1e-5
            value = array[place]
            array[place] = value + e
            above = model.step(x, target)[0]
            array[place] = value - e
            below = model.step(x, target)[0]
            array[place] = value
            assert slopes[name][place] == pytest.approx((above - below) / (2 * e), rel=1e-4, abs=1e-8)


def test_the_lstm_learns_what_the_rnn_forgets(example):
    """The adding problem over 60 steps, after a second of training each; saying 1 has an error of 0.167."""
    tasks = example("tasks")
    error = {}
    for name, layer in {
        "rnn": bptt.RNN(2, 24, seed=0),
        "lstm": bptt.init.chrono(bptt.LSTM(2, 24, seed=0), 60, 0),
    }.items():
        rng = np.random.default_rng(0)
        batch = lambda rng=rng: tasks.adding(60, 16, rng)  # noqa: E731
        error[name] = np.mean(tasks.train(tasks.Model(layer, 1, 0), batch, 800, 1e-2)[0][-50:])
    assert error["rnn"] > 0.1
    assert error["lstm"] < 0.02
