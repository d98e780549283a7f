"""The functions of the compiled module, served by the NumPy specification.

Same names, arguments and meaning as ``bptt._core``, so that every caller runs on either. `threads` is taken
and not used.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import reference

__all__ = [
    "Cell",
    "Packed",
    "Stream",
    "Sums",
    "active_variant",
    "backward",
    "backward_call",
    "backward_layers",
    "flow",
    "forward",
    "forward_call",
    "forward_layers",
    "move",
    "pack",
    "row_norms",
    "run",
]

Array: TypeAlias = "NDArray[Any]"
Parameters: TypeAlias = "tuple[Array | None, ...]"

TRUNCATES = False  #: whether `backward` takes `truncate`: the specification is one call for each block

_NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_peephole", "weight_hr")


class Cell(NamedTuple):
    """A cell and its options."""

    kind: str
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh")
    coupled: bool = False
    cell_clip: float | None = None
    proj_clip: float | None = None
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    reset_after: bool = True

    @property
    def of_lstm(self) -> tuple[Any, ...]:
        """What the specification of the LSTM takes."""
        return self[1:-1]


class Packed:
    """A copy of the weights; there is nothing to pack for NumPy."""

    variant = "reference"

    def __init__(self, cell: Cell, parameters: Parameters) -> None:
        self.cell = cell
        self.parameters = tuple(None if array is None else array.copy() for array in parameters)


class Sums:
    """Nothing: the specification adds up call after call."""


def pack(cell: Cell, threads: int, parameters: Parameters) -> Packed:
    """Return a copy of the weights."""
    return Packed(cell, parameters)


def active_variant() -> str:
    """Return the name that stands for these functions."""
    return "reference"


def forward(
    cell: Cell,
    threads: int,
    parameters: Parameters | None,
    packed: Packed | None,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    output: Array | None,
    h_n: Array,
    c_n: Array | None,
    cells: Array | None,
    gates: Array | None,
    lengths: Array | None = None,
    resets: Array | None = None,
    seed: int | None = None,
    first_step: int = 0,
    x_order: Array | None = None,
    copy: Array | None = None,
    copy_order: Array | None = None,
) -> None:
    """Fill output (T,B,P), h_n (B,P), c_n (B,H) and, if given, cells (T,B,H) and gates (T,B,4,H).

    P is H but for a projection. Row b of x may stand at row x_order[b], and the output go to `copy` again,
    row b to row copy_order[b].
    """
    x = x if x_order is None else x[:, x_order]
    weights = _named(packed.parameters if packed is not None else parameters)
    h_0 = _or_zeros(h_0, h_n)
    if cell.kind == "LSTM":
        assert c_n is not None
        given = x, h_0, _or_zeros(c_0, c_n), weights
        options = *cell.of_lstm, seed, first_step
        results: tuple[Array, ...] = reference.lstm_forward(*given, lengths, resets, *options)
        targets: tuple[Array | None, ...] = (output, h_n, c_n, cells, gates)
    elif cell.kind == "GRU":
        results = reference.gru_forward(x, h_0, weights, lengths, resets, cell.reset_after)
        targets = (output, h_n, gates)
    else:
        results = reference.rnn_forward(x, h_0, weights, cell.activations[0], lengths, resets)
        targets = (output, h_n)
    for target, result in zip(targets, results, strict=True):
        if target is not None:
            target[...] = result
    if copy is not None:
        copy[:, copy_order] = results[0]


def backward(
    cell: Cell,
    threads: int,
    parameters: Parameters,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    output: Array,
    cells: Array | None,
    gates: Array | None,
    d_output: Array | None,
    d_h_n: Array | None,
    d_c_n: Array | None,
    d_x: Array | None,
    d_h_0: Array | None,
    d_c_0: Array | None,
    d_parameters: Parameters,
    d_hidden: Array | None,
    d_cells: Array | None,
    lengths: Array | None = None,
    resets: Array | None = None,
    seed: int | None = None,
    first_step: int = 0,
    step_clip: reference.StepClip | None = None,
    clipped: Array | None = None,
    norms: Array | None = None,
    accumulate: bool = False,
    sums: Sums | None = None,
) -> None:
    """Fill every gradient that is given: d_x, d_h_0, d_c_0, d_parameters, d_hidden, d_cells, and their norms.

    `step_clip` and `clipped` are those of the specification; with `accumulate` d_parameters are added to.
    """
    clip: Any = {"step_clip": step_clip or reference.NO_CLIP, "clipped": clipped}
    weights, state = _named(parameters), np.empty(output.shape[1:], output.dtype)
    h_0, d_h_n, errors = _or_zeros(h_0, state), _or_zeros(d_h_n, state), _or_zeros(d_output, output)
    if cell.kind == "LSTM":
        assert cells is not None
        assert gates is not None
        state = np.empty(cells.shape[1:], cells.dtype)
        tape = x, h_0, _or_zeros(c_0, state), weights, output, cells, gates
        options = *cell.of_lstm, seed, first_step
        dx, dh, dc, d_weights, *steps = reference.lstm_backward(
            *tape, errors, d_h_n, _or_zeros(d_c_n, state), lengths, resets, *options, **clip
        )
        results: tuple[Array, ...] = (dx, dh, dc, *steps)
        targets: tuple[Array | None, ...] = (d_x, d_h_0, d_c_0, d_hidden, d_cells)
    else:
        if cell.kind == "GRU":
            assert gates is not None
            given = x, h_0, weights, output, gates, errors, d_h_n, lengths, resets
            found = reference.gru_backward(*given, cell.reset_after, **clip)
        else:
            kind = cell.activations[0]
            rest = output, errors, d_h_n, kind, lengths, resets
            found = reference.rnn_backward(x, h_0, weights, *rest, **clip)
        dx, dh, d_weights, hidden = found
        results, targets = (dx, dh, hidden), (d_x, d_h_0, d_hidden)
    for target, result in zip(targets, results, strict=True):
        if target is not None:
            target[...] = result
    if norms is not None:
        norms[..., 0] = row_norms(threads, results[-1 - (cell.kind == "LSTM")])
        norms[..., 1] = row_norms(threads, results[-1]) if cell.kind == "LSTM" else 0
    for name, target in _named(d_parameters).items():
        target[...] = target + d_weights[name] if accumulate else d_weights[name]


def forward_call(*arguments: Any, **more: Any) -> Callable[[], None]:
    """Return the call of `forward`."""
    return partial(forward, *arguments, **more)


def backward_call(*arguments: Any, **more: Any) -> Callable[[], None]:
    """Return the call of `backward`."""
    return partial(backward, *arguments, **more)


def forward_layers(
    cell: Cell,
    threads: int,
    parameters: list[Parameters] | None,
    packs: list[Packed] | None,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    keep: bool,
    lengths: Array | None = None,
    resets: Array | None = None,
    seeds: list[int] | None = None,
    first_step: int = 0,
    order: Array | None = None,
) -> tuple[Array, Array, Array | None, Array | None, Array | None, Array | None, Array | None]:
    """Run `forward` of every layer of a stack in one direction, into new arrays.

    Returns output, h_n and c_n, and to `keep` x, outputs of all layers, cells and gates. Row b may stand at
    row order[b] of x and of the output.
    """
    all_weights = [packed.parameters for packed in packs] if packs is not None else parameters
    assert all_weights is not None
    weights, (T, B, _), has_c = _named(all_weights[0]), x.shape, cell.kind == "LSTM"
    L, W = len(all_weights), weights["weight_hh"].shape[1]
    H = weights["weight_hr"].shape[1] if "weight_hr" in weights else W
    hidden, h_n = np.empty((L, T, B, W), x.dtype), np.empty((L, B, W), x.dtype)
    c_n = np.empty((L, B, H), x.dtype) if has_c else None
    cells = np.empty((L, T, B, H), x.dtype) if keep and has_c else None
    gates = np.empty((L, T, B, 4, H), x.dtype) if keep and cell.kind != "RNN" else None
    given = x = x if order is None else _moved(x, order, lengths)
    for n in range(L if B else 0):
        tape = _at(h_0, n), _at(c_0, n), hidden[n], h_n[n], _at(c_n, n), _at(cells, n), _at(gates, n)
        how = lengths, resets, seeds[n] if seeds else None, first_step
        forward(cell, threads, all_weights[n], None, x, *tape, *how)
        x = hidden[n]
    output = hidden[-1] if order is None else _moved(hidden[-1], order, lengths, back=True)
    if keep:
        return output, h_n, c_n, given, hidden, cells, gates
    return output, h_n, c_n, None, None, None, None


def backward_layers(
    cell: Cell,
    threads: int,
    parameters: list[Parameters],
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    hidden: Array,
    cells: Array | None,
    gates: Array | None,
    d_output: Array | None,
    d_h_n: Array | None,
    d_c_n: Array | None,
    of_x: bool,
    flat: Array,
    lengths: Array | None = None,
    resets: Array | None = None,
    seeds: list[int] | None = None,
    first_step: int = 0,
    step_clip: reference.StepClip | None = None,
    truncate: None = None,
    d_hidden: Array | None = None,
    d_cells: Array | None = None,
    clipped: Array | None = None,
    norms: Array | None = None,
    order: Array | None = None,
) -> tuple[Array | None, Array, Array | None]:
    """Run `backward` of every layer of a stack, the last first.

    Returns new arrays d_x, if `of_x`, d_h_0 and d_c_0; `flat` takes the gradients of all parameters, if there
    are rows. Row b stands at row order[b] of d_output and d_x.
    """
    assert truncate is None, "blocks come one by one"
    L, _, B, W = hidden.shape
    d_x, d_h_0 = np.empty(x.shape, x.dtype) if of_x else None, np.empty((L, B, W), x.dtype)
    if order is not None and d_output is not None:
        d_output = _moved(d_output, order, lengths)
    d_c_0 = None if cells is None else np.empty((L, B, cells.shape[-1]), x.dtype)
    arrays = [array for part in parameters for array in part if array is not None]
    starts = [0, *np.cumsum([array.size for array in arrays])]
    views = iter(flat[a:b].reshape(v.shape) for a, b, v in zip(starts, starts[1:], arrays, strict=False))
    d_parameters = [tuple(None if array is None else next(views) for array in part) for part in parameters]
    for n in reversed(range(L if B else 0)):
        a = hidden[n - 1] if n else x
        d_x = np.empty(a.shape, a.dtype) if n or of_x else None
        tape = a, _at(h_0, n), _at(c_0, n), hidden[n], _at(cells, n), _at(gates, n)
        errors = d_output, _at(d_h_n, n), _at(d_c_n, n)
        filled = d_x, d_h_0[n], _at(d_c_0, n), d_parameters[n], _at(d_hidden, n), _at(d_cells, n)
        how = lengths, resets, seeds[n] if seeds else None, first_step
        given: Any = *tape, *errors, *filled, *how, step_clip, _at(clipped, n), _at(norms, n)
        backward(cell, threads, parameters[n], *given)
        d_output = d_x
    if order is not None and d_x is not None:
        d_x = _moved(d_x, order, lengths, back=True)
    return d_x, d_h_0, d_c_0


def move(
    threads: int,
    to: Array,
    source: Array | None = None,
    scale: Array | None = None,
    lengths: Array | None = None,
    turned: bool = False,
    add: bool = False,
    order: Array | None = None,
    back: bool = False,
) -> Callable[[], None]:
    """Return the move of `source` (T,B,N), or zeros, times `scale`, to the array `to` (T,B,N), or onto it.

    Past the lengths (B,) of rows, if they are given, zeros are moved. Turned, steps come from the last to the
    first, inside the lengths. With an order (B,) row order[b] of the source goes to row b; `back`: row b to
    row order[b]. Lengths and scale are those of row b.
    """

    def carry_out() -> None:
        moved = np.zeros_like(to) if source is None else source
        if order is not None and not back:
            moved = moved[:, order]
        T = len(to)
        t = np.arange(T)[:, None]
        ends = T if lengths is None else lengths
        if turned:
            moved = np.take_along_axis(moved, np.where(t < ends, ends - 1 - t, t)[..., None], 0)
        moved = moved if scale is None else moved * scale
        if lengths is not None:
            moved = np.where((t < lengths)[..., None], moved, moved.dtype.type(0))
        rows = order if order is not None and back else slice(None)
        to[:, rows] = to[:, rows] + moved if add else moved

    return carry_out


def run(*stages: Callable[[], None] | tuple[Callable[[], None], ...]) -> None:
    """Run calls, pairs of calls and moves, one after the other."""
    for stage in stages:
        for step in stage if isinstance(stage, tuple) else (stage,):
            step()


def row_norms(threads: int, x: Array) -> NDArray[np.float64]:
    """Return the Euclidean norms (..) of x (.., N), scaled so that squares neither overflow nor underflow."""
    largest = np.max(np.abs(x), -1, keepdims=True, initial=0).astype(np.float64)
    scale = np.where((largest > 0) & np.isfinite(largest), largest, 1)
    return np.asarray(np.sqrt(np.square(x / scale).sum(-1)) * scale[..., 0], np.float64)


def flow(norms: NDArray[np.float64], state: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return norms over all rows (2,N,T), of norms (N,T,B,2), and slopes (N) of the logarithms of a state.

    Over the steps, of h (0) or c (1); NaN where not all norms are positive and finite, or there are no two.
    """
    totals = row_norms(1, norms.transpose(3, 0, 1, 2))
    of_state, T = totals[state], norms.shape[1]
    t, slopes = np.arange(T) - (T - 1) / 2, np.full(len(norms), np.nan)
    for n, numbers in enumerate(of_state):
        if T > 1 and np.isfinite(numbers).all() and (numbers > 0).all():
            slopes[n] = np.log(numbers) @ t / (t @ t)
    return totals, slopes


def _named(parameters: Parameters | None) -> dict[str, Array]:
    assert parameters is not None
    return {n: array for n, array in zip(_NAMES, parameters, strict=False) if array is not None}


def _moved(array: Array, order: Array, lengths: Array | None, back: bool = False) -> Array:
    """Return a sequence in an order of its rows, or back, with zeros past their ends."""
    to = np.empty(array.shape, array.dtype)
    run(move(1, to, array, None, lengths, False, False, order, back))
    return to


def _at(parts: Array | None, n: int) -> Array | None:
    return None if parts is None else parts[n]


def _or_zeros(array: Array | None, like: Array) -> Array:
    return np.zeros_like(like) if array is None else array


class Stream:
    """One sequence, or a batch of them, step by step; `h` (L,B,P) and `c` (L,B,H) are updated in place.

    A `batch_size` of 0 with states of one row means unbatched: x (I,), output (P,).
    """

    def __init__(self, packs: tuple[Packed, ...], batch_size: int, h: Array, c: Array | None) -> None:
        self._packs, self._h, self._c = packs, h, c
        self._weights = [array for packed in packs for array in packed.parameters if array is not None]
        P, I = h.shape[2], self._weights[0].shape[1]
        batched = batch_size > 0 or h.shape[1] == 0
        self._x_shape = (batch_size, I) if batched else (I,)
        self._out_shape = (batch_size, P) if batched else (P,)

    def step(self, x: Any, out: Array | None = None) -> Array:
        """Advance by one step: x (B,I) or (I,) to a new array, or `out`, (B,P) or (P,)."""
        dtype = self._h.dtype
        array = np.asarray(x)
        if array.dtype.newbyteorder("=") not in (dtype, np.dtype(np.float32)):
            raise TypeError(f"x: expected {dtype}, got {array.dtype}")
        if array.shape != self._x_shape:
            raise ValueError(f"x: expected shape {self._x_shape}, got {array.shape}")
        if out is not None:
            self.check_out(array, out)
        rows = array.astype(dtype).reshape(1, self._h.shape[1], self._weights[0].shape[1])
        for n, packed in enumerate(self._packs):
            output, states = np.empty_like(self._h[:1]), (self._h[n], None if self._c is None else self._c[n])
            forward(packed.cell, 1, None, packed, rows, *states, output, *states, None, None)
            rows = output
        out = np.empty(self._out_shape, dtype) if out is None else out
        out[...] = rows.reshape(self._out_shape)
        return out

    def check_out(self, x: Array, out: Array) -> None:
        """Raise unless a step from `x` can write its output to `out`."""
        if type(out) is not np.ndarray or out.dtype != self._h.dtype:
            raise TypeError(
                f"out: expected an array of {self._h.dtype}, got {getattr(out, 'dtype', type(out))}"
            )
        if out.shape != self._out_shape:
            raise ValueError(f"out: expected shape {self._out_shape}, got {out.shape}")
        if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
            raise ValueError("out: expected a writable, C-contiguous, aligned array")
        if any(
            np.may_share_memory(out, other)
            for other in (x, self._h, *([] if self._c is None else [self._c]), *self._weights)
        ):
            raise ValueError("out: overlaps the input or the state of the stream")
