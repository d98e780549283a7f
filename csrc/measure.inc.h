/* What one core of this ISA and dtype can do at most: multiply-adds on registers, and reading. See measure.c. */

/* `rounds` times 12 independent chains of multiply-adds, enough to fill two FMA units of 4 to 6 cycles; the sums and
 * the two factors fit into 16 registers. Returns the floating-point operations done; *sink keeps the work alive. */
static int64_t NAME(multiply_adds)(int64_t rounds, double *sink) {
  enum { CHAINS = 12 };
  vec sums[CHAINS], a = vset1((REAL)0.999), b = vset1((REAL)0.001 * (REAL)(1 + (rounds & 1)));
  UNROLL for (int n = 0; n < CHAINS; n++) sums[n] = vset1((REAL)n);
  for (int64_t round = 0; round < rounds; round++) {
    UNROLL for (int n = 0; n < CHAINS; n++) sums[n] = vfma(sums[n], a, b);
  }
  for (int n = 0; n < CHAINS; n++)
    *sink += (double)sums[n][0];
  return rounds * CHAINS * LANES * 2;
}

/* Reads `bytes` (whole groups of 8 vectors of them) front to back, `passes` times, as the kernels read weights. Returns
 * the bytes read. */
__attribute__((unused)) static int64_t NAME(read_often)(const void *memory, int64_t bytes, int64_t passes,
                                                        double *sink) {
  enum { GROUP = 8 };
  ivec bits[GROUP] = {0};
  int64_t groups = bytes / (GROUP * VEC_BYTES);
  for (int64_t pass = 0; pass < passes; pass++) {
    const REAL *p = memory;
    __asm__ volatile("" : "+r"(p) : : "memory"); /* each pass reads anew */
    for (int64_t n = 0; n < groups; n++, p += GROUP * LANES) {
      UNROLL for (int v = 0; v < GROUP; v++) bits[v] |= (ivec)vload(p + v * LANES);
    }
  }
  for (int v = 0; v < GROUP; v++)
    *sink += (double)bits[v][0];
  return passes * groups * GROUP * VEC_BYTES;
}
