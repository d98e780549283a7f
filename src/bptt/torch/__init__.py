"""Recurrent layers for PyTorch: `LSTM`, `GRU` and `RNN` in place of ``torch.nn``'s, and `accelerate`.

The modules have the signature, parameters, state_dict and results of ``torch.nn``'s, and bptt's options as
keywords. They train by autograd and compile by ``torch.compile``; memory is shared with PyTorch both ways.

Examples
--------
>>> import torch, bptt.torch
>>> layer = bptt.torch.LSTM(3, 4, num_layers=2, bidirectional=True)
>>> output, (h_n, c_n) = layer(torch.ones(5, 2, 3))
>>> output.sum().backward()
>>> output.shape, layer.weight_ih_l0.grad.shape
(torch.Size([5, 2, 8]), torch.Size([16, 3]))
"""

from __future__ import annotations

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(f"bptt.torch needs PyTorch: pip install 'bptt[torch]' ({error})") from error

from .modules import GRU, LSTM, RNN
from .swap import accelerate, restore

__all__ = ["GRU", "LSTM", "RNN", "accelerate", "restore"]
