/* Products with dz, the gradients at the pre-activations: against panels of weights (L18) (L19) (G15) (G16) (R5) (R6),
 * and over tokens, for the gradients of the parameters (L20) to (L23), (G17) to (G20), (R7) to (R9). */

/* (L18) (L19): dz against a panel is ((i + f) + (g + o)), each a chain over the units of one gate; for three gates
 * ((r + z) + n). Short chains: a single row keeps the FMA units busy, and the rounding error is halved. Gate by gate
 * for a block of rows, so that a quarter of the panel stays in L2 while the rows pass by.
 *
 * What a block of rows leaves is [2][ROW_BLOCK][vecs*LANES]: i + f (r + z), and as far behind it as OTHER_SUM says
 * g + o (n); gate_sum() adds both up. */
#define ROW_BLOCK (48 / WIDE_ROWS * WIDE_ROWS) /* the sums stay in L1 beside a quarter of the panel */
#define OTHER_SUM (ROW_BLOCK * (WIDE_VECS + 1) * LANES)
#define GATE_SUMS (2 * OTHER_SUM)

INLINE vec NAME(gate_sum)(const REAL *sum, int gates) {
  vec a = vload(sum);
  return gates > 2 ? a + vload(sum + OTHER_SUM) : a;
}

/* The gates of one row side by side: V vectors of a panel of `wide`. */
INLINE void NAME(gate_sum_lone)(int V, int gates, vec sum[V], int64_t H, const REAL *dz, const REAL *panel, int wide) {
  vec acc[4][V];
  UNROLL for (int g = 0; g < gates; g++) {
    UNROLL for (int v = 0; v < V; v++) acc[g][v] = (vec){0};
  }
  NAME(lone_product)(gates, V, acc, 0, V, H, dz, H, panel, H * wide * LANES, wide * LANES);
  UNROLL for (int v = 0; v < V; v++) sum[v] = gates == 4   ? (acc[0][v] + acc[1][v]) + (acc[2][v] + acc[3][v])
                                              : gates == 3 ? (acc[0][v] + acc[1][v]) + acc[2][v]
                                              : gates == 2 ? acc[0][v] + acc[1][v]
                                                           : acc[0][v];
}

/* Where all gates of two or three rows fit the registers. */
#define HAS_FEW (VEC_REGISTERS >= 32 && MATRIX_GATES > 2)
#if HAS_FEW

/* All gates of R rows, two or three, in the same way, a full panel: gate by gate would keep too few sums in flight. The
 * backward pass of 30,3,200,200 825 -> 734 us. */
INLINE void NAME(gate_sum_few)(int R, REAL *sum, int64_t H, const REAL *dz, int64_t pitch, const REAL *panel) {
  vec acc[MATRIX_GATES][3][WIDE_VECS];
  const REAL *from[MATRIX_GATES];
  UNROLL for (int g = 0; g < MATRIX_GATES; g++) {
    UNROLL for (int n = 0; n < R * WIDE_VECS; n++) acc[g][n / WIDE_VECS][n % WIDE_VECS] = (vec){0};
    from[g] = panel + g * H * WIDE_VECS * LANES;
  }
  for (int64_t k = 0; k < H; k++, dz++) {
    UNROLL for (int g = 0; g < MATRIX_GATES; g++) {
      vec w[WIDE_VECS];
      UNROLL for (int v = 0; v < WIDE_VECS; v++) {
        w[v] = vload(from[g] + v * LANES);
        vhold(&w[v]);
      }
      UNROLL for (int r = 0; r < R; r++) {
        const vec a = vset1(dz[r * pitch + g * H]);
        UNROLL for (int v = 0; v < WIDE_VECS; v++) acc[g][r][v] = vfma(a, w[v], acc[g][r][v]);
      }
      from[g] += WIDE_VECS * LANES;
      __asm__("" : "+r"(from[g]));
    }
  }
  UNROLL for (int n = 0; n < R * WIDE_VECS; n++) {
    const int r = n / WIDE_VECS, v = n % WIDE_VECS;
    vstore(sum + n * LANES, acc[0][r][v] + acc[1][r][v]);
    vstore(sum + OTHER_SUM + n * LANES, MATRIX_GATES == 4 ? acc[2][r][v] + acc[MATRIX_GATES - 1][r][v] : acc[2][r][v]);
  }
}

#endif

/* The same for any of the counts of gates that the cell has: all, one, all but the candidate. */
INLINE void NAME(gate_sum_one)(int V, int gates, vec sum[V], int64_t H, const REAL *dz, const REAL *panel, int wide) {
  if (HAS_SECOND && __builtin_expect(gates == 1, 0))
    NAME(gate_sum_lone)(V, 1, sum, H, dz, panel, wide);
  else if (CANDIDATE_ALONE && __builtin_expect(gates < MATRIX_GATES, 0))
    NAME(gate_sum_lone)(V, MATRIX_GATES - CANDIDATE_ALONE, sum, H, dz, panel, wide);
  else
    NAME(gate_sum_lone)(V, MATRIX_GATES, sum, H, dz, panel, wide);
}

/* Rows of an array that the caller will read when the sums are done: `units` numbers each. NULL: none. Of memory in
 * small pages (`touch`) a line is read, not prefetched: Zen 4 drops prefetches whose page is not in its first TLB. */
typedef struct {
  const REAL *p;
  int64_t pitch;
  int touch;
} NAME(ahead);

/* Asks for them, into L2: prefetched to L1 they were gone again from both (measured). The empty assembly is for GCC 12,
 * which takes a function that only prefetches for one without effect, and leaves its calls out. */
static void NAME(prefetch_rows)(const NAME(ahead) * a, int64_t first, int rows, int64_t units) {
  if (!a->p)
    return;
  __asm__ volatile("");
  const REAL *p = a->p + first * a->pitch;
  for (; rows > 0; rows--, p += a->pitch) {
    for (int64_t unit = 0; unit < units; unit += 64 / (int64_t)sizeof(REAL)) {
      if (a->touch)
        (void)*(const volatile REAL *)(p + unit);
      else
        __builtin_prefetch(p + unit, 0, 2);
    }
  }
}

/* The first `gates` gates of up to ROW_BLOCK rows, H units each: GATE_SUMS numbers, for gate_sum() to read. What the
 * caller names in `ahead` (two arrays for each gate, or NULL) is fetched meanwhile, a few lines at a time, and the
 * panel `next` that comes after this one. */
NOINLINE void NAME(gate_sums)(int rows, int vecs, int gates, REAL *sum, int64_t H, const REAL *dz, int64_t pitch,
                              const REAL *panel, const REAL *next, const NAME(ahead) (*ahead)[2], int64_t units) {
  if (rows == 1) {
    vec lone[WIDE_VECS + 1];
    if (vecs > 1)
      NAME(gate_sum_one)(2, gates, lone, H, dz, panel, vecs);
    if (vecs != 2)
      NAME(gate_sum_one)(1, gates, lone + vecs - 1, H, dz, panel + (vecs - 1) * LANES, vecs);
    for (int v = 0; v < vecs; v++) {
      vstore(sum + v * LANES, lone[v]);
      vstore(sum + OTHER_SUM + v * LANES, vset1(-(REAL)0)); /* changes no bit of it */
    }
    return;
  }
#if HAS_FEW
  if (rows <= 3 && vecs == WIDE_VECS && gates == MATRIX_GATES) {
    if (rows == 2)
      NAME(gate_sum_few)(2, sum, H, dz, pitch, panel);
    else
      NAME(gate_sum_few)(3, sum, H, dz, pitch, panel);
    return;
  }
#endif
  for (int gate = 0; gate < gates; gate++, panel += H * vecs * LANES) {
    NAME(fetch)
    fetch =
        NAME(fetch_of)(gate + 1 < gates ? panel + H * vecs * LANES : next, vecs, ceil_div(rows, NAME(wide_rows)(vecs)));
    for (int r = 0; r < rows;) {
      int n = (int)next_tile(rows - r, NAME(wide_rows)(vecs));
      if (ahead) {
        NAME(prefetch_rows)(&ahead[gate][0], r, n, units);
        NAME(prefetch_rows)(&ahead[gate][1], r, n, units);
      }
      NAME(wide_product)(gate % 2 ? PRODUCT_ADDED : PRODUCT_ALONE, n, vecs,
                         sum + gate / 2 * OTHER_SUM + r * vecs * LANES, H, dz + r * pitch + gate * H, pitch, panel,
                         &fetch);
      NAME(fetch_on)(&fetch, H);
      r += n;
    }
  }
}

/* Gates of a block that outer_product() takes: a cache line of them. */
#define OUTER_GATES (64 / (int)sizeof(REAL))

/* The gates of this thread, block by block: [block][token][OUTER_GATES]. Unpacked, every token would touch a page of
 * its own. Reads up to a line past the last gate, inside the row's padding. */
static void NAME(pack_gates)(REAL *dst, range gates, const REAL *const *dz, int64_t offset, int64_t depth) {
  for (int64_t row = gates.begin; row < gates.end; row += OUTER_GATES)
    for (int64_t k = 0; k < depth; k++, dst += OUTER_GATES)
      UNROLL for (int v = 0; v < OUTER_GATES; v += LANES) vstore(dst + v, vload(dz[k] + offset + row + v));
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

/* dw (4H, width) += dz^T a over `depth` tokens (L20) (L21) (G17) (G18) (R7) (R8), for the gate rows of this
 * thread, packed. */
NOINLINE void NAME(outer_product)(REAL *dw, int64_t width, range gates, int fresh, const REAL *packed, int64_t depth,
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

/* dw (width, pitch) += a^T dz over `depth` tokens, the gradient of the weights with rows for columns, at these vectors
 * of the columns. Rows of a and dz are read where they stand: while they are short, that takes less than packing both
 * sides for outer_product(), and 4H is a multiple of the vector far more often than H. Reads up to a vector past the
 * last column, inside the padding of a row of dz. */
NOINLINE void NAME(turned_product)(REAL *dw, int64_t width, int64_t pitch, range vecs, int fresh, const REAL *const *a,
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

/* dst[column][row] = src[row][column]; pitches from row to row of each. */
NOINLINE void NAME(turn)(REAL *dst, int64_t dst_pitch, const REAL *src, int64_t src_pitch, int64_t rows,
                         int64_t columns) {
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
  UNROLL for (int v = 0; v < V; v++) {
    const int n = v + 1 < V ? LANES : lanes;
    vstore_n(sum + v * LANES, fresh ? acc[v] : vload_n(sum + v * LANES, n) + acc[v], n);
  }
}

/* sum[n] += sum over tokens of dz[token][offset + n], times other[token][n] when given. (L22) (L23) (G19)
 * (G20) (R9) */
NOINLINE void NAME(column_sum)(REAL *sum, range columns, int fresh, const REAL *const *dz, int64_t offset,
                               int64_t depth, const REAL *const *other) {
  int64_t n = columns.begin;
  for (; n + 4 * LANES <= columns.end; n += 4 * LANES)
    NAME(column_sums)(4, LANES, sum + n, fresh, dz, offset + n, depth, other, n);
  for (; n < columns.end; n += LANES)
    NAME(column_sums)(1, (int)min_i64(LANES, columns.end - n), sum + n, fresh, dz, offset + n, depth, other, n);
}
