"""What all layers do: settings, parameters, forward, backward and freezing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _backend, _backward, _check, _forward
from ._check import Layout
from ._course import course_of
from ._kept import Wanted
from ._settings import checked
from .engine import Engine, State, infer
from .parameters import Parameters, Weights, initialise, layer_shapes, layer_weights
from .tape import Gradients, Tape

__all__ = ["Recurrent", "checked_layer"]

Layer = TypeVar("Layer", bound="Recurrent")


class Recurrent:
    """A stack of recurrent layers of one cell, in one or two directions: the base of `LSTM`, `GRU` and `RNN`.

    A subclass says which settings it has, how many blocks of H rows its weights have, and what the core calls
    its cell.
    """

    _DEFAULTS: ClassVar[dict[str, Any]]
    _GATES: ClassVar[int]

    input_size: int
    hidden_size: int
    num_layers: int
    bias: bool
    batch_first: bool
    dropout: float
    bidirectional: bool
    dtype: np.dtype[Any]
    parameters: Parameters
    _layout: Layout
    _owner: object
    _weights: list[Weights]

    def _cell(self) -> tuple[Any, ...]:
        """Return the arguments of ``Cell`` in the core."""
        raise TypeError(f"{type(self).__name__} has no cell: use LSTM, GRU or RNN")

    def _make(self, given: Mapping[str, Any]) -> None:
        """Check the settings, among the local variables of a constructor, and make the parameters."""
        settings = self._checked(given)
        dropout, num_layers = settings["dropout"], settings["num_layers"]
        if dropout > 0 and num_layers == 1:
            text = (
                "dropout option adds dropout after all but last recurrent layer, so non-zero dropout expects "
                f"num_layers greater than 1, but got dropout={dropout} and num_layers={num_layers}"
            )
            warnings.warn(text, UserWarning, stacklevel=3)
        parameters = Parameters(self._shapes(settings), settings["dtype"])
        initialise(parameters, settings["hidden_size"] ** -0.5, given["seed"])
        self.__setstate__({**settings, "parameters": parameters, "_owner": object()})

    @classmethod
    def _setting_names(cls) -> tuple[str, ...]:
        return "input_size", "hidden_size", *cls._DEFAULTS

    @classmethod
    def _checked(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings in `given`, checked and in their own types."""
        return checked({name: given[name] for name in cls._setting_names()})

    @classmethod
    def _shapes(cls, settings: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of the parameters of a layer with these settings."""
        I, H, L = settings["input_size"], settings["hidden_size"], settings["num_layers"]
        P, D, itemsize = (
            settings.get("proj_size", 0),
            1 + settings["bidirectional"],
            settings["dtype"].itemsize,
        )
        _check.fits("hidden_size", 4 * L * D * itemsize, H=H, **{"I+H+P+2": max(I, D * H) + H + P + 2})
        return layer_shapes(cls._GATES, I, H, settings["bias"], settings.get("peephole", False), L, D, P)

    @classmethod
    def _of(cls: type[Layer], settings: Mapping[str, Any], parameters: Parameters) -> Layer:
        """Return a layer with these settings, already checked, and parameters."""
        layer = cls.__new__(cls)
        layer.__setstate__({**settings, "parameters": parameters, "_owner": object()})
        return layer

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the layer but `seed`, by name: ``type(layer)(**layer.settings)`` makes its like.

        Examples
        --------
        >>> import bptt
        >>> bptt.GRU(3, 4, bias=False).settings["bias"]
        False
        """
        return {name: getattr(self, name) for name in self._setting_names()}

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "parameters":
            raise AttributeError(
                "parameters: set them in place (layer.parameters[name] = ..., load_state_dict)"
            )
        if name in self._setting_names():
            raise AttributeError(f"{name}: the settings of a layer are fixed; make another layer")
        super().__setattr__(name, value)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_weights", "_layout")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        L, D = self.num_layers, 1 + self.bidirectional
        sizes = self.input_size, self.hidden_size
        proj_size = getattr(self, "proj_size", 0)
        self._layout = Layout(*sizes, self.batch_first, self.dtype, L, D, self._cell(), proj_size)
        self._weights = layer_weights(self.parameters, L, D)

    def __repr__(self) -> str:
        shown = [str(self.input_size), str(self.hidden_size)]
        for name, value in self.settings.items():
            if name in self._DEFAULTS and value != self._DEFAULTS[name]:
                shown.append(f"{name}={value}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __call__(
        self, x: Any, state: Any = None, *, lengths: Any = None, resets: Any = None
    ) -> tuple[NDArray[Any], State]:
        """Run a sequence from a state, for inference: nothing is kept.

        Parameters
        ----------
        x : array_like, (T, B, I), (B, T, I) with `batch_first`, or (T, I)
            Inputs of the layer's dtype (a float64 layer takes float32 too). Any strides; never written.
        state : tuple of array_like, or array_like, optional
            h_0 and c_0 of an LSTM, h_0 of the others, each (L*D, B, H), unbatched (L*D, H), also with
            `batch_first`; with a projection h_0 has P in place of H, here and everywhere. Zeros by default.
        lengths : array_like of int, (B,), optional
            Steps of each row, 0 to T, in any order. Past them `x` is not read and the output is zero; the
            state is that after the last of them, and the reverse direction starts there.
        resets : array_like of bool, (T, B) in every layout, or (T,), optional
            Where a row starts anew at step t, from the zero state: nothing crosses from t-1 to t, in either
            direction.

        Returns
        -------
        output : ndarray
            h_t of every step of the last layer: (T, B, D*H), (B, T, D*H) or (T, D*H); D*P with a projection.
        (h_n, c_n) or h_n : tuple of ndarray, or ndarray
            The state after the last step, shaped like `state`.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong dtype or shape; the message names it.

        Examples
        --------
        >>> import numpy as np, bptt
        >>> layer, x = bptt.LSTM(3, 4, seed=0), np.ones((6, 2, 3), np.float32)
        >>> first, state = layer(x[:2])
        >>> second, state = layer(x[2:], state)
        >>> np.array_equal(np.concatenate([first, second]), layer(x)[0])
        True
        """
        return infer(_backend.core(), self._layout, self._weights, None, x, state, lengths, resets)

    def forward(
        self,
        x: Any,
        state: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        recompute: int | None = None,
        rng: np.random.Generator | int | None = None,
    ) -> Tape:
        """Run a sequence from a state, for training: the tape keeps what `backward` needs.

        Parameters
        ----------
        x, state, lengths, resets
            As for a call of the layer. `x` is held without a copy where it needs no conversion: leave it as
            it is until the last `backward`.
        recompute : int, optional
            k: keep the cell state at every k-th step alone, and compute cells and gates again in `backward`,
            block by block: the memory of the output in place of six times that, for one more forward pass.
            The gradients are the same to the bit; for that k is rounded up so that k * B is a multiple of 512
            or so. ``tape.cells`` and ``tape.gates`` cannot be read then. An `RNN` keeps neither anyway.
        rng : numpy.random.Generator or int, optional
            For dropout, recurrent dropout and zoneout; without one the first two are off, and zoneout is its
            expectation. The same seed draws the same.

        Returns
        -------
        Tape
            ``tape.output``, ``tape.state``; ``tape.hidden``, ``tape.cells``, ``tape.gates`` of every step.

        Raises
        ------
        TypeError, ValueError
            If an argument has a wrong dtype or shape; the message names it.

        Examples
        --------
        >>> import numpy as np, bptt
        >>> tape = bptt.LSTM(3, 4, seed=0).forward(np.ones((5, 2, 3), np.float32))
        >>> tape.output.shape
        (5, 2, 4)
        """
        every = None if recompute is None else _check.size("recompute", recompute)
        layout = self._layout
        x, batched = layout.sequence(x)
        T, B, _ = x.shape
        h_0, c_0 = layout.state(state, B, batched)
        course = course_of(layout, lengths, resets, T, B, batched)
        drawn = _forward.draw(layout, T, B, self.dropout, rng)
        given = (self._weights, x, h_0, c_0, *drawn, course, every)
        results = _forward.forward(_backend.core(), layout, *given)
        return Tape(self._owner, layout, batched, *results)

    def backward(
        self,
        tape: Tape,
        d_output: Any = None,
        d_state: Any = None,
        *,
        truncate: int | tuple[int, int] | None = None,
        step_clip: float | Mapping[str, float] | None = None,
        steps: bool | str = False,
    ) -> Gradients:
        """Backpropagate through time, over the whole sequence of a tape.

        The parameters are used as they are now; change them only after the last `backward` over the tape. A
        tape may be used again, and gives the same bits again.

        Parameters
        ----------
        tape : Tape
            From `forward` of this layer.
        d_output : array_like, optional
            Gradient of the loss with respect to ``tape.output``, of its shape. Zeros by default.
        d_state : tuple of array_like, or array_like, optional
            Gradients with respect to h_n and c_n, shaped like the state; either of two may be None. Zeros by
            default.
        truncate : int or pair of int, optional
            k or (k1, k2): truncated backpropagation through time. Steps are cut into blocks of k1; errors
            injected in a block flow back through the k2 steps before its end and no further; the gradients
            are the sums over the blocks. Blocks are cut on the steps of the batch, whatever the lengths. k
            means (k, k). Not for bidirectional layers.
        step_clip : float or mapping of str to float, optional
            Clip inside the recursion, elementwise to plus or minus a value at least 0. Keys: "hidden" and
            "cell", what every step hands to the state before it at h and at c (peephole paths included; step
            0 hands to the initial state; what the caller gives is not clipped), and "gates", the gradient at
            the pre-activations of every step. A number means "gates". "cell" is for the LSTM alone. A NaN
            stays.
        steps : bool or "norms"
            Also return the gradient that reaches h_t and c_t at every step, its norms, and with `step_clip`
            the counts of clipped elements. "norms": all of it but the gradients themselves, which are not
            kept then.

        Returns
        -------
        Gradients
            ``gradients.input``, ``gradients.state``, ``gradients.parameters``; with `steps` also
            ``gradients.hidden``, ``gradients.cells`` and ``gradients.norms``, and with `step_clip`
            ``gradients.clipped``.

        Raises
        ------
        TypeError, ValueError
            If the tape is another layer's, or an argument has a wrong dtype or shape; the message names it.

        Notes
        -----
        Werbos (1990); truncated: Williams and Peng (1990); clipped at the pre-activations: Graves (2013).

        Examples
        --------
        >>> import numpy as np, bptt
        >>> layer = bptt.LSTM(3, 4, seed=0)
        >>> tape = layer.forward(np.ones((5, 2, 3), np.float32))
        >>> gradients = layer.backward(tape, np.ones_like(tape.output))
        >>> gradients.parameters["weight_ih_l0"].shape
        (16, 3)
        """
        blocks = _check.truncation(truncate, self.bidirectional)
        bounds = _check.step_clip(step_clip, self._layout.has_cell_state)
        if not isinstance(tape, Tape):
            raise TypeError(f"tape: expected a Tape from forward, got {type(tape).__name__}")
        layout = self._layout
        batched, kept = tape.kept(self._owner, layout)
        T, B, _ = kept.inputs[0].shape
        errors = None if d_output is None else layout.output_gradient(d_output, T, B, batched)
        d_h_n, d_c_n = layout.state(d_state, B, batched, ("d_h_n", "d_c_n"), "d_state")
        parameters = self.parameters.empty_like()
        wanted = Wanted(*_check.steps(steps), blocks, bounds)
        given = (self._weights, kept, errors, d_h_n, d_c_n, parameters, wanted)
        found = _backward.backward(_backend.core(), layout, *given)
        assert found.x is not None  # as it is wanted
        d_state = layout.states_as_given(found.h_0, found.c_0, batched)
        results = (layout.as_given(found.x, batched), d_state, parameters, found.hidden, found.cells)
        return Gradients(*results, found.counts(bounds), found.norms)

    def freeze(self, precision: str | None = None) -> Engine:
        """Return an immutable engine for inference with a copy of the weights, packed once.

        Parameters
        ----------
        precision : {"float32", "float64"}, optional
            What the engine computes in; the layer's dtype by default. "bfloat16" and "int8" are not supported
            yet.

        Returns
        -------
        Engine

        Raises
        ------
        ValueError
            If there is no such precision, or it is not supported yet.

        Examples
        --------
        >>> import bptt
        >>> bptt.LSTM(3, 4, seed=0).freeze("float64").dtype
        dtype('float64')
        """
        dtype = _check.precision(precision, self.dtype)
        return Engine(replace(self._layout, dtype=dtype), self.parameters.astype(dtype))

    def state_dict(self) -> dict[str, NDArray[Any]]:
        """Return a copy of every parameter by name.

        Examples
        --------
        >>> import bptt
        >>> sorted(bptt.LSTM(3, 4, bias=False).state_dict())
        ['weight_hh_l0', 'weight_ih_l0']
        """
        return {name: array.copy() for name, array in self.parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Copy in every parameter; nothing changes unless all names and shapes are right.

        Parameters
        ----------
        state_dict : mapping of str to array_like
            The names and shapes of `parameters`, of any real dtype: arrays, torch tensors, nested lists.

        Raises
        ------
        ValueError
            If a name is missing or unknown, or a shape differs.
        TypeError
            If a value is not an array of real numbers.

        Examples
        --------
        >>> import numpy as np, bptt
        >>> one, other = bptt.LSTM(3, 4, seed=1), bptt.LSTM(3, 4, seed=2)
        >>> other.load_state_dict(one.state_dict())
        >>> np.array_equal(one.parameters.flat, other.parameters.flat)
        True
        """
        self.parameters.load(state_dict)

    def astype(self: Layer, dtype: DTypeLike) -> Layer:
        """Return a copy of the layer with its parameters converted to `dtype`.

        Parameters
        ----------
        dtype : {numpy.float32, numpy.float64}

        Returns
        -------
        layer
            Of the same class.

        Examples
        --------
        >>> import numpy as np, bptt
        >>> bptt.LSTM(3, 4, seed=0).astype(np.float64)
        LSTM(3, 4, dtype=float64)
        """
        real = _check.layer_dtype(dtype)
        return self._of({**self.settings, "dtype": real}, self.parameters.astype(real))


def checked_layer(layer: Layer) -> Layer:
    """Return `layer` if it is one."""
    if not isinstance(layer, Recurrent):
        raise TypeError(f"layer: expected an LSTM, GRU or RNN, got {type(layer).__name__}")
    return layer
