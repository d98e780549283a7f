/* The checks of test_activations.c for one dtype.
 *
 * Wanted: vec.inc.h and act.inc.h of the dtype; UINT, its bits as an integer; SIGNIFICAND_BITS, the hidden one
 * included; WIDE, a wider type, with WIDE_EXP() and WIDE_TANH().
 */
enum { NAME(CHUNK) = 4096 };
#define CHUNK NAME(CHUNK)
#define SIGN ((UINT)1 << (REAL_BITS - 1))
#define SMALLEST_NORMAL ((UINT)1 << (SIGNIFICAND_BITS - 1)) /* its bits; also those between powers of two */
#define INFINITY_BITS ((((UINT)1 << (REAL_BITS - SIGNIFICAND_BITS)) - 1) << (SIGNIFICAND_BITS - 1))

/* What the sweeps have found about one function. */
typedef struct {
  double worst; /* error in units in the last place */
  REAL worst_at;
  int64_t points, out_of_range, decreases, not_odd, mode_differs, tiny_wrong, soon_differs;
} NAME(tally);

static struct {
  REAL x[CHUNK], y[2][CHUNK], flushed[2][CHUNK], mirrored[2][CHUNK];
  int count;
  int joined; /* the chunk continues an ascending sweep: last[] holds the results just before it */
  REAL last[2];
  NAME(tally) tally[2];
} NAME(sweep);

static UINT NAME(bits_of)(REAL x) {
  UINT bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static REAL NAME(number_of)(UINT bits) {
  REAL x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* Keys number all floats but -0 in ascending order; key 0 is +0. */
static REAL NAME(from_key)(int64_t key) {
  return NAME(number_of)(key < 0 ? SIGN | (UINT)-key : (UINT)key);
}

static __attribute__((noinline)) void NAME(apply)(int f, REAL *y, const REAL *x, int count) {
  for (int v = 0; v < count; v += LANES)
    vstore(y + v, f == SIGMOID ? vsigmoid(vload(x + v)) : vtanh(vload(x + v)));
}

/* What a lone row takes in their place has the same bits. */
static __attribute__((noinline)) void NAME(apply_soon)(int f, REAL *y, const REAL *x, int count) {
  for (int v = 0; v < count; v += LANES)
    vstore(y + v, f == SIGMOID ? vsigmoid_when(vload(x + v), 1) : vtanh_when(vload(x + v), 1));
}

/* NaN for NaN, whichever. */
static int NAME(same)(REAL a, REAL b) {
  return NAME(bits_of)(a) == NAME(bits_of)(b) || (a != a && b != b);
}

static WIDE NAME(expected)(int f, REAL x) {
  return f == SIGMOID ? 1 / (1 + WIDE_EXP(-(WIDE)x)) : WIDE_TANH((WIDE)x);
}

/* Results that are below the normal range may be flushed; everywhere else the distance in units in the last place. */
static void NAME(check_value)(int f, REAL x, REAL y) {
  NAME(tally) *t = &NAME(sweep).tally[f];
  WIDE wanted = NAME(expected)(f, x);
  const REAL smallest = NAME(number_of)(SMALLEST_NORMAL);
  if (wanted < smallest && wanted > -smallest) {
    t->tiny_wrong += f == TANH ? y != 0 && y != x : !(y >= 0 && y <= smallest);
    return;
  }
  double ulp = ldexp(1, ilogb((double)wanted) - (SIGNIFICAND_BITS - 1));
  double error = fabs((double)(((WIDE)y - wanted) / (WIDE)ulp));
  if (!(error <= t->worst)) {
    t->worst = error;
    t->worst_at = x;
  }
}

/* With subnormal numbers off the bits are the same, but for a subnormal argument or result, which may become zero. */
static int NAME(same_or_flushed)(REAL x, REAL y, REAL flushed) {
  if (NAME(bits_of)(y) == NAME(bits_of)(flushed))
    return 1;
  int subnormal = (NAME(bits_of)(y) & ~SIGN) < SMALLEST_NORMAL || (NAME(bits_of)(x) & ~SIGN) < SMALLEST_NORMAL;
  return subnormal && (NAME(bits_of)(flushed) & ~SIGN) == 0;
}

static void NAME(flush)(void) {
  int count = NAME(sweep).count;
  if (!count)
    return;
  int padded = (count + LANES - 1) / LANES * LANES;
  REAL *x = NAME(sweep).x;
  for (int v = count; v < padded; v++)
    x[v] = 0;
  for (int f = 0; f < 2; f++) {
    REAL *y = NAME(sweep).y[f];
    NAME(tally) *t = &NAME(sweep).tally[f];
    NAME(apply)(f, y, x, padded);
    set_flush_to_zero(1);
    NAME(apply)(f, NAME(sweep).flushed[f], x, padded);
    set_flush_to_zero(0);
    static REAL minus[CHUNK];
    for (int v = 0; v < padded; v++)
      minus[v] = -x[v];
    NAME(apply)(f, NAME(sweep).mirrored[f], minus, padded);
    static REAL soon[CHUNK];
    NAME(apply_soon)(f, soon, x, padded);
    for (int v = 0; v < count; v++) {
      NAME(check_value)(f, x[v], y[v]);
      t->out_of_range += !(y[v] >= (f == SIGMOID ? 0 : -1) && y[v] <= 1);
      t->mode_differs += !NAME(same_or_flushed)(x[v], y[v], NAME(sweep).flushed[f][v]);
      t->soon_differs += !NAME(same)(soon[v], y[v]);
      t->not_odd += NAME(bits_of)(NAME(sweep).mirrored[f][v]) != (NAME(bits_of)(y[v]) ^ SIGN);
      if (v || NAME(sweep).joined)
        t->decreases += y[v] < (v ? y[v - 1] : NAME(sweep).last[f]);
    }
    t->points += count;
    NAME(sweep).last[f] = y[count - 1];
  }
  NAME(sweep).joined = 1;
  NAME(sweep).count = 0;
}

static void NAME(visit)(REAL x) {
  NAME(sweep).x[NAME(sweep).count++] = x;
  if (NAME(sweep).count == CHUNK)
    NAME(flush)();
}

/* The next number belongs to another sweep and may be smaller. */
static void NAME(end_sweep)(void) {
  NAME(flush)();
  NAME(sweep).joined = 0;
}

/* Every step-th number from the key `first` to the key `last`, both included. */
static void NAME(sweep_keys)(int64_t first, int64_t last, int64_t step) {
  uint64_t left = (uint64_t)last - (uint64_t)first; /* may be beyond int64_t */
  for (int64_t key = first; left > 0; key += step) {
    NAME(visit)(NAME(from_key)(key));
    if (left <= (uint64_t)step)
      break;
    left -= (uint64_t)step;
  }
  NAME(visit)(NAME(from_key)(last));
  NAME(end_sweep)();
}

/* `count` numbers spread evenly, each moved at random within its share, from -reach to reach. */
static void NAME(sweep_evenly)(REAL reach, int count) {
  for (int n = 0; n < count; n++)
    NAME(visit)((REAL)(((n + random_fraction()) / count * 2 - 1) * (double)reach));
  NAME(end_sweep)();
}

/* Neighbours on both sides of x, and of -x. */
static void NAME(sweep_near)(REAL x, int64_t neighbours) {
  int64_t key = (int64_t)NAME(bits_of)(x), top = (int64_t)INFINITY_BITS;
  int64_t first = key > neighbours ? key - neighbours : 0;
  int64_t last = key < top - neighbours ? key + neighbours : top;
  NAME(sweep_keys)(first, last, 1);
  NAME(sweep_keys)(-last, -first, 1);
}

static void NAME(sweep_sample)(void) {
  const int64_t top = (int64_t)INFINITY_BITS;
  NAME(sweep_keys)(-top, top, top / 500009);
  NAME(sweep_evenly)(REAL_BITS == 32 ? 110 : 760, 500000);
  NAME(sweep_evenly)(REAL_BITS == 32 ? 12 : 22, 500000);
  NAME(sweep_evenly)(1, 500000);
  for (UINT bits = 0; bits <= INFINITY_BITS; bits += SMALLEST_NORMAL) /* powers of two */
    NAME(sweep_near)(NAME(number_of)(bits), 40);
  for (int n = 0; n < 2100; n++) /* where the argument reductions of sigmoid and tanh step */
    for (int half = 1; half <= 2; half++)
      NAME(sweep_near)((REAL)((n + 0.5) * 0.69314718055994531 / half), REAL_BITS == 32 || n < 64 ? 100 : 10);
  for (int n = 0; n < 40; n++) /* long runs where neighbours share their result: a slip shows there */
    NAME(sweep_near)((REAL)ldexp(1 + random_fraction(), n % 10 - 7), 15000);
}

/* Every NaN stays one (all of them, or a sample), every infinity and zero gives its limit. */
static int64_t NAME(wrong_specials)(int f, int all) {
  int64_t wrong = 0;
  const UINT last = ~(UINT)0 & ~SIGN;
  const UINT step = all ? 1 : SMALLEST_NORMAL / 10007;
  REAL x[CHUNK], y[CHUNK];
  int count = 0;
  for (UINT bits = INFINITY_BITS + 1;; bits += step) {
    x[count++] = NAME(number_of)(bits);
    x[count++] = NAME(number_of)(bits | SIGN);
    int done = last - bits < step;
    if (count == CHUNK || done) {
      while (count % LANES)
        x[count++] = NAME(number_of)(last);
      REAL soon[CHUNK];
      NAME(apply)(f, y, x, count);
      NAME(apply_soon)(f, soon, x, count);
      for (int v = 0; v < count; v++)
        wrong += y[v] == y[v] || soon[v] == soon[v];
      count = 0;
    }
    if (done)
      break;
  }
  const REAL infinity = NAME(number_of)(INFINITY_BITS), largest = NAME(number_of)(INFINITY_BITS - 1);
  const REAL limits[][3] = {{infinity, 1, 1},  {-infinity, 0, -1}, {largest, 1, 1},
                            {-largest, 0, -1}, {0, (REAL)0.5, 0},  {-(REAL)0, (REAL)0.5, -(REAL)0}};
  for (int n = 0; n < (int)(sizeof limits / sizeof *limits); n++) {
    for (int v = 0; v < LANES; v++)
      x[v] = limits[n][0];
    for (int off = 0; off < 2; off++) {
      set_flush_to_zero(off);
      REAL soon[LANES];
      NAME(apply)(f, y, x, LANES);
      NAME(apply_soon)(f, soon, x, LANES);
      set_flush_to_zero(0);
      for (int v = 0; v < LANES; v++)
        wrong +=
            NAME(bits_of)(soon[v]) != NAME(bits_of)(y[v]) || NAME(bits_of)(y[v]) != NAME(bits_of)(limits[n][1 + f]);
    }
  }
  return wrong;
}

static void NAME(run)(int all, const double bound[2]) {
  memset(&NAME(sweep), 0, sizeof NAME(sweep));
  if (all)
    NAME(sweep_keys)(-(int64_t)INFINITY_BITS, (int64_t)INFINITY_BITS, 1);
  else
    NAME(sweep_sample)();
  for (int f = 0; f < 2; f++) {
    const NAME(tally) *t = &NAME(sweep).tally[f];
    char what[100];
    snprintf(what, sizeof what, "error %.3f ulp at %a, at most %.2f", t->worst, (double)t->worst_at, bound[f]);
    report(REAL_BITS, f, what, !(t->worst <= bound[f]));
    snprintf(what, sizeof what, "range, over %" PRId64 " arguments", t->points);
    report(REAL_BITS, f, what, t->out_of_range);
    report(REAL_BITS, f, "monotone", t->decreases);
    if (f == TANH)
      report(REAL_BITS, f, "odd to the bit", t->not_odd);
    report(REAL_BITS, f, "same bits with the bounds beside the chain", t->soon_differs);
    report(REAL_BITS, f, "results below the normal range", t->tiny_wrong);
    report(REAL_BITS, f, "same bits with subnormal numbers off", t->mode_differs);
    report(REAL_BITS, f, "NaN, infinities, zeros", NAME(wrong_specials)(f, all));
  }
}

#undef CHUNK
#undef SIGN
#undef SMALLEST_NORMAL
#undef INFINITY_BITS
