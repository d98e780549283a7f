/* Rows of a batch: which of them are at work at a step, who works on them, where they stand. */
#ifndef BPTT_ROWS_H
#define BPTT_ROWS_H

#include "plan.h"

/* Whether all of an order are rows of a batch of B; or NULL. */
int is_order(const int64_t *order, int64_t B);

/* Rows of unequal length may be dealt into two halves, each with the longest first: the first row of the second one, or
 * B. Two threads that split rows then have as much to do at any time, where one that had the longest would wait. */
static inline int64_t second_half(const bptt_problem *p) {
  return p->lengths && p->dealt ? share(p->B, 0, 2).end : p->B;
}

/* Rows of the first half, and of the second. Loops go over `count` of them: over two, they would be unrolled, and the
 * code of a step be twice as large. */
typedef struct {
  range half[2];
  int count;
} row_ranges;

static inline row_ranges in_halves(const bptt_problem *p, range rows) {
  const int64_t cut = max_i64(rows.begin, min_i64(rows.end, second_half(p)));
  return (row_ranges){{{rows.begin, cut}, {cut, rows.end}}, 1 + (cut < rows.end)};
}

static inline int64_t count_rows(const row_ranges *rows) {
  return rows->half[0].end - rows->half[0].begin + rows->half[1].end - rows->half[1].begin;
}

/* valid_rows() where there are lengths. */
row_ranges rows_of_length(const bptt_problem *p, int64_t t, const row_ranges *rows, const row_ranges *near);

/* Those of some rows that are not past their length at step t, 0 <= t <= T: the first ones of each half. `near`: those
 * rows, or the answer for a step nearby. */
static inline row_ranges valid_rows(const bptt_problem *p, int64_t t, const row_ranges *rows, const row_ranges *near) {
  if (p->lengths)
    return rows_of_length(p, t, rows, near);
  row_ranges found = *rows;
  for (int n = 0; n < found.count && t == p->T; n++)
    found.half[n].end = found.half[n].begin;
  return found;
}

/* Tokens of steps [t0, t1) of some rows: of those that are gathered, the ones that are not past their length. */
typedef struct {
  int64_t t0, t1, tokens;
} chunk;

/* The chunk from step t on: so many steps, or where tokens are gathered as many as there is room for. */
chunk chunk_from(const bptt_problem *p, int64_t steps, int gathered, int64_t t, const row_ranges *rows);

/* Inputs of some rows at step t, one after the other; an element has so many bytes. */
void copy_inputs(const bptt_problem *p, int64_t element, int64_t t, range rows, char *to);

/* Inputs of a chunk, part `rank` of `size`, one token after the other. Without gaps all tiles are full, however many
 * rows a step has. */
void gather_inputs(const bptt_problem *p, int64_t element, const chunk *chunk, const row_ranges *rows, char *to,
                   int rank, int size);

/* Part `rank` of the rows, even in steps. */
range share_rows(const bptt_problem *p, int rank, int size);

/* Whether any row in the range starts anew at step t. */
static inline int any_reset(const bptt_problem *p, int64_t t, range rows) {
  if (p->resets)
    for (int64_t b = rows.begin; b < rows.end; b++)
      if (p->resets[t * p->B + b])
        return 1;
  return 0;
}

static inline int is_reset(const bptt_problem *p, int64_t t, int64_t b) {
  return p->resets && p->resets[t * p->B + b];
}

#endif
