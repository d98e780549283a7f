"""Layers in safetensors files: parameters under torch's names, the settings as JSON in the metadata."""

from __future__ import annotations

import os
from typing import Any

from . import _check
from ._files import write
from .layers import GRU, LSTM, RNN
from .parameters import Parameters
from .recurrent import Recurrent

__all__ = ["load", "save"]

VERSION = 1  # of what stands under KEY in the metadata
KEY = "bptt"
CLASSES: dict[str, type[Recurrent]] = {kind.__name__: kind for kind in (LSTM, GRU, RNN)}
DTYPES = {"F32": "float32", "F64": "float64"}


def save(layer: Recurrent, path: str | os.PathLike[str]) -> None:
    """Write a layer to a safetensors file, which appears whole or not at all.

    The tensors have the names, shapes and dtype of ``layer.parameters``, which are those of ``torch.nn``. The
    class and the settings stand as JSON under the key "bptt" of the file's metadata.

    Parameters
    ----------
    layer : LSTM, GRU or RNN
    path : str or os.PathLike
        Replaced if it is there.

    Raises
    ------
    TypeError
        If `layer` is not a layer, or `path` not a path.
    ImportError
        If the package safetensors is missing.

    Examples
    --------
    >>> import os, tempfile, numpy as np, bptt
    >>> layer = bptt.LSTM(3, 4, peephole=True, seed=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "layer.safetensors")
    ...     bptt.save(layer, path)
    ...     twin = bptt.load(path)
    >>> twin, np.array_equal(twin.parameters.flat, layer.parameters.flat)
    (LSTM(3, 4, peephole=True), True)
    """
    kind = type(layer).__name__
    if CLASSES.get(kind) is not type(layer):
        raise TypeError(f"layer: expected a layer of bptt ({', '.join(CLASSES)}), got {kind}")
    import json  # here and below: it would be a third of the time that importing bptt takes

    name = _check.path("path", path)
    library = _library("bptt.save").numpy
    settings = layer.settings | {"dtype": layer.dtype.name}
    configuration = json.dumps({"version": VERSION, "class": kind, "settings": settings})
    write(name, library.save(dict(layer.parameters), metadata={KEY: configuration}))


def load(path: str | os.PathLike[str]) -> Recurrent:
    """Return the layer that `save` wrote.

    Nothing in the file is trusted: the tensors' names, shapes and dtype have to be those that the settings
    ask for before memory is taken. Values may be anything, NaN too.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    LSTM, GRU or RNN
        With the same settings and the same bits.

    Raises
    ------
    TypeError
        If `path` is not a path.
    ValueError
        If the file is damaged, was not written by `save`, or does not fit together; the message says how.
    OSError
        If it cannot be read.
    ImportError
        If the package safetensors is missing.

    Examples
    --------
    >>> import bptt
    >>> try:
    ...     bptt.load("no such file")
    ... except FileNotFoundError as error:
    ...     print(error.filename)
    no such file
    """
    name = _check.path("path", path)
    library = _library("bptt.load")
    with open(name, "rb"):  # for the error of the system rather than of the library
        pass
    try:
        with library.safe_open(name, framework="numpy") as file:
            return _read(file)
    except (library.SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: {error}") from error


def _read(file: Any) -> Recurrent:
    kind, given = _configuration(file.metadata())
    tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    settings = kind._checked(given)
    if settings["num_layers"] > len(tensors):  # before names are made for each of them
        raise ValueError(f"num_layers: {settings['num_layers']} layers in {len(tensors)} tensors")
    shapes, dtype = kind._shapes(settings), settings["dtype"]
    _check.names("tensors", tensors, shapes)
    for name, expected in shapes.items():
        _check.shape(name, tuple(tensors[name].get_shape()), "of the settings", expected)
        if DTYPES.get(tensors[name].get_dtype()) != dtype.name:
            raise ValueError(f"{name}: expected {dtype}, got {tensors[name].get_dtype()}")
    parameters = Parameters(shapes, dtype)
    for name, view in parameters.items():
        view[...] = file.get_tensor(name)
    return kind._of(settings, parameters)


def _configuration(metadata: dict[str, str] | None) -> tuple[type[Recurrent], dict[str, Any]]:
    """Return the class and the settings in the metadata; settings that are not there have their defaults."""
    if KEY not in (metadata or {}):
        raise ValueError(
            f"metadata: no entry {KEY!r}, so bptt.save did not write this file (where it has tensors alone, "
            "make a layer and call its load_state_dict(safetensors.numpy.load_file(path)))"
        )
    assert metadata is not None
    import json

    try:
        found = json.loads(metadata[KEY])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"metadata {KEY!r}: not JSON ({type(error).__name__}: {error})") from None
    if not isinstance(found, dict) or not isinstance(found.get("settings"), dict):
        raise ValueError(f"metadata {KEY!r}: expected version, class and settings, got {_short(found)}")
    if type(found.get("version")) is not int or found["version"] != VERSION:
        raise ValueError(f"version: expected {VERSION}, got {_short(found.get('version'))}")
    kind = CLASSES.get(found["class"]) if isinstance(found.get("class"), str) else None
    if kind is None:
        raise ValueError(f"class: expected one of {', '.join(CLASSES)}, got {_short(found.get('class'))}")
    given = {**kind._DEFAULTS, **found["settings"]}
    _check.names("settings", given, kind._setting_names())
    if found["settings"].get("dtype") not in DTYPES.values():
        raise ValueError(f"dtype: expected one of {', '.join(DTYPES.values())}, got {_short(given['dtype'])}")
    return kind, given


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _library(what: str) -> Any:
    try:
        import safetensors.numpy
    except ImportError as error:
        raise ImportError(f"{what} needs the package safetensors: pip install 'bptt[safetensors]'") from error
    return safetensors
