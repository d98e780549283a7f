"""The demo as a command, in this process and in others."""

import os
import re
import signal
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import bptt
from bptt.__main__ import main
from bptt.demo import command, text
from bptt.demo.model import CharacterModel

SENTENCE = "the quick brown fox jumps over the lazy dog. "
COMPARE = command._compare
SMALL = ["--hidden", "16", "--steps", "20"]
BITS = re.compile(r"(\d+\.\d\d) bits")


@pytest.fixture(autouse=True)
def _no_comparison(monkeypatch):
    """Leave out the comparison with NumPy, which takes its time and has a test of its own."""
    monkeypatch.setattr(command, "_compare", lambda *arguments: None)


@pytest.fixture(autouse=True)
def _one_thread():
    """Let a busy machine not matter."""
    with bptt.num_threads(1):
        yield


@pytest.fixture
def sentences(tmp_path):
    """Return the name of a file that is quick to learn."""
    path = tmp_path / "sentences.txt"
    path.write_text(SENTENCE * 200)
    return str(path)


@pytest.fixture
def demo(capsys):
    """Return a function that runs the command here and returns its status, its output and its errors."""

    def run(*arguments):
        status = main(["demo", *map(str, arguments)])
        shown = capsys.readouterr()
        return status, shown.out, shown.err

    return run


def numbers(output):
    """Return what does not depend on the clock: the losses, and the sample."""
    return BITS.findall(output), output.partition("Sample:\n")[2]


# The command


def test_learns_the_help_pages(demo):
    status, output, errors = demo("--hidden", 32, "--steps", 60)
    bits = [float(value) for value in BITS.findall(output)]
    assert (status, errors) == (0, "")
    assert len(bits) == command.REPORTS + 1  # one before the first step, one after the last
    assert abs(bits[0] - np.log2(96)) < 0.5
    assert bits[-1] < bits[0] - 1.5
    assert re.search(r"at \d+ characters per second", output)
    assert len(output.partition("Sample:\n")[2].split()) > 5


def test_compares_with_numpy(demo, sentences, monkeypatch):
    monkeypatch.setattr(command, "_compare", COMPARE)
    monkeypatch.setattr(command, "MEASURE", 0.0)
    status, output, _ = demo("--text", sentences, *SMALL)
    assert status == 0
    if bptt.active_variant() != "reference":
        assert re.search(r"Step:  \d+\.\d ms forward and backward over 32 x 64 characters", output)
        assert re.search(r"bptt is \d+\.\d times as fast", output)
        assert float(re.search(r"gradients differ by (\S+)", output)[1]) < 1e-5


def test_same_seed_same_numbers(demo, sentences):
    runs = [
        numbers(demo("--text", sentences, *SMALL, "--seed", seed, *more)[1])
        for seed, more in (
            (1, ()),
            (1, ("--cell", "lstm")),
            (2, ()),
            (1, ("--cell", "peephole")),
            (1, ("--cell", "gru")),
            (1, ("--cell", "rnn")),
        )
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]
    assert runs[0] != runs[3]


def test_numbers_do_not_depend_on_threads(demo, sentences):
    one = numbers(demo("--text", sentences, *SMALL)[1])
    with bptt.num_threads(2):
        assert numbers(demo("--text", sentences, *SMALL)[1]) == one


def test_reference_serves(demo, sentences):
    expected, _ = numbers(demo("--text", sentences, *SMALL)[1])
    with bptt.backend("reference"):
        status, output, _ = demo("--text", sentences, *SMALL)
    assert status == 0
    assert "--steps 200 --hidden 64" in output
    assert "times as fast" not in output
    got, _ = numbers(output)
    np.testing.assert_allclose(np.array(got, float), np.array(expected, float), atol=0.011)


def test_time_limit(demo, sentences):
    status, output, _ = demo("--text", sentences, "--hidden", 16, "--steps", 10**6, "--seconds", 0.05)
    assert status == 0
    assert "Time is up at step" in output


def test_save_and_load(demo, sentences, tmp_path):
    saved = tmp_path / "model"
    status, output, _ = demo("--text", sentences, *SMALL, "--cell", "peephole", "--save", saved)
    assert status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "sentences.txt"]
    with np.load(saved) as file:
        shapes = {name: file[name].shape for name in file.files}
        assert "".join(map(chr, file["vocabulary"])) == "".join(sorted(set(SENTENCE)))
    V, E, H = len(set(SENTENCE)) + 1, command.EMBEDDING, 16
    assert shapes == {
        "vocabulary": (V - 1,),
        "embedding": (V, E),
        "output_weight": (V, H),
        "output_bias": (V,),
        "peephole.weight_ih_l0": (4 * H, E),
        "peephole.weight_hh_l0": (4 * H, H),
        "peephole.bias_ih_l0": (4 * H,),
        "peephole.bias_hh_l0": (4 * H,),
        "peephole.weight_peephole_l0": (3, H),
    }
    status, again, _ = demo("--text", sentences, "--load", saved)
    assert status == 0
    assert BITS.findall(again) == BITS.findall(output)[-1:]
    assert "Sample:" in again
    status, longer, _ = demo("--text", sentences, "--load", saved, "--steps", 20)
    losses = [float(value) for value in BITS.findall(longer)]
    assert losses[0] == float(BITS.findall(output)[-1])
    assert losses[-1] < losses[0]


def test_save_goes_through_a_link(demo, sentences, tmp_path):
    target, link = tmp_path / "target.npz", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    assert demo("--text", sentences, *SMALL, "--save", link)[0] == 0
    assert link.is_symlink()
    assert len(np.load(target).files) == 8


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "at least 100 characters, got 0"),
        (b"short", "at least 100 characters, got 5"),
        (b"\x7fELF\x02\x00\xff\xfe" * 50, r"not UTF-8 text \(byte 0xff at position 6\)"),
        (b"abc" * 100 + "\N{EURO SIGN}".encode()[:2], "not UTF-8 text"),
    ],
    ids=["missing", "empty", "short", "binary", "cut"],
)
def test_text_errors(demo, tmp_path, content, message):
    path = tmp_path / "text"
    if content is not None:
        path.write_bytes(content)
    status, output, errors = demo("--text", path)
    assert (status, output) == (2, "")
    assert re.fullmatch(rf"bptt demo: error: --text \S+: .*{message}.*\n", errors)


def test_text_is_a_folder(demo, tmp_path):
    status, _, errors = demo("--text", tmp_path)
    assert status == 2
    assert "Is a directory" in errors


@pytest.mark.parametrize(
    "content",
    [
        "x" * 100,
        "ab" * 300,
        "\n" * 5000,
        "".join(map(chr, range(0x4E00, 0x4E00 + 3000))),
        "\ufeff\x00\x1b[31m\r\n\N{GRINNING FACE}" * 200,
        SENTENCE * 3,
    ],
    ids=["one symbol", "two symbols", "newlines", "all rare", "controls", "small"],
)
def test_odd_texts(demo, tmp_path, content):
    path = tmp_path / "text"
    path.write_text(content, encoding="utf-8")
    status, output, errors = demo("--text", path, "--steps", 3, "--hidden", 5)
    assert (status, errors) == (0, "")
    assert len(BITS.findall(output)) == 4
    assert "nan" not in output
    assert "\x1b" not in output


def test_python_without_its_help_pages(demo, monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    status, _, errors = demo()
    assert status == 2
    assert "--text FILE" in errors


@pytest.mark.parametrize("change", ["no file", "not npz", "missing", "shape", "infinite", "vocabulary"])
def test_load_errors(demo, sentences, tmp_path, change):
    path = tmp_path / "model.npz"
    model = CharacterModel(4, 5, 3, "lstm", np.random.default_rng(0))
    model.save(str(path), text.Vocabulary(np.array([97, 98, 99])))
    arrays = dict(np.load(path))
    if change == "no file":
        path.unlink()
    elif change == "not npz":
        path.write_bytes(b"PK\x03\x04 nothing")
    else:
        if change == "missing":
            del arrays["output_bias"]
        elif change == "shape":
            arrays["output_bias"] = np.zeros(1, np.float32)
        elif change == "infinite":
            arrays["embedding"][0, 0] = np.inf
        else:
            arrays["vocabulary"] = np.array([3, 2, 1])
        np.savez(path, **arrays)
    status, output, errors = demo("--text", sentences, "--load", path)
    assert (status, output) == (2, "")
    assert errors.startswith(f"bptt demo: error: --load {path}: ")


# Arguments


@pytest.mark.parametrize(
    "arguments",
    [["--steps", "0"], ["--hidden", "many"], ["--seed", "-1"], ["--seconds", "0"], ["--cell", "other"]],
    ids=" ".join,
)
def test_argument_errors(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(["demo", *arguments])
    assert stop.value.code == 2
    assert f"argument {arguments[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize("hidden", [10**8, 10**12])
def test_too_many_units(demo, sentences, hidden):
    status, _, errors = demo("--text", sentences, "--hidden", hidden)
    assert status == 2
    assert "--hidden" in errors


@pytest.mark.parametrize("name", ["/nonexistent/model.npz", "/", os.devnull])
def test_cannot_save(demo, sentences, name):
    status, output, errors = demo("--text", sentences, *SMALL, "--save", name)
    assert (status, output) == (2, "")
    assert "--save" in errors
    assert Path(os.devnull).is_char_device()


def test_load_decides_the_sizes(demo, sentences):
    status, _, errors = demo("--text", sentences, "--load", "model.npz", "--hidden", 5)
    assert status == 2
    assert "--load: the saved model decides" in errors


# The terminal


def test_without_tqdm(demo, sentences, monkeypatch):
    expected = numbers(demo("--text", sentences, *SMALL)[1])
    monkeypatch.setitem(sys.modules, "tqdm", None)
    status, output, errors = demo("--text", sentences, *SMALL)
    assert (status, errors) == (0, "")
    assert numbers(output) == expected
    assert len([line for line in output.splitlines() if BITS.search(line)]) == 11


def test_bar(demo, sentences, monkeypatch):
    bars = []

    class Tqdm:
        def __init__(self, total, disable, **options):
            bars.append(self)
            self.total, self.disable, self.done, self.closed = total, disable, 0, False

        def set_postfix_str(self, shown, refresh):
            assert BITS.fullmatch(shown)

        def update(self):
            self.done += 1

        def write(self, line):
            print("above the bar:", line)

        def close(self):
            self.closed = True

    module = types.ModuleType("tqdm")
    module.tqdm = Tqdm
    monkeypatch.setitem(sys.modules, "tqdm", module)
    _, output, _ = demo("--text", sentences, *SMALL)
    assert output.count("above the bar: step") == 10
    (bar,) = bars
    assert (bar.total, bar.done, bar.closed, bar.disable) == (20, 20, True, None)


def process(*arguments, before="", **environment):
    """Start the command in another process, with a statement before it; Ctrl-C reaches it also from a job."""
    code = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"{before}\nfrom bptt.demo import command; command._compare = lambda *arguments: None\n"
        "from bptt.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code, "demo", *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def test_ascii_output_without_tqdm(tmp_path):
    path = tmp_path / "text"
    path.write_text("\N{GREEK SMALL LETTER ALPHA}\N{EURO SIGN} " * 200, encoding="utf-8")
    child = process(
        *("--text", path, *SMALL),
        before="sys.modules['tqdm'] = None",
        PYTHONIOENCODING="ascii",
        PYTHONUTF8="0",
    )
    output, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (0, "")
    assert output.isascii()
    assert "? " in output.partition("Sample:\n")[2]


def test_interrupt(sentences, tmp_path):
    saved = tmp_path / "model.npz"
    child = process("--text", sentences, "--hidden", 16, "--steps", 10**7, "--save", saved)
    for line in child.stdout:
        if line.startswith("step"):
            break
    child.send_signal(signal.SIGINT)
    rest, errors = child.communicate(timeout=60)
    assert (child.returncode, errors) == (130, "")
    assert re.search(r"^Interrupted at step \d+ of 10000000\.$", rest, re.M)
    assert re.search(r"^Held out: \d+\.\d\d bits", rest, re.M)
    assert "Sample:" in rest
    assert saved.is_file()


def test_reader_goes_away(sentences):
    child = process("--text", sentences, "--hidden", 16, "--steps", 200)
    with child:
        child.stdout.readline()
        child.stdout.close()
        errors = child.stderr.read()
    assert (child.returncode, errors) == (141, "")
