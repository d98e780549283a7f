"""How an estimator learns: minibatches, epochs, early stopping, progress."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

import bptt

from .network import Network
from .sequences import Sequences

__all__ = ["Data", "Training", "progress"]

Array: TypeAlias = "NDArray[Any]"
Loss: TypeAlias = "Callable[[Array, Array, Array], tuple[float, Array]]"  # targets, weights, scores


class Data(NamedTuple):
    """Sequences with what they should give, (N, K), and how much each counts, (N,), 1 in the mean."""

    X: Sequences
    targets: Array
    weights: Array

    def part(self, rows: NDArray[np.intp]) -> Data:
        """Return some of the sequences; the mean of their weights is 1 again."""
        weights = self.weights[rows]
        return Data(self.X.part(rows), self.targets[rows], weights / max(weights.mean(), 1e-30))


class Training:
    """A network with its optimizer and random generator, over as many epochs as it is asked for.

    Parameters
    ----------
    network : Network
    loss : callable
        Gives the mean loss over the rows of targets, weights and scores, and its gradient with respect to the
        scores.
    rng : numpy.random.Generator
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        rng: Any,
        learning_rate: float,
        alpha: float,
        max_norm: float | None,
        batch_size: int,
    ) -> None:
        self.network, self.loss, self.rng = network, loss, rng
        self.max_norm, self.batch_size = max_norm, batch_size
        self.optimizer = bptt.optim.Adam(
            [network.layer.parameters, network.head], lr=learning_rate, weight_decay=alpha
        )

    def epoch(self, data: Data) -> float:
        """Learn from every sequence once, in random order; return the mean loss."""
        N = len(data.X)
        order, total = self.rng.permutation(N), 0.0
        for start in range(0, N, self.batch_size):
            rows = order[start : start + self.batch_size]
            slope = partial(self.loss, data.targets[rows], data.weights[rows])
            loss, gradients = self.network.gradients(*data.X.batch(rows), slope, self.rng)
            if self.max_norm is not None:
                bptt.clip_grad_norm_(gradients, self.max_norm)
            self.optimizer.step(gradients)
            total += loss * len(rows)
        if not np.isfinite(total):
            raise ValueError(
                f"training: the loss became {total / N}; X may hold large numbers (standardize=True), or "
                "learning_rate may be too high"
            )
        return total / N

    def scores(self, X: Sequences) -> Array:
        """Return the scores (N, K) of sequences."""
        found = np.empty((len(X), len(self.network.head["bias"])), self.network.layer.dtype)
        for rows in X.blocks():
            found[rows] = self.network(*X.batch(rows))
        return found

    def loss_of(self, data: Data) -> float:
        """Return the mean loss over sequences, without learning."""
        return self.loss(data.targets, data.weights, self.scores(data.X))[0]


@contextmanager
def progress(name: str, epochs: int, verbose: int) -> Iterator[Callable[[str], None]]:
    """Yield what to call after each epoch: it moves a bar if `verbose` is 1 and tqdm is there, or prints."""
    bar, count = None, 0
    if verbose == 1:
        try:
            bar = import_module("tqdm").tqdm(total=epochs, desc=name, unit="epoch", dynamic_ncols=True)
        except ImportError:
            verbose = 2

    def done(text: str) -> None:
        nonlocal count
        count += 1
        if bar is not None:
            bar.set_postfix_str(text, refresh=False)
            bar.update()
        elif verbose:
            print(f"{name}: epoch {count}/{epochs}, {text}", flush=True)

    try:
        yield done
    finally:
        if bar is not None:
            bar.close()
