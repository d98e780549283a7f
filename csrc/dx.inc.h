/* dz against weights after the recursion: dx of a chunk (L19), and rows of d_h_0. */

/* Rows of `width` at columns of these panels: dz against packed weights, for dx (L19) and d_h_0 (L18). */
NOINLINE void NAME(dz_product)(const NAME(backward_job) * job, const REAL *weights, int gates, int64_t width,
                               range panels, const REAL *dz, int64_t rows, NAME(destination) dst) {
  REAL sum[GATE_SUMS] __attribute__((aligned(VEC_BYTES)));
  const int64_t H = job->p->H;
  for (int64_t n = panels.begin; n < panels.end; n++) {
    const int vecs = NAME(wide_vecs)(width, n);
    const int64_t column = n * WIDE_VECS * LANES, whole = WIDE_VECS * LANES * gates * H;
    REAL *to = dst.to + column;
    for (int64_t b = 0, left = dst.count; b < rows;) {
      int block = (int)next_tile(rows - b, ROW_BLOCK);
      NAME(gate_sums)(block, vecs, gates, sum, H, dz + b * job->pitch, job->pitch, weights,
                      n + 1 < panels.end ? weights + whole : weights, NULL, 0);
      for (int r = 0; r < block; r++, b++, to += width) {
        for (int v = 0; v < vecs; v++)
          vstore_n(to + v * LANES, NAME(gate_sum)(sum + (r * vecs + v) * LANES, gates),
                   (int)min_i64(LANES, width - column - v * LANES));
        if (--left == 0)
          left = dst.count, to += (dst.step - dst.count) * width;
      }
    }
    weights += whole;
  }
}

/* d_x of rows of dz, all its columns. (L19) */
static void NAME(input_rows)(const NAME(backward_job) * job, const REAL *dz, int64_t rows, NAME(destination) dst) {
  const int64_t I = job->p->I;
  if (job->narrow)
    SHARED(dot_products)(&dst, I, rows, MATRIX_GATES * job->p->H, dz, job->pitch, job->ih);
  else
    NAME(dz_product)(job, job->ih, MATRIX_GATES, I, share(job->x_panels, 0, 1), dz, rows, dst);
}

/* d_x of rows of one part, some steps of the chunk that starts at step t0. (L19) */
static void NAME(rows_input_gradient)(const NAME(backward_job) * job, int64_t t0, range steps, range batch) {
  const bptt_problem *p = job->p;
  const int64_t I = p->I, cut = job->second_row, n = batch.end - batch.begin;
  const row_ranges all = in_halves(p, batch);
  row_ranges valid = all;
  const int whole = n > 0 && n == (batch.begin < cut ? cut : p->B - cut) &&
                    (all.half[0].end == batch.begin || all.half[0].end == batch.end);
  for (int64_t t = steps.begin, run; t < steps.end; t += run) {
    valid = valid_rows(p, t0 + t, &all, &valid);
    run = 1;
    if (whole && count_rows(&valid) == n) /* steps on end, until a row has none */
      run = min_i64(steps.end, (p->lengths ? p->lengths[batch.end - 1] : p->T) - t0) - t;
    for (int half = 0; half < all.count; half++) {
      const range rows = all.half[half];
      const int64_t count = valid.half[half].end - rows.begin;
      REAL *d_x = (REAL *)p->d_x + ((t0 + t) * p->B + rows.begin) * I;
      NAME(input_rows)(job, NAME(dz_at)(job, t, rows.begin), run * count, (NAME(destination)){d_x, count, p->B});
      if (p->lengths)
        memset(d_x + count * I, 0, (size_t)((rows.end - rows.begin - count) * I) * sizeof(REAL));
    }
  }
}

#if HAS_TILES

/* d_x of tokens of some batch rows of a chunk, share part.begin of part.end, by the member of that rank: of the tokens
 * if they are many, else of the columns. (L19) */
static void NAME(tiled_input_gradient)(const NAME(backward_job) * job, int rank, range part, int64_t t0, int64_t steps,
                                       range batch) {
  const bptt_problem *p = job->p;
  const int64_t I = p->I, each = batch.end - batch.begin, tokens = steps * each;
  const int size = (int)part.end, by_tokens = tokens >= LEAST_EACH * size;
  const range own = by_tokens ? share(tokens, (int)part.begin, size) : share(tokens, 0, 1);
  range columns = share(ceil_div(I, BPTT_STRIP), by_tokens ? 0 : (int)part.begin, by_tokens ? 1 : size);
  columns = (range){columns.begin * BPTT_STRIP, min_i64(I, columns.end * BPTT_STRIP)};
  const float *dz[MOST_TOKENS];
  float *d_x[MOST_TOKENS];
  bptt_against product = {.a = dz,
                          .to = d_x,
                          .weights = p->weight_ih,
                          .H = p->H,
                          .width = I,
                          .gates = MATRIX_GATES,
                          .block = NAME(ih_rows)};
  for (int64_t k = own.begin; columns.begin < columns.end && k < own.end;) {
    int64_t t = k / each, b = batch.begin + k % each;
    for (product.count = 0; product.count < MOST_TOKENS && k < own.end; k++) {
      float *to = (float *)p->d_x + ((t0 + t) * p->B + b) * I;
      if (p->lengths && t0 + t >= p->lengths[b]) {
        memset(to + columns.begin, 0, (size_t)(columns.end - columns.begin) * sizeof(float));
      } else {
        dz[product.count] = NAME(dz_at)(job, t, b);
        d_x[product.count++] = to;
      }
      if (++b == batch.end)
        b = batch.begin, t++;
    }
    if (product.count)
      job->tiles->against(&product, columns, job->rooms + rank * job->tile_room);
  }
}

#endif

/* The same of tokens [begin, end) of the chunk, where all rows are one part and as long. */
static void NAME(input_gradient)(const NAME(backward_job) * job, int64_t t0, int64_t begin, int64_t end) {
  const bptt_problem *p = job->p;
  NAME(input_rows)(job, job->dz + begin * job->pitch, end - begin,
                   (NAME(destination)){(REAL *)p->d_x + (t0 * p->B + begin) * p->I, end - begin, 0});
}

/* d_x of all tokens, the columns of this thread, whose panels of weight_ih are packed one by one. (L19) */
NOINLINE void NAME(input_gradient_by_panels)(const NAME(backward_job) * job, int rank, int size) {
  const bptt_problem *p = job->p;
  const range own = share(job->x_panels, rank, size);
  REAL *panel = job->ih + rank * job->own_panel;
  for (int64_t n = own.begin; n < own.end; n++) {
    NAME(pack_wide)(panel, p->weight_ih, p->H, MATRIX_GATES, p->I, (range){n, n + 1}, NAME(ih_rows));
    for (int part = 0; part < 2; part++) {
      const range rows = NAME(part_of)(job, share(p->B, 0, 1), part);
      const int64_t count = rows.end - rows.begin;
      NAME(dz_product)(job, panel, MATRIX_GATES, p->I, (range){n, n + 1}, NAME(dz_at)(job, 0, rows.begin), p->T * count,
                       (NAME(destination)){(REAL *)p->d_x + rows.begin * p->I, count, p->B});
    }
  }
}

/* dx of a chunk, of rows that this thread has to itself. */
static void NAME(own_input_gradient)(const NAME(backward_job) * job, int rank, int64_t t0, int64_t steps, range rows) {
#if HAS_TILES
  if (job->tiled_input) {
    NAME(tiled_input_gradient)(job, rank, (range){0, 1}, t0, steps, rows);
    return;
  }
#endif
  (void)rank;
  NAME(rows_input_gradient)(job, t0, share(steps, 0, 1), rows);
}

/* dx of a chunk, this thread's share. */
static void NAME(chunk_input_gradient)(const NAME(backward_job) * job, const bptt_team *team, int rank, int64_t t0,
                                       int64_t steps) {
#if HAS_TILES
  if (job->tiled_input) {
    NAME(tiled_input_gradient)(job, rank, (range){rank, team->size}, t0, steps, share(job->p->B, 0, 1));
    return;
  }
#endif
  if (job->own_panel) {
    NAME(input_gradient_by_panels)(job, rank, team->size);
  } else if (job->p->d_x && job->p->lengths) {
    for (int part = 0; part < 2; part++)
      NAME(rows_input_gradient)(job, t0, share(steps, rank, team->size),
                                NAME(part_of)(job, share(job->p->B, 0, 1), part));
  } else if (job->p->d_x) {
    range own = share(steps * job->p->B, rank, team->size);
    NAME(input_gradient)(job, t0, own.begin, own.end);
  }
}
