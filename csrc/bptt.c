/* Entry points: cheap checks, then the kernels of the active variant. */
#include "bptt.h"
#include "dispatch.h"
#include "plan.h"
#include "team.h"

#include <stddef.h>

/* Largest array of a problem is a few times T*B*(I+8H) or 16*H*(I+H) elements: 2^56 leaves the sums far from 2^63. */
static int overflows(int64_t a, int64_t b, int64_t c) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) || __builtin_mul_overflow(product, c, &product) ||
         product > INT64_C(1) << 56;
}

/* Whether the options are in range, and those of other cells are off. */
static int options_fit(const bptt_problem *p) {
  for (int n = 0; n < 3; n++)
    if (p->activations[n] < 0 || p->activations[n] >= BPTT_ACTIVATIONS)
      return 0;
  if (p->cell == BPTT_LSTM)
    return (p->coupled == 0 || p->coupled == 1) && p->cell_clip >= 0 && p->proj_clip >= 0 && !p->reset_before &&
           p->recurrent_dropout >= 0 && p->recurrent_dropout < 1 && p->zoneout >= 0 && p->zoneout < 1;
  return !p->coupled && p->cell_clip == 0 && !p->P && p->recurrent_dropout == 0 && p->zoneout == 0 &&
         !p->activations[1] && !p->activations[2] && (p->cell == BPTT_RNN ? !p->reset_before : !p->activations[0]);
}

static bptt_status check_sizes(const bptt_problem *p) {
  if (p->T < 0 || p->B < 0 || p->I < 0 || p->H < 1 || p->P < 0 || p->first_step < 0)
    return BPTT_BAD_SIZE;
  if (p->I > INT64_C(1) << 40 || p->H > INT64_C(1) << 40 || p->P > INT64_C(1) << 40 || p->T > INT64_C(1) << 56 ||
      p->B > INT64_C(1) << 56)
    return BPTT_BAD_SIZE;
  if (overflows(p->T, p->B, p->I + p->P + 16 * p->H) || overflows(16, p->H, p->I + p->H + p->P))
    return BPTT_BAD_SIZE;
  if (p->cell < 0 || p->cell >= BPTT_CELLS || !options_fit(p) || (p->dtype != BPTT_F32 && p->dtype != BPTT_F64) ||
      p->threads < 1 || p->truncate_every < 0 || p->truncate_depth > p->truncate_every ||
      p->truncate_depth < (p->truncate_every > 0) || p->variant < 0 || p->split < 0 || p->split > BPTT_SPLIT_HIDDEN ||
      p->hoist < 0 || p->hoist > BPTT_HOIST_ALWAYS)
    return BPTT_BAD_ARGUMENT;
  return BPTT_OK;
}

static int has_weights(const bptt_problem *p) {
  return (p->weight_ih || p->I == 0) && p->weight_hh && !p->weight_hr == !p->P;
}

static const bptt_kernels *kernels_for(const bptt_problem *p) {
  const bptt_variant *variant = p->variant ? bptt_usable_variant(p->variant - 1) : bptt_dispatch();
  return variant ? &variant->kernels[p->cell][p->dtype] : NULL;
}

/* Everything but the size of the workspace, which the kernels check on the plan that they make anyway. */
static bptt_status check(const bptt_problem *p, bptt_op op, const bptt_kernels **kernels) {
  bptt_status status = check_sizes(p);
  if (status)
    return status;
  int64_t tokens = p->T * p->B;
  if (!(op == BPTT_FORWARD && p->packed) && !has_weights(p))
    return BPTT_BAD_ARGUMENT;
  if (op != BPTT_PACK && ((!p->x && tokens && p->I) || (!p->output && tokens)))
    return BPTT_BAD_ARGUMENT;
  int lstm = p->cell == BPTT_LSTM;
  if (lstm ? !p->cells != !p->gates
           : p->c_0 || p->c_n || p->cells || p->d_c_n || p->d_c_0 || p->d_cells || p->weight_peephole)
    return BPTT_BAD_ARGUMENT;
  if (p->cell == BPTT_RNN && p->gates)
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_FORWARD && (!p->h_n || (lstm && !p->c_n)) && p->B)
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_BACKWARD && ((!p->gates && tokens && p->cell != BPTT_RNN) || (p->d_weight_ih && !p->d_weight_hh) ||
                              (p->P && p->d_weight_hh && !p->d_weight_hr)))
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_BACKWARD && p->accumulate != 0 && p->accumulate != 1)
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_BACKWARD && p->step_clip)
    for (int n = 0; n < 3; n++)
      if (!(p->step_clip[n] >= 0))
        return BPTT_BAD_ARGUMENT;
  if (op != BPTT_PACK && p->lengths)
    for (int64_t b = 0; b < p->B; b++)
      if (p->lengths[b] < 0 || p->lengths[b] > (b ? p->lengths[b - 1] : p->T))
        return BPTT_BAD_ARGUMENT;
  *kernels = kernels_for(p);
  return *kernels ? BPTT_OK : BPTT_BAD_VARIANT;
}

bptt_status bptt_workspace(const bptt_problem *p, bptt_op op, int64_t *bytes) {
  bptt_status status = check_sizes(p);
  if (status)
    return status;
  if ((int)op < BPTT_PACK || op > BPTT_BACKWARD)
    return BPTT_BAD_ARGUMENT;
  const bptt_kernels *kernels = kernels_for(p);
  if (!kernels)
    return BPTT_BAD_VARIANT;
  *bytes = kernels->workspace(p, op);
  return *bytes < 0 ? BPTT_BAD_SIZE : BPTT_OK;
}

typedef struct {
  const bptt_kernels *kernels;
  const bptt_problem *p;
  void *packed;
} pack_job;

static void pack_task(const void *context, bptt_team *team, int rank) {
  const pack_job *job = context;
  (void)team, (void)rank;
  job->kernels->pack(job->p, job->packed);
}

bptt_status bptt_pack(const bptt_problem *p, void *packed) {
  const bptt_kernels *kernels;
  bptt_status status = check(p, BPTT_PACK, &kernels);
  if (status)
    return status;
  /* In a team of one: biases add up in the floating-point mode of a call, so that freezing changes no bits. */
  pack_job job = {kernels, p, packed};
  (void)bptt_team_run(1, 0, pack_task, &job, NULL, NULL);
  return BPTT_OK;
}

bptt_status bptt_forward(const bptt_problem *p) {
  const bptt_kernels *kernels;
  bptt_status status = check(p, BPTT_FORWARD, &kernels);
  return status ? status : kernels->forward(p);
}

bptt_status bptt_backward(const bptt_problem *p) {
  const bptt_kernels *kernels;
  bptt_status status = check(p, BPTT_BACKWARD, &kernels);
  return status ? status : kernels->backward(p);
}

/* ---- two calls side by side ---- */

typedef struct {
  const bptt_problem *p[2];
  bptt_status (*run)(const bptt_problem *);
  bptt_status status[2];
  atomic_int stopped;
} pair_job;

/* What a call beside the calling thread's is asked instead: only the calling thread may poll. */
static int is_stopped(void *stopped) {
  return atomic_load_explicit((atomic_int *)stopped, memory_order_relaxed);
}

static void pair_member(const void *context, bptt_team *team, int rank) {
  pair_job *job = (pair_job *)context;
  int members = atomic_load_explicit(&team->size, memory_order_relaxed);
  for (int n = rank; n < 2; n += members) {
    bptt_problem p = *job->p[n];
    if (members > 1)
      p.threads = 1;
    if (rank)
      p.poll = is_stopped, p.poll_context = &job->stopped;
    job->status[n] = job->run(&p);
    if (job->status[n])
      atomic_store(&job->stopped, 1);
  }
}

/* With four threads and more each call has use for two. One that ends before a second thread is awake has none. */
static int side_by_side(const bptt_problem *first, const bptt_problem *second) {
  static const double LEAST_FLOPS = 1e6;
  const bptt_problem *both[] = {first, second};
  for (int n = 0; n < 2; n++) {
    const bptt_problem *p = both[n];
    if (p->threads < 2 || p->threads > 3 || p->split != BPTT_SPLIT_AUTO ||
        8.0 * (double)p->T * (double)p->B * (double)p->H * (double)(p->I + width_of(p)) < LEAST_FLOPS)
      return 0;
  }
  return 1;
}

static bptt_status run_pair(const bptt_problem *first, const bptt_problem *second,
                            bptt_status (*run)(const bptt_problem *)) {
  if (!side_by_side(first, second)) {
    bptt_status status = run(first);
    return status ? status : run(second);
  }
  pair_job job = {.p = {first, second}, .run = run};
  (void)bptt_team_run(2, 0, pair_member, &job, NULL, NULL);
  return job.status[0] && job.status[0] != BPTT_INTERRUPTED ? job.status[0]
         : job.status[1]                                    ? job.status[1]
                                                            : job.status[0];
}

bptt_status bptt_forward_pair(const bptt_problem *first, const bptt_problem *second) {
  return run_pair(first, second, bptt_forward);
}

bptt_status bptt_backward_pair(const bptt_problem *first, const bptt_problem *second) {
  return run_pair(first, second, bptt_backward);
}

/* ---- norms ---- */

typedef struct {
  const bptt_variant *variant;
  const char *x;
  bptt_dtype dtype;
  int64_t rows, n;
  double *norms;
} norms_job;

static void norms_member(const void *context, bptt_team *team, int rank) {
  const norms_job *job = context;
  range rows = share(job->rows, rank, team->size);
  int64_t bytes = job->n * (job->dtype == BPTT_F32 ? (int64_t)sizeof(float) : (int64_t)sizeof(double));
  job->variant->norms[job->dtype](job->x + rows.begin * bytes, rows.end - rows.begin, job->n, job->norms + rows.begin);
}

bptt_status bptt_norms(const void *x, bptt_dtype dtype, int64_t rows, int64_t n, int threads, double *norms) {
  static const int64_t EACH = 1 << 15; /* numbers that are worth a thread: about 3 us */
  norms_job job = {bptt_dispatch(), x, dtype, rows, n, norms};
  if (rows < 0 || n < 0 || overflows(rows, n, 1))
    return BPTT_BAD_SIZE;
  if ((dtype != BPTT_F32 && dtype != BPTT_F64) || threads < 1 || (rows && (!norms || (n && !x))))
    return BPTT_BAD_ARGUMENT;
  if (!job.variant)
    return BPTT_BAD_VARIANT;
  threads = (int)min_i64(threads, max_i64(1, min_i64(rows, rows * n / EACH)));
  (void)bptt_team_run(threads, 0, norms_member, &job, NULL, NULL);
  return BPTT_OK;
}

const char *bptt_status_text(bptt_status status) {
  switch (status) {
  case BPTT_OK:
    return "no error";
  case BPTT_BAD_SIZE:
    return "a size is negative, the hidden size is zero, or a product of sizes overflows";
  case BPTT_BAD_ARGUMENT:
    return "an argument is out of range or missing";
  case BPTT_BAD_WORKSPACE:
    return "the workspace is too small";
  case BPTT_BAD_VARIANT:
    return "no kernel variant of that name runs on this machine (see BPTT_VARIANT)";
  case BPTT_INTERRUPTED:
    return "interrupted";
  }
  return "unknown status";
}

int bptt_has_openmp(void) {
  return bptt_team_has_openmp();
}
