/* AVX-512 (F, BW, DQ, VL): 32 registers of 64 bytes. */
#if !defined(__AVX512F__) || !defined(__AVX512VL__) || !defined(__FMA__)
#error "compile this file with the AVX-512 flags of csrc/CMakeLists.txt"
#endif
#include <immintrin.h>

#define VARIANT avx512
#define ISA_AVX512
#define FULL_BYTES 64
#define HALF_BYTES 32
#define TILE_ROWS 6 /* 6 x 4 sums, 4 weights and what is spread; with 7 rows GCC keeps a sum in memory */
#define WIDE_ROWS 12 /* 12 x 2 sums, 2 weights; a third fewer reads for each multiply-add than 8 x 2 */
#define THREE_ROWS 8
#define PAIR_THREE 4
#define LONE_BLOCKS 4
#define AT_ONCE 4
#if defined(BPTT_AMX)
#define TILES amx
#endif
#include "../variant.inc.h"
