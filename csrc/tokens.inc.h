/* Gradients of the parameters: sums over the tokens of a chunk. */

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

#if HAS_TILES
typedef bptt_outer NAME(outer);
#else
/* As bptt_outer. */
typedef struct {
  REAL *dw;
  int64_t width;
  const REAL *const *rows;
} NAME(outer);
#endif

/* Who works on sums over tokens, and where: a share of them, in memory of its own. */
typedef struct {
  int rank, size;
  REAL *strip, *packed; /* one packed panel of rows; gates as pack_gates() leaves them */
  void *room; /* for tiles, in place of both */
  REAL *seen; /* (depth, W): what dropout left of h_{t-1}; or NULL */
} NAME(summer);

/* One of all members, each with its share of the rows of the parameters. */
static NAME(summer) NAME(member_summer)(const NAME(backward_job) * job, int rank, int size) {
  NAME(summer) s = {.rank = rank, .size = size};
  if (job->tiles) {
    s.room = job->rooms + rank * job->tile_room;
  } else {
    s.strip = job->strip + rank * job->depth * 4 * LANES;
    /* By the share of all rows, not of this product's, as another member may be at another. */
    s.packed = job->packed + share(job->packed_rows, rank, size).begin * job->depth + rank * OUTER_GATES * job->depth;
  }
  s.seen = job->seen ? job->seen + rank * job->depth * job->W : NULL;
  return s;
}

/* One that does all for its own group of batch rows. */
static NAME(summer) NAME(group_summer)(const NAME(backward_job) * job, int group) {
  NAME(summer) s = NAME(member_summer)(job, group, 1);
  s.rank = 0;
  if (!job->tiles)
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

/* Sums over tokens of gates times the rows of one or two arrays, and of the gates alone. (L20) (L21) (L22) */
static void NAME(weight_products)(const NAME(backward_job) * job, const NAME(summer) * summer, const REAL *const *dz,
                                  int64_t depth, range gates, int64_t offset, NAME(outer) first, NAME(outer) second,
                                  int fresh, REAL *bias) {
#if HAS_TILES
  if (job->tiles) {
    const bptt_outer both[2] = {first, second};
    job->tiles->outer(first.dw ? both : both + 1, (first.dw != NULL) + (second.dw != NULL), gates, fresh, dz, offset,
                      depth, bias, summer->room);
    return;
  }
#endif
  (void)job;
  SHARED(pack_gates)(summer->packed, gates, dz, offset, depth, bias, fresh);
  if (first.dw)
    SHARED(outer_product)(first.dw, first.width, gates, fresh, summer->packed, depth, first.rows, summer->strip);
  if (second.dw)
    SHARED(outer_product)(second.dw, second.width, gates, fresh, summer->packed, depth, second.rows, summer->strip);
}

/* What one segment gives to the parameters, this thread's share: biases, and weights that are not turned. (L20) (L21)
 * (L22) */
static void NAME(segment_products)(const NAME(backward_job) * job, const NAME(segment) * segment,
                                   const NAME(summer) * summer, const NAME(token_rows) * rows, const NAME(sums) * sums,
                                   int fresh) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, I = p->I, W = job->W, offset = segment->first * H;
  range gates = share(segment->count * H, summer->rank, summer->size);
  REAL *dw_ih = segment->ih >= 0 && sums->d_weight_ih ? sums->d_weight_ih + segment->ih * H * I : NULL;
  REAL *dw_hh = segment->hh >= 0 && sums->d_weight_hh ? sums->d_weight_hh + segment->hh * H * W : NULL;
  const REAL **h_prev = NAME(of_middle)(job, segment) ? rows->middle : rows->h_prev;
  REAL *b_ih = NAME(bias_rows)(sums->d_bias_ih, segment->ih, H);
  REAL *b_hh = NAME(bias_rows)(sums->d_bias_hh, segment->hh, H);
  REAL *bias = b_ih ? b_ih : b_hh;
  if ((dw_ih || dw_hh) && !job->turned_pitch)
    NAME(weight_products)(job, summer, rows->dz, rows->count, gates, offset, (NAME(outer)){dw_hh, W, h_prev},
                          (NAME(outer)){dw_ih, I, rows->x}, fresh, bias);
  else if (bias)
    SHARED(column_sum)(bias, gates, fresh, rows->dz, offset, rows->count, NULL);
}

/* The gradient of the projection's weights, this thread's share. (L31) */
static void NAME(projection_products)(const NAME(backward_job) * job, const NAME(summer) * summer,
                                      const NAME(token_rows) * rows, const NAME(sums) * sums, int fresh) {
  range own = share(job->W, summer->rank, summer->size);
  NAME(weight_products)(job, summer, rows->dh, rows->count, own, 0,
                        (NAME(outer)){sums->d_weight_hr, job->p->H, rows->middle}, (NAME(outer)){0}, fresh, NULL);
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
