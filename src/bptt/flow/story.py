"""The story of the subject in figures: who vanishes, who explodes, who carries, and what the cures do."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import init
from ..clip import clip_grad_norm_
from ..layers import LSTM, RNN
from ..recurrent import Recurrent
from .dynamics import lyapunov_exponents
from .measure import GradientFlow, gradient_flow

__all__ = ["HIDDEN", "STEPS", "WEIGHTS", "Growth", "Story", "tell"]

WEIGHTS = (0.8, 1.0, 1.25)
STEPS = 100
HIDDEN = 64
INPUTS, ROWS = 8, 8
WINDOW = 20  # of truncation
CLIP = 1.0  # of each step, and of the norm over all parameters
GAIN = 2.0  # spectral radius of the RNN that explodes, its input GENTLE times that of the others
GENTLE = 0.3


class Growth(NamedTuple):
    """The norm of the gradient of all parameters against the length of the sequence."""

    lengths: NDArray[np.int64]
    norms: dict[str, NDArray[np.float64]]


class Story(NamedTuple):
    """What `tell` measured.

    Attributes
    ----------
    scalar : dict of float to GradientFlow
        A linear RNN of one unit, by its weight.
    cells : dict of str to (GradientFlow, float)
        The flow, and exp of the largest Lyapunov exponent.
    cures : dict of str to GradientFlow
        The RNN that explodes, with and without them.
    growth : Growth
    """

    scalar: dict[float, GradientFlow]
    cells: dict[str, tuple[GradientFlow, float]]
    cures: dict[str, GradientFlow]
    growth: Growth


def tell(steps: int = STEPS, seed: int = 0, said: Callable[[str], None] = lambda line: None) -> Story:
    """Measure everything, and say it line by line.

    Parameters
    ----------
    steps : int
        T of all sequences.
    seed : int
        Of weights and inputs.
    said : callable
        Gets the lines of the report.
    """
    x = np.random.default_rng(seed).standard_normal((steps, ROWS, INPUTS)).astype(np.float32)
    told = Story(_scalar(steps), _cells(x, seed), _cures(x * GENTLE, seed), _growth(x * GENTLE, seed))
    said(f"1. One linear unit, h_t = W h_(t-1) + x_t: dL/dh is W^n after n of {steps - 1} steps")
    for weight, flow in told.scalar.items():
        exact = weight ** np.arange(steps)
        error = np.max(np.abs(flow.lags / exact - 1))
        end = f"{flow.lags[-1]:.3g} at the far end"
        said(f"   W = {weight:<5g} factor {flow.growth:.4f}, {end}, off W^n by {error:.0e}: {flow.verdict}")
    said(f"2. {HIDDEN} units on noise: factor per step, exp of the largest Lyapunov exponent, what arrives")
    for name, (flow, exponent) in told.cells.items():
        left = flow.lags[-1] / flow.lags[0]
        said(f"   {name:32s} {flow.growth:.3f}   {exponent:.3f}   {left:8.1e}  {flow.verdict}")
    said(f"3. An RNN that explodes (spectral radius {GAIN:g}): |dL/dh| at the far end over that at the error")
    for name, flow in told.cures.items():
        said(f"   {name:32s} {flow.lags[-1] / flow.lags[0]:8.1e}")
    said(f"4. The same RNN: norm of the gradient of all parameters, T = {told.growth.lengths[0]} to {steps}")
    for name, found in told.growth.norms.items():
        said(f"   {name:32s} {found[0]:8.1e} to {found[-1]:8.1e}")
    return told


def _scalar(steps: int) -> dict[float, GradientFlow]:
    flows = {}
    for weight in WEIGHTS:
        layer = RNN(1, 1, nonlinearity="identity", bias=False)
        layer.parameters["weight_hh_l0"] = [[weight]]
        flows[weight] = gradient_flow(layer, np.zeros((steps, 1), np.float32))
    return flows


def _cells(x: NDArray[np.float32], seed: int) -> dict[str, tuple[GradientFlow, float]]:
    longest = max(3, len(x))
    layers: dict[str, Recurrent] = {
        "tanh RNN": RNN(INPUTS, HIDDEN, seed=seed),
        "LSTM": LSTM(INPUTS, HIDDEN, seed=seed),
        "LSTM, chrono biases": init.chrono(LSTM(INPUTS, HIDDEN, seed=seed), longest, seed),
        "peephole LSTM, forget bias 3": init.forget_bias(LSTM(INPUTS, HIDDEN, peephole=True, seed=seed), 3),
    }
    return {
        name: (gradient_flow(layer, x), float(np.exp(lyapunov_exponents(layer, x[:, :2], 1)[0])))
        for name, layer in layers.items()
    }


def _exploding(seed: int) -> RNN:
    layer = RNN(INPUTS, HIDDEN, seed=seed)
    weight = np.random.default_rng(seed).standard_normal((HIDDEN, HIDDEN))
    layer.parameters["weight_hh_l0"] = weight * (GAIN / np.abs(np.linalg.eigvals(weight)).max())
    return layer


def _cures(x: NDArray[np.float32], seed: int) -> dict[str, GradientFlow]:
    layer = _exploding(seed)
    return {
        "no cure": gradient_flow(layer, x),
        f"truncate={WINDOW}": gradient_flow(layer, x, truncate=WINDOW),
        f"step_clip={CLIP:g}": gradient_flow(layer, x, step_clip=CLIP),
    }


def _growth(x: NDArray[np.float32], seed: int) -> Growth:
    layer = _exploding(seed)
    lengths = np.unique(np.linspace(min(5, len(x)), len(x), 20).astype(np.int64))
    norms: dict[str, list[float]] = {
        "no cure": [],
        f"truncate={WINDOW}": [],
        f"clip_grad_norm_({CLIP:g})": [],
    }
    for T in lengths:
        tape = layer.forward(x[:T])
        errors = np.zeros_like(tape.output)
        errors[-1] = 1
        full = layer.backward(tape, errors)
        cut = layer.backward(tape, errors, truncate=WINDOW)
        norms["no cure"].append(clip_grad_norm_(full, CLIP))
        norms[f"truncate={WINDOW}"].append(clip_grad_norm_(cut, np.inf))
        norms[f"clip_grad_norm_({CLIP:g})"].append(clip_grad_norm_(full, np.inf))
    return Growth(lengths, {name: np.array(values) for name, values in norms.items()})
