/* Random bits by counting: the draw for an element depends on the seed, what is drawn, the step and the element's place
 * alone, so any thread can draw it at any time, forward and again backward. docs/math.md has the numbers. */
#ifndef BPTT_DRAW_H
#define BPTT_DRAW_H

#include <stdint.h>

typedef enum { DRAW_RECURRENT = 1, DRAW_ZONE_C = 2, DRAW_ZONE_H = 3 } draw_kind;

/* Steele, Lea and Flood (2014). */
static inline uint64_t splitmix(uint64_t z) {
  z += UINT64_C(0x9E3779B97F4A7C15); /* (D1) */
  z = (z ^ (z >> 30)) * UINT64_C(0xBF58476D1CE4E5B9); /* (D2) */
  z = (z ^ (z >> 27)) * UINT64_C(0x94D049BB133111EB); /* (D3) */
  return z ^ (z >> 31); /* (D4) */
}

static inline uint64_t draw_key(uint64_t seed, draw_kind kind, int64_t step) {
  return splitmix(splitmix(seed + (uint64_t)kind) ^ (uint64_t)step); /* (D5) */
}

/* Draws below this are hits; 0 <= share < 1. */
static inline uint32_t draw_bound(double share) {
  return (uint32_t)(share * 4294967296.0);
}

#endif
