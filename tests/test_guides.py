"""The guide pages: their Python runs, one page as one program."""

import os
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs"
NEEDS = {
    "saving": ["safetensors", "torch"],
    "onnx": ["onnx", "onnxruntime"],
    "keras": ["h5py", "torch", "keras"],
    "ray": ["safetensors"],
    "sklearn": ["sklearn"],
}


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
@pytest.mark.parametrize("page", NEEDS)
def test_python_runs(page, tmp_path, monkeypatch):
    os.environ.setdefault("KERAS_BACKEND", "torch")
    for package in NEEDS[page]:
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    path = FOLDER / f"{page}.md"
    blocks = re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    names = {"__name__": page}
    for source in blocks:
        exec(compile(source, str(path), "exec"), names)
