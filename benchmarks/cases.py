"""What is measured: the kind of work, its sizes, its data, and the least it costs."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# TxBxIxH. One shape for each way of losing time: large and small batches, one row, one unit of input.
SHAPES = ("100x32x128x128", "100x32x40x40", "2048x1x1x20", "100x1x256x256", "16x64x64x64", "32x1x128x128")
STREAM_SHAPES = ("1x1x64x64", "1x1x1x20", "1x1x128x128", "1x1x256x256", "1x1x512x512", "1x16x64x64")
STREAM_STEPS = 8  # of a stream that are compared


class Case(NamedTuple):
    """One line of work on one LSTM layer in float32.

    `mode` is "forward" (inference over a sequence), "training" (forward for training, backward from an error
    at every output to the input and all parameters) or "stream" (T is 1: one step from the state before).
    """

    mode: str
    T: int
    B: int
    I: int
    H: int

    @classmethod
    def of(cls, mode: str, shape: str) -> Case:
        """Read a shape such as "100x32x128x128"."""
        T, B, I, H = map(int, shape.split("x"))
        return cls(mode, T, B, I, H)

    def weights(self) -> dict[str, Array]:
        """Return weight_ih (4H,I), weight_hh (4H,H), bias_ih, bias_hh (4H), gates in the order i, f, g, o."""
        rng = np.random.default_rng(0)
        rows, bound = 4 * self.H, self.H**-0.5
        shapes = {"weight_ih": (rows, self.I), "weight_hh": (rows, self.H), "bias_ih": rows, "bias_hh": rows}
        return {name: rng.uniform(-bound, bound, s).astype(np.float32) for name, s in shapes.items()}

    def input(self) -> Array:
        """Return x (T,B,I); for a stream, of STREAM_STEPS steps."""
        steps = STREAM_STEPS if self.mode == "stream" else self.T
        return np.random.default_rng(1).standard_normal((steps, self.B, self.I), np.float32)

    def output_gradient(self) -> Array:
        """Return d_output (T,B,H)."""
        return np.random.default_rng(2).standard_normal((self.T, self.B, self.H), np.float32)

    @property
    def shape(self) -> str:
        """The sizes as `of` reads them."""
        return f"{self.T}x{self.B}x{self.I}x{self.H}"

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products."""
        forward = 8 * self.T * self.B * self.H * (self.I + self.H)
        return 3 * forward if self.mode == "training" else forward

    @property
    def bytes(self) -> int:
        """What must pass through memory if every array is read or written once by each pass that needs it.

        Forward: weights, x, output and states. Training: the same, with a tape (gates and cells) written;
        then weights, x, output, the tape and d_output read, the gradients of weights and x written.
        """
        _, T, B, I, H = self
        weights, tokens, states = 4 * H * (I + H + 2), T * B, 4 * B * H
        forward = weights + tokens * (I + H) + states
        if self.mode != "training":
            return 4 * forward
        backward = 2 * weights + tokens * (2 * I + 2 * H) + states
        return 4 * (forward + backward + 2 * tokens * 5 * H)
