"""A stack of layers backward through time; parts and their arrays are those of `_forward`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _recompute
from ._check import Layout
from ._course import ALL_STEPS, in_order
from ._kept import Kept, Slopes, Wanted, at, new_slopes, new_steps
from ._program import Program, Room, cell_of
from ._threads import get_num_threads
from .parameters import Parameters, Weights, layer_weights

__all__ = ["backward"]

Array: TypeAlias = "NDArray[Any]"


def backward(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights],
    kept: Kept,
    d_output: Array | None,
    d_h_n: Array | None,
    d_c_n: Array | None,
    parameters: Parameters,
    wanted: Wanted,
) -> Slopes:
    """Backpropagate through every part, in blocks of steps if that is wanted; fills `parameters`.

    Returns
    -------
    Slopes
        Rows and steps as the user's.
    """
    course, D = kept.course, layout.directions
    T, B = kept.inputs[0].shape[:2]
    if not B:  # there is nothing to walk through, in blocks or not
        parameters.flat[...] = 0
        wanted = wanted._replace(truncate=None)
    if wanted.truncate is not None:
        every, depth = (min(k, T) for k in wanted.truncate)
        wanted = wanted._replace(truncate=None if depth == T == every else (every, depth))
    once = apart(core, kept, wanted)
    if once == T and D == 1 and not kept.masks and not kept.starts:
        errors = d_output, course.sorted(d_h_n), course.sorted(d_c_n)
        found = through_all(core, layout, weights, kept, errors, parameters, wanted)
    else:
        program = Program(core, layout)
        errors = course.moved(program, d_output), course.sorted(d_h_n), course.sorted(d_c_n)
        found = through_program(program, weights, kept, errors, parameters, wanted, once)
    if course is ALL_STEPS and (D == 1 or not (wanted.steps or wanted.norms)):
        return found
    return Slopes(
        found.x,
        course.unsorted(found.h_0),
        course.unsorted(found.c_0),
        in_order(found.hidden, D, course),
        in_order(found.cells, D, course),
        in_order(found.clipped, D, course),
        in_order(found.norms, D, course),
    )


def through_program(
    program: Program,
    weights: Sequence[Weights],
    kept: Kept,
    errors: tuple[Array | None, Array | None, Array | None],
    parameters: Parameters,
    wanted: Wanted,
    once: int,
) -> Slopes:
    """Go back through directions, layers and blocks of steps. Returns slopes, those of x as its rows came."""
    layout, T = program.layout, len(kept.inputs[0])
    if once < T:
        return through_blocks(program, weights, kept, *errors, parameters, wanted, once)
    found = new_slopes(layout, kept, T, wanted)
    add_layers(program, weights, kept, *errors, parameters, wanted, found, new_room(layout, kept, T))
    d_x = kept.course.moved(program, found.x, back=True)
    program.run()
    return found._replace(x=d_x)


def through_all(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights],
    kept: Kept,
    errors: tuple[Array | None, Array | None, Array | None],
    parameters: Parameters,
    wanted: Wanted,
) -> Slopes:
    """Go back through layers in one direction; the core makes most of what it fills."""
    course, steps = kept.course, new_steps(layout, kept, len(kept.inputs[0]), wanted)
    tape = kept.inputs[0], kept.h_0, kept.c_0, kept.hidden, kept.cells, kept.gates
    given = cell_of(core, layout.cell), get_num_threads(), weights, *tape, *errors, wanted.input
    if course is ALL_STEPS and not kept.seeds and wanted[:-1] == (False, False, None, None):
        d_x, d_h_0, d_c_0 = core.backward_layers(*given, parameters.flat)
    else:
        how = *course.of(0), kept.seeds, kept.first_step, wanted.step_clip, wanted.truncate
        d_x, d_h_0, d_c_0 = core.backward_layers(*given, parameters.flat, *how, *steps, course.order)
    return Slopes(d_x, d_h_0, d_c_0, *steps)


def apart(core: Any, kept: Kept, wanted: Wanted) -> int:
    """Return over how many steps, from the first on, one call of the core does all there is to do.

    A block whose errors flow back into the one before takes a call of its own, as all blocks do which are
    computed again.
    """
    T = len(kept.inputs[0])
    if wanted.truncate is None:
        return T
    every, depth = wanted.truncate
    if depth > every or kept.starts or not core.TRUNCATES:
        return 0
    rest = T % every
    return T if depth <= rest else T - rest


def new_room(layout: Layout, kept: Kept, steps: int) -> Room:
    """Return memory for what goes from layer to layer over so many steps."""
    B = kept.hidden.shape[2]
    return Room(steps * B * max(layout.input_size, layout.directions * layout.width), layout.dtype)


def through_blocks(
    program: Program,
    weights: Sequence[Weights],
    kept: Kept,
    d_output: Array | None,
    d_h_n: Array | None,
    d_c_n: Array | None,
    parameters: Parameters,
    wanted: Wanted,
    once: int,
) -> Slopes:
    """Truncated: errors injected in each block of k1 steps flow back k2 steps from its end.

    The blocks of the first `once` steps are walked by one call. Returns slopes, those of x as its rows came.
    """
    assert wanted.truncate is not None
    layout, core, (every, depth) = program.layout, program.core, wanted.truncate
    T, B = kept.inputs[0].shape[:2]
    last = np.full(B, T) if kept.course.lengths is None else kept.course.lengths
    inside = wanted._replace(steps=wanted.norms or wanted.steps, norms=False)  # norms are those of the sums
    total, block_parameters = new_slopes(layout, kept, T, inside), parameters.empty_like()
    total.between(once, T).clear()
    parameters.flat[...] = 0
    block, room = new_slopes(layout, kept, depth, inside), new_room(layout, kept, max(once, depth))
    restart = _recompute.Restart(program, weights, kept, depth) if kept.starts else None
    for start, end in itertools.pairwise([0, *range(once or every, T, every), T]):
        walked = end <= once
        begin = 0 if walked else max(0, end - depth)
        # Rows whose last step is in this block get the gradient of the last state here.
        ends_here = ((last > start) & (last <= end) | (last == 0) & (start == 0))[:, None]
        d_h, d_c = (
            np.where(ends_here, d, d.dtype.type(0)) if d is not None and ends_here.any() else None
            for d in (d_h_n, d_c_n)
        )
        errors = None if d_output is None else d_output[begin:end]
        if d_output is not None and begin < start:  # nothing is injected in the blocks before
            errors = room("injected", (end - begin, *d_output.shape[1:]))
            program.move(errors[: start - begin])
            program.move(errors[start - begin :], d_output[start:end])
        part = restart.between(begin, end) if restart else kept.between(begin, end)
        way = inside if walked else inside._replace(truncate=None)
        whole = start == begin == 0  # nothing has been added up yet
        found = total.between(0, end) if whole else block.between(0, end - begin)
        given = (errors, d_h, d_c, parameters if whole else block_parameters, way, found, room)
        add_layers(program, weights, part, *given)
        if not whole:
            program.move(parameters.flat[None, None], block_parameters.flat[None, None], add=True)
            add_slopes(program, total, found, begin, end)
    total = total._replace(x=kept.course.moved(program, total.x, back=True))
    program.run()
    if wanted.norms:
        of_hidden = core.row_norms(get_num_threads(), total.hidden)
        of_cells = (
            np.zeros_like(of_hidden)
            if total.cells is None
            else core.row_norms(get_num_threads(), total.cells)
        )
        total = total._replace(norms=np.stack((of_hidden, of_cells), -1))
    return total if wanted.steps else total._replace(hidden=None, cells=None)


def add_slopes(program: Program, total: Slopes, block: Slopes, begin: int, end: int) -> None:
    """Add what a block of steps [begin, end) gives; states only if that starts at the beginning."""
    if total.x is not None:
        program.move(total.x[begin:end], block.x, add=True)
    for name in ("hidden", "cells", "clipped"):
        whole, part = getattr(total, name), getattr(block, name)
        for n in range(0 if whole is None else len(whole)):
            if begin and name == "clipped":  # what was handed to a state that is no part of the block
                program.move(part[n, :1, :, :2])
            program.move(whole[n, begin:end], part[n], add=True)
    if begin == 0:
        program.move(total.h_0, block.h_0, add=True)
        if total.c_0 is not None:
            program.move(total.c_0, block.c_0, add=True)


def add_layers(
    program: Program,
    weights: Sequence[Weights],
    kept: Kept,
    d_output: Array | None,
    d_h_n: Array | None,
    d_c_n: Array | None,
    parameters: Parameters,
    wanted: Wanted,
    found: Slopes,
    room: Room,
) -> None:
    """Go back through every part over all kept steps, rows as they run. Fills `found` and `parameters`."""
    layout, course, (_, _, B, P) = program.layout, kept.course, kept.hidden.shape
    D, lengths = layout.directions, course.lengths
    d_weights = layer_weights(parameters, layout.layers, D)
    if not B:
        return

    def turned(array: Array, name: str) -> Array:
        """Return a sequence as the reverse direction meets it: read downwards if all rows are as long."""
        if lengths is None and not kept.starts:
            return array[::-1]
        to = room(name, array.shape)
        program.move(to, array, turned=True, lengths=lengths)
        return to

    for layer in reversed(range(layout.layers)):
        x = kept.inputs[layer]
        all_errors: list[Any] = [d_output] * D
        d_inputs: list[Any] = []
        calls: list[Any] = []
        if D == 2 and d_output is not None:
            all_errors = [d_output[..., :P], turned(d_output[..., P:], "errors")]
        for d in range(D):
            n = layer * D + d
            if layer == d == 0:
                d_x = found.x
            elif layer or wanted.input:
                # That of the first direction is the error of the layer below, read while the next is written.
                d_x = room(("d_x", d, 0 if d else layer % 2), x.shape)
            else:
                d_x = None
            d_inputs.append(d_x)
            a = turned(x, "x") if d else x
            errors = all_errors[d], at(d_h_n, n), at(d_c_n, n)
            if kept.starts:
                states, steps = (found.h_0[n], at(found.c_0, n)), (at(found.hidden, n), at(found.cells, n))
                counted = (at(found.clipped, n), at(found.norms, n))
                part = _recompute.part_of(program, weights, kept, n, a)
                starts, every = at(kept.starts.cells, n), kept.starts.every
                results = (d_x, states, d_weights[n], steps, wanted.step_clip, counted)
                _recompute.add_backward(program, part, kept.hidden[n], starts, every, errors, *results)
                continue
            calls.append(call_of(program, weights[n], kept, n, a, errors, d_weights[n], wanted, found, d_x))
        if calls:
            program.add(*calls)
        d_output = d_inputs[0]
        if D == 2 and d_output is not None:
            program.move(d_output, d_inputs[1], add=True, turned=True, lengths=lengths)
        if layer and kept.masks:
            assert d_output is not None
            program.move(d_output, d_output, scale=kept.masks[layer - 1])


def call_of(
    program: Program,
    weights: Weights,
    kept: Kept,
    n: int,
    x: Array,
    errors: tuple[Array | None, Array | None, Array | None],
    d_weights: Weights,
    wanted: Wanted,
    found: Slopes,
    d_x: Array | None,
) -> Any:
    """Return the call of part n, over its input as it meets that."""
    more: dict[str, Any] = {"step_clip": wanted.step_clip}
    if wanted.truncate:
        more["truncate"] = wanted.truncate
    if found.clipped is not None:
        more["clipped"] = found.clipped[n]
    if found.norms is not None:
        more["norms"] = found.norms[n]
    tape = x, at(kept.h_0, n), at(kept.c_0, n), kept.hidden[n], at(kept.cells, n), at(kept.gates, n)
    filled = d_x, found.h_0[n], at(found.c_0, n), d_weights, at(found.hidden, n), at(found.cells, n)
    rows = kept.course.of(n % program.layout.directions)
    return program.backward(weights, *tape, *errors, *filled, *rows, *kept.draws(n), **more)
