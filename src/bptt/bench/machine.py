"""The machine's ceilings, measured in the run that they judge."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import bptt

__all__ = ["LEVELS", "Ceilings", "cache_sizes", "measure_ceilings"]

LEVELS = ("L1", "L2", "L3", "memory")
DEFAULT_SIZES = {"L1": 32 << 10, "L2": 1 << 20, "L3": 32 << 20}  # bytes, where the system does not say
MOST_MEMORY = 256 << 20  # bytes to read for the bandwidth of memory, all threads together


@dataclass(frozen=True)
class Ceilings:
    """What the machine can do at most with one thread and with `threads` at once.

    Attributes
    ----------
    cpu, variant : str
    threads : int
    multiply_adds : dict
        GFLOP/s of one thread, by dtype name: [while alone, while all work].
    read : dict
        GB/s of one thread, by level of `LEVELS`: [while alone, while all read].
    sizes : dict
        Bytes that one thread can call its own, by level: L1 and L2 of a core, L3 divided by the threads.
    barrier, region : float
        Seconds that a barrier of the threads takes, and an empty call on them.
    """

    cpu: str
    variant: str
    threads: int
    multiply_adds: dict[str, list[float]]
    read: dict[str, list[float]]
    sizes: dict[str, int]
    barrier: float
    region: float

    def level(self, own: float, shared: float) -> str:
        """Return the smallest level that holds `own` bytes of a thread, of `shared` bytes of all threads."""
        for level in LEVELS[:2]:
            if own <= self.sizes[level]:
                return level
        return "L3" if shared <= self.sizes["L3"] * self.threads else "memory"

    def as_dict(self) -> dict[str, Any]:
        """Return the attributes, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """Return the ceilings as text."""
        found = [f"{self.cpu}, variant {self.variant}, {self.threads} thread(s)"]
        found += [
            f"  multiply-adds {name:8} {alone:8.1f} GFLOP/s a core alone, {both:8.1f} with all at work"
            for name, (alone, both) in self.multiply_adds.items()
        ]
        found += [
            f"  read {level:17} {alone:8.1f} GB/s a core alone,    {both:8.1f} with all at work"
            for level, (alone, both) in self.read.items()
        ]
        return [*found, f"  barrier {self.barrier * 1e9:.0f} ns, empty call {self.region * 1e6:.2f} us"]


def cache_sizes(threads: int, root: Path = Path("/")) -> dict[str, int]:
    """Return the bytes of cache that one thread of `threads` can call its own, by level.

    A cache that several CPUs share is divided by those of them that can be at work.
    """
    sizes = dict(DEFAULT_SIZES)
    sharing = {"L3": threads}
    for index in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = (_read(index / name) for name in ("type", "level", "size"))
        number = re.fullmatch(r"(\d+)([KMG]?)", size)
        if kind in ("Data", "Unified") and f"L{level}" in sizes and number:
            sizes[f"L{level}"] = int(number[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[number[2]]
            if level == "3":
                bits = int(_read(index / "shared_cpu_map").replace(",", "") or "0", 16)
                sharing["L3"] = min(threads, bits.bit_count() or threads)
    return {level: size // sharing.get(level, 1) for level, size in sizes.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def measure_ceilings(threads: int, measure: Callable[..., float] | None = None) -> Ceilings:
    """Measure the ceilings of the active variant; takes a few seconds.

    Parameters
    ----------
    threads : int
    measure : callable, optional
        ``measure(kind, threads, nbytes)`` as in ``bptt._core``.
    """
    if measure is None:
        from bptt import _core

        measure = _core.measure
    sizes = cache_sizes(threads)
    counts = (1, threads)
    memory = min(MOST_MEMORY, 4 * sizes["L3"] * threads)
    buffers = {  # of one thread: well inside the level, well outside the one before
        "L1": sizes["L1"] // 2,
        "L2": sizes["L2"] // 2,
        "L3": max(2 * sizes["L2"], sizes["L3"] // 4),
    }
    read = {
        level: [measure("read", n, buffers[level] * n if level in buffers else memory) / n for n in counts]
        for level in LEVELS
    }
    rates = {
        dtype: [measure(kind, n, 0) / n for n in counts]
        for dtype, kind in (("float32", "fma32"), ("float64", "fma64"))
    }
    barrier = measure("barrier", threads, 0) * 1e-9 if threads > 1 else 0.0
    region = measure("region", threads, 0) * 1e-9
    config = bptt.config()
    return Ceilings(config["cpu"], bptt.active_variant(), threads, rates, read, sizes, barrier, region)
