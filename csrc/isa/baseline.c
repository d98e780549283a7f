/* Any CPU: no intrinsics at all, 16-byte vectors by the compiler (SSE2 on x86-64), multiply and add apart. */
#define VARIANT baseline
#define ISA_BASELINE
#define FULL_BYTES 16
#define TILE_ROWS 2
#define WIDE_ROWS 4
#define THREE_ROWS 2
#define PAIR_THREE 1
#define LONE_BLOCKS 2
#include "../variant.inc.h"
