"""Files of layers: the same bits again, readable by others, whole or not there; hostile ones raise."""

import doctest
import importlib
import json
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

import bptt

safetensors = pytest.importorskip("safetensors.numpy")
LAYERS = {
    "lstm": lambda: bptt.LSTM(5, 7, 2, bidirectional=True, dropout=0.25, batch_first=True, seed=1),
    "options": lambda: bptt.LSTM(
        3,
        4,
        peephole=True,
        coupled=True,
        cell_clip=0.1,
        activations=("hard_sigmoid", "softsign", "identity"),
        dtype=np.float64,
        seed=2,
    ),
    "unbounded": lambda: bptt.LSTM(3, 4, cell_clip=np.inf, seed=2),
    "no inputs": lambda: bptt.LSTM(0, 4, bias=False, seed=3),
    "projection": lambda: bptt.LSTM(
        3, 5, 2, proj_size=2, proj_clip=0.5, recurrent_dropout=0.1, zoneout=0.2, seed=6
    ),
    "original gru": lambda: bptt.GRU(2, 3, reset_after=False, seed=7),
    "gru": lambda: bptt.GRU(2, 3, 3, bias=False, seed=4),
    "rnn": lambda: bptt.RNN(6, 5, 2, "relu", dtype=np.float64, seed=5),
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_round_trip(make, tmp_path):
    layer = make()
    layer.parameters.flat[:3] = np.nan, -np.inf, -0.0
    path = tmp_path / "layer.safetensors"
    bptt.save(layer, path)
    for name in (path, str(path)):
        twin = bptt.load(name)
        assert type(twin) is type(layer)
        assert twin.settings == layer.settings
        assert repr(twin) == repr(layer)
        assert twin.parameters.flat.tobytes() == layer.parameters.flat.tobytes()
        assert twin.parameters.flat.dtype == layer.dtype
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_settings_make_the_like(backend):
    for make in LAYERS.values():
        layer = make()
        twin = type(layer)(**layer.settings, seed=0)
        assert twin.settings == layer.settings
        twin.load_state_dict(layer.state_dict())
        x = np.ones((4, 2, layer.input_size), layer.dtype)
        np.testing.assert_array_equal(twin(x)[0], layer(x)[0])


def test_torch_reads_it_by_safetensors_alone(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    layer, x = bptt.LSTM(5, 7, 2, bidirectional=True, seed=1), np.random.default_rng(0).random((4, 3, 5), "f")
    bptt.save(layer, tmp_path / "layer.safetensors")
    module = torch.nn.LSTM(5, 7, 2, bidirectional=True)
    module.load_state_dict(load_file(tmp_path / "layer.safetensors"))
    with torch.no_grad():
        expected = module(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(layer(x)[0], expected, atol=1e-6)


def test_another_program_writes_it_anew(tmp_path):
    """What the file holds is tensors and JSON, so that other languages can make one."""
    layer, path = bptt.GRU(3, 4, seed=1), tmp_path / "layer"
    configuration = {
        "version": 1,
        "class": "GRU",
        "settings": {"hidden_size": 4, "input_size": 3, "dtype": "float32"},
    }
    safetensors.save_file(layer.state_dict(), path, {"bptt": json.dumps(configuration), "other": "entry"})
    np.testing.assert_array_equal(bptt.load(path).parameters.flat, layer.parameters.flat)


def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "layer.safetensors"
    bptt.save(bptt.RNN(2, 3, seed=1), path)
    before = path.read_bytes()

    def full(descriptor):
        raise OSError("no space")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        bptt.save(bptt.RNN(2, 3, seed=2), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_links_and_missing_folders(tmp_path):
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    bptt.save(bptt.RNN(2, 3, seed=1), link)
    assert link.is_symlink()
    assert repr(bptt.load(target)) == "RNN(2, 3)"
    with pytest.raises(FileNotFoundError):
        bptt.save(bptt.RNN(2, 3), tmp_path / "nowhere" / "layer")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        bptt.load(tmp_path / "nowhere")
    with pytest.raises(IsADirectoryError):
        bptt.load(tmp_path)


def test_only_layers_are_saved(tmp_path):
    class Own(bptt.LSTM):
        pass

    for wrong in (bptt.LSTM(2, 3).freeze(), Own(2, 3), None):
        with pytest.raises(TypeError, match=r"^layer: expected a layer of bptt"):
            bptt.save(wrong, tmp_path / "layer")
    assert not list(tmp_path.iterdir())


CONFIGURATIONS = {
    "not JSON": ("{", "not JSON"),
    "deep": ("[" * 100_000, "not JSON"),
    "long number": ("9" * 5000, "not JSON"),
    "a list": ("[]", "expected version, class and settings, got"),
    "null": ("null", "expected version, class and settings, got None"),
    "no settings": ('{"version": 1, "class": "LSTM"}', "expected version, class and settings"),
}


@pytest.mark.parametrize(("text", "message"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_hostile_metadata(text, message, tmp_path):
    path = tmp_path / "layer"
    safetensors.save_file(bptt.LSTM(3, 4).state_dict(), path, {"bptt": text})
    with pytest.raises(ValueError, match=rf"layer: metadata 'bptt': {message}"):
        bptt.load(path)


HUGE = 10**400
CHANGES = [
    ({"version": 2}, {}, r"version: expected 1, got 2"),
    ({"version": True}, {}, r"version: expected 1, got True"),
    ({"version": None}, {}, r"version: expected 1, got None"),
    ({"class": "os.system"}, {}, r"class: expected one of LSTM, GRU, RNN, got 'os.system'"),
    ({"class": ["LSTM"]}, {}, r"class: expected one of"),
    ({"class": "GRU"}, {}, r"settings: unknown proj_size, peephole"),
    ({}, {"colour": 1}, r"settings: unknown colour"),
    ({}, {"hidden_size": 2**40}, r"hidden_size: sizes too large"),
    ({}, {"hidden_size": HUGE}, r"hidden_size: sizes too large"),
    (
        {},
        {"hidden_size": 10**7},
        r"weight_ih_l0: expected shape of the settings = \(40000000, 3\), got \(16, 3\)",
    ),
    ({}, {"input_size": 10**12}, r"weight_ih_l0: expected shape"),
    ({}, {"hidden_size": -4}, r"hidden_size: expected at least 1, got -4"),
    ({}, {"hidden_size": 4.0}, r"hidden_size: expected an integer"),
    ({}, {"hidden_size": "4"}, r"hidden_size: expected an integer"),
    ({}, {"num_layers": 10**15}, r"num_layers: 1000000000000000 layers in 5 tensors"),
    ({}, {"num_layers": 2}, r"tensors: missing weight_ih_l1"),
    ({}, {"bidirectional": True}, r"tensors: missing weight_ih_l0_reverse"),
    ({}, {"peephole": False}, r"tensors: unknown weight_peephole_l0"),
    ({}, {"peephole": 1}, r"peephole: expected True or False"),
    ({}, {"dropout": HUGE}, r"dropout: expected a number"),
    ({}, {"cell_clip": -1}, r"cell_clip: expected a number above 0"),
    ({}, {"cell_clip": float("nan")}, r"cell_clip: expected a number above 0"),
    ({}, {"activations": ["tanh"]}, r"activations: expected three names"),
    ({}, {"activations": [[], {}, None]}, r"activations: expected three names"),
    ({}, {"dtype": "float16"}, r"dtype: expected one of float32, float64, got 'float16'"),
    ({}, {"dtype": {"names": 1}}, r"dtype: expected one of"),
    ({}, {"dtype": "float64"}, r"weight_ih_l0: expected float64, got F32"),
]


@pytest.mark.parametrize(("changed", "settings", "message"), CHANGES)
def test_hostile_settings(changed, settings, message, tmp_path):
    layer, path = bptt.LSTM(3, 4, peephole=True, seed=0), tmp_path / "layer"
    found = {"version": 1, "class": "LSTM", "settings": layer.settings | {"dtype": "float32"} | settings}
    safetensors.save_file(layer.state_dict(), path, {"bptt": json.dumps(found | changed)})
    with pytest.raises(ValueError, match=rf"layer: {message}"):
        bptt.load(path)


def test_hostile_tensors(tmp_path):
    layer, path = bptt.LSTM(3, 4, seed=0), tmp_path / "layer"
    settings = layer.settings | {"dtype": "float32"}
    metadata = {"bptt": json.dumps({"version": 1, "class": "LSTM", "settings": settings})}
    good = layer.state_dict()
    for tensors, message in (
        ({**good, "more": good["bias_ih_l0"]}, "tensors: unknown more"),
        ({k: v for k, v in good.items() if k != "bias_hh_l0"}, "tensors: missing bias_hh_l0"),
        (
            {**good, "weight_ih_l0": good["weight_ih_l0"].T.copy()},
            r"weight_ih_l0: expected shape .*\(16, 3\)",
        ),
        (
            {**good, "weight_hh_l0": good["weight_hh_l0"].astype("f2")},
            "weight_hh_l0: expected float32, got F16",
        ),
        ({}, "num_layers: 1 layers in 0 tensors"),
    ):
        safetensors.save_file(tensors, path, metadata)
        with pytest.raises(ValueError, match=f"layer: {message}"):
            bptt.load(path)
    for metadata in (None, {"format": "pt"}):
        safetensors.save_file(good, path, metadata)
        with pytest.raises(ValueError, match=r"no entry 'bptt', so bptt\.save did not write this file"):
            bptt.load(path)


def crafted(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "empty": b"",
    "text": b"not a model of any kind",
    "shape wraps": crafted({"a": entry([4194305, 4194305, 211106198978564], 0, 4)}, bytes(4)),
    "shape too large": crafted({"a": entry([2**63, 2], 0, 4)}, bytes(4)),
    "negative": crafted({"a": entry([-1], 0, 4)}, bytes(4)),
    "reversed": crafted({"a": entry([1], 4, 0)}, bytes(4)),
    "overlapping": crafted({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6)),
    "past the end": crafted({"a": entry([100], 0, 400)}, bytes(4)),
    "more data": crafted({"a": entry([1], 0, 4)}, bytes(8)),
    "long header": crafted(b"{}", length=2**30),
    "longest header": crafted(b"{}", length=2**64 - 1),
    "not UTF-8": crafted(b'{"\xff": 1}'),
    "deep header": crafted(b"[" * 100_000),
    "unknown dtype": crafted({"a": entry([1], 0, 4, "F31")}, bytes(4)),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_files(content, tmp_path):
    path = tmp_path / "layer"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="layer: "):
        bptt.load(path)


def test_every_truncation_raises(tmp_path):
    path = tmp_path / "layer"
    bptt.save(bptt.RNN(2, 3, seed=0), path)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(ValueError, match="layer: "):
            bptt.load(path)


def test_flipped_bytes_raise_or_load(tmp_path):
    path, rng, messages = tmp_path / "layer", np.random.default_rng(0), []
    bptt.save(bptt.RNN(2, 3, seed=0), path)
    whole = path.read_bytes()
    for _ in range(500):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole) - 4 * 21)] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            assert isinstance(bptt.load(path), bptt.RNN)
        except ValueError as error:
            messages.append(str(error))
    assert len(messages) > 300
    assert all(message.startswith(str(path)) for message in messages)


def test_examples_in_docstrings_run():
    assert doctest.testmod(importlib.import_module("bptt.safetensors")).failed == 0


def test_without_the_package(tmp_path):
    code = """
import sys
sys.modules["safetensors"] = sys.modules["safetensors.numpy"] = None
import bptt
for call in (lambda: bptt.save(bptt.RNN(2, 3), "layer"), lambda: bptt.load("layer")):
    try:
        call()
    except ImportError as error:
        print(error)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], env=os.environ, cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert found.stdout.splitlines() == [
        f"bptt.{name} needs the package safetensors: pip install 'bptt[safetensors]'"
        for name in ("save", "load")
    ], found.stderr
