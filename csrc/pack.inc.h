/* Packed weights.
 *
 * Forward: hidden units stand in blocks of LANES, the last one padded with zeros. For each block and each k the four
 * gates lie side by side, [block][k][gate i,f,g,o][LANES]: one k-step of one block is 4*LANES numbers in a row.
 * Backward and dx: the rows of weight_hh and weight_ih are what k runs over there, and their columns stand in
 * panels of up to WIDE_VECS vectors, [panel][k over 4H][vecs][LANES], again padded with zeros.
 */

typedef struct {
  int64_t blocks; /* ceil(H / LANES) */
  REAL *bias;     /* [blocks][4][LANES], b_ih + b_hh */
  REAL *peephole; /* [blocks][3][LANES] or NULL */
  REAL *ih;       /* [blocks][I][4][LANES] */
  REAL *hh;       /* [blocks][H][4][LANES] */
} NAME(lstm_weights);

static NAME(lstm_weights) NAME(place_weights)(const bptt_problem *p, arena *a) {
  NAME(lstm_weights) w;
  w.blocks = ceil_div(p->H, LANES);
  w.bias = arena_take(a, w.blocks * GATES * LANES, sizeof(REAL));
  w.peephole = p->weight_peephole ? arena_take(a, w.blocks * 3 * LANES, sizeof(REAL)) : NULL;
  w.ih = arena_take(a, w.blocks * GATES * LANES * p->I, sizeof(REAL));
  w.hh = arena_take(a, w.blocks * GATES * LANES * p->H, sizeof(REAL));
  return w;
}

/* One block of a (4H, depth) matrix: dst[k][gate][lane] = src[gate*H + unit + lane][k], zeros past H. Squares of
 * LANES x LANES go through registers, 20 times as fast as element by element; a source row's cache line is read once.
 */
NOINLINE void NAME(pack_block)(REAL *dst, const REAL *src, int64_t H, int64_t depth, int64_t unit) {
  int lanes = (int)min_i64(LANES, H - unit);
  for (int gate = 0; gate < GATES; gate++) {
    for (int64_t k = 0; k < depth; k += LANES) {
      int width = (int)min_i64(LANES, depth - k);
      const REAL *from = src + (gate * H + unit) * depth + k;
      REAL *to = dst + (k * GATES + gate) * LANES;
      vec square[LANES];
      if (lanes == LANES && width == LANES) {
        UNROLL for (int lane = 0; lane < LANES; lane++) square[lane] = vload(from + lane * depth);
        vtranspose(square);
        UNROLL for (int n = 0; n < LANES; n++) vstore(to + n * GATES * LANES, square[n]);
      } else {
        for (int lane = 0; lane < LANES; lane++)
          square[lane] = lane < lanes ? vload_n(from + lane * depth, width) : (vec){0};
        vtranspose(square);
        for (int n = 0; n < width; n++)
          vstore(to + n * GATES * LANES, square[n]);
      }
    }
  }
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
static void NAME(pack_forward)(const bptt_problem *p, const NAME(lstm_weights) * w, range blocks) {
  const REAL *b_ih = p->bias_ih, *b_hh = p->bias_hh;
  int64_t H = p->H, panel = GATES * LANES;
  for (int64_t block = blocks.begin; block < blocks.end; block++) {
    int64_t unit = block * LANES;
    for (int gate = 0; gate < GATES; gate++) {
      for (int lane = 0; lane < LANES; lane++) {
        int64_t row = gate * H + unit + lane, inside = unit + lane < H;
        REAL sum = 0;
        if (inside)
          sum = b_ih && b_hh ? b_ih[row] + b_hh[row] : b_ih ? b_ih[row] : b_hh ? b_hh[row] : 0;
        w->bias[block * panel + gate * LANES + lane] = sum;
      }
    }
    NAME(pack_block)(w->ih + block * panel * p->I, p->weight_ih, H, p->I, unit);
    NAME(pack_block)(w->hh + block * panel * H, p->weight_hh, H, H, unit);
  }
  if (w->peephole)
    NAME(pack_peephole)(w->peephole, p->weight_peephole, H, blocks);
}

/* Panels over the columns of a row-major (depth, width) matrix. */
static int64_t NAME(wide_panels)(int64_t width) {
  return ceil_div(ceil_div(width, LANES), WIDE_VECS);
}

/* Vectors in panel n: WIDE_VECS but for the last one. */
static int NAME(wide_vecs)(int64_t width, int64_t n) {
  return (int)min_i64(WIDE_VECS, ceil_div(width, LANES) - n * WIDE_VECS);
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

/* Packs panels [panels.begin, panels.end) of a (depth, width) matrix; every panel but the last is WIDE_VECS wide. */
static void NAME(pack_wide)(REAL *dst, const REAL *src, int64_t depth, int64_t width, range panels) {
  for (int64_t n = panels.begin; n < panels.end; n++)
    NAME(pack_panel)(dst + n * WIDE_VECS * LANES * depth, src, width, depth, width, n * WIDE_VECS * LANES,
                     NAME(wide_vecs)(width, n));
}

static void NAME(pack)(const bptt_problem *p, void *packed) {
  arena a = arena_on(packed);
  NAME(lstm_weights) w = NAME(place_weights)(p, &a);
  NAME(pack_forward)(p, &w, share(w.blocks, 0, 1));
}
