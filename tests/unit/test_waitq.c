// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: a waiter's callback is called exactly once, for the right reason, and
 * no wake-up is lost. Method: single steps first; then threads that wake,
 * cancel and let deadlines pass over the same waiters, and a page that goes
 * idle while its waiter queues.
 */
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
#include "pagemap/waitq.h"

#define NR_MANY 10000
#define NR_RACE 2000
#define NR_LOST 3000
#define NR_TIMED 300
#define NSEC 1000000000ULL
#define DEADLINE_S 20 /* no test waits longer for anything */

struct wait {
	struct waiter w;
	_Atomic int calls;
	_Atomic int why;
};

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * NSEC + ts.tv_nsec;
}

static void note(struct waiter *w, int why)
{
	struct wait *wt = (struct wait *)w;

	atomic_store(&wt->why, why);
	atomic_fetch_add(&wt->calls, 1);
}

static void wait_init(struct wait *wt, uint64_t first, uint64_t last,
		      uint64_t deadline_ns)
{
	memset(wt, 0, sizeof(*wt));
	wt->w.node.first = first;
	wt->w.node.last = last;
	wt->w.fn = note;
	wt->w.deadline_ns = deadline_ns;
}

static void until_called(struct wait *wt)
{
	uint64_t end = now_ns() + DEADLINE_S * NSEC;

	while (!atomic_load(&wt->calls)) {
		assert_true(now_ns() < end);
		sched_yield();
	}
}

static int setup(void **state)
{
	struct waitq *q;

	if (waitq_create(&q))
		return -1;
	*state = q;
	return 0;
}

static int teardown(void **state)
{
	waitq_destroy(*state);
	return 0;
}

static void wake_calls_overlapping_waiters_only(void **state)
{
	struct waitq *q = *state;
	struct wait before, edge, over, after;

	wait_init(&before, 0, 9, 0);
	wait_init(&edge, 5, 10, 0);
	wait_init(&over, 0, 100, 0);
	wait_init(&after, 12, 12, 0);
	assert_int_equal(waitq_add(q, &before.w), 0);
	assert_int_equal(waitq_add(q, &edge.w), 0);
	assert_int_equal(waitq_add(q, &over.w), 0);
	assert_int_equal(waitq_add(q, &after.w), 0);
	assert_int_equal(waitq_nr(q), 4);
	waitq_wake(q, 10, 2);
	assert_int_equal(before.calls, 0);
	assert_int_equal(edge.calls, 1);
	assert_int_equal(over.calls, 1);
	assert_int_equal(after.calls, 0);
	assert_int_equal(edge.why, 0);
	assert_int_equal(waitq_nr(q), 2);
	waitq_wake(q, 10, 2);
	assert_int_equal(edge.calls, 1);
	assert_true(waitq_cancel(q, &before.w));
	assert_true(waitq_cancel(q, &after.w));
}

static void cancelled_waiter_is_not_called(void **state)
{
	struct waitq *q = *state;
	struct wait wt;

	wait_init(&wt, 3, 3, now_ns() + 3600 * NSEC);
	assert_int_equal(waitq_add(q, &wt.w), 0);
	assert_true(waitq_cancel(q, &wt.w));
	assert_false(waitq_cancel(q, &wt.w));
	waitq_wake(q, 0, 10);
	assert_int_equal(wt.calls, 0);
	assert_int_equal(waitq_nr(q), 0);
}

static void cancel_after_wake_says_too_late(void **state)
{
	struct waitq *q = *state;
	struct wait wt;

	wait_init(&wt, 3, 3, 0);
	assert_int_equal(waitq_add(q, &wt.w), 0);
	waitq_wake(q, 3, 1);
	assert_false(waitq_cancel(q, &wt.w));
	assert_int_equal(wt.calls, 1);
}

static void past_deadline_times_out_at_once(void **state)
{
	struct waitq *q = *state;
	struct wait wt, later;

	wait_init(&later, 1, 1, now_ns() + 3600 * NSEC);
	assert_int_equal(waitq_add(q, &later.w), 0);
	wait_init(&wt, 1, 1, 1);
	assert_int_equal(waitq_add(q, &wt.w), 0);
	until_called(&wt);
	assert_int_equal(wt.why, -ETIMEDOUT);
	assert_int_equal(later.calls, 0);
	assert_true(waitq_cancel(q, &later.w));
}

static uint64_t ended[NR_TIMED];
static _Atomic int nr_ended;

static void note_order(struct waiter *w, int why)
{
	if (atomic_load(&nr_ended) < NR_TIMED)
		ended[atomic_load(&nr_ended)] = w->deadline_ns;
	note(w, why);
	atomic_fetch_add(&nr_ended, 1);
}

static void deadlines_end_in_their_order_not_before(void **state)
{
	uint64_t start = now_ns() + 200000000, end = start + DEADLINE_S * NSEC;
	struct wait *wt = calloc(NR_TIMED, sizeof(*wt));
	struct waitq *q = *state;
	unsigned int seed = 5;
	int i, nr = 0;

	assert_non_null(wt);
	atomic_store(&nr_ended, 0);
	for (i = 0; i < NR_TIMED; i++) {
		wait_init(&wt[i], i, i, start + rand_r(&seed) % 30000000);
		wt[i].w.fn = note_order;
		assert_int_equal(waitq_add(q, &wt[i].w), 0);
	}
	for (i = 0; i < NR_TIMED; i++)
		nr += i % 3 && waitq_cancel(q, &wt[i].w) ? 0 : 1;
	while (atomic_load(&nr_ended) < nr) {
		assert_true(now_ns() < end);
		sched_yield();
	}
	assert_true(now_ns() >= ended[nr - 1]);
	for (i = 1; i < nr; i++)
		assert_true(ended[i - 1] <= ended[i]);
	assert_int_equal(waitq_nr(q), 0);
	free(wt);
}

static long nr_threads(void)
{
	FILE *f = fopen("/proc/self/status", "re");
	char line[128];
	long nr = -1;

	assert_non_null(f);
	while (nr < 0 && fgets(line, sizeof(line), f))
		if (!strncmp(line, "Threads:", 8))
			nr = strtol(line + 8, NULL, 10);
	fclose(f);
	return nr;
}

static void ten_thousand_waiters_need_no_thread_each(void **state)
{
	struct wait *wt = calloc(NR_MANY, sizeof(*wt));
	long before = nr_threads();
	struct waitq *q = *state;
	unsigned int seed = 4;
	int i;

	assert_non_null(wt);
	for (i = 0; i < NR_MANY; i++) {
		wait_init(&wt[i], i, i + 2,
			  i % 3 ? now_ns() + (3600ULL << 30) + rand_r(&seed)
				: 0);
		assert_int_equal(waitq_add(q, &wt[i].w), 0);
	}
	assert_int_equal(nr_threads(), before);
	assert_int_equal(waitq_nr(q), NR_MANY);
	for (i = 0; i < NR_MANY; i += 4)
		assert_true(waitq_cancel(q, &wt[i].w));
	waitq_wake(q, 0, NR_MANY + 2);
	assert_int_equal(waitq_nr(q), 0);
	for (i = 0; i < NR_MANY; i++)
		assert_int_equal(wt[i].calls, i % 4 ? 1 : 0);
	free(wt);
}

static struct waitq *again_q;

static void queue_again(struct waiter *w, int why)
{
	struct wait *wt = (struct wait *)w;

	note(w, why);
	if (wt->calls < 3)
		assert_int_equal(waitq_add(again_q, w), 0);
}

static void callback_may_queue_its_waiter_again(void **state)
{
	struct wait wt;
	int i;

	again_q = *state;
	wait_init(&wt, 0, 9, 0);
	wt.w.fn = queue_again;
	assert_int_equal(waitq_add(again_q, &wt.w), 0);
	for (i = 1; i <= 3; i++) {
		waitq_wake(again_q, 4, 1);
		assert_int_equal(wt.calls, i);
	}
	assert_int_equal(waitq_nr(again_q), 0);
}

/* Wake, cancel and deadline race for the same waiters. */
struct race {
	struct waitq *q;
	struct wait wt[NR_RACE];
	_Atomic int cancelled[NR_RACE];
	_Atomic int added;
};

static void *race_wake(void *arg)
{
	struct race *r = arg;
	int i;

	for (i = 0; i < NR_RACE; i++) {
		while (atomic_load(&r->added) <= i)
			sched_yield();
		waitq_wake(r->q, i, 1);
	}
	return NULL;
}

static void *race_cancel(void *arg)
{
	struct race *r = arg;
	int i;

	for (i = 0; i < NR_RACE; i++) {
		while (atomic_load(&r->added) <= i)
			sched_yield();
		if (waitq_cancel(r->q, &r->wt[i].w))
			atomic_store(&r->cancelled[i], 1);
	}
	return NULL;
}

static void each_waiter_ends_exactly_once_in_a_race(void **state)
{
	struct race *r = calloc(1, sizeof(*r));
	pthread_t waker, canceller;
	int i;

	assert_non_null(r);
	r->q = *state;
	assert_int_equal(pthread_create(&waker, NULL, race_wake, r), 0);
	assert_int_equal(pthread_create(&canceller, NULL, race_cancel, r), 0);
	for (i = 0; i < NR_RACE; i++) {
		wait_init(&r->wt[i], i, i,
			  i % 2 ? now_ns() + i % 32 * 1000ULL : 0);
		assert_int_equal(waitq_add(r->q, &r->wt[i].w), 0);
		atomic_store(&r->added, i + 1);
	}
	pthread_join(waker, NULL);
	pthread_join(canceller, NULL);
	assert_int_equal(waitq_nr(r->q), 0);
	for (i = 0; i < NR_RACE; i++) {
		if (!r->cancelled[i])
			until_called(&r->wt[i]);
		assert_int_equal(r->wt[i].calls + r->cancelled[i], 1);
	}
	free(r);
}

/* The lost wake-up: a page goes idle while its waiter is being queued. */
struct lost {
	struct waitq *q;
	_Atomic int round;
	_Atomic int page_refs;
};

static void *drop_each_round(void *arg)
{
	struct lost *l = arg;
	int round;

	for (round = 1; round <= NR_LOST; round++) {
		while (atomic_load(&l->round) < round)
			sched_yield();
		/* Release only: the queue must supply the rest. */
		atomic_fetch_sub_explicit(&l->page_refs, 1,
					  memory_order_release);
		waitq_wake(l->q, 77, 1);
	}
	return NULL;
}

static bool page_busy(struct lost *l)
{
	return atomic_load_explicit(&l->page_refs, memory_order_relaxed) != 0;
}

/* As every waiter must: queue, look, wait, look again. */
static void wait_until_idle(struct lost *l)
{
	struct wait wt;

	do {
		wait_init(&wt, 70, 80, 0);
		assert_int_equal(waitq_add(l->q, &wt.w), 0);
		if (page_busy(l) || !waitq_cancel(l->q, &wt.w))
			until_called(&wt);
	} while (page_busy(l));
}

static void no_wake_up_is_lost_while_queueing(void **state)
{
	struct lost l = {.q = *state};
	pthread_t dropper;
	int round;

	assert_int_equal(pthread_create(&dropper, NULL, drop_each_round, &l),
			 0);
	for (round = 1; round <= NR_LOST; round++) {
		atomic_store(&l.page_refs, 1);
		atomic_store(&l.round, round);
		wait_until_idle(&l);
	}
	pthread_join(dropper, NULL);
	assert_int_equal(waitq_nr(l.q), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wake_calls_overlapping_waiters_only),
		cmocka_unit_test(cancelled_waiter_is_not_called),
		cmocka_unit_test(cancel_after_wake_says_too_late),
		cmocka_unit_test(past_deadline_times_out_at_once),
		cmocka_unit_test(deadlines_end_in_their_order_not_before),
		cmocka_unit_test(ten_thousand_waiters_need_no_thread_each),
		cmocka_unit_test(callback_may_queue_its_waiter_again),
		cmocka_unit_test(each_waiter_ends_exactly_once_in_a_race),
		cmocka_unit_test(no_wake_up_is_lost_while_queueing),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
