"""A stack of layers, each in one or two directions: which call of the core gets which arrays.

Part n = l * D + d is direction d of layer l. The reverse direction runs forward over a sequence that is
turned round, so its arrays are in the order in which it meets the steps. Rows of unequal length run longest
first.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _recompute, _waves
from ._check import Layout, contiguous
from ._course import ALL_STEPS, Course, cut, in_order
from ._kept import Kept, Slopes, Wanted
from ._memory import empty
from ._recompute import Part, Starts
from ._threads import get_num_threads
from ._waves import Pieces
from .parameters import Parameters, Weights, layer_weights

__all__ = ["backward", "cell_of", "draw", "forward", "infer", "inputs_of"]

Array: TypeAlias = "NDArray[Any]"


def infer(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights] | None,
    packs: Sequence[Any] | None,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    course: Course,
) -> tuple[Array, Array, Array | None]:
    """Run every part and keep nothing but the result.

    Parameters
    ----------
    core : module
        ``bptt._core`` or its twin.
    layout : Layout
    weights, packs : sequence
        For each part its weights as the kernels take them, or what ``core.pack`` made of them; the other is
        None.
    x : ndarray, (T, B, I)
    h_0, c_0 : ndarray, (L*D, B, P) and (L*D, B, H), or None
        P is H but for a projection, here and everywhere.
    course : Course

    Returns
    -------
    output : ndarray, (T, B, D*P)
    h_n, c_n : ndarray, (L*D, B, P) and (L*D, B, H)
        Of h alone where there is no cell state: None then for c, here and everywhere.
    """
    sorted_ = course.sorted(x), course.sorted(h_0), course.sorted(c_0)
    return through_parts(core, layout, weights, packs, *sorted_, course, None)


def forward(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights],
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    masks: list[Array],
    seeds: list[int],
    course: Course,
    recompute: int | None = None,
) -> tuple[Array, Array, Array | None, Kept]:
    """Run every part and keep what `backward` needs. Returns output, h_n, c_n as `infer`, and that.

    With `recompute` only the output is kept, and the cell states before blocks of so many steps.
    """
    N, T, B, H = layout.parts, *x.shape[:2], layout.hidden_size
    dtype, saved, has_c = layout.dtype, layout.saved, layout.has_cell_state
    hidden, cells, gates, starts = empty((N, T, B, layout.width), dtype), None, None, None
    if recompute and saved:
        every = _recompute.whole_chunks(recompute, B)
        count = len(_recompute.blocks(T, every))
        starts = Starts(every, empty((N, count, B, H), dtype) if has_c else None)
    elif saved:
        cells = empty((N, T, B, H), dtype) if has_c else None
        gates = empty((N, T, B, saved, H), dtype)
    x, h_0, c_0 = course.sorted(x), course.sorted(h_0), course.sorted(c_0)
    kept = Kept([], h_0, c_0, hidden, cells, gates, masks, seeds, course, 0, starts)
    return *through_parts(core, layout, weights, None, x, h_0, c_0, course, kept), kept


def through_parts(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights] | None,
    packs: Sequence[Any] | None,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    course: Course,
    kept: Kept | None,
) -> tuple[Array, Array, Array | None]:
    """Run every part, rows as they run, and fill `kept` if it is given. Returns what `infer` does."""
    T, B, _ = x.shape
    P, D, cell = layout.width, layout.directions, cell_of(core, layout.cell)
    if layout.layers > 1 and D == 1 and not (kept and kept.starts):
        pieces = pieces_of(layout, T, B, kept is not None)
        if len(pieces.spans) > 1:
            return through_waves(core, layout, weights, packs, x, h_0, c_0, course, kept, pieces)
    h_n, c_n = states_of(layout, B)
    for layer in range(layout.layers):
        if layer and kept and kept.masks:
            x = x * kept.masks[layer - 1]
        outputs, calls = [], []
        for d in range(D):
            n, a = layer * D + d, course.turned(x, d)
            output = kept.hidden[n] if kept else empty((T, B, P), layout.dtype)
            tape = (at(kept.cells, n), at(kept.gates, n)) if kept else (None, None)
            draws = kept.draws(n) if kept else ()
            if kept:
                kept.inputs.append(a)
            if B and kept and kept.starts:
                assert weights is not None
                part = part_to_recompute(core, layout, weights, kept, n)
                filled = (output, h_n[n], at(c_n, n), at(kept.starts.cells, n))
                _recompute.forward(part, at(c_0, n), kept.starts.every, *filled)
            elif B:  # without rows there is nothing to fill, however many steps
                given = (weights and weights[n], packs and packs[n], a, at(h_0, n), at(c_0, n))
                results = (output, h_n[n], at(c_n, n), *tape)
                spans = (*course.of(d), *draws)
                calls.append(core.forward_call(cell, get_num_threads(), *given, *results, *spans))
            outputs.append(output)
        if calls:
            core.run(*calls)
        x = joined(outputs, course)
    return course.unsorted(x), course.unsorted(h_n), course.unsorted(c_n)


def pieces_of(layout: Layout, T: int, B: int, keeps: bool) -> Pieces:
    """Return the pieces of time that the layers of a stack in one direction go through."""
    P, size = layout.width, layout.dtype.itemsize
    numbers = 4 * layout.hidden_size * (min(layout.input_size, P) + P)
    return _waves.pieces_of(T, B, P * size, numbers * size, 2.0 * numbers, get_num_threads(), keeps)


def through_waves(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights] | None,
    packs: Sequence[Any] | None,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    course: Course,
    kept: Kept | None,
    pieces: Pieces,
) -> tuple[Array, Array, Array | None]:
    """Run a stack in one direction over pieces of time. As `through_parts`."""
    (T, B, _), P, last, spans = x.shape, layout.width, layout.layers - 1, pieces.spans
    cell, threads = cell_of(core, layout.cell), get_num_threads()
    packs = packs or [core.pack(cell, threads, part) for part in weights or ()]
    h_n, c_n = states_of(layout, B)
    output = kept.hidden[last] if kept else empty((T, B, P), layout.dtype)
    between = empty((0 if kept else last, 2, spans[0][1], B, P), layout.dtype)
    if kept:
        hidden = kept.hidden[:last]
        kept.inputs.extend([x, *([empty(h.shape, h.dtype) for h in hidden] if kept.masks else hidden)])

    def output_of(n: int, k: int) -> Array:
        begin, end = spans[k]
        if n == last:
            return output[begin:end]
        return kept.hidden[n][begin:end] if kept else between[n, k % 2, : end - begin]

    def call(n: int, k: int) -> Any:
        begin, end = spans[k]
        a = output_of(n - 1, k) if n else x[begin:end]
        tape, draws = [None, None], tuple[int, ...]()
        if kept:
            if n and kept.masks:
                a = np.multiply(a, kept.masks[n - 1][begin:end], out=kept.inputs[n][begin:end])
            tape = [None if array is None else array[n][begin:end] for array in (kept.cells, kept.gates)]
            draws = kept.draws(n, begin)
        before = (h_n[n], at(c_n, n)) if k else (at(h_0, n), at(c_0, n))
        results = (output_of(n, k), h_n[n], at(c_n, n), *tape)
        rest = (*cut(*course.of(0), begin, end), *draws)
        return core.forward_call(cell, threads, None, packs[n], a, *before, *results, *rest)

    _waves.walk(core, layout.layers, pieces, call)
    return course.unsorted(output), course.unsorted(h_n), course.unsorted(c_n)


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
    errors = (course.sorted(d_output), course.sorted(d_h_n), course.sorted(d_c_n))
    T, B = kept.inputs[0].shape[:2]
    if not B:
        parameters.flat[...] = 0
    if wanted.truncate is not None:
        every, depth = (min(k, T) for k in wanted.truncate)
        wanted = wanted._replace(truncate=None if depth == T == every else (every, depth))
    walk = through_all if apart(core, kept, wanted) == T else through_blocks
    found = walk(core, layout, weights, kept, *errors, parameters, wanted)
    if course is ALL_STEPS and not wanted.norms:
        return found
    return Slopes(
        course.unsorted(found.x),
        course.unsorted(found.h_0),
        course.unsorted(found.c_0),
        in_order(found.hidden, D, course),
        in_order(found.cells, D, course),
        in_order(found.clipped, D, course),
        in_order(found.norms, D, course),
    )


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


def through_blocks(
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
    """Truncated: errors injected in each block of k1 steps flow back k2 steps from its end."""
    assert wanted.truncate is not None
    every, depth = wanted.truncate
    T, B = kept.inputs[0].shape[:2]
    last = np.full(B, T) if kept.course.lengths is None else kept.course.lengths
    once = apart(core, kept, wanted)  # steps whose blocks one call walks
    inside = wanted._replace(steps=wanted.norms, norms=False)  # norms are those of the sums
    total, block_parameters = new_slopes(layout, kept, inside), parameters.empty_like()
    total.between(once, T).clear()
    parameters.flat[...] = 0
    for start, end in itertools.pairwise([0, *range(once or every, T, every), T]):
        walked = end <= once
        begin = 0 if walked else max(0, end - depth)
        # Rows whose last step is in this block get the gradient of the last state here.
        ends_here = ((last > start) & (last <= end) | (last == 0) & (start == 0))[:, None]
        d_h, d_c = (None if d is None else np.where(ends_here, d, d.dtype.type(0)) for d in (d_h_n, d_c_n))
        errors = None if d_output is None else d_output[begin:end]
        if errors is not None and begin < start:
            errors = errors.copy()
            errors[: start - begin] = 0
        part = restarted(core, layout, weights, kept, begin, end) if kept.starts else kept.between(begin, end)
        way = inside if walked else inside._replace(truncate=None)
        whole = start == begin == 0  # nothing has been added up yet
        given = (errors, d_h, d_c, parameters if whole else block_parameters, way)
        found = through_all(core, layout, weights, part, *given, total.between(0, end) if whole else None)
        if not whole:
            parameters.flat[...] += block_parameters.flat
            total.add(found, begin, end)
    if wanted.norms:
        of_hidden = core.row_norms(get_num_threads(), total.hidden)
        of_cells = (
            np.zeros_like(of_hidden)
            if total.cells is None
            else core.row_norms(get_num_threads(), total.cells)
        )
        total = total._replace(norms=np.stack((of_hidden, of_cells), -1))
    return total if wanted.steps else total._replace(hidden=None, cells=None)


def through_all(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights],
    kept: Kept,
    d_output: Array | None,
    d_h_n: Array | None,
    d_c_n: Array | None,
    parameters: Parameters,
    wanted: Wanted,
    total: Slopes | None = None,
) -> Slopes:
    """Backpropagate through every part over all kept steps, rows as they run. Fills `total` if given."""
    B, D, course = kept.hidden.shape[2], layout.directions, kept.course
    d_weights = layer_weights(parameters, layout.layers, D)
    cell = cell_of(core, layout.cell)
    total = total or new_slopes(layout, kept, wanted)
    for layer in reversed(range(layout.layers)):
        d_inputs: list[Any] = []
        calls = []
        for d in range(D):
            n = layer * D + d
            errors = None if d_output is None else part_of(d_output, d, D, course)
            d_x = total.x
            if n and (layer or wanted.input):
                d_x = empty(kept.inputs[n].shape, layout.dtype)
            given = (errors, at(d_h_n, n), at(d_c_n, n))
            states, steps = (total.h_0[n], at(total.c_0, n)), (at(total.hidden, n), at(total.cells, n))
            clip, counted = wanted.step_clip, (at(total.clipped, n), at(total.norms, n))
            if B and kept.starts:
                part = part_to_recompute(core, layout, weights, kept, n)
                starts, every = at(kept.starts.cells, n), kept.starts.every
                gates, h = (layout.saved, layout.hidden_size), kept.hidden[n]
                results = (d_x, states, d_weights[n], steps, clip, counted)
                _recompute.backward(part, gates, h, starts, every, given, *results)
            elif B:
                initial = (at(kept.h_0, n), at(kept.c_0, n))
                tape = (kept.inputs[n], *initial, kept.hidden[n], at(kept.cells, n), at(kept.gates, n))
                filled = (d_x, *states, d_weights[n], *steps)
                spans = (*course.of(d), *kept.draws(n))
                call = (cell, get_num_threads(), weights[n], *tape, *given, *filled, *spans)
                measures: dict[str, Any] = dict(zip(("clipped", "norms"), counted, strict=True))
                if wanted.truncate:
                    measures["truncate"] = wanted.truncate
                calls.append(core.backward_call(*call, step_clip=clip, **measures))
            d_inputs.append(d_x)
        if calls:
            core.run(*calls)
        d_output = d_inputs[0]
        if D == 2 and d_output is not None:
            d_output += course.turned(d_inputs[1], 1)
        if layer and kept.masks:
            d_output *= kept.masks[layer - 1]
    return total


def part_to_recompute(core: Any, layout: Layout, weights: Sequence[Weights], kept: Kept, n: int) -> Part:
    """Return how part n runs in blocks; its input has been kept."""
    cell = cell_of(core, layout.cell)
    packed = core.pack(cell, get_num_threads(), weights[n])
    spans = kept.course.of(n % layout.directions)
    return Part(core, cell, weights[n], packed, kept.inputs[n], at(kept.h_0, n), *spans, kept.draws(n))


def restarted(
    core: Any, layout: Layout, weights: Sequence[Weights], kept: Kept, begin: int, end: int
) -> Kept:
    """Return what a forward pass with `recompute` over steps [begin, end) would have kept; one direction."""
    assert kept.starts is not None
    every, has_c = kept.starts.every, layout.has_cell_state
    count, B = len(_recompute.blocks(end - begin, every)), kept.hidden.shape[2]
    h_n, c_0 = states_of(layout, B)
    cells = empty((layout.parts, count, B, layout.hidden_size), layout.dtype) if has_c else None
    found = kept.between(begin, end)._replace(c_0=c_0, starts=Starts(every, cells))
    if c_0 is None or cells is None or not B:
        return found
    for n in range(layout.parts):
        whole = part_to_recompute(core, layout, weights, kept, n)
        c_0[n] = _recompute.cell_before(whole, kept.hidden[n], kept.starts, n, begin)
        cells[n, 0] = c_0[n]
        if count > 1:
            part = part_to_recompute(core, layout, weights, found, n)
            output, c_n = empty(found.hidden[n].shape, layout.dtype), empty(c_0[n].shape, layout.dtype)
            _recompute.forward(part, c_0[n], every, output, h_n[n], c_n, cells[n])
    return found


def new_slopes(layout: Layout, kept: Kept, wanted: Wanted) -> Slopes:
    """Return arrays, not filled, for all that a backward pass returns."""
    N, T, B, _ = kept.hidden.shape
    steps, norms, dtype = wanted.steps, wanted.norms, layout.dtype
    return Slopes(
        empty(kept.inputs[0].shape, dtype) if wanted.input else None,
        *states_of(layout, B),
        empty(kept.hidden.shape, dtype) if steps else None,
        empty((N, T, B, layout.hidden_size), dtype) if steps and layout.has_cell_state else None,
        np.zeros((N, T, B, 3), np.int64) if (steps or norms) and wanted.step_clip else None,
        empty((N, T, B, 2), np.dtype(np.float64)) if norms else None,
    )


def draw(layout: Layout, T: int, B: int, dropout: float, rng: Any) -> tuple[list[Array], list[int]]:
    """Draw the masks of dropout between layers, and the seed of each part: both empty if nothing is drawn."""
    if rng is None or not (dropout or layout.draws):
        return [], []
    generator = np.random.default_rng(rng)
    masks = dropout_masks(layout, T, B, dropout, generator)
    parts = layout.parts if layout.draws else 0
    return masks, generator.integers(2**64, size=parts, dtype=np.uint64).tolist()


def dropout_masks(
    layout: Layout, T: int, B: int, dropout: float, generator: np.random.Generator
) -> list[Array]:
    """Draw what the inputs of layers 1, 2, .. are multiplied by: 0 with probability p, else 1/(1-p)."""
    if not dropout:
        return []
    shape = (T, B, layout.directions * layout.width)
    masks = []
    for _ in range(layout.layers - 1):
        mask = empty(shape, layout.dtype)
        mask[...] = generator.random(shape, np.float32) >= dropout
        if dropout < 1:
            mask /= 1 - dropout
        masks.append(mask)
    return masks


def inputs_of(layout: Layout, x: Array, hidden: Array, masks: Sequence[Array], course: Course) -> list[Array]:
    """Return the inputs of `Kept`, from the input of the first layer and the hidden states of all parts."""
    D, inputs = layout.directions, []
    for layer in range(layout.layers):
        if layer:
            x = joined(hidden[(layer - 1) * D : layer * D], course)
            x = x * masks[layer - 1] if masks else x
        inputs += [course.turned(x, d) for d in range(D)]
    return inputs


@functools.lru_cache(maxsize=256)
def cell_of(core: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the cell with its options as that core takes it."""
    return core.Cell(*arguments)


def states_of(layout: Layout, B: int) -> tuple[Array, Array | None]:
    """Return new states h (L*D, B, P) and c (L*D, B, H); None for c where there is no cell state."""
    rows, dtype = (layout.parts, B), layout.dtype
    h = empty((*rows, layout.width), dtype)
    return h, empty((*rows, layout.hidden_size), dtype) if layout.has_cell_state else None


def at(parts: Array | None, n: int) -> Array | None:
    return None if parts is None else parts[n]


def joined(outputs: Sequence[Array] | Array, course: Course) -> Array:
    """Return the outputs of all directions side by side, time ascending."""
    if len(outputs) == 1:
        return outputs[0]
    ahead, back = outputs
    T, B, P = ahead.shape
    both = empty((T, B, 2 * P), ahead.dtype)
    both[..., :P], both[..., P:] = ahead, course.turned(back, 1)
    return both


def part_of(d_output: Array, direction: int, directions: int, course: Course) -> Array:
    """Return what the error (T, B, D*P) means for one direction, as that meets the steps: (T, B, P)."""
    if directions == 1:
        return d_output
    P = d_output.shape[2] // 2
    return contiguous(course.turned(d_output[..., direction * P :][..., :P], direction), d_output.dtype)
