/* Entry points that run no layer, and the checks of those that do (program.c). */
#include "bptt.h"
#include "dispatch.h"
#include "rows.h"
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
      p->hoist < 0 || p->hoist > BPTT_HOIST_ALWAYS || p->dealt < 0 || p->dealt > 1)
    return BPTT_BAD_ARGUMENT;
  return BPTT_OK;
}

static int has_weights(const bptt_problem *p) {
  return (p->weight_ih || p->I == 0) && p->weight_hh && !p->weight_hr == !p->P;
}

static const bptt_variant *variant_for(const bptt_problem *p) {
  return p->variant ? bptt_usable_variant(p->variant - 1) : bptt_dispatch();
}

static const bptt_kernels *kernels_for(const bptt_problem *p) {
  const bptt_variant *variant = variant_for(p);
  return variant ? &variant->kernels[p->cell][p->dtype] : NULL;
}

const bptt_tiles *bptt_tiles_for(const bptt_problem *p) {
  const bptt_variant *variant = variant_for(p);
  return variant && p->dtype == BPTT_F32 ? variant->tiles : NULL;
}

bptt_status bptt_check(const bptt_problem *p, bptt_op op, const bptt_kernels **kernels) {
  bptt_status status = check_sizes(p);
  if (status)
    return status;
  int64_t tokens = p->T * p->B;
  if (!(op == BPTT_FORWARD && p->packed) && !has_weights(p))
    return BPTT_BAD_ARGUMENT;
  const int infers = op == BPTT_FORWARD && !p->gates && !p->cells;
  if (op != BPTT_PACK && tokens && ((!p->x && p->I) || (!p->output && !(infers && p->copy))))
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
  if (op == BPTT_FORWARD && (p->x_step || p->x_row))
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_BACKWARD && p->accumulate != 0 && p->accumulate != 1)
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_BACKWARD && p->sums && p->truncate_every)
    return BPTT_BAD_ARGUMENT;
  if (op == BPTT_BACKWARD && p->step_clip)
    for (int n = 0; n < 3; n++)
      if (!(p->step_clip[n] >= 0))
        return BPTT_BAD_ARGUMENT;
  if (op != BPTT_PACK && p->lengths)
    for (int64_t b = 0; b < p->B; b++)
      if (p->lengths[b] < 0 || p->lengths[b] > (b && b != second_half(p) ? p->lengths[b - 1] : p->T))
        return BPTT_BAD_ARGUMENT;
  if ((p->x_order || p->copy || p->copy_order) && (op != BPTT_FORWARD || !p->lengths || !p->copy != !p->copy_order))
    return BPTT_BAD_ARGUMENT;
  if (!is_order(p->x_order, p->B) || !is_order(p->copy_order, p->B))
    return BPTT_BAD_ARGUMENT;
  *kernels = kernels_for(p);
  return *kernels ? BPTT_OK : BPTT_BAD_VARIANT;
}

bptt_status bptt_workspace(const bptt_problem *p, bptt_op op, int64_t *bytes) {
  bptt_status status = check_sizes(p);
  if (status)
    return status;
  if ((int)op < BPTT_PACK || op > BPTT_SUMS || op == BPTT_MOVE)
    return BPTT_BAD_ARGUMENT;
  const bptt_kernels *kernels = kernels_for(p);
  if (!kernels)
    return BPTT_BAD_VARIANT;
  bptt_problem alone = *p; /* beside another call it runs on one thread, whose plan may be another */
  alone.threads = 1;
  *bytes = kernels->workspace(p, op);
  int64_t one = p->threads > 1 ? kernels->workspace(&alone, op) : *bytes;
  if (*bytes < 0 || one < 0)
    return BPTT_BAD_SIZE;
  *bytes = max_i64(*bytes, one);
  return BPTT_OK;
}

typedef struct {
  const bptt_kernels *kernels;
  const bptt_problem *p;
  void *packed;
} pack_job;

static void pack_member(const void *context, bptt_team *team, int rank) {
  const pack_job *job = context;
  (void)team, (void)rank;
  job->kernels->pack(job->p, job->packed);
}

bptt_status bptt_pack(const bptt_problem *p, void *packed) {
  const bptt_kernels *kernels;
  bptt_status status = bptt_check(p, BPTT_PACK, &kernels);
  if (status)
    return status;
  /* In a team of one: biases add up in the floating-point mode of a call, so that freezing changes no bits. */
  pack_job job = {kernels, p, packed};
  (void)bptt_team_run(1, 0, pack_member, &job, NULL, NULL);
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
