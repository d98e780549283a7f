/* Draws on registers (draw.h) and what hangs on them: dropout of h_{t-1}, zoneout. Tags: docs/math.md. */

#include "draw.h"

#undef DRAW_MASK
#if REAL_BITS == 32
typedef uint32_t NAME(uvec) __attribute__((vector_size(VEC_BYTES)));
#define DRAW_MASK ~(NAME(uvec)){0}
#else
typedef uint64_t NAME(uvec) __attribute__((vector_size(VEC_BYTES)));
#define DRAW_MASK ((NAME(uvec)){0} + UINT32_MAX)
#endif

/* hit or miss for LANES elements from `element` on. */
INLINE vec NAME(draw)(uint64_t key, uint32_t bound, int64_t element, vec hit, vec miss) {
  typedef NAME(uvec) uvec;
  const uvec low = (uvec){0} + (uint32_t)key, high = (uvec){0} + (uint32_t)(key >> 32), mask = DRAW_MASK;
  uvec x;
  for (int lane = 0; lane < LANES; lane++)
    x[lane] = lane;
  x = ((x + (uint32_t)element) & mask) ^ low;
  x = (x * UINT32_C(0x9E3779B1)) & mask;               /* (D6) */
  x = ((x ^ (x >> 15)) + high) & mask;                 /* (D7) */
  x = (x * UINT32_C(0x85EBCA77)) & mask;               /* (D8) */
  x = ((x ^ (x >> 13)) * UINT32_C(0xC2B2AE3D)) & mask; /* (D9) */
  x ^= x >> 16;                                        /* (D10) */
  const ivec is_hit = (ivec)(x < ((uvec){0} + bound)); /* (D11) */
  return (vec)((is_hit & (ivec)hit) | (~is_hit & (ivec)miss));
}

/* What zoneout at one step goes by. */
typedef struct {
  int on, draws;
  double share;
  uint64_t c, h; /* keys */
} NAME(zone);

static void NAME(enter_zone)(NAME(zone) * zone, const bptt_problem *p, int64_t t) {
  if (p->zoneout > 0)
    *zone = (NAME(zone)){1, p->draws, p->zoneout, draw_key(p->seed, DRAW_ZONE_C, p->first_step + t),
                         draw_key(p->seed, DRAW_ZONE_H, p->first_step + t)};
}

/* How much of each element stays as it was: 0 or 1 when drawn, else their mean. (L26) */
NOINLINE vec NAME(zone_kept)(const NAME(zone) * z, uint64_t key, int64_t element) {
  return z->draws ? NAME(draw)(key, draw_bound(z->share), element, vset1(1), vset1(0)) : vset1((REAL)z->share);
}

/* kept * last + (1 - kept) * next */
INLINE vec NAME(zone_mix)(vec kept, vec last, vec next) {
  return vfma(kept, last, (vset1(1) - kept) * next);
}

/* Whether the product with weight_hh sees only a part of h_{t-1}. */
INLINE int NAME(drops)(const bptt_problem *p) {
  return p->draws && p->recurrent_dropout > 0;
}

/* What h_{t-1} of rows [rows.begin, rows.end) is multiplied by, (B, W). (L24) */
static void NAME(draw_dropout)(const bptt_problem *p, REAL *mask, range rows) {
  const uint64_t key = draw_key(p->seed, DRAW_RECURRENT, 0);
  const uint32_t bound = draw_bound(p->recurrent_dropout);
  const vec kept = vset1((REAL)(1 / (1 - p->recurrent_dropout)));
  const int64_t W = width_of(p), end = rows.end * W;
  for (int64_t n = rows.begin * W; n < end; n += LANES)
    vstore_n(mask + n, NAME(draw)(key, bound, n, vset1(0), kept), (int)min_i64(LANES, end - n));
}

/* to = from * mask, `count` numbers. */
static void NAME(apply_mask)(REAL *to, const REAL *from, const REAL *mask, int64_t count) {
  for (int64_t n = 0; n < count; n += LANES) {
    int lanes = (int)min_i64(LANES, count - n);
    vstore_n(to + n, vload_n(from + n, lanes) * vload_n(mask + n, lanes), lanes);
  }
}
