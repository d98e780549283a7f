"""The public names, their documentation, the backends, the command line, and the layering rule."""

import ast
import doctest
import importlib
import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import bptt

PACKAGE = Path(bptt.__file__).parent
ROOT = Path(__file__).parent.parent
MODULES = [
    "_backend",
    "_check",
    "_config",
    "_threads",
    "clip",
    "engine",
    "init",
    "layers",
    "recurrent",
    "optim",
    "parameters",
    "reference.activations",
    "reference.clips",
    "reference.draws",
    "reference.gru",
    "reference.lstm",
    "reference.rnn",
    "tape",
    "truncated",
]

# What a module may import from the package: what is below it, never above or beside. None: anything. A module
# that is not in the list is an optional door, and knows the public API only.
FOUNDATION = {
    "_course",
    "_kept",
    "_program",
    "_forward",
    "_backward",
    "_memory",
    "_check",
    "_threads",
    "_settings",
    "parameters",
    "tape",
    "_core",
    "_backend",
    "_reference_core",
    "reference",
}
PASSES = {"_check", "_course", "_kept", "_memory", "_program", "_recompute", "_threads", "parameters"}
ALLOWED = {
    "__init__": None,
    "__main__": {"bench", "demo", "flow", "_config", "_version"},
    "demo": None,
    "_version": set(),
    "_memory": {"_blocks"},
    "_check": {"_memory"},
    "_reference_core": {"reference"},
    "_backend": {"_core", "_reference_core"},
    "_threads": {"_check"},
    "_settings": {"_check"},
    "parameters": {"_check", "_memory"},
    "tape": {"_check", "_course", "_kept", "parameters"},
    "_course": {"_check", "_memory", "_program"},
    "_program": {"_check", "_memory", "_threads"},
    "_recompute": {"_course", "_kept", "_memory", "_program", "parameters"},  # the last for the types alone
    "_kept": {"_check", "_course", "_memory", "_recompute"},
    "_waves": set(),
    "_forward": {*PASSES, "_waves"},
    "_backward": PASSES,
    "engine": FOUNDATION,
    "recurrent": FOUNDATION | {"engine"},
    "layers": {"_settings", "recurrent"},
    "clip": {"_check", "parameters", "tape"},
    "optim": {"_check", "parameters", "tape"},
    "truncated": {"_check", "recurrent", "tape"},
    "init": {"_check", "layers", "parameters", "recurrent"},
    "_config": {"_backend", "_threads", "_version"},
    "_files": set(),
    "reversed": {"_check", "engine", "recurrent"},
    "safetensors": {"_check", "_files", "layers", "parameters", "recurrent"},
}

# The same inside bench, whose modules know the public API beside one another; libraries are imported by name.
BENCH = {
    "__init__": {"command"},
    "cases": set(),
    "clock": set(),
    "progress": set(),
    "contenders": {"cases"},
    "costs": {"cases", "contenders"},
    "memory": {"cases", "contenders"},
    "suites": {"cases"},
    "peer_torch": {"cases", "contenders"},
    "peer_loops": {"cases", "contenders", "peer_torch"},
    "peer_onnx": {"cases", "contenders"},
    "worker": {"cases", "clock", "contenders", "memory"},
    "contest": {"cases", "clock", "contenders", "memory"},
    "peer_autograd": {"cases", "clock", "contenders", "contest", "peer_torch"},
    "machine": set(),
    "grid": {"cases"},
    "roofline": {"cases", "machine"},
    "report": {"cases", "contest", "grid", "machine", "roofline"},
    "choice": {"cases", "clock", "contenders"},
    "growth": {"cases", "clock", "contenders", "grid", "machine", "report", "roofline"},
    "picture": {"cases", "grid", "growth", "machine", "report"},
}
BY_NAME = {
    "peer_torch": {"torch", "bptt.torch"},
    "peer_autograd": {"torch"},
    "peer_loops": {"torch"},
    "peer_onnx": {"onnx", "onnxruntime", "openvino"},
    "picture": {"matplotlib.figure", "matplotlib.ticker"},
    "progress": {"tqdm"},
}

# And inside flow.
FLOW = {
    "__init__": {"dynamics", "measure", "monitor", "saturation"},
    "norms": {"_backend", "_threads"},
    "saturation": {"layers", "recurrent", "tape"},
    "dynamics": {"_check", "layers", "parameters", "recurrent"},
    "measure": {"norms", "parameters", "pictures", "recurrent", "report", "saturation", "tape"},
    "report": {"dynamics", "layers", "measure", "saturation"},
    "monitor": {"_check", "measure", "norms", "recurrent", "tape"},
    "pictures": {"measure", "tape"},
    "story": {"clip", "dynamics", "init", "layers", "measure", "recurrent"},
    "story_picture": {"pictures", "story"},
    "command": {"dynamics", "measure", "safetensors", "story", "story_picture"},
}
BY_NAME_IN_FLOW = {
    "monitor": {"tensorboard.summary"},
    "pictures": {"matplotlib.colors", "matplotlib.figure"},
}


def imports(path):
    """Return the modules of the package, and the top-level names of others, that a file imports."""
    inside, outside = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            inside |= {node.module} if node.module else {alias.name for alias in node.names}
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            for name in names:
                top, _, rest = name.partition(".")
                if top == "bptt":
                    inside.add(rest or "__init__")
                else:
                    outside.add(top)
    return inside, outside


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_layering(path):
    inside, outside = imports(path)
    allowed = ALLOWED.get(path.stem, {"__init__"})
    assert allowed is None or inside <= allowed
    doors = {path.stem} if path.stem not in ALLOWED or path.stem == "safetensors" else set()
    assert outside <= set(sys.stdlib_module_names) | {"numpy"} | doors


@pytest.mark.parametrize("path", sorted((PACKAGE / "reference").glob("*.py")), ids=lambda path: path.stem)
def test_layering_of_the_reference(path):
    """It knows NumPy only, and no cell knows another."""
    inside, outside = imports(path)
    cells = {"gru", "lstm", "rnn"}
    assert inside <= {"activations", "arrays", "clips", "draws"} | (
        cells if path.stem == "__init__" else set()
    )
    assert outside <= {"collections", "typing", "numpy"}


# The same inside bptt.torch, whose modules bring parameters of their own to what is below the layers.
DOOR = {"_backend", "_backward", "_check", "_course", "_forward", "_kept", "_memory", "_program", "layers"}
DOOR |= {"parameters"}
TORCH = {
    "__init__": {"modules", "swap"},
    "plan": DOOR,
    "arrays": DOOR | {"plan"},
    "operators": DOOR | {"arrays", "plan"},
    "run": {"arrays", "operators"},
    "modules": DOOR | {"arrays", "plan", "run"},
    "swap": {"modules", "plan"},
}


@pytest.mark.parametrize("path", sorted((PACKAGE / "torch").glob("*.py")), ids=lambda path: path.stem)
def test_layering_of_torch(path):
    inside, outside = imports(path)
    assert inside <= TORCH[path.stem]
    assert outside <= set(sys.stdlib_module_names) | {"numpy", "torch"}


@pytest.mark.parametrize("path", sorted((PACKAGE / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_layering_of_bench(path):
    inside, outside = imports(path)
    assert inside <= BENCH.get(path.stem, BENCH.keys()) | {"__init__"}  # the command knows them all
    assert outside <= set(sys.stdlib_module_names) | {"numpy"}
    named = set(re.findall(r'import_module\("([\w.]+)"\)', path.read_text()))
    assert named <= BY_NAME.get(path.stem, set())


@pytest.mark.parametrize("path", sorted((PACKAGE / "flow").glob("*.py")), ids=lambda path: path.stem)
def test_layering_of_flow(path):
    inside, outside = imports(path)
    assert inside <= FLOW[path.stem]
    assert outside <= set(sys.stdlib_module_names) | {"numpy"}
    named = set(re.findall(r'import_module\("([\w.]+)"\)', path.read_text()))
    assert named <= BY_NAME_IN_FLOW.get(path.stem, set())


DOORS = {
    "onnx": ({"LSTM", "GRU", "RNN", "Reversed", "__version__"}, {"onnx", "google"}),
    "keras": ({"LSTM", "GRU", "RNN", "Reversed"}, set()),
}


@pytest.mark.parametrize("door", DOORS)
def test_layering_of_doors(door):
    """They know the public API, the checks and themselves, and import their own library only."""
    api, library = DOORS[door]
    paths = sorted((PACKAGE / door).glob("*.py"))
    assert paths
    for path in paths:
        inside, outside = imports(path)
        own = {other.stem for other in paths}
        assert inside <= api | own | {"_check", "_files", "recurrent"}, path
        assert outside <= set(sys.stdlib_module_names) | {"numpy"} | library, path


def test_c_knows_no_python():
    folder = ROOT / "csrc"
    if not folder.is_dir():
        pytest.skip("the C sources are not beside the tests")
    sources = [path for path in folder.rglob("*") if path.suffix in (".c", ".h")]
    assert sources
    for path in sources:
        headers = re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)', path.read_text(), re.M)
        assert not [name for name in headers if re.search(r"python|numpy|cython", name, re.I)], path


def test_public_names():
    for name in (
        *("LSTM", "Engine", "Stream", "Tape", "Gradients", "Parameters", "optim", "reference"),
        *("TruncatedBPTT",),
        *("clip_grad_norm_", "clip_grad_value_", "set_num_threads", "get_num_threads", "num_threads"),
        *("variants", "active_variant", "use_variant", "backend", "config", "show_config"),
    ):
        assert name in bptt.__all__
        assert hasattr(bptt, name)
    assert callable(bptt.config)
    assert (PACKAGE / "py.typed").is_file()


def test_signature_is_that_of_torch():
    torch = pytest.importorskip("torch")
    ours, theirs = bptt.LSTM(3, 4), torch.nn.LSTM(3, 4)
    parameters = inspect.signature(bptt.LSTM).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    expected = "input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size"
    assert ", ".join(positional) == expected
    for name in positional:
        assert getattr(ours, name) == getattr(theirs, name)


def test_version_is_that_of_the_distribution():
    try:
        version = importlib.metadata.version("bptt")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("bptt runs from its sources")
    assert bptt.__version__ == version


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name):
    result = doctest.testmod(importlib.import_module(f"bptt.{name}"), extraglobs={"np": np})
    assert result.failed == 0


def test_public_things_have_docstrings_with_examples():
    for name in bptt.__all__:
        thing = getattr(bptt, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert ">>>" in (thing.__doc__ or ""), name


def run(code, *, warnings="error", timeout=120, **environment):
    """Run Python code in a process of its own; return what it prints."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BPTT_")}
    result = subprocess.run(
        [sys.executable, "-W", warnings, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_backends():
    with pytest.raises(ValueError, match=r"^name: expected one of native, reference, got 'gpu'"):
        bptt.backend("gpu")
    before = bptt.active_variant()
    with bptt.backend("reference"):
        assert bptt.active_variant() == bptt.config()["active_variant"] == "reference"
        assert bptt.config()["backend"] == "reference"
    assert bptt.active_variant() == before
    code = (
        "import bptt, numpy as np; bptt.LSTM(2, 3)(np.ones((1, 1, 2), 'f')); print(bptt.config()['backend'])"
    )
    assert run(code, BPTT_BACKEND="reference") == "reference"
    code = "import bptt\ntry: bptt.config()\nexcept ValueError as error: print(error)"
    assert run(code, BPTT_BACKEND="gpu") == "BPTT_BACKEND: expected one of native, reference, got 'gpu'"


def test_without_the_compiled_core_the_reference_serves_with_one_warning():
    code = """
import sys, warnings
sys.modules["bptt._core"] = None  # as if it had not been built
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import bptt, numpy as np
    assert not caught
    layer, x = bptt.LSTM(2, 3, seed=0), np.ones((4, 1, 2), "f")
    output, _ = layer(x)
    with bptt.backend("native"):
        layer.freeze()(x)
    layer.backward(layer.forward(x))
assert [w.category for w in caught] == [RuntimeWarning], caught
assert bptt.variants() == () and bptt.active_variant() == "reference"
with bptt.backend("reference"):
    assert np.array_equal(layer(x)[0], output)
try:
    bptt.use_variant("avx2")
except ValueError as error:
    print(error)
"""
    assert "compiled core is not available" in run(code)


def test_variants_are_names(backend):
    if backend == "native":
        assert bptt.active_variant() in bptt.variants()
        bptt.use_variant(bptt.active_variant())
    with pytest.raises(ValueError, match=r"nonsense"):
        bptt.use_variant("nonsense")
    with pytest.raises(TypeError, match=r"^name: "):
        bptt.use_variant(3)


def test_importing_leaves_the_process_alone():
    code = """
import os, random, signal, sys, threading, warnings
import numpy as np
def state():
    handlers = [signal.getsignal(number) for number in signal.valid_signals()]
    return dict(os.environ), handlers, random.getstate(), threading.active_count(), np.geterr()
before, filters = state(), list(warnings.filters)
import bptt
assert before == state() and filters == warnings.filters
print(sorted({"torch", "onnx", "matplotlib", "safetensors", "keras", "h5py", "tqdm"} & set(sys.modules)))
"""
    assert run(code) == "[]"


def test_config_and_info(capsys):
    config = bptt.config()
    assert config["version"] == bptt.__version__
    assert config["threads"] == bptt.get_num_threads()
    assert config["threads_reason"]
    bptt.show_config()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["version", bptt.__version__]
    assert any(line.startswith("threads_reason") for line in lines)


def command(*arguments, **environment):
    environment = os.environ | {"PYTHONWARNINGS": "ignore"} | environment
    return subprocess.run(
        [sys.executable, "-m", "bptt", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_command_line():
    info = command("info")
    assert info.returncode == 0, info.stderr
    assert f"version           {bptt.__version__}" in info.stdout
    wrong = command("info", BPTT_BACKEND="gpu")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr == "bptt: BPTT_BACKEND: expected one of native, reference, got 'gpu'\n"
    assert command("--version").stdout.strip() == f"bptt {bptt.__version__}"
    for arguments in (
        ["--help"],
        ["info", "--help"],
        ["demo", "--help"],
        ["bench", "--help"],
        ["gradient-flow", "--help"],
    ):
        shown = command(*arguments)
        assert shown.returncode == 0
        assert "usage: bptt" in shown.stdout
    for arguments in ([], ["nonsense"], ["info", "--nonsense"]):
        assert command(*arguments).returncode == 2


@pytest.mark.parametrize("door", ["keras", "onnx", "ray", "sklearn", "torch"])
def test_doors_open_at_first_use(door):
    pytest.importorskip({"keras": "h5py", "ray": "numpy"}.get(door, door))
    code = f"import sys, bptt; assert 'bptt.{door}' not in sys.modules; print(bptt.{door}.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [f"bptt.{door}"]
