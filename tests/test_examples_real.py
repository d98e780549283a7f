"""The examples on real models and data, in a short form each."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

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
