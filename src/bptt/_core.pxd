# What the binding sees of csrc/bptt.h.
cimport numpy as cnp  # first, see below
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef extern from *:
    """
    #undef I /* NumPy's headers bring the imaginary unit of complex.h; here I is a size */
    """

cdef extern from "bptt.h" nogil:
    ctypedef enum bptt_status:
        BPTT_OK, BPTT_BAD_SIZE, BPTT_BAD_ARGUMENT, BPTT_BAD_WORKSPACE, BPTT_BAD_VARIANT, BPTT_INTERRUPTED
    ctypedef enum bptt_op:
        BPTT_PACK, BPTT_FORWARD, BPTT_BACKWARD, BPTT_MOVE, BPTT_SUMS
    ctypedef enum bptt_ceiling:
        BPTT_FMA, BPTT_READ, BPTT_BARRIER, BPTT_REGION
    ctypedef enum bptt_dtype:
        BPTT_F32, BPTT_F64
    int BPTT_COUNTS
    int BPTT_LSTM, BPTT_GRU, BPTT_RNN
    int BPTT_SIGMOID, BPTT_HARD_SIGMOID, BPTT_TANH, BPTT_RELU, BPTT_SOFTSIGN, BPTT_IDENTITY
    ctypedef struct bptt_problem:
        int64_t T, B, I, H
        int32_t cell, dtype, threads, variant, split, hoist, coupled, reset_before, draws, accumulate
        int32_t activations[3]
        int64_t P, first_step, truncate_every, truncate_depth, x_step, x_row, d_output_step, d_output_row
        double cell_clip, proj_clip, recurrent_dropout, zoneout
        uint64_t seed
        void *weight_ih
        void *weight_hh
        void *bias_ih
        void *bias_hh
        void *weight_peephole
        void *weight_hr
        void *packed
        void *x
        void *h_0
        void *c_0
        void *output
        void *h_n
        void *c_n
        void *cells
        void *gates
        int32_t dealt
        const int64_t *lengths
        const int64_t *x_order
        void *copy
        const int64_t *copy_order
        const uint8_t *resets
        void *d_output
        void *d_h_n
        void *d_c_n
        void *d_x
        void *d_h_0
        void *d_c_0
        void *d_weight_ih
        void *d_weight_hh
        void *d_bias_ih
        void *d_bias_hh
        void *d_weight_peephole
        void *d_weight_hr
        void *d_hidden
        void *d_cells
        const double *step_clip
        double *norms
        int64_t *clipped
        void *sums
        int64_t sums_bytes
        void *workspace
        int64_t workspace_bytes
        int (*poll)(void *) noexcept
        void *poll_context
    bptt_status bptt_workspace(const bptt_problem *, bptt_op, int64_t *)
    bptt_status bptt_pack(const bptt_problem *, void *)
    ctypedef struct bptt_move:
        int64_t T, B, N, to_step, to_row, from_step, from_row, scale_step, scale_row
        int32_t kind, threads, add, turned, back
        const int64_t *lengths
        const int64_t *order
        void *to
        void *source "from"
        void *scale
    ctypedef struct bptt_stage:
        bptt_op op
        const bptt_problem *first
        const bptt_problem *second
        const bptt_move *move
    bptt_status bptt_run(const bptt_stage *, int64_t, int (*poll)(void *) noexcept, void *)
    bptt_status bptt_norms(const void *, bptt_dtype, int64_t, int64_t, int, double *)
    bptt_status bptt_flow(const double *, int64_t, int64_t, int64_t, int, double *, double *)
    const char *bptt_variant_name(int)
    const char *bptt_active_variant()
    int bptt_active_rank()
    bptt_status bptt_use_variant(const char *)
    bptt_status bptt_measure(bptt_ceiling, bptt_dtype, int, void *, int64_t, double *)
    const char *bptt_status_text(bptt_status)
    int bptt_has_openmp()

cdef extern from *:
    const char *BPTT_COMPILER
    const char *BPTT_FLAGS
