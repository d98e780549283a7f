"""Layers from Keras's files: ``.keras`` and ``.weights.h5``."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import _check
from .weights import CLASSES, Layer, from_weights, gates_of

__all__ = ["load"]

Array: TypeAlias = "NDArray[Any]"
Found: TypeAlias = "Iterator[tuple[str, str, Layer]]"  # name, place, layer


def load(path: str | os.PathLike[str]) -> dict[str, Layer]:
    """Return a layer for each LSTM, GRU, SimpleRNN and Bidirectional of one in a file of Keras.

    Parameters
    ----------
    path : str or os.PathLike
        A ``.keras`` file, or a ``.weights.h5`` file, which holds no configuration: its layers are taken to
        have Keras's defaults (give others to `from_weights`).

    Returns
    -------
    dict of str to LSTM, GRU, RNN or Reversed
        By the layer's name, or by its place in the file where it has no name or shares it. As `from_weights`.

    Raises
    ------
    TypeError
        If `path` is not a path.
    ValueError
        If the file is damaged, or a layer cannot be computed; the message names it.
    OSError
        If it cannot be read.
    ImportError
        If the package h5py is missing.

    Notes
    -----
    The file format of Keras 3, and of Keras 2.12 and later.
    """
    try:
        h5py = import_module("h5py")
    except ImportError as error:
        raise ImportError("bptt.keras.load needs the package h5py: pip install 'bptt[keras]'") from error
    name = _check.path("path", path)
    with open(name, "rb") as file:
        content = file.read()
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            return _from_archive(h5py, zipfile.ZipFile(io.BytesIO(content)))
        with h5py.File(io.BytesIO(content), "r") as weights:
            return _by_name(_in_weights(h5py, weights, len(content)))
    except (zipfile.BadZipFile, KeyError, TypeError, OSError, RuntimeError, RecursionError) as error:
        raise ValueError(f"{name}: not a file of Keras that can be read ({error})") from error
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _from_archive(h5py: Any, archive: zipfile.ZipFile) -> dict[str, Layer]:
    """Return the layers of a ``.keras`` file."""
    config, metadata = (json.loads(archive.read(name)) for name in ("config.json", "metadata.json"))
    if not isinstance(metadata, Mapping):
        raise ValueError(f"metadata.json: expected an object, got {type(metadata).__name__}")
    version = 2 if str(metadata.get("keras_version", 3)).startswith("2.") else 3
    content = archive.read("model.weights.h5")
    with h5py.File(io.BytesIO(content), "r") as weights:
        return _by_name(_in_config(h5py, weights, config, "", len(content), version))


def _in_config(h5py: Any, weights: Any, entry: Any, place: str, limit: int, version: int) -> Found:
    """Yield the layers of a configuration; in the file each container counts them by class."""
    if not isinstance(entry, Mapping) or not isinstance(entry.get("config"), Mapping):
        return
    kind, config = entry.get("class_name"), entry["config"]
    inner = config.get("layer")
    bidirectional = (
        kind == "Bidirectional" and isinstance(inner, Mapping) and inner.get("class_name") in CLASSES
    )
    if kind in CLASSES or bidirectional:
        name = str(config.get("name", place))
        parts = [f"{place}/forward_layer", f"{place}/backward_layer"] if bidirectional else [place]
        yield (
            name,
            place,
            _read(h5py, weights, str(kind), parts, limit, name, {**config, "keras_version": version}),
        )
    elif inner is not None:
        yield from _in_config(h5py, weights, inner, f"{place}/layer", limit, version)
    layers, counts = config.get("layers"), dict[str, int]()
    for child in layers if isinstance(layers, list) else []:
        words = _snake(str(child.get("class_name"))) if isinstance(child, Mapping) else ""
        number = counts[words] = counts.get(words, -1) + 1
        below = f"{place}/{_folder(weights, place)}/{words}{f'_{number}' if number else ''}"
        yield from _in_config(h5py, weights, child, below, limit, version)


def _folder(weights: Any, place: str) -> str:
    """Return the name of the group that holds a model's layers: Keras 2 has a longer one."""
    older = "_layer_checkpoint_dependencies"
    return older if f"{place}/{older}".strip("/") in weights else "layers"


def _snake(name: str) -> str:
    """Return the name that a class has in a file."""
    name = re.sub(r"\W+", "", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _in_weights(h5py: Any, group: Any, limit: int, place: str = "") -> Found:
    """Yield the layers of a file of weights, known by the shape of their group."""
    names = [key for key in group if _is_group(h5py, group, key)]
    if {"forward_layer", "backward_layer"} <= set(names):
        parts = [f"{place}/{name}" for name in ("forward_layer", "backward_layer")]
        if "cell/vars/0" in group["forward_layer"]:
            name = _own_name(group, place)
            yield name, place, _read(h5py, group.file, "Bidirectional", parts, limit, name, {})
        return
    if "cell" in names and "cell/vars/0" in group:
        kernels = _arrays(h5py, group.file, place, limit)
        kinds = {count: kind for kind, count in CLASSES.items()}
        name, kind = _own_name(group, place), kinds.get(gates_of(kernels))
        if kind is not None:
            yield name, place, _read(h5py, group.file, kind, [place], limit, name, {})
        return
    for key in names:
        yield from _in_weights(h5py, group[key], limit, f"{place}/{key}")


def _is_group(h5py: Any, group: Any, key: str) -> bool:
    """Whether `key` is a group of this very file: links to others are not followed."""
    return (
        isinstance(group.get(key, getlink=True), h5py.HardLink)
        and group.get(key, getclass=True) is h5py.Group
    )


def _own_name(group: Any, place: str) -> str:
    return str(group["vars"].attrs.get("name", place)) if "vars" in group else place


def _read(
    h5py: Any, weights: Any, kind: str, parts: list[str], limit: int, name: str, config: dict[str, Any]
) -> Layer:
    """Return the layer whose arrays stand in these groups."""
    try:
        arrays = [array for part in parts for array in _arrays(h5py, weights, part, limit)]
        return from_weights(kind, arrays, **config)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{name}: {error}") from error


def _arrays(h5py: Any, weights: Any, place: str, limit: int) -> list[Array]:
    """Return the arrays of a cell; what its file cannot hold is not read, nor what other files hold."""
    group, steps = weights, [*place.strip("/").split("/"), "cell", "vars"]
    for key in steps:
        if not _is_group(h5py, group, key):
            raise ValueError(f"{'/'.join(steps)}: not in the file of weights")
        group = group[key]
    found = []
    for key in sorted(group, key=int):
        linked = not isinstance(group.get(key, getlink=True), h5py.HardLink)
        data = None if linked else group[key]
        if data is None or data.external or data.is_virtual:
            raise ValueError(f"{place}: array {key} is a link, or stands in another file")
        if data.nbytes > limit:
            raise ValueError(f"{place}: array {key} of {data.nbytes} bytes in a file of {limit}")
        found.append(np.asarray(data[()]))
    return found


def _by_name(found: Found) -> dict[str, Layer]:
    """Return layers by name, or by place where a name is there already."""
    layers: dict[str, Layer] = {}
    for name, place, layer in found:
        layers[place.strip("/") if name in layers else name.strip("/")] = layer
    return layers
