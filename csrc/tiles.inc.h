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
 * in each the six products of pieces (high, low), (high, middle), (high, high), (middle, high), (middle, middle), (low,
 * high). In each of these the processor goes through the first numbers of all pairs in one chain of fused multiply-adds
 * from zero, through the second ones in another, and adds the two, and then that to the sum. What is below 2^-126 on
 * the way, a product too, counts as zero.
 */
#include "inlining.h"
#include "tiles.h"

#include <stddef.h>
#include <stdint.h>

#define REAL float
#define REAL_BITS 32
#define NAME(op) PASTE(op, _f32)
#include "vec.inc.h"

typedef uint32_t uvec __attribute__((vector_size(VEC_BYTES)));
typedef uint32_t uvec_any __attribute__((vector_size(VEC_BYTES), aligned(4), may_alias));

enum {
  SIDE = 16, /* rows and columns of a tile of sums */
  DEEP = 32,
  TILE = 1024, /* bytes */
  STACK = 3 * TILE, /* three pieces */
  /* What goes through the left side at once stays in the L1; sums are put away between. 512 tokens of 1024 gates by
   * 256 columns: 782 us; with 128 tokens 899, with all 879. */
  AT_ONE_TIME = 64,
  MOST_DEEP = 512, /* of the right side, which stays in the L2 with so many */
  MOST_STRIPS = 8
};

/* Columns of rows, at most BPTT_STRIP of them from `column` on, and where they stand packed: [step][piece][tile][16][16
 * pairs]. */
typedef struct {
  const float *const *rows;
  float *dw; /* of outer() */
  int64_t width, column;
  int tiles;
  char *packed;
  float *sums; /* [row][tiles][16] of the left side's rows */
} strip;

INLINE uvec upper(uvec a) {
  return a & 0xFFFF0000u;
}

/* Pairs of two vectors, in three pieces: rounded, what is left rounded, and the rest, which has 8 bits. An infinity or
 * NaN leaves NaN. */
INLINE void split(char *to, int64_t apart, vec a, vec b) {
  const uvec high_a = upper((uvec)a + 0x8000u), high_b = upper((uvec)b + 0x8000u);
  a -= (vec)high_a, b -= (vec)high_b;
  const uvec middle_a = upper((uvec)a + 0x8000u), middle_b = upper((uvec)b + 0x8000u);
  a -= (vec)middle_a, b -= (vec)middle_b;
  *(uvec_any *)to = high_a >> 16 | high_b;
  *(uvec_any *)(to + apart) = middle_a >> 16 | middle_b;
  *(uvec_any *)(to + 2 * apart) = (uvec)a >> 16 | upper((uvec)b);
}

/* One tile of the right side in three pieces: 32 rows, of which `depth` are there. */
INLINE void pack_tile(char *to, int64_t apart, const float *const *rows, int64_t depth, int64_t column, int lanes) {
  if (depth >= DEEP && lanes >= SIDE) {
    for (int n = 0; n < SIDE; n++)
      split(to + n * VEC_BYTES, apart, vload(rows[n] + column), vload(rows[n + SIDE] + column));
    return;
  }
  for (int n = 0; n < SIDE; n++) {
    const vec a = n < depth ? vload_n(rows[n] + column, lanes) : (vec){0};
    split(to + n * VEC_BYTES, apart, a, n + SIDE < depth ? vload_n(rows[n + SIDE] + column, lanes) : (vec){0});
  }
}

/* The right side: `depth` rows at the columns of some strips, step by step through all of them, as rows may be pages
 * apart. Backward of 50,8,512,2048 with P = 512 takes 3 to 7 % less than strip by strip. */
NOINLINE void pack_strips(const strip *strips, int count, int64_t depth) {
  for (int64_t k = 0; k < depth; k += DEEP)
    for (const strip *s = strips; s < strips + count; s++) {
      char *to = s->packed + k / DEEP * s->tiles * STACK;
      for (int tile = 0; tile < s->tiles; tile++) {
        const int64_t column = s->column + tile * SIDE;
        pack_tile(to + tile * TILE, s->tiles * TILE, s->rows + k, depth - k, column,
                  (int)min_i64(SIDE, s->width - column));
      }
    }
}

/* The left side, 16 gates over at most AT_ONE_TIME tokens: [step][piece][tile][16][16 pairs], one of so many tiles.
 * Adds the numbers of each gate to `sum`. */
NOINLINE void pack_turned(char *to, int tiles, const float *const *dz, int64_t column, int64_t depth, vec *sum) {
  vec total = *sum;
  for (int64_t k = 0; k < depth; k += DEEP, to += tiles * STACK) {
    vec square[2][SIDE];
    if (k + DEEP <= depth) {
      UNROLL for (int n = 0; n < SIDE; n++) square[0][n] = vload(dz[k + n] + column);
      UNROLL for (int n = 0; n < SIDE; n++) total += square[0][n];
      vtranspose(square[0]);
      UNROLL for (int n = 0; n < SIDE; n++) square[1][n] = vload(dz[k + SIDE + n] + column);
      UNROLL for (int n = 0; n < SIDE; n++) total += square[1][n];
      vtranspose(square[1]);
    } else {
      for (int n = 0; n < DEEP; n++) {
        square[n / SIDE][n % SIDE] = k + n < depth ? vload(dz[k + n] + column) : (vec){0};
        if (k + n < depth)
          total += square[n / SIDE][n % SIDE];
      }
      vtranspose(square[0]);
      vtranspose(square[1]);
    }
    UNROLL for (int n = 0; n < SIDE; n++) split(to + n * VEC_BYTES, tiles * TILE, square[0][n], square[1][n]);
  }
  *sum = total;
}

/* The left side, at most 16 rows of numbers [k, k + depth), likewise. */
NOINLINE void pack_straight(char *to, int tiles, const float *const *rows, int count, int64_t k, int64_t depth) {
  for (int n = 0; n < count; n++) {
    const float *from = rows[n] + k;
    char *at = to + n * VEC_BYTES;
    for (int64_t left = depth; left > 0; left -= DEEP, from += DEEP, at += tiles * STACK) {
      vec a, b = {0};
      if (left >= DEEP) {
        a = vload(from), b = vload(from + SIDE);
      } else {
        a = vload_n(from, (int)min_i64(SIDE, left));
        if (left > SIDE)
          b = vload_n(from + SIDE, (int)(left - SIDE));
      }
      split(at, tiles * TILE, a, b);
    }
  }
}

/* `steps` steps of M tiles of rows against N tiles of columns; goes_on: onto what stands there. GCC takes a load of a
 * tile for one without effect on memory, and may move what is written past it; some of its headers put a pointer
 * behind a cast without parentheses. */
INLINE void tile_sums(int M, int N, float *sums, int goes_on, const char *a, const char *b, int64_t steps) {
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
    RIGHT(0);
    PRODUCT;
    LEFT(1);
    PRODUCT;
    RIGHT(1);
    PRODUCT;
    LEFT(2);
    RIGHT(0);
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

NOINLINE void strip_sums(int rows, const strip *s, int goes_on, const char *a, int64_t step, int64_t steps) {
  const char *b = s->packed + step * s->tiles * STACK;
  if (rows > SIDE && s->tiles > 1)
    tile_sums(2, 2, s->sums, goes_on, a, b, steps);
  else if (rows > SIDE)
    tile_sums(2, 1, s->sums, goes_on, a, b, steps);
  else if (s->tiles > 1)
    tile_sums(1, 2, s->sums, goes_on, a, b, steps);
  else
    tile_sums(1, 1, s->sums, goes_on, a, b, steps);
}

static void tiles_on(void) {
  static const struct {
    uint8_t palette, start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } all = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&all);
}

/* Of what is packed, and of the sums behind it. */
static int64_t packed_bytes(int64_t depth) {
  return ceil_div(min_i64(depth, MOST_DEEP), DEEP) * 2 * STACK;
}

/* Ten lines more, or those of all strips would go into the same sets of the L1. */
static int64_t strip_bytes(int64_t depth) {
  return packed_bytes(depth) + 4 * SIDE * SIDE * (int64_t)sizeof(float) + 640;
}

static int64_t room(int64_t columns, int64_t depth) {
  /* Two arrays may each end in a strip of their own. */
  return min_i64(MOST_STRIPS, ceil_div(columns, BPTT_STRIP) + 1) * strip_bytes(depth);
}

/* The n-th strip of a group, from some column on. */
static strip strip_at(const float *const *rows, int64_t width, int64_t column, int64_t depth, char *room, int n) {
  char *packed = room + n * strip_bytes(depth);
  return (strip){.rows = rows,
                 .width = width,
                 .column = column,
                 .tiles = width - column > SIDE ? 2 : 1,
                 .packed = packed,
                 .sums = (float *)(packed + packed_bytes(depth))};
}

/* Asks for the lines of a strip's sums, to write them: where blocks are truncated another thread has read them since,
 * to add them up. Then 1250 us in place of 1370 at RNN 100,32,128,128, truncated to 10; __builtin_prefetch() would only
 * ask to read. */
static void ask_sums(const strip *s, int64_t row, int rows) {
  const float *dw = s->dw + row * s->width + s->column;
  for (int r = 0; r < rows; r++, dw += s->width)
    for (int tile = 0; tile < s->tiles; tile++)
      __asm__ volatile("prefetchw (%0)" : : "r"(dw + tile * SIDE));
}

/* Sums of a strip, for some rows from `row` on, to where they belong. */
static void leave_sums(const strip *s, int64_t row, int rows, int fresh) {
  const int64_t width = s->width;
  const float *from = s->sums;
  for (int r = 0; r < rows; r++)
    for (int tile = 0; tile < s->tiles; tile++, from += SIDE) {
      const int64_t at = s->column + tile * SIDE;
      float *to = s->dw + (row + r) * width + at;
      if (width - at >= SIDE) {
        vstore(to, fresh ? vload(from) : vload(to) + vload(from));
      } else {
        const int lanes = (int)(width - at);
        vstore_n(to, fresh ? vload(from) : vload_n(to, lanes) + vload(from), lanes);
      }
    }
}

/* The gates against a group of strips. What comes next from dz, strided as it is, is asked for a part at a time while
 * tiles multiply, and so are the sums. */
static void outer_group(const strip *strips, int count, range gates, int fresh, const float *const *dz, int64_t offset,
                        int64_t depth, float *bias) {
  char a[AT_ONE_TIME / DEEP * 2 * STACK] __attribute__((aligned(64)));
  pack_strips(strips, count, depth);
  for (int64_t row = gates.begin; row < gates.end; row += 2 * SIDE) {
    const int rows = (int)min_i64(2 * SIDE, gates.end - row), tiles = rows > SIDE ? 2 : 1;
    vec sum[2] = {{0}};
    int64_t k = 0;
    do { /* once also over no tokens */
      const int64_t now = min_i64(AT_ONE_TIME, depth - k), last = k + AT_ONE_TIME >= depth;
      for (int tile = 0; tile < tiles; tile++)
        pack_turned(a + tile * TILE, tiles, dz + k, offset + row + tile * SIDE, now, &sum[tile]);
      const float *const *next = dz + (last ? 0 : k + AT_ONE_TIME);
      const int64_t next_row = last ? row + 2 * SIDE : row;
      const int64_t lines = next_row < gates.end ? min_i64(AT_ONE_TIME, depth - (next - dz)) : 0;
      for (int n = 0; n < count; n++) {
        if (last)
          ask_sums(&strips[n], row, rows);
        for (int64_t t = n * lines / count; t < (n + 1) * lines / count; t++) {
          __builtin_prefetch(next[t] + offset + next_row, 0, 2);
          __builtin_prefetch(next[t] + offset + next_row + SIDE, 0, 2);
        }
        strip_sums(rows, &strips[n], k > 0, a, k / DEEP, ceil_div(now, DEEP));
      }
      k += AT_ONE_TIME;
    } while (k < depth);
    for (int n = 0; n < count; n++)
      leave_sums(&strips[n], row, rows, fresh);
    for (int tile = 0; bias && tile < tiles; tile++) {
      const int lanes = (int)min_i64(SIDE, rows - tile * SIDE);
      float *to = bias + row + tile * SIDE;
      vstore_n(to, fresh ? sum[tile] : vload_n(to, lanes) + sum[tile], lanes);
    }
  }
}

static void outer(const bptt_outer *to, int count, range gates, int fresh, const float *const *dz, int64_t offset,
                  int64_t depth, float *bias, void *room) {
  strip strips[MOST_STRIPS];
  tiles_on();
  int filled = 0;
  for (int n = 0; n < count; n++)
    for (int64_t column = 0; column < to[n].width; column += BPTT_STRIP) {
      strips[filled] = strip_at(to[n].rows, to[n].width, column, depth, room, filled);
      strips[filled].dw = to[n].dw;
      if (++filled < MOST_STRIPS)
        continue;
      outer_group(strips, filled, gates, fresh, dz, offset, depth, bias);
      filled = 0, bias = NULL;
    }
  if (filled || bias) /* also of no columns */
    outer_group(strips, filled, gates, fresh, dz, offset, depth, bias);
  _tile_release();
}

/* Between the sums of a strip and rows of the result. */
static void move_sums(const strip *s, const bptt_against *p, int64_t row, int rows, int in) {
  float *sums = s->sums;
  for (int r = 0; r < rows; r++)
    for (int tile = 0; tile < s->tiles; tile++, sums += SIDE) {
      const int64_t at = s->column + tile * SIDE;
      const int lanes = (int)min_i64(SIDE, p->width - at);
      float *to = p->to[row + r] + at;
      if (in)
        vstore(sums, vload_n(to, lanes));
      else
        vstore_n(to, vload(sums), lanes);
    }
}

/* All rows against numbers [first, first + depth) of a group of strips. */
static void against_group(const bptt_against *p, const strip *strips, int count, int64_t first, int64_t depth) {
  char a[AT_ONE_TIME / DEEP * 2 * STACK] __attribute__((aligned(64)));
  for (int64_t row = 0; row < p->count; row += 2 * SIDE) {
    const int rows = (int)min_i64(2 * SIDE, p->count - row), tiles = rows > SIDE ? 2 : 1;
    for (int n = 0; n < count && first > 0; n++)
      move_sums(&strips[n], p, row, rows, 1);
    for (int64_t k = 0; k < depth; k += AT_ONE_TIME) {
      const int64_t now = min_i64(AT_ONE_TIME, depth - k);
      for (int tile = 0; tile < tiles; tile++)
        pack_straight(a + tile * TILE, tiles, p->a + row + tile * SIDE, (int)min_i64(SIDE, rows - tile * SIDE),
                      first + k, now);
      for (int n = 0; n < count; n++)
        strip_sums(rows, &strips[n], first + k > 0, a, k / DEEP, ceil_div(now, DEEP));
    }
    for (int n = 0; n < count; n++)
      move_sums(&strips[n], p, row, rows, 0);
  }
}

static void against(const bptt_against *p, range columns, void *room) {
  const float *list[MOST_DEEP];
  strip strips[MOST_STRIPS];
  const int64_t depth = p->gates * p->H;
  tiles_on();
  for (int64_t column = columns.begin; column < columns.end; column += MOST_STRIPS * BPTT_STRIP) {
    const int count = (int)min_i64(MOST_STRIPS, ceil_div(columns.end - column, BPTT_STRIP));
    for (int64_t first = 0; first < depth; first += MOST_DEEP) {
      const int64_t now = min_i64(MOST_DEEP, depth - first);
      for (int64_t k = 0; k < now; k++) {
        const int gate = (int)((first + k) / p->H);
        list[k] = p->weights + (p->block(gate) * p->H + (first + k) % p->H) * p->width;
      }
      for (int n = 0; n < count; n++)
        strips[n] = strip_at(list, p->width, column + n * BPTT_STRIP, depth, room, n);
      pack_strips(strips, count, now);
      against_group(p, strips, count, first, now);
    }
  }
  _tile_release();
}

const bptt_tiles PASTE(bptt_tiles_, VARIANT) = {room, outer, against};
