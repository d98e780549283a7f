"""The passes of a layer as operators of PyTorch, with the shapes of their results and their derivative.

``torch.ops.bptt`` has ``infer``, ``forward``, which returns the tape beside its results, and ``backward``,
whose own derivative is refused. A result that does not exist is a tensor of no elements, as operators cannot
return None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._check import Layout
from . import arrays
from .plan import plan_of

__all__ = ["backward", "forward", "gradients", "infer", "keep", "kept"]

_LAYER = "Tensor x, Tensor? h_0, Tensor? c_0, Tensor[] weights"
_BACK = "int[] truncate, float[] step_clip"
_SPANS = "Tensor? lengths, Tensor? resets, str settings"
_ERRORS = "Tensor? d_output, Tensor? d_h_n, Tensor? d_c_n"
_TAPE = "Tensor output, Tensor hidden, Tensor cells, Tensor gates"


def operator(name: str, schema: str) -> Any:
    """Return a decorator that makes a function an operator without side effects on CPU tensors."""
    return torch.library.custom_op(f"bptt::{name}", mutates_args=(), device_types="cpu", schema=schema)


def whole(results: Sequence[Tensor | None], x: Tensor) -> tuple[Tensor, ...]:
    """Return a tensor of no elements, of the dtype of x, for each None."""
    return tuple(x.new_empty(0) if result is None else result for result in results)


@operator("infer", f"({_LAYER}, {_SPANS}) -> (Tensor, Tensor, Tensor)")  # type: ignore[untyped-decorator]
def infer(
    x: Tensor, h_0: Tensor | None, c_0: Tensor | None, weights: Sequence[Tensor], *spans: Any
) -> tuple[Tensor, ...]:
    """Return output, h_n and c_n, and keep nothing."""
    return whole(arrays.infer(x, h_0, c_0, arrays.ready(x, weights, *spans)), x)


@operator(  # type: ignore[untyped-decorator]
    "forward",
    f"({_LAYER}, Tensor[] masks, Tensor? seeds, {_SPANS}, {_BACK}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def forward(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: Sequence[Tensor],
    masks: Sequence[Tensor],
    seeds: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    settings: str,
    truncate: Sequence[int],
    step_clip: Sequence[float],
) -> tuple[Tensor, ...]:
    """`truncate` and `step_clip` are for the way back."""
    ready = arrays.ready(x, weights, lengths, resets, settings)
    return whole(arrays.forward(x, h_0, c_0, ready, masks, seeds), x)


@operator(  # type: ignore[untyped-decorator]
    "backward",
    f"({_ERRORS}, {_LAYER}, Tensor[] masks, Tensor? seeds, {_TAPE}, {_SPANS}, {_BACK}) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
)
def backward(*given: Any) -> tuple[Tensor, ...]:
    """Return the gradients of x, h_0, c_0, and those of the weights in one vector."""
    d_output, d_h_n, d_c_n, x, h_0, c_0, weights, *drawn_and_tape, lengths, resets, settings, k, clip = given
    ready = arrays.ready(x, weights, lengths, resets, settings)
    layer: Any = (x, h_0, c_0, ready, *drawn_and_tape)
    slopes, parameters = arrays.backward(d_output, d_h_n, d_c_n, *layer, k, clip)  # type: ignore[call-arg]
    gradients = slopes.x, slopes.h_0, slopes.c_0, parameters.flat
    return whole([arrays.tensor(gradient) for gradient in gradients], x)


def states_of(layout: Layout, B: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of h and c."""
    N, has_c = layout.parts, layout.has_cell_state
    return (N, B, layout.width), (N, B, layout.hidden_size) if has_c else (0,)


@infer.register_fake  # type: ignore[untyped-decorator]
def _infer_shapes(
    x: Tensor, h_0: Any, c_0: Any, weights: Any, lengths: Any, resets: Any, settings: str
) -> tuple[Tensor, ...]:
    T, B, _ = x.shape
    layout = plan_of(settings, x.dtype).layout
    h_n, c_n = states_of(layout, B)
    return x.new_empty(T, B, layout.directions * layout.width), x.new_empty(h_n), x.new_empty(c_n)


@forward.register_fake  # type: ignore[untyped-decorator]
def _forward_shapes(
    x: Tensor,
    h_0: Any,
    c_0: Any,
    weights: Any,
    masks: Any,
    seeds: Any,
    lengths: Any,
    resets: Any,
    settings: str,
    truncate: Any,
    step_clip: Any,
) -> tuple[Tensor, ...]:
    T, B, _ = x.shape
    layout = plan_of(settings, x.dtype).layout
    N, H = layout.parts, layout.hidden_size
    hidden = x.new_empty((N, T, B, layout.width) if N > 1 else 0)
    cells = x.new_empty((N, T, B, H) if layout.has_cell_state else 0)
    gates = x.new_empty((N, T, B, layout.saved, H) if layout.saved else 0)
    return *_infer_shapes(x, h_0, c_0, weights, lengths, resets, settings), hidden, cells, gates


@backward.register_fake  # type: ignore[untyped-decorator]
def _backward_shapes(d_output: Any, d_h_n: Any, d_c_n: Any, x: Tensor, *given: Any) -> tuple[Tensor, ...]:
    layout = plan_of(given[-3], x.dtype).layout
    states = (x.new_empty(state) for state in states_of(layout, x.shape[1]))
    return x.new_empty(x.shape), *states, x.new_empty(sum(weight.numel() for weight in given[2]))


def keep(ctx: Any, inputs: tuple[Any, ...], output: Sequence[Tensor | None]) -> None:
    """Save what the way back needs, as tensors: PyTorch frees them, and notices if anybody wrote to them."""
    x, h_0, c_0, weights, masks, seeds, lengths, resets, settings, truncate, step_clip = inputs
    outputs, _, _, *tape = output
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, h_0, c_0, outputs, *tape, seeds, lengths, resets, *weights, *masks)
    ctx.of_layer = settings, truncate, step_clip, len(weights)


def kept(ctx: Any) -> tuple[Any, ...]:
    """Return it as `backward` takes it."""
    settings, truncate, step_clip, count = ctx.of_layer
    x, h_0, c_0, output, hidden, cells, gates, seeds, lengths, resets, *rest = ctx.saved_tensors
    layer = x, h_0, c_0, rest[:count], rest[count:], seeds
    return *layer, output, hidden, cells, gates, lengths, resets, settings, truncate, step_clip


def gradients(errors: tuple[Any, ...], given: tuple[Any, ...]) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Return the gradients of x, h_0, c_0 and of each weight, by the operator."""
    x, weights, tape = given[0], given[3], given[6:10]
    d_x, d_h_0, d_c_0, flat = backward(*errors, *given[:6], *whole(tape, x), *given[10:])
    parts = flat.split([weight.numel() for weight in weights])
    return d_x, d_h_0, d_c_0, [part.view(w.shape) for part, w in zip(parts, weights, strict=True)]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    keep(ctx, inputs, output)
    ctx.mark_non_differentiable(*output[3:])


def _gradients(ctx: Any, d_output: Any, d_h_n: Any, d_c_n: Any, *_: None) -> tuple[Any, ...]:
    given = kept(ctx)
    *states, d_weights = gradients((d_output, d_h_n, d_c_n), given)
    wanted = zip(states, ctx.needs_input_grad, strict=False)
    d_x, d_h_0, d_c_0 = (d if needed else None for d, needed in wanted)
    return d_x, d_h_0, d_c_0, d_weights, [None] * len(given[4]), *[None] * 6


def _refuse_infer(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("bptt::infer: keeps nothing for a gradient; bptt::forward does")


def _refuse(ctx: Any, *_: Any) -> None:
    raise NotImplementedError("bptt.torch: second derivatives (a gradient of a gradient) are not supported")


forward.register_autograd(_gradients, setup_context=_setup)
backward.register_autograd(_refuse)
infer.register_autograd(_refuse_infer)
