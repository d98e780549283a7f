/* Programs (bptt_run): the bits of call after call, moves against plain loops, and what is refused; in memory that
 * notices (blocks.h). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blocks.h"
#include "bptt.h"
#include "expect.h"

static unsigned state = 1;

static float noise(void) {
  state = state * 1664525u + 1013904223u;
  return (float)(state >> 8) / (float)(1 << 24) - 0.5f;
}

static float *numbers(int64_t count, int filled) {
  float *a = block_new((size_t)(count ? count : 1) * sizeof *a);
  for (int64_t n = 0; filled && n < count; n++)
    a[n] = noise();
  return a;
}

/* ---- moves ---- */

enum { STEPS = 7, ROWS = 5, UNITS = 6, PITCH = 9 };

static void check_move(int turned, int with_lengths, int scaled, int add, int with_source, int places, int threads) {
  const int64_t lengths[ROWS] = {7, 3, 0, 7, 1}, order[ROWS] = {3, 0, 4, 2, 1};
  float *to = numbers(STEPS * ROWS * PITCH, 1), *from = numbers(STEPS * ROWS * UNITS, 1);
  float *scale = numbers(STEPS * ROWS * UNITS, 1), *expected = numbers(STEPS * ROWS * PITCH, 0);
  memcpy(expected, to, STEPS * ROWS * PITCH * sizeof *to);
  for (int t = 0; t < STEPS; t++)
    for (int b = 0; b < ROWS; b++)
      for (int n = 0; n < UNITS; n++) {
        int end = with_lengths ? (int)lengths[b] : STEPS, source = turned ? end - 1 - t : t;
        int to_b = places == 2 ? (int)order[b] : b, from_b = places == 1 ? (int)order[b] : b;
        float moved = with_source && t < end ? from[(source * ROWS + from_b) * UNITS + n] : 0;
        if (with_source && scaled && t < end)
          moved *= scale[(t * ROWS + b) * UNITS + n];
        float *target = &expected[(t * ROWS + to_b) * PITCH + 2 + n];
        *target = add ? *target + moved : moved;
      }
  bptt_move m = {.T = STEPS, .B = ROWS, .N = UNITS, .kind = BPTT_F32, .threads = threads, .add = add, .turned = turned};
  m.lengths = with_lengths ? lengths : NULL, m.order = places ? order : NULL, m.back = places == 2;
  m.to = to + 2, m.to_step = ROWS * PITCH, m.to_row = PITCH;
  m.from = with_source ? from : NULL, m.from_step = ROWS * UNITS, m.from_row = UNITS;
  m.scale = scaled ? scale : NULL, m.scale_step = ROWS * UNITS, m.scale_row = UNITS;
  bptt_stage stage = {.op = BPTT_MOVE, .move = &m};
  EXPECT(bptt_run(&stage, 1, NULL, NULL) == BPTT_OK, "a move runs");
  EXPECT(!memcmp(to, expected, STEPS * ROWS * PITCH * sizeof *to),
         "turned %d lengths %d scaled %d add %d source %d places %d", turned, with_lengths, scaled, add, with_source,
         places);
  EXPECT(!blocks_damaged(), "nothing outside is written");
  blocks_free();
}

/* One long row, which threads share by its numbers; and counts. */
static void check_long_row(int threads) {
  enum { LONG = 200001 };
  int64_t *to = block_new(LONG * sizeof *to), *from = block_new(LONG * sizeof *from);
  for (int n = 0; n < LONG; n++)
    to[n] = n, from[n] = INT64_C(1) << 40;
  bptt_move m = {.T = 1, .B = 1, .N = LONG, .kind = BPTT_COUNTS, .threads = threads, .add = 1, .to = to, .from = from};
  bptt_stage stage = {.op = BPTT_MOVE, .move = &m};
  EXPECT(bptt_run(&stage, 1, NULL, NULL) == BPTT_OK, "a long row");
  int64_t wrong = 0;
  for (int n = 0; n < LONG; n++)
    wrong += to[n] != n + (INT64_C(1) << 40);
  EXPECT(!wrong, "%d of the sums are wrong", (int)wrong);
  blocks_free();
}

/* ---- calls ---- */

enum { MOST = 4 };
static const struct {
  int64_t T, B, I, H;
} shapes[] = {{6, 3, 4, 5}, {40, 2, 20, 40}, {9, 17, 33, 64}, {60, 8, 248, 48}};

/* A stack of two layers and a reverse direction beside the first: forward, a turn, backward. */
typedef struct {
  bptt_problem p[MOST];
  float *results[MOST][3];
  int64_t counts[3];
} stack;

static void *workspace(const bptt_problem *p, bptt_op op, int64_t *bytes) {
  EXPECT(bptt_workspace(p, op, bytes) == BPTT_OK, "workspace");
  return block_new((size_t)(*bytes ? *bytes : 1));
}

static void make(stack *s, int shape, int threads) {
  int64_t T = shapes[shape].T, B = shapes[shape].B, I = shapes[shape].I, H = shapes[shape].H;
  float *x = numbers(T * B * I, 1), *turned = numbers(T * B * I, 0), *ih = numbers(4 * H * I, 1);
  float *hh = numbers(4 * H * H, 1), *above = numbers(4 * H * H, 1);
  s->counts[0] = T * B * H, s->counts[1] = B * H, s->counts[2] = B * H;
  for (int n = 0; n < 3; n++) {
    for (int r = 0; r < 3; r++)
      s->results[n][r] = numbers(s->counts[r], 0);
    s->p[n] = (bptt_problem){.T = T, .B = B, .I = n == 2 ? H : I, .H = H, .threads = threads};
    s->p[n].weight_ih = n == 2 ? above : ih, s->p[n].weight_hh = hh;
    s->p[n].x = n == 0 ? x : n == 1 ? turned : s->results[0][0];
    s->p[n].output = s->results[n][0], s->p[n].h_n = s->results[n][1], s->p[n].c_n = s->results[n][2];
  }
}

static void check_calls(int shape, int threads, int split) {
  stack one, all;
  unsigned seed = state;
  make(&one, shape, threads);
  state = seed;
  make(&all, shape, threads);
  int64_t T = one.p[0].T, B = one.p[0].B, I = one.p[0].I, bytes = 0, most = 0, second = 0;
  for (int b = 0; b < B; b++)
    for (int t = 0; t < T; t++)
      memcpy((float *)one.p[1].x + (t * B + b) * I, (const float *)one.p[0].x + ((T - 1 - t) * B + b) * I,
             (size_t)I * sizeof(float));
  for (int n = 0; n < 3; n++) {
    one.p[n].split = all.p[n].split = split;
    one.p[n].workspace = workspace(&one.p[n], BPTT_FORWARD, &one.p[n].workspace_bytes);
    EXPECT(bptt_forward(&one.p[n]) == BPTT_OK, "a call");
    EXPECT(bptt_workspace(&all.p[n], BPTT_FORWARD, &bytes) == BPTT_OK, "workspace");
    if (n == 1)
      second = bytes;
    else
      most = bytes > most ? bytes : most;
  }
  void *shared = block_new((size_t)most), *beside = block_new((size_t)second);
  for (int n = 0; n < 3; n++)
    all.p[n].workspace = n == 1 ? beside : shared, all.p[n].workspace_bytes = n == 1 ? second : most;
  bptt_move turn = {.T = T, .B = B, .N = I, .threads = threads, .turned = 1, .to = (void *)all.p[1].x};
  turn.from = all.p[0].x, turn.to_step = turn.from_step = B * I, turn.to_row = turn.from_row = I;
  const bptt_stage stages[] = {{.op = BPTT_MOVE, .move = &turn},
                               {.op = BPTT_FORWARD, .first = &all.p[0], .second = &all.p[1]},
                               {.op = BPTT_FORWARD, .first = &all.p[2]}};
  EXPECT(bptt_run(stages, 3, NULL, NULL) == BPTT_OK, "a program");
  for (int n = 0; n < 3; n++)
    for (int r = 0; r < 3; r++)
      EXPECT(!memcmp(one.results[n][r], all.results[n][r], (size_t)one.counts[r] * sizeof(float)),
             "shape %d, %d threads, split %d: result %d of call %d has other bits", shape, threads, split, r, n);
  EXPECT(!blocks_damaged(), "nothing outside is written");
  blocks_free();
}

/* ---- what is refused, and what stops ---- */

static int stop(void *context) {
  (*(int *)context)++;
  return 1;
}

static void check_refused(void) {
  stack s;
  make(&s, 0, 2);
  bptt_problem short_of_room = s.p[0];
  float *before = numbers(s.counts[0], 1), *output = s.results[0][0];
  memcpy(output, before, (size_t)s.counts[0] * sizeof *before);
  s.p[0].workspace = workspace(&s.p[0], BPTT_FORWARD, &s.p[0].workspace_bytes);
  bptt_move move = {.T = 1, .B = 1, .N = 4, .threads = 1, .to = output, .from = before + 4};
  bptt_move no_target = move, no_thread = move, negative = move, kind = move, scaled = move, past = move;
  bptt_move elsewhere = move;
  const int64_t too_long = 2, no_row = 1;
  no_target.to = NULL, no_thread.threads = 0, negative.N = -1, kind.kind = 3;
  scaled.kind = BPTT_COUNTS, scaled.scale = before, past.lengths = &too_long, elsewhere.order = &no_row;
  const bptt_stage good = {.op = BPTT_MOVE, .move = &move};
  const bptt_stage bad[] = {{.op = BPTT_PACK, .first = &s.p[0]},
                            {.op = BPTT_FORWARD},
                            {.op = BPTT_MOVE},
                            {.op = (bptt_op)9, .first = &s.p[0]},
                            {.op = BPTT_FORWARD, .first = &short_of_room},
                            {.op = BPTT_FORWARD, .first = &s.p[0], .second = &short_of_room},
                            {.op = BPTT_MOVE, .move = &no_target},
                            {.op = BPTT_MOVE, .move = &no_thread},
                            {.op = BPTT_MOVE, .move = &negative},
                            {.op = BPTT_MOVE, .move = &kind},
                            {.op = BPTT_MOVE, .move = &scaled},
                            {.op = BPTT_MOVE, .move = &past},
                            {.op = BPTT_MOVE, .move = &elsewhere}};
  for (size_t n = 0; n < sizeof bad / sizeof bad[0]; n++) {
    const bptt_stage stages[] = {good, bad[n]};
    EXPECT(bptt_run(&bad[n], 1, NULL, NULL) != BPTT_OK, "stage %d alone", (int)n);
    EXPECT(bptt_run(stages, 2, NULL, NULL) != BPTT_OK, "stage %d behind another", (int)n);
  }
  EXPECT(!memcmp(output, before, (size_t)s.counts[0] * sizeof *before), "nothing of a refused program is run");
  EXPECT(bptt_run(NULL, 0, NULL, NULL) == BPTT_OK, "no stages");
  EXPECT(bptt_run(NULL, 1, NULL, NULL) == BPTT_BAD_ARGUMENT, "stages missing");
  EXPECT(bptt_run(&good, -1, NULL, NULL) == BPTT_BAD_ARGUMENT, "a negative count");
  blocks_free();
}

static void check_stop(int threads, int beside) {
  stack s;
  make(&s, 2, threads);
  bptt_problem p[2] = {s.p[0], s.p[1]};
  float *x = numbers(200000 * 20, 1), *output = numbers(200000 * 64, 0);
  float *other = numbers(200000 * 64, 0);
  for (int n = 0; n < 2; n++) {
    p[n].T = 200000, p[n].B = 1, p[n].I = 20, p[n].x = x, p[n].output = n ? other : output;
    p[n].workspace = workspace(&p[n], BPTT_FORWARD, &p[n].workspace_bytes);
  }
  enum { MANY = 200 };
  bptt_stage stages[MANY];
  for (int n = 0; n < MANY; n++)
    stages[n] = (bptt_stage){.op = BPTT_FORWARD, .first = &p[0], .second = beside ? &p[1] : NULL};
  int asked = 0;
  EXPECT(bptt_run(stages, MANY, stop, &asked) == BPTT_INTERRUPTED, "a long program stops");
  EXPECT(asked == 1, "asked %d times", asked);
  blocks_free();
}

/* A workspace for more threads is one for a single thread, as which a call runs beside another. */
static void check_workspaces(void) {
  static char something;
  for (int n = 0; n < 20000; n++) {
    bptt_problem p = {.T = 1 + n % 70, .B = 1 + n % 37, .I = 1 + n * 7 % 300, .H = 1 + n * 11 % 300, .cell = n % 3};
    p.weight_ih = p.weight_hh = &something;
    p.packed = n % 2 ? &something : NULL;
    p.d_x = p.d_weight_ih = p.d_weight_hh = n % 5 ? &something : NULL;
    int64_t one = 0, more = 0;
    for (int op = BPTT_FORWARD; op <= BPTT_BACKWARD; op++) {
      p.threads = 1;
      EXPECT(bptt_workspace(&p, (bptt_op)op, &one) == BPTT_OK, "workspace");
      p.threads = 2 + n % 3;
      EXPECT(bptt_workspace(&p, (bptt_op)op, &more) == BPTT_OK && more >= one,
             "T %d B %d I %d H %d: %d threads need %d, one %d", (int)p.T, (int)p.B, (int)p.I, (int)p.H, p.threads,
             (int)more, (int)one);
    }
  }
}

int main(void) {
  check_workspaces();
  for (int n = 0; n < 192; n++)
    check_move(n & 1, n >> 1 & 1, n >> 2 & 1, n >> 3 & 1, n >> 4 & 1, n >> 6, 1 + (n >> 5 & 1));
  for (int threads = 1; threads <= 3; threads++) {
    check_long_row(threads);
    for (int split = BPTT_SPLIT_AUTO; split <= BPTT_SPLIT_HIDDEN; split++)
      for (int shape = 0; shape < (int)(sizeof shapes / sizeof shapes[0]); shape++)
        check_calls(shape, threads, split);
    check_stop(threads, 0);
    check_stop(threads, 1);
  }
  check_refused();
  printf("%d checks, %d failures\n", checks, failures);
  return failures > 0;
}
