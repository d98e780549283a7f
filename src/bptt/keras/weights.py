"""Layers from the weights and configurations of Keras's recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import GRU, LSTM, RNN, Reversed, _check
from ..recurrent import Recurrent

__all__ = ["CLASSES", "Layer", "from_weights", "gates_of"]

Array: TypeAlias = "NDArray[Any]"
Layer: TypeAlias = "Recurrent | Reversed[Recurrent]"

CLASSES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}  # and how many blocks of columns their kernels have
ORDER = {"LSTM": (0, 1, 2, 3), "GRU": (1, 0, 2), "SimpleRNN": (0,)}  # of Keras's i,f,c,o and z,r,h; all
ACTIVATIONS = {"linear": "identity", **{name: name for name in ("sigmoid", "tanh", "relu", "softsign")}}
SOFTER = 5 / 6  # Keras 3's hard_sigmoid(z) = z/6 + 0.5 is bptt's, 0.2 z + 0.5, of 5/6 z

# What a layer is called with, or how it is trained: nothing that its weights' meaning depends on.
FREE = {
    *("name", "trainable", "dtype", "seed", "return_sequences", "return_state", "stateful", "unroll"),
    *("implementation", "use_cudnn", "zero_output_for_mask", "batch_input_shape", "unit_forget_bias"),
    *("dropout", "recurrent_dropout", "activity_regularizer"),
    *(f"{weight}_initializer" for weight in ("kernel", "recurrent", "bias")),
    *(f"{weight}_regularizer" for weight in ("kernel", "recurrent", "bias")),
    *(f"{weight}_constraint" for weight in ("kernel", "recurrent", "bias")),
}
USED = {
    "units",
    "activation",
    "recurrent_activation",
    "use_bias",
    "reset_after",
    "go_backwards",
    "time_major",
}


class _Form(NamedTuple):
    """What a configuration says of a layer in one direction."""

    kind: str
    functions: tuple[str, ...]  # names of Keras: of the gates, if there are any, and of the candidate
    reset_after: bool
    backwards: bool
    batch_first: bool


def from_weights(layer_class_name: str, weights: Sequence[Any], **config: Any) -> Layer:
    """Return the layer that a layer of Keras is.

    Parameters
    ----------
    layer_class_name : {"LSTM", "GRU", "SimpleRNN", "Bidirectional"}
    weights : sequence of array_like
        As Keras's ``layer.get_weights()`` returns them: kernel (I, G*H), recurrent kernel (H, G*H) and, with
        a bias, (G*H,), or (2, 3*H) for a GRU with `reset_after`; of Bidirectional both, forward first.
    **config
        As Keras's ``layer.get_config()`` returns it, or some of it; Keras's defaults for the rest. What only
        says how a layer is called or trained (``return_sequences``, ``stateful``, initializers, dropout) has
        no effect here. Also ``keras_version``, 3 by default: 2 is another ``hard_sigmoid``.

    Returns
    -------
    LSTM, GRU or RNN
        With ``batch_first=True`` (but for Keras 2's ``time_major``), float64 for weights of float64, else
        float32. For ``go_backwards=True`` a `bptt.Reversed` whose outputs stand in the order in which they
        are made, as Keras's do.

    Raises
    ------
    ValueError
        If the weights do not fit together, or the configuration asks for what a layer cannot compute (other
        activations, another ``merge_mode`` than "concat"), or is not known.

    Examples
    --------
    >>> import numpy as np, bptt.keras
    >>> rng = np.random.default_rng(0)
    >>> weights = [rng.random(shape, np.float32) for shape in ((3, 16), (4, 16), (16,))]
    >>> bptt.keras.from_weights("LSTM", weights, recurrent_activation="sigmoid")
    LSTM(3, 4, batch_first=True)
    """
    version = config.pop("keras_version", 3)
    if version not in (2, 3):
        raise ValueError(f"keras_version: expected 2 or 3, got {version!r}")
    arrays = [_check.numeric(f"weights[{n}]", array) for n, array in enumerate(weights)]
    if layer_class_name == "Bidirectional":
        if not arrays or len(arrays) % 2:
            raise ValueError(f"weights: expected as many forward as backward, got {len(arrays)}")
        half = len(arrays) // 2
        each = [arrays[:half], arrays[half:]]
        kind, forms = _both_forms(gates_of(each[0]), config)
    else:
        kind, each = layer_class_name, [arrays]
        if kind not in CLASSES:
            names = ", ".join((*CLASSES, "Bidirectional"))
            raise ValueError(f"layer_class_name: expected one of {names}, got {kind!r}")
        forms = [_form(kind, arrays, config)]
    _fit(forms[0], each, config)
    parameters: dict[str, Array] = {}
    for end, part in zip(("_l0", "_l0_reverse"), each, strict=False):
        parameters |= _parameters(forms[0], part, end, version)
    layer = _layer(forms[0], each, version)
    layer.load_state_dict(parameters)
    return Reversed(layer, in_order=False) if forms[0].backwards else layer


def gates_of(weights: Sequence[Array]) -> int:
    """Return how many blocks of columns the kernels have; 0 if they do not fit together."""
    if len(weights) < 2 or weights[0].ndim != 2 or weights[1].ndim != 2:
        return 0
    units, columns = weights[1].shape
    return columns // units if units and columns % units == 0 else 0


def _form(kind: str, weights: Sequence[Array], config: Mapping[str, Any]) -> _Form:
    """Return what `config` says, with Keras's defaults."""
    unknown = sorted(set(config) - FREE - USED)
    if unknown:
        raise ValueError(f"config: unknown {', '.join(unknown)}")
    candidate = _function("activation", config.get("activation", "tanh"))
    functions: tuple[str, ...] = (candidate,)
    if kind != "SimpleRNN":
        functions = (
            _function("recurrent_activation", config.get("recurrent_activation", "sigmoid")),
            candidate,
        )
    flags = {"reset_after": True, "go_backwards": False, "time_major": False}
    if kind == "GRU" and len(weights) == 3 and weights[2].ndim == 1:
        flags["reset_after"] = False
    for name, default in flags.items():
        flags[name] = _check.flag(name, config.get(name, default))
    return _Form(kind, functions, flags["reset_after"], flags["go_backwards"], not flags["time_major"])


def _function(name: str, value: Any) -> str:
    """Return Keras's name of an activation that bptt has."""
    value = "linear" if value is None else value
    if not isinstance(value, str) or value not in (*ACTIVATIONS, "hard_sigmoid"):
        raise ValueError(f"{name}: expected one of {', '.join(ACTIVATIONS)}, hard_sigmoid, got {value!r}")
    return value


def _both_forms(gates: int, config: dict[str, Any]) -> tuple[str, list[_Form]]:
    """Return the class inside a Bidirectional and what its configuration says of both directions."""
    if config.get("merge_mode", "concat") != "concat":
        raise ValueError(f"merge_mode: expected concat, got {config['merge_mode']!r}")
    wrapper = {"layer", "backward_layer", "merge_mode", "weights"}
    kinds = {count: name for name, count in CLASSES.items()}
    layer, backward = config.get("layer"), config.get("backward_layer") or config.get("layer")
    rest = {name: value for name, value in config.items() if name not in wrapper}
    if isinstance(layer, Mapping) and isinstance(backward, Mapping):
        kind, configs = str(layer.get("class_name")), [_inner(layer), _inner(backward)]
        if backward.get("class_name") != kind:
            raise ValueError(f"backward_layer: expected {kind}, got {backward.get('class_name')!r}")
    else:
        kind, configs = str(layer or kinds.get(gates, "SimpleRNN")), [rest, rest]
    if kind not in CLASSES:
        raise ValueError(f"layer: expected one of {', '.join(CLASSES)}, got {kind!r}")
    forms = [_form(kind, [], entry) for entry in configs]
    if forms[0].backwards:
        raise ValueError("go_backwards: expected False in the forward layer, got True")
    if forms[0] != forms[1]._replace(backwards=False):
        raise ValueError("backward_layer: expected the settings of layer, got others")
    config.update({"units": configs[0].get("units"), "use_bias": configs[0].get("use_bias")})
    return kind, forms


def _inner(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    found = entry.get("config")
    if not isinstance(found, Mapping):
        raise ValueError(f"layer: expected a configuration, got {found!r}")
    return found


def _fit(form: _Form, each: Sequence[Sequence[Array]], config: Mapping[str, Any]) -> None:
    """Refuse weights that do not fit the class, the configuration or each other."""
    G, first = CLASSES[form.kind], each[0]
    for weights in each:
        if len(weights) not in (2, 3):
            raise ValueError(
                f"weights: expected kernel, recurrent kernel and bias, got {len(weights)} arrays"
            )
        for name, array in zip(("kernel", "recurrent_kernel"), weights, strict=False):
            if array.ndim != 2 or not array.size:
                raise ValueError(f"{name}: expected two dimensions of at least 1, got shape {array.shape}")
        I, H = first[0].shape[0], first[1].shape[0]
        _check.shape("kernel", weights[0].shape, f"(I, {G}*H)", (I, G * H))
        _check.shape("recurrent_kernel", weights[1].shape, f"(H, {G}*H)", (H, G * H))
        if len(weights) == 3 and form.kind == "GRU" and form.reset_after:
            _check.shape("bias", weights[2].shape, "(2, 3*H)", (2, 3 * H))
        elif len(weights) == 3:
            _check.shape("bias", weights[2].shape, f"({G}*H,)", (G * H,))
        if config.get("units") not in (None, H):
            raise ValueError(f"units: expected {H} as in the weights, got {config['units']!r}")
        if config.get("use_bias") not in (None, len(weights) == 3):
            raise ValueError(
                f"use_bias: expected {len(weights) == 3} as in the weights, got {config['use_bias']!r}"
            )


def _parameters(form: _Form, weights: Sequence[Array], end: str, version: int) -> dict[str, Array]:
    """Return the parameters of one direction under bptt's names."""
    H, G = weights[1].shape[0], CLASSES[form.kind]
    scale = np.ones(G * H)
    if form.functions[0] == "hard_sigmoid" and form.kind == "LSTM" and version == 3:
        scale[: 2 * H] = scale[3 * H :] = SOFTER

    def ordered(columns: Array) -> Array:
        blocks = np.split(columns.astype(np.float64) * scale, G, axis=-1)
        return np.concatenate([blocks[n] for n in ORDER[form.kind]], axis=-1)

    found = {f"weight_ih{end}": ordered(weights[0]).T, f"weight_hh{end}": ordered(weights[1]).T}
    if len(weights) == 3:
        b_ih, b_hh = weights[2] if weights[2].ndim == 2 else (weights[2], np.zeros(G * H))
        found |= {f"bias_ih{end}": ordered(b_ih), f"bias_hh{end}": ordered(b_hh)}
    return found


def _layer(form: _Form, each: Sequence[Sequence[Array]], version: int) -> Recurrent:
    """Return a layer of the form, its weights still to come."""
    first, (*gates, candidate) = each[0], form.functions
    common: dict[str, Any] = {
        "bias": len(first) == 3,
        "batch_first": form.batch_first,
        "bidirectional": len(each) == 2,
        "dtype": np.float64 if first[0].dtype == np.float64 else np.float32,
        "seed": 0,
    }
    if candidate == "hard_sigmoid" and (form.kind != "LSTM" or version == 3):
        raise ValueError("activation: hard_sigmoid cannot be computed here (of Keras 2 in an LSTM it can)")
    names = {**ACTIVATIONS, "hard_sigmoid": "hard_sigmoid"}
    I, H = first[0].shape[0], first[1].shape[0]
    if form.kind == "LSTM":
        functions = names[gates[0]], names[candidate], names[candidate]
        return LSTM(I, H, activations=functions, **common)
    if form.kind == "GRU":
        if form.functions != ("sigmoid", "tanh"):
            got = ", ".join(form.functions)
            raise ValueError(f"recurrent_activation, activation: expected sigmoid, tanh in a GRU, got {got}")
        return GRU(I, H, reset_after=form.reset_after, **common)
    return RNN(I, H, nonlinearity=names[candidate], **common)
