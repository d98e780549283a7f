/* exp, sigmoid and tanh of one (ISA, dtype) pair, in registers, from IEEE operations and fma only. */

#define vexp_neg NAME(vexp_neg)
#define vsigmoid NAME(vsigmoid)
#define vtanh NAME(vtanh)
#define vexp_parts NAME(vexp_parts)

/* exp(t) = (1 + *q) * the returned power of two, for t within the clamps of the callers; 2^-127 (2^-1023) comes
 * out as 0 and 2^128 (2^1024) as infinity. A NaN stays in *q. */
static inline vec vexp_parts(vec t, vec *q) {
#if REAL_BITS == 32
  const vec magic = vset1(0x1.8000fep+23f); /* 1.5 * 2^23 + 127: the low bits become n + 127 */
  const vec z = vfma(t, vset1(0x1.715476p+0f), magic);
  const vec n = z - magic;
  vec r = vfma(n, vset1(-0x1.62e4p-1f), t);
  r = vfma(n, vset1(-0x1.7f7d1cp-20f), r);
  vec p = vfma(r, vset1(0.0013814336029142352467f), vset1(0.008368851313334063574f));
  p = vfma(r, p, vset1(0.041668400777878095627f));
  p = vfma(r, p, vset1(0.16666519521387056958f));
  p = vfma(r, p, vset1(0.49999993374561106434f));
#else
  const vec magic = vset1(0x1.80000000003ffp+52); /* 1.5 * 2^52 + 1023 */
  const vec z = vfma(t, vset1(0x1.71547652b82fep+0), magic);
  const vec n = z - magic;
  vec r = vfma(n, vset1(-0x1.62e42fefap-1), t);
  r = vfma(n, vset1(-0x1.cf79abc9e3b3ap-40), r);
  vec p = vfma(r, vset1(2.4999851602845929644e-8), vset1(2.7630523381967595951e-7));
  p = vfma(r, p, vset1(2.7557588440770410399e-6));
  p = vfma(r, p, vset1(0.000024801492388546476406));
  p = vfma(r, p, vset1(0.00019841269502721698321));
  p = vfma(r, p, vset1(0.0013888888944248927836));
  p = vfma(r, p, vset1(0.008333333333496930762));
  p = vfma(r, p, vset1(0.041666666666528104841));
  p = vfma(r, p, vset1(0.16666666666666407663));
  p = vfma(r, p, vset1(0.5000000000000010826));
#endif
  *q = vfma(r * r, p, r);
  return (vec)((ivec)z << (REAL_BITS == 32 ? 23 : 52));
}

/* exp(x) for x <= 0; 0 below the normal range. */
static inline vec vexp_neg(vec x) {
  vec q;
  const vec s = vexp_parts(vmax(vset1(REAL_BITS == 32 ? -88 : -709), x), &q);
  return (q + vset1(1)) * s;
}

/* 1 / (1 + exp(-x)). */
static inline vec vsigmoid(vec x) {
  vec q;
  const vec low = vset1(REAL_BITS == 32 ? -88 : -709), high = vset1(REAL_BITS == 32 ? 89 : 710);
  const vec s = vexp_parts(vmin(high, vmax(low, -x)), &q);
  return vset1(1) / vfma(q + vset1(1), s, vset1(1));
}

/* E / (E + 2) with E = exp(2|x|) - 1. */
static inline vec vtanh(vec x) {
  vec q;
  const vec a = vmin(vset1(REAL_BITS == 32 ? 20 : 40), vabs(x));
  const vec s = vexp_parts(a + a, &q);
  const vec e = vfma(q, s, s - vset1(1));
  return vcopysign(e / (e + vset1(2)), x);
}

#undef vexp_parts
