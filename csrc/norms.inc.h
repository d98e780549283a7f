/* Euclidean norms of rows, in double. The bits are the same for every ISA. */

/* Vectors of doubles, and as many REALs in memory. */
typedef double NAME(wide) __attribute__((vector_size(VEC_BYTES)));
typedef REAL NAME(narrow)
    __attribute__((vector_size(VEC_BYTES / sizeof(double) * sizeof(REAL)), aligned(REAL_BITS / 8), may_alias));

/* Sum of squares: WAYS chains, added up in halves. */
INLINE double NAME(squares)(const REAL *x, int64_t n) {
  enum { WAYS = 16, WIDE = VEC_BYTES / sizeof(double), VECS = WAYS / WIDE };
  NAME(wide) sums[VECS] = {0};
  for (; n > 0; n -= WAYS, x += WAYS) {
    REAL rest[WAYS] = {0};
    const REAL *from = n < WAYS ? memcpy(rest, x, (size_t)n * sizeof(REAL)) : x;
    UNROLL for (int v = 0; v < VECS; v++) {
      NAME(wide) a = __builtin_convertvector(*(const NAME(narrow) *)(from + v * WIDE), NAME(wide));
      sums[v] += a * a;
    }
  }
  UNROLL for (int half = VECS / 2; half; half /= 2) {
    UNROLL for (int v = 0; v < half; v++) sums[v] += sums[v + half];
  }
  UNROLL for (int half = WIDE / 2; half; half /= 2) {
    UNROLL for (int lane = 0; lane < half; lane++) sums[0][lane] += sums[0][lane + half];
  }
  return sums[0][0];
}

static double NAME(norm)(const REAL *x, int64_t n) {
  static const double SMALL = 1e-280, LARGE = 1e300; /* between them squares have lost nothing that counts */
  double sum = NAME(squares)(x, n), largest = 0;
  if (sum > SMALL && sum < LARGE)
    return __builtin_sqrt(sum);
  for (int64_t k = 0; k < n; k++)
    largest = __builtin_fabs((double)x[k]) > largest ? __builtin_fabs((double)x[k]) : largest;
  if (sum != sum || largest == 0 || largest > DBL_MAX)
    return sum;
  sum = 0;
  for (int64_t k = 0; k < n; k++)
    sum += (double)x[k] / largest * ((double)x[k] / largest);
  return largest * __builtin_sqrt(sum);
}

#ifndef CELL

/* What bptt_norms() runs. */
static void NAME(norms)(const void *x, int64_t rows, int64_t n, double *norms) {
  for (int64_t row = 0; row < rows; row++)
    norms[row] = NAME(norm)((const REAL *)x + row * n, n);
}

#endif
