"""Truncated backpropagation through time over a stream that need not end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _check
from .recurrent import Recurrent
from .tape import Gradients, Tape

__all__ = ["TruncatedBPTT"]


class TruncatedBPTT:
    """Train a layer on a stream: the state is carried on, the gradient flows back k2 steps and no further.

    Every block of k1 steps is one `forward` and one `backward`. The errors injected in it flow back through
    the k2 steps before its end, of which alone the tape is kept. While the weights stay, the sum of the
    gradients is that of ``layer.backward(tape, d_output, truncate=(k1, k2))`` over the whole stream, to the
    bit.

    When the weights change between blocks, as they do in training, and k2 is above k1, `backward` meets
    activations of earlier blocks that older weights have made, and walks back through them with the weights
    of now: the usual approximation, good while a step of the optimizer is small. With k2 up to k1 there is
    none.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
        In one direction; stacked or not.
    k1 : int
        Most steps of a block: gradients come that often.
    k2 : int, optional
        How far errors flow back from the end of their block; k1 by default.
    state : tuple of array_like, or array_like, optional
        The state to start from, as for a call of the layer. Zeros by default.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or the layer is bidirectional.

    Notes
    -----
    Williams and Peng (1990).

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer, x = bptt.LSTM(3, 4, seed=0), np.ones((20, 2, 3), np.float32)
    >>> driver, optimizer = bptt.TruncatedBPTT(layer, 5, 10), bptt.optim.SGD(layer.parameters, 0.1)
    >>> for block in np.split(x, 4):
    ...     output = driver.forward(block)
    ...     gradients = driver.backward(output - 0.5)
    ...     optimizer.step(gradients)
    >>> driver.steps, driver.window
    (20, (10, 20))
    """

    def __init__(self, layer: Recurrent, k1: int, k2: int | None = None, state: Any = None) -> None:
        if not isinstance(layer, Recurrent):
            raise TypeError(f"layer: expected an LSTM, GRU or RNN, got {type(layer).__name__}")
        if layer.bidirectional:
            raise ValueError("layer: truncation has no meaning in a bidirectional layer")
        self.layer = layer
        self.k1 = _check.size("k1", k1)
        self.k2 = self.k1 if k2 is None else _check.size("k2", k2)
        self.steps = 0  #: how many steps of the stream have been run
        self._tape: Tape | None = None
        self._block: tuple[int, ...] = ()  # shape of the output of the last block
        self._state, self._fresh = state, True  # fresh: the next block has no past
        self._anew: Any = None  # rows that start anew with the next block

    @property
    def window(self) -> tuple[int, int]:
        """First and end of the steps of the stream whose tape is kept: the steps of a `Gradients.input`."""
        return self.steps - (0 if self._tape is None else self._tape.steps), self.steps

    @property
    def state(self) -> Any:
        """The state after the last step; None for zeros. A `reset` shows once the next block has run.

        Assigned, the next block starts from it, and no gradient flows back past its beginning.
        """
        return self._state

    @state.setter
    def state(self, value: Any) -> None:
        self._state, self._fresh, self._anew = value, True, None

    def reset(self, mask: Any = None) -> None:
        """Let rows start anew with the next block, from the zero state: a new document begins.

        No gradient crosses. For beginnings inside a block `forward` takes `resets`.

        Parameters
        ----------
        mask : array_like of bool, (B,), optional
            Which rows of the batch; all by default.

        Raises
        ------
        TypeError
            If `mask` is not of bools. Its shape is looked at by the next `forward`.
        """
        if mask is None:
            self.state = None
            return
        rows = np.array(mask)
        if rows.dtype != np.bool_:
            raise TypeError(f"mask: expected bool, got {rows.dtype}")
        self._anew = rows if self._anew is None else self._anew | rows

    def forward(self, x: Any, *, resets: Any = None, rng: Any = None) -> NDArray[Any]:
        """Run the next block.

        Parameters
        ----------
        x : array_like, (n, B, I), (B, n, I) with `batch_first`, or (n, I)
            1 to k1 steps; fewer than k1 are a block of their own. It is copied.
        resets, rng
            As for ``layer.forward``. With k2 above k1 there is no `rng` for recurrent dropout and zoneout.

        Returns
        -------
        ndarray
            The output of the block, read-only.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong dtype or shape; the driver is then unchanged.
        """
        array = _check.floating("x", x, self.layer.dtype).copy()  # the caller may fill the same buffer again
        time = self._time_axis(array.ndim)
        if array.ndim > time and not 1 <= array.shape[time] <= self.k1:
            raise ValueError(f"x: expected 1 to k1 = {self.k1} steps, got {array.shape[time]}")
        self._check_rows(array.shape)
        spans = self._with_beginnings(resets, array.shape, time)
        tape = self.layer.forward(array, self._state, resets=spans, rng=rng)
        past = None if self._fresh else self._tape
        self._tape = tape.last(self.k2) if past is None else past.followed_by(tape, self.k2)
        self._state, self._block, self._fresh, self._anew = tape.state, tape.output.shape, False, None
        self.steps += array.shape[time]
        return tape.output

    def backward(
        self,
        d_output: Any = None,
        d_state: Any = None,
        *,
        step_clip: float | Mapping[str, float] | None = None,
        steps: bool | str = False,
    ) -> Gradients:
        """Return the gradients that the errors of the last block give.

        Parameters
        ----------
        d_output : array_like, optional
            Gradient of the loss with respect to what `forward` returned, of its shape. Zeros by default.
        d_state, step_clip, steps
            As for ``layer.backward``; `d_state` with respect to the state after the block.

        Returns
        -------
        Gradients
            Of the parameters; ``gradients.input``, and with `steps` the rest, over the steps of `window`;
            ``gradients.state`` with respect to the state before its first.

        Raises
        ------
        RuntimeError
            If no block has been run.
        TypeError, ValueError
            If an argument has a wrong dtype or shape; the message names it.
        """
        if self._tape is None:
            raise RuntimeError("TruncatedBPTT.backward: no block has been run, call forward first")
        errors = None if d_output is None else self._over_window(d_output, self._tape.output.shape)
        return self.layer.backward(self._tape, errors, d_state, step_clip=step_clip, steps=steps)

    def over(
        self, stream: Any, error: Callable[[NDArray[Any], slice], Any], **options: Any
    ) -> Iterator[Gradients]:
        """Yield gradients every k1 steps of a stream.

        Parameters
        ----------
        stream : array_like, or iterable of array_like
            A sequence as for the layer, or pieces of one, each of any number of steps. A rest of fewer than
            k1 steps at the end is the last block.
        error : callable
            Given the output of a block, and its steps as a slice counted from the beginning of the stream;
            returns d_output.
        **options
            `step_clip` and `steps`, for `backward`.

        Yields
        ------
        Gradients
            The weights may be changed before the next are asked for.

        Examples
        --------
        >>> import numpy as np, bptt
        >>> layer, x = bptt.GRU(3, 4, seed=0), np.ones((12, 2, 3), np.float32)
        >>> target = np.zeros((12, 2, 4), np.float32)
        >>> driver = bptt.TruncatedBPTT(layer, 5)
        >>> [g.input.shape for g in driver.over(x, lambda output, steps: output - target[steps])]
        [(5, 2, 3), (5, 2, 3), (5, 2, 3)]
        """
        for block in self._blocks([stream] if hasattr(stream, "shape") else stream):
            begin, output = self.steps, self.forward(block)
            yield self.backward(error(output, slice(begin, self.steps)), **options)

    def _blocks(self, pieces: Iterable[Any]) -> Iterator[NDArray[Any]]:
        """Cut pieces of any length into blocks of k1 steps."""
        rest: NDArray[Any] | None = None
        for piece in pieces:
            array = _check.floating("stream", piece, self.layer.dtype)
            if array.ndim not in (2, 3):
                raise ValueError(f"stream: expected pieces of 2 or 3 axes, got shape {array.shape}")
            time = self._time_axis(array.ndim)
            if rest is not None and rest.size:
                expected = (*rest.shape[:time], array.shape[time], *rest.shape[time + 1 :])
                _check.shape("stream", array.shape, "that of the piece before but for the steps", expected)
                array = np.concatenate([rest, array], time)
            whole = array
            full = whole.shape[time] // self.k1 * self.k1
            for begin in range(0, full, self.k1):
                yield _steps(whole, time, begin, begin + self.k1)
            rest = _steps(whole, time, full, whole.shape[time])
        if rest is not None and rest.size:
            yield rest

    def _time_axis(self, ndim: int) -> int:
        return 1 if self.layer.batch_first and ndim == 3 else 0

    def _check_rows(self, shape: tuple[int, ...]) -> None:
        """Raise for a block whose rows are not those of the blocks before."""
        if self._fresh or len(shape) not in (2, 3):
            return
        given, wanted = self._rows(shape), self._rows(self._block)
        if given != wanted:
            raise ValueError(
                f"x: expected the rows of the blocks before, {wanted}, got {given}; reset() begins anew"
            )

    def _rows(self, shape: tuple[int, ...]) -> int | str:
        """Return how many rows an array of this shape has, or "no batch"."""
        return "no batch" if len(shape) == 2 else shape[1 - self._time_axis(3)]

    def _with_beginnings(self, resets: Any, shape: tuple[int, ...], time: int) -> Any:
        """Return `resets`, and at the first step the rows that `reset` named."""
        if self._anew is None or len(shape) not in (2, 3):  # the layer says what is wrong with a shape
            return resets
        batch = () if len(shape) == 2 else (shape[1 - time],)
        _check.shape("mask", self._anew.shape, "(B,)" if batch else "()", batch)
        spans = np.zeros((shape[time], *batch), np.bool_) if resets is None else np.array(resets)
        if spans.shape == (shape[time], *batch) and spans.dtype == np.bool_:
            spans[0] |= self._anew
        return spans

    def _over_window(self, d_output: Any, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the errors of the last block in the shape of the window: zeros before it."""
        given = _check.floating("d_output", d_output, self.layer.dtype)
        _check.shape("d_output", given.shape, "that of the output", self._block)
        time = self._time_axis(given.ndim)
        n, length = given.shape[time], shape[time]
        if n >= length:
            return _steps(given, time, n - length, n)
        errors = np.zeros(shape, self.layer.dtype)
        _steps(errors, time, length - n, length)[...] = given
        return errors

    def __repr__(self) -> str:
        return f"TruncatedBPTT({self.layer!r}, k1={self.k1}, k2={self.k2}, steps={self.steps})"


def _steps(array: NDArray[Any], time: int, begin: int, end: int) -> NDArray[Any]:
    return array[(slice(None),) * time + (slice(begin, end),)]
