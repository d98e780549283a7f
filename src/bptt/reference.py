"""The specification in NumPy: one explicit loop over time for each cell, one line for each equation.

A trailing tag such as ``# (L7)`` names the equation of ``docs/math.md`` that the line computes; the C kernels
carry the same tags. Each cell is a pair of functions, ``<cell>_forward`` and ``<cell>_backward``, and one
table of array shapes. Everything runs in the floating dtype of its inputs (float32, float64, longdouble), and
every array is time-major. The specification fixes the values; the order in which a kernel rounds is in
``docs/math.md``, and NumPy's matrix product does not follow it to the last bit.

Dimensions: T steps, B batch, I inputs, H hidden units. T, B and I may be 0.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ACTIVATIONS",
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "rnn_backward",
    "rnn_forward",
    "sigmoid",
]

Array: TypeAlias = NDArray[Any]
StepClip: TypeAlias = tuple[float, float, float]  # what a step hands back at h and at c; pre-activations

NO_CLIP = (np.inf, np.inf, np.inf)

_LSTM_SHAPES = {
    "x": ("T", "B", "I"),
    "h_0": ("B", "H"),
    "c_0": ("B", "H"),
    "output": ("T", "B", "H"),
    "cells": ("T", "B", "H"),
    "gates": ("T", "B", "4", "H"),
    "d_output": ("T", "B", "H"),
    "d_h_n": ("B", "H"),
    "d_c_n": ("B", "H"),
    "weight_ih": ("4*H", "I"),
    "weight_hh": ("4*H", "H"),
    "bias_ih": ("4*H",),
    "bias_hh": ("4*H",),
    "weight_peephole": ("3", "H"),
}


_GRU_SHAPES = {
    "x": ("T", "B", "I"),
    "h_0": ("B", "H"),
    "output": ("T", "B", "H"),
    "gates": ("T", "B", "4", "H"),
    "d_output": ("T", "B", "H"),
    "d_h_n": ("B", "H"),
    "weight_ih": ("3*H", "I"),
    "weight_hh": ("3*H", "H"),
    "bias_ih": ("3*H",),
    "bias_hh": ("3*H",),
}

_RNN_SHAPES = {
    **{name: letters for name, letters in _GRU_SHAPES.items() if name[0] not in "wbg"},
    "weight_ih": ("H", "I"),
    "weight_hh": ("H", "H"),
    "bias_ih": ("H",),
    "bias_hh": ("H",),
}


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


def lstm_forward(
    x: Array,
    h_0: Array,
    c_0: Array,
    weights: Mapping[str, Array],
    lengths: Array | None = None,
    resets: Array | None = None,
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh"),
    coupled: bool = False,
    cell_clip: float | None = None,
) -> tuple[Array, Array, Array, Array, Array]:
    """One LSTM layer in one direction over a whole sequence.

    Parameters
    ----------
    x : ndarray, (T, B, I)
        Inputs.
    h_0, c_0 : ndarray, (B, H)
        Hidden and cell state before the first step.
    weights : mapping of str to ndarray
        ``weight_ih`` (4*H, I) and ``weight_hh`` (4*H, H), rows in the gate order i, f, g, o; with biases also
        ``bias_ih`` and ``bias_hh`` (4*H); with peepholes also ``weight_peephole`` (3, H), rows i, f, o.
    lengths : ndarray of int, (B,), optional
        Steps of each row. Past them `x` is not read, the state stays, and output, cells and gates are zero.
    resets : ndarray of bool, (T, B), optional
        Where a row starts anew at step t, from the zero state.
    activations : tuple of str
        Of the gates, the candidate and the output; keys of `ACTIVATIONS`.
    coupled : bool
        The forget gate is 1 - i.
    cell_clip : float, optional
        c_t is held between minus this and this.

    Returns
    -------
    output : ndarray, (T, B, H)
        h_t of every step.
    h_n, c_n : ndarray, (B, H)
        The states after the last step; copies of `h_0` and `c_0` if T is 0.
    cells : ndarray, (T, B, H)
        c_t of every step.
    gates : ndarray, (T, B, 4, H)
        The activated gates i, f, g, o of every step.

    Raises
    ------
    TypeError
        If an array is not of a floating dtype.
    ValueError
        If the shapes do not fit together.
    KeyError
        If a weight is missing or unknown.

    Notes
    -----
    The memory cell is that of Hochreiter and Schmidhuber (1997), the forget gate that of Gers, Schmidhuber
    and Cummins (2000), the peepholes those of Gers and Schmidhuber (2000).

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((4, 1)), "weight_hh": np.zeros((4, 1))}
    >>> x, zero = np.ones((2, 3, 1)), np.zeros((3, 1))
    >>> output, h_n, c_n, cells, gates = lstm_forward(x, zero, zero, weights)
    >>> output.shape, gates.shape
    ((2, 3, 1), (2, 3, 4, 1))
    """
    sizes, dtype = _sizes_and_dtype(_LSTM_SHAPES, weights, x=x, h_0=h_0, c_0=c_0)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih_i, W_ih_f, W_ih_g, W_ih_o = np.split(weights["weight_ih"], 4)
    W_hh_i, W_hh_f, W_hh_g, W_hh_o = np.split(weights["weight_hh"], 4)
    b_i, b_f, b_g, b_o = np.split(_bias(weights, 4 * H, dtype), 4)
    p_i, p_f, p_o = weights.get("weight_peephole", (None, None, None))

    gate, candidate, outward = (ACTIVATIONS[name][0] for name in activations)
    bound = np.inf if cell_clip is None else cell_clip

    output, cells = np.empty((T, B, H), dtype), np.empty((T, B, H), dtype)
    gates = np.empty((T, B, 4, H), dtype)
    h, c = h_0.astype(dtype), c_0.astype(dtype)

    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, c_last, on = h, c, _valid(lengths, t, B)
            h, c = _anew(resets, t, h), _anew(resets, t, c)
            x_t = np.where(on, x[t], 0)
            z_i = b_i + x_t @ W_ih_i.T + h @ W_hh_i.T + _peep(p_i, c)  # (L1)
            z_f = b_f + x_t @ W_ih_f.T + h @ W_hh_f.T + _peep(p_f, c)  # (L2)
            z_g = b_g + x_t @ W_ih_g.T + h @ W_hh_g.T  # (L3)
            i = gate(z_i)  # (L4)
            f = 1 - i if coupled else gate(z_f)  # (L5)
            g = candidate(z_g)  # (L6)
            c = np.clip(f * c + i * g, -bound, bound)  # (L7)
            z_o = b_o + x_t @ W_ih_o.T + h @ W_hh_o.T + _peep(p_o, c)  # (L8)
            o = gate(z_o)  # (L9)
            h = o * outward(c)  # (L10)
            output[t], cells[t] = np.where(on, h, 0), np.where(on, c, 0)
            gates[t] = np.where(on[:, :, None], np.stack([i, f, g, o], axis=1), 0)
            h, c = np.where(on, h, h_last), np.where(on, c, c_last)
    return output, h, c, cells, gates


def lstm_backward(
    x: Array,
    h_0: Array,
    c_0: Array,
    weights: Mapping[str, Array],
    output: Array,
    cells: Array,
    gates: Array,
    d_output: Array,
    d_h_n: Array,
    d_c_n: Array,
    lengths: Array | None = None,
    resets: Array | None = None,
    activations: tuple[str, ...] = ("sigmoid", "tanh", "tanh"),
    coupled: bool = False,
    cell_clip: float | None = None,
    *,
    step_clip: StepClip = NO_CLIP,
    clipped: Array | None = None,
) -> tuple[Array, Array, Array, dict[str, Array], Array, Array]:
    """Gradient of one LSTM layer: backpropagation through time over the whole sequence (Werbos 1990).

    Parameters
    ----------
    x, h_0, c_0, weights, lengths, resets, activations, coupled, cell_clip
        What `lstm_forward` was given.
    output, cells, gates : ndarray
        What it returned: (T, B, H), (T, B, H) and (T, B, 4, H).
    d_output : ndarray, (T, B, H)
        Gradient of the loss with respect to `output`.
    d_h_n, d_c_n : ndarray, (B, H)
        Gradient of the loss with respect to `h_n` and `c_n`.
    step_clip : tuple of float
        Bounds inside the recursion: of what a step hands to the state before it, at h and at c, and of the
        gradient at the pre-activations.
    clipped : ndarray of int64, (T, B, 3), optional
        Filled with how many elements of each row each of them held in that step.

    Returns
    -------
    dx : ndarray, (T, B, I)
    d_h_0, d_c_0 : ndarray, (B, H)
    d_weights : dict of str to ndarray
        Keys and shapes of `weights`.
    d_hidden, d_cells : ndarray, (T, B, H)
        The whole gradient that reaches h_t and c_t, from step t itself and from all later steps.

    Raises
    ------
    TypeError
        If an array is not of a floating dtype.
    ValueError
        If the shapes do not fit together.
    KeyError
        If a weight is missing or unknown.

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((4, 1)), "weight_hh": np.zeros((4, 1))}
    >>> x, zero = np.ones((2, 3, 1)), np.zeros((3, 1))
    >>> output, h_n, c_n, cells, gates = lstm_forward(x, zero, zero, weights)
    >>> dx, *_ = lstm_backward(x, zero, zero, weights, output, cells, gates, np.ones((2, 3, 1)), zero, zero)
    >>> dx.shape
    (2, 3, 1)
    """
    tape = {"x": x, "h_0": h_0, "c_0": c_0, "output": output, "cells": cells, "gates": gates}
    errors = {"d_output": d_output, "d_h_n": d_h_n, "d_c_n": d_c_n}
    sizes, dtype = _sizes_and_dtype(_LSTM_SHAPES, weights, **tape, **errors)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih_i, W_ih_f, W_ih_g, W_ih_o = np.split(weights["weight_ih"], 4)
    W_hh_i, W_hh_f, W_hh_g, W_hh_o = np.split(weights["weight_hh"], 4)
    p_i, p_f, p_o = weights.get("weight_peephole", (None, None, None))

    gate_slope, candidate_slope, outward_slope = (ACTIVATIONS[name][1] for name in activations)
    outward, bound = ACTIVATIONS[activations[2]][0], np.inf if cell_clip is None else cell_clip

    dx = np.empty(x.shape, dtype)
    d_hidden, d_cells = np.empty(output.shape, dtype), np.empty(cells.shape, dtype)
    dW_ih, dW_hh = np.zeros((4 * H, sizes["I"]), dtype), np.zeros((4 * H, H), dtype)
    db, dp = np.zeros(4 * H, dtype), np.zeros((3, H), dtype)
    dh_rec, dc_rec = d_h_n.astype(dtype), d_c_n.astype(dtype)
    clip_h, clip_c, clip_z = _clips(step_clip, clipped)

    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            i, f, g, o = np.moveaxis(gates[t], 1, 0)
            c, out_c = cells[t], outward(cells[t])
            inside = np.abs(c) < bound  # no gradient through a bound
            h_prev, c_prev = (output[t - 1], cells[t - 1]) if t > 0 else (h_0, c_0)
            h_prev, c_prev = _anew(resets, t, h_prev), _anew(resets, t, c_prev)
            dh_after, dc_after, on = dh_rec, dc_rec, _valid(lengths, t, B)
            x_t, dh_rec, dc_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0), np.where(on, dc_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (L11)
            dz_o = clip_z(t, dh * out_c * gate_slope(o))  # (L12)
            dc = dc_rec + dh * o * outward_slope(out_c) + _peep(p_o, dz_o)  # (L13)
            dc_in = dc * inside
            dz_i = clip_z(t, dc_in * (g - c_prev if coupled else g) * gate_slope(i))  # (L14)
            dz_f = 0 * c if coupled else clip_z(t, dc_in * c_prev * gate_slope(f))  # (L15)
            dz_g = clip_z(t, dc_in * i * candidate_slope(g))  # (L16)
            dc_rec = dc_in * f + _peep(p_i, dz_i) + _peep(p_f, dz_f)  # (L17)
            dh_rec = (dz_i @ W_hh_i + dz_f @ W_hh_f) + (dz_g @ W_hh_g + dz_o @ W_hh_o)  # (L18)
            dx[t] = (dz_i @ W_ih_i + dz_f @ W_ih_f) + (dz_g @ W_ih_g + dz_o @ W_ih_o)  # (L19)
            dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
            dW_ih += dz.T @ x_t  # (L20)
            dW_hh += dz.T @ h_prev  # (L21)
            db += dz.sum(axis=0)  # (L22)
            dp += np.stack([dz_i * c_prev, dz_f * c_prev, dz_o * c]).sum(axis=1)  # (L23)
            d_hidden[t], d_cells[t] = dh, dc
            dh_rec = np.where(on, clip_h(t, _anew(resets, t, dh_rec)), dh_after)
            dc_rec = np.where(on, clip_c(t, _anew(resets, t, dc_rec)), dc_after)

    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh}
    gradients |= {"bias_ih": db, "bias_hh": db.copy(), "weight_peephole": dp}
    return dx, dh_rec, dc_rec, {name: gradients[name] for name in weights}, d_hidden, d_cells


def gru_forward(
    x: Array,
    h_0: Array,
    weights: Mapping[str, Array],
    lengths: Array | None = None,
    resets: Array | None = None,
) -> tuple[Array, Array, Array]:
    """One GRU layer in one direction over a whole sequence, its reset gate after the recurrent product.

    Parameters
    ----------
    x : ndarray, (T, B, I)
        Inputs.
    h_0 : ndarray, (B, H)
        Hidden state before the first step.
    weights : mapping of str to ndarray
        ``weight_ih`` (3*H, I) and ``weight_hh`` (3*H, H), rows in the gate order r, z, n; with biases also
        ``bias_ih`` and ``bias_hh`` (3*H).
    lengths, resets
        As for `lstm_forward`.

    Returns
    -------
    output : ndarray, (T, B, H)
        h_t of every step.
    h_n : ndarray, (B, H)
        The state after the last step.
    gates : ndarray, (T, B, 4, H)
        The gates r, z, n of every step, and the recurrent part of n before r scales it.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `lstm_forward`.

    Notes
    -----
    Cho et al. (2014); this form of the candidate is that of cuDNN and torch.

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((3, 1)), "weight_hh": np.zeros((3, 1))}
    >>> output, h_n, gates = gru_forward(np.ones((2, 3, 1)), np.zeros((3, 1)), weights)
    >>> output.shape, gates.shape
    ((2, 3, 1), (2, 3, 4, 1))
    """
    sizes, dtype = _sizes_and_dtype(_GRU_SHAPES, weights, x=x, h_0=h_0)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih_r, W_ih_z, W_ih_n = np.split(weights["weight_ih"], 3)
    W_hh_r, W_hh_z, W_hh_n = np.split(weights["weight_hh"], 3)
    b_r, b_z, _ = np.split(_bias(weights, 3 * H, dtype), 3)
    b_n, b_m = (np.split(_one_bias(weights, name, 3 * H, dtype), 3)[2] for name in ("bias_ih", "bias_hh"))

    output, gates = np.empty((T, B, H), dtype), np.empty((T, B, 4, H), dtype)
    h = h_0.astype(dtype)

    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, on = h, _valid(lengths, t, B)
            h, x_t = _anew(resets, t, h), np.where(on, x[t], 0)
            z_r = b_r + x_t @ W_ih_r.T + h @ W_hh_r.T  # (G1)
            z_z = b_z + x_t @ W_ih_z.T + h @ W_hh_z.T  # (G2)
            z_n = b_n + x_t @ W_ih_n.T  # (G3)
            m = b_m + h @ W_hh_n.T  # (G4)
            r = sigmoid(z_r)  # (G5)
            z = sigmoid(z_z)  # (G6)
            n = np.tanh(z_n + r * m)  # (G7)
            h = n + z * (h - n)  # (G8)
            output[t] = np.where(on, h, 0)
            gates[t] = np.where(on[:, :, None], np.stack([r, z, n, m], axis=1), 0)
            h = np.where(on, h, h_last)
    return output, h, gates


def gru_backward(
    x: Array,
    h_0: Array,
    weights: Mapping[str, Array],
    output: Array,
    gates: Array,
    d_output: Array,
    d_h_n: Array,
    lengths: Array | None = None,
    resets: Array | None = None,
    *,
    step_clip: StepClip = NO_CLIP,
    clipped: Array | None = None,
) -> tuple[Array, Array, dict[str, Array], Array]:
    """Gradient of one GRU layer: backpropagation through time over the whole sequence.

    Parameters
    ----------
    x, h_0, weights, lengths, resets
        What `gru_forward` was given.
    output, gates : ndarray
        What it returned: (T, B, H) and (T, B, 4, H).
    d_output : ndarray, (T, B, H)
        Gradient of the loss with respect to `output`.
    d_h_n : ndarray, (B, H)
        Gradient of the loss with respect to `h_n`.
    step_clip, clipped
        As for `lstm_backward`; nothing is handed back at c.

    Returns
    -------
    dx : ndarray, (T, B, I)
    d_h_0 : ndarray, (B, H)
    d_weights : dict of str to ndarray
        Keys and shapes of `weights`.
    d_hidden : ndarray, (T, B, H)
        The whole gradient that reaches h_t, from step t itself and from all later steps.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `gru_forward`.

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((3, 1)), "weight_hh": np.zeros((3, 1))}
    >>> x, zero = np.ones((2, 3, 1)), np.zeros((3, 1))
    >>> output, h_n, gates = gru_forward(x, zero, weights)
    >>> dx, *_ = gru_backward(x, zero, weights, output, gates, np.ones((2, 3, 1)), zero)
    >>> dx.shape
    (2, 3, 1)
    """
    tape = {"x": x, "h_0": h_0, "output": output, "gates": gates}
    sizes, dtype = _sizes_and_dtype(_GRU_SHAPES, weights, **tape, d_output=d_output, d_h_n=d_h_n)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih, W_hh = weights["weight_ih"], weights["weight_hh"]

    dx, d_hidden = np.empty(x.shape, dtype), np.empty(output.shape, dtype)
    dW_ih, dW_hh = np.zeros((3 * H, sizes["I"]), dtype), np.zeros((3 * H, H), dtype)
    db_ih, db_hh = np.zeros(3 * H, dtype), np.zeros(3 * H, dtype)
    dh_rec = d_h_n.astype(dtype)
    clip_h, _, clip_z = _clips(step_clip, clipped)

    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            r, z, n, m = np.moveaxis(gates[t], 1, 0)
            h_prev = _anew(resets, t, output[t - 1] if t > 0 else h_0)
            dh_after, on = dh_rec, _valid(lengths, t, B)
            x_t, dh_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (G9)
            dz_z = clip_z(t, dh * (h_prev - n) * z * (1 - z))  # (G10)
            dz_n = clip_z(t, dh * (1 - z) * (1 - n**2))  # (G11)
            dm = dz_n * r  # (G12)
            dz_r = clip_z(t, dz_n * m * r * (1 - r))  # (G13)
            dz_ih = np.concatenate([dz_r, dz_z, dz_n], axis=1)
            dz_hh = np.concatenate([dz_r, dz_z, dm], axis=1)
            past = dh * z  # (G14)
            dh_rec = dz_hh @ W_hh + past  # (G15)
            dx[t] = dz_ih @ W_ih  # (G16)
            dW_ih += dz_ih.T @ x_t  # (G17)
            dW_hh += dz_hh.T @ h_prev  # (G18)
            db_ih += dz_ih.sum(axis=0)  # (G19)
            db_hh += dz_hh.sum(axis=0)  # (G20)
            d_hidden[t] = dh
            dh_rec = np.where(on, clip_h(t, _anew(resets, t, dh_rec)), dh_after)

    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh, "bias_ih": db_ih, "bias_hh": db_hh}
    return dx, dh_rec, {name: gradients[name] for name in weights}, d_hidden


def rnn_forward(
    x: Array,
    h_0: Array,
    weights: Mapping[str, Array],
    nonlinearity: str = "tanh",
    lengths: Array | None = None,
    resets: Array | None = None,
) -> tuple[Array, Array]:
    """One plain recurrent layer (Elman 1990) in one direction over a whole sequence.

    Parameters
    ----------
    x : ndarray, (T, B, I)
        Inputs.
    h_0 : ndarray, (B, H)
        Hidden state before the first step.
    weights : mapping of str to ndarray
        ``weight_ih`` (H, I) and ``weight_hh`` (H, H); with biases also ``bias_ih`` and ``bias_hh`` (H).
    nonlinearity : str
        A key of `ACTIVATIONS`.
    lengths, resets
        As for `lstm_forward`.

    Returns
    -------
    output : ndarray, (T, B, H)
        h_t of every step.
    h_n : ndarray, (B, H)
        The state after the last step.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `lstm_forward`; KeyError also for another nonlinearity.

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((1, 1)), "weight_hh": np.ones((1, 1))}
    >>> rnn_forward(np.ones((3, 1, 1)), np.zeros((1, 1)), weights, "identity")[0].ravel()
    array([1., 2., 3.])
    """
    sizes, dtype = _sizes_and_dtype(_RNN_SHAPES, weights, x=x, h_0=h_0)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih, W_hh, b = weights["weight_ih"], weights["weight_hh"], _bias(weights, H, dtype)
    activation, _ = ACTIVATIONS[nonlinearity]
    output = np.empty((T, B, H), dtype)
    h = h_0.astype(dtype)
    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, on = h, _valid(lengths, t, B)
            h, x_t = _anew(resets, t, h), np.where(on, x[t], 0)
            z = b + x_t @ W_ih.T + h @ W_hh.T  # (R1)
            h = activation(z)  # (R2)
            output[t] = np.where(on, h, 0)
            h = np.where(on, h, h_last)
    return output, h


def rnn_backward(
    x: Array,
    h_0: Array,
    weights: Mapping[str, Array],
    output: Array,
    d_output: Array,
    d_h_n: Array,
    nonlinearity: str = "tanh",
    lengths: Array | None = None,
    resets: Array | None = None,
    *,
    step_clip: StepClip = NO_CLIP,
    clipped: Array | None = None,
) -> tuple[Array, Array, dict[str, Array], Array]:
    """Gradient of one plain recurrent layer: backpropagation through time over the whole sequence.

    Parameters
    ----------
    x, h_0, weights, nonlinearity, lengths, resets
        What `rnn_forward` was given.
    output : ndarray, (T, B, H)
        What it returned.
    d_output : ndarray, (T, B, H)
        Gradient of the loss with respect to `output`.
    d_h_n : ndarray, (B, H)
        Gradient of the loss with respect to `h_n`.
    step_clip, clipped
        As for `lstm_backward`; nothing is handed back at c.

    Returns
    -------
    dx, d_h_0, d_weights, d_hidden
        As from `gru_backward`.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `rnn_forward`.

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((1, 1)), "weight_hh": np.full((1, 1), 2.0)}
    >>> x, zero = np.ones((3, 1, 1)), np.zeros((1, 1))
    >>> output, _ = rnn_forward(x, zero, weights, "identity")
    >>> rnn_backward(x, zero, weights, output, 0 * x, zero + 1, "identity")[0].ravel()
    array([4., 2., 1.])
    """
    sizes, dtype = _sizes_and_dtype(
        _RNN_SHAPES, weights, x=x, h_0=h_0, output=output, d_output=d_output, d_h_n=d_h_n
    )
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih, W_hh = weights["weight_ih"], weights["weight_hh"]
    _, slope = ACTIVATIONS[nonlinearity]
    dx, d_hidden = np.empty(x.shape, dtype), np.empty(output.shape, dtype)
    dW_ih, dW_hh = np.zeros((H, sizes["I"]), dtype), np.zeros((H, H), dtype)
    db = np.zeros(H, dtype)
    dh_rec = d_h_n.astype(dtype)
    clip_h, _, clip_z = _clips(step_clip, clipped)
    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            h_prev = _anew(resets, t, output[t - 1] if t > 0 else h_0)
            dh_after, on = dh_rec, _valid(lengths, t, B)
            x_t, dh_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (R3)
            dz = clip_z(t, dh * slope(output[t]))  # (R4)
            dh_rec = dz @ W_hh  # (R5)
            dx[t] = dz @ W_ih  # (R6)
            dW_ih += dz.T @ x_t  # (R7)
            dW_hh += dz.T @ h_prev  # (R8)
            db += dz.sum(axis=0)  # (R9)
            d_hidden[t] = dh
            dh_rec = np.where(on, clip_h(t, _anew(resets, t, dh_rec)), dh_after)
    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh, "bias_ih": db, "bias_hh": db.copy()}
    return dx, dh_rec, {name: gradients[name] for name in weights}, d_hidden


# Activation, and its slope as a function of the activated value.
ACTIVATIONS: dict[str, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
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


def _clips(bounds: StepClip, clipped: Array | None) -> list[Callable[[int, Array], Array]]:
    """Clipping of what a step hands back at h and c, and of pre-activations: functions of step and value."""
    if clipped is not None:
        clipped[...] = 0
    return [_clip_of(which, bounds[which], clipped) for which in range(3)]


def _clip_of(which: int, value: float, clipped: Array | None) -> Callable[[int, Array], Array]:
    def clip(t: int, a: Array) -> Array:
        bound = a.dtype.type(value)
        if clipped is not None:
            clipped[t, :, which] += (np.abs(a) > bound).sum(axis=1)
        return np.clip(a, -bound, bound)  # (C1)

    return clip


def _valid(lengths: Array | None, t: int, B: int) -> Array:
    """Which rows have a step t, (B, 1)."""
    return np.ones((B, 1), bool) if lengths is None else (t < lengths)[:, None]


def _anew(resets: Array | None, t: int, state: Array) -> Array:
    """State (B, H), or its gradient, that crosses from t-1 to t: zero where a row starts anew at t."""
    return state if resets is None else np.where(resets[t][:, None], 0, state)


def _peep(p: Array | None, value: Array) -> Array | float:
    """Product with a peephole weight; nothing without peepholes (a weight of 0 would turn inf into NaN)."""
    return 0.0 if p is None else p * value


def _bias(weights: Mapping[str, Array], size: int, dtype: np.dtype[Any]) -> Array:
    """Sum of the biases that there are, (size,)."""
    return _one_bias(weights, "bias_ih", size, dtype) + _one_bias(weights, "bias_hh", size, dtype)


def _one_bias(weights: Mapping[str, Array], name: str, size: int, dtype: np.dtype[Any]) -> Array:
    """One of the biases, zeros if there is none, (size,)."""
    return weights.get(name, np.zeros(size, dtype))


def _sizes_and_dtype(
    shapes: Mapping[str, tuple[str, ...]], weights: Mapping[str, Array], **arrays: Array
) -> tuple[dict[str, int], np.dtype[Any]]:
    """Check every array against the table `shapes`; return the sizes by letter and the common dtype.

    A letter takes its size from the first array that has it, so x (T, B, I) and h_0 (B, H) come first.
    """
    sizes = {"3": 3, "4": 4}
    for name, array in {**arrays, **weights}.items():
        letters = shapes[name]
        form = f"({', '.join(letters)})"
        if not np.issubdtype(array.dtype, np.floating):
            raise TypeError(f"{name}: expected a floating dtype, got {array.dtype}")
        if array.ndim != len(letters):
            raise ValueError(f"{name}: expected shape {form}, got {array.shape}")
        if name not in weights:
            sizes = dict(zip(letters, array.shape, strict=True)) | sizes
            sizes |= {f"{gates}*H": gates * sizes.get("H", 0) for gates in (3, 4)}
        expected = tuple(sizes[letter] for letter in letters)
        if array.shape != expected:
            raise ValueError(f"{name}: expected shape {form} = {expected}, got {array.shape}")
    if sizes["H"] == 0:
        raise ValueError(f"h_0: expected H >= 1, got shape {arrays['h_0'].shape}")
    return sizes, np.result_type(*arrays.values(), *weights.values())
