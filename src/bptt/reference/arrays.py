"""What all cells do with their arrays: the check of shapes, rows that run, beginnings, biases."""

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "anew", "bias", "one_bias", "sizes_and_dtype", "valid"]

Array: TypeAlias = NDArray[Any]


def valid(lengths: Array | None, t: int, B: int) -> Array:
    """Which rows have a step t, (B, 1)."""
    return np.ones((B, 1), bool) if lengths is None else (t < lengths)[:, None]


def anew(resets: Array | None, t: int, state: Array) -> Array:
    """State (B, H), or its gradient, that crosses from t-1 to t: zero where a row starts anew at t."""
    return state if resets is None else np.where(resets[t][:, None], 0, state)


def bias(weights: Mapping[str, Array], size: int, dtype: np.dtype[Any]) -> Array:
    """Sum of the biases that there are, (size,)."""
    return one_bias(weights, "bias_ih", size, dtype) + one_bias(weights, "bias_hh", size, dtype)


def one_bias(weights: Mapping[str, Array], name: str, size: int, dtype: np.dtype[Any]) -> Array:
    """One of the biases, zeros if there is none, (size,)."""
    return weights.get(name, np.zeros(size, dtype))


def sizes_and_dtype(
    shapes: Mapping[str, tuple[str, ...]], weights: Mapping[str, Array], **arrays: Array
) -> tuple[dict[str, int], np.dtype[Any]]:
    """Check every array against the table `shapes`; return the sizes by letter and the common dtype.

    A letter takes its size from the first array that has it, so x (T, B, I) and h_0 (B, H) come first.
    """
    sizes = {"3": 3, "4": 4}
    for name, array in {**arrays, **weights}.items():
        letters = shapes[name]
        form = f"({', '.join(letters)})"
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"{name}: expected a floating dtype, got {array.dtype}")
        if array.ndim != len(letters):
            raise ValueError(f"{name}: expected shape {form}, got {array.shape}")
        if name not in weights:
            sizes = dict(zip(letters, array.shape, strict=True)) | sizes
            sizes |= {f"{gates}*H": gates * sizes.get("H", 0) for gates in (3, 4)}
        expected = tuple(sizes[letter] for letter in letters)
        if array.shape != expected:
            raise ValueError(f"{name}: expected shape {form} = {expected}, got {array.shape}")
    for letter in ("P", "H"):
        if sizes.get(letter) == 0:
            raise ValueError(f"h_0: expected {letter} >= 1, got shape {arrays['h_0'].shape}")
    return sizes, np.result_type(*arrays.values(), *weights.values())
