/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_ALLOC_H
#define PINDAX_FS_MEDIA_ALLOC_H

#include <stdbool.h>
#include <stdint.h>
#include "fs/media/tx.h"

/*
 * Block allocator. The bitmap on media says who owns a block; the state in
 * memory adds what is on its way: freed blocks pass through the free sink
 * (fence, idle) before anybody may have them again. Thread-safe.
 *
 * "unfenced": the block was mapped directly and may still be the target of a
 * late DMA. It must be fenced before it gets a new owner (protocol.md).
 */
#define ALLOC_META                                                             \
	1U		 /* fenced if need be even in unsafe mode; may use the \
			  * reserve so that deleting always works */
#define ALLOC_HUGE 2U	 /* start at a whole aligned 2 MiB run */
#define ALLOC_RESERVE 4U /* may use the reserve */
#define ALLOC_GROWTH                                                           \
	8U /* with META: what creating needs leaves the reserve                \
	    * to what deleting needs */

/*
 * alloc_blocks - up to @want contiguous blocks near @goal (0: anywhere).
 * Returns at least 1. The blocks come back by themselves when @tx aborts.
 * Content is undefined: the caller zeroes what it does not write.
 * -ENOSPC.
 */
int alloc_blocks(struct tx *tx, uint64_t goal, uint64_t want,
		 unsigned int flags, uint64_t *ret_block, uint64_t *ret_nr);
/* Owner gives the blocks up; to the sink after commit. */
int free_blocks(struct tx *tx, uint64_t block, uint64_t nr);

/*
 * The sink gets every freed range after its commit and calls alloc_release()
 * when the range may have a new owner. Default: fence what is unfenced, at
 * once, then release. Called without locks of this module.
 */
typedef void alloc_sink_fn(void *arg, uint64_t block, uint64_t nr);
void alloc_set_sink(struct media *m, alloc_sink_fn *fn, void *arg);
void alloc_release(struct media *m, uint64_t block, uint64_t nr);
/*
 * alloc_fence - fence every unfenced block of the range and mark it fenced.
 * -EBUSY, -ENOSPC as pmem_fence(): the range stays unfenced and must not be
 * released. Where the pool has no fence: zeroes and returns 0.
 */
int alloc_fence(struct media *m, uint64_t block, uint64_t nr);
/*
 * alloc_quarantine - what a sink does with a range that alloc_fence() refused:
 * the allocator keeps it out of use and tries the fence again at later
 * allocations and releases.
 */
void alloc_quarantine(struct media *m, uint64_t block, uint64_t nr);

/*
 * alloc_mark_mapped - these blocks are about to be mapped directly: they are
 * unfenced from now on. Persists the group's mark before it returns when this
 * is the group's first. -EIO.
 */
int alloc_mark_mapped(struct media *m, uint64_t block, uint64_t nr);

/* fence_ok: pmem_probe_fence() succeeded. unsafe: pinned=unsafe, data blocks
 * are handed out unfenced. Set once after media_open(). */
void alloc_set_fence(struct media *m, bool fence_ok, bool unsafe);

struct alloc_stat {
	uint64_t total;	   /* data area */
	uint64_t free;	   /* may be allocated now */
	uint64_t reserved; /* of free: for deleting */
	uint64_t pending;  /* freed: on the way through the sink, quarantined */
	uint64_t free_huge_runs;
	uint64_t fenced; /* blocks, since the mount */
};
void alloc_stat(struct media *m, struct alloc_stat *ret_st);
/* For fsck and tests: is the block allocated on media? */
bool alloc_on_media(struct media *m, uint64_t block);

#endif
