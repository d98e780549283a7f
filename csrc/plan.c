/* The cost model: how many threads, which split, hoisted or fused. Cycles are estimates; only their order matters. */
#include "plan.h"
#include "rows.h"
#include "team.h"

#include <stdatomic.h>
#include <unistd.h>

/* From the L2. A cycle is a multiply-add of a vector; a core with two units has half as many bytes to it. 116 GB/s, and
 * 134 with two units: forward, 30,4,333,333 takes 1105 us by rows and 825 by units, 50,6,256,256 1375 and 1105.
 * Backward, a quarter of a panel at a time, which stays in L1, is what rows wait for less. */
static const double FORWARD_BYTES_PER_CYCLE = 24, BACKWARD_BYTES_PER_CYCLE = 32;
static const double L3_BYTES_PER_CYCLE = 22;
/* Tiles backward that fetch the next quarter of a panel: by rows and by units 100,64,512,512 takes 174 and 180 ms,
 * 25,64,1024,1024 179 and 182, 25,16,1024,1024 54 and 49. */
static const double BACKWARD_ASKING = 3;
static const double L1_BYTES = 48e3;       /* what a panel may take from tile to tile */
static const double BARRIER = 1200;        /* two threads, own flags: 48 ns at best, 330 on a busy host */
static const double EXCHANGE = 1;          /* bytes a cycle of what another core has just written: 8 KB take 2.3 us */
/* Before a call enters its own floating-point mode whole numbers serve where others would leave a flag in the caller's.
 */
static const double REGION = 40000; /* entering and leaving a parallel region, threads half awake */
static const double CELL = 90; /* pointwise part of one vector of units */
enum { LEAST_HOISTED = 8 }; /* inputs; with fewer, a fused step costs less than the products' way through memory */
static const int64_t HOIST_BYTES = 192 * 1024; /* of hoisted products that one thread keeps in its L2 */
/* Weights from beyond it are read once for so many tokens at least, if their products take no more than so many bytes:
 * 16,1,2048,2048 25.3 -> 23.1 ms. */
static const int64_t HOIST_TOKENS = 64, MOST_HOISTED = 8 << 20;

/* Where steps go to and fro over weights of more than so many L2s, a lone row takes one panel at a time in place of
 * several at once: the next step finds as much as fits, not what fits of whole groups. A streamed step of 512 115 ->
 * 104 us, 640 205 -> 187; of less than that, several at once are faster: forward of 100,1,512,512 3.5 and 3.75 ms. */
static const double OUTGROWN = 2;

/* Hoisted products of all steps that may take so much of the L2 of a core, if weight_ih then need not be packed as a
 * whole: its panels stay in a cache. Forward for training 50,1,1024,1024 17.6 -> 16.5 ms, 100,1,512,512 3.95 -> 3.79.
 */
static const double LATE_BYTES = 512e3;

/* Steps of a chunk of one row whose input product, unless it is packed late, fills the time that threads wait for one
 * another: 1875,1,128,128 3.92
 * -> 3.74 ms, 100,1,160,160 306 -> 294 us; 12 and 48 gain less, 50,3,96,96 loses 2 %, and weights from beyond the L2
 * would be read more often (100,1,512,512 loses 10 %). */
static const int64_t FILL_STEPS = 24;

/* A thread's own rows (plan_own): bytes of two h and a c up to which they are kept apart, from so many steps on; rows
 * up to which h is, however long the outputs. */
static const int64_t MOST_OWN = 24576, LEAST_OWN = 3, ALWAYS_OWN = 8;

/* What weights may take of the L2 of one core, which has 1 MB where the system does not say. */
static double l2_bytes(void) {
  static atomic_long known;
  long bytes = atomic_load_explicit(&known, memory_order_relaxed);
  if (!bytes) {
#if defined(_SC_LEVEL2_CACHE_SIZE)
    bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
#endif
    bytes = bytes > 0 ? bytes : 1 << 20;
    atomic_store_explicit(&known, bytes, memory_order_relaxed);
  }
  return (double)(bytes / 8 * 7);
}

/* What a step does, to whom a plan looks: panels of so many vectors for each k. */
typedef struct {
  int64_t panels; /* that can be split between threads */
  int vecs;
  double depth; /* k */
  double vec_bytes;
  int tile_rows;
  double l2_rate; /* bytes in a cycle */
  int pairs; /* a few rows more than fit a tile read a panel once */
  double asking; /* tiles that fetch the whole of the next panel from beyond the L2 */
  int64_t row_bytes; /* that a step reads of the one before, where panels are split some from other threads */
  double apart; /* cycles, on one thread, of what is no part of a step and divided evenly among any threads */
  double uneven; /* how much longer it takes by rows, as these are of unequal length */
} step_work;

/* One thread's step: `rows` batch rows against `panels`. What it waits for weights from beyond the L2 is what tiles
 * have not fetched meanwhile: forward, 50,128,256,256 takes 20.1 ms by rows and 21.3 by units, 25,64,1024,1024 76 and
 * 79, with fewer tiles 25,16,1024,1024 27 and 21. */
static double step_cycles(const step_work *w, double rows, double panels) {
  double panel = w->vecs * w->depth * w->vec_bytes, tiles = (double)ceil_div((int64_t)rows, w->tile_rows);
  double reads = w->pairs && in_pairs((int64_t)rows, w->tile_rows) ? 1 : tiles;
  double fma = rows * w->vecs * w->depth, stream = reads * panel / w->l2_rate;
  double cycles = fma > stream ? fma : stream;
  if (panel * panels > l2_bytes()) {
    double left = w->asking > tiles ? 1 - tiles / w->asking : 0;
    cycles += panel / L3_BYTES_PER_CYCLE * 2 * left * left;
  }
  return panels * (cycles + rows * CELL);
}

/* Serial, rows split or hidden units split: the least of the three, or what the caller insists on. */
static plan choose_split(const bptt_problem *p, const step_work *w) {
  int most = (int)min_i64(p->threads, BPTT_MAX_THREADS);
  int by_rows = (int)max_i64(1, min_i64(most, p->B)), by_units = (int)min_i64(most, w->panels);
  double T = (double)p->T, B = (double)p->B;
  double cycles[4] = {0};
  cycles[BPTT_SERIAL] = w->apart + T * step_cycles(w, B, (double)w->panels);
  cycles[BPTT_SPLIT_ROWS] =
      REGION + w->apart / by_rows + w->uneven * T * step_cycles(w, (double)ceil_div(p->B, by_rows), (double)w->panels);
  double others = B * (double)(w->row_bytes / max_i64(1, by_units) * (by_units - 1));
  cycles[BPTT_SPLIT_HIDDEN] =
      REGION + w->apart / by_units +
      T * (BARRIER + others / EXCHANGE + step_cycles(w, B, (double)ceil_div(w->panels, by_units)));
  plan chosen = {.split = BPTT_SERIAL, .threads = 1, .chunk = 1};
  if (most > 1) {
    for (int split = BPTT_SPLIT_ROWS; split <= BPTT_SPLIT_HIDDEN; split++)
      if (cycles[split] < cycles[chosen.split])
        chosen.split = (bptt_split)split;
    if (p->split)
      chosen.split = (bptt_split)p->split;
    chosen.threads = chosen.split == BPTT_SPLIT_ROWS ? by_rows : chosen.split == BPTT_SPLIT_HIDDEN ? by_units : 1;
  }
  return chosen;
}

/* Whether threads keep c, or h, of their own apart. What two threads write lies side by side in the caller's arrays,
 * and what a core fetches ahead of its own last row takes lines from the other one, which writes them: 0.1 to 0.5 us a
 * step. Where outputs outgrow the L2, reading h again brings the lines for the next step, which many rows need more.
 * Where units are split c alone can be kept, and one row alone gains by it. Figures: docs/performance.md. */
static void plan_own(const bptt_problem *p, plan *chosen, int lanes, int size) {
  const int64_t each = ceil_div(p->B, max_i64(1, chosen->threads)), state = ceil_div(p->H, lanes) * lanes * size;
  const int keeps_c = p->cell == BPTT_LSTM && !p->cells;
  if (chosen->threads < 2 || p->T < LEAST_OWN || has_second(p))
    return;
  if (chosen->split == BPTT_SPLIT_HIDDEN) {
    chosen->owns_c = keeps_c && p->B == 1;
  } else if (OWN_STATES * each * state <= MOST_OWN) {
    chosen->owns_c = keeps_c;
    chosen->owns_h =
        p->cell != BPTT_RNN && (each <= ALWAYS_OWN || (double)p->T * (double)(p->B * p->H * size) <= l2_bytes());
  }
}

plan plan_forward(const bptt_problem *p, int64_t panels, int vecs, int lanes, int size, int tile_rows) {
  int64_t panel_bytes = (int64_t)vecs * lanes * size;
  double depth = (double)(p->I + width_of(p));
  const step_work work = {.panels = panels,
                          .vecs = vecs,
                          .depth = depth,
                          .vec_bytes = (double)lanes * size,
                          .tile_rows = tile_rows,
                          .l2_rate = FORWARD_BYTES_PER_CYCLE,
                          .pairs = 1,
                          .asking = vecs,
                          .row_bytes = width_of(p) * size,
                          .uneven = 1};
  plan chosen = choose_split(p, &work);
  int64_t rows = chosen.split == BPTT_SPLIT_ROWS ? ceil_div(p->B, chosen.threads) : p->B;
  int64_t own = chosen.split == BPTT_SPLIT_HIDDEN ? ceil_div(panels, chosen.threads) : panels;
  int64_t steps = HOIST_BYTES / max_i64(1, own * panel_bytes * rows);
  /* Tiles of few rows wait for their panel; hoisted, those of the input product are full whatever a step has:
   * 30,3,200,200 382 -> 309 us, 30,7,200,200 (tiles of 4 and 3) 707 -> 618, 50,7,64,64 191 -> 180. */
  int thin = 5 * rows <= 3 * tile_rows * ceil_div(rows, tile_rows) && p->I >= LEAST_HOISTED;
  /* From tile to tile a panel stays in the L1, or half of it, if what goes with x is gone through before:
   * 100,32,128,128 2720 -> 2584 us, 50,32,200,200 3414 -> 3259; no matter where both fit. */
  int outgrows_l1 = rows > tile_rows && depth * (double)panel_bytes > L1_BYTES,
      outgrows_l2 = depth * (double)(own * panel_bytes) > l2_bytes();
  if (outgrows_l2)
    steps = max_i64(steps, min_i64(HOIST_TOKENS, MOST_HOISTED / max_i64(1, own * panel_bytes)) / max_i64(1, rows));
  chosen.hoist = p->I > 0 && p->T > 1 && steps > 1 && (thin || outgrows_l1 || outgrows_l2);
  if (p->hoist)
    chosen.hoist = p->hoist == BPTT_HOIST_ALWAYS;
  double reads = (chosen.hoist ? (double)width_of(p) : depth) * (double)(own * panel_bytes);
  chosen.outgrown = reads > OUTGROWN * l2_bytes();
  plan_own(p, &chosen, lanes, size);
  if (chosen.hoist && !p->packed && chosen.split != BPTT_SPLIT_ROWS &&
      (double)p->T * (double)(own * panel_bytes * rows) <= LATE_BYTES) {
    chosen.packs_late = 1;
    steps = p->T;
  } else if (chosen.split == BPTT_SPLIT_HIDDEN && chosen.hoist && rows == 1 && !p->lengths && !outgrows_l2) {
    steps = min_i64(steps, FILL_STEPS);
    chosen.fills = steps < p->T;
  }
  int64_t T = max_i64(1, p->T);
  chosen.chunk = chosen.hoist ? ceil_div(T, ceil_div(T, max_i64(1, steps))) : T;
  return chosen;
}

plan plan_backward(const bptt_problem *p, int gates, int lanes, int size, int tile_rows, int tiled) {
  /* uneven: threads meet after each chunk, and of rows of unequal length that are not dealt the longest are one
   * thread's: when lengths are uniform the other one waits for a quarter of the time. */
  double depth = (double)(p->H + width_of(p));
  const step_work work = {.panels = max_i64(1, ceil_div(p->H, lanes) / WIDE_VECS),
                          .vecs = gates,
                          .depth = depth,
                          .vec_bytes = (double)lanes * size,
                          .tile_rows = tile_rows,
                          .l2_rate = BACKWARD_BYTES_PER_CYCLE,
                          .asking = BACKWARD_ASKING,
                          .row_bytes = gates * p->H * size,
                          .apart = (double)(p->T * p->B) * gates * (double)p->H * (double)(2 * p->I + width_of(p)) /
                                   (tiled ? 2 * lanes : lanes),
                          .uneven = p->lengths && !(p->threads == 2 && second_half(p) < p->B) ? 1.375 : 1};
  plan chosen = choose_split(p, &work);
  int64_t steps = p->truncate_every ? min_i64(p->T, p->truncate_depth) : p->T;
  int64_t whole = max_i64(1, CHUNK_TOKENS / max_i64(1, p->B));
  /* Twice as many tokens leave half of the tiles of dW, and members meet half as often. Always a multiple of the steps
   * of the shorter chunk: what src/bptt/_recompute.py cuts fits both. Figures: docs/performance.md. */
  int longer = size == sizeof(float) && (tiled || groups_of(p) == 1);
  chosen.chunk = max_i64(1, min_i64(steps, longer && p->B <= CHUNK_TOKENS ? 2 * whole : whole));
  chosen.depth = min_i64(longer ? MOST_TOKENS : CHUNK_TOKENS, chosen.chunk * p->B);
  return chosen;
}

void *arena_take(arena *a, int64_t count, int64_t element_bytes) {
  int64_t bytes;
  char *p = a->base ? a->base + a->used : NULL;
  if (__builtin_mul_overflow(count, element_bytes, &bytes) || bytes > INT64_C(1) << 60 || a->used > INT64_C(1) << 60) {
    a->overflow = 1;
    return NULL;
  }
  a->used += (bytes + ARENA_ALIGN - 1) / ARENA_ALIGN * ARENA_ALIGN;
  return p;
}

int groups_of(const bptt_problem *p) {
  double gates = p->cell == BPTT_LSTM ? 4 : p->cell == BPTT_GRU ? 3 : 1, width = (double)(p->I + width_of(p));
  double numbers = gates * (double)p->H * width;
  return p->B >= LEAST_IN_GROUPS && p->B <= CHUNK_TOKENS && numbers <= MOST_IN_GROUPS &&
                 numbers <= (double)p->B * IN_GROUPS_FOR_A_ROW
             ? 2
             : 1;
}
