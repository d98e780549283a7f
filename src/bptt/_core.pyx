# cython: language_level=3, boundscheck=False, wraparound=False, embedsignature=True, freethreading_compatible=True
"""The border to the C library: fills the problem struct, releases the GIL, raises. No arithmetic, no loops over data."""

from threading import get_ident, main_thread

cimport cython
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, intptr_t, uint8_t, uint64_t
from libc.string cimport memset

from bptt._blocks cimport Block, new_array, take_block

cnp.import_array()

CELLS = {"LSTM": BPTT_LSTM, "GRU": BPTT_GRU, "RNN": BPTT_RNN}
ACTIVATIONS = {"sigmoid": BPTT_SIGMOID, "hard_sigmoid": BPTT_HARD_SIGMOID, "tanh": BPTT_TANH, "relu": BPTT_RELU,
               "softsign": BPTT_SOFTSIGN, "identity": BPTT_IDENTITY}
cdef dict KINDS = {cnp.NPY_FLOAT32: BPTT_F32, cnp.NPY_FLOAT64: BPTT_F64, cnp.NPY_INT64: BPTT_COUNTS}  # of moves
TRUNCATES = True  #: whether backward_call() takes `truncate`
cdef double SHORT_FLOPS = 4e6  # below about 50 us of work a call keeps the GIL and is not polled
cdef bptt_problem hint  # whose split and hoist the calls take: zeros, the cost model chooses


cdef int raise_status(bptt_status status) except -1:
    if status == BPTT_OK:
        return 0
    raise ValueError(bptt_status_text(status).decode())


cdef void *take_as(object array, int type_num, int64_t count, str name) except? NULL:
    """Address of an optional array, after the cheap checks that keep C inside its memory."""
    if array is None:
        return NULL
    if not cnp.PyArray_Check(array):
        raise TypeError(f"{name}: expected an ndarray, got {type(array).__name__}")
    cdef cnp.ndarray a = array
    if cnp.PyArray_TYPE(a) != type_num:
        raise TypeError(f"{name}: expected {cnp.PyArray_DescrFromType(type_num)}, got {a.dtype}")
    if cnp.PyArray_SIZE(a) != count or not cnp.PyArray_ISCARRAY_RO(a):
        raise ValueError(f"{name}: expected {count} contiguous elements, got shape {array.shape}")
    return cnp.PyArray_DATA(a)


cdef int number_of(int dtype) noexcept:
    """NumPy's number of the dtype of a problem."""
    return cnp.NPY_FLOAT32 if dtype == BPTT_F32 else cnp.NPY_FLOAT64


cdef void *take(object array, int dtype, int64_t count, str name) except? NULL:
    """The same for an array of the dtype of a problem."""
    return take_as(array, number_of(dtype), count, name)


cdef void *take_rows(object array, int type_num, int64_t T, int64_t B, int64_t N, str name, int64_t *step,
                     int64_t *row) except? NULL:
    """Address of an optional array (T,B,N) whose rows are contiguous, and how far its steps and rows lie apart."""
    if array is None:
        return NULL
    if not cnp.PyArray_Check(array):
        raise TypeError(f"{name}: expected an ndarray, got {type(array).__name__}")
    cdef cnp.ndarray a = array
    cdef int64_t size = cnp.PyArray_ITEMSIZE(a)
    if cnp.PyArray_TYPE(a) != type_num:
        raise TypeError(f"{name}: expected {cnp.PyArray_DescrFromType(type_num)}, got {a.dtype}")
    if a.ndim != 3 or a.shape[0] != T or a.shape[1] != B or a.shape[2] != N:
        raise ValueError(f"{name}: expected shape {(T, B, N)}, got {array.shape}")
    if cnp.PyArray_SIZE(a) and (not cnp.PyArray_ISBEHAVED_RO(a) or (N > 1 and a.strides[2] != size)):
        raise ValueError(f"{name}: expected aligned, contiguous rows")
    step[0], row[0] = a.strides[0] // size, a.strides[1] // size
    if cnp.PyArray_SIZE(a) and ((T > 1 and step[0] == 0) or (B > 1 and row[0] == 0)):  # both 0: contiguous
        raise ValueError(f"{name}: expected steps and rows that lie apart")
    return cnp.PyArray_DATA(a)


@cython.final
cdef class Cell:
    """A cell and its options, as every call takes them; immutable."""
    cdef bptt_problem problem  # but for these all zeros

    def __init__(self, str kind, tuple activations=(), bint coupled=False, cell_clip=None, proj_clip=None,
                 double recurrent_dropout=0, double zoneout=0, bint reset_after=True):
        cdef bptt_problem *p = &self.problem
        cdef int n
        memset(p, 0, sizeof(bptt_problem))
        p.cell, p.coupled, p.reset_before = CELLS[kind], coupled, not reset_after
        p.recurrent_dropout, p.zoneout = recurrent_dropout, zoneout
        for n, name in enumerate(activations[:3]):
            p.activations[n] = ACTIVATIONS[name]
        if cell_clip is not None:
            p.cell_clip = cell_clip
        if proj_clip is not None:
            p.proj_clip = proj_clip


cdef cnp.ndarray checked(object array, int axes, str name):
    """Return an array of so many axes, whose lengths can be read."""
    if not cnp.PyArray_Check(array):
        raise TypeError(f"{name}: expected an ndarray, got {type(array).__name__}")
    if cnp.PyArray_NDIM(array) != axes:
        raise ValueError(f"{name}: expected {axes} axes, got shape {array.shape}")
    return array


cdef int fill_sizes(bptt_problem *p, Cell cell, tuple parameters) except -1:
    weight_ih, weight_hh, _, _, _, weight_hr = parameters
    cdef cnp.ndarray ih = checked(weight_ih, 2, "weight_ih"), hh = checked(weight_hh, 2, "weight_hh")
    p[0] = cell.problem
    if cnp.PyArray_TYPE(hh) == cnp.NPY_FLOAT64:
        p.dtype = BPTT_F64
    p.H, p.I = hh.shape[1], ih.shape[1]
    if weight_hr is not None:
        p.P, p.H = weight_hr.shape
    return 0


cdef int64_t width(const bptt_problem *p) noexcept:
    return p.P if p.P else p.H


cdef int64_t rows_of(const bptt_problem *p) noexcept:
    return (4 if p.cell == BPTT_LSTM else 3 if p.cell == BPTT_GRU else 1) * p.H


cdef int fill_parameters(bptt_problem *p, tuple parameters, int gradients) except -1:
    weight_ih, weight_hh, bias_ih, bias_hh, weight_peephole, weight_hr = parameters
    cdef void *pointers[6]
    cdef int64_t rows = rows_of(p)
    pointers[0] = take(weight_ih, p.dtype, rows * p.I, "weight_ih")
    pointers[1] = take(weight_hh, p.dtype, rows * width(p), "weight_hh")
    pointers[2] = take(bias_ih, p.dtype, rows, "bias_ih")
    pointers[3] = take(bias_hh, p.dtype, rows, "bias_hh")
    pointers[4] = take(weight_peephole, p.dtype, 3 * p.H, "weight_peephole")
    pointers[5] = take(weight_hr, p.dtype, p.P * p.H, "weight_hr")
    if gradients:
        p.d_weight_ih, p.d_weight_hh, p.d_bias_ih, p.d_bias_hh, p.d_weight_peephole = \
            pointers[0], pointers[1], pointers[2], pointers[3], pointers[4]
        p.d_weight_hr = pointers[5]
    else:
        p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.weight_peephole = \
            pointers[0], pointers[1], pointers[2], pointers[3], pointers[4]
        p.weight_hr = pointers[5]
    return 0


cdef int64_t fill_flat(bptt_problem *p, char *start) noexcept:
    """Places of the gradients one after the other, in the order of the parameters, for those that there are.

    Returns how many numbers they are; without a start it only counts.
    """
    cdef int64_t rows = rows_of(p), count = 0
    cdef int64_t[6] sizes = [rows * p.I, rows * width(p), rows, rows, 3 * p.H, p.P * p.H]
    cdef void *weights[6]
    cdef void **places[6]
    cdef int n
    weights[:] = [p.weight_ih, p.weight_hh, p.bias_ih, p.bias_hh, p.weight_peephole, p.weight_hr]
    places[:] = [&p.d_weight_ih, &p.d_weight_hh, &p.d_bias_ih, &p.d_bias_hh, &p.d_weight_peephole, &p.d_weight_hr]
    for n in range(6):
        if weights[n] != NULL:
            places[n][0] = at(start, 1, count, real_bytes(p))
            count += sizes[n]
    return count


cdef int64_t real_bytes(const bptt_problem *p) noexcept:
    return 4 if p.dtype == BPTT_F32 else 8


cdef void *at(void *parts, int64_t n, int64_t numbers, int64_t nbytes) noexcept:
    """Address of part n, of so many numbers of so many bytes each, of what may not be there."""
    return NULL if parts == NULL else <char *>parts + n * numbers * nbytes


cdef class Interrupt:
    """Asks Python, now and then, whether a signal handler wants the call to end."""
    cdef object error


cdef int poll(void *context) noexcept with gil:
    try:
        PyErr_CheckSignals()
    except BaseException as error:
        (<Interrupt>context).error = error
        return 1
    return 0


cdef Block new_block(bptt_problem *p, bptt_op op):
    cdef int64_t nbytes = 0
    raise_status(bptt_workspace(p, op, &nbytes))
    return take_block(nbytes)


cdef Block scratch(bptt_problem *p, bptt_op op):
    cdef Block block = new_block(p, op)
    p.workspace, p.workspace_bytes = block.memory, block.nbytes
    return block


@cython.final
cdef class Sums:
    """What calls backward over neighbouring blocks of steps, the last one first, hand on so that the gradients of the
    parameters have the bits of one call."""
    cdef Block block

    cdef int lend(self, bptt_problem *p) except -1:
        if self.block is None:
            self.block = new_block(p, BPTT_SUMS)
        p.sums, p.sums_bytes = self.block.memory, self.block.nbytes
        return 0


cdef double work_of(const bptt_problem *p) noexcept:
    return 8.0 * p.T * p.B * p.H * (p.I + p.H)


cdef int64_t plan(bptt_problem *p, bptt_op op) except -1:
    """Take over the hint, and return how many bytes of workspace there must be."""
    cdef int64_t nbytes = 0
    p.split, p.hoist = hint.split, hint.hoist
    raise_status(bptt_workspace(p, op, &nbytes))
    return nbytes


@cython.final
cdef class Call:
    """A call with its arguments checked and in place, which run() runs, once."""
    cdef bptt_problem p
    cdef bptt_op op
    cdef double[3] bounds  # of step_clip
    cdef object held  # the arguments: their memory is read and written

    def __init__(self):
        raise TypeError("Call objects are made by forward_call() and backward_call()")


@cython.final
cdef class Move:
    """Numbers that run() moves; made by move()."""
    cdef bptt_move m
    cdef object held

    def __init__(self):
        raise TypeError("Move objects are made by move()")


def move(int threads, to not None, source=None, scale=None, lengths=None, bint turned=False, bint add=False,
         order=None, bint back=False):
    """Return the move of `source` (T,B,N), or zeros, times `scale` (T,B,N), to the array `to` (T,B,N), or onto it.

    Past the lengths (B,) of rows, if they are given, nothing is read and zeros are moved. Turned, steps come from the
    last to the first, inside the lengths. With an order (B,) row order[b] of the source goes to row b; `back`: row b
    to row order[b]. Lengths and scale are those of row b.
    """
    cdef Move moved = Move.__new__(Move)
    cdef bptt_move *m = &moved.m
    cdef cnp.ndarray a = to
    if a.ndim != 3 or not cnp.PyArray_ISWRITEABLE(a):
        raise ValueError(f"to: expected a writable array of 3 axes, got shape {to.shape}")
    cdef int num = cnp.PyArray_TYPE(a)
    if num not in KINDS:
        raise TypeError(f"to: expected float32, float64 or int64, got {a.dtype}")
    m.T, m.B, m.N, m.kind = a.shape[0], a.shape[1], a.shape[2], KINDS[num]
    m.threads, m.turned, m.add = threads, turned, add
    m.to = take_rows(to, num, m.T, m.B, m.N, "to", &m.to_step, &m.to_row)
    m.source = take_rows(source, num, m.T, m.B, m.N, "source", &m.from_step, &m.from_row)
    m.scale = take_rows(scale, num, m.T, m.B, m.N, "scale", &m.scale_step, &m.scale_row)
    m.lengths = <const int64_t *>take_as(lengths, cnp.NPY_INT64, m.B, "lengths")
    m.order, m.back = <const int64_t *>take_as(order, cnp.NPY_INT64, m.B, "order"), back
    moved.held = to, source, scale, lengths, order
    return moved


cdef double place(object given, bptt_stage *stage, int64_t *nbytes) except -1:
    """Fill a stage; return its work, and raise the bytes of workspace of its one or two calls."""
    cdef Call first, second
    memset(stage, 0, sizeof(bptt_stage))
    if isinstance(given, Move):
        stage.op, stage.move = BPTT_MOVE, &(<Move>given).m
        return <double>stage.move.T * stage.move.B * stage.move.N
    first, second = given if isinstance(given, tuple) else (given, None)
    if first is None or (second is not None and second.op != first.op):
        raise ValueError("stages: expected moves, calls and pairs of calls of a kind")
    stage.op, stage.first = first.op, &first.p
    nbytes[0] = max(nbytes[0], plan(&first.p, first.op))
    if second is None:
        return work_of(&first.p)
    stage.second = &second.p
    nbytes[1] = max(nbytes[1], plan(&second.p, second.op))
    return work_of(&first.p) + work_of(&second.p)


def run(*stages):
    """Run calls, pairs of calls and moves one after the other, in one call of the library.

    The calls of a pair do not depend on one another, and run side by side where that is faster.
    """
    cdef int64_t n, count = len(stages)
    cdef int64_t[2] nbytes = [0, 0]
    cdef bptt_stage[8] few
    cdef bptt_stage *stage = few
    cdef Block many = None, first = None, second = None
    cdef double work = 0
    if count > 8:
        many = take_block(count * sizeof(bptt_stage))
        stage = <bptt_stage *>many.memory
    for n in range(count):
        work += place(stages[n], stage + n, nbytes)
    if nbytes[0]:
        first = take_block(nbytes[0])  # which all share, as one follows the other
    if nbytes[1]:
        second = take_block(nbytes[1])
    for n in range(count):
        lend(stage[n].first, first)
        lend(stage[n].second, second)
    carry_out(stage, count, work)


cdef int carry_out(const bptt_stage *stages, int64_t count, double work) except -1:
    """Run stages in so much work, and raise what comes of it."""
    cdef Interrupt interrupt = None  # only a long program asks
    cdef int (*ask)(void *) noexcept nogil
    cdef bptt_status status
    if work < SHORT_FLOPS:
        status = bptt_run(stages, count, NULL, NULL)
    else:
        ask = NULL
        if get_ident() == main_thread().ident:  # no other runs signal handlers, and a daemon may outlive Python
            interrupt, ask = Interrupt(), <int (*)(void *) noexcept nogil>poll
        with nogil:
            status = bptt_run(stages, count, ask, <void *>interrupt)
    if status == BPTT_INTERRUPTED:
        raise interrupt.error
    return raise_status(status)


cdef void lend(const bptt_problem *p, Block block) noexcept:
    cdef bptt_problem *borrower = <bptt_problem *>p
    if p != NULL and block is not None:
        borrower.workspace, borrower.workspace_bytes = block.memory, block.nbytes


@cython.final
cdef class Packed:
    """Weights packed for one variant; immutable."""
    cdef bptt_problem problem
    cdef Block block
    cdef readonly str variant
    cdef readonly int threads

    def __init__(self):
        raise TypeError("Packed objects are made by pack()")


def pack(Cell cell, int threads, tuple parameters):
    """Return a Packed copy of the parameters for the active variant; `threads` is what streams on it may use."""
    cdef Packed packed = Packed.__new__(Packed)
    cdef bptt_problem *p = &packed.problem
    fill_sizes(p, cell, parameters)
    p.threads = threads
    fill_parameters(p, parameters, False)
    packed.variant, packed.threads = active_variant(), threads
    p.variant = bptt_active_rank() + 1
    packed.block = new_block(p, BPTT_PACK)
    raise_status(bptt_pack(p, packed.block.memory))
    p.packed = packed.block.memory
    return packed


cdef int fill_steps(bptt_problem *p, object x) except -1:
    cdef cnp.ndarray sequence = checked(x, 3, "x")
    p.T, p.B = sequence.shape[0], sequence.shape[1]
    return 0


cdef int fill_forward(bptt_problem *p, x, h_0, c_0, output, h_n, c_n, cells, gates, lengths, resets, seed,
                      int64_t first_step, bint backward=False) except -1:
    fill_steps(p, x)
    fill_rows(p, 1, lengths, resets, None if seed is None else [seed], first_step)
    cdef int64_t state = p.B * p.H, row = p.B * width(p)
    if backward:
        p.x = take_rows(x, number_of(p.dtype), p.T, p.B, p.I, "x", &p.x_step, &p.x_row)
    else:
        p.x = take(x, p.dtype, p.T * p.B * p.I, "x")
    fill_states(p, 1, h_0, c_0)
    p.output = take(output, p.dtype, p.T * row, "output")
    p.h_n, p.c_n = take(h_n, p.dtype, row, "h_n"), take(c_n, p.dtype, state, "c_n")
    p.cells, p.gates = take(cells, p.dtype, p.T * state, "cells"), take(gates, p.dtype, 4 * p.T * state, "gates")
    return 0


cdef int fill_rows(bptt_problem *p, int64_t L, lengths, resets, list seeds, int64_t first_step) except -1:
    """How rows go through time, for all problems."""
    cdef int64_t n, half = (p.B + 1) // 2
    if seeds and len(seeds) != L:
        raise ValueError(f"seeds: expected one for each of {L} layers, got {len(seeds)}")
    p.lengths = <const int64_t *>take_as(lengths, cnp.NPY_INT64, p.B, "lengths")
    p.dealt = p.lengths != NULL and half < p.B and p.lengths[half] > p.lengths[half - 1]
    p.resets = <const uint8_t *>take_as(resets, cnp.NPY_BOOL, p.T * p.B, "resets")
    for n in range(L):
        p[n].lengths, p[n].dealt, p[n].resets, p[n].first_step = p.lengths, p.dealt, p.resets, first_step
        if seeds:
            p[n].draws, p[n].seed = 1, seeds[n]
    return 0


cdef int fill_states(bptt_problem *p, int64_t L, h_0, c_0) except -1:
    cdef int64_t n, row = p.B * width(p), state = p.B * p.H
    cdef void *h = take(h_0, p.dtype, L * row, "h_0")
    cdef void *c = take(c_0, p.dtype, L * state, "c_0")
    for n in range(L):
        p[n].h_0, p[n].c_0 = at(h, n, row, real_bytes(p)), at(c, n, state, real_bytes(p))
    return 0


cdef void *data_of(array) noexcept:
    """Address of an array made here, which may not be there."""
    return NULL if array is None else cnp.PyArray_DATA(array)


def forward_call(Cell cell, int threads, parameters, Packed packed, x, h_0, c_0, output, h_n, c_n, cells, gates,
                 lengths=None, resets=None, seed=None, int64_t first_step=0, x_order=None, copy=None, copy_order=None):
    """Return the call that runs a sequence.

    It fills output (T,B,W), h_n (B,W), c_n (B,H) and, for training, cells (T,B,H), gates (T,B,4,H); W is P with a
    projection, else H. Dropout of h and zoneout draw from `seed`, if there is one; `first_step` steps of the sequence
    came before. With lengths row b of x may stand at row x_order[b], and the output is written to `copy` (T,B,W) again,
    row b at row copy_order[b]; for inference `output` may then be None.
    """
    cdef Call call = Call.__new__(Call)
    cdef bptt_problem *p = &call.p
    if packed is None:
        fill_sizes(p, cell, parameters)
        fill_parameters(p, parameters, False)
    else:
        p[0] = packed.problem
    p.threads = threads
    fill_forward(p, x, h_0, c_0, output, h_n, c_n, cells, gates, lengths, resets, seed, first_step)
    p.copy = take(copy, p.dtype, p.T * p.B * width(p), "copy")
    p.x_order = <const int64_t *>take_as(x_order, cnp.NPY_INT64, p.B, "x_order")
    p.copy_order = <const int64_t *>take_as(copy_order, cnp.NPY_INT64, p.B, "copy_order")
    call.op = BPTT_FORWARD
    call.held = (parameters, packed, x, h_0, c_0, output, h_n, c_n, cells, gates, lengths, resets, x_order, copy,
                 copy_order)
    return call


cdef int fill_way(bptt_problem *p, double *bounds, tuple step_clip, tuple truncate) except -1:
    """How errors go back; `bounds` are to stay as long as the problem."""
    if truncate is not None:
        p.truncate_every, p.truncate_depth = truncate
    if step_clip is not None:
        bounds[0], bounds[1], bounds[2] = step_clip
        p.step_clip = bounds
    return 0


def backward_call(Cell cell, int threads, tuple parameters, x, h_0, c_0, output, cells, gates, d_output, d_h_n, d_c_n,
                  d_x, d_h_0, d_c_0, tuple d_parameters, d_hidden, d_cells, lengths=None, resets=None, seed=None,
                  int64_t first_step=0, tuple step_clip=None, clipped=None, norms=None, bint accumulate=False,
                  tuple truncate=None, Sums sums=None):
    """Return the call that backpropagates.

    Steps and rows of x and d_output may lie apart, or go downwards. It fills d_x, d_h_0, d_c_0, d_parameters and, if
    given, d_hidden (T,B,W), d_cells (T,B,H). step_clip: bounds of hidden, cell, gates; clipped (T,B,3) int64: how many
    elements were held at them; norms (T,B,2) float64: those of the rows of d_hidden and d_cells; accumulate:
    d_parameters are added to; truncate: k1 and k2, no larger than k1; sums: what the call for the steps that follow
    left, where d_parameters are to be those of one call.
    """
    cdef Call call = Call.__new__(Call)
    cdef bptt_problem *p = &call.p
    fill_sizes(p, cell, parameters)
    p.threads = threads
    fill_parameters(p, parameters, False)
    fill_parameters(p, d_parameters, True)
    fill_forward(p, x, h_0, c_0, output, None, None, cells, gates, lengths, resets, seed, first_step, True)
    cdef int64_t state = p.B * p.H, row = p.B * width(p), tokens = p.T * p.B
    p.d_output = take_rows(d_output, number_of(p.dtype), p.T, p.B, width(p), "d_output", &p.d_output_step,
                           &p.d_output_row)
    p.d_h_n, p.d_c_n = take(d_h_n, p.dtype, row, "d_h_n"), take(d_c_n, p.dtype, state, "d_c_n")
    p.d_x = take(d_x, p.dtype, tokens * p.I, "d_x")
    p.d_h_0, p.d_c_0 = take(d_h_0, p.dtype, row, "d_h_0"), take(d_c_0, p.dtype, state, "d_c_0")
    p.d_hidden = take(d_hidden, p.dtype, p.T * row, "d_hidden")
    p.d_cells = take(d_cells, p.dtype, p.T * state, "d_cells")
    p.clipped = <int64_t *>take_as(clipped, cnp.NPY_INT64, 3 * tokens, "clipped")
    p.norms = <double *>take_as(norms, cnp.NPY_FLOAT64, 2 * tokens, "norms")
    p.accumulate = accumulate
    fill_way(p, call.bounds, step_clip, truncate)
    if sums is not None:
        sums.lend(p)
    call.op = BPTT_BACKWARD
    call.held = (parameters, x, h_0, c_0, output, cells, gates, d_output, d_h_n, d_c_n, d_x, d_h_0, d_c_0, d_parameters,
                 d_hidden, d_cells, lengths, resets, clipped, norms, sums)
    return call


def forward(*arguments, **more):
    """Make and run a forward_call()."""
    run(forward_call(*arguments, **more))


def backward(*arguments, **more):
    """Make and run a backward_call()."""
    run(backward_call(*arguments, **more))


cdef object array_of(const bptt_problem *p, int axes, int64_t a, int64_t b, int64_t c, int64_t d=1, int64_t e=1):
    """Return a new array of the dtype of a problem with so many axes, of these lengths."""
    cdef cnp.npy_intp[5] shape = [a, b, c, d, e]
    return new_array(axes, shape, number_of(p.dtype), a * b * c * d * e * real_bytes(p))


cdef Block layers_of(Cell cell, int threads, list parameters, list packs, x, bptt_problem **first):
    """Return the memory of problems, one after another, with sizes and weights of the layers of a stack."""
    cdef int64_t n, L = len(parameters if packs is None else packs)
    cdef Block block = take_block(L * sizeof(bptt_problem) + (L + 2) * sizeof(bptt_stage))
    cdef bptt_problem *p = <bptt_problem *>block.memory
    if L == 0:
        raise ValueError("parameters: expected at least one layer")
    first[0] = p
    for n in range(L):
        if packs is None:
            fill_sizes(p + n, cell, parameters[n])
            fill_parameters(p + n, parameters[n], False)
        elif isinstance(packs[n], Packed):
            p[n] = (<Packed>packs[n]).problem
        else:
            raise TypeError(f"packs: expected what pack() returns, got {type(packs[n]).__name__}")
        p[n].threads = threads
        fill_steps(p + n, x)
        if n and (p[n].I != width(p) or p[n].H != p.H or p[n].P != p.P or p[n].dtype != p.dtype):
            raise ValueError(f"layer {n}: expected the sizes and the dtype of the first, and its width as inputs")
    return block


cdef int run_layers(bptt_problem *p, int64_t L, bptt_op op, const bptt_move *before, const bptt_move *after) except -1:
    """Run the problems that `layers_of` gave, backward from the last, and moves before and after them."""
    cdef bptt_stage *stages = <bptt_stage *>(p + L)
    cdef bptt_stage *stage = stages
    cdef Block workspace
    cdef int64_t n, most = 0
    cdef double work = 0
    if p.B == 0:
        return 0  # there is nothing to fill, however many steps
    memset(stages, 0, (L + 2) * sizeof(bptt_stage))
    if before.to != NULL:
        stage.op, stage.move = BPTT_MOVE, before
        stage += 1
    for n in range(L):
        stage.op, stage.first = op, p + (n if op == BPTT_FORWARD else L - 1 - n)
        stage += 1
        most, work = max(most, plan(p + n, op)), work + work_of(p + n)
    workspace = take_block(most)
    for n in range(L):
        lend(p + n, workspace)
    if after != NULL and after.to != NULL:
        stage.op, stage.move = BPTT_MOVE, after
        stage += 1
    return carry_out(stages, stage - stages, work)


cdef void fill_move(bptt_move *m, const bptt_problem *p, int64_t N, void *to, void *source, const int64_t *order,
                    bint back) noexcept:
    """The move of a sequence (T,B,N) into an order of its rows, or back; without `to` there is none."""
    memset(m, 0, sizeof(bptt_move))
    m.T, m.B, m.N, m.kind, m.threads = p.T, p.B, N, p.dtype, p.threads
    m.to_step = m.from_step = p.B * N
    m.to_row = m.from_row = N
    m.to, m.source, m.order, m.back, m.lengths = to, source, order, back, p.lengths


def forward_layers(Cell cell, int threads, list parameters, list packs, x, h_0, c_0, bint keep, lengths=None,
                   resets=None, list seeds=None, int64_t first_step=0, order=None):
    """Run a sequence through a stack of layers in one direction, into new arrays.

    Returns the output (T,B,W), h_n (L,B,W) and c_n (L,B,H), and to `keep` for the backward pass x, outputs (L,T,B,W),
    cells (L,T,B,H) and gates (L,T,B,4,H); None for what the cell does not have or is not kept. The arguments are those
    of `forward_call`, lists those of the layers. With lengths row b may stand at row order[b] of x and of the output; of
    all else, what is kept of x too, rows stand as they run.
    """
    cdef bptt_problem *p
    cdef bptt_problem *q
    cdef bptt_move before
    cdef Block block = layers_of(cell, threads, parameters, packs, x, &p), between = None
    cdef int64_t n, L = len(parameters if packs is None else packs), T = p.T, B = p.B, H = p.H, W = width(p)
    cdef int64_t nbytes = real_bytes(p)
    cdef const int64_t *places = <const int64_t *>take_as(order, cnp.NPY_INT64, B, "order")
    cdef char *outputs
    hidden = c_n = cells = gates = None
    h_n = array_of(p, 3, L, B, W)
    if p.cell == BPTT_LSTM:
        c_n = array_of(p, 3, L, B, H)
        cells = array_of(p, 4, L, T, B, H) if keep else None
    if keep and p.cell != BPTT_RNN:
        gates = array_of(p, 5, L, T, B, 4, H)
    fill_rows(p, L, lengths, resets, seeds, first_step)
    fill_states(p, L, h_0, c_0)
    p.x = take(x, p.dtype, T * B * p.I, "x")
    fill_move(&before, p, p.I, NULL, p.x, places, False)
    if keep:
        hidden = array_of(p, 4, L, T, B, W)
        output = hidden[L - 1] if order is None else array_of(p, 3, T, B, W)
        outputs = <char *>cnp.PyArray_DATA(hidden)
        if order is not None:
            x = array_of(p, 3, T, B, p.I)
            p.x = before.to = data_of(x)
    else:
        output = array_of(p, 3, T, B, W)
        if L > 1:
            between = take_block(min(L - 1, 2) * T * B * W * nbytes)
        outputs = NULL if between is None else <char *>between.memory
        p.x_order = places
    for n in range(L):
        q = p + n
        q.h_n, q.c_n = at(cnp.PyArray_DATA(h_n), n, B * W, nbytes), at(data_of(c_n), n, B * H, nbytes)
        q.cells, q.gates = at(data_of(cells), n, T * B * H, nbytes), at(data_of(gates), n, 4 * T * B * H, nbytes)
        q.output = at(outputs, n if keep else n % 2, T * B * W, nbytes)
        if n:
            q.x = p[n - 1].output
    if order is not None:
        q.copy, q.copy_order = data_of(output), places
    if not keep:
        q.output = data_of(output) if order is None else NULL
    run_layers(p, L, BPTT_FORWARD, &before, NULL)
    return output, h_n, c_n, x if keep else None, hidden, cells, gates


def backward_layers(Cell cell, int threads, list parameters, x, h_0, c_0, hidden, cells, gates, d_output, d_h_n, d_c_n,
                    bint of_x, flat, lengths=None, resets=None, list seeds=None, int64_t first_step=0,
                    tuple step_clip=None, tuple truncate=None, d_hidden=None, d_cells=None, clipped=None, norms=None,
                    order=None):
    """Backpropagate through a stack of layers in one direction, into new arrays.

    Takes what `forward_layers` kept. Returns d_x (T,B,I), or None unless `of_x`, d_h_0 (L,B,W) and d_c_0 (L,B,H), None
    where there is no cell state; and fills `flat`, the gradients of all parameters one after the other, and what else is
    given of what `backward_call` takes, with a first axis of layers; without rows it fills nothing. With an order row b
    stands at row order[b] of d_output and d_x; of all else rows stand as they run.
    """
    cdef bptt_problem *p
    cdef bptt_problem *q
    cdef bptt_move before, after
    cdef double[3] bounds
    cdef Block block = layers_of(cell, threads, parameters, None, x, &p), between = None, moved = None, ran = None
    cdef int64_t n, L = len(parameters), T = p.T, B = p.B, H = p.H, W = width(p), nbytes = real_bytes(p), count = 0
    cdef int64_t state = L * B * H, row = L * B * W
    cdef const int64_t *places = <const int64_t *>take_as(order, cnp.NPY_INT64, B, "order")
    cdef void *given[9]
    cdef char *start
    fill_rows(p, L, lengths, resets, seeds, first_step)
    p.x = take_rows(x, number_of(p.dtype), T, B, p.I, "x", &p.x_step, &p.x_row)
    fill_states(p, L, h_0, c_0)
    d_x = array_of(p, 3, T, B, p.I) if of_x else None
    d_h_0, d_c_0 = array_of(p, 3, L, B, W), array_of(p, 3, L, B, H) if p.cell == BPTT_LSTM else None
    if L > 1:
        between = take_block(min(L - 1, 2) * T * B * W * nbytes)
    for n in range(L):
        count += fill_flat(p + n, NULL)
    start = <char *>take(checked(flat, 1, "flat"), p.dtype, count, "flat")
    given[:] = [take(hidden, p.dtype, T * row, "hidden"), take(cells, p.dtype, T * state, "cells"),
                take(gates, p.dtype, 4 * T * state, "gates"), take(d_h_n, p.dtype, row, "d_h_n"),
                take(d_c_n, p.dtype, state, "d_c_n"), take(d_hidden, p.dtype, T * row, "d_hidden"),
                take(d_cells, p.dtype, T * state, "d_cells"), take_as(clipped, cnp.NPY_INT64, 3 * L * T * B, "clipped"),
                take_as(norms, cnp.NPY_FLOAT64, 2 * L * T * B, "norms")]
    for n in range(L):
        q = p + n
        q.output, q.cells = at(given[0], n, T * B * W, nbytes), at(given[1], n, T * B * H, nbytes)
        q.gates = at(given[2], n, 4 * T * B * H, nbytes)
        q.d_h_n, q.d_c_n = at(given[3], n, B * W, nbytes), at(given[4], n, B * H, nbytes)
        q.d_hidden, q.d_cells = at(given[5], n, T * B * W, nbytes), at(given[6], n, T * B * H, nbytes)
        q.clipped, q.norms = <int64_t *>at(given[7], n, 3 * T * B, 8), <double *>at(given[8], n, 2 * T * B, 8)
        q.d_h_0, q.d_c_0 = at(cnp.PyArray_DATA(d_h_0), n, B * W, nbytes), at(data_of(d_c_0), n, B * H, nbytes)
        start += fill_flat(q, start) * nbytes
        if n:  # its errors at x are those of the layer below
            q.x, q.d_x = p[n - 1].output, at(between.memory, n % 2 if L > 2 else 0, T * B * W, nbytes)
            p[n - 1].d_output = q.d_x
        fill_way(q, bounds, step_clip, truncate)
    p.d_x = data_of(d_x)
    q.d_output = take_rows(d_output, number_of(p.dtype), T, B, W, "d_output", &q.d_output_step, &q.d_output_row)
    fill_move(&before, p, W, NULL, q.d_output, places, False)
    fill_move(&after, p, p.I, NULL, NULL, places, True)
    if order is not None and d_output is not None:
        moved = take_block(T * B * W * nbytes)
        before.from_step, before.from_row = q.d_output_step, q.d_output_row
        q.d_output = before.to = moved.memory
        q.d_output_step = q.d_output_row = 0
    if order is not None and of_x:
        ran = take_block(T * B * p.I * nbytes)
        after.source, after.to = ran.memory, p.d_x
        p.d_x = ran.memory
    run_layers(p, L, BPTT_BACKWARD, &before, &after)
    return d_x, d_h_0, d_c_0


def row_norms(int threads, x):
    """Return the Euclidean norms (..) of x (.., N) along its last axis, float64."""
    if not cnp.PyArray_Check(x) or x.ndim == 0 or x.dtype.num not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
        raise TypeError(f"x: expected float32 or float64 with an axis, got {getattr(x, 'dtype', type(x))}")
    cdef bptt_dtype dtype = BPTT_F32 if x.dtype.num == cnp.NPY_FLOAT32 else BPTT_F64
    cdef const void *data = take(x, dtype, x.size, "x")
    cdef cnp.ndarray found = cnp.PyArray_EMPTY(x.ndim - 1, cnp.PyArray_DIMS(x), cnp.NPY_FLOAT64, 0)
    cdef double *filled = <double *>cnp.PyArray_DATA(found)
    cdef int64_t rows = found.size, n = x.shape[x.ndim - 1]
    cdef bptt_status status
    with nogil:
        status = bptt_norms(data, dtype, rows, n, threads, filled)
    raise_status(status)
    return found


def flow(norms, int state):
    """Return norms over all rows (2,N,T), of norms (N,T,B,2), and the slopes (N) over steps of the logarithms of those
    of a state: 0, h, or 1, c.

    A slope is NaN where not all norms are positive and finite, or there are no two.
    """
    if not cnp.PyArray_Check(norms) or norms.ndim != 4 or norms.shape[3] != 2:
        raise ValueError(f"norms: expected shape (N, T, B, 2), got {getattr(norms, 'shape', type(norms))}")
    cdef cnp.ndarray given = norms
    cdef const double *data = <const double *>take(norms, BPTT_F64, given.size, "norms")
    cdef cnp.npy_intp[3] dims = [2, given.shape[0], given.shape[1]]
    cdef cnp.ndarray totals = cnp.PyArray_EMPTY(3, dims, cnp.NPY_FLOAT64, 0)
    cdef cnp.ndarray slopes = cnp.PyArray_EMPTY(1, dims + 1, cnp.NPY_FLOAT64, 0)
    raise_status(bptt_flow(data, dims[1], dims[2], given.shape[2], state,
                           <double *>cnp.PyArray_DATA(totals), <double *>cnp.PyArray_DATA(slopes)))
    return totals, slopes


@cython.final
cdef class Stream:
    """One step at a time through all layers, from states h (L,B,W), c (L,B,H) that are updated in place.

    `packs` are the weights of the layers, first to last; batch_size 0: unbatched, x (I,).
    """
    cdef Block block, program, hidden  # the problems; their stages; outputs of layers below the last
    cdef bptt_problem *problems
    cdef bptt_stage *stages
    cdef object packs, workspaces, h, c, x_shape, out_shape
    cdef int type_num, ndim, busy, layers
    cdef int64_t width
    cdef cnp.npy_intp out_dims[2]
    cdef double flops

    def __init__(self, tuple packs, int64_t batch_size, h, c):
        cdef bptt_problem *p
        cdef Packed packed = packs[0]
        cdef Block workspace
        cdef int64_t row = 0
        cdef int n
        self.packs, self.layers, self.h, self.c, self.workspaces = packs, len(packs), h, c, []
        self.block = take_block(self.layers * sizeof(bptt_problem))
        self.problems = p = <bptt_problem *>self.block.memory
        self.program = take_block(self.layers * sizeof(bptt_stage))
        self.stages = <bptt_stage *>self.program.memory
        memset(self.stages, 0, self.layers * sizeof(bptt_stage))
        self.type_num = number_of(packed.problem.dtype)
        for n, packed in enumerate(packs):
            p = self.problems + n
            self.stages[n].op, self.stages[n].first = BPTT_FORWARD, p
            p[0] = packed.problem
            p.T, p.B, p.split, p.hoist = 1, h.shape[1], hint.split, hint.hoist
            p.h_0 = p.h_n = take(h[n], p.dtype, p.B * width(p), "h")
            p.c_0 = p.c_n = take(None if c is None else c[n], p.dtype, p.B * p.H, "c")
            workspace = scratch(p, BPTT_FORWARD)
            self.workspaces.append(workspace)
            self.flops += work_of(p)
            if n:
                p.x = self.problems[n - 1].output
            if n + 1 < self.layers:
                if n == 0:
                    row = p.B * width(p) * <int64_t>h.itemsize
                    self.hidden = take_block((self.layers - 1) * row)
                p.output = <char *>self.hidden.memory + n * row
        self.width = width(p)
        self.ndim = 2 if batch_size else 1
        self.x_shape = (p.B, self.problems.I)[2 - self.ndim:]
        self.out_shape = (p.B, self.width)[2 - self.ndim:]
        self.out_dims[0], self.out_dims[1] = (p.B if batch_size else self.width), self.width

    def step(self, x, out=None):
        """Advance by one step: x (B,I) or (I,) to a new array, or `out`, (B,W) or (W,)."""
        cdef bptt_status status
        if not self.ready(x, self.problems.B if self.ndim == 2 else self.problems.I, self.problems.I):
            x = self.converted(x)
        if out is None:
            out = cnp.PyArray_EMPTY(self.ndim, self.out_dims, self.type_num, 0)
        else:
            self.check_out(x, out)
        if self.busy:
            raise RuntimeError("Stream.step: another thread is inside a step of this stream")
        self.problems[0].x, self.problems[self.layers - 1].output = cnp.PyArray_DATA(x), cnp.PyArray_DATA(out)
        if self.flops < SHORT_FLOPS:
            status = self.advance()
        else:
            self.busy = 1
            with nogil:
                status = self.advance()
            self.busy = 0
        raise_status(status)
        return out

    cdef bptt_status advance(self) noexcept nogil:
        cdef int n
        cdef bptt_status status = bptt_run(self.stages, self.layers, NULL, NULL)
        for n in range(self.layers):
            self.problems[n].first_step += 1
        return status

    cdef bint ready(self, object array, int64_t first, int64_t last) noexcept:
        """Whether an array can be read as it is."""
        if not cnp.PyArray_CheckExact(array):
            return False
        cdef cnp.ndarray a = array
        cdef cnp.npy_intp *shape = cnp.PyArray_DIMS(a)
        return (cnp.PyArray_TYPE(a) == self.type_num and cnp.PyArray_NDIM(a) == self.ndim and shape[0] == first
                and shape[self.ndim - 1] == last and cnp.PyArray_ISCARRAY_RO(a))

    cdef object converted(self, object x):
        array = cnp.PyArray_FROM_O(x)
        if array.dtype.newbyteorder("=").num not in (self.type_num, cnp.NPY_FLOAT32):
            raise TypeError(f"x: expected {self.h.dtype}, the dtype of the engine, got {array.dtype}")
        if array.shape != self.x_shape:
            raise ValueError(f"x: expected shape {self.x_shape}, got {array.shape}")
        return cnp.PyArray_FROM_OTF(array.astype(self.h.dtype), self.type_num, cnp.NPY_ARRAY_CARRAY_RO)

    cdef int check_out(self, object x, object out) except -1:
        """Raise unless a step from `x` can write its output to `out`."""
        if not cnp.PyArray_CheckExact(out) or cnp.PyArray_TYPE(out) != self.type_num:
            raise TypeError(f"out: expected an array of {self.h.dtype}, got {getattr(out, 'dtype', type(out))}")
        if out.shape != self.out_shape:
            raise ValueError(f"out: expected shape {self.out_shape}, got {out.shape}")
        if not cnp.PyArray_ISCARRAY(out):
            raise ValueError("out: expected a writable, C-contiguous, aligned array")
        for other in (x, self.h, self.c):
            if other is not None and overlap(out, other):
                raise ValueError("out: overlaps the input or the state of the stream")
        return 0


cdef bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef char *start = <char *>cnp.PyArray_DATA(a)
    cdef char *other = <char *>cnp.PyArray_DATA(b)
    return start < other + cnp.PyArray_NBYTES(b) and other < start + cnp.PyArray_NBYTES(a)


def variants():
    """Return the names of the variants that this machine has, best first; a process may be refused one."""
    names = []
    cdef const char *name = bptt_variant_name(0)
    while name != NULL:
        names.append(name.decode())
        name = bptt_variant_name(len(names))
    return tuple(names)


def active_variant():
    """Return the name of the variant that calls use."""
    cdef const char *name = bptt_active_variant()
    if name == NULL:
        raise ValueError(bptt_status_text(BPTT_BAD_VARIANT).decode())
    return name.decode()


def use_variant(str name):
    """Make calls use that variant."""
    if bptt_use_variant(name.encode()) != BPTT_OK:
        if name in variants():
            raise ValueError(f"name: {name!r} cannot run here, as the system refuses this process its registers")
        raise ValueError(f"name: no variant {name!r} on this machine, only {', '.join(variants())}")


def plan_hint(int split=0, int hoist=0):
    """Make calls, and streams made from now on, divide work so: bptt_split, bptt_hoist; 0: the cost model chooses."""
    hint.split, hint.hoist = split, hoist


def measure(str kind, int threads=1, int64_t nbytes=0):
    """Return a ceiling of the machine: GFLOP/s (fma32, fma64) or GB/s (read) of all threads, or ns (barrier, region)."""
    cdef bptt_ceiling what = {"fma32": BPTT_FMA, "fma64": BPTT_FMA, "read": BPTT_READ,
                              "barrier": BPTT_BARRIER, "region": BPTT_REGION}[kind]
    cdef bptt_dtype dtype = BPTT_F64 if kind == "fma64" else BPTT_F32
    cdef cnp.npy_intp size = nbytes + 64
    cdef bptt_status status
    cdef double result = 0
    memory = cnp.PyArray_EMPTY(1, &size, cnp.NPY_UINT8, 0)
    cdef char *data = <char *>cnp.PyArray_DATA(memory)
    data += -<intptr_t>data & 63  # vectors that cross lines of cache would read half as fast
    with nogil:
        status = bptt_measure(what, dtype, threads, data, nbytes, &result)
    raise_status(status)
    return result


def build_info():
    """Return how this module was built."""
    return {"compiler": BPTT_COMPILER.decode(), "flags": BPTT_FLAGS.decode(), "openmp": bool(bptt_has_openmp())}
