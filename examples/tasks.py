"""What the examples share: tasks with long spans, a layer with a readout, a training loop, a figure."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

import bptt
from bptt.demo.blas import one_blas_thread
from bptt.flow.pictures import COLOURS, figure, tidy

SYMBOLS = 8  # of the copy task, beside "nothing yet" and "now"
COPIED = 5


def adding(steps, rows, rng):
    """Return numbers with two of them marked (T, B, 2), and the sum of the marked (1, B, 1).

    Hochreiter and Schmidhuber (1997), in the form of Arjovsky, Shah and Bengio (2016): one mark in each half.
    Saying 1 always has a mean squared error of 1/6.
    """
    x = np.zeros((steps, rows, 2), np.float32)
    x[..., 0] = rng.random((steps, rows))
    row, half = np.arange(rows), steps // 2
    x[rng.integers(0, half, rows), row, 1] = 1
    x[rng.integers(half, steps, rows), row, 1] = 1
    return x, (x[..., 0] * x[..., 1]).sum(0)[None, :, None]


def copying(delay, rows, rng):
    """Return symbols to remember, a wait and a mark (T, B, 10), and the symbols (5, B) to say after it.

    Hochreiter and Schmidhuber (1997); Arjovsky, Shah and Bengio (2016). Guessing costs log(8) = 2.08 nats.
    """
    symbols = rng.integers(0, SYMBOLS, (COPIED, rows))
    x = np.zeros((delay + 2 * COPIED, rows, SYMBOLS + 2), np.float32)
    np.put_along_axis(x[:COPIED], symbols[..., None], 1, 2)
    x[COPIED:, :, SYMBOLS] = 1
    x[-COPIED, :, SYMBOLS:] = 0, 1
    return x, symbols


def recalling(lag, rows, rng, steps=64):
    """Return bits (T, B, 1), and for every step from `lag` on the bit that stood `lag` steps before it."""
    bits = rng.integers(0, 2, (steps, rows))
    return (2 * bits[..., None] - 1).astype(np.float32), bits[: steps - lag]


class Model:
    """A recurrent layer and a linear readout of its last steps, as many as there are targets."""

    def __init__(self, layer, outputs, seed):
        rng = np.random.default_rng(seed)
        self.layer = layer
        bound = layer.hidden_size**-0.5
        self.readout = {
            "weight": rng.uniform(-bound, bound, (outputs, layer.hidden_size)).astype(np.float32),
            "bias": np.zeros(outputs, np.float32),
        }

    @property
    def parameters(self):
        return [self.layer.parameters, self.readout]

    def step(self, x, target, truncate=None):
        """Return the loss, the share of right answers (NaN for numbers), and the gradients of `parameters`.

        Numbers (n, B, 1) are a matter of squared error, whole ones (n, B) of the softmax's logarithm.
        """
        tape = self.layer.forward(x)
        count = len(target)
        hidden = tape.output[-count:]
        y = hidden @ self.readout["weight"].T + self.readout["bias"]
        loss, right, d_y = squared_error(y, target) if target.dtype.kind == "f" else softmax(y, target)
        d_output = np.zeros_like(tape.output)
        d_output[-count:] = d_y @ self.readout["weight"]
        gradients = self.layer.backward(tape, d_output, truncate=truncate)
        flat = d_y.reshape(-1, d_y.shape[2])
        readout = {"weight": flat.T @ hidden.reshape(len(flat), -1), "bias": flat.sum(0)}
        return loss, right, [gradients, readout]


def squared_error(y, target):
    error = y - target
    return float(np.mean(error**2)), np.nan, (2 / error.size * error).astype(np.float32)


def softmax(y, target):
    z = y - y.max(2, keepdims=True)
    p = np.exp(z)
    p /= p.sum(2, keepdims=True)
    chosen = np.take_along_axis(p, target[..., None], 2)
    right = float(np.mean(y.argmax(2) == target))
    loss = float(-np.log(np.maximum(chosen, 1e-30)).mean())
    np.put_along_axis(p, target[..., None], chosen - 1, 2)
    return loss, right, (p / target.size).astype(np.float32)


def train(model, batch: Callable, steps, lr=3e-3, max_norm=1.0, truncate=None, optimizer=None):
    """Train on a new batch at each step; return losses, shares of right answers, and norms before clipping.

    Parameters
    ----------
    model : Model
    batch : callable
        Returns x and target.
    max_norm : float
        ``inf`` for no clipping.
    optimizer : optional
        Adam with `lr` by default.
    """
    optimizer = optimizer or bptt.optim.Adam(model.parameters, lr=lr)
    found = []
    with one_blas_thread(), np.errstate(all="ignore"):  # what diverges may overflow
        for _ in range(steps):
            loss, right, gradients = model.step(*batch(), truncate)
            norm = bptt.clip_grad_norm_(gradients, max_norm)
            found.append((loss, right, norm))
            if not np.isfinite(norm):
                break
            optimizer.step(gradients)
    return np.array(found).T


def smooth(values, width=25):
    """Return a running mean."""
    width = min(width, len(values))
    return np.convolve(values, np.ones(width) / width, "valid")


def curves(title, named, label, chance=None, log=False):
    """Return a figure of smoothed curves over training steps."""
    drawn = figure(6.6, 4.0)
    ax = drawn.subplots()
    tidy(ax)
    for n, (name, values) in enumerate(named.items()):
        colour, line = COLOURS[n % len(COLOURS)], "-" if n < len(COLOURS) else "--"
        ax.plot(smooth(values), line, color=colour, linewidth=1.6, label=name)
    if chance is not None:
        ax.axhline(chance[1], color="black", linewidth=0.8, linestyle=":")
        away = {"xytext": (-2, -11), "textcoords": "offset points", "fontsize": 8, "ha": "right"}
        ax.annotate(chance[0], (1, chance[1]), xycoords=("axes fraction", "data"), **away)
    if log:
        ax.set_yscale("log")
    ax.set_title(title, fontsize=11)
    ax.set_xlabel("training step")
    ax.set_ylabel(label)
    ax.legend(frameon=False, fontsize=8)
    return drawn


def arguments(description, **defaults):
    """Return the command line: an integer option for each default, and --plot."""
    parser = argparse.ArgumentParser(description=description)
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value, metavar="N", help=f"default: {value}")
    parser.add_argument("--plot", metavar="FILE", help="save a figure (needs matplotlib)")
    return parser


def save(drawn, path):
    drawn.savefig(path)
    print(f"Picture: {path}")
