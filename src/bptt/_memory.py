"""Where new arrays come from: memory used again (``_blocks``), or NumPy where that is not compiled."""

from __future__ import annotations

try:
    from bptt._blocks import empty, kept_memory
except ImportError:
    from numpy import empty

    def kept_memory() -> int:
        """Return the bytes that are kept for later calls: none."""
        return 0


__all__ = ["empty", "kept_memory"]
