/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_TESTS_UNIT_CLIENT_FAKE_H
#define PINDAX_TESTS_UNIT_CLIENT_FAKE_H

/*
 * A daemon made of a table, for the tests of the client library: it answers the
 * ioctls from an array of pool pages. A test seals pages, moves them, delays
 * answers, recalls and waits for acknowledges. setup() attaches one file to it.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "client/internal.h"

#define FILE_PAGES 1024UL
#define POOL_PAGES (2 * FILE_PAGES)
#define NO_PAGE UINT64_MAX
#define PG ((uint64_t)PDX_PAGE)
#define DEADLINE_S 20

struct fake {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	int pool_fd;
	uint8_t *pool;
	uint64_t page[FILE_PAGES]; /* pool page or NO_PAGE */
	bool sealed[FILE_PAGES];
	bool leased[FILE_PAGES];
	unsigned int pins[FILE_PAGES];
	uint64_t nr_pages; /* the file's size */
	uint64_t next_free;
	uint64_t epoch, acked, ticket, last_pin;
	struct pindax_event ev[PINDAX_EVENTS_MAX];
	unsigned int nr_ev;
	unsigned int nr_faults, nr_queued;
	bool dead;
	bool hold_answers;	/* FAULT answers wait */
	unsigned int nr_held;	/* and this many do */
	unsigned int pin_again; /* so many PINs over page 8 get EAGAIN */
};

static struct fake *fake;
static struct pindax_file *file;

/* --- the daemon --- */

static inline void notify(void)
{
	uint64_t one = 1;

	assert_int_equal(write(file->daemon.fd, &one, sizeof(one)),
			 sizeof(one));
}

static inline uint64_t alloc_page(void)
{
	uint64_t p = fake->next_free++ % POOL_PAGES;

	memset(fake->pool + p * PG, 0, PG);
	return p;
}

static inline void grant_one(struct pindax_ioc_fault *f, uint64_t page)
{
	struct pindax_grant *g = &f->grant[f->nr++];

	*g = (struct pindax_grant){.file_off = page * PG, .len = PG};
	if (page >= fake->nr_pages) {
		g->kind = PINDAX_GRANT_EOF;
	} else if (fake->page[page] == NO_PAGE) {
		g->kind = PINDAX_GRANT_ZERO;
	} else {
		g->kind = PINDAX_GRANT_BLOCKS;
		g->pool_off = fake->page[page] * PG;
	}
	fake->leased[page] = true;
	f->next_off = (page + 1) * PG;
}

static inline int fake_fault(struct pindax_ioc_fault *f)
{
	uint64_t first = f->off / PG, nr = f->len / PG;

	fake->nr_faults++;
	for (uint64_t p = first; p < first + nr; p++)
		if (fake->sealed[p]) {
			f->status = PINDAX_FAULT_QUEUED;
			f->ticket = ++fake->ticket;
			fake->nr_queued++;
			return 0;
		}
	f->status = PINDAX_FAULT_GRANTED;
	f->epoch = fake->epoch;
	f->nr = 0;
	for (uint64_t p = first; p < first + nr && f->nr < PINDAX_FAULT_MAX;
	     p++) {
		if ((f->flags & PINDAX_FAULT_WRITE) && p < fake->nr_pages &&
		    fake->page[p] == NO_PAGE)
			fake->page[p] = alloc_page();
		grant_one(f, p);
	}
	return 0;
}

static inline int fake_extents(struct pindax_ioc_extents *x)
{
	x->nr = 0;
	for (uint64_t p = x->off / PG;
	     p < fake->nr_pages && x->nr < PINDAX_EXTENTS_MAX; p++)
		if (fake->page[p] != NO_PAGE)
			x->ext[x->nr++] = (struct pindax_extent_info){
				.file_off = p * PG,
				.pool_off = fake->page[p] * PG,
				.len = PG};
	return 0;
}

static inline int fake_events(struct pindax_ioc_events *e)
{
	uint64_t count;

	(void)!read(file->daemon.fd, &count, sizeof(count));
	e->nr = fake->nr_ev;
	e->more = 0;
	memcpy(e->ev, fake->ev, fake->nr_ev * sizeof(e->ev[0]));
	fake->nr_ev = 0;
	return 0;
}

static inline int fake_pin(struct pindax_ioc_pin *p)
{
	uint64_t first = p->off / PG, nr = p->len / PG;

	if (first <= 8 && first + nr > 8 && fake->pin_again) {
		fake->pin_again--;
		/* Nothing may be held while this one is waited for. */
		if (!(p->flags & PINDAX_PIN_NOWAIT))
			for (unsigned int i = 0; i < FILE_PAGES; i++)
				assert_int_equal(fake->pins[i], 0);
		else
			return -EAGAIN;
	}
	for (uint64_t i = first; i < first + nr; i++) {
		if (i >= fake->nr_pages)
			return -ENXIO;
		if (fake->page[i] == NO_PAGE)
			return -ENODATA;
	}
	for (uint64_t i = first; i < first + nr; i++)
		fake->pins[i]++;
	p->pin = (++fake->last_pin << 32) | first << 16 | nr;
	return 0;
}

static inline void fake_unpin(const struct pindax_ioc_unpin *u)
{
	uint64_t first = u->pin >> 16 & 0xffff, nr = u->pin & 0xffff;

	for (uint64_t i = first; i < first + nr; i++) {
		assert_true(fake->pins[i]);
		fake->pins[i]--;
	}
}

static inline int dispatch(unsigned long cmd, void *arg)
{
	struct pindax_ioc_range *r = arg;

	switch (cmd) {
	case PINDAX_IOC_FAULT:
		return fake_fault(arg);
	case PINDAX_IOC_EXTENTS:
		return fake_extents(arg);
	case PINDAX_IOC_EVENTS:
		return fake_events(arg);
	case PINDAX_IOC_ACK:
		fake->acked = ((struct pindax_ioc_ack *)arg)->epoch;
		return 0;
	case PINDAX_IOC_PIN:
		return fake_pin(arg);
	case PINDAX_IOC_UNPIN:
		fake_unpin(arg);
		return 0;
	case PINDAX_IOC_UNMAP:
		memset(&fake->leased[r->off / PG], 0, r->len / PG);
		return 0;
	case PINDAX_IOC_MAPPER_DROP:
		return 0;
	default:
		return -ENOTTY;
	}
}

static inline int fake_call(const struct pdx_daemon *d, unsigned long cmd,
			    void *arg)
{
	int err;

	(void)d;
	pthread_mutex_lock(&fake->lock);
	err = fake->dead ? -ENOTCONN : dispatch(cmd, arg);
	pthread_cond_broadcast(&fake->changed);
	while (cmd == PINDAX_IOC_FAULT && fake->hold_answers) {
		fake->nr_held++;
		pthread_cond_broadcast(&fake->changed);
		pthread_cond_wait(&fake->changed, &fake->lock);
		fake->nr_held--;
	}
	pthread_mutex_unlock(&fake->lock);
	return err;
}

/* Lock held: wait until the fake's state is so, or fail. */
static inline void wait_changed(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	assert_int_equal(
		pthread_cond_timedwait(&fake->changed, &fake->lock, &until), 0);
}

static inline uint64_t post_recall(uint64_t first, uint64_t nr)
{
	struct pindax_event *ev = &fake->ev[fake->nr_ev++];

	*ev = (struct pindax_event){.kind = PINDAX_EVENT_RECALL,
				    .off = first * PG,
				    .len = nr * PG,
				    .epoch = ++fake->epoch};
	notify();
	return fake->epoch;
}

/* Recall and wait for the acknowledge; lock held. */
static inline void recall_locked(uint64_t first, uint64_t nr)
{
	uint64_t epoch = post_recall(first, nr);

	while (fake->acked < epoch)
		wait_changed();
}

static inline void recall(uint64_t first, uint64_t nr)
{
	pthread_mutex_lock(&fake->lock);
	recall_locked(first, nr);
	pthread_mutex_unlock(&fake->lock);
}

/* Give the page another block with the same bytes, as after a recall. */
static inline void move_page(uint64_t page)
{
	pthread_mutex_lock(&fake->lock);
	fake->sealed[page] = true;
	recall_locked(page, 1);
	fake->page[page] = alloc_page();
	fake->sealed[page] = false;
	pthread_mutex_unlock(&fake->lock);
}

static inline void retry(uint64_t ticket)
{
	fake->ev[fake->nr_ev++] = (struct pindax_event){
		.kind = PINDAX_EVENT_RETRY, .ticket = ticket};
	notify();
}

/*
 * What a test sees of the table goes through the lock (recursive), as the
 * order that a page fault makes is not one that ThreadSanitizer sees.
 */
static inline uint64_t page_of(uint64_t page)
{
	uint64_t p;

	pthread_mutex_lock(&fake->lock);
	p = fake->page[page];
	pthread_mutex_unlock(&fake->lock);
	return p;
}

static inline void set_page(uint64_t page, uint64_t pool_page)
{
	pthread_mutex_lock(&fake->lock);
	fake->page[page] = pool_page;
	pthread_mutex_unlock(&fake->lock);
}

static inline uint8_t *pool_at(uint64_t page)
{
	return fake->pool + page_of(page) * PG;
}

/* FAULTs since the last call. */
static inline unsigned int count_faults(void)
{
	unsigned int n;

	pthread_mutex_lock(&fake->lock);
	n = fake->nr_faults;
	fake->nr_faults = 0;
	pthread_mutex_unlock(&fake->lock);
	return n;
}

static inline bool leased(uint64_t page)
{
	bool is;

	pthread_mutex_lock(&fake->lock);
	is = fake->leased[page];
	pthread_mutex_unlock(&fake->lock);
	return is;
}

static inline unsigned int pins_of(uint64_t page)
{
	unsigned int n;

	pthread_mutex_lock(&fake->lock);
	n = fake->pins[page];
	pthread_mutex_unlock(&fake->lock);
	return n;
}

/* --- set up --- */

static inline int setup(void **state)
{
	struct pdx_file_config cfg = {
		.daemon = {.call = fake_call, .events = EPOLLIN},
		.mapper = 1,
		.writable = true,
		.type = PINDAX_TYPE_FS_DAX,
		.reason = ""};
	pthread_mutexattr_t attr;

	(void)state;
	fake = calloc(1, sizeof(*fake));
	assert_non_null(fake);
	pthread_mutexattr_init(&attr);
	pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&fake->lock, &attr);
	pthread_mutexattr_destroy(&attr);
	pthread_cond_init(&fake->changed, NULL);
	fake->pool_fd = memfd_create("pool", MFD_CLOEXEC);
	assert_int_equal(ftruncate(fake->pool_fd, POOL_PAGES * PG), 0);
	fake->pool = mmap(NULL, POOL_PAGES * PG, PROT_READ | PROT_WRITE,
			  MAP_SHARED, fake->pool_fd, 0);
	assert_ptr_not_equal(fake->pool, MAP_FAILED);
	for (uint64_t i = 0; i < FILE_PAGES; i++)
		fake->page[i] = NO_PAGE;
	fake->nr_pages = FILE_PAGES;
	assert_int_equal(pdx_start(), 0);
	cfg.daemon.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(pdx_pool_adopt(dup(fake->pool_fd), false, &cfg.pool),
			 0);
	assert_int_equal(pdx_file_create(&cfg, &file), 0);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	pindax_close(file);
	for (unsigned int i = 0; i < FILE_PAGES; i++)
		assert_int_equal(pins_of(i), 0);
	assert_int_equal(pdx.nr_runs, 0);
	(void)munmap(fake->pool, POOL_PAGES * PG);
	(void)close(fake->pool_fd);
	pthread_cond_destroy(&fake->changed);
	pthread_mutex_destroy(&fake->lock);
	free(fake);
	return 0;
}

static inline struct pindax_map *map_all(uint64_t nr, int prot,
					 unsigned int flags)
{
	struct pindax_map *m;

	assert_int_equal(pindax_map(file, 0, nr * PG, prot, flags, &m), 0);
	return m;
}

static inline struct pindax_map *map_rw(uint64_t nr)
{
	return map_all(nr, PROT_READ | PROT_WRITE, 0);
}

static inline volatile uint8_t *at(const struct pindax_map *m, uint64_t page)
{
	return (uint8_t *)pindax_map_addr(m) + page * PG;
}

static sigjmp_buf bus_env;

static inline void on_bus(int sig)
{
	siglongjmp(bus_env, sig);
}

/* Touch: the byte, or the negative signal that it raised. */
static inline int touch(volatile uint8_t *p)
{
	struct sigaction sa = {.sa_handler = on_bus}, old_bus, old_segv;
	volatile int ret;
	int sig;

	sigaction(SIGBUS, &sa, &old_bus);
	sigaction(SIGSEGV, &sa, &old_segv);
	sig = sigsetjmp(bus_env, 1);
	if (sig)
		ret = -sig;
	else
		ret = *p;
	sigaction(SIGBUS, &old_bus, NULL);
	sigaction(SIGSEGV, &old_segv, NULL);
	return ret;
}

struct toucher {
	pthread_t thread;
	volatile uint8_t *p;
	atomic_int got; /* -1: not yet */
};

static inline void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	atomic_store(&t->got, *t->p);
	return NULL;
}

static inline void toucher_start(struct toucher *t, volatile uint8_t *p)
{
	pthread_attr_t attr;

	t->p = p;
	atomic_store(&t->got, -1);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, (size_t)256 << 10);
	assert_int_equal(pthread_create(&t->thread, &attr, toucher_main, t), 0);
	pthread_attr_destroy(&attr);
}

static inline int toucher_join(struct toucher *t)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	assert_int_equal(pthread_timedjoin_np(t->thread, NULL, &until), 0);
	return t->got;
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

#endif
