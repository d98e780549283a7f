/* Euclidean norms of rows, in double. The bits are the same for every ISA. */

/* Sum of squares: WAYS chains, added up in halves. */
INLINE double NAME(squares)(const REAL *x, int64_t n) {
  enum { WAYS = 16, WIDE = VEC_BYTES / sizeof(double), VECS = WAYS / WIDE, HALVES = sizeof(double) / sizeof(REAL) };
  NAME(wide) sums[VECS] = {0};
  for (; n >= WAYS; n -= WAYS, x += WAYS) {
    UNROLL for (int v = 0; v < VECS; v++) sums[v] = vadd_square(vload_wide(x + v * WIDE), sums[v]);
  }
  UNROLL for (int v = 0; v < VECS / HALVES; v++) {
    int64_t left = n - v * LANES;
    if (left <= 0)
      break;
    vec a = vload_n(x + v * LANES, (int)min_i64(LANES, left));
    UNROLL for (int half = 0; half < HALVES; half++) sums[v * HALVES + half] =
        vadd_square(vwide(a, half), sums[v * HALVES + half]);
  }
  UNROLL for (int half = VECS / 2; half; half /= 2) {
    UNROLL for (int v = 0; v < half; v++) sums[v] += sums[v + half];
  }
  return vsum_wide(sums[0]);
}

#include "scaled.inc.h"

INLINE double NAME(norm)(const REAL *x, int64_t n) {
  return NAME(norm_of)(x, n, 1, NAME(squares)(x, n));
}

#ifndef CELL

/* What bptt_norms() runs. */
static void NAME(norms)(const void *x, int64_t rows, int64_t n, double *norms) {
  for (int64_t row = 0; row < rows; row++)
    norms[row] = NAME(norm)((const REAL *)x + row * n, n);
}

#endif
