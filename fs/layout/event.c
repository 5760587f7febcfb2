/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The events of a mapper: recalls to carry out and faults to ask for again.
 *
 * A recall stays on the mapper's list after it was delivered, until it is
 * acknowledged: that is how a late or repeated acknowledge is told from a
 * right one, and how the death of the mapper answers all it still owes.
 * Everything is guarded by layout->lock; the notification that wakes poll(2)
 * goes out after the lock is dropped, from a list of mappers kept for that.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <stdlib.h>

static void mark(struct mapper *m)
{
	struct layout *l = m->l;

	atomic_store(&m->has_events, true);
	if (m->notify_queued)
		return;
	m->notify_queued = true;
	m->notify_next = l->notify;
	l->notify = m;
}

int event_recall_locked(struct mapper *m, uint64_t first, uint64_t last,
			uint64_t break_id, bool hint)
{
	struct recall *r = calloc(1, sizeof(*r)), **tail;

	if (!r)
		return -ENOMEM;
	r->epoch = ++m->epoch;
	r->first = first;
	r->last = last;
	r->break_id = break_id;
	r->hint = hint;
	for (tail = &m->recalls; *tail; tail = &(*tail)->next)
		;
	*tail = r;
	if (!hint)
		atomic_fetch_add(&m->l->ls->c.recalls, 1);
	mark(m);
	return 0;
}

void event_drop_hints_locked(struct layout *l, uint64_t break_id)
{
	struct mapper *m;

	for (m = l->mappers; m; m = m->next) {
		struct recall **rp = &m->recalls, *r;

		while ((r = *rp) != NULL) {
			if (!r->hint || r->break_id != break_id) {
				rp = &r->next;
				continue;
			}
			*rp = r->next;
			free(r);
		}
	}
}

void event_retry_locked(struct queued_fault *q)
{
	struct mapper *m = q->m;

	q->next = NULL;
	*m->retries_tail = q;
	m->retries_tail = &q->next;
	mark(m);
}

void event_free_all_locked(struct mapper *m)
{
	struct layout *l = m->l;
	struct mapper **mp;
	struct recall *r;
	struct queued_fault *q;

	while ((r = m->recalls) != NULL) {
		m->recalls = r->next;
		free(r);
	}
	while ((q = m->retries) != NULL) {
		m->retries = q->next;
		free(q);
	}
	m->retries_tail = &m->retries;
	for (mp = &l->notify; *mp; mp = &(*mp)->notify_next)
		if (*mp == m) {
			*mp = m->notify_next;
			break;
		}
	m->notify_queued = false;
	atomic_store(&m->has_events, false);
}

void event_notify(struct layout *l)
{
	struct mapper *m;
	uint64_t fh = 0;

	do {
		pthread_mutex_lock(&l->lock);
		m = l->notify;
		if (m) {
			l->notify = m->notify_next;
			m->notify_queued = false;
			fh = m->who.fh;
		}
		pthread_mutex_unlock(&l->lock);
		if (m) /* only told apart from NULL: it may be gone by now */
			l->ls->ops->notify(l->ls, fh);
	} while (m);
}

static void fill_range(struct pindax_event *ev, uint64_t first, uint64_t last)
{
	ev->off = first * 4096;
	/* 0: to the end. A range that ends within 2^64 bytes fits. */
	ev->len = last >= (UINT64_MAX >> 12) ? 0 : (last - first + 1) * 4096;
}

static void take_events_locked(struct mapper *m, struct pindax_ioc_events *e)
{
	struct queued_fault *q;
	struct recall *r;

	for (r = m->recalls; r; r = r->next) {
		struct pindax_event *ev = &e->ev[e->nr];

		if (r->sent)
			continue;
		if (e->nr == PINDAX_EVENTS_MAX) {
			e->more = 1;
			return;
		}
		ev->kind = r->hint ? PINDAX_EVENT_HINT : PINDAX_EVENT_RECALL;
		ev->epoch = r->epoch;
		fill_range(ev, r->first, r->last);
		r->sent = true;
		e->nr++;
	}
	while ((q = m->retries) != NULL) {
		struct pindax_event *ev = &e->ev[e->nr];

		if (e->nr == PINDAX_EVENTS_MAX) {
			e->more = 1;
			return;
		}
		ev->kind = PINDAX_EVENT_RETRY;
		ev->ticket = q->ticket;
		fill_range(ev, q->first, q->last);
		e->nr++;
		m->retries = q->next;
		if (!m->retries)
			m->retries_tail = &m->retries;
		free(q);
	}
}

int mapper_events(struct mapper *m, struct pindax_ioc_events *e)
{
	uint64_t id = e->mapper;

	*e = (struct pindax_ioc_events){.mapper = id};
	pthread_mutex_lock(&m->l->lock);
	take_events_locked(m, e);
	if (!e->more)
		atomic_store(&m->has_events, false);
	pthread_mutex_unlock(&m->l->lock);
	return 0;
}

int mapper_ack(struct mapper *m, uint64_t epoch)
{
	struct layout *l = m->l;
	struct recall **rp, *r = NULL;
	bool wrote = false;

	pthread_mutex_lock(&l->lock);
	for (rp = &m->recalls; *rp; rp = &(*rp)->next)
		if ((*rp)->epoch == epoch && (*rp)->sent) {
			r = *rp;
			*rp = r->next;
			break;
		}
	if (r) {
		wrote = grant_clear_locked(m, r->first, r->last, epoch);
		if (!r->hint)
			break_acked_locked(l, r->break_id);
	}
	pthread_mutex_unlock(&l->lock);
	if (!r)
		return 0; /* late: the break is over, or the epoch is made up */
	if (wrote)
		l->ls->ops->touch(l);
	if (!r->hint)
		layout_run(l);
	free(r);
	return 0;
}
