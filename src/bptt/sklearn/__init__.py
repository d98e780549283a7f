"""Recurrent networks as scikit-learn estimators, on sequences of any length.

`SequenceClassifier` and `SequenceRegressor` read lists of (T, I) arrays, (N, T, I) arrays and tables; they
have what scikit-learn expects of an estimator, so pipelines, grids and cross-validation work with them. Needs
scikit-learn: ``pip install 'bptt[sklearn]'``.
"""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError("bptt.sklearn needs scikit-learn 1.6 or later: pip install 'bptt[sklearn]'") from error

from .estimators import SequenceClassifier, SequenceRegressor

__all__ = ["SequenceClassifier", "SequenceRegressor"]
