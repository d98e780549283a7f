"""A watch over the gradients of a training loop: statistics, warnings, a CSV file, TensorBoard."""

from __future__ import annotations

import csv
import math
import os
import warnings
from importlib import import_module
from types import TracebackType
from typing import Any, NamedTuple, TextIO

import numpy as np
from numpy.typing import NDArray

from .. import _check
from ..recurrent import Recurrent, checked_layer
from ..tape import Gradients
from .measure import gradient_flow
from .norms import by_step, fitted, norms

__all__ = ["GradientFlowWarning", "GradientMonitor", "Record", "Statistics"]


class GradientFlowWarning(UserWarning):
    """Gradients vanish or explode, says a `GradientMonitor`."""


class Record(NamedTuple):
    """One update of a monitor.

    Attributes
    ----------
    step : int
        Number of the update, from 0.
    loss : float
        As given; NaN if it was not.
    norm : float
        Euclidean norm of the gradient of all parameters.
    growth : float
        Factor per step of the flow through time; NaN where it was not measured.
    first, last : float
        Norm of the gradient that reaches the state (c, or h) at the far end of the flow, and where it starts.
    verdict : str
        "vanishing", "steady", "exploding", or "" where the flow was not measured.
    """

    step: int
    loss: float
    norm: float
    growth: float
    first: float
    last: float
    verdict: str


class Statistics(NamedTuple):
    """Running statistics of one column over the updates where it was finite."""

    updates: int = 0
    mean: float = math.nan
    std: float = math.nan
    low: float = math.inf
    high: float = -math.inf


class Running:
    """Sums that `Statistics` come from (Welford 1962): an update costs next to nothing."""

    __slots__ = ("high", "low", "mean", "squares", "updates")

    def __init__(self) -> None:
        self.updates, self.mean = 0, 0.0
        self.squares = 0.0  # of the distances from the mean, added up
        self.low, self.high = math.inf, -math.inf

    def add(self, value: float) -> None:
        """Take in a value if it is finite."""
        if value - value != 0.0:  # infinity and NaN
            return
        self.updates += 1
        away = value - self.mean
        self.mean += away / self.updates
        self.squares += away * (value - self.mean)
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value

    def result(self) -> Statistics:
        """Return the statistics of all values so far."""
        if not self.updates:
            return Statistics()
        std = math.sqrt(max(0.0, self.squares / self.updates))
        return Statistics(self.updates, self.mean, std, self.low, self.high)


class GradientMonitor:
    """Watches the gradients of a layer while it trains.

    Call it once per training step with what ``backward`` returned. With ``backward(..., steps="norms")`` it
    measures the flow of the training loss itself; given `x` it measures, at every `every`-th call, the flow
    of the last step's output (`gradient_flow`), which tells vanishing even when errors enter at every step.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
    path : str or path, optional
        A CSV file with a line for each update, written anew.
    tensorboard : str, path or object, optional
        A folder for TensorBoard's event files (needs the package tensorboard), or any writer with
        ``add_scalar(tag, value, step)``, such as torch's SummaryWriter.
    every : int
        How often the flow is measured on a given `x`.
    patience : int
        How many measurements in a row must have a bad verdict before a warning; one that is not finite warns
        at once.

    Attributes
    ----------
    last : Record or None
        The last update.
    statistics : dict of str to Statistics
        Of "loss", "norm", "growth", "first", "last": updates, mean, standard deviation, low, high.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value.
    ImportError
        If `tensorboard` is a folder and the package is not there.

    Warns
    -----
    GradientFlowWarning
        Once when the flow vanishes, and once when it explodes.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.init.forget_bias(bptt.LSTM(3, 8, seed=0), 3)
    >>> x = np.ones((20, 4, 3), np.float32)
    >>> with bptt.GradientMonitor(layer, every=10) as monitor:
    ...     for step in range(30):
    ...         tape = layer.forward(x)
    ...         gradients = layer.backward(tape, tape.output - 0.1)
    ...         monitor(gradients, loss=float(np.square(tape.output - 0.1).mean()), x=x)
    ...         layer.parameters.flat[:] -= 0.01 * gradients.parameters.flat
    >>> monitor.statistics["norm"].updates, monitor.statistics["growth"].updates
    (30, 3)
    """

    def __init__(
        self,
        layer: Recurrent,
        path: str | os.PathLike[str] | None = None,
        *,
        tensorboard: Any = None,
        every: int = 100,
        patience: int = 3,
    ) -> None:
        self.layer = checked_layer(layer)
        self.every, self.patience = _check.size("every", every), _check.size("patience", patience)
        self.last: Record | None = None
        self._running = {name: Running() for name in ("loss", "norm", "growth", "first", "last")}
        self._in_a_row = {"vanishing": 0, "exploding": 0}
        self._warned: set[str] = set()
        self._steps = 0
        name = None if path is None else _check.path("path", path)
        self._writer, self._owns_writer = _writer(tensorboard)
        self._file: TextIO | None = None
        if name is not None:
            self._file = open(name, "w", newline="", encoding="utf-8")  # noqa: SIM115 (closed by close)
            self._write(list(Record._fields))

    def __call__(
        self,
        gradients: Gradients,
        *,
        loss: float = math.nan,
        x: Any = None,
        state: Any = None,
        lengths: Any = None,
    ) -> None:
        """Take in one training step.

        Parameters
        ----------
        gradients : Gradients
            From ``layer.backward``, before they are clipped.
        loss : float, optional
        x, state, lengths
            What the layer ran on: with `x` the flow of the last step's output is measured at every `every`-th
            call; `lengths` count without it, too.
        """
        if not isinstance(gradients, Gradients):
            raise TypeError(f"gradients: expected Gradients from backward, got {type(gradients).__name__}")
        loss = _check.real("loss", loss)
        growth, first, last, verdict = math.nan, math.nan, math.nan, ""
        if x is not None:
            if self._steps % self.every == 0:
                flow = gradient_flow(self.layer, x, state, lengths=lengths)
                growth, verdict = flow.growth, flow.verdict
                first, last = _ends(flow.lags)
        elif gradients.norms is not None:
            carrier = int(isinstance(gradients.state, tuple))
            growth, verdict, first, last = self._of_training(gradients.norms, carrier, lengths)
        norm = float(norms(gradients.parameters.flat, 0))
        if not math.isfinite(norm):
            verdict = "exploding"
        self.last = Record(self._steps, loss, norm, growth, first, last, verdict)
        self._steps += 1
        self._keep(self.last)
        self._judge(self.last)

    @property
    def statistics(self) -> dict[str, Statistics]:
        """Of "loss", "norm", "growth", "first", "last" over the updates so far."""
        return {name: running.result() for name, running in self._running.items()}

    def _of_training(
        self, rows: NDArray[np.float64], carrier: int, lengths: Any
    ) -> tuple[float, str, float, float]:
        """Measure the flow of a backward pass, over all steps; of two directions that of the first."""
        part, way = -2 if self.layer.bidirectional else -1, None
        if lengths is not None:  # each row from its own last step
            _, T, B, _ = rows.shape
            given = np.reshape(lengths, -1)
            _check.shape("lengths", given.shape, "(B,)", (B,))
            valid = np.clip(given, 0, T).astype(np.int64)
            way = valid - 1, valid
        totals, slopes = by_step(rows[part:][:1], carrier)
        total = totals[carrier, 0]
        lags, growth, verdict = fitted(rows[part, ..., carrier], total, float(slopes[0]), way, False)
        return growth, verdict, *_ends(lags)

    def _keep(self, record: Record) -> None:
        for value, running in zip(record[1:6], self._running.values(), strict=True):
            running.add(value)
        if self._file is not None:
            self._write(["" if value != value else value for value in record])
        if self._writer is not None:
            for name in self._running:
                value = getattr(record, name)
                if not math.isnan(value):
                    self._writer.add_scalar(f"gradient_flow/{name}", value, record.step)

    def _write(self, values: list[Any]) -> None:
        assert self._file is not None
        csv.writer(self._file).writerow(values)
        self._file.flush()

    def _judge(self, record: Record) -> None:
        if not record.verdict:
            return
        for verdict, count in self._in_a_row.items():
            self._in_a_row[verdict] = count + 1 if record.verdict == verdict else 0
        finite = math.isfinite(record.norm) and (math.isnan(record.growth) or math.isfinite(record.growth))
        enough = not finite or self._in_a_row.get(record.verdict, 0) >= self.patience
        if enough and record.verdict in self._in_a_row and record.verdict not in self._warned:
            self._warned.add(record.verdict)
            text = (
                f"gradients are {record.verdict}, update {record.step}: factor {record.growth:.3g} per step, "
                f"norm over all parameters {record.norm:.3g}; bptt.gradient_flow(layer, x).report() says more"
            )
            warnings.warn(text, GradientFlowWarning, stacklevel=3)

    def report(self) -> str:
        """Return a line for each statistic."""
        lines = [f"{self._steps} updates, warned of: {', '.join(sorted(self._warned)) or 'nothing'}"]
        for name, s in self.statistics.items():
            if s.updates:
                lines.append(f"  {name:6s} mean {s.mean:.3g}, std {s.std:.2g}, {s.low:.3g} to {s.high:.3g}")
        return "\n".join(lines)

    def close(self) -> None:
        """Close the file, and the TensorBoard writer if it was made here."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._owns_writer and self._writer is not None:
            self._writer.close()
            self._writer = None

    def __enter__(self) -> GradientMonitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _ends(lags: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[float, float]:
    """Return the norm at the far end and where the flow starts."""
    return (float(lags[-1]), float(lags[0])) if len(lags) else (math.nan, math.nan)


def _writer(given: Any) -> tuple[Any, bool]:
    """Return an object with add_scalar, and whether it was made here."""
    if given is None or hasattr(given, "add_scalar"):
        return given, False
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(
            f"tensorboard: expected a folder or a writer with add_scalar, got {type(given).__name__}"
        )
    try:
        module: Any = import_module("tensorboard.summary")
    except ImportError as error:
        raise ImportError(
            f"tensorboard: writing to a folder needs the package tensorboard ({error}); "
            "pip install tensorboard, or give a writer with add_scalar"
        ) from None
    return module.Writer(os.fspath(given)), True
