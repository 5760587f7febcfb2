// SPDX-License-Identifier: BSD-3-Clause
/*
 * The pagemaps of a pool: which ranges have one, and who wants callbacks.
 *
 * Owns: attach and detach, the look-up by page, and the count of users of the
 * page_free callbacks. Not: the references themselves (pageref.c).
 * Invariant: maps of one table are disjoint. Every attached map whose type has
 * callbacks is one user of the ops, and the SLOW_OPS bit of each such map says
 * whether there are users; after a failed attach everything is as before and
 * its release action has run.
 * Locks: table->lock (readers look up, attach and detach write), then nothing.
 * ops_lock guards users and the list of managed maps; a leaf. Neither is held
 * while a callback runs. See docs/LOCKING.md.
 * Read: docs/ARCHITECTURE.md, "The device".
 */
#include "pagemap/pagemap_priv.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct pagemap_table {
	uint64_t nr_pages;
	pthread_rwlock_t lock;
	struct itree maps; /* guarded by lock */
};

static pthread_mutex_t ops_lock = PTHREAD_MUTEX_INITIALIZER;
static int ops_users;			 /* guarded by ops_lock */
static struct dev_pagemap *managed_maps; /* guarded by ops_lock */

/* --- users of the callbacks --- */

#ifdef PINDAX_NO_PAGEMAP_OPS

int dev_pagemap_get_ops(void)
{
	return -EOPNOTSUPP;
}

void dev_pagemap_put_ops(void)
{
	/* Nobody can have got them: there is no count to drop. */
}

#else

static void switch_locked(struct dev_pagemap *map, bool on)
{
	if (on)
		atomic_fetch_or(&map->slow, SLOW_OPS);
	else
		atomic_fetch_and(&map->slow, ~SLOW_OPS);
}

static void switch_all_locked(bool on)
{
	struct dev_pagemap *map;

	for (map = managed_maps; map; map = map->next)
		switch_locked(map, on);
}

int dev_pagemap_get_ops(void)
{
	pthread_mutex_lock(&ops_lock);
	if (ops_users++ == 0)
		switch_all_locked(true);
	pthread_mutex_unlock(&ops_lock);
	return 0;
}

void dev_pagemap_put_ops(void)
{
	pthread_mutex_lock(&ops_lock);
	assert(ops_users > 0);
	if (--ops_users == 0)
		switch_all_locked(false);
	pthread_mutex_unlock(&ops_lock);
}

#endif

int dev_pagemap_ops_users(void)
{
	int users;

	pthread_mutex_lock(&ops_lock);
	users = ops_users;
	pthread_mutex_unlock(&ops_lock);
	return users;
}

/* s390's dcssblk has no callbacks; all other types live by them. */
static bool type_is_managed(enum pagemap_type type)
{
	return type != PAGEMAP_FS_DAX_LIMITED;
}

/* The map becomes a user and hears of the other users' comings and goings. */
static int manage(struct dev_pagemap *map)
{
	int rc;

	if (!type_is_managed(map->type))
		return 0;
	rc = dev_pagemap_get_ops();
	if (rc)
		return rc;
	pthread_mutex_lock(&ops_lock);
	map->next = managed_maps;
	managed_maps = map;
	if (ops_users)
		atomic_fetch_or(&map->slow, SLOW_OPS);
	pthread_mutex_unlock(&ops_lock);
	return 0;
}

static void unmanage(struct dev_pagemap *map)
{
	struct dev_pagemap **link = &managed_maps;

	if (!type_is_managed(map->type))
		return;
	pthread_mutex_lock(&ops_lock);
	while (*link != map)
		link = &(*link)->next;
	*link = map->next;
	pthread_mutex_unlock(&ops_lock);
	dev_pagemap_put_ops();
}

/* --- the table --- */

int pagemap_table_create(uint64_t nr_pages, struct pagemap_table **ret_table)
{
	struct pagemap_table *t;

	if (!nr_pages)
		return -EINVAL;
	t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->nr_pages = nr_pages;
	pthread_rwlock_init(&t->lock, NULL);
	*ret_table = t;
	return 0;
}

void pagemap_table_destroy(struct pagemap_table *t)
{
	if (!t)
		return;
	assert(t->maps.nr == 0);
	pthread_rwlock_destroy(&t->lock);
	free(t);
}

static struct dev_pagemap *map_of(struct itree_node *n)
{
	return (void *)((char *)n - offsetof(struct dev_pagemap, node));
}

static int table_insert(struct pagemap_table *t, struct dev_pagemap *map)
{
	int rc = 0;

	pthread_rwlock_wrlock(&t->lock);
	if (itree_first(&t->maps, map->node.first, map->node.last))
		rc = -EBUSY;
	else
		itree_insert(&t->maps, &map->node);
	pthread_rwlock_unlock(&t->lock);
	return rc;
}

struct dev_pagemap *get_dev_pagemap(struct pagemap_table *t, uint64_t page)
{
	struct dev_pagemap *map = NULL;
	struct itree_node *n;

	pthread_rwlock_rdlock(&t->lock);
	n = itree_first(&t->maps, page, page);
	if (n) {
		map = map_of(n);
		atomic_fetch_add_explicit(&map->lookups, 1,
					  memory_order_relaxed);
	}
	pthread_rwlock_unlock(&t->lock);
	return map;
}

void put_dev_pagemap(struct dev_pagemap *map)
{
	uint32_t old;

	/* Release: what was done under the look-up comes before a detach. */
	old = atomic_fetch_sub_explicit(&map->lookups, 1, memory_order_release);
	assert(old > 0);
	(void)old; /* with NDEBUG */
}

/* --- attach and detach --- */

static uint64_t run_of(uint64_t page)
{
	return page / PMEM_HUGE_PAGES;
}

static uint64_t nr_runs(uint64_t first, uint64_t nr_pages)
{
	return run_of(first + nr_pages - 1) - run_of(first) + 1;
}

/* Zeroed address space; memory comes with the first touch of each page. */
static void *reserve(uint64_t nr, size_t size)
{
	size_t bytes;
	void *p;

	if (__builtin_mul_overflow(nr, size, &bytes))
		return NULL;
	p = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	/* A huge page for one count would undo the thrift; else: it costs. */
	(void)madvise(p, bytes, MADV_NOHUGEPAGE);
	return p;
}

static void map_free(struct dev_pagemap *map)
{
	int i;

	if (map->words)
		munmap(map->words, map->nr_pages * sizeof(*map->words));
	if (map->runs)
		munmap(map->runs,
		       nr_runs(map->first, map->nr_pages) * sizeof(*map->runs));
	for (i = 0; i < RUN_LOCKS; i++)
		pthread_mutex_destroy(&map->run_locks[i]);
	free(map);
}

static int map_alloc(struct pagemap_table *t,
		     const struct dev_pagemap_desc *desc,
		     struct dev_pagemap **ret_map)
{
	uint64_t end = desc->first + desc->nr_pages;
	uint64_t runs = nr_runs(desc->first, desc->nr_pages);
	struct dev_pagemap *map = calloc(1, sizeof(*map));
	int i;

	if (!map)
		return -ENOMEM;
	map->first = desc->first;
	map->nr_pages = desc->nr_pages;
	map->type = desc->type;
	map->ops = desc->ops;
	map->owner = desc->owner;
	map->table = t;
	map->node.first = desc->first;
	map->node.last = end - 1;
	for (i = 0; i < RUN_LOCKS; i++)
		pthread_mutex_init(&map->run_locks[i], NULL);
	map->words = reserve(desc->nr_pages, sizeof(*map->words));
	map->runs = reserve(runs, sizeof(*map->runs));
	if (!map->words || !map->runs) {
		map_free(map);
		return -ENOMEM;
	}
	if (desc->first % PMEM_HUGE_PAGES)
		map->runs[0] = RUN_SPLIT;
	if (end % PMEM_HUGE_PAGES)
		map->runs[runs - 1] = RUN_SPLIT;
	*ret_map = map;
	return 0;
}

static int desc_check(const struct pagemap_table *t,
		      const struct dev_pagemap_desc *desc)
{
	if (desc->type <= PAGEMAP_NONE || desc->type > PAGEMAP_PUBLIC)
		return -EINVAL;
	if (!desc->nr_pages || desc->first > UINT64_MAX - desc->nr_pages)
		return -EINVAL;
	if (type_is_managed(desc->type) &&
	    (!desc->ops || !desc->ops->page_free))
		return -EINVAL;
	if (desc->first + desc->nr_pages > t->nr_pages)
		return -ENXIO;
	return 0;
}

static void release(const struct dev_pagemap_ops *ops, void *owner)
{
	if (ops && ops->release)
		ops->release(owner);
}

int dev_pagemap_attach(struct pagemap_table *t,
		       const struct dev_pagemap_desc *desc,
		       struct dev_pagemap **ret_map)
{
	struct dev_pagemap *map;
	int rc;

	rc = desc_check(t, desc);
	if (rc)
		goto out_release;
	rc = map_alloc(t, desc, &map);
	if (rc)
		goto out_release;
	/* Before it can be found: no put may miss that there are callbacks. */
	rc = manage(map);
	if (rc)
		goto out_free;
	rc = table_insert(t, map);
	if (rc)
		goto out_unmanage;
	*ret_map = map;
	return 0;

out_unmanage:
	unmanage(map);
out_free:
	map_free(map);
out_release:
	release(desc->ops, desc->owner);
	return rc;
}

int dev_pagemap_detach(struct dev_pagemap *map)
{
	struct pagemap_table *t = map->table;
	bool busy;

	pthread_rwlock_wrlock(&t->lock);
	/* Acquire: partner of put_dev_pagemap(). */
	busy = atomic_load_explicit(&map->lookups, memory_order_acquire) ||
	       dev_pagemap_busy(map);
	if (!busy)
		itree_remove(&t->maps, &map->node);
	pthread_rwlock_unlock(&t->lock);
	if (busy)
		return -EBUSY;
	unmanage(map);
	assert(!(atomic_load(&map->slow) & ~SLOW_OPS));
	release(map->ops, map->owner);
	map_free(map);
	return 0;
}

enum pagemap_type dev_pagemap_type(const struct dev_pagemap *map)
{
	return map->type;
}
