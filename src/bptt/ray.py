"""Batch scoring with Ray Data: `Predictor`, a callable class for ``Dataset.map_batches``.

Nothing of Ray is imported here: a callable gets dictionaries of arrays, and gives them. Ray Data itself comes
with ``pip install 'bptt[ray]'``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

import bptt

__all__ = ["Predictor"]

Array: TypeAlias = "NDArray[Any]"
OUTPUTS = ("last", "mean", "steps")
BLOCK = 64  # sequences to run at once, of like length


class Predictor:
    """Runs a layer over a column of sequences: what each actor of ``map_batches`` makes once and calls.

    Parameters
    ----------
    model : path, layer or bptt.Engine
        A file that `bptt.save` wrote, which every actor then reads for itself; or the thing itself.
    input, output : str
        The column of sequences, and the column to add.
    reduce : {"last", "mean", "steps"}
        What is returned of a sequence: the state h of the top layer after the last step (of its reverse
        direction, after the first), (D*H,); the mean output, (D*H,); or every step's output, (T, D*H).
    head : callable, optional
        Applied to what `reduce` gives of many sequences, (N, D*H), or of each with "steps", (T, D*H): the
        rest of a model, such as the affine layer of a classifier. Returns as many rows.
    precision : str, optional
        As for ``layer.freeze``.
    threads : int
        For each actor; more actors, not more threads, use more cores.
    keep_input : bool
        Whether the sequences stay in the batch.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> from bptt.ray import Predictor
    >>> predictor = Predictor(bptt.GRU(2, 4, seed=0), input="x", output="features")
    >>> batch = {"id": np.arange(2), "x": np.ones((2, 5, 2), np.float32)}
    >>> {name: column.shape for name, column in predictor(batch).items()}
    {'id': (2,), 'features': (2, 4)}

    With Ray, two actors that load the model once each::

        pool = ray.data.ActorPoolStrategy(size=2)
        dataset.map_batches(Predictor, fn_constructor_args=("model.safetensors",), compute=pool)
    """

    def __init__(
        self,
        model: Any,
        input: str = "sequence",
        output: str = "prediction",
        *,
        reduce: str = "last",
        head: Callable[[Array], Array] | None = None,
        precision: str | None = None,
        threads: int = 1,
        keep_input: bool = False,
    ) -> None:
        if reduce not in OUTPUTS:
            raise ValueError(f"reduce: expected one of {', '.join(OUTPUTS)}, got {reduce!r}")
        if head is not None and not callable(head):
            raise TypeError(f"head: expected a callable, got {type(head).__name__}")
        self.engine = engine_of(model, precision)
        self.input, self.output, self.reduce, self.head = input, output, reduce, head
        self.threads, self.keep_input = threads, keep_input
        with bptt.num_threads(threads):  # checks the number
            pass

    def __call__(self, batch: Mapping[str, Array]) -> dict[str, Array]:
        """Return a batch with the column of results.

        Parameters
        ----------
        batch : mapping of str to ndarray
            The column of sequences is an array (N, T, I), or N arrays or nested lists (T, I) of any lengths,
            or (T*I,) with the features of a step side by side. It is only read.

        Returns
        -------
        dict of str to ndarray
            The columns of `batch`, and results in the order of the rows.

        Raises
        ------
        TypeError, ValueError
            If there is no such column, or a sequence is not of I features; the message names it.
        """
        if self.input not in batch:
            raise ValueError(f"input: expected one of the columns {sorted(batch)}, got {self.input!r}")
        sequences = [self._steps(n, item) for n, item in enumerate(batch[self.input])]
        with bptt.num_threads(self.threads):
            results = self._run(sequences)
        kept = {name: column for name, column in batch.items() if self.keep_input or name != self.input}
        return {**kept, self.output: results}

    def _steps(self, n: int, item: Any) -> Array:
        """Return one sequence as (T, I)."""
        I, dtype = self.engine.input_size, self.engine.dtype
        array = np.asarray(item)
        if array.dtype == object:  # rows of a nested list in Arrow
            array = np.stack([np.asarray(row) for row in array])
        if array.ndim == 1 and I and array.size % I == 0:
            array = array.reshape(-1, I)
        if array.ndim != 2 or array.shape[1] != I:
            raise ValueError(
                f"{self.input}[{n}]: expected shape (T, I) = (T, {I}) or (T*I,), got {array.shape}"
            )
        return array.astype(dtype, copy=False)

    def _run(self, sequences: list[Array]) -> Array:
        """Return the results of all sequences; those of like length run together."""
        lengths = np.array([len(sequence) for sequence in sequences], np.intp)
        order = np.argsort(-lengths, kind="stable")
        found: list[Array] = [np.empty(0)] * len(sequences)
        for start in range(0, len(order), BLOCK):
            rows = order[start : start + BLOCK]
            x = np.zeros((lengths[rows[0]], len(rows), self.engine.input_size), self.engine.dtype)
            for b, row in enumerate(rows):
                x[: lengths[row], b] = sequences[row]
            for row, result in zip(rows, self._results(x, lengths[rows]), strict=True):
                found[row] = result
        if self.reduce != "steps":
            return np.stack(found) if found else self._headed(np.empty((0, self._width), self.engine.dtype))
        column = np.empty(len(found), object)
        for n, result in enumerate(found):
            column[n] = result
        return column

    def _results(self, x: Array, lengths: Array) -> Any:
        """Return the result of each sequence of a block (T, B, I)."""
        turned = self.engine.batch_first
        outputs, state = self.engine(x.swapaxes(0, 1) if turned else x, lengths=lengths)
        outputs = outputs.swapaxes(0, 1) if turned else outputs
        if self.reduce == "steps":
            return [self._headed(outputs[:length, b].copy()) for b, length in enumerate(lengths)]
        if self.reduce == "mean":
            return self._headed(outputs.sum(axis=0) / np.maximum(lengths, 1).astype(outputs.dtype)[:, None])
        h_n = state[0] if isinstance(state, tuple) else state
        return self._headed(np.concatenate(list(h_n[-self._directions :]), axis=1))

    def _headed(self, features: Array) -> Array:
        return features if self.head is None else self.head(features)

    @property
    def _directions(self) -> int:
        return 1 + self.engine.bidirectional

    @property
    def _width(self) -> int:
        return self._directions * self.engine.hidden_size


def engine_of(model: Any, precision: str | None) -> bptt.Engine:
    """Return the engine of a path, a layer or an engine."""
    if isinstance(model, (str, os.PathLike)):
        model = bptt.load(model)
    if isinstance(model, (bptt.LSTM, bptt.GRU, bptt.RNN)):
        return model.freeze(precision)
    if not isinstance(model, bptt.Engine):
        raise TypeError(f"model: expected a path, a layer or an Engine, got {type(model).__name__}")
    return model
