/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_PAGEMAP_H
#define PINDAX_PAGEMAP_PAGEMAP_H

#include <stdbool.h>
#include <stdint.h>

/*
 * struct dev_pagemap: the table of page references of a range of one pool,
 * after the kernel's struct of the same name (include/linux/memremap.h, with
 * the MEMORY_DEVICE_FS_DAX and page-idle series of 2018).
 *
 * A page is PMEM_PAGE_SIZE of pool; pages are numbered from the start of the
 * POOL (not of the map). Reference count 1 is idle: nobody but the owner
 * refers to it. 0 is frozen: given up, page_try_get() fails.
 *
 * Every 2 MiB aligned run of pool that lies wholly in the map starts out as one
 * compound page. The first reference to a part of it splits it; it becomes
 * compound again by pages_make_compound(), or when all of it is idle and a
 * pages_try_get() takes the whole run.
 *
 * Everything here is thread-safe unless it says otherwise. A map must stay
 * attached while a call on it runs: who may race a detach holds the map by
 * get_dev_pagemap() over its last put.
 */
enum pagemap_type {
	PAGEMAP_NONE = 0,	/* refused: a zeroed descriptor has no type */
	PAGEMAP_FS_DAX = 1,	/* pins allowed; page_free wakes the waiters */
	PAGEMAP_FS_DAX_LIMITED, /* direct mapping, no pins (s390's dcssblk) */
	PAGEMAP_PRIVATE,	/* pages that users cannot map */
	PAGEMAP_PUBLIC,		/* the same, but clients may map them */
};

struct dev_pagemap;

struct dev_pagemap_ops {
	/*
	 * The step to idle (2 -> 1) of [first, first + nr). Called without any
	 * lock of the pagemap, in the thread that dropped the last reference,
	 * and only while the ops are switched on (dev_pagemap_get_ops()).
	 */
	void (*page_free)(void *owner, uint64_t first, uint64_t nr);
	/*
	 * Release action of attach; may be NULL. Called once: when the map was
	 * detached, or before an attach returns an error, whichever it is.
	 */
	void (*release)(void *owner);
};

struct dev_pagemap_desc {
	enum pagemap_type type;
	uint64_t first;	   /* page number in the pool */
	uint64_t nr_pages; /* > 0 */
	const struct dev_pagemap_ops *ops;
	void *owner;
};

/* The pagemaps of one pool: look-up by page, claims of disjoint ranges. */
struct pagemap_table;
int pagemap_table_create(uint64_t nr_pages, struct pagemap_table **ret_table);
void pagemap_table_destroy(struct pagemap_table *t); /* all maps detached */

/*
 * dev_pagemap_attach - make a map of desc's range; every page starts idle.
 * FS_DAX, PRIVATE and PUBLIC switch the ops on for themselves and off again at
 * detach or failure, so the count of users balances.
 * -EINVAL zeroed or unknown type, empty or overflowing range, PRIVATE/PUBLIC/
 * FS_DAX without page_free; -ENXIO beyond the table; -EBUSY overlaps a map that
 * is attached; -EOPNOTSUPP any type but FS_DAX_LIMITED in a build with
 * DEV_PAGEMAP_OPS=n; -ENOMEM.
 */
int dev_pagemap_attach(struct pagemap_table *t,
		       const struct dev_pagemap_desc *desc,
		       struct dev_pagemap **ret_map);
/* -EBUSY while pages have references or look-ups are out: nothing changes. */
int dev_pagemap_detach(struct dev_pagemap *map);
enum pagemap_type dev_pagemap_type(const struct dev_pagemap *map);

/* Look-up by page; holds the map against detach. NULL: no map there. */
struct dev_pagemap *get_dev_pagemap(struct pagemap_table *t, uint64_t page);
void put_dev_pagemap(struct dev_pagemap *map);

/*
 * dev_pagemap_get_ops/put_ops - users of the page_free callbacks, process-wide
 * (the kernel's devmap_managed_key). With none, and no reference to a compound
 * run of the map, page_put() is one relaxed load, one predicted branch and one
 * decrement.
 * get: -EOPNOTSUPP in a build with DEV_PAGEMAP_OPS=n.
 */
int dev_pagemap_get_ops(void);
void dev_pagemap_put_ops(void);
int dev_pagemap_ops_users(void);

/* References. The caller's page numbers must lie in @map (assert). */
void page_get(struct dev_pagemap *map, uint64_t page); /* holds one already */
bool page_try_get(struct dev_pagemap *map, uint64_t page); /* false: frozen */
void page_put(struct dev_pagemap *map, uint64_t page);
uint32_t page_count(struct dev_pagemap *map, uint64_t page);
static inline bool page_idle(struct dev_pagemap *map, uint64_t page)
{
	return page_count(map, page) <= 1;
}

/*
 * pages_try_get - one reference on every page of [first, first + nr), or none.
 * A 2 MiB aligned run that is compound and wholly inside costs one reference;
 * a run that is compound and only partly inside is split first.
 * -EAGAIN: a page is frozen; references taken until then are dropped again,
 * with callbacks, as others may have seen them.
 */
int pages_try_get(struct dev_pagemap *map, uint64_t first, uint64_t nr);
void pages_put(struct dev_pagemap *map, uint64_t first, uint64_t nr);

/* A batch of single pages, some of which may lie in no map (skipped). */
void pages_put_batch(struct pagemap_table *t, const uint64_t *pages,
		     unsigned int nr);

/*
 * pages_first_busy - the first page of [first, first + nr) whose count is
 * above 1, in *ret_page (and how many busy pages follow on without a gap, up
 * to the end of the range, in *ret_nr). false: all are idle.
 */
bool pages_first_busy(struct dev_pagemap *map, uint64_t first, uint64_t nr,
		      uint64_t *ret_page, uint64_t *ret_nr);

/*
 * 1 -> 0 on all of the range or on none (-EBUSY), and back. A freeze that fails
 * may have made a concurrent try_get of an idle page fail.
 */
int pages_freeze(struct dev_pagemap *map, uint64_t first, uint64_t nr);
void pages_unfreeze(struct dev_pagemap *map, uint64_t first, uint64_t nr);

/*
 * pages_make_compound - the 2 MiB run at @first (aligned) becomes one compound
 * page. -EBUSY when one of its pages is not idle; -EINVAL unaligned; 0 also
 * when it is compound already.
 */
int pages_make_compound(struct dev_pagemap *map, uint64_t first);
bool page_is_compound(struct dev_pagemap *map, uint64_t page);

#endif
