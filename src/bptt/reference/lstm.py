"""The LSTM: equations L of ``docs/math.md``."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .activations import ACTIVATIONS
from .arrays import Array, anew, bias, sizes_and_dtype, valid
from .clips import NO_CLIP, StepClip, clips
from .draws import RECURRENT_DROPOUT, ZONEOUT_CELL, ZONEOUT_HIDDEN, hits

__all__ = ["lstm_backward", "lstm_forward"]

_SHAPES = {
    "x": ("T", "B", "I"),
    "h_0": ("B", "P"),
    "c_0": ("B", "H"),
    "output": ("T", "B", "P"),
    "cells": ("T", "B", "H"),
    "gates": ("T", "B", "4", "H"),
    "d_output": ("T", "B", "P"),
    "d_h_n": ("B", "P"),
    "d_c_n": ("B", "H"),
    "weight_ih": ("4*H", "I"),
    "weight_hh": ("4*H", "P"),
    "bias_ih": ("4*H",),
    "bias_hh": ("4*H",),
    "weight_peephole": ("3", "H"),
    "weight_hr": ("P", "H"),
}
_PLAIN_SHAPES = {
    name: tuple("H" if letter == "P" else letter for letter in letters)
    for name, letters in _SHAPES.items()
    if name != "weight_hr"
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
    proj_clip: float | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    seed: int | None = None,
    first_step: int = 0,
) -> tuple[Array, Array, Array, Array, Array]:
    """One LSTM layer in one direction over a whole sequence.

    P is H but for a projection.

    Parameters
    ----------
    x : ndarray, (T, B, I)
        Inputs.
    h_0 : ndarray, (B, P)
        Hidden state before the first step.
    c_0 : ndarray, (B, H)
        Cell state before the first step.
    weights : mapping of str to ndarray
        ``weight_ih`` (4*H, I) and ``weight_hh`` (4*H, P), rows in the gate order i, f, g, o; with biases also
        ``bias_ih`` and ``bias_hh`` (4*H); with peepholes also ``weight_peephole`` (3, H), rows i, f, o; with
        a projection also ``weight_hr`` (P, H).
    lengths : ndarray of int, (B,), optional
        Steps of each row. Past them `x` is not read, the state stays, and output, cells and gates are zero.
    resets : ndarray of bool, (T, B), optional
        Where a row starts anew at step t, from the zero state.
    activations : tuple of str
        Of the gates, the candidate and the output; keys of `ACTIVATIONS`.
    coupled : bool
        The forget gate is 1 - i.
    cell_clip, proj_clip : float, optional
        The new cell state, and the projected hidden state, are held between minus this and this.
    recurrent_dropout : float
        Probability with which a unit of h_{t-1} is dropped from the recurrent product, in all steps of a row
        or in none; in [0, 1). Nothing is dropped without a `seed`.
    zoneout : float
        Probability with which a unit of c_t, and on its own one of h_t, stays what it was; in [0, 1).
        Without a `seed` both are the expectation over that.
    seed : int, optional
        Of the draws, 0 to 2^64 - 1.
    first_step : int
        What the draws of zoneout count the first step of `x` as.

    Returns
    -------
    output : ndarray, (T, B, P)
        h_t of every step.
    h_n, c_n : ndarray, (B, P) and (B, H)
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
    and Cummins (2000), the peepholes those of Gers and Schmidhuber (2000), the projection that of Sak, Senior
    and Beaufays (2014), the recurrent dropout that of Gal and Ghahramani (2016), zoneout that of Krueger et
    al. (2017).

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((4, 1)), "weight_hh": np.zeros((4, 1))}
    >>> x, zero = np.ones((2, 3, 1)), np.zeros((3, 1))
    >>> output, h_n, c_n, cells, gates = lstm_forward(x, zero, zero, weights)
    >>> output.shape, gates.shape
    ((2, 3, 1), (2, 3, 4, 1))
    """
    sizes, dtype = sizes_and_dtype(_shapes(weights), weights, x=x, h_0=h_0, c_0=c_0)
    T, B, H, P = (sizes.get(letter, sizes["H"]) for letter in "TBHP")
    W_ih_i, W_ih_f, W_ih_g, W_ih_o = np.split(weights["weight_ih"], 4)
    W_hh_i, W_hh_f, W_hh_g, W_hh_o = np.split(weights["weight_hh"], 4)
    b_i, b_f, b_g, b_o = np.split(bias(weights, 4 * H, dtype), 4)
    p_i, p_f, p_o = weights.get("weight_peephole", (None, None, None))
    W_hr = weights.get("weight_hr")

    gate, candidate, outward = (ACTIVATIONS[name][0] for name in activations)
    drop = _dropout(seed, recurrent_dropout, B, P, dtype)

    output, cells = np.empty((T, B, P), dtype), np.empty((T, B, H), dtype)
    gates = np.empty((T, B, 4, H), dtype)
    h, c = h_0.astype(dtype), c_0.astype(dtype)

    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, c_last, on = h, c, valid(lengths, t, B)
            h, c = anew(resets, t, h), anew(resets, t, c)
            x_t = np.where(on, x[t], 0)
            s = h * drop  # (L24)
            z_i = b_i + x_t @ W_ih_i.T + s @ W_hh_i.T + _peep(p_i, c)  # (L1)
            z_f = b_f + x_t @ W_ih_f.T + s @ W_hh_f.T + _peep(p_f, c)  # (L2)
            z_g = b_g + x_t @ W_ih_g.T + s @ W_hh_g.T  # (L3)
            i = gate(z_i)  # (L4)
            f = 1 - i if coupled else gate(z_f)  # (L5)
            g = candidate(z_g)  # (L6)
            new_c = _clip(f * c + i * g, cell_clip)  # (L7)
            z_o = b_o + x_t @ W_ih_o.T + s @ W_hh_o.T + _peep(p_o, new_c)  # (L8)
            o = gate(z_o)  # (L9)
            new_h = o * outward(new_c)  # (L10)
            if W_hr is not None:
                new_h = _clip(new_h @ W_hr.T, proj_clip)  # (L25)
            if zoneout:
                k_c, k_h = _kept(seed, zoneout, first_step + t, B, H, P, dtype)
                new_c = k_c * c + (1 - k_c) * new_c  # (L26)
                new_h = k_h * h + (1 - k_h) * new_h  # (L27)
            output[t], cells[t] = np.where(on, new_h, 0), np.where(on, new_c, 0)
            gates[t] = np.where(on[:, :, None], np.stack([i, f, g, o], axis=1), 0)
            h, c = np.where(on, new_h, h_last), np.where(on, new_c, c_last)
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
    proj_clip: float | None = None,
    recurrent_dropout: float = 0.0,
    zoneout: float = 0.0,
    seed: int | None = None,
    first_step: int = 0,
    *,
    step_clip: StepClip = NO_CLIP,
    clipped: Array | None = None,
) -> tuple[Array, Array, Array, dict[str, Array], Array, Array]:
    """Gradient of one LSTM layer: backpropagation through time over the whole sequence (Werbos 1990).

    Parameters
    ----------
    x, h_0, c_0, weights, lengths, resets, activations, coupled, cell_clip, proj_clip, recurrent_dropout, \
    zoneout, seed, first_step
        What `lstm_forward` was given.
    output, cells, gates : ndarray
        What it returned: (T, B, P), (T, B, H) and (T, B, 4, H).
    d_output : ndarray, (T, B, P)
        Gradient of the loss with respect to `output`.
    d_h_n, d_c_n : ndarray, (B, P) and (B, H)
        Gradient of the loss with respect to `h_n` and `c_n`.
    step_clip : tuple of float
        Bounds inside the recursion: of what a step hands to the state before it, at h and at c, and of the
        gradient at the pre-activations.
    clipped : ndarray of int64, (T, B, 3), optional
        Filled with how many elements of each row each of them held in that step.

    Returns
    -------
    dx : ndarray, (T, B, I)
    d_h_0, d_c_0 : ndarray, (B, P) and (B, H)
    d_weights : dict of str to ndarray
        Keys and shapes of `weights`.
    d_hidden, d_cells : ndarray, (T, B, P) and (T, B, H)
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
    sizes, dtype = sizes_and_dtype(_shapes(weights), weights, **tape, **errors)
    T, B, H, P = (sizes.get(letter, sizes["H"]) for letter in "TBHP")
    W_ih_i, W_ih_f, W_ih_g, W_ih_o = np.split(weights["weight_ih"], 4)
    W_hh_i, W_hh_f, W_hh_g, W_hh_o = np.split(weights["weight_hh"], 4)
    p_i, p_f, p_o = weights.get("weight_peephole", (None, None, None))
    W_hr = weights.get("weight_hr")

    gate_slope, candidate_slope, outward_slope = (ACTIVATIONS[name][1] for name in activations)
    outward = ACTIVATIONS[activations[2]][0]
    drop = _dropout(seed, recurrent_dropout, B, P, dtype)

    dx = np.empty(x.shape, dtype)
    d_hidden, d_cells = np.empty(output.shape, dtype), np.empty(cells.shape, dtype)
    dW_ih, dW_hh = np.zeros((4 * H, sizes["I"]), dtype), np.zeros((4 * H, P), dtype)
    db, dp, dW_hr = np.zeros(4 * H, dtype), np.zeros((3, H), dtype), np.zeros((P, H), dtype)
    dh_rec, dc_rec = d_h_n.astype(dtype), d_c_n.astype(dtype)
    past_h = past_c = dtype.type(0)
    clip_h, clip_c, clip_z = clips(step_clip, clipped)

    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            i, f, g, o = np.moveaxis(gates[t], 1, 0)
            h_prev, c_prev = (output[t - 1], cells[t - 1]) if t > 0 else (h_0, c_0)
            h_prev, c_prev = anew(resets, t, h_prev), anew(resets, t, c_prev)
            new_c = _clip(f * c_prev + i * g, cell_clip) if zoneout else cells[t]
            out_c, s = outward(new_c), h_prev * drop
            dh_after, dc_after, on = dh_rec, dc_rec, valid(lengths, t, B)
            x_t, dh_rec, dc_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0), np.where(on, dc_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (L11)
            if zoneout:
                k_c, k_h = _kept(seed, zoneout, first_step + t, B, H, P, dtype)
                past_h, past_c = k_h * dh, k_c * dc_rec  # (L28)
            d_new_h = dh - past_h  # (L29)
            if W_hr is not None:
                m = o * out_c
                d_r = d_new_h * _inside(m @ W_hr.T, proj_clip)  # (L30)
                dW_hr += d_r.T @ m  # (L31)
                d_new_h = d_r @ W_hr  # (L32)
            dz_o = clip_z(t, d_new_h * out_c * gate_slope(o))  # (L12)
            from_h = d_new_h * o * outward_slope(out_c) + _peep(p_o, dz_o)
            dc = dc_rec + from_h  # (L13)
            d_new_c = (dc_rec - past_c + from_h) * _inside(new_c, cell_clip)  # (L33)
            dz_i = clip_z(t, d_new_c * (g - c_prev if coupled else g) * gate_slope(i))  # (L14)
            dz_f = 0 * d_new_c if coupled else clip_z(t, d_new_c * c_prev * gate_slope(f))  # (L15)
            dz_g = clip_z(t, d_new_c * i * candidate_slope(g))  # (L16)
            dc_rec = d_new_c * f + _peep(p_i, dz_i) + _peep(p_f, dz_f) + past_c  # (L17)
            dh_rec = (dz_i @ W_hh_i + dz_f @ W_hh_f) + (dz_g @ W_hh_g + dz_o @ W_hh_o)  # (L18)
            dh_rec = dh_rec * drop + past_h  # (L34)
            dx[t] = (dz_i @ W_ih_i + dz_f @ W_ih_f) + (dz_g @ W_ih_g + dz_o @ W_ih_o)  # (L19)
            dz = np.concatenate([dz_i, dz_f, dz_g, dz_o], axis=1)
            dW_ih += dz.T @ x_t  # (L20)
            dW_hh += dz.T @ s  # (L21)
            db += dz.sum(axis=0)  # (L22)
            dp += np.stack([dz_i * c_prev, dz_f * c_prev, dz_o * new_c]).sum(axis=1)  # (L23)
            d_hidden[t], d_cells[t] = dh, dc
            dh_rec = np.where(on, clip_h(t, anew(resets, t, dh_rec)), dh_after)
            dc_rec = np.where(on, clip_c(t, anew(resets, t, dc_rec)), dc_after)

    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh, "weight_hr": dW_hr}
    gradients |= {"bias_ih": db, "bias_hh": db.copy(), "weight_peephole": dp}
    return dx, dh_rec, dc_rec, {name: gradients[name] for name in weights}, d_hidden, d_cells


def _shapes(weights: Mapping[str, Array]) -> Mapping[str, tuple[str, ...]]:
    return _SHAPES if "weight_hr" in weights else _PLAIN_SHAPES


def _clip(value: Array, bound: float | None) -> Array:
    """Value held between minus the bound and the bound, if there is one."""
    return value if bound is None else np.clip(value, -bound, bound)


def _inside(value: Array, bound: float | None) -> Array | bool:
    """Where a gradient passes a bound."""
    return True if bound is None else np.abs(value) < bound


def _dropout(seed: int | None, p: float, B: int, P: int, dtype: np.dtype[Any]) -> Array | float:
    """What multiplies h_{t-1} (B, P) in the recurrent product of every step."""
    if seed is None or not p:
        return 1.0
    scale = dtype.type(1 / (1 - p))
    mask: Array = ~hits(seed, RECURRENT_DROPOUT, 0, B, P, p) * scale
    return mask


def _kept(
    seed: int | None, p: float, t: int, B: int, H: int, P: int, dtype: np.dtype[Any]
) -> tuple[Array | float, Array | float]:
    """How much of c_{t-1} (B, H) and h_{t-1} (B, P) zoneout keeps: 1 or 0, or what is expected of that."""
    if seed is None:
        return p, p
    cell, hidden = (
        hits(seed, kind, t, B, width, p) for kind, width in ((ZONEOUT_CELL, H), (ZONEOUT_HIDDEN, P))
    )
    return cell.astype(dtype), hidden.astype(dtype)


def _peep(p: Array | None, value: Array) -> Array | float:
    """Product with a peephole weight; nothing without peepholes (a weight of 0 would turn inf into NaN)."""
    return 0.0 if p is None else p * value
