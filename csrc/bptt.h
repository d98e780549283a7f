/* bptt: recurrent layers forward and backward through time. The whole C interface.
 *
 * The library never allocates, prints, exits or keeps state between calls (but for the active variant and the
 * threads that OpenMP holds). All memory is the caller's; every array is C-contiguous with elements of `dtype`.
 * Shapes use T steps, B batch rows, I inputs, H hidden units, W numbers in h: H, or P with a projection; G gates: 4 for
 * the LSTM, in the order i,f,g,o; 3 for the GRU, r,z,n; 1 for the RNN. Only the LSTM has a cell state: for the others
 * c_0, c_n, cells, d_c_n, d_c_0, d_cells and the peepholes are NULL.
 * NULL is allowed exactly where a comment says so. Errors come back as a status, never by any other way.
 */
#ifndef BPTT_H
#define BPTT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
  BPTT_OK = 0,
  BPTT_BAD_SIZE,      /* a dimension is negative, H is zero, or a product of sizes overflows */
  BPTT_BAD_ARGUMENT,  /* an enum out of range, or a pointer missing */
  BPTT_BAD_WORKSPACE, /* workspace smaller than bptt_workspace() asks for */
  BPTT_BAD_VARIANT,   /* no variant of that name, or this machine cannot run it */
  BPTT_INTERRUPTED    /* poll() asked to stop; the outputs are undefined */
} bptt_status;

typedef enum { BPTT_F32 = 0, BPTT_F64 = 1 } bptt_dtype;
enum { BPTT_COUNTS = 2 }; /* int64, which a move takes too */
enum { BPTT_CELLS = 3 };
typedef enum { BPTT_LSTM = 0, BPTT_GRU = 1, BPTT_RNN = 2 } bptt_cell;
typedef enum {
  BPTT_DEFAULT = 0, /* the cell's own: sigmoid for gates, else tanh */
  BPTT_SIGMOID,
  BPTT_HARD_SIGMOID, /* max(0, min(1, 0.2 x + 0.5)) */
  BPTT_TANH,
  BPTT_RELU,
  BPTT_SOFTSIGN, /* x / (1 + |x|) */
  BPTT_IDENTITY,
  BPTT_ACTIVATIONS /* how many there are */
} bptt_activation;
/* How the threads of a call divide the work of the time loop, and whether the input product runs ahead of it. The
 * cost model chooses (0); tests and benchmarks may insist. The bits of the results are the same for all. */
typedef enum { BPTT_SPLIT_AUTO = 0, BPTT_SERIAL = 1, BPTT_SPLIT_ROWS = 2, BPTT_SPLIT_HIDDEN = 3 } bptt_split;
typedef enum { BPTT_HOIST_AUTO = 0, BPTT_HOIST_NEVER = 1, BPTT_HOIST_ALWAYS = 2 } bptt_hoist;
typedef enum { BPTT_PACK = 0, BPTT_FORWARD = 1, BPTT_BACKWARD = 2, BPTT_MOVE = 3, BPTT_SUMS = 4 } bptt_op;
/* What is clipped inside the recursion: the gradient that a step hands to the state before it, at h and at c, and the
 * gradient at the pre-activations of the gates. */
typedef enum { BPTT_CLIP_HIDDEN = 0, BPTT_CLIP_CELL = 1, BPTT_CLIP_GATES = 2 } bptt_clip;
typedef enum { BPTT_FMA = 0, BPTT_READ = 1, BPTT_BARRIER = 2, BPTT_REGION = 3 } bptt_ceiling;

typedef struct {
  int64_t T, B, I, H;
  int32_t cell;    /* bptt_cell */
  int32_t dtype;   /* bptt_dtype */
  int32_t threads; /* at most this many, 1 or more; the cost model may take fewer */
  int32_t variant; /* 0: the active variant; else 1 + the rank of another one (for weights packed for it) */
  int32_t split;   /* bptt_split */
  int32_t hoist;   /* bptt_hoist */
  int32_t activations[3]; /* bptt_activation; of the LSTM: gates, candidate, output; of the RNN: the first */
  int32_t coupled;        /* LSTM: the forget gate is 1 - input gate; row block f of the parameters is not used */
  int32_t reset_before;   /* GRU: the reset gate scales h_{t-1} before the product with the candidate's weights */
  int32_t draws;          /* whether recurrent_dropout and zoneout draw from `seed`; else the first is off and zoneout
                             takes its expectation */
  int64_t P;              /* LSTM: numbers in h_t = weight_hr (o * tanh(c_t)); 0: no projection */
  double cell_clip;       /* LSTM: c_t is held between minus this and this; 0: not at all */
  double proj_clip;       /* LSTM with P: as cell_clip, for h_t */
  double recurrent_dropout; /* LSTM: share of h_{t-1} that the product with weight_hh does not see, the same for all
                               steps of a row; the rest is scaled up; 0 or more, below 1 */
  double zoneout;         /* LSTM: share of c_t and of h_t that stays as it was; 0 or more, below 1 */
  uint64_t seed;
  int64_t first_step; /* how many steps of the sequence come before step 0: for what zoneout draws, and for the order
                         in which steps go through the weights, every other one downwards */

  /* Parameters, all in. */
  const void *weight_ih; /* (G*H, I) */
  const void *weight_hh; /* (G*H, W) */
  const void *bias_ih; /* (G*H) or NULL */
  const void *bias_hh; /* (G*H) or NULL */
  const void *weight_peephole; /* (3, H) rows i,f,o, or NULL */
  const void *weight_hr; /* (P, H), or NULL without a projection */
  const void *packed; /* what bptt_pack() wrote, or NULL: packed anew; forward only. When given, the
                         six pointers above are read only for being NULL or not. */

  /* Forward. The initial states are in, the rest is out. */
  const void *x; /* (T, B, I) in */
  const void *h_0; /* (B, W) in, or NULL for zeros */
  const void *c_0; /* (B, H) in, or NULL for zeros */
  void *output; /* (T, B, W) out; h_t; in for backward. NULL for inference with `copy` */
  void *h_n; /* (B, W) out; may be the same array as h_0 */
  void *c_n; /* (B, H) out; may be the same array as c_0 */
  void *cells; /* (T, B, H) c_t: out of a training forward, in for backward; NULL for inference */
  void *gates; /* (T, B, 4, H) activated i,f,g,o, or r,z,n and the recurrence's part of n (with reset_before:
                  r * h_{t-1}): as cells; NULL: RNN */

  /* Sequences of unequal length, and beginnings inside a sequence; in, for both passes. */
  int32_t dealt; /* 1: lengths descend in each half of the rows, before row (B+1)/2 and from there on; 0: in all */
  const int64_t *lengths; /* (B) steps of each row, 0..T, descending; or NULL: T for all. What x and d_output hold past
                             a row's length is never read; output, cells and gates are zero there, and d_x, d_hidden
                             and d_cells. h_n and c_n are those after a row's last step. */
  const int64_t *x_order; /* forward with lengths: (B), row b of x stands at row x_order[b]; or NULL: at b */
  void *copy; /* forward with lengths: (T, B, W) out, the output again, row b at row copy_order[b]; or NULL */
  const int64_t *copy_order; /* (B), each row once; or NULL without `copy` */
  const uint8_t *resets; /* (T, B) not zero where a row starts anew at step t, from the zero state; or NULL. No state
                            and no gradient crosses from t-1 to t there. */

  /* Backward: reads the parameters, x, h_0, c_0, output, cells and gates, and changes none of them. */
  const void *d_output; /* (T, B, W) in, or NULL for zeros */
  /* How far steps and rows of x and d_output lie apart, for backward alone; steps may go downwards, from the address of
     the first. Both 0: contiguous. */
  int64_t x_step, x_row, d_output_step, d_output_row;
  const void *d_h_n; /* (B, W) in, or NULL for zeros */
  const void *d_c_n; /* (B, H) in, or NULL for zeros */
  void *d_x; /* (T, B, I) out, or NULL when not wanted */
  void *d_h_0; /* (B, W) out, or NULL */
  void *d_c_0; /* (B, H) out, or NULL */
  void *d_weight_ih; /* (G*H, I) out, or NULL with d_weight_hh */
  void *d_weight_hh; /* (G*H, W) out */
  void *d_bias_ih; /* (G*H) out, or NULL */
  void *d_bias_hh; /* (G*H) out, or NULL */
  void *d_weight_peephole; /* (3, H) out, or NULL */
  void *d_weight_hr; /* (P, H) out, or NULL with d_weight_hh */
  void *d_hidden; /* (T, B, W) out: the gradient that reaches h_t; or NULL */
  void *d_cells; /* (T, B, H) out: the gradient that reaches c_t; or NULL */
  const double *step_clip; /* (3) in, by bptt_clip: elements are held between minus this and this; infinity: as they
                              are; or NULL: all as they are. What the caller gives is not clipped. */
  double *norms; /* (T, B, 2) out: Euclidean norms of the rows of d_hidden and d_cells, whether those are wanted or not;
                    zero for d_cells where there is no cell state; or NULL */
  int64_t *clipped; /* (T, B, 3) out: how many elements were clipped in step t, by bptt_clip; or NULL. That of h_0 and
                       c_0 counts for step 0, where d_h_0 and d_c_0 are wanted. */
  /* 0 and 0, or k1 and k2, 1 <= k2 <= k1: errors injected in each block of k1 steps, of which the last may be shorter,
     flow back to k2 steps before its end and no further. The gradients of the parameters are those of the blocks, each
     as a call of its own gives them, added up in order. */
  int64_t truncate_every, truncate_depth;
  int32_t accumulate; /* 0, or 1: the gradients of the parameters are added to what their arrays hold. Both biases hold
                         the same then. */
  /* Or NULL: what a call leaves here, the next one with `accumulate` goes on from, if its steps came before: the bits
     are then those of one call over all these steps. Of at least bptt_workspace(BPTT_SUMS) bytes; any alignment. */
  void *sums;
  int64_t sums_bytes;

  void *workspace; /* scratch of at least bptt_workspace() bytes; any alignment, any content */
  int64_t workspace_bytes;

  /* Called now and then (every 50 ms or so) on the calling thread while a long call runs; a value other than
     zero stops the call with BPTT_INTERRUPTED. NULL: never called. */
  int (*poll)(void *context);
  void *poll_context;
} bptt_problem;

/* Bytes of scratch that the operation needs for these sizes, dtype, NULL pattern and threads or one; for BPTT_PACK the
 * bytes of the packed weights themselves (T and B do not matter), for BPTT_SUMS those of `sums` (T does not matter).
 * Always for the active variant. */
bptt_status bptt_workspace(const bptt_problem *p, bptt_op op, int64_t *bytes);

/* Packs the parameters into `packed` (any alignment, bptt_workspace(BPTT_PACK) bytes) for the active variant. */
bptt_status bptt_pack(const bptt_problem *p, void *packed);

bptt_status bptt_forward(const bptt_problem *p);
bptt_status bptt_backward(const bptt_problem *p);

/* Moves numbers: to[t, b', n] = from[t', b", n] * scale[t, b, n], or that added to what is there. Steps and rows may
 * lie apart; `to` may be `from` where t' = t and rows keep their places. */
typedef struct {
  int64_t T, B, N;
  int32_t kind; /* bptt_dtype of float arrays; or BPTT_COUNTS: int64, without scale */
  int32_t threads; /* at most this many */
  int32_t add; /* 1: added to `to` */
  int32_t turned; /* 1: t' = T-1-t, or lengths[b]-1-t where there are lengths */
  int32_t back; /* 1: b' = order[b], b" = b; 0: b' = b, b" = order[b] */
  const int64_t *lengths; /* (B) or NULL; past them nothing is read, and zeros are moved */
  const int64_t *order; /* (B), each row once; or NULL: b' = b" = b */
  void *to;
  const void *from; /* or NULL: zeros */
  const void *scale; /* or NULL: ones */
  int64_t to_step, to_row; /* numbers from step to step, and from row to row */
  int64_t from_step, from_row;
  int64_t scale_step, scale_row;
} bptt_move;

/* One stage of a program: a move, or one call, or two of a kind that do not depend on one another, such as the
 * directions of a layer, which run side by side, one thread each, where that is faster. */
typedef struct {
  bptt_op op; /* BPTT_FORWARD, BPTT_BACKWARD or BPTT_MOVE */
  const bptt_problem *first; /* of a call */
  const bptt_problem *second; /* or NULL; its workspace is its own */
  const bptt_move *move; /* of a move */
} bptt_stage;

/* Runs stages one after the other, in one parallel region where threads are of use. Stages may share a workspace, and
 * read what those before them wrote. The bits are those of call after call. The poll of each problem is not asked but
 * this one. Nothing is run when any stage is not sound; after an interruption all outputs are undefined. */
bptt_status bptt_run(const bptt_stage *stages, int64_t count, int (*poll)(void *context), void *poll_context);

/* Euclidean norms of the rows of x (rows, n), into norms (rows): no square overflows or underflows, a row with a NaN
 * has the norm NaN, an empty one 0. At most `threads` threads; the bits do not depend on them, nor on the variant. */
bptt_status bptt_norms(const void *x, bptt_dtype dtype, int64_t rows, int64_t n, int threads, double *norms);

/* Of norms (parts, T, B, 2), such as a backward pass fills for a layer or direction: those over all rows, into totals
 * (2, parts, T); and into slopes (parts) that of the line over the steps that fits the logarithms of those of `state`
 * best (0: of h, 1: of c), NaN where not all are positive and finite, or there are no two. */
bptt_status bptt_flow(const double *norms, int64_t parts, int64_t T, int64_t B, int state, double *totals,
                      double *slopes);

/* Variants of the kernels: one per instruction set. */
int bptt_variant_count(void); /* how many this machine has; the system may refuse one to a process */
const char *bptt_variant_name(int rank); /* best first; NULL past the end */
const char *bptt_active_variant(void); /* the one that calls use; NULL when BPTT_VARIANT cannot run here */
int bptt_active_rank(void); /* its rank, -1 when there is none */
bptt_status bptt_use_variant(const char *name); /* NULL: the best one */

/* What this machine can do at most with the active variant; takes some tens of milliseconds.
 * BPTT_FMA: floating-point operations per ns of all threads together, on registers (GFLOP/s).
 * BPTT_READ: bytes per ns of all threads together (GB/s), each reading again and again its share of `memory`
 *            (bytes; written to first), which decides the level of cache it measures.
 * BPTT_BARRIER: ns that one barrier of the threads takes. BPTT_REGION: ns that an empty call on the threads takes.
 * dtype matters for BPTT_FMA alone, memory (else NULL) and bytes for BPTT_READ alone. */
bptt_status bptt_measure(bptt_ceiling what, bptt_dtype dtype, int threads, void *memory, int64_t bytes, double *result);

/* What a status means, in English; never NULL. */
const char *bptt_status_text(bptt_status status);

/* 1 when built with OpenMP, else 0. */
int bptt_has_openmp(void);

#ifdef __cplusplus
}
#endif
#endif
