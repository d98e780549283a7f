"""A layer's forward and backward pass on tensors: their memory is what the kernels read and write.

Tensors are of one dtype, on the CPU; sequences are (T, B, ...). A result that does not exist (the cell state
of a GRU) is None.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import torch
from numpy.typing import NDArray

from .. import _backend, _backward, _course, _forward
from .._check import contiguous
from .._course import ALL_STEPS, Course
from .._kept import Kept, Slopes, Wanted
from ..parameters import Parameters, Weights
from .plan import Plan, plan_of

__all__ = ["Ready", "backward", "forward", "infer", "ready"]

Array: TypeAlias = "NDArray[Any]"
Tensor = torch.Tensor


class Ready(NamedTuple):
    """What both ways of a step run on beside its tensors: the layer, its weights, how rows go through time.

    Made once for both where it can be: after the kernels every line of Python starts from cold caches, and
    making it costs 3 us warm and 15 cold. It holds the weights, lengths and resets, and nothing of the
    tape, which PyTorch frees when it likes.
    """

    plan: Plan
    parts: list[Weights]
    course: Course


def ready(
    x: Tensor, weights: Sequence[Tensor], lengths: Tensor | None, resets: Tensor | None, settings: str
) -> Ready:
    """Return what both ways run on, after a check of lengths and resets."""
    plan = plan_of(settings, x.dtype)
    arrays = [*map(array, weights), None]
    course = ALL_STEPS
    if lengths is not None or resets is not None:
        course = _course.course_of(plan.layout, lengths, resets, x.shape[0], x.shape[1], True)
    return Ready(plan, [pick(arrays) for pick in plan.parts], course)


def infer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    ready: Ready,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return output (T, B, D*H), h_n and c_n (L*D, B, H), and keep nothing."""
    plan, parts, course = ready
    given = array(x), array(h_0), array(c_0)
    output, h_n, c_n = _forward.infer(_backend.core(), plan.layout, parts, None, *given, course)
    return torch.from_numpy(output), torch.from_numpy(h_n), tensor(c_n)


def forward(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    ready: Ready,
    masks: Sequence[Tensor],
    seeds: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None, Tensor | None]:
    """Return output, h_n, c_n as `infer`; hidden, cells (L*D, T, B, H) and gates (L*D, T, B, 4, H), the tape.

    The hidden states of a layer of one part are its output, and not returned twice.
    """
    plan, parts, course = ready
    given = array(x), array(h_0), array(c_0)
    drawn = draws_of(masks, seeds, course)
    output, h_n, c_n, kept = _forward.forward(_backend.core(), plan.layout, parts, *given, *drawn, course)
    hidden = None
    if plan.layout.parts > 1:
        hidden = kept.hidden
        if plan.layout.directions == 1 and course.order is None:
            output = output.copy()  # it is the last of `hidden`, and no result may be a view of another
    tape = tensor(hidden), tensor(kept.cells), tensor(kept.gates)
    return torch.from_numpy(output), torch.from_numpy(h_n), tensor(c_n), *tape


def backward(
    d_output: Tensor | None,
    d_h_n: Tensor | None,
    d_c_n: Tensor | None,
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    ready: Ready,
    masks: Sequence[Tensor],
    seeds: Tensor | None,
    output: Tensor,
    hidden: Tensor | None,
    cells: Tensor | None,
    gates: Tensor | None,
    truncate: Sequence[int],
    step_clip: Sequence[float],
    wants_x: bool = True,
) -> tuple[Slopes, Parameters]:
    """Return the gradients of x, if wanted, h_0, c_0 and the weights, from what `forward` took and returned.

    Of hidden, cells and gates only those that there are for the layer are read.
    """
    plan, parts, course = ready
    layout = plan.layout
    drawn = draws_of(masks, seeds, course)
    first, h, c = course.sorted(array(x)), course.sorted(array(h_0)), course.sorted(array(c_0))
    steps = course.sorted(array(output))[None] if layout.parts == 1 else array(hidden)
    assert steps is not None
    has_c, saved = layout.has_cell_state, array(gates) if layout.saved else None
    core = _backend.core()
    inputs = _forward.inputs_of(core, layout, first, steps, drawn[0], course)
    kept = Kept(inputs, h, c, steps, array(cells) if has_c else None, saved, *drawn, course)
    errors = array(d_output), array(d_h_n), array(d_c_n) if has_c else None
    parameters = plan.parameters.empty_like()
    blocks = (truncate[0], truncate[1]) if truncate[0] else None
    bounds = (step_clip[0], step_clip[1], step_clip[2]) if step_clip[0] >= 0 else None
    wanted = Wanted(truncate=blocks, step_clip=bounds, input=wants_x)
    return _backward.backward(core, layout, parts, kept, *errors, parameters, wanted), parameters


@overload
def array(value: Tensor) -> Array: ...
@overload
def array(value: Tensor | None) -> Array | None: ...
def array(value: Tensor | None) -> Array | None:
    """Return the memory of a tensor, or a contiguous copy."""
    if value is None:
        return None
    memory: Array = (value.detach() if value.requires_grad else value).numpy()
    return memory if value.is_contiguous() else contiguous(memory, memory.dtype)


def tensor(value: Array | None) -> Tensor | None:
    """Return a tensor over the memory of an array."""
    return None if value is None else torch.from_numpy(value)


def draws_of(masks: Sequence[Tensor], seeds: Tensor | None, course: Course) -> tuple[list[Array], list[int]]:
    """Return masks, rows as they run, and the seed of each part."""
    sorted_ = [course.sorted(array(mask)) for mask in masks] if masks else []
    return sorted_, [] if seeds is None else seeds.tolist()
