"""Every rule on arguments (types, dtypes, shapes, ranges) and its message.

Two levels: functions on one value, used by all the API, and `Layout`, which knows what arrays a layer takes
and brings them to the one form that the kernels read: time-major, C-contiguous, aligned, native, of one
dtype. Arrays already in that form are passed on without a copy; none is ever written.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ._memory import empty

__all__ = [
    "ACTIVATIONS",
    "Layout",
    "activations",
    "contiguous",
    "fits",
    "flag",
    "floating",
    "layer_dtype",
    "names",
    "not_yet",
    "number",
    "numeric",
    "path",
    "precision",
    "real",
    "shape",
    "size",
    "step_clip",
    "truncation",
]

MAX_BYTES = 2**63 - 1
ACTIVATIONS = ("sigmoid", "hard_sigmoid", "tanh", "relu", "softsign", "identity")


def size(name: str, value: object, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        result = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__} {value!r}") from None
    if result < minimum:
        raise ValueError(f"{name}: expected at least {minimum}, got {result}")
    return result


def flag(name: str, value: object) -> bool:
    """Return `value` as a bool; only a bool will do."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {type(value).__name__} {value!r}")
    return bool(value)


def steps(value: object) -> tuple[bool, bool]:
    """Return whether gradients of single steps are wanted, and whether their norms."""
    if isinstance(value, str):
        if value != "norms":
            raise ValueError(f"steps: expected True, False or 'norms', got {value!r}")
        return False, True
    return (flag("steps", value),) * 2


def real(name: str, value: object) -> float:
    """Return `value` as a float: any, infinite ones and NaN too."""
    try:
        if isinstance(value, (bool, np.bool_, str)):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name}: expected a number, got {type(value).__name__} {value!r}") from None


def path(name: str, value: Any) -> str:
    """Return the name of a file; a number, which `open` takes for a file that is open, is none."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{name}: expected a path, got {type(value).__name__} {value!r}")
    return os.fsdecode(value)


def number(name: str, value: object, low: float = 0.0, high: float = np.inf, *, above: bool = False) -> float:
    """Return `value` as a float in [low, high], or in (low, high] with `above`."""
    result = real(name, value)
    if not low <= result <= high or (above and result == low):
        bound = ("above " if above else "at least ") + f"{low:g}"
        bound += "" if high == np.inf else f" and at most {high:g}"
        raise ValueError(f"{name}: expected a number {bound}, got {value!r}")
    return result


def not_yet(name: str, value: object, only: object) -> None:
    """Refuse a value that the interface names but this version cannot compute."""
    if isinstance(value, np.ndarray) or value != only:
        only_this = "" if only is None else f", only {name}={only!r}"
        raise ValueError(f"{name}: {value!r} is not supported yet{only_this}")


def layer_dtype(value: DTypeLike) -> np.dtype[Any]:
    """Return the dtype of a layer: float32 or float64, in the machine's byte order."""
    try:
        dtype = np.dtype(np.void if value is None else value).newbyteorder("=")
    except TypeError:
        dtype = np.dtype(np.void)
    if dtype not in (np.float32, np.float64):
        raise TypeError(f"dtype: expected float32 or float64, got {value!r}")
    return dtype


def activations(value: Any) -> tuple[str, str, str]:
    """Return the names of the gate, candidate and output activation."""
    names = tuple(value) if isinstance(value, (tuple, list)) else ()
    if len(names) != 3 or any(name not in ACTIVATIONS for name in names):
        known = ", ".join(ACTIVATIONS)
        raise ValueError(
            f"activations: expected three names (gate, candidate, output) of {known}, got {value!r}"
        )
    return names


def precision(value: str | None, default: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of an engine."""
    if value is None:
        return default
    if value in ("bfloat16", "int8"):
        not_yet("precision", value, default.name)
    if value not in ("float32", "float64"):
        raise ValueError(f"precision: expected float32, float64, bfloat16 or int8, got {value!r}")
    return np.dtype(value)


def fits(name: str, bytes_per_item: int, **sizes: int) -> None:
    """Refuse sizes whose product, in bytes, passes 2**63 - 1; a zero counts as 1."""
    product = bytes_per_item
    for value in sizes.values():
        product *= value or 1
    if product > MAX_BYTES:
        text = ", ".join(f"{letter}={value}" for letter, value in sizes.items())
        raise ValueError(f"{name}: sizes too large, {text} need {product} bytes, above 2**63 - 1")


def shape(name: str, given: tuple[int, ...], symbols: str, expected: tuple[int, ...]) -> None:
    """Refuse a shape other than `expected`, which `symbols` spells in letters."""
    if given != expected:
        raise ValueError(f"{name}: expected shape {symbols} = {expected}, got {given}")


def names(what: str, given: Iterable[str], expected: Iterable[str]) -> None:
    """Refuse a mapping that lacks a name or has one too many."""
    have, want = list(given), list(expected)
    missing, unknown = [n for n in want if n not in have], [n for n in have if n not in want]
    if missing or unknown:
        parts = [f"missing {', '.join(missing)}"] if missing else []
        parts += [f"unknown {', '.join(map(str, unknown))}"] if unknown else []
        raise ValueError(f"{what}: {'; '.join(parts)} (expected {', '.join(want)})")


def _as_array(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as an ndarray, through DLPack where it knows nothing older, or raise with its name."""
    if value is None or isinstance(value, (str, bytes)):
        raise TypeError(f"{name}: expected an array, got {value!r}")
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: a masked array would lose its mask; fill it first (.filled(...))")
    try:
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            return np.asarray(np.from_dlpack(value))
        return np.asarray(value)
    except MemoryError:
        raise
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"{name}: cannot be read as an array: {error}") from error


def _is_plain_list(value: object) -> bool:
    """Whether `value` is Python numbers in nested lists: it has no dtype, so it takes the layer's."""
    while isinstance(value, (list, tuple)) and value:
        value = value[0]
    return type(value) in (float, int, list, tuple)


def floating(name: str, value: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `value` as an array that converts to `dtype` without loss: `dtype`, or float32 for float64."""
    array = value if type(value) is np.ndarray else _as_array(name, value)
    given = array.dtype
    if given == dtype:
        return array
    if given.newbyteorder("=") == dtype or (given.newbyteorder("=") == np.float32 and dtype == np.float64):
        return array
    if given == np.float64 and _is_plain_list(value):
        return array.astype(dtype)
    hint = " (convert it with .astype(np.float32), or use a layer or engine of float64)"
    hint = hint if given.newbyteorder("=") == np.float64 else ""
    raise TypeError(f"{name}: expected {dtype}, got {given}{hint}")


def numeric(name: str, value: Any) -> NDArray[Any]:
    """Return `value` as an array of real numbers of any dtype: weights are converted on loading."""
    detach = getattr(value, "detach", None)
    array = _as_array(name, detach() if callable(detach) else value)
    kind = array.dtype.kind
    if kind in "fiu" or (kind == "V" and array.dtype.names is None and np.can_cast(array.dtype, np.float64)):
        return array
    raise TypeError(f"{name}: expected real numbers, got dtype {array.dtype}")


def contiguous(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return `array` itself if it is C-contiguous, aligned, native and of `dtype`, else a copy that is."""
    flags = array.flags
    if array.dtype == dtype and flags.c_contiguous and flags.aligned:
        return array
    copy = empty(array.shape, dtype)
    copy[...] = array
    return copy


def truncation(value: Any, bidirectional: bool) -> tuple[int, int] | None:
    """Return the pair (k1, k2) that `truncate` means; None stays None."""
    if value is None:
        return None
    if bidirectional:
        raise ValueError(f"truncate: has no meaning in a bidirectional layer, got {value!r}")
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        raise ValueError(f"truncate: expected k or (k1, k2), got {value!r}")
    return size("truncate", pair[0]), size("truncate", pair[1])


def step_clip(value: Any, has_cell_state: bool) -> tuple[float, float, float] | None:
    """Return the bounds of hidden, cell and gates that `step_clip` means, infinity for none, or None."""
    if value is None:
        return None
    bounds = dict(value) if isinstance(value, Mapping) else {"gates": value}
    known = ("hidden", "cell", "gates")
    for name in bounds:
        if name not in known:
            raise ValueError(f"step_clip: expected keys among {', '.join(known)}, got {name!r}")
    if "cell" in bounds and not has_cell_state:
        raise ValueError("step_clip: 'cell' has no meaning in a layer without a cell state")
    hidden, cell, gates = (number("step_clip", bounds.get(name, np.inf)) for name in known)
    return hidden, cell, gates


@dataclass(frozen=True, slots=True)
class Layout:
    """What arrays a layer takes and gives: sizes, dtype, order of axes.

    Attributes
    ----------
    input_size, hidden_size : int
        I and H.
    batch_first : bool
        Whether sequences come and go as (B, T, ...) in place of (T, B, ...).
    dtype : numpy.dtype
        float32 or float64, native.
    layers, directions : int
        L, and D: 2 if there is a reverse direction.
    cell : tuple
        Arguments of ``Cell`` in the core: "LSTM", "GRU" or "RNN", activations, coupled, and so on.
    proj_size : int
        P, or 0 without a projection.
    has_cell_state : bool
        Whether a state is a pair (h, c).
    saved : int
        How many gates of each unit a tape keeps.
    width : int
        Numbers in h of one direction: P with a projection, else H.
    draws : bool
        Whether there is recurrent dropout or zoneout.
    parts : int
        L * D: what has a state of its own.
    """

    input_size: int
    hidden_size: int
    batch_first: bool
    dtype: np.dtype[Any]
    layers: int = 1
    directions: int = 1
    cell: tuple[Any, ...] = ("LSTM",)
    proj_size: int = 0
    # Once for all calls: a short one asks some forty times.
    has_cell_state: bool = field(init=False, repr=False, compare=False)
    saved: int = field(init=False, repr=False, compare=False)
    width: int = field(init=False, repr=False, compare=False)
    draws: bool = field(init=False, repr=False, compare=False)
    parts: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        derived = {
            "has_cell_state": self.cell[0] == "LSTM",
            "saved": 0 if self.cell[0] == "RNN" else 4,
            "width": self.proj_size or self.hidden_size,
            "draws": any(self.cell[5:7]),
            "parts": self.layers * self.directions,
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def sequence(self, x: Any) -> tuple[NDArray[Any], bool]:
        """Return `x` as a (T, B, I) array fit for the kernels, and whether it came with a batch axis."""
        array = floating("x", x, self.dtype)
        given = array.shape
        batched = len(given) == 3
        if not batched and len(given) != 2:
            raise ValueError(f"x: expected shape {self._symbols('I', True)} or unbatched (T, I), got {given}")
        if given[-1] != self.input_size:
            shape("x", given, self._symbols("I", batched), (*given[:-1], self.input_size))
        array = self._time_major(array, batched)
        T, B, features = array.shape
        if not 0 < T * B * (features + 4 * self.parts * self.hidden_size) < 2**56:  # the usual case
            fits("x", self.dtype.itemsize, T=T, B=B, I=features)
            fits("x", 4 * self.parts * self.dtype.itemsize, T=T, B=B, H=self.hidden_size)
        return contiguous(array, self.dtype), batched

    def lengths(self, value: Any, T: int, B: int, batched: bool) -> NDArray[Any] | None:
        """Return the lengths of the rows as (B,) int64; None stays None."""
        if value is None:
            return None
        array = _as_array("lengths", value)
        if array.dtype.kind not in "iu":
            raise TypeError(f"lengths: expected integers, got {array.dtype}")
        if batched or array.ndim:
            shape("lengths", array.shape, "(B,)", (B,))
        wrong = (array < 0) | (array > T)
        if wrong.any():
            raise ValueError(f"lengths: expected 0 to T = {T}, got {array[wrong].flat[0]}")
        return np.ascontiguousarray(array.reshape(B), np.int64)

    def resets(self, value: Any, T: int, B: int, batched: bool) -> NDArray[Any] | None:
        """Return where rows start anew as (T, B) bool; None stays None."""
        if value is None:
            return None
        array = _as_array("resets", value)
        if array.dtype != np.bool_:
            raise TypeError(f"resets: expected bool, got {array.dtype}")
        if batched:
            shape("resets", array.shape, "(T, B)", (T, B))
        else:
            shape("resets", array.shape, "(T,)", (T,))
        return array.reshape(T, B)

    def output_gradient(self, value: Any, T: int, B: int, batched: bool) -> NDArray[Any]:
        """Return d_output, given like the layer's output, as a (T, B, D*P) array fit for the kernels."""
        array = floating("d_output", value, self.dtype)
        N = self.directions * self.width
        expected = (T, N) if not batched else (B, T, N) if self.batch_first else (T, B, N)
        if array.shape != expected:
            last = self._h if self.directions == 1 else f"2*{self._h}"
            shape("d_output", array.shape, self._symbols(last, batched), expected)
        return contiguous(self._time_major(array, batched), self.dtype)

    def state(
        self, value: Any, B: int, batched: bool, given: tuple[str, str] = ("h_0", "c_0"), what: str = "state"
    ) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
        """Return the states, h (L*D, B, P), c (L*D, B, H) or unbatched without B, with B, or None."""
        if value is None:
            return None, None
        if not self.has_cell_state:
            if isinstance(value, (tuple, list)):
                got = f"{type(value).__name__} of {len(value)}"
                raise TypeError(f"{what}: expected an array, {given[0]}, got {got}")
            return self._state(given[0], value, B, batched, self.width, self._h), None
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            count = f" of {len(value)}" if isinstance(value, (tuple, list)) else ""
            got = f"{type(value).__name__}{count}"
            raise TypeError(f"{what}: expected a pair ({given[0]}, {given[1]}), got {got}")
        h = None if value[0] is None else self._state(given[0], value[0], B, batched, self.width, self._h)
        c = None if value[1] is None else self._state(given[1], value[1], B, batched, self.hidden_size, "H")
        return h, c

    def _state(self, name: str, value: Any, B: int, batched: bool, width: int, letter: str) -> NDArray[Any]:
        array = floating(name, value, self.dtype)
        if batched:
            expected: tuple[int, ...] = (self.parts, B, width)
            if array.shape != expected:
                shape(name, array.shape, f"(L*D, B, {letter})", expected)
            return contiguous(array, self.dtype)
        if array.shape != (self.parts, width):
            shape(name, array.shape, f"(L*D, {letter})", (self.parts, width))
        return contiguous(array[:, None], self.dtype)

    @property
    def _h(self) -> str:
        """The letter that stands for `width`."""
        return "P" if self.proj_size else "H"

    def _symbols(self, last: str, batched: bool) -> str:
        if not batched:
            return f"(T, {last})"
        return f"(B, T, {last})" if self.batch_first else f"(T, B, {last})"

    def _time_major(self, array: NDArray[Any], batched: bool) -> NDArray[Any]:
        """View an array in the caller's order of axes as (T, B, N)."""
        if not batched:
            return array[:, None]
        return array.transpose(1, 0, 2) if self.batch_first else array

    def as_given(self, array: NDArray[Any], batched: bool) -> NDArray[Any]:
        """View a (T, B, N) result in the caller's order of axes."""
        if not batched:
            return array[:, 0]
        return array.transpose(1, 0, 2) if self.batch_first else array

    def state_as_given(self, array: NDArray[Any], batched: bool) -> NDArray[Any]:
        """View an (L*D, B, N) state as it is, or as (L*D, N) when unbatched."""
        return array if batched else array[:, 0]

    def states_as_given(self, h: NDArray[Any], c: NDArray[Any] | None, batched: bool) -> Any:
        """Return the pair (h, c), or h alone where there is no cell state, in the caller's form."""
        shown = self.state_as_given(h, batched)
        return shown if c is None else (shown, self.state_as_given(c, batched))
