"""Contests with aims: which case, against whom, and how many times as fast it has to be."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from .cases import Case

__all__ = ["CELLS", "LSTM", "RTNEURAL", "SLOW_PATHS", "TORCH", "Aim", "Goal", "Published", "Share", "label"]


class Aim(NamedTuple):
    """How many times as fast as the fastest of some contenders a case has to be; None: told, not judged.

    "plain" is this library on `Case.plain`: a ratio of 0.95 against it is a cost of 5 %.
    """

    ratio: float | None
    rivals: tuple[str, ...]


class Goal(NamedTuple):
    """A case and its aims, all measured in one contest."""

    case: Case
    aims: tuple[Aim, ...]

    @property
    def rivals(self) -> list[str]:
        """Every contender of the aims, once."""
        return list(dict.fromkeys(name for aim in self.aims for name in aim.rivals))


def label(case: Case) -> str:
    """Return a text that tells the cases of a suite apart."""
    return " ".join(filter(None, (case.mode, case.shape, case.kind)))


def goal(mode: str, shape: str, *aims: tuple[float | None, str], **options: Any) -> Goal:
    """Return a goal; each aim is a ratio and the names of contenders with commas between."""
    return Goal(
        Case.of(mode, shape, **options), tuple(Aim(ratio, tuple(names.split(","))) for ratio, names in aims)
    )


def against_modules(
    shapes: Iterable[str], forward: float, training: float, runtimes: str = "", **options: Any
) -> list[Goal]:
    """Return goals in inference against the runtimes, all by default, and in training against torch.nn."""
    both = []
    for shape in shapes:
        both.append(goal("forward", shape, (forward, runtimes or RUNTIMES), **options))
        both.append(goal("training", shape, (training, "torch"), **options))
    return both


RUNTIMES = "torch,onnxruntime,openvino"
LOOPS = "torchloop,torchscript,torchcompile"
SIZES = ("100x32x256x256", "100x32x128x128")
EPISODES = "128x64x64x256"  # of recurrent PPO

LSTM = (
    goal("forward", "100x32x128x128", (1.0, "torch,onnxruntime")),
    goal("forward", "2048x1x1x20", (3.0, "torch,onnxruntime")),
    goal("stream", "1x1x64x64", (5.0, "torch,onnxruntime")),
    goal("training", "100x32x128x128", (1.15, "torch")),
    goal("training", "100x32x40x40", (2.5, "torch")),
)

CELLS = (
    *against_modules(SIZES[:1], 1.02, 1.2),  # the LSTM, whose shares of the ceiling the others are to reach
    *against_modules(SIZES, 1.0, 2.0, cell="GRU"),
    *against_modules(SIZES, 1.0, 2.0, cell="RNN"),
    *against_modules(SIZES[:1], 1.0, 1.3, layers=2, bidirectional=True),
    goal("stream", "1x1x256x256", (1.0, RUNTIMES), cell="GRU", layers=3),
    goal("training", SIZES[0], (1 / 1.15, "plain"), recurrent_dropout=0.3),
    goal("training", SIZES[0], (1 / 1.15, "plain"), zoneout=0.1),
    goal("training", SIZES[0], (1 / 1.15, "plain"), recurrent_dropout=0.3, zoneout=0.1),
    goal("forward", SIZES[0], (1 / 1.15, "plain"), zoneout=0.1),
    goal("training", SIZES[0], (0.95, "plain"), truncate=10),
    goal("training", SIZES[0], (0.95, "plain"), truncate=50),
    goal("training", SIZES[0], (1 / 1.03, "plain"), step_clip=0.001),
    goal("training", SIZES[0], (None, "plain"), recompute=10),
)

SLOW_PATHS = (
    goal("forward", SIZES[0], (1.6, "plain"), (2.5, "torch"), (1.0, "onnxruntime"), lengths=True),
    goal("training", SIZES[0], (1.6, "plain"), (5.0, "torch"), lengths=True),
    goal("forward", EPISODES, (1 / 1.05, "plain"), (1.0, "torchcell"), resets=0.03),
    goal("training", EPISODES, (1 / 1.05, "plain"), (2.5, "torchcell"), resets=0.03),
    *against_modules(["50x8x512x2048"], 1.0, 5.0, "torch", proj_size=512),
    goal("forward", SIZES[1], (1.0, f"onnxruntime,{LOOPS}"), peephole=True),
    goal("training", SIZES[1], (3.0, LOOPS), peephole=True),
    *against_modules(SIZES[1:], 1.0, 3.0, "torch", dtype="float64"),
)


class Published(NamedTuple):
    """Seconds a step that others have measured for a streamed LSTM, I to H, and how many times as fast."""

    I: int
    H: int
    seconds: float
    ratio: float | None

    @property
    def case(self) -> Case:
        """A whole sequence in one call."""
        return Case("forward", 2048, 1, self.I, self.H)


# RTNeural (C++, templates on the sizes; best of 30 builds), one thread of a Zen 4 core, a streamed step.
RTNEURAL = (
    Published(1, 20, 156e-9, 1.8),
    Published(1, 40, 247e-9, 1.8),
    Published(8, 8, 53e-9, None),
    Published(16, 16, 83e-9, None),
    Published(32, 32, 316e-9, 1.5),
    Published(64, 64, 1224e-9, 1.8),
    Published(128, 128, 4907e-9, 1.8),
)


class Share(NamedTuple):
    """A training step through autograd, and the share of the bare layer's speed that it is to keep.

    Without `of_input` nobody wants the gradient of the input, as in the first layer of a model.
    """

    case: Case
    of_input: bool = True
    ratio: float = 0.9


TORCH = (
    *(Share(Case.of("training", shape)) for shape in ("32x1x128x128", "100x32x40x40", *SIZES[::-1])),
    *(Share(Case.of("training", SIZES[1], cell=cell)) for cell in ("GRU", "RNN")),
    *(Share(Case.of("training", shape), False) for shape in ("32x1x128x128", "100x32x40x40", SIZES[1])),
)
