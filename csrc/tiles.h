/* Products on registers that hold whole tiles, for the variants that have them: float32 numbers in pieces, as exact as
 * a chain of fused multiply-adds and up to twice as fast (tiles.inc.h). */
#ifndef BPTT_TILES_H
#define BPTT_TILES_H

#include "plan.h"

/* Where a sum over tokens goes, (gates, width), and the rows that it meets, one for each token. */
typedef struct {
  float *dw;
  int64_t width;
  const float *const *rows;
} bptt_outer;

/* Rows against weights: to[n] = a[n] . weights, `gates` blocks of H numbers against as many blocks of H rows of
 * `width` columns, of which that of gate g is block(g) of the weights. */
typedef struct {
  int64_t count;
  const float *const *a;
  float *const *to;
  const float *weights;
  int64_t H, width;
  int gates, (*block)(int gate);
} bptt_against;

typedef struct {
  /* Bytes that a thread needs for products with so many columns, of one array or of two together, over so many tokens
   * or numbers of a row. */
  int64_t (*room)(int64_t columns, int64_t depth);
  /* dw += dz^T rows over `depth` tokens, gate rows `gates` of one or two arrays; fresh: in their place. With `bias`
   * sums of dz as well, as pack_gates() makes them. Reads up to a line past the last gate. */
  void (*outer)(const bptt_outer *to, int count, range gates, int fresh, const float *const *dz, int64_t offset,
                int64_t depth, float *bias, void *room);
  /* Those of the columns; begins at a multiple of BPTT_STRIP. */
  void (*against)(const bptt_against *p, range columns, void *room);
} bptt_tiles;

/* Columns of a strip, which two tiles side by side hold; and what a product of rows takes at once. */
enum { BPTT_STRIP = 32 };

/* Those of the variant that a problem runs on; or NULL. */
const bptt_tiles *bptt_tiles_for(const bptt_problem *p);

#endif
