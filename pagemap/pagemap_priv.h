/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_PAGEMAP_PRIV_H
#define PINDAX_PAGEMAP_PAGEMAP_PRIV_H

#include <pthread.h>
#include <stdatomic.h>
#include "pagemap/itree.h"
#include "pagemap/pagemap.h"
#include "pagemap/pmem.h"

/*
 * Shared by pagemap.c (maps) and pageref.c (references).
 *
 * A run is a 2 MiB aligned stretch of PMEM_HUGE_PAGES pages of the POOL. Its
 * state is one word, and zero is that of a fresh run: compound, no references.
 *   compound: RUN_REFS references to the whole run. With RUN_TAILS its pages'
 *     words hold PAGE_TAIL, without it they are zero and were never used.
 *   RUN_SPLIT: every page counts for itself in its own word.
 * A run that the map holds in part only is split from attach on.
 */
#define RUN_SPLIT 0x80000000U
#define RUN_TAILS 0x40000000U
#define RUN_REFS 0x3fffffffU

/*
 * A page's word counts the references beyond the owner's, so that zeroed
 * memory says idle and a map costs only the memory that it touches.
 */
#define PAGE_FROZEN (-1)
#define PAGE_TAIL INT32_MIN /* the run's state has the count */

/*
 * dev_pagemap.slow says why page_put() may not simply decrement: this bit, that
 * page_free is to be called; below it, how many runs are compound and
 * referenced.
 */
#define SLOW_OPS 0x80000000U

#define RUN_LOCKS 64 /* runs share them by number */

struct dev_pagemap {
	/* Read by every put. Changed by atomic operations only. */
	_Atomic uint32_t slow;
	_Atomic int32_t *words;	  /* one a page */
	_Atomic uint32_t *runs;	  /* one a run; changed under its run lock */
	uint64_t first, nr_pages; /* constant, as are all without a guard */
	enum pagemap_type type;
	const struct dev_pagemap_ops *ops;
	void *owner;

	struct itree_node node; /* guarded by table->lock */
	struct pagemap_table *table;
	_Atomic uint32_t lookups; /* raised only under table->lock */
	struct dev_pagemap *next; /* guarded by ops_lock */

	pthread_mutex_t run_locks[RUN_LOCKS];
};

/* Does any page of the map have a reference? */
static inline bool dev_pagemap_busy(struct dev_pagemap *map)
{
	uint64_t page, nr;

	return pages_first_busy(map, map->first, map->nr_pages, &page, &nr);
}

#endif
