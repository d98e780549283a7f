"""Where new arrays come from: memory used again (``_blocks``), or NumPy where that is not compiled."""

from __future__ import annotations

try:
    from bptt._blocks import empty
except ImportError:
    from numpy import empty

__all__ = ["empty"]
