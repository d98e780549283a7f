"""One call of a layer: through the operators where PyTorch must see them, else by the shortest way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import arrays, operators

__all__ = ["run"]

PLAIN = (Tensor, torch.nn.Parameter)


def run(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    weights: list[Tensor],
    masks: list[Tensor],
    seeds: Tensor | None,
    lengths: Tensor | None,
    resets: Tensor | None,
    settings: str,
    truncate: list[int],
    step_clip: list[float],
    last: arrays.Last | None = None,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Run a layer; differentiable if autograd records and anything that the layer takes requires a gradient.

    Parameters
    ----------
    x : Tensor, (T, B, I)
        Of float32 or float64, as are all the others.
    h_0, c_0 : Tensor, (L*D, B, H), or None
    weights : list of Tensor
        In the order of ``Plan.shapes``.
    masks : list of Tensor, (T, B, D*H)
        What the input of layers 1, 2, .. is multiplied by; empty without dropout.
    seeds : Tensor of int64, (L*D,), or None
        What recurrent dropout and zoneout of each part draw from.
    lengths, resets : Tensor, (B,) of integers and (T, B) of bool, or None
    settings : str
        From `settings_text`.
    truncate : list of int
        k1 and k2 of truncated backpropagation through time; zeros: not truncated.
    step_clip : list of float
        Bounds of hidden, cell and gates inside the backward recursion; -1 for each: not clipped.
    last : Last, optional
        Of the module whose weights these are.

    Returns
    -------
    output : Tensor, (T, B, D*H)
    h_n, c_n : Tensor, (L*D, B, H)
        c_n is None where there is no cell state.

    Raises
    ------
    NotImplementedError
        Under a transform of ``torch.func``.
    """
    if torch._C._are_functorch_transforms_active():
        raise NotImplementedError(
            "bptt.torch: the transforms of torch.func are not supported; functional_call and autograd are"
        )
    tensors, back = (x, h_0, c_0, *weights), (truncate, step_clip)
    recorded = torch.is_grad_enabled() and (
        x.requires_grad or any(t is not None and t.requires_grad for t in tensors)
    )
    spans: Any = masks, seeds, lengths, resets, settings
    results: Any
    if plain(x):
        if recorded:
            results = Recorded.apply((*spans, *back), last, *tensors)  # type: ignore[no-untyped-call]
        else:
            ready = arrays.ready(x, weights, lengths, resets, settings, last)
            if masks or seeds is not None:
                results = arrays.forward(x, h_0, c_0, ready, masks, seeds)
            else:
                results = arrays.infer(x, h_0, c_0, ready)
        output, h_n, c_n = results[:3]
        return output, h_n, c_n
    if recorded or masks or seeds is not None:
        results = operators.forward(x, h_0, c_0, weights, *spans, *back)
    else:
        results = operators.infer(x, h_0, c_0, weights, *spans[2:])
    output, h_n, c_n = results[:3]
    return output, h_n, c_n if c_n.dim() == 3 else None


def plain(x: Tensor) -> bool:
    """Whether a tensor is just memory, and nobody else has to see what is done with it.

    An operator that is written in Python costs 0.1 ms and more in a training step, as much as the arithmetic
    of a small layer.
    """
    return (
        type(x) in PLAIN
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


class Recorded(torch.autograd.Function):
    """The passes for eager autograd."""

    @staticmethod
    def forward(
        ctx: Any, spans: Any, last: Any, x: Tensor, h_0: Tensor | None, c_0: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run forward and save what `operators.kept` returns; spans: what `run` takes after the weights."""
        masks, seeds, lengths, resets, settings, *_ = spans
        ctx.ready = arrays.ready(x, weights, lengths, resets, settings, last)
        results = arrays.forward(x, h_0, c_0, ctx.ready, masks, seeds)
        operators.keep(ctx, (x, h_0, c_0, weights, *spans), results)
        return results[:3]

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> tuple[Any, ...]:
        """Return the gradients; they cannot be differentiated again, which the operator says in time."""
        given: Any = operators.kept(ctx)
        _, _, of_x, of_h, of_c, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled():
            d_x, d_h_0, d_c_0, weights = operators.gradients(errors, given)
            of_states = d_h_0 if of_h else None, d_c_0 if of_c else None
            return None, None, d_x if of_x else None, *of_states, *weights
        x, h_0, c_0, kept_weights, *drawn_and_tape, lengths, resets, settings, truncate, step_clip = given
        ready = ctx.ready
        if not ready.stands():
            ready = arrays.ready(x, kept_weights, lengths, resets, settings)
        layer: Any = (x, h_0, c_0, ready, *drawn_and_tape)
        slopes, parameters = arrays.backward(*errors, *layer, truncate, step_clip, of_x)  # type: ignore[call-arg]
        states = slopes.h_0 if of_h else None, slopes.c_0 if of_c else None
        weights = [torch.from_numpy(part) for part in parameters.values()]
        return None, None, *map(arrays.tensor, (slopes.x, *states)), *weights
