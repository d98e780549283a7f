/* See blocks.h. Mappings are kept and used again: one is made only when a larger block is asked for. */
#define _GNU_SOURCE
#include "blocks.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SANITIZED 1
#endif
#endif

enum { MOST_BLOCKS = 512, GUARD_BYTES = 256, GUARD = 0xa5 };

static struct {
  char *map;       /* mapping of `mapped` usable bytes and a page that may not be touched */
  size_t mapped;
  char *start;     /* of the block; GUARD_BYTES bytes before it are guarded */
} blocks[MOST_BLOCKS];
static int used;

static void fail(const char *what) {
  perror(what);
  exit(2);
}

static void map_block(int n, size_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), wanted = (bytes + GUARD_BYTES + page - 1) / page * page;
  if (wanted <= blocks[n].mapped)
    return;
  if (blocks[n].map)
    munmap(blocks[n].map, blocks[n].mapped + page);
  blocks[n].map = mmap(NULL, wanted + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (blocks[n].map == MAP_FAILED || mprotect(blocks[n].map + wanted, page, PROT_NONE))
    fail("mapping a test block");
  blocks[n].mapped = wanted;
}

void *block_new(size_t bytes) {
  if (used == MOST_BLOCKS) {
    fprintf(stderr, "more than %d blocks at a time\n", MOST_BLOCKS);
    exit(2);
  }
#ifdef SANITIZED
  blocks[used].start = malloc(bytes ? bytes : 1);
  if (!blocks[used].start)
    fail("allocating a test block");
#else
  map_block(used, bytes);
  blocks[used].start = blocks[used].map + blocks[used].mapped - bytes;
  memset(blocks[used].start - GUARD_BYTES, GUARD, GUARD_BYTES);
#endif
  memset(blocks[used].start, 0xff, bytes);
  return blocks[used++].start;
}

int blocks_damaged(void) {
  int damaged = 0;
#ifndef SANITIZED
  for (int n = 0; n < used; n++) {
    int changed = 0;
    for (int byte = 1; byte <= GUARD_BYTES; byte++)
      changed |= (unsigned char)blocks[n].start[-byte] != GUARD;
    damaged += changed;
  }
#endif
  return damaged;
}

void blocks_free(void) {
#ifdef SANITIZED
  for (int n = 0; n < used; n++)
    free(blocks[n].start);
#endif
  used = 0;
}
