/* Products on a tile of registers: the loops over k that all others go by.
 *
 * One operand is read element by element and spread over a vector ("rows" of a tile: batch rows, tokens or gates);
 * the other is a packed panel: k ascending, `vecs` vectors in a row for each k. Each element of the tile is one
 * chain of fused multiply-adds with k ascending, so its bits do not depend on the tile it happens to be in.
 */

/* What the tiles of one pass over a panel ask for meanwhile: the panel that comes next, which may have to come from
 * beyond the L2; else the first tile would wait for it. One line at each k; where tiles are too few for all lines,
 * every second one, as caches fetch lines in pairs. */
typedef struct {
  const REAL *next;
  int64_t pace;
  int tiles; /* that ask; the others go on asking for the same line */
  const REAL *const *list; /* lines that the caller will use, from anywhere; for ASK_LIST */
  int64_t list_pace; /* how far the list goes on at each k, in LIST_PARTS of an entry */
} NAME(fetch);

INLINE NAME(fetch) NAME(fetch_of)(const REAL *next, int vecs, int64_t tiles) {
  int lines = (int)ceil_div(vecs * VEC_BYTES, 64), each = lines > tiles ? 2 : 1;
  return (NAME(fetch)){next, each * 64 / (int64_t)sizeof(REAL), (lines + each - 1) / each, NULL, 0};
}

/* After a tile. */
INLINE void NAME(fetch_on)(NAME(fetch) * fetch, int64_t depth) {
  fetch->next += depth * fetch->pace;
  if (--fetch->tiles <= 0)
    fetch->pace = 0;
}

/* Where the loop of a tile stands: a pointer for each `each` rows of a; the panel; what it asks for. */
typedef struct {
  const REAL *from[5], *panel, *next, *const *list;
  int64_t pace, list_pace;
  uint64_t listed;
} NAME(walk);

/* One k of tile_product_asking(). */
INLINE void NAME(tile_step)(int asks, int rows, int wide, vec acc[rows][wide], int first, int vecs, NAME(walk) * at,
                            int each, int64_t row, int64_t step, int64_t panel_step) {
  vec w[4];
  if (asks) {
    vfetch(at->next);
    at->next += at->pace;
  }
  if (asks == ASK_LIST) {
    vfetch(at->list[at->listed / LIST_PARTS]);
    at->listed += (uint64_t)at->list_pace;
  }
  UNROLL for (int v = 0; v < vecs; v++) {
    w[v] = vload(at->panel + v * LANES);
    if (rows > 1)
      vhold(&w[v]);
  }
  UNROLL for (int r = 0; r < rows; r++) {
    vec a_rk = vset1(at->from[r / each][r % each * row]);
    UNROLL for (int v = 0; v < vecs; v++) acc[r][first + v] = vfma(a_rk, w[v], acc[r][first + v]);
  }
  UNROLL for (int n = 0; n * each < rows; n++) {
    at->from[n] += step;
    __asm__("" : "+r"(at->from[n]));
  }
  at->panel += panel_step;
}

/* acc[r][first + v] += sum over k of a[r*row + k*step] * panel[k][v]; the panel goes on by
 * panel_step for each k. Meanwhile it asks for what `asks`, a literal, says of `fetch`. */
INLINE void NAME(tile_product_asking)(int asks, int rows, int wide, vec acc[rows][wide], int first, int vecs,
                                      int64_t depth, const REAL *a, int64_t row, int64_t step, const REAL *panel,
                                      int64_t panel_step, const NAME(fetch) * fetch) {
  /* A pointer for each three rows, which the processor's addresses reach with one register for the pitch. An offset
   * for each row is more than there are registers: GCC keeps some in vectors, and moves them on a port of the FMA
   * units.
   */
  const int each = __builtin_constant_p(row) ? rows : 3;
  NAME(walk) at = {.panel = panel};
  if (asks)
    at.next = fetch->next, at.pace = fetch->pace;
  if (asks == ASK_LIST)
    at.list = fetch->list, at.list_pace = fetch->list_pace;
  UNROLL for (int n = 0; n * each < rows; n++) at.from[n] = a + n * each * row;
  /* A large tile goes by several k at once: on the Xeon forward for training of 128,64,64,256 38.7 -> 37.2 ms, backward
   * of 25,64,1024,1024 186 -> 183. */
#define STEP NAME(tile_step)(asks, rows, wide, acc, first, vecs, &at, each, row, step, panel_step)
  if (AT_ONCE > 1 && rows * vecs >= 16) {
    for (; depth >= AT_ONCE; depth -= AT_ONCE)
      UNROLL for (int n = 0; n < AT_ONCE; n++) STEP;
  }
  for (; depth > 0; depth--)
    STEP;
#undef STEP
}

INLINE void NAME(tile_product)(int rows, int wide, vec acc[rows][wide], int first, int vecs, int64_t depth,
                               const REAL *a, int64_t row, int64_t step, const REAL *panel) {
  NAME(tile_product_asking)(ASK_NONE, rows, wide, acc, first, vecs, depth, a, row, step, panel, vecs * LANES, NULL);
}

/* One row, `vecs` vectors of `panels` panels at once: enough independent chains to fill the FMA units.
 * Panel n starts at panel + n*pitch, goes on by `step` for each k, and meets the row at a + n*shift. The empty assembly
 * keeps one register for each panel: left to itself, GCC 14 makes an address of its own for every vector and spills
 * them inside the loop. */
INLINE void NAME(lone_product)(int panels, int wide, vec acc[panels][wide], int first, int vecs, int64_t depth,
                               const REAL *a, int64_t shift, const REAL *panel, int64_t pitch, int64_t step) {
  const REAL *from[4];
  UNROLL for (int n = 0; n < panels; n++) from[n] = panel + n * pitch;
  for (int64_t k = 0; k < depth; k++) {
    UNROLL for (int n = 0; n < panels; n++) {
      vec a_k = vset1(a[n * shift + k]);
      UNROLL for (int v = 0; v < vecs; v++) acc[n][first + v] =
          vfma(a_k, vload(from[n] + v * LANES), acc[n][first + v]);
      from[n] += step;
      __asm__("" : "+r"(from[n]));
    }
  }
}

/* Calls CASE(R) with the literal R equal to `rows`, so that the tile's size is known where it is inlined. */
#define ROW_CASE(CASE, R)                                                                                              \
  case R:                                                                                                              \
    CASE(R);                                                                                                           \
    break;
#define ROWS_UP_TO_1(CASE) ROW_CASE(CASE, 1)
#define ROWS_UP_TO_2(CASE) ROWS_UP_TO_1(CASE) ROW_CASE(CASE, 2)
#define ROWS_UP_TO_3(CASE) ROWS_UP_TO_2(CASE) ROW_CASE(CASE, 3)
#define ROWS_UP_TO_4(CASE) ROWS_UP_TO_3(CASE) ROW_CASE(CASE, 4)
#define ROWS_UP_TO_6(CASE) ROWS_UP_TO_4(CASE) ROW_CASE(CASE, 5) ROW_CASE(CASE, 6)
#define ROWS_UP_TO_7(CASE) ROWS_UP_TO_6(CASE) ROW_CASE(CASE, 7)
#define ROWS_UP_TO_8(CASE) ROWS_UP_TO_7(CASE) ROW_CASE(CASE, 8)
#define ROWS_UP_TO_12(CASE)                                                                                            \
  ROWS_UP_TO_8(CASE) ROW_CASE(CASE, 9) ROW_CASE(CASE, 10) ROW_CASE(CASE, 11) ROW_CASE(CASE, 12)
/* A few rows more than fit a tile of four vectors, up to a third more. */
#define ROWS_PAST_2(CASE) ROW_CASE(CASE, 3)
#define ROWS_PAST_3(CASE) ROW_CASE(CASE, 4)
#define ROWS_PAST_6(CASE) ROW_CASE(CASE, 7) ROW_CASE(CASE, 8)
#define SWITCH_ROWS_PAST(rows, few, CASE)                                                                              \
  switch (rows) { PASTE(ROWS_PAST_, few)(CASE) }
#define SWITCH_ROWS(rows, most, CASE)                                                                                  \
  switch (rows) { PASTE(ROWS_UP_TO_, most)(CASE) }

/* The same for a tile of `vecs` vectors, 1 to 4: CASE1(R) to CASE4(R). */
#define SWITCH_TILE(rows, most, vecs, CASE)                                                                            \
  if (vecs == 4) {                                                                                                     \
    SWITCH_ROWS(rows, most, CASE##4)                                                                                   \
  } else if (vecs == 3) {                                                                                              \
    SWITCH_ROWS(rows, most, CASE##3)                                                                                   \
  } else if (vecs == 2) {                                                                                              \
    SWITCH_ROWS(rows, most, CASE##2)                                                                                   \
  } else {                                                                                                             \
    SWITCH_ROWS(rows, most, CASE##1)                                                                                   \
  }
