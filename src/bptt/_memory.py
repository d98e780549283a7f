"""Where new arrays come from: memory used again (``_blocks``), or NumPy where that is not compiled."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

try:
    from bptt._blocks import array_at, carve, empty, empty_vector
except ImportError:
    from numpy import empty

    def array_at(address: int, shape: tuple[int, ...], double_precision: bool, owner: object) -> NDArray[Any]:
        """Return the C-contiguous array that lies there; it keeps `owner`, whose memory that is."""
        dtype = np.dtype(np.float64 if double_precision else np.float32)
        numbers = math.prod(shape)
        if not numbers:
            return np.empty(shape, dtype)
        memory: Any = (ctypes.c_char * (numbers * dtype.itemsize)).from_address(address)
        memory.owner = owner
        return np.frombuffer(memory, dtype).reshape(shape)

    def empty_vector(count: int, dtype: DTypeLike) -> NDArray[Any]:
        """Return a new vector that starts at a cache line, its content whatever the memory held."""
        raw = np.empty(count + 64, dtype)
        start = -raw.ctypes.data % 64 // raw.itemsize
        return raw[start : start + count]

    def carve(flat: NDArray[Any], shapes: Iterable[tuple[int, ...]]) -> list[NDArray[Any]]:
        """Return views of a contiguous vector, one after the other, of these shapes."""
        found, start = [], 0
        for shape in shapes:
            end = start + math.prod(shape)
            found.append(flat[start:end].reshape(shape))
            start = end
        return found


__all__ = ["array_at", "carve", "empty", "empty_vector"]
