/* One step forward: tiles, and the first product with the cell as its epilogue. */

/* What one time step of one thread reads and writes; row 0 of each array is batch row 0. */
typedef struct {
  int64_t I, H, W;
  const NAME(cell_weights) * w;
  const REAL *x;           /* (B, I) */
  const REAL *h_prev;      /* rows h_pitch apart; 0: the one zero row that stands for a missing state */
  const REAL *h_seen;      /* what the product sees of it, rows seen_pitch apart */
  const REAL *c_prev;      /* rows c_pitch apart; may be c itself */
  int64_t h_pitch, seen_pitch, c_pitch;
  REAL *h, *c;             /* (B, H); with a projection h is what goes into it; rows of c are c_row apart */
  REAL *own_h;             /* h once more, rows own_pitch apart, where only this thread writes; or NULL */
  int64_t c_row, own_pitch;
  REAL *gates;             /* (B, SAVED, H) or NULL */
  REAL *output;            /* (B, W): h, or what the second product makes */
  REAL *copy;              /* the same once more, row b at copy_order[b]; or NULL */
  const int64_t *copy_order;
  const REAL *middle;      /* of the second product: rows middle_pitch apart */
  int64_t middle_pitch;
  cell_options options;
  NAME(zone) zone;
  row_ranges rows;         /* this thread's that are not past their length */
  range panels;            /* this thread's */
  int down;                /* the last panel comes first */
  range second;            /* its panels of the second product; none: there is no such product */
  const REAL *z;           /* hoisted b + W_ih x of its rows and panels: [panel][row][vecs][LANES], or NULL */
  int64_t z_vec;           /* from panel to panel in z, for each vector */
  int64_t z_step;          /* rows of z before those of this step */
  int lists;               /* tiles ask for the lines that their cells will write */
  int lone_panels;         /* that a lone row takes at once */
} NAME(forward_step);

/* Stores cell state and gates of LANES units of row b. */
INLINE void NAME(forward_keep)(const NAME(forward_step) * s, const vec saved[4], vec c, int64_t b, int64_t block,
                               int lanes) {
  const int64_t unit = block * LANES, at = b * s->H + unit;
  if (HAS_CELL_STATE && __builtin_expect(s->zone.on, 0))
    c = NAME(zone_mix)(NAME(zone_kept)(&s->zone, s->zone.c, at), vload_n(s->c_prev + b * s->c_pitch + unit, lanes),
                       c); /* (L26) */
  if (HAS_CELL_STATE)
    vstore_n(s->c + b * s->c_row + unit, c, lanes);
  if (SAVED && s->gates) {
    REAL *gates = s->gates + b * SAVED * s->H + unit;
    UNROLL for (int n = 0; n < SAVED; n++) vstore_n(gates + n * s->H, saved[n], lanes);
  }
}

/* From the pre-activations of LANES units of row b to the cell state; leaves in z what the output needs. */
INLINE void NAME(forward_cell)(const NAME(forward_step) * s, vec z[GATES], int64_t b, int64_t block, int lanes) {
  int64_t unit = block * LANES;
  const REAL *peephole = s->w->peephole ? s->w->peephole + block * 3 * LANES : NULL;
  vec saved[4], c = {0}, h_prev = {0};
  if (HAS_CELL_STATE)
    c = vload_n(s->c_prev + b * s->c_pitch + unit, lanes);
  if (READS_H_PREV)
    h_prev = vload_n(s->h_prev + b * s->h_pitch + unit, lanes);
  NAME(cell_enter)(z, saved, &c, h_prev, peephole, &s->options);
  NAME(forward_keep)(s, saved, c, b, block, lanes);
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
  if (CANDIDATE_ALONE && s->options.reset_before)
    return;
  int64_t at = b * s->H + block * LANES;
  REAL *h = s->h + at;
  vec a = NAME(cell_leave)(z, &s->options);
  if (HAS_CELL_STATE && __builtin_expect(s->zone.on && s->h == s->output, 0)) {
    vec h_prev = vload_n(s->h_prev + b * s->h_pitch + block * LANES, lanes);
    a = NAME(zone_mix)(NAME(zone_kept)(&s->zone, s->zone.h, at), h_prev, a); /* (L27) */
  }
  if (lanes == LANES)
    vstore(h, a);
  else
    vstore_n(h, a, lanes);
  if (s->own_h)
    vstore(s->own_h + b * s->own_pitch + block * LANES, a);
}

/* Vectors [first, first + vecs) of rows b .. b+rows-1 of the output once more. */
NOINLINE void NAME(copy_output)(const NAME(forward_step) * s, int rows, int64_t b, int64_t first, int vecs) {
  for (int64_t end = b + rows; b < end; b++) {
    const REAL *from = s->output + b * s->W;
    REAL *to = s->copy + s->copy_order[b] * s->W;
    for (int64_t unit = first * LANES, stop = unit + vecs * LANES; unit < stop; unit += LANES)
      if (unit + LANES <= s->W)
        vstore(to + unit, vload(from + unit));
      else
        vstore_n(to + unit, vload_n(from + unit, (int)(s->W - unit)), (int)(s->W - unit));
  }
}

/* The same, if a copy is wanted and h is the output already. */
INLINE void NAME(forward_copy)(const NAME(forward_step) * s, int rows, int64_t b, int64_t first, int vecs) {
  if (s->copy && s->second.end == 0)
    NAME(copy_output)(s, rows, b, first, vecs);
}

/* b + W_ih x of row b and a panel. */
INLINE const REAL *NAME(hoisted)(const NAME(forward_step) * s, int64_t b, int64_t panel) {
  const int each = GATES == 1 ? WIDE_VECS : GATES, vecs = NAME(forward_vecs)(s->H, panel);
  const range *half = s->rows.half;
  const int64_t row = b < half[1].begin ? b - half[0].begin : b - half[1].begin + half[0].end - half[0].begin;
  return s->z + (panel - s->panels.begin) * each * s->z_vec + (s->z_step + row) * vecs * LANES;
}

#if GATES > 1

/* The cells of rows b .. b+rows-1 of one block. First all cells, then all outputs: the long chain from z to c of one
 * row overlaps with the next one's instead of tanh(c) waiting at its end. Loops, and one function for tiles of any
 * height: unrolled, the cells would not fit the instruction cache. */
NOINLINE void NAME(forward_rows)(const NAME(forward_step) * s, int rows, vec (*z)[GATES], int64_t b, int64_t block) {
  int lanes = NAME(used_lanes)(s, block);
  for (int r = 0; r < rows; r++)
    NAME(forward_state)(s, z[r], b + r, block, lanes);
  for (int r = 0; r < rows; r++)
    NAME(forward_hidden)(s, z[r], b + r, block, lanes);
  NAME(forward_copy)(s, rows, b, block, 1);
}

/* The lines that the cells of R rows of one block write: list[R * WRITTEN]. Written unasked for, they leave the cells
 * to wait until some have come: 6 lines a vector take longer to come from beyond the L2 than a cell takes. */
enum { NAME(WRITTEN) = SAVED + HAS_CELL_STATE + 1 };

INLINE void NAME(list_written)(int R, const NAME(forward_step) * s, int64_t b, int64_t block, const REAL **list) {
  for (int r = 0; r < R; r++, b++) {
    const REAL *gates = s->gates + b * SAVED * s->H + block * LANES;
    UNROLL for (int n = 0; n < SAVED; n++) *list++ = gates + n * s->H;
    if (HAS_CELL_STATE)
      *list++ = s->c + b * s->H + block * LANES;
    *list++ = s->h + b * s->H + block * LANES;
  }
}

/* Rows b .. b+R-1 of one block: the products of (L1) (L2) (L3) (L8) in registers, then the cells. */
INLINE void NAME(forward_tile)(int R, const NAME(forward_step) * s, int64_t b, int64_t block,
                               const NAME(fetch) * x_fetch, const NAME(fetch) * h_fetch) {
  const NAME(cell_weights) *w = s->w;
  vec sum[R][GATES];
  if (s->z) {
    const REAL *from = NAME(hoisted)(s, b, block);
    UNROLL for (int r = 0; r < R; r++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(from + (r * GATES + g) * LANES);
    }
  } else {
    UNROLL for (int r = 0; r < R; r++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[r][g] = vload(w->bias + (block * GATES + g) * LANES);
    }
    NAME(tile_product_asking)(ASK_NEXT, R, GATES, sum, 0, MATRIX_GATES, s->I, s->x + b * s->I, s->I, 1,
                              w->ih + block * s->I * MATRIX_GATES * LANES, MATRIX_GATES * LANES, x_fetch);
  }
  const REAL *h = s->h_seen + b * s->seen_pitch;
  if (CANDIDATE_ALONE && s->options.reset_before) {
    NAME(tile_product_asking)(ASK_NEXT, R, GATES, sum, HH_FIRST, MATRIX_GATES - 1, s->W, h, s->seen_pitch, 1,
                              w->hh + block * s->W * (MATRIX_GATES - 1) * LANES, (MATRIX_GATES - 1) * LANES, h_fetch);
  } else if (s->lists) {
    const REAL *list[R * NAME(WRITTEN)];
    NAME(fetch) fetch = *h_fetch;
    NAME(list_written)(R, s, b, block, list);
    fetch.list = list, fetch.list_pace = R * NAME(WRITTEN) * LIST_PARTS / s->W;
    NAME(tile_product_asking)(ASK_LIST, R, GATES, sum, HH_FIRST, MATRIX_GATES, s->W, h, s->seen_pitch, 1,
                              w->hh + block * s->W * MATRIX_GATES * LANES, MATRIX_GATES * LANES, &fetch);
  } else {
    NAME(tile_product_asking)(ASK_NEXT, R, GATES, sum, HH_FIRST, MATRIX_GATES, s->W, h, s->seen_pitch, 1,
                              w->hh + block * s->W * MATRIX_GATES * LANES, MATRIX_GATES * LANES, h_fetch);
  }
  NAME(forward_rows)(s, R, sum, b, block);
}

#if HAS_PAIRS

/* Gates `first` and the next of R rows: onto the sums [row][GATES][LANES]. */
INLINE void NAME(forward_pair)(int R, int first, const NAME(forward_step) * s, REAL *z, const REAL *h,
                               const REAL *panel, const NAME(fetch) * fetch) {
  vec sum[R][2];
  UNROLL for (int n = 0; n < 2 * R; n++) sum[n / 2][n % 2] = vload(z + (n / 2 * GATES + first + n % 2) * LANES);
  NAME(tile_product_asking)(ASK_NEXT, R, 2, sum, 0, 2, s->W, h, s->seen_pitch, 1, panel + first * LANES, GATES * LANES,
                            fetch);
  UNROLL for (int n = 0; n < 2 * R; n++) vstore(z + (n / 2 * GATES + first + n % 2) * LANES, sum[n / 2][n % 2]);
}

/* Rows b .. b+rows-1 of one block, a few more than fit a tile, their input product being there: gates two by two. Two
 * tiles would read the panel twice, faster than an L2 gives it: 30,7,200,200 633 -> 548 us, 20,7,1150,1150 14.3 ->
 * 13.6 ms; from 9 rows on they take as long. */
NOINLINE void NAME(forward_pairs)(const NAME(forward_step) * s, int rows, int64_t b, int64_t block,
                                  NAME(fetch) * fetch) {
  const REAL *h = s->h_seen + b * s->seen_pitch, *panel = s->w->hh + block * s->W * GATES * LANES;
  REAL *z = (REAL *)NAME(hoisted)(s, b, block); /* which nobody needs any more */
  for (int first = 0; first < GATES; first += 2) {
#define CASE(R) NAME(forward_pair)(R, first, s, z, h, panel, fetch)
    SWITCH_ROWS_PAST(rows, TILE_ROWS, CASE)
#undef CASE
    NAME(fetch_on)(fetch, s->W);
  }
  NAME(forward_rows)(s, rows, (vec(*)[GATES])z, b, block);
}

#endif
#if HAS_TAIL

/* The sums of a tail in the first lanes of four vectors. */
INLINE void NAME(tail_sums)(int V, const REAL *sum, vec z[GATES]) {
  vec a = vload(sum), c = vload(sum + (V - 1) * LANES);
  z[0] = a;
  z[1] = V == 1 ? TURNED(a, LANES / 4) : TURNED(a, LANES / 2);
  z[2] = V == 1 ? TURNED(a, LANES / 2) : c;
  z[3] = V == 1 ? TURNED(a, 3 * LANES / 4) : TURNED(c, LANES / 2);
}

/* Rows b .. b+rows-1 of the last block as a tail, at most WIDE_ROWS: the same sums, with fewer empty lanes. */
static void NAME(forward_tail)(const NAME(forward_step) * s, int rows, int64_t b) {
  const NAME(cell_weights) *w = s->w;
  const int64_t block = w->blocks - 1;
  const int V = w->tail;
  REAL sum[WIDE_ROWS * 2 * LANES] __attribute__((aligned(VEC_BYTES)));
  vec z[WIDE_ROWS][GATES];
  const NAME(fetch) none = {.next = w->tail_bias};
  const REAL *from = s->z ? NAME(hoisted)(s, b, block) : w->tail_bias;
  for (int r = 0; r < rows; r++, from += s->z ? GATES * LANES : 0)
    for (int v = 0; v < V; v++)
      vstore(sum + (r * V + v) * LANES, vload(from + v * LANES));
  if (!s->z)
    SHARED(wide_product)(PRODUCT_GOES_ON, rows, V, sum, s->I, s->x + b * s->I, s->I, w->tail_ih, &none);
  SHARED(wide_product)(PRODUCT_GOES_ON, rows, V, sum, s->W, s->h_seen + b * s->seen_pitch, s->seen_pitch, w->tail_hh,
                       &none);
  if (s->options.special || w->peephole) {
    for (int r = 0; r < rows; r++)
      NAME(tail_sums)(V, sum + r * V * LANES, z[r]);
    NAME(forward_rows)(s, rows, z, b, block);
    return;
  }
  int lanes = NAME(used_lanes)(s, block);
  for (int r = 0; r < rows; r++) {
    vec saved[4], c = vload_n(s->c_prev + (b + r) * s->c_pitch + block * LANES, lanes);
    vec sums[2] = {vload(sum + r * V * LANES), vload(sum + (r * V + V - 1) * LANES)};
    if (V == 1)
      NAME(tail_gates)(1, sums, saved, 0);
    else
      NAME(tail_gates)(2, sums, saved, 0);
    z[r][0] = saved[3];
    z[r][1] = NAME(cell_next)(saved, c, &s->options);
    NAME(forward_keep)(s, saved, z[r][1], b + r, block, lanes);
  }
  for (int r = 0; r < rows; r++)
    NAME(forward_hidden)(s, z[r], b + r, block, lanes);
  NAME(forward_copy)(s, rows, b, block, 1);
}

#endif

/* One row, N blocks at once. */
INLINE void NAME(forward_lone)(int N, const NAME(forward_step) * s, int64_t b, int64_t block) {
  const NAME(cell_weights) *w = s->w;
  int64_t ih_pitch = s->I * MATRIX_GATES * LANES, hh_vec = s->W * LANES;
  vec sum[N][GATES];
  if (s->z) {
    const REAL *from = NAME(hoisted)(s, b, block);
    UNROLL for (int n = 0; n < N; n++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[n][g] = vload(from + n * GATES * s->z_vec + g * LANES);
    }
  } else {
    UNROLL for (int n = 0; n < N; n++) {
      UNROLL for (int g = 0; g < GATES; g++) sum[n][g] = vload(w->bias + ((block + n) * GATES + g) * LANES);
    }
    NAME(lone_product)(N, GATES, sum, 0, MATRIX_GATES, s->I, s->x + b * s->I, 0, w->ih + block * ih_pitch, ih_pitch,
                       MATRIX_GATES * LANES);
  }
  const REAL *h = s->h_seen + b * s->seen_pitch;
  if (CANDIDATE_ALONE && s->options.reset_before)
    NAME(lone_product)(N, GATES, sum, HH_FIRST, MATRIX_GATES - 1, s->W, h, 0,
                       w->hh + block * (MATRIX_GATES - 1) * hh_vec, (MATRIX_GATES - 1) * hh_vec,
                       (MATRIX_GATES - 1) * LANES);
  else
    NAME(lone_product)(N, GATES, sum, HH_FIRST, MATRIX_GATES, s->W, h, 0, w->hh + block * MATRIX_GATES * hh_vec,
                       MATRIX_GATES * hh_vec, MATRIX_GATES * LANES);
  for (int n = 0; n < N; n++)
    NAME(forward_state)(s, sum[n], b, block + n, NAME(used_lanes)(s, block + n));
  for (int n = 0; n < N; n++)
    NAME(forward_hidden)(s, sum[n], b, block + n, NAME(used_lanes)(s, block + n));
  NAME(forward_copy)(s, 1, b, block, N);
}

#else

/* The cells of rows b .. b+rows-1, V vectors from vector `first` on, given their sums [row][V][LANES]. */
NOINLINE void NAME(forward_vectors)(const NAME(forward_step) * s, int rows, int V, const REAL *sum, int64_t b,
                                    int64_t first) {
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < V; v++, sum += LANES) {
      int lanes = NAME(used_lanes)(s, first + v);
      vec z[GATES] = {vload(sum)};
      NAME(forward_state)(s, z, b + r, first + v, lanes);
      NAME(forward_hidden)(s, z, b + r, first + v, lanes);
    }
  NAME(forward_copy)(s, rows, b, first, V);
}

/* Rows b .. b+rows-1 of one panel, at most a tile: the products of (R1), then the cells. */
static void NAME(forward_wide)(const NAME(forward_step) * s, int rows, int64_t b, int64_t panel,
                               const NAME(fetch) * x_fetch, const NAME(fetch) * h_fetch) {
  const NAME(cell_weights) *w = s->w;
  const int V = NAME(wide_vecs)(s->H, panel);
  const int64_t first = panel * WIDE_VECS;
  REAL own[WIDE_ROWS * (WIDE_VECS + 1) * LANES] __attribute__((aligned(VEC_BYTES)));
  REAL *sum = s->z ? (REAL *)NAME(hoisted)(s, b, panel) : own; /* which nobody needs any more */
  if (!s->z) {
    for (int n = 0; n < rows * V; n++)
      vstore(sum + n * LANES, vload(w->bias + (first + n % V) * LANES));
    SHARED(wide_product)(PRODUCT_GOES_ON, rows, V, sum, s->I, s->x + b * s->I, s->I, w->ih + first * s->I * LANES,
                         x_fetch);
  }
  SHARED(wide_product)(PRODUCT_GOES_ON, rows, V, sum, s->W, s->h_seen + b * s->seen_pitch, s->seen_pitch,
                       w->hh + first * s->W * LANES, h_fetch);
  NAME(forward_vectors)(s, rows, V, sum, b, first);
}

/* One row, N panels of V vectors at once. */
INLINE void NAME(forward_lone)(int N, int V, const NAME(forward_step) * s, int64_t b, int64_t panel) {
  const NAME(cell_weights) *w = s->w;
  const int64_t first = panel * WIDE_VECS, ih_vec = s->I * LANES, hh_vec = s->W * LANES;
  vec sum[N][V];
  UNROLL for (int n = 0; n < N; n++) {
    const REAL *from = s->z ? NAME(hoisted)(s, b, panel) + n * V * s->z_vec : w->bias + (first + n * V) * LANES;
    UNROLL for (int v = 0; v < V; v++) sum[n][v] = vload(from + v * LANES);
  }
  if (!s->z)
    NAME(lone_product)(N, V, sum, 0, V, s->I, s->x + b * s->I, 0, w->ih + first * ih_vec, V * ih_vec, V * LANES);
  NAME(lone_product)(N, V, sum, 0, V, s->W, s->h_seen + b * s->seen_pitch, 0, w->hh + first * hh_vec, V * hh_vec,
                     V * LANES);
  NAME(forward_vectors)(s, 1, N * V, (const REAL *)sum, b, first);
}

#endif

/* A row alone, many panels at once. */
static void NAME(forward_lone_run)(const NAME(forward_step) * s, range panels) {
  const range *half = s->rows.half;
  const int64_t b = half[half[0].begin == half[0].end].begin;
#if GATES > 1
#define CASE(N) NAME(forward_lone)(N, s, b, panel)
#else
  const int64_t last = panels.end - 1;
  const int vecs = panels.begin < panels.end ? NAME(wide_vecs)(s->H, last) : WIDE_VECS;
  if (vecs != WIDE_VECS)
    panels.end--;
  if (vecs < WIDE_VECS)
    NAME(forward_lone)(1, 1, s, b, last);
  if (vecs > WIDE_VECS)
    NAME(forward_lone)(1, WIDE_VECS + 1, s, b, last);
#define CASE(N) NAME(forward_lone)(N, WIDE_VECS, s, b, panel)
#endif
  for (int64_t left = panels.end - panels.begin, n; left > 0; left -= n) {
    n = next_tile(left, s->lone_panels);
    int64_t panel = next_of(panels, left, n, s->down);
    SWITCH_ROWS(n, LONE_BLOCKS, CASE)
  }
#undef CASE
}

NOINLINE void NAME(forward_step_run)(const NAME(forward_step) * s) {
  const int64_t rows = count_rows(&s->rows);
  range panels = s->panels;
#if HAS_TAIL
  if (s->w->tail && panels.end == s->w->panels && panels.begin < panels.end) {
    panels.end--;
    for (int part = 0; part < s->rows.count; part++)
      for (int64_t b = s->rows.half[part].begin, n; b < s->rows.half[part].end; b += n) {
        n = next_tile(s->rows.half[part].end - b, WIDE_ROWS);
        NAME(forward_tail)(s, (int)n, b);
      }
  }
#endif
  if (rows == 1) {
    NAME(forward_lone_run)(s, panels);
    return;
  }
  /* Vectors from panel to panel, for each k. */
  const int ih_vecs = GATES > 1 ? MATRIX_GATES : WIDE_VECS,
            hh_vecs = ih_vecs - (CANDIDATE_ALONE && s->options.reset_before);
  for (int64_t left = panels.end - panels.begin; left > 0; left--) {
    int64_t panel = next_of(panels, left, 1, s->down), next = one_after(panels, left, s->down);
    int tile_rows = GATES > 1 ? TILE_ROWS : NAME(wide_rows)(NAME(forward_vecs)(s->H, panel));
    int64_t tiles = ceil_div(s->rows.half[0].end - s->rows.half[0].begin, tile_rows) +
                    ceil_div(s->rows.half[1].end - s->rows.half[1].begin, tile_rows);
    NAME(fetch)
    x_fetch = NAME(fetch_of)(s->w->ih + next * s->I * ih_vecs * LANES, ih_vecs, tiles),
    h_fetch = NAME(fetch_of)(s->w->hh + next * s->W * hh_vecs * LANES, hh_vecs, tiles);
    for (int part = 0; part < s->rows.count; part++) {
      const range own = s->rows.half[part];
#if HAS_PAIRS
      if (s->z && in_pairs(own.end - own.begin, TILE_ROWS)) {
        NAME(forward_pairs)(s, (int)(own.end - own.begin), own.begin, panel, &h_fetch);
        continue;
      }
#endif
      for (int64_t b = own.begin, n; b < own.end; b += n) {
        n = next_tile(own.end - b, tile_rows);
#if GATES > 1
#define CASE(R) NAME(forward_tile)(R, s, b, panel, &x_fetch, &h_fetch)
        SWITCH_ROWS(n, TILE_ROWS, CASE)
#undef CASE
#else
        NAME(forward_wide)(s, (int)n, b, panel, &x_fetch, &h_fetch);
#endif
        NAME(fetch_on)(&x_fetch, s->I);
        NAME(fetch_on)(&h_fetch, s->W);
      }
    }
  }
}
