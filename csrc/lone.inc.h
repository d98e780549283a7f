/* A small LSTM over one sequence, forward: the whole loop over time in one function, its state in registers.
 *
 * What a step of one row waits for is one chain: products, gates, c_t, tanh, and h_t back to the products. Here all
 * sums of a step stand in registers at once and a step is some 300 instructions, so that a core has a step and the
 * beginning of the next one in flight together. The bits are those of forward.inc.h: each number goes through the same
 * operations.
 *
 * Units stand in blocks of LANES. The last LANES/4 or LANES/2 of them, if no more are left, have their four gates side
 * by side in one or two vectors (`tail`): H = 20 takes five vectors a product with AVX-512 in place of eight.
 */

enum {
  NAME(LONE_BLOCKS_MOST) = 4,
  NAME(LONE_STEPS) = 32, /* between two looks at whether to stop, and of an input product ahead of them */
  NAME(LONE_AHEAD) = 256 /* vectors of weight_ih from which on that pays; fewer fill gaps in the chain */
};

typedef struct {
  int blocks, tail; /* whole blocks, the last one perhaps padded; vectors of the tail: 0, 1, 2 */
  int vecs;         /* of a product */
  REAL *bias;       /* [vecs][LANES] */
  REAL *ih;         /* [panel of PANEL vectors, the last one of fewer][I][vectors][LANES] */
  REAL *hh;         /* [H][vecs][LANES] */
} NAME(lone_weights);

/* Whether packed weights have room for it. */
static int NAME(lone_fits)(const bptt_problem *p) {
  return p->H <= NAME(LONE_BLOCKS_MOST) * LANES && !has_second(p) && !p->weight_peephole && !options_of(p).special;
}

/* Whether a call that it fits is one for it. */
static int NAME(lone_takes)(const bptt_problem *p) {
  return p->B == 1 && !p->lengths && !p->resets && !(p->zoneout > 0) && !NAME(drops)(p) &&
         p->split == BPTT_SPLIT_AUTO && p->hoist == BPTT_HOIST_AUTO;
}

/* Whether the input product of some steps goes ahead of them; else it is a part of each step. */
INLINE int NAME(lone_ahead)(const bptt_problem *p) {
  return p->I * p->H * 4 / LANES > NAME(LONE_AHEAD);
}

static NAME(lone_weights) NAME(lone_place)(const bptt_problem *p, arena *a) {
  NAME(lone_weights) w;
  w.tail = NAME(tail_vecs)(p->H);
  w.blocks = (int)ceil_div(p->H, LANES) - (w.tail > 0);
  w.vecs = 4 * w.blocks + w.tail;
  w.bias = arena_take(a, w.vecs * LANES, sizeof(REAL));
  w.ih = arena_take(a, w.vecs * LANES * p->I, sizeof(REAL));
  w.hh = arena_take(a, w.vecs * LANES * p->H, sizeof(REAL));
  return w;
}

/* The rows of a (4H, depth) matrix that belong to vector v, one for each lane: dst[k*step + lane]. */
static void NAME(lone_pack_vec)(const NAME(lone_weights) * w, int v, REAL *dst, int64_t step, const REAL *src,
                                int64_t H, int64_t depth) {
  int64_t unit = v / 4 * LANES;
  if (v < 4 * w->blocks)
    NAME(pack_run)(dst, step, src + (v % 4 * H + unit) * depth, (int)min_i64(LANES, H - unit), depth);
  else
    NAME(pack_tail)(dst, step, v - 4 * w->blocks, src, H, depth);
}

/* [panel][k][vectors][LANES]; with one panel of all vectors [k][vecs][LANES]. */
static void NAME(lone_pack_matrix)(const NAME(lone_weights) * w, REAL *dst, int panel, const REAL *src, int64_t H,
                                   int64_t depth) {
  for (int v = 0; v < w->vecs; v++) {
    int first = v - v % panel, wide = w->vecs - first < panel ? w->vecs - first : panel;
    NAME(lone_pack_vec)(w, v, dst + (first * depth + v % panel) * LANES, wide * LANES, src, H, depth);
  }
}

static void NAME(lone_pack_all)(const bptt_problem *p, const NAME(lone_weights) * w) {
  const REAL *b_ih = p->bias_ih, *b_hh = p->bias_hh;
  NAME(lone_pack_matrix)(w, w->ih, NAME(lone_ahead)(p) ? 4 : w->vecs, p->weight_ih, p->H, p->I);
  NAME(lone_pack_matrix)(w, w->hh, w->vecs, p->weight_hh, p->H, p->H);
  if (b_ih)
    NAME(lone_pack_matrix)(w, w->bias, w->vecs, b_ih, p->H, 1);
  else
    memset(w->bias, 0, (size_t)(w->vecs * LANES) * sizeof(REAL));
  if (!b_hh)
    return;
  REAL other[(4 * NAME(LONE_BLOCKS_MOST)) * LANES];
  NAME(lone_pack_matrix)(w, other, w->vecs, b_hh, p->H, 1);
  for (int n = 0; n < w->vecs * LANES; n++)
    w->bias[n] = b_ih ? w->bias[n] + other[n] : other[n];
}

static void NAME(lone_pack)(const bptt_problem *p, void *packed) {
  arena a = arena_on(packed);
  NAME(lone_weights) w = NAME(lone_place)(p, &a);
  NAME(lone_pack_all)(p, &w);
}

/* Bytes of it in packed weights, or in a workspace. */
static int64_t NAME(lone_bytes)(const bptt_problem *p) {
  arena a = {0};
  (void)NAME(lone_place)(p, &a);
  return arena_bytes(&a);
}

INLINE void NAME(lone_input_tile)(int R, int V, const NAME(lone_weights) * w, int v, int64_t I, const REAL *x,
                                  REAL *z) {
  vec sum[R][V];
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int n = 0; n < V; n++) sum[r][n] = vload(w->bias + (v + n) * LANES);
  }
  NAME(tile_product)(R, V, sum, 0, V, I, x, I, 1, w->ih + v * I * LANES);
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int n = 0; n < V; n++) vstore(z + (r * w->vecs + n) * LANES, sum[r][n]);
  }
}

/* b + W_ih x of `steps` steps, z[step][vecs][LANES]: the input part of (L1) (L2) (L3) (L8). */
static void NAME(lone_input)(const NAME(lone_weights) * w, int64_t I, const REAL *x, int64_t steps, REAL *z) {
  for (int v = 0; v < w->vecs; v += 4) {
    int wide = w->vecs - v < 4 ? w->vecs - v : 4;
    for (int64_t t = 0; t < steps;) {
      int n = (int)next_tile(steps - t, TILE_ROWS);
#define CASE1(R) NAME(lone_input_tile)(R, 1, w, v, I, x + t * I, z + (t * w->vecs + v) * LANES)
#define CASE2(R) NAME(lone_input_tile)(R, 2, w, v, I, x + t * I, z + (t * w->vecs + v) * LANES)
#define CASE3(R) NAME(lone_input_tile)(R, 3, w, v, I, x + t * I, z + (t * w->vecs + v) * LANES)
#define CASE4(R) NAME(lone_input_tile)(R, 4, w, v, I, x + t * I, z + (t * w->vecs + v) * LANES)
      SWITCH_TILE(n, TILE_ROWS, wide, CASE)
#undef CASE1
#undef CASE2
#undef CASE3
#undef CASE4
      t += n;
    }
  }
}

/* What a block's gates make of the state; `lanes` of them are written. */
INLINE vec NAME(lone_cell)(const bptt_problem *p, int64_t t, int64_t unit, int lanes, const vec gates[4], vec *c,
                           int soon) {
  int64_t H = p->H;
  *c = vfma(gates[1], *c, gates[0] * gates[2]); /* (L7) */
  if (p->gates) {
    UNROLL for (int n = 0; n < 4; n++) vstore_n((REAL *)p->gates + (t * 4 + n) * H + unit, gates[n], lanes);
    vstore_n((REAL *)p->cells + t * H + unit, *c, lanes);
  }
  vec h = gates[3] * vtanh_when(*c, soon); /* (L10) */
  vstore_n((REAL *)p->output + t * H + unit, h, lanes);
  return h;
}

/* Steps [t, end): h[LANES of each block] and c[] in and out. (L1)-(L10) */
INLINE void NAME(lone_steps)(int blocks, int tail, const bptt_problem *p, const NAME(lone_weights) * w, int64_t t,
                             int64_t end, const REAL *z, REAL *h, vec *state) {
  /* With more vectors it is no longer the chain that all wait for: H = 20 153 -> 147 us, 32 202 -> 204, 40 292 -> 299.
   */
  const int vecs = 4 * blocks + tail, parts = blocks + (tail > 0), soon = vecs < 8;
  const int64_t I = p->I, H = p->H;
  const int last = (int)(H - (parts - 1) * LANES);
  vec c[parts];
  UNROLL for (int n = 0; n < parts; n++) c[n] = state[n];
  for (; t < end; t++) {
    const REAL *from = z ? z : w->bias;
    vec sum[1][vecs];
    UNROLL for (int v = 0; v < vecs; v++) sum[0][v] = vload(from + v * LANES);
    if (z)
      z += vecs * LANES;
    else
      NAME(lone_product)(1, vecs, sum, 0, vecs, I, (const REAL *)p->x + t * I, 0, w->ih, 0, vecs * LANES);
    NAME(lone_product)(1, vecs, sum, 0, vecs, H, h, 0, w->hh, 0, vecs * LANES);
    UNROLL for (int n = 0; n < parts; n++) {
      vec gates[4];
      const vec *s = &sum[0][4 * n];
      if (n < blocks) {
        gates[0] = vsigmoid_when(s[0], soon), gates[1] = vsigmoid_when(s[1], soon);
        gates[2] = vtanh_when(s[2], soon), gates[3] = vsigmoid_when(s[3], soon);
      } else {
        NAME(tail_gates)(tail, s, gates, soon);
      }
      vstore(h + n * LANES, NAME(lone_cell)(p, t, n * LANES, n < parts - 1 ? LANES : last, gates, &c[n], soon));
    }
  }
  UNROLL for (int n = 0; n < parts; n++) state[n] = c[n];
}

#define LONE_CASE(blocks, tail)                                                                                        \
  case (blocks) * 4 + (tail):                                                                                          \
    NAME(lone_steps)(blocks, tail, p, w, t, end, z, h, c);                                                             \
    break;

NOINLINE void NAME(lone_run)(const bptt_problem *p, const NAME(lone_weights) * w, int64_t t, int64_t end, const REAL *z,
                             REAL *h, vec *c) {
  switch (w->vecs) {
    LONE_CASE(0, 1)
    LONE_CASE(0, 2)
    LONE_CASE(1, 0)
    LONE_CASE(1, 1)
    LONE_CASE(1, 2)
    LONE_CASE(2, 0)
    LONE_CASE(2, 1)
    LONE_CASE(2, 2)
    LONE_CASE(3, 0)
    LONE_CASE(3, 1)
    LONE_CASE(3, 2)
    LONE_CASE(4, 0)
  }
}

static void NAME(lone_member)(const void *context, bptt_team *team, int rank) {
  const bptt_problem *p = context;
  arena a = arena_on(p->packed ? (void *)p->packed : p->workspace);
  NAME(lone_weights) w = NAME(lone_place)(p, &a);
  REAL ahead[NAME(LONE_STEPS) * 4 * NAME(LONE_BLOCKS_MOST) * LANES] __attribute__((aligned(VEC_BYTES)));
  REAL *z = NAME(lone_ahead)(p) ? ahead : NULL;
  REAL h[NAME(LONE_BLOCKS_MOST) * LANES] __attribute__((aligned(VEC_BYTES))) = {0};
  vec c[NAME(LONE_BLOCKS_MOST)] = {{0}};
  size_t bytes = (size_t)p->H * sizeof(REAL);
  if (!p->packed)
    NAME(lone_pack_all)(p, &w);
  if (p->h_0)
    memcpy(h, p->h_0, bytes);
  if (p->c_0)
    memcpy(c, p->c_0, bytes);
  for (int64_t t = 0; t < p->T; t += NAME(LONE_STEPS)) {
    int64_t steps = min_i64(NAME(LONE_STEPS), p->T - t);
    if (z)
      NAME(lone_input)(&w, p->I, (const REAL *)p->x + t * p->I, steps, z);
    NAME(lone_run)(p, &w, t, t + steps, z, h, c);
    if (bptt_team_progress(team, rank, 8.0 * (double)(steps * p->H * (p->I + p->H))))
      return;
  }
  memcpy(p->h_n, h, bytes);
  memcpy(p->c_n, c, bytes);
}

/* `packed`, if given, are the weights in this form; the workspace is of lone_bytes() otherwise. */
static bptt_status NAME(lone_forward)(const bptt_problem *p, const void *packed, bptt_job *job) {
  _Static_assert(sizeof(bptt_problem) <= BPTT_JOB_BYTES, "a job holds every plan");
  bptt_problem *lone = (void *)job->plan;
  *lone = *p;
  lone->packed = packed;
  job->duty = NAME(lone_member), job->threads = 1;
  return !packed && (!p->workspace || p->workspace_bytes < NAME(lone_bytes)(p)) ? BPTT_BAD_WORKSPACE : BPTT_OK;
}
#undef LONE_CASE
