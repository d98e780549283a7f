/* How a call is divided: ranges over threads and tiles, the memory of the workspace. No arithmetic on data. */
#ifndef BPTT_PLAN_H
#define BPTT_PLAN_H

#include <stddef.h>
#include <stdint.h>

#include "bptt.h"

/* What both the kernels and the cost model go by. */
enum {
  WIDE_VECS = 2,     /* vectors in a panel of the backward pass */
  SECOND_VECS = 4,   /* and in one of the second product of a step forward */
  LEAST_IN_GROUPS = 16, /* batch rows that make two groups, */
  MOST_IN_GROUPS = 330000, /* where the gradients of both matrices have so many numbers at most, */
  IN_GROUPS_FOR_A_ROW = 10000, /* and so many for each batch row, as adding two groups up takes as long for any */
  MOST_TURNED = 800, /* bytes of I + H + W numbers up to which the gradients of weights are summed turned, */
  LEAST_TURNED = 512, /* from so many tokens on: fewer do not pay for turning them back */
  LEAST_EACH = 128, /* tokens of a chunk that make a share of its dx on tiles (tiles.h) */
  LEAST_TILED = 24, /* hidden units, and inputs, from which tiles pay */
  CHUNK_TOKENS = 256, /* tokens in a chunk of the backward pass, and in one chain of a sum over tokens; or twice that */
  MOST_TOKENS = 2 * CHUNK_TOKENS,
  LEAST_LISTED = 8 << 20, /* bytes of gates from which on their lines are asked for before they are written */
  LEAST_LONE = 192, /* bytes of sums in flight with which one panel keeps up with what comes from beyond the L2 */
  APART = 21 * 64, /* bytes between what two threads write at each step: a core fetches ahead up to 20 lines */
  OWN_STATES = 3, /* that a thread may keep of its own rows: two h and a c */
  LIST_PARTS = 1 << 16 /* of an entry, by which the loop of a product goes on in a list of lines (gemm.inc.h) */
};

typedef struct {
  int64_t begin, end;
} range;

/* Part `rank` of n items over `size` members, as even as whole items allow. */
static inline range share(int64_t n, int rank, int size) {
  int64_t each = n / size, more = n % size;
  range r;
  r.begin = each * rank + (rank < more ? rank : more);
  r.end = r.begin + each + (rank < more);
  return r;
}

static inline int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

static inline int64_t min_i64(int64_t a, int64_t b) {
  return a < b ? a : b;
}

static inline int64_t max_i64(int64_t a, int64_t b) {
  return a > b ? a : b;
}

/* Rows of the next tile when `rows` are left and a tile holds `most`: tiles of one pass differ by one row at most,
 * so that no pass ends on a tile that leaves the FMA units half empty. */
static inline int64_t next_tile(int64_t rows, int64_t most) {
  return rows <= most ? rows : ceil_div(rows, ceil_div(rows, most));
}

/* Where the next `n` of the `left` items of r begin. Each step goes the other way than the one before: of weights that
 * outgrow the cache, what it read last is there still. */
static inline int64_t next_of(range r, int64_t left, int64_t n, int down) {
  return down ? r.begin + left - n : r.end - left;
}

/* The one after the one of which `left` are left, or that one, the last. */
static inline int64_t one_after(range r, int64_t left, int down) {
  return next_of(r, max_i64(left - 1, 1), 1, down);
}

/* Whether rows are a few more than fit a tile, and so read a panel once (forward_pairs() in step.inc.h). */
static inline int in_pairs(int64_t rows, int64_t tile_rows) {
  return rows > tile_rows && 3 * rows <= 4 * tile_rows;
}

/* The pointwise options of a cell, its defaults filled in. */
typedef struct {
  int special; /* any that the pointwise half heeds is not the default */
  int gate, candidate, output, coupled, reset_before;
  double clip, proj_clip;
} cell_options;

static inline cell_options options_of(const bptt_problem *p) {
  const int32_t *a = p->activations;
  int first = p->cell == BPTT_RNN ? BPTT_TANH : BPTT_SIGMOID;
  cell_options o = {.gate = a[0] ? a[0] : first,
                    .candidate = a[1] ? a[1] : BPTT_TANH,
                    .output = a[2] ? a[2] : BPTT_TANH,
                    .coupled = p->coupled,
                    .reset_before = p->reset_before,
                    .clip = p->cell_clip,
                    .proj_clip = p->proj_clip};
  o.special = o.gate != first || o.candidate != BPTT_TANH || o.output != BPTT_TANH || o.coupled || o.clip > 0;
  return o;
}

/* The workspace is handed out piece by piece, each on a cache line of its own. With a null base it only counts. */
typedef struct {
  char *base;
  int64_t used;
  int overflow;
} arena;

enum { ARENA_ALIGN = 64 };

static inline arena arena_on(void *base) {
  arena a = {(char *)(((uintptr_t)base + ARENA_ALIGN - 1) & ~(uintptr_t)(ARENA_ALIGN - 1)), 0, 0};
  return a;
}

/* Room for count * element_bytes, aligned; NULL while there is no buffer yet, or after an overflow. A function of its
 * own: in each of the plans of each kind it was 60 KB of the wheel. */
void *arena_take(arena *a, int64_t count, int64_t element_bytes);

/* Bytes to ask of the caller, whose buffer may start anywhere; -1 after an overflow. */
static inline int64_t arena_bytes(const arena *a) {
  return a->overflow ? -1 : a->used ? a->used + ARENA_ALIGN : 0;
}

/* Whether a workspace of so many bytes holds what was taken. */
static inline bptt_status arena_check(const arena *a, int64_t bytes) {
  if (a->overflow)
    return BPTT_BAD_SIZE;
  return a->used && (!a->base || bytes < arena_bytes(a)) ? BPTT_BAD_WORKSPACE : BPTT_OK;
}

/* Who works on what in the time loop.
 * BPTT_SERIAL: one thread, no parallel region. BPTT_SPLIT_ROWS: each thread its own batch rows; they never meet inside
 * the time loop. BPTT_SPLIT_HIDDEN: each thread its own hidden units, one barrier a step. */
typedef struct {
  bptt_split split;
  int threads;
  int hoist; /* input product of a chunk of steps ahead of the recurrence, else fused with it */
  int fills; /* while a member waits for others it works on the input product of the next chunk */
  int outgrown; /* a step reads more weights than the L2 holds half of */
  int owns_h, owns_c; /* a thread keeps its own apart from where all write theirs */
  int packs_late; /* weight_ih, panel by panel as its products come: one chunk */
  int64_t chunk; /* time steps in a chunk */
  int64_t depth; /* backward: most tokens in one chain of a sum over tokens */
} plan;

/* How far steps and rows of an array lie apart, in numbers. */
typedef struct {
  int64_t step, row;
} pitches;

static inline pitches pitches_of(int64_t step, int64_t row, int64_t B, int64_t width) {
  return (pitches){step || row ? step : B * width, step || row ? row : width};
}

/* Numbers in a row of h. */
static inline int64_t width_of(const bptt_problem *p) {
  return p->P ? p->P : p->H;
}

/* Whether a step has a second product, which needs all of what the first half made. */
static inline int has_second(const bptt_problem *p) {
  return p->P || p->reset_before;
}

/* Groups of batch rows whose sums over tokens are taken apart: two threads then do not fetch dz from one another, nor
 * meet before the end: backward of 100,32,40,40 1053 -> 905 us, then 915 -> 829; GRU 100,32,160,160 8.25 -> 7.6 ms.
 * Not by T: blocks of steps are summed as the whole is. */
int groups_of(const bptt_problem *p);

/* The cost model (plan.c). panels: of the forward pass, `vecs` vectors each; gates: sums of a unit; lanes: elements of
 * a vector; size: bytes of an element; tile_rows: rows of a full tile. */
plan plan_forward(const bptt_problem *p, int64_t panels, int vecs, int lanes, int size, int tile_rows);
plan plan_backward(const bptt_problem *p, int gates, int lanes, int size, int tile_rows, int tiled);

#endif
