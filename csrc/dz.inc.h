/* Products with dz, the gradients at the pre-activations, against panels of weights (L18) (L19) (G15) (G16) (R5) (R6);
 * those over tokens, for the gradients of the parameters, are in products.inc.h. */

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

/* What chains of two, three or all gates come to. */
INLINE vec NAME(join_gates)(int gates, vec a, vec b, vec c, vec d) {
  return gates == 4 ? (a + b) + (c + d) : gates == 3 ? (a + b) + c : gates == 2 ? a + b : a;
}

/* The gates of one row side by side: V vectors of a panel of `wide`. */
INLINE void NAME(gate_sum_lone)(int V, int gates, vec sum[V], int64_t H, const REAL *dz, const REAL *panel, int wide) {
  vec acc[4][V];
  UNROLL for (int g = 0; g < gates; g++) {
    UNROLL for (int v = 0; v < V; v++) acc[g][v] = (vec){0};
  }
  NAME(lone_product)(gates, V, acc, 0, V, H, dz, H, panel, H * wide * LANES, wide * LANES);
  UNROLL for (int v = 0; v < V; v++) sum[v] = NAME(join_gates)(gates, acc[0][v], acc[1][v], acc[2][v], acc[3][v]);
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

/* Whether two gates are taken at once, each with its own sums: where a loop over the units of one is short, entering
 * and leaving it takes longer than reading more in half as many. Backward of 100,32,40,40 852 -> 808 us, 100,32,64,64
 * 1713 -> 1650, 100,32,20,20 331 -> 299; 100,32,256,256 would take 4 % more, and AVX2 gains up to H = 32. */
INLINE int NAME(takes_pairs)(int vecs, int gates, int64_t H) {
  return gates > 1 && vecs > 1 && H * vecs <= 3 * VEC_BYTES;
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
  int gate = 0;
  if (NAME(takes_pairs)(vecs, gates, H)) {
    const int pairs = gates / 2;
    for (int n = 0; ahead && n < 2 * pairs; n++) {
      NAME(prefetch_rows)(&ahead[n][0], 0, rows, units);
      NAME(prefetch_rows)(&ahead[n][1], 0, rows, units);
    }
    gate = 2 * pairs;
    SHARED(pair_products)(rows, vecs, pairs, sum, OTHER_SUM, H, dz, pitch, panel);
    panel += gate * H * vecs * LANES;
  }
  for (; gate < gates; gate++, panel += H * vecs * LANES) {
    NAME(fetch)
    fetch =
        NAME(fetch_of)(gate + 1 < gates ? panel + H * vecs * LANES : next, vecs, ceil_div(rows, NAME(wide_rows)(vecs)));
    for (int r = 0; r < rows;) {
      int n = (int)next_tile(rows - r, NAME(wide_rows)(vecs));
      if (ahead) {
        NAME(prefetch_rows)(&ahead[gate][0], r, n, units);
        NAME(prefetch_rows)(&ahead[gate][1], r, n, units);
      }
      SHARED(wide_product)(gate % 2 ? PRODUCT_ADDED : PRODUCT_ALONE, n, vecs,
                           sum + gate / 2 * OTHER_SUM + r * vecs * LANES, H, dz + r * pitch + gate * H, pitch, panel,
                           &fetch);
      NAME(fetch_on)(&fetch, H);
      r += n;
    }
  }
}
