/* The LSTM cell on registers: the pointwise half of a step, forward and backward. Tags: docs/math.md. */

#ifndef CELL_GATES
#define CELL_GATES
#define GATES 4                 /* sums that a unit has: i, f, g, o */
#define MATRIX_GATES 4          /* of which each of weight_ih and weight_hh feeds so many: the first, the last ones */
#define SAVED 4                 /* vectors of gates on the tape */
#define IH_ROWS {0, 1, 2, 3}    /* block of rows of weight_ih that feeds each sum */
#define HAS_CELL_STATE 1        /* c, whose gradient is carried from step to step */
#define CARRIES_H 0             /* part of the gradient at h that goes past weight_hh */
#define READS_H_PREV 0          /* the pointwise half needs h_{t-1} */
#define READS_H 0               /* the backward pass needs h_t */
#define HAS_SECOND 1          /* a step may have a second product */
#define CANDIDATE_ALONE 0     /* with reset_before that is the candidate's sum */
#define HAS_LONE 1            /* lone.inc.h is of this cell */
#define HAS_PAIRS 1           /* a few rows more than fit a tile take the gates two by two */
#define HAS_TAIL 1            /* the units of a last block, if few, have their gates side by side */
#endif

#include "activate.inc.h"

/* Gates and cell state of LANES hidden units of one row. */
typedef struct {
  vec i, f, g, o, c;
} NAME(lstm_step);

/* z[0..3] hold b + W_ih x + W_hh h_prev of gates i,f,g,o; p is NULL or peephole weights [i,f,o][LANES]. */
INLINE NAME(lstm_step) NAME(lstm_cell)(const vec z[4], vec c_prev, const REAL *p) {
  NAME(lstm_step) s;
  vec z_i = z[0], z_f = z[1], z_g = z[2], z_o = z[3];
  if (p) {
    z_i = vfma(vload(p), c_prev, z_i);         /* (L1) */
    z_f = vfma(vload(p + LANES), c_prev, z_f); /* (L2) */
  }
  s.i = vsigmoid(z_i);                         /* (L4) */
  s.f = vsigmoid(z_f);                         /* (L5) */
  s.g = vtanh(z_g);                            /* (L3) (L6) */
  s.c = vfma(s.f, c_prev, s.i * s.g);          /* (L7) */
  if (p)
    z_o = vfma(vload(p + 2 * LANES), s.c, z_o); /* (L8) */
  s.o = vsigmoid(z_o);                          /* (L9) */
  return s;
}

/* The gates of the units in a tail (pack.inc.h) from their sums, in the first lanes of four vectors: as lstm_cell() has
 * them without peepholes. (L4) (L5) (L6) (L9) */
INLINE void NAME(tail_gates)(int tail, const vec *sum, vec gates[4], int soon) {
  enum { QUARTER = LANES / 4, HALF = LANES / 2 };
  ivec t = {0};
  UNROLL for (int l = 0; l < LANES; l++) t[l] = -(tail == 1 ? l * 4 / LANES == 2 : l < HALF);
  if (tail == 1) {
    vec y = vtanh_sigmoid(sum[0], t, soon);
    gates[0] = y, gates[1] = TURNED(y, QUARTER), gates[2] = TURNED(y, HALF), gates[3] = TURNED(y, 3 * QUARTER);
  } else {
    vec y = vsigmoid_when(sum[0], soon), u = vtanh_sigmoid(sum[1], t, soon);
    gates[0] = y, gates[1] = TURNED(y, HALF), gates[2] = u, gates[3] = TURNED(u, HALF);
  }
}

/* lstm_cell() with other activations, a coupled forget gate, a clipped cell state. */
NOINLINE NAME(lstm_step)
    NAME(lstm_special)(vec z_i, vec z_f, vec z_g, vec z_o, vec c_prev, const REAL *p, const cell_options *o) {
  NAME(lstm_step) s;
  const vec bound = vset1((REAL)o->clip);
  if (p) {
    z_i = vfma(vload(p), c_prev, z_i);
    z_f = vfma(vload(p + LANES), c_prev, z_f);
  }
  s.i = NAME(activate)(z_i, o->gate);
  s.f = o->coupled ? vset1(1) - s.i : NAME(activate)(z_f, o->gate);
  s.g = NAME(activate)(z_g, o->candidate);
  s.c = vfma(s.f, c_prev, s.i * s.g);
  if (o->clip > 0)
    s.c = vmin(bound, vmax(-bound, s.c));
  if (p)
    z_o = vfma(vload(p + 2 * LANES), s.c, z_o);
  s.o = NAME(activate)(z_o, o->gate);
  return s;
}

/* From pre-activations to gates (for the tape) and cell state; leaves in z what cell_leave() needs. */
INLINE void NAME(cell_enter)(vec z[GATES], vec saved[4], vec *c, vec h_prev, const REAL *p, const cell_options *o) {
  (void)h_prev;
  NAME(lstm_step) s;
  if (__builtin_expect(o->special, 0))
    s = NAME(lstm_special)(z[0], z[1], z[2], z[3], *c, p, o);
  else
    s = NAME(lstm_cell)(z, *c, p);
  saved[0] = s.i, saved[1] = s.f, saved[2] = s.g, saved[3] = s.o;
  z[0] = s.o;
  z[1] = *c = s.c;
}

INLINE vec NAME(cell_leave)(const vec z[GATES], const cell_options *o) {
  if (__builtin_expect(o->special, 0))
    return z[0] * NAME(activate)(z[1], o->output);
  return z[0] * vtanh(z[1]); /* (L10) */
}

/* What the projection makes of its sum. */
INLINE vec NAME(cell_second)(vec sum, vec saved[4], vec h_prev, const cell_options *o) {
  (void)saved, (void)h_prev;
  const vec bound = vset1((REAL)o->proj_clip);
  return o->proj_clip > 0 ? vmin(bound, vmax(-bound, sum)) : sum; /* (L25) */
}

/* c_t before zoneout, from the tape. */
INLINE vec NAME(cell_next)(const vec saved[4], vec c_prev, const cell_options *o) {
  const vec bound = vset1((REAL)o->clip), c = vfma(saved[1], c_prev, saved[0] * saved[2]);
  return o->clip > 0 ? vmin(bound, vmax(-bound, c)) : c;
}

/* What a step's gradients are multiplied by: known from the tape alone, so that a lone row can compute it while the
 * recursion is still waiting for step t+1. */
typedef struct {
  vec z_i, z_f, z_g, z_o; /* dz_i / dc, dz_f / dc, dz_g / dc, dz_o / dh */
  vec c, f;               /* dc / dh without peephole, dc_{t-1} / dc without peepholes */
} NAME(cell_slopes);

/* With lstm_special(). Nothing flows through a cell state that stands at its bound. (L33) */
NOINLINE NAME(cell_slopes) NAME(special_slopes)(vec i, vec f, vec g, vec o, vec c, vec c_prev, const cell_options *a) {
  NAME(cell_slopes) d;
  const vec zero = vset1(0), y = NAME(activate)(c, a->output);
  const vec inside = a->clip > 0 ? vselect_lt(vabs(c), vset1((REAL)a->clip), vset1(1), c - c) : vset1(1);
  d.z_o = y * NAME(slope)(o, a->gate);
  d.c = o * NAME(slope)(y, a->output);
  d.z_i = (a->coupled ? g - c_prev : g) * NAME(slope)(i, a->gate) * inside;
  d.z_f = a->coupled ? zero : c_prev * NAME(slope)(f, a->gate) * inside;
  d.z_g = i * NAME(slope)(g, a->candidate) * inside;
  d.f = f * inside;
  return d;
}

INLINE NAME(cell_slopes)
    NAME(cell_slopes_of)(const vec saved[4], vec c, vec c_prev, vec h, vec h_prev, const cell_options *a) {
  (void)h, (void)h_prev;
  if (__builtin_expect(a->special, 0))
    return NAME(special_slopes)(saved[0], saved[1], saved[2], saved[3], c, c_prev, a);
  NAME(cell_slopes) d;
  const vec one = vset1(1), i = saved[0], f = saved[1], g = saved[2], o = saved[3];
  vec tanh_c = vtanh(c);
  d.z_o = tanh_c * (o * (one - o));        /* (L12) */
  d.c = o * vfma(-tanh_c, tanh_c, one);    /* (L13) */
  d.z_i = g * (i * (one - i));             /* (L14) */
  d.z_f = c_prev * (f * (one - f));        /* (L15) */
  d.z_g = i * vfma(-g, g, one);            /* (L16) */
  d.f = f;                                 /* (L17) */
  return d;
}

/* Gradients of LANES hidden units of one row: at the pre-activations, at h_t and c_t, and what step t-1 gets apart from
 * the product with weight_hh. */
typedef struct {
  vec z[GATES], h, c, carry;
} NAME(cell_gradient);

/* dh: gradient that reaches h_t (L11); carry: what comes from step t+1 for c_t. */
INLINE NAME(cell_gradient)
    NAME(cell_backward)(const NAME(cell_slopes) * s, vec dh, vec carry, const REAL *p, const NAME(step_clip) * clip) {
  NAME(cell_gradient) d;
  vec z_o = NAME(clipped)(clip, BPTT_CLIP_GATES, dh * s->z_o); /* (L12) */
  vec c = vfma(dh, s->c, carry);                /* (L13) */
  if (p)
    c = vfma(vload(p + 2 * LANES), z_o, c);     /* (L13) */
  vec z_i = NAME(clipped)(clip, BPTT_CLIP_GATES, c * s->z_i);  /* (L14) */
  vec z_f = NAME(clipped)(clip, BPTT_CLIP_GATES, c * s->z_f);  /* (L15) */
  d.z[2] = NAME(clipped)(clip, BPTT_CLIP_GATES, c * s->z_g);   /* (L16) */
  d.carry = c * s->f;                           /* (L17) */
  if (p)
    d.carry = vfma(vload(p + LANES), z_f, vfma(vload(p), z_i, d.carry)); /* (L17) */
  d.z[0] = z_i, d.z[1] = z_f, d.z[3] = z_o, d.h = dh, d.c = c;
  return d;
}
