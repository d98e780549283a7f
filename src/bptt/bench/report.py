"""What came out: one line for each case, geometric means, JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .cases import Case
from .contest import ContenderError, Outcome, Row, Timing
from .grid import ANYWHERE, GEOMETRIC_MEANS, Entry, target
from .machine import Ceilings
from .roofline import Bound, bound

__all__ = ["HEADER", "Line", "line_of", "means", "summary", "to_json"]


@dataclass(frozen=True)
class Line:
    """One case: medians in seconds, the best peer, and what the machine would allow."""

    case: Case
    origin: str
    own: float
    medians: dict[str, float]  # of every row, this library's too
    best: str  # "" when there is no peer
    bound: Bound
    errors: dict[str, str]

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the best peer."""
        return self.medians[self.best] / self.own if self.best else None

    @property
    def share(self) -> float:
        """The share of the ceiling that binds."""
        return self.bound.seconds / self.own

    @property
    def verdict(self) -> str:
        """Whether the ratio is what is aimed at: "pass", "miss", or "" where no shape has to be slower."""
        aim, least = target(self.case), ANYWHERE[self.case.mode]
        if self.ratio is None:
            return ""
        if aim is not None:
            return "pass" if self.ratio >= aim else "miss"
        return "" if self.ratio >= least else "miss"

    def __str__(self) -> str:
        aim = target(self.case)
        ratio = f"{self.ratio:7.2f}" if self.ratio is not None else f"{'-':>7}"
        peer = time_text(self.medians[self.best]) if self.best else "-"
        name = " ".join(text for text in (self.case.mode, self.case.dtype.replace("float32", "")) if text)
        return (
            f"{self.case.shape:>16} {name:9} {time_text(self.own):>9} {peer:>9} {self.best:14} {ratio}"
            f" {f'{aim:g}' if aim else '':>5} {self.verdict:5}"
            f" {100 * self.share:4.0f}% {self.bound.ceiling:8} {self.origin}"
        )


HEADER = (
    f"{'T x B x I x H':>16} {'mode':9} {'bptt':>9} {'best peer':>9} {'which':14} {'ratio':>7}"
    f" {'aim':>5} {'':5} {'share of ceiling':14}"
)


def time_text(seconds: float) -> str:
    """Return a time with three digits and its unit."""
    for unit, factor in (("us", 1e6), ("ms", 1e3)):
        if seconds * factor < 1000:
            return f"{seconds * factor:#.3g} {unit}".replace(". ", " ")
    return f"{seconds:#.3g} s".replace(". ", " ")


def line_of(entry: Entry, outcome: Outcome, own: Row, ceilings: Ceilings) -> Line:
    """Return the line of a contest; ContenderError if this library itself failed."""
    timing = outcome[own]
    if isinstance(timing, ContenderError):
        raise timing
    medians = {str(row): t.median for row, t in outcome.items() if isinstance(t, Timing)}
    errors = {
        str(row): str(error).strip().splitlines()[-1]
        for row, error in outcome.items()
        if isinstance(error, ContenderError)
    }
    peers = [str(row) for row in outcome if row.name != own.name and str(row) in medians]
    best = min(peers, key=lambda name: medians[name], default="")
    return Line(entry.case, entry.origin, timing.median, medians, best, bound(entry.case, ceilings), errors)


def means(lines: Iterable[Line]) -> dict[str, float]:
    """Return the geometric means of the ratios: of forward with streams, and of training."""
    found: dict[str, list[float]] = {"forward": [], "training": []}
    for line in lines:
        if line.ratio is not None:
            found["training" if line.case.mode == "training" else "forward"].append(math.log(line.ratio))
    return {name: math.exp(math.fsum(logs) / len(logs)) for name, logs in found.items() if logs}


def summary(lines: Sequence[Line]) -> list[str]:
    """Return what the table says as a whole."""
    names = {"forward": "forward and stream", "training": "training"}
    found = [
        f"geometric mean of {sum((line.case.mode == 'training') == (name == 'training') for line in lines)}"
        f" ratios, {names[name]}: {value:.2f} (aim over the whole grid: {GEOMETRIC_MEANS[name]:g})"
        for name, value in means(lines).items()
    ]
    misses = [
        f"{line.case.mode} {line.case.shape} ({line.ratio:.2f})" for line in lines if line.verdict == "miss"
    ]
    if any(line.best for line in lines):
        found.append(f"misses: {', '.join(misses) if misses else 'none'}")
    told = {
        f"{line.case.mode} {line.case.shape}, {row}: {e}" for line in lines for row, e in line.errors.items()
    }
    return found + [f"left out: {text}" for text in sorted(told)]


def to_json(lines: Sequence[Line], ceilings: Ceilings, facts: dict[str, Any]) -> dict[str, Any]:
    """Return everything as JSON types: ``machine``, ``ceilings``, ``lines`` (times in seconds), ``means``."""
    return {
        "machine": facts,
        "ceilings": ceilings.as_dict(),
        "lines": [
            {
                **line.case._asdict(),
                "origin": line.origin,
                "seconds": line.own,
                "medians": line.medians,
                "best_peer": line.best or None,
                "ratio": line.ratio,
                "target": target(line.case),
                "verdict": line.verdict,
                "share": line.share,
                "bound": line.bound._asdict(),
                "flops": line.case.flops,
                "bytes": line.case.bytes,
                "errors": line.errors,
            }
            for line in lines
        ],
        "means": means(lines),
    }
