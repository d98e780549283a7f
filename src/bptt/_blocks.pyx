# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""Memory of outputs, tapes, gradients and scratch, used again by the next call.

A training step touches megabytes that were free a moment ago. Had from the system anew, each 4 KB page of them costs
0.1 to 4 us before the first number is written (measured; virtual machines are slow at it), which is more than the
arithmetic on it. So a block that nobody needs any more is kept for the calls that follow, up to a bound, and goes back
to the system when 256 others have been taken since. Four times as much is kept above the bound, but lent to the system,
which takes it when it runs short (MADV_FREE, Linux).
"""

import os

cimport cython
cimport numpy as cnp
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from libc.stdint cimport int64_t, uintptr_t

cnp.import_array()

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/mman.h>
    #endif
    #if defined(MADV_HUGEPAGE)
    #define advise_huge(memory, nbytes) ((void)madvise(memory, nbytes, MADV_HUGEPAGE))
    #else
    #define advise_huge(memory, nbytes) ((void)(memory), (void)(nbytes))
    #endif
    #if defined(__linux__) && !defined(MADV_FREE)
    #define MADV_FREE 8 /* from Linux 4.5 on; before, it fails */
    #endif
    #if defined(__linux__)
    #define lend(memory, nbytes) (madvise(memory, nbytes, MADV_FREE) == 0)
    #else
    #define lend(memory, nbytes) ((void)(memory), (void)(nbytes), 0)
    #endif
    """
    void advise_huge(void *memory, size_t nbytes) nogil
    bint lend(void *memory, size_t nbytes) nogil

cdef enum:
    ALIGNMENT = 64
    HUGE = 2097152  # bytes of a huge page
    PIECES = 64  # kept at most
    AGE = 256  # blocks taken since, after which a piece goes back
    LENT = 4  # times the bound are kept above it
    SMALL = 16384  # bytes below which an array is NumPy's own: the heap has them without new pages

cdef struct Piece:
    void *start
    int64_t nbytes
    int64_t born
    bint lent

cdef Piece kept[PIECES]
cdef int count = 0
cdef int64_t kept_bytes = 0
cdef int64_t lent_bytes = 0
cdef int64_t taken = 0
cdef int64_t most_bytes = 0
cdef cython.pymutex mutex  # over the six above, which a build without GIL needs


def keep(megabytes):
    """Keep at most so much memory for later calls; what is above is lent or goes back to the system."""
    global most_bytes
    with mutex:
        most_bytes = <int64_t>(megabytes * 1000000.0)
        trim(most_bytes)
        trim_lent(LENT * most_bytes)


def kept_memory():
    """Return the bytes that are kept for later calls, without what is lent."""
    return kept_bytes


def empty(tuple shape, dtype):
    """Return a new C-contiguous array, its content whatever the memory held, as `numpy.empty`."""
    cdef cnp.dtype kind = dtype if isinstance(dtype, cnp.dtype) else cnp.dtype(dtype)
    cdef cnp.npy_intp sizes[8]
    cdef int64_t nbytes = kind.itemsize
    cdef int n = read_shape(shape, sizes, &nbytes)
    return new_array(n, sizes, kind.num, nbytes)


def empty_vector(cnp.npy_intp count, dtype):
    """Return a new vector that starts at a cache line, its content whatever the memory held."""
    cdef cnp.dtype kind = dtype if isinstance(dtype, cnp.dtype) else cnp.dtype(dtype)
    return on_block(1, &count, kind.num, count * kind.itemsize)


cdef int read_shape(tuple shape, cnp.npy_intp *sizes, int64_t *numbers) except -1:
    """Return how many dimensions there are; at most 8."""
    cdef int n = 0
    if len(shape) > 8:
        raise ValueError(f"shape: expected at most 8 dimensions, got {len(shape)}")
    for size in shape:
        sizes[n] = size
        numbers[0] *= sizes[n]  # the caller has checked that the product is small enough
        n += 1
    return n


def carve(cnp.ndarray flat not None, shapes):
    """Return views of a contiguous vector, one after the other, of these shapes; together they hold no more numbers."""
    cdef list found = []
    cdef cnp.npy_intp sizes[8]
    cdef int64_t numbers, left = cnp.PyArray_SIZE(flat)
    cdef char *start = <char *>cnp.PyArray_DATA(flat)
    cdef int n, type_num = cnp.PyArray_TYPE(flat)
    if type_num not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64) or not cnp.PyArray_ISCARRAY_RO(flat):
        raise ValueError("flat: expected contiguous float32 or float64")
    for shape in shapes:
        numbers = 1
        n = read_shape(tuple(shape), sizes, &numbers)
        left -= numbers
        if left < 0 or numbers < 0:
            raise ValueError(f"shapes: expected no more numbers than the {flat.size} of flat")
        view = cnp.PyArray_SimpleNewFromData(n, sizes, type_num, start)
        cnp.set_array_base(view, flat)
        if not cnp.PyArray_ISWRITEABLE(flat):
            cnp.PyArray_CLEARFLAGS(view, cnp.NPY_ARRAY_WRITEABLE)
        found.append(view)
        start += numbers * cnp.PyArray_ITEMSIZE(flat)
    return found


def array_at(uintptr_t address, shape, bint double_precision, owner):
    """Return the C-contiguous array of float64 or float32 that lies there; it keeps `owner`, whose memory that is."""
    cdef cnp.npy_intp sizes[8]
    cdef int64_t numbers = 1
    cdef int n = read_shape(tuple(shape), sizes, &numbers)
    cdef int type_num = cnp.NPY_FLOAT64 if double_precision else cnp.NPY_FLOAT32
    if numbers == 0:
        return cnp.PyArray_EMPTY(n, sizes, type_num, 0)
    if address == 0:
        raise ValueError("address: expected memory, got none")
    array = cnp.PyArray_SimpleNewFromData(n, sizes, type_num, <void *>address)
    cnp.set_array_base(array, owner)
    return array


cdef object new_array(int ndim, cnp.npy_intp *shape, int type_num, int64_t nbytes):
    """Return a new array of so many bytes, as `empty` does."""
    if nbytes < SMALL:
        return cnp.PyArray_EMPTY(ndim, shape, type_num, 0)
    return on_block(ndim, shape, type_num, nbytes)


cdef object on_block(int ndim, cnp.npy_intp *shape, int type_num, int64_t nbytes):
    cdef Block block = take_block(nbytes)
    array = cnp.PyArray_SimpleNewFromData(ndim, shape, type_num, block.memory)
    cnp.set_array_base(array, block)
    return array


@cython.final
cdef class Block:
    """Some memory; kept for later calls when it is no longer needed."""

    def __dealloc__(self):
        if self.passing:
            PyMem_RawFree(self.start)
        elif self.start != NULL:
            with mutex:
                give(self.start, self.nbytes)


cdef Block take_block(int64_t nbytes):
    """Return a block of at least so many bytes."""
    cdef Block block = Block.__new__(Block)
    cdef int fresh = False
    cdef int64_t asked = nbytes
    nbytes = rounded(nbytes)
    with mutex:
        block.start = find(&nbytes)
    cdef int64_t alignment = alignment_of(nbytes)
    if block.start == NULL:
        fresh = True
        block.start = PyMem_RawMalloc(nbytes + alignment)
    if block.start == NULL:
        with mutex:
            while count:
                PyMem_RawFree(take_out(0))
        block.passing = True
        nbytes, alignment = asked, ALIGNMENT  # nothing for comfort
        block.start = PyMem_RawMalloc(nbytes + alignment)
    if block.start == NULL:
        raise MemoryError(f"no {asked} bytes of memory")
    block.nbytes = nbytes
    block.memory = aligned(block.start, alignment)
    if fresh and alignment == HUGE:
        advise_huge(block.memory, nbytes)
    return block


cdef int64_t alignment_of(int64_t nbytes) noexcept:
    return HUGE if nbytes >= HUGE else ALIGNMENT


cdef void *aligned(void *start, int64_t alignment) noexcept:
    return <void *>((<uintptr_t>start + alignment - 1) & ~<uintptr_t>(alignment - 1))


cdef int64_t rounded(int64_t nbytes) noexcept:
    """Up by an eighth at most, so that nearly equal sizes share their blocks."""
    cdef int64_t unit = 4096
    if nbytes >= HUGE // 2:
        unit = HUGE
    while unit * 16 < nbytes:
        unit *= 2
    return (nbytes + unit - 1) // unit * unit


cdef void *find(int64_t *nbytes) noexcept:
    """Take out the smallest piece that is large enough, and not much larger: of equal ones the newest, which may still be
    in a cache."""
    global taken
    cdef int best = -1
    taken += 1
    for n in range(count):
        if kept[n].nbytes >= nbytes[0] and (best < 0 or kept[n].nbytes <= kept[best].nbytes):
            best = n
    if best < 0 or kept[best].nbytes > nbytes[0] + nbytes[0] // 2:
        expire()
        return NULL
    nbytes[0] = kept[best].nbytes
    return take_out(best)


cdef void *take_out(int n) noexcept:
    """Pieces stand in the order of their birth."""
    global count, kept_bytes, lent_bytes
    cdef void *start = kept[n].start
    if kept[n].lent:
        lent_bytes -= kept[n].nbytes
    else:
        kept_bytes -= kept[n].nbytes
    count -= 1
    for later in range(n, count):
        kept[later] = kept[later + 1]
    return start


cdef void expire() noexcept:
    while count and taken - kept[0].born > AGE:
        PyMem_RawFree(take_out(0))


cdef void trim(int64_t nbytes) noexcept:
    """Lend the oldest pieces, or let them go, until no more than so many bytes are kept."""
    while kept_bytes > nbytes:
        let_go(oldest(False))


cdef void trim_lent(int64_t nbytes) noexcept:
    while lent_bytes > nbytes:
        PyMem_RawFree(take_out(oldest(True)))


cdef int oldest(bint lent) noexcept:
    """Which of them is; there is one."""
    cdef int n = 0
    while kept[n].lent != lent:
        n += 1
    return n


cdef void let_go(int n) noexcept:
    """Lend a piece of whole huge pages to the system, if it takes it and there is room for it; else free it."""
    global kept_bytes, lent_bytes
    cdef int64_t nbytes = kept[n].nbytes
    if nbytes < HUGE or nbytes > LENT * most_bytes or not lend(aligned(kept[n].start, alignment_of(nbytes)), nbytes):
        PyMem_RawFree(take_out(n))
        return
    kept[n].lent = True
    kept_bytes -= nbytes
    lent_bytes += nbytes
    trim_lent(LENT * most_bytes)


cdef void give(void *start, int64_t nbytes) noexcept:
    global count, kept_bytes
    expire()
    if nbytes <= most_bytes:
        trim(most_bytes - nbytes)
    if count == PIECES:
        PyMem_RawFree(take_out(0))
    kept[count] = Piece(start, nbytes, taken, False)
    count += 1
    kept_bytes += nbytes
    if nbytes > most_bytes:
        let_go(count - 1)


def keep_what_the_environment_says():
    """Read BPTT_KEEP_MB: megabytes, 256 by default, 0 for none."""
    text = os.environ.get("BPTT_KEEP_MB") or "256"
    try:
        megabytes = float(text)
    except ValueError:
        megabytes = -1.0
    if not 0 <= megabytes <= 1e6:
        raise ValueError(f"BPTT_KEEP_MB: expected megabytes, 0 to 1000000, got {text!r}")
    keep(megabytes)


keep_what_the_environment_says()
