"""What a training forward pass keeps (`Tape`) and what a backward pass returns (`Gradients`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._check import Layout
from ._course import in_order
from ._kept import Kept
from .parameters import Parameters

__all__ = ["Gradients", "Tape"]


class Tape:
    """What a layer's ``forward`` keeps for its ``backward``; its arrays can be read, not written.

    A tape holds activations, not weights: `backward` uses the parameters, and the input, as they are when
    it is called. An input or initial state that needed no conversion is held without a copy, so change
    neither it nor the parameters in place before the last `backward` over the tape. A tape may be used any
    number of times.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> tape = bptt.LSTM(3, 4, seed=0).forward(np.ones((5, 2, 3), np.float32))
    >>> tape.output.shape, tape.cells.shape, tape.gates.shape
    ((5, 2, 4), (1, 5, 2, 4), (1, 5, 2, 4, 4))
    """

    __slots__ = ("_batched", "_c_n", "_h_n", "_kept", "_layout", "_output", "_owner")

    def __init__(
        self,
        owner: object,
        layout: Layout,
        batched: bool,
        output: NDArray[Any],
        h_n: NDArray[Any],
        c_n: NDArray[Any] | None,
        kept: Kept,
    ) -> None:
        self._owner, self._layout, self._batched = owner, layout, batched
        self._output, self._h_n, self._c_n, self._kept = output, h_n, c_n, kept

    def kept(self, owner: object, layout: Layout) -> tuple[bool, Kept]:
        """Return whether there is a batch axis, and what the backward pass needs.

        Raises
        ------
        ValueError
            If the tape is not of the layer that `owner` and `layout` stand for.
        """
        if self._owner is not owner:
            raise ValueError("tape: made by another layer")
        if self._layout is not layout and self._layout != layout:
            raise ValueError(f"tape: made for {self._layout}, the layer has {layout}")
        return self._batched, self._kept

    @property
    def steps(self) -> int:
        """T, the number of steps."""
        return int(self._kept.hidden.shape[1])

    def last(self, steps: int) -> Tape:
        """Return a tape of the last `steps` steps in memory of its own, or this one if it has no more.

        Its gradients are those of errors in these steps, and flow back no further.

        Raises
        ------
        ValueError
            If the layer is bidirectional, or the tape one with `lengths` or `recompute`.
        """
        self._check_cuttable()
        return self if self.steps <= steps else self._windowed(self._kept.last(steps).copied())

    def followed_by(self, tape: Tape, steps: int) -> Tape:
        """Return a tape of the last `steps` steps of this one with `tape`, which goes on from it, at its end.

        Raises
        ------
        ValueError
            As `last`, if the other tape is another layer's, or if recurrent dropout or zoneout was drawn:
            each tape has draws of its own.
        """
        tape.kept(self._owner, self._layout)
        self._check_cuttable()
        tape._check_cuttable()
        if tape.steps >= steps:
            return tape.last(steps)
        if self._kept.seeds or tape._kept.seeds:
            raise ValueError(
                "tape: recurrent dropout or zoneout was drawn, which cannot go on in another tape"
            )
        return tape._windowed(self._kept.last(steps - tape.steps).followed_by(tape._kept))

    def _check_cuttable(self) -> None:
        if self._layout.directions == 2:
            raise ValueError("tape: that of a bidirectional layer cannot be cut in time")
        if self._kept.starts is not None or self._kept.course.lengths is not None:
            raise ValueError("tape: made with lengths or recompute, which cannot be cut in time")

    def _windowed(self, kept: Kept) -> Tape:
        return Tape(self._owner, self._layout, self._batched, kept.hidden[-1], self._h_n, self._c_n, kept)

    @property
    def output(self) -> NDArray[Any]:
        """h_t of every step in the shape that the layer returns: (T, B, D*H), (B, T, D*H) or (T, D*H).

        With a projection there is P in place of H, here and in all that is h.
        """
        return _read_only(self._layout.as_given(self._output, self._batched))

    @property
    def state(self) -> Any:
        """h_n and c_n, or h_n alone, after the last step, (L*D, B, H) or unbatched (L*D, H)."""
        c_n = None if self._c_n is None else _read_only(self._c_n)
        return self._layout.states_as_given(_read_only(self._h_n), c_n, self._batched)

    @property
    def hidden(self) -> NDArray[Any]:
        """h_t of every step, (L*D, T, B, H), in every layout; B is 1 when unbatched."""
        return self._ordered(self._kept.hidden)

    @property
    def cells(self) -> NDArray[Any] | None:
        """c_t of every step, (L*D, T, B, H); None where there is no cell state.

        Raises
        ------
        ValueError
            If they were not kept, as `forward` was given `recompute`.
        """
        if self._layout.has_cell_state:
            self._check_kept("cells")
        return None if self._kept.cells is None else self._ordered(self._kept.cells)

    @property
    def gates(self) -> NDArray[Any] | None:
        """Activated gates of every step: i, f, g, o (L*D, T, B, 4, H); r, z, n (L*D, T, B, 3, H); or None.

        Raises
        ------
        ValueError
            If they were not kept, as `forward` was given `recompute`.
        """
        self._check_kept("gates")
        if self._kept.gates is None:
            return None
        gates = self._ordered(self._kept.gates)
        return gates if self._layout.has_cell_state else gates[..., :3, :]

    def _check_kept(self, name: str) -> None:
        if self._kept.starts is not None:
            raise ValueError(f"tape.{name}: not kept by forward with recompute; run forward without it")

    def _ordered(self, parts: NDArray[Any]) -> NDArray[Any]:
        ordered = in_order(parts, self._layout.directions, self._kept.course)
        assert ordered is not None
        return _read_only(ordered)

    def __repr__(self) -> str:
        _, T, B, _ = self._kept.hidden.shape
        return f"Tape(T={T}, B={B}, H={self._layout.hidden_size}, {self._layout.dtype})"


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(slots=True, eq=False, repr=False)
class Gradients:
    """Gradients of the loss, from a layer's ``backward``.

    Attributes
    ----------
    input : ndarray
        Like the input of the forward pass: (T, B, I), (B, T, I) or (T, I).
    state : tuple of ndarray, or ndarray
        d_h_0 and d_c_0, or d_h_0 alone, each (L*D, B, H) or unbatched (L*D, H).
    parameters : Parameters
        Names and shapes of the layer's parameters, over one vector ``parameters.flat``.
    norms : ndarray of float64, or None
        With ``steps=True`` or ``steps="norms"``, (L*D, T, B, 2): Euclidean norms over units of the gradients
        that reach h_t and c_t; zero where there is no cell state. Else None.
    hidden, cells : ndarray or None
        With ``steps=True``, (L*D, T, B, H), or P for h with a projection: the whole gradient that reaches h_t
        and c_t, from step t itself and from all later steps. Else None.
    clipped : dict of str to ndarray, or None
        With `steps` and `step_clip`, for each finite bound (L*D, T) int64: how many elements it held
        in step t. At "hidden" and "cell" these are of what step t hands to the state before it, the initial
        one for step 0. With `truncate` they are sums over the blocks. Else None.

    Examples
    --------
    >>> import numpy as np, bptt
    >>> layer = bptt.LSTM(3, 4, seed=0)
    >>> tape = layer.forward(np.ones((5, 2, 3), np.float32))
    >>> gradients = layer.backward(tape, np.ones_like(tape.output), steps=True)
    >>> gradients.input.shape, gradients.parameters["bias_ih_l0"].shape, gradients.hidden.shape
    ((5, 2, 3), (16,), (1, 5, 2, 4))
    """

    input: NDArray[Any]
    state: Any
    parameters: Parameters
    hidden: NDArray[Any] | None = None
    cells: NDArray[Any] | None = None
    clipped: dict[str, NDArray[Any]] | None = None
    norms: NDArray[np.float64] | None = None

    def __repr__(self) -> str:
        steps = "" if self.hidden is None else ", steps"
        return f"Gradients(input {self.input.shape}, {self.parameters!r}{steps})"
