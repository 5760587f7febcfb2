/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The client's zap and refault engine against a daemon made of a table.
 *
 * Goal: whatever order grants, recalls, retries and touches come in, no store
 * goes to a page that was recalled, none is lost, and nobody sleeps for ever.
 * Method: the fake daemon answers the ioctls from an array of pool pages; a
 * test seals pages, moves them, delays answers and waits for acknowledges.
 * Tests that change limits of the process run in a child, which also shows that
 * a forked child can start anew.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "client/internal.h"

#define FILE_PAGES 1024U
#define POOL_PAGES (2 * FILE_PAGES)
#define NO_PAGE UINT64_MAX
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

static void notify(void)
{
	uint64_t one = 1;

	assert_int_equal(write(file->daemon.fd, &one, sizeof(one)),
			 sizeof(one));
}

static uint64_t alloc_page(void)
{
	uint64_t p = fake->next_free++ % POOL_PAGES;

	memset(fake->pool + p * PDX_PAGE, 0, PDX_PAGE);
	return p;
}

static void grant_one(struct pindax_ioc_fault *f, uint64_t page)
{
	struct pindax_grant *g = &f->grant[f->nr++];

	*g = (struct pindax_grant){.file_off = page * PDX_PAGE,
				   .len = PDX_PAGE};
	if (page >= fake->nr_pages) {
		g->kind = PINDAX_GRANT_EOF;
	} else if (fake->page[page] == NO_PAGE) {
		g->kind = PINDAX_GRANT_ZERO;
	} else {
		g->kind = PINDAX_GRANT_BLOCKS;
		g->pool_off = fake->page[page] * PDX_PAGE;
	}
	fake->leased[page] = true;
	f->next_off = (page + 1) * PDX_PAGE;
}

static int fake_fault(struct pindax_ioc_fault *f)
{
	uint64_t first = f->off / PDX_PAGE, nr = f->len / PDX_PAGE;

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

static int fake_extents(struct pindax_ioc_extents *x)
{
	x->nr = 0;
	for (uint64_t p = x->off / PDX_PAGE;
	     p < fake->nr_pages && x->nr < PINDAX_EXTENTS_MAX; p++)
		if (fake->page[p] != NO_PAGE)
			x->ext[x->nr++] = (struct pindax_extent_info){
				.file_off = p * PDX_PAGE,
				.pool_off = fake->page[p] * PDX_PAGE,
				.len = PDX_PAGE};
	return 0;
}

static int fake_events(struct pindax_ioc_events *e)
{
	uint64_t count;

	(void)!read(file->daemon.fd, &count, sizeof(count));
	e->nr = fake->nr_ev;
	e->more = 0;
	memcpy(e->ev, fake->ev, fake->nr_ev * sizeof(e->ev[0]));
	fake->nr_ev = 0;
	return 0;
}

static int fake_pin(struct pindax_ioc_pin *p)
{
	uint64_t first = p->off / PDX_PAGE, nr = p->len / PDX_PAGE;

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

static void fake_unpin(const struct pindax_ioc_unpin *u)
{
	uint64_t first = u->pin >> 16 & 0xffff, nr = u->pin & 0xffff;

	for (uint64_t i = first; i < first + nr; i++) {
		assert_true(fake->pins[i]);
		fake->pins[i]--;
	}
}

static int dispatch(unsigned long cmd, void *arg)
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
		memset(&fake->leased[r->off / PDX_PAGE], 0, r->len / PDX_PAGE);
		return 0;
	case PINDAX_IOC_MAPPER_DROP:
		return 0;
	default:
		return -ENOTTY;
	}
}

static int fake_call(const struct pdx_daemon *d, unsigned long cmd, void *arg)
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
static void wait_changed(void)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	assert_int_equal(
		pthread_cond_timedwait(&fake->changed, &fake->lock, &until), 0);
}

static uint64_t post_recall(uint64_t first, uint64_t nr)
{
	struct pindax_event *ev = &fake->ev[fake->nr_ev++];

	*ev = (struct pindax_event){.kind = PINDAX_EVENT_RECALL,
				    .off = first * PDX_PAGE,
				    .len = nr * PDX_PAGE,
				    .epoch = ++fake->epoch};
	notify();
	return fake->epoch;
}

/* Recall and wait for the acknowledge; lock held. */
static void recall_locked(uint64_t first, uint64_t nr)
{
	uint64_t epoch = post_recall(first, nr);

	while (fake->acked < epoch)
		wait_changed();
}

static void recall(uint64_t first, uint64_t nr)
{
	pthread_mutex_lock(&fake->lock);
	recall_locked(first, nr);
	pthread_mutex_unlock(&fake->lock);
}

/* Give the page another block with the same bytes, as after a recall. */
static void move_page(uint64_t page)
{
	pthread_mutex_lock(&fake->lock);
	fake->sealed[page] = true;
	recall_locked(page, 1);
	fake->page[page] = alloc_page();
	fake->sealed[page] = false;
	pthread_mutex_unlock(&fake->lock);
}

static void retry(uint64_t ticket)
{
	fake->ev[fake->nr_ev++] = (struct pindax_event){
		.kind = PINDAX_EVENT_RETRY, .ticket = ticket};
	notify();
}

/*
 * What a test sees of the table goes through the lock (recursive), as the
 * order that a page fault makes is not one that ThreadSanitizer sees.
 */
static uint64_t page_of(uint64_t page)
{
	uint64_t p;

	pthread_mutex_lock(&fake->lock);
	p = fake->page[page];
	pthread_mutex_unlock(&fake->lock);
	return p;
}

static void set_page(uint64_t page, uint64_t pool_page)
{
	pthread_mutex_lock(&fake->lock);
	fake->page[page] = pool_page;
	pthread_mutex_unlock(&fake->lock);
}

static uint8_t *pool_at(uint64_t page)
{
	return fake->pool + page_of(page) * PDX_PAGE;
}

/* FAULTs since the last call. */
static unsigned int count_faults(void)
{
	unsigned int n;

	pthread_mutex_lock(&fake->lock);
	n = fake->nr_faults;
	fake->nr_faults = 0;
	pthread_mutex_unlock(&fake->lock);
	return n;
}

static bool leased(uint64_t page)
{
	bool is;

	pthread_mutex_lock(&fake->lock);
	is = fake->leased[page];
	pthread_mutex_unlock(&fake->lock);
	return is;
}

static unsigned int pins_of(uint64_t page)
{
	unsigned int n;

	pthread_mutex_lock(&fake->lock);
	n = fake->pins[page];
	pthread_mutex_unlock(&fake->lock);
	return n;
}

/* --- set up --- */

static int setup(void **state)
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
	assert_int_equal(ftruncate(fake->pool_fd, POOL_PAGES * PDX_PAGE), 0);
	fake->pool = mmap(NULL, POOL_PAGES * PDX_PAGE, PROT_READ | PROT_WRITE,
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

static int teardown(void **state)
{
	(void)state;
	pindax_close(file);
	for (unsigned int i = 0; i < FILE_PAGES; i++)
		assert_int_equal(pins_of(i), 0);
	assert_int_equal(pdx.nr_runs, 0);
	(void)munmap(fake->pool, POOL_PAGES * PDX_PAGE);
	(void)close(fake->pool_fd);
	pthread_cond_destroy(&fake->changed);
	pthread_mutex_destroy(&fake->lock);
	free(fake);
	return 0;
}

static struct pindax_map *map_all(uint64_t nr, int prot, unsigned int flags)
{
	struct pindax_map *m;

	assert_int_equal(pindax_map(file, 0, nr * PDX_PAGE, prot, flags, &m),
			 0);
	return m;
}

static struct pindax_map *map_rw(uint64_t nr)
{
	return map_all(nr, PROT_READ | PROT_WRITE, 0);
}

static volatile uint8_t *at(const struct pindax_map *m, uint64_t page)
{
	return (uint8_t *)pindax_map_addr(m) + page * PDX_PAGE;
}

static sigjmp_buf bus_env;

static void on_bus(int sig)
{
	siglongjmp(bus_env, sig);
}

/* Touch: the byte, or the negative signal that it raised. */
static int touch(volatile uint8_t *p)
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

static void *toucher_main(void *arg)
{
	struct toucher *t = arg;

	atomic_store(&t->got, *t->p);
	return NULL;
}

static void toucher_start(struct toucher *t, volatile uint8_t *p)
{
	pthread_attr_t attr;

	t->p = p;
	atomic_store(&t->got, -1);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, (size_t)256 << 10);
	assert_int_equal(pthread_create(&t->thread, &attr, toucher_main, t), 0);
	pthread_attr_destroy(&attr);
}

static int toucher_join(struct toucher *t)
{
	struct timespec until;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	assert_int_equal(pthread_timedjoin_np(t->thread, NULL, &until), 0);
	return t->got;
}

/* --- tests --- */

static void map_shows_the_files_pages_and_allocates_holes(void **state)
{
	struct pindax_map *m;

	(void)state;
	set_page(0, 7);
	set_page(1, 3);
	fake->next_free = 20;
	memset(pool_at(0), 'a', PDX_PAGE);
	memset(pool_at(1), 'b', PDX_PAGE);
	m = map_rw(4);
	assert_int_equal(*at(m, 0), 'a');
	assert_int_equal(*at(m, 1), 'b');
	assert_int_not_equal(page_of(3), NO_PAGE);
	*at(m, 3) = 'c';
	assert_int_equal(*pool_at(3), 'c');
	assert_int_equal(page_of(4), NO_PAGE);
	assert_int_equal((uintptr_t)pindax_map_addr(m) % PDX_WINDOW, 0);
	assert_int_equal(pindax_unmap(m), 0);
	assert_false(leased(0));
}

static void recalled_page_is_not_touched_and_faults_in_again(void **state)
{
	struct pindax_map *m = map_rw(8);
	uint8_t *old;

	(void)state;
	*at(m, 2) = 'x';
	old = pool_at(2);
	move_page(2);
	*at(m, 2) = 'y';
	assert_int_equal(*old, 'x');
	assert_int_equal(*pool_at(2), 'y');
	recall(0, 0); /* to the end */
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(*at(m, i), *pool_at(i));
}

static void kernel_touch_of_recalled_page_faults_in_again(void **state)
{
	struct pindax_map *m = map_rw(8);
	int fd = open("/dev/zero", O_RDONLY);

	(void)state;
	if (pdx.user_only)
		skip();
	memset((void *)at(m, 0), 'x', 8 * (size_t)PDX_PAGE);
	recall(0, 8);
	assert_int_equal(read(fd, (void *)at(m, 2), 8192), 8192);
	assert_int_equal(*at(m, 3), 0);
	assert_int_equal(*at(m, 4), 'x');
	(void)close(fd);
}

static void stale_grant_is_asked_for_again(void **state)
{
	struct pindax_map *m = map_rw(4);
	struct toucher t;
	uint8_t *old;

	(void)state;
	recall(0, 4);
	pthread_mutex_lock(&fake->lock);
	fake->hold_answers = true;
	toucher_start(&t, at(m, 1));
	while (!fake->nr_held)
		wait_changed();
	/* The grant is on its way and names the old block. */
	old = pool_at(1);
	*old = 'o';
	recall_locked(0, 4);
	set_page(1, alloc_page());
	*pool_at(1) = 'n';
	fake->hold_answers = false;
	pthread_cond_broadcast(&fake->changed);
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t), 'n');
}

static void queued_fault_waits_for_its_retry_alone(void **state)
{
	struct pindax_map *m = map_rw(8);
	struct toucher t[2];

	(void)state;
	memset((void *)at(m, 0), 'q', 8 * (size_t)PDX_PAGE);
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 8);
	fake->sealed[5] = true;
	toucher_start(&t[0], at(m, 5));
	while (fake->nr_queued < 2) /* the window, then the page */
		wait_changed();
	pthread_mutex_unlock(&fake->lock);
	/* Its neighbours do not wait, though they share its window. */
	toucher_start(&t[1], at(m, 4));
	assert_int_equal(toucher_join(&t[1]), 'q');
	assert_int_equal(t[0].got, -1);
	pthread_mutex_lock(&fake->lock);
	fake->sealed[5] = false;
	for (uint64_t i = 1; i <= fake->ticket; i++)
		retry(i);
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t[0]), 'q');
}

static void retry_that_overtakes_its_answer_is_not_lost(void **state)
{
	struct pindax_map *m = map_rw(1);
	unsigned int before;
	struct toucher t;

	(void)state;
	*at(m, 0) = 'r';
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 1);
	fake->sealed[0] = true;
	fake->hold_answers = true;
	toucher_start(&t, at(m, 0));
	while (!fake->nr_held)
		wait_changed();
	fake->sealed[0] = false;
	before = atomic_load(&file->retries);
	retry(fake->ticket);
	while (atomic_load(&file->retries) == before) {
		pthread_mutex_unlock(&fake->lock);
		(void)sched_yield();
		pthread_mutex_lock(&fake->lock);
	}
	fake->hold_answers = false;
	pthread_cond_broadcast(&fake->changed);
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t), 'r');
}

static void touch_past_the_end_gets_sigbus_until_the_file_grows(void **state)
{
	struct pindax_map *m;

	(void)state;
	fake->nr_pages = 2;
	m = map_rw(4);
	assert_int_equal(touch(at(m, 1)), 0);
	assert_int_equal(touch(at(m, 2)), -SIGBUS);
	assert_int_equal(page_of(2), NO_PAGE);
	pthread_mutex_lock(&fake->lock);
	recall_locked(2, 2);
	fake->nr_pages = 3;
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(touch(at(m, 2)), 0);
	assert_int_equal(touch(at(m, 3)), -SIGBUS);
}

static void hole_in_read_only_map_reads_zeros_until_filled(void **state)
{
	struct pindax_map *m = map_all(64, PROT_READ, 0);

	(void)state;
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(*at(m, i), 0);
	assert_int_equal(page_of(5), NO_PAGE);
	pthread_mutex_lock(&fake->lock);
	recall_locked(5, 1);
	set_page(5, alloc_page());
	*pool_at(5) = 'f';
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(*at(m, 5), 'f');
	assert_int_equal(*at(m, 6), 0);
	assert_int_equal(touch(at(m, 5)), 'f');
}

static void lazy_map_allocates_only_the_touched_page(void **state)
{
	struct pindax_map *m =
		map_all(FILE_PAGES, PROT_READ | PROT_WRITE, PINDAX_MAP_LAZY);

	(void)state;
	assert_int_equal(count_faults(), 0);
	*at(m, 600) = 'l';
	assert_int_equal(*pool_at(600), 'l');
	assert_int_equal(page_of(599), NO_PAGE);
	assert_int_equal(page_of(601), NO_PAGE);
}

static void one_fault_brings_the_allocated_neighbours(void **state)
{
	struct pindax_map *m = map_rw(FILE_PAGES);

	(void)state;
	memset((void *)at(m, 0), 'n', FILE_PAGES * (size_t)PDX_PAGE);
	recall(0, FILE_PAGES);
	set_page(100, NO_PAGE);
	(void)count_faults();
	for (uint64_t i = 101; i < 512; i++)
		assert_int_equal(*at(m, i), 'n');
	assert_true(count_faults() <= 2);
	assert_int_equal(page_of(100), NO_PAGE);
}

static void strangers_memory_survives_a_recall(void **state)
{
	struct pindax_map *m = map_rw(8);
	void *p;

	(void)state;
	p = mmap((void *)at(m, 3), PDX_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(p, at(m, 3));
	*at(m, 3) = 's';
	/* Of the pool, too, but not what we put there. */
	p = mmap((void *)at(m, 5), PDX_PAGE, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fake->pool_fd,
		 (POOL_PAGES - 1) * (off_t)PDX_PAGE);
	assert_ptr_equal(p, at(m, 5));
	*at(m, 5) = 't';
	(void)munmap((void *)at(m, 6), PDX_PAGE);
	recall(0, 8);
	assert_int_equal(*at(m, 3), 's');
	assert_int_equal(*at(m, 5), 't');
	assert_int_equal(touch(at(m, 6)), -SIGSEGV);
	*at(m, 4) = 'o';
	assert_int_equal(*pool_at(4), 'o');
}

static void strangers_memory_survives_without_procmap_query(void **state)
{
	atomic_store(&pdx_vma_text_only, true);
	strangers_memory_survives_a_recall(state);
	atomic_store(&pdx_vma_text_only, false);
}

static void unmap_keeps_the_lease_of_another_map(void **state)
{
	struct pindax_map *a = map_rw(8), *b;

	(void)state;
	assert_int_equal(
		pindax_map(file, 2 * PDX_PAGE, 2 * PDX_PAGE, PROT_READ, 0, &b),
		0);
	assert_int_equal(pindax_unmap(a), 0);
	assert_false(leased(1));
	assert_true(leased(2));
	assert_true(leased(3));
	assert_false(leased(4));
	assert_int_equal(*at(b, 0), 0);
}

static void pin_fills_holes_and_makes_pages_present(void **state)
{
	struct pindax_map *m =
		map_all(16, PROT_READ | PROT_WRITE, PINDAX_MAP_LAZY);
	struct pindax_pin *pin;

	(void)state;
	assert_int_equal(pindax_pin(m, 4 * PDX_PAGE, 4 * PDX_PAGE, 0, &pin), 0);
	assert_int_equal(pins_of(4), 1);
	assert_int_equal(pins_of(8), 0);
	assert_int_not_equal(page_of(7), NO_PAGE);
	assert_int_equal(page_of(8), NO_PAGE);
	(void)count_faults();
	*at(m, 7) = 'p';
	assert_int_equal(count_faults(), 0);
	assert_int_equal(pindax_unmap(m), -EBUSY);
	pindax_unpin(pin);
	assert_int_equal(pins_of(4), 0);
	assert_int_equal(pindax_unmap(m), 0);
}

static void pin_refuses_what_it_must(void **state)
{
	struct pindax_map *m, *ro;
	struct pindax_pin *pin;

	(void)state;
	fake->nr_pages = 4;
	m = map_rw(8);
	ro = map_all(4, PROT_READ, 0);
	assert_int_equal(pindax_pin(m, 0, 8 * PDX_PAGE, 0, &pin), -ENXIO);
	assert_int_equal(pindax_pin(m, 1, PDX_PAGE, 0, &pin), -EINVAL);
	assert_int_equal(pindax_pin(m, 0, 0, 0, &pin), -EINVAL);
	assert_int_equal(pindax_pin(m, 8 * PDX_PAGE, PDX_PAGE, 0, &pin),
			 -EINVAL);
	assert_int_equal(pindax_pin(ro, 0, PDX_PAGE, 0, &pin), -EACCES);
	file->type = PINDAX_TYPE_FS_DAX_LIMITED;
	assert_int_equal(pindax_pin(m, 0, PDX_PAGE, 0, &pin), -EOPNOTSUPP);
	file->type = PINDAX_TYPE_FS_DAX;
	assert_int_equal(pindax_map(file, 0, 100, PROT_READ, 0, &m), -EINVAL);
	assert_int_equal(pindax_map(file, 0, 0, PROT_READ, 0, &m), -EINVAL);
}

static void pin_of_ranges_waits_for_one_with_none_held(void **state)
{
	struct pindax_map *m = map_rw(16);
	struct pdx_range r[3] = {{.off = 0, .len = PDX_PAGE},
				 {.off = 4 * PDX_PAGE, .len = PDX_PAGE},
				 {.off = 8 * PDX_PAGE, .len = PDX_PAGE}};
	struct pindax_pin *pin;

	(void)state;
	fake->pin_again = 2;
	assert_int_equal(pdx_pin_ranges(m, r, 3, 0, false, &pin), 0);
	assert_int_equal(fake->pin_again, 0);
	assert_int_equal(pins_of(0), 1);
	assert_int_equal(pins_of(1), 0);
	assert_int_equal(pins_of(4), 1);
	assert_int_equal(pins_of(8), 1);
	pindax_unpin(pin);
}

static void closed_file_stays_attached_until_its_last_pin(void **state)
{
	struct pindax_map *m;
	struct pindax_pin *pin;

	m = map_rw(4);
	assert_int_equal(pindax_pin(m, 0, PDX_PAGE, 0, &pin), 0);
	pindax_close(file);
	*at(m, 0) = 'c';
	assert_int_equal(*pool_at(0), 'c');
	assert_int_equal(pins_of(0), 1);
	pindax_unpin(pin);
	assert_int_equal(pins_of(0), 0);
	file = NULL;
	(void)state;
}

static void budget_is_kept_by_dropping_windows(void **state)
{
	unsigned int budget = pdx.budget;
	struct pindax_pin *pin;
	struct pindax_map *m;

	(void)state;
	/* every second page: no two merge */
	for (uint64_t i = 0; i < FILE_PAGES; i++) {
		set_page(i, 2 * i);
		*pool_at(i) = (uint8_t)i;
	}
	pdx.budget = 600;
	m = map_rw(FILE_PAGES);
	assert_true(pdx.nr_runs <= 600);
	for (unsigned int round = 0; round < 2; round++)
		for (uint64_t i = 0; i < FILE_PAGES; i++)
			assert_int_equal(*at(m, i), (uint8_t)i);
	assert_true(pdx.nr_runs <= 600);
	assert_int_equal(pindax_pin(m, 0, FILE_PAGES * PDX_PAGE, 0, &pin),
			 -ENOMEM);
	assert_non_null(strstr(pindax_errormsg(), "max_map_count"));
	pdx.budget = budget;
}

static void registered_buffer_is_pinned_and_receives_dma(void **state)
{
	struct pindax_map *m = map_rw(16);
	struct iovec iov[2] = {{.iov_base = (void *)(uintptr_t)(2 * PDX_PAGE),
				.iov_len = PDX_PAGE},
			       {.iov_base = (void *)(uintptr_t)(8 * PDX_PAGE),
				.iov_len = 2 * PDX_PAGE}};
	int src = memfd_create("src", MFD_CLOEXEC);
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	struct pindax_pin *pin;

	(void)state;
	assert_int_equal(write(src, "dma", 3), 3);
	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	recall(0, 16);
	assert_int_equal(pindax_register_buffers(m, &ring, iov, 2, &pin), 0);
	assert_int_equal(pins_of(2), 1);
	assert_int_equal(pins_of(9), 1);
	assert_int_equal(pins_of(3), 0);
	io_uring_prep_read_fixed(io_uring_get_sqe(&ring), src, (void *)at(m, 9),
				 3, 0, 1);
	assert_int_equal(io_uring_submit(&ring), 1);
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, 3);
	assert_memory_equal(pool_at(9), "dma", 3);
	assert_int_equal(pindax_register_buffers(m, &ring, NULL, 0, &pin),
			 -EBUSY);
	assert_int_equal(pins_of(0), 0);
	assert_int_equal(pindax_unregister_buffers(&ring, pin), 0);
	assert_int_equal(pins_of(9), 0);
	io_uring_queue_exit(&ring);
	(void)close(src);
}

static void eager_refault_where_the_kernel_cannot_fault(void **state)
{
	struct pindax_map *m = map_rw(8);
	bool back = false;

	(void)state;
	memset((void *)at(m, 0), 'e', 8 * (size_t)PDX_PAGE);
	pdx.user_only = true;
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 8);
	pthread_mutex_unlock(&fake->lock);
	while (!back) { /* the harness ends us if it never comes */
		pthread_mutex_lock(&file->lock);
		back = pdx_next_present(m, 0, false) == 8;
		pthread_mutex_unlock(&file->lock);
	}
	pdx.user_only = false;
}

static void dead_daemon_gives_sigbus_and_errors(void **state)
{
	struct pindax_map *m = map_rw(4), *other;
	struct pindax_pin *pin;
	struct toucher t;

	(void)state;
	*at(m, 3) = 'd';
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 3);
	fake->sealed[2] = true;
	toucher_start(&t, at(m, 3)); /* present: goes on */
	fake->dead = true;
	notify();
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t), 'd');
	assert_int_equal(touch(at(m, 0)), -SIGBUS);
	assert_int_equal(pindax_pin(m, 0, PDX_PAGE, 0, &pin), -ENOTCONN);
	assert_non_null(strstr(pindax_errormsg(), "umount -l"));
	assert_int_equal(pindax_map(file, 0, PDX_PAGE, PROT_READ, 0, &other),
			 -ENOTCONN);
	while (!atomic_load(&file->dead))
		(void)sched_yield();
	pthread_mutex_lock(&fake->lock);
	fake->dead = false;
	pthread_mutex_unlock(&fake->lock);
}

#define NR_TOUCHERS 600

static void more_faults_than_the_queue_holds(void **state)
{
	struct toucher *t = calloc(NR_TOUCHERS, sizeof(*t));
	struct pindax_map *m = map_rw(NR_TOUCHERS);

	(void)state;
	for (uint64_t i = 0; i < NR_TOUCHERS; i++)
		*at(m, i) = (uint8_t)i;
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, NR_TOUCHERS);
	memset(fake->sealed, 1, sizeof(fake->sealed));
	pthread_mutex_unlock(&fake->lock);
	for (uint64_t i = 0; i < NR_TOUCHERS; i++)
		toucher_start(&t[i], at(m, i));
	pthread_mutex_lock(&fake->lock);
	while (fake->nr_queued < 512)
		wait_changed();
	memset(fake->sealed, 0, sizeof(fake->sealed));
	pthread_mutex_unlock(&fake->lock);
	pdx_fault_retry_all(file);
	for (uint64_t i = 0; i < NR_TOUCHERS; i++)
		assert_int_equal(toucher_join(&t[i]), (uint8_t)i);
	free(t);
}

/* --- storing threads against recalls --- */

#define STORM_PAGES 64U
#define STORM_RECALLS 1500U

struct storm {
	pthread_t thread;
	struct pindax_map *m;
	unsigned int id;
	atomic_bool *stop;
	uint64_t rounds;
	uint64_t wrong;
};

static void *storm_main(void *arg)
{
	struct storm *s = arg;

	while (!atomic_load(s->stop)) {
		s->rounds++;
		for (uint64_t p = 0; p < STORM_PAGES; p++) {
			volatile uint64_t *w =
				(volatile uint64_t *)(uintptr_t)at(s->m, p) +
				s->id;

			*w = s->rounds;
			if (*w != s->rounds)
				s->wrong++;
		}
	}
	return NULL;
}

/* Between recall and release the block's owner may change it: move the bytes
 * to another block and poison the old one. */
static void storm_recall(unsigned int *seed)
{
	uint64_t first = (uint64_t)rand_r(seed) % STORM_PAGES;
	uint64_t nr = 1 + (uint64_t)rand_r(seed) % 8;

	if (first + nr > STORM_PAGES)
		nr = STORM_PAGES - first;
	pthread_mutex_lock(&fake->lock);
	memset(&fake->sealed[first], 1, nr);
	recall_locked(first, nr);
	for (uint64_t p = first; p < first + nr; p++) {
		uint8_t *old = pool_at(p);

		set_page(p, alloc_page());
		memcpy(pool_at(p), old, PDX_PAGE);
		memset(old, 0xdd, PDX_PAGE);
	}
	memset(&fake->sealed[first], 0, nr);
	for (; fake->ticket; fake->ticket--)
		if (fake->nr_ev < PINDAX_EVENTS_MAX)
			retry(fake->ticket);
	pthread_mutex_unlock(&fake->lock);
	pdx_fault_retry_all(file);
}

static void no_store_is_lost_and_none_hits_a_recalled_block(void **state)
{
	struct pindax_map *m = map_rw(STORM_PAGES);
	atomic_bool stop = false;
	struct storm s[2];
	unsigned int seed = (unsigned int)time(NULL);

	(void)state;
	print_message("seed %u\n", seed);
	for (unsigned int i = 0; i < 2; i++) {
		s[i] = (struct storm){.m = m, .id = i, .stop = &stop};
		assert_int_equal(
			pthread_create(&s[i].thread, NULL, storm_main, &s[i]),
			0);
	}
	for (unsigned int i = 0; i < STORM_RECALLS; i++)
		storm_recall(&seed);
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < 2; i++) {
		pthread_join(s[i].thread, NULL);
		assert_int_equal(s[i].wrong, 0);
		assert_true(s[i].rounds > 0);
	}
	for (uint64_t p = 0; p < STORM_PAGES; p++)
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(((uint64_t *)(void *)pool_at(p))[i],
					 s[i].rounds);
}

/* --- limits of the process, in a child --- */

static void in_child(void **state, void (*fn)(void **))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct pindax_map *m;

		/* The parent's objects are not ours. */
		if (pindax_map(file, 0, PDX_PAGE, PROT_READ, 0, &m) != -ESTALE)
			_exit(2);
		alarm(DEADLINE_S);
		setup(state);
		fn(state);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define CHECK(x)                                                               \
	do {                                                                   \
		if (!(x))                                                      \
			_exit(3);                                              \
	} while (0)

static void mlockall_child(void **state)
{
	struct pindax_map *m;
	uint8_t *old;

	(void)state;
	CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE));
	m = map_rw(16);
	*at(m, 0) = 'x';
	old = pool_at(0);
	move_page(0);
	*at(m, 0) = 'y';
	CHECK(*old == 'x');
	CHECK(*pool_at(0) == 'y');
	recall(0, 16);
	CHECK(*at(m, 0) == 'y');
}

static void zap_works_under_mlockall(void **state)
{
	in_child(state, mlockall_child);
}

static size_t data_size(void)
{
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	CHECK(f && fscanf(f, "%*u %*u %*u %*u %*u %lu", &pages) == 1);
	(void)fclose(f);
	return pages * (size_t)PDX_PAGE;
}

/* Room for half the mapping's size: a zapped area must not count. */
static void rlimit_child(void **state)
{
	struct rlimit lim;
	struct pindax_map *m;

	(void)state;
	lim.rlim_cur = lim.rlim_max = data_size() + FILE_PAGES * PDX_PAGE / 2;
	CHECK(!setrlimit(RLIMIT_DATA, &lim));
	m = map_rw(FILE_PAGES);
	*at(m, 1000) = 'x';
	recall(0, FILE_PAGES);
	CHECK(*at(m, 1000) == 'x');
}

static void zap_works_under_small_rlimit_data(void **state)
{
	in_child(state, rlimit_child);
}

static void fork_child_has_no_mapping(void **state)
{
	struct pindax_map *m = map_rw(4);
	pid_t pid;
	int status;

	(void)state;
	recall(2, 2);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct pdx_vma v;

		pdx.maps_fd = open("/proc/self/maps", O_RDONLY);
		for (uint64_t i = 0; i < 4; i++)
			if (pdx_vma_at((void *)at(m, i), PDX_PAGE, &v) ||
			    v.id.ino)
				_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(*at(m, 2), 0);
}

/* Some tests start the library anew in a forked child. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(map_shows_the_files_pages_and_allocates_holes),
		T(recalled_page_is_not_touched_and_faults_in_again),
		T(kernel_touch_of_recalled_page_faults_in_again),
		T(stale_grant_is_asked_for_again),
		T(queued_fault_waits_for_its_retry_alone),
		T(retry_that_overtakes_its_answer_is_not_lost),
		T(touch_past_the_end_gets_sigbus_until_the_file_grows),
		T(hole_in_read_only_map_reads_zeros_until_filled),
		T(lazy_map_allocates_only_the_touched_page),
		T(one_fault_brings_the_allocated_neighbours),
		T(strangers_memory_survives_a_recall),
		T(strangers_memory_survives_without_procmap_query),
		T(unmap_keeps_the_lease_of_another_map),
		T(pin_fills_holes_and_makes_pages_present),
		T(pin_refuses_what_it_must),
		T(pin_of_ranges_waits_for_one_with_none_held),
		T(closed_file_stays_attached_until_its_last_pin),
		T(budget_is_kept_by_dropping_windows),
		T(registered_buffer_is_pinned_and_receives_dma),
		T(eager_refault_where_the_kernel_cannot_fault),
		T(dead_daemon_gives_sigbus_and_errors),
		T(more_faults_than_the_queue_holds),
		T(no_store_is_lost_and_none_hits_a_recalled_block),
		T(zap_works_under_mlockall),
		T(zap_works_under_small_rlimit_data),
		T(fork_child_has_no_mapping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
