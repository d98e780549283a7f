/* A cell forward through time: tiles, one step, one thread's share of the call, the plan. */

/* What one time step of one thread reads and writes; row 0 of each array is batch row 0. */
typedef struct {
  int64_t I, H;
  const NAME(cell_weights) * w;
  const REAL *x;           /* (B, I) */
  const REAL *h_prev;      /* rows h_pitch apart: H, or 0 for the one zero row that stands for a missing state */
  const REAL *c_prev;      /* rows c_pitch apart; may be c itself */
  int64_t h_pitch, c_pitch;
  REAL *h, *c;             /* (B, H) */
  REAL *gates;             /* (B, SAVED, H) or NULL */
  cell_options options;
  range rows, blocks;      /* this thread's */
  const REAL *z;           /* hoisted b + W_ih x of its rows and blocks: [block][row][4][LANES], or NULL */
  int64_t z_block;         /* from block to block in z */
} NAME(forward_step);

/* From the pre-activations of LANES units of row b to the cell state; leaves in z what the output needs. */
INLINE void NAME(forward_cell)(const NAME(forward_step) * s, vec z[GATES], int64_t b, int64_t block, int lanes) {
  int64_t unit = block * LANES, H = s->H;
  const REAL *peephole = s->w->peephole ? s->w->peephole + block * 3 * LANES : NULL;
  vec saved[4], c = {0}, h_prev = {0};
  if (HAS_CELL_STATE)
    c = vload_n(s->c_prev + b * s->c_pitch + unit, lanes);
  if (READS_H_PREV)
    h_prev = vload_n(s->h_prev + b * s->h_pitch + unit, lanes);
  NAME(cell_enter)(z, saved, &c, h_prev, peephole, &s->options);
  if (HAS_CELL_STATE)
    vstore_n(s->c + b * H + unit, c, lanes);
  if (SAVED && s->gates) {
    REAL *gates = s->gates + b * SAVED * H + unit;
    UNROLL for (int n = 0; n < SAVED; n++) vstore_n(gates + n * H, saved[n], lanes);
  }
}

/* Lanes in use: all but in the last block. */
INLINE int NAME(used_lanes)(const NAME(forward_step) * s, int64_t block) {
  return (int)min_i64(LANES, s->H - block * LANES);
}

/* The same, with whole vectors where the whole vector is in use. */
INLINE void NAME(forward_state)(const NAME(forward_step) * s, vec z[GATES], int64_t b, int64_t block, int lanes) {
  if (lanes == LANES)
    NAME(forward_cell)(s, z, b, block, LANES);
  else
    NAME(forward_cell)(s, z, b, block, lanes);
}

INLINE void NAME(forward_hidden)(const NAME(forward_step) * s, const vec z[GATES], int64_t b, int64_t block,
                                 int lanes) {
  REAL *h = s->h + b * s->H + block * LANES;
  vec a = NAME(cell_leave)(z, &s->options);
  if (lanes == LANES)
    vstore(h, a);
  else
    vstore_n(h, a, lanes);
}

/* Rows b .. b+R-1 of one block: the products of (L1) (L2) (L3) (L8) in registers, then the cell row by row. */
INLINE void NAME(forward_tile)(int R, const NAME(forward_step) * s, int64_t b, int64_t block) {
  const NAME(cell_weights) *w = s->w;
  vec sum[R][GATES];
  if (s->z) {
    const REAL *from = s->z + (block - s->blocks.begin) * s->z_block + (b - s->rows.begin) * GATES * LANES;
    UNROLL for (int r = 0; r < R; r++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(from + (r * GATES + g) * LANES);
    }
  } else {
    UNROLL for (int r = 0; r < R; r++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(w->bias + (block * GATES + g) * LANES);
    }
    NAME(tile_product)(R, GATES, sum, 0, MATRIX_GATES, s->I, s->x + b * s->I, s->I, 1,
                       w->ih + block * s->I * MATRIX_GATES * LANES);
  }
  NAME(tile_product)(R, GATES, sum, HH_FIRST, MATRIX_GATES, s->H, s->h_prev + b * s->h_pitch, s->h_pitch, 1,
                     w->hh + block * s->H * MATRIX_GATES * LANES);
  /* First all cells, then all outputs: the long chain from z to c of one row overlaps with the next one's instead of
   * tanh(c) waiting at its end. Loops on purpose: unrolled, the cells would not fit the instruction cache. */
  int lanes = NAME(used_lanes)(s, block);
  for (int r = 0; r < R; r++)
    NAME(forward_state)(s, sum[r], b + r, block, lanes);
  for (int r = 0; r < R; r++)
    NAME(forward_hidden)(s, sum[r], b + r, block, lanes);
}

/* One row, N blocks at once. */
INLINE void NAME(forward_lone)(int N, const NAME(forward_step) * s, int64_t b, int64_t block) {
  const NAME(cell_weights) *w = s->w;
  int64_t ih_pitch = s->I * MATRIX_GATES * LANES, hh_pitch = s->H * MATRIX_GATES * LANES;
  vec sum[N][GATES];
  if (s->z) {
    const REAL *from = s->z + (block - s->blocks.begin) * s->z_block + (b - s->rows.begin) * GATES * LANES;
    UNROLL for (int n = 0; n < N; n++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[n][g] = vload(from + n * s->z_block + g * LANES);
    }
  } else {
    UNROLL for (int n = 0; n < N; n++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[n][g] = vload(w->bias + ((block + n) * GATES + g) * LANES);
    }
    NAME(lone_product)(N, GATES, sum, 0, MATRIX_GATES, s->I, s->x + b * s->I, 0, w->ih + block * ih_pitch, ih_pitch);
  }
  NAME(lone_product)(N, GATES, sum, HH_FIRST, MATRIX_GATES, s->H, s->h_prev + b * s->h_pitch, 0,
                     w->hh + block * hh_pitch, hh_pitch);
  /* Unrolled, so that z stays in registers: the next step waits for this. */
  int last = NAME(used_lanes)(s, block + N - 1);
  UNROLL for (int n = 0; n < N; n++) NAME(forward_state)(s, sum[n], b, block + n, n < N - 1 ? LANES : last);
  UNROLL for (int n = 0; n < N; n++) NAME(forward_hidden)(s, sum[n], b, block + n, n < N - 1 ? LANES : last);
}

NOINLINE void NAME(forward_step_run)(const NAME(forward_step) * s) {
  int64_t rows = s->rows.end - s->rows.begin;
  if (rows == 1) {
    for (int64_t block = s->blocks.begin; block < s->blocks.end;) {
      int64_t n = next_tile(s->blocks.end - block, LONE_BLOCKS);
#define CASE(N) NAME(forward_lone)(N, s, s->rows.begin, block)
      SWITCH_ROWS(n, LONE_BLOCKS, CASE)
#undef CASE
      block += n;
    }
    return;
  }
  for (int64_t block = s->blocks.begin; block < s->blocks.end; block++) {
    for (int64_t b = s->rows.begin; b < s->rows.end;) {
      int64_t n = next_tile(s->rows.end - b, TILE_ROWS);
#define CASE(R) NAME(forward_tile)(R, s, b, block)
      SWITCH_ROWS(n, TILE_ROWS, CASE)
#undef CASE
      b += n;
    }
  }
}

/* R tokens of one block: b + W_ih x, the input part of (L1) (L2) (L3) (L8), stored for the recurrence to start from. */
INLINE void NAME(input_tile)(int R, const NAME(cell_weights) * w, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                             int64_t z_pitch, int64_t block) {
  vec sum[R][GATES];
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(w->bias + (block * GATES + g) * LANES);
  }
  NAME(tile_product)(R, GATES, sum, 0, MATRIX_GATES, I, x, x_pitch, 1, w->ih + block * I * MATRIX_GATES * LANES);
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int g = 0; g < GATES; g++) vstore(z + r * z_pitch + g * LANES, sum[r][g]);
  }
}

/* `tokens` rows of x, x_pitch apart, against one block. */
NOINLINE void NAME(input_run)(const NAME(cell_weights) * w, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                              int64_t z_pitch, int64_t block, int64_t tokens) {
  while (tokens > 0) {
    int64_t n = next_tile(tokens, TILE_ROWS);
#define CASE(R) NAME(input_tile)(R, w, I, x, x_pitch, z, z_pitch, block)
    SWITCH_ROWS(n, TILE_ROWS, CASE)
#undef CASE
    tokens -= n;
    x += n * x_pitch;
    z += n * z_pitch;
  }
}

typedef struct {
  const bptt_problem *p;
  plan plan;
  NAME(cell_weights) w;
  REAL *zero; /* (H) zeros, for states that are not given */
  REAL *h_anew, *c_anew; /* (threads, B, H) and (B, H): previous states with zeros where a row starts anew */
  REAL *z;    /* hoisted products of one chunk, all threads */
} NAME(forward_job);

/* The input product of steps t .. t+steps-1 for this thread's rows and blocks. */
static void NAME(input_chunk)(const NAME(forward_job) * job, REAL *z, int64_t t, int64_t steps, range rows,
                              range blocks) {
  const bptt_problem *p = job->p;
  const REAL *x = (const REAL *)p->x + (t * p->B + rows.begin) * p->I;
  int64_t n = rows.end - rows.begin, unit = GATES * LANES;
  for (int64_t block = blocks.begin; block < blocks.end; block++, z += job->plan.chunk * n * unit) {
    if (p->lengths) {
      for (int64_t b = 0; b < n; b++)
        NAME(input_run)(&job->w, p->I, x + b * p->I, p->B * p->I, z + b * unit, n * unit, block,
                        min_i64(steps, p->lengths[rows.begin + b] - t));
    } else if (n == p->B) {
      NAME(input_run)(&job->w, p->I, x, p->I, z, unit, block, steps * n);
    } else if (n < TILE_ROWS / 2) { /* few rows a step: tiles along time */
      for (int64_t b = 0; b < n; b++)
        NAME(input_run)(&job->w, p->I, x + b * p->I, p->B * p->I, z + b * unit, n * unit, block, steps);
    } else {
      for (int64_t s = 0; s < steps; s++)
        NAME(input_run)(&job->w, p->I, x + s * p->B * p->I, p->I, z + s * n * unit, unit, block, n);
    }
  }
}

/* State arrays of step t: what it reads and where it writes. */
static void NAME(forward_bind)(const NAME(forward_job) * job, NAME(forward_step) * s, int64_t t) {
  const bptt_problem *p = job->p;
  int64_t state = p->B * p->H;
  s->x = (const REAL *)p->x + t * p->B * p->I;
  s->h = (REAL *)p->output + t * state;
  s->c = p->cells ? (REAL *)p->cells + t * state : p->c_n;
  s->gates = p->gates ? (REAL *)p->gates + t * SAVED * state : NULL;
  s->h_pitch = s->c_pitch = p->H;
  if (t > 0) {
    s->h_prev = s->h - state;
    s->c_prev = p->cells ? s->c - state : s->c;
    return;
  }
  s->h_prev = p->h_0;
  s->c_prev = p->c_0;
  if (!p->h_0) {
    s->h_prev = job->zero;
    s->h_pitch = 0;
  }
  if (!p->c_0) {
    s->c_prev = job->zero;
    s->c_pitch = 0;
  }
}

/* Where rows start anew at step t, the states that they see are zero: in copies of this thread's own. All of h, as
 * a step reads it whole; of c only the thread's own units. */
static void NAME(forward_anew)(const NAME(forward_job) * job, NAME(forward_step) * s, int64_t t, int rank) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, first = s->blocks.begin * LANES, count = min_i64(s->blocks.end * LANES, H) - first;
  if (!any_reset(p, t, s->rows))
    return;
  REAL *h = job->h_anew + rank * p->B * H;
  for (int64_t b = s->rows.begin; b < s->rows.end; b++) {
    int reset = is_reset(p, t, b);
    memcpy(h + b * H, reset ? job->zero : s->h_prev + b * s->h_pitch, (size_t)H * sizeof(REAL));
    if (HAS_CELL_STATE && count > 0)
      memcpy(job->c_anew + b * H + first, reset ? job->zero : s->c_prev + b * s->c_pitch + first,
             (size_t)count * sizeof(REAL));
  }
  s->h_prev = h;
  s->c_prev = job->c_anew;
  s->h_pitch = s->c_pitch = H;
}

/* Zeros for rows past their length: this thread's units of them. */
static void NAME(forward_past)(const NAME(forward_step) * s, range rows) {
  int64_t H = s->H, first = s->blocks.begin * LANES, count = min_i64(s->blocks.end * LANES, H) - first;
  if (count <= 0)
    return;
  size_t bytes = (size_t)count * sizeof(REAL);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    memset(s->h + b * H + first, 0, bytes);
    if (!s->gates) /* c is the state then, which stays as it is */
      continue;
    if (HAS_CELL_STATE)
      memset(s->c + b * H + first, 0, bytes);
    for (int n = 0; n < SAVED; n++)
      memset(s->gates + (b * SAVED + n) * H + first, 0, bytes);
  }
}

/* h_n and c_n, each thread its own part. */
static void NAME(forward_final)(const NAME(forward_job) * job, range rows, range blocks) {
  const bptt_problem *p = job->p;
  int64_t first = blocks.begin * LANES, count = min_i64(blocks.end * LANES, p->H) - first;
  for (int64_t b = rows.begin; b < rows.end && count > 0; b++) {
    int64_t to = b * p->H + first, steps = p->lengths ? p->lengths[b] : p->T, last = (steps - 1) * p->B;
    REAL *h_n = (REAL *)p->h_n + to;
    const REAL *h = steps ? (const REAL *)p->output + last * p->H + to : p->h_0 ? (const REAL *)p->h_0 + to : job->zero;
    memmove(h_n, h, (size_t)count * sizeof(REAL));
    if (!HAS_CELL_STATE)
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
  NAME(forward_step) s = {.I = p->I, .H = p->H, .w = &job->w, .options = options_of(p)};
  range rows = split_rows ? share_rows(p, rank, team->size) : share(p->B, 0, 1);
  s.rows = rows;
  s.blocks = split_rows ? share(job->w.blocks, 0, 1) : share(job->w.blocks, rank, team->size);
  int64_t n = rows.end - rows.begin, active = p->B, own = s.blocks.end - s.blocks.begin, unit = GATES * LANES;
  REAL *z = split_rows ? job->z + rows.begin * plan->chunk * job->w.blocks * unit
                       : job->z + s.blocks.begin * plan->chunk * p->B * unit;
  s.z_block = plan->chunk * n * unit;
  if (!p->packed) {
    NAME(pack_forward)(p, &job->w, share(job->w.blocks, rank, team->size));
    if (split_rows && bptt_team_wait(team, rank)) /* split by hidden units, each has packed what it needs */
      return;
  }
  double flops = 2.0 * MATRIX_GATES * LANES * (double)own * (double)n * (double)(p->I + p->H);
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
      NAME(forward_step_run)(&s);
      int stop = bptt_team_progress(team, rank, flops);
      if (plan->split == BPTT_SPLIT_HIDDEN)
        stop = bptt_team_wait(team, rank);
      if (stop)
        return;
    }
  }
  NAME(forward_final)(job, rows, s.blocks);
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
  job.zero = arena_take(a, p->H, sizeof(REAL));
  if (p->resets) {
    job.h_anew = arena_take(a, p->B * job.plan.threads, p->H * (int64_t)sizeof(REAL));
    job.c_anew = arena_take(a, p->B, p->H * (int64_t)sizeof(REAL));
  }
  job.z = job.plan.hoist ? arena_take(a, job.plan.chunk * p->B, job.w.blocks * GATES * LANES * (int64_t)sizeof(REAL))
                         : NULL;
  return job;
}

static bptt_status NAME(forward)(const bptt_problem *p) {
  arena a = arena_on(p->workspace);
  NAME(forward_job) job = NAME(forward_plan)(p, &a);
  bptt_status status = arena_check(&a, p->workspace_bytes);
  if (status)
    return status;
  memset(job.zero, 0, (size_t)p->H * sizeof(REAL));
  int stopped = bptt_team_run(job.plan.threads, p->split != BPTT_SPLIT_AUTO, NAME(forward_member), &job, p->poll,
                              p->poll_context);
  return stopped ? BPTT_INTERRUPTED : BPTT_OK;
}
