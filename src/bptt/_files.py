"""Files that appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["write"]


def write(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that is replaced at once when all of its content is on the disk; links are followed.

    If anything fails, what was there before is still there.
    """
    target = Path(os.path.realpath(path))
    partial = target.with_name(f".{os.urandom(8).hex()}.partial")
    try:
        with partial.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
