"""The plain recurrent layer: equations R of ``docs/math.md``."""

from collections.abc import Mapping

import numpy as np

from .activations import ACTIVATIONS
from .arrays import Array, anew, bias, sizes_and_dtype, valid
from .clips import NO_CLIP, StepClip, clips

__all__ = ["rnn_backward", "rnn_forward"]

_SHAPES = {
    "x": ("T", "B", "I"),
    "h_0": ("B", "H"),
    "output": ("T", "B", "H"),
    "d_output": ("T", "B", "H"),
    "d_h_n": ("B", "H"),
    "weight_ih": ("H", "I"),
    "weight_hh": ("H", "H"),
    "bias_ih": ("H",),
    "bias_hh": ("H",),
}


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
    sizes, dtype = sizes_and_dtype(_SHAPES, weights, x=x, h_0=h_0)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih, W_hh, b = weights["weight_ih"], weights["weight_hh"], bias(weights, H, dtype)
    activation, _ = ACTIVATIONS[nonlinearity]
    output = np.empty((T, B, H), dtype)
    h = h_0.astype(dtype)
    with np.errstate(all="ignore"):
        for t in range(T):
            h_last, on = h, valid(lengths, t, B)
            h, x_t = anew(resets, t, h), np.where(on, x[t], 0)
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
    sizes, dtype = sizes_and_dtype(
        _SHAPES, weights, x=x, h_0=h_0, output=output, d_output=d_output, d_h_n=d_h_n
    )
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    W_ih, W_hh = weights["weight_ih"], weights["weight_hh"]
    _, slope = ACTIVATIONS[nonlinearity]
    dx, d_hidden = np.empty(x.shape, dtype), np.empty(output.shape, dtype)
    dW_ih, dW_hh = np.zeros((H, sizes["I"]), dtype), np.zeros((H, H), dtype)
    db = np.zeros(H, dtype)
    dh_rec = d_h_n.astype(dtype)
    clip_h, _, clip_z = clips(step_clip, clipped)
    with np.errstate(all="ignore"):
        for t in reversed(range(T)):
            h_prev = anew(resets, t, output[t - 1] if t > 0 else h_0)
            dh_after, on = dh_rec, valid(lengths, t, B)
            x_t, dh_rec = np.where(on, x[t], 0), np.where(on, dh_rec, 0)
            dh = np.where(on, d_output[t], 0) + dh_rec  # (R3)
            dz = clip_z(t, dh * slope(output[t]))  # (R4)
            dh_rec = dz @ W_hh  # (R5)
            dx[t] = dz @ W_ih  # (R6)
            dW_ih += dz.T @ x_t  # (R7)
            dW_hh += dz.T @ h_prev  # (R8)
            db += dz.sum(axis=0)  # (R9)
            d_hidden[t] = dh
            dh_rec = np.where(on, clip_h(t, anew(resets, t, dh_rec)), dh_after)
    gradients = {"weight_ih": dW_ih, "weight_hh": dW_hh, "bias_ih": db, "bias_hh": db.copy()}
    return dx, dh_rec, {name: gradients[name] for name in weights}, d_hidden
