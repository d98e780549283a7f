"""What is measured: the kind of work, its sizes, its data, and the least it costs."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["MODES", "STREAM_STEPS", "Array", "Case"]

Array = NDArray[Any]

MODES = ("stream", "forward", "training")
STREAM_STEPS = 8  # of a stream that are compared


class Case(NamedTuple):
    """One line of work on one LSTM layer.

    `mode` is "forward" (inference over a sequence), "training" (forward for training, backward from an error
    at every output to the input and all parameters) or "stream" (T is 1: one step from the state before).
    """

    mode: str
    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"
    peephole: bool = False

    @classmethod
    def of(cls, mode: str, shape: str, dtype: str = "float32", peephole: bool = False) -> Case:
        """Read a shape such as "100x32x128x128" or "100,32,128,128"; ValueError if it is none."""
        if not re.fullmatch(r"\s*\d+(\s*[x,]\s*\d+){3}\s*", shape):
            raise ValueError(f"shape: expected T,B,I,H, got {shape!r}")
        T, B, I, H = map(int, re.split("[x,]", shape))
        if H < 1 or min(T, B) < 1:
            raise ValueError(f"shape: expected T, B and H of 1 or more, got {shape!r}")
        return cls(mode, T, B, I, H, dtype, peephole)

    @property
    def shape(self) -> str:
        """The sizes as `of` reads them."""
        return f"{self.T}x{self.B}x{self.I}x{self.H}"

    @property
    def real(self) -> Any:
        """The dtype."""
        return np.dtype(self.dtype)

    def weights(self) -> dict[str, Array]:
        """Return weight_ih (4H,I), weight_hh (4H,H), bias_ih, bias_hh (4H), gates in the order i, f, g, o.

        With peepholes also weight_peephole (3,H), in the order i, f, o.
        """
        rng = np.random.default_rng(0)
        rows, bound = 4 * self.H, self.H**-0.5
        shapes: dict[str, tuple[int, ...]] = {
            "weight_ih": (rows, self.I),
            "weight_hh": (rows, self.H),
            "bias_ih": (rows,),
            "bias_hh": (rows,),
        }
        if self.peephole:
            shapes["weight_peephole"] = (3, self.H)
        return {name: rng.uniform(-bound, bound, s).astype(self.real) for name, s in shapes.items()}

    def input(self) -> Array:
        """Return x (T,B,I); for a stream, of STREAM_STEPS steps."""
        steps = STREAM_STEPS if self.mode == "stream" else self.T
        drawn = np.random.default_rng(1).standard_normal((steps, self.B, self.I), np.float32)
        return drawn.astype(self.real)

    def output_gradient(self) -> Array:
        """Return d_output (T,B,H)."""
        drawn = np.random.default_rng(2).standard_normal((self.T, self.B, self.H), np.float32)
        return drawn.astype(self.real)

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
        T, B, I, H = self.T, self.B, self.I, self.H
        weights, tokens, states = 4 * H * (I + H + 2) + 3 * H * self.peephole, T * B, 4 * B * H
        forward = weights + tokens * (I + H) + states
        if self.mode != "training":
            return int(self.real.itemsize * forward)
        backward = 2 * weights + tokens * (2 * I + 2 * H) + states
        return int(self.real.itemsize * (forward + backward + 2 * tokens * 5 * H))
