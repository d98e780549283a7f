/* Numbers of float32 in three pieces of bfloat16, packed for tiles (tiles.inc.h). Those of the left side come in units,
 * each as small as what a core does while four tiles multiply. */

typedef uint32_t uvec __attribute__((vector_size(VEC_BYTES)));
typedef uint32_t uvec_any __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));

enum {
  SIDE = 16, /* rows and columns of a tile of sums */
  DEEP = 32,
  TILE = 1024, /* bytes */
  STACK = 3 * TILE, /* three pieces */
  /* Units that pack a tile of the left side: one for some rows as they stand, and two that turn them before. */
  STRAIGHT_UNITS = 2,
  TURNED_UNITS = 2 + STRAIGHT_UNITS,
  UNIT_ROWS = SIDE / STRAIGHT_UNITS
};

INLINE uvec upper(uvec a) {
  return a & 0xFFFF0000u;
}

/* Pairs of two vectors, in three pieces: rounded, what is left rounded, and the rest, which has 8 bits. An infinity or
 * NaN leaves NaN. */
INLINE void split(char *to, int64_t apart, vec a, vec b) {
  const uvec high_a = upper((uvec)a + 0x8000u), high_b = upper((uvec)b + 0x8000u);
  a -= (vec)high_a, b -= (vec)high_b;
  const uvec middle_a = upper((uvec)a + 0x8000u), middle_b = upper((uvec)b + 0x8000u);
  a -= (vec)middle_a, b -= (vec)middle_b;
  *(uvec_any *)to = high_a >> 16 | high_b;
  *(uvec_any *)(to + apart) = middle_a >> 16 | middle_b;
  *(uvec_any *)(to + 2 * apart) = (uvec)a >> 16 | upper((uvec)b);
}

/* A tile of the right side: 32 rows, of which `depth` are there. */
INLINE void pack_tile(char *to, int64_t apart, const float *const *rows, int64_t depth, int64_t column, int lanes) {
  if (depth >= DEEP && lanes >= SIDE) {
    for (int n = 0; n < SIDE; n++)
      split(to + n * VEC_BYTES, apart, vload(rows[n] + column), vload(rows[n + SIDE] + column));
    return;
  }
  for (int n = 0; n < SIDE; n++) {
    const vec a = n < depth ? vload_n(rows[n] + column, lanes) : (vec){0};
    split(to + n * VEC_BYTES, apart, a, n + SIDE < depth ? vload_n(rows[n + SIDE] + column, lanes) : (vec){0});
  }
}

/* A unit of a tile of the left side: 16 gates over 32 tokens, of which `depth` are there. The first two turn a square
 * each and add up its tokens, the others take both apart. */
NOINLINE void pack_turned(int unit, char *to, int64_t apart, const float *const *dz, int64_t depth, int64_t column,
                          vec squares[2][SIDE], vec *total) {
  if (unit >= 2) {
    const int first = (unit - 2) * UNIT_ROWS;
    UNROLL for (int n = first; n < first + UNIT_ROWS; n++)
        split(to + n * VEC_BYTES, apart, squares[0][n], squares[1][n]);
    return;
  }
  vec square[SIDE], sum = *total;
  dz += unit * SIDE, depth -= unit * SIDE;
  if (depth >= SIDE) {
    UNROLL for (int n = 0; n < SIDE; n++) square[n] = vload(dz[n] + column);
    UNROLL for (int n = 0; n < SIDE; n++) sum += square[n];
  } else {
    for (int n = 0; n < SIDE; n++) {
      square[n] = n < depth ? vload(dz[n] + column) : (vec){0};
      if (n < depth)
        sum += square[n];
    }
  }
  vtranspose(square);
  UNROLL for (int n = 0; n < SIDE; n++) squares[unit][n] = square[n];
  *total = sum;
}

/* Pairs of a row of `depth` numbers. */
INLINE void pack_row(char *to, int64_t apart, const float *from, int64_t depth) {
  const int more = (int)max_i64(0, min_i64(SIDE, depth - SIDE));
  split(to, apart, vload_n(from, (int)min_i64(SIDE, depth)), vload_n(from + (more ? SIDE : 0), more));
}

/* A unit of a tile of the left side: `count` rows of numbers from k on, of which `depth` are there. */
NOINLINE void pack_straight(int unit, char *to, int64_t apart, const float *const *rows, int count, int64_t k,
                            int64_t depth) {
  const int first = unit * UNIT_ROWS, last = (int)min_i64(count, first + UNIT_ROWS);
  if (last - first == UNIT_ROWS && depth >= DEEP) {
    UNROLL for (int n = 0; n < UNIT_ROWS; n++) {
      const float *from = rows[first + n] + k;
      split(to + (first + n) * VEC_BYTES, apart, vload(from), vload(from + SIDE));
    }
    return;
  }
  for (int n = first; n < last; n++)
    pack_row(to + n * VEC_BYTES, apart, rows[n] + k, depth);
}
