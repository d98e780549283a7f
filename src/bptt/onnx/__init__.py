"""ONNX models: layers from them, models of layers, and a backend that runs any model with bptt's layers.

`load` makes a layer of each LSTM, GRU and RNN node, `save` writes a layer as a model, and `backend` is an
``onnx.backend.base.Backend``. Needs the package onnx.
"""

try:
    import onnx as _onnx  # noqa: F401
except ImportError as error:
    raise ImportError("bptt.onnx needs the package onnx: pip install 'bptt[onnx]'") from error

from .reader import load
from .runner import Backend as backend
from .writer import save

__all__ = ["backend", "load", "save"]
