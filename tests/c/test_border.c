/* What the entry points promise beside numbers: statuses, refusals, polling, variants, the floating-point mode. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#include "arrays.h"
#include "blocks.h"
#include "bptt.h"

static int failures;

#define EXPECT(condition)                                                                                              \
  do {                                                                                                                 \
    if (!(condition)) {                                                                                                \
      printf("FAIL line %d: %s\n", __LINE__, #condition);                                                              \
      failures++;                                                                                                      \
    }                                                                                                                  \
  } while (0)

typedef bptt_status (*operation)(const bptt_problem *p);
static const operation operations[] = {[BPTT_FORWARD] = bptt_forward, [BPTT_BACKWARD] = bptt_backward};

/* A problem in blocks that notice, with every array that there is; all numbers 0.25. */
static void prepare(bptt_problem *p, void *memory[ARRAYS], sizes s, int dtype, int threads) {
  *p = (bptt_problem){.T = s.T, .B = s.B, .I = s.I, .H = s.H, .dtype = dtype, .threads = threads};
  for (int array = 0; array < ARRAYS; array++) {
    int64_t count = array_count(&s, array);
    memory[array] = block_new((size_t)count * number_bytes(dtype));
    for (int64_t k = 0; k < count; k++)
      number_put(memory[array], dtype, k, 0.25);
  }
  arrays_bind(p, memory, EVERYTHING);
}

static void give_workspace(bptt_problem *p, bptt_op op) {
  EXPECT(bptt_workspace(p, op, &p->workspace_bytes) == BPTT_OK);
  p->workspace = block_new((size_t)p->workspace_bytes);
}

/* ---- statuses ---- */

static void test_texts(void) {
  for (int status = BPTT_OK; status <= BPTT_INTERRUPTED; status++) {
    EXPECT(bptt_status_text(status) && strlen(bptt_status_text(status)) > 5);
    for (int other = BPTT_OK; other < status; other++)
      EXPECT(strcmp(bptt_status_text(status), bptt_status_text(other)));
  }
  EXPECT(bptt_status_text((bptt_status)99));
  EXPECT(bptt_status_text((bptt_status)-1));
}

/* Every way in must refuse: the size of the workspace, packing, forward and backward. */
static void expect_refused(const bptt_problem *p, bptt_status expected, int line) {
  static char packed[1 << 16];
  int64_t bytes = -1;
  bptt_status got[] = {bptt_workspace(p, BPTT_FORWARD, &bytes),
                       bptt_workspace(p, BPTT_BACKWARD, &bytes),
                       bptt_workspace(p, BPTT_PACK, &bytes),
                       bptt_pack(p, packed),
                       bptt_forward(p),
                       bptt_backward(p)};
  for (int n = 0; n < 6; n++)
    if (got[n] != expected) {
      printf("FAIL line %d: way %d gives \"%s\", expected \"%s\"\n", line, n, bptt_status_text(got[n]),
             bptt_status_text(expected));
      failures++;
    }
}

static void test_bad_sizes_and_enums(void) {
  void *memory[ARRAYS];
  bptt_problem good, p;
  prepare(&good, memory, (sizes){3, 2, 4, 5}, BPTT_F32, 1);
  good.workspace = block_new(1 << 20);
  good.workspace_bytes = 1 << 20;
#define REFUSED(field, value, status) (p = good, p.field = value, expect_refused(&p, status, __LINE__))
  REFUSED(T, -1, BPTT_BAD_SIZE);
  REFUSED(B, -1, BPTT_BAD_SIZE);
  REFUSED(I, -1, BPTT_BAD_SIZE);
  REFUSED(H, 0, BPTT_BAD_SIZE);
  REFUSED(H, -5, BPTT_BAD_SIZE);
  int64_t huge[] = {INT64_MAX, INT64_MAX / 2, INT64_C(1) << 62, INT64_C(1) << 60, INT64_C(3037000500) << 28};
  for (int n = 0; n < (int)(sizeof huge / sizeof huge[0]); n++) {
    REFUSED(T, huge[n], BPTT_BAD_SIZE);
    REFUSED(B, huge[n], BPTT_BAD_SIZE);
    REFUSED(I, huge[n], BPTT_BAD_SIZE);
    REFUSED(H, huge[n], BPTT_BAD_SIZE);
  }
  p = good, p.T = p.B = INT64_C(1) << 32;
  expect_refused(&p, BPTT_BAD_SIZE, __LINE__);
  p = good, p.H = p.I = INT64_C(1) << 32;
  expect_refused(&p, BPTT_BAD_SIZE, __LINE__);
  REFUSED(cell, BPTT_CELLS, BPTT_BAD_ARGUMENT);
  REFUSED(activations[0], -1, BPTT_BAD_ARGUMENT);
  REFUSED(activations[2], BPTT_ACTIVATIONS, BPTT_BAD_ARGUMENT);
  REFUSED(coupled, 2, BPTT_BAD_ARGUMENT);
  REFUSED(cell_clip, -1, BPTT_BAD_ARGUMENT);
  REFUSED(cell_clip, NAN, BPTT_BAD_ARGUMENT);
  REFUSED(cell, -1, BPTT_BAD_ARGUMENT);
  REFUSED(dtype, 2, BPTT_BAD_ARGUMENT);
  REFUSED(dtype, -1, BPTT_BAD_ARGUMENT);
  REFUSED(threads, 0, BPTT_BAD_ARGUMENT);
  REFUSED(threads, -3, BPTT_BAD_ARGUMENT);
  REFUSED(split, -1, BPTT_BAD_ARGUMENT);
  REFUSED(split, BPTT_SPLIT_HIDDEN + 1, BPTT_BAD_ARGUMENT);
  REFUSED(hoist, -1, BPTT_BAD_ARGUMENT);
  REFUSED(hoist, BPTT_HOIST_ALWAYS + 1, BPTT_BAD_ARGUMENT);
  REFUSED(dealt, -1, BPTT_BAD_ARGUMENT);
  REFUSED(dealt, 2, BPTT_BAD_ARGUMENT);
  REFUSED(variant, -1, BPTT_BAD_ARGUMENT);
  REFUSED(variant, bptt_variant_count() + 1, BPTT_BAD_VARIANT);
  int64_t bytes;
  EXPECT(bptt_workspace(&good, (bptt_op)3, &bytes) == BPTT_BAD_ARGUMENT);
  EXPECT(bptt_workspace(&good, (bptt_op)-1, &bytes) == BPTT_BAD_ARGUMENT);
  EXPECT(!blocks_damaged());
  blocks_free();
}

static void test_missing_pointers(void) {
  void *memory[ARRAYS];
  bptt_problem good, p;
  prepare(&good, memory, (sizes){3, 2, 4, 5}, BPTT_F64, 1);
  good.workspace = block_new(1 << 20);
  good.workspace_bytes = 1 << 20;
  static const unsigned wanted[] = {
      [BPTT_FORWARD] = BIT(WEIGHT_IH) | BIT(WEIGHT_HH) | BIT(X) | BIT(OUTPUT) | BIT(H_N) | BIT(C_N),
      [BPTT_BACKWARD] = BIT(WEIGHT_IH) | BIT(WEIGHT_HH) | BIT(X) | BIT(OUTPUT) | BIT(CELLS) | BIT(GATES)};
  for (bptt_op op = BPTT_FORWARD; op <= BPTT_BACKWARD; op++)
    for (int array = 0; array < ARRAYS; array++) {
      p = good;
      arrays_bind(&p, memory, EVERYTHING & ~BIT(array));
      int pair = array == CELLS || array == GATES || (op == BPTT_BACKWARD && array == D_WEIGHT_HH);
      bptt_status expected = wanted[op] & BIT(array) || pair ? BPTT_BAD_ARGUMENT : BPTT_OK, got = operations[op](&p);
      if (got != expected) {
        printf("FAIL op %d without %s: %s\n", op, array_name(array), bptt_status_text(got));
        failures++;
      }
    }
  static const int64_t lengths[][4] = {{4, 1}, {1, 2}, {2, -1}, {1, 2, 0}, {1, 1, 0, 1}};
  for (int dealt = 0; dealt < 2; dealt++)
    for (int n = 0; n < 5; n++) {
      p = good, p.lengths = lengths[n], p.dealt = dealt, p.B = n < 3 ? 2 : n;
      if (dealt && n == 1) /* as it should be */
        continue;
      EXPECT(bptt_forward(&p) == BPTT_BAD_ARGUMENT);
      EXPECT(bptt_backward(&p) == BPTT_BAD_ARGUMENT);
    }
  static const int64_t order[] = {1, 0}, outside[] = {0, 2}, negative[] = {-1, 0}, whole[] = {3, 2};
  for (int n = 0; n < 8; n++) {
    p = good, p.lengths = n ? whole : NULL, p.cells = p.gates = NULL;
    p.x_order = n == 1 ? outside : n == 2 ? negative : n < 5 ? order : NULL;
    p.copy = n == 3 || n > 4 ? p.h_n : NULL; /* refused before it is written, unless all is as it should be */
    p.copy_order = n == 4 ? order : n == 5 ? outside : n == 6 ? negative : NULL;
    EXPECT(bptt_forward(&p) == BPTT_BAD_ARGUMENT);
  }
  p = good, p.lengths = whole, p.x_order = order;
  EXPECT(bptt_backward(&p) == BPTT_BAD_ARGUMENT);
  p = good, p.lengths = whole, p.output = NULL; /* nothing to write to */
  p.cells = p.gates = NULL;
  EXPECT(bptt_forward(&p) == BPTT_BAD_ARGUMENT);
  p = good, p.lengths = whole, p.output = NULL, p.copy = p.h_n, p.copy_order = order; /* a tape without outputs */
  EXPECT(bptt_forward(&p) == BPTT_BAD_ARGUMENT);
  p = good, p.cell = BPTT_GRU; /* which has no cell state and no peepholes */
  EXPECT(bptt_forward(&p) == BPTT_BAD_ARGUMENT);
  EXPECT(bptt_backward(&p) == BPTT_BAD_ARGUMENT);
  p = good, p.weight_ih = NULL;
  EXPECT(bptt_pack(&p, memory[X]) == BPTT_BAD_ARGUMENT);
  EXPECT(!blocks_damaged());
  blocks_free();
}

/* One byte less than wanted, or no memory at all, is refused before anything is written. */
static void test_small_workspace(void) {
  for (int rank = 0; rank < bptt_variant_count(); rank++)
    for (int dtype = BPTT_F32; dtype <= BPTT_F64; dtype++)
      for (bptt_op op = BPTT_FORWARD; op <= BPTT_BACKWARD; op++) {
        void *memory[ARRAYS];
        bptt_problem p;
        prepare(&p, memory, (sizes){4, 3, 5, 19}, dtype, 2);
        p.variant = rank + 1;
        give_workspace(&p, op);
        EXPECT(operations[op](&p) == BPTT_OK);
        int64_t watched = array_count(&(sizes){4, 3, 5, 19}, op == BPTT_FORWARD ? OUTPUT : D_X);
        void *result = memory[op == BPTT_FORWARD ? OUTPUT : D_X];
        memset(result, 0xff, (size_t)watched * number_bytes(dtype));
        int64_t enough = p.workspace_bytes;
        EXPECT(enough > 0);
        int64_t few[] = {enough - 1, 1, 0, -1, INT64_MIN};
        for (int n = 0; n < 5; n++) {
          p.workspace_bytes = few[n];
          EXPECT(operations[op](&p) == BPTT_BAD_WORKSPACE);
        }
        p.workspace = NULL, p.workspace_bytes = enough;
        EXPECT(operations[op](&p) == BPTT_BAD_WORKSPACE);
        for (int64_t k = 0; k < watched; k++)
          EXPECT(isnan(number_at(result, dtype, k)));
        EXPECT(!blocks_damaged());
        blocks_free();
      }
}

/* ---- sums from call to call ---- */

enum { LAST_STEPS = 30 }; /* whole chunks of the backward pass with so many rows */
static const sizes in_groups = {40, 17, 5, 19};

/* Steps from `first` on, `steps` of them, of a problem. */
static bptt_problem steps_of(const bptt_problem *p, int64_t first, int64_t steps, size_t number) {
  bptt_problem part = *p;
  const int64_t B = p->B, H = p->H;
#define AFTER(array, width) ((char *)(array) + (size_t)(first * B * (width)) * number)
  part.T = steps;
  part.x = AFTER(p->x, p->I), part.output = AFTER(p->output, H), part.cells = AFTER(p->cells, H);
  part.gates = AFTER(p->gates, 4 * H), part.d_output = AFTER(p->d_output, H), part.d_x = AFTER(p->d_x, p->I);
  part.d_hidden = AFTER(p->d_hidden, H), part.d_cells = AFTER(p->d_cells, H);
  if (first)
    part.h_0 = AFTER(p->output, H) - (size_t)(B * H) * number, part.c_0 = AFTER(p->cells, H) - (size_t)(B * H) * number;
  return part;
}

/* Blocks of steps, the last one first, give the bits of one call if their sums go on. */
static void test_sums(void) {
  for (int rank = 0; rank < bptt_variant_count(); rank++)
    for (int dtype = BPTT_F32; dtype <= BPTT_F64; dtype++)
      for (int threads = 1; threads <= 2; threads++) {
        const size_t number = number_bytes(dtype);
        const int64_t states = in_groups.B * in_groups.H;
        void *memory[ARRAYS];
        bptt_problem p;
        prepare(&p, memory, in_groups, dtype, threads);
        random_start(7);
        for (int array = 0; array <= D_C_N; array++)
          for (int64_t k = 0; k < array_count(&in_groups, array); k++)
            number_put(memory[array], dtype, k, random_number());
        p.variant = rank + 1;
        give_workspace(&p, BPTT_BACKWARD);
        EXPECT(bptt_backward(&p) == BPTT_OK);
        void *whole[ARRAYS];
        for (int array = D_X; array < ARRAYS; array++) {
          size_t bytes = (size_t)array_count(&in_groups, array) * number;
          whole[array] = block_new(bytes);
          memcpy(whole[array], memory[array], bytes);
          memset(memory[array], 0xff, bytes);
        }
        bptt_problem last = steps_of(&p, in_groups.T - LAST_STEPS, LAST_STEPS, number);
        bptt_problem rest = steps_of(&p, 0, in_groups.T - LAST_STEPS, number);
        last.d_h_0 = block_new((size_t)states * number), last.d_c_0 = block_new((size_t)states * number);
        rest.d_h_n = last.d_h_0, rest.d_c_n = last.d_c_0, rest.accumulate = 1;
        EXPECT(bptt_workspace(&last, BPTT_SUMS, &last.sums_bytes) == BPTT_OK && last.sums_bytes > 0);
        rest.sums = last.sums = block_new((size_t)last.sums_bytes), rest.sums_bytes = last.sums_bytes;
        give_workspace(&last, BPTT_BACKWARD);
        give_workspace(&rest, BPTT_BACKWARD);
        EXPECT(bptt_backward(&last) == BPTT_OK && bptt_backward(&rest) == BPTT_OK);
        for (int array = D_X; array < ARRAYS; array++)
          EXPECT(!memcmp(whole[array], memory[array], (size_t)array_count(&in_groups, array) * number));
        rest.sums_bytes--;
        EXPECT(bptt_backward(&rest) == BPTT_BAD_WORKSPACE);
        rest.sums_bytes++, rest.truncate_every = rest.truncate_depth = 3;
        EXPECT(bptt_backward(&rest) == BPTT_BAD_ARGUMENT);
        EXPECT(!blocks_damaged());
        blocks_free();
      }
}

/* ---- polling ---- */

#if defined(__SANITIZE_ADDRESS__)
enum { LONG = 2000 };
#else
enum { LONG = 16000 }; /* steps that take a while: a tenth of a second with AVX-512 */
#endif

static int asked, patience;

static int give_up(void *context) {
  EXPECT(context == &patience);
  return ++asked > patience;
}

static double seconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A call that lasts is asked about, ends when told to, and has stopped then: the next one gives the right numbers. */
static void test_polling(void) {
  sizes s = {LONG, 1, 4, 256};
  for (bptt_op op = BPTT_FORWARD; op <= BPTT_BACKWARD; op++)
    for (int split = BPTT_SERIAL; split <= BPTT_SPLIT_HIDDEN; split++) {
      void *memory[ARRAYS];
      bptt_problem p;
      sizes now = s;
      if (split == BPTT_SPLIT_ROWS)
        now.T /= 4, now.B = 4;
      prepare(&p, memory, now, BPTT_F32, split == BPTT_SERIAL ? 1 : 2);
      p.split = split, p.poll = give_up, p.poll_context = &patience;
      give_workspace(&p, op);
      asked = 0, patience = 1000000;
      double start = seconds();
      EXPECT(operations[op](&p) == BPTT_OK);
      double whole = seconds() - start;
      if (whole > 0.4)
        EXPECT(asked > 0);
      EXPECT(asked <= whole / 0.04 + 2); /* every 50 ms, not more */
      asked = 0, patience = 0;
      start = seconds();
      bptt_status status = operations[op](&p);
      double stopped = seconds() - start;
      EXPECT(status == BPTT_INTERRUPTED || (status == BPTT_OK && asked == 0));
      if (whole > 2)
        EXPECT(status == BPTT_INTERRUPTED && stopped < 1);
      EXPECT(asked <= 1);
      EXPECT(!blocks_damaged());
      blocks_free();
    }
}

/* ---- inside a parallel region of the caller ---- */

/* Each member calls the library at once, wanting a team and a barrier: whether or not regions nest, it ends. */
static void test_nested_regions(void) {
#ifdef _OPENMP
  enum { MEMBERS = 3 };
  void *memory[ARRAYS];
  bptt_problem p[MEMBERS];
  sizes s = {20, 4, 6, 130};
  size_t bytes = (size_t)array_count(&s, OUTPUT) * sizeof(float);
  prepare(p, memory, s, BPTT_F32, 1);
  p->cells = p->gates = NULL;
  give_workspace(p, BPTT_FORWARD);
  EXPECT(bptt_forward(p) == BPTT_OK);
  const void *want = p->output;
  for (int split = BPTT_SPLIT_ROWS; split <= BPTT_SPLIT_HIDDEN; split++)
    for (int levels = 1; levels <= 2; levels++) {
      bptt_status status[MEMBERS];
      for (int n = 0; n < MEMBERS; n++) {
        p[n] = *p;
        p[n].threads = 2, p[n].split = split;
        p[n].output = block_new(bytes);
        p[n].h_n = block_new(bytes / 20), p[n].c_n = block_new(bytes / 20);
        give_workspace(&p[n], BPTT_FORWARD);
      }
      omp_set_max_active_levels(levels);
#pragma omp parallel num_threads(MEMBERS)
      status[omp_get_thread_num()] = bptt_forward(&p[omp_get_thread_num()]);
      for (int n = 0; n < MEMBERS; n++)
        EXPECT(status[n] == BPTT_OK && !memcmp(p[n].output, want, bytes));
    }
  omp_set_max_active_levels(1);
  EXPECT(!blocks_damaged());
  blocks_free();
#endif
}

/* ---- variants ---- */

static void test_variants(void) {
  int count = bptt_variant_count();
  EXPECT(count >= 1 && !strcmp(bptt_variant_name(count - 1), "baseline"));
  EXPECT(!bptt_variant_name(count) && !bptt_variant_name(-1) && !bptt_variant_name(1 << 20));
  for (int rank = 0; rank < count; rank++) {
    EXPECT(bptt_use_variant(bptt_variant_name(rank)) == BPTT_OK);
    EXPECT(bptt_active_rank() == rank && !strcmp(bptt_active_variant(), bptt_variant_name(rank)));
  }
  EXPECT(bptt_use_variant("no such") == BPTT_BAD_VARIANT && bptt_use_variant("") == BPTT_BAD_VARIANT);
  EXPECT(bptt_active_rank() == count - 1);
  EXPECT(bptt_use_variant(NULL) == BPTT_OK && bptt_active_rank() == 0);
}

/* Before any other call: what BPTT_VARIANT names is used, or nothing at all. */
static void test_environment(void) {
  int64_t bytes;
  void *memory[ARRAYS];
  bptt_problem p;
  setenv("BPTT_VARIANT", "avx1024", 1);
  EXPECT(!bptt_active_variant() && bptt_active_rank() == -1);
  prepare(&p, memory, (sizes){1, 1, 1, 1}, BPTT_F32, 1);
  EXPECT(bptt_workspace(&p, BPTT_FORWARD, &bytes) == BPTT_BAD_VARIANT);
  EXPECT(bptt_forward(&p) == BPTT_BAD_VARIANT && bptt_backward(&p) == BPTT_BAD_VARIANT);
  EXPECT(bptt_pack(&p, memory[X]) == BPTT_BAD_VARIANT);
  setenv("BPTT_VARIANT", "baseline", 1);
  EXPECT(bptt_active_variant() && !strcmp(bptt_active_variant(), "baseline"));
  unsetenv("BPTT_VARIANT");
  blocks_free();
}

/* ---- floating-point mode ---- */

#if defined(__x86_64__)
static unsigned mode_of_thread(void) {
  return __builtin_ia32_stmxcsr();
}
static void set_mode(unsigned mode) {
  __builtin_ia32_ldmxcsr(mode);
}
static const unsigned modes[] = {0x1f80, 0x9fc0, 0x7f80, 0x1fbf, 0x1fa1}; /* usual; flushing; rounding to zero; flags */
#elif defined(__aarch64__)
static unsigned mode_of_thread(void) {
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  return (unsigned)mode;
}
static void set_mode(unsigned mode) {
  __asm__ volatile("msr fpcr, %0" : : "r"((uint64_t)mode));
}
static const unsigned modes[] = {0, 1u << 24, 3u << 22};
#endif

#if defined(__x86_64__) || defined(__aarch64__)
static int looks, foreign;

static int look_at_mode(void *context) {
  looks++;
  foreign += mode_of_thread() != *(unsigned *)context;
  return 0;
}

/* What poll() runs is the caller's own code: a signal handler wants its denormals. */
static void test_mode_while_polling(void) {
  void *memory[ARRAYS];
  bptt_problem p;
  unsigned mode = mode_of_thread();
  prepare(&p, memory, (sizes){2 * LONG, 1, 1, 256}, BPTT_F32, 1);
  p.cells = p.gates = NULL, p.poll = look_at_mode, p.poll_context = &mode;
  give_workspace(&p, BPTT_FORWARD);
  for (int run = 0; run < 20 && !looks; run++)
    EXPECT(bptt_forward(&p) == BPTT_OK);
  EXPECT(looks > 0);
  EXPECT(foreign == 0);
  blocks_free();
}

/* Of the calling thread, which may have set any, and of the threads that helped. */
static void test_floating_point_mode(void) {
  for (int n = 0; n < (int)(sizeof modes / sizeof modes[0]); n++)
    for (bptt_op op = BPTT_FORWARD; op <= BPTT_BACKWARD; op++)
      for (int threads = 1; threads <= 3; threads++) {
        void *memory[ARRAYS];
        bptt_problem p;
        unsigned usual = mode_of_thread(), mode = modes[n], after[3] = {0}, before[3] = {0};
        prepare(&p, memory, (sizes){20, 6, 8, 40}, BPTT_F32, threads);
        p.split = threads == 1 ? BPTT_SERIAL : threads == 2 ? BPTT_SPLIT_HIDDEN : BPTT_SPLIT_ROWS;
        give_workspace(&p, op);
#ifdef _OPENMP
#pragma omp parallel num_threads(3)
        before[omp_get_thread_num()] = mode_of_thread();
#endif
        set_mode(mode);
        bptt_status status = operations[op](&p);
        unsigned left = mode_of_thread();
        set_mode(usual);
#ifdef _OPENMP
#pragma omp parallel num_threads(3)
        after[omp_get_thread_num()] = mode_of_thread();
#endif
        EXPECT(status == BPTT_OK && left == mode);
        for (int thread = 1; thread < 3; thread++)
          EXPECT((before[thread] & ~0x3fu) == (after[thread] & ~0x3fu));
        blocks_free();
      }
}
#else
static void test_mode_while_polling(void) {
}
static void test_floating_point_mode(void) {
}
#endif

/* ---- norms ---- */

static void test_norms(void) {
  enum { ROWS = 300, MOST = 300 };
  static float x[ROWS * MOST];
  static double y[ROWS * MOST], serial[ROWS], norms[ROWS];
  for (int k = 0; k < ROWS * MOST; k++)
    x[k] = (float)(k % 17 - 8) / 8, y[k] = x[k];
  for (int rank = 0; rank < bptt_variant_count(); rank++) {
    EXPECT(bptt_use_variant(bptt_variant_name(rank)) == BPTT_OK);
    for (int n = 0; n <= MOST; n += n < 40 ? 1 : 65) {
      EXPECT(bptt_norms(x, BPTT_F32, ROWS, n, 1, serial) == BPTT_OK);
      EXPECT(bptt_norms(y, BPTT_F64, ROWS, n, 2, norms) == BPTT_OK && !memcmp(serial, norms, sizeof norms));
      for (int row = 0; row < ROWS; row++) {
        double sum = 0; /* exact: multiples of 1/64 */
        for (int k = 0; k < n; k++)
          sum += y[row * n + k] * y[row * n + k];
        EXPECT(serial[row] == sqrt(sum));
      }
    }
  }
  EXPECT(bptt_use_variant(NULL) == BPTT_OK);
  EXPECT(bptt_norms(NULL, BPTT_F32, 0, 5, 1, NULL) == BPTT_OK && bptt_norms(NULL, BPTT_F32, 3, 0, 1, norms) == BPTT_OK);
  EXPECT(norms[0] == 0 && norms[2] == 0);
  EXPECT(bptt_norms(x, BPTT_F32, -1, 5, 1, norms) == BPTT_BAD_SIZE);
  EXPECT(bptt_norms(x, BPTT_F32, 1, -5, 1, norms) == BPTT_BAD_SIZE);
  EXPECT(bptt_norms(x, BPTT_F32, INT64_C(1) << 40, INT64_C(1) << 40, 1, norms) == BPTT_BAD_SIZE);
  EXPECT(bptt_norms(x, (bptt_dtype)2, 1, 5, 1, norms) == BPTT_BAD_ARGUMENT);
  EXPECT(bptt_norms(x, BPTT_F32, 1, 5, 0, norms) == BPTT_BAD_ARGUMENT);
  EXPECT(bptt_norms(NULL, BPTT_F32, 1, 5, 1, norms) == BPTT_BAD_ARGUMENT);
  EXPECT(bptt_norms(x, BPTT_F32, 1, 5, 1, NULL) == BPTT_BAD_ARGUMENT);
}

int main(void) {
  static const struct {
    const char *name;
    void (*run)(void);
  } tests[] = {
      {"BPTT_VARIANT", test_environment}, /* first: it wants to be */
      {"variants", test_variants},
      {"status texts", test_texts},
      {"sizes and enums", test_bad_sizes_and_enums},
      {"missing pointers", test_missing_pointers},
      {"small workspace", test_small_workspace},
      {"sums from call to call", test_sums},
      {"norms", test_norms},
      {"polling", test_polling},
      {"nested regions", test_nested_regions},
      {"floating-point mode", test_floating_point_mode},
      {"floating-point mode while polling", test_mode_while_polling},
  };
  for (int n = 0; n < (int)(sizeof tests / sizeof tests[0]); n++) {
    int before = failures;
    tests[n].run();
    printf("%s %s\n", failures > before ? "FAIL" : "ok  ", tests[n].name);
    fflush(stdout);
  }
  return failures != 0;
}
