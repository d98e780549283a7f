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

enum { SUPPORTED = 0x1021, REQUEST_PERMISSION = 0x1023, TILE_DATA = 18 };

/* Answers, which stay as they are: 0: not known yet; 1: no; 2: yes. A packed call asks for both, and in a virtual
 * machine CPUID takes 15 us. */
static atomic_int has_amx, may_amx;

static int known(atomic_int *answer) {
  return atomic_load_explicit(answer, memory_order_relaxed);
}

static int keep(atomic_int *answer, int yes) {
  atomic_store_explicit(answer, 1 + yes, memory_order_relaxed);
  return yes;
}

static int can_amx(void) {
  enum { BF16 = 1 << 22, TILES = 1 << 24 };
  unsigned a, b, c, d = 0;
  uint64_t saved = 0;
  if (known(&has_amx))
    return known(&has_amx) == 2;
  return keep(&has_amx, __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & BF16) && (d & TILES) && can_avx512() &&
                            !syscall(SYS_arch_prctl, SUPPORTED, &saved) && (saved >> TILE_DATA & 1));
}

/* The registers are 8 KB, which Linux gives to a process that asks: it refuses one that has a signal stack too small
 * for them, and smaller signal stacks from then on. So a process that does not run this variant does not ask. */
static int ask_for_amx(void) {
  if (known(&may_amx))
    return known(&may_amx) == 2;
  return keep(&may_amx, !syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA));
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
  int (*can_run)(void); /* whether CPU and OS have it */
  int (*ask)(void); /* before it runs, for leave; or NULL */
} table[] = {
#if defined(__x86_64__)
#if defined(BPTT_AMX)
    {&bptt_variant_amx, can_amx, ask_for_amx},
#endif
    {&bptt_variant_avx512, can_avx512, NULL},
    {&bptt_variant_avx2, can_avx2, NULL},
#elif defined(__aarch64__)
    {&bptt_variant_neon, can_always, NULL},
#endif
    {&bptt_variant_baseline, can_always, NULL},
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

/* The row of that rank among those that CPU and OS have; or -1. */
static int row_of(int rank) {
  for (int row = 0; row < TABLE_SIZE; row++)
    if (table[row].can_run() && rank-- == 0)
      return row;
  return -1;
}

/* Its variant, if it may run. */
static const bptt_variant *entered(int row) {
  return row >= 0 && (!table[row].ask || table[row].ask()) ? table[row].variant : NULL;
}

const bptt_variant *bptt_usable_variant(int rank) {
  return entered(row_of(rank));
}

static const bptt_variant *best(void) {
  const bptt_variant *variant = NULL;
  for (int row = 0; row < TABLE_SIZE && !variant; row++)
    variant = table[row].can_run() ? entered(row) : NULL;
  return variant;
}

static const bptt_variant *named(const char *name) {
  for (int row = 0; row < TABLE_SIZE; row++)
    if (!strcmp(table[row].variant->name, name))
      return table[row].can_run() ? entered(row) : NULL;
  return NULL;
}

const bptt_variant *bptt_dispatch(void) {
  const bptt_variant *variant = atomic_load_explicit(&active, memory_order_acquire);
  if (!variant) {
    const char *forced = getenv("BPTT_VARIANT");
    const bptt_variant *found = forced && *forced ? named(forced) : best();
    /* Unless another thread has chosen one meanwhile: that stays. */
    if (atomic_compare_exchange_strong(&active, &variant, found))
      variant = found;
  }
  return variant;
}

int bptt_variant_count(void) {
  int count = 0;
  while (row_of(count) >= 0)
    count++;
  return count;
}

const char *bptt_variant_name(int rank) {
  int row = rank < 0 ? -1 : row_of(rank);
  return row < 0 ? NULL : table[row].variant->name;
}

const char *bptt_active_variant(void) {
  const bptt_variant *variant = bptt_dispatch();
  return variant ? variant->name : NULL;
}

int bptt_active_rank(void) {
  const bptt_variant *variant = bptt_dispatch();
  int rank = 0;
  while (variant && table[row_of(rank)].variant != variant)
    rank++;
  return variant ? rank : -1;
}

bptt_status bptt_use_variant(const char *name) {
  const bptt_variant *variant = name ? named(name) : best();
  if (!variant)
    return BPTT_BAD_VARIANT;
  atomic_store_explicit(&active, variant, memory_order_release);
  return BPTT_OK;
}
