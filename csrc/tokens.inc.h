/* Everything that sums over the tokens of a chunk: dx, and the gradients of the parameters. */

/* Rows of `width` at columns of these panels: dz against packed weights, for dx (L19) and d_h_0 (L18). */
NOINLINE void NAME(dz_product)(const NAME(backward_job) * job, const REAL *weights, int gates, int64_t width,
                               range panels, const REAL *dz, int64_t rows, NAME(destination) dst) {
  REAL sum[GATE_SUMS] __attribute__((aligned(VEC_BYTES)));
  const int64_t H = job->p->H;
  for (int64_t n = panels.begin; n < panels.end; n++) {
    const int vecs = NAME(wide_vecs)(width, n);
    const int64_t column = n * WIDE_VECS * LANES, whole = WIDE_VECS * LANES * gates * H;
    REAL *to = dst.to + column;
    for (int64_t b = 0, left = dst.count; b < rows;) {
      int block = (int)next_tile(rows - b, ROW_BLOCK);
      NAME(gate_sums)(block, vecs, gates, sum, H, dz + b * job->pitch, job->pitch, weights,
                      n + 1 < panels.end ? weights + whole : weights, NULL, 0);
      for (int r = 0; r < block; r++, b++, to += width) {
        for (int v = 0; v < vecs; v++)
          vstore_n(to + v * LANES, NAME(gate_sum)(sum + (r * vecs + v) * LANES, gates),
                   (int)min_i64(LANES, width - column - v * LANES));
        if (--left == 0)
          left = dst.count, to += (dst.step - dst.count) * width;
      }
    }
    weights += whole;
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

/* The rows that one sum over tokens goes through: valid tokens only, and zeros for the state before a beginning. The
 * lists lie as far apart as they are long, and a line more. */
typedef struct {
  int64_t count;
  const REAL **dz, **x, **h_prev, **c_prev, **c;
  const REAL **dh, **middle; /* of the second product: gradients at its outputs, its inputs */
  const REAL *lists[7 * (MOST_TOKENS + 8)];
} NAME(token_rows);

/* Who works on sums over tokens, and where: a share of them, in memory of its own. */
typedef struct {
  int rank, size;
  REAL *strip, *packed; /* one packed panel of rows; gates as pack_gates() leaves them */
  REAL *seen; /* (depth, W): what dropout left of h_{t-1}; or NULL */
} NAME(summer);

/* One of all members, each with its share of the rows of the parameters. */
static NAME(summer) NAME(member_summer)(const NAME(backward_job) * job, int rank, int size) {
  NAME(summer) s = {rank, size, job->strip + rank * job->depth * 4 * LANES, NULL, NULL};
  /* By the share of all rows, not of this product's, as another member may be at another. */
  s.packed = job->packed + share(job->packed_rows, rank, size).begin * job->depth + rank * OUTER_GATES * job->depth;
  s.seen = job->seen ? job->seen + rank * job->depth * job->W : NULL;
  return s;
}

/* One that does all for its own group of batch rows. */
static NAME(summer) NAME(group_summer)(const NAME(backward_job) * job, int group) {
  NAME(summer) s = NAME(member_summer)(job, group, 1);
  s.rank = 0;
  s.packed = job->packed + group * (job->packed_rows * job->group_depth + OUTER_GATES * job->depth);
  return s;
}

static void NAME(place_lists)(NAME(token_rows) * rows, int64_t depth) {
  const REAL ***lists[] = {&rows->dz, &rows->x, &rows->h_prev, &rows->c_prev, &rows->c, &rows->dh, &rows->middle};
  for (int n = 0; n < 7; n++)
    *lists[n] = rows->lists + n * (depth + 8);
}

/* Tokens [begin, end) of those of some batch rows in the chunk that starts at step t0. */
static void NAME(list_tokens)(const NAME(backward_job) * job, NAME(token_rows) * rows, REAL *seen, int64_t t0,
                              range batch, int64_t begin, int64_t end) {
  const bptt_problem *p = job->p;
  const int64_t B = p->B, H = p->H, W = job->W, each = batch.end - batch.begin;
  const pitches of_x = pitches_of(p->x_step, p->x_row, B, p->I);
  int64_t n = 0, t = t0 + begin / each, b = batch.begin + begin % each - 1;
  for (int64_t k = begin; k < end; k++) {
    if (++b == batch.end)
      b = batch.begin, t++;
    const int64_t token = t * B + b, at = token - t0 * B;
    if (p->lengths && t >= p->lengths[b])
      continue;
    int anew = is_reset(p, t, b);
    rows->dz[n] = NAME(dz_at)(job, t - t0, b);
    rows->x[n] = (const REAL *)p->x + t * of_x.step + b * of_x.row;
    rows->h_prev[n] = t && !anew        ? (const REAL *)p->output + (token - B) * W
                      : !anew && p->h_0 ? (const REAL *)p->h_0 + b * W
                                        : job->zero;
    if (HAS_CELL_STATE && p->d_weight_peephole) {
      const REAL *c = (const REAL *)p->cells + token * H;
      rows->c[n] = job->c_next ? job->c_next + at * H : c;
      rows->c_prev[n] = t && !anew ? c - B * H : !anew && p->c_0 ? (const REAL *)p->c_0 + b * H : job->zero;
    }
    if (HAS_CELL_STATE && job->mask) {
      NAME(apply_mask)(seen + n * W, rows->h_prev[n], job->mask + b * W, W);
      rows->h_prev[n] = seen + n * W;
    }
    if (HAS_CELL_STATE && job->dh) {
      rows->dh[n] = job->dh + at * job->dh_pitch;
      rows->middle[n] = job->middle + at * H;
    } else if (CANDIDATE_ALONE) { /* (G26) */
      rows->middle[n] = (const REAL *)p->gates + (token * SAVED + SAVED - 1) * H;
    }
    n++;
  }
  rows->count = n;
}

/* d_x of rows of dz, all its columns. (L19) */
static void NAME(input_rows)(const NAME(backward_job) * job, const REAL *dz, int64_t rows, NAME(destination) dst) {
  const int64_t I = job->p->I;
  if (job->narrow)
    SHARED(dot_products)(&dst, I, rows, MATRIX_GATES * job->p->H, dz, job->pitch, job->ih);
  else
    NAME(dz_product)(job, job->ih, MATRIX_GATES, I, share(job->x_panels, 0, 1), dz, rows, dst);
}

/* d_x of rows of one part, some steps of the chunk that starts at step t0. (L19) */
static void NAME(rows_input_gradient)(const NAME(backward_job) * job, int64_t t0, range steps, range batch) {
  const bptt_problem *p = job->p;
  const int64_t I = p->I, cut = job->second_row, n = batch.end - batch.begin;
  const row_ranges all = in_halves(p, batch);
  row_ranges valid = all;
  const int whole = n > 0 && n == (batch.begin < cut ? cut : p->B - cut) &&
                    (all.half[0].end == batch.begin || all.half[0].end == batch.end);
  for (int64_t t = steps.begin, run; t < steps.end; t += run) {
    valid = valid_rows(p, t0 + t, &all, &valid);
    run = 1;
    if (whole && count_rows(&valid) == n) /* steps on end, until a row has none */
      run = min_i64(steps.end, (p->lengths ? p->lengths[batch.end - 1] : p->T) - t0) - t;
    for (int half = 0; half < all.count; half++) {
      const range rows = all.half[half];
      const int64_t count = valid.half[half].end - rows.begin;
      REAL *d_x = (REAL *)p->d_x + ((t0 + t) * p->B + rows.begin) * I;
      NAME(input_rows)(job, NAME(dz_at)(job, t, rows.begin), run * count, (NAME(destination)){d_x, count, p->B});
      if (p->lengths)
        memset(d_x + count * I, 0, (size_t)((rows.end - rows.begin - count) * I) * sizeof(REAL));
    }
  }
}

/* The same of tokens [begin, end) of the chunk, where all rows are one part and as long. */
static void NAME(input_gradient)(const NAME(backward_job) * job, int64_t t0, int64_t begin, int64_t end) {
  const bptt_problem *p = job->p;
  NAME(input_rows)(job, job->dz + begin * job->pitch, end - begin,
                   (NAME(destination)){(REAL *)p->d_x + (t0 * p->B + begin) * p->I, end - begin, 0});
}

/* Whether the rows of weight_hh in a segment meet what goes into the second product, not h. (G26) */
INLINE int NAME(of_middle)(const NAME(backward_job) * job, const NAME(segment) * segment) {
  return CANDIDATE_ALONE && job->p->reset_before && segment->hh >= job->hh_gates;
}

/* Vectors that hold sums [first, first + count) of dz: this one's share. */
static range NAME(turned_vecs)(const NAME(backward_job) * job, const NAME(summer) * summer, int first, int count) {
  const int64_t H = job->p->H, begin = first * H / LANES;
  range own = share(ceil_div((first + count) * H, LANES) - begin, summer->rank, summer->size);
  return (range){own.begin + begin, own.end + begin};
}

/* What all segments give to the turned weights, this one's share. Where a segment begins or ends inside a vector, the
 * columns beside it get what nobody asks for. (L20) (L21) */
static void NAME(turned_products)(const NAME(backward_job) * job, const NAME(summer) * summer,
                                  const NAME(token_rows) * rows, const NAME(sums) * sums, int fresh) {
  const int64_t I = job->p->I, W = job->W, pitch = job->turned_pitch, n = rows->count;
  if (sums->d_weight_ih)
    SHARED(turned_product)(sums->d_weight_ih, I, pitch, NAME(turned_vecs)(job, summer, 0, MATRIX_GATES), fresh, rows->x,
                           rows->dz, n);
  if (sums->d_weight_hh)
    SHARED(turned_product)(sums->d_weight_hh, W, pitch, NAME(turned_vecs)(job, summer, HH_FIRST, job->hh_gates), fresh,
                           rows->h_prev, rows->dz, n);
  if (CANDIDATE_ALONE && sums->d_middle)
    SHARED(turned_product)(sums->d_middle, W, pitch, NAME(turned_vecs)(job, summer, GATES - 1, 1), fresh, rows->middle,
                           rows->dz, n);
}

/* Between the caller's gradients of the weights and the turned sums over all tokens: back, or (`in`) what is to be
 * added to. This thread's share. */
ONCE void NAME(turn_sums)(const NAME(backward_job) * job, int in, int rank, int size) {
  const bptt_problem *p = job->p;
  const NAME(sums) *sums = &job->of_all;
  const int64_t H = p->H, pitch = job->turned_pitch;
  for (int n = 0; n < NAME(SEGMENTS); n++) {
    const NAME(segment) *s = &NAME(segments)[n];
    const range own = share(s->count * H, rank, size);
    const struct {
      void *whole;
      REAL *turned;
      int block;
      int64_t width;
    } both[] = {{p->d_weight_ih, sums->d_weight_ih, s->ih, p->I},
                {p->d_weight_hh, NAME(of_middle)(job, s) ? sums->d_middle : sums->d_weight_hh, s->hh, job->W}};
    for (int m = 0; m < 2; m++) {
      if (!both[m].whole || both[m].block < 0)
        continue;
      REAL *whole = (REAL *)both[m].whole + (both[m].block * H + own.begin) * both[m].width;
      REAL *turned = both[m].turned + s->first * H + own.begin;
      if (in)
        SHARED(turn)(turned, pitch, whole, both[m].width, own.end - own.begin, both[m].width);
      else
        SHARED(turn)(whole, both[m].width, turned, pitch, both[m].width, own.end - own.begin);
    }
  }
}

/* What one segment gives to the parameters, this thread's share: biases, and weights that are not turned. (L20) (L21)
 * (L22) */
static void NAME(segment_products)(const NAME(backward_job) * job, const NAME(segment) * segment,
                                   const NAME(summer) * summer, const NAME(token_rows) * rows, const NAME(sums) * sums,
                                   int fresh) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, I = p->I, W = job->W, offset = segment->first * H;
  range gates = share(segment->count * H, summer->rank, summer->size);
  REAL *strip = summer->strip, *packed = summer->packed;
  REAL *b_ih = NAME(bias_rows)(sums->d_bias_ih, segment->ih, H);
  REAL *b_hh = NAME(bias_rows)(sums->d_bias_hh, segment->hh, H);
  if (sums->d_weight_hh && !job->turned_pitch) {
    SHARED(pack_gates)(packed, gates, rows->dz, offset, rows->count, b_ih ? b_ih : b_hh, fresh);
    if (segment->hh >= 0)
      SHARED(outer_product)(sums->d_weight_hh + segment->hh * H * W, W, gates, fresh, packed, rows->count,
                            NAME(of_middle)(job, segment) ? rows->middle : rows->h_prev, strip);
    if (segment->ih >= 0 && sums->d_weight_ih)
      SHARED(outer_product)(sums->d_weight_ih + segment->ih * H * I, I, gates, fresh, packed, rows->count, rows->x,
                            strip);
  } else if (b_ih || b_hh) {
    SHARED(column_sum)(b_ih ? b_ih : b_hh, gates, fresh, rows->dz, offset, rows->count, NULL);
  }
}

/* The gradient of the projection's weights, this thread's share. (L31) */
static void NAME(projection_products)(const NAME(backward_job) * job, const NAME(summer) * summer,
                                      const NAME(token_rows) * rows, const NAME(sums) * sums, int fresh) {
  range own = share(job->W, summer->rank, summer->size);
  SHARED(pack_gates)(summer->packed, own, rows->dh, 0, rows->count, NULL, 0);
  SHARED(outer_product)(sums->d_weight_hr, job->p->H, own, fresh, summer->packed, rows->count, rows->middle,
                        summer->strip);
}

/* What tokens of some batch rows in a chunk (the last ones first) give to the parameters of `sums`, this one's share.
 */
static void NAME(sum_tokens)(const NAME(backward_job) * job, const NAME(summer) * summer, int64_t t0, int64_t steps,
                             range batch, const NAME(sums) * sums, int fresh) {
  int64_t H = job->p->H, tokens = steps * (batch.end - batch.begin);
  range units = share(H, summer->rank, summer->size);
  NAME(token_rows) rows;
  NAME(place_lists)(&rows, job->depth);
  for (int64_t end = tokens; end > 0; fresh = 0) {
    int64_t begin = max_i64(0, end - job->depth);
    NAME(list_tokens)(job, &rows, summer->seen, t0, batch, begin, end);
    if (job->turned_pitch)
      NAME(turned_products)(job, summer, &rows, sums, fresh);
    for (int n = 0; n < NAME(SEGMENTS); n++)
      NAME(segment_products)(job, &NAME(segments)[n], summer, &rows, sums, fresh);
    if (HAS_CELL_STATE && job->dh && sums->d_weight_hr)
      NAME(projection_products)(job, summer, &rows, sums, fresh);
    if (HAS_CELL_STATE && sums->d_weight_peephole) { /* (L23) */
      REAL *dp = sums->d_weight_peephole;
      SHARED(column_sum)(dp, units, fresh, rows.dz, 0, rows.count, rows.c_prev);
      SHARED(column_sum)(dp + H, units, fresh, rows.dz, H, rows.count, rows.c_prev);
      SHARED(column_sum)(dp + 2 * H, units, fresh, rows.dz, 3 * H, rows.count, rows.c);
    }
    end = begin;
  }
}

/* d_x of all tokens, the columns of this thread, whose panels of weight_ih are packed one by one. (L19) */
NOINLINE void NAME(input_gradient_by_panels)(const NAME(backward_job) * job, int rank, int size) {
  const bptt_problem *p = job->p;
  const range own = share(job->x_panels, rank, size);
  REAL *panel = job->ih + rank * job->own_panel;
  for (int64_t n = own.begin; n < own.end; n++) {
    NAME(pack_wide)(panel, p->weight_ih, p->H, MATRIX_GATES, p->I, (range){n, n + 1}, NAME(ih_rows));
    for (int part = 0; part < 2; part++) {
      const range rows = NAME(part_of)(job, share(p->B, 0, 1), part);
      const int64_t count = rows.end - rows.begin;
      NAME(dz_product)(job, panel, MATRIX_GATES, p->I, (range){n, n + 1}, NAME(dz_at)(job, 0, rows.begin), p->T * count,
                       (NAME(destination)){(REAL *)p->d_x + rows.begin * p->I, count, p->B});
    }
  }
}

/* dx of a chunk, this thread's share. */
static void NAME(chunk_input_gradient)(const NAME(backward_job) * job, const bptt_team *team, int rank, int64_t t0,
                                       int64_t steps) {
  if (job->own_panel) {
    NAME(input_gradient_by_panels)(job, rank, team->size);
  } else if (job->p->d_x && job->p->lengths) {
    for (int part = 0; part < 2; part++)
      NAME(rows_input_gradient)(job, t0, share(steps, rank, team->size),
                                NAME(part_of)(job, share(job->p->B, 0, 1), part));
  } else if (job->p->d_x) {
    range own = share(steps * job->p->B, rank, team->size);
    NAME(input_gradient)(job, t0, own.begin, own.end);
  }
}

/* What a chunk gives to the parameters: to `sums`, or group after group to those of the groups; this thread's share. */
static void NAME(chunk_products)(const NAME(backward_job) * job, const bptt_team *team, int rank, int64_t t0,
                                 int64_t steps, const NAME(sums) * sums, int fresh) {
  const NAME(summer) summer = NAME(member_summer)(job, rank, team->size);
  for (int group = 0; group < job->groups; group++)
    NAME(sum_tokens)(job, &summer, t0, steps, share(job->p->B, group, job->groups),
                     job->groups > 1 ? &job->of_group[group] : sums, fresh);
}

/* The same of a group that is one thread's own. */
static void NAME(group_products)(const NAME(backward_job) * job, int group, int64_t t0, int64_t steps, int fresh) {
  const NAME(summer) summer = NAME(group_summer)(job, group);
  NAME(sum_tokens)(job, &summer, t0, steps, share(job->p->B, group, job->groups), &job->of_group[group], fresh);
}
