/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_TESTS_LAYOUT_FIXTURE_H
#define PINDAX_TESTS_LAYOUT_FIXTURE_H

/*
 * A layout whose owner is an array: pages of a file, their size and an inode
 * lock, with a pagemap and a wait queue under it, and what tests start and wait
 * for with a deadline. No media, no daemon.
 *
 * Pins need the pagemap's callbacks: a build without them skips these tests
 * (layout_run).
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "fs/layout/layout.h"
#include "fs/ledger.h"

/* cmocka's asserts jump: in a thread of our own only abort() is safe. */
#define must(x)                                                                \
	do {                                                                   \
		if (!(x)) {                                                    \
			fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__,     \
				#x);                                           \
			abort();                                               \
		}                                                              \
	} while (0)

#define POOL_PAGES 4096
#define FIRST_PAGE 512 /* of the map in the pool */
#define FILE_PAGES 64
#define HOLE 0

struct world {
	struct pagemap_table *table;
	struct dev_pagemap *map;
	struct waitq *waitq;
	struct layouts *ls;
	struct pindax_ledger *ledgers;
	struct layout l;
	pthread_rwlock_t rwlock;
	uint64_t page[FILE_PAGES]; /* pool page or HOLE */
	atomic_uint_fast64_t size_pages;
	uint64_t next_free;
	atomic_int refs, notified, touched, commits;
	int fill_err;
	/* a reference on this page goes once */
	atomic_uint_fast64_t drop_after_walk;
};
static struct world *W;

static inline void op_lock(struct layout *l, bool excl)
{
	(void)l;
	if (excl)
		pthread_rwlock_wrlock(&W->rwlock);
	else
		pthread_rwlock_rdlock(&W->rwlock);
}

static inline void op_unlock(struct layout *l, bool excl)
{
	(void)l;
	(void)excl;
	pthread_rwlock_unlock(&W->rwlock);
}

static inline int op_walk(struct layout *l, uint64_t first, uint64_t nr,
			  int (*fn)(uint64_t, uint64_t, uint64_t, void *),
			  void *arg)
{
	uint64_t i, end = nr > FILE_PAGES ? FILE_PAGES : first + nr;
	int r = 0;

	(void)l;
	for (i = first; i < end && i < FILE_PAGES && !r; i++)
		if (W->page[i] != HOLE)
			r = fn(i, W->page[i], 1, arg);
	if (W->drop_after_walk) {
		pages_put(W->map, W->drop_after_walk, 1);
		W->drop_after_walk = 0;
	}
	return r;
}

static inline uint64_t op_size_pages(struct layout *l)
{
	(void)l;
	return W->size_pages;
}

static inline int op_fill(struct layout *l, uint64_t first, uint64_t nr)
{
	uint64_t i;

	(void)l;
	if (W->fill_err)
		return W->fill_err;
	for (i = first; i < first + nr; i++)
		if (W->page[i] == HOLE)
			W->page[i] = W->next_free++;
	return 0;
}

static inline int op_mark_mapped(struct layout *l, uint64_t page, uint64_t nr)
{
	(void)l;
	assert_true(page >= FIRST_PAGE && page + nr <= POOL_PAGES);
	return 0;
}

static inline void op_touch(struct layout *l)
{
	(void)l;
	W->touched++;
}

static inline void op_get(struct layout *l)
{
	(void)l;
	W->refs++;
}

static inline void op_put(struct layout *l)
{
	(void)l;
	W->refs--;
}

static inline void op_notify(struct layouts *ls, uint64_t fh)
{
	(void)ls;
	(void)fh;
	W->notified++;
}

static inline uint64_t op_ino(const struct layout *l)
{
	(void)l;
	return 42;
}

static const struct layout_ops fake_ops = {
	.lock = op_lock,
	.unlock = op_unlock,
	.walk = op_walk,
	.size_pages = op_size_pages,
	.fill = op_fill,
	.mark_mapped = op_mark_mapped,
	.touch = op_touch,
	.get = op_get,
	.put = op_put,
	.notify = op_notify,
	.ino = op_ino,
};

static inline void page_free(void *owner, uint64_t first, uint64_t nr)
{
	waitq_wake(((struct world *)owner)->waitq, first, nr);
}

static const struct dev_pagemap_ops map_ops = {.page_free = page_free};

struct params {
	enum pinned_policy policy;
	uint64_t pin_timeout_ms, recall_timeout_ms;
	enum pagemap_type type;
};

static inline void world_up(struct params p)
{
	struct dev_pagemap_desc d = {
		.type = p.type ? p.type : PAGEMAP_FS_DAX,
		.first = FIRST_PAGE,
		.nr_pages = POOL_PAGES - FIRST_PAGE,
		.ops = &map_ops,
	};
	struct layouts_config cfg = {
		.ops = &fake_ops,
		.nr_ledgers = 16,
		.pool_dev = 1,
		.pool_ino = 987654321987,
		.policy = p.policy,
		.pin_timeout_ms = p.pin_timeout_ms,
		.recall_timeout_ms = p.recall_timeout_ms,
	};
	int i;

	W = calloc(1, sizeof(*W));
	d.owner = W;
	assert_int_equal(pagemap_table_create(POOL_PAGES, &W->table), 0);
	assert_int_equal(dev_pagemap_attach(W->table, &d, &W->map), 0);
	assert_int_equal(waitq_create(&W->waitq), 0);
	pthread_rwlock_init(&W->rwlock, NULL);
	W->ledgers = aligned_alloc(4096, 16 * sizeof(struct pindax_ledger));
	cfg.map = W->map;
	cfg.waitq = W->waitq;
	cfg.ledger_base = W->ledgers;
	cfg.ledger_off = 1 << 20;
	assert_int_equal(layouts_create(&cfg, &W->ls), 0);
	layout_init(&W->l, W->ls);
	W->size_pages = 32;
	for (i = 0; i < 32; i++)
		W->page[i] = 600 + i;
	W->next_free = 1000;
}

static inline void world_down(void)
{
	layouts_shutdown(W->ls);
	layouts_destroy(W->ls);
	assert_int_equal(W->refs, 0);
	layout_fini(&W->l);
	waitq_destroy(W->waitq);
	assert_int_equal(dev_pagemap_detach(W->map), 0);
	pagemap_table_destroy(W->table);
	pthread_rwlock_destroy(&W->rwlock);
	free(W->ledgers);
	free(W);
	W = NULL;
}

static inline struct mapper *new_mapper_of(pid_t pid, uint64_t fh,
					   bool writable)
{
	struct mapper_who who = {.tgid = pid, .fh = fh, .writable = writable};
	struct pindax_ledger *page;
	uint64_t id, off;
	struct mapper *m;

	assert_int_equal(mapper_create(&W->l, &who, &id, &off), 0);
	page = W->ledgers + (off - (1 << 20)) / 4096;
	m = mapper_get(W->ls, id, fh);
	assert_non_null(m);
	page->answer = 77;
	assert_int_equal(mapper_prove(m, page->challenge, 77, 0), 0);
	return m;
}

static inline struct mapper *new_mapper(uint64_t fh)
{
	return new_mapper_of(getpid(), fh, true);
}

static struct pindax_ioc_fault F;

static inline int fault(struct mapper *m, uint64_t first, uint64_t nr,
			uint32_t flags)
{
	memset(&F, 0, sizeof(F));
	F.off = first * 4096;
	F.len = nr * 4096;
	F.flags = flags;
	return mapper_fault(m, &F);
}

struct test_break {
	struct break_req b;
	atomic_int done; /* 1: done was called */
	int err;
	struct world *w;
};

static inline int drop_pages(struct break_req *b)
{
	uint64_t i,
		last = b->nr == LAYOUT_TO_END ? FILE_PAGES : b->first + b->nr;

	for (i = b->first; i < last && i < FILE_PAGES; i++) {
		if (W->page[i] != HOLE)
			must(page_idle(W->map, W->page[i]));
		W->page[i] = HOLE;
	}
	if (b->op == BREAK_TRUNCATE && W->size_pages > b->first)
		W->size_pages = b->first;
	W->commits++;
	return 0;
}

static inline void test_done(struct break_req *b, int err)
{
	struct test_break *t = (struct test_break *)(void *)b;

	t->err = err;
	atomic_store(&t->done, 1);
}

static inline void start(struct test_break *t, enum break_op op, uint64_t first,
			 uint64_t nr)
{
	memset(t, 0, sizeof(*t));
	t->b.id = layouts_new_id(W->ls);
	t->b.layout = &W->l;
	t->b.op = op;
	t->b.first = first;
	t->b.nr = nr;
	t->b.tgid = 1;
	t->b.commit = drop_pages;
	t->b.done = test_done;
	layout_break(&t->b);
}

static inline void wait_for(atomic_int *flag)
{
	int i;

	for (i = 0; i < 20000 && !atomic_load(flag); i++)
		poll(NULL, 0, 1);
	assert_true(atomic_load(flag));
}

struct test_pin {
	struct pin_req r;
	atomic_int done;
	int err;
};

static inline void pin_done(struct pin_req *r, int err)
{
	struct test_pin *t = (struct test_pin *)(void *)r;

	t->err = err;
	atomic_store(&t->done, 1);
}

static inline void start_pin_tid(struct test_pin *t, struct mapper *m,
				 uint64_t first, uint64_t nr,
				 unsigned int flags, pid_t tid)
{
	memset(t, 0, sizeof(*t));
	t->r.id = layouts_new_id(W->ls);
	t->r.mapper = m;
	t->r.first = first;
	t->r.nr = nr;
	t->r.flags = flags;
	t->r.tid = tid;
	t->r.done = pin_done;
	mapper_pin(&t->r);
}

static inline void start_pin(struct test_pin *t, struct mapper *m,
			     uint64_t first, uint64_t nr)
{
	start_pin_tid(t, m, first, nr, 0, 1000);
}

static inline uint64_t must_pin(struct mapper *m, uint64_t first, uint64_t nr)
{
	struct test_pin t;

	start_pin_tid(&t, m, first, nr, 0, 2000);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	return t.r.pin;
}

static inline uint64_t take_recall(struct mapper *m)
{
	static struct pindax_ioc_events e;

	assert_int_equal(mapper_events(m, &e), 0);
	assert_int_equal(e.nr, 1);
	assert_int_equal(e.ev[0].kind, PINDAX_EVENT_RECALL);
	return e.ev[0].epoch;
}

#define NORMAL ((struct params){0})

/* The exit status of a test program. */
static inline int layout_run(const struct CMUnitTest *tests, size_t nr)
{
#ifdef PINDAX_NO_PAGEMAP_OPS
	(void)tests;
	(void)nr;
	puts("pins need the callbacks that this build lacks");
	return 77;
#else
	return _cmocka_run_group_tests("layout", tests, nr, NULL, NULL);
#endif
}

#endif
