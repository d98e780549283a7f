"""A progress bar on standard error if tqdm is there and a person may watch; lines can pass by it."""

from __future__ import annotations

from importlib import import_module
from types import TracebackType
from typing import Any

__all__ = ["Progress"]


class Progress:
    """The bar of so many steps; without tqdm only the lines appear."""

    def __init__(self, steps: int) -> None:
        self._bar: Any = None
        try:
            tqdm: Any = import_module("tqdm").tqdm
        except ImportError:
            return
        self._bar = tqdm(total=steps, unit="case", leave=False, dynamic_ncols=True, disable=None)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def at(self, text: str) -> None:
        """Say what is going on."""
        if self._bar is not None:
            self._bar.set_postfix_str(text)

    def done(self, line: str = "") -> None:
        """Advance by a step, and print a line."""
        if line:
            self.write(line)
        if self._bar is not None:
            self._bar.update()

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is None:
            print(line, flush=True)
        else:
            self._bar.write(line)
