/* Every cell and its options, with lengths and resets, in memory of exactly the size asked for: nothing is read or
 * written beside it, the bits do not depend on threads, and what lies past a row's length is not read. Values are
 * checked from Python (tests/test_sequences.py). */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "blocks.h"
#include "bptt.h"

static int failures;

static void expect(int condition, const char *what, const bptt_problem *p) {
  if (condition)
    return;
  failures++;
  printf("FAIL %s: cell %d dtype %d T %d B %d I %d H %d threads %d split %d\n", what, p->cell, p->dtype, (int)p->T,
         (int)p->B, (int)p->I, (int)p->H, p->threads, p->split);
}

static unsigned state = 1;

static double noise(void) {
  state = state * 1664525u + 1013904223u;
  return (double)(state >> 8) / (1 << 24) - 0.5;
}

static size_t number(const bptt_problem *p) {
  return p->dtype == BPTT_F32 ? sizeof(float) : sizeof(double);
}

/* A block of numbers; NaN for the outputs. */
static void *array(const bptt_problem *p, int64_t count, int filled) {
  void *a = block_new((size_t)count * number(p));
  for (int64_t k = 0; filled && k < count; k++)
    if (p->dtype == BPTT_F32)
      ((float *)a)[k] = (float)noise();
    else
      ((double *)a)[k] = noise();
  return a;
}

static int all_finite(const bptt_problem *p, const void *a, int64_t count) {
  for (int64_t k = 0; k < count; k++)
    if (!isfinite(p->dtype == BPTT_F32 ? ((const float *)a)[k] : ((const double *)a)[k]))
      return 0;
  return 1;
}

/* What step 0 hands on is within its bound, and what was clipped was counted: alike each time, not past a length. */
static void check_clipped(const bptt_problem *p, const int64_t *first, int64_t count) {
  double bound = p->dtype == BPTT_F32 ? (float)p->step_clip[BPTT_CLIP_CELL] : p->step_clip[BPTT_CLIP_CELL];
  for (int64_t k = 0; p->cell == BPTT_LSTM && !p->lengths && k < p->B * p->H; k++)
    expect(fabs(p->dtype == BPTT_F32 ? ((float *)p->d_c_0)[k] : ((double *)p->d_c_0)[k]) <= bound,
           "d_c_0 is not clipped", p);
  int64_t all = 0;
  for (int64_t k = 0; k < count; k++) {
    all += p->clipped[k];
    expect(p->clipped[k] >= 0 && p->clipped[k] <= 4 * p->H + p->P, "count out of range", p);
    expect(!p->lengths || k / 3 / p->B < p->lengths[k / 3 % p->B] || !p->clipped[k], "counted past a length", p);
  }
  expect(all > 0 || p->H == 1, "nothing was clipped", p);
  expect(!memcmp(first, p->clipped, (size_t)count * sizeof *first), "counts differ", p);
}

/* Inputs in another order, outputs in a third, alone or beside those of a call: what the call gave. */
static void check_orders(bptt_problem p, const void *x, const void *output, int64_t W, int keeps) {
  int64_t *x_order = block_new((size_t)p.B * sizeof *x_order), *copy_order = block_new((size_t)p.B * sizeof *x_order);
  const size_t in = (size_t)p.I * number(&p), out = (size_t)W * number(&p);
  char *moved = array(&p, p.T * p.B * p.I, 0);
  for (int64_t b = 0; b < p.B; b++)
    x_order[b] = (b + p.B / 2 + 1) % p.B, copy_order[b] = p.B - 1 - b;
  for (int64_t t = 0; t < p.T; t++)
    for (int64_t b = 0; b < p.B; b++)
      memcpy(moved + (size_t)(t * p.B + x_order[b]) * in, (const char *)x + (size_t)(t * p.B + b) * in, in);
  const void *h_n = p.h_n;
  p.x = moved, p.x_order = x_order, p.copy = array(&p, p.T * p.B * W, 0), p.copy_order = copy_order;
  p.output = keeps ? array(&p, p.T * p.B * W, 0) : NULL, p.h_n = array(&p, p.B * W, 0);
  expect(bptt_workspace(&p, BPTT_FORWARD, &p.workspace_bytes) == BPTT_OK, "workspace", &p);
  p.workspace = block_new((size_t)p.workspace_bytes);
  expect(bptt_forward(&p) == BPTT_OK, "forward in another order", &p);
  expect(!keeps || !memcmp(p.output, output, (size_t)(p.T * p.B) * out), "the order of x changes bits", &p);
  expect(!memcmp(p.h_n, h_n, (size_t)p.B * out), "the order of x changes bits of h_n", &p);
  for (int64_t t = 0; t < p.T; t++)
    for (int64_t b = 0; b < p.B; b++)
      expect(!memcmp((char *)p.copy + (size_t)(t * p.B + copy_order[b]) * out,
                     (const char *)output + (size_t)(t * p.B + b) * out, out),
             "a copy has other bits", &p);
}

static void run(bptt_problem p, int64_t gates, int with_spans, int with_clip) {
  static const double bounds[3] = {0.05, 0.03, 0.02};
  int64_t *counts = NULL;
  int64_t tokens = p.T * p.B, W = p.P ? p.P : p.H, bh = p.B * W, bc = p.B * p.H, G = gates * p.H;
  int lstm = p.cell == BPTT_LSTM;
  p.weight_ih = array(&p, G * p.I, 1), p.weight_hh = array(&p, G * W, 1);
  p.weight_hr = p.P ? array(&p, W * p.H, 1) : NULL;
  p.bias_ih = array(&p, G, 1), p.bias_hh = array(&p, G, 1);
  p.weight_peephole = lstm ? array(&p, 3 * p.H, 1) : NULL;
  void *x = array(&p, tokens * p.I, 1), *d_output = array(&p, tokens * W, 1);
  p.x = x, p.d_output = d_output;
  p.h_0 = array(&p, bh, 1), p.c_0 = lstm ? array(&p, bc, 1) : NULL;
  p.d_h_n = array(&p, bh, 1), p.d_c_n = lstm ? array(&p, bc, 1) : NULL;
  if (with_spans) {
    int64_t *lengths = block_new((size_t)p.B * sizeof *lengths);
    uint8_t *resets = block_new((size_t)tokens);
    int64_t half = (p.B + 1) / 2;
    int dealt = noise() > 0;
    for (int64_t b = 0; b < p.B; b++) {
      int64_t place = !dealt ? b : b < half ? 2 * b : 2 * (b - half) + 1;
      lengths[b] = p.T - p.T * place / p.B - (place + 1 == p.B);
      lengths[b] = lengths[b] < 0 ? 0 : lengths[b];
      for (int64_t t = 0; t < p.T; t++) {
        resets[t * p.B + b] = noise() > 0.3;
        if (t >= lengths[b]) { /* whoever reads padding gets NaN */
          memset((char *)x + (size_t)((t * p.B + b) * p.I) * number(&p), 0xff, (size_t)p.I * number(&p));
          memset((char *)d_output + (size_t)((t * p.B + b) * W) * number(&p), 0xff, (size_t)W * number(&p));
        }
      }
    }
    p.lengths = lengths, p.resets = resets, p.dealt = dealt;
  }
  void *serial = NULL;
  int64_t count = G * p.I + G * W + p.P * p.H;
  for (int split = BPTT_SERIAL; split <= BPTT_SPLIT_HIDDEN; split++)
    for (int hoist = BPTT_HOIST_NEVER; hoist <= BPTT_HOIST_ALWAYS; hoist++) {
      p.split = split, p.hoist = hoist, p.threads = 2;
      p.output = array(&p, tokens * W, 0), p.h_n = array(&p, bh, 0), p.c_n = lstm ? array(&p, bc, 0) : NULL;
      p.cells = p.gates = NULL;
      expect(bptt_workspace(&p, BPTT_FORWARD, &p.workspace_bytes) == BPTT_OK, "workspace", &p);
      p.workspace = block_new((size_t)p.workspace_bytes);
      expect(bptt_forward(&p) == BPTT_OK, "forward", &p);
      void *inferred = p.output;
      if (with_spans)
        check_orders(p, x, inferred, W, 0), check_orders(p, x, inferred, W, 1);
      p.output = array(&p, tokens * W, 0);
      p.cells = lstm ? array(&p, tokens * p.H, 0) : NULL;
      p.gates = p.cell == BPTT_RNN ? NULL : array(&p, 4 * tokens * p.H, 0);
      expect(bptt_forward(&p) == BPTT_OK, "training forward", &p);
      expect(!memcmp(inferred, p.output, (size_t)(tokens * W) * number(&p)), "inference has other bits", &p);
      if (with_spans)
        check_orders(p, x, inferred, W, 1);
      expect(all_finite(&p, p.output, tokens * W) && all_finite(&p, p.h_n, bh), "output is not finite", &p);
      p.d_x = array(&p, tokens * p.I, 0), p.d_h_0 = array(&p, bh, 0), p.d_c_0 = lstm ? array(&p, bc, 0) : NULL;
      p.d_weight_ih = array(&p, G * p.I, 0), p.d_weight_hh = array(&p, G * W, 0);
      p.d_weight_hr = p.P ? array(&p, W * p.H, 0) : NULL;
      p.d_bias_ih = array(&p, G, 0), p.d_bias_hh = array(&p, G, 0);
      p.d_weight_peephole = lstm ? array(&p, 3 * p.H, 0) : NULL;
      p.d_hidden = array(&p, tokens * W, 0), p.d_cells = lstm ? array(&p, tokens * p.H, 0) : NULL;
      p.norms = block_new((size_t)(2 * tokens) * sizeof *p.norms);
      p.step_clip = with_clip ? bounds : NULL;
      p.clipped = with_clip ? block_new((size_t)(3 * tokens) * sizeof *p.clipped) : NULL;
      expect(bptt_workspace(&p, BPTT_BACKWARD, &p.workspace_bytes) == BPTT_OK, "workspace", &p);
      p.workspace = block_new((size_t)p.workspace_bytes);
      expect(bptt_backward(&p) == BPTT_OK, "backward", &p);
      expect(all_finite(&p, p.d_x, tokens * p.I) && all_finite(&p, p.d_h_0, bh) &&
                 all_finite(&p, p.d_hidden, tokens * W) && all_finite(&p, p.d_weight_ih, G * p.I) &&
                 all_finite(&p, p.d_weight_hh, G * W) && all_finite(&p, p.d_bias_ih, G) &&
                 all_finite(&p, p.d_bias_hh, G),
             "gradient is not finite", &p);
      bptt_problem alone = p; /* the norms without the gradients */
      alone.d_hidden = alone.d_cells = NULL, alone.norms = block_new((size_t)(2 * tokens) * sizeof *p.norms);
      expect(bptt_workspace(&alone, BPTT_BACKWARD, &alone.workspace_bytes) == BPTT_OK, "workspace", &p);
      alone.workspace = block_new((size_t)alone.workspace_bytes);
      alone.clipped = NULL;
      expect(bptt_backward(&alone) == BPTT_OK, "backward for norms", &p);
      expect(!memcmp(alone.norms, p.norms, (size_t)(2 * tokens) * sizeof *p.norms), "norms differ", &p);
      counts = counts ? counts : p.clipped;
      if (with_clip)
        check_clipped(&p, counts, 3 * tokens);
      char *all = block_new((size_t)count * number(&p));
      memcpy(all, p.d_weight_ih, (size_t)(G * p.I) * number(&p));
      memcpy(all + (size_t)(G * p.I) * number(&p), p.d_weight_hh, (size_t)(G * W) * number(&p));
      if (p.P)
        memcpy(all + (size_t)(G * (p.I + W)) * number(&p), p.d_weight_hr, (size_t)(W * p.H) * number(&p));
      if (!serial)
        serial = all;
      expect(!memcmp(serial, all, (size_t)count * number(&p)), "gradients have other bits", &p);
    }
  expect(!blocks_damaged(), "wrote beside an array", &p);
  blocks_free();
}

int main(void) {
  static const struct {
    int cell, gates;
    bptt_problem options;
  } cells[] = {
      {BPTT_LSTM, 4, {0}},
      {BPTT_LSTM, 4, {.activations = {BPTT_HARD_SIGMOID, BPTT_SOFTSIGN, BPTT_RELU}, .coupled = 1, .cell_clip = 0.2}},
      {BPTT_LSTM, 4, {.P = 3, .proj_clip = 0.1}},
      {BPTT_LSTM,
       4,
       {.P = 23, .recurrent_dropout = 0.3, .zoneout = 0.2, .draws = 1, .seed = UINT64_MAX, .first_step = 7}},
      {BPTT_LSTM, 4, {.recurrent_dropout = 0.3, .zoneout = 0.2, .draws = 1, .seed = 5, .cell_clip = 0.2}},
      {BPTT_LSTM, 4, {.zoneout = 0.5}},
      {BPTT_GRU, 3, {0}},
      {BPTT_GRU, 3, {.reset_before = 1}},
      {BPTT_RNN, 1, {0}},
      {BPTT_RNN, 1, {.activations = {BPTT_RELU}}},
  };
  static const int64_t shapes[][4] = {{3, 2, 4, 5}, {5, 9, 1, 20}, {7, 1, 3, 17}, {2, 17, 33, 40}, {4, 3, 0, 1}};
  for (int rank = 0; rank < bptt_variant_count(); rank++) {
    if (bptt_use_variant(bptt_variant_name(rank)) != BPTT_OK)
      continue; /* the system refuses it to this process */
    for (int n = 0; n < (int)(sizeof cells / sizeof cells[0]); n++)
      for (int shape = 0; shape < (int)(sizeof shapes / sizeof shapes[0]); shape++)
        for (int dtype = BPTT_F32; dtype <= BPTT_F64; dtype++)
          for (int form = 0; form < 4; form++) {
            bptt_problem p = cells[n].options;
            p.cell = cells[n].cell, p.dtype = dtype;
            p.T = shapes[shape][0], p.B = shapes[shape][1], p.I = shapes[shape][2], p.H = shapes[shape][3];
            run(p, cells[n].gates, form % 2, form / 2);
          }
    printf("%s cells on %s\n", failures ? "FAIL" : "ok  ", bptt_variant_name(rank));
  }
  return failures != 0;
}
