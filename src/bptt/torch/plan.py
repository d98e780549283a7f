"""What the operators know of a layer beside its tensors: settings as text, and what follows from them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import torch

from .. import layers
from .._check import Layout
from ..parameters import Parameters, Shapes, Weights, layer_weights

__all__ = ["DTYPES", "Plan", "check_dtype", "plan_of", "settings_text"]

DTYPES: dict[torch.dtype, Any] = {torch.float32: np.float32, torch.float64: np.float64}


class Plan(NamedTuple):
    """A layer without its parameters.

    Attributes
    ----------
    layout : Layout
        Sequences are (T, B, ...) and batched here, whatever the module takes.
    shapes : dict
        Name and shape of each parameter, in the order in which the operators take them.
    parameters : Parameters
        Their values mean nothing: what gradients are made like.
    parts : list of callable
        For each part what picks its weights, as the kernels take them, out of the arrays in that order and
        a None after them.
    """

    layout: Layout
    shapes: Shapes
    parameters: Parameters
    parts: Sequence[Callable[[Sequence[Any]], Weights]]


def settings_text(kind: str, **settings: Any) -> str:
    """Return the settings of a layer, by the names of bptt's own, as an operator takes them: JSON.

    Raises
    ------
    TypeError, ValueError
        If bptt has no such layer; the message names the argument.
    """
    text = json.dumps({"kind": kind, **settings}, default=_scalar)
    plan_of(text, torch.float32)
    return text


def _scalar(value: Any) -> Any:
    """Return a number of NumPy as Python's, and anything else as a text that no setting can be."""
    return value.item() if isinstance(value, np.generic) else repr(value)


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Refuse a dtype that bptt has not."""
    if dtype not in DTYPES:
        raise TypeError(f"{name}: expected torch.float32 or torch.float64, got {dtype}")


@functools.lru_cache(maxsize=256)
def plan_of(settings: str, dtype: torch.dtype) -> Plan:
    """Return the plan of the layer of that text, with tensors of that dtype."""
    check_dtype("x", dtype)
    given = json.loads(settings)
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    kind = getattr(layers, given.pop("kind"))
    checked = kind._checked({**kind._DEFAULTS, **given, "dtype": DTYPES[dtype]})
    layer = kind._of(checked, Parameters(kind._shapes(checked), checked["dtype"]))
    layout, shapes = layer._layout, layer.parameters.shapes
    places: Any = {name: place for place, name in enumerate(shapes)}
    parts: Any = layer_weights(places, layout.layers, layout.directions)
    picks: Any = [itemgetter(*(-1 if place is None else place for place in part)) for part in parts]
    return Plan(layout, shapes, layer.parameters, picks)
