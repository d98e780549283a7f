"""Which functions do the work: the compiled module, or the NumPy specification under the same names."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from . import _reference_core

try:
    import bptt._core as _compiled
except ImportError as error:  # not built here, or built for another machine
    _native: Any = None
    _why_not = str(error)
else:
    _native = _compiled
    _why_not = ""

__all__ = ["active_variant", "backend", "backend_name", "build_info", "core", "use_variant", "variants"]

BACKENDS = ("native", "reference")
_chosen: ContextVar[Any] = ContextVar("bptt_backend", default=None)


def core() -> Any:
    """Return the module of functions in force: ``bptt._core`` or its twin in NumPy."""
    return _chosen.get() or _default()


@functools.cache
def _default() -> Any:
    return _load(os.environ.get("BPTT_BACKEND") or "native", "BPTT_BACKEND")


def _load(name: str, what: str) -> Any:
    if name not in BACKENDS:
        raise ValueError(f"{what}: expected one of {', '.join(BACKENDS)}, got {name!r}")
    return _native_or_reference() if name == "native" else _reference_core


@functools.cache
def _native_or_reference() -> Any:
    if _native is None:
        text = (
            f"bptt: the compiled core is not available ({_why_not}); the slow NumPy reference serves instead"
        )
        warnings.warn(text, RuntimeWarning, stacklevel=6)  # the caller of a layer
        return _reference_core
    return _native


def backend(name: str) -> AbstractContextManager[None]:
    """Return a context in which everything runs on one backend.

    Parameters
    ----------
    name : {"native", "reference"}
        The compiled core, or the NumPy specification. It holds for this thread (or asyncio task); a stream
        keeps the backend that it was made under. The environment variable BPTT_BACKEND sets the default.

    Raises
    ------
    ValueError
        If there is no such backend.

    Warns
    -----
    RuntimeWarning
        Once, if the compiled core is asked for and was not built: the reference serves.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer, x = bptt.LSTM(3, 4, seed=0), np.ones((5, 2, 3), np.float32)
    >>> with bptt.backend("reference"):
    ...     expected, _ = layer(x)
    >>> np.allclose(layer(x)[0], expected, atol=1e-6)
    True
    """
    return _using(_load(name, "name"))


@contextmanager
def _using(module: Any) -> Iterator[None]:
    token = _chosen.set(module)
    try:
        yield
    finally:
        _chosen.reset(token)


def backend_name() -> str:
    """Return "native" or "reference", whichever is in force."""
    return "reference" if core() is _reference_core else "native"


def variants() -> tuple[str, ...]:
    """Return the kernel variants that this machine can run, best first.

    Returns
    -------
    tuple of str
        Empty if the compiled core is not there. "amx" stands here where CPU and Linux have it, though Linux
        refuses its registers to a process with a signal stack too small for them.

    Examples
    --------
    >>> import bptt
    >>> isinstance(bptt.variants(), tuple)
    True
    """
    return () if _native is None else tuple(_native.variants())


def active_variant() -> str:
    """Return the kernel variant that calls use, or "reference" under the reference backend.

    Examples
    --------
    >>> import bptt
    >>> with bptt.backend("reference"):
    ...     bptt.active_variant()
    'reference'
    """
    return str(core().active_variant())


def use_variant(name: str) -> None:
    """Use one kernel variant from now on, in the whole process; engines keep the one they were packed for.

    Parameters
    ----------
    name : str
        One of `variants`. The environment variable BPTT_VARIANT sets the one to start with.

    Raises
    ------
    ValueError
        If there is no such variant, this machine cannot run it, or the system refuses it to this process.

    Examples
    --------
    >>> import bptt
    >>> for name in bptt.variants()[:1]:
    ...     bptt.use_variant(name)
    """
    if not isinstance(name, str):
        raise TypeError(f"name: expected a string, got {type(name).__name__}")
    if _native is None:
        raise ValueError(f"name: no variant {name!r}, as the compiled core is not available ({_why_not})")
    _native.use_variant(name)


def build_info() -> dict[str, Any]:
    """Return how the compiled core was built, or why it is missing."""
    return {"missing": _why_not} if _native is None else dict(_native.build_info())
