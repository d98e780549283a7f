/* Which variant runs: the list, best first; what CPU and OS allow; the override. */
#include "dispatch.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#if defined(BPTT_AMX)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

extern const bptt_variant bptt_variant_baseline;
#if defined(__x86_64__)
extern const bptt_variant bptt_variant_avx2, bptt_variant_avx512;

/* GCC and Clang ask XGETBV too, so an instruction set that the OS does not save counts as absent. */
static int can_avx2(void) {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static int can_avx512(void) {
  return can_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#if defined(BPTT_AMX)
extern const bptt_variant bptt_variant_amx;

/* The registers are 8 KB, which Linux gives to a process that asks: it refuses one that has a signal stack too small
 * for them. Asked once, as what was given stays. */
static int can_amx(void) {
  enum { REQUEST_PERMISSION = 0x1023, TILE_DATA = 18, BF16 = 1 << 22, TILES = 1 << 24 };
  static atomic_int known; /* 1: no; 2: yes */
  int answer = atomic_load_explicit(&known, memory_order_relaxed);
  if (!answer) {
    unsigned a, b, c, d = 0;
    int has = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & BF16) && (d & TILES);
    answer = 1 + (has && can_avx512() && !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA));
    atomic_store_explicit(&known, answer, memory_order_relaxed);
  }
  return answer == 2;
}
#endif
#elif defined(__aarch64__)
extern const bptt_variant bptt_variant_neon;
#endif

static int can_always(void) {
  return 1;
}

static const struct {
  const bptt_variant *variant;
  int (*can_run)(void);
} table[] = {
#if defined(__x86_64__)
#if defined(BPTT_AMX)
    {&bptt_variant_amx, can_amx},
#endif
    {&bptt_variant_avx512, can_avx512},
    {&bptt_variant_avx2, can_avx2},
#elif defined(__aarch64__)
    {&bptt_variant_neon, can_always},
#endif
    {&bptt_variant_baseline, can_always},
};

enum { TABLE_SIZE = sizeof table / sizeof table[0] };

int bptt_prefetches_any_page(void) {
#if defined(__x86_64__)
  return !__builtin_cpu_is("amd");
#else
  return 1;
#endif
}

static _Atomic(const bptt_variant *) active;

const bptt_variant *bptt_usable_variant(int rank) {
  for (int row = 0; row < TABLE_SIZE; row++)
    if (table[row].can_run() && rank-- == 0)
      return table[row].variant;
  return NULL;
}

static const bptt_variant *named(const char *name) {
  const bptt_variant *variant;
  for (int rank = 0; (variant = bptt_usable_variant(rank)); rank++)
    if (!strcmp(variant->name, name))
      return variant;
  return NULL;
}

const bptt_variant *bptt_dispatch(void) {
  const bptt_variant *variant = atomic_load_explicit(&active, memory_order_acquire);
  if (!variant) {
    const char *forced = getenv("BPTT_VARIANT");
    variant = forced && *forced ? named(forced) : bptt_usable_variant(0);
    atomic_store_explicit(&active, variant, memory_order_release);
  }
  return variant;
}

int bptt_variant_count(void) {
  int count = 0;
  while (bptt_usable_variant(count))
    count++;
  return count;
}

const char *bptt_variant_name(int rank) {
  const bptt_variant *variant = rank < 0 ? NULL : bptt_usable_variant(rank);
  return variant ? variant->name : NULL;
}

const char *bptt_active_variant(void) {
  const bptt_variant *variant = bptt_dispatch();
  return variant ? variant->name : NULL;
}

int bptt_active_rank(void) {
  const bptt_variant *variant = bptt_dispatch();
  int rank = 0;
  while (variant && bptt_usable_variant(rank) != variant)
    rank++;
  return variant ? rank : -1;
}

bptt_status bptt_use_variant(const char *name) {
  const bptt_variant *variant = name ? named(name) : bptt_usable_variant(0);
  if (!variant)
    return BPTT_BAD_VARIANT;
  atomic_store_explicit(&active, variant, memory_order_release);
  return BPTT_OK;
}
