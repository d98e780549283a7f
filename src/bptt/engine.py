"""Frozen inference: an immutable engine with packed weights, and streams that hold a state."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _backend, _check, _forward, _reference_core
from ._check import Layout
from ._course import ALL_STEPS, course_of
from ._program import cell_of
from ._threads import get_num_threads
from .parameters import Parameters, Weights, layer_weights

__all__ = ["Engine", "Stream", "infer"]

State: TypeAlias = "Any"  # the pair (h, c), or h alone where there is no cell state


def infer(
    core: Any,
    layout: Layout,
    weights: list[Weights] | None,
    packs: list[Any] | None,
    x: Any,
    state: Any,
    lengths: Any,
    resets: Any,
) -> tuple[NDArray[Any], State]:
    """Run a sequence and keep nothing: what a call of a layer or of an engine does.

    Parameters
    ----------
    core : module
        ``bptt._core`` or its twin.
    layout : Layout
        Sizes, dtype, order of axes.
    weights : list of tuple or None
        As `layer_weights` gives them; None if `packs` are given.
    packs : list or None
        What ``core.pack`` returned for each of them, or None.
    x, state, lengths, resets
        As the user gave them.

    Returns
    -------
    output, (h_n, c_n)
        New arrays in the user's order of axes.
    """
    x, batched = layout.sequence(x)
    h_0, c_0 = layout.state(state, x.shape[1], batched)
    course = course_of(layout, lengths, resets, len(x), x.shape[1], batched)
    output, h_n, c_n = _forward.infer(core, layout, weights, packs, x, h_0, c_0, course)
    if batched and not layout.batch_first:
        return output, h_n if c_n is None else (h_n, c_n)
    return layout.as_given(output, batched), layout.states_as_given(h_n, c_n, batched)


class Engine:
    """A layer for inference: immutable, its weights packed once, safe to call from many threads at once.

    Made by a layer's ``freeze``. Later changes of the layer do not reach it. It can be pickled; the weights
    are packed again on loading, for the machine that loads.

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

    def _packed(self, core: Any) -> list[Any]:
        """Return the weights as `core` packs them: once for each backend that this engine is called under."""
        packs: list[Any] | None = self._packs.get(core)
        if packs is None:
            with self._lock:
                packs = self._packs.get(core)
                if packs is None:
                    layout, threads = self._layout, get_num_threads()
                    weights = layer_weights(self._parameters, layout.layers, layout.directions)
                    packs = self._packs[core] = [
                        core.pack(cell_of(core, layout.cell), threads, part) for part in weights
                    ]
        return packs

    @property
    def input_size(self) -> int:
        """I."""
        return self._layout.input_size

    @property
    def hidden_size(self) -> int:
        """H."""
        return self._layout.hidden_size

    @property
    def proj_size(self) -> int:
        """P, or 0 without a projection."""
        return self._layout.proj_size

    @property
    def num_layers(self) -> int:
        """L."""
        return self._layout.layers

    @property
    def bidirectional(self) -> bool:
        """Whether there is a reverse direction."""
        return self._layout.directions == 2

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
        return str(self._packed(_backend.core())[0].variant)

    @property
    def parameters(self) -> Parameters:
        """A copy of the layer's, read-only."""
        return self._parameters

    def __call__(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None
    ) -> tuple[NDArray[Any], State]:
        """Run a sequence from a state (zeros by default): as a call of the layer, with the same bits.

        Parameters
        ----------
        x : array_like, (T, B, I), (B, T, I) with `batch_first`, or (T, I)
            Of the engine's dtype; a float64 engine takes float32 too.
        state : tuple of array_like, optional
            h_0 and c_0, each (L*D, B, H), unbatched (L*D, H); h_0 with P in place of H if projected.
        lengths, resets
            As for a call of the layer.

        Returns
        -------
        output : ndarray
            h_t of every step of the last layer: (T, B, D*H), (B, T, D*H) or (T, D*H); D*P if projected.
        (h_n, c_n) : tuple of ndarray
            The state after the last step, shaped like `state`.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong dtype or shape; the message names it.
        """
        core = _backend.core()
        return infer(core, self._layout, None, self._packed(core), x, state, lengths, resets)

    def stream(self, batch_size: int | None = None) -> Stream:
        """Return a stream that starts from the zero state.

        Parameters
        ----------
        batch_size : int, optional
            B, for (B, I) steps; None for a single sequence of (I,) steps.

        Returns
        -------
        Stream

        Raises
        ------
        ValueError
            If the layer is bidirectional: its reverse direction starts at the end.
        """
        if self.bidirectional:
            raise ValueError("stream: a bidirectional layer needs the whole sequence; got bidirectional=True")
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
        "_packs": None,
        "batch_size": "B, or None for a single sequence.",
        "engine": "The engine whose weights the stream uses.",
        "step": """``step(x, out=None)``: advance by one step and return the output of the layer.

        x : array_like, (I,) or (B, I)
            Of the engine's dtype; a float64 engine takes float32 too.
        out : ndarray, (H,) or (B, H), P in place of H if projected, optional
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
        layout, states = engine._layout, (engine.num_layers, rows)
        self._h = np.zeros((*states, layout.width), engine.dtype)
        self._c = np.zeros((*states, layout.hidden_size), engine.dtype) if layout.has_cell_state else None
        self._packs = engine._packed(self._core)
        size = self.batch_size or 0
        self.step = self._core.Stream(tuple(self._packs), size, self._h, self._c).step

    @property
    def _layout(self) -> Layout:
        return replace(self.engine._layout, batch_first=False)

    @property
    def state(self) -> State:
        """Copies of h and c, each (L, B, H), unbatched (L, H), or h alone; assign such arrays to set."""
        c = None if self._c is None else self._c.copy()
        return self._layout.states_as_given(self._h.copy(), c, self.batch_size is not None)

    @state.setter
    def state(self, value: Any) -> None:
        h, c = self._layout.state(value, self._h.shape[1], self.batch_size is not None, ("h", "c"))
        if h is None or (c is None and self._c is not None):
            raise TypeError("state: expected a pair (h, c) of arrays, got None (reset() sets zeros)")
        h = h.copy()
        if self._c is not None:
            self._c[...] = c
        self._h[...] = h

    def run(self, x: Any) -> NDArray[Any]:
        """Advance by T steps.

        Parameters
        ----------
        x : array_like, (T, B, I), or (T, I) for a stream without a batch
            Always with time first.

        Returns
        -------
        ndarray, (T, B, H) or (T, H), P in place of H if projected
            The output of every step; the same bits as from T calls of ``step``.

        Raises
        ------
        TypeError, ValueError
            If `x` has a wrong dtype or shape; the state is then unchanged.
        """
        layout = self._layout
        array, batched = layout.sequence(x)
        rows = self._h.shape[1]
        if batched != (self.batch_size is not None) or array.shape[1] != rows:
            T, B, I = array.shape
            given, expected = ((T, B, I) if batched else (T, I)), (T, rows, I)
            if self.batch_size is None:
                _check.shape("x", given, "(T, I)", (T, I))
            _check.shape("x", given, "(T, B, I)", expected)
        states = (self._h, self._c)
        output, h_n, c_n = _forward.infer(self._core, layout, None, self._packs, array, *states, ALL_STEPS)
        self._h[...] = h_n
        if self._c is not None:
            self._c[...] = c_n
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
            mask = np.ones(self._h.shape[1], np.bool_)
        rows = np.asarray(mask)
        if rows.dtype != np.bool_:
            raise TypeError(f"mask: expected bool, got {rows.dtype}")
        _check.shape("mask", rows.shape, "(B,)", (self._h.shape[1],))
        for states in (self._h, self._c):
            if states is not None:
                states[:, rows] = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore_stream, (self.engine, self.batch_size, self.state)

    def __repr__(self) -> str:
        return f"Stream(batch_size={self.batch_size}, {self.engine!r})"


def _restore_stream(engine: Engine, batch_size: int | None, state: State) -> Stream:
    stream = Stream(engine, batch_size)
    stream.state = state
    return stream
