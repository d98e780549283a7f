"""One LSTM, GRU or RNN node: its attributes, and the layer that computes it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

from .. import GRU, LSTM, RNN, Reversed, _check
from ..recurrent import Recurrent
from .activations import Activation, parsed

__all__ = ["DOMAINS", "INPUTS", "OPERATORS", "Layer", "Node", "layer_of", "read_node"]

Array: TypeAlias = "NDArray[Any]"
Layer: TypeAlias = "Recurrent | Reversed[Recurrent]"

DOMAINS = ("", "ai.onnx")
VERSIONS = (7, 14, 22)  # of the three operators, that this module knows
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")

# Which of ONNX's blocks of rows are bptt's, in bptt's order, and the default activations.
BLOCKS = {"LSTM": (0, 2, 3, 1), "GRU": (1, 0, 2), "RNN": (0,)}  # of i,o,f,c; z,r,h; all
PEEPHOLES = (0, 2, 1)  # i, f, o of i, o, f
DEFAULTS = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"], "RNN": ["Tanh"]}
OPERATORS = tuple(BLOCKS)


class Node(NamedTuple):
    """What the attributes of a node say.

    Attributes
    ----------
    operator : str
        "LSTM", "GRU" or "RNN".
    direction : str
        "forward", "reverse" or "bidirectional".
    activations : list of list of Activation
        Of each direction.
    clip : float
        Infinite if there is none.
    hidden_size : int or None
    flag : bool
        input_forget of an LSTM, linear_before_reset of a GRU.
    batch_first : bool
        layout 1.
    """

    operator: str
    direction: str
    activations: list[list[Activation]]
    clip: float
    hidden_size: int | None
    flag: bool
    batch_first: bool

    @property
    def directions(self) -> int:
        """D."""
        return 1 + (self.direction == "bidirectional")


def read_node(proto: onnx.NodeProto, opset: int) -> Node:
    """Return what the attributes of a node say.

    Raises
    ------
    ValueError
        If the node is not one that the operator's definition allows, or its activations cannot be computed.
    """
    schema = onnx.defs.get_schema(proto.op_type, max_inclusive_version=opset)
    if schema.since_version not in VERSIONS:
        raise ValueError(f"opset: expected 7 or later, got {opset} ({proto.op_type}-{schema.since_version})")
    context = type(onnx.checker.DEFAULT_CONTEXT)()
    context.ir_version, context.opset_imports = onnx.IR_VERSION, {"": opset, "ai.onnx": opset}
    if any(attribute.ref_attr_name for attribute in proto.attribute):
        raise ValueError("attributes: expected values, got a reference to an attribute of a function")
    try:
        onnx.checker.check_node(proto, context)
        given = {a.name: _value(a) for a in proto.attribute}
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ValueError(f"malformed node: {error}") from error
    flags = {"input_forget": 0, "linear_before_reset": 0, "layout": 0}
    for name in flags:
        flags[name] = given.get(name, 0)
        if flags[name] not in (0, 1):
            raise ValueError(f"{name}: expected 0 or 1, got {flags[name]}")
    direction = given.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(f"direction: expected forward, reverse or bidirectional, got {direction}")
    clip = given.get("clip", np.inf)
    if not clip > 0:
        raise ValueError(f"clip: expected a number above 0, got {clip}")
    return Node(
        proto.op_type,
        direction,
        _activations(proto.op_type, given, 1 + (direction == "bidirectional")),
        clip,
        given.get("hidden_size"),
        bool(flags["input_forget"] or flags["linear_before_reset"]),
        bool(flags["layout"]),
    )


def _value(attribute: onnx.AttributeProto) -> Any:
    """Return the value of an attribute, with text for bytes."""
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == onnx.AttributeProto.STRINGS:
        return [text.decode() for text in value]
    return value.decode() if attribute.type == onnx.AttributeProto.STRING else value


def _activations(operator: str, given: Mapping[str, Any], directions: int) -> list[list[Activation]]:
    """Return the activations of each direction."""
    default = DEFAULTS[operator]
    names = given.get("activations", []) or default * directions
    if operator == "RNN" and directions == 1 and names == ["Tanh", "Tanh"]:  # the definition's own default
        names = default
    if len(names) != len(default) * directions:
        raise ValueError(f"activations: expected {len(default)} for each direction, got {', '.join(names)}")
    found = parsed(names, given.get("activation_alpha", []), given.get("activation_beta", []))
    return [found[start : start + len(default)] for start in range(0, len(found), len(default))]


def layer_of(node: Node, weights: Mapping[str, Array]) -> Layer:
    """Return the layer that computes a node.

    Parameters
    ----------
    node : Node
    weights : mapping of str to ndarray
        "W" (D, G*H, I), "R" (D, G*H, H) and, where the node has them, "B" (D, 2*G*H) and "P" (D, 3*H); G is
        4, 3 or 1.

    Returns
    -------
    LSTM, GRU, RNN, or Reversed of one
        With ``batch_first=True`` for layout 1.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit together, or something cannot be computed; the message names it.
    """
    I, H = _sizes(node, weights)
    dtype = _dtype(weights)
    functions = node.activations[0]
    names = [function.name for function in functions]
    if any([function.name for function in other] != names for other in node.activations):
        raise ValueError("activations: expected the same ones in both directions")
    for function in (function for direction in node.activations for function in direction):
        if not function.ignores(node.clip, dtype):
            raise ValueError(
                f"clip: {node.clip:g} would bound the input of {function.name}, which cannot be computed"
            )
    bias = "B" in weights or any(f.shift for direction in node.activations for f in direction)
    common: dict[str, Any] = {
        "bias": bias,
        "bidirectional": node.directions == 2,
        "batch_first": node.batch_first,
        "dtype": dtype,
        "seed": 0,
    }
    layer: Recurrent
    if node.operator == "LSTM":
        if not all(direction[2].plain for direction in node.activations):
            raise ValueError("activations: alpha and beta of the third (h) cannot be computed")
        common |= {"peephole": "P" in weights, "coupled": node.flag}
        layer = LSTM(I, H, activations=(names[0], names[1], names[2]), **common)
    elif node.operator == "GRU":
        if names != ["sigmoid", "tanh"]:
            raise ValueError(f"activations: expected Sigmoid, Tanh for a GRU, got {', '.join(names)}")
        layer = GRU(I, H, reset_after=node.flag, **common)
    else:
        layer = RNN(I, H, nonlinearity=names[0], **common)
    layer.load_state_dict(_parameters(node, weights, bias))
    return Reversed(layer) if node.direction == "reverse" else layer


def _sizes(node: Node, weights: Mapping[str, Array]) -> tuple[int, int]:
    """Return I and H once every weight has the shape that they give."""
    D, G = node.directions, len(BLOCKS[node.operator])
    for name in ("W", "R"):
        if weights[name].ndim != 3:
            raise ValueError(f"{name}: expected 3 dimensions, got shape {weights[name].shape}")
    I, H = weights["W"].shape[2], weights["R"].shape[2]
    expected = {
        "W": ("(D, {G}*H, I)", (D, G * H, I)),
        "R": ("(D, {G}*H, H)", (D, G * H, H)),
        "B": ("(D, 2*{G}*H)", (D, 2 * G * H)),
        "P": ("(D, 3*H)", (D, 3 * H)),
    }
    for name, array in weights.items():
        symbols, shape = expected[name]
        _check.shape(name, array.shape, symbols.format(G=G), shape)
        if not array.size:
            raise ValueError(f"{name}: expected no zero among the sizes, got {array.shape}")
    if node.hidden_size is not None and node.hidden_size != H:
        raise ValueError(f"hidden_size: expected H = {H} as in R, got {node.hidden_size}")
    return I, H


def _dtype(weights: Mapping[str, Array]) -> np.dtype[Any]:
    """Return the dtype to compute in: that of the weights, float32 for halves."""
    kinds = {array.dtype.name for array in weights.values()}
    if len(kinds) != 1:
        raise ValueError(f"W, R, B, P: expected one dtype, got {', '.join(sorted(kinds))}")
    kind = kinds.pop()
    if kind not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"W: expected float16, bfloat16, float32 or float64, got {kind}")
    return np.dtype(np.float64 if kind == "float64" else np.float32)


def _parameters(node: Node, weights: Mapping[str, Array], bias: bool) -> dict[str, Array]:
    """Return the parameters under bptt's names: blocks in its order, scaled as the activations ask for."""
    blocks = BLOCKS[node.operator]
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    rows = len(blocks) * weights["R"].shape[2]
    biases = wide.get("B", np.zeros((node.directions, 2 * rows)))
    parameters = {}
    for d, functions in enumerate(node.activations):
        end = "_l0_reverse" if d else "_l0"
        # The last block is the candidate's, except in an LSTM, whose o stands behind it.
        gate, candidate = functions[0], functions[min(1, len(functions) - 1)]
        each = [gate, gate, candidate, gate] if len(blocks) == 4 else [gate, gate, candidate][-len(blocks) :]
        scale = np.repeat([f.scale for f in each], rows // len(blocks))
        shift = np.repeat([f.shift for f in each], rows // len(blocks))
        parameters["weight_ih" + end] = _ordered(wide["W"][d], blocks) * scale[:, None]
        parameters["weight_hh" + end] = _ordered(wide["R"][d], blocks) * scale[:, None]
        if bias:
            b_ih, b_hh = np.split(biases[d], 2)
            parameters["bias_ih" + end] = _ordered(b_ih, blocks) * scale + shift
            parameters["bias_hh" + end] = _ordered(b_hh, blocks) * scale
        if "P" in wide:
            rows_of_p = wide["P"][d].reshape(3, -1)[list(PEEPHOLES)]
            parameters["weight_peephole" + end] = rows_of_p * gate.scale
    return parameters


def _ordered(array: Array, blocks: tuple[int, ...]) -> Array:
    parts = np.split(array, len(blocks))
    return np.concatenate([parts[block] for block in blocks])
