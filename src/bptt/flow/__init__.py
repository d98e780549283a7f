"""Seeing the flow: how far gradients travel, what rules it, and a watch over training.

`measure` finds norms and factor, `dynamics` spectra, Jacobians and Lyapunov exponents, `monitor` watches a
training loop; `report` and `pictures` say and show it, `command` is ``python -m bptt gradient-flow``.
"""

from .dynamics import Spectrum, jacobian, lyapunov_exponents, recurrent_spectra, spectral_radius
from .measure import GradientFlow, PartFlow, flow_of, gradient_flow
from .monitor import GradientFlowWarning, GradientMonitor
from .saturation import Shares

__all__ = [
    "GradientFlow",
    "GradientFlowWarning",
    "GradientMonitor",
    "PartFlow",
    "Shares",
    "Spectrum",
    "flow_of",
    "gradient_flow",
    "jacobian",
    "lyapunov_exponents",
    "recurrent_spectra",
    "spectral_radius",
]
