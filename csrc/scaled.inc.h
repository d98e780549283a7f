/* From a sum of squares to the norm. For every REAL, and for norms.c, which takes norms of norms. */

/* The norm of n numbers that lie `apart` where squares overflow or underflow, or something is not finite, or all is
 * zero; `sum` is that of their squares. */
NOINLINE double NAME(scaled_norm)(const REAL *x, int64_t n, int64_t apart, double sum) {
  double largest = 0;
  for (int64_t k = 0; k < n; k++) {
    double size = __builtin_fabs((double)x[k * apart]);
    largest = size > largest ? size : largest;
  }
  if (sum != sum || largest == 0 || largest > DBL_MAX)
    return sum;
  sum = 0;
  for (int64_t k = 0; k < n; k++)
    sum += (double)x[k * apart] / largest * ((double)x[k * apart] / largest);
  return largest * __builtin_sqrt(sum);
}

INLINE double NAME(norm_of)(const REAL *x, int64_t n, int64_t apart, double sum) {
  if (sum > 1e-280 && sum < 1e300) /* no square has lost anything that counts */
    return __builtin_sqrt(sum);
  return NAME(scaled_norm)(x, n, apart, sum);
}
