"""The text of the demo: where it comes from, its symbols, and the parallel streams that training reads."""

from __future__ import annotations

import codecs
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Corpus", "Vocabulary", "corpus", "python_reference", "read_text", "windows"]

MOST_BYTES = 32 << 20  # of a file; far more than a minute of training reads
FEWEST_CHARACTERS = 100
MOST_SYMBOLS = 96
PLAIN = {0x2018: "'", 0x2019: "'", 0x201C: '"', 0x201D: '"', 0x2013: "-", 0x2014: "-", 0x2026: "..."}
RARE = 0xFFFD  # code point that stands for every character outside of the vocabulary
HELD_OUT = 0.1  # part of the text, at its end, that training never sees
MOST_HELD_OUT = 1 << 16  # characters, so that measuring stays short


class Vocabulary:
    """The characters that have a symbol of their own, and one symbol for all others.

    Parameters
    ----------
    points : ndarray of int, (V - 1,)
        Code points in ascending order, at least one; symbol V - 1 stands for every other character.

    Raises
    ------
    ValueError
        If they are not that.
    """

    def __init__(self, points: NDArray[Any]) -> None:
        self.points: NDArray[np.int64] = points.astype(np.int64)
        ascending = points.ndim == 1 and points.size and (np.diff(self.points) > 0).all()
        if not ascending or self.points[0] < 0 or self.points[-1] > sys.maxunicode:
            raise ValueError("vocabulary: expected different code points in ascending order")

    def __len__(self) -> int:
        return len(self.points) + 1

    def encode(self, text: str) -> NDArray[np.int64]:
        """Return one symbol, 0 .. V - 1, for each character."""
        points = _points(text)
        places = np.searchsorted(self.points, points)
        known = self.points[np.minimum(places, len(self.points) - 1)] == points
        return np.where(known, places, len(self.points))

    def decode(self, symbols: NDArray[np.int64]) -> str:
        """Return the characters of symbols, U+FFFD for a rare one."""
        return "".join(map(chr, np.append(self.points, RARE)[symbols]))


class Corpus(NamedTuple):
    """A text in symbols, cut into what is trained on and what is held out."""

    vocabulary: Vocabulary
    training: NDArray[np.int64]
    held_out: NDArray[np.int64]


def python_reference() -> str:
    """Return the English text that comes with Python itself: the reference pages of ``help()``.

    The pages overlap, so a paragraph is taken where it first stands only: none that is held out was seen in
    training.

    Raises
    ------
    OSError
        If this Python came without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise OSError(f"this Python has no pydoc_data ({error}); give a text with --text FILE") from None
    paragraphs: dict[str, str] = {}
    for name in sorted(topics):
        plain = topics[name].translate(PLAIN)
        plain = re.sub(r"^([*=\-~^])\1+$", "", plain, flags=re.M)  # the lines under headings
        for paragraph in re.split(r"\n\s*\n", plain):
            paragraphs.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    return "\n\n".join(text for key, text in paragraphs.items() if key) + "\n"


def read_text(path: str) -> str:
    """Return the text of a UTF-8 file, its first 32 MiB if it is larger.

    Raises
    ------
    OSError
        If the file cannot be read.
    ValueError
        If it is not UTF-8.
    """
    with Path(path).open("rb") as file:
        data = file.read(MOST_BYTES)
        decoder = codecs.getincrementaldecoder("utf-8-sig")()
        try:
            text = decoder.decode(data, final=not file.read(1))
        except UnicodeDecodeError as error:
            bad = f"byte 0x{error.object[error.start]:02x} at position {error.start}"
            raise ValueError(f"not UTF-8 text ({bad})") from None
    return text.replace("\r\n", "\n")


def corpus(text: str, vocabulary: Vocabulary | None = None) -> Corpus:
    """Cut a text into training and held-out symbols.

    Parameters
    ----------
    text : str
        At least 100 characters.
    vocabulary : Vocabulary, optional
        By default the most frequent characters of the training part.

    Raises
    ------
    ValueError
        If the text is too short.
    """
    if len(text) < FEWEST_CHARACTERS:
        raise ValueError(f"expected at least {FEWEST_CHARACTERS} characters, got {len(text)}")
    cut = len(text) - min(int(len(text) * HELD_OUT), MOST_HELD_OUT)
    vocabulary = vocabulary or _frequent(text[:cut])
    symbols = vocabulary.encode(text)
    return Corpus(vocabulary, symbols[:cut], symbols[cut:])


def windows(
    symbols: NDArray[np.int64], steps: int, rows: int, offset: int = 0
) -> Iterator[NDArray[np.int64]]:
    """Cut symbols into parallel streams and yield these window by window.

    Parameters
    ----------
    symbols : ndarray, (n,)
        At least two of them.
    steps, rows : int
        T and B, the most that a window has; a short text gives fewer.
    offset : int
        How many symbols to leave out in front, less than (n - 1) / B.

    Yields
    ------
    ndarray, (T + 1, B)
        Inputs are rows 0 .. T-1 and targets rows 1 .. T; the next window goes on with row T.
    """
    rows = max(1, min(rows, (len(symbols) - 1) // (2 * steps)))
    length = (len(symbols) - offset - 1) // rows
    columns = offset + np.arange(rows) * length
    for start in range(0, length, steps):
        count = min(steps, length - start)
        yield symbols[columns + np.arange(start, start + count + 1)[:, None]]


def _points(text: str) -> NDArray[np.int64]:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4").astype(np.int64)


def _frequent(text: str) -> Vocabulary:
    points, counts = np.unique(_points(text), return_counts=True)
    order = np.argsort(-counts, kind="stable")[: MOST_SYMBOLS - 1]
    return Vocabulary(np.sort(points[order]))
