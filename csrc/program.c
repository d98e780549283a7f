/* Programs: calls and moves one after the other, on one team of threads. A single call is a program of one stage. */
#include "bptt.h"
#include "dispatch.h"
#include "rows.h"
#include "team.h"

#include <string.h>

/* ---- one call ---- */

static bptt_status prepare(const bptt_problem *p, bptt_op op, bptt_job *job) {
  const bptt_kernels *kernels;
  bptt_status status = bptt_check(p, op, &kernels);
  if (status)
    return status;
  return op == BPTT_FORWARD ? kernels->forward(p, job) : kernels->backward(p, job);
}

static bptt_status run_call(const bptt_problem *p, bptt_op op, int (*poll)(void *), void *poll_context) {
  bptt_job job;
  bptt_status status = prepare(p, op, &job);
  if (status)
    return status;
  int stopped = bptt_team_run(job.threads, p->split != BPTT_SPLIT_AUTO, job.duty, job.plan, poll, poll_context);
  return stopped ? BPTT_INTERRUPTED : BPTT_OK;
}

bptt_status bptt_forward(const bptt_problem *p) {
  return run_call(p, BPTT_FORWARD, p->poll, p->poll_context);
}

bptt_status bptt_backward(const bptt_problem *p) {
  return run_call(p, BPTT_BACKWARD, p->poll, p->poll_context);
}

/* ---- moves ---- */

static const int64_t EACH = 1 << 15; /* numbers that are worth a thread: some 10 us */

/* One row; `restrict` does not hold where a row is scaled in place, which changes each number by itself. */
#define MOVE_ROW(REAL)                                                                                                 \
  static void move_row_##REAL(const bptt_move *m, int64_t n, REAL *to, const REAL *from, const REAL *scale) {          \
    if (!from && !m->add)                                                                                              \
      memset(to, 0, (size_t)n * sizeof(REAL));                                                                         \
    else if (!from)                                                                                                    \
      return;                                                                                                          \
    else if (scale && m->add)                                                                                          \
      for (int64_t k = 0; k < n; k++)                                                                                  \
        to[k] += from[k] * scale[k];                                                                                   \
    else if (scale)                                                                                                    \
      for (int64_t k = 0; k < n; k++)                                                                                  \
        to[k] = from[k] * scale[k];                                                                                    \
    else if (m->add)                                                                                                   \
      for (int64_t k = 0; k < n; k++)                                                                                  \
        to[k] += from[k];                                                                                              \
    else if (to != from)                                                                                               \
      memcpy(to, from, (size_t)n * sizeof(REAL));                                                                      \
  }                                                                                                                    \
  static void move_##REAL(const bptt_move *m, range tokens, range numbers) {                                           \
    int64_t first = numbers.begin, n = numbers.end - numbers.begin, t = m->B ? tokens.begin / m->B : 0;                \
    for (int64_t token = tokens.begin, b = tokens.begin - t * m->B; token < tokens.end; token++) {                     \
      int64_t end = m->lengths ? m->lengths[b] : m->T, source = m->turned ? end - 1 - t : t;                           \
      int64_t to_b = m->order && m->back ? m->order[b] : b, from_b = m->order && !m->back ? m->order[b] : b;           \
      int some = m->from && t < end;                                                                                   \
      REAL *to = (REAL *)m->to + t * m->to_step + to_b * m->to_row + first;                                            \
      const REAL *from = some ? (const REAL *)m->from + source * m->from_step + from_b * m->from_row + first : NULL;   \
      const REAL *scale = m->scale ? (const REAL *)m->scale + t * m->scale_step + b * m->scale_row + first : NULL;     \
      move_row_##REAL(m, n, to, from, scale);                                                                          \
      if (++b == m->B)                                                                                                 \
        b = 0, t++;                                                                                                    \
    }                                                                                                                  \
  }
MOVE_ROW(float)
MOVE_ROW(double)
MOVE_ROW(int64_t)

static void move_member(const bptt_move *m, int rank, int size) {
  void (*run)(const bptt_move *, range, range) = m->kind == BPTT_F32   ? move_float
                                                 : m->kind == BPTT_F64 ? move_double
                                                                       : move_int64_t;
  if (m->lengths && m->T >= size) { /* steps in turn, as the later ones have less to move */
    for (int64_t t = rank; t < m->T; t += size)
      run(m, (range){t * m->B, (t + 1) * m->B}, share(m->N, 0, 1));
    return;
  }
  int by_tokens = m->T * m->B >= size;
  run(m, share(m->T * m->B, by_tokens ? rank : 0, by_tokens ? size : 1),
      share(m->N, by_tokens ? 0 : rank, by_tokens ? 1 : size));
}

static bptt_status check_move(const bptt_move *m) {
  if (!m)
    return BPTT_BAD_ARGUMENT;
  int64_t tokens, numbers;
  if (m->T < 0 || m->B < 0 || m->N < 0 || __builtin_mul_overflow(m->T, m->B, &tokens) ||
      __builtin_mul_overflow(tokens, m->N, &numbers))
    return BPTT_BAD_SIZE;
  if (m->kind < BPTT_F32 || m->kind > BPTT_COUNTS || m->threads < 1 || (numbers && !m->to) ||
      (m->kind == BPTT_COUNTS && m->scale))
    return BPTT_BAD_ARGUMENT;
  for (int64_t b = 0; m->lengths && b < m->B; b++)
    if (m->lengths[b] < 0 || m->lengths[b] > m->T)
      return BPTT_BAD_ARGUMENT;
  return is_order(m->order, m->B) ? BPTT_OK : BPTT_BAD_ARGUMENT;
}

/* ---- stages ---- */

typedef struct {
  const bptt_stage *stages;
  int64_t count;
  int insist; /* some call does on its split */
  int threads;
  bptt_job jobs[2]; /* of the stage that runs */
  bptt_team *parts; /* two: the team of each job */
  bptt_problem alone[2]; /* the calls of a stage when they run side by side */
} program;

/* With four threads and more each call has use for two. One that ends before a second thread is awake has none. */
static int side_by_side(const bptt_stage *stage) {
  static const double LEAST_FLOPS = 1e6;
  if (!stage->second)
    return 0;
  const bptt_problem *both[] = {stage->first, stage->second};
  for (int n = 0; n < 2; n++) {
    const bptt_problem *p = both[n];
    if (p->threads < 2 || p->threads > 3 || p->split != BPTT_SPLIT_AUTO ||
        8.0 * (double)p->T * (double)p->B * (double)p->H * (double)(p->I + width_of(p)) < LEAST_FLOPS)
      return 0;
  }
  return 1;
}

/* Checks a stage, and raises `threads` to what it has use for. */
static bptt_status check_stage(program *run, const bptt_stage *stage) {
  if (stage->op == BPTT_MOVE) {
    bptt_status status = check_move(stage->move);
    if (!status)
      run->threads = (int)max_i64(
          run->threads, min_i64(stage->move->threads, stage->move->T * stage->move->B * stage->move->N / EACH));
    return status;
  }
  if ((stage->op != BPTT_FORWARD && stage->op != BPTT_BACKWARD) || !stage->first)
    return BPTT_BAD_ARGUMENT;
  const bptt_problem *both[] = {stage->first, stage->second};
  for (int n = 0; n < 2 && both[n]; n++) {
    bptt_status status = prepare(both[n], stage->op, &run->jobs[0]);
    if (status)
      return status;
    run->threads = (int)max_i64(run->threads, run->jobs[0].threads);
    run->insist |= both[n]->split != BPTT_SPLIT_AUTO;
  }
  if (!side_by_side(stage))
    return BPTT_OK;
  run->threads = (int)max_i64(run->threads, 2);
  for (int n = 0; n < 2; n++) { /* on one thread each, whose plan may need more than that of two */
    run->alone[n] = *both[n];
    run->alone[n].threads = 1;
    bptt_status status = prepare(&run->alone[n], stage->op, &run->jobs[n]);
    if (status)
      return status;
  }
  return BPTT_OK;
}

/* All members run a call: those that it has use for. What it needs was checked before. */
static int run_stage_call(program *run, const bptt_problem *p, bptt_op op, bptt_team *team, int rank) {
  bptt_team *part = &run->parts[0];
  if (rank == 0) {
    (void)prepare(p, op, &run->jobs[0]);
    bptt_team_part(part, team, (int)min_i64(run->jobs[0].threads, team->size), 1);
  }
  if (bptt_team_wait(team, rank))
    return 1;
  if (rank < part->size)
    bptt_team_run_part(part, rank, run->jobs[0].duty, run->jobs[0].plan);
  if (rank == 0)
    bptt_team_take_in(team, part);
  return bptt_team_wait(team, rank);
}

/* Two members run a call each. */
static int run_beside(program *run, const bptt_stage *stage, bptt_team *team, int rank) {
  if (rank == 0)
    for (int n = 0; n < 2; n++) {
      run->alone[n] = n ? *stage->second : *stage->first;
      run->alone[n].threads = 1;
      (void)prepare(&run->alone[n], stage->op, &run->jobs[n]);
      bptt_team_part(&run->parts[n], team, 1, n == 0);
    }
  if (bptt_team_wait(team, rank))
    return 1;
  if (rank < 2) {
    bptt_team_run_part(&run->parts[rank], 0, run->jobs[rank].duty, run->jobs[rank].plan);
    bptt_team_take_in(team, &run->parts[rank]);
  }
  return bptt_team_wait(team, rank);
}

static void program_member(const void *context, bptt_team *team, int rank) {
  program *run = (program *)context;
  for (int64_t n = 0; n < run->count; n++) {
    const bptt_stage *stage = &run->stages[n];
    if (stage->op == BPTT_MOVE) {
      int size = (int)min_i64(stage->move->threads, team->size);
      if (rank < size)
        move_member(stage->move, rank, size);
      if (bptt_team_progress(team, rank, (double)(stage->move->T * stage->move->B * stage->move->N)) ||
          bptt_team_wait(team, rank))
        return;
    } else if (side_by_side(stage) && team->size > 1) {
      if (run_beside(run, stage, team, rank))
        return;
    } else if (run_stage_call(run, stage->first, stage->op, team, rank) ||
               (stage->second && run_stage_call(run, stage->second, stage->op, team, rank))) {
      return;
    }
  }
}

bptt_status bptt_run(const bptt_stage *stages, int64_t count, int (*poll)(void *context), void *poll_context) {
  if (count < 0 || (count && !stages))
    return BPTT_BAD_ARGUMENT;
  if (count == 1 && stages->op != BPTT_MOVE && stages->first && !stages->second)
    return stages->op == BPTT_FORWARD || stages->op == BPTT_BACKWARD
               ? run_call(stages->first, stages->op, poll, poll_context)
               : BPTT_BAD_ARGUMENT;
  bptt_team parts[2];
  program run = {.stages = stages, .count = count, .threads = 1, .parts = parts};
  for (int64_t n = 0; n < count; n++) {
    bptt_status status = check_stage(&run, &stages[n]);
    if (status)
      return status;
  }
  int stopped = bptt_team_run(run.threads, run.insist, program_member, &run, poll, poll_context);
  return stopped ? BPTT_INTERRUPTED : BPTT_OK;
}
