/* The plain recurrent cell on registers: pointwise half of a step. Tags: docs/math.md. */

#ifndef CELL_GATES
#define CELL_GATES
#define GATES 1
#define MATRIX_GATES 1
#define SAVED 0
#define IH_ROWS {0}
#define HAS_CELL_STATE 0
#define CARRIES_H 0
#define READS_H_PREV 0
#define READS_H 1
#endif

INLINE void NAME(cell_enter)(vec z[GATES], vec saved[4], vec *c, vec h_prev, const REAL *p, int activation) {
  (void)saved, (void)c, (void)h_prev, (void)p;
  if (activation == BPTT_TANH) /* (R1) (R2) */
    z[0] = vtanh(z[0]);
  else if (activation == BPTT_RELU)
    z[0] = vmax(vset1(0), z[0]);
}

INLINE vec NAME(cell_leave)(const vec z[GATES]) {
  return z[0];
}

typedef struct {
  vec z; /* dz / dh */
} NAME(cell_slopes);

INLINE NAME(cell_slopes)
    NAME(cell_slopes_of)(const vec saved[4], vec c, vec c_prev, vec h, vec h_prev, int activation) {
  (void)saved, (void)c, (void)c_prev, (void)h_prev;
  NAME(cell_slopes) d = {vset1(1)};
  if (activation == BPTT_TANH) /* (R4) */
    d.z = vfma(-h, h, vset1(1));
  else if (activation == BPTT_RELU)
    d.z = vselect_lt(vset1(0), h, vset1(1), h - h); /* h - h: 0, or NaN where h is one */
  return d;
}

typedef struct {
  vec z[GATES], h, c, carry;
} NAME(cell_gradient);

INLINE NAME(cell_gradient) NAME(cell_backward)(const NAME(cell_slopes) * s, vec dh, vec carry, const REAL *p) {
  (void)carry, (void)p;
  NAME(cell_gradient) d = {{dh * s->z}, dh, dh, (vec){0}}; /* (R3) (R4) */
  return d;
}
