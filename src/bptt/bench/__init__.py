"""``python -m bptt bench``: this library against its peers and against the machine's ceilings.

`cases` says what is measured, `contenders` and `peer_*` how each library does it, `contest` times them in
turns in processes of their own (`worker`), `machine` measures the ceilings, `roofline` says which of them
binds, `grid` lists the shapes and targets, `report` and `picture` show what came out. `suites` and `memory`
are for the repository's ``benchmarks/``: other cells and options, and what a call holds of memory.
"""

from .command import add_arguments, main

__all__ = ["add_arguments", "main"]
