cimport numpy as cnp
from libc.stdint cimport int64_t

cdef class Block:
    cdef void *memory  # starts on a cache line
    cdef void *start  # of the allocation
    cdef int64_t nbytes  # from `memory` on
    cdef bint passing  # not to be kept: had when memory was short, and not aligned as the others

cdef Block take_block(int64_t nbytes)
cdef object new_array(int ndim, cnp.npy_intp *shape, int type_num, int64_t nbytes)
