"""A layer's forward and backward pass on tensors: their memory is what the kernels read and write.

Tensors are of one dtype, on the CPU; sequences are (T, B, ...). A result that does not exist (the cell state
of a GRU) is None.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, overload

import torch
from numpy.typing import NDArray

from .. import _backend, _backward, _course, _forward
from .._check import contiguous
from .._course import ALL_STEPS, Course
from .._kept import Kept, Slopes, Wanted
from .._memory import array_at
from .._program import Program
from ..parameters import Parameters, Weights
from .plan import Plan, plan_of

__all__ = ["Last", "Ready", "backward", "forward", "infer", "ready"]

Array: TypeAlias = "NDArray[Any]"
Tensor = torch.Tensor

ALL, ALL_BUT_INPUT = Wanted(), Wanted(input=False)
DOUBLE = {torch.float32: False, torch.float64: True}


class Ready(NamedTuple):
    """What both ways of a step run on beside its tensors: the layer, its weights, how rows go through time.

    Made once for both where it can be: after the kernels every line of Python starts from cold caches, and
    making it costs 3 us warm and 15 cold. It holds the weights, lengths and resets, and nothing of the
    tape, which PyTorch frees when it likes.
    """

    plan: Plan
    parts: list[Weights]
    course: Course
    held: list[Tensor]
    addresses: list[int]

    def stands(self) -> bool:
        """Whether the weights are where the arrays look for them: `share_memory` moves even what is held."""
        return all(map(operator.eq, map(Tensor.data_ptr, self.held), self.addresses))


class Last:
    """What a module ran on the last time without lengths and resets.

    It serves again while the weights lie where they lay, as they lay: they are held, so that no other tensor
    can have come to be there. Neither copied nor saved.
    """

    __slots__ = ("_given",)

    def __init__(self) -> None:
        self._given: tuple[Ready, str] | None = None

    def __reduce__(self) -> Any:
        return Last, ()

    def get(self, weights: Sequence[Tensor], settings: str) -> Ready | None:
        """Return it if it serves for these."""
        if self._given is None or self._given[1] != settings:
            return None
        ready = self._given[0]
        for weight, held, address in zip(weights, ready.held, ready.addresses, strict=True):
            same = weight.data_ptr() == address and weight.shape == held.shape and weight.dtype == held.dtype
            if not same or not weight.is_contiguous() or weight.is_neg():
                return None
        return ready if ready.stands() else None

    def put(self, ready: Ready, arrays: Sequence[Array], settings: str) -> None:
        """Take it, unless an array is a copy of its weight."""
        if all(array.ctypes.data == at for array, at in zip(arrays, ready.addresses, strict=True)):
            self._given = ready, settings


def ready(
    x: Tensor,
    weights: Sequence[Tensor],
    lengths: Tensor | None,
    resets: Tensor | None,
    settings: str,
    last: Last | None = None,
) -> Ready:
    """Return what both ways run on, lengths and resets checked; what `last` holds, if that serves."""
    all_steps = lengths is None and resets is None
    if last is not None and all_steps:
        found = last.get(weights, settings)
        if found is not None:
            return found
    plan = plan_of(settings, x.dtype)
    held = [weight.detach() for weight in weights]
    arrays = [memory(weight) for weight in held]
    course = ALL_STEPS
    if not all_steps:
        course = _course.course_of(plan.layout, lengths, resets, x.shape[0], x.shape[1], True)
    parts = [pick([*arrays, None]) for pick in plan.parts]
    made = Ready(plan, parts, course, held, [weight.data_ptr() for weight in held])
    if last is not None and all_steps:
        last.put(made, arrays, settings)
    return made


def infer(
    x: Tensor,
    h_0: Tensor | None,
    c_0: Tensor | None,
    ready: Ready,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return output (T, B, D*H), h_n and c_n (L*D, B, H), and keep nothing."""
    plan, parts, course = ready[:3]
    given = memory(x), memory(h_0), memory(c_0)
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
    plan, parts, course = ready[:3]
    given = memory(x), memory(h_0), memory(c_0)
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
    plan, parts, course = ready[:3]
    layout = plan.layout
    drawn = draws_of(masks, seeds, course)
    core = _backend.core()
    program, h, c = Program(core, layout), course.sorted(memory(h_0)), course.sorted(memory(c_0))
    first = course.moved(program, memory(x))
    steps = course.moved(program, memory(output))[None] if layout.parts == 1 else memory(hidden)
    program.run()
    assert steps is not None
    has_c, saved = layout.has_cell_state, memory(gates) if layout.saved else None
    inputs = _forward.inputs_of(core, layout, first, steps, drawn[0], course)
    kept = Kept(inputs, h, c, steps, memory(cells) if has_c else None, saved, *drawn, course)
    errors = memory(d_output), memory(d_h_n), memory(d_c_n) if has_c else None
    parameters = plan.parameters.empty_like()
    if truncate[0] or step_clip[0] >= 0:
        blocks = (truncate[0], truncate[1]) if truncate[0] else None
        bounds = (step_clip[0], step_clip[1], step_clip[2]) if step_clip[0] >= 0 else None
        wanted = Wanted(truncate=blocks, step_clip=bounds, input=wants_x)
    else:
        wanted = ALL if wants_x else ALL_BUT_INPUT
    return _backward.backward(core, layout, parts, kept, *errors, parameters, wanted), parameters


@overload
def memory(value: Tensor) -> Array: ...
@overload
def memory(value: Tensor | None) -> Array | None: ...
def memory(value: Tensor | None) -> Array | None:
    """Return the memory of a tensor, or a contiguous copy.

    It has no hold on the memory if the tensor is given another: for the time of a call, or of a tensor that
    is nobody else's.
    """
    if value is None:
        return None
    double = DOUBLE.get(value.dtype)
    if double is None or not value.is_contiguous() or not value.is_cpu or value.is_neg():
        found: Array = value.detach().resolve_neg().numpy()
        return contiguous(found, found.dtype)
    return array_at(value.data_ptr(), value.shape, double, value)


def tensor(value: Array | None) -> Tensor | None:
    """Return a tensor over the memory of an array."""
    return None if value is None else torch.from_numpy(value)


def draws_of(masks: Sequence[Tensor], seeds: Tensor | None, course: Course) -> tuple[list[Array], list[int]]:
    """Return masks, rows as they run, and the seed of each part."""
    sorted_ = [course.sorted(memory(mask)) for mask in masks] if masks else []
    return sorted_, [] if seeds is None else seeds.tolist()
