"""Parameters: named arrays that are views of one flat, 64-byte aligned vector."""

from __future__ import annotations

import functools
import math
from collections.abc import ItemsView, Iterator, Mapping, ValuesView
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _check
from ._memory import carve, empty_vector

__all__ = ["Parameters", "initialise", "layer_shapes", "layer_weights", "suffixes"]

Shapes: TypeAlias = "dict[str, tuple[int, ...]]"
Weights: TypeAlias = "tuple[NDArray[Any] | None, ...]"

_KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr")
_SYMBOLS = {
    "weight_ih": "({rows}, I)",
    "weight_hh": "({rows}, {h})",
    "bias": "({rows},)",
    "weight_peephole": "(3, H)",
    "weight_hr": "(P, H)",
}


class Parameters(Mapping[str, NDArray[Any]]):
    """Mapping from parameter name to a writable array, each a view of `flat`.

    ``parameters[name] = value`` copies `value` into the array after a check of its shape; names cannot be
    added or removed. Reading, an in-place change of an array and a change of `flat` all see the same
    memory.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Names in order, and the shape of each.
    dtype : numpy.dtype
        float32 or float64.

    Examples
    --------
    >>> import bptt
    >>> parameters = bptt.LSTM(3, 2, seed=0).parameters
    >>> parameters["weight_ih_l0"].shape, parameters.flat.shape
    ((8, 3), (56,))
    >>> parameters.flat[:] = 0.5
    >>> float(parameters["bias_hh_l0"][7])
    0.5
    """

    __slots__ = ("_flat", "_named", "_shapes")

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype[Any]) -> None:
        self._shapes = dict(shapes)
        self._allocate(sum(map(math.prod, shapes.values())), dtype)

    def _allocate(self, count: int, dtype: np.dtype[Any]) -> None:
        self._flat = empty_vector(count, dtype)
        self._named: dict[str, NDArray[Any]] | None = None

    @property
    def _views(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, made when first asked for: of gradients often only `flat` is used."""
        named = self._named
        if named is None:
            named = self._named = dict(
                zip(self._shapes, carve(self._flat, self._shapes.values()), strict=True)
            )
        return named

    @property
    def flat(self) -> NDArray[Any]:
        """All parameters in one vector, in the order of the names."""
        return self._flat

    @property
    def shapes(self) -> Shapes:
        """The shape of each parameter."""
        return dict(self._shapes)

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._views[name]

    def __setitem__(self, name: str, value: Any) -> None:
        view = self._views[name]
        if value is not view:
            view[...] = self._read(name, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    # Mapping's go through __getitem__, and for a name that is not there through an exception.
    def get(self, name: str, default: Any = None) -> Any:
        return self._views.get(name, default)

    def items(self) -> ItemsView[str, NDArray[Any]]:
        return self._views.items()

    def values(self) -> ValuesView[NDArray[Any]]:
        return self._views.values()

    __eq__ = object.__eq__  # Mapping's would compare arrays for truth
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        items = ", ".join(f"{name}: {shape}" for name, shape in self._shapes.items())
        return f"Parameters({self._flat.dtype}, {self._flat.size} numbers: {items})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self._shapes, self._flat, self._flat.flags.writeable)

    def _read(self, name: str, value: Any) -> NDArray[Any]:
        """Return `value` as an array of real numbers of the shape that `name` has."""
        array = _check.numeric(name, value)
        _check.shape(name, array.shape, self._symbols(name), self._shapes[name])
        return array

    def _symbols(self, name: str) -> str:
        """Spell the shape of a parameter in letters."""
        shapes = {key.rpartition("_l")[0]: shape for key, shape in self._shapes.items()}
        rows, width = shapes.get("weight_hh", (0, 1))
        projected = "weight_hr" in shapes
        gates = rows // (shapes["weight_hr"][1] if projected else width)
        for prefix, symbols in _SYMBOLS.items():
            if name.startswith(prefix):
                return symbols.format(rows=f"{gates}*H" if gates > 1 else "H", h="P" if projected else "H")
        return "shape"

    def load(self, values: Mapping[str, Any]) -> None:
        """Copy in every parameter from `values`; nothing changes unless all names and shapes are right.

        Parameters
        ----------
        values : mapping of str to array_like
            The same names and shapes; any real dtype, converted to this one.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs.
        TypeError
            If a value is not an array of real numbers.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"state_dict: expected a mapping, got {type(values).__name__}")
        _check.names("state_dict", values, self._shapes)
        staged = self.empty_like()
        for name, view in staged.items():
            view[...] = self._read(name, values[name])
        self._flat[...] = staged.flat

    def astype(self, dtype: np.dtype[Any]) -> Parameters:
        """Return a copy, converted to `dtype`."""
        copy = Parameters(self._shapes, dtype)
        copy.flat[...] = self._flat
        return copy

    def laid_out_as(self, other: Parameters) -> bool:
        """Return whether the vector of `other` has the same names and shapes in the same order."""
        return list(self._shapes.items()) == list(other._shapes.items())

    def empty_like(self) -> Parameters:
        """Return uninitialised parameters of the same names, shapes and dtype, for gradients."""
        twin = Parameters.__new__(Parameters)
        twin._shapes = self._shapes
        twin._allocate(self._flat.size, self._flat.dtype)
        return twin

    def read_only(self) -> Parameters:
        """Make every array refuse writing from now on, but for views taken before; return self."""
        base = self._flat.base
        if isinstance(base, np.ndarray):
            base.flags.writeable = False
        self._flat.flags.writeable = False
        self._named = None
        return self


def _restore(shapes: Shapes, flat: NDArray[Any], writeable: bool) -> Parameters:
    parameters = Parameters(shapes, flat.dtype)
    parameters.flat[...] = flat
    return parameters if writeable else parameters.read_only()


@functools.lru_cache(maxsize=256)
def suffixes(layers: int, directions: int) -> tuple[str, ...]:
    """Return what the names of each part's parameters end in, layer by layer: "_l0", "_l0_reverse", .."""
    return tuple(f"_l{layer}{way}" for layer in range(layers) for way in ("", "_reverse")[:directions])


def layer_shapes(
    gates: int,
    input_size: int,
    hidden_size: int,
    bias: bool,
    peephole: bool,
    layers: int,
    directions: int,
    proj_size: int = 0,
) -> Shapes:
    """Return the names and shapes of a layer's parameters: those of torch.nn, and the peepholes.

    Parameters
    ----------
    gates : int
        4 for the LSTM, 3 for the GRU, 1 for the RNN.
    input_size, hidden_size : int
        I and H.
    bias, peephole : bool
        Whether there are biases and peephole weights.
    layers, directions : int
        L and D.
    proj_size : int
        P, or 0 without a projection.

    Returns
    -------
    dict of str to tuple of int
        In the order in which the kernels take them; gates i, f, g, o or r, z, n, peepholes i, f, o.
    """
    rows, out = gates * hidden_size, proj_size or hidden_size
    shapes: Shapes = {}
    for n, end in enumerate(suffixes(layers, directions)):
        width = input_size if n < directions else directions * out
        shapes |= {f"weight_ih{end}": (rows, width), f"weight_hh{end}": (rows, out)}
        if bias:
            shapes |= {f"bias_ih{end}": (rows,), f"bias_hh{end}": (rows,)}
        if peephole:
            shapes[f"weight_peephole{end}"] = (3, hidden_size)
        if proj_size:
            shapes[f"weight_hr{end}"] = (proj_size, hidden_size)
    return shapes


def layer_weights(parameters: Mapping[str, NDArray[Any]], layers: int, directions: int) -> list[Weights]:
    """Return what the kernels take of each part: matrices, biases, peepholes, projection; None: not there."""
    get = parameters.get
    return [tuple(map(get, names)) for names in _weight_names(layers, directions)]


@functools.lru_cache(maxsize=256)
def _weight_names(layers: int, directions: int) -> list[tuple[str, ...]]:
    """Return the name that each kind of weight of each part has if it is there."""
    return [tuple(name + end for name in _KINDS) for end in suffixes(layers, directions)]


def initialise(parameters: Parameters, bound: float, seed: Any) -> None:
    """Draw every parameter from the uniform distribution between -bound and bound, as torch.nn does.

    Parameters
    ----------
    parameters : Parameters
        Overwritten.
    bound : float
        1/sqrt(H) for a recurrent layer.
    seed : None, int, numpy.random.Generator, ...
        What `numpy.random.default_rng` takes. The same seed gives the same numbers, rounded to the dtype.
    """
    parameters.flat[...] = np.random.default_rng(seed).uniform(-bound, bound, parameters.flat.size)
