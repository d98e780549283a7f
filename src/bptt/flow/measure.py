"""Measure how far gradients travel through a layer: norms of dL/dh_t and dL/dc_t, per layer and direction."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..parameters import suffixes
from ..recurrent import Recurrent, checked_layer
from ..tape import Gradients, Tape
from .norms import Way, by_step, fitted, judged, norms, reach
from .saturation import Shares, saturated

__all__ = ["GradientFlow", "PartFlow", "flow_of", "gradient_flow"]


class PartFlow(NamedTuple):
    """The flow through one direction of one layer.

    Attributes
    ----------
    name : str
        As its parameters end: "l0", "l0_reverse", "l1", ..
    hidden : ndarray, (T,)
        Euclidean norms over batch and units of dL/dh_t.
    cells : ndarray, (T,), or None
        The same of dL/dc_t; None where there is no cell state.
    lags : ndarray, (K,)
        The norm that `growth` is fitted to, of dL/dc_t or else dL/dh_t, by distance from the error.
    growth : float
    verdict : str
    """

    name: str
    hidden: NDArray[np.float64]
    cells: NDArray[np.float64] | None
    lags: NDArray[np.float64]
    growth: float
    verdict: str


@dataclass(slots=True, eq=False, repr=False)
class GradientFlow:
    """How far gradients travel, from `gradient_flow`.

    Attributes
    ----------
    hidden, cells : ndarray, (T,)
        Euclidean norms over batch and units of the whole gradient that reaches h_t and c_t of the top layer,
        both directions together. `cells` is None where there is no cell state.
    lags : ndarray, (K,)
        The norm that `growth` is fitted to: that of `cells`, or else `hidden`, by the number of steps between
        the error and where its gradient has got to, each row counted from its own last step.
    growth : float
        Factor per step that fits `lags`: below 1 the gradient vanishes on its way back, above 1 it explodes.
    verdict : str
        "vanishing", "steady" or "exploding": growth below 0.9 or above 1.1, or a total change by more than
        100 times over all steps; zero at the end is vanishing, infinity or NaN exploding.
    parts : tuple of PartFlow
        The same of every layer and direction.
    clipped : mapping of str to ndarray, or None
        How many elements a `step_clip` changed at each step, where ``backward`` counts them.
    everywhere : bool
        Whether errors enter at every step, so that `growth` also shows them and not the flow alone.
    layer, tape, gradients, lengths, truncate
        What was measured.
    """

    hidden: NDArray[np.float64]
    cells: NDArray[np.float64] | None
    lags: NDArray[np.float64]
    growth: float
    verdict: str
    parts: tuple[PartFlow, ...]
    everywhere: bool
    clipped: Any = None
    layer: Recurrent = field(kw_only=True)
    tape: Tape = field(kw_only=True)
    gradients: Gradients = field(kw_only=True)
    lengths: NDArray[np.int64] = field(kw_only=True)
    truncate: int | tuple[int, int] | None = None

    @property
    def saturated(self) -> tuple[dict[str, Shares], ...]:
        """Shares of values at the ends of their range, for each of `parts`, counted in the tape at each use.

        By gate (i, f, g, o; r, z, n) and activated state (tanh(c); h of a plain layer).
        """
        return tuple(saturated(self.layer, self.tape, self.lengths, n) for n in range(len(self.parts)))

    def report(self) -> str:
        """Say in words how the gradient travels, and which argument or call helps."""
        from .report import report

        return report(self)

    def plot(self, ax: Any = None) -> Any:
        """Draw the norms by lag on a logarithmic axis; return the axes. Needs matplotlib.

        Parameters
        ----------
        ax : matplotlib axes, optional
            New ones by default: of pyplot if that is imported already, else of a figure without a window
            (``flow.plot().figure.savefig(path)``).
        """
        from .pictures import plot_flow

        return plot_flow(self, ax)

    def heat_maps(self, row: int = 0, part: int = -1) -> Any:
        """Draw h, c, gates and gradients over steps and units; return the figure. Needs matplotlib.

        Parameters
        ----------
        row : int
            Of the batch.
        part : int
            Which layer and direction, as in `parts`.
        """
        from .pictures import heat_maps

        return heat_maps(self.tape, self.gradients, row, part)

    def __repr__(self) -> str:
        return f"GradientFlow(T={len(self.hidden)}, growth={self.growth:.4g}, {self.verdict})"


def gradient_flow(
    layer: Recurrent,
    x: Any,
    state: Any = None,
    *,
    lengths: Any = None,
    d_output: Any = None,
    truncate: int | tuple[int, int] | None = None,
    step_clip: Any = None,
) -> GradientFlow:
    """Measure how far gradients travel through a layer, in one forward and one backward pass.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
    x, state, lengths
        As for ``layer.forward``.
    d_output : array_like, optional
        Gradient of the loss with respect to the output, of its shape. By default the loss is the sum of the
        last step's output: of each row its last valid step. The last step that a reverse direction takes is
        step 0, so its half of the output counts there; both together are the sum of h_n of the top layer.
    truncate, step_clip
        As for ``layer.backward``: what the flow is with these cures.

    Returns
    -------
    GradientFlow

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type, dtype or shape; the message names it.

    Notes
    -----
    Hochreiter (1991); Bengio, Simard and Frasconi (1994). What vanishes is dL/dh_t with the distance of t
    from the error, not dL/dW, which sums over all t and so is ruled by the nearest.

    The factor is fitted where nothing but propagation acts: on the steps before the first error of each row
    (after the last, for a reverse direction). With errors at every step there are none; then it is fitted to
    all, errors included.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.RNN(1, 1, nonlinearity="identity", bias=False)
    >>> layer.parameters["weight_hh_l0"] = [[0.5]]
    >>> flow = bptt.gradient_flow(layer, np.ones((4, 1), np.float32))
    >>> flow.hidden
    array([0.125, 0.25 , 0.5  , 1.   ])
    >>> round(flow.growth, 6), flow.verdict
    (0.5, 'vanishing')
    """
    tape = checked_layer(layer).forward(x, state, lengths=lengths)
    d_state = None if d_output is not None else _last_outputs(layer, tape, lengths)
    cures: dict[str, Any] = {} if step_clip is None else {"step_clip": step_clip}
    gradients = layer.backward(tape, d_output, d_state, truncate=truncate, steps=True, **cures)
    flow = flow_of(layer, tape, gradients, d_output, lengths)
    flow.truncate = truncate
    return flow


def flow_of(
    layer: Recurrent, tape: Tape, gradients: Gradients, d_output: Any = None, lengths: Any = None
) -> GradientFlow:
    """Return the flow of a backward pass that was done with ``steps=True`` or ``steps="norms"``.

    Parameters
    ----------
    layer, tape, gradients, d_output, lengths
        Of that pass. Without `d_output`, errors entered at the last step that each direction takes.
    """
    if gradients.norms is None:
        raise ValueError("gradients: expected those of backward(..., steps=True) or steps='norms'")
    _, T, B, _ = gradients.norms.shape
    D, carrier = 1 + layer.bidirectional, int(isinstance(gradients.state, tuple))
    valid = np.full(B, T) if lengths is None else np.zeros(B, np.int64) + np.reshape(lengths, B)
    ways, everywhere = _ways(layer, d_output, None if lengths is None else valid, T, B)
    total, slopes = by_step(gradients.norms, carrier)
    parts = []
    for n, name in enumerate(suffixes(layer.num_layers, D)):
        of_cells, reverse = total[1, n] if carrier else None, bool(n % D)
        norms_of_all = total[carrier, n, : T if B else 0]
        way = ways[n % D] if ways else None
        fit = fitted(gradients.norms[n, ..., carrier], norms_of_all, float(slopes[n]), way, reverse)
        parts.append(PartFlow(name[1:], total[0, n], of_cells, *fit))
    top = _together(parts[-D:])
    return GradientFlow(
        *top[1:],
        tuple(parts),
        everywhere=everywhere,
        clipped=gradients.clipped,
        layer=layer,
        tape=tape,
        gradients=gradients,
        lengths=valid,
    )


def _together(parts: list[PartFlow]) -> PartFlow:
    """Return the flow of a layer, both directions together."""
    if len(parts) == 1:
        return parts[0]
    common = min((len(part.lags) for part in parts if len(part.lags) > 1), default=1)
    reached = [part.lags[:common] for part in parts if len(part.lags) >= common]
    lags = norms(np.stack(reached), 0) if reached else np.zeros(0)
    cells = [part.cells for part in parts if part.cells is not None]
    return PartFlow(
        "",
        norms(np.stack([part.hidden for part in parts]), 0),
        norms(np.stack(cells), 0) if cells else None,
        lags,
        *judged(lags),
    )


def _last_outputs(layer: Recurrent, tape: Tape, lengths: Any) -> Any:
    """Return d_state of the sum of the top layer's h_n: the last output of each direction."""
    h_n = tape.state[0] if isinstance(tape.state, tuple) else tape.state
    d_h: NDArray[Any] = np.zeros_like(h_n)
    d_h[-1 - layer.bidirectional :] = 1
    if lengths is not None:  # a row without steps has no last one
        d_h *= np.reshape(lengths, (-1, 1) if d_h.ndim == 3 else (1,)) > 0
    return (d_h, None) if isinstance(tape.state, tuple) else d_h


def _ways(
    layer: Recurrent, d_output: Any, lengths: NDArray[np.int64] | None, T: int, B: int
) -> tuple[list[Way] | None, bool]:
    """Return what `reach` says of each direction, and whether errors enter at every step.

    None: every row goes all steps, from the last that a direction takes.
    """
    ends = None if lengths is None else [(lengths - 1, lengths), (np.zeros_like(lengths), lengths)]
    if d_output is None:
        return ends, False
    D, given = 1 + layer.bidirectional, np.asarray(d_output, layer.dtype)
    errors = norms(given.reshape(*given.shape[:-1], D, given.shape[-1] // D), given.ndim) != 0
    errors = errors[:, None] if given.ndim == 2 else errors.swapaxes(0, 1) if layer.batch_first else errors
    valid = np.full(B, T) if lengths is None else lengths
    if lengths is not None:
        errors &= (np.arange(T)[:, None] < lengths)[..., None]
    if np.count_nonzero(errors) == D * valid.sum():
        return ends, bool(valid.max(initial=0) > 1)
    return [reach(errors[..., d], valid, bool(d)) for d in range(D)], False
