"""The terminal side of the demo: lines, a progress bar, and Ctrl-C."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Bar", "Interrupt", "say"]


def say(line: str, write: Callable[..., None] = print) -> None:
    """Print a line at once, with a question mark for what standard output cannot encode."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    write(line.encode(encoding, "replace").decode(encoding))
    sys.stdout.flush()


class Bar:
    """A progress bar on standard error, if tqdm is there and a person may watch; lines can pass by it."""

    def __init__(self, steps: int) -> None:
        try:
            tqdm: Any = import_module("tqdm").tqdm
        except ImportError:
            self._bar: Any = None
        else:
            disable = steps == 0 or None  # None: where standard error is no terminal
            self._bar = tqdm(total=steps, unit="step", leave=False, dynamic_ncols=True, disable=disable)

    def __enter__(self) -> Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, bits: float) -> None:
        """Advance by a step whose loss is known."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"{bits:.2f} bits", refresh=False)
            self._bar.update()

    def write(self, line: str) -> None:
        """Print a line above the bar."""
        say(line, print if self._bar is None else self._bar.write)


class Interrupt:
    """True once Ctrl-C was pressed, so that the work can end where it is whole; a second one raises."""

    def __enter__(self) -> Interrupt:
        self._hit = False
        main_thread = threading.current_thread() is threading.main_thread()
        self._ours = main_thread and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def __bool__(self) -> bool:
        return self._hit

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._hit = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
