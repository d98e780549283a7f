"""The guide pages: their Python runs, one page as one program; links lead somewhere, commands exist."""

import os
import re
from pathlib import Path

import pytest

from bptt.__main__ import main

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs"
PAGES = sorted(FOLDER.glob("*.md"))
NEEDS = {
    "gradients": [],
    "saving": ["safetensors", "torch"],
    "onnx": ["onnx", "onnxruntime"],
    "keras": ["h5py", "torch", "keras"],
    "ray": ["safetensors"],
    "sklearn": ["sklearn"],
}
ALONE = {"gradients"}  # each block of these is a program of its own


def found(pattern, page):
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("page", NEEDS)
def test_python_runs(page, tmp_path, monkeypatch):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    for package in NEEDS[page]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    path = FOLDER / f"{page}.md"
    blocks = found(r"^```python\n(.*?)^```", path)
    assert blocks
    names = {"__name__": page}
    for source in blocks:
        exec(compile(source, str(path), "exec"), {"__name__": page} if page in ALONE else names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#]+)", text):
        assert "://" in target or (FOLDER / target).is_file(), target


def test_pictures_of_the_gradients_are_small():
    pictures = found(r"\]\(([^)#]+\.png)", FOLDER / "gradients.md")
    assert pictures
    assert all((FOLDER / picture).stat().st_size < 150_000 for picture in pictures)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page):
    for command in set(found(r"python -m bptt ([\w-]+)", page)):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert not [path for path in found(r"^python (\S+\.py)", page) if not (ROOT / path).is_file()]
