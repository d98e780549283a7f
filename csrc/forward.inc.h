/* A cell forward through time: the input product of a chunk, one thread's share of the call, the plan. */

#if GATES > 1

/* R tokens of one block: b + W_ih x, the input part of (L1) (L2) (L3) (L8), stored for the recurrence to start from. */
INLINE void NAME(input_tile)(int R, const REAL *bias, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                             int64_t z_pitch, const REAL *ih, const NAME(fetch) * fetch) {
  vec sum[R][GATES];
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(bias + g * LANES);
  }
  NAME(tile_product_asking)(ASK_NEXT, R, GATES, sum, 0, MATRIX_GATES, I, x, x_pitch, 1, ih, MATRIX_GATES * LANES,
                            fetch);
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int g = 0; g < GATES; g++) vstore(z + r * z_pitch + g * LANES, sum[r][g]);
  }
}

#endif

/* The same of any number of vectors, at most WIDE_ROWS tokens: of a tail, or where a unit has one sum. */
static void NAME(input_wide)(int rows, int vecs, const REAL *bias, int64_t I, const REAL *x, int64_t x_pitch, REAL *z,
                             int64_t z_pitch, const REAL *ih, const NAME(fetch) * fetch) {
  REAL sum[WIDE_ROWS * (WIDE_VECS + 1) * LANES] __attribute__((aligned(VEC_BYTES)));
  for (int n = 0; n < rows * vecs; n++)
    vstore(sum + n * LANES, vload(bias + n % vecs * LANES));
  SHARED(wide_product)(PRODUCT_GOES_ON, rows, vecs, sum, I, x, x_pitch, ih, fetch);
  for (int n = 0; n < rows * vecs; n++)
    vstore(z + n / vecs * z_pitch + n % vecs * LANES, vload(sum + n * LANES));
}

/* Vectors from panel to panel of weight_ih, for each k. */
enum { NAME(IH_VECS) = GATES > 1 ? MATRIX_GATES : WIDE_VECS };

/* `tokens` rows of x, x_pitch apart, against one panel, packed at `ih`; at `next` is the one that comes after it. */
NOINLINE void NAME(input_run)(const NAME(cell_weights) * w, int vecs, int64_t I, const REAL *x, int64_t x_pitch,
                              REAL *z, int64_t z_pitch, int64_t panel, const REAL *ih, const REAL *next,
                              int64_t tokens) {
  const REAL *bias = w->bias + panel * (GATES > 1 ? GATES : WIDE_VECS) * LANES;
  int most = GATES > 1 ? TILE_ROWS : NAME(wide_rows)(vecs);
  const int tail = HAS_TAIL && w->tail && panel == w->panels - 1;
  if (tail)
    most = WIDE_ROWS;
  NAME(fetch) fetch = NAME(fetch_of)(next, NAME(IH_VECS), ceil_div(tokens, most));
  for (int64_t n; tokens > 0; tokens -= n, x += n * x_pitch, z += n * z_pitch) {
    n = next_tile(tokens, most);
#if GATES > 1
    if (tail) {
      NAME(input_wide)((int)n, w->tail, w->tail_bias, I, x, x_pitch, z, z_pitch, w->tail_ih, &fetch);
      continue;
    }
#define CASE(R) NAME(input_tile)(R, bias, I, x, x_pitch, z, z_pitch, ih, &fetch)
    SWITCH_ROWS(n, TILE_ROWS, CASE)
#undef CASE
#else
    NAME(input_wide)((int)n, vecs, bias, I, x, x_pitch, z, z_pitch, ih, &fetch);
#endif
    NAME(fetch_on)(&fetch, I);
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
  REAL *z; /* hoisted products of one chunk, all threads; or of two, one after the other */
  int gathers; /* the inputs of a chunk are put one after the other first, those past a length left out */
  REAL *x;     /* where they then stand, of all threads; else (threads, B, I): those of a step, if rows of x are in
                  another order; or NULL */
  REAL *two; /* (2, B, W): outputs of two steps, where only a copy is wanted of all; or NULL */
  REAL *own; /* own_states of all threads; or NULL */
  int64_t own_pitch;
} NAME(forward_job);

/* What a thread keeps of its own rows (plan_own), own_pitch apart: h of every other step, and c; each may be NULL. */
typedef struct {
  REAL *h[2], *c;
} NAME(own_states);

/* Numbers of what threads before this one keep, `rows` rows in all. */
static int64_t NAME(own_numbers)(const NAME(forward_job) * job, int64_t rows, int threads) {
  return OWN_STATES * (rows * job->own_pitch + threads * APART / (int64_t)sizeof(REAL));
}

static NAME(own_states) NAME(place_own)(const NAME(forward_job) * job, range rows, int rank) {
  const int64_t count = rows.end - rows.begin, each = count * job->own_pitch + APART / (int64_t)sizeof(REAL);
  const int64_t before = job->plan.split == BPTT_SPLIT_ROWS ? rows.begin : rank * count;
  NAME(own_states) own = {{NULL, NULL}, NULL};
  if (!job->own)
    return own;
  REAL *first = job->own + NAME(own_numbers)(job, before, rank) - rows.begin * job->own_pitch; /* for batch row 0 */
  if (job->plan.owns_h)
    own.h[0] = first, own.h[1] = first + each;
  if (job->plan.owns_c)
    own.c = first + 2 * each;
  return own;
}

/* Where a panel of weight_ih stands, or the last one; packed late, all of a thread stand where its first one would. */
static const REAL *NAME(input_panel)(const NAME(forward_job) * job, int64_t panel) {
  return job->w.ih + min_i64(panel, job->w.panels - 1) * job->p->I * NAME(IH_VECS) * LANES;
}

/* The input product of a chunk for this thread's rows and panels. */
NOINLINE void NAME(input_chunk)(const NAME(forward_job) * job, REAL *z, const chunk *chunk, const REAL *gathered,
                                range rows, range panels) {
  const bptt_problem *p = job->p;
  const int64_t n = rows.end - rows.begin, steps = chunk->t1 - chunk->t0;
  const REAL *x = gathered ? gathered : (const REAL *)p->x + (chunk->t0 * p->B + rows.begin) * p->I;
  for (int64_t panel = panels.begin; panel < panels.end; panel++) {
    const int vecs = NAME(forward_vecs)(p->H, panel), unit = vecs * LANES;
    const REAL *ih = NAME(input_panel)(job, panel), *next = NAME(input_panel)(job, panel + 1);
    if (job->plan.packs_late) {
      ih = next = NAME(input_panel)(job, panels.begin);
      if (!job->w.tail || panel < job->w.panels - 1) /* the tail is there */
        NAME(pack_input)(p, panel, (REAL *)ih);
    }
    if (n == p->B || gathered) {
      NAME(input_run)(&job->w, vecs, p->I, x, p->I, z, unit, panel, ih, next, chunk->tokens);
    } else if (n < TILE_ROWS / 2) { /* few rows a step: tiles along time */
      for (int64_t b = 0; b < n; b++)
        NAME(input_run)(&job->w, vecs, p->I, x + b * p->I, p->B * p->I, z + b * unit, n * unit, panel, ih, next, steps);
    } else {
      for (int64_t s = 0; s < steps; s++)
        NAME(input_run)(&job->w, vecs, p->I, x + s * p->B * p->I, p->I, z + s * n * unit, unit, panel, ih, next, n);
    }
    z += job->plan.chunk * n * unit;
  }
}

/* Part `part` of `parts` of the same work, of all rows, as even as tiles allow. */
static void NAME(input_part)(const NAME(forward_job) * job, REAL *z, int64_t t, int64_t steps, range panels, int part,
                             int parts) {
  const bptt_problem *p = job->p;
  const int64_t tokens = steps * p->B, tiles = ceil_div(tokens, TILE_ROWS);
  const range own = share(tiles * (panels.end - panels.begin), part, parts);
  for (int64_t n = own.begin; n < own.end; n++) {
    const int64_t panel = panels.begin + n / tiles, each = GATES == 1 ? WIDE_VECS : GATES;
    const range run = share(tokens, (int)(n % tiles), (int)tiles);
    const int unit = NAME(forward_vecs)(p->H, panel) * LANES;
    NAME(input_run)(&job->w, unit / LANES, p->I, (const REAL *)p->x + (t * p->B + run.begin) * p->I, p->I,
                    z + n / tiles * each * LANES * job->plan.chunk * p->B + run.begin * unit, unit, panel,
                    NAME(input_panel)(job, panel), NAME(input_panel)(job, panel + 1), run.end - run.begin);
  }
}

/* State arrays of step t: what it reads and where it writes. */
static void NAME(forward_bind)(const NAME(forward_job) * job, const NAME(own_states) * own, NAME(forward_step) * s,
                               int64_t t) {
  const bptt_problem *p = job->p;
  int64_t state = p->B * p->H;
  s->down = (p->first_step + t) & 1;
  s->x = (const REAL *)p->x + t * p->B * p->I;
  s->output = job->two ? job->two + (t & 1) * p->B * s->W : (REAL *)p->output + t * p->B * s->W;
  s->copy = p->copy ? (REAL *)p->copy + t * p->B * s->W : NULL;
  s->copy_order = p->copy_order;
  s->h = p->P ? job->middle : s->output;
  s->c = own->c ? own->c : p->cells ? (REAL *)p->cells + t * state : p->c_n;
  s->c_row = own->c ? job->own_pitch : p->H;
  s->gates = p->gates ? (REAL *)p->gates + t * SAVED * state : job->gates;
  s->middle = p->reset_before ? s->gates + (SAVED - 1) * p->H : s->h;
  s->middle_pitch = p->reset_before ? SAVED * p->H : p->H;
  NAME(enter_zone)(&s->zone, p, t);
  s->own_h = own->h[t & 1], s->own_pitch = job->own_pitch;
  s->h_pitch = s->seen_pitch = t > 0 && s->own_h ? job->own_pitch : s->W;
  s->c_pitch = t > 0 ? s->c_row : p->H;
  if (t > 0) {
    const REAL *before = job->two && !(t & 1) ? s->output + p->B * s->W : s->output - p->B * s->W;
    s->h_prev = s->h_seen = s->own_h ? own->h[(t - 1) & 1] : before;
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
NOINLINE void NAME(forward_anew)(const NAME(forward_job) * job, NAME(forward_step) * s, int64_t t, int rank) {
  const bptt_problem *p = job->p;
  int64_t H = p->H, W = s->W;
  const range own = NAME(forward_units)(H, s->panels);
  if (!any_reset(p, t, s->rows.half[0]) && !any_reset(p, t, s->rows.half[1]))
    return;
  REAL *h = job->h_anew + rank * p->B * W;
  for (int part = 0; part < s->rows.count; part++)
    for (int64_t b = s->rows.half[part].begin; b < s->rows.half[part].end; b++) {
      int reset = is_reset(p, t, b);
      memcpy(h + b * W, reset ? job->zero : s->h_prev + b * s->h_pitch, (size_t)W * sizeof(REAL));
      if (HAS_CELL_STATE)
        memcpy(job->c_anew + b * H + own.begin, reset ? job->zero : s->c_prev + b * s->c_pitch + own.begin,
               (size_t)(own.end - own.begin) * sizeof(REAL));
    }
  s->h_prev = s->h_seen = h;
  s->c_prev = job->c_anew;
  s->h_pitch = s->seen_pitch = W;
  s->c_pitch = H;
}

/* What dropout leaves of the previous h, in a copy of this thread's own. */
NOINLINE void NAME(forward_dropped)(const NAME(forward_job) * job, NAME(forward_step) * s, int rank) {
  int64_t W = s->W, own = rank * job->p->B * W;
  for (int part = 0; part < s->rows.count; part++)
    for (int64_t b = s->rows.half[part].begin; b < s->rows.half[part].end; b++)
      NAME(apply_mask)(job->h_masked + own + b * W, s->h_prev + b * s->h_pitch, job->mask + own + b * W, W);
  s->h_seen = job->h_masked + own;
  s->seen_pitch = W;
}

/* This thread's numbers of each row of h. */
static range NAME(own_outputs)(const NAME(forward_step) * s) {
  const int64_t each = SECOND_VECS * LANES;
  if (s->second.end == 0)
    return NAME(forward_units)(s->H, s->panels);
  return (range){min_i64(s->second.begin * each, s->W), min_i64(s->second.end * each, s->W)};
}

/* Zeros for rows past their length, in whatever is kept of all steps: this thread's units of them. */
NOINLINE void NAME(forward_past)(const NAME(forward_job) * job, const NAME(forward_step) * s, range rows) {
  const int64_t H = s->H;
  const range units = NAME(forward_units)(H, s->panels), own = NAME(own_outputs)(s);
  size_t bytes = (size_t)(units.end - units.begin) * sizeof(REAL),
         own_bytes = (size_t)(own.end - own.begin) * sizeof(REAL);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    if (!job->two)
      memset(s->output + b * s->W + own.begin, 0, own_bytes);
    if (s->copy)
      memset(s->copy + s->copy_order[b] * s->W + own.begin, 0, own_bytes);
    if (!s->gates) /* without gates c is the state, which stays as it is */
      continue;
    if (HAS_CELL_STATE)
      memset(s->c + b * H + units.begin, 0, bytes);
    for (int n = 0; n < SAVED; n++)
      memset(s->gates + (b * SAVED + n) * H + units.begin, 0, bytes);
  }
}

/* h_n and c_n, each thread its own part. */
NOINLINE void NAME(forward_final)(const NAME(forward_job) * job, const NAME(forward_step) * s, range rows) {
  const bptt_problem *p = job->p;
  const range units = NAME(forward_units)(p->H, s->panels), own = NAME(own_outputs)(s);
  for (int64_t b = rows.begin; b < rows.end; b++) {
    int64_t to = b * p->H + units.begin, steps = p->lengths ? p->lengths[b] : p->T, last = (steps - 1) * p->B;
    int64_t at = b * s->W + own.begin;
    const REAL *output =
        job->two ? (const REAL *)p->copy + p->copy_order[b] * s->W + own.begin : (const REAL *)p->output + at;
    const REAL *h = steps ? output + last * s->W : p->h_0 ? (const REAL *)p->h_0 + at : job->zero;
    memmove((REAL *)p->h_n + at, h, (size_t)(own.end - own.begin) * sizeof(REAL));
    if (!HAS_CELL_STATE)
      continue;
    const REAL *c = !steps     ? (p->c_0 ? (const REAL *)p->c_0 + to : job->zero)
                    : p->cells ? (const REAL *)p->cells + last * p->H + to
                               : s->c + b * s->c_row + units.begin;
    memmove((REAL *)p->c_n + to, c, (size_t)(units.end - units.begin) * sizeof(REAL));
  }
}

static void NAME(forward_member)(const void *context, bptt_team *team, int rank) {
  const NAME(forward_job) *job = context;
  const bptt_problem *p = job->p;
  const plan *plan = &job->plan;
  int split_rows = plan->split == BPTT_SPLIT_ROWS;
  NAME(forward_step) s = {.I = p->I, .H = p->H, .W = width_of(p), .w = &job->w, .options = options_of(p)};
  range rows = split_rows ? share_rows(p, rank, team->size) : share(p->B, 0, 1);
  const row_ranges all = in_halves(p, rows);
  s.rows = all;
  s.panels = split_rows ? share(job->w.panels, 0, 1) : share(job->w.panels, rank, team->size);
  range panels = share(NAME(second_panels)(p), rank, team->size);
  s.second = split_rows ? share(NAME(second_panels)(p), 0, 1) : panels;
  const range units = NAME(forward_units)(p->H, s.panels);
  const NAME(own_states) own = NAME(place_own)(job, rows, rank);
  int64_t n = rows.end - rows.begin;
  REAL *z = split_rows ? job->z + rows.begin * plan->chunk * job->w.blocks * GATES * LANES
                       : job->z + units.begin * plan->chunk * p->B * GATES;
  REAL *other_z = plan->fills ? z + plan->chunk * p->B * job->w.blocks * GATES * LANES : z;
  s.z_vec = plan->chunk * n * LANES;
  s.lone_panels = plan->outgrown && GATES * VEC_BYTES >= LEAST_LONE ? 1 : LONE_BLOCKS;
  s.lists = p->gates && p->T * p->B * SAVED * p->H * (int64_t)sizeof(REAL) >= LEAST_LISTED;
  if (!p->packed) {
    NAME(pack_forward)(p, &job->w, share(job->w.panels, rank, team->size), plan->packs_late ? PACK_LATER : PACK_ONCE);
    NAME(pack_second)(p, &job->w, panels);
    if (split_rows && bptt_team_wait(team, rank)) /* split by hidden units, each has packed what it needs */
      return;
  }
  if (NAME(drops)(p))
    NAME(draw_dropout)(p, job->mask + rank * p->B * s.W, rows);
  double flops = 2.0 * MATRIX_GATES * (double)(units.end - units.begin) * (double)n * (double)(p->I + s.W);
  const int64_t h_bytes = plan->split == BPTT_SPLIT_HIDDEN ? p->B * s.W * (int64_t)sizeof(REAL) : 0;
  if (h_bytes) { /* a call before, or the caller, wrote them on one core */
    bptt_team_fetch(p->h_0, p->h_0 ? h_bytes : 0);
    bptt_team_fetch(p->x, p->T ? p->B * p->I * (int64_t)sizeof(REAL) : 0);
  }
  REAL *gathered = !job->gathers ? NULL : split_rows ? job->x + rows.begin * plan->chunk * p->I : job->x;
  for (int64_t t0 = 0, t1; t0 < p->T; t0 = t1) {
    const chunk run = chunk_from(p, plan->chunk, job->gathers, t0, &all);
    t1 = run.t1;
    if (gathered) {
      gather_inputs(p, sizeof(REAL), &run, &all, (char *)gathered, split_rows ? 0 : rank, split_rows ? 1 : team->size);
      if (!split_rows && bptt_team_wait(team, rank))
        return;
    }
    if (plan->hoist && (t0 == 0 || !plan->fills))
      NAME(input_chunk)(job, z, &run, gathered, rows, s.panels);
    for (int64_t t = t0, done = 0; t < t1; t++) {
      NAME(forward_bind)(job, &own, &s, t);
      s.z = plan->hoist ? z : NULL;
      s.z_step = done;
      if (p->lengths) {
        s.rows = valid_rows(p, t, &all, &s.rows);
        for (int part = 0; part < all.count; part++)
          NAME(forward_past)(job, &s, (range){s.rows.half[part].end, all.half[part].end});
      }
      if (job->x && !gathered) {
        REAL *x = job->x + rank * p->B * p->I;
        for (int part = 0; part < all.count; part++)
          copy_inputs(p, sizeof(REAL), t, s.rows.half[part], (char *)(x + s.rows.half[part].begin * p->I));
        s.x = x;
      }
      done += count_rows(&s.rows);
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
      if (plan->split == BPTT_SPLIT_HIDDEN) {
        bptt_team_arrive(team, rank);
        if (plan->fills && t1 < p->T)
          NAME(input_part)(job, other_z, t1, min_i64(plan->chunk, p->T - t1), s.panels, (int)(t - t0), (int)(t1 - t0));
        stop = bptt_team_await(team, rank);
        bptt_team_fetch(s.output, h_bytes);
      }
      if (stop)
        return;
    }
    REAL *next = other_z; /* the one that was filled meanwhile, or the same one */
    other_z = z, z = next;
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
  job.plan = GATES > 1 ? plan_forward(p, job.w.panels, GATES, LANES, sizeof(REAL), TILE_ROWS)
                       : plan_forward(p, job.w.panels, WIDE_VECS, LANES, sizeof(REAL), WIDE_ROWS);
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
  if (job.plan.hoist)
    job.z = arena_take(a, job.plan.chunk * p->B * (1 + job.plan.fills), job.w.blocks * GATES * LANES * real);
  job.gathers = job.plan.hoist && p->lengths;
  if (job.gathers || p->x_order)
    job.x = arena_take(a, p->B * (job.gathers ? job.plan.chunk : job.plan.threads), p->I * real);
  if (!p->output && p->copy)
    job.two = arena_take(a, 2 * p->B, W * real);
  if (job.plan.owns_h || job.plan.owns_c) {
    job.own_pitch = ceil_div(p->H, LANES) * LANES;
    int64_t rows = job.plan.split == BPTT_SPLIT_ROWS ? p->B : p->B * job.plan.threads;
    job.own = arena_take(a, NAME(own_numbers)(&job, rows, job.plan.threads), real);
  }
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
