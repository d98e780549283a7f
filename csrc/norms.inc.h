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

/* The norm where squares overflow or underflow, or something is not finite, or all is zero. */
NOINLINE double NAME(scaled_norm)(const REAL *x, int64_t n, double sum) {
  double largest = 0;
  for (int64_t k = 0; k < n; k++)
    largest = __builtin_fabs((double)x[k]) > largest ? __builtin_fabs((double)x[k]) : largest;
  if (sum != sum || largest == 0 || largest > DBL_MAX)
    return sum;
  sum = 0;
  for (int64_t k = 0; k < n; k++)
    sum += (double)x[k] / largest * ((double)x[k] / largest);
  return largest * __builtin_sqrt(sum);
}

INLINE double NAME(norm)(const REAL *x, int64_t n) {
  double sum = NAME(squares)(x, n);
  if (sum > 1e-280 && sum < 1e300) /* no square has lost anything that counts */
    return __builtin_sqrt(sum);
  return NAME(scaled_norm)(x, n, sum);
}

#ifndef CELL

/* What bptt_norms() runs. */
static void NAME(norms)(const void *x, int64_t rows, int64_t n, double *norms) {
  for (int64_t row = 0; row < rows; row++)
    norms[row] = NAME(norm)((const REAL *)x + row * n, n);
}

#endif
