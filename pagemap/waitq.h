/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_WAITQ_H
#define PINDAX_PAGEMAP_WAITQ_H

#include <stdbool.h>
#include <stdint.h>
#include "pagemap/itree.h"

/*
 * The pagemap-idle waitqueue. A waiter is an object with a callback, never a
 * sleeping thread; ten thousand of them are ten thousand small objects.
 * Caller owns the memory of the waiter until its callback has been called or
 * waitq_cancel() returned true.
 */
struct waitq;

struct waiter {
	struct itree_node node; /* pages [first, last] it waits for */
	/*
	 * Called exactly once, without the queue's lock. @why: 0 a page of the
	 * range went idle (look again: others may be busy still); -ETIMEDOUT.
	 * Runs in the thread that dropped the page, or in the timer's: it must
	 * be short and take no lock that a caller of page_put() may hold.
	 */
	void (*fn)(struct waiter *w, int why);
	uint64_t deadline_ns; /* CLOCK_MONOTONIC; 0: none */
	/* private, guarded by the queue's lock */
	unsigned int heap_pos;
	bool queued;
};

int waitq_create(struct waitq **ret_q);
/* No waiter may be queued any more. NULL is fine. */
void waitq_destroy(struct waitq *q);

/*
 * waitq_add - queue @w. The caller looks at its pages AGAIN after this returns
 * and, if they are idle now, cancels: this order is what makes a lost wake-up
 * impossible (partner: the decrement to idle before waitq_wake()).
 * -ENOMEM: not queued.
 */
int waitq_add(struct waitq *q, struct waiter *w);
/* true: taken off, fn will not be called. false: fn was or is being called. */
bool waitq_cancel(struct waitq *q, struct waiter *w);
/* Wakes every waiter whose range holds a page of [first, first + nr). */
void waitq_wake(struct waitq *q, uint64_t first, uint64_t nr);
uint64_t waitq_nr(struct waitq *q);

#endif
