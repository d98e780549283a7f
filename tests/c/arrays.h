/* The arrays of a problem by number: names, lengths, and how they get into a bptt_problem. */
#ifndef BPTT_TEST_ARRAYS_H
#define BPTT_TEST_ARRAYS_H

#include <stddef.h>
#include <stdint.h>

#include "bptt.h"

enum {
  WEIGHT_IH,
  WEIGHT_HH,
  BIAS_IH,
  BIAS_HH,
  PEEPHOLE,
  X,
  H_0,
  C_0,
  OUTPUT,
  H_N,
  C_N,
  CELLS,
  GATES,
  D_OUTPUT,
  D_H_N,
  D_C_N,
  D_X,
  D_H_0,
  D_C_0,
  D_WEIGHT_IH,
  D_WEIGHT_HH,
  D_BIAS_IH,
  D_BIAS_HH,
  D_PEEPHOLE,
  D_HIDDEN,
  D_CELLS,
  ARRAYS
};
#define BIT(n) (1u << (n))
#define SET(first, last) ((BIT((last) + 1) - 1) & ~(BIT(first) - 1))
/* Sets of arrays, one bit each. */
static const unsigned PARAMETERS = SET(WEIGHT_IH, PEEPHOLE), STATES = SET(H_0, C_0), TAPE = SET(OUTPUT, GATES),
                      FORWARD_IN = SET(WEIGHT_IH, C_0), ERRORS = SET(D_OUTPUT, D_C_N), GRADIENTS = SET(D_X, D_CELLS),
                      EVERYTHING = SET(WEIGHT_IH, D_CELLS);

typedef struct {
  int64_t T, B, I, H;
} sizes;

const char *array_name(int array);
int64_t array_count(const sizes *s, int array);

/* Writes the addresses of the arrays of the set `which` into the problem, NULL for the others. */
void arrays_bind(bptt_problem *p, void *const memory[ARRAYS], unsigned which);

double number_at(const void *array, int dtype, int64_t n);
void number_put(void *array, int dtype, int64_t n, double value);
static inline size_t number_bytes(int dtype) {
  return dtype == BPTT_F32 ? sizeof(float) : sizeof(double);
}

/* The next of a fixed sequence of random numbers: uniform within (-1, 1), or below n. */
double random_number(void);
int random_below(int n);
void random_start(uint64_t seed);

#endif
