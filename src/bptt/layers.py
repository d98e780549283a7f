"""The layers: LSTM, GRU and RNN."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import _settings
from .recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN"]


class LSTM(Recurrent):
    """Long short-term memory: stacked or not, in one or two directions, with every usual option.

    The positional arguments are those of ``torch.nn.LSTM``, in its order. A layer's settings are fixed once
    it is made; its weights change in place, through `parameters`.

    Parameters
    ----------
    input_size, hidden_size : int
        I (0 or more) and H (1 or more).
    num_layers : int
        L; each layer runs on the output of the one below.
    bias : bool
        Whether there are the two bias vectors.
    batch_first : bool
        Sequences are (B, T, ...) in place of (T, B, ...). States are (L*D, B, H) all the same.
    dropout : float
        Probability with which an element of a layer's output is dropped on its way to the next layer, in
        `forward` with an `rng`; with one layer it does nothing and warns, as torch does.
    bidirectional : bool
        Every layer also runs from the last step to the first (D is 2); its output stands beside the other's,
        (T, B, 2H).
    proj_size : int
        P: h_t is projected to that many numbers, fewer than H, on its way to the output, to the next step
        and to the next layer. 0 for none.
    peephole : bool
        Input and forget gate see c_{t-1}, the output gate sees c_t, each through a weight of its own per
        unit.
    coupled : bool
        The forget gate is 1 minus the input gate; block f of the parameters is not used, its gradient zero.
    cell_clip, proj_clip : float, optional
        Every new c_t, and every projected h_t, is held between minus this and this; no gradient flows through
        a bound.
    recurrent_dropout : float
        Probability with which a unit of h_{t-1} is dropped on its way into the recurrent product, at all
        steps of a sequence or at none, in `forward` with an `rng`; what stays is scaled by 1/(1-p).
    zoneout : float
        Probability with which a unit of c_t, and on its own one of h_t, stays what it was at t-1, in
        `forward` with an `rng`; everywhere else the new state is the expectation over that.
    activations : tuple of str
        Of the gates, of the candidate and of the output: "sigmoid", "hard_sigmoid" (0.2 z + 0.5 between 0 and
        1), "tanh", "relu", "softsign" or "identity".
    dtype : {numpy.float32, numpy.float64}
        Of parameters, inputs and results. A float64 layer takes float32 inputs too; a float32 layer refuses
        float64.
    seed : None, int or numpy.random.Generator
        For the initial weights, uniform between -1/sqrt(H) and 1/sqrt(H).

    Attributes
    ----------
    parameters : Parameters
        Mapping from name to a writable array: ``weight_ih_l0`` (4H, I), ``weight_hh_l0`` (4H, H),
        ``bias_ih_l0`` and ``bias_hh_l0`` (4H,), ``weight_peephole_l0`` (3, H); gates in the order i, f, g,
        o, peepholes i, f, o; ``_l1`` and so on for further layers, whose I is D*H, and ``_reverse`` at the
        end for the reverse direction. With a projection ``weight_hr_l0`` is (P, H), ``weight_hh_l0`` (4H, P)
        and the I of further layers D*P. They are views of ``parameters.flat``.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value; the message names it.

    Notes
    -----
    Hochreiter and Schmidhuber (1997); forget gate: Gers, Schmidhuber and Cummins (2000); peepholes: Gers and
    Schmidhuber (2000); coupled gates: Greff et al. (2017); projection: Sak, Senior and Beaufays (2014);
    recurrent dropout: Gal and Ghahramani (2016); zoneout: Krueger et al. (2017).

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.LSTM(3, 4, seed=0)
    >>> output, (h_n, c_n) = layer(np.ones((5, 2, 3), np.float32))
    >>> output.shape, h_n.shape, c_n.shape
    ((5, 2, 4), (1, 2, 4), (1, 2, 4))
    >>> bptt.LSTM(3, 4, proj_size=2).parameters["weight_hr_l0"].shape
    (2, 4)
    """

    _DEFAULTS = _settings.LSTM
    _GATES = 4

    proj_size: int
    peephole: bool
    coupled: bool
    cell_clip: float | None
    proj_clip: float | None
    recurrent_dropout: float
    zoneout: float
    activations: tuple[str, str, str]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        *,
        peephole: bool = False,
        coupled: bool = False,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        activations: tuple[str, str, str] = ("sigmoid", "tanh", "tanh"),
        dtype: DTypeLike = np.float32,
        seed: Any = None,
    ) -> None:
        self._make(locals())

    def _cell(self) -> tuple[Any, ...]:
        cell = "LSTM", self.activations, self.coupled, self.cell_clip
        rarer = self.proj_clip, self.recurrent_dropout, self.zoneout
        return (*cell, *rarer) if any(rarer) else cell


class GRU(Recurrent):
    """Gated recurrent unit: stacked or not, in one or two directions.

    The positional arguments are those of ``torch.nn.GRU``, in its order. A state is one array, h.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As for `LSTM`.
    reset_after : bool
        Whether the reset gate scales the product of the candidate's recurrent weights with h_{t-1}, as in
        torch, cuDNN and Keras, or h_{t-1} itself before that product, the original form, as in ONNX
        (``linear_before_reset`` 0).

    Attributes
    ----------
    parameters : Parameters
        ``weight_ih_l0`` (3H, I), ``weight_hh_l0`` (3H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (3H,), and so
        on; gates in the order r, z, n.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value; the message names it.

    Notes
    -----
    Cho et al. (2014), with the reset gate before the product.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.GRU(3, 4, seed=0)
    >>> output, h_n = layer(np.ones((5, 2, 3), np.float32))
    >>> output.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    _DEFAULTS = _settings.GRU
    _GATES = 3

    reset_after: bool

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        reset_after: bool = True,
        dtype: DTypeLike = np.float32,
        seed: Any = None,
    ) -> None:
        self._make(locals())

    def _cell(self) -> tuple[Any, ...]:
        return ("GRU",) if self.reset_after else ("GRU", (), False, None, None, 0.0, 0.0, False)


class RNN(Recurrent):
    """Plain recurrent layer: stacked or not, in one or two directions.

    The positional arguments are those of ``torch.nn.RNN``, in its order. A state is one array, h.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, dtype, seed
        As for `LSTM`.
    nonlinearity : {"tanh", "relu", "identity"}

    Attributes
    ----------
    parameters : Parameters
        ``weight_ih_l0`` (H, I), ``weight_hh_l0`` (H, H), ``bias_ih_l0`` and ``bias_hh_l0`` (H,), and so on.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value; the message names it.

    Notes
    -----
    Elman (1990).

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.RNN(3, 4, nonlinearity="relu", seed=0)
    >>> output, h_n = layer(np.ones((5, 2, 3), np.float32))
    >>> output.shape, h_n.shape
    ((5, 2, 4), (1, 2, 4))
    """

    _DEFAULTS = _settings.RNN
    _GATES = 1

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        dtype: DTypeLike = np.float32,
        seed: Any = None,
    ) -> None:
        self._make(locals())

    def _cell(self) -> tuple[Any, ...]:
        return "RNN", (self.nonlinearity,)
