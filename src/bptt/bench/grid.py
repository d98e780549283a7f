"""The shapes that are measured, where they come from, and the ratios that are aimed at."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .cases import MODES, Case

__all__ = [
    "REAL",
    "STREAM_TARGETS",
    "SWEEPS",
    "TARGETS",
    "Entry",
    "full_grid",
    "own_grid",
    "quick_grid",
    "target",
]


class Entry(NamedTuple):
    """A case and where it comes from: "table", "odd", or the name of a model."""

    case: Case
    origin: str


# Shape: how many times as fast as the best peer a forward pass, and as PyTorch a training step, are to be.
TARGETS = {
    "2048,1,1,20": (4, 8),
    "32,1,128,128": (2.5, 6),
    "100,1,256,256": (1.7, 3),
    "100,1,512,512": (1.3, 3),
    "50,1,1024,1024": (1.2, 2),
    "16,64,64,64": (1.4, 2.2),
    "100,32,40,40": (1.6, 3),
    "100,32,128,128": (1.12, 1.3),
    "100,32,256,256": (1.02, 1.2),
    "50,128,256,256": (1.02, 1.2),
    "50,32,512,512": (1.02, 1.2),
    "25,64,1024,1024": (1.02, 1.05),
}
STREAM_TARGETS = {"1,1,64,64": 6, "1,1,256,256": 3, "1,1,512,512": 1.8}
ANYWHERE = {"stream": 1.0, "forward": 1.0, "training": 1.05}  # no shape below these
GEOMETRIC_MEANS = {"forward": 2.2, "training": 3.5}

# One layer of each model; sizes as in the models' own configurations.
REAL = (
    ("silero-vad", "stream", "1,1,128,128"),
    ("silero-vad", "forward", "1875,1,128,128"),
    ("guitar amp 20", "stream", "1,1,1,20"),
    ("guitar amp 32", "stream", "1,1,1,32"),
    ("guitar amp 40", "stream", "1,1,1,40"),
    ("guitar amp 40", "forward", "512,1,1,40"),
    ("guitar amp 20", "training", "1000,50,1,20"),
    ("guitar amp 40", "training", "1000,6,1,40"),
    ("DTLN", "stream", "1,1,257,128"),
    ("DTLN", "stream", "1,1,256,128"),
    ("recurrent PPO", "stream", "1,64,64,256"),
    ("recurrent PPO", "training", "128,8,64,256"),
    ("recurrent PPO", "training", "128,128,64,256"),
    ("DeepAR", "training", "24,32,40,40"),
    ("DeepAR", "training", "336,32,40,40"),
    ("DeepAR", "stream", "1,3200,40,40"),
    ("hydrology", "training", "365,256,32,256"),
    ("pyannote", "forward", "590,32,60,128"),
    ("EasyOCR", "forward", "25,1,256,256"),
    ("EasyOCR", "forward", "150,16,256,256"),
    ("Open-Unmix", "forward", "255,16,512,256"),
    ("Open-Unmix", "training", "255,16,512,256"),
    ("denoiser", "stream", "1,1,768,768"),
    ("RNN-T prediction", "stream", "1,1,640,640"),
    ("DeepSpeech", "forward", "16,1,2048,2048"),
    ("AWD-LSTM", "training", "70,80,400,1150"),
    ("char-rnn", "training", "50,50,65,128"),
    ("512 x 64", "forward", "100,64,512,512"),
    ("512 x 64", "training", "100,64,512,512"),
)

# Sizes that are multiples of nothing.
ODD = (
    "50,1,50,50",
    "50,7,50,50",
    "30,200,50,50",
    "50,3,96,96",
    "30,65,40,96",
    "100,1,160,160",
    "40,24,160,160",
    "30,7,200,200",
    "20,200,100,200",
    "30,3,333,333",
    "20,65,333,333",
    "30,1,640,640",
    "10,24,640,640",
    "20,7,1150,1150",
    "5,65,400,1150",
)
ODD_STREAMS = ("1,7,50,50", "1,1,333,333", "1,3,200,200")

QUICK_STREAMS = ("1,1,64,64", "1,1,256,256", "1,1,512,512")
QUICK = ("2048,1,1,20", "32,1,128,128", "100,1,256,256", "16,64,64,64", "100,32,40,40", "100,32,128,128")

# What the picture of growth varies: axis, the mode's fixed sizes with one None, the values.
SWEEPS = (
    ("T", (None, 1, 128, 128), (1, 4, 16, 64, 256, 1024, 4096)),
    ("B", (32, None, 128, 128), (1, 2, 4, 8, 16, 32, 64, 128, 256)),
    ("H", (32, 16, None, None), (8, 16, 32, 64, 128, 256, 512, 1024)),
)


def _entries(streams: Iterable[str], shapes: Iterable[str], origin: str) -> list[Entry]:
    found = [Entry(Case.of("stream", shape), origin) for shape in streams]
    return found + [Entry(Case.of(m, shape), origin) for m in MODES[1:] for shape in shapes]


def full_grid() -> list[Entry]:
    """Return everything: the table, real models, odd sizes."""
    real = [Entry(Case.of(mode, shape), name) for name, mode, shape in REAL]
    return _entries(STREAM_TARGETS, TARGETS, "table") + real + _entries(ODD_STREAMS, ODD, "odd")


def quick_grid() -> list[Entry]:
    """Return a part of the table that is measured within two minutes."""
    return _entries(QUICK_STREAMS, QUICK, "table")


def own_grid(shapes: str) -> list[Entry]:
    """Return the cases of a text "T,B,I,H;T,B,I,H": forward and training, and a stream where T is 1."""
    found = []
    for shape in filter(str.strip, shapes.split(";")):
        for mode in MODES if Case.of("forward", shape).T == 1 else MODES[1:]:
            found.append(Entry(Case.of(mode, shape), "own"))
    if not found:
        raise ValueError(f"shapes: expected T,B,I,H;..., got {shapes!r}")
    return found


def target(case: Case) -> float | None:
    """Return the ratio that is aimed at for a case by name, or None."""
    key = case.shape.replace("x", ",")
    if case.mode == "stream":
        return STREAM_TARGETS.get(key)
    return TARGETS[key][case.mode == "training"] if key in TARGETS else None
