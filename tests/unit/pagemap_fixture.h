/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_TESTS_PAGEMAP_FIXTURE_H
#define PINDAX_TESTS_PAGEMAP_FIXTURE_H

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>
#include "pagemap/pagemap.h"
#include "pagemap/pmem.h"
#include "pagemap/waitq.h"

/*
 * For test_pagemap.c and test_pageref.c: a table, a map that pins are taken in,
 * and an owner that notes what it is told. With DEV_PAGEMAP_OPS=n the map is
 * of the one type that attaches there, and is told nothing.
 */
#define RUN PMEM_HUGE_PAGES
#define TABLE_PAGES (16 * RUN)
#define DEADLINE_S 20 /* no test waits longer for anything */

#ifdef PINDAX_NO_PAGEMAP_OPS
#define OPS_BUILT 0
#define PINNABLE PAGEMAP_FS_DAX_LIMITED
#else
#define OPS_BUILT 1
#define PINNABLE PAGEMAP_FS_DAX
#endif

/* What an owner is told. */
struct owner {
	_Atomic uint64_t calls;
	_Atomic uint64_t pages;
	_Atomic uint64_t first, nr; /* of the last call */
	_Atomic int released;
	struct waitq *wq;
};

static inline void page_free(void *arg, uint64_t first, uint64_t nr)
{
	struct owner *o = arg;

	atomic_store(&o->first, first);
	atomic_store(&o->nr, nr);
	atomic_fetch_add(&o->pages, nr);
	atomic_fetch_add(&o->calls, 1);
	if (o->wq)
		waitq_wake(o->wq, first, nr);
}

static inline void release(void *arg)
{
	struct owner *o = arg;

	atomic_fetch_add(&o->released, 1);
}

static const struct dev_pagemap_ops ops = {page_free, release};

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ULL + ts.tv_nsec;
}

/* One table with one map of all but its first and last half run. */
struct fixture {
	struct pagemap_table *t;
	struct dev_pagemap *map;
	struct owner owner;
};

#define MAP_FIRST (RUN / 2)
#define MAP_NR (TABLE_PAGES - RUN)

static inline struct dev_pagemap_desc desc_of(enum pagemap_type type,
					      uint64_t first, uint64_t nr,
					      struct owner *owner)
{
	return (struct dev_pagemap_desc){type, first, nr, &ops, owner};
}

static inline int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct dev_pagemap_desc d;

	if (!f || pagemap_table_create(TABLE_PAGES, &f->t))
		return -1;
	d = desc_of(PINNABLE, MAP_FIRST, MAP_NR, &f->owner);
	if (dev_pagemap_attach(f->t, &d, &f->map))
		return -1;
	*state = f;
	return 0;
}

/* Every test ends with all pages idle and the ops balanced. */
static inline int teardown(void **state)
{
	struct fixture *f = *state;
	int rc = dev_pagemap_detach(f->map);

	if (rc || f->owner.released != 1 || dev_pagemap_ops_users())
		return -1;
	pagemap_table_destroy(f->t);
	free(f);
	return 0;
}

static inline void expect_freed(struct owner *o, uint64_t first, uint64_t nr)
{
	if (!OPS_BUILT)
		return;
	assert_int_equal(o->first, first);
	assert_int_equal(o->nr, nr);
}

static inline uint64_t freed(const struct owner *o)
{
	return OPS_BUILT ? o->pages : 0;
}

static _Atomic bool toggling;

static inline void *toggle_ops(void *arg)
{
	(void)arg;
	while (atomic_load(&toggling)) {
		dev_pagemap_put_ops();
		sched_yield();
		(void)dev_pagemap_get_ops(); /* cannot fail in this build */
	}
	return NULL;
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

#endif
