/* What bptt_measure() and bptt_norms() run, for one (ISA, dtype) pair. */
#include "vec.inc.h"

#include "measure.inc.h"

#if VEC_BYTES == FULL_BYTES
#include "norms.inc.h"
#endif
