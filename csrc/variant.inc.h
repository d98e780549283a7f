/* One instruction set: the kernel bodies, included once per dtype, and the table they fill.
 *
 * Wanted from the stub: VARIANT, VEC_BYTES, ISA_* (see vec.inc.h), TILE_ROWS (rows of a 4-vector tile), WIDE_ROWS
 * (rows of a 2-vector tile), LONE_BLOCKS (hidden blocks a single row works on at once).
 */
#include "bptt.h"
#include "dispatch.h"
#include "team.h"

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define NAME(op) PASTE(op, SUFFIX)

#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

#include "plan.h"

#define REAL float
#define REAL_BITS 32
#define SUFFIX _f32
#include "bodies.inc.h"
#undef REAL
#undef REAL_BITS
#undef SUFFIX

#define REAL double
#define REAL_BITS 64
#define SUFFIX _f64
#include "bodies.inc.h"

#define KERNELS(suffix)                                                                                                \
  { PASTE(workspace, suffix), PASTE(pack, suffix), PASTE(forward, suffix), PASTE(backward, suffix) }
#define STRING_(name) #name
#define STRING(name) STRING_(name)

extern const bptt_variant PASTE(bptt_variant_, VARIANT);
const bptt_variant PASTE(bptt_variant_, VARIANT) = {STRING(VARIANT), {KERNELS(_f32), KERNELS(_f64)}};
