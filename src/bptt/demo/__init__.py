"""``python -m bptt demo``: train a character model on real text, watch its loss fall, and let it write.

A user of the library like any other: it knows the public names only.
"""

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]
