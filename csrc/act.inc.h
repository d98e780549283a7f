/* Sigmoid and tanh of one (ISA, dtype) pair, in registers.
 *
 * Valid for every input: infinities give the limits, a NaN stays one, and a result below the normal range may come out
 * as zero. Both are monotone in float32, tanh is odd to the bit, and nothing leaves [0, 1] or [-1, 1]. Largest errors
 * in units in the last place, measured by tests/c/test_activations.c (float32 over all arguments), with and without a
 * fused vfma(): sigmoid 2.49 and tanh 2.50 in float32, sigmoid 2.5 and tanh 2.6 in float64.
 *
 * Only IEEE operations and vfma(), so every ISA that fuses gives the same bits.
 * Wanted: vec.inc.h, and INLINE, UNROLL of variant.inc.h.
 */
#undef vsigmoid
#undef vtanh
#undef vtanh_sigmoid
#undef vsigmoid_when
#undef vtanh_when
#undef exp_parts
#define vtanh_sigmoid NAME(vtanh_sigmoid)
#define vsigmoid_when NAME(vsigmoid_when)
#define vtanh_when NAME(vtanh_when)
#define vsigmoid NAME(vsigmoid)
#define vtanh NAME(vtanh)
#define exp_parts NAME(exp_parts)

/* Printed by tools/activation_coefficients.py, with the relative errors of the polynomials. */
#if REAL_BITS == 32
/* exp to 4.4e-9. */
#define MANTISSA_BITS 23
#define ROUND 0x1.8000fep+23f
#define LOG2_E 0x1.715476p+0f
#define LN2 0x1.62e43p-1f
#define LN2_HIGH 0x1.62e4p-1f
#define LN2_LOW 0x1.7f7d1cp-20f
#define EXP_TERMS 0x1.fffffcp-2f, 0x1.55549p-3f, 0x1.5558f4p-5f, 0x1.123a6cp-7f, 0x1.6a235p-10f
#else
/* exp to 9.6e-18. */
#define MANTISSA_BITS 52
#define ROUND 0x1.80000000003ffp+52
#define LOG2_E 0x1.71547652b82fep+0
#define LN2 0x1.62e42fefa39efp-1
#define LN2_HIGH 0x1.62e42fefap-1
#define LN2_LOW 0x1.cf79abc9e3b3ap-40
#define EXP_TERMS                                                                                                      \
  0x1.000000000000ap-1, 0x1.55555555554f9p-3, 0x1.55555555507f1p-5, 0x1.1111111127e87p-7, 0x1.6c16c1844afa6p-10,       \
      0x1.a01a0129b2b0cp-13, 0x1.a01999addd0e9p-16, 0x1.71df2630919d2p-19, 0x1.28adce6423653p-22,                      \
      0x1.ad7efb4a4d4eep-26
#endif

/* exp(scale * x) = *power * (1 + scale * the returned value), where scale is a power of two, or minus one: it folds
 * into the constants without rounding.
 *
 * With t = scale * x = n ln(2) + r, *power is 2^n. Adding ROUND rounds to an integer and leaves n plus the exponent
 * bias in the low bits, ready to be shifted into place; the lowest n makes *power zero, the highest infinity. ln(2)
 * comes in two parts where n may be large, to keep the relative accuracy; tanh is flat there and needs only one.
 * exp(r) - 1 = r + r^2 (..) leaves it to the caller to add the 1 last: that is what makes the results monotone, where
 * Horner's rule to the end slips by a bit now and then. Terms in pairs (Estrin) cost no more and wait half as long.
 */
INLINE vec exp_parts(vec x, vec scale, vec ln2, const vec *ln2_low, vec *power) {
  static const REAL terms[] = {EXP_TERMS};
  enum { TOP = sizeof(terms) / sizeof(*terms) - 1 };
  vec weight[TOP + 1] = {scale};
  UNROLL for (int k = 1; k <= TOP; k++) weight[k] = weight[k - 1] * scale;
  const vec shifted = vfma(x, scale * vset1(LOG2_E), vset1(ROUND));
  const vec n = shifted - vset1(ROUND);
  *power = (vec)((ivec)shifted << MANTISSA_BITS);
  vec r = vfma(n, -ln2 / scale, x); /* over scale, as the result */
  if (ln2_low)
    r = vfma(n, -*ln2_low / scale, r);
  const vec r2 = r * r;
  vec p = vset1(terms[TOP]) * weight[TOP];
  if (TOP % 2)
    p = vfma(r, p, vset1(terms[TOP - 1]) * weight[TOP - 1]);
  UNROLL for (int k = TOP / 2 * 2; k > 0; k -= 2) {
    const vec pair = vfma(r, vset1(terms[k - 1]) * weight[k - 1], vset1(terms[k - 2]) * weight[k - 2]);
    p = vfma(r2, p, pair);
  }
  return vfma(r2, p, r);
}

#define SIGMOID_LOW (REAL_BITS == 32 ? -89 : -710) /* power is infinite here, the result 0 */
#define SIGMOID_HIGH (REAL_BITS == 32 ? 88 : 709)  /* power is 0 here, the result 1 */
#define TANH_FLAT (REAL_BITS == 32 ? 10 : 20)      /* the result is 1 from here on */

/* Bounds stand before the exponential; `soon`, where the ISA can, beside it: what comes of arguments out of bounds is
 * left out of the quotient. To the same bits, two instructions more, and there 8 cycles sooner: for a lone row, where
 * all wait for one chain. */
#if defined(ISA_AVX512)
#define SOON(soon) (soon)
#define QUOTIENT(soon, a, b, x, low, high) ((soon) ? vdivide_inside(a, b, x, low, high, (vec){0}, vset1(1)) : (a) / (b))
#else
#define SOON(soon) ((void)(soon), 0)
#define QUOTIENT(soon, a, b, x, low, high) ((a) / (b))
#endif

/* 1 / (1 + exp(-x)): relative accuracy down to the smallest normal number. */
INLINE vec vsigmoid_when(vec x, int soon) {
  const vec one = vset1(1), ln2_low = vset1(LN2_LOW), low = vset1(SIGMOID_LOW), high = vset1(SIGMOID_HIGH);
  vec power;
  const vec a = SOON(soon) ? x : vmin(high, vmax(low, x));
  const vec rise = exp_parts(a, -one, vset1(LN2_HIGH), &ln2_low, &power);
  return QUOTIENT(soon, one, vfma(one - rise, power, one), x, low, high);
}

INLINE vec vsigmoid(vec x) {
  return vsigmoid_when(x, 0);
}

/* With a = |x| and m = 1 - exp(-2a): m / (2 - m). Where exp's power of two is 1, m is the rise of exp alone, so nothing
 * cancels for small a; and as m grows the numerator grows and the denominator falls, so the quotient is monotone. */
INLINE vec vtanh_when(vec x, int soon) {
  const vec one = vset1(1), two = vset1(2), high = vset1(TANH_FLAT), size = vabs(x);
  vec power;
  const vec rise = exp_parts(SOON(soon) ? size : vmin(high, size), -two, vset1(LN2), NULL, &power);
  const vec m = vfma(rise, power + power, one - power);
  const vec y = QUOTIENT(soon, m, two - m, size, (vec){0}, high);
  return (vec)((ivec)y | ((ivec)x & SIGN_BIT));
}

INLINE vec vtanh(vec x) {
  return vtanh_when(x, 0);
}

/* tanh in the lanes of `t` (-1; 0 in the others), known when this is compiled, and sigmoid in the others, to the bit:
 * one exponential and one division for gates that stand side by side. */
INLINE vec vtanh_sigmoid(vec x, ivec t, int soon) {
#define EITHER(a, b) ((vec)((t & (ivec)(a)) | (~t & (ivec)(b))))
  const vec one = vset1(1), two = vset1(2), ln2_low = EITHER((vec){0}, vset1(LN2_LOW));
  const vec low = vset1(SIGMOID_LOW), high = EITHER(vset1(TANH_FLAT), vset1(SIGMOID_HIGH));
  vec power;
  const vec size = (vec)((ivec)x & ~(t & SIGN_BIT)), a = SOON(soon) ? size : vmin(high, vmax(low, size));
  const vec rise = exp_parts(a, EITHER(-two, -one), EITHER(vset1(LN2), vset1(LN2_HIGH)), &ln2_low, &power);
  const vec m = vfma(rise, power + power, one - power);
  const vec y = QUOTIENT(soon, EITHER(m, one), EITHER(two - m, vfma(one - rise, power, one)), size, low, high);
  return (vec)((ivec)y | ((ivec)x & t & SIGN_BIT));
#undef EITHER
}

#undef SOON
#undef QUOTIENT
#undef MANTISSA_BITS
#undef ROUND
#undef LOG2_E
#undef LN2
#undef LN2_HIGH
#undef LN2_LOW
#undef EXP_TERMS
#undef SIGMOID_LOW
#undef SIGMOID_HIGH
#undef TANH_FLAT
