"""The settings of a layer: their defaults, which of them must still have it, and their check."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import _check

__all__ = ["DEFAULTS", "checked"]

DEFAULTS = {
    "num_layers": 1,
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
    "peephole": False,
    "coupled": False,
    "cell_clip": None,
    "proj_clip": None,
    "recurrent_dropout": 0.0,
    "zoneout": 0.0,
    "activations": ("sigmoid", "tanh", "tanh"),
    "dtype": np.dtype(np.float32),
}
_LATER = (
    "proj_size",
    "coupled",
    "cell_clip",
    "proj_clip",
    "recurrent_dropout",
    "zoneout",
    "activations",
)


def checked(given: dict[str, Any]) -> dict[str, Any]:
    """Check the arguments of a layer and return them in their own types."""
    settings = dict(given)
    for name, minimum in (("input_size", 0), ("hidden_size", 1), ("num_layers", 1), ("proj_size", 0)):
        settings[name] = _check.size(name, given[name], minimum)
    for name in ("bias", "batch_first", "bidirectional", "peephole", "coupled"):
        settings[name] = _check.flag(name, given[name])
    for name in ("dropout", "recurrent_dropout", "zoneout"):
        settings[name] = _check.number(name, given[name], 0.0, 1.0)
    for name in ("cell_clip", "proj_clip"):
        if given[name] is not None:
            settings[name] = _check.number(name, given[name], above=True)
    settings["activations"] = _check.activations(given["activations"])
    settings["dtype"] = _check.layer_dtype(given["dtype"])
    for name in _LATER:
        _check.not_yet(name, settings[name], DEFAULTS[name])
    return settings
