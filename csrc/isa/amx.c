/* Tiles of AMX (TILE, BF16), for products beside the kernels of AVX-512. */
#if !defined(__AMX_TILE__) || !defined(__AMX_BF16__) || !defined(__AVX512F__)
#error "compile this file with the AMX flags of csrc/CMakeLists.txt"
#endif
#include <immintrin.h>

#define VARIANT amx
#define ISA_AVX512
#define VEC_BYTES 64
#include "../tiles.inc.h"
