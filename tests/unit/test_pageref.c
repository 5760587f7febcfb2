// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: a page's count is exact, whatever mixture of single and compound
 * references, splits, joins and freezes it goes through, and the step to idle
 * reaches whoever waits. Method: single steps, then threads that do it all to
 * the same runs while a waiter waits for them.
 */
#include "pagemap_fixture.h"

#define NR_THREADS 3
#define NR_STEPS 1500

/* --- references --- */

static void last_put_frees_and_no_other(void **state)
{
	struct fixture *f = *state;
	uint64_t page = MAP_FIRST + 7;

	assert_int_equal(page_count(f->map, page), 1);
	assert_true(page_idle(f->map, page));
	assert_true(page_try_get(f->map, page));
	page_get(f->map, page);
	assert_int_equal(page_count(f->map, page), 3);
	assert_int_equal(page_count(f->map, page + 1), 1);
	page_put(f->map, page);
	assert_int_equal(f->owner.calls, 0);
	page_put(f->map, page);
	assert_true(page_idle(f->map, page));
	assert_int_equal(f->owner.calls, OPS_BUILT);
	expect_freed(&f->owner, page, 1);
}

static void frozen_page_gives_no_reference(void **state)
{
	struct fixture *f = *state;
	uint64_t first = 2 * RUN + 10, page, nr;

	assert_int_equal(pages_freeze(f->map, first, 3), 0);
	assert_int_equal(page_count(f->map, first + 2), 0);
	assert_true(page_idle(f->map, first));
	assert_false(pages_first_busy(f->map, first, 3, &page, &nr));
	assert_false(page_try_get(f->map, first + 1));
	assert_int_equal(pages_freeze(f->map, first + 2, 1), -EBUSY);
	/* all or none: what was got before the frozen page is dropped */
	assert_int_equal(pages_try_get(f->map, first - 2, 4), -EAGAIN);
	assert_int_equal(page_count(f->map, first - 1), 1);
	assert_int_equal(pages_try_get(f->map, RUN, 2 * RUN), -EAGAIN);
	assert_int_equal(page_count(f->map, RUN), 1);
	assert_int_equal(pages_make_compound(f->map, 2 * RUN), -EBUSY);
	pages_unfreeze(f->map, first, 3);
	assert_true(page_try_get(f->map, first + 1));
	page_put(f->map, first + 1);
}

static void freeze_of_a_busy_range_changes_nothing(void **state)
{
	struct fixture *f = *state;

	assert_true(page_try_get(f->map, RUN + 5));
	assert_int_equal(pages_freeze(f->map, RUN, 10), -EBUSY);
	assert_int_equal(page_count(f->map, RUN), 1);
	assert_int_equal(page_count(f->map, RUN + 5), 2);
	page_put(f->map, RUN + 5);
	/* a compound reference is in the way as much */
	assert_int_equal(pages_try_get(f->map, 3 * RUN, RUN), 0);
	assert_int_equal(pages_freeze(f->map, 2 * RUN, 2 * RUN), -EBUSY);
	assert_int_equal(page_count(f->map, 2 * RUN), 1);
	pages_put(f->map, 3 * RUN, RUN);
	assert_int_equal(pages_freeze(f->map, 2 * RUN, 2 * RUN), 0);
	pages_unfreeze(f->map, 2 * RUN, 2 * RUN);
}

static void whole_run_pin_is_one_compound_reference(void **state)
{
	struct fixture *f = *state;

	assert_true(page_is_compound(f->map, RUN));
	/* half a run, three whole ones, half a run */
	assert_int_equal(pages_try_get(f->map, RUN + 256, 4 * RUN), 0);
	assert_false(page_is_compound(f->map, RUN + 256));
	assert_true(page_is_compound(f->map, 2 * RUN));
	assert_true(page_is_compound(f->map, 4 * RUN));
	assert_false(page_is_compound(f->map, 5 * RUN));
	assert_int_equal(page_count(f->map, RUN + 255), 1);
	assert_int_equal(page_count(f->map, RUN + 256), 2);
	assert_int_equal(page_count(f->map, 3 * RUN), 2);
	assert_int_equal(page_count(f->map, 5 * RUN + 255), 2);
	assert_int_equal(page_count(f->map, 5 * RUN + 256), 1);
	pages_put(f->map, RUN + 256, 4 * RUN);
	assert_int_equal(f->owner.calls, OPS_BUILT);
	expect_freed(&f->owner, RUN + 256, 4 * RUN);
	assert_true(page_is_compound(f->map, 2 * RUN));
}

static void partly_mapped_run_is_never_compound(void **state)
{
	struct fixture *f = *state;
	uint64_t end = MAP_FIRST + MAP_NR;

	assert_false(page_is_compound(f->map, MAP_FIRST));
	assert_false(page_is_compound(f->map, end - 1));
	assert_int_equal(pages_make_compound(f->map, 0), -EINVAL);
	assert_int_equal(pages_make_compound(f->map, end - RUN / 2), -EINVAL);
	assert_int_equal(pages_make_compound(f->map, RUN + 1), -EINVAL);
	assert_int_equal(pages_make_compound(f->map, RUN), 0);
	assert_int_equal(pages_try_get(f->map, MAP_FIRST, MAP_NR), 0);
	assert_int_equal(page_count(f->map, MAP_FIRST), 2);
	assert_int_equal(page_count(f->map, end - 1), 2);
	pages_put(f->map, MAP_FIRST, MAP_NR);
	expect_freed(&f->owner, MAP_FIRST, MAP_NR);
}

static void smaller_pin_splits_and_keeps_the_counts(void **state)
{
	struct fixture *f = *state;
	uint64_t page, nr;

	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	assert_int_equal(page_count(f->map, RUN + 9), 3);
	assert_true(page_try_get(f->map, RUN + 9));
	assert_false(page_is_compound(f->map, RUN));
	assert_int_equal(page_count(f->map, RUN + 9), 4);
	assert_int_equal(page_count(f->map, RUN + 8), 3);
	assert_int_equal(page_count(f->map, RUN + 511), 3);
	assert_int_equal(page_count(f->map, RUN - 1), 1);
	assert_int_equal(page_count(f->map, 2 * RUN), 1);
	/* whole-run holders drop one from each page now */
	pages_put(f->map, RUN, RUN);
	pages_put(f->map, RUN, RUN);
	assert_true(pages_first_busy(f->map, RUN, RUN, &page, &nr));
	assert_int_equal(page, RUN + 9);
	assert_int_equal(nr, 1);
	assert_int_equal(freed(&f->owner), OPS_BUILT ? RUN - 1 : 0);
	page_put(f->map, RUN + 9);
	assert_int_equal(freed(&f->owner), OPS_BUILT ? RUN : 0);
}

static void neighbours_of_a_small_pin_stay_idle(void **state)
{
	struct fixture *f = *state;
	uint64_t page, nr;

	assert_true(page_try_get(f->map, RUN + 100));
	assert_false(pages_first_busy(f->map, RUN, 100, &page, &nr));
	assert_false(pages_first_busy(f->map, RUN + 101, 411, &page, &nr));
	assert_true(pages_first_busy(f->map, RUN, RUN, &page, &nr));
	assert_int_equal(page, RUN + 100);
	page_put(f->map, RUN + 100);
}

static void part_of_a_compound_may_be_put_alone(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	page_put(f->map, RUN + 3);
	assert_int_equal(freed(&f->owner), OPS_BUILT);
	assert_int_equal(page_count(f->map, RUN + 3), 1);
	assert_int_equal(page_count(f->map, RUN + 4), 2);
	pages_put(f->map, RUN, 3);
	pages_put(f->map, RUN + 4, RUN - 4);
	assert_int_equal(freed(&f->owner), OPS_BUILT ? RUN : 0);
	/* page_get by one who holds the compound splits, too */
	assert_int_equal(pages_try_get(f->map, 2 * RUN, RUN), 0);
	page_get(f->map, 2 * RUN);
	assert_int_equal(page_count(f->map, 2 * RUN), 3);
	page_put(f->map, 2 * RUN);
	pages_put(f->map, 2 * RUN, RUN);
}

static void idle_run_becomes_compound_again(void **state)
{
	struct fixture *f = *state;

	assert_true(page_try_get(f->map, RUN));
	assert_int_equal(pages_make_compound(f->map, RUN), -EBUSY);
	assert_int_equal(page_count(f->map, RUN + 1), 1);
	/* a busy run is pinned page by page */
	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	assert_false(page_is_compound(f->map, RUN));
	pages_put(f->map, RUN, RUN);
	page_put(f->map, RUN);
	assert_int_equal(pages_make_compound(f->map, RUN), 0);
	assert_int_equal(pages_make_compound(f->map, RUN), 0);
	assert_true(page_is_compound(f->map, RUN + 511));
	/* splits again, without a reference and with one */
	assert_true(page_try_get(f->map, RUN + 2));
	assert_int_equal(page_count(f->map, RUN + 1), 1);
	page_put(f->map, RUN + 2);
	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	assert_true(page_is_compound(f->map, RUN));
	assert_int_equal(pages_make_compound(f->map, RUN), 0);
	assert_true(page_try_get(f->map, RUN + 2));
	assert_int_equal(page_count(f->map, RUN + 2), 3);
	assert_int_equal(page_count(f->map, RUN + 3), 2);
	page_put(f->map, RUN + 2);
	pages_put(f->map, RUN, RUN);
}

static void busy_stretch_is_measured_across_runs(void **state)
{
	struct fixture *f = *state;
	uint64_t page = 77, nr = 77;

	assert_false(pages_first_busy(f->map, MAP_FIRST, MAP_NR, &page, &nr));
	assert_int_equal(page, 77);
	assert_int_equal(pages_try_get(f->map, 2 * RUN - 10, RUN + 30), 0);
	assert_true(pages_first_busy(f->map, MAP_FIRST, MAP_NR, &page, &nr));
	assert_int_equal(page, 2 * RUN - 10);
	assert_int_equal(nr, RUN + 30);
	assert_true(pages_first_busy(f->map, 2 * RUN + 5, 20, &page, &nr));
	assert_int_equal(page, 2 * RUN + 5);
	assert_int_equal(nr, 20);
	assert_true(pages_first_busy(f->map, 3 * RUN, RUN, &page, &nr));
	assert_int_equal(nr, 20);
	pages_put(f->map, 2 * RUN - 10, RUN + 30);
}

/* --- threads --- */

struct storm {
	struct fixture *f;
	unsigned int seed;
	_Atomic bool *stop; /* or NULL: NR_STEPS */
};

/* Random references over three runs: whole, parts, single; joins; freezes. */
static void storm_step(struct storm *s)
{
	struct dev_pagemap *map = s->f->map;
	uint64_t run = RUN * (1 + rand_r(&s->seed) % 3);
	uint64_t off = rand_r(&s->seed) % RUN, nr;

	switch (rand_r(&s->seed) % 6) {
	case 0:
		if (pages_try_get(map, run, RUN) == 0)
			pages_put(map, run, RUN);
		break;
	case 1:
		nr = 1 + rand_r(&s->seed) % (2 * RUN);
		if (pages_try_get(map, run + off, nr) == 0)
			pages_put(map, run + off, nr);
		break;
	case 2:
		if (!page_try_get(map, run + off))
			break;
		page_get(map, run + off);
		page_put(map, run + off);
		page_put(map, run + off);
		break;
	case 3: /* taken whole, put in two parts */
		if (pages_try_get(map, run, RUN) != 0)
			break;
		if (off)
			pages_put(map, run, off);
		pages_put(map, run + off, RUN - off);
		break;
	case 4:
		(void)pages_make_compound(map, run); /* busy mostly */
		break;
	default:
		nr = 1 + rand_r(&s->seed) % 8;
		if (pages_freeze(map, run + off, nr) == 0)
			pages_unfreeze(map, run + off, nr);
		break;
	}
}

static void *storm_main(void *arg)
{
	struct storm *s = arg;
	int i;

	for (i = 0; s->stop ? !atomic_load(s->stop) : i < NR_STEPS; i++)
		storm_step(s);
	return NULL;
}

static void storm_start(struct fixture *f, struct storm *s, pthread_t *threads,
			_Atomic bool *stop)
{
	int i;

	for (i = 0; i < NR_THREADS; i++) {
		memset(&s[i], 0, sizeof(s[i]));
		s[i].f = f;
		s[i].seed = 1000 + i;
		s[i].stop = stop;
		assert_int_equal(
			pthread_create(&threads[i], NULL, storm_main, &s[i]),
			0);
	}
}

static void storm_join(pthread_t *threads)
{
	int i;

	for (i = 0; i < NR_THREADS; i++)
		pthread_join(threads[i], NULL);
}

static void all_idle_after_a_storm(struct fixture *f)
{
	uint64_t page, nr, i;

	assert_false(pages_first_busy(f->map, MAP_FIRST, MAP_NR, &page, &nr));
	for (i = 0; i < MAP_NR; i++) /* nor is any left frozen */
		assert_int_equal(page_count(f->map, MAP_FIRST + i), 1);
	for (i = 1; i < 6; i++)
		assert_int_equal(pages_make_compound(f->map, i * RUN), 0);
}

static void counts_are_exact_after_concurrent_splits(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[NR_THREADS];
	struct storm s[NR_THREADS];

	storm_start(f, s, threads, NULL);
	storm_join(threads);
	all_idle_after_a_storm(f);
}

static void held_reference_stays_through_a_storm(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[NR_THREADS];
	struct storm s[NR_THREADS];
	_Atomic bool stop = false;
	uint64_t page, nr;
	int i;

	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	storm_start(f, s, threads, &stop);
	for (i = 0; i < NR_STEPS; i++) {
		assert_true(page_count(f->map, RUN + i % RUN) >= 2);
		assert_true(pages_first_busy(f->map, RUN, RUN, &page, &nr));
		assert_int_equal(page, RUN);
		assert_int_equal(nr, RUN);
	}
	atomic_store(&stop, true);
	storm_join(threads);
	pages_put(f->map, RUN, RUN);
	all_idle_after_a_storm(f);
}

/* Drops the put path's reference under storms with the callbacks toggled. */
static void counts_are_exact_while_ops_are_toggled(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[NR_THREADS], toggler;
	struct storm s[NR_THREADS];

	if (!OPS_BUILT)
		skip();
	atomic_store(&toggling, true);
	assert_int_equal(pthread_create(&toggler, NULL, toggle_ops, NULL), 0);
	storm_start(f, s, threads, NULL);
	storm_join(threads);
	atomic_store(&toggling, false);
	pthread_join(toggler, NULL);
	all_idle_after_a_storm(f);
}

struct wait {
	struct waiter w;
	_Atomic int calls;
};

static void woken(struct waiter *w, int why)
{
	struct wait *wt = (struct wait *)w;

	(void)why;
	atomic_fetch_add(&wt->calls, 1);
}

/* As a break does it: queue, look, wait, look again. */
static void wait_until_idle(struct fixture *f, uint64_t first, uint64_t nr)
{
	uint64_t end = now_ns() + DEADLINE_S * 1000000000ULL, page, n;
	struct wait wt;

	for (;;) {
		memset(&wt, 0, sizeof(wt));
		wt.w.node.first = first;
		wt.w.node.last = first + nr - 1;
		wt.w.fn = woken;
		assert_int_equal(waitq_add(f->owner.wq, &wt.w), 0);
		if (!pages_first_busy(f->map, first, nr, &page, &n)) {
			if (!waitq_cancel(f->owner.wq, &wt.w))
				while (!atomic_load(&wt.calls))
					sched_yield();
			return;
		}
		while (!atomic_load(&wt.calls)) {
			assert_true(now_ns() < end);
			sched_yield();
		}
	}
}

static void waiter_is_woken_by_the_last_put_of_a_storm(void **state)
{
	struct fixture *f = *state;
	pthread_t threads[NR_THREADS];
	struct storm s[NR_THREADS];
	uint64_t page, nr;

	if (!OPS_BUILT)
		skip();
	assert_int_equal(waitq_create(&f->owner.wq), 0);
	storm_start(f, s, threads, NULL);
	/* may see it idle in mid-storm; then it was idle */
	wait_until_idle(f, RUN, 3 * RUN);
	storm_join(threads);
	wait_until_idle(f, RUN, 3 * RUN);
	assert_false(pages_first_busy(f->map, RUN, 3 * RUN, &page, &nr));
	waitq_destroy(f->owner.wq);
}

struct handoff {
	struct fixture *f;
	_Atomic int round;
};

#define NR_HANDOFFS 1000

/* Holds a whole run in odd rounds, one page of it in even ones. */
static void *drop_each_round(void *arg)
{
	struct handoff *h = arg;
	int round;

	for (round = 1; round <= NR_HANDOFFS; round++) {
		while (atomic_load(&h->round) < round)
			sched_yield();
		if (round % 2)
			pages_put(h->f->map, RUN, RUN);
		else
			page_put(h->f->map, RUN + round % RUN);
	}
	return NULL;
}

static void no_wake_up_is_lost_on_the_way_to_idle(void **state)
{
	struct fixture *f = *state;
	struct handoff h = {.f = f};
	pthread_t dropper;
	int round;

	if (!OPS_BUILT)
		skip();
	assert_int_equal(waitq_create(&f->owner.wq), 0);
	assert_int_equal(pthread_create(&dropper, NULL, drop_each_round, &h),
			 0);
	for (round = 1; round <= NR_HANDOFFS; round++) {
		if (round % 2)
			assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
		else
			assert_true(page_try_get(f->map, RUN + round % RUN));
		atomic_store(&h.round, round);
		wait_until_idle(f, RUN, RUN);
	}
	pthread_join(dropper, NULL);
	waitq_destroy(f->owner.wq);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(last_put_frees_and_no_other),
		CASE(frozen_page_gives_no_reference),
		CASE(freeze_of_a_busy_range_changes_nothing),
		CASE(whole_run_pin_is_one_compound_reference),
		CASE(partly_mapped_run_is_never_compound),
		CASE(smaller_pin_splits_and_keeps_the_counts),
		CASE(neighbours_of_a_small_pin_stay_idle),
		CASE(part_of_a_compound_may_be_put_alone),
		CASE(idle_run_becomes_compound_again),
		CASE(busy_stretch_is_measured_across_runs),
		CASE(counts_are_exact_after_concurrent_splits),
		CASE(held_reference_stays_through_a_storm),
		CASE(counts_are_exact_while_ops_are_toggled),
		CASE(waiter_is_woken_by_the_last_put_of_a_storm),
		CASE(no_wake_up_is_lost_on_the_way_to_idle),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
