/* The second product of a step, which needs all of what the first half made: the projection of the LSTM, and the
 * candidate of the GRU when its reset gate acts before the product. With hidden units split between threads a barrier
 * stands before it. */

#if HAS_SECOND

/* From the sum to LANES numbers of h. */
NOINLINE void NAME(second_leave)(const NAME(forward_step) * s, vec sum, int64_t b, int64_t unit) {
  int lanes = (int)min_i64(LANES, s->W - unit);
  vec saved[4], h_prev = {0};
  REAL *gates = s->gates + b * SAVED * s->H + unit;
  if (CANDIDATE_ALONE) {
    UNROLL for (int n = 0; n < SAVED; n++) saved[n] = vload_n(gates + n * s->H, lanes);
  }
  if (READS_H_PREV || s->zone.on)
    h_prev = vload_n(s->h_prev + b * s->h_pitch + unit, lanes);
  vec h = NAME(cell_second)(sum, saved, h_prev, &s->options);
  if (CANDIDATE_ALONE)
    vstore_n(gates + 2 * s->H, saved[2], lanes);
  if (HAS_CELL_STATE && s->zone.on)
    h = NAME(zone_mix)(NAME(zone_kept)(&s->zone, s->zone.h, b * s->W + unit), h_prev, h); /* (L27) */
  vstore_n(s->output + b * s->W + unit, h, lanes);
  if (s->copy)
    vstore_n(s->copy + s->copy_order[b] * s->W + unit, h, lanes);
}

/* Rows b .. b+R-1 of one panel of V vectors. */
INLINE void NAME(second_tile)(int R, int V, const NAME(forward_step) * s, int64_t b, int64_t panel,
                              const NAME(fetch) * fetch) {
  int64_t unit = panel * SECOND_VECS * LANES;
  vec sum[R][V];
  UNROLL for (int r = 0; r < R; r++) {
    UNROLL for (int v = 0; v < V; v++) sum[r][v] = (vec){0};
  }
  NAME(tile_product_asking)(ASK_NEXT, R, V, sum, 0, V, s->H, s->middle + b * s->middle_pitch, s->middle_pitch, 1,
                            s->w->second + unit * s->H, V * LANES, fetch);
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++)
      NAME(second_leave)(s, sum[r][v], b + r, unit + v * LANES);
}

NOINLINE void NAME(second_run)(const NAME(forward_step) * s) {
  for (int64_t left = s->second.end - s->second.begin; left > 0; left--) {
    int64_t panel = next_of(s->second, left, 1, s->down);
    int V = NAME(panel_vecs)(s->W, panel, SECOND_VECS);
    int64_t next = one_after(s->second, left, s->down), rows = count_rows(&s->rows);
    NAME(fetch)
    fetch = NAME(fetch_of)(s->w->second + next * SECOND_VECS * LANES * s->H, V, ceil_div(rows, TILE_ROWS));
    for (int part = 0; part < s->rows.count; part++)
      for (int64_t b = s->rows.half[part].begin, n; b < s->rows.half[part].end; b += n) {
        n = next_tile(s->rows.half[part].end - b, TILE_ROWS);
#define CASE1(R) NAME(second_tile)(R, 1, s, b, panel, &fetch)
#define CASE2(R) NAME(second_tile)(R, 2, s, b, panel, &fetch)
#define CASE3(R) NAME(second_tile)(R, 3, s, b, panel, &fetch)
#define CASE4(R) NAME(second_tile)(R, 4, s, b, panel, &fetch)
        SWITCH_TILE(n, TILE_ROWS, V, CASE)
#undef CASE1
#undef CASE2
#undef CASE3
#undef CASE4
        NAME(fetch_on)(&fetch, s->H);
      }
  }
}

#endif
