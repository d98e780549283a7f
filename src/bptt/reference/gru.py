"""The GRU: equations G of ``docs/math.md``."""

from collections.abc import Mapping

import numpy as np

from .activations import sigmoid
from .arrays import Array, anew, bias, one_bias, sizes_and_dtype, valid
from .clips import NO_CLIP, StepClip, clips

__all__ = ["gru_backward", "gru_forward"]

_SHAPES = {
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


def gru_forward(
    x: Array,
    h_0: Array,
    weights: Mapping[str, Array],
    lengths: Array | None = None,
    resets: Array | None = None,
    reset_after: bool = True,
) -> tuple[Array, Array, Array]:
    """One GRU layer in one direction over a whole sequence.

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
    reset_after : bool
        Whether the reset gate scales the recurrent product of the candidate, or the state before it.

    Returns
    -------
    output : ndarray, (T, B, H)
        h_t of every step.
    h_n : ndarray, (B, H)
        The state after the last step.
    gates : ndarray, (T, B, 4, H)
        The gates r, z, n of every step, and the recurrent part of n before r scales it; with the reset gate
        before the product, r * h_{t-1} in its place.

    Raises
    ------
    TypeError, ValueError, KeyError
        As `lstm_forward`.

    Notes
    -----
    Cho et al. (2014), whose reset gate stands before the product; after it, as in cuDNN and torch.

    Examples
    --------
    >>> weights = {"weight_ih": np.ones((3, 1)), "weight_hh": np.zeros((3, 1))}
    >>> output, h_n, gates = gru_forward(np.ones((2, 3, 1)), np.zeros((3, 1)), weights)
    >>> output.shape, gates.shape
    ((2, 3, 1), (2, 3, 4, 1))
    """
    sizes, dtype = sizes_and_dtype(_SHAPES, weights, x=x, h_0=h_0)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih_r, W_ih_z, W_ih_n = np.split(weights["weight_ih"], 3)
    W_hh_r, W_hh_z, W_hh_n = np.split(weights["weight_hh"], 3)
    b_r, b_z, _ = np.split(bias(weights, 3 * H, dtype), 3)
    b_n, b_m = (np.split(one_bias(weights, name, 3 * H, dtype), 3)[2] for name in ("bias_ih", "bias_hh"))

    output, gates = np.empty((T, B, H), dtype), np.empty((T, B, 4, H), dtype)
    h = h_0.astype(dtype)

    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, on = h, valid(lengths, t, B)
            h, x_t = anew(resets, t, h), np.where(on, x[t], 0)
            z_r = b_r + x_t @ W_ih_r.T + h @ W_hh_r.T  # (G1)
            z_z = b_z + x_t @ W_ih_z.T + h @ W_hh_z.T  # (G2)
            z_n = b_n + x_t @ W_ih_n.T  # (G3)
            r = sigmoid(z_r)  # (G5)
            z = sigmoid(z_z)  # (G6)
            if reset_after:
                m = b_m + h @ W_hh_n.T  # (G4)
                n = np.tanh(z_n + r * m)  # (G7)
            else:
                m = r * h  # (G21)
                n = np.tanh(b_m + z_n + m @ W_hh_n.T)  # (G22)
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
    reset_after: bool = True,
    *,
    step_clip: StepClip = NO_CLIP,
    clipped: Array | None = None,
) -> tuple[Array, Array, dict[str, Array], Array]:
    """Gradient of one GRU layer: backpropagation through time over the whole sequence.

    Parameters
    ----------
    x, h_0, weights, lengths, resets, reset_after
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
    sizes, dtype = sizes_and_dtype(_SHAPES, weights, **tape, d_output=d_output, d_h_n=d_h_n)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih, W_hh = weights["weight_ih"], weights["weight_hh"]
    W_hh_r, W_hh_z, W_hh_n = np.split(W_hh, 3)

    dx, d_hidden = np.empty(x.shape, dtype), np.empty(output.shape, dtype)
    dW_ih, dW_hh = np.zeros((3 * H, sizes["I"]), dtype), np.zeros((3 * H, H), dtype)
    db_ih, db_hh = np.zeros(3 * H, dtype), np.zeros(3 * H, dtype)
    dh_rec = d_h_n.astype(dtype)
    clip_h, _, clip_z = clips(step_clip, clipped)

    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            r, z, n, m = np.moveaxis(gates[t], 1, 0)
            h_prev = anew(resets, t, output[t - 1] if t > 0 else h_0)
            dh_after, on = dh_rec, valid(lengths, t, B)
            x_t, dh_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (G9)
            dz_z = clip_z(t, dh * (h_prev - n) * z * (1 - z))  # (G10)
            dz_n = clip_z(t, dh * (1 - z) * (1 - n**2))  # (G11)
            past = dh * z  # (G14)
            if reset_after:
                dm = dz_n * r  # (G12)
                dz_r = clip_z(t, dz_n * m * r * (1 - r))  # (G13)
                dz_hh = np.concatenate([dz_r, dz_z, dm], axis=1)
                dh_rec = dz_hh @ W_hh + past  # (G15)
                dW_hh += dz_hh.T @ h_prev  # (G18)
            else:
                dm = dz_n @ W_hh_n  # (G23)
                dz_r = clip_z(t, dm * h_prev * r * (1 - r))  # (G24)
                dz_hh = np.concatenate([dz_r, dz_z, dz_n], axis=1)
                dh_rec = dz_r @ W_hh_r + dz_z @ W_hh_z + past + dm * r  # (G25)
                dW_hh += np.concatenate([dz_hh[:, : 2 * H].T @ h_prev, dz_n.T @ m])  # (G26)
            dz_ih = np.concatenate([dz_r, dz_z, dz_n], axis=1)
            dx[t] = dz_ih @ W_ih  # (G16)
            dW_ih += dz_ih.T @ x_t  # (G17)
            db_ih += dz_ih.sum(axis=0)  # (G19)
            db_hh += dz_hh.sum(axis=0)  # (G20)
            d_hidden[t] = dh
            dh_rec = np.where(on, clip_h(t, anew(resets, t, dh_rec)), dh_after)

    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh, "bias_ih": db_ih, "bias_hh": db_hh}
    return dx, dh_rec, {name: gradients[name] for name in weights}, d_hidden
