/* A cell backward through time.
 *
 * Truncated, blocks of steps are walked one after the other, since nothing crosses from one to another; else all is one
 * block. Inside a block time is walked in chunks from the last to the first. Inside a chunk the recursion (L11)-(L18)
 * fills dz; after it dx and the gradients of the weights are products over the chunk's tokens while dz is still in
 * cache. The tape is only read. A chunk's length depends on the shape, the dtype and whether there are tiles, so the
 * bits of a sum over tokens do not depend on threads.
 */

/* Zeros for what is asked of rows past their length: this thread's units. */
NOINLINE void NAME(backward_past)(const NAME(backward_step) * s, range rows, range panels, range h_panels) {
  const int64_t H = s->job->p->H, W = s->job->W;
  const range units = NAME(wide_units)(H, panels), outputs = NAME(wide_units)(W, h_panels);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    if (s->d_hidden)
      memset(s->d_hidden + b * W + outputs.begin, 0, (size_t)(outputs.end - outputs.begin) * sizeof(REAL));
    if (s->d_cells)
      memset(s->d_cells + b * H + units.begin, 0, (size_t)(units.end - units.begin) * sizeof(REAL));
  }
}

/* Where rows of step t go, so many numbers in all: into a whole array, or one of two steps, or nowhere. Two, since a
 * thread that is at the next step meets one that takes the norms of this one. */
static REAL *NAME(rows_at)(void *whole, REAL *two, int64_t t, int64_t count) {
  return whole ? (REAL *)whole + t * count : two ? two + (t & 1) * count : NULL;
}

/* Norms of what rows of step t were given. */
static void NAME(step_norms)(const NAME(backward_job) * job, int64_t t, range rows) {
  const bptt_problem *p = job->p;
  const int64_t H = p->H, W = job->W;
  const REAL *d_hidden = NAME(rows_at)(p->d_hidden, job->d_hidden, t, p->B * W);
  const REAL *d_cells = NAME(rows_at)(p->d_cells, job->d_cells, t, p->B * H);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    double *norms = p->norms + (t * p->B + b) * 2;
    norms[0] = NAME(norm)(d_hidden + b * W, W);
    norms[1] = HAS_CELL_STATE ? NAME(norm)(d_cells + b * H, H) : 0;
  }
}

/* The recursion over the steps of a chunk of the block that ends at `end`, this thread's rows, of one part, and panels.
 * Returns 1 when stopped. */
static int NAME(chunk_recursion)(const NAME(backward_job) * job, bptt_team *team, int rank, int64_t t0, int64_t t1,
                                 int64_t end, range rows, range panels, range h_panels) {
  const bptt_problem *p = job->p;
  if (NAME(takes_alone)(job, rows))
    return NAME(alone_recursion)(job, team, rank, t0, t1, end, rows.begin);
  int64_t W = job->W, state = p->B * p->H;
  const row_ranges all = in_halves(p, rows);
  row_ranges valid = valid_rows(p, t1, &all, &all);
  const int64_t before = rows.begin * job->pitch; /* arrays begin where batch row 0 would be */
  double flops = 2.0 * MATRIX_GATES * (double)p->H * (double)(p->H) * (double)(rows.end - rows.begin);
  const pitches of_errors = pitches_of(p->d_output_step, p->d_output_row, p->B, W);
  int split_units = job->plan.split == BPTT_SPLIT_HIDDEN;
  range own_norms = split_units ? share(p->B, rank, team->size) : rows;
  for (int64_t t = t1; t-- > t0;) {
    NAME(backward_step)
    s = {.job = job, .t = t, .slot = t - t0, .c_pitch = p->H};
    s.dz = NAME(dz_at)(job, s.slot, rows.begin) - before;
    s.carry = NAME(carry_at)(job, rows.begin) - rows.begin * p->H;
    const REAL *dz_next = NAME(dz_at)(job, t + 1 == t1 ? job->plan.chunk : s.slot + 1, rows.begin) - before;
    NAME(enter_zone)(&s.zone, p, t);
    s.d_output = p->d_output ? (const REAL *)p->d_output + t * of_errors.step : NULL;
    s.d_pitch = of_errors.row;
    s.h_pitch = W;
    s.h_prev = t ? (const REAL *)p->output + (t - 1) * p->B * W : p->h_0;
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
    const row_ranges going = valid;
    row_ranges ending = valid = valid_rows(p, t, &all, &valid);
    for (int part = 0; part < all.count; part++)
      ending.half[part].begin = going.half[part].end;
#if HAS_CELL_STATE
    if (job->middle || job->c_next)
      NAME(keep_again_run)(&s, &valid, panels);
#endif
    void (*run)(const NAME(backward_step) *, const row_ranges *, range) = NAME(backward_step_run);
    range own = panels;
#if HAS_SECOND
    if (HAS_CELL_STATE && job->dh) {
      s.dh = job->dh + (t - t0) * p->B * job->dh_pitch;
      run = NAME(output_run), own = h_panels;
    }
#endif
    s.cut = t + 1 == end;
    s.d_hidden = NAME(rows_at)(p->d_hidden, job->d_hidden, t, p->B * W);
    s.d_cells = NAME(rows_at)(p->d_cells, job->d_cells, t, state);
    s.dz_next = s.cut ? NULL : dz_next;
    run(&s, &going, own);
    s.dz_next = NULL, s.cut = 0;
    run(&s, &ending, own);
#if HAS_SECOND
    if (has_second(p)) {
      if (split_units && bptt_team_wait(team, rank))
        return 1;
      NAME(second_step_run)(&s, &valid, panels);
    }
#endif
    for (int part = 0; part < all.count && p->lengths; part++)
      NAME(backward_past)(&s, (range){valid.half[part].end, all.half[part].end}, panels, h_panels);
    int stop = bptt_team_progress(team, rank, flops);
    if (split_units) {
      stop = bptt_team_wait(team, rank);
      bptt_team_fetch(s.dz, p->B * job->pitch * (int64_t)sizeof(REAL));
    }
    if (stop)
      return 1;
    if (p->norms)
      NAME(step_norms)(job, t, own_norms);
  }
  return 0;
}

ONCE void NAME(pack_backward)(const NAME(backward_job) * job, const bptt_team *team, int rank) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, W = job->W;
  range rows = share(p->B, rank, team->size), of_h = share(job->h_panels, rank, team->size),
        of_x = share(job->x_panels, rank, team->size), of_second = share(job->panels, rank, team->size);
  NAME(pack_wide)(NAME(wide_panel)(job->hh, of_h.begin, job->hh_gates * H), p->weight_hh, H, job->hh_gates, W, of_h,
                  NAME(hh_rows));
  if (job->narrow) {
    if (rank == 0)
      NAME(pack_columns)(job->ih, p->weight_ih, H, MATRIX_GATES, p->I, NAME(ih_rows));
  } else if (p->d_x && !job->own_panel && !job->tiled_input) {
    NAME(pack_wide)(NAME(wide_panel)(job->ih, of_x.begin, MATRIX_GATES * H), p->weight_ih, H, MATRIX_GATES, p->I, of_x,
                    NAME(ih_rows));
  }
  if (job->second)
    NAME(pack_wide)(NAME(wide_panel)(job->second, of_second.begin, W), NAME(second_weights)(p), W, 1, H, of_second,
                    NAME(hh_rows));
  if (job->mask)
    NAME(draw_dropout)(p, job->mask, rows);
  if (job->peephole)
    NAME(pack_peephole)(job->peephole, p->weight_peephole, H, share(ceil_div(H, LANES), rank, team->size));
}

/* What step 0 hands to some units of the initial h of row b. */
static void NAME(initial_row)(const NAME(backward_job) * job, REAL *d_h_0, int64_t b, range units) {
  const bptt_problem *p = job->p;
  const REAL *past = CARRIES_H ? NAME(carry_at)(job, b) : job->carry_h ? job->carry_h + b * job->W : NULL;
  const NAME(step_clip) clip = NAME(clip_at)(job, 0, b, 0);
  for (int64_t unit = units.begin; unit < units.end; unit += LANES) {
    int lanes = (int)min_i64(LANES, units.end - unit);
    vec d = vload_n(d_h_0 + unit, lanes);
    if (job->mask)
      d *= vload_n(job->mask + b * job->W + unit, lanes);
    if (past)
      d += vload_n(past + unit, lanes);
    vstore_n(d_h_0 + unit, p->step_clip ? NAME(clipped)(&clip, BPTT_CLIP_HIDDEN, d) : d, lanes);
  }
}

/* d_h_0 and d_c_0 of rows of one part: of their units those of these panels over W and H. dz holds step 0 in slot 0. */
ONCE void NAME(initial_gradients)(const NAME(backward_job) * job, range rows, range h_panels, range panels) {
  const bptt_problem *p = job->p;
  const int64_t H = p->H, W = job->W;
  const row_ranges all = in_halves(p, rows), valid = valid_rows(p, 0, &all, &all);
  const range units = NAME(wide_units)(W, h_panels), cells = NAME(wide_units)(H, panels);
  const size_t h_bytes = (size_t)(units.end - units.begin) * sizeof(REAL),
               c_bytes = (size_t)(cells.end - cells.begin) * sizeof(REAL);
  for (int part = 0; part < all.count && p->d_h_0; part++) {
    const int64_t b = valid.half[part].begin, count = valid.half[part].end - b;
    NAME(dz_product)(job, NAME(wide_panel)(job->hh, h_panels.begin, job->hh_gates * H), job->hh_gates, W, h_panels,
                     NAME(dz_at)(job, 0, b) + HH_FIRST * H, count,
                     (NAME(destination)){(REAL *)p->d_h_0 + b * W, count, 0});
  }
  for (int64_t b = rows.begin; b < rows.end; b++) {
    REAL *d_h_0 = p->d_h_0 ? (REAL *)p->d_h_0 + b * W : NULL;
    const int past = p->T == 0 || (p->lengths && p->lengths[b] == 0);
    if (d_h_0 && past && p->d_h_n)
      memcpy(d_h_0 + units.begin, (const REAL *)p->d_h_n + b * W + units.begin, h_bytes);
    else if (d_h_0 && (past || is_reset(p, 0, b)))
      memset(d_h_0 + units.begin, 0, h_bytes);
    else if (d_h_0)
      NAME(initial_row)(job, d_h_0, b, units);
    if (p->d_c_0)
      memcpy((REAL *)p->d_c_0 + b * H + cells.begin, NAME(carry_at)(job, b) + cells.begin, c_bytes);
  }
}

/* Zeros in place of sums over no tokens, and the second bias. */
ONCE void NAME(finish_sums)(const NAME(backward_job) * job) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, W = job->W;
  size_t row_bytes = (size_t)H * sizeof(REAL), h_bytes = (size_t)W * sizeof(REAL);
  size_t gate_rows = (size_t)(MATRIX_GATES * p->H) * sizeof(REAL);
  if (p->T * p->B == 0) {
    if (p->accumulate)
      return;
    if (p->d_weight_hh)
      memset(p->d_weight_hh, 0, gate_rows * (size_t)W);
    if (p->d_weight_hr)
      memset(p->d_weight_hr, 0, h_bytes * (size_t)H);
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

static void NAME(zero_rows)(void *array, range rows, int64_t width) {
  if (array && rows.end > rows.begin)
    memset((REAL *)array + rows.begin * width, 0, (size_t)((rows.end - rows.begin) * width) * sizeof(REAL));
}

/* Before a block [begin, end): what comes from after it, to those units of rows `carried` that this thread hands on,
 * and zeros for the steps from `start` on that it leaves out, this thread's rows or tokens. */
ONCE void NAME(enter_block)(const NAME(backward_job) * job, const bptt_team *team, int rank, int64_t start,
                            int64_t begin, int64_t end, range carried, range panels, range h_panels) {
  const bptt_problem *p = job->p;
  range rows = share(p->B, rank, team->size), left_out = share((begin - start) * p->B, rank, team->size);
  const range cells = NAME(wide_units)(p->H, panels), units = NAME(wide_units)(job->W, h_panels);
  const size_t bytes = (size_t)(cells.end - cells.begin) * sizeof(REAL);
  for (int64_t b = carried.begin; b < carried.end; b++) {
    int ends = (p->lengths ? p->lengths[b] : p->T) <= end; /* others come from a later block, and hand nothing on */
    REAL *carry = NAME(carry_at)(job, b) + cells.begin;
    if (p->d_c_n && ends)
      memcpy(carry, (const REAL *)p->d_c_n + b * p->H + cells.begin, bytes);
    else
      memset(carry, 0, bytes);
    if (job->carry_h)
      memset(job->carry_h + b * job->W + units.begin, 0, (size_t)(units.end - units.begin) * sizeof(REAL));
  }
  left_out.begin += start * p->B, left_out.end += start * p->B;
  NAME(zero_rows)(p->d_x, left_out, p->I);
  NAME(zero_rows)(p->d_hidden, left_out, job->W);
  NAME(zero_rows)(p->d_cells, left_out, p->H);
  for (int64_t n = 2 * left_out.begin; p->norms && n < 2 * left_out.end; n++)
    p->norms[n] = 0;
  if (start == 0 && begin > 0) {
    NAME(zero_rows)(p->d_h_0, rows, job->W);
    NAME(zero_rows)(p->d_c_0, rows, p->H);
  }
}

/* Onto the gradients of the parameters `to` those of `first`, and of `second` if given; fresh: in their place. This
 * thread's share. */
NOINLINE void NAME(add_sums)(const NAME(backward_job) * job, const NAME(sums) * to, const NAME(sums) * first,
                             const NAME(sums) * second, int fresh, int rank, int size) {
  const bptt_problem *p = job->p;
  int64_t gates = MATRIX_GATES * p->H, each = job->turned_pitch ? job->turned_pitch : gates;
#define OF(name, count)                                                                                                \
  {                                                                                                                    \
    to->name, first->name, second ? second->name : NULL, count                                                         \
  }
  const struct {
    REAL *to;
    const REAL *first, *second;
    int64_t count;
  } sums[] = {OF(d_weight_ih, each * p->I), OF(d_weight_hh, each * job->W), OF(d_middle, each * job->W),
              OF(d_bias_ih, gates),         OF(d_bias_hh, gates),           OF(d_weight_peephole, 3 * p->H),
              OF(d_weight_hr, p->P * p->H)};
#undef OF
  for (size_t k = 0; k < sizeof sums / sizeof sums[0]; k++) {
    range own = share(sums[k].to ? sums[k].count : 0, rank, size);
    for (int64_t n = own.begin; n < own.end; n += LANES) {
      int lanes = (int)min_i64(LANES, own.end - n);
      vec sum = vload_n(sums[k].first + n, lanes);
      if (second)
        sum = sum + vload_n(sums[k].second + n, lanes);
      if (!fresh)
        sum = vload_n(sums[k].to + n, lanes) + sum;
      vstore_n(sums[k].to + n, sum, lanes);
    }
  }
}

/* After the block of steps [begin, end): adds up what it gave apart (a second bias that is a copy of the first comes
 * last), and forgets what was clipped on its way to a state that is no part of it. */
ONCE void NAME(leave_block)(const NAME(backward_job) * job, const bptt_team *team, int rank, int64_t begin, int64_t end,
                            int first, int apart) {
  const bptt_problem *p = job->p;
  if (job->groups > 1 && end > begin)
    NAME(add_sums)(job, &job->of_all, &job->of_group[0], &job->of_group[1], first && (!p->accumulate || p->sums), rank,
                   team->size);
  else if (apart)
    NAME(add_sums)(job, &job->of_all, &job->block, NULL, 0, rank, team->size);
  range rows = share(p->clipped && begin > 0 ? p->B : 0, rank, team->size);
  for (int64_t b = rows.begin; b < rows.end; b++)
    p->clipped[(begin * p->B + b) * 3 + BPTT_CLIP_CELL] = 0;
}

static void NAME(backward_member)(const void *context, bptt_team *team, int rank) {
  const NAME(backward_job) *job = context;
  const bptt_problem *p = job->p;
  int split_rows = job->plan.split == BPTT_SPLIT_ROWS;
  range rows = split_rows ? share_rows(p, rank, team->size) : share(p->B, 0, 1);
  range panels = split_rows ? share(job->panels, 0, 1) : share(job->panels, rank, team->size);
  range h_panels = split_rows ? share(job->h_panels, 0, 1) : share(job->h_panels, rank, team->size);
  /* Rows in whose carried gradients, at its units, no other thread has a hand between two blocks: from the end of one
   * (initial_gradients) to the next (enter_block) none waits for another. */
  const range carried = split_rows ? share(p->B, rank, team->size) : rows;
  int64_t chunk = job->plan.chunk;
  int64_t every = p->truncate_every ? p->truncate_every : max_i64(p->T, 1);
  /* Each thread sums over its own rows, what it needs is in its own cache, and inside a block none waits for another.
   */
  const int alike = !p->lengths || job->second_row < p->B; /* rows of all threads take as long */
  int own_groups = split_rows && job->groups > 1 && alike && team->size == job->groups;
  /* Then, and else if they are a part or fill a tile, each takes dx of its own rows before it waits for the others'. */
  int own_rows = own_groups ||
                 (split_rows && !job->own_panel && alike && (job->second_row < p->B || p->B >= WIDE_ROWS * team->size));
  if (p->clipped) {
    range counts = share(3 * p->T * p->B, rank, team->size);
    memset(p->clipped + counts.begin, 0, (size_t)(counts.end - counts.begin) * sizeof *p->clipped);
  }
  NAME(pack_backward)(job, team, rank);
  if (job->turned_pitch && p->accumulate && !(p->sums && job->groups > 1))
    NAME(turn_sums)(job, 1, rank, team->size);
  int64_t start = 0, end = 0;
  do {
    end = min_i64(start + every, p->T);
    int64_t begin = p->truncate_every ? max_i64(start, end - p->truncate_depth) : 0;
    int apart = start > 0 && end - begin > chunk && p->B > 0; /* more than one sum: the block's own come first */
    NAME(enter_block)(job, team, rank, start, begin, end, carried, panels, h_panels);
    if (bptt_team_wait(team, rank))
      return;
    for (int64_t t1 = end, t0; t1 > begin; t1 = t0) {
      t0 = max_i64(begin, t1 - chunk);
      for (int part = 0; part < 2; part++) {
        const range own = NAME(part_of)(job, rows, part);
        if (own.begin == own.end)
          continue;
        if (NAME(chunk_recursion)(job, team, rank, t0, t1, end, own, panels, h_panels))
          return;
        if (own_rows && p->d_x)
          NAME(own_input_gradient)(job, rank, t0, t1 - t0, own);
      }
      const NAME(sums) *sums = apart ? &job->block : &job->of_all;
      int goes_on = job->groups > 1 ? p->accumulate && p->sums : !apart && (start > 0 || p->accumulate);
      int fresh = t1 == end && !goes_on;
      if (!own_groups && split_rows && bptt_team_wait(team, rank))
        return;
      if (!own_rows)
        NAME(chunk_input_gradient)(job, team, rank, t0, t1 - t0);
      if (own_groups)
        NAME(group_products)(job, rank, t0, t1 - t0, fresh);
      else
        NAME(chunk_products)(job, team, rank, t0, t1 - t0, sums, fresh);
      if (t0 > begin) { /* the chunk before starts from this one's first step */
        range mine = share(p->B, rank, team->size); /* of a thread that has its rows: those */
        for (int64_t b = mine.begin; b < mine.end; b++)
          memcpy(NAME(dz_at)(job, chunk, b), NAME(dz_at)(job, 0, b), (size_t)job->pitch * sizeof(REAL));
      }
      double flops =
          4.0 * MATRIX_GATES * (double)p->H * (double)(p->I + p->H) * (double)((t1 - t0) * p->B) / team->size;
      int stop = bptt_team_progress(team, rank, flops);
      if (!own_groups || t0 == begin)
        stop = bptt_team_wait(team, rank);
      if (stop)
        return;
    }
    if (begin == 0)
      for (int part = 0; part < 2; part++)
        NAME(initial_gradients)(job, NAME(part_of)(job, carried, part), h_panels, panels);
    NAME(leave_block)(job, team, rank, begin, end, start == 0, apart);
    start = end;
  } while (start < p->T);
  if ((p->truncate_every || job->groups > 1) && bptt_team_wait(team, rank))
    return;
  if (job->turned_pitch && p->T * p->B > 0) /* else there are no sums, and zeros come from one thread */
    NAME(turn_sums)(job, 0, rank, team->size);
  if (rank == 0)
    NAME(finish_sums)(job);
}

static bptt_status NAME(backward)(const bptt_problem *p, bptt_job *job) {
  _Static_assert(sizeof(NAME(backward_job)) <= BPTT_JOB_BYTES, "a job holds every plan");
  NAME(backward_job) *planned = (void *)job->plan;
  arena a = arena_on(p->workspace);
  *planned = NAME(backward_plan)(p, &a);
  job->duty = NAME(backward_member), job->threads = planned->plan.threads;
  bptt_status status = arena_check(&a, p->workspace_bytes);
  if (!status && p->sums && p->sums_bytes < NAME(sums_bytes)(p))
    status = BPTT_BAD_WORKSPACE;
  if (!status)
    memset(planned->zero, 0, (size_t)max_i64(p->H, planned->W) * sizeof(REAL));
  return status;
}

static int64_t NAME(workspace)(const bptt_problem *p, bptt_op op) {
  arena a = {0};
  if (op == BPTT_SUMS)
    return NAME(sums_bytes)(p);
  if (op == BPTT_FORWARD)
    (void)NAME(forward_plan)(p, &a);
  else if (op == BPTT_BACKWARD)
    (void)NAME(backward_plan)(p, &a);
  else
    (void)NAME(place_weights)(p, &a);
  return arena_bytes(&a);
}
