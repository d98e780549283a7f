/* The machine's ceilings: each member of a team does one thing for a while, at once with the others. */
#define _GNU_SOURCE
#include "bptt.h"
#include "dispatch.h"
#include "team.h"

#include <string.h>
#include <time.h>

enum {
  WINDOWS = 20,           /* the best one counts: the others were disturbed */
  WINDOW_NS = 2000000,    /* long against starting, short against a time slice */
  WAITS = 10000,          /* barriers of a window */
  REGIONS = 200,          /* calls of a window */
  MOST_PASSES = 1 << 24,  /* of a tiny buffer in a window */
  START_ROUNDS = 1 << 10, /* of multiply-adds; doubled until a window is full */
};

typedef struct {
  _Alignas(BPTT_CACHE_LINE) int64_t start, end, work; /* end is 0 while nobody has been here */
  double sink;
} record;

typedef struct {
  const bptt_probes *probes;
  bptt_ceiling what;
  char *memory;
  int64_t bytes;   /* of each member's share of the memory */
  int64_t repeats; /* of the work in a window */
  record *members;
} experiment;

static void nothing(const void *context, bptt_team *team, int rank) {
  (void)context, (void)team, (void)rank;
}

static int64_t work(const experiment *e, bptt_team *team, int rank) {
  switch (e->what) {
  case BPTT_FMA:
    return e->probes->multiply_adds(e->repeats, &e->members[rank].sink);
  case BPTT_READ:
    return e->probes->read_often(e->memory + rank * e->bytes, e->bytes, e->repeats, &e->members[rank].sink);
  case BPTT_BARRIER:
    for (int64_t n = 0; n < e->repeats; n++)
      bptt_team_wait(team, rank);
    return e->repeats;
  case BPTT_REGION:
    break;
  }
  return 0;
}

static void member(const void *context, bptt_team *team, int rank) {
  const experiment *e = context;
  if (e->what == BPTT_READ && !e->members[rank].end)
    memset(e->memory + rank * e->bytes, 1, (size_t)e->bytes); /* by the thread that will read it */
  bptt_team_wait(team, rank);
  e->members[rank].start = bptt_now();
  e->members[rank].work = work(e, team, rank);
  e->members[rank].end = bptt_now();
}

/* One window; its length in ns, and in *done the work of all members (which may be fewer than were asked for). */
static int64_t window(const experiment *e, int threads, int64_t *done) {
  int64_t start = bptt_now(), end = 0;
  if (e->what == BPTT_REGION) {
    for (int64_t n = 0; n < e->repeats; n++)
      bptt_team_run(threads, 1, nothing, e, NULL, NULL);
    *done = e->repeats;
    return bptt_now() - start;
  }
  bptt_team_run(threads, 1, member, e, NULL, NULL);
  start = e->members[0].start;
  *done = 0;
  for (int rank = 0; rank < threads && e->members[rank].end; rank++) {
    start = e->members[rank].start < start ? e->members[rank].start : start;
    end = e->members[rank].end > end ? e->members[rank].end : end;
    *done += e->members[rank].work;
  }
  return end > start ? end - start : 1;
}

/* The shortest of a few windows, as member 0 saw them: it may have waited for the others, or not have been run. */
static int64_t shortest(const experiment *e, int threads) {
  int64_t done, least = INT64_MAX;
  for (int n = 0; n < 3; n++) {
    window(e, threads, &done);
    int64_t ns = e->members[0].end - e->members[0].start;
    least = ns < least ? ns : least;
  }
  return least;
}

/* Repeats of the work that fill a window. */
static int64_t enough(experiment *e, int threads) {
  int64_t most = e->what == BPTT_FMA ? INT64_C(1) << 40 : MOST_PASSES;
  if (e->what == BPTT_BARRIER || e->what == BPTT_REGION)
    return e->what == BPTT_BARRIER ? WAITS : REGIONS;
  e->repeats = e->what == BPTT_FMA ? START_ROUNDS : 1;
  while (e->repeats < most && shortest(e, threads) < WINDOW_NS)
    e->repeats *= 2;
  return e->repeats;
}

bptt_status bptt_measure(bptt_ceiling what, bptt_dtype dtype, int threads, void *memory, int64_t bytes,
                         double *result) {
  const bptt_variant *variant = bptt_dispatch();
  record members[BPTT_MAX_THREADS];
  experiment e = {.what = what, .memory = memory, .members = members};
  if (!variant)
    return BPTT_BAD_VARIANT;
  if (threads < 1 || threads > BPTT_MAX_THREADS || what < BPTT_FMA || what > BPTT_REGION ||
      (dtype != BPTT_F32 && dtype != BPTT_F64))
    return BPTT_BAD_ARGUMENT;
  e.bytes = bytes / threads / 4096 * 4096;
  if (what == BPTT_READ && (!memory || e.bytes < 4096))
    return BPTT_BAD_SIZE;
  memset(members, 0, sizeof members);
  e.probes = &variant->probes[dtype];
  e.repeats = enough(&e, threads);
  double best = 0;
  for (int n = 0; n < WINDOWS; n++) {
    int64_t done, ns = window(&e, threads, &done);
    double rate = (double)done / (double)ns;
    best = rate > best ? rate : best;
  }
  *result = what == BPTT_BARRIER ? threads / best : what == BPTT_REGION ? 1 / best : best;
  return BPTT_OK;
}
