/* What a test expects: counted, and told if it does not hold, up to thirty times. */
#ifndef BPTT_TEST_EXPECT_H
#define BPTT_TEST_EXPECT_H

#include <stdio.h>

static int failures, checks;

#define EXPECT(condition, ...)                                                                                         \
  do {                                                                                                                 \
    checks++;                                                                                                          \
    if (!(condition) && failures++ < 30) {                                                                             \
      printf("FAIL %s: ", #condition);                                                                                 \
      printf(__VA_ARGS__);                                                                                             \
      printf("\n");                                                                                                    \
    }                                                                                                                  \
  } while (0)

#endif
