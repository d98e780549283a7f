/* Products that are the same for any cell, and what goes with them: compiled once for each (ISA, dtype) pair, in the
 * object of the variant itself, and called by those of its cells; one in each would be a tenth of the wheel more.
 * Tags: docs/math.md. */

/* Rows of a full tile of wide_product(). */
INLINE int NAME(wide_rows)(int vecs) {
  return vecs <= WIDE_VECS ? WIDE_ROWS : THREE_ROWS;
}

/* At most a tile of rows, `row` apart, against a panel of 1 to 3 vectors: sum[row][vecs][LANES], how is said in
 * variant.inc.h. */
void SHARED(wide_product)(int how, int rows, int vecs, REAL *sum, int64_t depth, const REAL *a, int64_t row,
                          const REAL *panel, const NAME(fetch) * fetch);

/* Rows against pairs of panels of 2 or 3 vectors, each panel behind the one before it: `depth` numbers of a row meet
 * the first, as many more the second, and so on. sum[row][vecs][LANES], those of the next pair `apart` behind: both
 * chains of a pair, added up. */
void SHARED(pair_products)(int rows, int vecs, int pairs, REAL *sum, int64_t apart, int64_t depth, const REAL *a,
                           int64_t row, const REAL *panel);

/* Partial sums of a dot product, on registers of any size, and columns that dot_products() takes at most. */
#define DOT_SUMS (64 / (int)sizeof(REAL))
enum { NAME(MOST_DOTS) = DOT_SUMS / 4 };

/* Numbers from vector to vector of dot_products(): `depth`, and zeros. */
INLINE int64_t NAME(dot_pitch)(int64_t depth) {
  return ceil_div(depth, DOT_SUMS) * DOT_SUMS;
}

/* Where rows of a product go: `count` of them one after the other, the next ones `step` rows further on. */
typedef struct {
  REAL *to;
  int64_t count, step;
} NAME(destination);

/* Rows of `columns` numbers: dot products of rows of a, `row` apart, with as many vectors of `depth` numbers, which
 * lie dot_pitch() apart. For few columns: a panel would have most of its lanes empty. */
void SHARED(dot_products)(const NAME(destination) * dst, int64_t columns, int64_t rows, int64_t depth, const REAL *a,
                          int64_t row, const REAL *vectors);

/* Gates of a block that outer_product() takes: a cache line of them. */
#define OUTER_GATES (64 / (int)sizeof(REAL))

/* The gates of this thread, block by block: [block][token][OUTER_GATES]. Unpacked, every token would touch a page of
 * its own. Reads up to a line past the last gate, inside the row's padding. With `sum` what column_sum() adds to that,
 * as the numbers pass by. */
void SHARED(pack_gates)(REAL *dst, range gates, const REAL *const *dz, int64_t offset, int64_t depth, REAL *sum,
                        int fresh);

/* dw (4H, width) += dz^T a over `depth` tokens (L20) (L21) (G17) (G18) (R7) (R8), for the gate rows of this
 * thread, packed. */
void SHARED(outer_product)(REAL *dw, int64_t width, range gates, int fresh, const REAL *packed, int64_t depth,
                           const REAL *const *a, REAL *strip);

/* dw (width, pitch) += a^T dz over `depth` tokens, the gradient of the weights with rows for columns, at these vectors
 * of the columns. Rows of a and dz are read where they stand: while they are short, that takes less than packing both
 * sides for outer_product(), and 4H is a multiple of the vector far more often than H. Reads up to a vector past the
 * last column, inside the padding of a row of dz. */
void SHARED(turned_product)(REAL *dw, int64_t width, int64_t pitch, range vecs, int fresh, const REAL *const *a,
                            const REAL *const *dz, int64_t depth);

/* dst[column][row] = src[row][column]; pitches from row to row of each. */
void SHARED(turn)(REAL *dst, int64_t dst_pitch, const REAL *src, int64_t src_pitch, int64_t rows, int64_t columns);

/* sum[n] += sum over tokens of dz[token][offset + n], times other[token][n] when given. (L22) (L23) (G19)
 * (G20) (R9) */
void SHARED(column_sum)(REAL *sum, range columns, int fresh, const REAL *const *dz, int64_t offset, int64_t depth,
                        const REAL *const *other);

#ifndef CELL

static const REAL NAME(no_sums)[WIDE_ROWS * (WIDE_VECS + 1) * LANES];

/* A tile of wide_product(). Zeros are read like sums, and `how` is hidden behind the loop: else GCC makes a copy of the
 * loop for each of the ways. */
INLINE void NAME(wide_tile)(int R, int V, int how, REAL *sum, int64_t depth, const REAL *a, int64_t row,
                            const REAL *panel, const NAME(fetch) * fetch) {
  vec acc[R][V];
  const REAL *from = how == PRODUCT_GOES_ON ? sum : NAME(no_sums);
  __asm__("" : "+r"(from));
  UNROLL for (int n = 0; n < R * V; n++) acc[n / V][n % V] = vload(from + n * LANES);
  NAME(tile_product_asking)(ASK_NEXT, R, V, acc, 0, V, depth, a, row, 1, panel, V * LANES, fetch);
  __asm__("" : "+r"(how));
  if (how == PRODUCT_ADDED) {
    UNROLL for (int n = 0; n < R * V; n++) vstore(sum + n * LANES, vload(sum + n * LANES) + acc[n / V][n % V]);
  } else {
    UNROLL for (int n = 0; n < R * V; n++) vstore(sum + n * LANES, acc[n / V][n % V]);
  }
}

void SHARED(wide_product)(int how, int rows, int vecs, REAL *sum, int64_t depth, const REAL *a, int64_t row,
                          const REAL *panel, const NAME(fetch) * fetch) {
#define CASE1(R) NAME(wide_tile)(R, 1, how, sum, depth, a, row, panel, fetch)
#define CASE2(R) NAME(wide_tile)(R, 2, how, sum, depth, a, row, panel, fetch)
#define CASE3(R) NAME(wide_tile)(R, 3, how, sum, depth, a, row, panel, fetch)
  if (vecs == 1) {
    SWITCH_ROWS(rows, WIDE_ROWS, CASE1)
  } else if (vecs == 2) {
    SWITCH_ROWS(rows, WIDE_ROWS, CASE2)
  } else {
    SWITCH_ROWS(rows, THREE_ROWS, CASE3)
  }
#undef CASE1
#undef CASE2
#undef CASE3
}

/* A tile of pair_products(): as many sums as in a tile of four vectors. A pointer for three rows, as in
 * tile_product_asking(), but made again at each k: two tile_step() for a k take 3 % of a backward pass more. */
INLINE void NAME(pair_tile)(int R, int V, REAL *sum, int64_t depth, const REAL *a, int64_t row, const REAL *panel) {
  vec acc[2][TILE_ROWS][WIDE_VECS + 1];
  const REAL *from[2] = {panel, panel + depth * V * LANES};
  UNROLL for (int n = 0; n < R * V; n++) acc[0][n / V][n % V] = acc[1][n / V][n % V] = (vec){0};
  for (int64_t k = 0; k < depth; k++, a++) {
    UNROLL for (int half = 0; half < 2; half++) {
      const REAL *at = a + half * depth;
      vec w[WIDE_VECS + 1];
      UNROLL for (int v = 0; v < V; v++) {
        w[v] = vload(from[half] + v * LANES);
        vhold(&w[v]);
      }
      UNROLL for (int r = 0; r < R; r++) {
        const vec a_rk = vset1(at[r % 3 * row]);
        UNROLL for (int v = 0; v < V; v++) acc[half][r][v] = vfma(a_rk, w[v], acc[half][r][v]);
        if (r % 3 == 2) {
          at += 3 * row;
          __asm__("" : "+r"(at));
        }
      }
      from[half] += V * LANES;
      __asm__("" : "+r"(from[half]));
    }
  }
  UNROLL for (int n = 0; n < R * V; n++) vstore(sum + n * LANES, acc[0][n / V][n % V] + acc[1][n / V][n % V]);
}

void SHARED(pair_products)(int rows, int vecs, int pairs, REAL *sum, int64_t apart, int64_t depth, const REAL *a,
                           int64_t row, const REAL *panel) {
  for (; pairs > 0; pairs--, sum += apart, a += 2 * depth, panel += 2 * depth * vecs * LANES) {
    for (int r = 0, n; r < rows; r += n) {
      n = (int)next_tile(rows - r, vecs == 2 ? TILE_ROWS : PAIR_THREE);
      REAL *to = sum + r * vecs * LANES;
      const REAL *from = a + r * row;
#define CASE2(R) NAME(pair_tile)(R, 2, to, depth, from, row, panel)
#define CASE3(R) NAME(pair_tile)(R, 3, to, depth, from, row, panel)
      if (vecs == 2) {
        SWITCH_ROWS(n, TILE_ROWS, CASE2)
      } else {
        SWITCH_ROWS(n, PAIR_THREE, CASE3)
      }
#undef CASE2
#undef CASE3
    }
  }
}

/* R rows: the q-th vector of their partial sums. */
INLINE void NAME(dot_part)(int R, vec acc[R], int q, int64_t depth, const REAL *a, int64_t row, const REAL *vector) {
  UNROLL for (int r = 0; r < R; r++) acc[r] = (vec){0};
  for (int64_t k = q * LANES; k < depth; k += DOT_SUMS) {
    const vec w = vload(vector + k);
    const int lanes = (int)min_i64(LANES, depth - k);
    const REAL *at = a + k;
    UNROLL for (int r = 0; r < R; r++) {
      acc[r] = vfma(lanes == LANES ? vload(at) : vload_n(at, lanes), w, acc[r]);
      at += row;
      __asm__("" : "+r"(at));
    }
  }
}

/* Rows as many as a vector has lanes: their sums lie side by side once those of all rows are turned. */
INLINE vec NAME(dot_square)(int64_t depth, const REAL *a, int64_t row, const REAL *vector) {
  vec sum = {0};
  UNROLL for (int q = 0; q < DOT_SUMS / LANES; q++) {
    vec square[LANES];
    NAME(dot_part)(LANES, square, q, depth, a, row, vector);
    vtranspose(square);
    UNROLL for (int n = 0; n < LANES; n++) sum = q + n ? sum + square[n] : square[n];
  }
  return sum;
}

/* One row, to the same bits. */
static REAL NAME(dot_alone)(int64_t depth, const REAL *a, const REAL *vector) {
  REAL sum = 0;
  for (int q = 0; q < DOT_SUMS / LANES; q++) {
    vec acc[1];
    NAME(dot_part)(1, acc, q, depth, a, 0, vector);
    for (int n = 0; n < LANES; n++)
      sum = q + n ? sum + acc[0][n] : acc[0][n];
  }
  return sum;
}

void SHARED(dot_products)(const NAME(destination) * dst, int64_t columns, int64_t rows, int64_t depth, const REAL *a,
                          int64_t row, const REAL *vectors) {
  const int64_t each = NAME(dot_pitch)(depth);
  REAL sums[NAME(MOST_DOTS)][LANES], *to = dst->to;
  for (int64_t n, left = dst->count; rows > 0; rows -= n, a += n * row) {
    n = rows < LANES ? 1 : LANES;
    for (int64_t c = 0; c < columns; c++) {
      if (n == 1)
        sums[c][0] = NAME(dot_alone)(depth, a, vectors + c * each);
      else
        vstore(sums[c], NAME(dot_square)(depth, a, row, vectors + c * each));
    }
    for (int r = 0; r < n; r++, to += columns) {
      for (int64_t c = 0; c < columns; c++)
        to[c] = sums[c][r];
      if (--left == 0)
        left = dst->count, to += (dst->step - dst->count) * columns;
    }
  }
}

/* Onto `left` numbers, at most a vector of them, or in their place. */
INLINE void NAME(leave_sum)(REAL *sum, int fresh, vec a, int64_t left) {
  const int n = (int)max_i64(0, min_i64(LANES, left));
  vstore_n(sum, fresh ? a : vload_n(sum, n) + a, n);
}

/* dst[k][vecs][LANES] = rows[k][column ...], zeros past `width`. */
static void NAME(pack_rows)(REAL *dst, const REAL *const *rows, int64_t depth, int64_t width, int64_t column,
                            int vecs) {
  for (int64_t k = 0; k < depth; k++, dst += vecs * LANES) {
    for (int v = 0; v < vecs; v++) {
      int64_t left = width - column - v * LANES;
      const REAL *from = rows[k] + column + v * LANES;
      vstore(dst + v * LANES, left >= LANES ? vload(from) : vload_n(from, (int)left));
    }
  }
}

void SHARED(pack_gates)(REAL *dst, range gates, const REAL *const *dz, int64_t offset, int64_t depth, REAL *sum,
                        int fresh) {
  enum { VECS = OUTER_GATES / LANES };
  for (int64_t row = gates.begin; row < gates.end; row += OUTER_GATES) {
    vec acc[VECS];
    UNROLL for (int v = 0; v < VECS; v++) acc[v] = (vec){0};
    for (int64_t k = 0; k < depth; k++, dst += OUTER_GATES) {
      UNROLL for (int v = 0; v < VECS; v++) {
        const vec a = vload(dz[k] + offset + row + v * LANES);
        vstore(dst + v * LANES, a);
        acc[v] = acc[v] + a;
      }
    }
    for (int v = 0; v < VECS && sum; v++)
      NAME(leave_sum)(sum + row + v * LANES, fresh, acc[v], gates.end - row - v * LANES);
  }
}

/* Onto `rows` rows of dw, `pitch` apart, `columns` numbers each, those of a tile of V vectors; fresh: in their place.
 */
NOINLINE void NAME(leave_tile)(REAL *dw, int64_t pitch, int64_t columns, int fresh, const REAL *tile, int rows, int V) {
  if (V == 4 && columns >= 4 * LANES && !fresh) {
    for (int r = 0; r < rows; r++, tile += 4 * LANES) {
      REAL *to = dw + r * pitch;
      UNROLL for (int v = 0; v < 4; v++) vstore(to + v * LANES, vload(to + v * LANES) + vload(tile + v * LANES));
    }
    return;
  }
  for (int r = 0; r < rows; r++)
    for (int v = 0; v < V; v++, tile += LANES) {
      REAL *to = dw + r * pitch + v * LANES;
      int lanes = (int)min_i64(LANES, columns - v * LANES);
      vstore_n(to, fresh ? vload(tile) : vload_n(to, lanes) + vload(tile), lanes);
    }
}

/* Asks for the lines of a tile before its sums. One function for all tiles: in each of them the prefetches would be 20
 * KB of the wheel. The empty assembly is as in prefetch_rows(). */
NOINLINE void NAME(ask_tile)(const REAL *dw, int64_t pitch, int rows, int V) {
  __asm__ volatile("");
  for (; rows > 0; rows--, dw += pitch)
    for (int v = 0; v < V; v++)
      __builtin_prefetch(dw + v * LANES, 1, 3);
}

/* R rows of dW by V vectors of columns: += sum over `depth` tokens of packed gates times the strip. */
INLINE void NAME(outer_tile)(int R, int V, REAL *dw, int64_t width, int64_t columns, int fresh, const REAL *gates,
                             int64_t depth, const REAL *strip) {
  vec acc[R][V];
  REAL tile[TILE_ROWS * 4 * LANES] __attribute__((aligned(VEC_BYTES)));
  UNROLL for (int n = 0; n < R * V; n++) acc[n / V][n % V] = (vec){0};
  NAME(ask_tile)(dw, width, R, V);
  NAME(tile_product)(R, V, acc, 0, V, depth, gates, 1, OUTER_GATES, strip);
  UNROLL for (int n = 0; n < R * V; n++) vstore(tile + n * LANES, acc[n / V][n % V]);
  NAME(leave_tile)(dw, width, columns, fresh, tile, R, V);
}

void SHARED(outer_product)(REAL *dw, int64_t width, range gates, int fresh, const REAL *packed, int64_t depth,
                           const REAL *const *a, REAL *strip) {
  for (int64_t column = 0; column < width;) {
    int vecs = (int)next_tile(ceil_div(width - column, LANES), 4);
    int64_t columns = min_i64(vecs * LANES, width - column);
    NAME(pack_rows)(strip, a, depth, width, column, vecs);
    for (int64_t row = gates.begin, at = 0; row < gates.end;) { /* `at` of the gates of a block are done */
      int n = (int)next_tile(min_i64(OUTER_GATES - at, gates.end - row), TILE_ROWS);
      REAL *to = dw + row * width + column;
      const REAL *tile = packed + (row - at - gates.begin) * depth + at;
#define CASE1(R) NAME(outer_tile)(R, 1, to, width, columns, fresh, tile, depth, strip)
#define CASE2(R) NAME(outer_tile)(R, 2, to, width, columns, fresh, tile, depth, strip)
#define CASE3(R) NAME(outer_tile)(R, 3, to, width, columns, fresh, tile, depth, strip)
#define CASE4(R) NAME(outer_tile)(R, 4, to, width, columns, fresh, tile, depth, strip)
      SWITCH_TILE(n, TILE_ROWS, vecs, CASE)
#undef CASE1
#undef CASE2
#undef CASE3
#undef CASE4
      row += n;
      at = (at + n) % OUTER_GATES;
    }
    column += vecs * LANES;
  }
}

/* R rows of the turned dW, V vectors of columns: += sum over `depth` tokens of R numbers of a from `first` on times dz
 * from `column` on. The empty assembly keeps the addresses to two registers, where GCC 12 makes one for each operand
 * and spills. */
INLINE void NAME(turned_tile)(int R, int V, REAL *dw, int64_t pitch, int fresh, const REAL *const *a, int64_t first,
                              const REAL *const *dz, int64_t column, int64_t depth) {
  vec acc[R][V];
  REAL tile[TILE_ROWS * 4 * LANES] __attribute__((aligned(VEC_BYTES)));
  UNROLL for (int n = 0; n < R * V; n++) acc[n / V][n % V] = (vec){0};
  NAME(ask_tile)(dw, pitch, R, V);
  for (int64_t k = 0; k < depth; k++) {
    const REAL *a_k = a[k] + first, *dz_k = dz[k] + column;
    __asm__("" : "+r"(a_k), "+r"(dz_k));
    vec w[4];
    UNROLL for (int v = 0; v < V; v++) w[v] = vload(dz_k + v * LANES);
    UNROLL for (int r = 0; r < R; r++) {
      vec a_rk = vset1(a_k[r]);
      UNROLL for (int v = 0; v < V; v++) acc[r][v] = vfma(a_rk, w[v], acc[r][v]);
    }
  }
  UNROLL for (int n = 0; n < R * V; n++) vstore(tile + n * LANES, acc[n / V][n % V]);
  NAME(leave_tile)(dw, pitch, V * LANES, fresh, tile, R, V);
}

void SHARED(turned_product)(REAL *dw, int64_t width, int64_t pitch, range vecs, int fresh, const REAL *const *a,
                            const REAL *const *dz, int64_t depth) {
  for (int64_t v = vecs.begin; v < vecs.end;) {
    int wide = (int)next_tile(vecs.end - v, 4);
    for (int64_t row = 0; row < width;) {
      int n = (int)next_tile(width - row, TILE_ROWS);
      REAL *to = dw + row * pitch + v * LANES;
#define CASE1(R) NAME(turned_tile)(R, 1, to, pitch, fresh, a, row, dz, v * LANES, depth)
#define CASE2(R) NAME(turned_tile)(R, 2, to, pitch, fresh, a, row, dz, v * LANES, depth)
#define CASE3(R) NAME(turned_tile)(R, 3, to, pitch, fresh, a, row, dz, v * LANES, depth)
#define CASE4(R) NAME(turned_tile)(R, 4, to, pitch, fresh, a, row, dz, v * LANES, depth)
      SWITCH_TILE(n, TILE_ROWS, wide, CASE)
#undef CASE1
#undef CASE2
#undef CASE3
#undef CASE4
      row += n;
    }
    v += wide;
  }
}

void SHARED(turn)(REAL *dst, int64_t dst_pitch, const REAL *src, int64_t src_pitch, int64_t rows, int64_t columns) {
  for (int64_t r = 0; r < rows; r += LANES)
    for (int64_t c = 0; c < columns; c += LANES) {
      int height = (int)min_i64(LANES, rows - r), width = (int)min_i64(LANES, columns - c);
      const REAL *from = src + r * src_pitch + c;
      REAL *to = dst + c * dst_pitch + r;
      vec square[LANES];
      for (int n = 0; n < LANES; n++)
        square[n] = n < height ? vload_n(from + n * src_pitch, width) : (vec){0};
      vtranspose(square);
      for (int n = 0; n < width; n++)
        vstore_n(to + n * dst_pitch, square[n], height);
    }
}

/* V vectors of column_sum(), of which the last one may have fewer lanes. */
INLINE void NAME(column_sums)(int V, int lanes, REAL *sum, int fresh, const REAL *const *dz, int64_t offset,
                              int64_t depth, const REAL *const *other, int64_t from) {
  vec acc[V];
  UNROLL for (int v = 0; v < V; v++) acc[v] = (vec){0};
  for (int64_t k = 0; k < depth; k++) {
    UNROLL for (int v = 0; v < V; v++) {
      const int n = v + 1 < V ? LANES : lanes;
      const vec a = vload_n(dz[k] + offset + v * LANES, n);
      acc[v] = other ? vfma(a, vload_n(other[k] + from + v * LANES, n), acc[v]) : acc[v] + a;
    }
  }
  UNROLL for (int v = 0; v < V; v++) NAME(leave_sum)(sum + v * LANES, fresh, acc[v], v + 1 < V ? LANES : lanes);
}

void SHARED(column_sum)(REAL *sum, range columns, int fresh, const REAL *const *dz, int64_t offset, int64_t depth,
                        const REAL *const *other) {
  int64_t n = columns.begin;
  for (; n + 4 * LANES <= columns.end; n += 4 * LANES)
    NAME(column_sums)(4, LANES, sum + n, fresh, dz, offset + n, depth, other, n);
  for (; n < columns.end; n += LANES)
    NAME(column_sums)(1, (int)min_i64(LANES, columns.end - n), sum + n, fresh, dz, offset + n, depth, other, n);
}

#endif
