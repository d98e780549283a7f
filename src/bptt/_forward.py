"""A stack of layers forward, each in one or two directions: which call of the core gets which arrays.

Part n = l * D + d is direction d of layer l. The reverse direction runs forward over a sequence that is
turned round, so its arrays are in the order in which it meets the steps. Rows of unequal length run longest
first, many of them in two halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import _recompute, _waves
from ._check import Layout
from ._course import ALL_STEPS, Course, cut
from ._kept import Kept, at, states_of
from ._memory import empty
from ._program import Program, Room, cell_of
from ._recompute import Starts
from ._threads import get_num_threads
from ._waves import Pieces
from .parameters import Weights

__all__ = ["draw", "forward", "infer", "inputs_of"]

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
    h_0, c_0 = course.sorted(h_0), course.sorted(c_0)
    if one_way(layout, x, False):
        given = weights, packs, x, h_0, c_0
        output, h_n, c_n, *_ = through_all(core, layout, *given, course, [], keep=False)
        return output, h_n, c_n
    program = Program(core, layout)
    return through_layers(program, weights, packs, x, course.order, h_0, c_0, course, None)


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
    h_0, c_0 = course.sorted(h_0), course.sorted(c_0)
    if not recompute and not masks and one_way(layout, x, True):
        given = weights, None, x, h_0, c_0
        *results, first, hidden, cells, gates = through_all(core, layout, *given, course, seeds, keep=True)
        inputs = [first, *hidden[:-1]] if layout.layers > 1 else [first]
        return *results, Kept(inputs, h_0, c_0, hidden, cells, gates, masks, seeds, course)
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
    program = Program(core, layout)
    x = course.moved(program, x)
    inputs = [x, *new_inputs(layout, hidden, masks)] if layout.layers > 1 else [x]
    kept = Kept(inputs, h_0, c_0, hidden, cells, gates, masks, seeds, course, 0, starts)
    return *through_layers(program, weights, None, x, None, h_0, c_0, course, kept), kept


def one_way(layout: Layout, x: Array, keeps: bool) -> bool:
    """Whether layers run one after the other over all steps, in one direction."""
    if layout.parts == 1:
        return True
    T, B, _ = x.shape
    return layout.directions == 1 and (not B or len(pieces_of(layout, T, B, keeps).spans) < 2)


def through_all(
    core: Any,
    layout: Layout,
    weights: Sequence[Weights] | None,
    packs: Sequence[Any] | None,
    x: Array,
    h_0: Array | None,
    c_0: Array | None,
    course: Course,
    seeds: Sequence[int],
    *,
    keep: bool,
) -> Any:
    """Run layers in one direction one after the other; h_0 and c_0 as rows run.

    The core makes what it fills, in half the time. Returns output, h_n and c_n, and to `keep` the input,
    outputs of all layers, cells and gates as rows run.
    """
    given = cell_of(core, layout.cell), get_num_threads(), weights, packs, x, h_0, c_0, keep
    if course is ALL_STEPS and not seeds:
        return core.forward_layers(*given)
    output, h_n, c_n, *kept = core.forward_layers(*given, *course.of(0), seeds, 0, course.order)
    return output, course.unsorted(h_n), course.unsorted(c_n), *kept


def through_layers(
    program: Program,
    weights: Sequence[Weights] | None,
    packs: Sequence[Any] | None,
    x: Array,
    x_order: Array | None,
    h_0: Array | None,
    c_0: Array | None,
    course: Course,
    kept: Kept | None,
) -> tuple[Array, Array, Array | None]:
    """Run every part, rows as they run, and fill `kept` if it is given. Returns what `infer` does.

    What `program` holds already comes first. With `x_order` row b of `x` stands at row x_order[b].
    """
    layout, (T, B, _) = program.layout, x.shape
    h_n, c_n = states_of(layout, B)
    D, P, last = layout.directions, layout.width, layout.layers - 1
    stays = kept is not None and D == 1 and course.order is None
    output = kept.hidden[last] if kept and stays else empty((T, B, D * P), layout.dtype)
    if B:  # without rows there is nothing to fill, however many steps
        onward = Onward(program, weights, packs, x, x_order, h_0, c_0, course, kept, output, h_n, c_n)
        whole = not (kept and kept.starts)
        in_pieces = last and D == 1 and whole
        pieces = pieces_of(layout, T, B, kept is not None) if in_pieces else None
        if pieces and len(pieces.spans) > 1:
            add_waves(onward, pieces)
        else:
            add_layers(onward)
        program.run()
    return output, course.unsorted(h_n), course.unsorted(c_n)


class Onward(NamedTuple):
    """What the parts of a forward pass read, and where what they fill stands: as `through_layers` has it.

    In `output` rows stand as they came.
    """

    program: Program
    weights: Sequence[Weights] | None
    packs: Sequence[Any] | None
    x: Array
    x_order: Array | None
    h_0: Array | None
    c_0: Array | None
    course: Course
    kept: Kept | None
    output: Array
    h_n: Array
    c_n: Array | None

    @property
    def copies(self) -> bool:
        """Whether rows of the last output stand as they run for a tape, or nowhere, and as they came."""
        return self.program.layout.directions == 1 and self.course.order is not None

    @property
    def runs(self) -> Array | None:
        """Where the last output stands as rows run; one direction."""
        if self.kept:
            last: Array = self.kept.hidden[-1]
            return last
        return None if self.copies else self.output

    def call(self, n: int, x: Array, to: Array | None, span: tuple[int, int] | None = None) -> Any:
        """Return the call of part n over its input, as it meets that, to `to`: all steps, or a span."""
        program, weights, packs, _, x_order, h_0, c_0, course, kept, output, h_n, c_n = self
        layout, begin, before, after = program.layout, 0, (at(h_0, n), at(c_0, n)), (h_n[n], at(c_n, n))
        tape = [at(kept.cells, n), at(kept.gates, n)] if kept else [None, None]
        rows = course.of(n % layout.directions)
        if span:
            begin, end = span
            tape = [None if array is None else array[begin:end] for array in tape]
            rows, output = cut(*rows, begin, end), output[begin:end]
            before = after if begin else before
        given = (weights and weights[n], packs and packs[n], x, *before)
        results = (to, *after, *tape)
        draws = kept.draws(n, begin) if kept else ()
        if course.order is None:
            return program.forward(*given, *results, *rows, *draws)
        orders: dict[str, Any] = {} if n else {"x_order": x_order}
        if self.copies and n == layout.parts - 1:
            orders |= {"copy": output, "copy_order": course.order}
        return program.forward(*given, *results, *rows, *draws, **orders)


def add_layers(onward: Onward) -> None:
    """Layer after layer, the directions of one side by side."""
    program, course, kept, x = onward.program, onward.course, onward.kept, onward.x
    layout, (T, B, _) = program.layout, x.shape
    P, D, last = layout.width, layout.directions, layout.layers - 1
    room = Room(T * B * max(x.shape[2], D * P), layout.dtype)
    for layer in range(layout.layers):
        outputs: list[Any] = []
        calls = []
        for d in range(D):
            n = layer * D + d
            to: Array | None
            if layer == last and D == 1:
                to = onward.runs
            elif kept:
                to = kept.hidden[n]
            else:
                to = room(("h", layer % 2, d), (T, B, P))
            outputs.append(to)
            a = x
            if d:
                a = room("turned", x.shape)
                order = None if layer else onward.x_order
                program.move(a, x, turned=True, lengths=course.lengths, order=order)
            if kept and kept.starts:
                assert onward.weights is not None
                assert to is not None
                part = _recompute.part_of(program, onward.weights, kept, n, a)
                filled = (to, onward.h_n[n], at(onward.c_n, n), at(kept.starts.cells, n))
                _recompute.add_forward(program, part, at(onward.c_0, n), kept.starts.every, *filled)
                continue
            calls.append(onward.call(n, a, to))
        if calls:
            program.add(*calls)
        if layer < last:
            x = kept.inputs[layer + 1] if kept else outputs[0] if D == 1 else room("joined", (T, B, D * P))
            add_joined(program, x, outputs, kept.masks[layer] if kept and kept.masks else None, course)
        elif D == 2 or (kept and kept.starts):
            add_joined(program, onward.output, outputs, None, course, course.order)


def add_joined(
    program: Program,
    to: Array,
    outputs: Sequence[Any],
    mask: Array | None,
    course: Course,
    order: Array | None = None,
) -> None:
    """Put the outputs of the directions side by side, time ascending, under a mask if there is one.

    With an order row b goes to row order[b].
    """
    P = program.layout.width
    if len(outputs) == 1 and mask is None and order is None:
        return  # it is that of the only direction
    for d, output in enumerate(outputs):
        units = slice(d * P, (d + 1) * P)
        scale = None if mask is None else mask[..., units]
        how: dict[str, Any] = {"scale": scale, "turned": bool(d), "order": order, "back": True}
        program.move(to[..., units], output, lengths=course.lengths, **how)


def pieces_of(layout: Layout, T: int, B: int, keeps: bool) -> Pieces:
    """Return the pieces of time that the layers of a stack in one direction go through."""
    P, size = layout.width, layout.dtype.itemsize
    numbers = 4 * layout.hidden_size * (min(layout.input_size, P) + P)
    return _waves.pieces_of(T, B, P * size, numbers * size, 2.0 * numbers, get_num_threads(), keeps)


def add_waves(onward: Onward, pieces: Pieces) -> None:
    """Go through a stack in one direction over pieces of time."""
    program, kept, spans = onward.program, onward.kept, pieces.spans
    layout, B = program.layout, onward.x.shape[1]
    P, last = layout.width, layout.layers - 1
    packs = onward.packs or [program.packed(n, part) for n, part in enumerate(onward.weights or ())]
    onward = onward._replace(packs=packs)
    between = empty((0 if kept else last, 2, spans[0][1], B, P), layout.dtype)

    def output_of(n: int, k: int) -> Any:
        begin, end = spans[k]
        if n == last:
            return None if onward.runs is None else onward.runs[begin:end]
        return kept.hidden[n][begin:end] if kept else between[n, k % 2, : end - begin]

    def call(n: int, k: int) -> Any:
        begin, end = spans[k]
        a = output_of(n - 1, k) if n else onward.x[begin:end]
        if kept and n and kept.masks:
            a = kept.inputs[n][begin:end]
            program.move(a, output_of(n - 1, k), scale=kept.masks[n - 1][begin:end])
        return onward.call(n, a, output_of(n, k), spans[k])

    for calls in _waves.order(layout.layers, pieces):
        program.add(*[call(n, k) for n, k in calls])


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


def new_inputs(layout: Layout, hidden: Array, masks: Sequence[Array]) -> list[Array]:
    """Return where the inputs of layers 1, 2, .. stand: the states below, if they go on as they are."""
    _, T, B, P = hidden.shape
    if layout.directions == 1 and not masks:
        return [*hidden[:-1]]
    return [empty((T, B, layout.directions * P), layout.dtype) for _ in range(layout.layers - 1)]


def inputs_of(
    core: Any, layout: Layout, x: Array, hidden: Array, masks: Sequence[Array], course: Course
) -> list[Array]:
    """Return the inputs of `Kept`, from the input of the first layer and the hidden states of all parts."""
    if layout.layers == 1:
        return [x]
    program, D, inputs = Program(core, layout), layout.directions, new_inputs(layout, hidden, masks)
    for layer, to in enumerate(inputs):
        outputs = [hidden[layer * D + d] for d in range(D)]
        if D == 2 or masks:
            add_joined(program, to, outputs, masks[layer] if masks else None, course)
    program.run()
    return [x, *inputs]
