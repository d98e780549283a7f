"""Layers as ONNX models."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import make_node, make_tensor_value_info

from .. import GRU, LSTM, RNN, Reversed, __version__, _check
from .._files import write
from ..recurrent import Recurrent
from .activations import written
from .node import BLOCKS, PEEPHOLES

__all__ = ["save"]

Array: TypeAlias = "NDArray[Any]"
OPSET, IR_VERSION = 17, 8
LIMIT = 2**31 - 2**20  # bytes: a protobuf message is smaller than 2 GiB


def save(
    layer: Recurrent | Reversed[Recurrent],
    path: str | os.PathLike[str],
    *,
    state: bool = False,
    lengths: bool = False,
) -> None:
    """Write a layer as an ONNX model, whose batch and time are free.

    The model does what a call of the layer does. Inputs: ``x`` (T, B, I), or (B, T, I) with `batch_first`;
    with `state` also ``h_0`` and ``c_0`` (L*D, B, H); with `lengths` also ``lengths`` (B,) int32. Outputs:
    ``output``, ``h_n`` and, of an LSTM, ``c_n``, shaped like the layer's. Nodes "layer_0", "layer_1", .. hold
    the layers of a stack.

    Parameters
    ----------
    layer : LSTM, GRU, RNN or Reversed of one
    path : str or os.PathLike
        Replaced if it is there; the file appears whole or not at all.
    state : bool
        Whether the initial state is an input; else it is zero.
    lengths : bool
        Whether the lengths of the rows are an input; else all are T.

    Raises
    ------
    TypeError
        If `layer` is not a layer, or `path` not a path.
    ValueError
        If ONNX has no operator for it (`cell_clip`, `proj_size`, `zoneout`), or it is too large for a model.

    Notes
    -----
    Opset 17, IR version 8. ONNX Runtime computes float32 only; a float64 model runs on `backend`, and others.

    Examples
    --------
    See `load`.
    """
    reverse = isinstance(layer, Reversed)
    base = layer.layer if isinstance(layer, Reversed) else layer
    if not isinstance(base, (LSTM, GRU, RNN)):
        raise TypeError(f"layer: expected a layer, got {type(layer).__name__}")
    if isinstance(layer, Reversed) and not layer.in_order:
        raise ValueError("layer: expected in_order=True, as ONNX has no other; got in_order=False")
    _refuse(base)
    name = _check.path("path", path)
    writer = _Writer(base, reverse, state, lengths)
    helper = onnx.helper
    graph = helper.make_graph(list(writer.nodes()), repr(layer), *writer.values(), list(writer.weights()))
    opset = [helper.make_opsetid("", OPSET)]
    names = {"producer_name": "bptt", "producer_version": __version__}
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, **names)
    onnx.checker.check_model(model)
    write(name, model.SerializeToString())


def _refuse(layer: Recurrent) -> None:
    """Raise for what ONNX's operators do not have."""
    for name in ("cell_clip", "proj_size", "proj_clip", "zoneout"):
        if layer.settings.get(name):
            raise ValueError(f"{name}: ONNX has no such thing, got {layer.settings[name]}")
    if not layer.input_size:
        raise ValueError("input_size: expected at least 1, got 0")
    if layer.parameters.flat.nbytes > LIMIT:
        raise ValueError(f"layer: expected less than 2 GiB of parameters, got {layer.parameters.flat.nbytes}")


class _Writer:
    """The parts of the graph of one layer."""

    def __init__(self, layer: LSTM | GRU | RNN, reverse: bool, state: bool, lengths: bool) -> None:
        self.layer, self.lengths = layer, lengths
        self.operator = type(layer).__name__
        self.directions = 1 + layer.bidirectional
        self.direction = "bidirectional" if layer.bidirectional else "reverse" if reverse else "forward"
        letters = "hc" if self.operator == "LSTM" else "h"
        self.initial = [f"{letter}_0" for letter in letters] if state else []
        self.final = [f"{letter}_n" for letter in letters]

    def attributes(self) -> dict[str, Any]:
        layer = self.layer
        found: dict[str, Any] = {"hidden_size": layer.hidden_size, "direction": self.direction}
        if isinstance(layer, LSTM):
            found |= written(layer.activations * self.directions)
            found["input_forget"] = int(layer.coupled)
        elif isinstance(layer, GRU):
            found["linear_before_reset"] = int(layer.reset_after)
        else:
            found |= written([layer.nonlinearity] * self.directions)
        return found

    def values(self) -> tuple[list[onnx.ValueInfoProto], list[onnx.ValueInfoProto]]:
        """Return the inputs and outputs of the graph."""
        layer, D = self.layer, self.directions
        real = onnx.helper.np_dtype_to_tensor_dtype(layer.dtype)
        two = ("B", "T") if layer.batch_first else ("T", "B")
        state = (layer.num_layers * D, "B", layer.hidden_size)
        inputs = [make_tensor_value_info("x", real, (*two, layer.input_size))]
        inputs += [make_tensor_value_info(name, real, state) for name in self.initial]
        if self.lengths:
            inputs.append(make_tensor_value_info("lengths", onnx.TensorProto.INT32, ("B",)))
        outputs = [make_tensor_value_info("output", real, (*two, D * layer.hidden_size))]
        outputs += [make_tensor_value_info(name, real, state) for name in self.final]
        return inputs, outputs

    def weights(self) -> Iterator[onnx.TensorProto]:
        """Yield the initializers."""
        layer, D, L = self.layer, self.directions, self.layer.num_layers
        for n in range(L):
            parts = [self._part(f"_l{n}{way}") for way in ("", "_reverse")[:D]]
            for name in parts[0]:
                yield onnx.numpy_helper.from_array(np.stack([part[name] for part in parts]), f"{name}_{n}")
        integers = {"joined": [0, 0, D * layer.hidden_size]} if D == 2 else {"axis": [1]}
        if L > 1 and self.initial:
            integers["parts"] = [D] * L
        for name, value in integers.items():
            yield onnx.numpy_helper.from_array(np.array(value, np.int64), name)

    def _part(self, end: str) -> dict[str, Array]:
        """Return the weights of one direction of one layer under ONNX's names, in its order."""
        given, blocks = self.layer.parameters, np.argsort(BLOCKS[self.operator])

        def ordered(name: str) -> Array:
            parts = np.split(given[name + end], len(blocks))
            return np.concatenate([parts[block] for block in blocks])

        found = {"W": ordered("weight_ih"), "R": ordered("weight_hh")}
        if self.layer.bias:
            found["B"] = np.concatenate([ordered("bias_ih"), ordered("bias_hh")])
        if "weight_peephole" + end in given:
            found["P"] = given["weight_peephole" + end][np.argsort(PEEPHOLES)].reshape(-1)
        return found

    def nodes(self) -> Iterator[onnx.NodeProto]:
        """Yield the nodes in order."""
        layer, L = self.layer, self.layer.num_layers
        x, first = "x", layer.batch_first
        if first:
            x = "x_by_time"
            yield make_node("Transpose", ["x"], [x], perm=[1, 0, 2])
        for name in self.initial if L > 1 else []:
            yield make_node("Split", [name, "parts"], [f"{name}_{n}" for n in range(L)], axis=0)
        for n in range(L):
            result = "output" if n == L - 1 and not first else f"output_{n}"
            yield from self._layer(n, x, result)
            x = result
        for name in self.final if L > 1 else []:
            yield make_node("Concat", [f"{name}_{n}" for n in range(L)], [name], axis=0)
        if first:
            yield make_node("Transpose", [x], ["output"], perm=[1, 0, 2])

    def _layer(self, n: int, x: str, result: str) -> Iterator[onnx.NodeProto]:
        """Yield the nodes of one layer of the stack: y (T, D, B, H) becomes `result` (T, B, D*H)."""
        layer = self.layer
        number = f"_{n}" if layer.num_layers > 1 else ""
        given = [x, f"W_{n}", f"R_{n}", f"B_{n}" if layer.bias else "", "lengths" if self.lengths else ""]
        given += [name + number for name in self.initial]
        if layer.settings.get("peephole"):
            given += [""] * (7 - len(given)) + [f"P_{n}"]
        while not given[-1]:
            given.pop()
        made = [f"y_{n}", *(name + number for name in self.final)]
        yield make_node(self.operator, given, made, f"layer_{n}", **self.attributes())
        if self.directions == 1:
            yield make_node("Squeeze", [f"y_{n}", "axis"], [result])
        else:
            yield make_node("Transpose", [f"y_{n}"], [f"y_by_row_{n}"], perm=[0, 2, 1, 3])
            yield make_node("Reshape", [f"y_by_row_{n}", "joined"], [result])
