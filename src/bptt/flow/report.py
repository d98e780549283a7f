"""A flow in plain words: what was measured, why it may be so, and which call or argument helps."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ..layers import GRU, LSTM, RNN
from .dynamics import recurrent_spectra
from .saturation import mean_gate

if TYPE_CHECKING:
    from .measure import GradientFlow

__all__ = ["report"]

MUCH = 0.3  # share of saturated values that is worth a word of advice
WORTH = 0.01  # and one that is worth a mention
LEAST = 0.95  # at which a gate opens at least: well above the factor that vanishes whatever the length
LEFT = 0.1  # of a cell's gradient that an open forget gate should leave over the whole sequence


def report(flow: GradientFlow) -> str:
    """Return the text of ``flow.report()``."""
    T, B = flow.tape.hidden.shape[1:3]
    lines = [
        f"Gradient flow through {flow.layer!r}: {T} steps, {B} {'row' if B == 1 else 'rows'}",
        f"Verdict: {flow.verdict}, factor {flow.growth:.4g} per step{_distance(flow)}",
    ]
    if flow.everywhere:
        lines.append("Errors enter at every step: the factor shows them too, not the flow alone")
    state = "h" if flow.cells is None else "c"
    for part in flow.parts:
        if len(part.lags):
            ends = f"{part.lags[0]:.3g} at the error, {part.lags[-1]:.3g} after {len(part.lags) - 1} steps"
            judged = f"; factor {part.growth:.4g}, {part.verdict}" if len(flow.parts) > 1 else ""
            lines.append(f"  {part.name}: |dL/d{state}| {ends}{judged}")
    lines += [f"  {text}" for text in (*_saturation(flow), *_spectra(flow), *_clips(flow))]
    return "\n".join([*lines, "What helps:", *(f"  - {text}" for text in advice(flow))])


def advice(flow: GradientFlow) -> list[str]:
    """Return what helps, each a sentence with the call or argument."""
    if not np.isfinite(flow.tape.hidden).all():
        return ["the forward pass itself is not finite: look at x, the state and the weights first"]
    if not len(flow.lags):
        return ["no error enters: nothing flows"]
    if len(flow.lags) == 1 and math.isfinite(flow.lags[0]):
        return ["nothing to say: errors have one step, and no distance to go"]
    found = {"vanishing": _against_vanishing, "exploding": _against_exploding}
    if flow.verdict in found:
        return found[flow.verdict](flow)
    return ["nothing: errors reach the other end of the sequence about as large as they started"]


def _distance(flow: GradientFlow) -> str:
    """Say after how many steps a hundredth is left, or a hundred times, or nothing at all."""
    zero = "; exactly zero at the far end" if len(flow.lags) and flow.lags[-1] == 0 else ""
    if flow.verdict == "vanishing" and 0 < flow.growth < 1:
        return f"; a hundredth is left after {math.log(100) / -math.log(flow.growth):.0f} steps{zero}"
    if flow.verdict == "exploding" and 1 < flow.growth < math.inf:
        return f"; 100 times as large after {math.log(100) / math.log(flow.growth):.0f} steps"
    return zero


def _saturation(flow: GradientFlow) -> list[str]:
    lines = []
    for n, (part, shares) in enumerate(zip(flow.parts, flow.saturated, strict=True)):
        ends = [
            (gate, end, share)
            for gate, s in shares.items()
            for end, share in zip(("low", "high"), s, strict=True)
        ]
        shown = [f"{gate} {end} {share:.0%}" for gate, end, share in ends if share >= WORTH]
        lines.append(f"{part.name}: saturated: {', '.join(shown) or 'next to nothing'}")
        kept = mean_gate(flow.layer, flow.tape, flow.lengths, n)
        if kept is not None:
            name = "forget gate f" if isinstance(flow.layer, LSTM) else "update gate z"
            lines.append(f"{part.name}: mean of the {name}: {kept:.3f}")
    return lines


def _spectra(flow: GradientFlow) -> list[str]:
    if not isinstance(flow.layer, RNN) or not np.isfinite(flow.layer.parameters.flat).all():
        return []
    spectra = recurrent_spectra(flow.layer)
    return [f"{s.name}: spectral radius {s.radius:.3g}; {s.conclusion}" for s in spectra]


def _clips(flow: GradientFlow) -> list[str]:
    if flow.clipped is None:
        return []
    counts: dict[str, NDArray[np.int64]] = dict(flow.clipped)
    return [f"clipped elements ({name}): {int(np.sum(count))}" for name, count in counts.items()]


def _against_vanishing(flow: GradientFlow) -> list[str]:
    layer, steps = flow.layer, max(3, len(flow.lags))
    found = []
    if flow.truncate is not None and flow.lags[-1] == 0:
        return [f"truncate={flow.truncate}: nothing flows further than that; a longer one lets it"]
    if isinstance(layer, RNN):
        found.append(
            "bptt.LSTM or bptt.GRU in place of bptt.RNN: a gate passes the gradient on, not a matrix"
        )
        found.append("bptt.init.keras(layer): orthogonal recurrent weights neither shrink nor stretch")
    clips = [name for name, count in dict(flow.clipped or {}).items() if np.sum(count)]
    if clips:
        found.append(f"step_clip holds elements ({', '.join(clips)}): a larger bound lets more through")
    if isinstance(layer, LSTM) and not layer.coupled:
        kept = max(LEAST, LEFT ** (1 / steps))
        bias = _bias_of(layer.activations[0], kept)
        if bias is not None:
            text = f"forget gates at {kept:.3f} leave {kept**steps:.0%} over {steps} steps"
            found.append(f"bptt.init.forget_bias(layer, {bias:.1f}): {text}")
    if isinstance(layer, (LSTM, GRU)):
        found.append(f"bptt.init.chrono(layer, longest={steps}): gates that keep for 1 to {steps} steps")
    if not layer.bias and not isinstance(layer, RNN):
        found = [f"{text} (the layer needs bias=True)" for text in found]
    states = {"h", "tanh(c)", "n", "g"}
    worst = max(
        (s.low + s.high for shares in flow.saturated for name, s in shares.items() if name in states),
        default=0.0,
    )
    if worst > MUCH:
        found.append(f"{worst:.0%} of a state is saturated: smaller inputs or weights give it a slope again")
    return found


def _bias_of(gate: str, value: float) -> float | None:
    """Return the pre-activation at which a gate has that value; None where no bias is worth a word."""
    if gate == "sigmoid":
        return math.log(value / (1 - value))
    return (value - 0.5) / 0.2 if gate == "hard_sigmoid" else None


def _against_exploding(flow: GradientFlow) -> list[str]:
    layer = flow.layer
    if len(flow.lags) and not math.isfinite(flow.lags[0]):
        return ["the errors themselves are not finite: look at the loss and its gradient first"]
    found = [
        "bptt.clip_grad_norm_(gradients, max_norm=1.0) before each step of the optimizer",
        "layer.backward(tape, d_output, step_clip=1.0): clips inside, before it overflows",
    ]
    if not layer.bidirectional and 1 < flow.growth < math.inf:
        k = max(1, int(math.log(100) / math.log(flow.growth)))
        found.append(f"layer.backward(tape, d_output, truncate={k}): errors grow 100 times at most")
    if isinstance(layer, RNN) and np.isfinite(layer.parameters.flat).all():
        for spectrum in recurrent_spectra(layer):
            if spectrum.radius > 1:
                found.append(f"layer.parameters[{spectrum.name!r}] *= {1 / spectrum.radius:.3g}: radius 1")
    return found
