/* Clipping inside the recursion of the backward pass (step_clip). Wanted: vec.inc.h. */

/* What one row's units are clipped to at one step. */
typedef struct {
  const double *bounds; /* hidden, cell, gates; NULL: nothing is clipped */
  int64_t *count;       /* hidden, cell, gates: how many elements of this row and step were; or NULL */
  int shared;           /* several threads may have units of the row */
} NAME(step_clip);

/* Apart, so that its code stands once. Lanes that are not in use hold zeros, which count nowhere. */
NOINLINE void NAME(count_clipped)(const NAME(step_clip) * clip, bptt_clip what, vec bound, vec x) {
  int count = vcount_lt(bound, vabs(x));
  if (count && clip->shared)
    (void)__atomic_fetch_add(clip->count + what, count, __ATOMIC_RELAXED);
  else if (count)
    clip->count[what] += count;
}

/* (C1); a NaN stays one. */
INLINE vec NAME(clipped)(const NAME(step_clip) * clip, bptt_clip what, vec x) {
  if (__builtin_expect(!clip->bounds, 1))
    return x;
  const vec bound = vset1((REAL)clip->bounds[what]);
  if (clip->count)
    NAME(count_clipped)(clip, what, bound, x);
  return vmin(bound, vmax(-bound, x)); /* (C1) */
}
