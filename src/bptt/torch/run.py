"""One call of a layer: through the operators where PyTorch must see them, else by the shortest way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from . import arrays, operators

__all__ = ["run"]


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
    layer, spans = (x, h_0, c_0, weights), (masks, seeds, lengths, resets, settings)
    recorded = torch.is_grad_enabled() and requires_grad(x, h_0, c_0, *weights)
    results: Any
    if plain(x):
        if recorded:
            return Recorded.apply((*spans, truncate, step_clip), x, h_0, c_0, *weights)  # type: ignore[no-untyped-call,no-any-return]
        if masks or seeds is not None:
            return arrays.forward(*layer, *spans)[:3]
        return arrays.infer(*layer, lengths, resets, settings)
    if recorded or masks or seeds is not None:
        results = operators.forward(*layer, *spans, truncate, step_clip)
    else:
        results = operators.infer(*layer, lengths, resets, settings)
    output, h_n, c_n = results[:3]
    return output, h_n, c_n if c_n.dim() == 3 else None


def requires_grad(*tensors: Tensor | None) -> bool:
    """Whether any of the tensors requires a gradient."""
    for tensor in tensors:  # any() makes a generator first
        if tensor is not None and tensor.requires_grad:
            return True
    return False


def plain(x: Tensor) -> bool:
    """Whether a tensor is just memory, and nobody else has to see what is done with it.

    An operator that is written in Python costs 0.1 ms and more in a training step, as much as the arithmetic
    of a small layer.
    """
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.is_cpu
        and not torch.compiler.is_compiling()
        and not torch._C._len_torch_dispatch_stack()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


class Recorded(torch.autograd.Function):
    """The passes for eager autograd."""

    @staticmethod
    def forward(
        ctx: Any, spans: tuple[Any, ...], x: Tensor, h_0: Tensor | None, c_0: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Run forward and save what `operators.kept` returns; `spans` are what `run` takes after the weights."""
        given = x, h_0, c_0, weights, *spans
        results = arrays.forward(*given[:-2])
        operators.keep(ctx, given, results)
        return results[:3]

    @staticmethod
    def backward(ctx: Any, *errors: Any) -> tuple[Any, ...]:
        """Return the gradients; they cannot be differentiated again, which the operator says in time."""
        given = operators.kept(ctx)
        if torch.is_grad_enabled():
            *states, weights = operators.gradients(errors, given)
        else:
            slopes, parameters = arrays.backward(*errors, *given)
            states = [arrays.tensor(d) for d in slopes[:3]]
            weights = [torch.from_numpy(part) for part in parameters.values()]
        wanted = zip(states, ctx.needs_input_grad[1:], strict=False)
        return None, *[d if needed else None for d, needed in wanted], *weights
