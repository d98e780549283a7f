/* What is inlined and what is not. */
#ifndef BPTT_INLINING_H
#define BPTT_INLINING_H

#define INLINE static inline __attribute__((always_inline))
/* Functions with many tiles inside stay whole: cloned into their callers they cost minutes of compile time. */
#if defined(__clang__)
#define NOINLINE static __attribute__((noinline))
#else
#define NOINLINE static __attribute__((noinline, noclone))
#endif
/* What runs once in a call or a block of steps is compiled for its size: 100 KB of a wheel. */
#define ONCE static __attribute__((cold, noinline))
#define UNROLL _Pragma("GCC unroll 32")

#endif
