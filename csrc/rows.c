/* Rows of a batch at a step, and their inputs: what does not depend on the type of numbers is compiled once. */
#include "rows.h"

#include <string.h>

int is_order(const int64_t *order, int64_t B) {
  for (int64_t b = 0; order && b < B; b++)
    if (order[b] < 0 || order[b] >= B)
      return 0;
  return 1;
}

row_ranges rows_of_length(const bptt_problem *p, int64_t t, const row_ranges *rows, const row_ranges *near) {
  row_ranges found = *rows;
  for (int n = 0; n < 2; n++) {
    const range all = rows->half[n];
    int64_t end = near->half[n].end;
    while (end > all.begin && p->lengths[end - 1] <= t)
      end--;
    while (end < all.end && p->lengths[end] > t)
      end++;
    found.half[n].end = end;
  }
  return found;
}

chunk chunk_from(const bptt_problem *p, int64_t steps, int gathered, int64_t t, const row_ranges *rows) {
  const int64_t n = count_rows(rows);
  chunk found = {t, min_i64(t + steps, p->T), 0};
  if (!gathered) {
    found.tokens = (found.t1 - t) * n;
    return found;
  }
  row_ranges valid = valid_rows(p, t, rows, rows);
  do {
    found.tokens += count_rows(&valid);
    if (++t < p->T)
      valid = valid_rows(p, t, rows, &valid);
  } while (t < p->T && found.tokens + count_rows(&valid) <= steps * n);
  found.t1 = t;
  return found;
}

void copy_inputs(const bptt_problem *p, int64_t element, int64_t t, range rows, char *to) {
  const int64_t bytes = p->I * element;
  const char *x = (const char *)p->x + t * p->B * bytes;
  if (bytes == 0)
    return;
  if (!p->x_order) {
    memcpy(to, x + rows.begin * bytes, (size_t)((rows.end - rows.begin) * bytes));
    return;
  }
  for (int64_t b = rows.begin; b < rows.end; b++, to += bytes)
    memcpy(to, x + p->x_order[b] * bytes, (size_t)bytes);
}

void gather_inputs(const bptt_problem *p, int64_t element, const chunk *chunk, const row_ranges *rows, char *to,
                   int rank, int size) {
  const int64_t bytes = p->I * element;
  row_ranges valid = *rows;
  for (int64_t t = chunk->t0; t < chunk->t1; t++) {
    valid = valid_rows(p, t, rows, &valid);
    for (int part = 0; part < rows->count; part++) {
      const int64_t begin = rows->half[part].begin, count = valid.half[part].end - begin;
      const range own = share(count, rank, size);
      copy_inputs(p, element, t, (range){begin + own.begin, begin + own.end}, to + own.begin * bytes);
      to += count * bytes;
    }
  }
}

range share_rows(const bptt_problem *p, int rank, int size) {
  if (!p->lengths || (size == 2 && second_half(p) < p->B))
    return share(p->B, rank, size);
  int64_t steps = 0, done = 0, row = 0;
  range rows = {0, p->B};
  for (int64_t b = 0; b < p->B; b++)
    steps += p->lengths[b];
  for (int part = 0; part <= rank; part++) {
    rows.begin = row;
    /* A row that would be less than half inside belongs to the next part. */
    while (row < p->B && (part == size - 1 || 2 * (share(steps, part, size).end - done) > p->lengths[row]))
      done += p->lengths[row++];
  }
  rows.end = row;
  return rows;
}
