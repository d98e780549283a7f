/* What bptt_measure() runs, for one (ISA, dtype) pair. */
#include "vec.inc.h"

#include "measure.inc.h"
