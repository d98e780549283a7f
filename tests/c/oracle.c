/* See oracle.h. One row and one unit at a time, nothing shared with the library. */
#include "oracle.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static double sigmoid(double z) {
  return 1 / (1 + exp(-z));
}

/* What enters gate number `gate` of unit j but for the peephole. */
static double enters(const sizes *s, double *const a[ARRAYS], int gate, int64_t j, const double *x, const double *h) {
  int64_t row = gate * s->H + j;
  double z = a[BIAS_IH][row] + a[BIAS_HH][row];
  for (int64_t k = 0; k < s->I; k++)
    z += a[WEIGHT_IH][row * s->I + k] * x[k];
  for (int64_t k = 0; k < s->H; k++)
    z += a[WEIGHT_HH][row * s->H + k] * h[k];
  return z;
}

/* Row b before step t: of h_0, or of the output of step t-1; and likewise c. */
static const double *before(const sizes *s, const double *first, const double *all, int64_t t, int64_t b) {
  return t ? all + ((t - 1) * s->B + b) * s->H : first + b * s->H;
}

static void forward_row(const sizes *s, double *const a[ARRAYS], int64_t t, int64_t b) {
  int64_t H = s->H, token = t * s->B + b;
  const double *x = a[X] + token * s->I, *p = a[PEEPHOLE];
  const double *h_prev = before(s, a[H_0], a[OUTPUT], t, b), *c_prev = before(s, a[C_0], a[CELLS], t, b);
  double *gates = a[GATES] + token * 4 * H;
  for (int64_t j = 0; j < H; j++) {
    double i = sigmoid(enters(s, a, 0, j, x, h_prev) + p[j] * c_prev[j]);
    double f = sigmoid(enters(s, a, 1, j, x, h_prev) + p[H + j] * c_prev[j]);
    double g = tanh(enters(s, a, 2, j, x, h_prev));
    double c = f * c_prev[j] + i * g;
    double o = sigmoid(enters(s, a, 3, j, x, h_prev) + p[2 * H + j] * c);
    gates[j] = i;
    gates[H + j] = f;
    gates[2 * H + j] = g;
    gates[3 * H + j] = o;
    a[CELLS][token * H + j] = c;
    a[OUTPUT][token * H + j] = o * tanh(c);
  }
}

/* The pointwise half of one row: dz (4, H) from d_hidden of this row; d_c (H) is c's gradient from t+1, then to t-1. */
static void backward_units(const sizes *s, double *const a[ARRAYS], int64_t t, int64_t b, double *dz, double *d_c) {
  int64_t H = s->H, token = t * s->B + b;
  const double *gates = a[GATES] + token * 4 * H, *c_prev = before(s, a[C_0], a[CELLS], t, b), *p = a[PEEPHOLE];
  for (int64_t j = 0; j < H; j++) {
    double i = gates[j], f = gates[H + j], g = gates[2 * H + j], o = gates[3 * H + j];
    double dh = a[D_HIDDEN][token * H + j], c = a[CELLS][token * H + j], tanh_c = tanh(c);
    dz[3 * H + j] = dh * tanh_c * o * (1 - o);
    double dc = d_c[j] + dh * o * (1 - tanh_c * tanh_c) + p[2 * H + j] * dz[3 * H + j];
    dz[j] = dc * g * i * (1 - i);
    dz[H + j] = dc * c_prev[j] * f * (1 - f);
    dz[2 * H + j] = dc * i * (1 - g * g);
    a[D_CELLS][token * H + j] = dc;
    d_c[j] = dc * f + p[j] * dz[j] + p[H + j] * dz[H + j];
    a[D_PEEPHOLE][j] += dz[j] * c_prev[j];
    a[D_PEEPHOLE][H + j] += dz[H + j] * c_prev[j];
    a[D_PEEPHOLE][2 * H + j] += dz[3 * H + j] * c;
  }
}

static void backward_row(const sizes *s, double *const a[ARRAYS], int64_t t, int64_t b, double *dz) {
  int64_t H = s->H, I = s->I, token = t * s->B + b;
  const double *x = a[X] + token * I, *h_prev = before(s, a[H_0], a[OUTPUT], t, b);
  double *d_x = a[D_X] + token * I, *d_h = a[D_H_0] + b * H;
  for (int64_t j = 0; j < H; j++)
    a[D_HIDDEN][token * H + j] = a[D_OUTPUT][token * H + j] + d_h[j];
  backward_units(s, a, t, b, dz, a[D_C_0] + b * H);
  memset(d_h, 0, (size_t)H * sizeof(double));
  for (int64_t row = 0; row < 4 * H; row++) {
    for (int64_t k = 0; k < H; k++) {
      d_h[k] += a[WEIGHT_HH][row * H + k] * dz[row];
      a[D_WEIGHT_HH][row * H + k] += dz[row] * h_prev[k];
    }
    for (int64_t k = 0; k < I; k++) {
      d_x[k] += a[WEIGHT_IH][row * I + k] * dz[row];
      a[D_WEIGHT_IH][row * I + k] += dz[row] * x[k];
    }
    a[D_BIAS_IH][row] += dz[row];
  }
}

void oracle_run(const sizes *s, double *const a[ARRAYS]) {
  size_t state = (size_t)(s->B * s->H) * sizeof(double);
  for (int64_t token = 0; token < s->T * s->B; token++)
    forward_row(s, a, token / s->B, token % s->B);
  for (int64_t b = 0; b < s->B; b++) {
    memcpy(a[H_N] + b * s->H, before(s, a[H_0], a[OUTPUT], s->T, b), (size_t)s->H * sizeof(double));
    memcpy(a[C_N] + b * s->H, before(s, a[C_0], a[CELLS], s->T, b), (size_t)s->H * sizeof(double));
  }
  for (int array = D_X; array < ARRAYS; array++)
    memset(a[array], 0, (size_t)array_count(s, array) * sizeof(double));
  memcpy(a[D_H_0], a[D_H_N], state); /* from here on what comes from the step after */
  memcpy(a[D_C_0], a[D_C_N], state);
  double *dz = malloc((size_t)(4 * s->H) * sizeof(double));
  for (int64_t token = s->T * s->B; token-- > 0;)
    backward_row(s, a, token / s->B, token % s->B, dz);
  memcpy(a[D_BIAS_HH], a[D_BIAS_IH], (size_t)(4 * s->H) * sizeof(double));
  free(dz);
}
