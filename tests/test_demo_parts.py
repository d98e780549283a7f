"""The parts of the demo: its text, its model, and the threads of NumPy's BLAS."""

import ast
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest

from bptt.demo import blas, command, text
from bptt.demo.model import CharacterModel

# Text


def test_held_out_help_pages_are_new():
    whole = text.python_reference()
    cut = len(text.corpus(whole).training)
    assert len(whole) > 200_000
    seen = {" ".join(part.split()) for part in whole[:cut].split("\n\n")}
    kept = [" ".join(part.split()) for part in whole[cut:].split("\n\n")]
    assert not seen.intersection(kept)


def test_large_file_is_cut_between_characters(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "MOST_BYTES", 301)
    path = tmp_path / "text"
    path.write_text("\N{EURO SIGN}" * 200, encoding="utf-8")
    assert text.read_text(str(path)) == "\N{EURO SIGN}" * 100


def test_vocabulary():
    many = "".join(chr(0x400 + n) * (n + 1) for n in range(200))
    vocabulary = text.corpus(many).vocabulary
    assert len(vocabulary) == text.MOST_SYMBOLS
    symbols = vocabulary.encode(many)
    rare = len(vocabulary) - 1
    assert vocabulary.decode(symbols[symbols != rare]) in many
    assert vocabulary.decode(symbols[:3]) == "\ufffd" * 3
    for points in ([], [3, 2], [1, 1], [-1, 2], [1, 0x110000], [[1, 2]]):
        with pytest.raises(ValueError, match="vocabulary: expected"):
            text.Vocabulary(np.array(points, np.int64))


@pytest.mark.parametrize(
    ("count", "steps", "rows", "offset"), [(1000, 7, 4, 3), (50, 64, 32, 0), (2, 3, 2, 0)]
)
def test_windows(count, steps, rows, offset):
    cut = list(text.windows(np.arange(count), steps, rows, offset))
    streams = np.concatenate([window[1:] for window in cut])
    assert all(len(window) <= steps + 1 for window in cut)
    for window, following in itertools.pairwise(cut):
        np.testing.assert_array_equal(window[-1], following[0])
    np.testing.assert_array_equal(np.diff(np.concatenate([cut[0][:1], streams]), axis=0), 1)
    targets = np.sort(streams, axis=None)
    assert len(np.unique(targets)) == len(targets)
    assert len(targets) > count - 1 - offset - streams.shape[1]


# The model


@pytest.mark.parametrize("cell", ["lstm", "peephole", "gru", "rnn"])
def test_gradients_are_differences(cell):
    rng = np.random.default_rng(0)
    model = CharacterModel(7, 5, 3, cell, rng)
    model.layer = model.layer.astype(np.float64)
    model.arrays = {name: array.astype(np.float64) for name, array in model.arrays.items()}
    window = rng.integers(7, size=(9, 2))
    state = rng.standard_normal((1, 2, 5))
    if cell in ("lstm", "peephole"):
        state = state, rng.standard_normal((1, 2, 5))
    gradients, slopes = model.step(window, state).gradients
    for arrays, expected in zip(model.parameters, (gradients.parameters, slopes), strict=True):
        for name, array in arrays.items():
            direction = rng.standard_normal(array.shape)
            array += 1e-6 * direction
            above, _ = model.bits(window, state)
            array -= 2e-6 * direction
            below, _ = model.bits(window, state)
            array += 1e-6 * direction
            slope = np.log(2) * (above - below) / 2e-6
            np.testing.assert_allclose(np.sum(expected[name] * direction), slope, rtol=1e-6, atol=1e-9)


def test_training_and_measuring_agree():
    rng = np.random.default_rng(0)
    model, window = CharacterModel(7, 5, 3, "lstm", rng), rng.integers(7, size=(9, 2))
    step, (bits, state) = model.step(window, None), model.bits(window, None)
    assert step.bits == pytest.approx(bits, rel=1e-6)
    np.testing.assert_array_equal(step.state, state)


# Inside


def test_one_blas_thread_is_undone(tmp_path):
    with blas.one_blas_thread() as count:
        controls = list(blas._controls(Path("/")))
        assert len(controls) == count
        assert all(get() == 1 for get, _ in controls)
    before = [get() for get, _ in controls]
    for _, put in controls:
        put(2)
    with blas.one_blas_thread():
        pass
    assert all(get() == 2 for get, _ in controls)
    for (_, put), number in zip(controls, before, strict=True):
        put(number)
    maps = tmp_path / "proc/self/maps"
    with blas.one_blas_thread(tmp_path) as count:
        assert count == 0
    maps.parent.mkdir(parents=True)
    maps.write_text("7f00-7f01 r-xp 00000000 fe:00 12  /nonexistent/libopenblas.so.0\n")
    with blas.one_blas_thread(tmp_path) as count:
        assert count == 0


def test_knows_public_names_only():
    for path in Path(command.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1, path
                assert (path.parent / f"{node.module}.py").is_file(), path
            elif isinstance(node, ast.Import | ast.ImportFrom):
                names = (
                    [node.module] if isinstance(node, ast.ImportFrom) else [item.name for item in node.names]
                )
                assert {name.partition(".")[0] for name in names} <= {
                    *sys.stdlib_module_names,
                    *("numpy", "tqdm", "bptt"),
                }
                assert not [name for name in names if name.startswith("bptt.")], path
