/* The GRU cell on registers, the reset gate after the product with weight_hh: pointwise half of a step. Tags:
 * docs/math.md.
 *
 * The candidate has two sums, n of the input and m of the recurrence, which r scales. They stand at the ends, n, r, z,
 * m: so weight_ih feeds the first three and weight_hh the last three.
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
#endif

INLINE void NAME(cell_enter)(vec z[GATES], vec saved[4], vec *c, vec h_prev, const REAL *p, const cell_options *o) {
  (void)c, (void)p, (void)o;
  vec r = vsigmoid(z[1]);              /* (G1) (G5) */
  vec u = vsigmoid(z[2]);              /* (G2) (G6) */
  vec n = vtanh(vfma(r, z[3], z[0]));  /* (G3) (G4) (G7) */
  saved[0] = r, saved[1] = u, saved[2] = n, saved[3] = z[3];
  z[0] = vfma(u, h_prev - n, n);       /* (G8) */
}

INLINE vec NAME(cell_leave)(const vec z[GATES], const cell_options *o) {
  (void)o;
  return z[0];
}

typedef struct {
  vec n, r, z;   /* dz_n / dh, dz_r / dz_n, dz_z / dh */
  vec reset, u;  /* dz_m / dz_n, dh_{t-1} / dh past weight_hh */
} NAME(cell_slopes);

INLINE NAME(cell_slopes)
    NAME(cell_slopes_of)(const vec saved[4], vec c, vec c_prev, vec h, vec h_prev, const cell_options *o) {
  (void)c, (void)c_prev, (void)h, (void)o;
  NAME(cell_slopes) d;
  const vec one = vset1(1), r = saved[0], u = saved[1], n = saved[2], m = saved[3];
  d.z = (h_prev - n) * (u * (one - u));          /* (G10) */
  d.n = (one - u) * vfma(-n, n, one);            /* (G11) */
  d.reset = r;                                   /* (G12) */
  d.r = m * (r * (one - r));                     /* (G13) */
  d.u = u;                                       /* (G14) */
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
