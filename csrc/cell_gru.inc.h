/* The GRU cell on registers: pointwise half of a step. Tags: docs/math.md.
 *
 * The candidate has two sums, n of the input and m of the recurrence, which r scales. They stand at the ends, n, r, z,
 * m: so weight_ih feeds the first three and weight_hh the last three. With reset_before r scales h_{t-1} instead, and
 * what weight_hh adds to n is a product of its own: m stands for r * h_{t-1} then.
 */

#ifndef CELL_GATES
#define CELL_GATES
#define GATES 4
#define MATRIX_GATES 3
#define SAVED 4 /* r, z, n, m */
#define IH_ROWS {2, 0, 1}
#define HAS_CELL_STATE 0
#define CARRIES_H 1
#define READS_H_PREV 1
#define READS_H 0
#define HAS_SECOND 1
#define CANDIDATE_ALONE 1
#define HAS_LONE 0
#define HAS_PAIRS 0           /* a few rows more than fit a tile take the gates two by two */
#define HAS_TAIL 0            /* the units of a last block, if few, have their gates side by side */
#endif

INLINE void NAME(cell_enter)(vec z[GATES], vec saved[4], vec *c, vec h_prev, const REAL *p, const cell_options *o) {
  (void)c, (void)p;
  vec r = vsigmoid(z[1]);              /* (G1) (G5) */
  vec u = vsigmoid(z[2]);              /* (G2) (G6) */
  if (__builtin_expect(o->reset_before, 0)) {
    saved[0] = r, saved[1] = u, saved[2] = z[0], saved[3] = r * h_prev; /* (G21) */
    return;
  }
  vec n = vtanh(vfma(r, z[3], z[0]));  /* (G3) (G4) (G7) */
  saved[0] = r, saved[1] = u, saved[2] = n, saved[3] = z[3];
  z[0] = vfma(u, h_prev - n, n);       /* (G8) */
}

INLINE vec NAME(cell_leave)(const vec z[GATES], const cell_options *o) {
  (void)o;
  return z[0];
}

/* h_t from the candidate's recurrent sum; the tape gets the candidate. */
INLINE vec NAME(cell_second)(vec sum, vec saved[4], vec h_prev, const cell_options *o) {
  (void)o;
  vec n = vtanh(saved[2] + sum); /* (G22) */
  saved[2] = n;
  return vfma(saved[1], h_prev - n, n); /* (G8) */
}

typedef struct {
  vec n, r, z;   /* dz_n / dh, dz_r / dz_n, dz_z / dh */
  vec reset, u;  /* dz_m / dz_n, dh_{t-1} / dh past weight_hh */
} NAME(cell_slopes);

INLINE NAME(cell_slopes)
    NAME(cell_slopes_of)(const vec saved[4], vec c, vec c_prev, vec h, vec h_prev, const cell_options *o) {
  (void)c, (void)c_prev, (void)h;
  NAME(cell_slopes) d;
  const vec one = vset1(1), r = saved[0], u = saved[1], n = saved[2], m = saved[3];
  d.z = (h_prev - n) * (u * (one - u));          /* (G10) */
  d.n = (one - u) * vfma(-n, n, one);            /* (G11) */
  d.reset = r;                                   /* (G12) */
  d.r = m * (r * (one - r));                     /* (G13) */
  d.u = u;                                       /* (G14) */
  if (__builtin_expect(o->reset_before, 0)) {
    d.reset = one; /* dz_n stands in the place of m too: it is what weight_hh and its bias get */
    d.r = (vec){0}; /* comes with the second product */
  }
  return d;
}

typedef struct {
  vec z[GATES], h, c, carry;
} NAME(cell_gradient);

INLINE NAME(cell_gradient)
    NAME(cell_backward)(const NAME(cell_slopes) * s, vec dh, vec carry, const REAL *p, const NAME(step_clip) * clip) {
  NAME(cell_gradient) d;
  (void)carry, (void)p;
  d.h = dh;                                                   /* (G9) */
  d.z[2] = NAME(clipped)(clip, BPTT_CLIP_GATES, dh * s->z);   /* (G10) */
  d.z[0] = NAME(clipped)(clip, BPTT_CLIP_GATES, dh * s->n);   /* (G11) */
  d.z[3] = d.z[0] * s->reset;                                 /* (G12) */
  d.z[1] = NAME(clipped)(clip, BPTT_CLIP_GATES, d.z[0] * s->r); /* (G13) */
  d.carry = dh * s->u;                                        /* (G14) */
  d.c = d.carry;
  return d;
}

/* With reset_before: dz_r of the gradient at r * h_{t-1}, which is scaled by r on its way to h_{t-1}. */
INLINE vec NAME(cell_reset)(vec d_middle, vec r, vec h_prev) {
  return (d_middle * h_prev) * (r * (vset1(1) - r)); /* (G24) */
}
