"""Losses and their gradients with respect to the scores."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["cross_entropy", "log_softmax", "squared_error"]


def log_softmax(scores: NDArray[Any]) -> NDArray[Any]:
    """Return the logarithms of the probabilities that scores (N, K) stand for."""
    z = scores - scores.max(axis=1, keepdims=True)
    logs: NDArray[Any] = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return logs


def cross_entropy(
    classes: NDArray[Any], weights: NDArray[Any], scores: NDArray[Any]
) -> tuple[float, NDArray[Any]]:
    """Return the mean over rows of -log p of the right class, weighted, and its gradient (N, K)."""
    N = len(scores)
    logs, rows = log_softmax(scores), np.arange(N)
    gradient = np.exp(logs)
    gradient[rows, classes] -= 1
    gradient *= weights[:, None] / N
    return float(-(weights * logs[rows, classes]).mean()), gradient


def squared_error(
    targets: NDArray[Any], weights: NDArray[Any], scores: NDArray[Any]
) -> tuple[float, NDArray[Any]]:
    """Return the mean over rows and outputs of the squared error, weighted, and its gradient (N, K)."""
    error = scores - targets
    loss = float((weights[:, None] * error**2).mean())
    return loss, error * weights[:, None] * (2 / error.size)
