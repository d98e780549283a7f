"""Where new arrays come from: memory used again (``_blocks``), or NumPy where that is not compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

try:
    from bptt._blocks import empty, empty_vector
except ImportError:
    from numpy import empty

    def empty_vector(count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Return a new vector that starts at a cache line, its content whatever the memory held."""
        raw = np.empty(count + 64, dtype)
        start = -raw.ctypes.data % 64 // raw.itemsize
        return raw[start : start + count]


__all__ = ["empty", "empty_vector"]
