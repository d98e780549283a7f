/* AVX2 with FMA: 16 registers of 32 bytes. */
#if !defined(__AVX2__) || !defined(__FMA__)
#error "compile this file with the AVX2 flags of csrc/CMakeLists.txt"
#endif
#include <immintrin.h>

#define VARIANT avx2
#define ISA_AVX2
#define FULL_BYTES 32
#define TILE_ROWS 3 /* 3 x 4 sums, 3 rows, 1 weight */
#define WIDE_ROWS 6
#define THREE_ROWS 4
#define PAIR_THREE 2
#define LONE_BLOCKS 3
#include "../variant.inc.h"
