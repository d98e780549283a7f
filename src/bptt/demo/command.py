"""The demo as a command: options, training by truncated backpropagation through time, reports, a sample."""

from __future__ import annotations

import argparse
import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bptt

from .blas import one_blas_thread
from .model import CELLS, CharacterModel
from .terminal import Bar, Interrupt, say
from .text import Corpus, corpus, python_reference, read_text, windows

__all__ = ["add_arguments", "main"]

STEPS = 2000
SECONDS = 40.0  # after which a run of the default length ends early, on a slow or busy machine
HIDDEN = 128
EMBEDDING = 32
WINDOW = 64  # T: characters that errors flow back through
STREAMS = 32  # B: places of the text that are read in parallel
REPORTS = 10
MEASURE = 0.5  # seconds to measure each backend for
MAX_NORM = 1.0
TEMPERATURE = 0.6
PROMPT = 200  # held-out characters that the sample goes on from
SAMPLE = 400


class _Refused(Exception):
    """An argument that cannot be used; the message says why."""


class _Training(NamedTuple):
    """How training went: what was asked for, what was done, and the seconds of its steps alone."""

    asked: int
    done: int
    seconds: float
    characters: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command to a parser."""
    add = parser.add_argument
    add("--text", metavar="FILE", help="a UTF-8 file to learn (default: the help pages of this Python)")
    add("--save", metavar="FILE", help="write all parameters and the vocabulary here, as NumPy's .npz")
    add("--load", metavar="FILE", help="start from a saved model; without --steps only measure and sample it")
    add("--seed", metavar="N", type=_count(0), default=0, help="same seed, same numbers (default: 0)")
    add("--steps", metavar="N", type=_count(1), help=f"training steps (default: {STEPS})")
    text = (
        f"end training so many seconds after the start (default: {SECONDS:g}, and none if --steps is given)"
    )
    add("--seconds", metavar="S", type=_seconds, help=text)
    add("--hidden", metavar="N", type=_count(1), help=f"units of the LSTM (default: {HIDDEN})")
    add("--cell", choices=tuple(CELLS), help="of the recurrent layer (default: lstm)")


def main(args: argparse.Namespace) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    args : argparse.Namespace
        What a parser made from the options of `add_arguments`.

    Returns
    -------
    int
        0; 130 if Ctrl-C ended training early; 2 if an argument cannot be used.
    """
    try:
        with Interrupt() as interrupt:
            _run(args, interrupt)
            return 130 if interrupt else 0
    except _Refused as error:
        print(f"bptt demo: error: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("bptt demo: error: not enough memory for this model (see --hidden)", file=sys.stderr)
        return 2
    except BrokenPipeError:  # as after `| head`: the reader has gone, so nothing more can be said
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _run(args: argparse.Namespace, interrupt: Interrupt) -> None:
    """Do everything, from the text to the sample."""
    end = time.perf_counter() + _limit(args)
    rng = np.random.default_rng(args.seed)
    model, text = _prepared(args, rng)
    _introduce(args, model, text)
    if bptt.active_variant() == "reference":
        say("No compiled core: NumPy trains, slowly (--steps 200 --hidden 64 gives a first impression).")
    elif args.load is None:
        _compare(model, next(windows(text.training, WINDOW, STREAMS)), interrupt)
    steps = args.steps or (0 if args.load else STEPS)
    with one_blas_thread():
        training = _train(model, text, steps, end, rng, interrupt)
        _conclude(model, text, training, interrupt)
        _write_sample(model, text, rng)
    if args.save:
        try:
            model.save(args.save, text.vocabulary)
        except OSError as error:
            raise _Refused(f"--save {args.save}: {error.strerror or error}") from None
        say(f"Saved to {args.save}.")


def _prepared(args: argparse.Namespace, rng: np.random.Generator) -> tuple[CharacterModel, Corpus]:
    """Return a model, new or loaded, and its text; refuse what cannot work before any time is spent."""
    if args.save:
        target = Path(args.save).resolve()
        if not os.access(target.parent, os.W_OK) or (target.exists() and not target.is_file()):
            raise _Refused(f"--save {args.save}: expected the name of a file in a folder that can be written")
    model = vocabulary = None
    if args.load:
        if args.hidden or args.cell:
            raise _Refused("--load: the saved model decides --hidden and --cell")
        try:
            model, vocabulary = CharacterModel.load(args.load)
        except OSError as error:
            raise _Refused(f"--load {args.load}: {error.strerror or error}") from None
        except ValueError as error:
            raise _Refused(f"--load {args.load}: {error}") from None
    where = f"--text {args.text}: " if args.text else ""
    try:
        text = corpus(read_text(args.text) if args.text else python_reference(), vocabulary)
    except OSError as error:
        raise _Refused(f"{where}{error.strerror or error}") from None
    except ValueError as error:
        raise _Refused(f"{where}{error}") from None
    return model or _new_model(args, len(text.vocabulary), rng), text


def _new_model(args: argparse.Namespace, symbols: int, rng: np.random.Generator) -> CharacterModel:
    try:
        return CharacterModel(symbols, args.hidden or HIDDEN, EMBEDDING, args.cell or "lstm", rng)
    except ValueError as error:  # sizes beyond any memory
        raise _Refused(f"--hidden {args.hidden}: {error}") from None


def _introduce(args: argparse.Namespace, model: CharacterModel, text: Corpus) -> None:
    every = np.concatenate([text.training, text.held_out])
    known = np.mean(every != len(text.vocabulary) - 1)
    size, held_out = len(every), len(text.held_out)
    say(f"Text:  {args.text or 'the help pages of this Python'}, {size} characters, {held_out} held out;")
    say(f"       {len(text.vocabulary)} symbols, which tell {known:.2%} of the characters apart")
    cell = CELLS[model.cell][0]
    numbers = sum(array.size for arrays in model.parameters for array in arrays.values())
    variant, threads = bptt.active_variant(), bptt.get_num_threads()
    on = "NumPy reference" if variant == "reference" else f"{variant}, {threads} thread{'s' * (threads > 1)}"
    say(f"Model: embedding, {cell} of {model.layer.hidden_size} units, softmax; {numbers} parameters;")
    say(f"       {on}, seed {args.seed}")


def _limit(args: argparse.Namespace) -> float:
    """Return how many seconds after the start of the command training ends."""
    if args.seconds is not None:
        return float(args.seconds)
    return math.inf if args.steps else SECONDS


def _compare(model: CharacterModel, window: NDArray[np.int64], interrupt: Interrupt) -> None:
    """Run one window through the compiled core and through NumPy; print both times and the difference."""

    def step() -> NDArray[np.float64]:
        return _slopes(model, window)

    with one_blas_thread():
        native, ours = _timed(step, interrupt)
        with bptt.backend("reference"):
            slow, theirs = _timed(step, interrupt)
    with bptt.backend("reference"):  # NumPy may be better with all its threads
        slow = min(slow, _timed(step, interrupt)[0])
    difference = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    steps, rows = len(window) - 1, window.shape[1]
    say(f"Step:  {native * 1e3:.1f} ms forward and backward over {rows} x {steps} characters;")
    say(f"       NumPy reference {slow * 1e3:.1f} ms: bptt is {slow / native:.1f} times as fast;")
    say(f"       gradients differ by {difference:.1e} (norm of the difference / norm)")


def _slopes(model: CharacterModel, window: NDArray[np.int64]) -> NDArray[np.float64]:
    layer, rest = model.step(window, None).gradients
    arrays = [layer.parameters.flat, *rest.values()]
    return np.concatenate([array.reshape(-1) for array in arrays]).astype(np.float64)


def _timed(call: Callable[[], Any], interrupt: Interrupt) -> tuple[float, Any]:
    """Call for a while, at least twice; return the least time after the first, and a result."""
    result, best, end = call(), math.inf, time.perf_counter() + MEASURE
    while best == math.inf or (time.perf_counter() < end and not interrupt):
        start = time.perf_counter()
        result = call()
        best = min(best, time.perf_counter() - start)
    return best, result


def _train(
    model: CharacterModel,
    text: Corpus,
    steps: int,
    end: float,
    rng: np.random.Generator,
    interrupt: Interrupt,
) -> _Training:
    """Train by truncated backpropagation through time: the state is carried on, errors stay in a window."""
    optimizer = bptt.optim.Adam(model.parameters)
    every = max(1, math.ceil(steps / REPORTS))
    begin, spent, characters, done = time.perf_counter(), 0.0, 0, 0
    state, bits = None, list[float]()
    with Bar(steps) as bar:
        for window, anew in _batches(text.training, rng):
            if done % every == 0 and done < steps:
                _report(bar, done, steps, _held_out(model, text), bits, time.perf_counter() - begin)
                bits = []
            if done == steps or interrupt or time.perf_counter() >= end:
                break
            start = time.perf_counter()
            optimizer.lr = _rate(done, steps, model.layer.hidden_size)
            step = model.step(window, None if anew else state)
            bptt.clip_grad_norm_(step.gradients, MAX_NORM)
            optimizer.step(step.gradients)
            spent += time.perf_counter() - start
            state, done, characters = step.state, done + 1, characters + window[1:].size
            bits.append(step.bits)
            bar.update(step.bits)
    return _Training(steps, done, spent, characters)


def _batches(
    symbols: NDArray[np.int64], rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], bool]]:
    """Yield windows without end, and whether each begins a new pass over the text, from another offset."""
    while True:
        offset = int(rng.integers(min(WINDOW, len(symbols) // 2)))
        for place, window in enumerate(windows(symbols, WINDOW, STREAMS, offset)):
            if place == 0 or len(window) == WINDOW + 1:
                yield window, place == 0


def _rate(done: int, steps: int, hidden: int) -> float:
    """Return the learning rate: it rises over 30 steps, then falls as a cosine."""
    peak = min(0.02, 0.23 / math.sqrt(hidden))
    return peak * min(1.0, (done + 1) / 30) * (0.51 + 0.49 * math.cos(math.pi * done / steps))


def _held_out(model: CharacterModel, text: Corpus) -> float:
    """Return the loss in bits per character over all that is held out."""
    state, total, count = None, 0.0, 0
    for window in windows(text.held_out, WINDOW, STREAMS):
        bits, state = model.bits(window, state)
        total, count = total + bits * window[1:].size, count + window[1:].size
    return total / count


def _report(bar: Bar, done: int, steps: int, held_out: float, bits: list[float], seconds: float) -> None:
    place = f"step {done:{len(str(steps))}}/{steps}"
    training = f", {np.mean(bits):.2f} in training" if bits else ""
    bar.write(f"{place}  {held_out:.2f} bits per character held out{training}  {seconds:.1f} s")


def _conclude(model: CharacterModel, text: Corpus, training: _Training, interrupt: Interrupt) -> None:
    held_out = _held_out(model, text)
    if interrupt:
        say(f"Interrupted at step {training.done} of {training.asked}.")
    elif training.done < training.asked:
        say(f"Time is up at step {training.done} of {training.asked} (see --seconds).")
    result = f"Held out: {held_out:.2f} bits per character"
    if training.done:
        speed = training.characters / training.seconds
        result += f" after {training.done} steps, {training.characters} characters"
        result += f" at {speed:.0f} characters per second"
    say(result)


def _write_sample(model: CharacterModel, text: Corpus, rng: np.random.Generator) -> None:
    """Print what the model writes after the beginning of the held-out text."""
    prompt = text.held_out[:PROMPT]
    words = text.vocabulary.decode(prompt).rfind(" ") + 1  # so that the sample begins with a word
    drawn = model.sample(prompt[: words or len(prompt)], SAMPLE, TEMPERATURE, rng)
    written = " ".join(text.vocabulary.decode(drawn).split())
    shown = "".join(character if character.isprintable() else "?" for character in _sentences(written))
    say("Sample:")
    say(textwrap.fill(shown, 88, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False))


def _sentences(written: str) -> str:
    """Leave out a beginning and an end that are parts of sentences, where that leaves enough."""
    start = re.search(r"(?<=[.:] )[A-Z]", written[: len(written) // 2])
    whole = written[start.start() :] if start else written
    stop = whole.rfind(". ") + 1
    return whole[:stop] if stop > len(whole) // 2 else whole


def _count(least: int) -> Callable[[str], int]:
    """Return a reader of whole numbers from `least` up."""

    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {value}")
        return value

    read.__name__ = "whole number"
    return read


def _seconds(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value
