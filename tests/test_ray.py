"""bptt.ray: the predictor by itself against calls of the layer, and inside Ray Data against one process."""

import doctest
import importlib.util
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt
import bptt.ray
from bptt.ray import Predictor

LENGTHS = [7, 1, 30, 0, 12, 30, 3]
LAYERS = {
    "lstm": lambda: bptt.LSTM(3, 5, seed=0),
    "stacked": lambda: bptt.GRU(3, 5, 2, bidirectional=True, seed=0),
    "batch first": lambda: bptt.RNN(3, 5, batch_first=True, dtype=np.float64, seed=0),
}


def sequences(seed=0, lengths=LENGTHS):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((T, 3), np.float32) for T in lengths]


def column(items):
    """Return an array of objects, as Ray gives a column of unequal items."""
    found = np.empty(len(items), object)
    found[:] = items
    return found


def one_by_one(layer, items, reduce):
    """Return what the layer gives for each sequence, in a call of its own."""
    found = []
    for x in items:
        output, state = layer(x)
        h_n = state[0] if isinstance(state, tuple) else state
        last = np.concatenate(list(h_n[-(1 + layer.bidirectional) :]))
        mean = output.sum(axis=0) / output.dtype.type(max(1, len(x)))
        found.append({"last": last, "mean": mean, "steps": output}[reduce])
    return found


@pytest.mark.parametrize("reduce", ["last", "mean", "steps"])
@pytest.mark.parametrize("name", LAYERS)
def test_same_bits_as_one_by_one(name, reduce):
    layer, items = LAYERS[name](), sequences(lengths=LENGTHS * 30)  # more than a block
    found = Predictor(layer, "x", "y", reduce=reduce)({"x": column(items), "id": np.arange(len(items))})
    assert list(found) == ["id", "y"]
    for result, expected in zip(found["y"], one_by_one(layer, items, reduce), strict=True):
        assert result.dtype == layer.dtype
        assert np.array_equal(result, expected)


def test_forms_of_a_column():
    layer, items = bptt.LSTM(3, 5, seed=0), sequences(lengths=[4, 4, 4])
    predictor = Predictor(layer)
    expected = np.stack(one_by_one(layer, items, "last"))
    fixed = np.stack(items)
    fixed.flags.writeable = False
    nested = column([column(list(x)) for x in items])  # a list of lists in Arrow
    forms = [fixed, column(items), nested, [x.tolist() for x in items], column([x.ravel() for x in items])]
    for form in [*forms, fixed.astype(np.float64), np.asfortranarray(fixed)]:
        assert np.array_equal(predictor({"sequence": form})["prediction"], expected)
    assert predictor({"sequence": np.empty((0, 4, 3), np.float32)})["prediction"].shape == (0, 5)
    scalar = bptt.GRU(1, 2, seed=0)
    numbers = [np.arange(5, dtype=np.float32), np.ones(2, np.float32)]
    found = Predictor(scalar)({"sequence": column(numbers)})["prediction"]
    assert np.array_equal(found[0], scalar(numbers[0][:, None])[1][0])


def test_inputs_are_only_read():
    items = sequences()
    before = [x.copy() for x in items]
    for x in items:
        x.flags.writeable = False
    batch = {"sequence": column(items), "id": np.arange(len(items))}
    found = Predictor(bptt.LSTM(3, 5, seed=0), keep_input=True)(batch)
    assert list(found) == ["sequence", "id", "prediction"]
    assert found["sequence"] is batch["sequence"]
    assert list(batch) == ["sequence", "id"]
    assert all(np.array_equal(a, b) for a, b in zip(items, before, strict=True))


def test_head():
    layer, items = bptt.LSTM(3, 5, seed=0), sequences()
    weight = np.random.default_rng(1).standard_normal((5, 2)).astype(np.float32)
    one = Predictor(layer, head=lambda features: features @ weight)({"sequence": column(items)})["prediction"]
    np.testing.assert_allclose(one, np.stack(one_by_one(layer, items, "last")) @ weight, rtol=1e-5, atol=1e-6)
    steps = Predictor(layer, reduce="steps", head=lambda features: features.argmax(axis=1))
    found = steps({"sequence": column(items)})["prediction"]
    for result, output in zip(found, one_by_one(layer, items, "steps"), strict=True):
        assert np.array_equal(result, output.argmax(axis=1))


def test_models(tmp_path):
    pytest.importorskip("safetensors")
    layer, batch = bptt.LSTM(3, 5, seed=0), {"sequence": column(sequences())}
    expected = Predictor(layer)(batch)["prediction"]
    path = tmp_path / "model.safetensors"
    bptt.save(layer, path)
    for model in (path, str(path), layer.freeze()):
        assert np.array_equal(Predictor(model)(batch)["prediction"], expected)
    copy = pickle.loads(pickle.dumps(Predictor(layer)))
    layer.parameters.flat[...] = 0  # a predictor keeps the weights it was made with
    assert np.array_equal(copy(batch)["prediction"], expected)
    double = Predictor(path, precision="float64")(batch)["prediction"]
    assert double.dtype == np.float64
    np.testing.assert_allclose(double, expected, atol=1e-6)


def test_threads_are_its_own(monkeypatch):
    seen = []
    engine = bptt.ray.engine_of(bptt.LSTM(3, 5), None)

    def head(features):
        seen.append(bptt.get_num_threads())
        return features

    with bptt.num_threads(2):
        Predictor(engine, head=head)({"sequence": column(sequences())})
        assert bptt.get_num_threads() == 2
    assert set(seen) == {1}


def test_wrong_arguments():
    layer = bptt.LSTM(3, 5)
    with pytest.raises(ValueError, match=r"^reduce: expected one of last, mean, steps, got 'first'"):
        Predictor(layer, reduce="first")
    with pytest.raises(TypeError, match=r"^head: expected a callable, got int"):
        Predictor(layer, head=3)
    with pytest.raises(TypeError, match=r"^model: expected a path, a layer or an Engine, got int"):
        Predictor(3)
    with pytest.raises(ValueError, match=r"threads|n:"):
        Predictor(layer, threads=0)
    predictor = Predictor(layer)
    with pytest.raises(ValueError, match=r"^input: expected one of the columns \['x'\], got 'sequence'"):
        predictor({"x": np.ones((2, 3, 3))})
    for wrong in (np.ones((4, 2)), np.ones(7), np.ones((2, 3, 3)), np.float32(1)):
        with pytest.raises(ValueError, match=r"^sequence\[1\]: expected shape \(T, I\) = \(T, 3\)"):
            predictor({"sequence": [np.ones((4, 3)), wrong]})


def test_inside_ray_data():
    """The example in short: a Parquet file of several blocks, one and two actors, the bits of one process."""
    example = Path(__file__).parent.parent / "examples" / "batch_scoring.py"
    if not example.is_file():
        pytest.skip("the examples are not beside the tests")
    for package in ("ray", "pyarrow", "safetensors"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"could not import {package!r}")
    folder = str(Path(bptt.__file__).parent.parent)
    paths = os.pathsep.join([folder, *filter(None, [os.environ.get("PYTHONPATH")])])
    result = subprocess.run(
        [sys.executable, str(example), "--sequences", "1000", "--block-mb", "1"],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    assert "largest difference: 0.0" in result.stdout.splitlines()
    blocks = re.findall(r"^actors: (\d), \d+ sequences per second, (\d+) blocks$", result.stdout, re.M)
    assert [actors for actors, _ in blocks] == ["1", "2"]
    assert all(int(count) >= 2 for _, count in blocks)


def test_example_in_docstring_runs():
    found = doctest.testmod(bptt.ray)
    assert found.attempted > 3
    assert found.failed == 0
