"""The README: its Python runs, its links lead somewhere, its commands exist."""

import re
from pathlib import Path

import pytest

from bptt.__main__ import main

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)


def test_has_python():
    assert BLOCKS


@pytest.mark.parametrize("source", BLOCKS)
def test_python_runs(source):
    exec(compile(source, str(README), "exec"), {"__name__": "readme"})


def test_links_lead_somewhere():
    targets = [target for target in re.findall(r"\]\(([^)#]+)", TEXT) if "://" not in target]
    assert targets
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_commands_exist(capsys):
    commands = set(re.findall(r"python -m bptt ([\w-]+)", TEXT))
    assert {"info", "demo"} <= commands
    for command in commands:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert "--text" in capsys.readouterr().out


def test_scripts_exist():
    paths = re.findall(r"^python (\S+\.py)", TEXT, re.M)
    assert not [path for path in paths if not (ROOT / path).is_file()]
