"""The LSTM: equations L of ``docs/math.md``."""

from collections.abc import Mapping

import numpy as np

from .activations import ACTIVATIONS
from .arrays import Array, anew, bias, sizes_and_dtype, valid

__all__ = ["lstm_backward", "lstm_forward"]

_SHAPES = {
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
    sizes, dtype = sizes_and_dtype(_SHAPES, weights, x=x, h_0=h_0, c_0=c_0)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih_i, W_ih_f, W_ih_g, W_ih_o = np.split(weights["weight_ih"], 4)
    W_hh_i, W_hh_f, W_hh_g, W_hh_o = np.split(weights["weight_hh"], 4)
    b_i, b_f, b_g, b_o = np.split(bias(weights, 4 * H, dtype), 4)
    p_i, p_f, p_o = weights.get("weight_peephole", (None, None, None))

    gate, candidate, outward = (ACTIVATIONS[name][0] for name in activations)
    bound = np.inf if cell_clip is None else cell_clip

    output, cells = np.empty((T, B, H), dtype), np.empty((T, B, H), dtype)
    gates = np.empty((T, B, 4, H), dtype)
    h, c = h_0.astype(dtype), c_0.astype(dtype)

    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, c_last, on = h, c, valid(lengths, t, B)
            h, c = anew(resets, t, h), anew(resets, t, c)
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
    sizes, dtype = sizes_and_dtype(_SHAPES, weights, **tape, **errors)
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

    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            i, f, g, o = np.moveaxis(gates[t], 1, 0)
            c, out_c = cells[t], outward(cells[t])
            inside = np.abs(c) < bound  # no gradient through a bound
            h_prev, c_prev = (output[t - 1], cells[t - 1]) if t > 0 else (h_0, c_0)
            h_prev, c_prev = anew(resets, t, h_prev), anew(resets, t, c_prev)
            dh_after, dc_after, on = dh_rec, dc_rec, valid(lengths, t, B)
            x_t, dh_rec, dc_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0), np.where(on, dc_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (L11)
            dz_o = dh * out_c * gate_slope(o)  # (L12)
            dc = dc_rec + dh * o * outward_slope(out_c) + _peep(p_o, dz_o)  # (L13)
            dc_in = dc * inside
            dz_i = dc_in * (g - c_prev if coupled else g) * gate_slope(i)  # (L14)
            dz_f = 0 * c if coupled else dc_in * c_prev * gate_slope(f)  # (L15)
            dz_g = dc_in * i * candidate_slope(g)  # (L16)
            dc_rec = dc_in * f + _peep(p_i, dz_i) + _peep(p_f, dz_f)  # (L17)
            dh_rec = (dz_i @ W_hh_i + dz_f @ W_hh_f) + (dz_g @ W_hh_g + dz_o @ W_hh_o)  # (L18)
            dx[t] = (dz_i @ W_ih_i + dz_f @ W_ih_f) + (dz_g @ W_ih_g + dz_o @ W_ih_o)  # (L19)
            dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
            dW_ih += dz.T @ x_t  # (L20)
            dW_hh += dz.T @ h_prev  # (L21)
            db += dz.sum(axis=0)  # (L22)
            dp += np.stack([dz_i * c_prev, dz_f * c_prev, dz_o * c]).sum(axis=1)  # (L23)
            d_hidden[t], d_cells[t] = dh, dc
            dh_rec = np.where(on, anew(resets, t, dh_rec), dh_after)
            dc_rec = np.where(on, anew(resets, t, dc_rec), dc_after)

    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh}
    gradients |= {"bias_ih": db, "bias_hh": db.copy(), "weight_peephole": dp}
    return dx, dh_rec, dc_rec, {name: gradients[name] for name in weights}, d_hidden, d_cells


def _peep(p: Array | None, value: Array) -> Array | float:
    """Product with a peephole weight; nothing without peepholes (a weight of 0 would turn inf into NaN)."""
    return 0.0 if p is None else p * value
