"""Optimizers: SGD with momentum, and Adam, with the numerics of torch.optim."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _check
from .parameters import Parameters
from .tape import Gradients

__all__ = ["SGD", "Adam"]

Arrays: TypeAlias = "Mapping[str, NDArray[Any]]"
Steppable: TypeAlias = "Gradients | Arrays | Sequence[Gradients | Arrays]"
BLOCK = 16384  # elements at a time, so that all operands of one block stay in cache
EVERYTHING = ""  # stands for the flat vector in place of the names


class _Optimizer(ABC):
    """The sets of parameters, one state array per array for each name in `_slots`, and the walk over them."""

    _slots: tuple[str, ...] = ()

    def __init__(self, parameters: Arrays | Sequence[Arrays], lr: float) -> None:
        self.lr = _check.number("lr", lr)
        self._sets = _sets(parameters)
        self._state = [
            {slot: {key: np.zeros_like(array) for key, array in _items(arrays)} for slot in self._slots}
            for arrays in self._sets
        ]

    def step(self, gradients: Steppable) -> None:
        """Change the parameters in place by one step against the gradients.

        Parameters
        ----------
        gradients : Gradients, mapping of str to ndarray, or a list of them
            As many as there are sets of parameters, in their order, with their names, shapes and dtypes.
            They are not changed.

        Raises
        ------
        TypeError, ValueError
            If the gradients do not fit the parameters; nothing is changed then.
        """
        given = _gradient_sets(gradients)
        if len(given) != len(self._sets):
            raise ValueError(
                f"gradients: expected {len(self._sets)} sets, as of parameters, got {len(given)}"
            )
        work = []
        for arrays, slopes, state in zip(self._sets, given, self._state, strict=True):
            matched = _matched(arrays, slopes)
            for key, array in _items(arrays):
                work.append((array, matched[key], [state[slot][key] for slot in self._slots]))
        self._begin()
        for array, gradient, states in work:
            for part in _blocks(array):
                self._update(array[part], gradient[part], *(state[part] for state in states))

    def _begin(self) -> None:  # noqa: B027 - a hook that need not be filled
        """Prepare what is common to one step."""

    @abstractmethod
    def _update(self, p: NDArray[Any], d: NDArray[Any], *state: NDArray[Any]) -> None:
        """Change one block of parameters `p`, with gradient `d`, and its state, in place."""


class SGD(_Optimizer):
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``.

    Parameters
    ----------
    parameters : mapping of str to ndarray, or a list of them
        ``layer.parameters``, or any dict of floating-point arrays; changed in place.
    lr : float
        Learning rate; the attribute `lr` may be changed between steps.
    momentum : float
        Factor of the velocity, v = momentum * v + d, p = p - lr * v.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> weights = {"w": np.array([1.0, 2.0])}
    >>> bptt.optim.SGD(weights, lr=0.1).step({"w": np.array([1.0, -1.0])})
    >>> weights["w"]
    array([0.9, 2.1])
    """

    def __init__(self, parameters: Arrays | Sequence[Arrays], lr: float, momentum: float = 0.0) -> None:
        self.momentum = _check.number("momentum", momentum)
        self._slots = ("velocity",) if self.momentum else ()
        super().__init__(parameters, lr)

    def _update(self, p: NDArray[Any], d: NDArray[Any], *state: NDArray[Any]) -> None:
        if state:
            (velocity,) = state
            velocity *= self.momentum
            velocity += d
            d = velocity
        p -= self.lr * d


class Adam(_Optimizer):
    """Adam, as ``torch.optim.Adam``.

    Parameters
    ----------
    parameters : mapping of str to ndarray, or a list of them
        ``layer.parameters``, or any dict of floating-point arrays; changed in place.
    lr : float
        Learning rate; the attribute `lr` may be changed between steps.
    betas : tuple of float
        Decay of the running means of the gradient and of its square.
    eps : float
        Added to the root of the second mean.
    weight_decay : float
        L2 penalty: weight_decay * p is added to the gradient.

    Notes
    -----
    Kingma and Ba (2015).

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.LSTM(3, 4, seed=0)
    >>> optimizer = bptt.optim.Adam(layer.parameters, lr=1e-2)
    >>> tape = layer.forward(np.ones((5, 2, 3), np.float32))
    >>> optimizer.step(layer.backward(tape, 2 * tape.output))
    >>> bool(abs(layer.forward(np.ones((5, 2, 3), np.float32)).output).sum() < abs(tape.output).sum())
    True
    """

    _slots = ("mean", "square")

    def __init__(
        self,
        parameters: Arrays | Sequence[Arrays],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"betas: expected two numbers, got {betas!r}")
        self.betas = _check.number("betas[0]", betas[0]), _check.number("betas[1]", betas[1])
        if max(self.betas) >= 1:
            raise ValueError(f"betas: expected two numbers below 1, got {betas!r}")
        self.eps = _check.number("eps", eps)
        self.weight_decay = _check.number("weight_decay", weight_decay)
        self.steps = 0
        super().__init__(parameters, lr)

    def _begin(self) -> None:
        self.steps += 1
        self._step_size = self.lr / (1 - self.betas[0] ** self.steps)
        self._root = (1 - self.betas[1] ** self.steps) ** 0.5

    def _update(self, p: NDArray[Any], d: NDArray[Any], *state: NDArray[Any]) -> None:
        mean, square = state
        beta_1, beta_2 = self.betas
        if self.weight_decay:
            d = d + self.weight_decay * p
        mean += (1 - beta_1) * (d - mean)
        square *= beta_2
        square += (1 - beta_2) * (d * d)
        scale = np.sqrt(square, out=np.empty_like(square))
        scale /= self._root
        scale += self.eps
        np.divide(mean, scale, out=scale)
        scale *= self._step_size
        p -= scale


def _sets(parameters: Any) -> list[Arrays]:
    """Return the parameters as a list of mappings of writable floating-point arrays."""
    sets = [parameters] if isinstance(parameters, Mapping) else parameters
    if not isinstance(sets, (list, tuple)) or not all(isinstance(item, Mapping) for item in sets):
        raise TypeError(f"parameters: expected a mapping or a list of them, got {type(parameters).__name__}")
    for arrays in sets:
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.kind != "f" or not array.flags.writeable:
                got = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
                raise TypeError(f"parameters[{name!r}]: expected a writable floating-point array, got {got}")
    return list(sets)


def _gradient_sets(gradients: Any) -> list[Arrays]:
    """Return the gradients as a list of mappings."""
    items = gradients if isinstance(gradients, (list, tuple)) else [gradients]
    sets = [item.parameters if isinstance(item, Gradients) else item for item in items]
    for item in sets:
        if not isinstance(item, Mapping):
            raise TypeError(
                f"gradients: expected Gradients, a mapping or a list of them, got {type(item).__name__}"
            )
    return sets


def _items(arrays: Arrays) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the arrays to walk over: the flat vector where there is one."""
    if isinstance(arrays, Parameters):
        yield EVERYTHING, arrays.flat
    else:
        yield from arrays.items()


def _matched(arrays: Arrays, slopes: Arrays) -> dict[str, NDArray[Any]]:
    """Return the gradients under the keys of `_items(arrays)`, after a check of names, shapes and dtypes."""
    _check.names("gradients", slopes, arrays)
    if isinstance(arrays, Parameters) and isinstance(slopes, Parameters) and arrays.laid_out_as(slopes):
        return {EVERYTHING: _check.floating("gradients", slopes.flat, arrays.flat.dtype)}
    matched = {}
    for name, array in arrays.items():
        slope = _check.floating(f"gradients[{name!r}]", slopes[name], array.dtype)
        _check.shape(f"gradients[{name!r}]", slope.shape, "of the parameter", array.shape)
        matched[name] = slope
    if isinstance(arrays, Parameters):
        return {EVERYTHING: np.concatenate([slope.reshape(-1) for slope in matched.values()])}
    return matched


def _blocks(array: NDArray[Any]) -> Iterator[Any]:
    """Yield the indices that cut a vector into blocks; an array of more dimensions is one block."""
    if array.ndim != 1:
        yield ...
        return
    for start in range(0, array.size, BLOCK):
        yield slice(start, start + BLOCK)
