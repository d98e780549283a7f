"""The counter-based generator: what a seed drops and zones out, without a state and without an order.

A number depends on the seed, the kind of draw, the step, the row and the unit alone, so that any part of a
sequence can be drawn again, by any thread, at any time. All arithmetic is modulo 2^64 or 2^32.
"""

import numpy as np

from .arrays import Array

__all__ = ["RECURRENT_DROPOUT", "ZONEOUT_CELL", "ZONEOUT_HIDDEN", "hits", "key"]

RECURRENT_DROPOUT, ZONEOUT_CELL, ZONEOUT_HIDDEN = 1, 2, 3  # kinds of draws


def _splitmix(z: int) -> int:
    """One step of SplitMix64 (Steele, Lea and Flood 2014) from the state z."""
    z = (z + 0x9E3779B97F4A7C15) % 2**64  # (D1)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % 2**64  # (D2)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64  # (D3)
    return z ^ (z >> 31)  # (D4)


def key(seed: int, kind: int, t: int) -> int:
    """Return the key of all draws of a kind at step t, 0 to 2^64 - 1."""
    return _splitmix(_splitmix((seed + kind) % 2**64) ^ t)  # (D5)


def hits(seed: int, kind: int, t: int, B: int, width: int, p: float) -> Array:
    """Return which units of which rows a draw with probability `p` hits.

    Parameters
    ----------
    seed : int
        0 to 2^64 - 1.
    kind : int
        1 for recurrent dropout (`t` is 0 then), 2 and 3 for zoneout of c and of h.
    t : int
        Step, counted from the beginning of the sequence.
    B, width : int
        Rows, and units of each.
    p : float
        In [0, 1].

    Returns
    -------
    ndarray of bool, (B, width)

    Examples
    --------
    >>> hits(7, 2, 0, 2, 4, 0.5).astype(int)
    array([[0, 1, 1, 0],
           [0, 1, 0, 0]])
    """
    low, high = np.uint32(key(seed, kind, t) % 2**32), np.uint32(key(seed, kind, t) >> 32)
    n = np.arange(B * width, dtype=np.uint64).astype(np.uint32)  # row after row
    x: Array = (n ^ low) * np.uint32(0x9E3779B1)  # (D6)
    x = (x ^ (x >> 15)) + high  # (D7)
    x = x * np.uint32(0x85EBCA77)  # (D8)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE3D)  # (D9)
    x = x ^ (x >> 16)  # (D10)
    return (x < int(p * 2**32)).reshape(B, width)  # (D11)
