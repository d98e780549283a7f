/* Which vectors small sizes run on where a variant has two widths: half registers pad less, whole ones do twice as much
 * at once on machines that run them at full rate (Intel's servers, Zen 5), and no more on the others (Zen 4, Intel's
 * clients). No instruction tells which, so a multiply-add of each is timed, once in a process. Bits do not depend on
 * it.
 */
#include "dispatch.h"
#include "team.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { UNKNOWN, HALF, WHOLE };
enum { ROUNDS = 1000, WINDOWS = 8 }; /* some 2 us a window */
/* A core that has had no use for whole registers runs them slowly at first: timed at once, they looked no better than
 * halves in one process out of two, and 100,32,40,40 took 650 us in place of 410. */
enum { WARM_NS = 500000 };
/* Nothing makes whole registers look faster than they are, but much makes them look slower: halves are chosen if they
 * are still the better ones after so many (the first call then takes 3 ms). After one, a process in a hundred took 1.5
 * times as long for all of its life. */
enum { ATTEMPTS = 6 };

static int64_t least_ns(int64_t (*multiply_adds)(int64_t rounds, double *sink), int64_t least) {
  double sink = 0;
  volatile double kept;
  int64_t start = bptt_now();
  (void)multiply_adds(ROUNDS, &sink);
  int64_t ns = bptt_now() - start;
  kept = sink;
  (void)kept;
  return ns < least ? ns : least;
}

/* BPTT_WIDTH=half or whole insists, for tests and benchmarks. */
static int choose(const bptt_variant *variant) {
  const char *forced = getenv("BPTT_WIDTH");
  if (forced && (*forced == 'h' || *forced == 'w'))
    return *forced == 'h' ? HALF : WHOLE;
  int64_t whole = INT64_MAX, half = INT64_MAX;
  for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
    for (int64_t end = bptt_now() + WARM_NS; bptt_now() < end;)
      (void)least_ns(variant->probes[BPTT_F32].multiply_adds, INT64_MAX);
    for (int n = 0; n < WINDOWS; n++) {
      whole = least_ns(variant->probes[BPTT_F32].multiply_adds, whole);
      half = least_ns(variant->half_adds, half);
    }
    if (2 * whole < 3 * half)
      return WHOLE;
  }
  return HALF;
}

int bptt_runs_halves(const bptt_variant *variant) {
  static atomic_int chosen; /* one variant has halves */
  int width = atomic_load_explicit(&chosen, memory_order_relaxed);
  if (width == UNKNOWN) { /* weights are packed for a width: whoever comes first decides for all */
    int mine = choose(variant);
    if (atomic_compare_exchange_strong(&chosen, &width, mine))
      width = mine;
  }
  return width == HALF;
}
