"""An ONNX backend: LSTM, GRU and RNN nodes run on bptt, all others on ONNX's own evaluator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from numpy.typing import NDArray
from onnx.backend.base import Backend as Base
from onnx.backend.base import BackendRep, Device, DeviceType, namedtupledict
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from .node import Layer, layer_of, read_node
from .reader import opset_of, recurrent_nodes

__all__ = ["Backend", "Prepared"]


class _Recurrent(OpRun):
    """A node that a layer computes; the layer is kept while its weights are constants of the model."""

    op_domain = ""

    def __init__(self, onnx_node: onnx.NodeProto, run_params: dict[str, Any], schema: Any = None) -> None:
        super().__init__(onnx_node, run_params, schema)
        self._node = read_node(onnx_node, run_params["opsets"][""])
        self._kept: tuple[list[NDArray[Any]], Layer] | None = None

    def _run(
        self,
        X: NDArray[Any],
        W: NDArray[Any],
        R: NDArray[Any],
        B: NDArray[Any] | None = None,
        sequence_lens: NDArray[Any] | None = None,
        initial_h: NDArray[Any] | None = None,
        initial_c: NDArray[Any] | None = None,
        P: NDArray[Any] | None = None,
        **attributes: Any,
    ) -> tuple[NDArray[Any], ...]:
        layer, node = self._layer({"W": W, "R": R, "B": B, "P": P}), self._node
        if X.dtype != W.dtype:
            raise ValueError(f"X: expected {W.dtype} as W, got {X.dtype}")
        dtype = np.float64 if X.dtype == np.float64 else np.float32
        h, c = (None if a is None else self._state(a).astype(dtype) for a in (initial_h, initial_c))
        state: Any = (h, c) if node.operator == "LSTM" else h
        output, states = layer(X.astype(dtype, copy=False), state, lengths=sequence_lens)
        y = output.reshape(*output.shape[:2], node.directions, R.shape[2])
        y = y if node.batch_first else y.transpose(0, 2, 1, 3)
        results = (y, *map(self._state, states if node.operator == "LSTM" else (states,)))
        return tuple(np.ascontiguousarray(a, X.dtype) for a in results)[: len(self.onnx_node.output)]

    def _state(self, array: NDArray[Any]) -> NDArray[Any]:
        """Turn a state between ONNX's axes and bptt's: with layout 1 the batch comes first there."""
        return array.swapaxes(0, 1) if self._node.batch_first else array

    def _layer(self, weights: Mapping[str, NDArray[Any] | None]) -> Layer:
        arrays = [array for array in weights.values() if array is not None]
        if self._kept and list(map(id, arrays)) == list(map(id, self._kept[0])):
            return self._kept[1]
        layer = layer_of(self._node, {name: array for name, array in weights.items() if array is not None})
        self._kept = None if any(array.flags.writeable for array in arrays) else (arrays, layer)
        return layer


class LSTM(_Recurrent):
    """ONNX's LSTM."""


class GRU(_Recurrent):
    """ONNX's GRU."""


class RNN(_Recurrent):
    """ONNX's RNN."""


class Prepared(BackendRep):
    """A model that is ready to run; made by `Backend.prepare`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._evaluator = ReferenceEvaluator(model, new_ops=[LSTM, GRU, RNN])
        for array in self._evaluator.rt_inits_.values():
            if isinstance(array, np.ndarray):
                array.flags.writeable = False
        inside = {tensor.name for tensor in model.graph.initializer}
        self._inputs = [value.name for value in model.graph.input]
        self._needed = [name for name in self._inputs if name not in inside]

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Run the model.

        Parameters
        ----------
        inputs : sequence or mapping of array_like
            In the order of the model's inputs (all, or those that are not initializers), or by name.

        Returns
        -------
        named tuple of ndarray
            The model's outputs.

        Raises
        ------
        ValueError
            If there are too few or too many inputs, or the arrays do not fit the model.
        """
        if not isinstance(inputs, (Mapping, Sequence)):
            inputs = [inputs]
        if isinstance(inputs, Mapping):
            given = dict(inputs)
        elif len(inputs) in (len(self._inputs), len(self._needed)):
            names = self._inputs if len(inputs) == len(self._inputs) else self._needed
            given = dict(zip(names, inputs, strict=True))
        else:
            raise ValueError(f"inputs: expected {', '.join(self._needed)}, got {len(inputs)} of them")
        arrays = {name: np.asarray(array) for name, array in given.items()}
        names = list(self._evaluator.output_names)
        outputs: tuple[Any, ...] = namedtupledict("Outputs", names)(*self._evaluator.run(None, arrays))
        return outputs


class Backend(Base):
    """``bptt.onnx.backend``: runs models whose LSTM, GRU and RNN nodes are bptt's layers.

    All other nodes run on ONNX's reference evaluator, which is made to be right rather than fast: take the
    layers out by `load` where speed counts.

    Examples
    --------
    >>> import numpy as np, onnx, bptt, bptt.onnx
    >>> node = onnx.helper.make_node("RNN", ["X", "W", "R"], ["Y"], hidden_size=1)
    >>> ones = np.ones((1, 1, 1), np.float32)
    >>> round(bptt.onnx.backend.run_node(node, [ones, ones, ones]).Y.item(), 4)
    0.7616
    """

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether this is the CPU."""
        return bool(Device(device).type == DeviceType.CPU)

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Return whether a model has LSTM, GRU or RNN nodes, and all of them can be computed."""
        try:
            opset, nodes = opset_of(model), [node for node, _ in recurrent_nodes(model)]
            for node in nodes:
                read_node(node, opset)
        except ValueError:
            return False
        return bool(nodes) and cls.supports_device(device)

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Prepared:
        """Check a model and make it ready to run.

        Raises
        ------
        ValueError
            If it is malformed, a recurrent node cannot be computed, or `device` is not the CPU.
        """
        if not cls.supports_device(device):
            raise ValueError(f"device: expected CPU, got {device}")
        try:
            super().prepare(model, device, **kwargs)
            model = onnx.inliner.inline_local_functions(model) if model.functions else model
        except (onnx.checker.ValidationError, RuntimeError) as error:
            raise ValueError(f"model: {error}") from error
        return Prepared(model)

    @classmethod
    def run_node(
        cls,
        node: onnx.NodeProto,
        inputs: Any,
        device: str = "CPU",
        outputs_info: Any = None,
        **kwargs: Any,
    ) -> tuple[Any, ...]:
        """Run one node; `inputs` are those that it names, in order. ``opset_version``: 22 by default."""
        opset = kwargs.get("opset_version", 22)
        arrays = [np.asarray(array) for array in inputs]
        names = [name for name in node.input if name]
        if len(arrays) != len(names):
            raise ValueError(f"inputs: expected {', '.join(names)}, got {len(arrays)} of them")
        helper = onnx.helper
        given = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape)
            for name, a in zip(names, arrays, strict=True)
        ]
        made = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "node", given, made)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
        return Prepared(model).run(arrays)
