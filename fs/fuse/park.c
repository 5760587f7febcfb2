// SPDX-License-Identifier: BSD-3-Clause
/*
 * Parked requests and FUSE_INTERRUPT.
 *
 * The kernel sends one interrupt for a request and then waits, unkillable,
 * until it is answered: none may be lost. libfuse may call back at any time
 * until the reply, in any thread, with a lock of its own held; the operation
 * may be over by then, so the callback gets a number, never a pointer.
 *
 * The race: an interrupt before the operation has reached fs/layout finds
 * nothing to cancel there. It is noted here, and park_submitted() cancels then.
 * An operation that ended meanwhile is not in the table any more, and its
 * number is never used again.
 * Locks: the table's, a leaf. Nothing is called with it held.
 */
#include <errno.h>
#include "fs/fuse/daemon.h"

#define BUCKETS 1024U

static struct {
	pthread_mutex_t lock;
	struct park *bucket[BUCKETS];
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct park **find_locked(uint64_t id)
{
	struct park **p = &table.bucket[id % BUCKETS];

	while (*p && (*p)->id != id)
		p = &(*p)->next;
	return p;
}

static void interrupt_cb(fuse_req_t req, void *data)
{
	uint64_t id = (uint64_t)(uintptr_t)data;
	struct server *s = server_of(req);
	struct park *p;

	pthread_mutex_lock(&table.lock);
	p = *find_locked(id);
	if (p)
		p->interrupted = true;
	pthread_mutex_unlock(&table.lock);
	if (p)
		layouts_cancel(fs_layouts(s->fs), id, -EINTR);
}

void park_begin(struct park *p, fuse_req_t req, uint64_t id)
{
	struct park **b = &table.bucket[id % BUCKETS];

	p->req = req;
	p->id = id;
	p->interrupted = false;
	pthread_mutex_lock(&table.lock);
	p->next = *b;
	*b = p;
	pthread_mutex_unlock(&table.lock);
	fuse_req_interrupt_func(req, interrupt_cb, (void *)(uintptr_t)id);
}

void park_end(struct park *p)
{
	struct park **at;

	pthread_mutex_lock(&table.lock);
	at = find_locked(p->id);
	*at = p->next;
	pthread_mutex_unlock(&table.lock);
}

void park_submitted(struct fs *fs, uint64_t id)
{
	struct park *p;
	bool cancel;

	pthread_mutex_lock(&table.lock);
	p = *find_locked(id);
	cancel = p && p->interrupted;
	pthread_mutex_unlock(&table.lock);
	if (cancel)
		layouts_cancel(fs_layouts(fs), id, -EINTR);
}
