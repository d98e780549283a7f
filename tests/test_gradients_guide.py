"""The guide on gradients: its Python runs, its links lead somewhere, its commands and figures exist."""

import re
from pathlib import Path

import pytest

from bptt.__main__ import main

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "docs" / name for name in ("gradients.md",)]


def found(pattern, page):
    return re.findall(pattern, page.read_text(encoding="utf-8"), re.M | re.S)


BLOCKS = [(page, source) for page in PAGES for source in found(r"^```python\n(.*?)^```", page)]


@pytest.mark.parametrize(("page", "source"), BLOCKS, ids=range(len(BLOCKS)))
def test_python_runs(page, source):
    exec(compile(source, str(page), "exec"), {"__name__": "guide"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere_and_pictures_are_small(page):
    targets = [target for target in found(r"\]\(([^)#]+)", page) if "://" not in target]
    assert targets
    for target in targets:
        assert (page.parent / target).is_file(), target
        assert not target.endswith(".png") or (page.parent / target).stat().st_size < 150_000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page):
    for command in set(found(r"python -m bptt ([\w-]+)", page)):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert not [path for path in found(r"^python (\S+\.py)", page) if not (ROOT / path).is_file()]
