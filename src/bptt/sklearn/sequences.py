"""What an estimator takes as X: lists of (T, I) arrays, (N, T, I) arrays, and tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

__all__ = ["Sequences", "moments", "read", "read_new"]

BLOCK = 256  # sequences to run at once where nothing is learnt


class Sequences:
    """N sequences, one after the other in memory.

    Parameters
    ----------
    values : ndarray, (sum of lengths, I)
        The steps of all sequences.
    lengths : ndarray of int, (N,)
        Steps of each.
    """

    def __init__(self, values: NDArray[Any], lengths: NDArray[np.intp]) -> None:
        self.values, self.lengths = values, lengths
        self._starts = np.cumsum(lengths) - lengths

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def width(self) -> int:
        """I."""
        return int(self.values.shape[1])

    def batch(self, rows: NDArray[np.intp]) -> tuple[NDArray[Any], NDArray[np.intp]]:
        """Return some sequences as (T, B, I), padded with zeros, and their lengths (B,)."""
        lengths = self.lengths[rows]
        T = int(lengths.max(initial=0))
        x = np.zeros((T, len(rows), self.width), self.values.dtype)
        for b, (start, length) in enumerate(zip(self._starts[rows], lengths, strict=True)):
            x[:length, b] = self.values[start : start + length]
        return x, lengths

    def part(self, rows: NDArray[np.intp]) -> Sequences:
        """Return some of the sequences."""
        steps = [
            np.arange(start, start + length)
            for start, length in zip(self._starts[rows], self.lengths[rows], strict=True)
        ]
        return Sequences(self.values[np.concatenate(steps)], self.lengths[rows])

    def blocks(self) -> Iterator[NDArray[np.intp]]:
        """Yield the places of all sequences, those of like length together."""
        order = np.argsort(-self.lengths, kind="stable")
        for start in range(0, len(self), BLOCK):
            yield order[start : start + BLOCK]

    def moments(self, weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the mean and scale of each feature over all steps, each sequence's steps by its weight."""
        return moments(self.values, np.repeat(weights, self.lengths))

    def scaled(self, moments: tuple[NDArray[Any], NDArray[Any]] | None, dtype: str) -> Sequences:
        """Return the sequences as `dtype`, every feature minus its mean and divided by its scale."""
        mean, scale = (0, 1) if moments is None else moments
        with np.errstate(over="ignore"):
            values = ((self.values - mean) / scale).astype(dtype)
        if not np.isfinite(values).all():
            raise ValueError(f"X: expected numbers that {dtype} can hold, got some too large for it")
        return Sequences(values, self.lengths)


def moments(values: NDArray[Any], weights: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the weighted mean and standard deviation of each column; 1 for the deviation of a constant."""
    total = weights.sum()
    if not total > 0:
        return np.zeros(values.shape[1]), np.ones(values.shape[1])
    mean = weights @ values / total
    scale = np.sqrt(weights @ (values - mean) ** 2 / total)
    return mean, np.where(scale > 1e-12 * np.abs(mean), scale, 1)


def read(estimator: Any, X: Any) -> Sequences:
    """Return X as sequences and note, on the estimator, what later ones must look like."""
    if is_table(X):
        table = validate_data(estimator, X, dtype=np.float64)
        estimator._columns = table.shape[1]
        return of_table(table)
    sequences = of_arrays(X)
    if hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_
    estimator.n_features_in_, estimator._columns = sequences.width, None
    return sequences


def read_new(estimator: Any, X: Any) -> Sequences:
    """Return X as sequences that look like those that the estimator has learnt from."""
    if is_table(X):
        if estimator._columns is None and estimator.n_features_in_ == 1:
            return of_table(check_array(X, dtype=np.float64))
        return of_table(validate_data(estimator, X, dtype=np.float64, reset=False))
    sequences = of_arrays(X)
    expected = estimator.n_features_in_ if estimator._columns is None else 1
    if sequences.width != expected:
        name = type(estimator).__name__
        raise ValueError(
            f"X has {sequences.width} features, but {name} is expecting {expected} features as input"
        )
    return sequences


def is_table(X: Any) -> bool:
    """Whether X is two-dimensional: an array, a data frame, lists of numbers in a list of one length each."""
    if not is_list(X):
        return not hasattr(X, "__array__") or dimensions(X) != 3
    if any(hasattr(item, "shape") and dimensions(item) for item in X):
        return False
    rows = [item for item in X if isinstance(item, (list, tuple))]
    numbers = all(np.isscalar(part) for row in rows for part in row)
    return numbers and len({len(row) for row in rows}) < 2


def is_list(X: Any) -> bool:
    """Whether X is a list, or what stands for one: an array or a column of objects."""
    return isinstance(X, (list, tuple)) or (
        getattr(X, "ndim", 0) == 1 and getattr(X, "dtype", None) == np.dtype(object)
    )


def dimensions(X: Any) -> int:
    return int(X.ndim if hasattr(X, "ndim") else np.asarray(X).ndim)


def of_table(table: NDArray[Any]) -> Sequences:
    """Return each row of a table as a sequence of one feature."""
    N, T = table.shape
    return Sequences(table.reshape(-1, 1), np.full(N, T))


def of_arrays(X: Any) -> Sequences:
    """Return the sequences of an (N, T, I) array, or of a list of (T, I) or (T,) arrays."""
    if not is_list(X):
        array = np.asarray(X)
        N, T, I = array.shape
        if not N:
            raise ValueError("X: found array with 0 sample(s) while a minimum of 1 is required")
        values = array.reshape(N * T, I)
        lengths = np.full(N, T)
    else:
        items = [with_features(n, item) for n, item in enumerate(X)]
        for n, item in enumerate(items):
            if item.shape[1] != items[0].shape[1]:
                raise ValueError(
                    f"X[{n}]: expected I = {items[0].shape[1]} features, as X[0] has, got {item.shape[1]}"
                )
        values = np.concatenate(items)
        lengths = np.array([len(item) for item in items])
    return Sequences(check_array(values, dtype=np.float64, ensure_min_samples=0, input_name="X"), lengths)


def with_features(n: int, item: Any) -> NDArray[Any]:
    """Return one sequence as (T, I); one of numbers has one feature."""
    array = np.asarray(item)
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise ValueError(f"X[{n}]: expected shape (T, I) or (T,), got {array.shape}")
    return array
