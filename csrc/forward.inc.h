/* A cell forward through time: the input product of a chunk, one thread's share of the call, the plan. */

/* R tokens of one block: b + W_ih x, the input part of (L1) (L2) (L3) (L8), stored for the recurrence to start from. */
INLINE void NAME(input_tile)(int R, const NAME(cell_weights) * w, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                             int64_t z_pitch, int64_t block, const NAME(fetch) * fetch) {
  vec sum[R][GATES];
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(w->bias + (block * GATES + g) * LANES);
  }
  NAME(tile_product_asking)(1, R, GATES, sum, 0, MATRIX_GATES, I, x, x_pitch, 1,
                            w->ih + block * I * MATRIX_GATES * LANES, fetch->next, fetch->pace);
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int g = 0; g < GATES; g++) vstore(z + r * z_pitch + g * LANES, sum[r][g]);
  }
}

#if HAS_TAIL

/* The same of the tail, `rows` of them, at most WIDE_ROWS. */
static void NAME(input_tail)(const NAME(cell_weights) * w, int rows, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                             int64_t z_pitch) {
  REAL sum[WIDE_ROWS * 2 * LANES] __attribute__((aligned(VEC_BYTES)));
  const int V = w->tail;
  const NAME(fetch) none = {w->tail_bias, 0, 0};
  for (int n = 0; n < rows * V; n++)
    vstore(sum + n * LANES, vload(w->tail_bias + n % V * LANES));
  NAME(wide_product)(PRODUCT_GOES_ON, rows, V, sum, I, x, x_pitch, w->tail_ih, &none);
  for (int n = 0; n < rows * V; n++)
    vstore(z + n / V * z_pitch + n % V * LANES, vload(sum + n * LANES));
}

#endif

/* `tokens` rows of x, x_pitch apart, against one block. */
NOINLINE void NAME(input_run)(const NAME(cell_weights) * w, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                              int64_t z_pitch, int64_t block, int64_t tokens) {
#if HAS_TAIL
  for (int64_t n; w->tail && block == w->blocks - 1 && tokens > 0; tokens -= n, x += n * x_pitch, z += n * z_pitch) {
    n = next_tile(tokens, WIDE_ROWS);
    NAME(input_tail)(w, (int)n, I, x, x_pitch, z, z_pitch);
  }
#endif
  int64_t next = min_i64(block + 1, w->blocks - 1);
  NAME(fetch)
  fetch = NAME(fetch_of)(w->ih + next * I * MATRIX_GATES * LANES, MATRIX_GATES, ceil_div(tokens, TILE_ROWS));
  while (tokens > 0) {
    int64_t n = next_tile(tokens, TILE_ROWS);
#define CASE(R) NAME(input_tile)(R, w, I, x, x_pitch, z, z_pitch, block, &fetch)
    SWITCH_ROWS(n, TILE_ROWS, CASE)
#undef CASE
    NAME(fetch_on)(&fetch, I);
    tokens -= n;
    x += n * x_pitch;
    z += n * z_pitch;
  }
}

typedef struct {
  const bptt_problem *p;
  plan plan;
  NAME(cell_weights) w;
  REAL *zero; /* (H or W) zeros, for states that are not given */
  REAL *h_anew, *c_anew; /* (threads, B, W) and (B, H): previous states with zeros where a row starts anew */
  REAL *mask, *h_masked; /* (threads, B, W): dropout of h_{t-1}, and what it leaves */
  REAL *middle; /* (B, H): what goes into the projection */
  REAL *gates; /* (B, SAVED, H): gates of a step that keeps none, for the second product */
  REAL *z; /* hoisted products of one chunk, all threads */
} NAME(forward_job);

/* The input product of steps t .. t+steps-1 for this thread's rows and blocks. */
static void NAME(input_chunk)(const NAME(forward_job) * job, REAL *z, int64_t t, int64_t steps, range rows,
                              range blocks) {
  const bptt_problem *p = job->p;
  const REAL *x = (const REAL *)p->x + (t * p->B + rows.begin) * p->I;
  int64_t n = rows.end - rows.begin, unit = GATES * LANES;
  const int64_t valid = valid_rows(p, t, rows);
  for (int64_t block = blocks.begin; block < blocks.end; block++, z += job->plan.chunk * n * unit) {
    if (n == p->B && !p->lengths) {
      NAME(input_run)(&job->w, p->I, x, p->I, z, unit, block, steps * n);
    } else if (valid < TILE_ROWS / 2) { /* few rows a step: tiles along time */
      for (int64_t b = 0; b < valid; b++)
        NAME(input_run)(&job->w, p->I, x + b * p->I, p->B * p->I, z + b * unit, n * unit, block,
                        p->lengths ? min_i64(steps, p->lengths[rows.begin + b] - t) : steps);
    } else {
      for (int64_t s = 0; s < steps; s++)
        NAME(input_run)(&job->w, p->I, x + s * p->B * p->I, p->I, z + s * n * unit, unit, block,
                        valid_rows(p, t + s, rows));
    }
  }
}

/* State arrays of step t: what it reads and where it writes. */
static void NAME(forward_bind)(const NAME(forward_job) * job, NAME(forward_step) * s, int64_t t) {
  const bptt_problem *p = job->p;
  int64_t state = p->B * p->H;
  s->down = t & 1;
  s->x = (const REAL *)p->x + t * p->B * p->I;
  s->output = (REAL *)p->output + t * p->B * s->W;
  s->h = p->P ? job->middle : s->output;
  s->c = p->cells ? (REAL *)p->cells + t * state : p->c_n;
  s->gates = p->gates ? (REAL *)p->gates + t * SAVED * state : job->gates;
  s->middle = p->reset_before ? s->gates + (SAVED - 1) * p->H : s->h;
  s->middle_pitch = p->reset_before ? SAVED * p->H : p->H;
  NAME(enter_zone)(&s->zone, p, t);
  s->h_pitch = s->seen_pitch = s->W;
  s->c_pitch = p->H;
  if (t > 0) {
    s->h_prev = s->h_seen = s->output - p->B * s->W;
    s->c_prev = p->cells ? s->c - state : s->c;
    return;
  }
  s->h_prev = p->h_0;
  s->c_prev = p->c_0;
  if (!p->h_0) {
    s->h_prev = job->zero;
    s->h_pitch = s->seen_pitch = 0;
  }
  s->h_seen = s->h_prev;
  if (!p->c_0) {
    s->c_prev = job->zero;
    s->c_pitch = 0;
  }
}

/* Where rows start anew at step t, the states that they see are zero: in copies of this thread's own. All of h, as
 * a step reads it whole; of c only the thread's own units. */
static void NAME(forward_anew)(const NAME(forward_job) * job, NAME(forward_step) * s, int64_t t, int rank) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, W = s->W, first = s->blocks.begin * LANES, count = min_i64(s->blocks.end * LANES, H) - first;
  if (!any_reset(p, t, s->rows))
    return;
  REAL *h = job->h_anew + rank * p->B * W;
  for (int64_t b = s->rows.begin; b < s->rows.end; b++) {
    int reset = is_reset(p, t, b);
    memcpy(h + b * W, reset ? job->zero : s->h_prev + b * s->h_pitch, (size_t)W * sizeof(REAL));
    if (HAS_CELL_STATE && count > 0)
      memcpy(job->c_anew + b * H + first, reset ? job->zero : s->c_prev + b * s->c_pitch + first,
             (size_t)count * sizeof(REAL));
  }
  s->h_prev = s->h_seen = h;
  s->c_prev = job->c_anew;
  s->h_pitch = s->seen_pitch = W;
  s->c_pitch = H;
}

/* What dropout leaves of the previous h, in a copy of this thread's own. */
static void NAME(forward_dropped)(const NAME(forward_job) * job, NAME(forward_step) * s, int rank) {
  int64_t W = s->W, own = rank * job->p->B * W;
  for (int64_t b = s->rows.begin; b < s->rows.end; b++)
    NAME(apply_mask)(job->h_masked + own + b * W, s->h_prev + b * s->h_pitch, job->mask + own + b * W, W);
  s->h_seen = job->h_masked + own;
  s->seen_pitch = W;
}

/* This thread's numbers of each row of h. */
static range NAME(own_outputs)(const NAME(forward_step) * s) {
  int second = s->second.end > 0;
  int64_t each = second ? SECOND_VECS * LANES : LANES;
  range own = second ? s->second : s->blocks;
  return (range){min_i64(own.begin * each, s->W), min_i64(own.end * each, s->W)};
}

/* Zeros for rows past their length: this thread's units of them. */
static void NAME(forward_past)(const NAME(forward_step) * s, range rows) {
  int64_t H = s->H, first = s->blocks.begin * LANES, count = min_i64(s->blocks.end * LANES, H) - first;
  range own = NAME(own_outputs)(s);
  size_t bytes = (size_t)max_i64(count, 0) * sizeof(REAL), own_bytes = (size_t)(own.end - own.begin) * sizeof(REAL);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    memset(s->output + b * s->W + own.begin, 0, own_bytes);
    if (!s->gates || count <= 0) /* without gates c is the state, which stays as it is */
      continue;
    if (HAS_CELL_STATE)
      memset(s->c + b * H + first, 0, bytes);
    for (int n = 0; n < SAVED; n++)
      memset(s->gates + (b * SAVED + n) * H + first, 0, bytes);
  }
}

/* h_n and c_n, each thread its own part. */
static void NAME(forward_final)(const NAME(forward_job) * job, const NAME(forward_step) * s, range rows) {
  const bptt_problem *p = job->p;
  int64_t first = s->blocks.begin * LANES, count = min_i64(s->blocks.end * LANES, p->H) - first;
  range own = NAME(own_outputs)(s);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    int64_t to = b * p->H + first, steps = p->lengths ? p->lengths[b] : p->T, last = (steps - 1) * p->B;
    int64_t at = b * s->W + own.begin;
    const REAL *h = steps ? (const REAL *)p->output + last * s->W + at : p->h_0 ? (const REAL *)p->h_0 + at : job->zero;
    memmove((REAL *)p->h_n + at, h, (size_t)(own.end - own.begin) * sizeof(REAL));
    if (!HAS_CELL_STATE || count <= 0)
      continue;
    REAL *c_n = (REAL *)p->c_n + to;
    const REAL *c = !steps     ? (p->c_0 ? (const REAL *)p->c_0 + to : job->zero)
                    : p->cells ? (const REAL *)p->cells + last * p->H + to
                               : c_n;
    memmove(c_n, c, (size_t)count * sizeof(REAL));
  }
}

static void NAME(forward_member)(const void *context, bptt_team *team, int rank) {
  const NAME(forward_job) *job = context;
  const bptt_problem *p = job->p;
  const plan *plan = &job->plan;
  int split_rows = plan->split == BPTT_SPLIT_ROWS;
  NAME(forward_step) s = {.I = p->I, .H = p->H, .W = width_of(p), .w = &job->w, .options = options_of(p)};
  range rows = split_rows ? share_rows(p, rank, team->size) : share(p->B, 0, 1);
  s.rows = rows;
  s.blocks = split_rows ? share(job->w.blocks, 0, 1) : share(job->w.blocks, rank, team->size);
  range panels = share(NAME(second_panels)(p), rank, team->size);
  s.second = split_rows ? share(NAME(second_panels)(p), 0, 1) : panels;
  int64_t n = rows.end - rows.begin, active = p->B, own = s.blocks.end - s.blocks.begin, unit = GATES * LANES;
  REAL *z = split_rows ? job->z + rows.begin * plan->chunk * job->w.blocks * unit
                       : job->z + s.blocks.begin * plan->chunk * p->B * unit;
  s.z_block = plan->chunk * n * unit;
  if (!p->packed) {
    NAME(pack_forward)(p, &job->w, share(job->w.blocks, rank, team->size), 0);
    NAME(pack_second)(p, &job->w, panels);
    if (split_rows && bptt_team_wait(team, rank)) /* split by hidden units, each has packed what it needs */
      return;
  }
  if (NAME(drops)(p))
    NAME(draw_dropout)(p, job->mask + rank * p->B * s.W, rows);
  double flops = 2.0 * MATRIX_GATES * LANES * (double)own * (double)n * (double)(p->I + s.W);
  for (int64_t t0 = 0; t0 < p->T; t0 += plan->chunk) {
    int64_t t1 = min_i64(t0 + plan->chunk, p->T);
    if (plan->hoist)
      NAME(input_chunk)(job, z, t0, t1 - t0, rows, s.blocks);
    for (int64_t t = t0; t < t1; t++) {
      NAME(forward_bind)(job, &s, t);
      s.z = plan->hoist ? z + (t - t0) * n * unit : NULL;
      if (p->lengths) {
        active = active_rows(p, t, active);
        s.rows.end = max_i64(rows.begin, min_i64(rows.end, active));
        NAME(forward_past)(&s, (range){s.rows.end, rows.end});
      }
      if (p->resets)
        NAME(forward_anew)(job, &s, t, rank);
      if (NAME(drops)(p))
        NAME(forward_dropped)(job, &s, rank);
      NAME(forward_step_run)(&s);
#if HAS_SECOND
      if (has_second(p)) {
        if (plan->split == BPTT_SPLIT_HIDDEN && bptt_team_wait(team, rank))
          return;
        NAME(second_run)(&s);
      }
#endif
      int stop = bptt_team_progress(team, rank, flops);
      if (plan->split == BPTT_SPLIT_HIDDEN)
        stop = bptt_team_wait(team, rank);
      if (stop)
        return;
    }
  }
  NAME(forward_final)(job, &s, rows);
}

static NAME(forward_job) NAME(forward_plan)(const bptt_problem *p, arena *a) {
  NAME(forward_job) job = {.p = p};
  if (p->packed) {
    arena packed = arena_on((void *)p->packed);
    job.w = NAME(place_weights)(p, &packed);
  } else {
    job.w = NAME(place_weights)(p, a);
  }
  job.plan = plan_forward(p, GATES, LANES, sizeof(REAL), TILE_ROWS);
  int64_t real = (int64_t)sizeof(REAL), W = width_of(p);
  if (p->B < 2 * (job.plan.split == BPTT_SPLIT_ROWS ? job.plan.threads : 1))
    job.w.tail = 0; /* a lone row fills the registers with many blocks, and a tail is a block by itself */
  job.zero = arena_take(a, max_i64(p->H, W), real);
  if (p->resets) {
    job.h_anew = arena_take(a, p->B * job.plan.threads, W * real);
    job.c_anew = arena_take(a, p->B, p->H * real);
  }
  if (NAME(drops)(p)) {
    job.mask = arena_take(a, p->B * job.plan.threads, W * real);
    job.h_masked = arena_take(a, p->B * job.plan.threads, W * real);
  }
  if (p->P)
    job.middle = arena_take(a, p->B, p->H * real);
  if (p->reset_before && !p->gates)
    job.gates = arena_take(a, p->B * SAVED, p->H * real);
  job.z = job.plan.hoist ? arena_take(a, job.plan.chunk * p->B, job.w.blocks * GATES * LANES * (int64_t)sizeof(REAL))
                         : NULL;
  return job;
}

static bptt_status NAME(forward)(const bptt_problem *p, bptt_job *job) {
  _Static_assert(sizeof(NAME(forward_job)) <= BPTT_JOB_BYTES, "a job holds every plan");
  NAME(forward_job) *planned = (void *)job->plan;
  arena a = arena_on(p->workspace);
  *planned = NAME(forward_plan)(p, &a);
  job->duty = NAME(forward_member), job->threads = planned->plan.threads;
  bptt_status status = arena_check(&a, p->workspace_bytes);
  if (!status)
    memset(planned->zero, 0, (size_t)max_i64(p->H, width_of(p)) * sizeof(REAL));
  return status;
}
