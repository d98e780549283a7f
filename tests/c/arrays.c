/* See arrays.h. */
#include "arrays.h"

static const struct {
  const char *name;
  size_t field;   /* offset in bptt_problem */
  const char *shape; /* one letter a dimension; 3 and 4 for themselves, 'G' for 4H */
} table[ARRAYS] = {
    [WEIGHT_IH] = {"weight_ih", offsetof(bptt_problem, weight_ih), "GI"},
    [WEIGHT_HH] = {"weight_hh", offsetof(bptt_problem, weight_hh), "GH"},
    [BIAS_IH] = {"bias_ih", offsetof(bptt_problem, bias_ih), "G"},
    [BIAS_HH] = {"bias_hh", offsetof(bptt_problem, bias_hh), "G"},
    [PEEPHOLE] = {"weight_peephole", offsetof(bptt_problem, weight_peephole), "3H"},
    [X] = {"x", offsetof(bptt_problem, x), "TBI"},
    [H_0] = {"h_0", offsetof(bptt_problem, h_0), "BH"},
    [C_0] = {"c_0", offsetof(bptt_problem, c_0), "BH"},
    [OUTPUT] = {"output", offsetof(bptt_problem, output), "TBH"},
    [H_N] = {"h_n", offsetof(bptt_problem, h_n), "BH"},
    [C_N] = {"c_n", offsetof(bptt_problem, c_n), "BH"},
    [CELLS] = {"cells", offsetof(bptt_problem, cells), "TBH"},
    [GATES] = {"gates", offsetof(bptt_problem, gates), "TBG"},
    [D_OUTPUT] = {"d_output", offsetof(bptt_problem, d_output), "TBH"},
    [D_H_N] = {"d_h_n", offsetof(bptt_problem, d_h_n), "BH"},
    [D_C_N] = {"d_c_n", offsetof(bptt_problem, d_c_n), "BH"},
    [D_X] = {"d_x", offsetof(bptt_problem, d_x), "TBI"},
    [D_H_0] = {"d_h_0", offsetof(bptt_problem, d_h_0), "BH"},
    [D_C_0] = {"d_c_0", offsetof(bptt_problem, d_c_0), "BH"},
    [D_WEIGHT_IH] = {"d_weight_ih", offsetof(bptt_problem, d_weight_ih), "GI"},
    [D_WEIGHT_HH] = {"d_weight_hh", offsetof(bptt_problem, d_weight_hh), "GH"},
    [D_BIAS_IH] = {"d_bias_ih", offsetof(bptt_problem, d_bias_ih), "G"},
    [D_BIAS_HH] = {"d_bias_hh", offsetof(bptt_problem, d_bias_hh), "G"},
    [D_PEEPHOLE] = {"d_weight_peephole", offsetof(bptt_problem, d_weight_peephole), "3H"},
    [D_HIDDEN] = {"d_hidden", offsetof(bptt_problem, d_hidden), "TBH"},
    [D_CELLS] = {"d_cells", offsetof(bptt_problem, d_cells), "TBH"},
};

const char *array_name(int array) {
  return table[array].name;
}

int64_t array_count(const sizes *s, int array) {
  int64_t count = 1;
  for (const char *letter = table[array].shape; *letter; letter++)
    count *= *letter == 'T'   ? s->T
             : *letter == 'B' ? s->B
             : *letter == 'I' ? s->I
             : *letter == 'H' ? s->H
             : *letter == 'G' ? 4 * s->H
                              : *letter - '0';
  return count;
}

void arrays_bind(bptt_problem *p, void *const memory[ARRAYS], unsigned which) {
  for (int array = 0; array < ARRAYS; array++)
    *(void **)((char *)p + table[array].field) = which & BIT(array) ? memory[array] : NULL;
}

double number_at(const void *array, int dtype, int64_t n) {
  return dtype == BPTT_F32 ? (double)((const float *)array)[n] : ((const double *)array)[n];
}

void number_put(void *array, int dtype, int64_t n, double value) {
  if (dtype == BPTT_F32)
    ((float *)array)[n] = (float)value;
  else
    ((double *)array)[n] = value;
}

static uint64_t state = 1;

/* splitmix64 (Steele, Lea and Flood 2014). */
static uint64_t next(void) {
  uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
  z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
  return z ^ z >> 31;
}

void random_start(uint64_t seed) {
  state = seed;
}

double random_number(void) {
  return (double)(next() >> 11) * 0x1p-52 - 1;
}

int random_below(int n) {
  return (int)(next() % (uint64_t)n);
}
