/* One step backward: (L18) of step t+1, then the cell of step t as its epilogue. */

/* What one time step of one thread reads and writes. */
typedef struct {
  const NAME(backward_job) * job;
  int64_t t;
  const REAL *dz_next; /* (B, pitch) of step t+1, or NULL at the last step of a row or a truncated block */
  int cut; /* nothing flows back from step t+1, which there is */
  REAL *dz; /* (B, pitch) */
  REAL *carry; /* (B, H) */
  REAL *dh; /* (B, dh_pitch), with a projection */
  REAL *d_hidden, *d_cells; /* (B, W), (B, H), or NULL */
  const REAL *d_output; /* (B, W), rows d_pitch apart; or NULL */
  int64_t d_pitch;
  int64_t slot; /* of step t in the chunk */
  NAME(zone) zone;
  const REAL *c_prev; /* rows c_pitch apart */
  const REAL *h_prev; /* rows h_pitch apart */
  int64_t c_pitch, h_pitch;
} NAME(backward_step);

/* `plain`, in all of what follows, is known when this is compiled: 2: nothing of what job->plain stands for has to be
 * looked at; 1: resets, peepholes, clipping; 0: everything. Asking at each vector takes more instructions
 * than the arithmetic, and fewer vectors overlap. */

INLINE int NAME(starts_anew)(const NAME(backward_step) * s, int64_t t, int64_t b, int plain) {
  return plain < 2 && is_reset(s->job->p, t, b);
}

/* Gates of `lanes` units from `unit` of row b from the tape; c_t before zoneout, and c_{t-1}, where there are any. */
INLINE void NAME(read_tape)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes, int plain, vec saved[4],
                            vec *c, vec *c_prev) {
  const bptt_problem *p = s->job->p;
  int64_t H = p->H, row = s->t * p->B + b;
  UNROLL for (int n = 0; n < SAVED; n++) saved[n] =
      vload_n((const REAL *)p->gates + (row * SAVED + n) * H + unit, lanes);
#if HAS_CELL_STATE
  const REAL *before = NAME(starts_anew)(s, s->t, b, plain) ? s->job->zero : s->c_prev + b * s->c_pitch;
  *c = vload_n((const REAL *)p->cells + row * H + unit, lanes);
  *c_prev = vload_n(before + unit, lanes);
  if (!plain && __builtin_expect(s->zone.on, 0))
    *c = NAME(cell_next)(saved, *c_prev, &s->job->options);
#else
  (void)plain, (void)c, (void)c_prev;
#endif
}

/* What the gradients of those units are multiplied by. */
INLINE NAME(cell_slopes)
    NAME(backward_slopes)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes, int plain) {
  const bptt_problem *p = s->job->p;
  const cell_options none = {0};
  vec saved[4], c = {0}, c_prev = {0}, h = {0}, h_prev = {0};
  NAME(read_tape)(s, b, unit, lanes, plain, saved, &c, &c_prev);
  if (READS_H_PREV)
    h_prev = vload_n((NAME(starts_anew)(s, s->t, b, plain) ? s->job->zero : s->h_prev + b * s->h_pitch) + unit, lanes);
  if (READS_H)
    h = vload_n((const REAL *)p->output + (s->t * p->B + b) * p->H + unit, lanes);
  return NAME(cell_slopes_of)(saved, c, c_prev, h, h_prev, plain ? &none : &s->job->options);
}

/* Leaves in place of the gradient that reaches h_t the part that goes on into the cell; the rest goes to h_{t-1}. */
INLINE vec NAME(through_zone)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes, vec dh, int reset) {
  int64_t at = b * s->job->W + unit;
  vec kept = NAME(zone_kept)(&s->zone, s->zone.h, at);
  vstore_n(s->job->carry_h + at, reset ? (vec){0} : kept * dh, lanes); /* (L28) */
  return (vset1(1) - kept) * dh; /* (L29) */
}

/* What units of row b are clipped to in step t. */
INLINE NAME(step_clip) NAME(clip_at)(const NAME(backward_job) * job, int64_t t, int64_t b, int plain) {
  const bptt_problem *p = job->p;
  int64_t *count = !plain && p->clipped ? p->clipped + (t * p->B + b) * 3 : NULL;
  return (NAME(step_clip)){plain < 2 ? p->step_clip : NULL, count, job->plan.split == BPTT_SPLIT_HIDDEN};
}

/* The gradient that reaches h_t: its own, and what flows back from step t+1. (L11) (G9) */
INLINE vec NAME(total_gradient)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes, int plain,
                                vec dh_rec) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  if (CARRIES_H)
    dh_rec = dh_rec + vload_n(s->carry + b * p->H + unit, lanes); /* (G15) */
  if (HAS_CELL_STATE && !plain && __builtin_expect(s->zone.on, 0))
    dh_rec = dh_rec + vload_n(job->carry_h + b * job->W + unit, lanes);
  if (plain < 2 && s->dz_next) {
    NAME(step_clip) after = NAME(clip_at)(job, s->t + 1, b, plain);
    dh_rec = NAME(clipped)(&after, BPTT_CLIP_HIDDEN, dh_rec);
  }
  return plain == 2 || s->d_output ? vload_n(s->d_output + b * s->d_pitch + unit, lanes) + dh_rec : dh_rec;
}

/* Step t of those units, given what flows back from step t+1; with a projection, what comes through it. */
INLINE void NAME(backward_unit)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes, int plain,
                                const NAME(cell_slopes) * slopes, vec dh_rec) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  int64_t H = p->H;
  int reset = NAME(starts_anew)(s, s->t, b, plain), projected = HAS_CELL_STATE && !plain && s->dh;
  int zoned = HAS_CELL_STATE && !plain && s->zone.on;
  const REAL *peephole = plain < 2 && job->peephole ? job->peephole + unit * 3 : NULL;
  REAL *dz = s->dz + b * job->pitch + unit, *carry = s->carry + b * H + unit;
  vec dh = projected ? dh_rec : NAME(total_gradient)(s, b, unit, lanes, plain, dh_rec), into = dh, dc = dh, kept = dh;
  if (HAS_CELL_STATE || CARRIES_H)
    dc = vload_n(carry, lanes);
  if (__builtin_expect(zoned, 0)) {
    into = projected ? dh : NAME(through_zone)(s, b, unit, lanes, dh, reset);
    kept = NAME(zone_kept)(&s->zone, s->zone.c, b * H + unit);
  }
  NAME(step_clip) clip = NAME(clip_at)(job, s->t, b, plain);
  NAME(cell_gradient) d = NAME(cell_backward)(slopes, into, zoned ? (vset1(1) - kept) * dc : dc, peephole, &clip);
  if (__builtin_expect(zoned, 0)) {
    d.carry = vfma(kept, dc, d.carry); /* (L28) */
    d.h = dh, d.c = vfma(kept, dc, d.c);
  }
  UNROLL for (int g = 0; g < GATES; g++) vstore_n(dz + g * H, d.z[g], lanes);
  if (HAS_CELL_STATE || CARRIES_H) {
    vec handed = reset ? (vec){0} : d.carry;
    vstore_n(carry, HAS_CELL_STATE ? NAME(clipped)(&clip, BPTT_CLIP_CELL, handed) : handed, lanes);
  }
  if (s->d_hidden && !projected)
    vstore_n(s->d_hidden + b * H + unit, d.h, lanes);
  if (HAS_CELL_STATE && s->d_cells)
    vstore_n(s->d_cells + b * H + unit, d.c, lanes);
}

#if HAS_CELL_STATE

/* With a projection: what went into it; and with zoneout and peepholes c_t before zoneout. From the tape again. */
INLINE void NAME(keep_again)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes) {
  const NAME(backward_job) *job = s->job;
  int64_t at = (s->slot * job->p->B + b) * job->p->H + unit;
  vec saved[4], c, c_prev, z[GATES];
  NAME(read_tape)(s, b, unit, lanes, 0, saved, &c, &c_prev);
  z[0] = saved[SAVED - 1], z[1] = c;
  if (job->middle)
    vstore_n(job->middle + at, NAME(cell_leave)(z, &job->options), lanes);
  if (job->c_next)
    vstore_n(job->c_next + at, c, lanes);
}

/* What is kept again of some rows, panels of units. */
static void NAME(keep_again_run)(const NAME(backward_step) * s, const row_ranges *rows, range panels) {
  int64_t H = s->job->p->H;
  range units = NAME(wide_units)(H, panels);
  for (int part = 0; part < rows->count; part++)
    for (int64_t b = rows->half[part].begin; b < rows->half[part].end; b++)
      for (int64_t unit = units.begin; unit < units.end; unit += LANES)
        NAME(keep_again)(s, b, unit, (int)min_i64(LANES, H - unit));
}

#endif

/* dh_rec at the last step of a row: what the caller gave. */
INLINE vec NAME(final_gradient)(const bptt_problem *p, int64_t b, int64_t unit, int lanes) {
  return p->d_h_n ? vload_n((const REAL *)p->d_h_n + b * width_of(p) + unit, lanes) : (vec){0};
}

/* Whether nothing flows back to row b of step t: it starts anew at step t+1. */
INLINE int NAME(is_cut)(const NAME(backward_step) * s, int64_t b) {
  return s->dz_next && is_reset(s->job->p, s->t + 1, b);
}

/* What flows back to `lanes` numbers of h_t of row b from step t+1: a sum of products, if there is a step t+1. */
INLINE vec NAME(flows_back)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes, int plain,
                            const REAL *sum) {
  const NAME(backward_job) *job = s->job;
  if (plain < 2 && NAME(is_cut)(s, b))
    return (vec){0};
  if (plain)
    return NAME(gate_sum)(sum, job->hh_gates);
  if (!s->dz_next)
    return s->cut ? (vec){0} : NAME(final_gradient)(job->p, b, unit, lanes);
  if (HAS_CELL_STATE && __builtin_expect(job->mask != NULL, 0))
    return NAME(gate_sum)(sum, job->hh_gates) * vload_n(job->mask + b * job->W + unit, lanes); /* (L34) */
  return NAME(gate_sum)(sum, job->hh_gates);
}

/* (L18): dz of step t+1 against the panel of weight_hh whose first column is `first`, rows b .. b+rows-1; that of the
 * panel after it is `next`. */
INLINE void NAME(recurrent_sums)(const NAME(backward_step) * s, int rows, int vecs, REAL *sum, int64_t b, int64_t first,
                                 int64_t next, const NAME(ahead) (*ahead)[2], int64_t units) {
  const NAME(backward_job) *job = s->job;
  const int64_t H = job->p->H;
  NAME(gate_sums)(rows, vecs, job->hh_gates, sum, H, s->dz_next + b * job->pitch + HH_FIRST * H, job->pitch,
                  job->hh + first * job->hh_gates * H, job->hh + next * job->hh_gates * H, ahead, units);
}

/* Row b alone, V vectors from vector `at` of the panel of `wide` that starts at hidden unit `panel`: (L18) of step t+1,
 * then (L11)-(L17) of step t. */
INLINE void NAME(backward_lone)(int V, const NAME(backward_step) * s, int64_t b, int64_t panel, int wide, int at) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  const int64_t first = panel + at * LANES;
  NAME(cell_slopes) slopes[V];
  vec sum[V];
  UNROLL for (int v = 0; v < V; v++) {
    int lanes = (int)min_i64(LANES, p->H - first - v * LANES);
    slopes[v] = NAME(backward_slopes)(s, b, first + v * LANES, lanes, 0);
    sum[v] = s->dz_next || s->dh || s->cut ? (vec){0} : NAME(final_gradient)(p, b, first + v * LANES, lanes);
  }
  if (HAS_CELL_STATE && __builtin_expect(s->dh != NULL, 0))
    NAME(gate_sum_lone)(V, 1, sum, job->W, s->dh + b * job->dh_pitch, job->second + panel * job->W + at * LANES, wide);
  else if (s->dz_next)
    NAME(gate_sum_one)(V, job->hh_gates, sum, p->H, s->dz_next + b * job->pitch + HH_FIRST * p->H,
                       job->hh + panel * job->hh_gates * p->H + at * LANES, wide);
  /* flows_back() on registers, asked once for all vectors: inside the loop below it costs a lone chain 14 %. */
  if (!s->dh && NAME(is_cut)(s, b)) {
    UNROLL for (int v = 0; v < V; v++) sum[v] = (vec){0};
  }
  if (HAS_CELL_STATE && __builtin_expect(job->mask && s->dz_next && !s->dh, 0)) {
    UNROLL for (int v = 0; v < V; v++) sum[v] *=
        vload_n(job->mask + b * p->H + first + v * LANES, (int)min_i64(LANES, p->H - first - v * LANES));
  }
  for (int v = 0; v < V; v++) {
    int lanes = (int)min_i64(LANES, p->H - first - v * LANES);
    if (lanes == LANES)
      NAME(backward_unit)(s, b, first + v * LANES, LANES, 0, &slopes[v], sum[v]);
    else
      NAME(backward_unit)(s, b, first + v * LANES, lanes, 0, &slopes[v], sum[v]);
  }
}

/* The tape of rows from b on, so that it is near once the products are done. */
INLINE void NAME(name_tape)(const NAME(backward_step) * s, int64_t b, int64_t first, NAME(ahead) ahead[4][2]) {
  const bptt_problem *p = s->job->p;
  int64_t H = p->H, row = s->t * p->B + b;
  memset(ahead, 0, 8 * sizeof ahead[0][0]);
  int at = 0;
#define ADD(base, step, touch) (ahead[at % MATRIX_GATES][at / MATRIX_GATES] = (NAME(ahead)){base, step, touch}, at++)
  for (int n = 0; n < SAVED; n++)
    ADD((const REAL *)p->gates + (row * SAVED + n) * H + first, SAVED * H, 0);
  if (HAS_CELL_STATE) /* c_t was c_{t-1} of the step before */
    ADD(s->c_prev + b * s->c_pitch + first, s->c_pitch, 0);
  if (READS_H_PREV)
    ADD(s->h_prev + b * s->h_pitch + first, s->h_pitch, 0);
  if (READS_H)
    ADD((const REAL *)p->output + row * H + first, H, 0);
  if (s->d_output && !s->dh)
    ADD(s->d_output + b * s->d_pitch + first, s->d_pitch, s->job->reads_ahead);
#undef ADD
}

/* (L11)-(L17) of rows b .. b+rows-1, given the sums of (L18). */
INLINE void NAME(backward_cells)(const NAME(backward_step) * s, int rows, int64_t b, int64_t first, int vecs,
                                 const REAL *sum, int plain) {
  for (int64_t end = b + rows; b < end; b++) {
    for (int v = 0; v < vecs; v++, sum += LANES) {
      int64_t unit = first + v * LANES;
      int lanes = (int)min_i64(LANES, s->job->p->H - unit);
      int projected = HAS_CELL_STATE && !plain && s->dh;
      vec dh_rec = projected ? vload(sum) : NAME(flows_back)(s, b, unit, lanes, plain, sum);
      if (lanes == LANES) {
        NAME(cell_slopes) slopes = NAME(backward_slopes)(s, b, unit, LANES, plain);
        NAME(backward_unit)(s, b, unit, LANES, plain, &slopes, dh_rec);
      } else {
        NAME(cell_slopes) slopes = NAME(backward_slopes)(s, b, unit, lanes, plain);
        NAME(backward_unit)(s, b, unit, lanes, plain, &slopes, dh_rec);
      }
    }
  }
}

/* Bytes of a row from which on the tape is asked for ahead: 100,32,128,128 backward 6046 -> 5847 us. Of shorter rows
 * the hardware fetches enough by itself, and asking costs: 100,32,40,40 797 -> 816, 64 no matter. */
enum { NAME(LEAST_AHEAD) = 384 };

/* First unit of the panel after the one of which `left` are left, or of this one, the last. */
INLINE int64_t NAME(unit_after)(range panels, int64_t left, int down) {
  return one_after(panels, left, down) * WIDE_VECS * LANES;
}

/* Rows b .. b+rows-1, one panel: (L18) of step t+1, then (L11)-(L17) of step t. */
NOINLINE void NAME(backward_block)(const NAME(backward_step) * s, int rows, int64_t b, int64_t first, int64_t next,
                                   int vecs) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  REAL sum[GATE_SUMS] __attribute__((aligned(VEC_BYTES)));
  int64_t units = min_i64(vecs * LANES, p->H - first);
  NAME(ahead) tape[4][2];
  const NAME(ahead)(*ahead)[2] = NULL;
  if (p->H * (int64_t)sizeof(REAL) >= NAME(LEAST_AHEAD)) {
    NAME(name_tape)(s, b, first, tape);
    ahead = tape;
  }
  if (HAS_CELL_STATE && s->dh)
    NAME(gate_sums)(rows, vecs, 1, sum, job->W, s->dh + b * job->dh_pitch, job->dh_pitch, job->second + first * job->W,
                    job->second + next * job->W, ahead, units);
  else if (s->dz_next)
    NAME(recurrent_sums)(s, rows, vecs, sum, b, first, next, ahead, units);
  if (job->plain == 2 && s->dz_next)
    NAME(backward_cells)(s, rows, b, first, vecs, sum, 2);
  else if (job->plain && s->dz_next)
    NAME(backward_cells)(s, rows, b, first, vecs, sum, 1);
  else
    NAME(backward_cells)(s, rows, b, first, vecs, sum, 0);
}

NOINLINE void NAME(backward_step_run)(const NAME(backward_step) * s, const row_ranges *rows, range panels) {
  for (int64_t left = panels.end - panels.begin; left > 0; left--) {
    int64_t panel = next_of(panels, left, 1, s->t & 1);
    int64_t first = panel * WIDE_VECS * LANES;
    int vecs = NAME(wide_vecs)(s->job->p->H, panel);
    for (int part = 0; part < rows->count; part++)
      for (int64_t b = rows->half[part].begin, n; b < rows->half[part].end; b += n) {
        n = next_tile(rows->half[part].end - b, ROW_BLOCK);
        if (n > 1)
          NAME(backward_block)(s, (int)n, b, first, NAME(unit_after)(panels, left, s->t & 1), vecs);
        if (n == 1 && vecs > 1)
          NAME(backward_lone)(2, s, b, first, vecs, 0);
        if (n == 1 && vecs != 2)
          NAME(backward_lone)(1, s, b, first, vecs, vecs - 1);
      }
  }
}

#if HAS_SECOND

/* With a projection, its outputs: from dz of step t+1 to the gradients that go into it; numbers [first, first + vecs
 * vectors) of h_t of rows b .. b+rows-1. */
NOINLINE void NAME(output_block)(const NAME(backward_step) * s, int rows, int64_t b, int64_t first, int64_t next,
                                 int vecs) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  const int64_t W = job->W;
  const vec bound = vset1((REAL)job->options.proj_clip);
  REAL sum[GATE_SUMS] __attribute__((aligned(VEC_BYTES)));
  if (s->dz_next)
    NAME(recurrent_sums)(s, rows, vecs, sum, b, first, next, NULL, 0);
  for (int r = 0; r < rows; r++, b++) {
    int reset = is_reset(p, s->t, b);
    for (int v = 0; v < vecs; v++) {
      int64_t unit = first + v * LANES, at = (s->t * p->B + b) * W + unit;
      int lanes = (int)min_i64(LANES, W - unit);
      vec dh_rec = NAME(flows_back)(s, b, unit, lanes, 0, sum + (r * vecs + v) * LANES);
      vec dh = NAME(total_gradient)(s, b, unit, lanes, 0, dh_rec);
      vec kept = {0}, h_prev = {0};
      if (s->d_hidden)
        vstore_n(s->d_hidden + b * W + unit, dh, lanes);
      if (s->zone.on) {
        kept = NAME(zone_kept)(&s->zone, s->zone.h, b * W + unit);
        h_prev = reset ? h_prev : vload_n(s->h_prev + b * s->h_pitch + unit, lanes);
        dh = NAME(through_zone)(s, b, unit, lanes, dh, reset);
      }
      if (job->options.proj_clip > 0) { /* nothing flows through a bound: h_t is there what the bound makes of it */
        vec h = vload_n((const REAL *)p->output + at, lanes), high = NAME(zone_mix)(kept, h_prev, bound),
            low = NAME(zone_mix)(kept, h_prev, -bound);
        dh = vselect_lt(low, h, vselect_lt(h, high, dh, h - h), h - h); /* (L30) */
      }
      vstore_n(s->dh + b * job->dh_pitch + unit, dh, lanes);
    }
  }
}

NOINLINE void NAME(output_run)(const NAME(backward_step) * s, const row_ranges *rows, range panels) {
  for (int64_t left = panels.end - panels.begin; left > 0; left--) {
    int64_t panel = next_of(panels, left, 1, s->t & 1);
    for (int part = 0; part < rows->count; part++)
      for (int64_t b = rows->half[part].begin, n; b < rows->half[part].end; b += n) {
        n = next_tile(rows->half[part].end - b, ROW_BLOCK);
        NAME(output_block)(s, (int)n, b, panel * WIDE_VECS * LANES, NAME(unit_after)(panels, left, s->t & 1),
                           NAME(wide_vecs)(s->job->W, panel));
      }
  }
}

#endif
#if CANDIDATE_ALONE

/* With reset_before: from dz_n to the gradient at r * h_{t-1}, and from there to dz_r and h_{t-1}. */
NOINLINE void NAME(second_step_run)(const NAME(backward_step) * s, const row_ranges *rows, range panels) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  int64_t H = p->H;
  REAL sum[GATE_SUMS] __attribute__((aligned(VEC_BYTES)));
  for (int64_t left = panels.end - panels.begin; left > 0; left--) {
    int64_t panel = next_of(panels, left, 1, s->t & 1);
    int64_t first = panel * WIDE_VECS * LANES;
    int vecs = NAME(wide_vecs)(H, panel);
    for (int part = 0; part < rows->count; part++)
      for (int64_t b = rows->half[part].begin, n; b < rows->half[part].end;) {
        n = next_tile(rows->half[part].end - b, ROW_BLOCK);
        NAME(gate_sums)((int)n, vecs, 1, sum, H, s->dz + b * job->pitch, job->pitch, job->second + first * H,
                        job->second + NAME(unit_after)(panels, left, s->t & 1) * H, NULL, 0); /* (G23) */
        for (int r = 0; r < n; r++, b++) {
          if (is_reset(p, s->t, b)) /* h_{t-1} is zero, and so is dz_r, as it stands */
            continue;
          NAME(step_clip) clip = NAME(clip_at)(job, s->t, b, 0);
          for (int v = 0; v < vecs; v++) {
            int64_t unit = first + v * LANES;
            int lanes = (int)min_i64(LANES, H - unit);
            REAL *carry = s->carry + b * H + unit;
            vec gate = vload_n((const REAL *)p->gates + (s->t * p->B + b) * SAVED * H + unit, lanes);
            vec h_prev = vload_n(s->h_prev + b * s->h_pitch + unit, lanes), d = vload(sum + (r * vecs + v) * LANES);
            vec dz_r = NAME(clipped)(&clip, BPTT_CLIP_GATES, NAME(cell_reset)(d, gate, h_prev));
            vstore_n(s->dz + b * job->pitch + H + unit, dz_r, lanes);
            vstore_n(carry, vfma(d, gate, vload_n(carry, lanes)), lanes); /* (G25) */
          }
        }
      }
  }
}

#elif HAS_SECOND

/* With a projection: from the gradients that go into it to the cell. (L32) */
static void NAME(second_step_run)(const NAME(backward_step) * s, const row_ranges *rows, range panels) {
  NAME(backward_step_run)(s, rows, panels);
}

#endif
