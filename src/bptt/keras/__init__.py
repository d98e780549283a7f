"""Layers from Keras: the weights of LSTM, GRU, SimpleRNN and Bidirectional, from arrays or files.

Keras itself is not needed; `load` needs the package h5py.
"""

from .files import load
from .weights import from_weights

__all__ = ["from_weights", "load"]
