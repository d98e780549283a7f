/* Threads: one OpenMP region per call, own barrier, fork and floating-point rules. Only this file knows OpenMP. */
#define _GNU_SOURCE
#include "team.h"

#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__x86_64__)
#define RELAX() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define RELAX() __asm__ volatile("yield")
#else
#define RELAX() ((void)0)
#endif

enum {
  HOT_SPINS = 512,     /* bare loads: a barrier of two awake threads ends within them (48 ns measured) */
  RELAXED_SPINS = 4096 /* with a pause each, some 50 us; then the member sleeps */
};

static const double POLL_FLOPS = 2e8;          /* 2 to 20 ms of work between two looks at the clock */
static const int64_t POLL_INTERVAL = 50000000; /* ns */

/* ---- floating-point mode: flush-to-zero and denormals-are-zero while a duty runs ---- */

#if defined(__x86_64__)
typedef unsigned int fp_mode;
static fp_mode fp_enter(void) {
  fp_mode old = __builtin_ia32_stmxcsr();
  __builtin_ia32_ldmxcsr(old | 0x8040u);
  return old;
}
static void fp_leave(fp_mode old) {
  /* The exception flags raised meanwhile are ours, not the caller's: the register goes back as it was. */
  __builtin_ia32_ldmxcsr(old);
}
#elif defined(__aarch64__)
typedef uint64_t fp_mode;
static fp_mode fp_enter(void) {
  fp_mode old;
  __asm__ volatile("mrs %0, fpcr" : "=r"(old));
  __asm__ volatile("msr fpcr, %0" : : "r"(old | (UINT64_C(1) << 24)));
  return old;
}
static void fp_leave(fp_mode old) {
  __asm__ volatile("msr fpcr, %0" : : "r"(old));
}
#else
typedef int fp_mode;
static fp_mode fp_enter(void) {
  return 0;
}
static void fp_leave(fp_mode old) {
  (void)old;
}
#endif

/* ---- fork: a pool of libgomp does not survive it, and the child's first region would wait for ever ---- */

#ifdef _OPENMP
static void before_fork(void) {
#if _OPENMP >= 201811 || __GNUC__ >= 9 /* libgomp has had it since GCC 9 */
  if (!omp_in_parallel())
    omp_pause_resource_all(omp_pause_soft); /* the pool ends here and comes back at the next region */
#endif
}

static void watch_forks(void) {
  (void)pthread_atfork(before_fork, NULL, NULL);
}

/* ---- libgomp ends the process when a thread cannot be created: try it before libgomp does ---- */

static void *pass_gate(void *gate) {
  pthread_mutex_lock(gate);
  pthread_mutex_unlock(gate);
  return NULL;
}

/* Whether threads-1 more threads can exist at once. Asked once for each calling thread and each larger team. */
static int can_start(int threads) {
  static _Thread_local int known = 1;
  pthread_t helpers[BPTT_MAX_THREADS];
  pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
  int started = 0;
  if (threads <= known)
    return 1;
  pthread_mutex_lock(&gate);
  while (started < threads - 1 && !pthread_create(&helpers[started], NULL, pass_gate, &gate))
    started++;
  pthread_mutex_unlock(&gate);
  for (int n = 0; n < started; n++)
    pthread_join(helpers[n], NULL);
  pthread_mutex_destroy(&gate);
  if (started < threads - 1)
    return 0;
  known = threads;
  return 1;
}
#endif

/* ---- sleeping until another member arrives: on a busy machine it may be waiting for the very core we spin on ---- */

enum { LONGEST_SLEEP = 200000 }; /* ns */

#if defined(__linux__)
static void sleep_on(atomic_int *word, int seen) {
  const struct timespec longest = {0, LONGEST_SLEEP};
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, &longest, NULL, 0);
}
static void wake_all(atomic_int *word) {
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}
#else
static void sleep_on(atomic_int *word, int seen) {
  (void)word, (void)seen;
  sched_yield();
}
static void wake_all(atomic_int *word) {
  (void)word;
}
#endif

int64_t bptt_now(void) {
  struct timespec ts;
  clock_gettime(CLOCK_MONOTONIC, &ts);
  return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

#ifdef _OPENMP
/* ---- a busy machine: when others hold the cores, two threads wait for one another longer than they work ---- */

/* Until then calls run on one thread (ns of the monotonic clock). The bits of the results are the same. */
static atomic_llong serial_until;
static atomic_llong lost_lately; /* ns, in bad calls one after the other */
static atomic_int bad_calls;     /* how many those are */

/* A bad call or two are a hiccup: a thread that slept, new pages, another process for a moment. */
enum { LEAST_LOSS = 100000, PATIENCE = 4, PENALTY = 20, LONGEST_PENALTY = 100000000 };

/* After a call on a team that took `elapsed` ns, of which rank 0, whose share is never the smaller one, waited `lost`:
 * when that was above a third for some calls on end, the next ones go alone for 20 times what those lost, so that
 * asking again costs some 5 %; but for 0.1 s at most, as a process that wakes may find both its threads on one core.
 * Several callers may count at once; the count need not be exact. */
static void judge(int64_t elapsed, int64_t lost, int64_t end) {
  if (lost <= LEAST_LOSS || 3 * lost <= elapsed) {
    if (atomic_load_explicit(&bad_calls, memory_order_relaxed)) {
      atomic_store_explicit(&bad_calls, 0, memory_order_relaxed);
      atomic_store_explicit(&lost_lately, 0, memory_order_relaxed);
    }
    return;
  }
  lost += atomic_fetch_add_explicit(&lost_lately, lost, memory_order_relaxed);
  if (atomic_fetch_add_explicit(&bad_calls, 1, memory_order_relaxed) + 1 < PATIENCE)
    return;
  atomic_store_explicit(&bad_calls, 0, memory_order_relaxed);
  atomic_store_explicit(&lost_lately, 0, memory_order_relaxed);
  atomic_store_explicit(&serial_until, end + (PENALTY * lost < LONGEST_PENALTY ? PENALTY * lost : LONGEST_PENALTY),
                        memory_order_relaxed);
}
#endif

/* Others see `epoch` as soon as what was written before it, which no fence waits for (1 to 3 % of a step of one row).
 * So a member that goes to sleep at this moment may be overlooked, and sleeps for LONGEST_SLEEP. */
static void arrive(bptt_team *team, bptt_member *member, long long epoch) {
  atomic_store_explicit(&member->epoch, epoch, memory_order_release);
  if (atomic_load(&team->sleepers)) {
    atomic_fetch_add(&member->arrivals, 1);
    wake_all(&member->arrivals);
  }
}

/* Whether to stop waiting is asked again after `sleepers` is raised: an arrival before that is seen here; one after it
 * changes `arrivals`, so that the futex does not sleep, if it sees the sleeper (arrive). */
static void await(bptt_team *team, int rank, bptt_member *other, long long epoch) {
  int64_t start = 0;
  for (int spins = 0; atomic_load_explicit(&other->epoch, memory_order_acquire) < epoch; spins++) {
    if (spins < HOT_SPINS)
      continue;
    if (spins < HOT_SPINS + RELAXED_SPINS) {
      RELAX();
      continue;
    }
    if (!start)
      start = bptt_now();
    atomic_fetch_add(&team->sleepers, 1);
    int seen = atomic_load(&other->arrivals);
    if (atomic_load(&other->epoch) < epoch)
      sleep_on(&other->arrivals, seen);
    atomic_fetch_sub(&team->sleepers, 1);
  }
  if (start && rank == 0)
    team->lost += bptt_now() - start;
}

/* In the floating-point mode of a call. */
static void run_duty(bptt_team *team, int rank, bptt_duty duty, const void *context) {
  duty(context, team, rank);
  /* Whoever still waits at a barrier need not wait for this member any more. */
  arrive(team, &team->members[rank], INT64_MAX);
}

static void run_member(bptt_team *team, int rank, bptt_duty duty, const void *context) {
  fp_mode mode = fp_enter();
  if (rank == 0)
    team->caller_mode = (uint64_t)mode;
  run_duty(team, rank, duty, context);
  fp_leave(mode);
}

static void start_team(bptt_team *team, int size, int (*poll)(void *), void *poll_context) {
  atomic_init(&team->size, size);
  atomic_init(&team->stopped, 0);
  atomic_init(&team->sleepers, 0);
  team->poll = poll;
  team->poll_context = poll_context;
  team->lost = 0;
  team->unpolled = 0;
  team->deadline = 0;
}

static void start_members(bptt_team *team, int size) {
  for (int rank = 0; rank < size; rank++) {
    atomic_init(&team->members[rank].epoch, 0);
    atomic_init(&team->members[rank].arrivals, 0);
  }
}

int bptt_team_run(int threads, int insist, bptt_duty duty, const void *context, int (*poll)(void *),
                  void *poll_context) {
  bptt_team team;
  if (threads > BPTT_MAX_THREADS)
    threads = BPTT_MAX_THREADS;
  start_team(&team, 1, poll, poll_context);
#ifdef _OPENMP
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  int64_t start = threads > 1 ? bptt_now() : 0, done = 0;
  if (threads > 1 && (insist || start >= atomic_load_explicit(&serial_until, memory_order_relaxed)) &&
      can_start(threads)) {
    pthread_once(&once, watch_forks);
    start_members(&team, threads);
#pragma omp parallel num_threads(threads)
    {
      /* OpenMP may give fewer threads than were asked for (limits, nesting); every member notes the real number. */
      int rank = omp_get_thread_num();
      atomic_store_explicit(&team.size, omp_get_num_threads(), memory_order_relaxed);
      run_member(&team, rank, duty, context);
      if (rank == 0)
        done = bptt_now();
    }
    int64_t end = bptt_now();
    judge(end - start, team.lost + end - done, end);
    return atomic_load(&team.stopped);
  }
#endif
  (void)insist;
  start_members(&team, 1);
  run_member(&team, 0, duty, context);
  return atomic_load(&team.stopped);
}

void bptt_team_arrive(bptt_team *team, int rank) {
  bptt_member *mine = &team->members[rank];
  if (team->size > 1)
    arrive(team, mine, atomic_load_explicit(&mine->epoch, memory_order_relaxed) + 1);
}

int bptt_team_await(bptt_team *team, int rank) {
  if (team->size > 1) {
    long long epoch = atomic_load_explicit(&team->members[rank].epoch, memory_order_relaxed);
    for (int other = 0; other < team->size; other++)
      await(team, rank, &team->members[other], epoch);
  }
  return atomic_load_explicit(&team->stopped, memory_order_relaxed);
}

int bptt_team_wait(bptt_team *team, int rank) {
  bptt_team_arrive(team, rank);
  return bptt_team_await(team, rank);
}

int bptt_team_progress(bptt_team *team, int rank, double flops) {
  if (rank == 0 && team->poll) {
    team->unpolled += flops;
    if (team->unpolled > POLL_FLOPS) {
      int64_t time = bptt_now();
      team->unpolled = 0;
      if (!team->deadline) {
        team->deadline = time + POLL_INTERVAL;
      } else if (time >= team->deadline) {
        team->deadline = time + POLL_INTERVAL;
        fp_leave((fp_mode)team->caller_mode);
        if (team->poll(team->poll_context))
          atomic_store(&team->stopped, 1);
        (void)fp_enter();
      }
    }
  }
  return atomic_load_explicit(&team->stopped, memory_order_relaxed);
}

/* What a part beside the calling thread's is asked instead: only the calling thread may poll. */
static int is_stopped(void *stopped) {
  return atomic_load_explicit((atomic_int *)stopped, memory_order_relaxed);
}

void bptt_team_part(bptt_team *part, bptt_team *whole, int size, int polls) {
  if (polls)
    start_team(part, size, whole->poll, whole->poll_context);
  else
    start_team(part, size, is_stopped, &whole->stopped);
  part->caller_mode = whole->caller_mode;
  part->deadline = whole->deadline;
  part->unpolled = whole->unpolled;
  start_members(part, size);
}

void bptt_team_run_part(bptt_team *part, int rank, bptt_duty duty, const void *context) {
  run_duty(part, rank, duty, context);
}

void bptt_team_take_in(bptt_team *whole, const bptt_team *part) {
  if (atomic_load_explicit(&part->stopped, memory_order_relaxed))
    atomic_store(&whole->stopped, 1);
  if (part->poll != whole->poll)
    return;
  whole->lost += part->lost;
  whole->deadline = part->deadline;
  whole->unpolled = part->unpolled;
}

int bptt_team_has_openmp(void) {
#ifdef _OPENMP
  return 1;
#else
  return 0;
#endif
}
