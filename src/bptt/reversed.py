"""A layer or engine run from the last step to the first, as other formats know one and torch does not."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import _check
from .engine import Engine, State
from .recurrent import Recurrent

__all__ = ["Reversed"]

Runner = TypeVar("Runner", bound="Recurrent | Engine", covariant=True)


class Reversed(Generic[Runner]):
    """A layer or engine in one direction, run from the last step of a sequence to the first.

    For inference. To train its weights, train `layer` on sequences that are turned round.

    Parameters
    ----------
    layer : LSTM, GRU, RNN or Engine
        Of one direction. Shared, not copied.
    in_order : bool
        Whether the output of a step stands where its input does; False: in the order in which the outputs are
        made, the last step's first.

    Raises
    ------
    TypeError, ValueError
        If `layer` is neither layer nor engine, or bidirectional.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer, x = bptt.GRU(3, 4, seed=0), np.random.default_rng(0).random((6, 2, 3), np.float32)
    >>> output, h_n = bptt.Reversed(layer)(x)
    >>> np.array_equal(output[::-1], layer(x[::-1])[0])
    True
    """

    def __init__(self, layer: Runner, in_order: bool = True) -> None:
        if not isinstance(layer, (Recurrent, Engine)):
            raise TypeError(f"layer: expected a layer or an engine, got {type(layer).__name__}")
        if layer.bidirectional:
            raise ValueError("layer: expected one direction, got bidirectional=True")
        self.layer = layer
        self.in_order = _check.flag("in_order", in_order)

    def __call__(self, x: Any, state: Any = None, *, lengths: Any = None) -> tuple[NDArray[Any], State]:
        """Run a sequence from its end, from a state.

        Parameters
        ----------
        x, state
            As for a call of the layer; the state is the one after the last step.
        lengths : array_like of int, (B,), optional
            Steps of each row: it starts at the last of them.

        Returns
        -------
        output : ndarray
            As from the layer; zero past the length.
        (h_n, c_n) or h_n
            The state that the first step leaves.

        Raises
        ------
        TypeError, ValueError
            As a call of the layer.
        """
        layout = self.layer._layout
        x, batched = layout.sequence(x)
        T, B, _ = x.shape
        steps = np.arange(T)[::-1, None]
        valid = layout.lengths(lengths, T, B, batched)
        if valid is not None:
            steps = np.arange(T)[:, None]
            steps = np.where(steps < valid, valid - 1 - steps, steps)
        turned = layout.as_given(np.take_along_axis(x, steps[..., None], 0), batched)
        output, states = self.layer(turned, state, lengths=lengths)
        if self.in_order:
            axis = 1 if batched and layout.batch_first else 0
            where = steps[..., None] if axis == 0 else steps.T[..., None]
            output = np.take_along_axis(output, where if batched else steps, axis)
        return output, states

    def freeze(self, precision: str | None = None) -> Reversed[Engine]:
        """Return the same over the layer's engine; an engine's stays as it is.

        Parameters
        ----------
        precision : str, optional
            As for the layer's ``freeze``.
        """
        engine = self.layer if isinstance(self.layer, Engine) else self.layer.freeze(precision)
        return Reversed(engine, self.in_order)

    def __repr__(self) -> str:
        return f"Reversed({self.layer!r}{'' if self.in_order else ', in_order=False'})"
