"""Layers from the LSTM, GRU and RNN nodes of a model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from numpy.typing import NDArray

from .node import DOMAINS, INPUTS, OPERATORS, Layer, layer_of, read_node

__all__ = ["load", "opset_of", "recurrent_nodes"]

Model: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto"
Constants: TypeAlias = "Mapping[str, onnx.TensorProto | onnx.NodeProto]"


def load(model: Model) -> dict[str, Layer]:
    """Return a layer for each LSTM, GRU and RNN node of a model, those in subgraphs and functions included.

    Weights have to be initializers or Constant nodes (an Identity between is followed). The layer has the
    node's activations, peepholes, coupled gates and biases. Initial states and sequence lengths are inputs:
    give them to each call, as the model would have.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        With opset 7 to 22 (or later, while the operators are still those of 22).

    Returns
    -------
    dict of str to LSTM, GRU, RNN or Reversed
        By node name, in the order of the model. A node without a name is called after its operator and its
        place among the recurrent nodes ("LSTM_0"); a name that was there already gets a number.
        ``direction="reverse"`` gives a `bptt.Reversed`, ``layout=1`` a layer with ``batch_first=True``, whose
        states are (D, B, H) all the same. Weights of float16 and bfloat16 become float32.

    Raises
    ------
    ValueError
        If the model is malformed, or a node asks for what a layer cannot compute: other activations, a `clip`
        that bounds anything, weights that are computed in the model, a constant initial state or constant
        lengths. The message names node and input.
    OSError
        If the file cannot be read.

    Notes
    -----
    ONNX operators LSTM, GRU and RNN, versions 7, 14 and 22.

    Examples
    --------
    >>> import os, tempfile, numpy as np, bptt, bptt.onnx
    >>> layer = bptt.LSTM(3, 4, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "model.onnx")
    ...     bptt.onnx.save(layer, path)
    ...     layers = bptt.onnx.load(path)
    >>> layers
    {'layer_0': LSTM(3, 4)}
    >>> x = np.ones((5, 2, 3), np.float32)
    >>> np.array_equal(layers["layer_0"](x)[0], layer(x)[0])
    True
    """
    proto = _read(model)
    opset = opset_of(proto)
    layers: dict[str, Layer] = {}
    for count, (node, constants) in enumerate(recurrent_nodes(proto)):
        name = node.name or f"{node.op_type}_{count}"
        try:
            layer = layer_of(read_node(node, opset), _weights(node, constants))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        while name in layers:
            name = f"{name}_{count}"
        layers[name] = layer
    return layers


def _read(model: Model) -> onnx.ModelProto:
    try:
        if isinstance(model, onnx.ModelProto):
            proto = model
        elif isinstance(model, (bytes, bytearray, memoryview)):
            proto = onnx.load_model_from_string(bytes(model))
        elif isinstance(model, (str, os.PathLike)):
            proto = onnx.load(os.fspath(model), format="protobuf")
        else:
            raise TypeError(f"model: expected a path, bytes or a ModelProto, got {type(model).__name__}")
        return onnx.inliner.inline_local_functions(proto) if proto.functions else proto
    except (DecodeError, onnx.checker.ValidationError, RuntimeError) as error:
        raise ValueError(f"model: not an ONNX model that can be read ({error})") from error


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of ONNX's own operators that a model uses."""
    versions = {entry.version for entry in model.opset_import if entry.domain in DOMAINS}
    if len(versions) != 1:
        raise ValueError(f"opset_import: expected one version of ONNX's operators, got {sorted(versions)}")
    version: int = versions.pop()
    return version


def recurrent_nodes(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, Constants]]:
    """Yield every LSTM, GRU and RNN node, and what is constant where it stands, by name."""
    waiting: list[tuple[onnx.GraphProto, Constants]] = [(model.graph, {})]
    while waiting:
        graph, outer = waiting.pop(0)
        constants = {**outer, **{tensor.name: tensor for tensor in graph.initializer}}
        for node in graph.node:
            constants |= {output: node for output in node.output if output}
        for node in graph.node:
            if node.op_type in OPERATORS and node.domain in DOMAINS:
                yield node, constants
            for attribute in node.attribute:
                waiting += [(inner, constants) for inner in (*attribute.graphs, attribute.g) if inner.node]


def _weights(node: onnx.NodeProto, constants: Constants) -> dict[str, NDArray[Any]]:
    """Return the constant inputs W, R, B, P of a node, and refuse constants that a layer cannot hold."""
    given = {name: value for name, value in zip(INPUTS, node.input, strict=False) if value}
    found: dict[str, NDArray[Any]] = {}
    for name in ("W", "R", "B", "P"):
        if name in given:
            try:
                found[name] = _constant(given[name], constants)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                raise ValueError(f"{name}: {error}") from error
        elif name in ("W", "R"):
            raise ValueError(f"{name}: missing")
    for name in ("sequence_lens", "initial_h", "initial_c"):
        if name in given and _is_constant(given[name], constants):
            if name != "sequence_lens" and not _constant(given[name], constants).any():
                continue
            raise ValueError(
                f"{name}: a constant of the model, which a layer does not keep; expected an input"
            )
    return found


def _producer(name: str, constants: Constants) -> onnx.TensorProto | onnx.NodeProto | None:
    """Return the initializer of a name, or the node that makes it once Identity nodes are followed."""
    seen = set()
    while name not in seen:
        seen.add(name)
        found = constants.get(name)
        if not isinstance(found, onnx.NodeProto) or found.op_type != "Identity" or not found.input:
            return found
        name = found.input[0]
    raise ValueError(f"{name}: an Identity of itself")


def _is_constant(name: str, constants: Constants) -> bool:
    found = _producer(name, constants)
    return isinstance(found, onnx.TensorProto) or (found is not None and found.op_type == "Constant")


def _constant(name: str, constants: Constants) -> NDArray[Any]:
    found = _producer(name, constants)
    if found is None:
        raise ValueError(f"expected an initializer or a Constant, got an input of the model ({name})")
    if isinstance(found, onnx.NodeProto):
        values = [attribute.t for attribute in found.attribute if attribute.name == "value"]
        if found.op_type != "Constant" or not values:
            raise ValueError(
                f"expected an initializer or a Constant, got what {found.op_type} makes ({name})"
            )
        found = values[0]
    if found.data_location == onnx.TensorProto.EXTERNAL:
        raise ValueError("its data are in another file; load the model from its path")
    if any(size < 0 for size in found.dims):
        raise ValueError(f"expected sizes of 0 or more, got {tuple(found.dims)}")
    return np.asarray(onnx.numpy_helper.to_array(found))
