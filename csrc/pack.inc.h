/* Packed weights.
 *
 * Forward: hidden units stand in blocks of LANES, the last one padded with zeros. For each block and each k the gates
 * lie side by side, [block][k][gate][LANES]: one k-step of one block of the LSTM is 4*LANES numbers in a row. The order
 * is that of the sums in registers (cell_*.inc.h). Backward and dx: the rows of weight_hh and weight_ih are what k runs
 * over there, and their columns stand in panels of up to WIDE_VECS vectors, [panel][k over gates and
 * units][vecs][LANES], again padded with zeros. The second product of a step (second.inc.h) has its columns in panels
 * of SECOND_VECS vectors.
 */

#ifndef HH_FIRST
#define HH_FIRST (GATES - MATRIX_GATES) /* the first sum that weight_hh feeds */
#endif

typedef struct {
  int64_t blocks; /* ceil(H / LANES) */
  REAL *bias;     /* [blocks][GATES][LANES], b_ih + b_hh */
  REAL *peephole; /* [blocks][3][LANES] or NULL */
  REAL *ih;       /* [blocks][I][MATRIX_GATES][LANES] */
  REAL *hh;       /* [blocks][W][hh_gates][LANES] */
  REAL *second;   /* [panel][H][vecs][LANES] of weight_hr, or of the candidate's rows of weight_hh; or NULL */
} NAME(cell_weights);

/* Gates that weight_hh feeds in the first product: all, or all but the candidate. */
INLINE int NAME(hh_gates)(const bptt_problem *p) {
  return MATRIX_GATES - (CANDIDATE_ALONE && p->reset_before);
}

static NAME(cell_weights) NAME(place_weights)(const bptt_problem *p, arena *a) {
  NAME(cell_weights) w;
  w.blocks = ceil_div(p->H, LANES);
  w.bias = arena_take(a, w.blocks * GATES * LANES, sizeof(REAL));
  w.peephole = p->weight_peephole ? arena_take(a, w.blocks * 3 * LANES, sizeof(REAL)) : NULL;
  w.ih = arena_take(a, w.blocks * MATRIX_GATES * LANES * p->I, sizeof(REAL));
  w.hh = arena_take(a, w.blocks * NAME(hh_gates)(p) * LANES * width_of(p), sizeof(REAL));
  w.second = has_second(p) ? arena_take(a, ceil_div(width_of(p), LANES) * LANES * p->H, sizeof(REAL)) : NULL;
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

/* dst[k*step + lane] = src[lane][k], zeros past `lanes`, for k < depth. Squares of LANES x LANES go through registers,
 * 20 times as fast as element by element; a source row's cache line is read once. */
NOINLINE void NAME(pack_lanes)(REAL *dst, int64_t step, const REAL *src, int lanes, int64_t depth) {
  for (int64_t k = 0; k < depth; k += LANES) {
    int width = (int)min_i64(LANES, depth - k);
    const REAL *from = src + k;
    REAL *to = dst + k * step;
    vec square[LANES];
    if (lanes == LANES && width == LANES) {
      UNROLL for (int lane = 0; lane < LANES; lane++) square[lane] = vload(from + lane * depth);
      vtranspose(square);
      UNROLL for (int n = 0; n < LANES; n++) vstore(to + n * step, square[n]);
    } else {
      for (int lane = 0; lane < LANES; lane++)
        square[lane] = lane < lanes ? vload_n(from + lane * depth, width) : (vec){0};
      vtranspose(square);
      for (int n = 0; n < width; n++)
        vstore(to + n * step, square[n]);
    }
  }
}

/* One block of a (gates*H, depth) matrix: dst[k][gate][lane] = src[rows(gate)*H + unit + lane][k], zeros past H. */
static void NAME(pack_block)(REAL *dst, int gates, const REAL *src, int64_t H, int64_t depth, int64_t unit,
                             int (*rows)(int)) {
  int lanes = (int)min_i64(LANES, H - unit);
  for (int gate = 0; gate < gates; gate++)
    NAME(pack_lanes)(dst + gate * LANES, gates * LANES, src + (rows(gate) * H + unit) * depth, lanes, depth);
}

/* dst[block][i,f,o][lane] = weight_peephole[.][block*LANES + lane], zeros past H. */
static void NAME(pack_peephole)(REAL *dst, const REAL *src, int64_t H, range blocks) {
  for (int64_t block = blocks.begin; block < blocks.end; block++)
    for (int gate = 0; gate < 3; gate++)
      for (int lane = 0; lane < LANES; lane++) {
        int64_t unit = block * LANES + lane;
        dst[(block * 3 + gate) * LANES + lane] = unit < H ? src[gate * H + unit] : 0;
      }
}

/* Packs blocks [blocks.begin, blocks.end) of all that forward needs. */
static void NAME(pack_forward)(const bptt_problem *p, const NAME(cell_weights) * w, range blocks) {
  const REAL *b_ih = p->bias_ih, *b_hh = p->bias_hh;
  int64_t H = p->H, W = width_of(p);
  int hh_gates = NAME(hh_gates)(p);
  for (int64_t block = blocks.begin; block < blocks.end; block++) {
    int64_t unit = block * LANES;
    for (int gate = 0; gate < GATES; gate++) {
      for (int lane = 0; lane < LANES; lane++) {
        int64_t at = unit + lane, hh = gate - HH_FIRST;
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
    NAME(pack_block)(w->ih + block * MATRIX_GATES * LANES * p->I, MATRIX_GATES, p->weight_ih, H, p->I, unit,
                     NAME(ih_rows));
    NAME(pack_block)(w->hh + block * hh_gates * LANES * W, hh_gates, p->weight_hh, H, W, unit, NAME(hh_rows));
  }
  if (w->peephole)
    NAME(pack_peephole)(w->peephole, p->weight_peephole, H, blocks);
}

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

/* dst[k][vecs][LANES] = rows[k][column ...], zeros past `width`. */
NOINLINE void NAME(pack_rows)(REAL *dst, const REAL *const *rows, int64_t depth, int64_t width, int64_t column,
                              int vecs) {
  for (int64_t k = 0; k < depth; k++, dst += vecs * LANES) {
    for (int v = 0; v < vecs; v++) {
      int64_t left = width - column - v * LANES;
      const REAL *from = rows[k] + column + v * LANES;
      vstore(dst + v * LANES, left >= LANES ? vload(from) : vload_n(from, (int)left));
    }
  }
}

/* Packs panels [panels.begin, panels.end) of a (gates*H, width) matrix; every panel but the last is WIDE_VECS wide. */
static void NAME(pack_wide)(REAL *dst, const REAL *src, int64_t H, int gates, int64_t width, range panels,
                            int (*rows)(int)) {
  int64_t depth = gates * H;
  for (int64_t n = panels.begin; n < panels.end; n++) {
    int vecs = NAME(panel_vecs)(width, n, WIDE_VECS);
    for (int gate = 0; gate < gates; gate++)
      NAME(pack_panel)(dst + n * WIDE_VECS * LANES * depth + gate * H * vecs * LANES, src + rows(gate) * H * width,
                       width, H, width, n * WIDE_VECS * LANES, vecs);
  }
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
      NAME(pack_lanes)(w->second + n * SECOND_VECS * LANES * H + v * LANES, vecs * LANES,
                       NAME(second_weights)(p) + row * H, (int)min_i64(LANES, W - row), H);
    }
  }
}

static void NAME(pack)(const bptt_problem *p, void *packed) {
  arena a = arena_on(packed);
  NAME(cell_weights) w = NAME(place_weights)(p, &a);
  NAME(pack_forward)(p, &w, share(w.blocks, 0, 1));
  NAME(pack_second)(p, &w, share(NAME(second_panels)(p), 0, 1));
}
