/* Vector vocabulary of one (ISA, dtype) pair: the only file of the kernels where an intrinsic may stand.
 *
 * Wanted: VEC_BYTES, exactly one of ISA_AVX512, ISA_AVX2, ISA_NEON, ISA_BASELINE, and REAL, REAL_BITS, NAME(). `+ - * /
 * < ==` are the compiler's own on these types (GNU C vector extensions). Built with -ffp-contract=off: a multiplication
 * and an addition fuse only where vfma() says so, so the bits of a value do not depend on how the compiler happened to
 * inline the code around it.
 */

#ifndef PASTE
#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#endif

/* The short names stand for this dtype's; a name must be free while NAME() pastes it, and vfma_f32 and its like are
 * taken on 64-bit ARM. */
#undef vec
#undef ivec
#undef vset1
#undef vload
#undef vfetch
#undef vhold
#undef vstore
#undef vload_n
#undef vstore_n
#undef vfma
#undef vmin
#undef vmax
#undef vabs
#undef vselect_lt
#undef vcount_lt
#undef vdivide_inside
#undef vadd_square
#undef vload_wide
#undef vwide
#undef vsum_wide
#undef vtranspose

typedef REAL NAME(vec) __attribute__((vector_size(VEC_BYTES)));
typedef REAL NAME(vec_any) __attribute__((vector_size(VEC_BYTES), aligned(REAL_BITS / 8), may_alias));
#if REAL_BITS == 32
typedef int32_t NAME(ivec) __attribute__((vector_size(VEC_BYTES)));
#else
typedef int64_t NAME(ivec) __attribute__((vector_size(VEC_BYTES)));
#endif

#define vec NAME(vec)
#define ivec NAME(ivec)
#define LANES ((int)(VEC_BYTES / sizeof(REAL)))

#define vset1 NAME(vec_set1)
#define vload NAME(vec_load)
#define vstore NAME(vec_store)
#define vload_n NAME(vec_load_n)
#define vstore_n NAME(vec_store_n)
#define vfma NAME(vec_fma)
#define vmin NAME(vec_min)
#define vmax NAME(vec_max)
#define vabs NAME(vec_abs)
#define vselect_lt NAME(vec_select_lt)
#define vcount_lt NAME(vec_count_lt)
#define vdivide_inside NAME(vec_divide_inside)
#define vadd_square NAME(vec_add_square)
#define vfetch NAME(vec_fetch)
#define vhold NAME(vec_hold)
#define vload_wide NAME(vec_load_wide)
#define vwide NAME(vec_wide)
#define vsum_wide NAME(vec_sum_wide)
#define vtranspose NAME(vec_transpose)

/* Intrinsic of this width and dtype: VI(fmadd)(a, b, c). The AVX-512 variant also works on half registers. */
#undef VI
#undef VI_TYPE
#if defined(ISA_AVX512) || defined(ISA_AVX2)
#if REAL_BITS == 32
#define VI_TYPE ps
#else
#define VI_TYPE pd
#endif
#if VEC_BYTES == 64
#define VI(op) PASTE(_mm512_##op##_, VI_TYPE)
#else
#define VI(op) PASTE(_mm256_##op##_, VI_TYPE)
#endif
#endif

static inline vec vset1(REAL a) {
  return a - (vec){0}; /* folds into a broadcast: a - 0 is a, also for -0 and NaN */
}

static inline vec vload(const REAL *p) {
  return *(const NAME(vec_any) *)p;
}

static inline void vstore(REAL *p, vec a) {
  *(NAME(vec_any) *)p = a;
}

/* The first n of the lanes (0 < n <= LANES); the others read as zero and are not touched in memory. */
static inline __attribute__((always_inline)) vec vload_n(const REAL *p, int n) {
  if (__builtin_constant_p(n) && n == LANES)
    return vload(p);
#if defined(ISA_AVX512)
  return VI(maskz_loadu)((1u << n) - 1u, p);
#elif defined(ISA_AVX2) && REAL_BITS == 32
  return VI(maskload)(p, (__m256i)(((ivec){0, 1, 2, 3, 4, 5, 6, 7}) < n));
#elif defined(ISA_AVX2)
  return VI(maskload)(p, (__m256i)(((ivec){0, 1, 2, 3}) < n));
#else
  if (n == LANES)
    return vload(p);
  vec a = {0};
  for (int v = 0; v < n; v++)
    a[v] = p[v];
  return a;
#endif
}

static inline __attribute__((always_inline)) void vstore_n(REAL *p, vec a, int n) {
  if (__builtin_constant_p(n) && n == LANES) {
    vstore(p, a);
    return;
  }
#if defined(ISA_AVX512)
  VI(mask_storeu)(p, (1u << n) - 1u, a);
#elif defined(ISA_AVX2) && REAL_BITS == 32
  VI(maskstore)(p, (__m256i)(((ivec){0, 1, 2, 3, 4, 5, 6, 7}) < n), a);
#elif defined(ISA_AVX2)
  VI(maskstore)(p, (__m256i)(((ivec){0, 1, 2, 3}) < n), a);
#else
  if (n == LANES) {
    vstore(p, a);
    return;
  }
  for (int v = 0; v < n; v++)
    p[v] = a[v];
#endif
}

/* Asks for a line, into L2. Not __builtin_prefetch(), which GCC takes for a write to any memory: sums that a loop keeps
 * in registers would go to memory and back at each. */
static inline void vfetch(const REAL *p) {
#if defined(__x86_64__)
  __asm__("prefetcht1 (%0)" : : "r"(p));
#elif defined(__aarch64__)
  __asm__("prfm pldl2keep, [%0]" : : "r"(p));
#else
  (void)p;
#endif
}

#undef VEC_REGISTERS
#if defined(ISA_AVX512) || defined(ISA_NEON)
#define VEC_REGISTERS 32
#else
#define VEC_REGISTERS 16
#endif

/* Keeps a value that is used more than once in a register. Of two or three uses GCC makes as many reads, which take
 * twice as long as the multiply-adds (30,3,200,200 forward 346 -> 270 us). With 16 registers it knows better. */
static inline __attribute__((always_inline)) void vhold(vec *a) {
#if defined(ISA_AVX512)
  __asm__("" : "+v"(*a));
#else
  (void)a;
#endif
}

/* a*b + c, rounded once where the ISA has a fused instruction (the baseline rounds twice). */
static inline vec vfma(vec a, vec b, vec c) {
#if defined(ISA_AVX512) || defined(ISA_AVX2)
  return VI(fmadd)(a, b, c);
#elif defined(ISA_NEON) && REAL_BITS == 32
  return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#elif defined(ISA_NEON)
  return (vec)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
  return a * b + c;
#endif
}

/* a < b ? x : y, lane by lane; a NaN in a or b takes y. */
static inline vec vselect_lt(vec a, vec b, vec x, vec y) {
#if defined(ISA_AVX512)
  return VI(mask_blend)(PASTE(VI(cmp), _mask)(a, b, _CMP_LT_OQ), y, x);
#elif defined(ISA_AVX2)
  return VI(blendv)(y, x, (vec)(a < b));
#else
  ivec m = a < b;
  return (vec)((m & (ivec)x) | (~m & (ivec)y));
#endif
}

#if defined(ISA_AVX512)
/* a / b where x, or a NaN in it, is inside [low, high]; what a lane holds outside is known before b is. */
static inline __attribute__((always_inline)) vec vdivide_inside(vec a, vec b, vec x, vec low, vec high, vec below,
                                                                vec above) {
  const vec outside = VI(mask_blend)(PASTE(VI(cmp), _mask)(x, low, _CMP_LT_OQ), above, below);
  return VI(mask_div)(outside, PASTE(VI(cmp), _mask)(x, low, _CMP_NLT_UQ) & PASTE(VI(cmp), _mask)(x, high, _CMP_NGT_UQ),
                      a, b);
}
#endif

/* In how many lanes a < b. */
static inline int vcount_lt(vec a, vec b) {
#if defined(ISA_AVX512)
  return __builtin_popcount(PASTE(VI(cmp), _mask)(a, b, _CMP_LT_OQ));
#elif defined(ISA_AVX2)
  return __builtin_popcount((unsigned)VI(movemask)((vec)(a < b)));
#else
  int count = 0;
  ivec m = a < b;
  for (int v = 0; v < LANES; v++)
    count -= (int)m[v];
  return count;
#endif
}

/* Bounds: vmin(bound, x), vmax(bound, x) with the constant FIRST. x86's min and max return the second operand
 * when one is NaN, so a NaN in x passes through; the select form below does the same. */
static inline vec vmin(vec bound, vec x) {
#if defined(ISA_AVX512) || defined(ISA_AVX2)
  return VI(min)(bound, x);
#else
  return vselect_lt(bound, x, bound, x);
#endif
}

static inline vec vmax(vec bound, vec x) {
#if defined(ISA_AVX512) || defined(ISA_AVX2)
  return VI(max)(bound, x);
#else
  return vselect_lt(x, bound, bound, x);
#endif
}

#undef SIGN_BIT
#define SIGN_BIT ((ivec)((ivec){0} + ((REAL_BITS == 32) ? INT32_MIN : INT64_MIN)))

static inline vec vabs(vec a) {
  return (vec)((ivec)a & ~SIGN_BIT);
}

typedef double NAME(wide) __attribute__((vector_size(VEC_BYTES)));

/* The lower (0) or upper (1) half of a in double; for doubles a itself (0). */
static inline __attribute__((always_inline)) NAME(wide) vwide(vec a, int half) {
#if REAL_BITS == 64
  (void)half;
  return a;
#elif defined(ISA_AVX512) && VEC_BYTES == 64
  return _mm512_cvtps_pd(half ? _mm512_extractf32x8_ps(a, 1) : _mm512_castps512_ps256(a));
#elif defined(ISA_AVX512) || defined(ISA_AVX2)
  return _mm256_cvtps_pd(half ? _mm256_extractf128_ps(a, 1) : _mm256_castps256_ps128(a));
#elif defined(ISA_NEON)
  return (NAME(wide))(half ? vcvt_high_f64_f32((float32x4_t)a) : vcvt_f64_f32(vget_low_f32((float32x4_t)a)));
#else
  NAME(wide) wide;
  for (int lane = 0; lane < LANES / 2; lane++)
    wide[lane] = (double)a[half * (LANES / 2) + lane];
  return wide;
#endif
}

/* So many numbers as fit, in double. */
static inline __attribute__((always_inline)) NAME(wide) vload_wide(const REAL *p) {
#if REAL_BITS == 64
  return vload(p);
#elif defined(ISA_AVX512) && VEC_BYTES == 64
  return _mm512_cvtps_pd(_mm256_loadu_ps(p));
#elif defined(ISA_AVX512) || defined(ISA_AVX2)
  return _mm256_cvtps_pd(_mm_loadu_ps(p));
#elif defined(ISA_NEON)
  return (NAME(wide))vcvt_f64_f32(vld1_f32(p));
#else
  NAME(wide) wide;
  for (int lane = 0; lane < LANES / 2; lane++)
    wide[lane] = (double)p[lane];
  return wide;
#endif
}

/* a*a + c, rounded twice. The square of a float is exact in double, so that fused instructions give the same bits. */
static inline NAME(wide) vadd_square(NAME(wide) a, NAME(wide) c) {
#if REAL_BITS == 32 && defined(ISA_AVX512) && VEC_BYTES == 64
  return _mm512_fmadd_pd(a, a, c);
#elif REAL_BITS == 32 && (defined(ISA_AVX512) || defined(ISA_AVX2))
  return _mm256_fmadd_pd(a, a, c);
#else
  return a * a + c;
#endif
}

/* The sum of all lanes, by halves. */
static inline double vsum_wide(NAME(wide) a) {
#if VEC_BYTES == 64
  a += __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3);
  a += __builtin_shufflevector(a, a, 2, 3, 0, 1, 6, 7, 4, 5);
  a += __builtin_shufflevector(a, a, 1, 0, 3, 2, 5, 4, 7, 6);
#elif VEC_BYTES == 32
  a += __builtin_shufflevector(a, a, 2, 3, 0, 1);
  a += __builtin_shufflevector(a, a, 1, 0, 3, 2);
#else
  a += __builtin_shufflevector(a, a, 1, 0);
#endif
  return a[0];
}

/* Square transposition of LANES vectors in log2(LANES) rounds: round `s` swaps the blocks of s lanes that stand off the
 * diagonal between vectors s apart. */
#undef EACH_LANE
#if VEC_BYTES * 8 / REAL_BITS == 16
#define EACH_LANE(F, s)                                                                                                \
  F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s), F(8, s), F(9, s), F(10, s), F(11, s),        \
      F(12, s), F(13, s), F(14, s), F(15, s)
#elif VEC_BYTES * 8 / REAL_BITS == 8
#define EACH_LANE(F, s) F(0, s), F(1, s), F(2, s), F(3, s), F(4, s), F(5, s), F(6, s), F(7, s)
#elif VEC_BYTES * 8 / REAL_BITS == 4
#define EACH_LANE(F, s) F(0, s), F(1, s), F(2, s), F(3, s)
#else
#define EACH_LANE(F, s) F(0, s), F(1, s)
#endif
/* Lane l from lane l + s, round the end. */
#undef TURNED
#define TURNED_LANE(l, s) (((l) + (s)) % LANES)
#define TURNED(a, s) __builtin_shufflevector(a, a, EACH_LANE(TURNED_LANE, s))
#define UPPER_LANE(l, s) ((l) & (s) ? LANES + (l) - (s) : (l))
#define LOWER_LANE(l, s) ((l) & (s) ? LANES + (l) : (l) + (s))
#define TRANSPOSE_ROUND(s)                                                                                             \
  _Pragma("GCC unroll 16") for (int n = 0; n < LANES; n++) {                                                           \
    if (!(n & (s)) && n + (s) < LANES) {                                                                               \
      vec a = rows[n], b = rows[n + (s)];                                                                              \
      rows[n] = __builtin_shufflevector(a, b, EACH_LANE(UPPER_LANE, s));                                               \
      rows[n + (s)] = __builtin_shufflevector(a, b, EACH_LANE(LOWER_LANE, s));                                         \
    }                                                                                                                  \
  }

static inline __attribute__((always_inline)) void vtranspose(vec rows[LANES]) {
  TRANSPOSE_ROUND(1)
#if VEC_BYTES * 8 / REAL_BITS >= 4
  TRANSPOSE_ROUND(2)
#endif
#if VEC_BYTES * 8 / REAL_BITS >= 8
  TRANSPOSE_ROUND(4)
#endif
#if VEC_BYTES * 8 / REAL_BITS >= 16
  TRANSPOSE_ROUND(8)
#endif
}
