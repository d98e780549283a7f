/* Products on tiles against plain sums in double precision, over odd sizes, in memory of exactly the size asked for; 77
 * where no variant of this machine has tiles. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "blocks.h"
#include "dispatch.h"
#include "expect.h"

enum { MOST = 512, PAD = 16 };

static unsigned state = 7;

static unsigned bits(void) {
  state = state * 1664525u + 1013904223u;
  return state >> 8;
}

static float noise(void) {
  return (float)((double)bits() / (1 << 24) - 0.4) * (float)exp2((int)(bits() % 9) - 4);
}

static float *numbers(int64_t count) {
  float *a = block_new((size_t)count * sizeof(float));
  for (int64_t n = 0; n < count; n++)
    a[n] = noise();
  return a;
}

/* Rounding of a chain, and what pieces leave out. */
static int close_to(float got, double sum, double sizes) {
  return fabs(got - sum) <= 16 * 0x1p-24 * sizes + 1e-37;
}

typedef struct {
  int64_t gates, depth, widths[2], pitch;
  float *dz, *a[2], *dw[2], *bias;
  const float *dz_rows[MOST], *a_rows[2][MOST];
} sums;

static sums make_sums(int64_t gates, int64_t depth, int64_t first, int64_t second) {
  sums s = {.gates = gates, .depth = depth, .widths = {first, second}, .pitch = gates + PAD};
  s.dz = numbers(depth * s.pitch + PAD);
  s.bias = numbers(gates);
  for (int n = 0; n < 2; n++) {
    s.a[n] = numbers(depth * s.widths[n]);
    s.dw[n] = numbers(gates * s.widths[n]);
  }
  for (int64_t t = 0; t < depth; t++) {
    s.dz_rows[t] = s.dz + t * s.pitch;
    for (int n = 0; n < 2; n++)
      s.a_rows[n][t] = s.a[n] + t * s.widths[n];
  }
  return s;
}

static void done(void) {
  EXPECT(!blocks_damaged(), "%d blocks written past their end", blocks_damaged());
  blocks_free();
}

static void add_sums(const bptt_tiles *tiles, sums *s, range gates, int fresh) {
  const bptt_outer to[2] = {{s->dw[0], s->widths[0], s->a_rows[0]}, {s->dw[1], s->widths[1], s->a_rows[1]}};
  void *room = block_new((size_t)tiles->room(s->widths[0] + s->widths[1], s->depth));
  tiles->outer(to, 2, gates, fresh, s->dz_rows, 0, s->depth, s->bias, room);
}

static void test_outer(const bptt_tiles *tiles, int64_t gates, int64_t depth, int64_t first, int64_t second,
                       int fresh) {
  sums s = make_sums(gates, depth, first, second), before = make_sums(gates, depth, first, second);
  const range own = {gates / 5, gates - gates / 7};
  for (int n = 0; n < 2; n++)
    memcpy(before.dw[n], s.dw[n], (size_t)(gates * s.widths[n]) * sizeof(float));
  memcpy(before.bias, s.bias, (size_t)gates * sizeof(float));
  add_sums(tiles, &s, own, fresh);
  for (int64_t gate = 0; gate < gates; gate++) {
    const int inside = gate >= own.begin && gate < own.end;
    for (int n = 0; n < 2; n++)
      for (int64_t k = 0; k < s.widths[n]; k++) {
        const float old = before.dw[n][gate * s.widths[n] + k], got = s.dw[n][gate * s.widths[n] + k];
        double sum = fresh ? 0 : old, sizes = fabs(sum);
        for (int64_t t = 0; t < depth; t++) {
          const double term = (double)s.dz_rows[t][gate] * s.a_rows[n][t][k];
          sum += term, sizes += fabs(term);
        }
        EXPECT(inside ? close_to(got, sum, sizes) : got == old, "gate %d of %d, column %d of %d, %d tokens: %g %g",
               (int)gate, (int)gates, (int)k, (int)s.widths[n], (int)depth, got, sum);
      }
    double sum = fresh ? 0 : before.bias[gate], sizes = fabs(sum);
    for (int64_t t = 0; t < depth; t++)
      sum += s.dz_rows[t][gate], sizes += fabs(s.dz_rows[t][gate]);
    EXPECT(inside ? fabs(s.bias[gate] - sum) <= (double)(depth + 1) * 0x1p-24 * sizes
                  : s.bias[gate] == before.bias[gate],
           "bias of gate %d of %d, %d tokens: %g %g", (int)gate, (int)gates, (int)depth, s.bias[gate], sum);
  }
  /* Divided in another way: the same bits. */
  sums again = s;
  for (int n = 0; n < 2; n++)
    again.dw[n] = before.dw[n];
  again.bias = before.bias;
  const int64_t cut = own.begin + (own.end - own.begin) / 3;
  add_sums(tiles, &again, (range){own.begin, cut}, fresh);
  add_sums(tiles, &again, (range){cut, own.end}, fresh);
  for (int n = 0; n < 2; n++)
    EXPECT(!memcmp(again.dw[n], s.dw[n], (size_t)(gates * s.widths[n]) * sizeof(float)), "%d gates in two parts",
           (int)gates);
  EXPECT(!memcmp(again.bias, s.bias, (size_t)gates * sizeof(float)), "biases of %d gates in two parts", (int)gates);
  done();
}

/* What a call of many columns and tokens needs is enough for one of fewer. */
static void test_room(const bptt_tiles *tiles) {
  for (int64_t columns = 1; columns < 1200; columns += 13)
    for (int64_t depth = 1; depth <= MOST; depth++)
      EXPECT(tiles->room(columns, depth) >= tiles->room(columns - 1, depth) &&
                 tiles->room(columns, depth) >= tiles->room(columns, depth - 1),
             "room for %d columns, %d deep", (int)columns, (int)depth);
}

static int64_t shift; /* block g of the weights is the one `shift` further on, round the end */
static int blocks;

static int shifted(int gate) {
  return (int)((gate + shift) % blocks);
}

static void test_against(const bptt_tiles *tiles, int64_t count, int gates, int64_t H, int64_t width) {
  const int64_t depth = gates * H;
  float *a = numbers(count * depth), *weights = numbers(depth * width), *to[2];
  const float *rows[MOST];
  float *places[2][MOST];
  shift = 1, blocks = gates;
  void *room = block_new((size_t)tiles->room(width, depth));
  for (int n = 0; n < 2; n++) {
    to[n] = numbers(count * width);
    for (int64_t r = 0; r < count; r++)
      rows[r] = a + r * depth, places[n][r] = to[n] + (count - 1 - r) * width;
  }
  bptt_against p = {count, rows, places[0], weights, H, width, gates, shifted};
  tiles->against(&p, (range){0, width}, room);
  for (int64_t r = 0; r < count; r++)
    for (int64_t k = 0; k < width; k++) {
      double sum = 0, sizes = 0;
      for (int64_t at = 0; at < depth; at++) {
        const double term = (double)rows[r][at] * weights[(shifted((int)(at / H)) * H + at % H) * width + k];
        sum += term, sizes += fabs(term);
      }
      EXPECT(close_to(places[0][r][k], sum, sizes), "row %d of %d, %d numbers, column %d of %d: %g %g", (int)r,
             (int)count, (int)depth, (int)k, (int)width, places[0][r][k], sum);
    }
  /* Row by row, and columns in two parts: the same bits. */
  const int64_t cut = width / 2 / BPTT_STRIP * BPTT_STRIP;
  for (int64_t r = 0; r < count; r++) {
    bptt_against one = {1, rows + r, places[1] + r, weights, H, width, gates, shifted};
    tiles->against(&one, (range){0, cut}, room);
    tiles->against(&one, (range){cut, width}, room);
  }
  EXPECT(!memcmp(to[0], to[1], (size_t)(count * width) * sizeof(float)), "%d rows one by one", (int)count);
  done();
}

/* Three pieces are the whole number: times one it comes back as it was. */
static void test_pieces(const bptt_tiles *tiles) {
  sums s = make_sums(32, 1, 64, 32);
  for (int round = 0; round < 300; round++) {
    for (int n = 0; n < 32; n++) {
      uint32_t random = (bits() << 16 ^ bits()) & 0x807FFFFF, exponent = 32 + bits() % 222;
      random |= exponent << 23;
      memcpy(&s.dz[n], &random, sizeof random);
    }
    for (int64_t k = 0; k < 64; k++)
      s.a[0][k] = 1;
    add_sums(tiles, &s, (range){0, 32}, 1);
    for (int n = 0; n < 32; n++)
      EXPECT(s.dw[0][n * 64 + n] == s.dz[n], "%a comes back as %a", s.dz[n], s.dw[0][n * 64 + n]);
  }
  done();
}

/* What is left out has either sign: products of two numbers come out right on average. */
static void test_average(const bptt_tiles *tiles) {
  double away = 0, most = 0;
  int count = 0;
  for (int round = 0; round < 40; round++) {
    sums s = make_sums(32, 1, 64, 32);
    for (int n = 0; n < 32; n++)
      s.dz[n] = 1 + (float)bits() / (1 << 24);
    for (int64_t k = 0; k < 64; k++)
      s.a[0][k] = 1 + (float)bits() / (1 << 24);
    add_sums(tiles, &s, (range){0, 32}, 1);
    for (int n = 0; n < 32; n++)
      for (int k = 0; k < 64; k++, count++) {
        const double product = (double)s.dz[n] * s.a[0][k], off = s.dw[0][n * 64 + k] / product - 1;
        away += off, most = fmax(most, fabs(off));
      }
    done();
  }
  EXPECT(fabs(away / count) < 0x1p-26 && most < 0x1p-21, "on average %g of a product is left out, at most %g",
         away / count, most);
}

/* Small products flush: those that math.md promises have their bits. */
static void test_small(const bptt_tiles *tiles) {
  for (int exponent = -20; exponent >= -101; exponent--) {
    sums s = make_sums(32, 1, 64, 32);
    const int other = exponent / 2;
    for (int n = 0; n < 32; n++)
      s.dz[n] = (float)ldexp(1 + (double)bits() / (1 << 24), exponent - other);
    for (int64_t k = 0; k < 64; k++)
      s.a[0][k] = (float)ldexp(1 + (double)bits() / (1 << 24), other);
    add_sums(tiles, &s, (range){0, 32}, 1);
    for (int n = 0; n < 32; n++)
      for (int k = 0; k < 64; k++) {
        const double product = (double)s.dz[n] * s.a[0][k];
        EXPECT(fabs(s.dw[0][n * 64 + k] / product - 1) < 0x1p-21, "%a times %a is %a", s.dz[n], s.a[0][k],
               s.dw[0][n * 64 + k]);
      }
    done();
  }
}

/* The registers are given back: a process that is switched away from saves none of them. */
static void test_release(const bptt_tiles *tiles) {
#if defined(__x86_64__)
  uint32_t used, high;
  sums s = make_sums(40, 40, 40, 40);
  add_sums(tiles, &s, (range){0, 40}, 1);
  __asm__ volatile("xgetbv" : "=a"(used), "=d"(high) : "c"(1));
  EXPECT(!(used & 3u << 17), "tiles are in use: %x", used);
  done();
  test_against(tiles, 5, 4, 30, 40);
  __asm__ volatile("xgetbv" : "=a"(used), "=d"(high) : "c"(1));
  EXPECT(!(used & 3u << 17), "tiles are in use: %x", used);
#else
  (void)tiles;
#endif
}

/* What is not a number reaches its own sums, and no others. */
static void test_not_numbers(const bptt_tiles *tiles) {
  const float values[] = {NAN, INFINITY, -INFINITY};
  for (int v = 0; v < 3; v++) {
    sums s = make_sums(40, 70, 50, 20);
    s.dz[33 * s.pitch + 11] = values[v];
    s.a[1][12 * 20 + 9] = values[v];
    add_sums(tiles, &s, (range){0, 40}, 1);
    for (int gate = 0; gate < 40; gate++)
      for (int n = 0; n < 2; n++)
        for (int64_t k = 0; k < s.widths[n]; k++)
          EXPECT(!isfinite(s.dw[n][gate * s.widths[n] + k]) == (gate == 11 || (n == 1 && k == 9)),
                 "%g: gate %d column %d", values[v], gate, (int)k);
    EXPECT(!isfinite(s.bias[11]) && isfinite(s.bias[12]), "%g in a bias", values[v]);
    done();
  }
}

int main(void) {
  const bptt_variant *variant = NULL;
  for (int rank = 0; rank < bptt_variant_count() && !(variant && variant->tiles); rank++)
    variant = bptt_usable_variant(rank);
  if (!variant || !variant->tiles) {
    printf("no tiles here\n");
    return 77;
  }
  static const int depths[] = {0, 1, 2, 16, 31, 32, 33, 63, 64, 65, 100, 128, 200, 511, 512};
  for (int n = 0; n < (int)(sizeof depths / sizeof *depths); n++) {
    test_outer(variant->tiles, 1 + (n * 37) % 90, depths[n], 1 + n * 23 % 70, 1 + n * 51 % 100, n % 2);
    test_outer(variant->tiles, 96 - n, depths[n], 16 * (1 + n % 5), 32, !(n % 2));
  }
  test_outer(variant->tiles, 40, 512, 300, 290, 0); /* more strips than a group has, of one array and of both */
  test_outer(variant->tiles, 20, 70, 700, 590, 0);
  test_outer(variant->tiles, 40, 70, 0, 33, 1);
  test_outer(variant->tiles, 40, 70, 0, 0, 0); /* biases alone */
  test_outer(variant->tiles, 50, 88, 0, 0, 1);
  test_outer(variant->tiles, 33, 512, 256, 0, 1); /* as many strips as a group has */
  test_outer(variant->tiles, 33, 512, 240, 30, 1);
  test_outer(variant->tiles, 15, 40, 1024, 0, 0);
  static const int counts[] = {1, 2, 15, 16, 17, 31, 32, 33, 48, 65};
  for (int n = 0; n < (int)(sizeof counts / sizeof *counts); n++)
    test_against(variant->tiles, counts[n], 1 + n % 4, 1 + n * 29 % 80, 1 + n * 41 % 120);
  test_against(variant->tiles, 20, 4, 150, 300); /* more numbers, and columns, than at one time */
  test_against(variant->tiles, 40, 1, 20, 1100);
  test_room(variant->tiles);
  test_pieces(variant->tiles);
  test_average(variant->tiles);
  test_small(variant->tiles);
  test_release(variant->tiles);
  test_not_numbers(variant->tiles);
  printf("%s tiles of %s: %d checks\n", failures ? "FAIL" : "ok  ", variant->name, checks);
  return failures > 0;
}
