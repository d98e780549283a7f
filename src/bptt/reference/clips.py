"""Clipping inside the recursion."""

from collections.abc import Callable
from typing import TypeAlias

import numpy as np

from .arrays import Array

__all__ = ["NO_CLIP", "StepClip", "clips"]

StepClip: TypeAlias = tuple[float, float, float]  # what a step hands back at h and at c; pre-activations

NO_CLIP = (np.inf, np.inf, np.inf)


def clips(bounds: StepClip, clipped: Array | None) -> list[Callable[[int, Array], Array]]:
    """Clipping of what a step hands back at h and c, and of pre-activations: functions of step and value."""
    if clipped is not None:
        clipped[...] = 0
    return [_clip_of(which, bounds[which], clipped) for which in range(3)]


def _clip_of(which: int, value: float, clipped: Array | None) -> Callable[[int, Array], Array]:
    def clip(t: int, a: Array) -> Array:
        bound = a.dtype.type(value)
        if clipped is not None:
            clipped[t, :, which] += (np.abs(a) > bound).sum(axis=1)
        return np.clip(a, -bound, bound)  # (C1)

    return clip
