"""Recurrent layers on the CPU, forward and backward through time.

`LSTM`, `GRU` and `RNN` are layers: ``layer(x)`` runs one, ``layer.forward`` and ``layer.backward`` train it,
``layer.freeze`` makes an engine for inference. `bptt.reference` is the specification in NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import init, optim, reference
from ._backend import active_variant, backend, use_variant, variants
from ._config import config, show_config
from ._threads import get_num_threads, num_threads, set_num_threads
from ._version import __version__
from .clip import clip_grad_norm_, clip_grad_value_
from .engine import Engine, Stream
from .layers import GRU, LSTM, RNN
from .parameters import Parameters
from .reversed import Reversed
from .safetensors import load, save
from .tape import Gradients, Tape
from .truncated import TruncatedBPTT

if TYPE_CHECKING:
    from . import flow
    from .flow import GradientMonitor, gradient_flow, jacobian, lyapunov_exponents, spectral_radius

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Engine",
    "GradientMonitor",
    "Gradients",
    "Parameters",
    "Reversed",
    "Stream",
    "Tape",
    "TruncatedBPTT",
    "__version__",
    "active_variant",
    "backend",
    "clip_grad_norm_",
    "clip_grad_value_",
    "config",
    "flow",
    "get_num_threads",
    "gradient_flow",
    "init",
    "jacobian",
    "load",
    "lyapunov_exponents",
    "num_threads",
    "optim",
    "reference",
    "save",
    "set_num_threads",
    "show_config",
    "spectral_radius",
    "use_variant",
    "variants",
]

if not TYPE_CHECKING:  # imported at their first use: `import bptt` stays as fast as layers need it to be
    _OF_FLOW = ("GradientMonitor", "gradient_flow", "jacobian", "lyapunov_exponents", "spectral_radius")
    _DOORS = ("keras", "onnx", "ray", "sklearn", "torch")  # each imports its library itself

    def __getattr__(name: str) -> object:
        if name not in (*_OF_FLOW, *_DOORS, "flow"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        if name in _DOORS:
            return import_module(f".{name}", __name__)
        module = import_module(".flow", __name__)
        globals().update({each: getattr(module, each) for each in _OF_FLOW})
        return globals()[name]

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
