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
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SAVED = {"LSTM": 5, "GRU": 4, "RNN": 0}  # numbers that a tape keeps for each unit and token beside h
MATRICES = ("weight_ih", "weight_hh", "weight_hr")
SMALL = {"T": 7, "B": 5, "I": 6, "H": 18, "proj_size": 10, "truncate": 3, "recompute": 3}


class Case(NamedTuple):
    """One line of work on one stack of layers.

    `mode` is "forward" (inference over a sequence), "training" (forward for training, backward from an error
    at every output to the input and all parameters) or "stream" (T is 1: one step from the state before).
    With `lengths` the rows have 1 to T steps, uniformly; `resets` is the share of the steps that start anew;
    `truncate` is k of truncated backpropagation, `step_clip` the bound on the gates, `recompute` its k.
    """

    mode: str
    T: int
    B: int
    I: int
    H: int
    dtype: str = "float32"
    peephole: bool = False
    cell: str = "LSTM"
    layers: int = 1
    bidirectional: bool = False
    proj_size: int = 0
    lengths: bool = False
    resets: float = 0.0
    recurrent_dropout: float = 0.0
    zoneout: float = 0.0
    truncate: int = 0
    step_clip: float = 0.0
    recompute: int = 0

    @classmethod
    def of(cls, mode: str, shape: str, **options: Any) -> Case:
        """Read a shape such as "100x32x128x128" or "100,32,128,128"; ValueError if it is none."""
        if not re.fullmatch(r"\s*\d+(\s*[x,]\s*\d+){3}\s*", shape):
            raise ValueError(f"shape: expected T,B,I,H, got {shape!r}")
        T, B, I, H = map(int, re.split("[x,]", shape))
        if H < 1 or min(T, B) < 1:
            raise ValueError(f"shape: expected T, B and H of 1 or more, got {shape!r}")
        return cls(mode, T, B, I, H, **options)

    @property
    def shape(self) -> str:
        """The sizes as `of` reads them."""
        return f"{self.T}x{self.B}x{self.I}x{self.H}"

    @property
    def kind(self) -> str:
        """What sets it apart from one layer of a plain LSTM in float32; empty for that."""
        told = {
            self.cell: self.cell != "LSTM",
            f"{self.layers} layers": self.layers > 1,
            "bidirectional": self.bidirectional,
            f"P={self.proj_size}": self.proj_size,
            "peephole": self.peephole,
            self.dtype: self.dtype != "float32",
            "lengths": self.lengths,
            f"resets {self.resets:.0%}": self.resets,
            f"recurrent_dropout {self.recurrent_dropout:g}": self.recurrent_dropout,
            f"zoneout {self.zoneout:g}": self.zoneout,
            f"truncate {self.truncate}": self.truncate,
            f"step_clip {self.step_clip:g}": self.step_clip,
            f"recompute {self.recompute}": self.recompute,
        }
        return " ".join(text for text, holds in told.items() if holds)

    def plain(self) -> Case:
        """Return the same network on all steps of all rows, without what acts inside the recursion."""
        inside = ("lengths", "resets", "recurrent_dropout", "zoneout", "truncate", "step_clip", "recompute")
        return self._replace(**{name: self._field_defaults[name] for name in inside})

    def small(self) -> Case:
        """Return the same kind of work on a few steps, rows and units, to see that it runs."""
        sizes = {name: min(most, getattr(self, name)) for name, most in SMALL.items()}
        return self._replace(**sizes, resets=0.3 if self.resets else 0.0)

    @property
    def real(self) -> Any:
        """The dtype."""
        return np.dtype(self.dtype)

    @property
    def width(self) -> int:
        """P, or H without a projection."""
        return self.proj_size or self.H

    @property
    def directions(self) -> int:
        return 1 + self.bidirectional

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments of a layer of this library beside its sizes."""
        given: dict[str, Any] = {"num_layers": self.layers, "bidirectional": self.bidirectional}
        if self.cell == "LSTM":
            given |= {"proj_size": self.proj_size, "peephole": self.peephole}
            given |= {"recurrent_dropout": self.recurrent_dropout, "zoneout": self.zoneout}
        return given

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the weights by the names of torch.nn, and weight_peephole, (3, H)."""
        rows, found = GATES[self.cell] * self.H, dict[str, tuple[int, ...]]()
        for layer in range(self.layers):
            inputs = self.directions * self.width if layer else self.I
            for suffix in (f"l{layer}", f"l{layer}_reverse")[: self.directions]:
                found[f"weight_ih_{suffix}"] = (rows, inputs)
                found[f"weight_hh_{suffix}"] = (rows, self.width)
                found |= {f"bias_ih_{suffix}": (rows,), f"bias_hh_{suffix}": (rows,)}
                if self.peephole:
                    found[f"weight_peephole_{suffix}"] = (3, self.H)
                if self.proj_size:
                    found[f"weight_hr_{suffix}"] = (self.proj_size, self.H)
        return found

    def weights(self) -> dict[str, Array]:
        """Return the weights by name; gates in the order i, f, g, o or r, z, n, peepholes i, f, o."""
        rng, bound = np.random.default_rng(0), self.H**-0.5
        return {name: rng.uniform(-bound, bound, s).astype(self.real) for name, s in self.shapes().items()}

    def input(self) -> Array:
        """Return x (T,B,I); for a stream, of STREAM_STEPS steps."""
        steps = STREAM_STEPS if self.mode == "stream" else self.T
        drawn = np.random.default_rng(1).standard_normal((steps, self.B, self.I), np.float32)
        return drawn.astype(self.real, copy=False)

    def output_gradient(self) -> Array:
        """Return d_output (T,B,D*P)."""
        shape = self.T, self.B, self.directions * self.width
        return np.random.default_rng(2).standard_normal(shape, np.float32).astype(self.real, copy=False)

    def row_lengths(self) -> Array | None:
        """Return how many steps each row has, (B,), or None."""
        return np.random.default_rng(3).integers(1, self.T + 1, self.B) if self.lengths else None

    def reset_steps(self) -> Array | None:
        """Return where rows start anew, (T,B), or None."""
        return np.random.default_rng(4).random((self.T, self.B)) < self.resets if self.resets else None

    @property
    def tokens(self) -> int:
        """Steps of all rows."""
        lengths = self.row_lengths()
        return self.T * self.B if lengths is None else int(lengths.sum())

    @property
    def flops(self) -> int:
        """Multiplications and additions of the matrix products."""
        matrices = (shape for name, shape in self.shapes().items() if name[:9] in MATRICES)
        forward = 2 * self.tokens * sum(rows * columns for rows, columns in matrices)
        return 3 * forward if self.mode == "training" else forward

    @property
    def bytes(self) -> int:
        """What must pass through memory if every array is read or written once by each pass that needs it.

        Forward: weights, x, output and states, of each layer and direction. Training: the same, with a tape
        written; then weights, x, output, the tape and d_output read, the gradients of weights and x written.
        """
        shapes = self.shapes()
        weights = sum(int(np.prod(shape)) for shape in shapes.values())
        inputs = sum(shape[1] for name, shape in shapes.items() if name.startswith("weight_ih"))
        parts, cells = self.layers * self.directions, self.H if self.cell == "LSTM" else 0
        outputs, states = parts * self.width, 2 * parts * self.B * (self.width + cells)
        forward = weights + self.tokens * (inputs + outputs) + states
        if self.mode != "training":
            return int(self.real.itemsize * forward)
        backward = 2 * weights + self.tokens * (2 * inputs + 2 * outputs) + states
        tape = parts * SAVED[self.cell] * self.H
        return int(self.real.itemsize * (forward + backward + 2 * self.tokens * tape))
