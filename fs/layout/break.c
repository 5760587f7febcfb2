/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Breaks: how an operation that takes blocks away waits its turn.
 *
 * The proof that no block gets a new owner while somebody may still use it, in
 * the order of the code (docs/PROTOCOL.md has the rules):
 *  DRAIN   new pins over the range queue, so the set of pins can only shrink.
 *          Every page is looked at; while one is busy a waiter is armed on it
 *          and the pages are looked at AGAIN after that, so a page that went
 *          idle in between is not missed (partner: waitq_wake() after the
 *          decrement).
 *  SEAL    begins under the same layout->lock and inode lock under which the
 *          pages were seen idle. From here faults queue too, so the set of
 *          leases can only shrink; each holder is told and acknowledges after
 *          it has unmapped.
 *  COMMIT  takes the inode's lock exclusively and looks at the pages once
 *          more; a pin found now sends the break back to DRAIN.
 *
 * One thread at a time runs the breaks of a layout (layout->running). Nothing
 * here sleeps: a break that must wait stays on the list until layout_run() is
 * called again, by an acknowledge, an unpin, a deadline, a cancel or a death.
 *
 * Locks: inode (shared to look, exclusive to commit), then layout->lock.
 * done() is called without any.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <stdlib.h>

/* Breaks taken off the list, to be completed without locks. */
struct done_list {
	struct break_req *head, **tail;
};

static void done_add(struct done_list *d, struct break_req *b, int err)
{
	b->cancel_err = err;
	b->next = NULL;
	*d->tail = b;
	d->tail = &b->next;
}

static bool overlaps(const struct break_req *b, uint64_t first, uint64_t last)
{
	return ranges_overlap(b->first, range_last(b->first, b->nr), first,
			      last);
}

struct break_req *break_blocks_fault_locked(struct layout *l, uint64_t first,
					    uint64_t last)
{
	struct break_req *b, *lowest = NULL;

	for (b = l->breaks; b; b = b->next) {
		/* a fill's faults wait for it from the start */
		if (b->phase < PHASE_SEAL && b->op != BREAK_FILL)
			continue;
		if (overlaps(b, first, last) &&
		    (!lowest || b->first < lowest->first))
			lowest = b;
	}
	return lowest;
}

struct break_req *break_blocks_pin_locked(struct layout *l, uint64_t first,
					  uint64_t last)
{
	struct break_req *b;

	for (b = l->breaks; b; b = b->next)
		if (b->op != BREAK_FILL && overlaps(b, first, last))
			return b;
	return NULL;
}

void break_acked_locked(struct layout *l, uint64_t break_id)
{
	struct break_req *b;

	for (b = l->breaks; b; b = b->next)
		if (b->id == break_id && b->acks_missing) {
			b->acks_missing--;
			return;
		}
}

bool break_cancel_locked(struct layout *l, uint64_t id, int err)
{
	struct break_req *b;

	for (b = l->breaks; b; b = b->next)
		if (b->id == id) {
			if (!b->cancel_err)
				b->cancel_err = err;
			return true;
		}
	return false;
}

/* Takes @b off the list. The caller completes it without locks. */
static void unlink_locked(struct layout *l, struct break_req *b)
{
	struct break_req **bp = &l->breaks;

	if (b->hinted)
		event_drop_hints_locked(l, b->id);
	while (*bp != b)
		bp = &(*bp)->next;
	*bp = b->next;
	if (!*bp)
		l->breaks_tail = bp;
}

/* --- looking at pages --- */

struct busy_walk {
	struct dev_pagemap *map;
	uint64_t page, nr;
};

static int busy_extent(uint64_t lblk, uint64_t pool_page, uint64_t nr,
		       void *arg)
{
	struct busy_walk *w = arg;

	(void)lblk;
	return pages_first_busy(w->map, pool_page, nr, &w->page, &w->nr);
}

/* Inode lock held. 1: busy, the run is in @w; 0 idle; -errno of the media. */
static int find_busy(struct break_req *b, struct busy_walk *w)
{
	struct layouts *ls = b->layout->ls;

	if (b->op == BREAK_FILL || ls->cfg.policy == PINNED_UNSAFE)
		return 0;
	w->map = ls->cfg.map;
	return ls->ops->walk(b->layout, b->first, b->nr, busy_extent, w);
}

/* --- one step of each phase; inode lock (shared) and layout->lock held.
 * Return 0 stay, 1 look again at once, -errno the break ends with it. --- */

static bool predecessor_locked(struct layout *l, const struct break_req *b)
{
	struct break_req *p;

	for (p = l->breaks; p != b; p = p->next) {
		if (!overlaps(p, b->first, range_last(b->first, b->nr)))
			continue;
		/* a fill takes no blocks away: pins that others wait for are
		 * nothing to it (writes go on while a break drains) */
		if (b->op != BREAK_FILL || p->phase >= PHASE_SEAL)
			return true;
	}
	return false;
}

static int park(struct break_req *b, uint64_t page, uint64_t nr,
		uint64_t deadline_ns)
{
	if (!b->waited) {
		b->waited = true;
		atomic_fetch_add(&b->layout->ls->c.breaks_waited, 1);
	}
	return idle_wait_arm(b->layout, page, nr, deadline_ns, &b->wait);
}

static void unpark(struct break_req *b)
{
	idle_wait_disarm(b->layout, b->wait);
	b->wait = NULL;
}

static int step_queued(struct break_req *b)
{
	if (!predecessor_locked(b->layout, b)) {
		unpark(b);
		b->phase = PHASE_DRAIN;
		return 1;
	}
	/* the one before wakes it; this is for its deadline only */
	if (!b->wait)
		return park(b, 0, 0, b->deadline_ns);
	return 0;
}

/*
 * One recall (or hint) a mapper, however many grants overlap. *ret_nr: how
 * many were asked.
 */
static int recall_all(struct break_req *b, bool hint, unsigned int *ret_nr)
{
	struct layout *l = b->layout;
	uint64_t last = range_last(b->first, b->nr);
	uint64_t round = layouts_new_id(l->ls); /* it may seal more than once */
	struct itree_node *n;
	int err;

	for (n = itree_first(&l->grants, b->first, last); n;
	     n = itree_next(n, b->first, last)) {
		struct grant *g = container_of(n, struct grant, node);

		if (g->m->recalled_in == round ||
		    (b->op == BREAK_FILL && g->kind == PINDAX_GRANT_BLOCKS))
			continue;
		err = event_recall_locked(g->m, b->first, last, b->id, hint);
		if (err)
			return err;
		g->m->recalled_in = round;
		++*ret_nr;
	}
	return 0;
}

/*
 * It is going to wait for pins: who maps the range is told now, and may zap
 * meanwhile what it does not touch. Then the recall that follows the last unpin
 * has nobody to wait for. Only a hint: a holder that touches its pages faults
 * them in again as ever.
 */
static void hint_all(struct break_req *b)
{
	unsigned int nr = 0;

	if (b->hinted)
		return;
	b->hinted = true;
	/* without memory for it: it would only have saved time */
	(void)recall_all(b, true, &nr);
}

static int step_drain(struct break_req *b)
{
	struct layouts *ls = b->layout->ls;
	struct busy_walk w;
	int err, busy;

	unpark(b);
	busy = find_busy(b, &w);
	if (busy < 0)
		return busy;
	if (busy && ls->cfg.policy == PINNED_FAIL && b->op != BREAK_ORPHAN)
		return -ETXTBSY;
	if (busy) {
		err = park(b, w.page, w.nr, b->deadline_ns);
		if (err)
			return err;
		/*
		 * Look again at what is waited for, not at the whole range: if
		 * this run went idle before it was armed and another is busy,
		 * nobody would wake us for the other.
		 */
		if (pages_first_busy(w.map, w.page, w.nr, &w.page, &w.nr)) {
			hint_all(b);
			return 0;
		}
		unpark(b);
		return 1;
	}
	b->phase = PHASE_SEAL;
	b->acks_missing = 0;
	b->seal_deadline_ns =
		b->op == BREAK_ORPHAN
			? 0
			: layout_now_ns() + ls->cfg.recall_timeout_ms * 1000000;
	err = recall_all(b, false, &b->acks_missing);
	return err ? err : 1;
}

static int step_seal(struct break_req *b)
{
	struct busy_walk w;
	int busy;

	if (b->acks_missing) {
		if (b->seal_deadline_ns &&
		    layout_now_ns() >= b->seal_deadline_ns)
			return -ETIMEDOUT;
		if (!b->wait && b->seal_deadline_ns)
			return park(b, 0, 0, b->seal_deadline_ns);
		return 0;
	}
	unpark(b);
	busy = find_busy(b, &w);
	if (busy < 0)
		return busy;
	b->phase = busy ? PHASE_DRAIN : PHASE_COMMIT;
	return 1;
}

static int step(struct break_req *b)
{
	if (b->phase == PHASE_COMMIT)
		return 0;
	if (b->cancel_err)
		return b->cancel_err;
	if (b->phase < PHASE_SEAL && b->deadline_ns &&
	    layout_now_ns() >= b->deadline_ns)
		return -ETIMEDOUT;
	switch (b->phase) {
	case PHASE_QUEUED:
		return step_queued(b);
	case PHASE_DRAIN:
		return step_drain(b);
	case PHASE_SEAL:
		return step_seal(b);
	default: /* RESERVED: only its deadline ends it here */
		return layout_now_ns() >= b->seal_deadline_ns ? -ETIMEDOUT : 0;
	}
}

/* --- the ends of a break; no lock held --- */

static void count_end(struct layouts *ls, int err)
{
	if (err == -EINTR)
		atomic_fetch_add(&ls->c.interrupted, 1);
	else if (err == -ETIMEDOUT)
		atomic_fetch_add(&ls->c.timed_out, 1);
}

static void complete(struct break_req *b, int err)
{
	struct layout *l = b->layout;
	struct layouts *ls = l->ls;

	if (b->phase == PHASE_RESERVED) {
		/* a copy of ours: nobody waits for it any more */
		reserve_unregister(ls, b->fh, l);
		free(b);
	} else {
		count_end(ls, err);
		wait_unregister(ls, b->id, l);
		b->done(b, err);
	}
	ls->ops->put(l);
}

static void complete_all(struct done_list *d)
{
	struct break_req *b, *next;

	for (b = d->head; b; b = next) {
		next = b->next;
		complete(b, b->cancel_err);
	}
}

/*
 * A BREAK ioctl got its range: a copy of the request holds it, so that new
 * pins and faults go on queueing until the system call that follows.
 */
static int reserve_locked(struct break_req *b)
{
	struct layout *l = b->layout;
	struct break_req *r = malloc(sizeof(*r));
	struct break_req **bp;
	int err;

	if (!r)
		return -ENOMEM;
	*r = *b;
	r->id = layouts_new_id(l->ls);
	r->hinted = false;
	r->phase = PHASE_RESERVED;
	r->wait = NULL;
	r->seal_deadline_ns = layout_now_ns() + PINDAX_RESERVE_MS * 1000000ULL;
	err = reserve_register(l->ls, r->fh, l);
	if (err) {
		free(r);
		return err;
	}
	err = idle_wait_arm(l, 0, 0, r->seal_deadline_ns, &r->wait);
	if (err) {
		reserve_unregister(l->ls, r->fh, l);
		free(r);
		return err;
	}
	l->ls->ops->get(l);
	for (bp = &l->breaks; *bp != b; bp = &(*bp)->next)
		;
	r->next = b->next;
	b->next = r; /* unlink_locked(b) leaves r in its place */
	if (!r->next)
		l->breaks_tail = &r->next;
	return 0;
}

/* @b is in COMMIT: nobody else touches it but to look. No lock held. */
static void commit(struct break_req *b)
{
	struct layout *l = b->layout;
	const struct layout_ops *ops = l->ls->ops;
	struct busy_walk w;
	int err;

	ops->lock(l, true);
	pthread_mutex_lock(&l->lock);
	err = find_busy(b, &w);
	if (err > 0) {
		b->phase = PHASE_DRAIN;
		l->again = true;
		pthread_mutex_unlock(&l->lock);
		ops->unlock(l, true);
		return;
	}
	pthread_mutex_unlock(&l->lock);
	if (!err && b->commit)
		err = b->commit(b);
	pthread_mutex_lock(&l->lock);
	if (!err && !b->commit)
		err = reserve_locked(b);
	unlink_locked(l, b);
	pthread_mutex_unlock(&l->lock);
	ops->unlock(l, true);
	complete(b, err);
}

/* --- running a layout --- */

static void release_faults_locked(struct layout *l)
{
	struct queued_fault **qp = &l->queued_faults, *q;

	while ((q = *qp) != NULL) {
		struct break_req *b =
			break_blocks_fault_locked(l, q->first, q->last);

		if (b && b->first <= q->first) {
			qp = &q->next;
			continue;
		}
		*qp = q->next;
		event_retry_locked(q);
	}
}

/* Looks at every break once; true when one of them moved. */
static bool pass(struct layout *l, struct break_req **ret_commit)
{
	struct done_list done = {.tail = &done.head};
	struct break_req *b, *next;
	bool moved = false;
	int r;

	*ret_commit = NULL;
	l->ls->ops->lock(l, false);
	pthread_mutex_lock(&l->lock);
	for (b = l->breaks; b; b = next) {
		next = b->next;
		do {
			r = step(b);
			moved |= r != 0;
		} while (r > 0 && b->phase != PHASE_COMMIT);
		if (r < 0) {
			unpark(b);
			unlink_locked(l, b);
			done_add(&done, b, r);
		} else if (b->phase == PHASE_COMMIT && !*ret_commit) {
			*ret_commit = b;
		}
	}
	release_faults_locked(l);
	pthread_mutex_unlock(&l->lock);
	l->ls->ops->unlock(l, false);
	event_notify(l);
	complete_all(&done);
	return moved;
}

static bool leave(struct layout *l)
{
	bool stop;

	pthread_mutex_lock(&l->lock);
	stop = !l->again;
	if (stop)
		l->running = false;
	l->again = false;
	pthread_mutex_unlock(&l->lock);
	return stop;
}

void layout_run(struct layout *l)
{
	struct break_req *b;
	bool moved;

	pthread_mutex_lock(&l->lock);
	if (l->running) {
		l->again = true;
		pthread_mutex_unlock(&l->lock);
		return;
	}
	l->running = true;
	pthread_mutex_unlock(&l->lock);
	/* a done() may drop what else keeps the inode */
	l->ls->ops->get(l);
	do {
		do {
			moved = pass(l, &b);
			if (b) {
				commit(b);
				moved = true;
			}
			moved |= pin_retry_queued(l);
		} while (moved);
	} while (!leave(l));
	l->ls->ops->put(l);
}

/* --- entry --- */

/*
 * The system call after a BREAK ioctl: a reservation of the same process that
 * covers the range lets it commit at once; one that covers only part of it is
 * given up, or the process would wait for itself.
 */
static void adopt_locked(struct layout *l, struct break_req *b,
			 struct done_list *done)
{
	uint64_t last = range_last(b->first, b->nr);
	struct break_req **rp = &l->breaks, *r;

	while ((r = *rp) != NULL) {
		if (r->phase != PHASE_RESERVED || !b->tgid ||
		    r->tgid != b->tgid || !overlaps(r, b->first, last)) {
			rp = &r->next;
			continue;
		}
		unpark(r);
		*rp = r->next;
		if (!*rp)
			l->breaks_tail = rp;
		if (b->phase != PHASE_COMMIT && r->first <= b->first &&
		    range_last(r->first, r->nr) >= last) {
			/* in its place: what queued behind it stays behind */
			b->phase = PHASE_COMMIT;
			b->next = *rp;
			*rp = b;
			rp = &b->next;
			if (!b->next)
				l->breaks_tail = rp;
		}
		done_add(done, r, 0);
	}
}

void layout_break(struct break_req *b)
{
	struct done_list done = {.tail = &done.head};
	struct layout *l = b->layout;
	struct layouts *ls = l->ls;
	uint64_t ms = b->timeout_ms ? b->timeout_ms : ls->cfg.pin_timeout_ms;
	int err;

	b->since_ns = layout_now_ns();
	b->deadline_ns = ms && b->op != BREAK_ORPHAN && b->op != BREAK_FILL
				 ? b->since_ns + ms * 1000000
				 : 0;
	b->phase = PHASE_QUEUED;
	b->acks_missing = 0;
	b->wait = NULL;
	b->waited = b->hinted = false;
	b->cancel_err = 0;
	b->next = NULL;
	atomic_fetch_add(&ls->c.breaks, 1);
	err = wait_register(ls, b->id, l);
	if (err) {
		b->done(b, err);
		return;
	}
	ls->ops->get(l);
	pthread_mutex_lock(&l->lock);
	adopt_locked(l, b, &done);
	if (b->phase != PHASE_COMMIT) {
		*l->breaks_tail = b;
		l->breaks_tail = &b->next;
	}
	pthread_mutex_unlock(&l->lock);
	complete_all(&done);
	layout_run(l);
}

void break_unreserve(struct layout *l, uint64_t fh)
{
	struct done_list done = {.tail = &done.head};
	struct break_req *b, *next;

	pthread_mutex_lock(&l->lock);
	for (b = l->breaks; b; b = next) {
		next = b->next;
		if (b->phase != PHASE_RESERVED || b->fh != fh)
			continue;
		unpark(b);
		unlink_locked(l, b);
		done_add(&done, b, 0);
	}
	pthread_mutex_unlock(&l->lock);
	complete_all(&done);
	layout_run(l);
}
