/* Packed weights.
 *
 * Forward: hidden units stand in blocks of LANES, the last one padded with zeros. For each block and each k the gates
 * lie side by side, [block][k][gate][LANES]: one k-step of one block of the LSTM is 4*LANES numbers in a row. The order
 * is that of the sums in registers (cell_*.inc.h). A last block of the LSTM of which at most half is in use has a
 * second form, the tail: its gates side by side in one or two vectors; H = 40 takes ten vectors for each k in place of
 * twelve. Where a unit has one sum, blocks stand in panels as those of the backward pass. Backward and dx: the rows of
 * weight_hh and weight_ih are what k runs over there, and their columns stand in panels of WIDE_VECS vectors, the last
 * one with one more where their number is odd, [panel][k over gates and units][vecs][LANES], again padded with zeros.
 * The second product of a step (second.inc.h) has its columns in panels of SECOND_VECS vectors.
 */

#ifndef HH_FIRST
#define HH_FIRST (GATES - MATRIX_GATES) /* the first sum that weight_hh feeds */
#endif

typedef struct {
  int64_t blocks; /* ceil(H / LANES) */
  int64_t panels; /* forward_panels() */
  REAL *bias;     /* [blocks][GATES][LANES], b_ih + b_hh */
  REAL *peephole; /* [blocks][3][LANES] or NULL */
  REAL *ih;       /* [blocks][I][MATRIX_GATES][LANES] */
  REAL *hh;       /* [blocks][W][hh_gates][LANES] */
  REAL *second;   /* [panel][H][vecs][LANES] of weight_hr, or of the candidate's rows of weight_hh; or NULL */
  int tail; /* vectors of the last block in its other form, [k][vecs][LANES]; 0: it has none, or is to have none */
  REAL *tail_bias, *tail_ih, *tail_hh;
} NAME(cell_weights);

/* Gates that weight_hh feeds in the first product: all, or all but the candidate. */
INLINE int NAME(hh_gates)(const bptt_problem *p) {
  return MATRIX_GATES - (CANDIDATE_ALONE && p->reset_before);
}

/* Vectors that all gates of the units in the last block take side by side: 1 or 2; 0 where more than half of that block
 * is in use. Each gate has LANES * vecs / 4 lanes. */
static int NAME(tail_vecs)(int64_t H) {
  int64_t last = H % LANES;
  return last == 0 || last > LANES / 2 ? 0 : last > LANES / 4 ? 2 : 1;
}

/* Panels of WIDE_VECS vectors over `width` numbers. A last vector that is left over goes with the panel before: alone,
 * it has half the sums in flight. */
static int64_t NAME(wide_count)(int64_t width) {
  int64_t vecs = ceil_div(width, LANES);
  return vecs == 1 ? 1 : vecs / WIDE_VECS;
}

/* Vectors in panel n of them: 1, 2 or 3. */
static int NAME(wide_vecs)(int64_t width, int64_t n) {
  return n + 1 < NAME(wide_count)(width) ? WIDE_VECS : (int)(ceil_div(width, LANES) - n * WIDE_VECS);
}

/* Their numbers. */
static range NAME(wide_units)(int64_t width, range panels) {
  int64_t each = WIDE_VECS * LANES, count = NAME(wide_count)(width);
  return (range){panels.begin == count ? width : panels.begin * each, panels.end == count ? width : panels.end * each};
}

/* Panels of the forward pass, each of which a tile takes at once: a block with all its gates; where a unit has one sum,
 * two blocks or three, since six rows of a single vector keep too few sums in flight. */
static int64_t NAME(forward_panels)(int64_t H) {
  return GATES == 1 ? NAME(wide_count)(H) : ceil_div(H, LANES);
}

/* Their hidden units. */
static range NAME(forward_units)(int64_t H, range panels) {
  return GATES == 1 ? NAME(wide_units)(H, panels)
                    : (range){min_i64(panels.begin * LANES, H), min_i64(panels.end * LANES, H)};
}

/* Vectors of one. */
INLINE int NAME(forward_vecs)(int64_t H, int64_t panel) {
  return GATES == 1 ? NAME(wide_vecs)(H, panel) : GATES;
}

static NAME(cell_weights) NAME(place_weights)(const bptt_problem *p, arena *a) {
  NAME(cell_weights) w = {0};
  w.blocks = ceil_div(p->H, LANES);
  w.panels = NAME(forward_panels)(p->H);
  w.bias = arena_take(a, w.blocks * GATES * LANES, sizeof(REAL));
  w.peephole = p->weight_peephole ? arena_take(a, w.blocks * 3 * LANES, sizeof(REAL)) : NULL;
  w.ih = arena_take(a, w.blocks * MATRIX_GATES * LANES * p->I, sizeof(REAL));
  w.hh = arena_take(a, w.blocks * NAME(hh_gates)(p) * LANES * width_of(p), sizeof(REAL));
  w.second = has_second(p) ? arena_take(a, ceil_div(width_of(p), LANES) * LANES * p->H, sizeof(REAL)) : NULL;
  if (HAS_TAIL && (w.tail = NAME(tail_vecs)(p->H)) > 0) {
    w.tail_bias = arena_take(a, w.tail * LANES, sizeof(REAL));
    w.tail_ih = arena_take(a, w.tail * LANES * p->I, sizeof(REAL));
    w.tail_hh = arena_take(a, w.tail * LANES * width_of(p), sizeof(REAL));
  }
  return w;
}

/* Block of rows of weight_ih that feeds a sum; those of weight_hh feed the sums from HH_FIRST on, in order. */
static int NAME(ih_rows)(int gate) {
  static const int rows[] = IH_ROWS;
  return rows[gate];
}

static int NAME(hh_rows)(int gate) {
  return gate;
}

/* dst[k*step + lane] = rows[lane][k] for k < depth, zeros where there is no row. Squares of LANES x LANES go through
 * registers, 20 times as fast as element by element; a source row's cache line is read once. */
NOINLINE void NAME(pack_lanes)(REAL *dst, int64_t step, const REAL *const rows[LANES], int64_t depth) {
  int whole = 1;
  for (int lane = 0; lane < LANES; lane++)
    whole &= rows[lane] != NULL;
  for (int64_t k = 0; k < depth; k += LANES) {
    int width = (int)min_i64(LANES, depth - k);
    REAL *to = dst + k * step;
    vec square[LANES];
    if (whole && width == LANES) {
      UNROLL for (int lane = 0; lane < LANES; lane++) square[lane] = vload(rows[lane] + k);
      vtranspose(square);
      UNROLL for (int n = 0; n < LANES; n++) vstore(to + n * step, square[n]);
    } else {
      for (int lane = 0; lane < LANES; lane++)
        square[lane] = rows[lane] ? vload_n(rows[lane] + k, width) : (vec){0};
      vtranspose(square);
      for (int n = 0; n < width; n++)
        vstore(to + n * step, square[n]);
    }
  }
}

/* The same of `lanes` rows that follow on one another. */
static void NAME(pack_run)(REAL *dst, int64_t step, const REAL *src, int lanes, int64_t depth) {
  const REAL *rows[LANES];
  for (int lane = 0; lane < LANES; lane++)
    rows[lane] = lane < lanes ? src + lane * depth : NULL;
  NAME(pack_lanes)(dst, step, rows, depth);
}

#if GATES > 1

/* Vector v of the tail of a (4H, depth) matrix. */
static void NAME(pack_tail)(REAL *dst, int64_t step, int v, const REAL *src, int64_t H, int64_t depth) {
  const int64_t each = LANES * NAME(tail_vecs)(H) / 4, first = H / LANES * LANES;
  const REAL *rows[LANES];
  for (int lane = 0; lane < LANES; lane++) {
    int64_t at = v * LANES + lane, unit = first + at % each;
    rows[lane] = unit < H ? src + (at / each * H + unit) * depth : NULL;
  }
  NAME(pack_lanes)(dst, step, rows, depth);
}

/* One block of a (gates*H, depth) matrix: dst[k][gate][lane] = src[rows(gate)*H + unit + lane][k], zeros past H. */
static void NAME(pack_block)(REAL *dst, int gates, const REAL *src, int64_t H, int64_t depth, int64_t unit,
                             int (*rows)(int)) {
  int lanes = (int)min_i64(LANES, H - unit);
  for (int gate = 0; gate < gates; gate++)
    NAME(pack_run)(dst + gate * LANES, gates * LANES, src + (rows(gate) * H + unit) * depth, lanes, depth);
}

#endif

/* dst[block][i,f,o][lane] = weight_peephole[.][block*LANES + lane], zeros past H. */
static void NAME(pack_peephole)(REAL *dst, const REAL *src, int64_t H, range blocks) {
  for (int64_t block = blocks.begin; block < blocks.end; block++)
    for (int gate = 0; gate < 3; gate++)
      for (int lane = 0; lane < LANES; lane++) {
        int64_t unit = block * LANES + lane;
        dst[(block * 3 + gate) * LANES + lane] = unit < H ? src[gate * H + unit] : 0;
      }
}

static void NAME(pack_bias)(const bptt_problem *p, const NAME(cell_weights) * w, int64_t block) {
  const REAL *b_ih = p->bias_ih, *b_hh = p->bias_hh;
  const int64_t H = p->H;
  const int hh_gates = NAME(hh_gates)(p);
  for (int gate = 0; gate < GATES; gate++) {
    for (int lane = 0; lane < LANES; lane++) {
      int64_t at = block * LANES + lane, hh = gate - HH_FIRST;
      REAL sum = 0;
      if (at < H && b_ih && gate < MATRIX_GATES)
        sum = b_ih[NAME(ih_rows)(gate) * H + at];
      if (hh_gates < MATRIX_GATES && gate == 0)
        hh = hh_gates; /* the candidate has one sum then, which takes both */
      if (at < H && b_hh && hh >= 0)
        sum = b_ih && gate < MATRIX_GATES ? sum + b_hh[hh * H + at] : b_hh[hh * H + at];
      w->bias[(block * GATES + gate) * LANES + lane] = sum;
    }
  }
}

#if GATES == 1

/* One panel of weight_ih. */
NOINLINE void NAME(pack_input)(const bptt_problem *p, int64_t panel, REAL *dst) {
  const int64_t H = p->H, I = p->I, first = panel * WIDE_VECS, vecs = NAME(wide_vecs)(H, panel);
  for (int64_t v = 0; v < vecs; v++) {
    const int64_t unit = (first + v) * LANES;
    NAME(pack_run)(dst + v * LANES, vecs * LANES, (const REAL *)p->weight_ih + unit * I, (int)min_i64(LANES, H - unit),
                   I);
  }
}

/* Packs panels [panels.begin, panels.end) of all that forward needs, but for what `what` leaves out. */
static void NAME(pack_forward)(const bptt_problem *p, const NAME(cell_weights) * w, range panels, int what) {
  const int64_t H = p->H, I = p->I, W = width_of(p);
  for (int64_t panel = panels.begin; panel < panels.end; panel++) {
    const int64_t first = panel * WIDE_VECS, vecs = NAME(wide_vecs)(H, panel);
    for (int64_t v = 0; v < vecs; v++) {
      const int64_t unit = (first + v) * LANES;
      const int lanes = (int)min_i64(LANES, H - unit);
      NAME(pack_bias)(p, w, first + v);
      NAME(pack_run)(w->hh + (first * W + v) * LANES, vecs * LANES, (const REAL *)p->weight_hh + unit * W, lanes, W);
    }
    if (what != PACK_LATER)
      NAME(pack_input)(p, panel, w->ih + first * I * LANES);
  }
}

#else

/* One block of weight_ih. */
NOINLINE void NAME(pack_input)(const bptt_problem *p, int64_t block, REAL *dst) {
  NAME(pack_block)(dst, MATRIX_GATES, p->weight_ih, p->H, p->I, block * LANES, NAME(ih_rows));
}

/* Packs blocks [blocks.begin, blocks.end) of all that forward needs, but for what `what` leaves out; the last one as a
 * tail, or in both forms. */
static void NAME(pack_forward)(const bptt_problem *p, const NAME(cell_weights) * w, range blocks, int what) {
  int64_t H = p->H, W = width_of(p);
  int hh_gates = NAME(hh_gates)(p);
  for (int64_t block = blocks.begin; block < blocks.end; block++) {
    int64_t unit = block * LANES;
    NAME(pack_bias)(p, w, block);
    if (w->tail && block == w->blocks - 1) {
      const int64_t each = LANES * w->tail / 4;
      for (int v = 0; v < w->tail; v++) {
        NAME(pack_tail)(w->tail_ih + v * LANES, w->tail * LANES, v, p->weight_ih, H, p->I);
        NAME(pack_tail)(w->tail_hh + v * LANES, w->tail * LANES, v, p->weight_hh, H, W);
      }
      for (int64_t at = 0; at < w->tail * LANES; at++)
        w->tail_bias[at] = w->bias[(block * GATES + at / each) * LANES + at % each];
      if (what != PACK_BOTH)
        continue;
    }
    if (what != PACK_LATER)
      NAME(pack_input)(p, block, w->ih + block * MATRIX_GATES * LANES * p->I);
    NAME(pack_block)(w->hh + block * hh_gates * LANES * W, hh_gates, p->weight_hh, H, W, unit, NAME(hh_rows));
  }
  if (w->peephole)
    NAME(pack_peephole)(w->peephole, p->weight_peephole, H, blocks);
}

#endif

/* Panels of up to `vecs` vectors over `width` numbers. */
static int64_t NAME(panel_count)(int64_t width, int vecs) {
  return ceil_div(ceil_div(width, LANES), vecs);
}

/* Vectors in panel n of them: `vecs` but for the last one. */
static int NAME(panel_vecs)(int64_t width, int64_t n, int vecs) {
  return (int)min_i64(vecs, ceil_div(width, LANES) - n * vecs);
}

/* dst[k][vecs][LANES] = src[k*pitch + column ...], zeros past `width`. */
NOINLINE void NAME(pack_panel)(REAL *dst, const REAL *src, int64_t pitch, int64_t depth, int64_t width, int64_t column,
                               int vecs) {
  for (int64_t k = 0; k < depth; k++, src += pitch, dst += vecs * LANES) {
    for (int v = 0; v < vecs; v++) {
      int64_t left = width - column - v * LANES;
      vec a = left >= LANES ? vload(src + column + v * LANES)
              : left > 0    ? vload_n(src + column + v * LANES, (int)left)
                            : (vec){0};
      vstore(dst + v * LANES, a);
    }
  }
}

/* Where panel n of a packed matrix of `depth` rows stands. */
INLINE REAL *NAME(wide_panel)(REAL *first, int64_t n, int64_t depth) {
  return first + n * WIDE_VECS * LANES * depth;
}

/* Packs panels [panels.begin, panels.end) of a (gates*H, width) matrix, the first one to dst. */
NOINLINE void NAME(pack_wide)(REAL *dst, const REAL *src, int64_t H, int gates, int64_t width, range panels,
                              int (*rows)(int)) {
  int64_t depth = gates * H;
  for (int64_t n = panels.begin; n < panels.end; n++) {
    int vecs = NAME(wide_vecs)(width, n);
    for (int gate = 0; gate < gates; gate++)
      NAME(pack_panel)(NAME(wide_panel)(dst, n - panels.begin, depth) + gate * H * vecs * LANES,
                       src + rows(gate) * H * width, width, H, width, n * WIDE_VECS * LANES, vecs);
  }
}

/* The columns of a (gates*H, width) matrix, each as dot_products() takes it. */
static void NAME(pack_columns)(REAL *dst, const REAL *src, int64_t H, int gates, int64_t width, int (*rows)(int)) {
  const int64_t each = NAME(dot_pitch)(gates * H);
  memset(dst, 0, (size_t)(width * each) * sizeof(REAL));
  for (int gate = 0; gate < gates; gate++)
    for (int64_t unit = 0; unit < H; unit++)
      for (int64_t c = 0; c < width; c++)
        dst[c * each + gate * H + unit] = src[(rows(gate) * H + unit) * width + c];
}

/* The weights of the second product: (W, H), row-major. */
static const REAL *NAME(second_weights)(const bptt_problem *p) {
  return p->P ? p->weight_hr : (const REAL *)p->weight_hh + NAME(hh_gates)(p) * p->H * p->H;
}

static int64_t NAME(second_panels)(const bptt_problem *p) {
  return has_second(p) ? NAME(panel_count)(width_of(p), SECOND_VECS) : 0;
}

/* Packs panels [panels.begin, panels.end) of them: dst[panel][k][vecs][LANES]. */
static void NAME(pack_second)(const bptt_problem *p, const NAME(cell_weights) * w, range panels) {
  int64_t H = p->H, W = width_of(p);
  for (int64_t n = panels.begin; n < panels.end; n++) {
    int vecs = NAME(panel_vecs)(W, n, SECOND_VECS);
    for (int v = 0; v < vecs; v++) {
      int64_t row = (n * SECOND_VECS + v) * LANES;
      NAME(pack_run)(w->second + n * SECOND_VECS * LANES * H + v * LANES, vecs * LANES,
                     NAME(second_weights)(p) + row * H, (int)min_i64(LANES, W - row), H);
    }
  }
}

static void NAME(pack)(const bptt_problem *p, void *packed) {
  arena a = arena_on(packed);
  NAME(cell_weights) w = NAME(place_weights)(p, &a);
  NAME(pack_forward)(p, &w, share(w.panels, 0, 1), PACK_BOTH);
  NAME(pack_second)(p, &w, share(NAME(second_panels)(p), 0, 1));
}
