"""Gradient clipping by norm and by value, in place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _check
from .parameters import Parameters
from .tape import Gradients

__all__ = ["clip_grad_norm_", "clip_grad_value_"]

Clippable: TypeAlias = "Gradients | Mapping[str, NDArray[Any]] | NDArray[Any]"


def clip_grad_norm_(
    grads: Clippable | Sequence[Clippable],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> float:
    """Scale gradients in place so that their norm, over all parameters together, is at most `max_norm`.

    As ``torch.nn.utils.clip_grad_norm_``: the factor is max_norm / (norm + 1e-6) where that is below 1.

    Parameters
    ----------
    grads : Gradients, mapping of str to ndarray, ndarray, or a list of them
        Of `Gradients` the gradients of the parameters count, those of input and state do not.
    max_norm : float
        At least 0.
    norm_type : float
        The order of the norm, above 0; ``inf`` for the largest absolute value.
    error_if_nonfinite : bool
        Raise where the norm is not finite; the gradients are then as they were.

    Returns
    -------
    float
        The norm before clipping, computed in float64. If it is not finite, neither are the gradients after.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    RuntimeError
        If `error_if_nonfinite` is set and the norm is NaN or infinite; the message counts the elements that
        are.

    Notes
    -----
    Pascanu, Mikolov and Bengio (2013).

    Examples
    --------
    >>> import numpy as np, bptt
    >>> gradient = np.array([3.0, 4.0])
    >>> bptt.clip_grad_norm_(gradient, 1.0)
    5.0
    >>> gradient.round(4)
    array([0.6, 0.8])
    """
    limit = _check.number("max_norm", max_norm)
    order = _check.number("norm_type", norm_type, above=True)
    strict = _check.flag("error_if_nonfinite", error_if_nonfinite)
    arrays = _arrays(grads)
    with np.errstate(over="ignore", invalid="ignore"):
        norm = _norm(arrays, order)
        if strict and not np.isfinite(norm):
            wrong = sum(int(np.count_nonzero(~np.isfinite(array))) for array in arrays)
            total = sum(array.size for array in arrays)
            raise RuntimeError(f"grads: their norm is {norm}, {wrong} of {total} elements are not finite")
        factor = limit / (norm + 1e-6)
        if not factor >= 1.0:  # NaN scales too, as in torch
            for array in _writeable(arrays):
                array *= array.dtype.type(factor)
    return norm


def clip_grad_value_(grads: Clippable | Sequence[Clippable], value: float) -> None:
    """Clip every element of the gradients to [-value, value], in place; NaN stays.

    Parameters
    ----------
    grads : Gradients, mapping of str to ndarray, ndarray, or a list of them
        As for `clip_grad_norm_`.
    value : float
        At least 0.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> gradient = np.array([0.5, -3.0])
    >>> bptt.clip_grad_value_(gradient, 1.0)
    >>> gradient
    array([ 0.5, -1. ])
    """
    limit = _check.number("value", value)
    for array in _writeable(_arrays(grads)):
        bound = array.dtype.type(limit)
        np.clip(array, -bound, bound, out=array)


def _norm(arrays: list[NDArray[Any]], order: float) -> float:
    """Norm of all elements together, in float64."""
    sizes = [np.abs(array, dtype=np.float64) for array in arrays if array.size]
    if not sizes:
        return 0.0
    largest = float(np.max([np.max(size) for size in sizes]))  # np.max passes NaN on
    if order == np.inf or largest == 0.0 or not np.isfinite(largest):
        return largest
    powers = [float(np.sum((size / largest) ** order)) for size in sizes]
    return float(largest * np.sum(powers) ** (1.0 / order))


def _writeable(arrays: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return those that hold anything, if all of them can be written to."""
    filled = [array for array in arrays if array.size]
    if not all(array.flags.writeable for array in filled):
        raise ValueError("grads: expected arrays that can be written to, got a read-only one")
    return filled


def _arrays(grads: Any) -> list[NDArray[Any]]:
    """Return the arrays to clip, one flat vector for each set of parameters."""
    if isinstance(grads, Gradients):
        return [grads.parameters.flat]
    if isinstance(grads, Parameters):
        return [grads.flat]
    if isinstance(grads, np.ndarray):
        if grads.dtype.kind != "f":
            raise TypeError(f"grads: expected floating-point arrays, got {grads.dtype}")
        return [grads]
    if isinstance(grads, Mapping):
        return [array for value in grads.values() for array in _arrays(value)]
    if isinstance(grads, (list, tuple)):
        return [array for item in grads for array in _arrays(item)]
    raise TypeError(
        f"grads: expected Gradients, a mapping, an array or a list of them, got {type(grads).__name__}"
    )
