/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Leases, pins and breaks against a fake inode: an array of pool pages under a
 * rwlock. Everything but deadlines and deaths happens in the calling thread, so
 * most tests see a whole life of a break step by step. The last one lets
 * threads pin, fault, truncate and cancel at random and checks the invariant
 * that matters: a commit never runs while a page of its range is held.
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

static void op_lock(struct layout *l, bool excl)
{
	(void)l;
	if (excl)
		pthread_rwlock_wrlock(&W->rwlock);
	else
		pthread_rwlock_rdlock(&W->rwlock);
}

static void op_unlock(struct layout *l, bool excl)
{
	(void)l;
	(void)excl;
	pthread_rwlock_unlock(&W->rwlock);
}

static int op_walk(struct layout *l, uint64_t first, uint64_t nr,
		   int (*fn)(uint64_t, uint64_t, uint64_t, void *), void *arg)
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

static uint64_t op_size_pages(struct layout *l)
{
	(void)l;
	return W->size_pages;
}

static int op_fill(struct layout *l, uint64_t first, uint64_t nr)
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

static int op_mark_mapped(struct layout *l, uint64_t page, uint64_t nr)
{
	(void)l;
	assert_true(page >= FIRST_PAGE && page + nr <= POOL_PAGES);
	return 0;
}

static void op_touch(struct layout *l)
{
	(void)l;
	W->touched++;
}

static void op_get(struct layout *l)
{
	(void)l;
	W->refs++;
}

static void op_put(struct layout *l)
{
	(void)l;
	W->refs--;
}

static void op_notify(struct layouts *ls, uint64_t fh)
{
	(void)ls;
	(void)fh;
	W->notified++;
}

static uint64_t op_ino(const struct layout *l)
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

static void page_free(void *owner, uint64_t first, uint64_t nr)
{
	waitq_wake(((struct world *)owner)->waitq, first, nr);
}

static const struct dev_pagemap_ops map_ops = {.page_free = page_free};

struct params {
	enum pinned_policy policy;
	uint64_t pin_timeout_ms, recall_timeout_ms;
	enum pagemap_type type;
};

static void world_up(struct params p)
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

static void world_down(void)
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

static struct mapper *new_mapper_of(pid_t pid, uint64_t fh, bool writable)
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

static struct mapper *new_mapper(uint64_t fh)
{
	return new_mapper_of(getpid(), fh, true);
}

static struct pindax_ioc_fault F;

static int fault(struct mapper *m, uint64_t first, uint64_t nr, uint32_t flags)
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

static int drop_pages(struct break_req *b)
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

static void test_done(struct break_req *b, int err)
{
	struct test_break *t = (struct test_break *)(void *)b;

	t->err = err;
	atomic_store(&t->done, 1);
}

static void start(struct test_break *t, enum break_op op, uint64_t first,
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

static void wait_for(atomic_int *flag)
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

static void pin_done(struct pin_req *r, int err)
{
	struct test_pin *t = (struct test_pin *)(void *)r;

	t->err = err;
	atomic_store(&t->done, 1);
}

static void start_pin_tid(struct test_pin *t, struct mapper *m, uint64_t first,
			  uint64_t nr, unsigned int flags, pid_t tid)
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

static void start_pin(struct test_pin *t, struct mapper *m, uint64_t first,
		      uint64_t nr)
{
	start_pin_tid(t, m, first, nr, 0, 1000);
}

static uint64_t must_pin(struct mapper *m, uint64_t first, uint64_t nr)
{
	struct test_pin t;

	start_pin_tid(&t, m, first, nr, 0, 2000);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	return t.r.pin;
}

static uint64_t take_recall(struct mapper *m)
{
	static struct pindax_ioc_events e;

	assert_int_equal(mapper_events(m, &e), 0);
	assert_int_equal(e.nr, 1);
	assert_int_equal(e.ev[0].kind, PINDAX_EVENT_RECALL);
	return e.ev[0].epoch;
}

#define NORMAL ((struct params){0})

static void truncate_waits_for_pin(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 10, 4);
	start(&t, BREAK_TRUNCATE, 12, LAYOUT_TO_END);
	assert_false(t.done);
	assert_int_equal(W->size_pages, 32);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(W->size_pages, 12);
	mapper_put(m);
	world_down();
}

/*
 * Three busy pages. When the first goes idle the break looks for the next; that
 * one goes idle after it was seen busy and before it is waited for. To wait for
 * it all the same, because "something" is busy still, is a wait that nobody
 * ends.
 */
static void a_page_that_went_idle_too_early_is_not_waited_for(void **state)
{
	struct test_break t;

	(void)state;
	world_up(NORMAL);
	assert_int_equal(pages_try_get(W->map, W->page[4], 1), 0);
	assert_int_equal(pages_try_get(W->map, W->page[6], 1), 0);
	assert_int_equal(pages_try_get(W->map, W->page[8], 1), 0);
	start(&t, BREAK_PUNCH, 0, 16);
	assert_false(t.done);
	W->drop_after_walk = W->page[6];
	pages_put(W->map, W->page[4], 1);
	/* the worker has looked, and waits for the third */
	while (page_count(W->map, W->page[6]) > 1)
		sched_yield();
	op_lock(&W->l, true);
	op_unlock(&W->l, true);
	pages_put(W->map, W->page[8], 1);
	wait_for(&t.done);
	assert_int_equal(t.err, 0);
	world_down();
}

static void pins_outside_the_range_do_not_delay(void **state)
{
	struct test_break t;
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	must_pin(m, 0, 8);
	must_pin(m, 20, 4);
	start(&t, BREAK_PUNCH, 8, 12);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void leases_are_recalled_and_faults_queue(void **state)
{
	static struct pindax_ioc_events e;
	struct test_break t;
	struct mapper *m;
	uint64_t epoch, ticket;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 16, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(F.next_off, 16 * 4096);
	start(&t, BREAK_PUNCH, 4, 4);
	assert_false(t.done);
	assert_true(layouts_fh_events(W->ls, 1));
	assert_int_equal(W->notified, 1);
	/* outside: granted; straddling: up to the edge; inside: queued */
	assert_int_equal(fault(m, 10, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(fault(m, 2, 4, 0), 0);
	assert_int_equal(F.next_off, 4 * 4096);
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_QUEUED);
	ticket = F.ticket;
	epoch = take_recall(m);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, epoch), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(mapper_events(m, &e), 0);
	assert_int_equal(e.nr, 1);
	assert_int_equal(e.ev[0].kind, PINDAX_EVENT_RETRY);
	assert_int_equal(e.ev[0].ticket, ticket);
	assert_false(layouts_fh_events(W->ls, 1));
	/* now a hole: a reader sees zeros, a writer gets a block */
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(F.grant[0].kind, PINDAX_GRANT_ZERO);
	mapper_put(m);
	world_down();
}

static void a_hint_saves_the_recall_and_binds_nobody(void **state)
{
	static struct pindax_ioc_events e;
	struct test_break t;
	struct mapper *m;
	uint64_t pin, hint;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 16, PINDAX_FAULT_WRITE), 0);
	pin = must_pin(m, 4, 4);
	start(&t, BREAK_PUNCH, 4, 4);
	assert_int_equal(mapper_events(m, &e), 0);
	assert_int_equal(e.nr, 1);
	assert_int_equal(e.ev[0].kind, PINDAX_EVENT_HINT);
	/* faults are granted while it drains, before and after the answer */
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(mapper_ack(m, e.ev[0].epoch), 0);
	assert_false(t.done);
	assert_int_equal(fault(m, 4, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(mapper_unmap(m, 4 * 4096, 2 * 4096), 0);
	/* nothing of the range is mapped: nobody to wait for */
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);

	/* not answered: recalled as ever, and a late answer is ignored */
	assert_int_equal(fault(m, 16, 4, 0), 0);
	pin = must_pin(m, 16, 1);
	start(&t, BREAK_PUNCH, 16, 4);
	assert_int_equal(mapper_events(m, &e), 0);
	hint = e.ev[0].epoch;
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	assert_int_equal(mapper_ack(m, hint), 0);
	mapper_put(m);
	world_down();
}

static void acks_of_no_recall_are_ignored(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t epoch;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 8, 0), 0);
	start(&t, BREAK_PUNCH, 0, 8);
	/* before it was taken, and with a wrong number */
	assert_int_equal(mapper_ack(m, 1), 0);
	epoch = take_recall(m);
	assert_int_equal(mapper_ack(m, epoch + 1), 0);
	assert_int_equal(mapper_ack(m, epoch - 1), 0);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, epoch), 0);
	assert_true(t.done);
	assert_int_equal(mapper_ack(m, epoch), 0);
	mapper_put(m);
	world_down();
}

static void new_pins_queue_behind_a_break(void **state)
{
	struct test_break t;
	struct test_pin p, inside, nowait, deadlock;
	struct mapper *m, *other;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	other = new_mapper(2);
	pin = must_pin(m, 8, 4);
	start(&t, BREAK_PUNCH, 8, 8);
	start_pin(&p, other, 12, 2);
	assert_false(p.done);
	/* inside a pin of the same mapper: at once */
	start_pin(&inside, m, 9, 2);
	assert_true(inside.done);
	assert_int_equal(inside.err, 0);
	start_pin_tid(&nowait, other, 12, 1, PINDAX_PIN_NOWAIT, 1000);
	assert_true(nowait.done);
	assert_int_equal(nowait.err, -EAGAIN);
	/* thread 2000 holds what the break waits for */
	start_pin_tid(&deadlock, m, 14, 1, 0, 2000);
	assert_true(deadlock.done);
	assert_int_equal(deadlock.err, -EDEADLK);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_false(t.done);
	assert_int_equal(mapper_unpin(m, inside.r.pin), 0);
	assert_true(t.done);
	/* the queued pin finds a hole now */
	assert_true(p.done);
	assert_int_equal(p.err, -ENODATA);
	mapper_put(m);
	mapper_put(other);
	world_down();
}

static void a_cancelled_break_changes_nothing(void **state)
{
	struct test_break t;
	struct test_pin p;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 8, 4);
	start(&t, BREAK_TRUNCATE, 0, LAYOUT_TO_END);
	start_pin(&p, m, 20, 1);
	assert_false(p.done);
	layouts_cancel(W->ls, t.b.id, -EINTR);
	assert_true(t.done);
	assert_int_equal(t.err, -EINTR);
	assert_int_equal(W->commits, 0);
	assert_int_equal(W->size_pages, 32);
	/* what queued behind it goes on; a second cancel finds nothing */
	assert_true(p.done);
	assert_int_equal(p.err, 0);
	layouts_cancel(W->ls, t.b.id, -EINTR);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_int_equal(mapper_unpin(m, pin), -ENOENT);
	start(&t, BREAK_PUNCH, 8, 4);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void a_cancelled_pin_holds_nothing(void **state)
{
	struct test_break t;
	struct test_pin p;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 8, 4);
	start(&t, BREAK_TRUNCATE, 0, LAYOUT_TO_END);
	start_pin(&p, m, 20, 1);
	layouts_cancel(W->ls, p.r.id, -EINTR);
	assert_true(p.done);
	assert_int_equal(p.err, -EINTR);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void overlapping_breaks_are_served_in_order(void **state)
{
	struct test_break first, second, apart;
	struct mapper *m;
	uint64_t a, b;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	a = must_pin(m, 4, 1);
	b = must_pin(m, 8, 1);
	start(&first, BREAK_PUNCH, 0, 6);
	start(&second, BREAK_PUNCH, 4, 8);
	start(&apart, BREAK_PUNCH, 20, 4);
	assert_true(apart.done);
	assert_int_equal(mapper_unpin(m, b), 0);
	assert_false(second.done);
	assert_int_equal(mapper_unpin(m, a), 0);
	assert_true(first.done);
	assert_true(second.done);
	assert_int_equal(W->commits, 3);
	mapper_put(m);
	world_down();
}

static void pinned_fail_is_etxtbsy_for_pins_only(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up((struct params){.policy = PINNED_FAIL});
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 8, 0), 0);
	pin = must_pin(m, 0, 4);
	start(&t, BREAK_PUNCH, 0, 8);
	assert_true(t.done);
	assert_int_equal(t.err, -ETXTBSY);
	assert_int_equal(mapper_unpin(m, pin), 0);
	start(&t, BREAK_PUNCH, 0, 8);
	assert_false(t.done); /* a lease is recalled, not refused */
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void timeouts_end_a_wait(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(
		(struct params){.pin_timeout_ms = 20, .recall_timeout_ms = 20});
	m = new_mapper(1);
	pin = must_pin(m, 0, 4);
	start(&t, BREAK_PUNCH, 0, 8);
	assert_false(t.done);
	wait_for(&t.done);
	assert_int_equal(t.err, -ETIMEDOUT);
	assert_int_equal(mapper_unpin(m, pin), 0);
	/* a lease holder that never answers */
	assert_int_equal(fault(m, 0, 8, 0), 0);
	start(&t, BREAK_PUNCH, 0, 8);
	wait_for(&t.done);
	assert_int_equal(t.err, -ETIMEDOUT);
	assert_int_equal(W->commits, 0);
	mapper_put(m);
	world_down();
}

static void unsafe_does_not_wait_but_recalls(void **state)
{
	struct mapper *m;
	struct test_break t;
	uint64_t pin;

	(void)state;
	world_up((struct params){.policy = PINNED_UNSAFE});
	m = new_mapper(1);
	pin = must_pin(m, 0, 1);
	assert_int_equal(fault(m, 8, 1, 0), 0);
	memset(&t, 0, sizeof(t));
	/* commit NULL would reserve; a commit that does not look at pages */
	start(&t, BREAK_PUNCH, 8, 1);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	assert_int_equal(mapper_unpin(m, pin), 0);
	mapper_put(m);
	world_down();
}

static void a_fill_recalls_zeros_and_goes_past_a_drain(void **state)
{
	struct mapper *reader, *writer;
	struct test_break drain;
	uint64_t pin, epoch;

	(void)state;
	world_up(NORMAL);
	reader = new_mapper(1);
	writer = new_mapper(2);
	W->page[5] = HOLE;
	pin = must_pin(writer, 6, 1);
	start(&drain, BREAK_TRUNCATE, 0, LAYOUT_TO_END);
	assert_int_equal(fault(reader, 5, 1, 0), 0);
	assert_int_equal(F.grant[0].kind, PINDAX_GRANT_ZERO);
	assert_int_equal(fault(writer, 5, 1, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.status, PINDAX_FAULT_QUEUED);
	epoch = take_recall(reader);
	assert_int_equal(W->page[5], HOLE);
	assert_int_equal(mapper_ack(reader, epoch), 0);
	assert_int_not_equal(W->page[5], HOLE);
	assert_true(layouts_fh_events(W->ls, 2));
	assert_int_equal(fault(writer, 5, 1, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.grant[0].kind, PINDAX_GRANT_BLOCKS);
	assert_false(drain.done);
	layouts_cancel(W->ls, drain.b.id, -EINTR);
	assert_int_equal(mapper_unpin(writer, pin), 0);
	mapper_put(reader);
	mapper_put(writer);
	world_down();
}

static void eof_is_granted_and_recalled_when_the_file_grows(void **state)
{
	struct mapper *m;
	struct test_break t;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 30, 4, 0), 0);
	assert_int_equal(F.nr, 3);
	assert_int_equal(F.grant[2].kind, PINDAX_GRANT_EOF);
	assert_int_equal(F.grant[2].file_off, 32 * 4096);
	assert_true(layout_needs_fill(&W->l, 32, 1));
	assert_false(layout_needs_fill(&W->l, 0, 32));
	start(&t, BREAK_FILL, 32, 4);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	mapper_put(m);
	world_down();
}

static void a_full_pool_fails_the_fault(void **state)
{
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	W->page[5] = HOLE;
	W->fill_err = -ENOSPC;
	assert_int_equal(fault(m, 5, 1, PINDAX_FAULT_WRITE), -ENOSPC);
	/* and with a lease to recall first: the second try meets the error */
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(fault(m, 5, 1, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.status, PINDAX_FAULT_QUEUED);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_int_equal(fault(m, 5, 1, PINDAX_FAULT_WRITE), -ENOSPC);
	mapper_put(m);
	world_down();
}

static void reserve(struct test_break *t, pid_t tgid, uint64_t first,
		    uint64_t nr)
{
	memset(t, 0, sizeof(*t));
	t->b = (struct break_req){
		.id = layouts_new_id(W->ls),
		.layout = &W->l,
		.op = BREAK_TRUNCATE,
		.first = first,
		.nr = nr,
		.tgid = tgid,
		.fh = 9,
		.done = test_done,
	};
	layout_break(&t->b);
}

static void a_reservation_is_adopted_by_its_process(void **state)
{
	struct test_break r, t;
	struct test_pin p;
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	reserve(&r, 1, 4, LAYOUT_TO_END);
	assert_true(r.done);
	assert_int_equal(r.err, 0);
	assert_int_equal(W->commits, 0);
	start_pin(&p, m, 8, 1);
	assert_false(p.done);
	start(&t, BREAK_TRUNCATE, 4, LAYOUT_TO_END);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(W->size_pages, 4);
	assert_true(p.done);
	assert_int_equal(p.err, -ENXIO);
	mapper_put(m);
	world_down();
}

static void a_reservation_ends_with_time_or_its_description(void **state)
{
	struct test_break r, t;
	struct test_pin p;
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	reserve(&r, 1, 4, 4);
	start_pin(&p, m, 5, 1);
	assert_false(p.done);
	wait_for(&p.done); /* PINDAX_RESERVE_MS */
	assert_int_equal(p.err, 0);
	assert_int_equal(mapper_unpin(m, p.r.pin), 0);
	reserve(&r, 1, 4, 4);
	start_pin(&p, m, 5, 1);
	assert_false(p.done);
	layouts_release_fh(W->ls, 9);
	assert_true(p.done);
	assert_int_equal(mapper_unpin(m, p.r.pin), 0);
	/* another process waits for it; the own, if it needs more, does not */
	reserve(&r, 7, 4, 4);
	start(&t, BREAK_PUNCH, 4, 4);
	assert_false(t.done);
	layouts_release_fh(W->ls, 9);
	assert_true(t.done);
	reserve(&r, 1, 4, 4);
	start(&t, BREAK_PUNCH, 4, 8);
	assert_true(t.done);
	mapper_put(m);
	world_down();
}

static void a_dead_process_holds_nothing(void **state)
{
	struct test_break t, u;
	struct mapper *m;
	pid_t pid;

	(void)state;
	world_up(NORMAL);
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	m = new_mapper_of(pid, 1, true);
	must_pin(m, 4, 4);
	assert_int_equal(fault(m, 20, 4, 0), 0);
	start(&t, BREAK_PUNCH, 0, 8);  /* waits for the pin */
	start(&u, BREAK_PUNCH, 20, 4); /* waits for an acknowledge */
	assert_false(t.done || u.done);
	kill(pid, SIGKILL);
	wait_for(&t.done);
	wait_for(&u.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(u.err, 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	mapper_put(m);
	world_down();
}

static void a_released_description_of_a_living_process_is_no_proof(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 4, 4);
	(void)pin;
	start(&t, BREAK_PUNCH, 0, 8);
	/* our process does not map the fake pool: it is found out and dropped
	 */
	layouts_release_fh(W->ls, 1);
	wait_for(&t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void what_pins_and_faults_refuse(void **state)
{
	struct mapper_who who = {.tgid = getpid(), .fh = 3, .writable = true};
	struct mapper *m, *ro, *raw;
	struct test_pin p;
	uint64_t id, off;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	ro = new_mapper_of(getpid(), 2, false);
	assert_int_equal(mapper_create(&W->l, &who, &id, &off), 0);
	raw = mapper_get(W->ls, id, 3);
	assert_null(mapper_get(W->ls, id, 4));
	assert_int_equal(mapper_prove(raw, 1, 1, 0), -EACCES);
	assert_int_equal(fault(raw, 0, 1, 0), -EACCES);
	assert_int_equal(fault(ro, 0, 1, PINDAX_FAULT_WRITE), -EACCES);
	assert_int_equal(fault(m, 0, 0, 0), -EINVAL);
	assert_int_equal(fault(m, UINT64_MAX >> 12, 1, 0), -EINVAL);
	assert_int_equal(fault(m, 0, 1, 8), -EINVAL);
	start_pin(&p, ro, 0, 1);
	assert_int_equal(p.err, -EACCES);
	start_pin(&p, m, 31, 2);
	assert_int_equal(p.err, -ENXIO);
	start_pin(&p, m, UINT64_MAX - 1, 4);
	assert_int_equal(p.err, -EINVAL);
	W->page[3] = HOLE;
	start_pin(&p, m, 0, 8);
	assert_int_equal(p.err, -ENODATA);
	assert_int_equal(mapper_unmap(m, 1, 4096), -EINVAL);
	mapper_put(m);
	mapper_put(ro);
	mapper_put(raw);
	world_down();

	world_up((struct params){.type = PAGEMAP_FS_DAX_LIMITED});
	m = new_mapper(1);
	start_pin(&p, m, 0, 1);
	assert_int_equal(p.err, -EOPNOTSUPP);
	mapper_put(m);
	world_down();
}

static void ledger_pages_run_out_and_come_back(void **state)
{
	struct mapper_who who = {.tgid = getpid(), .fh = 1};
	struct mapper *m[16];
	uint64_t id, off;
	int i;

	(void)state;
	world_up(NORMAL);
	for (i = 0; i < 16; i++)
		m[i] = new_mapper((uint64_t)i);
	assert_int_equal(mapper_create(&W->l, &who, &id, &off), -ENOSPC);
	mapper_drop(m[3]);
	assert_int_equal(mapper_create(&W->l, &who, &id, &off), 0);
	for (i = 0; i < 16; i++)
		mapper_put(m[i]);
	world_down();
}

static void the_report_names_holders_and_whom_a_waiter_waits_for(void **state)
{
	struct pindax_report_row *rows;
	struct pindax_ioc_stat st = {0};
	struct test_break t;
	struct mapper *m;
	uint32_t nr;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 8, 0), 0);
	must_pin(m, 2, 2);
	start(&t, BREAK_TRUNCATE, 1, LAYOUT_TO_END);
	assert_int_equal(layouts_report(W->ls, NULL, &rows, &nr), 0);
	assert_int_equal(nr, 3);
	assert_int_equal(rows[0].kind, PINDAX_HELD_LEASE);
	assert_int_equal(rows[0].len, 8 * 4096);
	assert_int_equal(rows[1].kind, PINDAX_HELD_PIN);
	assert_int_equal(rows[1].pid, getpid());
	assert_int_equal(rows[2].kind, PINDAX_WAIT_TRUNCATE);
	assert_true(rows[2].len == UINT64_MAX);
	assert_int_equal(rows[2].nr_for, 1);
	assert_int_equal(rows[2].for_pid[0], getpid());
	free(rows);
	layouts_stat(W->ls, &st);
	assert_int_equal(st.pins, 1);
	assert_int_equal(st.pinned_pages, 2);
	assert_int_equal(st.waiters, 1);
	/* shutting down ends what waits */
	layouts_shutdown(W->ls);
	assert_true(t.done);
	assert_int_equal(t.err, -ENODEV);
	mapper_put(m);
	world_down();
}

/* --- random threads --- */

#define ROUNDS 300

struct pinner {
	struct mapper *m;
	unsigned int seed;
	pid_t tid;
};

static void *random_pinner(void *arg)
{
	struct pinner *pn = arg;
	struct pindax_ioc_fault *f = malloc(sizeof(*f));
	int i;

	for (i = 0; i < ROUNDS; i++) {
		uint64_t first = (uint64_t)rand_r(&pn->seed) % 30;
		struct test_pin t;

		*f = (struct pindax_ioc_fault){.off = first * 4096,
					       .len = 4096};
		must(mapper_fault(pn->m, f) == 0);
		start_pin_tid(&t, pn->m, first,
			      1 + (uint64_t)rand_r(&pn->seed) % 2, 0, pn->tid);
		wait_for(&t.done);
		must(t.err == 0);
		sched_yield();
		must(mapper_unpin(pn->m, t.r.pin) == 0);
	}
	free(f);
	return NULL;
}

static int refill(struct break_req *b)
{
	/* the blocks go and others come: what is held must not */
	drop_pages(b);
	return op_fill(b->layout, b->first, b->nr);
}

static void *random_breaker(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		struct test_break t = {0};

		t.b.id = layouts_new_id(W->ls);
		t.b.layout = &W->l;
		t.b.op = BREAK_PUNCH;
		t.b.first = (uint64_t)rand_r(&seed) % 28;
		t.b.nr = 1 + (uint64_t)rand_r(&seed) % 4;
		t.b.commit = refill;
		t.b.done = test_done;
		layout_break(&t.b);
		if (rand_r(&seed) % 4 == 0)
			layouts_cancel(W->ls, t.b.id, -EINTR);
		wait_for(&t.done);
		must(t.err == 0 || t.err == -EINTR);
	}
	return NULL;
}

struct acker {
	struct pinner *pn;
	atomic_int stop;
};

static void *acknowledger(void *arg)
{
	struct pindax_ioc_events *e = malloc(sizeof(*e));
	struct acker *a = arg;
	uint32_t i, k;

	while (!atomic_load(&a->stop)) {
		for (k = 0; k < 2; k++) {
			mapper_events(a->pn[k].m, e);
			for (i = 0; i < e->nr; i++)
				if (e->ev[i].kind == PINDAX_EVENT_RECALL)
					mapper_ack(a->pn[k].m, e->ev[i].epoch);
		}
		sched_yield();
	}
	free(e);
	return NULL;
}

static void no_commit_runs_over_a_held_page(void **state)
{
	struct pinner pn[2] = {{.seed = 1, .tid = 1}, {.seed = 2, .tid = 2}};
	struct acker ack = {.pn = pn};
	pthread_t p[2], b[2], a;
	intptr_t i;

	(void)state;
	world_up(NORMAL);
	for (i = 0; i < 2; i++)
		pn[i].m = new_mapper((uint64_t)i);
	pthread_create(&a, NULL, acknowledger, &ack);
	for (i = 0; i < 2; i++) {
		pthread_create(&p[i], NULL, random_pinner, &pn[i]);
		pthread_create(&b[i], NULL, random_breaker, (void *)(i + 11));
	}
	for (i = 0; i < 2; i++) {
		pthread_join(p[i], NULL);
		pthread_join(b[i], NULL);
	}
	atomic_store(&ack.stop, 1);
	pthread_join(a, NULL);
	assert_true(W->commits > 0);
	for (i = 0; i < 2; i++)
		mapper_put(pn[i].m);
	world_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(truncate_waits_for_pin),
		cmocka_unit_test(
			a_page_that_went_idle_too_early_is_not_waited_for),
		cmocka_unit_test(pins_outside_the_range_do_not_delay),
		cmocka_unit_test(leases_are_recalled_and_faults_queue),
		cmocka_unit_test(a_hint_saves_the_recall_and_binds_nobody),
		cmocka_unit_test(acks_of_no_recall_are_ignored),
		cmocka_unit_test(new_pins_queue_behind_a_break),
		cmocka_unit_test(a_cancelled_break_changes_nothing),
		cmocka_unit_test(a_cancelled_pin_holds_nothing),
		cmocka_unit_test(overlapping_breaks_are_served_in_order),
		cmocka_unit_test(pinned_fail_is_etxtbsy_for_pins_only),
		cmocka_unit_test(timeouts_end_a_wait),
		cmocka_unit_test(unsafe_does_not_wait_but_recalls),
		cmocka_unit_test(a_fill_recalls_zeros_and_goes_past_a_drain),
		cmocka_unit_test(
			eof_is_granted_and_recalled_when_the_file_grows),
		cmocka_unit_test(a_full_pool_fails_the_fault),
		cmocka_unit_test(a_reservation_is_adopted_by_its_process),
		cmocka_unit_test(
			a_reservation_ends_with_time_or_its_description),
		cmocka_unit_test(a_dead_process_holds_nothing),
		cmocka_unit_test(
			a_released_description_of_a_living_process_is_no_proof),
		cmocka_unit_test(what_pins_and_faults_refuse),
		cmocka_unit_test(ledger_pages_run_out_and_come_back),
		cmocka_unit_test(
			the_report_names_holders_and_whom_a_waiter_waits_for),
		cmocka_unit_test(no_commit_runs_over_a_held_page),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
