/* Norms of gradients: of rows, over rows, and how they change from step to step. */
#include "bptt.h"
#include "dispatch.h"
#include "plan.h"
#include "team.h"

#include <float.h>
#include <math.h>
#include <stddef.h>

#define NAME(op) op
#define REAL double
#define INLINE static inline
#define NOINLINE static
#include "scaled.inc.h"

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
  int64_t numbers;
  if (rows < 0 || n < 0 || __builtin_mul_overflow(rows, n, &numbers))
    return BPTT_BAD_SIZE;
  if ((dtype != BPTT_F32 && dtype != BPTT_F64) || threads < 1 || (rows && (!norms || (n && !x))))
    return BPTT_BAD_ARGUMENT;
  if (!job.variant)
    return BPTT_BAD_VARIANT;
  threads = (int)min_i64(threads, max_i64(1, min_i64(rows, rows * n / EACH)));
  (void)bptt_team_run(threads, 0, norms_member, &job, NULL, NULL);
  return BPTT_OK;
}

/* Slope of the line through the logarithms of n numbers that fits best, or NaN where there is none. */
static double slope_of(const double *numbers, int64_t n) {
  double products = 0, middle = 0.5 * (double)(n - 1), places = (double)n * ((double)n * (double)n - 1) / 12;
  for (int64_t k = 0; k < n; k++) {
    if (!(numbers[k] > 0 && numbers[k] <= DBL_MAX))
      return (double)NAN;
    products += ((double)k - middle) * log(numbers[k]);
  }
  return n > 1 ? products / places : (double)NAN;
}

bptt_status bptt_flow(const double *norms, int64_t parts, int64_t T, int64_t B, int state, double *totals,
                      double *slopes) {
  int64_t steps, rows;
  if (parts < 0 || T < 0 || B < 0 || __builtin_mul_overflow(parts, T, &steps) ||
      __builtin_mul_overflow(steps, B, &rows))
    return BPTT_BAD_SIZE;
  if (state < 0 || state > 1 || (rows && !norms) || (steps && !totals) || (parts && !slopes))
    return BPTT_BAD_ARGUMENT;
  for (int64_t step = 0; step < steps; step++, norms += 2 * B) {
    double sums[2] = {0};
    for (int64_t b = 0; b < B; b++)
      for (int n = 0; n < 2; n++)
        sums[n] += norms[2 * b + n] * norms[2 * b + n];
    for (int n = 0; n < 2; n++)
      totals[n * steps + step] = norm_of(norms + n, B, 2, sums[n]);
  }
  for (int64_t n = 0; n < parts; n++)
    slopes[n] = slope_of(totals + (state * parts + n) * T, T);
  return BPTT_OK;
}
