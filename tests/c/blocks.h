/* Memory that notices: blocks of exactly the size asked for, watched on both sides. */
#ifndef BPTT_TEST_BLOCKS_H
#define BPTT_TEST_BLOCKS_H

#include <stddef.h>

/* A block of `bytes` bytes, each 0xff: a NaN in either dtype. It ends where a page begins that nobody may touch, so
 * that reading or writing past the end stops the program; before it lie guard bytes. Under the address sanitizer it
 * is a heap block instead, which the sanitizer watches. Aligned to 8 bytes only if `bytes` is a multiple of 8. */
void *block_new(size_t bytes);

/* Number of blocks whose guard bytes have changed. */
int blocks_damaged(void);

void blocks_free(void); /* all of them */

#endif
