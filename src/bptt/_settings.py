"""The settings of layers: their defaults, which of them must still have it, and their check."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check

__all__ = ["GRU", "LSTM", "RNN", "checked"]

_STACK: dict[str, Any] = {
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
}
_REAL: dict[str, Any] = {"dtype": np.dtype(np.float32)}

# In the order in which a repr shows them.
LSTM: dict[str, Any] = {
    **_STACK,
    "proj_size": 0,
    "peephole": False,
    "coupled": False,
    "cell_clip": None,
    "proj_clip": None,
    "recurrent_dropout": 0.0,
    "zoneout": 0.0,
    "activations": ("sigmoid", "tanh", "tanh"),
    **_REAL,
}
GRU: dict[str, Any] = {**_STACK, "reset_after": True, **_REAL}
RNN: dict[str, Any] = {"num_layers": 1, "nonlinearity": "tanh", **_STACK, **_REAL}

NONLINEARITIES = ("tanh", "relu", "identity")
_LATER = (
    "proj_size",
    "proj_clip",
    "recurrent_dropout",
    "zoneout",
    "reset_after",
)


def checked(given: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments of a layer and return them in their own types."""
    settings = dict(given)
    for name, minimum in (("input_size", 0), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
        if name in given:
            settings[name] = _check.size(name, given[name], minimum)
    for name in ("bias", "batch_first", "bidirectional", "peephole", "coupled", "reset_after"):
        if name in given:
            settings[name] = _check.flag(name, given[name])
    for name in ("dropout", "recurrent_dropout", "zoneout"):
        if name in given:
            settings[name] = _check.number(name, given[name], 0.0, 1.0)
    for name in ("cell_clip", "proj_clip"):
        if given.get(name) is not None:
            settings[name] = _check.number(name, given[name], above=True)
    if "activations" in given:
        settings["activations"] = _check.activations(given["activations"])
    if "nonlinearity" in given and given["nonlinearity"] not in NONLINEARITIES:
        raise ValueError(
            f"nonlinearity: expected one of {', '.join(NONLINEARITIES)}, got {given['nonlinearity']!r}"
        )
    settings["dtype"] = _check.layer_dtype(given["dtype"])
    for name in _LATER:
        if name in given:
            _check.not_yet(name, settings[name], defaults[name])
    return settings
