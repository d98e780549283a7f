/* What one (ISA, dtype) pair has once, for all cells: their common products, and what bptt_measure() and bptt_norms()
 * run. */
#include "vec.inc.h"

#include "gemm.inc.h"

#include "products.inc.h"

#include "measure.inc.h"

#if VEC_BYTES == FULL_BYTES
#include "norms.inc.h"
#endif
