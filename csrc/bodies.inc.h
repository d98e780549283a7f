/* The kernel bodies of one cell for one (ISA, dtype) pair, in the order in which they build on one another. */
#include "vec.inc.h"

#include "act.inc.h"

#include "gemm.inc.h"

#include "products.inc.h"

#include "clip.inc.h"

#include CELL_FILE

#include "pack.inc.h"

#include "draw.inc.h"

#include "step.inc.h"

#include "second.inc.h"

#include "forward.inc.h"

#if HAS_LONE && defined(HALF_BYTES) && VEC_BYTES == FULL_BYTES && REAL_BITS == 32
#include "lone.inc.h"
#endif

#include "dz.inc.h"

#include "backjob.inc.h"

#include "backstep.inc.h"

#include "alone.inc.h"

#include "dx.inc.h"

#include "tokens.inc.h"

#include "norms.inc.h"

#include "backward.inc.h"
