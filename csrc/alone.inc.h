/* One row of few units backward: the recursion of a chunk, its state in registers through the loop over time.
 *
 * What a step waits for is one chain: the sums over dz of step t+1, the gradients at the gates, and dz back to the
 * sums. Beside it a step of backstep.inc.h takes some two hundred instructions to find its arrays, and reads numbers of
 * dz that masked stores have just written. Here the weights of a unit stand side by side for all gates, dz is kept in
 * whole vectors too, and no option is asked for. The bits are those of backstep.inc.h: each number goes through the
 * same operations. Backward of 2048,1,1,20 360 -> 251 us.
 */

enum {
  NAME(ALONE_VECS) = WIDE_VECS + 1, /* one panel at most */
  NAME(ALONE_STEPS) = 32            /* between two looks at whether to stop */
};

typedef struct {
  const NAME(backward_job) * job;
  int64_t b, t0, end;                      /* the row; where the chunk begins, and the block ends */
  vec carry[NAME(ALONE_VECS)];             /* what step t gets of step t+1 past weight_hh: at c, or at h */
  vec c[NAME(ALONE_VECS)];                 /* c_t */
  REAL dz[GATES][NAME(ALONE_VECS) * LANES] /* of step t+1 */
      __attribute__((aligned(VEC_BYTES)));
  REAL weights[NAME(ALONE_VECS) * LANES * MATRIX_GATES * NAME(ALONE_VECS) * LANES] /* [k][gate][vecs][LANES] */
      __attribute__((aligned(VEC_BYTES)));
} NAME(alone);

/* Whether the recursion of these rows is one for it. */
static int NAME(takes_alone)(const NAME(backward_job) * job, range rows) {
  const bptt_problem *p = job->p;
  return job->plain == 2 && job->plan.split != BPTT_SPLIT_HIDDEN && rows.end - rows.begin == 1 && !p->lengths &&
         !p->norms && !p->d_hidden && !p->d_cells && p->H <= NAME(ALONE_VECS) * LANES;
}

/* (L18) of V vectors. */
INLINE void NAME(alone_sums)(int V, const NAME(alone) * a, int64_t H, vec sum[V]) {
  vec acc[4][NAME(ALONE_VECS)];
  const REAL *dz = a->dz[HH_FIRST], *weights = a->weights;
  UNROLL for (int n = 0; n < MATRIX_GATES * V; n++) acc[n / V][n % V] = (vec){0};
  for (int64_t k = 0; k < H; k++, dz++, weights += MATRIX_GATES * V * LANES) {
    UNROLL for (int g = 0; g < MATRIX_GATES; g++) {
      const vec dz_k = vset1(dz[g * NAME(ALONE_VECS) * LANES]);
      UNROLL for (int v = 0; v < V; v++) acc[g][v] = vfma(dz_k, vload(weights + (g * V + v) * LANES), acc[g][v]);
    }
  }
  UNROLL for (int v = 0; v < V; v++) sum[v] =
      NAME(join_gates)(MATRIX_GATES, acc[0][v], acc[1][v], acc[2][v], acc[3][v]);
}

/* Steps [to, t), the last one first. (L11)-(L18) */
INLINE void NAME(alone_steps)(int V, NAME(alone) * a, int64_t t, int64_t to) {
  const NAME(backward_job) *job = a->job;
  const bptt_problem *p = job->p;
  const int64_t H = p->H, b = a->b;
  const int last = (int)(H - (V - 1) * LANES);
  const pitches of_errors = pitches_of(p->d_output_step, p->d_output_row, p->B, H);
  const cell_options none = {0};
  vec carry[V], c[V];
  UNROLL for (int v = 0; v < V; v++) carry[v] = a->carry[v], c[v] = a->c[v];
  while (t-- > to) {
    const int64_t row = t * p->B + b;
    const REAL *gates = (const REAL *)p->gates + row * SAVED * H;
    const REAL *h = (const REAL *)p->output + row * H, *h_prev = NULL, *c_prev = NULL;
    const REAL *d_output = (const REAL *)p->d_output + t * of_errors.step + b * of_errors.row;
    REAL *dz = NAME(dz_at)(job, t - a->t0, b);
    if (READS_H_PREV)
      h_prev = t ? h - p->B * H : p->h_0 ? (const REAL *)p->h_0 + b * H : job->zero;
    if (HAS_CELL_STATE)
      c_prev = t ? (const REAL *)p->cells + (row - p->B) * H : p->c_0 ? (const REAL *)p->c_0 + b * H : job->zero;
    NAME(cell_slopes) slopes[V];
    UNROLL for (int v = 0; v < V; v++) {
      const int lanes = v + 1 < V ? LANES : last, at = v * LANES;
      vec saved[4], before = {0}, h_t = {0}, h_before = {0};
      UNROLL for (int n = 0; n < SAVED; n++) saved[n] = vload_n(gates + n * H + at, lanes);
      if (HAS_CELL_STATE)
        before = vload_n(c_prev + at, lanes);
      if (READS_H_PREV)
        h_before = vload_n(h_prev + at, lanes);
      if (READS_H)
        h_t = vload_n(h + at, lanes);
      slopes[v] = NAME(cell_slopes_of)(saved, c[v], before, h_t, h_before, &none);
      c[v] = before;
    }
    const NAME(step_clip) unclipped = NAME(clip_at)(job, t, b, 2);
    vec sum[V];
    if (t + 1 < a->end) {
      NAME(alone_sums)(V, a, H, sum);
    } else { /* nothing flows back into a truncated block */
      UNROLL for (int v = 0; v < V; v++) sum[v] =
          t + 1 < p->T ? (vec){0} : NAME(final_gradient)(p, b, v * LANES, v + 1 < V ? LANES : last);
    }
    UNROLL for (int v = 0; v < V; v++) {
      const int lanes = v + 1 < V ? LANES : last, at = v * LANES;
      const vec dh_rec = CARRIES_H ? sum[v] + carry[v] : sum[v]; /* (G15) */
      const vec dh = vload_n(d_output + at, lanes) + dh_rec;     /* (L11) (G9) */
      const NAME(cell_gradient) d = NAME(cell_backward)(&slopes[v], dh, carry[v], NULL, &unclipped);
      UNROLL for (int g = 0; g < GATES; g++) {
        vstore(a->dz[g] + at, d.z[g]);
        vstore_n(dz + g * H + at, d.z[g], lanes);
      }
      if (HAS_CELL_STATE || CARRIES_H)
        carry[v] = d.carry;
    }
  }
  UNROLL for (int v = 0; v < V; v++) a->carry[v] = carry[v], a->c[v] = c[v];
}

/* The same of `vecs` vectors, as many as a panel has. */
NOINLINE void NAME(alone_run)(int vecs, NAME(alone) * a, int64_t t, int64_t to) {
  if (vecs == 1)
    NAME(alone_steps)(1, a, t, to);
  else if (vecs == 2)
    NAME(alone_steps)(2, a, t, to);
  else
    NAME(alone_steps)(3, a, t, to);
}

/* Steps [t0, t1) of the block that ends at `end`, of row b. Returns 1 when stopped. */
NOINLINE int NAME(alone_recursion)(const NAME(backward_job) * job, bptt_team *team, int rank, int64_t t0, int64_t t1,
                                   int64_t end, int64_t b) {
  const bptt_problem *p = job->p;
  const int64_t H = p->H, wide = ceil_div(H, LANES) * LANES;
  REAL *carry = NAME(carry_at)(job, b);
  NAME(alone) a = {.job = job, .b = b, .t0 = t0, .end = end};
  for (int64_t k = 0; k < H; k++)
    for (int g = 0; g < MATRIX_GATES; g++)
      for (int64_t at = 0; at < wide; at += LANES)
        vstore(a.weights + (k * MATRIX_GATES + g) * wide + at, vload(job->hh + (g * H + k) * wide + at));
  for (int64_t at = 0; at < H; at += LANES) {
    const int lanes = (int)min_i64(LANES, H - at);
    a.carry[at / LANES] = vload_n(carry + at, lanes);
    if (HAS_CELL_STATE)
      a.c[at / LANES] = vload_n((const REAL *)p->cells + ((t1 - 1) * p->B + b) * H + at, lanes);
    for (int g = 0; g < GATES && t1 < end; g++)
      vstore(a.dz[g] + at, vload_n(NAME(dz_at)(job, job->plan.chunk, b) + g * H + at, lanes));
  }
  for (int64_t t = t1, to; t > t0; t = to) {
    to = max_i64(t0, t - NAME(ALONE_STEPS));
    NAME(alone_run)((int)(wide / LANES), &a, t, to);
    if (bptt_team_progress(team, rank, 2.0 * MATRIX_GATES * (double)(H * H * (t - to))))
      return 1;
  }
  for (int64_t at = 0; at < H; at += LANES)
    vstore_n(carry + at, a.carry[at / LANES], (int)min_i64(LANES, H - at));
  return 0;
}
