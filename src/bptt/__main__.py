"""Command line: ``python -m bptt info | demo | bench | gradient-flow``, also installed as ``bptt``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import bench, demo
from ._config import show_config
from ._version import __version__
from .flow import command as flow

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        The arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(prog="bptt", description="Recurrent layers on the CPU.")
    parser.add_argument("--version", action="version", version=f"bptt {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "print version, variants, threads and why, CPU, compiler"
    commands.add_parser("info", help=text, description=f"{text.capitalize()}.")
    text = "train a character model on English text and sample from it"
    demo.add_arguments(commands.add_parser("demo", help=text, description=f"{text.capitalize()}."))
    text = "measure speed against the machine's ceilings and against other libraries that are installed"
    bench.add_arguments(commands.add_parser("bench", help=text, description=f"{text.capitalize()}."))
    text = "show why gradients vanish and explode and what helps, or the flow through a layer of yours"
    flow.add_arguments(commands.add_parser("gradient-flow", help=text, description=f"{text.capitalize()}."))
    arguments = parser.parse_args(argv)
    try:
        if arguments.command == "bench":
            return bench.main(arguments)
        if arguments.command == "gradient-flow":
            return flow.main(arguments)
        if arguments.command == "demo":
            return int(demo.main(arguments) or 0)
        return _info()
    except KeyboardInterrupt:
        return 130


def _info() -> int:
    try:
        show_config()
    except ValueError as error:  # an environment variable that names nothing
        print(f"bptt: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
