"""Initial weights: torch's, Keras's, forget biases, and biases for long spans.

Each function overwrites parameters of a layer in place and returns the layer. The default of a new layer is
`torch`.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _check
from .layers import GRU, LSTM
from .parameters import initialise
from .recurrent import Recurrent, checked_layer

__all__ = ["chrono", "forget_bias", "keras", "torch"]

Layer = TypeVar("Layer", bound=Recurrent)


def torch(layer: Layer, seed: Any = None) -> Layer:
    """Draw every parameter from the uniform distribution between -1/sqrt(H) and 1/sqrt(H), as torch.nn does.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
    seed : None, int or numpy.random.Generator

    Returns
    -------
    layer

    Examples
    --------
    >>> import bptt
    >>> layer = bptt.init.torch(bptt.LSTM(3, 4), seed=1)
    >>> bool((layer.parameters.flat == bptt.LSTM(3, 4, seed=1).parameters.flat).all())
    True
    """
    initialise(checked_layer(layer).parameters, layer.hidden_size**-0.5, seed)
    return layer


def keras(layer: Layer, seed: Any = None) -> Layer:
    """Initialise as Keras does: Glorot for the input, orthogonal for the recurrence, forget bias 1.

    ``weight_ih`` is uniform between plus and minus sqrt(6 / (I + rows)), rows all gates together, and the
    ``weight_hr`` of a projection likewise; the columns of ``weight_hh`` are orthonormal; peepholes and biases
    are zero but for the forget gate of an LSTM.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
    seed : None, int or numpy.random.Generator

    Returns
    -------
    layer

    Notes
    -----
    Glorot and Bengio (2010); Saxe, McClelland and Ganguli (2014); forget bias: Jozefowicz, Zaremba and
    Sutskever (2015).

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.init.keras(bptt.LSTM(3, 4, dtype=np.float64), seed=0)
    >>> W = layer.parameters["weight_hh_l0"]
    >>> np.allclose(W.T @ W, np.eye(4))
    True
    """
    rng = np.random.default_rng(seed)
    for name, array in checked_layer(layer).parameters.items():
        if name.startswith(("weight_ih", "weight_hr")):
            bound = math.sqrt(6 / sum(array.shape))
            array[...] = rng.uniform(-bound, bound, array.shape)
        elif name.startswith("weight_hh"):
            columns, triangle = np.linalg.qr(rng.standard_normal(array.shape))
            array[...] = columns * np.sign(
                np.diagonal(triangle)
            )  # else not every direction is equally likely
        else:
            array[...] = 0
    if isinstance(layer, LSTM) and layer.bias:
        forget_bias(layer, 1.0)
    return layer


def forget_bias(layer: Layer, value: float) -> Layer:
    """Set the bias of the forget gates, so that the cells remember at first.

    ``bias_ih`` gets the value and ``bias_hh`` zero; the other gates keep their biases.

    Parameters
    ----------
    layer : LSTM
        With biases.
    value : float
        sigmoid(1) = 0.73 is what a cell keeps of itself at each step with 1, 0.95 with 3.

    Returns
    -------
    layer

    Raises
    ------
    TypeError, ValueError
        If the layer is not an LSTM, or has no biases.

    Notes
    -----
    Gers, Schmidhuber and Cummins (2000).

    Examples
    --------
    >>> import bptt
    >>> layer = bptt.init.forget_bias(bptt.LSTM(3, 2), 1.5)
    >>> layer.parameters["bias_ih_l0"][2:4].tolist()
    [1.5, 1.5]
    """
    if not isinstance(layer, LSTM):
        raise TypeError(f"layer: expected an LSTM, got {type(layer).__name__}")
    number = _check.number("value", value, -math.inf)
    for b_ih, b_hh in _biases(layer):
        b_ih[1], b_hh[1] = number, 0
    return layer


def chrono(layer: Layer, longest: float, seed: Any = None) -> Layer:
    """Set the biases for dependencies that span up to `longest` steps.

    A gate with bias log(s) keeps what it holds for about s steps; s is drawn uniformly between 1 and
    ``longest - 1``. For an LSTM that is the forget gate, with minus it for the input gate; for a GRU the
    update gate. All other biases become zero; weights stay.

    Parameters
    ----------
    layer : LSTM or GRU
        With biases.
    longest : float
        Longest span in steps, above 2.
    seed : None, int or numpy.random.Generator

    Returns
    -------
    layer

    Raises
    ------
    TypeError, ValueError
        If the layer has no gates or no biases, or `longest` is not above 2.

    Notes
    -----
    Tallec and Ollivier (2018).

    Examples
    --------
    >>> import bptt
    >>> layer = bptt.init.chrono(bptt.LSTM(3, 4), 1000, seed=0)
    >>> forget = layer.parameters["bias_ih_l0"][4:8]
    >>> bool((forget >= 0).all() and (forget <= 7).all())
    True
    """
    if not isinstance(layer, (LSTM, GRU)):
        raise TypeError(f"layer: expected an LSTM or a GRU, got {type(layer).__name__}")
    span = _check.number("longest", longest, 2.0, above=True)
    rng = np.random.default_rng(seed)
    for b_ih, b_hh in _biases(layer):
        b_ih[...], b_hh[...] = 0, 0
        b_ih[1] = np.log(rng.uniform(1, span - 1, layer.hidden_size))  # f of the LSTM, z of the GRU
        if isinstance(layer, LSTM):
            b_ih[0] = -b_ih[1]
    return layer


def _biases(layer: Recurrent) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return views of bias_ih and bias_hh of every part, (gates, H)."""
    if not layer.bias:
        raise ValueError("layer: expected one with biases, got bias=False")
    arrays, H = layer.parameters, layer.hidden_size
    ends = [name.removeprefix("bias_ih") for name in arrays if name.startswith("bias_ih")]
    return [(arrays["bias_ih" + e].reshape(-1, H), arrays["bias_hh" + e].reshape(-1, H)) for e in ends]
