// SPDX-License-Identifier: BSD-3-Clause
/*
 * The waitqueue of pages that shall go idle.
 *
 * Owns: which waiters are queued, and the one thread that ends waits whose
 * deadline has passed. Not: the waiters' memory, nor the pages' counts: a
 * waiter that is woken looks at its pages itself.
 * Invariant: a waiter is in the tree exactly while w->queued, and in the heap
 * exactly while it is queued and has a deadline. Whoever takes it off the
 * queue under the lock (wake, timer, cancel) is the only one to decide whether
 * fn is called, so it is called once or never.
 * Locks: q->lock is a leaf: no other lock is taken and no callback runs under
 * it. See docs/LOCKING.md.
 * Read: "Who waits" in docs/ARCHITECTURE.md.
 */
#include "pagemap/waitq.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

struct waitq {
	/* Changed under lock, also read without it: see waitq_wake(). */
	_Atomic uint64_t nr;
	pthread_mutex_t lock;
	pthread_cond_t timer_wake;
	pthread_t timer;
	struct itree tree;    /* guarded by lock */
	struct waiter **heap; /* guarded by lock; min-heap from index 1 */
	unsigned int heap_nr; /* guarded by lock */
	unsigned int heap_max;
	bool stop; /* guarded by lock */
};

/* A binary heap of deadlines. Index 0 is unused: heap_pos 0 is "not in it". */

static void heap_set_locked(struct waitq *q, unsigned int pos, struct waiter *w)
{
	q->heap[pos] = w;
	w->heap_pos = pos;
}

static void heap_up_locked(struct waitq *q, unsigned int pos, struct waiter *w)
{
	for (; pos > 1 && q->heap[pos / 2]->deadline_ns > w->deadline_ns;
	     pos /= 2)
		heap_set_locked(q, pos, q->heap[pos / 2]);
	heap_set_locked(q, pos, w);
}

static void heap_down_locked(struct waitq *q, unsigned int pos,
			     struct waiter *w)
{
	unsigned int child;

	for (; (child = pos * 2) <= q->heap_nr; pos = child) {
		if (child < q->heap_nr && q->heap[child + 1]->deadline_ns <
						  q->heap[child]->deadline_ns)
			child++;
		if (q->heap[child]->deadline_ns >= w->deadline_ns)
			break;
		heap_set_locked(q, pos, q->heap[child]);
	}
	heap_set_locked(q, pos, w);
}

static int heap_add_locked(struct waitq *q, struct waiter *w)
{
	if (q->heap_nr + 1 >= q->heap_max) {
		unsigned int max = q->heap_max ? q->heap_max * 2 : 64;
		struct waiter **heap;

		heap = reallocarray(q->heap, max, sizeof(struct waiter *));
		if (!heap)
			return -ENOMEM;
		q->heap = heap;
		q->heap_max = max;
	}
	heap_up_locked(q, ++q->heap_nr, w);
	return 0;
}

static void heap_del_locked(struct waitq *q, struct waiter *w)
{
	unsigned int pos = w->heap_pos;
	struct waiter *tail = q->heap[q->heap_nr--];

	w->heap_pos = 0;
	if (tail == w)
		return;
	if (pos > 1 && q->heap[pos / 2]->deadline_ns > tail->deadline_ns)
		heap_up_locked(q, pos, tail);
	else
		heap_down_locked(q, pos, tail);
}

static void take_off_locked(struct waitq *q, struct waiter *w)
{
	itree_remove(&q->tree, &w->node);
	if (w->heap_pos)
		heap_del_locked(q, w);
	w->queued = false;
	atomic_fetch_sub_explicit(&q->nr, 1, memory_order_acq_rel);
}

static struct waiter *waiter_of(struct itree_node *n)
{
	return (void *)((char *)n - offsetof(struct waiter, node));
}

static uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

static void *timer_main(void *arg)
{
	struct waitq *q = arg;

	pthread_mutex_lock(&q->lock);
	while (!q->stop) {
		struct waiter *w = q->heap_nr ? q->heap[1] : NULL;
		struct timespec ts;

		if (!w) {
			pthread_cond_wait(&q->timer_wake, &q->lock);
			continue;
		}
		if (w->deadline_ns > now_ns()) {
			ts.tv_sec = (time_t)(w->deadline_ns / 1000000000ULL);
			ts.tv_nsec = (long)(w->deadline_ns % 1000000000ULL);
			/* any return: look at the heap again */
			(void)pthread_cond_timedwait(&q->timer_wake, &q->lock,
						     &ts);
			continue;
		}
		take_off_locked(q, w);
		pthread_mutex_unlock(&q->lock);
		w->fn(w, -ETIMEDOUT);
		pthread_mutex_lock(&q->lock);
	}
	pthread_mutex_unlock(&q->lock);
	return NULL;
}

static int timer_start(struct waitq *q)
{
	sigset_t all, old;
	int rc;

	/* The program's signals are for its own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&q->timer, NULL, timer_main, q);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -rc;
}

int waitq_create(struct waitq **ret_q)
{
	struct waitq *q = calloc(1, sizeof(*q));
	pthread_condattr_t attr;
	int rc;

	if (!q)
		return -ENOMEM;
	pthread_mutex_init(&q->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&q->timer_wake, &attr);
	pthread_condattr_destroy(&attr);
	rc = timer_start(q);
	if (rc)
		goto out_free;
	*ret_q = q;
	return 0;

out_free:
	pthread_cond_destroy(&q->timer_wake);
	pthread_mutex_destroy(&q->lock);
	free(q);
	return rc;
}

void waitq_destroy(struct waitq *q)
{
	if (!q)
		return;
	pthread_mutex_lock(&q->lock);
	q->stop = true;
	pthread_cond_signal(&q->timer_wake);
	pthread_mutex_unlock(&q->lock);
	pthread_join(q->timer, NULL);
	assert(q->tree.nr == 0);
	pthread_cond_destroy(&q->timer_wake);
	pthread_mutex_destroy(&q->lock);
	free(q->heap);
	free(q);
}

int waitq_add(struct waitq *q, struct waiter *w)
{
	int rc = 0;

	pthread_mutex_lock(&q->lock);
	w->heap_pos = 0;
	if (w->deadline_ns)
		rc = heap_add_locked(q, w);
	if (rc)
		goto out_unlock;
	itree_insert(&q->tree, &w->node);
	w->queued = true;
	if (w->heap_pos == 1)
		pthread_cond_signal(&q->timer_wake);
	/* Partner: the read-modify-write of nr in waitq_wake(). */
	atomic_fetch_add_explicit(&q->nr, 1, memory_order_acq_rel);
out_unlock:
	pthread_mutex_unlock(&q->lock);
	return rc;
}

bool waitq_cancel(struct waitq *q, struct waiter *w)
{
	bool queued;

	pthread_mutex_lock(&q->lock);
	queued = w->queued;
	if (queued)
		take_off_locked(q, w);
	pthread_mutex_unlock(&q->lock);
	return queued;
}

void waitq_wake(struct waitq *q, uint64_t first, uint64_t nr)
{
	struct itree_node *n, *list = NULL, **tail = &list;

	assert(nr > 0 && first <= UINT64_MAX - (nr - 1));
	/*
	 * With nobody queued, no lock. It must be a read-modify-write: either
	 * it comes after the one in waitq_add() and sees the waiter, or it
	 * comes before, and then the waiter's look at its pages after
	 * waitq_add() sees the decrement to idle that came before us. A plain
	 * load could miss the waiter while it misses the decrement.
	 */
	if (!atomic_fetch_add_explicit(&q->nr, 0, memory_order_acq_rel))
		return;

	pthread_mutex_lock(&q->lock);
	while ((n = itree_first(&q->tree, first, first + (nr - 1)))) {
		take_off_locked(q, waiter_of(n));
		/* Off the tree its links are ours, until fn is called. */
		n->right = NULL;
		*tail = n;
		tail = &n->right;
	}
	pthread_mutex_unlock(&q->lock);

	while (list) {
		n = list;
		list = n->right;
		waiter_of(n)->fn(waiter_of(n), 0);
	}
}

uint64_t waitq_nr(struct waitq *q)
{
	return atomic_load_explicit(&q->nr, memory_order_relaxed);
}
