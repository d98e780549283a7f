"""The settings of layers: their defaults and their check."""

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


def checked(given: dict[str, Any]) -> dict[str, Any]:
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
            if settings[name] == 1 and name != "dropout":  # nothing would ever be new
                raise ValueError(f"{name}: expected a number at least 0 and below 1, got {given[name]!r}")
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
    _projection(settings)
    return settings


def _projection(settings: dict[str, Any]) -> None:
    """Refuse a projection that is not smaller than the state, as torch does, and a clip of none."""
    H, P = settings["hidden_size"], settings.get("proj_size", 0)
    if P >= H:
        raise ValueError(f"proj_size: expected less than hidden_size = {H}, got {P}")
    if settings.get("proj_clip") is not None and not P:
        raise ValueError("proj_clip: expected a projection to clip, got proj_size=0 (cell_clip holds c_t)")
