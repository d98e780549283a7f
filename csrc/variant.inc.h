/* One instruction set and one cell: the kernel bodies, included once per dtype, and the table they fill. Without a
 * cell: the variant itself, which points at the tables of its cells, with the products that they share, norms, and what
 * it needs to measure the machine.
 *
 * Wanted from the build: CELL and CELL_FILE, such as lstm and "cell_lstm.inc.h"; or neither.
 * Wanted from the stub: VARIANT, FULL_BYTES (of a vector), HALF_BYTES (optional: a second, narrower set of kernels
 * for small hidden sizes in float32), TILES (optional: the variant that has tiles beside these kernels), ISA_* (see
 * vec.inc.h), TILE_ROWS (rows of a 4-vector tile), WIDE_ROWS and THREE_ROWS (of a tile of 2 and 3 vectors), LONE_BLOCKS
 * (hidden blocks a single row works on at once), AT_ONCE (optional: steps of k that the loop of a large tile takes at
 * once).
 */
#include "bptt.h"
#include "dispatch.h"
#include "inlining.h"
#include "team.h"

#include <float.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define NAME(op) PASTE(op, SUFFIX)
/* What the objects of the cells have from that of the variant. */
#define SHARED(op) PASTE(bptt_, PASTE(VARIANT, PASTE(_, NAME(op))))

#include "rows.h"

#ifndef AT_ONCE
#define AT_ONCE 1
#endif

/* What a product leaves: itself; itself added to what is there; or the chain goes on from what is there, rounded as
 * one. */
enum { PRODUCT_ALONE, PRODUCT_ADDED, PRODUCT_GOES_ON };

/* What is packed for a call: all that it needs; for any call, a last block in both forms; weight_ih later, panel by
 * panel as its products come. */
enum { PACK_ONCE, PACK_BOTH, PACK_LATER };

/* What the loop of a product asks for meanwhile: nothing; the panel that comes next; and lines of a list as well. */
enum { ASK_NONE, ASK_NEXT, ASK_LIST };

#ifdef CELL
#define BODIES "bodies.inc.h"
#else
#define BODIES "probes.inc.h"
#endif

#define VEC_BYTES FULL_BYTES

#define REAL float
#define REAL_BITS 32
#define SUFFIX _f32
#include BODIES
#undef SUFFIX
#undef REAL_BITS
#undef REAL

#define REAL double
#define REAL_BITS 64
#define SUFFIX _f64
#include BODIES
#undef SUFFIX
#undef REAL_BITS
#undef REAL

#if defined(HALF_BYTES)
#undef VEC_BYTES
#define VEC_BYTES HALF_BYTES

#define REAL float
#define REAL_BITS 32
#define SUFFIX _f32_half
#include BODIES
#endif

#if defined(HALF_BYTES) && defined(CELL)

/* Half registers pad less: H = 20 takes 24 lanes in place of 32. They serve where that spares a half register, up to a
 * size where the padding no longer shows, on machines that run as many numbers a cycle on them as on whole ones; and
 * for a single half register anywhere. For float32 alone: float64 pads half as much, and its second set would be an
 * eighth of the wheel. */
enum { HALF_BLOCKS = 8 };

extern const bptt_variant PASTE(bptt_variant_, VARIANT);

static const bptt_kernels whole_or_half[] = {{workspace_f32, pack_f32, forward_f32, backward_f32},
                                             {workspace_f32_half, pack_f32_half, forward_f32_half, backward_f32_half}};

static const bptt_kernels *width_for(const bptt_problem *p) {
  int64_t lanes = FULL_BYTES / (int64_t)sizeof(float), last = (p->H - 1) % lanes;
  int pads_less = last < lanes / 2 && p->H <= HALF_BLOCKS * lanes;
  return &whole_or_half[pads_less && (p->H <= lanes / 2 || bptt_runs_halves(&PASTE(bptt_variant_, VARIANT)))];
}

/* Packed weights that lone.inc.h takes in a form of its own hold that behind the other one. */
static int64_t workspace_f32_any(const bptt_problem *p, bptt_op op) {
  int64_t bytes = width_for(p)->workspace(p, op);
#if HAS_LONE
  if (bytes >= 0 && lone_fits_f32(p) && op == BPTT_PACK)
    return bytes + lone_bytes_f32(p);
  if (bytes >= 0 && lone_fits_f32(p) && op == BPTT_FORWARD)
    return max_i64(bytes, lone_bytes_f32(p));
#endif
  return bytes;
}

#if HAS_LONE
static void *lone_part(const bptt_problem *p, const void *packed) {
  return (char *)packed + width_for(p)->workspace(p, BPTT_PACK);
}
#endif

static void pack_f32_any(const bptt_problem *p, void *packed) {
  width_for(p)->pack(p, packed);
#if HAS_LONE
  if (lone_fits_f32(p))
    lone_pack_f32(p, lone_part(p, packed));
#endif
}

static bptt_status forward_f32_any(const bptt_problem *p, bptt_job *job) {
#if HAS_LONE
  if (lone_fits_f32(p) && lone_takes_f32(p))
    return lone_forward_f32(p, p->packed ? lone_part(p, p->packed) : NULL, job);
#endif
  return width_for(p)->forward(p, job);
}

static bptt_status backward_f32_any(const bptt_problem *p, bptt_job *job) {
  return width_for(p)->backward(p, job);
}

#define SUFFIX_f32 _f32_any
#else
#define SUFFIX_f32 _f32
#endif

#define KERNELS_(suffix)                                                                                               \
  {PASTE(workspace, suffix), PASTE(pack, suffix), PASTE(forward, suffix), PASTE(backward, suffix)}
#define KERNELS(suffix) KERNELS_(suffix)
#define STRING_(name) #name
#define STRING(name) STRING_(name)
#define TABLE__(variant, cell) bptt_kernels_##variant##_##cell
#define TABLE_(variant, cell) TABLE__(variant, cell)
#define TABLE(cell) TABLE_(VARIANT, cell)

#ifdef CELL
extern const bptt_kernels TABLE(CELL)[2];
const bptt_kernels TABLE(CELL)[2] = {KERNELS(SUFFIX_f32), KERNELS(_f64)};
#else
extern const bptt_kernels TABLE(lstm)[2], TABLE(gru)[2], TABLE(rnn)[2];
#ifdef HALF_BYTES
#define HALF_ADDS multiply_adds_f32_half
#else
#define HALF_ADDS NULL
#endif
/* A variant of that name, with these tiles or NULL. */
#define DEFINE_VARIANT(name, tiles)                                                                                    \
  extern const bptt_variant PASTE(bptt_variant_, name);                                                                \
  const bptt_variant PASTE(bptt_variant_,                                                                              \
                           name) = {STRING(name),                                                                      \
                                    {TABLE(lstm), TABLE(gru), TABLE(rnn)},                                             \
                                    {{multiply_adds_f32, read_often_f32}, {multiply_adds_f64, read_often_f64}},        \
                                    HALF_ADDS,                                                                         \
                                    {norms_f32, norms_f64},                                                            \
                                    tiles}
DEFINE_VARIANT(VARIANT, NULL);
#ifdef TILES
extern const bptt_tiles PASTE(bptt_tiles_, TILES);
DEFINE_VARIANT(TILES, &PASTE(bptt_tiles_, TILES));
#endif
#endif
