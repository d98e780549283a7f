"""What both estimators do: parameters, epochs, early stopping, scores."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from .network import CELLS, POOLINGS, Network
from .sequences import Sequences, read, read_new
from .training import Data, Training, progress

__all__ = ["SequenceEstimator"]

Array: TypeAlias = "NDArray[Any]"


class SequenceEstimator(BaseEstimator):
    """What both estimators do: parameters, epochs, early stopping, scores."""

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "hidden_size": [Interval(Integral, 1, None, closed="left")],
        "cell": [StrOptions(set(CELLS))],
        "num_layers": [Interval(Integral, 1, None, closed="left")],
        "bidirectional": ["boolean"],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "pooling": [StrOptions(set(POOLINGS))],
        "standardize": ["boolean"],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "max_norm": [Interval(Real, 0, None, closed="neither"), None],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "tol": [Interval(Real, 0, None, closed="left")],
        "n_iter_no_change": [Interval(Integral, 1, None, closed="left")],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="neither")],
        "dtype": [StrOptions({"float32", "float64"})],
        "random_state": ["random_state"],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        hidden_size: int = 32,
        *,
        cell: str = "lstm",
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pooling: str = "last",
        standardize: bool = True,
        learning_rate: float = 0.01,
        alpha: float = 0.0,
        max_norm: float | None = 1.0,
        batch_size: int = 32,
        max_iter: int = 100,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        dtype: str = "float32",
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.hidden_size = hidden_size
        self.cell = cell
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.pooling = pooling
        self.standardize = standardize
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.max_norm = max_norm
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.dtype = dtype
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _begin(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Data:
        """Check everything, make the network, and return what to learn from."""
        self._validate_params()
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        sequences = read(self, X)
        y, weights = self._checked(sequences, y, sample_weight)
        self._describe(y, weights, classes)
        self._moments = sequences.moments(weights) if self.standardize else None
        data = self._data(sequences, y, weights)
        seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
        rng = np.random.default_rng(seed)
        stack = {"num_layers": self.num_layers, "bidirectional": self.bidirectional, "dtype": self.dtype}
        sizes = sequences.width, self.hidden_size, self._outputs
        network = Network.made(self.cell, sizes, self.pooling, self.dropout, rng, **stack)
        self._training = Training(
            network, self._loss, rng, self.learning_rate, self.alpha, self.max_norm, self.batch_size
        )
        self.loss_curve_: list[float] = []
        self.n_iter_ = 0
        self.__dict__.pop("validation_loss_curve_", None)  # of an earlier fit
        return data

    def _checked(self, sequences: Sequences, y: Any, sample_weight: Any) -> tuple[Array, Array]:
        """Return targets and weights, one of each for every sequence."""
        y = self._checked_y(y)
        check_consistent_length(sequences.lengths, y)
        if sample_weight is None:
            return y, np.ones(len(y))
        weights = _check_sample_weight(
            sample_weight, sequences.lengths, dtype=np.float64, ensure_non_negative=True
        )
        if not weights.sum() > 0:
            raise ValueError("sample_weight: expected at least one weight above 0, got none")
        return y, weights

    def _data(self, sequences: Sequences, y: Array, weights: Array) -> Data:
        """Return checked sequences and targets as the network takes them."""
        scaled = sequences.scaled(self._moments, self.dtype)
        return Data(scaled, self._targets(y), (weights / weights.mean()).astype(self.dtype))

    def _fit(self, X: Any, y: Any, sample_weight: Any) -> None:
        """Learn from scratch until the loss no longer falls."""
        data, held = self._begin(X, y, sample_weight), None
        training = self._training
        if self.early_stopping:
            parts = train_test_split(
                np.arange(len(data.X)),
                test_size=self.validation_fraction,
                random_state=int(training.rng.integers(2**31)),
                stratify=self._strata(data),
            )
            data, held = (data.part(rows) for rows in parts)
            self.validation_loss_curve_: list[float] = []
        self.best_loss_, best, waited = np.inf, training.network.copies(), 0
        with progress(type(self).__name__, self.max_iter, int(self.verbose)) as done:
            for self.n_iter_ in range(1, self.max_iter + 1):  # noqa: B020
                loss = training.epoch(data)
                self.loss_curve_.append(loss)
                text = f"loss {loss:.4f}"
                if held is not None:
                    loss = training.loss_of(held)
                    self.validation_loss_curve_.append(loss)
                    text += f", validation {loss:.4f}"
                done(text)
                waited = 0 if loss < self.best_loss_ - self.tol else waited + 1
                if loss < self.best_loss_:
                    self.best_loss_ = loss
                    if held is not None:
                        best = training.network.copies()
                if waited >= self.n_iter_no_change:
                    break
        if held is not None:
            training.network.restore(best)

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> None:
        """Learn from the sequences once more, going on from where learning stands."""
        if not hasattr(self, "_training"):
            data = self._begin(X, y, sample_weight, classes)
        else:
            sequences = read_new(self, X)
            data = self._data(sequences, *self._checked(sequences, y, sample_weight))
        self.loss_curve_.append(self._training.epoch(data))
        self.n_iter_ += 1

    def _scores(self, X: Any) -> Array:
        """Return what the head gives for each sequence: (N, K)."""
        check_is_fitted(self, "n_iter_")
        return self._training.scores(read_new(self, X).scaled(self._moments, self.dtype))
