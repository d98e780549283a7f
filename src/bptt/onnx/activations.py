"""Activations of ONNX nodes in terms of bptt's, and whether a clip before them changes anything."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Activation", "parsed", "written"]

_PLAIN = {"relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "softsign": "softsign"}
_SCALED = ("affine", "hardsigmoid", "scaledtanh")  # those with an alpha and a beta
_WRITTEN: dict[str, tuple[str, float | None, float | None]] = {
    "sigmoid": ("Sigmoid", None, None),
    "tanh": ("Tanh", None, None),
    "relu": ("Relu", None, None),
    "softsign": ("Softsign", None, None),
    "hard_sigmoid": ("HardSigmoid", 0.2, 0.5),
    "identity": ("Affine", 1.0, 0.0),
}
# From where on an activation is constant to the last bit, in float32 and float64.
_SATURATED = {"sigmoid": (104.0, 745.2), "tanh": (9.1, 19.1), "hard_sigmoid": (2.5, 2.5)}


class Activation(NamedTuple):
    """z -> name(scale * z + shift), where `name` is one of bptt's activations."""

    name: str
    scale: float = 1.0
    shift: float = 0.0

    @property
    def plain(self) -> bool:
        """Whether nothing happens to z before."""
        return self.scale == 1 and self.shift == 0

    def ignores(self, clip: float, dtype: np.dtype[np.floating]) -> bool:
        """Return whether holding z between -clip and clip leaves every result of `dtype` as it is."""
        bounds = _SATURATED.get(self.name)
        if bounds is None:
            return clip == np.inf
        return abs(self.scale) * clip - abs(self.shift) >= bounds[dtype == np.float64]


def parsed(names: Sequence[str], alphas: Sequence[float], betas: Sequence[float]) -> list[Activation]:
    """Return the activations of a node.

    `alphas` and `betas` are consumed in the order of the names, by those that have such a parameter.

    Raises
    ------
    ValueError
        If an activation cannot be computed, or numbers are left over.
    """
    alpha, beta = iter(alphas), iter(betas)
    found = [_parsed(name, alpha, beta) for name in names]
    for what, rest in (("activation_alpha", list(alpha)), ("activation_beta", list(beta))):
        if rest:
            raise ValueError(f"{what}: {len(rest)} more than the activations {', '.join(names)} take")
    return found


def _parsed(name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    key = name.lower()
    if key in _PLAIN:
        return Activation(_PLAIN[key])
    if key not in _SCALED:
        known = "Sigmoid, Tanh, Relu, Softsign, HardSigmoid, Affine, ScaledTanh"
        raise ValueError(f"activations: expected one of {known}, got {name}")
    defaults = (0.2, 0.5) if key == "hardsigmoid" else (None, None)
    a, b = next(alphas, defaults[0]), next(betas, defaults[1])
    if a is None or b is None:
        raise ValueError(f"activation_alpha, activation_beta: {name} has no default, expected one of each")
    if not np.isfinite([a, b]).all():
        raise ValueError(f"activation_alpha, activation_beta: expected finite numbers, got {a}, {b}")
    if key == "affine":
        return Activation("identity", a, b)
    if key == "scaledtanh":
        if a != 1:
            raise ValueError(f"activation_alpha: expected 1 for ScaledTanh, got {a}")
        return Activation("tanh", b)
    alpha, beta = np.float32(a), np.float32(b)  # what a model holds; 0.2 of bptt's is exactly 0.2 then
    return Activation("hard_sigmoid", float(alpha / np.float32(0.2)), float((beta - np.float32(0.5)) * 5))


def written(names: Sequence[str]) -> dict[str, list[str] | list[float]]:
    """Return the attributes of a node that has these activations of bptt."""
    of_onnx = [_WRITTEN[name] for name in names]
    attributes: dict[str, list[str] | list[float]] = {"activations": [name for name, _, _ in of_onnx]}
    scaled = [(alpha, beta) for _, alpha, beta in of_onnx if alpha is not None and beta is not None]
    if scaled:
        attributes["activation_alpha"] = [alpha for alpha, _ in scaled]
        attributes["activation_beta"] = [beta for _, beta in scaled]
    return attributes
