/* The LSTM cell on registers: the pointwise half of a step, forward and backward. Tags: docs/math.md. */

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

INLINE vec NAME(lstm_hidden)(vec o, vec c) {
  return o * vtanh(c); /* (L10) */
}

/* What a step's gradients are multiplied by: known from the tape alone, so that a lone row can compute it while the
 * recursion is still waiting for step t+1. */
typedef struct {
  vec z_i, z_f, z_g, z_o; /* dz_i / dc, dz_f / dc, dz_g / dc, dz_o / dh */
  vec c, f;               /* dc / dh without peephole, dc_{t-1} / dc without peepholes */
} NAME(lstm_slopes);

INLINE NAME(lstm_slopes) NAME(lstm_cell_slopes)(const NAME(lstm_step) * s, vec c_prev) {
  NAME(lstm_slopes) d;
  const vec one = vset1(1);
  vec tanh_c = vtanh(s->c);
  d.z_o = tanh_c * (s->o * (one - s->o));   /* (L12) */
  d.c = s->o * vfma(-tanh_c, tanh_c, one);  /* (L13) */
  d.z_i = s->g * (s->i * (one - s->i));     /* (L14) */
  d.z_f = c_prev * (s->f * (one - s->f));   /* (L15) */
  d.z_g = s->i * vfma(-s->g, s->g, one);    /* (L16) */
  d.f = s->f;                               /* (L17) */
  return d;
}

/* Gradients at the pre-activations, and at c_t and c_{t-1}, of LANES hidden units of one row. */
typedef struct {
  vec z_i, z_f, z_g, z_o, c, c_prev;
} NAME(lstm_step_gradient);

/* dh: gradient that reaches h_t (L11); dc_rec: what comes from step t+1. */
INLINE NAME(lstm_step_gradient)
    NAME(lstm_cell_backward)(const NAME(lstm_slopes) * s, vec dh, vec dc_rec, const REAL *p) {
  NAME(lstm_step_gradient) d;
  d.z_o = dh * s->z_o;                            /* (L12) */
  d.c = vfma(dh, s->c, dc_rec);                   /* (L13) */
  if (p)
    d.c = vfma(vload(p + 2 * LANES), d.z_o, d.c); /* (L13) */
  d.z_i = d.c * s->z_i;                           /* (L14) */
  d.z_f = d.c * s->z_f;                           /* (L15) */
  d.z_g = d.c * s->z_g;                           /* (L16) */
  d.c_prev = d.c * s->f;                          /* (L17) */
  if (p)
    d.c_prev = vfma(vload(p + LANES), d.z_f, vfma(vload(p), d.z_i, d.c_prev)); /* (L17) */
  return d;
}
