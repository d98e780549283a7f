"""Pictures of flows, and the command gradient-flow: the numbers in them, and every way to call it wrongly."""

import subprocess
import sys

import numpy as np
import pytest

import bptt
from bptt.__main__ import main
from bptt.flow import command, pictures, story

matplotlib = pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"


def noise(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def test_plot_shows_the_norms_and_the_fit(tmp_path):
    layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False)
    layer.parameters["weight_hh_l0"] = [[0.5]]
    flow = bptt.gradient_flow(layer, np.ones((20, 3, 1), np.float32))
    ax = flow.plot()
    norms, fit = ax.get_lines()
    np.testing.assert_array_equal(norms.get_ydata(), flow.lags)
    np.testing.assert_allclose(fit.get_ydata(), flow.lags, rtol=1e-6)
    assert ax.get_yscale() == "log"
    assert "vanishing" in ax.get_title()
    ax.figure.savefig(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(PNG)
    assert flow.plot(ax) is ax
    assert len(ax.get_lines()) == 4


@pytest.mark.parametrize("x", [np.ones((1, 1, 2)), np.ones((0, 1, 2)), np.full((5, 1, 2), np.nan)])
def test_plot_of_flows_without_a_fit(x, tmp_path):
    with np.errstate(all="ignore"):
        ax = bptt.gradient_flow(bptt.LSTM(2, 3, bidirectional=True, dtype=np.float64), x).plot()
    ax.figure.savefig(tmp_path / "flow.png")
    assert (tmp_path / "flow.png").read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    ("layer", "titles"),
    [
        (bptt.LSTM(2, 3, 2), ["h", "c", "i", "f", "g", "o"]),
        (bptt.GRU(2, 3, bidirectional=True), ["h", "r", "z", "n"]),
        (bptt.RNN(2, 3), ["h"]),
    ],
)
def test_heat_maps_show_one_row(layer, titles, tmp_path):
    flow = bptt.gradient_flow(layer, noise(7, 4, 2))
    drawn = flow.heat_maps(row=2, part=0)
    axes = {ax.get_title(): ax for ax in drawn.axes if ax.get_title()}
    assert list(axes)[: len(titles)] == titles
    shown = axes["h"].images[0].get_array()
    np.testing.assert_array_equal(shown, flow.tape.hidden[0, :, 2].T)
    slopes = axes[r"$|\partial L/\partial h|$"].images[0].get_array()
    np.testing.assert_array_equal(slopes, np.abs(flow.gradients.hidden[0, :, 2].T))
    drawn.savefig(tmp_path / "maps.png")
    assert pictures.heat_maps(flow.tape).axes  # without gradients
    for bad in ({"row": flow.tape.hidden.shape[2]}, {"part": 7}, {"row": -99}):
        with pytest.raises(ValueError, match=rf"^{next(iter(bad))}: expected one of \d+, got"):
            flow.heat_maps(**bad)


def test_pyplot_draws_if_it_is_in_use(monkeypatch):
    class Pyplot:
        figure = staticmethod(lambda **settings: settings)

    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", Pyplot)
    assert pictures.figure(2.0, 3.0)["figsize"] == (2.0, 3.0)


def test_without_matplotlib(monkeypatch, capsys):
    flow = bptt.gradient_flow(bptt.RNN(1, 2), noise(3, 1, 1))
    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"^pictures need matplotlib .*bptt\[plot\]"):
        flow.plot()
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    assert main(["gradient-flow", "--steps", "5", "--plot", "x.png"]) == 2
    assert "pictures need matplotlib" in capsys.readouterr().err
    assert main(["gradient-flow", "--steps", "5"]) == 0
    assert "No picture" in capsys.readouterr().out


def test_story_holds(capsys):
    told = story.tell(60, said=print)
    for weight, flow in told.scalar.items():
        np.testing.assert_allclose(flow.lags, weight ** np.arange(60), rtol=1e-5)
    verdicts = {name: flow.verdict for name, (flow, _) in told.cells.items()}
    assert verdicts["tanh RNN"] == verdicts["LSTM"] == "vanishing"
    assert verdicts["LSTM, chrono biases"] == verdicts["peephole LSTM, forget bias 3"] == "steady"
    for name, (flow, factor) in told.cells.items():
        assert flow.growth == pytest.approx(factor, rel=0.03), name
    assert told.cures["no cure"].verdict == "exploding"
    assert told.cures["step_clip=1"].verdict == "steady"
    full, cut, clipped = told.growth.norms.values()
    assert full[-1] > 100 * full[0]
    assert cut[-1] < 20 * cut[0]
    assert clipped.max() <= 1.0001
    text = capsys.readouterr().out
    assert text.count("\n") == sum(1 + len(part) for part in (*told[:3], told.growth.norms))


def test_command_draws_the_story(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["gradient-flow", "--steps", "30"]) == 0
    assert (tmp_path / "gradient-flow.png").read_bytes().startswith(PNG)
    assert "Picture: gradient-flow.png" in capsys.readouterr().out
    assert main(["gradient-flow", "--steps", "2", "--plot", "other.svg", "--seed", "3"]) == 0
    assert (tmp_path / "other.svg").exists()


def saved(tmp_path, monkeypatch, layer):
    """Leave own.safetensors with a layer in the folder that the test runs in."""
    pytest.importorskip("safetensors")
    monkeypatch.chdir(tmp_path)
    bptt.save(layer, "own.safetensors")


@pytest.mark.parametrize("batch_first", [False, True])
def test_command_on_a_layer_of_ones_own(tmp_path, capsys, monkeypatch, batch_first):
    layer = bptt.LSTM(3, 8, batch_first=batch_first, seed=0)
    saved(tmp_path, monkeypatch, layer)
    x = np.random.default_rng(0).standard_normal((12, 5, 3))  # float64, as np.save often has it
    np.save(tmp_path / "x.npy", x)
    files = [str(tmp_path / name) for name in ("x.npy", "flow.png", "maps.png")]
    arguments = ["gradient-flow", "--layer", "own.safetensors", "--data", files[0]]
    assert main([*arguments, "--plot", files[1], "--maps", files[2]]) == 0
    text = capsys.readouterr().out
    assert text.startswith(bptt.gradient_flow(layer, x.astype(np.float32)).report())
    assert "Largest Lyapunov exponent: -" in text
    assert (tmp_path / "flow.png").exists()
    assert (tmp_path / "maps.png").exists()
    assert main(["gradient-flow", "--layer", "own.safetensors", "--steps", "7"]) == 0
    assert "7 steps, 8 rows" in capsys.readouterr().out


def refused(capsys, *arguments):
    assert main(["gradient-flow", *arguments]) == 2
    text = capsys.readouterr()
    assert text.out == ""
    assert text.err.startswith("bptt gradient-flow: error: ")
    return text.err


def test_command_refuses(tmp_path, capsys, monkeypatch):
    assert "--steps: expected at least 2, got 1" in refused(capsys, "--steps", "1")
    assert "--seed: expected at least 0" in refused(capsys, "--seed", "-1")
    assert "--data: goes with --layer only" in refused(capsys, "--data", "x.npy")
    assert "--maps: goes with --layer only" in refused(capsys, "--maps", "x.png")
    assert "a folder that is there" in refused(capsys, "--plot", str(tmp_path / "none" / "x.png"))
    saved(tmp_path, monkeypatch, bptt.RNN(3, 4))
    own = ("--layer", "own.safetensors", "--data")
    assert "No such file" in refused(capsys, *own, str(tmp_path / "none.npy"))
    (tmp_path / "text.npy").write_text("hello")
    assert "expected an array that numpy.save wrote" in refused(capsys, *own, str(tmp_path / "text.npy"))
    np.save(tmp_path / "words.npy", np.array(["a"]))
    assert "one array of real numbers" in refused(capsys, *own, str(tmp_path / "words.npy"))
    np.save(tmp_path / "wide.npy", np.ones((4, 2, 5)))
    assert "x: expected shape" in refused(capsys, *own, str(tmp_path / "wide.npy"))
    assert "--layer none: No such file" in refused(capsys, "--layer", "none")
    assert "--layer text.npy: text.npy: " in refused(capsys, "--layer", "text.npy")
    name = str(tmp_path / "x.nonsense")
    assert main(["gradient-flow", "--steps", "2", "--plot", name]) == 2
    assert "not supported" in capsys.readouterr().err


def test_importing_the_package_imports_the_flow_at_its_first_use():
    code = """
import sys, bptt
assert not any(name.startswith("bptt.flow") for name in sys.modules)
assert "gradient_flow" in dir(bptt)
assert bptt.flow.gradient_flow is bptt.gradient_flow
assert not {"matplotlib", "tensorboard"} & set(sys.modules)
try:
    bptt.nonsense
except AttributeError as error:
    print(error)
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "module 'bptt' has no attribute 'nonsense'\n"
