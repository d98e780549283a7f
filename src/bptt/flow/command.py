"""``python -m bptt gradient-flow``: the story in one picture, or the flow through one's own layer."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..safetensors import load
from .dynamics import lyapunov_exponents
from .measure import gradient_flow

__all__ = ["add_arguments", "main"]

PICTURE = "gradient-flow.png"


class _Refused(Exception):
    """An argument that cannot be used; the message says why."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to a parser."""
    add = parser.add_argument
    text = f"the picture; any ending matplotlib knows (default: {PICTURE}, and none with --layer)"
    add("--plot", metavar="FILE", help=text)
    add(
        "--maps",
        metavar="FILE",
        help="with --layer: heat maps of states, gates and gradients of row 0",
    )
    add("--layer", metavar="FILE", help="a layer that bptt.save wrote (.safetensors), to report its flow")
    add("--data", metavar="FILE", help="its input as .npy, (T, B, I) or (T, I) (default: 100 steps of noise)")
    add("--steps", metavar="T", type=int, default=100, help="steps of the sequences (default: 100)")
    add("--seed", metavar="N", type=int, default=0, help="of weights and noise (default: 0)")


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    args : argparse.Namespace
        What a parser made from the options of `add_arguments`.

    Returns
    -------
    int
        0; 2 if an argument cannot be used.
    """
    try:
        _check(args)
        if args.layer:
            _own(args)
        else:
            _story(args)
    except _Refused as error:
        print(f"bptt gradient-flow: error: {error}", file=sys.stderr)
        return 2
    return 0


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot work before any time is spent."""
    if args.steps < 2:
        raise _Refused(f"--steps: expected at least 2, got {args.steps}")
    if args.seed < 0:
        raise _Refused(f"--seed: expected at least 0, got {args.seed}")
    if not args.layer and (args.data or args.maps):
        raise _Refused(f"--{'data' if args.data else 'maps'}: goes with --layer only")
    for path in (args.plot, args.maps):
        if path and not importlib.util.find_spec("matplotlib"):
            raise _Refused("pictures need matplotlib (pip install 'bptt[plot]')")
        if path and not Path(path).resolve().parent.is_dir():
            raise _Refused(f"{path}: expected a file in a folder that is there")


def _story(args: argparse.Namespace) -> None:
    from .story import tell

    told = tell(args.steps, args.seed, print)
    if not args.plot and not importlib.util.find_spec("matplotlib"):
        print("No picture: matplotlib is not there (pip install 'bptt[plot]')")
        return
    from .story_picture import draw

    _save(draw(told), args.plot or PICTURE)


def _own(args: argparse.Namespace) -> None:
    layer = _loaded(args.layer)
    x = _data(args, layer)
    try:
        flow = gradient_flow(layer, x)
    except (TypeError, ValueError) as error:
        raise _Refused(f"--data {args.data}: {error}") from None
    print(flow.report())
    if len(flow.lags):
        few = x if x.ndim == 2 else x[:2] if layer.batch_first else x[:, :2]
        with np.errstate(all="ignore"):
            largest = lyapunov_exponents(layer, few, 1)[0]
        print(f"Largest Lyapunov exponent: {largest:.4f} per step, a factor of {np.exp(largest):.4g}")
    if args.plot:
        _save(flow.plot().figure, args.plot)
    if args.maps:
        try:
            maps = flow.heat_maps()
        except ValueError as error:
            raise _Refused(f"--maps {args.maps}: {error}") from None
        _save(maps, args.maps)


def _loaded(path: str) -> Any:
    try:
        return load(path)
    except OSError as error:
        raise _Refused(f"--layer {path}: {error.strerror or error}") from None
    except (ImportError, TypeError, ValueError) as error:
        raise _Refused(f"--layer {path}: {error}") from None


def _data(args: argparse.Namespace, layer: Any) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the input in the layer's dtype, from the file or drawn."""
    if not args.data:
        shape = (8, args.steps) if layer.batch_first else (args.steps, 8)
        noise = np.random.default_rng(args.seed).standard_normal((*shape, layer.input_size))
        return np.asarray(noise.astype(layer.dtype))
    try:
        array = np.load(args.data, allow_pickle=False)
    except OSError as error:
        raise _Refused(f"--data {args.data}: {error.strerror or error}") from None
    except (ValueError, EOFError) as error:
        raise _Refused(f"--data {args.data}: expected an array that numpy.save wrote ({error})") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise _Refused(f"--data {args.data}: expected one array of real numbers")
    return np.asarray(array.astype(layer.dtype))


def _save(figure: Any, path: str) -> None:
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:  # ValueError: an ending that matplotlib does not know
        raise _Refused(f"{path}: {error}") from None
    print(f"Picture: {path}")
