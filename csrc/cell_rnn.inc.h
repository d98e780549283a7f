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
#define HAS_SECOND 0
#define CANDIDATE_ALONE 0
#define HAS_LONE 0
#define HAS_PAIRS 0           /* a few rows more than fit a tile take the gates two by two */
#define HAS_TAIL 0            /* the units of a last block, if few, have their gates side by side */
#endif

#include "activate.inc.h"

INLINE void NAME(cell_enter)(vec z[GATES], vec saved[4], vec *c, vec h_prev, const REAL *p, const cell_options *o) {
  (void)saved, (void)c, (void)h_prev, (void)p;
  z[0] = o->special ? NAME(activate)(z[0], o->gate) : vtanh(z[0]); /* (R1) (R2) */
}

INLINE vec NAME(cell_leave)(const vec z[GATES], const cell_options *o) {
  (void)o;
  return z[0];
}

typedef struct {
  vec z; /* dz / dh */
} NAME(cell_slopes);

INLINE NAME(cell_slopes)
    NAME(cell_slopes_of)(const vec saved[4], vec c, vec c_prev, vec h, vec h_prev, const cell_options *o) {
  (void)saved, (void)c, (void)c_prev, (void)h_prev;
  NAME(cell_slopes) d = {o->special ? NAME(slope)(h, o->gate) : vfma(-h, h, vset1(1))}; /* (R4) */
  return d;
}

typedef struct {
  vec z[GATES], h, c, carry;
} NAME(cell_gradient);

INLINE NAME(cell_gradient)
    NAME(cell_backward)(const NAME(cell_slopes) * s, vec dh, vec carry, const REAL *p, const NAME(step_clip) * clip) {
  (void)carry, (void)p;
  NAME(cell_gradient) d = {{NAME(clipped)(clip, BPTT_CLIP_GATES, dh * s->z)}, dh, dh, (vec){0}}; /* (R3) (R4) */
  return d;
}
