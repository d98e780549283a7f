/* The table that each instruction set fills in, and the choice among them. */
#ifndef BPTT_DISPATCH_H
#define BPTT_DISPATCH_H

#include "bptt.h"

typedef struct {
  int64_t (*workspace)(const bptt_problem *p, bptt_op op); /* bytes, or -1 when a product of sizes overflows */
  void (*pack)(const bptt_problem *p, void *packed);
  bptt_status (*forward)(const bptt_problem *p); /* these two check the size of the workspace themselves */
  bptt_status (*backward)(const bptt_problem *p);
} bptt_kernels;

typedef struct {
  int64_t (*multiply_adds)(int64_t rounds, double *sink);                                  /* operations done */
  int64_t (*read_often)(const void *memory, int64_t bytes, int64_t passes, double *sink); /* bytes read */
} bptt_probes;

typedef struct {
  const char *name;
  const bptt_kernels *kernels[BPTT_CELLS]; /* by bptt_cell, each two by bptt_dtype */
  bptt_probes probes[2];   /* likewise; for bptt_measure() */
  int64_t (*half_adds)(int64_t rounds, double *sink); /* float32 on half registers; NULL: there are none */
  void (*norms[2])(const void *x, int64_t rows, int64_t n, double *norms); /* likewise; of rows (rows, n) */
} bptt_variant;

/* Whether small sizes run on half registers on this machine; of a variant that has them. */
int bptt_runs_halves(const bptt_variant *variant);

/* The active variant; chosen on first use from BPTT_VARIANT or the best that CPU and OS allow. NULL when
 * BPTT_VARIANT names one that cannot run. */
const bptt_variant *bptt_dispatch(void);

/* The variant of that rank among those that this machine can run, or NULL. */
const bptt_variant *bptt_usable_variant(int rank);

#endif
