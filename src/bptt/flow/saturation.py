"""Which share of gates and activated states stands at the ends of its range, where slopes are small."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..layers import LSTM, RNN
from ..recurrent import Recurrent
from ..tape import Tape

__all__ = ["ENDS", "Shares", "mean_gate", "saturated"]

# Values below the first and above the second are saturated; None: there is no such end.
ENDS: dict[str, tuple[float | None, float | None]] = {
    "sigmoid": (0.1, 0.9),
    "hard_sigmoid": (0.1, 0.9),
    "tanh": (-0.9, 0.9),
    "softsign": (-0.9, 0.9),
    "relu": (np.finfo(np.float32).smallest_subnormal.item(), None),
    "identity": (None, None),
}


class Shares(NamedTuple):
    """Shares, 0 to 1, of values at the lower and at the upper end of an activation's range.

    A sigmoid is saturated below 0.1 and above 0.9, tanh and softsign beyond -0.9 and 0.9, relu at 0; after
    Karpathy, Johnson and Fei-Fei (2015).
    """

    low: float
    high: float


def saturated(layer: Recurrent, tape: Tape, lengths: NDArray[np.int64], part: int) -> dict[str, Shares]:
    """Return the shares of saturated values in a part by name, over valid steps only."""
    activated = _activated(layer, tape, lengths, part)
    return {name: _shares(values, kind) for name, values, kind in activated}


def mean_gate(layer: Recurrent, tape: Tape, lengths: NDArray[np.int64], part: int) -> float | None:
    """Return the mean of the gate that keeps the state, f or z; None for a plain layer."""
    if tape.gates is None or not lengths.any():
        return None
    gates = tape.gates[part][_valid(tape, lengths)]
    return float(gates[:, 1].mean(dtype=np.float64))


def _activated(
    layer: Recurrent, tape: Tape, lengths: NDArray[np.int64], part: int
) -> list[tuple[str, NDArray[np.floating], str]]:
    """Return name, values and activation of everything that may saturate in a part."""
    there = _valid(tape, lengths)
    if isinstance(layer, RNN):
        return [("h", tape.hidden[part][there], layer.nonlinearity)]
    assert tape.gates is not None
    gates = tape.gates[part][there]
    if isinstance(layer, LSTM):
        assert tape.cells is not None
        of_gates, candidate, of_output = layer.activations
        kinds = (of_gates, of_gates, candidate, of_gates)
        found = [(name, gates[:, q], kinds[q]) for q, name in enumerate("ifgo")]
        if of_output == "tanh":
            found.append(("tanh(c)", np.tanh(tape.cells[part][there]), "tanh"))
        return found
    return [(name, gates[:, q], "tanh" if name == "n" else "sigmoid") for q, name in enumerate("rzn")]


def _valid(tape: Tape, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
    T = tape.hidden.shape[1]
    return np.asarray(np.arange(T)[:, None] < lengths)


def _shares(values: NDArray[np.floating], kind: str) -> Shares:
    low, high = ENDS[kind]
    if not values.size:
        return Shares(0.0, 0.0)
    below = 0.0 if low is None else float(np.mean(values < low))
    above = 0.0 if high is None else float(np.mean(values > high))
    return Shares(below, above)
