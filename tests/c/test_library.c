/* Forward and backward of every variant and dtype against plain loops in double precision, over odd sizes, every
 * pattern of absent arrays and every way to divide the work, in memory that notices (blocks.h) and starts as NaN.
 *
 *   test_library [seed]      one line a variant and dtype; the exit status is 1 if anything failed
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "blocks.h"
#include "bptt.h"
#include "expect.h"
#include "oracle.h"

/* How one run differs from another: none of it may change a bit. */
typedef struct {
  const char *name;
  int threads, split, hoist;
  int packed;    /* weights packed beforehand */
  int inference; /* no cells and gates, no backward */
  int in_place;  /* h_n and c_n are the arrays of h_0 and c_0 */
} way;

static const way ways[] = {
    {"one thread", 1, BPTT_SPLIT_AUTO, BPTT_HOIST_NEVER, 0, 0, 0}, /* what the others are compared with */
    {"one thread, hoisted", 1, BPTT_SERIAL, BPTT_HOIST_ALWAYS, 0, 0, 0},
    {"two threads, rows split", 2, BPTT_SPLIT_ROWS, BPTT_HOIST_NEVER, 0, 0, 0},
    {"two threads, units split, hoisted, packed", 2, BPTT_SPLIT_HIDDEN, BPTT_HOIST_ALWAYS, 1, 0, 0},
    {"three threads, rows split, hoisted, packed, inference", 3, BPTT_SPLIT_ROWS, BPTT_HOIST_ALWAYS, 1, 1, 0},
    {"five threads, units split, inference in place", 5, BPTT_SPLIT_HIDDEN, BPTT_HOIST_NEVER, 0, 1, 1},
    {"two threads, packed, in place", 2, BPTT_SPLIT_AUTO, BPTT_HOIST_AUTO, 1, 0, 1},
    {"one thread, packed, inference", 1, BPTT_SPLIT_AUTO, BPTT_HOIST_AUTO, 1, 1, 0},
    {"more threads than work", 40, BPTT_SPLIT_ROWS, BPTT_HOIST_AUTO, 0, 0, 0},
};
enum { WAYS = sizeof ways / sizeof ways[0] };

/* One problem: its numbers in double, those that came out of the first way, and which arrays there are. */
typedef struct {
  sizes s;
  int dtype;
  unsigned present;
  double *numbers[ARRAYS];
  void *first[ARRAYS];
  char text[160];
} problem;

static size_t bytes_of(const problem *c, int array) {
  return (size_t)array_count(&c->s, array) * number_bytes(c->dtype);
}

static void describe(problem *c) {
  int used = snprintf(c->text, sizeof c->text, "T=%d B=%d I=%d H=%d float%d, without", (int)c->s.T, (int)c->s.B,
                      (int)c->s.I, (int)c->s.H, c->dtype == BPTT_F32 ? 32 : 64);
  for (int array = 0; array < ARRAYS && used < (int)sizeof c->text; array++)
    if (!(c->present & BIT(array)))
      used += snprintf(c->text + used, sizeof c->text - (size_t)used, " %s", array_name(array));
}

/* Which arrays problem n has: all, as few as there may be, or any of the patterns that bptt.h allows. */
static unsigned pattern(int n) {
  unsigned optional = BIT(BIAS_IH) | BIT(BIAS_HH) | BIT(PEEPHOLE) | STATES | ERRORS | GRADIENTS;
  unsigned present = EVERYTHING;
  if (n % 4 == 1)
    present &= ~optional;
  else if (n % 4 > 1)
    for (int array = 0; array < ARRAYS; array++)
      if (optional & BIT(array) && random_below(3) == 0)
        present &= ~BIT(array);
  if (!(present & BIT(D_WEIGHT_HH)))
    present &= ~BIT(D_WEIGHT_IH);
  if (!(present & BIT(PEEPHOLE)))
    present &= ~BIT(D_PEEPHOLE);
  return present;
}

static void draw(problem *c, int n) {
  static const int H[] = {1,  2,  3,  4,  5,  7,  8,  9,  12, 15, 16, 17, 20, 23, 24,
                          25, 31, 32, 33, 47, 48, 50, 63, 64, 65, 67, 80, 96, 130};
  static const int B[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 14, 15, 16, 17, 22, 25},
                   I[] = {0, 1, 2, 5, 8, 16, 19, 33, 70};
  static const int T[] = {1, 2, 3, 5, 8};
  static const sizes special[] = {{0, 3, 4, 5},   {4, 0, 3, 5},    {3, 2, 0, 7},    {0, 0, 0, 1},     {60, 5, 3, 9},
                                  {3, 300, 2, 5}, {2, 523, 1, 18}, {900, 1, 4, 20}, {100, 1, 9, 100}, {7, 40, 10, 33}};
  enum { SPECIAL = sizeof special / sizeof special[0] };
#define PICK(list, step) list[n * step % (int)(sizeof list / sizeof list[0])]
  c->s = n < SPECIAL ? special[n] : (sizes){PICK(T, 1), PICK(B, 3), PICK(I, 5), PICK(H, 1)};
#undef PICK
  c->present = pattern(n);
  describe(c);
  double scale = 1 / sqrt((double)c->s.H);
  for (int array = 0; array < ARRAYS; array++) {
    int64_t count = array_count(&c->s, array);
    double *numbers = c->numbers[array] = malloc((size_t)count * sizeof(double) + 1);
    c->first[array] = malloc(bytes_of(c, array) + 1);
    int given = BIT(array) & (FORWARD_IN | ERRORS) & c->present;
    for (int64_t k = 0; k < count; k++) {
      double value = given ? 1.7 * random_number() * (BIT(array) & PARAMETERS ? scale : 1) : 0;
      numbers[k] = c->dtype == BPTT_F32 ? (double)(float)value : value;
    }
  }
  oracle_run(&c->s, c->numbers);
}

static void discard(problem *c) {
  for (int array = 0; array < ARRAYS; array++) {
    free(c->numbers[array]);
    free(c->first[array]);
  }
}

/* Inputs hold their numbers, all else is NaN. */
static void lay_out(const problem *c, const way *w, void *memory[ARRAYS]) {
  for (int array = 0; array < ARRAYS; array++) {
    if (w->in_place && ((array == H_N && c->present & BIT(H_0)) || (array == C_N && c->present & BIT(C_0)))) {
      memory[array] = memory[array == H_N ? H_0 : C_0];
      continue;
    }
    memory[array] = block_new(bytes_of(c, array));
    if (BIT(array) & (FORWARD_IN | ERRORS))
      for (int64_t k = 0; k < array_count(&c->s, array); k++)
        number_put(memory[array], c->dtype, k, c->numbers[array][k]);
  }
}

/* Exactly the scratch that is asked for, full of NaN. */
static void give_workspace(bptt_problem *p, bptt_op op, const char *text) {
  int64_t bytes = -1;
  bptt_status status = bptt_workspace(p, op, &bytes);
  EXPECT(status == BPTT_OK && bytes >= 0, "%s: %s", text, bptt_status_text(status));
  p->workspace = bytes ? block_new((size_t)bytes) : NULL;
  p->workspace_bytes = bytes;
}

static void check_numbers(const problem *c, int array, const void *got, const char *what) {
  const double *want = c->numbers[array];
  double eps = c->dtype == BPTT_F32 ? 0x1p-23 : 0x1p-52, worst = 0, square = 0, norm = 0;
  double bound = 4 * ceil(log2(9 * (double)(c->s.T ? c->s.T : 1))) * eps;
  for (int64_t k = 0; k < array_count(&c->s, array); k++) {
    double value = number_at(got, c->dtype, k), error = fabs(value - want[k]);
    EXPECT(!isnan(value), "%s[%d] of %s, %s", array_name(array), (int)k, c->text, what);
    worst = fmax(worst, error / fmax(1, fabs(want[k])));
    square += error * error;
    norm += want[k] * want[k];
  }
  if (BIT(array) & TAPE) {
    EXPECT(worst <= bound, "%s of %s, %s: error %g", array_name(array), c->text, what, worst);
  } else {
    double relative = sqrt(square) / fmax(sqrt(norm), 1e-30); /* a gradient may vanish below the range of float32 */
    EXPECT(relative <= (c->dtype == BPTT_F32 ? 1e-5 : 1e-13), "%s of %s, %s: error %g", array_name(array), c->text,
           what, relative);
  }
}

/* The results of the set `which`: numbers of the first way, bits of the others. */
static void check_results(problem *c, unsigned which, void *const memory[ARRAYS], const way *w) {
  for (int array = 0; array < ARRAYS; array++) {
    if (!(which & BIT(array)))
      continue;
    size_t bytes = bytes_of(c, array);
    if (w == ways) {
      check_numbers(c, array, memory[array], w->name);
      memcpy(c->first[array], memory[array], bytes);
    } else {
      EXPECT(!memcmp(c->first[array], memory[array], bytes), "%s of %s, %s: other bits", array_name(array), c->text,
             w->name);
    }
  }
}

/* Nothing was written where it must not be. */
static void check_untouched(const problem *c, unsigned inputs, void *const memory[ARRAYS], const way *w) {
  EXPECT(!blocks_damaged(), "%s, %s: %d blocks overrun", c->text, w->name, blocks_damaged());
  for (int array = 0; array < ARRAYS; array++)
    for (int64_t k = 0; inputs & BIT(array) && k < array_count(&c->s, array); k++)
      EXPECT(number_at(memory[array], c->dtype, k) == c->numbers[array][k], "%s of %s, %s: written", array_name(array),
             c->text, w->name);
}

static void pack_beforehand(bptt_problem *p, const char *text) {
  int64_t bytes = 0;
  EXPECT(bptt_workspace(p, BPTT_PACK, &bytes) == BPTT_OK, "%s", text);
  void *packed = block_new((size_t)bytes);
  EXPECT(bptt_pack(p, packed) == BPTT_OK, "%s", text);
  p->packed = packed;
  void *nowhere = (void *)(uintptr_t)8; /* the pointers count, what they point to does not */
  p->weight_ih = p->weight_hh = nowhere;
  p->bias_ih = p->bias_ih ? nowhere : NULL;
  p->bias_hh = p->bias_hh ? nowhere : NULL;
  p->weight_peephole = p->weight_peephole ? nowhere : NULL;
}

static void run(problem *c, int rank, const way *w) {
  void *memory[ARRAYS];
  bptt_problem p = {.T = c->s.T, .B = c->s.B, .I = c->s.I, .H = c->s.H, .cell = BPTT_LSTM, .dtype = c->dtype};
  p.threads = w->threads, p.variant = rank + 1, p.split = w->split, p.hoist = w->hoist;
  unsigned tape = w->inference ? BIT(OUTPUT) | BIT(H_N) | BIT(C_N) : TAPE;
  unsigned given = c->present & (FORWARD_IN | ERRORS);
  lay_out(c, w, memory);
  arrays_bind(&p, memory, (c->present & FORWARD_IN) | tape);
  if (w->packed)
    pack_beforehand(&p, c->text);
  give_workspace(&p, BPTT_FORWARD, c->text);
  bptt_status status = bptt_forward(&p);
  EXPECT(status == BPTT_OK, "%s: %s", c->text, bptt_status_text(status));
  check_results(c, tape, memory, w);
  check_untouched(c, w->in_place ? given & ~STATES : given, memory, w);
  if (!w->inference && !w->in_place) {
    arrays_bind(&p, memory, (c->present & ~(BIT(H_N) | BIT(C_N))));
    give_workspace(&p, BPTT_BACKWARD, c->text);
    status = bptt_backward(&p);
    EXPECT(status == BPTT_OK, "%s: %s", c->text, bptt_status_text(status));
    check_results(c, c->present & GRADIENTS, memory, w);
    check_untouched(c, given, memory, w);
    for (int array = OUTPUT; array <= GATES; array++)
      EXPECT(!memcmp(memory[array], c->first[array], bytes_of(c, array)), "%s: backward wrote %s", c->text,
             array_name(array));
  }
  blocks_free();
}

int main(int argc, char **argv) {
  enum { PROBLEMS = 58 };
  uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 10) : 1;
  for (int rank = 0; rank < bptt_variant_count(); rank++) {
    for (int dtype = BPTT_F32; dtype <= BPTT_F64; dtype++) {
      int before = failures;
      checks = 0;
      for (int n = 0; n < PROBLEMS; n++) {
        problem c = {.dtype = dtype};
        random_start(seed * PROBLEMS + (uint64_t)n);
        draw(&c, n);
        for (int w = 0; w < WAYS; w++)
          run(&c, rank, &ways[w]);
        discard(&c);
      }
      printf("%s %s float%d: %d problems in %d ways, %d checks\n", failures > before ? "FAIL" : "ok  ",
             bptt_variant_name(rank), dtype == BPTT_F32 ? 32 : 64, PROBLEMS, WAYS, checks);
      fflush(stdout);
    }
  }
  return failures != 0;
}
