"""Recurrent layers on the CPU, forward and backward through time.

`LSTM`, `GRU` and `RNN` are layers: ``layer(x)`` runs one, ``layer.forward`` and ``layer.backward`` train it,
``layer.freeze`` makes an engine for inference. `bptt.reference` is the specification in NumPy.
"""

from . import init, optim, reference
from ._backend import active_variant, backend, use_variant, variants
from ._config import config, show_config
from ._threads import get_num_threads, num_threads, set_num_threads
from ._version import __version__
from .clip import clip_grad_norm_, clip_grad_value_
from .engine import Engine, Stream
from .layers import GRU, LSTM, RNN
from .parameters import Parameters
from .tape import Gradients, Tape
from .truncated import TruncatedBPTT

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "Engine",
    "Gradients",
    "Parameters",
    "Stream",
    "Tape",
    "TruncatedBPTT",
    "__version__",
    "active_variant",
    "backend",
    "clip_grad_norm_",
    "clip_grad_value_",
    "config",
    "get_num_threads",
    "init",
    "num_threads",
    "optim",
    "reference",
    "set_num_threads",
    "show_config",
    "use_variant",
    "variants",
]
