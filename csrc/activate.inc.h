/* Activations chosen at run time, and their slopes. Wanted: act.inc.h. */

/* Any activation, and its slope as a function of the activated value. Not inlined: the usual ones are, above. */
NOINLINE vec NAME(activate)(vec x, int activation) {
  const vec zero = vset1(0), one = vset1(1);
  switch (activation) {
  case BPTT_SIGMOID:
    return vsigmoid(x);
  case BPTT_HARD_SIGMOID:
    return vmin(one, vmax(zero, vfma(vset1((REAL)0.2), x, vset1((REAL)0.5))));
  case BPTT_TANH:
    return vtanh(x);
  case BPTT_RELU:
    return vmax(zero, x);
  case BPTT_SOFTSIGN:
    return x / (one + vabs(x));
  default:
    return x;
  }
}

NOINLINE vec NAME(slope)(vec y, int activation) {
  const vec zero = vset1(0), one = vset1(1);
  switch (activation) {
  case BPTT_SIGMOID:
    return y * (one - y);
  case BPTT_HARD_SIGMOID: /* y - y: 0, or NaN where y is one */
    return vselect_lt(zero, y, vselect_lt(y, one, vset1((REAL)0.2), zero), y - y);
  case BPTT_TANH:
    return vfma(-y, y, one);
  case BPTT_RELU:
    return vselect_lt(zero, y, one, y - y);
  case BPTT_SOFTSIGN:
    return (one - vabs(y)) * (one - vabs(y));
  default:
    return one;
  }
}
