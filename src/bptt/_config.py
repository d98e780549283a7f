"""What bptt runs on: version, backend, variants, threads and why, CPU, compiler."""

from __future__ import annotations

import platform
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from . import _backend, _threads
from ._version import __version__

__all__ = ["config", "show_config"]


def config() -> dict[str, Any]:
    """Return what bptt runs on, for bug reports and for programs.

    Returns
    -------
    dict
        ``version``, ``python``, ``numpy``, ``platform``, ``cpu``; ``backend``, ``variants``,
        ``active_variant``; ``threads`` and ``threads_reason``, and what the default was made from:
        ``omp_num_threads``, ``omp_thread_limit``, ``affinity``, ``quota``, ``cores`` (None where nothing is
        known); ``openmp_runtimes`` (libraries loaded in this process); ``build`` (compiler, flags, OpenMP).

    Examples
    --------
    >>> import bptt
    >>> bptt.config()["version"] == bptt.__version__
    True
    """
    policy = _threads.default_policy()
    threads = _threads.get_num_threads()
    return {
        "version": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "backend": _backend.backend_name(),
        "variants": _backend.variants(),
        "active_variant": _backend.active_variant(),
        "threads": threads,
        "threads_reason": _threads.set_by() or policy.reason,
        "omp_num_threads": policy.environment,
        "omp_thread_limit": policy.limit,
        "affinity": policy.affinity,
        "quota": policy.quota,
        "cores": policy.cores,
        "openmp_runtimes": openmp_runtimes(),
        "build": _backend.build_info(),
    }


def show_config() -> None:
    """Print `config`, one line for each entry.

    Examples
    --------
    >>> import bptt
    >>> bptt.show_config()  # doctest: +ELLIPSIS
    version           ...
    """
    lines = []
    for name, value in config().items():
        entries = value.items() if isinstance(value, dict) else [("", value)]
        for key, entry in entries:
            text = ", ".join(map(str, entry)) if isinstance(entry, (tuple, list)) else entry
            lines.append(f"{f'{name} {key}'.strip():<17} {'-' if text in (None, '') else text}")
    print("\n".join(lines))


def cpu_name(root: Path = Path("/")) -> str:
    """Return the model of the CPU, as far as the system says it."""
    try:
        match = re.search(
            r"^model name\s*:\s*(.+)$", (root / "proc/cpuinfo").read_text(errors="replace"), re.M
        )
    except OSError:
        match = None
    return match[1].strip() if match else platform.processor() or platform.machine()


def openmp_runtimes(root: Path = Path("/")) -> tuple[str, ...]:
    """Return the paths of the OpenMP libraries in this process; empty where the system does not list them."""
    if not sys.platform.startswith("linux"):
        return ()
    try:
        text = (root / "proc/self/maps").read_text(errors="replace")
    except OSError:
        return ()
    return tuple(sorted(set(re.findall(r"/.*/lib(?:gomp|iomp5|omp)[^/\s]*\.so[^/\s]*", text))))
