/* The table that each instruction set fills in, and the choice among them. */
#ifndef BPTT_DISPATCH_H
#define BPTT_DISPATCH_H

#include "bptt.h"
#include "team.h"
#include "tiles.h"

/* A call that is ready to run: what each member of a team does, and the plan that they go by. */
enum { BPTT_JOB_BYTES = 2048 };
typedef struct {
  bptt_duty duty; /* its context is `plan` */
  int threads;    /* most that have work */
  _Alignas(BPTT_CACHE_LINE) char plan[BPTT_JOB_BYTES];
} bptt_job;

typedef struct {
  int64_t (*workspace)(const bptt_problem *p, bptt_op op); /* bytes, or -1 when a product of sizes overflows */
  void (*pack)(const bptt_problem *p, void *packed);
  /* These make a job, on whose workspace, which they check, they may write. */
  bptt_status (*forward)(const bptt_problem *p, bptt_job *job);
  bptt_status (*backward)(const bptt_problem *p, bptt_job *job);
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
  const bptt_tiles *tiles; /* for float32; or NULL */
} bptt_variant;

/* Whether small sizes run on half registers on this machine; of a variant that has them. */
int bptt_runs_halves(const bptt_variant *variant);

/* Whether this processor prefetches where it first has to look up the page: Zen 4 does not. */
int bptt_prefetches_any_page(void);

/* Whether a problem is sound, all but the size of its workspace, and the kernels that it runs on. */
bptt_status bptt_check(const bptt_problem *p, bptt_op op, const bptt_kernels **kernels);

/* The active variant; chosen on first use from BPTT_VARIANT or the best that CPU and OS allow. NULL when
 * BPTT_VARIANT names one that cannot run. */
const bptt_variant *bptt_dispatch(void);

/* The variant of that rank among those that this machine can run; NULL where there is none, or the system does not give
 * it what it needs. */
const bptt_variant *bptt_usable_variant(int rank);

#endif
