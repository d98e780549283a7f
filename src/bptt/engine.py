"""Frozen inference: an immutable engine with packed weights, and streams that hold a state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _backend, _check, _reference_core
from ._check import Layout
from ._memory import empty
from ._threads import get_num_threads
from .parameters import Parameters, Weights, lstm_weights

__all__ = ["Engine", "Stream", "infer"]

State: TypeAlias = "tuple[NDArray[Any], NDArray[Any]]"


def infer(
    core: Any, layout: Layout, weights: Weights | None, packed: Any, x: Any, state: Any
) -> tuple[NDArray[Any], State]:
    """Run a sequence and keep nothing: what a call of a layer or of an engine does.

    Parameters
    ----------
    core : module
        ``bptt._core`` or its twin.
    layout : Layout
        Sizes, dtype, order of axes.
    weights : tuple of ndarray or None
        As `lstm_weights` gives them; None if `packed` is given.
    packed : object
        What ``core.pack`` returned, or None.
    x, state
        As the user gave them.

    Returns
    -------
    output, (h_n, c_n)
        New arrays in the user's order of axes.
    """
    x, batched = layout.sequence(x)
    T, B, _ = x.shape
    h_0, c_0 = layout.state(state, B, batched)
    output = empty((T, B, layout.hidden_size), layout.dtype)
    h_n = empty((B, layout.hidden_size), layout.dtype)
    c_n = empty((B, layout.hidden_size), layout.dtype)
    if B:  # without rows there is nothing to fill, however many steps
        core.forward(core.LSTM, get_num_threads(), weights, packed, x, h_0, c_0, output, h_n, c_n, None, None)
    if batched and not layout.batch_first:
        return output, (h_n[None], c_n[None])
    states = layout.state_as_given(h_n, batched), layout.state_as_given(c_n, batched)
    return layout.as_given(output, batched), states


class Engine:
    """An LSTM for inference: immutable, its weights packed once, safe to call from many threads at once.

    Made by `LSTM.freeze`. Later changes of the layer do not reach it. It can be pickled; the weights are
    packed again on loading, for the machine that loads.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> engine = bptt.LSTM(3, 4, seed=0).freeze()
    >>> output, (h_n, c_n) = engine(np.ones((5, 2, 3), np.float32))
    >>> output.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    __slots__ = ("__weakref__", "_layout", "_lock", "_packs", "_parameters")

    def __init__(self, layout: Layout, parameters: Parameters) -> None:
        self._layout = layout
        self._parameters = parameters.read_only()
        self._lock = threading.Lock()
        self._packs: dict[Any, Any] = {}
        self._packed(_backend.core())

    def _packed(self, core: Any) -> Any:
        """Return the weights as `core` packs them: once for each backend that this engine is called under."""
        packed = self._packs.get(core)
        if packed is None:
            with self._lock:
                packed = self._packs.get(core)
                if packed is None:
                    packed = core.pack(core.LSTM, get_num_threads(), lstm_weights(self._parameters))
                    self._packs[core] = packed
        return packed

    @property
    def input_size(self) -> int:
        """I."""
        return self._layout.input_size

    @property
    def hidden_size(self) -> int:
        """H."""
        return self._layout.hidden_size

    @property
    def batch_first(self) -> bool:
        """Whether sequences are (B, T, ...), as in the layer."""
        return self._layout.batch_first

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of inputs, states and results."""
        return self._layout.dtype

    @property
    def precision(self) -> str:
        """What the engine computes in: "float32" or "float64"."""
        return self._layout.dtype.name

    @property
    def variant(self) -> str:
        """The kernel variant that the weights are packed for, or "reference" under that backend."""
        return str(self._packed(_backend.core()).variant)

    @property
    def parameters(self) -> Parameters:
        """A copy of the layer's, read-only."""
        return self._parameters

    def __call__(
        self, x: Any, state: Any = None, *, lengths: None = None, resets: None = None
    ) -> tuple[NDArray[Any], State]:
        """Run a sequence from a state (zeros by default): as `LSTM.__call__`, with the same bits.

        Parameters
        ----------
        x : array_like, (T, B, I), (B, T, I) with `batch_first`, or (T, I)
            Of the engine's dtype; a float64 engine takes float32 too.
        state : tuple of array_like, optional
            h_0 and c_0, each (1, B, H), unbatched (1, H).
        lengths, resets : None
            Not supported yet.

        Returns
        -------
        output : ndarray
            h_t of every step: (T, B, H), (B, T, H) or (T, H).
        (h_n, c_n) : tuple of ndarray
            The state after the last step, shaped like `state`.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong dtype or shape; the message names it.
        """
        if lengths is not None or resets is not None:
            _check.not_yet("lengths", lengths, None)
            _check.not_yet("resets", resets, None)
        core = _backend.core()
        return infer(core, self._layout, None, self._packed(core), x, state)

    def stream(self, batch_size: int | None = None) -> Stream:
        """Return a stream that starts from the zero state.

        Parameters
        ----------
        batch_size : int, optional
            B, for (B, I) steps; None for a single sequence of (I,) steps.

        Returns
        -------
        Stream
        """
        return Stream(self, batch_size)

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine, (self._layout, self._parameters)

    def __repr__(self) -> str:
        return f"Engine({self.input_size}, {self.hidden_size}, {self.precision}, {self.variant})"


class Stream:
    """A sequence that arrives step by step, or a batch of them in step; made by `Engine.stream`.

    A stream holds its state and belongs to one thread at a time. Its results are the bits of one call over
    the whole sequence.

    Attributes
    ----------
    engine : Engine
        Whose weights it uses.
    batch_size : int or None
        B, or None for a single sequence.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> stream = bptt.LSTM(3, 4, seed=0).freeze().stream()
    >>> stream.step(np.ones(3, np.float32)).shape
    (4,)
    >>> stream.run(np.ones((5, 3), np.float32)).shape
    (5, 4)
    >>> stream.reset()
    >>> float(abs(stream.state[0]).max())
    0.0
    """

    __slots__ = {
        "__weakref__": None,
        "_c": None,
        "_core": None,
        "_h": None,
        "_packed": None,
        "batch_size": "B, or None for a single sequence.",
        "engine": "The engine whose weights the stream uses.",
        "step": """``step(x, out=None)``: advance by one step and return the output of the layer.

        x : array_like, (I,) or (B, I)
            Of the engine's dtype; a float64 engine takes float32 too.
        out : ndarray, (H,) or (B, H), optional
            Where to write the output; C-contiguous, of the engine's dtype, apart from x. By default a new
            array.
        """,
    }

    step: Callable[..., NDArray[Any]]
    engine: Engine
    batch_size: int | None

    def __init__(self, engine: Engine, batch_size: int | None = None) -> None:
        rows = 1 if batch_size is None else _check.size("batch_size", batch_size, 0)
        _check.fits("batch_size", 8 * engine.dtype.itemsize, B=rows, H=engine.hidden_size)
        self.engine = engine
        self.batch_size = None if batch_size is None else rows
        self._core = _backend.core() if rows else _reference_core  # the kernels need a row; NumPy does not
        self._h = np.zeros((rows, engine.hidden_size), engine.dtype)
        self._c = np.zeros_like(self._h)
        self._packed = engine._packed(self._core)
        self.step = self._core.Stream(self._packed, self.batch_size or 0, self._h, self._c).step

    @property
    def _layout(self) -> Layout:
        return self.engine._layout._replace(batch_first=False)

    @property
    def state(self) -> State:
        """Copies of h and c, each (1, B, H), unbatched (1, H); assign a pair of such arrays to set them."""
        batched = self.batch_size is not None
        layout = self._layout
        return layout.state_as_given(self._h.copy(), batched), layout.state_as_given(self._c.copy(), batched)

    @state.setter
    def state(self, value: Any) -> None:
        h, c = self._layout.state(value, len(self._h), self.batch_size is not None, ("h", "c"))
        if h is None or c is None:
            raise TypeError("state: expected a pair (h, c) of arrays, got None (reset() sets zeros)")
        self._h[...], self._c[...] = h.copy(), c.copy()

    def run(self, x: Any) -> NDArray[Any]:
        """Advance by T steps.

        Parameters
        ----------
        x : array_like, (T, B, I), or (T, I) for a stream without a batch
            Always with time first.

        Returns
        -------
        ndarray, (T, B, H) or (T, H)
            The output of every step; the same bits as from T calls of ``step``.

        Raises
        ------
        TypeError, ValueError
            If `x` has a wrong dtype or shape; the state is then unchanged.
        """
        layout = self._layout
        array, batched = layout.sequence(x)
        rows = len(self._h)
        if batched != (self.batch_size is not None) or array.shape[1] != rows:
            T, B, I = array.shape
            given, expected = ((T, B, I) if batched else (T, I)), (T, rows, I)
            if self.batch_size is None:
                _check.shape("x", given, "(T, I)", (T, I))
            _check.shape("x", given, "(T, B, I)", expected)
        output = empty((len(array), rows, layout.hidden_size), layout.dtype)
        h_n, c_n = np.empty_like(self._h), np.empty_like(self._c)
        if rows:
            args = (array, self._h, self._c, output, h_n, c_n, None, None)
            self._core.forward(self._core.LSTM, get_num_threads(), None, self._packed, *args)
        self._h[...], self._c[...] = h_n, c_n
        return layout.as_given(output, batched)

    def reset(self, mask: Any = None) -> None:
        """Set the state to zero.

        Parameters
        ----------
        mask : array_like of bool, (B,), optional
            Which sequences of the batch to reset; all by default.

        Raises
        ------
        TypeError, ValueError
            If `mask` is not of bools, or not (B,).
        """
        if mask is None:
            self._h[...], self._c[...] = 0, 0
            return
        rows = np.asarray(mask)
        if rows.dtype != np.bool_:
            raise TypeError(f"mask: expected bool, got {rows.dtype}")
        _check.shape("mask", rows.shape, "(B,)", (len(self._h),))
        self._h[rows], self._c[rows] = 0, 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_stream, (self.engine, self.batch_size, self.state)

    def __repr__(self) -> str:
        return f"Stream(batch_size={self.batch_size}, {self.engine!r})"


def _restore_stream(engine: Engine, batch_size: int | None, state: State) -> Stream:
    stream = Stream(engine, batch_size)
    stream.state = state
    return stream
