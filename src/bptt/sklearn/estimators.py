"""`SequenceClassifier` and `SequenceRegressor`: recurrent networks with scikit-learn's interface."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets

from .base import SequenceEstimator
from .losses import cross_entropy, log_softmax, squared_error
from .sequences import moments
from .training import Data

__all__ = ["SequenceClassifier", "SequenceRegressor"]

Array: TypeAlias = "NDArray[Any]"


class SequenceClassifier(ClassifierMixin, SequenceEstimator):
    """A recurrent network that tells classes of sequences apart: softmax and cross-entropy.

    Parameters
    ----------
    hidden_size : int
        H, the units of each layer and direction.
    cell : {"lstm", "peephole", "gru", "rnn"}
        `bptt.LSTM`, the same with peepholes, `bptt.GRU`, or `bptt.RNN` with tanh.
    num_layers : int
        Each runs on the output of the one below.
    bidirectional : bool
        Every layer also runs from the last step of a sequence to its first.
    dropout : float
        Probability with which, in training, an element is dropped between layers and before the head.
    pooling : {"last", "mean"}
        What the head sees of a sequence: the state after the last step (of the reverse direction, after the
        first), or the mean of the outputs of all steps.
    standardize : bool
        Subtract each feature's mean over all steps that `fit` sees, and divide by its standard deviation.
    learning_rate, alpha : float
        Of Adam; `alpha` is the L2 penalty.
    max_norm : float or None
        Gradients of a larger norm are scaled down to it.
    batch_size : int
        Sequences to a step of the optimizer.
    max_iter : int
        Epochs at most.
    tol, n_iter_no_change : float, int
        `fit` ends when the loss has not fallen by `tol` for so many epochs: the training loss, or with
        `early_stopping` that of the sequences held out.
    early_stopping : bool
        Hold out sequences to validate on, stratified by class, and keep the weights that did best there.
    validation_fraction : float
        The share held out.
    dtype : {"float32", "float64"}
        What the network computes in.
    random_state : None, int or numpy.random.RandomState
        For weights, the order of sequences, dropout and the sequences held out.
    verbose : int
        1 shows a progress bar if tqdm is installed, else a line an epoch; 2 shows lines.

    Attributes
    ----------
    classes_ : ndarray
        The labels, sorted.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_loss_curve_ : list of float
        With `early_stopping`, the loss of the sequences held out after each epoch.
    best_loss_ : float
        The smallest of them; of the training losses without `early_stopping`.
    n_iter_ : int
        Epochs done.
    n_features_in_, feature_names_in_
        I; if `fit` was given a table, its columns.

    Notes
    -----
    A two-dimensional X is a table: each row is a sequence of one feature, each column a step. As everywhere
    in scikit-learn the number of columns is fixed by `fit`; give (N, T, 1) or a list for lengths that vary.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt.sklearn import SequenceClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(0.4 * (n % 2), 1, (rng.integers(10, 30), 2)) for n in range(80)]
    >>> y = ["higher" if n % 2 else "lower" for n in range(80)]
    >>> model = SequenceClassifier(16, cell="gru", max_iter=20, random_state=0).fit(X[:60], y[:60])
    >>> bool(model.score(X[60:], y[60:]) > 0.8)
    True
    """

    _loss = staticmethod(cross_entropy)

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceClassifier:
        """Learn from scratch.

        Parameters
        ----------
        X : list of array_like (T, I) or (T,), array_like (N, T, I), or table (N, T)
            Sequences; in a list each has a length of its own, zero too.
        y : array_like, (N,)
            The class of each: labels of any type that sorts.
        sample_weight : array_like, (N,), optional
            How much each counts.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter or an argument has a wrong type, shape or value, or training diverges.
        """
        self._fit(X, y, sample_weight)
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> SequenceClassifier:
        """Learn from some sequences once, going on from where learning stands.

        The means and scales of `standardize` are those of the first call.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.
        classes : array_like, optional
            All labels that may come; needed in the first call if `y` does not hold them all.

        Returns
        -------
        self
        """
        self._partial_fit(X, y, sample_weight, classes)
        return self

    def predict(self, X: Any) -> Array:
        """Return the most likely class of each sequence, (N,)."""
        scores = self._scores(X)
        labels: Array = self.classes_[scores.argmax(axis=1)]
        return labels

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (N, classes), in the order of ``classes_``."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the natural logarithm of the probability of each class, (N, classes)."""
        return log_softmax(self._scores(X).astype(np.float64))

    def _checked_y(self, y: Any) -> Array:
        check_classification_targets(y)
        labels: Array = column_or_1d(y, warn=True)
        return labels

    def _describe(self, y: Array, weights: Array, classes: Any) -> None:
        self.classes_ = np.unique(y if classes is None else classes)

    @property
    def _outputs(self) -> int:
        return len(self.classes_)

    def _targets(self, y: Array) -> Array:
        places = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        unknown = y[self.classes_[places] != y]
        if len(unknown):
            raise ValueError(f"y: expected labels among classes {self.classes_}, got {unknown[0]!r}")
        return places

    def _strata(self, data: Data) -> Array:
        return data.targets


class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """A recurrent network that predicts one or several numbers from a sequence: squared error.

    Targets are standardised inside, so losses are in units of their variance.

    Parameters
    ----------
    hidden_size : int
        H, the units of each layer and direction.
    cell : {"lstm", "peephole", "gru", "rnn"}
        `bptt.LSTM`, the same with peepholes, `bptt.GRU`, or `bptt.RNN` with tanh.
    num_layers : int
        Each runs on the output of the one below.
    bidirectional : bool
        Every layer also runs from the last step of a sequence to its first.
    dropout : float
        Probability with which, in training, an element is dropped between layers and before the head.
    pooling : {"last", "mean"}
        What the head sees of a sequence: the state after the last step (of the reverse direction, after the
        first), or the mean of the outputs of all steps.
    standardize : bool
        Subtract each feature's mean over all steps that `fit` sees, and divide by its standard deviation.
    learning_rate, alpha : float
        Of Adam; `alpha` is the L2 penalty.
    max_norm : float or None
        Gradients of a larger norm are scaled down to it.
    batch_size : int
        Sequences to a step of the optimizer.
    max_iter : int
        Epochs at most.
    tol, n_iter_no_change : float, int
        `fit` ends when the loss has not fallen by `tol` for so many epochs: the training loss, or with
        `early_stopping` that of the sequences held out.
    early_stopping : bool
        Hold out sequences to validate on, and keep the weights that did best there.
    validation_fraction : float
        The share held out.
    dtype : {"float32", "float64"}
        What the network computes in.
    random_state : None, int or numpy.random.RandomState
        For weights, the order of sequences, dropout and the sequences held out.
    verbose : int
        1 shows a progress bar if tqdm is installed, else a line an epoch; 2 shows lines.

    Attributes
    ----------
    n_outputs_ : int
        Numbers predicted for each sequence.
    loss_curve_ : list of float
        Mean training loss of each epoch.
    validation_loss_curve_ : list of float
        With `early_stopping`, the loss of the sequences held out after each epoch.
    best_loss_ : float
        The smallest of them; of the training losses without `early_stopping`.
    n_iter_ : int
        Epochs done.
    n_features_in_, feature_names_in_
        I; if `fit` was given a table, its columns.

    Notes
    -----
    A two-dimensional X is a table: each row is a sequence of one feature, each column a step. As everywhere
    in scikit-learn the number of columns is fixed by `fit`; give (N, T, 1) or a list for lengths that vary.

    Examples
    --------
    >>> import numpy as np
    >>> from bptt.sklearn import SequenceRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(rng.integers(5, 15), 2)) for _ in range(200)]
    >>> y = [sequence[:, 0].mean() for sequence in X]
    >>> model = SequenceRegressor(16, pooling="mean", random_state=0).fit(X[:150], y[:150])
    >>> bool(model.score(X[150:], y[150:]) > 0.8)
    True
    """

    _loss = staticmethod(squared_error)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Learn from scratch.

        Parameters
        ----------
        X : list of array_like (T, I) or (T,), array_like (N, T, I), or table (N, T)
            Sequences; in a list each has a length of its own, zero too.
        y : array_like, (N,) or (N, outputs)
            The numbers to predict for each.
        sample_weight : array_like, (N,), optional
            How much each counts.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If a parameter or an argument has a wrong type, shape or value, or training diverges.
        """
        self._fit(X, y, sample_weight)
        return self

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> SequenceRegressor:
        """Learn from some sequences once, going on from where learning stands.

        The means and scales of inputs and targets are those of the first call.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        self
        """
        self._partial_fit(X, y, sample_weight)
        return self

    def predict(self, X: Any) -> Array:
        """Return the prediction for each sequence, (N,) or (N, outputs), as `y` was."""
        scores = self._scores(X)
        mean, scale = self._target_moments
        found: Array = scores * scale + mean
        return found if self._matrix else found[:, 0]

    def _checked_y(self, y: Any) -> Array:
        numbers: Array = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if numbers.ndim not in (1, 2):
            raise ValueError(f"y: expected shape (N,) or (N, outputs), got {numbers.shape}")
        return numbers

    def _describe(self, y: Array, weights: Array, classes: None) -> None:
        self._matrix = y.ndim == 2
        self.n_outputs_ = y.shape[1] if self._matrix else 1
        self._target_moments = moments(y.reshape(len(y), -1), weights)

    @property
    def _outputs(self) -> int:
        return self.n_outputs_

    def _targets(self, y: Array) -> Array:
        matrix = y.reshape(len(y), -1)
        if (y.ndim == 2) != self._matrix or matrix.shape[1] != self.n_outputs_:
            expected = f"(N, {self.n_outputs_})" if self._matrix else "(N,)"
            raise ValueError(f"y: expected shape {expected}, as in the first call, got {y.shape}")
        mean, scale = self._target_moments
        targets: Array = ((matrix - mean) / scale).astype(self.dtype)
        return targets

    def _strata(self, data: Data) -> None:
        return None
