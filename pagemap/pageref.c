// SPDX-License-Identifier: BSD-3-Clause
/*
 * References to pages and to compound runs of pages.
 *
 * Owns: the words of pages and runs (pagemap_priv.h has their values), and the
 * step to idle that calls page_free. Not: who holds what, nor who waits.
 * Invariant: a reference is counted in one place. While the run is compound
 * that is the run's state, and only for holders of the whole run; once it is
 * split it is each page's word, where splitting has put the run's count.
 *
 * Split words change without a lock, run states under the run's lock. Two
 * rules make that safe:
 *  - From compound to split the words get their counts first, the state next,
 *    the map's slow word last. Who finds the state split, or the slow word
 *    empty, finds the counts.
 *  - From split to compound every word goes 0 -> PAGE_TAIL by compare and
 *    exchange, before the state changes. A word that somebody holds is not 0,
 *    so a holder's run stays split, and a holder needs no lock to put. A get
 *    that still believes the run split finds PAGE_TAIL and tries again.
 * Cost: a pin of a compound run is one word under a lock, some 30 ns; making a
 * run compound again, or splitting it while referenced, is 512 words, 1-4 us;
 * splitting a run that was never pinned is one word.
 * Locks: run locks (run number modulo RUN_LOCKS), leaves; never two at a time,
 * never held over a callback. See docs/LOCKING.md.
 */
#include "pagemap/pagemap_priv.h"

#include <assert.h>
#include <errno.h>

static _Atomic int32_t *word_of(struct dev_pagemap *map, uint64_t page)
{
	assert(page >= map->first && page - map->first < map->nr_pages);
	return &map->words[page - map->first];
}

static void check_range(const struct dev_pagemap *map, uint64_t first,
			uint64_t nr)
{
	assert(nr > 0 && nr <= map->nr_pages && first >= map->first &&
	       first - map->first <= map->nr_pages - nr);
	(void)map, (void)first, (void)nr; /* with NDEBUG */
}

/* How much of [first, end) lies in the run of @first. */
static uint64_t seg_len(uint64_t first, uint64_t end)
{
	uint64_t run_end = (first | (PMEM_HUGE_PAGES - 1)) + 1;

	return (end < run_end ? end : run_end) - first;
}

/* --- runs --- */

static _Atomic uint32_t *run_of(struct dev_pagemap *map, uint64_t page)
{
	return &map->runs[page / PMEM_HUGE_PAGES -
			  map->first / PMEM_HUGE_PAGES];
}

/* Acquire: partner of run_set(); a split run's words have their counts. */
static uint32_t run_state(struct dev_pagemap *map, uint64_t page)
{
	return atomic_load_explicit(run_of(map, page), memory_order_acquire);
}

static void run_set_locked(struct dev_pagemap *map, uint64_t page,
			   uint32_t state)
{
	atomic_store_explicit(run_of(map, page), state, memory_order_release);
}

static pthread_mutex_t *run_lock(struct dev_pagemap *map, uint64_t page)
{
	pthread_mutex_t *lock =
		&map->run_locks[page / PMEM_HUGE_PAGES % RUN_LOCKS];

	pthread_mutex_lock(lock);
	return lock;
}

static void run_split_locked(struct dev_pagemap *map, uint64_t page,
			     uint32_t state)
{
	uint64_t first = page & ~(PMEM_HUGE_PAGES - 1), i;
	uint32_t refs = state & RUN_REFS;

	/*
	 * Plain stores: nobody changes a word that is PAGE_TAIL, nor one of a
	 * run that was never split.
	 */
	if (refs || (state & RUN_TAILS))
		for (i = 0; i < PMEM_HUGE_PAGES; i++)
			atomic_store_explicit(word_of(map, first + i),
					      (int32_t)refs,
					      memory_order_relaxed);
	run_set_locked(map, page, RUN_SPLIT);
	if (refs)
		atomic_fetch_sub_explicit(&map->slow, 1, memory_order_release);
}

/* Afterwards the pages of the run count for themselves. */
static void run_split(struct dev_pagemap *map, uint64_t page)
{
	pthread_mutex_t *lock;
	uint32_t state;

	if (run_state(map, page) & RUN_SPLIT)
		return;
	lock = run_lock(map, page);
	state = run_state(map, page);
	if (!(state & RUN_SPLIT))
		run_split_locked(map, page, state);
	pthread_mutex_unlock(lock);
}

/* @first: of a split run. false: a page is not idle, nothing changed. */
static bool run_join_locked(struct dev_pagemap *map, uint64_t first)
{
	uint64_t i;

	for (i = 0; i < PMEM_HUGE_PAGES; i++) {
		int32_t idle = 0;

		if (!atomic_compare_exchange_strong_explicit(
			    word_of(map, first + i), &idle, PAGE_TAIL,
			    memory_order_acq_rel, memory_order_relaxed))
			goto out_undo;
	}
	run_set_locked(map, first, RUN_TAILS);
	return true;

out_undo:
	while (i--)
		atomic_store_explicit(word_of(map, first + i), 0,
				      memory_order_release);
	return false;
}

static bool run_inside(const struct dev_pagemap *map, uint64_t first)
{
	return first >= map->first && map->nr_pages >= PMEM_HUGE_PAGES &&
	       first - map->first <= map->nr_pages - PMEM_HUGE_PAGES;
}

/* A look before the leap: joining a run that is in use is work for nothing. */
static bool run_looks_idle(struct dev_pagemap *map, uint64_t first)
{
	uint64_t i;

	for (i = 0; i < PMEM_HUGE_PAGES; i++)
		if (atomic_load_explicit(word_of(map, first + i),
					 memory_order_relaxed))
			return false;
	return true;
}

/*
 * One reference for all of the run at @first, which becomes compound if it can.
 * false: it is split and stays so.
 */
static bool run_try_get(struct dev_pagemap *map, uint64_t first)
{
	pthread_mutex_t *lock = run_lock(map, first);
	uint32_t state = run_state(map, first);

	if ((state & RUN_SPLIT) && run_looks_idle(map, first) &&
	    run_join_locked(map, first))
		state = run_state(map, first);
	if (!(state & RUN_SPLIT)) {
		assert((state & RUN_REFS) < RUN_REFS);
		if (!(state & RUN_REFS))
			atomic_fetch_add_explicit(&map->slow, 1,
						  memory_order_relaxed);
		run_set_locked(map, first, state + 1);
	}
	pthread_mutex_unlock(lock);
	return !(state & RUN_SPLIT);
}

/* false: the run is split, the references are its pages' (nothing dropped). */
static bool run_put(struct dev_pagemap *map, uint64_t first, bool *ret_idle)
{
	pthread_mutex_t *lock;
	uint32_t state;

	if (run_state(map, first) & RUN_SPLIT)
		return false;
	lock = run_lock(map, first);
	state = run_state(map, first);
	if (!(state & RUN_SPLIT)) {
		assert(state & RUN_REFS);
		run_set_locked(map, first, state - 1);
		*ret_idle = (state & RUN_REFS) == 1;
		if (*ret_idle)
			atomic_fetch_sub_explicit(&map->slow, 1,
						  memory_order_release);
	}
	pthread_mutex_unlock(lock);
	return !(state & RUN_SPLIT);
}

/* --- the step to idle --- */

/* Pages that went idle one after the other: one callback for all of them. */
struct idle_run {
	struct dev_pagemap *map;
	uint64_t first, nr;
};

static void idle_flush(struct idle_run *idle)
{
	struct dev_pagemap *map = idle->map;

	if (idle->nr &&
	    (atomic_load_explicit(&map->slow, memory_order_relaxed) & SLOW_OPS))
		map->ops->page_free(map->owner, idle->first, idle->nr);
	idle->nr = 0;
}

static void idle_add(struct idle_run *idle, uint64_t first, uint64_t nr)
{
	if (idle->nr && idle->first + idle->nr != first)
		idle_flush(idle);
	if (!idle->nr)
		idle->first = first;
	idle->nr += nr;
}

/* --- single pages --- */

/* @page's run is split, and stays so by the reference that is put. */
static bool word_put(struct dev_pagemap *map, uint64_t page)
{
	int32_t old;

	/*
	 * Release: the holder's use of the page comes before. Acquire: whoever
	 * sees it idle here goes on with everybody's use behind him.
	 */
	old = atomic_fetch_sub_explicit(word_of(map, page), 1,
					memory_order_acq_rel);
	assert(old > 0);
	return old == 1;
}

/*
 * One reference more, or with @freeze from idle to frozen. false: the page is
 * frozen, or with @freeze not idle.
 */
static bool word_step(struct dev_pagemap *map, uint64_t page, bool freeze)
{
	_Atomic int32_t *word = word_of(map, page);
	int32_t old;

	for (;;) {
		run_split(map, page);
		old = atomic_load_explicit(word, memory_order_relaxed);
		if (old == PAGE_TAIL) {
			/* Being joined: wait for the outcome. */
			pthread_mutex_unlock(run_lock(map, page));
			continue;
		}
		if (old == PAGE_FROZEN || (freeze && old != 0))
			return false;
		assert(old < INT32_MAX);
		if (atomic_compare_exchange_weak_explicit(
			    word, &old, freeze ? PAGE_FROZEN : old + 1,
			    memory_order_acq_rel, memory_order_relaxed))
			return true;
	}
}

void page_get(struct dev_pagemap *map, uint64_t page)
{
	int32_t old;

	run_split(map, page);
	old = atomic_fetch_add_explicit(word_of(map, page), 1,
					memory_order_relaxed);
	assert(old > 0 && old < INT32_MAX);
	(void)old; /* with NDEBUG */
}

bool page_try_get(struct dev_pagemap *map, uint64_t page)
{
	return word_step(map, page, false);
}

static __attribute__((noinline)) void page_put_slow(struct dev_pagemap *map,
						    uint64_t page)
{
	struct idle_run idle = {.map = map};

	run_split(map, page);
	if (word_put(map, page))
		idle_add(&idle, page, 1);
	idle_flush(&idle);
}

void page_put(struct dev_pagemap *map, uint64_t page)
{
	/*
	 * An empty slow word: nobody wants callbacks, and the caller's
	 * reference is in the page's word. For if he took it with the whole
	 * run, the word was raised before he had it, and lowered again only
	 * after the split had put the count into the page's word. The decrement
	 * depends on the branch, so it comes after the load; relaxed will do.
	 */
	if (__builtin_expect(
		    !atomic_load_explicit(&map->slow, memory_order_relaxed), 1))
		(void)atomic_fetch_sub_explicit(&map->words[page - map->first],
						1, memory_order_acq_rel);
	else
		page_put_slow(map, page);
}

/* Idle counts 1 and frozen 0. A run that is being joined is all idle. */
static uint32_t word_count(int32_t word)
{
	return word == PAGE_TAIL ? 1 : (uint32_t)(word + 1);
}

uint32_t page_count(struct dev_pagemap *map, uint64_t page)
{
	uint32_t state = run_state(map, page);

	if (!(state & RUN_SPLIT))
		return (state & RUN_REFS) + 1;
	return word_count(
		atomic_load_explicit(word_of(map, page), memory_order_acquire));
}

/* --- ranges --- */

static void put_segment(struct dev_pagemap *map, uint64_t first, uint64_t nr,
			struct idle_run *idle)
{
	bool run_idle = false;
	uint64_t i;

	if (nr == PMEM_HUGE_PAGES && run_put(map, first, &run_idle)) {
		if (run_idle)
			idle_add(idle, first, nr);
		return;
	}
	run_split(map, first);
	for (i = 0; i < nr; i++)
		if (word_put(map, first + i))
			idle_add(idle, first + i, 1);
}

void pages_put(struct dev_pagemap *map, uint64_t first, uint64_t nr)
{
	struct idle_run idle = {.map = map};
	uint64_t end = first + nr, len;

	check_range(map, first, nr);
	for (; first < end; first += len) {
		len = seg_len(first, end);
		put_segment(map, first, len, &idle);
	}
	idle_flush(&idle);
}

/* How many of [first, first + nr), all in one run, got their reference. */
static uint64_t try_get_segment(struct dev_pagemap *map, uint64_t first,
				uint64_t nr)
{
	uint64_t i;

	if (nr == PMEM_HUGE_PAGES && run_try_get(map, first))
		return nr;
	for (i = 0; i < nr; i++)
		if (!word_step(map, first + i, false))
			break;
	return i;
}

int pages_try_get(struct dev_pagemap *map, uint64_t first, uint64_t nr)
{
	uint64_t page = first, end = first + nr, len, got;

	check_range(map, first, nr);
	for (; page < end; page += len) {
		len = seg_len(page, end);
		got = try_get_segment(map, page, len);
		if (got < len) {
			/* With callbacks: somebody may have waited for us. */
			if (page + got > first)
				pages_put(map, first, page + got - first);
			return -EAGAIN;
		}
	}
	return 0;
}

void pages_put_batch(struct pagemap_table *t, const uint64_t *pages,
		     unsigned int nr)
{
	struct dev_pagemap *map = NULL;
	unsigned int i, len;

	for (i = 0; i < nr; i += len) {
		len = 1;
		if (!map || pages[i] < map->first ||
		    pages[i] - map->first >= map->nr_pages) {
			if (map)
				put_dev_pagemap(map);
			map = get_dev_pagemap(t, pages[i]);
		}
		if (!map)
			continue;
		/* Pages in a row go as one range: a whole run costs one put. */
		while (i + len < nr && pages[i + len] == pages[i] + len &&
		       pages[i + len] - map->first < map->nr_pages)
			len++;
		pages_put(map, pages[i], len);
	}
	if (map)
		put_dev_pagemap(map);
}

/*
 * How many pages at the start of [first, first + nr), all in one run, are busy
 * (or not, as @busy says).
 */
static uint64_t count_alike(struct dev_pagemap *map, uint64_t first,
			    uint64_t nr, bool busy)
{
	uint32_t state = run_state(map, first);
	uint64_t i;

	if (!(state & RUN_SPLIT))
		return ((state & RUN_REFS) != 0) == busy ? nr : 0;
	for (i = 0; i < nr; i++) {
		int32_t word = atomic_load_explicit(word_of(map, first + i),
						    memory_order_acquire);

		if ((word > 0) != busy)
			break;
	}
	return i;
}

/* The first page of [page, end) that is busy, or is not; @end: there is none */
static uint64_t skip_alike(struct dev_pagemap *map, uint64_t page, uint64_t end,
			   bool busy)
{
	while (page < end) {
		uint64_t len = seg_len(page, end);
		uint64_t nr = count_alike(map, page, len, busy);

		page += nr;
		if (nr < len)
			break;
	}
	return page;
}

bool pages_first_busy(struct dev_pagemap *map, uint64_t first, uint64_t nr,
		      uint64_t *ret_page, uint64_t *ret_nr)
{
	uint64_t end = first + nr, page;

	check_range(map, first, nr);
	page = skip_alike(map, first, end, false);
	if (page == end)
		return false;
	*ret_page = page;
	*ret_nr = skip_alike(map, page + 1, end, true) - page;
	return true;
}

int pages_freeze(struct dev_pagemap *map, uint64_t first, uint64_t nr)
{
	uint64_t i;

	check_range(map, first, nr);
	for (i = 0; i < nr; i++) {
		if (word_step(map, first + i, true))
			continue;
		if (i)
			pages_unfreeze(map, first, i);
		return -EBUSY;
	}
	return 0;
}

void pages_unfreeze(struct dev_pagemap *map, uint64_t first, uint64_t nr)
{
	uint64_t i;

	check_range(map, first, nr);
	for (i = 0; i < nr; i++) {
		int32_t old = atomic_exchange_explicit(word_of(map, first + i),
						       0, memory_order_acq_rel);

		assert(old == PAGE_FROZEN);
		(void)old; /* with NDEBUG */
	}
}

int pages_make_compound(struct dev_pagemap *map, uint64_t first)
{
	pthread_mutex_t *lock;
	int rc = 0;

	if (first % PMEM_HUGE_PAGES || !run_inside(map, first))
		return -EINVAL;
	lock = run_lock(map, first);
	if ((run_state(map, first) & RUN_SPLIT) && !run_join_locked(map, first))
		rc = -EBUSY;
	pthread_mutex_unlock(lock);
	return rc;
}

bool page_is_compound(struct dev_pagemap *map, uint64_t page)
{
	return !(run_state(map, page) & RUN_SPLIT);
}
