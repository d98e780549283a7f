"""The specification in NumPy: one explicit loop over time for each cell, one line for each equation.

A trailing tag such as ``# (L7)`` names the equation of ``docs/math.md`` that the line computes; the C kernels
carry the same tags. Each cell is a module: a pair of functions, ``<cell>_forward`` and ``<cell>_backward``,
and one table of array shapes. Everything runs in the floating dtype of its inputs (float32, float64,
longdouble), and every array is time-major. The specification fixes the values; the order in which a kernel
rounds is in ``docs/math.md``, and NumPy's matrix product does not follow it to the last bit.

Dimensions: T steps, B batch, I inputs, H hidden units, P outputs of a projection. T, B and I may be 0.
"""

from .activations import ACTIVATIONS, sigmoid
from .clips import NO_CLIP, StepClip
from .draws import hits
from .gru import gru_backward, gru_forward
from .lstm import lstm_backward, lstm_forward
from .rnn import rnn_backward, rnn_forward

__all__ = [
    "ACTIVATIONS",
    "NO_CLIP",
    "StepClip",
    "gru_backward",
    "gru_forward",
    "hits",
    "lstm_backward",
    "lstm_forward",
    "rnn_backward",
    "rnn_forward",
    "sigmoid",
]
