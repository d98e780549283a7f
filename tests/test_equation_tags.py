"""docs/math.md, the specification in NumPy and the C kernels carry the same equation tags."""

import io
import re
import tokenize
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TAG = re.compile(r"\(([A-Z]\d+)\)")
C_COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)
MATH_BLOCK = re.compile(r"^```math\n(.*?)^```", re.DOTALL | re.MULTILINE)


def defined_tags():
    """Tags at the equations of docs/math.md, in order, with repetitions."""
    text = (ROOT / "docs" / "math.md").read_text(encoding="utf-8")
    return TAG.findall("".join(MATH_BLOCK.findall(text)))


def reference_tags():
    """Tags in the comments of the specification, with repetitions."""
    tags = []
    for path in sorted((ROOT / "src" / "bptt" / "reference").glob("*.py")):
        tokens = tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
        tags += TAG.findall("".join(token.string for token in tokens if token.type == tokenize.COMMENT))
    return tags


def c_tags():
    """Tags in the comments of all C sources."""
    sources = [path for path in sorted((ROOT / "csrc").rglob("*")) if path.suffix in {".c", ".h"}]
    assert sources, "no C sources"
    comments = (C_COMMENT.findall(path.read_text(encoding="utf-8")) for path in sources)
    return {tag for found in comments for tag in TAG.findall("".join(found))}


def by_number(tags):
    return sorted(tags, key=lambda tag: (tag[0], int(tag[1:])))


def test_each_equation_has_one_tag_and_they_are_numbered_through():
    tags = defined_tags()
    assert tags, "no equations"
    for letter in {tag[0] for tag in tags}:
        numbers = [int(tag[1:]) for tag in tags if tag[0] == letter]
        assert numbers == list(range(1, len(numbers) + 1))


def test_the_text_mentions_only_equations_that_exist():
    text = (ROOT / "docs" / "math.md").read_text(encoding="utf-8")
    assert by_number(set(TAG.findall(text)) - set(defined_tags())) == []


def test_reference_has_one_line_for_each_equation():
    assert by_number(reference_tags()) == by_number(defined_tags())


def test_c_sources_have_the_same_tags():
    assert by_number(c_tags()) == by_number(set(defined_tags()))
