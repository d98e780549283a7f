/* What a call backward works with: sizes, packed weights, places; and how it is divided. */

#undef HAS_TILES
#if REAL_BITS == 32 && defined(TILES)
#define HAS_TILES 1
#else
#define HAS_TILES 0
#endif

/* Gradients of the parameters, or places for their sums; each may be NULL. Turned (products.inc.h), those of weight_ih
 * and weight_hh are (I, turned_pitch) and (W, turned_pitch), a column for each sum in dz; `d_middle`, the same of what
 * goes into a second product in place of h. */
typedef struct {
  REAL *d_weight_ih, *d_weight_hh, *d_bias_ih, *d_bias_hh, *d_weight_peephole, *d_weight_hr, *d_middle;
} NAME(sums);

typedef struct {
  const bptt_problem *p;
  plan plan;
  cell_options options;
  int64_t W;                /* numbers in a row of h */
  int hh_gates;             /* whose dz flows back through weight_hh at once */
  int64_t panels, h_panels, x_panels; /* over H, W and I */
  int64_t depth;            /* most tokens of one sum */
  int64_t pitch; /* from row to row of dz: GATES*H and a cache line, so that rows do not share cache sets */
  REAL *hh; /* weight_hh in panels (pack.inc.h) */
  REAL *second; /* of the second product, in panels over H; or NULL */
  REAL *ih; /* weight_ih in panels, when d_x is wanted; or */
  int64_t own_panel; /* room for one panel for each thread, so many numbers; or 0; or */
  int narrow; /* its few columns one by one: dx is dot products (products.inc.h) */
  const bptt_tiles *tiles; /* for sums over tokens (tiles.h); or NULL */
  int tiled_input; /* for dx as well, which needs none of the above then */
  int64_t tile_room; /* bytes of `rooms` for each thread */
  char *rooms;
  REAL *peephole; /* [blocks][i,f,o][LANES] or NULL */
  int64_t second_row; /* rows from there on are the second part, another thread's; B: all are one part */
  REAL *dz; /* [part][slot][row of the part][pitch], dz_at(); slots: steps of the chunk, then the first one after it */
  REAL *carry; /* (B, H), carry_at(): what step t gets of step t+1 past weight_hh: at c, or at h */
  int64_t second_dz, second_carry; /* numbers before those of the second part */
  REAL *strip; /* without tiles: one packed panel of `depth` rows for each thread */
  REAL *packed; /* likewise: pack_gates() of all threads, OUTER_GATES rows apart */
  int64_t packed_rows; /* of all threads together */
  REAL *zero; /* (H or W) */
  REAL *dh; /* (chunk, B, dh_pitch): gradients that go into the projection; padded as dz */
  int64_t dh_pitch;
  REAL *middle; /* (chunk, B, H): what went into the projection */
  REAL *c_next; /* (chunk, B, H): c_t before zoneout, for the peephole of o */
  REAL *carry_h; /* (B, W): what zoneout hands from h_t to h_{t-1} */
  REAL *d_hidden, *d_cells; /* (2, B, W), (2, B, H), of two steps: where only their norms are wanted; or NULL */
  REAL *mask; /* (B, W): dropout of h_{t-1} */
  REAL *seen; /* (threads, depth, W): what dropout left of h_{t-1} */
  int groups; /* of batch rows, whose sums over the tokens of a chunk come one after the other: 1 or 2 */
  int64_t group_depth; /* most tokens of one, if there are two */
  NAME(sums) of_group[2]; /* where each of two groups sums up, through all chunks of a block */
  NAME(sums) of_all; /* where the caller has them, but for those that are turned */
  int64_t turned_pitch; /* 0: none is */
  NAME(sums) block; /* gradients of the parameters: where a truncated block after the first sums up; or NULL */
  int reads_ahead; /* d_output: to be read, not prefetched (dz.inc.h) */
  int plain; /* what a step may have to look at: 2: nothing; 1: resets, peepholes, clipping; 0: everything */
} NAME(backward_job);

/* Row b of a slot of dz, and of `carry`. Rows of one part lie pitch, or H, apart, and so do its slots one after the
 * other. */
INLINE REAL *NAME(dz_at)(const NAME(backward_job) * job, int64_t slot, int64_t b) {
  const int64_t cut = job->second_row;
  return b < cut ? job->dz + (slot * cut + b) * job->pitch
                 : job->dz + job->second_dz + (slot * (job->p->B - cut) + b - cut) * job->pitch;
}

INLINE REAL *NAME(carry_at)(const NAME(backward_job) * job, int64_t b) {
  const int64_t cut = job->second_row, H = job->p->H;
  return b < cut ? job->carry + b * H : job->carry + job->second_carry + (b - cut) * H;
}

/* Those of some rows that belong to part 0 or 1: that lie before or from second_row on. */
static range NAME(part_of)(const NAME(backward_job) * job, range rows, int part) {
  const int64_t cut = max_i64(rows.begin, min_i64(rows.end, job->second_row));
  return part ? (range){cut, rows.end} : (range){rows.begin, cut};
}

/* Room for the gradients of the parameters of one block. */
ONCE NAME(sums) NAME(block_sums)(const bptt_problem *p, int64_t W, int64_t turned_pitch, arena *a) {
  int64_t gates = MATRIX_GATES * p->H, each = turned_pitch ? turned_pitch : gates, real = (int64_t)sizeof(REAL);
  NAME(sums) block = {0};
  block.d_weight_ih = p->d_weight_ih ? arena_take(a, each * p->I, real) : NULL;
  block.d_weight_hh = p->d_weight_hh ? arena_take(a, each * W, real) : NULL;
  block.d_middle = turned_pitch && p->reset_before && p->d_weight_hh ? arena_take(a, each * W, real) : NULL;
  block.d_bias_ih = p->d_bias_ih ? arena_take(a, gates, real) : NULL;
  block.d_bias_hh = p->d_bias_hh ? arena_take(a, gates, real) : NULL;
  block.d_weight_peephole = p->d_weight_peephole ? arena_take(a, 3 * p->H, real) : NULL;
  block.d_weight_hr = p->d_weight_hr ? arena_take(a, p->P * p->H, real) : NULL;
  return block;
}

/* Numbers in a row of the turned gradients of weights; 0: they are not turned, nor are those on tiles. Fewer tokens do
 * not pay for turning back, but what `sums` hold is laid out alike for any. */
static int64_t NAME(turned_pitch)(const bptt_problem *p, int tiled, int64_t tokens) {
  int turned = p->d_weight_hh && !tiled && (p->I + p->H + width_of(p)) * (int64_t)sizeof(REAL) <= MOST_TURNED;
  return turned && tokens >= LEAST_TURNED ? ceil_div(GATES * p->H, LANES) * LANES : 0;
}

/* Tiles for sums over tokens, or NULL. By the shape alone, as they round in their own way. */
static const bptt_tiles *NAME(tiles_of)(const bptt_problem *p) {
  return HAS_TILES && p->H >= LEAST_TILED ? bptt_tiles_for(p) : NULL;
}

/* What `sums` hold. */
ONCE int64_t NAME(sums_bytes)(const bptt_problem *p) {
  arena a = {0};
  for (int group = 0; group < 2 && groups_of(p) > 1; group++)
    (void)NAME(block_sums)(p, width_of(p), NAME(turned_pitch)(p, NAME(tiles_of)(p) != NULL, LEAST_TURNED), &a);
  return arena_bytes(&a);
}

ONCE NAME(backward_job) NAME(backward_plan)(const bptt_problem *p, arena *a) {
  NAME(backward_job) job = {.p = p, .options = options_of(p)};
  int64_t H = p->H, W = width_of(p), real = (int64_t)sizeof(REAL), pad = ARENA_ALIGN / real;
  job.W = W;
  job.reads_ahead = !bptt_prefetches_any_page();
  job.of_all = (NAME(sums)){.d_weight_ih = p->d_weight_ih,
                            .d_weight_hh = p->d_weight_hh,
                            .d_bias_ih = p->d_bias_ih,
                            .d_bias_hh = p->d_bias_hh,
                            .d_weight_peephole = p->d_weight_peephole,
                            .d_weight_hr = p->d_weight_hr};
  job.groups = groups_of(p);
  job.tiles = NAME(tiles_of)(p);
  job.tiled_input = job.tiles && p->d_x && p->I >= LEAST_TILED;
  job.turned_pitch = NAME(turned_pitch)(p, job.tiles != NULL, p->sums && job.groups > 1 ? LEAST_TURNED : p->T * p->B);
  if (job.turned_pitch) {
    NAME(sums) turned = NAME(block_sums)(p, W, job.turned_pitch, a);
    job.of_all.d_weight_ih = turned.d_weight_ih, job.of_all.d_weight_hh = turned.d_weight_hh;
    job.of_all.d_middle = turned.d_middle;
  }
  job.hh_gates = NAME(hh_gates)(p);
  job.plan = plan_backward(p, GATES, LANES, sizeof(REAL), WIDE_ROWS, job.tiles != NULL);
  job.panels = NAME(wide_count)(H);
  job.h_panels = NAME(wide_count)(W);
  job.x_panels = NAME(wide_count)(p->I);
  job.depth = job.plan.depth;
  job.pitch = GATES * H + pad;
  job.hh = arena_take(a, ceil_div(W, LANES) * LANES * job.hh_gates, H * real);
  job.narrow = p->d_x && p->I > 0 && p->I <= NAME(MOST_DOTS);
  /* Where one chunk holds all tokens, each thread packs a panel of weight_ih when it comes to it: it stays in a cache,
   * where all of them would go to memory and come back. 50,1,1024,1024 22.3 -> 21.0 ms, 100,1,256,256 1.40 -> 1.35. */
  if (p->d_x && !job.tiled_input && !job.narrow && job.plan.chunk >= p->T && !p->truncate_every && !p->lengths &&
      job.groups == 1 && job.x_panels % job.plan.threads == 0)
    job.own_panel = (WIDE_VECS + 1) * LANES * MATRIX_GATES * H;
  int64_t in_ih = job.narrow      ? p->I * NAME(dot_pitch)(MATRIX_GATES * H)
                  : job.own_panel ? job.plan.threads * job.own_panel
                                  : ceil_div(p->I, LANES) * LANES * MATRIX_GATES * H;
  job.ih = p->d_x && !job.tiled_input ? arena_take(a, in_ih, real) : NULL;
  job.peephole = p->weight_peephole ? arena_take(a, ceil_div(H, LANES) * LANES * 3, real) : NULL;
  /* Else what a core fetches ahead of its own rows takes lines from the other, which writes them. Backward of
   * 100,32,40,40 907 -> 815 us, 1000,50,1,20 4.03 -> 3.63 ms. */
  int parts = job.plan.split == BPTT_SPLIT_ROWS && job.plan.threads == 2 && (!p->lengths || second_half(p) < p->B);
  job.second_row = parts ? share(p->B, 1, 2).begin : p->B;
  job.dz = arena_take(a, (job.plan.chunk + 1) * p->B, job.pitch * real);
  (void)arena_take(a, 1, APART); /* what lies between the parts */
  job.carry = arena_take(a, p->B, H * real);
  (void)arena_take(a, 1, APART);
  if (!a->overflow) {
    job.second_dz = (job.plan.chunk + 1) * job.second_row * job.pitch + APART / real;
    job.second_carry = job.second_row * H + APART / real;
  }
  job.packed_rows = max_i64(GATES * H, W);
  job.group_depth = job.plan.chunk * ceil_div(p->B, 2);
  if (job.tiles) {
    job.tile_room = max_i64(job.tiles->room(p->I + max_i64(W, H), job.depth),
                            job.tiled_input ? job.tiles->room(p->I, MATRIX_GATES * H) : 0);
    job.rooms = arena_take(a, job.plan.threads, job.tile_room);
  } else {
    job.strip = arena_take(a, (int64_t)job.plan.threads * job.depth * 4 * LANES, real);
    job.packed = arena_take(a,
                            job.packed_rows * max_i64(job.depth, job.groups > 1 ? 2 * job.group_depth : 0) +
                                max_i64(2, job.plan.threads) * OUTER_GATES * job.depth,
                            real);
  }
  arena kept = arena_on(p->sums);
  for (int group = 0; group < 2 && job.groups > 1; group++)
    job.of_group[group] = NAME(block_sums)(p, W, job.turned_pitch, p->sums ? &kept : a);
  job.zero = arena_take(a, max_i64(H, W), real);
  if (has_second(p))
    job.second = arena_take(a, ceil_div(H, LANES) * LANES, W * real);
  if (p->P) {
    job.dh_pitch = W + pad;
    job.dh = arena_take(a, job.plan.chunk * p->B, job.dh_pitch * real);
    job.middle = arena_take(a, job.plan.chunk * p->B, H * real);
  }
  if (p->norms && !p->d_hidden)
    job.d_hidden = arena_take(a, 2 * p->B, W * real);
  if (HAS_CELL_STATE && p->norms && !p->d_cells)
    job.d_cells = arena_take(a, 2 * p->B, H * real);
  if (p->zoneout > 0) {
    job.carry_h = arena_take(a, p->B, W * real);
    if (p->d_weight_peephole)
      job.c_next = arena_take(a, job.plan.chunk * p->B, H * real);
  }
  if (NAME(drops)(p)) {
    job.mask = arena_take(a, p->B, W * real);
    job.seen = arena_take(a, (int64_t)job.plan.threads * job.depth, W * real);
  }
  if (p->truncate_every && p->truncate_depth > job.plan.chunk && job.groups == 1)
    job.block = NAME(block_sums)(p, W, job.turned_pitch, a);
  if (!p->clipped && !(p->zoneout > 0) && !job.mask && !has_second(p) && !job.options.special)
    job.plain = p->resets || p->weight_peephole || p->step_clip || !p->d_output ? 1 : 2;
  return job;
}
