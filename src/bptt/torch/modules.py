"""The modules `LSTM`, `GRU` and `RNN`: as torch.nn's, with another forward and with bptt's options.

They stand beside torch.nn's, below the same base: PyTorch's compiler refuses whatever is a ``torch.nn.LSTM``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .. import _check
from ..parameters import suffixes
from .arrays import Last
from .plan import DTYPES, check_dtype, plan_of, settings_text
from .run import run

__all__ = ["GRU", "LSTM", "RNN", "Recurrent"]

UNBOUNDED = [0, 0], [-1.0, -1.0, -1.0]  # truncate and step_clip of `run`: neither


class Recurrent(nn.RNNBase):
    """What the three modules share."""

    _KIND: ClassVar[str]
    _SHAPE: ClassVar[tuple[str, ...]] = ("input_size", "hidden_size", "num_layers", "bias", "bidirectional")
    _OPTIONS: ClassVar[dict[str, Any]] = {}  # attributes that torch.nn's module has not, as they are there
    _settings: str
    _last: Last
    _weight_names: tuple[str, ...]
    _draws: bool  # whether there is recurrent dropout or zoneout

    def _make(self, given: dict[str, Any]) -> None:
        """Check the arguments, the local variables of a constructor, and make the parameters."""
        options = {name: given[name] for name in self._OPTIONS}
        settings_text(self._KIND, **{name: given[name] for name in self._SHAPE}, **options)
        check_device("device", torch.device(given["device"] or "cpu"))
        check_dtype("dtype", given["dtype"] or torch.get_default_dtype())
        names = [*self._SHAPE, "batch_first", "dropout", "device", "dtype"]
        arguments = {name: given[name] for name in names}
        nonlinearity = arguments.pop("nonlinearity", "")
        modes = {"": self._KIND, "relu": "RNN_RELU"}  # torch.nn has no name for the identity
        super().__init__(modes.get(nonlinearity, "RNN_TANH"), **arguments)
        if nonlinearity:
            self.nonlinearity = nonlinearity
        self._describe(**options)
        self._add_parameters()

    def _describe(self, **options: Any) -> None:
        """Note bptt's options, and all that is fixed from now on in the words of the operators."""
        values = {name: getattr(self, name) for name in self._SHAPE} | options
        text = settings_text(self._KIND, **values)
        plan = plan_of(text, torch.float32)
        names, draws = tuple(plan.shapes), plan.layout.draws
        self.__dict__.update(options, _settings=text, _weight_names=names, _draws=draws, _last=Last())

    def _add_parameters(self) -> None:
        """Make the parameters that torch.nn's module has not, and list them with the others."""
        bound, weight = self.hidden_size**-0.5, self._parameters[self._weight_names[0]]
        assert weight is not None
        for name, shape in plan_of(self._settings, torch.float32).shapes.items():
            if name not in self._parameters:
                parameter = nn.Parameter(torch.empty(shape, dtype=weight.dtype, device=weight.device))
                setattr(self, name, nn.init.uniform_(parameter, -bound, bound))
        ends = suffixes(self.num_layers, 1 + self.bidirectional)
        self._all_weights = [[name for name in self._weight_names if name.endswith(end)] for end in ends]
        self._flat_weights_names = list(self._weight_names)
        self._init_flat_weights()

    def flatten_parameters(self) -> None:
        """Do nothing: the kernels read every parameter where it is."""

    def forward(
        self,
        input: Any,
        hx: Any = None,
        *,
        lengths: Any = None,
        resets: Any = None,
        truncate: int | tuple[int, int] | None = None,
        step_clip: float | dict[str, float] | None = None,
    ) -> Any:
        """Run a sequence from a state.

        Parameters
        ----------
        input : Tensor, (T, B, I), (B, T, I) with `batch_first`, or (T, I); or PackedSequence
            Of the dtype of the parameters, on the CPU.
        hx : tuple of Tensor, or Tensor, optional
            h_0 and c_0 of an LSTM, h_0 of the others, each (L*D, B, H), unbatched (L*D, H). Zeros by default.
        lengths : Tensor of int, (B,), optional
            Steps of each row, 0 to T, in any order. Past them `input` is not read and the output is zero.
        resets : Tensor of bool, (T, B) in every layout, or (T,), optional
            Where a row starts anew at step t, from the zero state.
        truncate : int or pair of int, optional
            k or (k1, k2): truncated backpropagation through time, as in ``bptt.LSTM.backward``.
        step_clip : float or mapping of str to float, optional
            Clipping at every step of the backward pass, as in ``bptt.LSTM.backward``.

        Returns
        -------
        output : Tensor or PackedSequence
            As ``torch.nn``'s: (T, B, D*H), (B, T, D*H), (T, D*H), or packed like the input.
        (h_n, c_n) or h_n : tuple of Tensor, or Tensor
            The state after the last step, shaped like `hx`.

        Raises
        ------
        RuntimeError, ValueError, TypeError
            If an argument has a wrong shape, dtype or device, as ``torch.nn``'s module does; for bptt's own
            arguments, ValueError or TypeError whose message names it.
        """
        back = UNBOUNDED
        if truncate is not None or step_clip is not None:
            bounds = _check.step_clip(step_clip, self._KIND == "LSTM") or UNBOUNDED[1]
            back = [*(_check.truncation(truncate, self.bidirectional) or UNBOUNDED[0])], [*bounds]
        h_0, c_0 = self._pair(hx)
        if isinstance(input, PackedSequence):
            if lengths is not None:
                raise ValueError(f"lengths: a PackedSequence has its own, got {lengths!r}")
            return self._run_packed(input, h_0, c_0, resets, back)
        if input.dim() not in (2, 3):
            raise ValueError(f"{self._KIND}: Expected input to be 2D or 3D, got {input.dim()}D instead")
        batched, row_axis = input.dim() == 3, 0 if self.batch_first else 1
        if not batched:
            input = input.unsqueeze(row_axis)
            h_0, c_0 = (None if state is None else state.unsqueeze(1) for state in (h_0, c_0))
        self._check_tensors(input, h_0, c_0, None)
        x = input.transpose(0, 1) if self.batch_first else input
        spans = spans_of(lengths, resets, batched)
        output, h_n, c_n = self._run(x, h_0, c_0, *spans, back)
        output = output.transpose(0, 1) if self.batch_first else output
        if batched:
            return output, self._unpair(h_n, c_n)
        states = (None if state is None else state.squeeze(1) for state in (h_n, c_n))
        return output.squeeze(row_axis), self._unpair(*states)

    def _run_packed(
        self, packed: PackedSequence, h_0: Any, c_0: Any, resets: Any, back: tuple[list[int], list[float]]
    ) -> tuple[PackedSequence, Any]:
        """Run rows in the order in which they are packed, longest first."""
        data, sizes, order, place = packed
        h_0, c_0 = in_order(h_0, order), in_order(c_0, order)
        self._check_tensors(data, h_0, c_0, sizes)
        x, lengths = pad_packed_sequence(PackedSequence(data, sizes))
        resets = in_order(spans_of(None, resets, True)[1], order)
        output, h_n, c_n = self._run(x, h_0, c_0, lengths, resets, back)
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, sizes, order, place), self._unpair(
            in_order(h_n, place), in_order(c_n, place)
        )

    def _run(
        self, x: Tensor, h_0: Any, c_0: Any, lengths: Any, resets: Any, back: tuple[list[int], list[float]]
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run (T, B, I); return output, h_n, c_n."""
        found: Any = self._parameters  # whose attributes are slow to get; others stand in the place of some
        weights = [found[name] if name in found else getattr(self, name) for name in self._weight_names]
        dtype = weights[0].dtype
        if x.dtype != dtype:  # under autocast, in which the kernels take no part
            x = x.to(dtype)
            h_0, c_0 = (None if state is None else state.to(dtype) for state in (h_0, c_0))
        drawn = self._draw(x) if self.training and (self.dropout or self._draws) else ([], None)
        return run(x, h_0, c_0, weights, *drawn, lengths, resets, self._settings, *back, self._last)

    def _draw(self, x: Tensor) -> tuple[list[Tensor], Tensor | None]:
        """Draw masks of dropout between layers, as torch.nn does, and seeds for what bptt draws itself."""
        masks, seeds, directions = [], None, 1 + self.bidirectional
        if self.dropout:
            ones = x.new_ones(*x.shape[:2], directions * (self.proj_size or self.hidden_size))
            masks = [dropout(ones, self.dropout) for _ in range(self.num_layers - 1)]
        if self._draws:
            seeds = torch.randint(2**63 - 1, (self.num_layers * directions,))
        return masks, seeds

    def _check_tensors(self, input: Tensor, h_0: Any, c_0: Any, sizes: Tensor | None) -> None:
        """Raise what torch.nn's module raises, and unless all is on the CPU and of a dtype that bptt has."""
        name, dtype = self._weight_names[0], input.dtype
        weight = self._parameters.get(name)
        if weight is not None and h_0 is None and c_0 is None and sizes is None:  # the usual case
            same = weight.dtype == dtype and input.shape[-1] == self.input_size
            if same and dtype in DTYPES and input.is_cpu and weight.is_cpu:
                return
        weight = getattr(self, name)
        check_device("input", input.device)
        check_device(name, weight.device)
        check_dtype(name, weight.dtype)
        self.check_input(input, sizes)
        expected = self.get_expected_hidden_size(input, sizes)
        if h_0 is not None:
            self.check_hidden_size(h_0, expected)
        if c_0 is not None:
            self.check_hidden_size(c_0, (*expected[:2], self.hidden_size), "Expected cell size {}, got {}")

    def _pair(self, state: Any) -> tuple[Any, Any]:
        """Return h and c of a state as the user gives it; None for what is not there."""
        return state, None

    def _unpair(self, h: Any, c: Any) -> Any:
        """Return a state as the user gets it."""
        return h


class LSTM(Recurrent):
    """``torch.nn.LSTM`` that runs and trains on bptt's kernels.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size
        As for ``torch.nn.LSTM``. Dropout draws from PyTorch's generator, as that does.
    device : torch.device, optional
        The CPU.
    dtype : torch.dtype, optional
        float32 or float64.
    peephole, coupled, cell_clip, proj_clip, recurrent_dropout, zoneout, activations
        As for ``bptt.LSTM``. Peephole weights are the parameters ``weight_peephole_l0`` (3, H) and so on.

    Raises
    ------
    TypeError, ValueError
        If an argument has a wrong type or value, or one that is not supported; the message names it.

    Examples
    --------
    >>> import torch, bptt.torch
    >>> layer = bptt.torch.LSTM(3, 4, peephole=True)
    >>> output, (h_n, c_n) = layer(torch.ones(5, 2, 3), lengths=torch.tensor([2, 5]))
    >>> output.shape, bool(output[2:, 0].any())
    (torch.Size([5, 2, 4]), False)
    """

    _KIND = "LSTM"
    _SHAPE = (*Recurrent._SHAPE, "proj_size")
    _OPTIONS: ClassVar = {
        "peephole": False,
        "coupled": False,
        "cell_clip": None,
        "proj_clip": None,
        "recurrent_dropout": 0.0,
        "zoneout": 0.0,
        "activations": ("sigmoid", "tanh", "tanh"),
    }

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        peephole: bool = False,
        coupled: bool = False,
        cell_clip: float | None = None,
        proj_clip: float | None = None,
        recurrent_dropout: float = 0.0,
        zoneout: float = 0.0,
        activations: tuple[str, str, str] = ("sigmoid", "tanh", "tanh"),
    ) -> None:
        self._make(locals())

    def _pair(self, state: Any) -> tuple[Any, Any]:
        if state is None:
            return None, None
        h, c = state
        return h, c

    def _unpair(self, h: Any, c: Any) -> Any:
        return h, c


class GRU(Recurrent):
    """``torch.nn.GRU`` that runs and trains on bptt's kernels.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As for `LSTM`.
    reset_after : bool
        As for ``bptt.GRU``.

    Examples
    --------
    >>> import torch, bptt.torch
    >>> output, h_n = bptt.torch.GRU(3, 4, batch_first=True)(torch.ones(2, 5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([2, 5, 4]), torch.Size([1, 2, 4]))
    """

    _KIND = "GRU"
    _OPTIONS: ClassVar = {"reset_after": True}

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        reset_after: bool = True,
    ) -> None:
        self._make(locals())


class RNN(Recurrent):
    """``torch.nn.RNN`` that runs and trains on bptt's kernels.

    Parameters
    ----------
    input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        As for `LSTM`.
    nonlinearity : {"tanh", "relu", "identity"}

    Examples
    --------
    >>> import torch, bptt.torch
    >>> output, h_n = bptt.torch.RNN(3, 4, nonlinearity="relu")(torch.ones(5, 3))
    >>> output.shape, h_n.shape
    (torch.Size([5, 4]), torch.Size([1, 4]))
    """

    _KIND = "RNN"
    _SHAPE = (*Recurrent._SHAPE, "nonlinearity")

    nonlinearity: str

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self._make(locals())


def check_device(name: str, device: torch.device) -> None:
    """Refuse another device than the CPU; that of tensors without memory is let pass."""
    if device.type not in ("cpu", "meta"):
        raise ValueError(f"{name}: expected the CPU, got {device}")


def spans_of(lengths: Any, resets: Any, batched: bool) -> tuple[Tensor | None, Tensor | None]:
    """Return lengths and resets as tensors, (B,) and (T, B); what they hold, the layer checks."""
    if lengths is not None:
        lengths = torch.as_tensor(lengths)
        lengths = lengths if batched else lengths.reshape(1)
    if resets is not None:
        resets = torch.as_tensor(resets)
        resets = resets if batched else resets.unsqueeze(1)
    return lengths, resets


def in_order(array: Tensor | None, order: Tensor | None) -> Tensor | None:
    """Return rows, which stand on axis 1, in another order."""
    return array if array is None or order is None else array.index_select(1, order)
