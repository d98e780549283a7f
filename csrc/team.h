/* A team of threads for the length of one call: one OpenMP region, a barrier of our own, a way to stop early. */
#ifndef BPTT_TEAM_H
#define BPTT_TEAM_H

#include <stdatomic.h>
#include <stdint.h>

#define BPTT_MAX_THREADS 256
#define BPTT_CACHE_LINE 64

typedef struct {
  _Alignas(BPTT_CACHE_LINE) atomic_llong epoch; /* barriers this member has reached; its own line: no false sharing */
  atomic_int arrivals;                          /* what sleepers sleep on */
} bptt_member;

typedef struct bptt_team {
  atomic_int size;     /* members that really run, which may be fewer than were asked for */
  atomic_int stopped;  /* set once poll() asks to stop */
  atomic_int sleepers; /* members that gave up spinning */
  int (*poll)(void *context);
  void *poll_context;
  uint64_t caller_mode; /* floating-point mode of the calling thread, which poll() runs in */
  /* Rank 0 only, which writes it at each step: apart from what all read then. */
  _Alignas(BPTT_CACHE_LINE) double unpolled; /* work since the clock was last read */
  int64_t deadline; /* next time to call poll(), ns of the monotonic clock */
  int64_t lost;     /* ns it waited at barriers beyond the spinning */
  bptt_member members[BPTT_MAX_THREADS];
} bptt_team;

/* One member's share of the work of a team. */
typedef void (*bptt_duty)(const void *context, bptt_team *team, int rank);

/* Runs duty on `threads` members with denormals flushed to zero, restores the floating-point mode of each, and
 * returns 1 when poll() stopped it, else 0. One thread runs it without a parallel region. Where others hold the cores
 * one thread does the work of all, unless `insist`: the bits are the same. */
int bptt_team_run(int threads, int insist, bptt_duty duty, const void *context, int (*poll)(void *),
                  void *poll_context);

/* Waits for all members; 1 when the team was stopped: the caller must return from its duty then. */
int bptt_team_wait(bptt_team *team, int rank);

/* The same in two halves: between them a member may do what the others do not wait for. */
void bptt_team_arrive(bptt_team *team, int rank);
int bptt_team_await(bptt_team *team, int rank);

/* Asks for what other members have just written, if it is not too much, all its lines at once: a product that comes
 * to them one by one waits for each. Forward of 1875,1,128,128 3.45 -> 3.19 ms, backward of 32,1,128,128 156 -> 149 us,
 * a streamed step of 333 22.6 -> 21.5 us. The empty assembly is for GCC 12, which takes a function that only prefetches
 * for one without effect. */
static inline void bptt_team_fetch(const void *from, int64_t bytes) {
  enum { MOST_FETCHED = 32768 };
  __asm__ volatile("");
  if (bytes <= 0 || bytes > MOST_FETCHED)
    return;
  const char *last = (const char *)from + bytes - 1;
  for (const char *line = from; line < last; line += BPTT_CACHE_LINE)
    __builtin_prefetch(line, 0, 3);
  __builtin_prefetch(last, 0, 3); /* in a line more, if they begin inside one */
}

/* A team of some members of one that runs. One of them makes it and all wait; each member of the part then runs its
 * duty in it, and the part's rank 0 takes it in. The part polls if that rank is the calling thread (`polls`); else it
 * asks whether the whole was stopped. */
void bptt_team_part(bptt_team *part, bptt_team *whole, int size, int polls);
void bptt_team_run_part(bptt_team *part, int rank, bptt_duty duty, const void *context);
void bptt_team_take_in(bptt_team *whole, const bptt_team *part);

/* Accounts for work done (floating-point operations) and polls when 50 ms or so have gone by. Returns 1 when the
 * team was stopped. Every member may call it; only rank 0, the calling thread, ever polls. */
int bptt_team_progress(bptt_team *team, int rank, double flops);

int bptt_team_has_openmp(void);

/* ns of the monotonic clock. */
int64_t bptt_now(void);

#endif
