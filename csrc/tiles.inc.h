/* Products of float32 numbers on tiles of bfloat16.
 *
 * A number is split into three pieces of 8 bits each, which together are the number itself. Of the nine products of
 * pieces the six with the larger ones are taken; what the other three would add is at most a unit in the last place,
 * and 2^-28 of the product on average. Each is exact in float32, and so their sum is as good as a chain of fused
 * multiply-adds. AMX makes sixteen times as many products of bfloat16 in a cycle as AVX-512 of float32, so that with
 * six for one 2.7 times as many are left.
 *
 * Tiles have 16 rows of 16 pairs of numbers, and 16 rows of 16 sums. One step takes DEEP numbers of a row: pair n is
 * number n and number n + 16, on both sides. The order of a sum, whatever the shape: steps from the first to the last,
 * in each the six products of pieces (high, low), (high, middle), (middle, middle), (middle, high), (low, high), (high,
 * high): from one to the next one side changes. In each of these the processor goes through the first numbers of all
 * pairs in one chain of fused multiply-adds from zero, through the second ones in another, and adds the two, and then
 * that to the sum. What is below 2^-126 on the way, a product too, counts as zero.
 *
 * Four products of tiles take 64 cycles and a dozen instructions; the core has nothing else to do meanwhile, but looks
 * no further ahead than two or three such groups. So packing what comes next and putting sums away are cut into units
 * of some sixty instructions, which follow one group each: docs/performance.md, "Products in pieces".
 */
#include "inlining.h"
#include "tiles.h"

#include <stddef.h>
#include <stdint.h>

#define REAL float
#define REAL_BITS 32
#define NAME(op) PASTE(op, _f32)
#include "vec.inc.h"

#include "pieces.inc.h"

enum {
  MOST_DEEP = 512, /* of the right side, which stays in the L2 with so many */
  MOST_STRIPS = 32, /* at once: for them the left side is packed once */
  BAND = 2 * SIDE, /* rows of the left side at once */
  GROUPS = 6, /* of four products in a step */
  LEAVE_UNITS = 4, /* that put away the sums of a band and a strip; as many ask for where they go */
  LEAVE_ROWS = BAND / LEAVE_UNITS
};

/* What stands in a tile of the right side, `lanes` columns of rows. */
typedef struct {
  const float *const *rows;
  float *dw; /* of outer() */
  int64_t width, column;
  int lanes;
} columns;

/* One or two tiles side by side, of one array or of two, and where they stand packed: [step][piece][tile][16][16
 * pairs]. */
typedef struct {
  columns of[2];
  int tiles;
  char *packed;
  float *sums; /* [row][tiles][16] of a band of the left side */
} strip;

/* All of a left side against a group of strips. */
typedef struct {
  const strip *strips;
  int count, most;
  range rows; /* of the left side */
  int64_t depth;
  char *bands; /* where two of them are packed in turn, each like a strip */
  /* against(): numbers of a row from `first` on */
  const bptt_against *against;
  int64_t first;
  /* outer() */
  const float *const *dz;
  int64_t offset;
  int fresh;
  float *bias;
  vec squares[2][SIDE], totals[2];
  /* What is to be done between products: a share of `units` after each of `groups`. */
  int units, groups, due;
  const strip *full; /* whose sums, of the band at `full_row`, are asked for and put away in so many units */
  int64_t full_row;
  int full_units;
  int64_t next; /* row of the band that is packed, and where; a tile after the other, step by step */
  char *to;
  int tile, tile_unit;
} sweep;

/* Of a sum over no numbers, too. */
static int steps_of(int64_t depth) {
  return (int)max_i64(1, ceil_div(depth, DEEP));
}

static int tiles_of(int64_t numbers) {
  return numbers > SIDE ? 2 : 1;
}

static int band_rows(const sweep *s, int64_t row) {
  return (int)min_i64(BAND, s->rows.end - row);
}

/* Bytes of a band or a strip, packed. */
static int64_t packed_bytes(int64_t depth) {
  return steps_of(min_i64(depth, MOST_DEEP)) * 2 * STACK;
}

/* The right side: `depth` rows at the columns of some strips, step by step through all of them, as rows may be pages
 * apart. Backward of 50,8,512,2048 with P = 512 takes 3 to 7 % less than strip by strip. */
NOINLINE void pack_strips(const strip *strips, int count, int64_t depth) {
  for (int step = 0; step < steps_of(depth); step++)
    for (const strip *s = strips; s < strips + count; s++)
      for (int n = 0; n < s->tiles; n++)
        pack_tile(s->packed + step * s->tiles * STACK + n * TILE, s->tiles * TILE, s->of[n].rows + step * DEEP,
                  depth - step * DEEP, s->of[n].column, s->of[n].lanes);
}

/* Starts with the band at `row`; how many units pack it. */
static int start_band(sweep *s, int64_t row, char *to) {
  const int tiles = row < s->rows.end ? tiles_of(band_rows(s, row)) * steps_of(s->depth) : 0;
  s->next = row, s->to = to, s->tile = s->tile_unit = 0;
  return tiles * (s->against ? STRAIGHT_UNITS : TURNED_UNITS);
}

static void outer_unit(sweep *s, int unit, char *to, int64_t apart, int n, int64_t row, int64_t k) {
  const int64_t depth = s->depth - k;
  vec *total = &s->totals[n];
  if (k == 0 && unit == 0)
    *total = (vec){0};
  pack_turned(unit, to, apart, s->dz + k, depth, s->offset + row, s->squares, total);
  if (s->bias && unit == 1 && depth <= DEEP) {
    const int lanes = (int)min_i64(SIDE, s->rows.end - row);
    vstore_n(s->bias + row, s->fresh ? *total : vload_n(s->bias + row, lanes) + *total, lanes);
  }
  /* The same of the band after it is asked for, as its lines lie far apart. */
  if (unit >= 2 && row + BAND < s->rows.end) {
    const int each = DEEP / STRAIGHT_UNITS, from = (unit - 2) * each;
    for (int64_t t = k + from; t < k + min_i64(from + each, depth); t++)
      __builtin_prefetch(s->dz[t] + s->offset + row + BAND, 0, 2);
  }
}

static void band_unit(sweep *s) {
  const int tiles = tiles_of(band_rows(s, s->next)), n = s->tile & (tiles - 1), step = s->tile >> (tiles - 1);
  const int64_t apart = tiles * TILE, row = s->next + n * SIDE, k = step * DEEP;
  const int unit = s->tile_unit++, units = s->against ? STRAIGHT_UNITS : TURNED_UNITS;
  char *to = s->to + step * tiles * STACK + n * TILE;
  if (s->tile_unit == units)
    s->tile_unit = 0, s->tile++;
  if (s->against)
    pack_straight(unit, to, apart, s->against->a + row, (int)min_i64(SIDE, s->rows.end - row), s->first + k,
                  s->depth - k);
  else
    outer_unit(s, unit, to, apart, n, row, k);
}

/* Where sums of a tile go: row `row` of the result, from the tile's first column on. */
INLINE float *result_row(const sweep *s, const columns *of, int64_t row) {
  return (s->against ? s->against->to[row] : of->dw + row * of->width) + of->column;
}

/* Asks for the lines that sums will be added to, to write them: where blocks are truncated another thread has read them
 * since, to add them up. Then 1250 us in place of 1370 at RNN 100,32,128,128, truncated to 10; __builtin_prefetch()
 * would only ask to read. */
static void ask_rows(const sweep *s, int begin, int rows) {
  for (int n = 0; n < s->full->tiles; n++)
    for (int r = begin; r < begin + rows; r++)
      __asm__ volatile("prefetchw (%0)" : : "r"(result_row(s, &s->full->of[n], s->full_row + r)));
}

/* Some rows of a tile, `pitch` apart. */
INLINE void leave_tile(int lanes, int adds, const sweep *s, const columns *of, int64_t row, int rows, const float *sums,
                       int64_t pitch) {
  for (int r = 0; r < rows; r++, sums += pitch) {
    float *to = result_row(s, of, row + r);
    vstore_n(to, adds ? vload_n(to, lanes) + vload(sums) : vload(sums), lanes);
  }
}

static void leave_rows(const sweep *s, int begin, int rows) {
  const int tiles = s->full->tiles, adds = !s->against && !s->fresh;
  const int64_t row = s->full_row + begin, pitch = tiles * SIDE;
  for (int n = 0; n < tiles; n++) {
    const columns of = s->full->of[n];
    const float *sums = s->full->sums + begin * pitch + n * SIDE;
    if (of.lanes == SIDE && adds)
      leave_tile(SIDE, 1, s, &of, row, rows, sums, pitch);
    else if (of.lanes == SIDE)
      leave_tile(SIDE, 0, s, &of, row, rows, sums, pitch);
    else
      leave_tile(of.lanes, adds, s, &of, row, rows, sums, pitch);
  }
}

/* Units are counted down: those that ask, and those that leave. */
static void full_unit(sweep *s) {
  const int n = --s->full_units, begin = n % LEAVE_UNITS * LEAVE_ROWS;
  const int rows = (int)min_i64(LEAVE_ROWS, band_rows(s, s->full_row) - begin);
  if (n < LEAVE_UNITS)
    leave_rows(s, begin, rows);
  else
    ask_rows(s, begin, rows);
}

NOINLINE void work_unit(sweep *s) {
  if (s->full_units > 0)
    full_unit(s);
  else
    band_unit(s);
}

INLINE void work_on(sweep *s) {
  for (s->due += s->units; s->due >= s->groups; s->due -= s->groups)
    work_unit(s);
}

/* Sums that go on, from where they were left. */
static void enter_rows(const sweep *s, const strip *strip, int64_t row, int rows) {
  for (int n = 0; n < strip->tiles; n++)
    for (int r = 0; r < rows; r++)
      vstore(strip->sums + (r * strip->tiles + n) * SIDE,
             vload_n(result_row(s, &strip->of[n], row + r), strip->of[n].lanes));
}

/* `steps` steps of M tiles of rows against N tiles of columns; goes_on: onto what stands there. GCC takes a load of a
 * tile for one without effect on memory, and may move what is written past it; some of its headers put a pointer
 * behind a cast without parentheses. */
INLINE void tile_sums(int M, int N, sweep *s, float *sums, int goes_on, const char *a, const char *b, int steps) {
#define LEFT(piece)                                                                                                    \
  do {                                                                                                                 \
    _tile_loadd(4, (a + (piece) * M * TILE), 64);                                                                      \
    if (M > 1)                                                                                                         \
      _tile_loadd(5, (a + ((piece) * M + 1) * TILE), 64);                                                              \
  } while (0)
#define RIGHT(piece)                                                                                                   \
  do {                                                                                                                 \
    _tile_loadd(6, (b + (piece) * N * TILE), 64);                                                                      \
    if (N > 1)                                                                                                         \
      _tile_loadd(7, (b + ((piece) * N + 1) * TILE), 64);                                                              \
  } while (0)
#define PRODUCT                                                                                                        \
  do {                                                                                                                 \
    _tile_dpbf16ps(0, 4, 6);                                                                                           \
    if (N > 1)                                                                                                         \
      _tile_dpbf16ps(1, 4, 7);                                                                                         \
    if (M > 1)                                                                                                         \
      _tile_dpbf16ps(2, 5, 6);                                                                                         \
    if (M > 1 && N > 1)                                                                                                \
      _tile_dpbf16ps(3, 5, 7);                                                                                         \
    work_on(s);                                                                                                        \
  } while (0)
  __asm__ volatile("" : : : "memory");
  float *below = sums + SIDE * SIDE * N;
  if (goes_on) {
    _tile_loadd(0, sums, N * 64);
    if (N > 1)
      _tile_loadd(1, (sums + SIDE), N * 64);
    if (M > 1)
      _tile_loadd(2, below, N * 64);
    if (M > 1 && N > 1)
      _tile_loadd(3, (below + SIDE), N * 64);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (; steps > 0; steps--, a += M * STACK, b += N * STACK) {
    LEFT(0);
    RIGHT(2);
    PRODUCT;
    RIGHT(1);
    PRODUCT;
    LEFT(1);
    PRODUCT;
    RIGHT(0);
    PRODUCT;
    LEFT(2);
    PRODUCT;
    LEFT(0);
    PRODUCT;
  }
  _tile_stored(0, sums, N * 64);
  if (N > 1)
    _tile_stored(1, (sums + SIDE), N * 64);
  if (M > 1)
    _tile_stored(2, below, N * 64);
  if (M > 1 && N > 1)
    _tile_stored(3, (below + SIDE), N * 64);
  __asm__ volatile("" : : : "memory");
#undef LEFT
#undef RIGHT
#undef PRODUCT
}

NOINLINE void strip_sums(sweep *s, const strip *strip, int rows, int goes_on, const char *a) {
  const int steps = steps_of(s->depth);
  if (rows > SIDE && strip->tiles > 1)
    tile_sums(2, 2, s, strip->sums, goes_on, a, strip->packed, steps);
  else if (rows > SIDE)
    tile_sums(2, 1, s, strip->sums, goes_on, a, strip->packed, steps);
  else if (strip->tiles > 1)
    tile_sums(1, 2, s, strip->sums, goes_on, a, strip->packed, steps);
  else
    tile_sums(1, 1, s, strip->sums, goes_on, a, strip->packed, steps);
}

/* The band at `row`, packed at `left`, against all strips, while the next one is packed. */
static void sweep_band(sweep *s, int64_t row, const char *left, char *next) {
  const int rows = band_rows(s, row), goes_on = s->against && s->first > 0, all = start_band(s, row + BAND, next);
  int tiles = 0, done = 0;
  for (int n = 0; n < s->count; n++)
    tiles += s->strips[n].tiles;
  for (int n = 0; n < s->count; n++) {
    const strip *strip = &s->strips[n];
    for (; goes_on && s->full == strip && s->full_units > 0;) /* the only one */
      full_unit(s);
    if (goes_on)
      enter_rows(s, strip, row, rows);
    const int share = all * (done + strip->tiles) / tiles - all * done / tiles;
    s->units = s->full_units + share;
    done += strip->tiles;
    s->groups = GROUPS * steps_of(s->depth), s->due = 0;
    strip_sums(s, strip, rows, goes_on, left);
    s->full = strip, s->full_row = row, s->full_units = s->against ? LEAVE_UNITS : 2 * LEAVE_UNITS;
  }
  for (int n = 0; s->count == 0 && n < all; n++)
    band_unit(s);
}

static void sweep_run(sweep *s) {
  char *left[2] = {s->bands, s->bands + packed_bytes(s->depth)};
  int turn = 0;
  pack_strips(s->strips, s->count, s->depth);
  for (int units = start_band(s, s->rows.begin, left[0]); units > 0; units--)
    band_unit(s);
  for (int64_t row = s->rows.begin; row < s->rows.end; row += BAND, turn ^= 1)
    sweep_band(s, row, left[turn], left[turn ^ 1]);
  while (s->full_units > 0)
    full_unit(s);
}

static void tiles_on(void) {
  static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } all = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&all);
}

/* Of a strip and the sums behind it. Ten lines more, or those of all strips would go into the same sets of the L1. */
static int64_t strip_bytes(int64_t depth) {
  return packed_bytes(depth) + BAND * BPTT_STRIP * (int64_t)sizeof(float) + 640;
}

/* Eight strips of the deepest; of shorter ones as many as take no more. */
static int64_t most_bytes(void) {
  return 8 * strip_bytes(MOST_DEEP);
}

static int most_strips(int64_t depth) {
  return (int)min_i64(MOST_STRIPS, most_bytes() / strip_bytes(depth));
}

/* Enough for fewer columns or less depth, too. */
static int64_t room(int64_t columns, int64_t depth) {
  const int64_t tiles = ceil_div(columns, SIDE) + 1; /* two arrays may each end in a tile of their own */
  return 2 * packed_bytes(depth) + min_i64(most_bytes(), ceil_div(tiles, 2) * strip_bytes(depth));
}

/* Takes as many tiles of an array, from some column on, as fill up the strips of a group; how many columns they have.
 */
static int64_t fill_strips(sweep *s, strip *strips, columns of, int64_t end) {
  const int64_t begin = of.column;
  for (; of.column < end; of.column += SIDE) {
    if (s->count == 0 || strips[s->count - 1].tiles == 2) {
      if (s->count == s->most)
        break;
      char *packed = s->bands + 2 * packed_bytes(s->depth) + s->count * strip_bytes(s->depth);
      strips[s->count++] = (strip){.packed = packed, .sums = (float *)(packed + packed_bytes(s->depth))};
    }
    strip *last = &strips[s->count - 1];
    of.lanes = (int)min_i64(SIDE, end - of.column);
    last->of[last->tiles++] = of;
  }
  return min_i64(of.column, end) - begin;
}

static void outer(const bptt_outer *to, int count, range gates, int fresh, const float *const *dz, int64_t offset,
                  int64_t depth, float *bias, void *room) {
  strip strips[MOST_STRIPS];
  sweep s = {.strips = strips, .most = most_strips(depth), .rows = gates, .depth = depth, .bands = room};
  s.dz = dz, s.offset = offset, s.fresh = fresh, s.bias = bias;
  tiles_on();
  for (int n = 0; n < count; n++)
    for (int64_t column = 0; column < to[n].width;) {
      column += fill_strips(&s, strips, (columns){to[n].rows, to[n].dw, to[n].width, column, 0}, to[n].width);
      if (column == to[n].width && n + 1 < count)
        continue;
      sweep_run(&s);
      s.count = 0, s.bias = NULL;
    }
  if (s.count || s.bias) /* also of no columns */
    sweep_run(&s);
  _tile_release();
}

static void against(const bptt_against *p, range columns_of, void *room) {
  const float *list[MOST_DEEP];
  strip strips[MOST_STRIPS];
  const int64_t depth = p->gates * p->H;
  tiles_on();
  for (int64_t column = columns_of.begin, n = 0; column < columns_of.end; column += n) {
    for (int64_t first = 0; first < depth; first += MOST_DEEP) {
      const int64_t now = min_i64(MOST_DEEP, depth - first);
      for (int64_t k = 0; k < now; k++) {
        const int gate = (int)((first + k) / p->H);
        list[k] = p->weights + (p->block(gate) * p->H + (first + k) % p->H) * p->width;
      }
      sweep s = {.strips = strips, .most = most_strips(depth), .rows = {0, p->count}, .depth = now, .bands = room};
      s.against = p, s.first = first;
      n = fill_strips(&s, strips, (columns){list, NULL, p->width, column, 0}, columns_of.end);
      sweep_run(&s);
    }
  }
  _tile_release();
}

const bptt_tiles PASTE(bptt_tiles_, VARIANT) = {room, outer, against};
