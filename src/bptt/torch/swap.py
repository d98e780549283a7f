"""`accelerate` and `restore`: the recurrent layers of a model on bptt's kernels, and back.

Nothing is made or copied: a module stays the same object with the same parameters, hooks and mode, and
becomes an instance of another class. So whatever refers to it still does.
"""

from __future__ import annotations

import warnings
from typing import TypeVar

from torch import nn

from .modules import GRU, LSTM, RNN, Recurrent, check_device
from .plan import check_dtype, settings_text

__all__ = ["accelerate", "restore"]

Module = TypeVar("Module", bound=nn.Module)
_OURS: dict[type[nn.Module], type[Recurrent]] = {nn.LSTM: LSTM, nn.GRU: GRU, nn.RNN: RNN}
_THEIRS = {ours: theirs for theirs, ours in _OURS.items()}


def accelerate(module: Module) -> Module:
    """Let every ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` of a model run on bptt's kernels, in place.

    Parameters
    ----------
    module : torch.nn.Module
        The model, which may itself be such a layer. Layers keep identity, parameters, hooks, mode and
        state_dict: optimizers made before stay right, and a layer that stands at two places still does. Old
        ``weight_norm`` stays in force.

    Returns
    -------
    Module
        The same object.

    Warns
    -----
    UserWarning
        Once, if layers are left as they are, with their names and reasons: another device or dtype,
        a setting that bptt has not, or a class derived from torch.nn's, whose forward may be its own. A
        parametrized layer is one: parametrize after `accelerate`. Or if there is no layer at all.

    Examples
    --------
    >>> import torch, bptt.torch
    >>> model = torch.nn.Sequential(torch.nn.LSTM(3, 4))
    >>> bptt.torch.accelerate(model)[0]
    LSTM(3, 4)
    >>> type(model[0]) is bptt.torch.LSTM
    True
    >>> type(bptt.torch.restore(model)[0]) is torch.nn.LSTM
    True
    """
    layers = [(name, layer) for name, layer in module.named_modules() if isinstance(layer, nn.RNNBase)]
    left = []
    for name, layer in layers:
        try:
            swap(layer)
        except (TypeError, ValueError) as error:
            left.append(f"{name or 'the module itself'} ({error})")
    if left:
        warnings.warn(f"accelerate: left as they are: {'; '.join(left)}", UserWarning, stacklevel=2)
    if not layers:
        text = f"accelerate: no nn.LSTM, nn.GRU or nn.RNN in {type(module).__name__}"
        warnings.warn(text, UserWarning, stacklevel=2)
    return module


def swap(layer: nn.RNNBase) -> None:
    """Make a layer bptt's; raise with the reason if that cannot be."""
    if isinstance(layer, Recurrent):
        return
    kind = _OURS.get(type(layer))
    if kind is None:
        raise TypeError(f"{type(layer).__name__} is derived from torch.nn's class")
    for name, parameter in layer.named_parameters():
        check_device(name, parameter.device)
        check_dtype(name, parameter.dtype)
    settings_of(kind, layer)  # raises before anything has changed
    layer.__class__ = kind
    assert isinstance(layer, Recurrent)
    layer._describe(**kind._OPTIONS)


def restore(module: Module) -> Module:
    """Make every layer of bptt's that torch.nn has too one of torch.nn's, in place: undo `accelerate`.

    Parameters
    ----------
    module : torch.nn.Module
        The model, which may itself be such a layer.

    Returns
    -------
    Module
        The same object.

    Warns
    -----
    UserWarning
        Once, if layers are left as they are because torch.nn has not their options.
    """
    left = []
    for name, layer in module.named_modules():
        kind = type(layer)
        if not isinstance(layer, Recurrent):
            continue
        if kind not in _THEIRS:
            left.append(f"{name or 'the module itself'} ({kind.__name__} is derived from bptt's class)")
        elif layer._settings != settings_of(kind, layer) or vars(layer).get("nonlinearity") == "identity":
            left.append(f"{name or 'the module itself'} (torch.nn has not all its options)")
        else:
            layer.__class__ = _THEIRS[kind]  # type: ignore[assignment]
            for attribute in (*kind._OPTIONS, "_settings", "_weight_names", "_draws", "_last"):
                del layer.__dict__[attribute]
    if left:
        warnings.warn(f"restore: left as they are: {'; '.join(left)}", UserWarning, stacklevel=2)
    return module


def settings_of(kind: type[Recurrent], layer: nn.RNNBase) -> str:
    """Return the settings of a layer as one of torch.nn's has them; raise if bptt has no such layer."""
    return settings_text(kind._KIND, **{name: getattr(layer, name) for name in kind._SHAPE}, **kind._OPTIONS)
