/* AArch64 Advanced SIMD: 32 registers of 16 bytes, FMA. */
#if !defined(__ARM_NEON) || !defined(__aarch64__)
#error "neon.c is for aarch64"
#endif
#include <arm_neon.h>

#define VARIANT neon
#define ISA_NEON
#define FULL_BYTES 16
#define TILE_ROWS 6
#define WIDE_ROWS 8
#define THREE_ROWS 6
#define PAIR_THREE 4
#define LONE_BLOCKS 4
#include "../variant.inc.h"
