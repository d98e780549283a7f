"""The examples on real models and data, in a short form each."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt

FOLDER = Path(__file__).parent.parent / "examples"


def example(name):
    """Return an example as a module."""
    if not FOLDER.is_dir():
        pytest.skip("the examples are not beside the tests")
    spec = importlib.util.spec_from_file_location(f"example_{name}", FOLDER / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def torch():
    """torch, with its number of threads restored afterwards: silero-vad sets one on import."""
    module = pytest.importorskip("torch")
    threads = module.get_num_threads()
    yield module
    module.set_num_threads(threads)


@pytest.mark.filterwarnings("ignore:.torch.jit.load:DeprecationWarning")
def test_voice_activity(torch):
    pytest.importorskip("silero_vad")
    vad = example("voice_activity")
    onnx = importlib.util.find_spec("onnxruntime") is not None
    figures = vad.main(["--seconds", "4", *([] if onnx else ["--no-onnx"])])
    assert figures["difference"] < 1e-5
    detector = vad.VoiceActivity(vad.weights_of(vad.load_silero_vad()._model))
    found = detector.recording(vad.voice(4.0, seed=1))
    assert found[5:60].mean() > 0.9  # vowels for two seconds, then noise, then near silence
    assert found[-20:].mean() < 0.1
    again = detector.recording(vad.voice(4.0, seed=1))
    assert np.array_equal(found, again)


def test_forecast():
    pytest.importorskip("statsmodels")
    forecast = example("forecast")
    figures = forecast.main(["--steps", "60", "--hidden", "16"])
    assert figures["LSTM"]["loss"] < 0.95 * figures["seasonal-naive"]["loss"]
    assert figures["LSTM"]["inside"] > 0.5
    weeks = forecast.Weeks(forecast.series(), 1800)
    assert weeks.origins[weeks.training].max() + forecast.HORIZON < 1800  # nothing of the test is learnt from
    # No input knows a later week, and the scaling knows none of the test's.
    later = forecast.series().copy()
    later[2000:] += 50
    changed = forecast.Weeks(later, 1800)
    assert np.array_equal(changed.inputs[: 2000 - forecast.YEAR], weeks.inputs[: 2000 - forecast.YEAR])
    assert not np.array_equal(changed.inputs[2000 - forecast.YEAR :], weeks.inputs[2000 - forecast.YEAR :])


def test_forecast_gradient_against_finite_differences():
    pytest.importorskip("statsmodels")
    forecast = example("forecast")
    rng = np.random.default_rng(0)
    model = forecast.Forecaster(4, 0)
    x = rng.standard_normal((6, 3, 5), np.float32)
    targets = rng.standard_normal((6, 3, forecast.HORIZON), np.float32)
    bias = model.head["bias"]
    expected = np.empty(len(bias))
    output = model.layer(x)[0]
    for k in range(len(bias)):
        losses = []
        for step in (1e-2, -1e-2):
            bias[k] += step
            losses.append(forecast.pinball(targets[..., None].astype(float) - model.quantiles(output)).mean())
            bias[k] -= step
        expected[k] = (losses[0] - losses[1]) / 2e-2
    seen = {}
    model.optimizer.step = lambda gradients: seen.update(gradients[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bptt, "clip_grad_norm_", lambda gradients, norm: norm)
        model.step(x, targets)
    np.testing.assert_allclose(seen["bias"], expected, atol=2e-4)


def test_rl_resets():
    pytest.importorskip("gymnasium")
    rl = example("rl_resets")
    figures = rl.main(["--steps", "60000", "--seed", "1"])
    assert figures["first ratio off"] < 1e-6
    assert figures["return"] > 40  # about 20 by chance
    agent, carts = rl.Agent(8, 0), rl.Carts(5, 0)
    for _ in range(2):  # the second begins in the middle of episodes
        rollout = carts.rollout(agent, 60)
        output, _ = agent.layer(rollout.x, rollout.state, resets=rollout.resets)
        assert np.array_equal(output, rollout.hidden)  # acting and learning see the same memory
        assert rollout.resets.any()
    # After the step that starts a cart anew, and only there, an episode begins.
    assert np.array_equal(rollout.resets[1:], ~rollout.valid[:-1])


def test_rl_advantages_by_hand():
    pytest.importorskip("gymnasium")
    rl = example("rl_resets")
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((5, 1)), rng.standard_normal((6, 1))
    no, gamma, trace = np.zeros((5, 1), bool), rl.DISCOUNT, rl.TRACE
    terminated, ends, valid = no.copy(), no.copy(), ~no
    terminated[1] = ends[1] = True  # falls at step 1; step 2 starts anew
    valid[2] = False
    found = rl.advantages_of(rewards, values, terminated, ends, valid)[:, 0]
    r, v = rewards[:, 0], values[:, 0]
    surprise = [r[t] + gamma * v[t + 1] - v[t] for t in range(5)]
    at_1 = r[1] - v[1]
    at_3 = surprise[3] + gamma * trace * surprise[4]
    expected = [surprise[0] + gamma * trace * at_1, at_1, 0, at_3, surprise[4]]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    terminated[1] = False  # cut by the clock: the state after it still has its value
    assert rl.advantages_of(rewards, values, terminated, ends, valid)[1, 0] == pytest.approx(surprise[1])
