"""How many threads NumPy's matrix products use, where its BLAS can be asked."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["one_blas_thread"]

_LIBRARY = re.compile(r"\S+/[^/\s]*(?:openblas|mkl_rt)[^/\s]*$", re.M)
_NAMES = [
    (f"{prefix}openblas_get_num_threads{suffix}", f"{prefix}openblas_set_num_threads{suffix}")
    for prefix in ("scipy_", "")
    for suffix in ("64_", "")
] + [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")]


@contextmanager
def one_blas_thread(root: Path = Path("/")) -> Iterator[int]:
    """Let NumPy's matrix products run on one thread; yield how many libraries were told so.

    The threads of OpenBLAS go on spinning after a product, on the cores that the LSTM is about to use. A
    training step of the demo (2 cores, both busy with other work too) took 164 ms with them, 52 ms without.
    Where the library is not known, or the system does not list it, nothing happens.
    """
    controls = list(_controls(root))
    before = [get() for get, _ in controls]
    for _, put in controls:
        put(1)
    try:
        yield len(controls)
    finally:
        for (_, put), count in zip(controls, before, strict=True):
            put(count)


def _controls(root: Path) -> Iterator[tuple[Callable[[], int], Callable[[int], None]]]:
    """Yield the functions that read and set the thread count, of each library loaded in this process."""
    try:
        text = (root / "proc/self/maps").read_text(errors="replace")
    except OSError:
        return
    for path in sorted(set(_LIBRARY.findall(text))):
        try:
            library = ctypes.CDLL(path)
        except OSError:
            continue
        for getter, setter in _NAMES:
            if hasattr(library, getter) and hasattr(library, setter):
                yield getattr(library, getter), getattr(library, setter)
                break
