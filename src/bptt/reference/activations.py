"""The activations, and the slope of each as a function of the activated value."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .arrays import Array

__all__ = ["ACTIVATIONS", "sigmoid"]


def sigmoid(z: Array) -> Array:
    """Logistic function 1 / (1 + exp(-z)), elementwise.

    The exponential is taken of minus the absolute value alone, so it cannot overflow, and the far negative
    tail, where sigmoid(z) is close to exp(z), keeps its relative accuracy down to the smallest normal number.

    Parameters
    ----------
    z : ndarray
        Any shape, any floating dtype.

    Returns
    -------
    ndarray
        Shape and dtype of `z`, values in [0, 1]; NaN where `z` is NaN.

    Examples
    --------
    >>> sigmoid(np.array([-np.inf, 0.0, np.inf]))
    array([0. , 0.5, 1. ])
    """
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1 / (1 + e), e / (1 + e))


Function: TypeAlias = Callable[[Array], Array]

ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "sigmoid": (sigmoid, lambda y: y * (1 - y)),
    "hard_sigmoid": (
        lambda z: np.clip(z.dtype.type(0.2) * z + z.dtype.type(0.5), 0, 1),
        lambda y: np.where((y > 0) & (y < 1), y.dtype.type(0.2), y.dtype.type(0)),
    ),
    "tanh": (np.tanh, lambda y: 1 - y**2),
    "relu": (lambda z: np.where(z <= 0, z.dtype.type(0), z), lambda y: np.where(y > 0, 1, y - y)),
    "softsign": (lambda z: z / (1 + np.abs(z)), lambda y: (1 - np.abs(y)) ** 2),
    "identity": (lambda z: z, np.ones_like),
}
