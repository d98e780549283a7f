/* A cell backward through time.
 *
 * Time is walked in chunks from the last to the first. Inside a chunk the recursion (L11)-(L18) fills dz; after it
 * dx and the gradients of the weights are products over the chunk's tokens while dz is still in cache. The tape is
 * only read. A chunk's length depends on the shape alone, so the bits of a sum over tokens do not depend on threads.
 */

typedef struct {
  const bptt_problem *p;
  plan plan;
  cell_options options;
  int64_t panels, x_panels; /* of weight_hh and weight_ih */
  int64_t depth;            /* most tokens of one sum: CHUNK_TOKENS, or a chunk if that is less */
  int64_t pitch; /* from row to row of dz: GATES*H and a cache line, so that rows do not share cache sets */
  REAL *hh; /* weight_hh in panels (pack.inc.h) */
  REAL *ih; /* weight_ih in panels, when d_x is wanted */
  REAL *peephole; /* [blocks][i,f,o][LANES] or NULL */
  REAL *dz; /* (chunk + 1, B, pitch): steps of the chunk, then the first step of the one after */
  REAL *carry; /* (B, H): what step t gets of step t+1 past weight_hh: at c, or at h */
  REAL *strip; /* one packed panel of `depth` rows for each thread */
  REAL *packed; /* pack_gates() of all threads, SLACK apart */
  REAL *zero; /* (H) */
} NAME(backward_job);

/* What one time step of one thread reads and writes. */
typedef struct {
  const NAME(backward_job) * job;
  int64_t t;
  const REAL *dz_next; /* (B, pitch) of step t+1, or NULL at the last step */
  REAL *dz; /* (B, pitch) */
  const REAL *c_prev; /* rows c_pitch apart */
  const REAL *h_prev; /* rows h_pitch apart */
  int64_t c_pitch, h_pitch;
} NAME(backward_step);

/* What the tape says of `lanes` units from `unit` of row b. */
INLINE NAME(cell_slopes) NAME(backward_slopes)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes) {
  const bptt_problem *p = s->job->p;
  int64_t H = p->H, row = s->t * p->B + b;
  int reset = is_reset(p, s->t, b);
  vec saved[4], c = {0}, c_prev = {0}, h = {0}, h_prev = {0};
  UNROLL for (int n = 0; n < SAVED; n++) saved[n] =
      vload_n((const REAL *)p->gates + (row * SAVED + n) * H + unit, lanes);
  if (HAS_CELL_STATE) {
    c = vload_n((const REAL *)p->cells + row * H + unit, lanes);
    c_prev = vload_n((reset ? s->job->zero : s->c_prev + b * s->c_pitch) + unit, lanes);
  }
  if (READS_H_PREV)
    h_prev = vload_n((reset ? s->job->zero : s->h_prev + b * s->h_pitch) + unit, lanes);
  if (READS_H)
    h = vload_n((const REAL *)p->output + row * H + unit, lanes);
  return NAME(cell_slopes_of)(saved, c, c_prev, h, h_prev, &s->job->options);
}

/* What units of row b are clipped to in step t. */
INLINE NAME(step_clip) NAME(clip_at)(const NAME(backward_job) * job, int64_t t, int64_t b) {
  const bptt_problem *p = job->p;
  int64_t *count = p->clipped ? p->clipped + (t * p->B + b) * 3 : NULL;
  return (NAME(step_clip)){p->step_clip, count, job->plan.split == BPTT_SPLIT_HIDDEN};
}

/* Step t of those units, given what flows back from step t+1. */
INLINE void NAME(backward_unit)(const NAME(backward_step) * s, int64_t b, int64_t unit, int lanes,
                                const NAME(cell_slopes) * slopes, vec dh_rec) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  int64_t H = p->H, at = (s->t * p->B + b) * H + unit;
  const REAL *peephole = job->peephole ? job->peephole + unit * 3 : NULL;
  REAL *dz = s->dz + b * job->pitch + unit, *carry = job->carry + b * H + unit;
  NAME(step_clip) clip = NAME(clip_at)(job, s->t, b), after = NAME(clip_at)(job, s->t + 1, b);
  vec past = HAS_CELL_STATE || CARRIES_H ? vload_n(carry, lanes) : dh_rec;
  if (CARRIES_H)
    dh_rec = dh_rec + past; /* (G15) */
  if (s->dz_next)
    dh_rec = NAME(clipped)(&after, BPTT_CLIP_HIDDEN, dh_rec);
  vec dh = p->d_output ? vload_n((const REAL *)p->d_output + at, lanes) + dh_rec : dh_rec; /* (L11) (G9) */
  NAME(cell_gradient) d = NAME(cell_backward)(slopes, dh, past, peephole, &clip);
  UNROLL for (int g = 0; g < GATES; g++) vstore_n(dz + g * H, d.z[g], lanes);
  if (HAS_CELL_STATE || CARRIES_H) {
    vec handed = is_reset(p, s->t, b) ? (vec){0} : d.carry;
    vstore_n(carry, HAS_CELL_STATE ? NAME(clipped)(&clip, BPTT_CLIP_CELL, handed) : handed, lanes);
  }
  if (p->d_hidden)
    vstore_n((REAL *)p->d_hidden + at, d.h, lanes);
  if (HAS_CELL_STATE && p->d_cells)
    vstore_n((REAL *)p->d_cells + at, d.c, lanes);
}

/* dh_rec at the last step of a row: what the caller gave. */
INLINE vec NAME(final_gradient)(const bptt_problem *p, int64_t b, int64_t unit, int lanes) {
  return p->d_h_n ? vload_n((const REAL *)p->d_h_n + b * p->H + unit, lanes) : (vec){0};
}

/* Whether nothing flows back to row b of step t: it starts anew at step t+1. */
INLINE int NAME(is_cut)(const NAME(backward_step) * s, int64_t b) {
  return s->dz_next && is_reset(s->job->p, s->t + 1, b);
}

/* Row b alone, one panel of hidden units: (L18) of step t+1, then (L11)-(L17) of step t. */
INLINE void NAME(backward_lone)(int V, const NAME(backward_step) * s, int64_t b, int64_t first) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  NAME(cell_slopes) slopes[V];
  vec sum[V];
  UNROLL for (int v = 0; v < V; v++) {
    int lanes = (int)min_i64(LANES, p->H - first - v * LANES);
    slopes[v] = NAME(backward_slopes)(s, b, first + v * LANES, lanes);
    sum[v] = s->dz_next ? (vec){0} : NAME(final_gradient)(p, b, first + v * LANES, lanes);
  }
  if (s->dz_next)
    NAME(gate_sum_lone)(V, sum, p->H, s->dz_next + b * job->pitch + HH_FIRST * p->H,
                        job->hh + first * MATRIX_GATES * p->H);
  if (NAME(is_cut)(s, b)) {
    UNROLL for (int v = 0; v < V; v++) sum[v] = (vec){0};
  }
  UNROLL for (int v = 0; v < V; v++) {
    int lanes = (int)min_i64(LANES, p->H - first - v * LANES);
    if (lanes == LANES)
      NAME(backward_unit)(s, b, first + v * LANES, LANES, &slopes[v], sum[v]);
    else
      NAME(backward_unit)(s, b, first + v * LANES, lanes, &slopes[v], sum[v]);
  }
}

/* `units` numbers, a panel's width at most, wherever the cache lines begin. */
INLINE void NAME(prefetch)(const REAL *p, int64_t units) {
  for (int64_t unit = 0; unit < units; unit += 64 / (int64_t)sizeof(REAL))
    __builtin_prefetch(p + unit, 0, 2);
  __builtin_prefetch(p + units - 1, 0, 2);
}

/* The tape of a block of rows, so that it is near once the products are done. c_t is: step t+1 has read it. */
static void NAME(prefetch_tape)(const NAME(backward_step) * s, int rows, int64_t b, int64_t first) {
  const bptt_problem *p = s->job->p;
  int64_t H = p->H, units = min_i64(WIDE_VECS * LANES, H - first);
  for (int64_t row = s->t * p->B + b; rows-- > 0; row++, b++) {
    for (int n = 0; n < SAVED; n++)
      NAME(prefetch)((const REAL *)p->gates + (row * SAVED + n) * H + first, units);
    if (HAS_CELL_STATE)
      NAME(prefetch)(s->c_prev + b * s->c_pitch + first, units);
    if (READS_H_PREV)
      NAME(prefetch)(s->h_prev + b * s->h_pitch + first, units);
    if (p->d_output)
      NAME(prefetch)((const REAL *)p->d_output + row * H + first, units);
  }
}

/* The same for rows b .. b+rows-1. */
NOINLINE void NAME(backward_block)(const NAME(backward_step) * s, int rows, int64_t b, int64_t first, int vecs) {
  const NAME(backward_job) *job = s->job;
  const bptt_problem *p = job->p;
  REAL sum[2 * ROW_BLOCK * WIDE_VECS * LANES] __attribute__((aligned(VEC_BYTES)));
  if (s->dz_next) {
    NAME(prefetch_tape)(s, rows, b, first);
    NAME(gate_sums)(rows, vecs, sum, p->H, s->dz_next + b * job->pitch + HH_FIRST * p->H, job->pitch,
                    job->hh + first * MATRIX_GATES * p->H);
  }
  for (int r = 0; r < rows; r++) {
    for (int v = 0; v < vecs; v++) {
      int64_t unit = first + v * LANES;
      int lanes = (int)min_i64(LANES, p->H - unit);
      vec dh_rec = NAME(is_cut)(s, b + r) ? (vec){0}
                   : s->dz_next           ? vload(sum + (r * vecs + v) * LANES)
                                          : NAME(final_gradient)(p, b + r, unit, lanes);
      if (lanes == LANES) {
        NAME(cell_slopes) slopes = NAME(backward_slopes)(s, b + r, unit, LANES);
        NAME(backward_unit)(s, b + r, unit, LANES, &slopes, dh_rec);
      } else {
        NAME(cell_slopes) slopes = NAME(backward_slopes)(s, b + r, unit, lanes);
        NAME(backward_unit)(s, b + r, unit, lanes, &slopes, dh_rec);
      }
    }
  }
}

NOINLINE void NAME(backward_step_run)(const NAME(backward_step) * s, range rows, range panels) {
  for (int64_t panel = panels.begin; panel < panels.end; panel++) {
    int64_t first = panel * WIDE_VECS * LANES;
    int vecs = NAME(wide_vecs)(s->job->p->H, panel);
    for (int64_t b = rows.begin; b < rows.end;) {
      int n = (int)next_tile(rows.end - b, ROW_BLOCK);
      if (n > 1)
        NAME(backward_block)(s, n, b, first, vecs);
      else if (vecs == 1)
        NAME(backward_lone)(1, s, b, first);
      else
        NAME(backward_lone)(2, s, b, first);
      b += n;
    }
  }
}

/* dst (rows, width) at column of panel n: dz against packed panels, for dx (L19) and d_h_0 (L18). */
NOINLINE void NAME(dz_product)(const NAME(backward_job) * job, const REAL *weights, int64_t width, range panels,
                               const REAL *dz, int64_t rows, REAL *dst) {
  REAL sum[2 * ROW_BLOCK * WIDE_VECS * LANES] __attribute__((aligned(VEC_BYTES)));
  int64_t H = job->p->H;
  for (int64_t n = panels.begin; n < panels.end; n++) {
    int vecs = NAME(wide_vecs)(width, n);
    int64_t column = n * WIDE_VECS * LANES;
    for (int64_t b = 0; b < rows;) {
      int block = (int)next_tile(rows - b, ROW_BLOCK);
      NAME(gate_sums)(block, vecs, sum, H, dz + b * job->pitch, job->pitch, weights + column * MATRIX_GATES * H);
      for (int r = 0; r < block; r++, b++)
        for (int v = 0; v < vecs; v++)
          vstore_n(dst + b * width + column + v * LANES, vload(sum + (r * vecs + v) * LANES),
                   (int)min_i64(LANES, width - column - v * LANES));
    }
  }
}

/* Sums that stand side by side in dz and belong to the same rows of the parameters: to weight_ih alone, to both
 * matrices, to weight_hh alone. A block of rows is H of them; -1: none. */
typedef struct {
  int first, count, ih, hh;
} NAME(segment);

static const NAME(segment) NAME(segments)[] = {
#if GATES > MATRIX_GATES
    {0, HH_FIRST, 2, -1},
    {HH_FIRST, MATRIX_GATES - HH_FIRST, 0, 0},
    {MATRIX_GATES, HH_FIRST, -1, 2},
#else
    {0, GATES, 0, 0},
#endif
};

enum { NAME(SEGMENTS) = sizeof(NAME(segments)) / sizeof(NAME(segments)[0]) };

/* The gradients of both biases are the same where a segment belongs to both: summed once, copied at the end. (L22) */
INLINE REAL *NAME(bias_rows)(REAL *bias, int block, int64_t H) {
  return bias && block >= 0 ? bias + block * H : NULL;
}

/* The rows that one sum over tokens goes through: valid tokens only, and zeros for the state before a beginning. */
typedef struct {
  int64_t count;
  const REAL *dz[CHUNK_TOKENS], *x[CHUNK_TOKENS], *h_prev[CHUNK_TOKENS], *c_prev[CHUNK_TOKENS], *c[CHUNK_TOKENS];
} NAME(token_rows);

/* Tokens [first, first + depth) of the sequence, whose dz stands at `dz`. */
static void NAME(list_tokens)(const NAME(backward_job) * job, NAME(token_rows) * rows, const REAL *dz, int64_t first,
                              int64_t depth) {
  const bptt_problem *p = job->p;
  int64_t B = p->B, H = p->H, n = 0;
  for (int64_t token = first; token < first + depth; token++, dz += job->pitch) {
    int64_t t = token / B, b = token % B;
    if (p->lengths && t >= p->lengths[b])
      continue;
    int anew = is_reset(p, t, b);
    rows->dz[n] = dz;
    rows->x[n] = (const REAL *)p->x + token * p->I;
    rows->c[n] = HAS_CELL_STATE ? (const REAL *)p->cells + token * H : job->zero;
    if (t && !anew) {
      rows->h_prev[n] = (const REAL *)p->output + (token - B) * H;
      rows->c_prev[n] = HAS_CELL_STATE ? rows->c[n] - B * H : job->zero;
    } else {
      rows->h_prev[n] = !anew && p->h_0 ? (const REAL *)p->h_0 + b * H : job->zero;
      rows->c_prev[n] = !anew && p->c_0 ? (const REAL *)p->c_0 + b * H : job->zero;
    }
    n++;
  }
  rows->count = n;
}

/* d_x of tokens [begin, end) of the chunk that starts at step t0. (L19) */
static void NAME(input_gradient)(const NAME(backward_job) * job, int64_t t0, int64_t begin, int64_t end) {
  const bptt_problem *p = job->p;
  int64_t I = p->I, B = p->B, active = B;
  while (begin < end) { /* the rest of a step: valid rows, then those past their length; all at once without lengths */
    int64_t t = t0 + begin / B, b = begin % B, stop = p->lengths ? min_i64(end, begin - b + B) : end, valid = stop;
    REAL *d_x = (REAL *)p->d_x + (t0 * B + begin) * I;
    if (p->lengths) {
      active = active_rows(p, t, active);
      valid = max_i64(begin, min_i64(stop, begin - b + active));
      memset(d_x + (valid - begin) * I, 0, (size_t)((stop - valid) * I) * sizeof(REAL));
    }
    NAME(dz_product)(job, job->ih, I, share(job->x_panels, 0, 1), job->dz + begin * job->pitch, valid - begin, d_x);
    begin = stop;
  }
}

/* What one segment gives to the parameters, this thread's share. (L20) (L21) (L22) */
static void NAME(segment_products)(const NAME(backward_job) * job, const NAME(segment) * segment, const bptt_team *team,
                                   int rank, const NAME(token_rows) * rows, int fresh) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, I = p->I, offset = segment->first * H;
  range gates = share(segment->count * H, rank, team->size);
  REAL *strip = job->strip + (int64_t)rank * job->depth * 4 * LANES;
  /* By the share of all gates, not of this segment: another thread may be at another one. */
  REAL *packed = job->packed + share(GATES * H, rank, team->size).begin * job->depth + rank * SLACK;
  REAL *b_ih = NAME(bias_rows)(p->d_bias_ih, segment->ih, H), *b_hh = NAME(bias_rows)(p->d_bias_hh, segment->hh, H);
  if (p->d_weight_hh) {
    NAME(pack_gates)(packed, gates, rows->dz, offset, rows->count);
    if (segment->hh >= 0)
      NAME(outer_product)((REAL *)p->d_weight_hh + segment->hh * H * H, H, gates, fresh, packed, rows->count,
                          rows->h_prev, strip);
    if (segment->ih >= 0 && p->d_weight_ih)
      NAME(outer_product)((REAL *)p->d_weight_ih + segment->ih * H * I, I, gates, fresh, packed, rows->count, rows->x,
                          strip);
  }
  if (b_ih || b_hh)
    NAME(column_sum)(b_ih ? b_ih : b_hh, gates, fresh, rows->dz, offset, rows->count, NULL);
}

/* Everything that sums over the tokens of a chunk (its last tokens first), this thread's share. */
static void NAME(chunk_products)(const NAME(backward_job) * job, const bptt_team *team, int rank, int64_t t0,
                                 int64_t steps, int fresh) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, tokens = steps * p->B;
  range units = share(H, rank, team->size);
  NAME(token_rows) rows;
  if (p->d_x) {
    range own = share(tokens, rank, team->size);
    NAME(input_gradient)(job, t0, own.begin, own.end);
  }
  for (int64_t end = tokens; end > 0; fresh = 0) {
    int64_t begin = max_i64(0, end - job->depth);
    NAME(list_tokens)(job, &rows, job->dz + begin * job->pitch, t0 * p->B + begin, end - begin);
    for (int n = 0; n < NAME(SEGMENTS); n++)
      NAME(segment_products)(job, &NAME(segments)[n], team, rank, &rows, fresh);
    if (p->d_weight_peephole) { /* (L23) */
      REAL *dp = p->d_weight_peephole;
      NAME(column_sum)(dp, units, fresh, rows.dz, 0, rows.count, rows.c_prev);
      NAME(column_sum)(dp + H, units, fresh, rows.dz, H, rows.count, rows.c_prev);
      NAME(column_sum)(dp + 2 * H, units, fresh, rows.dz, 3 * H, rows.count, rows.c);
    }
    end = begin;
  }
}

/* Zeros for what is asked of rows past their length: this thread's units. */
static void NAME(backward_past)(const bptt_problem *p, int64_t t, range rows, range panels) {
  int64_t H = p->H, first = panels.begin * WIDE_VECS * LANES,
          count = min_i64(panels.end * WIDE_VECS * LANES, H) - first;
  for (int64_t b = rows.begin; b < rows.end && count > 0; b++) {
    int64_t at = (t * p->B + b) * H + first;
    if (p->d_hidden)
      memset((REAL *)p->d_hidden + at, 0, (size_t)count * sizeof(REAL));
    if (p->d_cells)
      memset((REAL *)p->d_cells + at, 0, (size_t)count * sizeof(REAL));
  }
}

/* The recursion over the steps of a chunk, this thread's rows and panels. Returns 1 when stopped. */
static int NAME(chunk_recursion)(const NAME(backward_job) * job, bptt_team *team, int rank, int64_t t0, int64_t t1,
                                 range rows, range panels) {
  const bptt_problem *p = job->p;
  int64_t state = p->B * p->H, slot = p->B * job->pitch, active = 0;
  double flops = 2.0 * MATRIX_GATES * (double)p->H * (double)(p->H) * (double)(rows.end - rows.begin);
  for (int64_t t = t1; t-- > t0;) {
    NAME(backward_step) s = {.job = job, .t = t, .dz = job->dz + (t - t0) * slot, .c_pitch = p->H};
    const REAL *dz_next = t + 1 == t1 ? job->dz + job->plan.chunk * slot : s.dz + slot;
    s.h_pitch = p->H;
    s.h_prev = t ? (const REAL *)p->output + (t - 1) * state : p->h_0;
    if (!s.h_prev) {
      s.h_prev = job->zero;
      s.h_pitch = 0;
    }
    s.c_prev = !HAS_CELL_STATE ? NULL : t ? (const REAL *)p->cells + (t - 1) * state : p->c_0;
    if (!s.c_prev) {
      s.c_prev = job->zero;
      s.c_pitch = 0;
    }
    /* Rows that go on to step t+1, then those for which t is the last step. */
    int64_t going = max_i64(rows.begin, min_i64(rows.end, active_rows(p, t + 1, active)));
    active = active_rows(p, t, active);
    int64_t valid = max_i64(rows.begin, min_i64(rows.end, active));
    s.dz_next = dz_next;
    NAME(backward_step_run)(&s, (range){rows.begin, going}, panels);
    s.dz_next = NULL;
    NAME(backward_step_run)(&s, (range){going, valid}, panels);
    if (p->lengths)
      NAME(backward_past)(p, t, (range){valid, rows.end}, panels);
    int stop = bptt_team_progress(team, rank, flops);
    if (job->plan.split == BPTT_SPLIT_HIDDEN)
      stop = bptt_team_wait(team, rank);
    if (stop)
      return 1;
  }
  return job->plan.split == BPTT_SPLIT_ROWS ? bptt_team_wait(team, rank) : 0;
}

static void NAME(pack_backward)(const NAME(backward_job) * job, const bptt_team *team, int rank) {
  const bptt_problem *p = job->p;
  int64_t H = p->H;
  NAME(pack_wide)(job->hh, p->weight_hh, H, H, share(job->panels, rank, team->size), NAME(hh_rows));
  if (p->d_x)
    NAME(pack_wide)(job->ih, p->weight_ih, H, p->I, share(job->x_panels, rank, team->size), NAME(ih_rows));
  if (job->peephole)
    NAME(pack_peephole)(job->peephole, p->weight_peephole, H, share(ceil_div(H, LANES), rank, team->size));
}

/* What step 0 hands to the initial h of row b, clipped. */
static void NAME(clip_row)(const NAME(backward_job) * job, REAL *d_h_0, int64_t b) {
  NAME(step_clip) clip = NAME(clip_at)(job, 0, b);
  for (int64_t unit = 0; unit < job->p->H; unit += LANES) {
    int lanes = (int)min_i64(LANES, job->p->H - unit);
    vstore_n(d_h_0 + unit, NAME(clipped)(&clip, BPTT_CLIP_HIDDEN, vload_n(d_h_0 + unit, lanes)), lanes);
  }
}

/* d_h_0 and d_c_0, and zeros in place of sums over no tokens; this thread's rows. dz holds step 0 in slot 0. */
static void NAME(backward_final)(const NAME(backward_job) * job, const bptt_team *team, int rank) {
  const bptt_problem *p = job->p;
  range rows = share(p->B, rank, team->size);
  size_t row_bytes = (size_t)p->H * sizeof(REAL), bytes = (size_t)(rows.end - rows.begin) * row_bytes;
  int64_t H = p->H, at = rows.begin * H, valid = max_i64(rows.begin, min_i64(rows.end, active_rows(p, 0, 0)));
  if (p->d_h_0) {
    REAL *d_h_0 = p->d_h_0;
    NAME(dz_product)(job, job->hh, H, share(job->panels, 0, 1), job->dz + rows.begin * job->pitch + HH_FIRST * H,
                     valid - rows.begin, d_h_0 + at);
    for (int64_t n = rows.begin * H; CARRIES_H && n < valid * H; n++)
      d_h_0[n] += job->carry[n];
    for (int64_t b = rows.begin; b < rows.end; b++)
      if (b >= valid && p->d_h_n)
        memcpy(d_h_0 + b * H, (const REAL *)p->d_h_n + b * H, row_bytes);
      else if (b >= valid || is_reset(p, 0, b))
        memset(d_h_0 + b * H, 0, row_bytes);
      else if (p->step_clip)
        NAME(clip_row)(job, d_h_0 + b * H, b);
  }
  if (p->d_c_0 && bytes)
    memcpy((REAL *)p->d_c_0 + at, job->carry + at, bytes);
  if (rank)
    return;
  size_t gate_rows = (size_t)(MATRIX_GATES * p->H) * sizeof(REAL);
  if (p->T * p->B == 0) {
    if (p->accumulate)
      return;
    if (p->d_weight_hh)
      memset(p->d_weight_hh, 0, gate_rows * (size_t)p->H);
    if (p->d_weight_ih && p->I)
      memset(p->d_weight_ih, 0, gate_rows * (size_t)p->I);
    if (p->d_bias_ih)
      memset(p->d_bias_ih, 0, gate_rows);
    if (p->d_bias_hh)
      memset(p->d_bias_hh, 0, gate_rows);
    if (p->d_weight_peephole)
      memset(p->d_weight_peephole, 0, 3 * row_bytes);
    return;
  }
  for (int n = 0; n < NAME(SEGMENTS); n++) {
    const NAME(segment) *segment = &NAME(segments)[n];
    REAL *b_ih = NAME(bias_rows)(p->d_bias_ih, segment->ih, H), *b_hh = NAME(bias_rows)(p->d_bias_hh, segment->hh, H);
    if (b_ih && b_hh)
      memcpy(b_hh, b_ih, (size_t)segment->count * row_bytes);
  }
}

static void NAME(backward_member)(const void *context, bptt_team *team, int rank) {
  const NAME(backward_job) *job = context;
  const bptt_problem *p = job->p;
  int split_rows = job->plan.split == BPTT_SPLIT_ROWS;
  range rows = split_rows ? share_rows(p, rank, team->size) : share(p->B, 0, 1);
  range panels = split_rows ? share(job->panels, 0, 1) : share(job->panels, rank, team->size);
  range mine = share(p->B * p->H, rank, team->size);
  int64_t chunk = job->plan.chunk, slot = p->B * job->pitch;
  if (p->d_c_n)
    memcpy(job->carry + mine.begin, (const REAL *)p->d_c_n + mine.begin,
           (size_t)(mine.end - mine.begin) * sizeof(REAL));
  else
    memset(job->carry + mine.begin, 0, (size_t)(mine.end - mine.begin) * sizeof(REAL));
  if (p->clipped) {
    range counts = share(3 * p->T * p->B, rank, team->size);
    memset(p->clipped + counts.begin, 0, (size_t)(counts.end - counts.begin) * sizeof *p->clipped);
  }
  NAME(pack_backward)(job, team, rank);
  if (bptt_team_wait(team, rank))
    return;
  for (int64_t t1 = p->T; t1 > 0; t1 -= min_i64(chunk, t1)) {
    int64_t t0 = t1 - min_i64(chunk, t1);
    if (NAME(chunk_recursion)(job, team, rank, t0, t1, rows, panels))
      return;
    NAME(chunk_products)(job, team, rank, t0, t1 - t0, t1 == p->T && !p->accumulate);
    if (t0 > 0) { /* the chunk before starts from this one's first step */
      range carry = share(slot, rank, team->size);
      memcpy(job->dz + chunk * slot + carry.begin, job->dz + carry.begin,
             (size_t)(carry.end - carry.begin) * sizeof(REAL));
    }
    double flops = 4.0 * MATRIX_GATES * (double)p->H * (double)(p->I + p->H) * (double)((t1 - t0) * p->B) / team->size;
    bptt_team_progress(team, rank, flops);
    if (bptt_team_wait(team, rank))
      return;
  }
  NAME(backward_final)(job, team, rank);
}

static NAME(backward_job) NAME(backward_plan)(const bptt_problem *p, arena *a) {
  NAME(backward_job) job = {.p = p, .options = options_of(p)};
  int64_t H = p->H, real = (int64_t)sizeof(REAL);
  job.plan = plan_backward(p, GATES, LANES, sizeof(REAL), WIDE_ROWS);
  job.panels = NAME(wide_panels)(H);
  job.x_panels = NAME(wide_panels)(p->I);
  job.depth = min_i64(CHUNK_TOKENS, job.plan.chunk * p->B);
  job.pitch = GATES * H + ARENA_ALIGN / real;
  job.hh = arena_take(a, job.panels * WIDE_VECS * LANES * MATRIX_GATES, H * real);
  job.ih = p->d_x ? arena_take(a, job.x_panels * WIDE_VECS * LANES * MATRIX_GATES, H * real) : NULL;
  job.peephole = p->weight_peephole ? arena_take(a, ceil_div(H, LANES) * LANES * 3, real) : NULL;
  job.dz = arena_take(a, (job.plan.chunk + 1) * p->B, job.pitch * real);
  job.carry = arena_take(a, p->B * H, real);
  job.strip = arena_take(a, (int64_t)job.plan.threads * job.depth * 4 * LANES, real);
  job.packed = arena_take(a, GATES * H * job.depth + (int64_t)job.plan.threads * SLACK, real);
  job.zero = arena_take(a, H, real);
  return job;
}

static bptt_status NAME(backward)(const bptt_problem *p) {
  arena a = arena_on(p->workspace);
  NAME(backward_job) job = NAME(backward_plan)(p, &a);
  bptt_status status = arena_check(&a, p->workspace_bytes);
  if (status)
    return status;
  memset(job.zero, 0, (size_t)p->H * sizeof(REAL));
  int stopped = bptt_team_run(job.plan.threads, p->split != BPTT_SPLIT_AUTO, NAME(backward_member), &job, p->poll,
                              p->poll_context);
  return stopped ? BPTT_INTERRUPTED : BPTT_OK;
}

static int64_t NAME(workspace)(const bptt_problem *p, bptt_op op) {
  arena a = {0};
  if (op == BPTT_FORWARD)
    (void)NAME(forward_plan)(p, &a);
  else if (op == BPTT_BACKWARD)
    (void)NAME(backward_plan)(p, &a);
  else
    (void)NAME(place_weights)(p, &a);
  return arena_bytes(&a);
}
