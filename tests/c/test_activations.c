/* Sigmoid and tanh of csrc/act.inc.h against libm in a wider type, for the one instruction set that the build names:
 * -DBPTT_TEST_ISA_AVX512, _AVX2, _NEON or _BASELINE, with the flags of that variant.
 *
 *   test_activations         a dense sample of all exponents, a few seconds
 *   test_activations --all   every float32 there is (some minutes), and the sample of float64
 *
 * One line a check; the exit status is 1 if any failed, 77 if this machine cannot run the instruction set.
 */
#include <inttypes.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#if defined(BPTT_TEST_ISA_AVX512)
#include <immintrin.h>
#define ISA_AVX512
#define ISA_TEXT "avx512"
#define VEC_BYTES 64
#define RUNS_HERE (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
#elif defined(BPTT_TEST_ISA_AVX2)
#include <immintrin.h>
#define ISA_AVX2
#define ISA_TEXT "avx2"
#define VEC_BYTES 32
#define RUNS_HERE (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
#elif defined(BPTT_TEST_ISA_NEON)
#include <arm_neon.h>
#define ISA_NEON
#define ISA_TEXT "neon"
#define VEC_BYTES 16
#define RUNS_HERE 1
#elif defined(BPTT_TEST_ISA_BASELINE)
#define ISA_BASELINE
#define ISA_TEXT "baseline"
#define VEC_BYTES 16
#define RUNS_HERE 1
#else
#error "define BPTT_TEST_ISA_AVX512, _AVX2, _NEON or _BASELINE"
#endif

#define PASTE_(a, b) a##b
#define PASTE(a, b) PASTE_(a, b)
#define NAME(op) PASTE(op, SUFFIX)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 32")

/* Largest errors in units in the last place: sigmoid, tanh. What act.inc.h states, and for float64, where only a
 * sample can be seen, a little above it. */
static const double bound_f32[2] = {2.49, 2.5}, bound_f64[2] = {2.6, 2.6};

enum { SIGMOID, TANH };

static int failures;

static void report(int bits, int f, const char *what, int64_t wrong) {
  printf("%s %s float%d %-7s %s", wrong ? "FAIL" : "ok  ", ISA_TEXT, bits, f == SIGMOID ? "sigmoid" : "tanh", what);
  if (wrong)
    printf(": %" PRId64 " wrong", wrong);
  printf("\n");
  fflush(stdout);
  failures += wrong != 0;
}

/* Subnormal arguments and results count as zero, as inside the library's calls. */
static void set_flush_to_zero(int on) {
#if defined(__SSE__)
  unsigned mode = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(on ? mode | 0x8040u : mode & ~0x8040u);
#elif defined(__aarch64__)
  uint64_t mode;
  __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
  mode = on ? mode | (1u << 24) : mode & ~(uint64_t)(1u << 24);
  __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#else
  (void)on;
#endif
}

/* In [0, 1), the same sequence in every run (xorshift64). */
static double random_fraction(void) {
  static uint64_t state = 88172645463325252u;
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (double)(state >> 11) * 0x1p-53;
}

#define REAL float
#define REAL_BITS 32
#define SUFFIX _f32
#define UINT uint32_t
#define WIDE double
#define WIDE_EXP exp
#define WIDE_TANH tanh
#define SIGNIFICAND_BITS 24
#include "../../csrc/vec.inc.h"

#include "../../csrc/act.inc.h"

#include "activation_checks.inc.h"
#undef REAL
#undef REAL_BITS
#undef SUFFIX
#undef UINT
#undef WIDE
#undef WIDE_EXP
#undef WIDE_TANH
#undef SIGNIFICAND_BITS

#define REAL double
#define REAL_BITS 64
#define SUFFIX _f64
#define UINT uint64_t
#define WIDE long double
#define WIDE_EXP expl
#define WIDE_TANH tanhl
#define SIGNIFICAND_BITS 53
#include "../../csrc/vec.inc.h"

#include "../../csrc/act.inc.h"

#include "activation_checks.inc.h"

int main(int argc, char **argv) {
  int all = argc == 2 && !strcmp(argv[1], "--all");
  if (argc > 1 && !all) {
    fprintf(stderr, "usage: %s [--all]\n", argv[0]);
    return 2;
  }
  if (!RUNS_HERE) {
    printf("skip: this machine has no %s\n", ISA_TEXT);
    return 77;
  }
  run_f32(all, bound_f32);
  run_f64(0, bound_f64);
  return failures != 0;
}
