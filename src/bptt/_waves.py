"""A stack of layers over pieces of time: a layer runs a piece while the one below is at the next.

So a stack needs room for two pieces between layers, not for the sequence, and where a single layer has no use
for a second thread two layers run side by side.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Pieces", "order", "pieces_of"]

PIECE_BYTES = 2_000_000  # of a layer's output: stays near the cores
FEW_ROWS = 2  # with more, threads that split rows are busy enough
WEIGHT_BYTES = 1_000_000  # of a layer that one core keeps in its L2
PIECE_FLOPS = 1.6e7  # least of a piece beside another: 0.1 ms and more, little of it for making calls
PIECES = 16  # are enough: the first and the last run alone


class Pieces(NamedTuple):
    """Where the pieces of a sequence begin and end, and whether two layers run side by side."""

    spans: list[tuple[int, int]]
    beside: bool


def pieces_of(
    T: int, B: int, row_bytes: int, weight_bytes: int, flops: float, threads: int, keeps: bool
) -> Pieces:
    """Return the pieces of a sequence: one where more have no use.

    Parameters
    ----------
    T, B : int
    row_bytes : int
        Of a layer's output, one row and step.
    weight_bytes : int
        Of a layer.
    flops : float
        Of a layer in one row and step.
    threads : int
        Of a call. From four on each layer has use for all.
    keeps : bool
        Whether outputs between layers are kept anyhow.
    """
    steps = max(1, T)
    if not keeps and T * B * row_bytes > 2 * PIECE_BYTES:
        steps = max(1, PIECE_BYTES // (B * row_bytes))
    beside = 2 <= threads <= 3 and 1 <= B <= FEW_ROWS and weight_bytes <= WEIGHT_BYTES
    if beside:
        least = int(PIECE_FLOPS / (B * flops)) + 1
        steps = min(steps, -(-T // max(1, min(PIECES, T // least))))
    return Pieces([(begin, min(begin + steps, T)) for begin in range(0, T, max(1, steps))], beside)


def order(layers: int, pieces: Pieces) -> Iterator[list[tuple[int, int]]]:
    """Yield (layer, piece) of one or two at a time: each after the layer below and the piece before."""
    count, beside = len(pieces.spans), 1 + pieces.beside
    for wave in range(layers + count - 1):
        ready = [(n, wave - n) for n in range(layers) if 0 <= wave - n < count]
        for first in range(0, len(ready), beside):
            yield ready[first : first + beside]
