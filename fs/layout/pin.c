/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pins by ioctl: page references with a name on them.
 *
 * A pin takes one reference on every page of its range and is recorded with
 * its mapper, so that whoever waits can be told for whom. It is granted under
 * the inode's lock and layout->lock, where a break looks at the pages too: a
 * break that found its pages idle there and sealed the range will not see a new
 * pin.
 *
 * While a break drains, new pins over its range queue (or pins handed from one
 * to the next would starve it), except inside a range that the same mapper pins
 * already: that break waits for the first pin anyhow, and a thread that pins
 * twice must not wait for itself.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <stdlib.h>

static void pin_link_locked(struct mapper *m, struct pin_rec *p)
{
	struct layouts *ls = m->l->ls;

	p->m = m;
	p->next = m->pins;
	p->pprev = &m->pins;
	if (p->next)
		p->next->pprev = &p->next;
	m->pins = p;
	itree_insert(&m->l->pins, &p->node);
	pthread_mutex_lock(&ls->lock);
	idmap_add(&ls->pins, &p->idnode);
	pthread_mutex_unlock(&ls->lock);
	atomic_fetch_add(&ls->c.pins, 1);
	atomic_fetch_add(&ls->c.pinned_pages, p->nr_pages);
}

static void pin_unlink_locked(struct pin_rec *p)
{
	struct layouts *ls = p->m->l->ls;

	itree_remove(&p->m->l->pins, &p->node);
	*p->pprev = p->next;
	if (p->next)
		p->next->pprev = p->pprev;
	pthread_mutex_lock(&ls->lock);
	idmap_del(&ls->pins, &p->idnode);
	pthread_mutex_unlock(&ls->lock);
	atomic_fetch_sub(&ls->c.pins, 1);
	atomic_fetch_sub(&ls->c.pinned_pages, p->nr_pages);
}

struct pin_rec *pin_detach_all_locked(struct mapper *m)
{
	struct pin_rec *list = NULL, *p;

	while ((p = m->pins) != NULL) {
		pin_unlink_locked(p);
		p->next = list;
		list = p;
	}
	return list;
}

void pin_drop_list(struct layouts *ls, struct pin_rec *list)
{
	unsigned int i;

	ready_section_enter();
	while (list) {
		struct pin_rec *p = list;

		list = p->next;
		for (i = 0; i < p->nr_runs; i++)
			pages_put(ls->cfg.map, p->run[i].first, p->run[i].nr);
		free(p);
	}
	ready_section_leave(ls);
}

/* Is the range inside one pin of this mapper? */
static bool contained_locked(struct mapper *m, uint64_t first, uint64_t last)
{
	struct itree_node *n;

	for (n = itree_first(&m->l->pins, first, first); n;
	     n = itree_next(n, first, first))
		if (container_of(n, struct pin_rec, node)->m == m &&
		    n->last >= last)
			return true;
	return false;
}

static bool thread_pins_locked(struct layout *l, pid_t tid, uint64_t first,
			       uint64_t last)
{
	struct itree_node *n;

	for (n = itree_first(&l->pins, first, last); n;
	     n = itree_next(n, first, last))
		if (container_of(n, struct pin_rec, node)->tid == tid)
			return true;
	return false;
}

struct run_walk {
	struct pin_rec *p;
	unsigned int cap;
	uint64_t next;
	struct layout *l;
};

static int pin_extent(uint64_t lblk, uint64_t pool_page, uint64_t nr, void *arg)
{
	struct run_walk *w = arg;
	struct pin_rec *p = w->p;
	int err;

	if (lblk != w->next)
		return -ENODATA;
	/* the pages may be a device's target without any lease before */
	err = w->l->ls->ops->mark_mapped(w->l, pool_page, nr);
	if (err)
		return err;
	w->next = lblk + nr;
	if (p->nr_runs &&
	    p->run[p->nr_runs - 1].first + p->run[p->nr_runs - 1].nr ==
		    pool_page) {
		p->run[p->nr_runs - 1].nr += nr;
		return 0;
	}
	if (p->nr_runs == w->cap) {
		unsigned int cap = w->cap * 2;

		p = realloc(p, sizeof(*p) + cap * sizeof(p->run[0]));
		if (!p)
			return -ENOMEM;
		w->p = p;
		w->cap = cap;
	}
	p->run[p->nr_runs++] = (struct pool_run){pool_page, nr};
	return 0;
}

/* Inode lock held: the pages of the range, no reference taken yet. */
static int pin_collect(struct pin_req *r, struct pin_rec **ret_p)
{
	struct layout *l = r->mapper->l;
	struct run_walk w = {.cap = 4, .next = r->first, .l = l};
	int err;

	if (range_last(r->first, r->nr) >= l->ls->ops->size_pages(l))
		return -ENXIO;
	w.p = calloc(1, sizeof(*w.p) + w.cap * sizeof(w.p->run[0]));
	if (!w.p)
		return -ENOMEM;
	err = l->ls->ops->walk(l, r->first, r->nr, pin_extent, &w);
	if (!err && w.next != r->first + r->nr)
		err = -ENODATA;
	if (err) {
		free(w.p);
		return err;
	}
	w.p->node.first = r->first;
	w.p->node.last = r->first + r->nr - 1;
	w.p->flags = r->flags;
	w.p->tid = r->tid;
	w.p->nr_pages = r->nr;
	*ret_p = w.p;
	return 0;
}

static int pin_get_pages(struct layouts *ls, struct pin_rec *p)
{
	unsigned int i;
	int err;

	for (i = 0; i < p->nr_runs; i++) {
		err = pages_try_get(ls->cfg.map, p->run[i].first, p->run[i].nr);
		if (err)
			goto out_put;
	}
	return 0;

out_put:
	while (i-- > 0)
		pages_put(ls->cfg.map, p->run[i].first, p->run[i].nr);
	return err;
}

#define PIN_QUEUED 1

/* layout->lock held. 0 go on, PIN_QUEUED must wait, or an error. */
static int pin_admit_locked(struct pin_req *r, bool fresh)
{
	struct mapper *m = r->mapper;
	uint64_t last = r->first + r->nr - 1;
	struct break_req *b;

	if (m->dead)
		return -ENOENT;
	if (r->cancel_err)
		return r->cancel_err;
	b = break_blocks_pin_locked(m->l, r->first, last);
	if (!b || contained_locked(m, r->first, last))
		return 0;
	if (r->flags & PINDAX_PIN_NOWAIT)
		return -EAGAIN;
	/* a parked thread takes no more pins: one look is enough */
	if (fresh && thread_pins_locked(m->l, r->tid, b->first,
					range_last(b->first, b->nr)))
		return -EDEADLK;
	return PIN_QUEUED;
}

static int pin_park_locked(struct pin_req *r)
{
	struct layout *l = r->mapper->l;
	int err = wait_register(l->ls, r->id, l);

	if (err)
		return err; /* nobody could interrupt it: do not park */
	r->next = NULL;
	*l->queued_pins_tail = r;
	l->queued_pins_tail = &r->next;
	return PIN_QUEUED;
}

/* One attempt. PIN_QUEUED: a fresh request was parked, a parked one stays. */
static int pin_try(struct pin_req *r, bool fresh)
{
	struct layout *l = r->mapper->l;
	struct pin_rec *p = NULL;
	int collect_err, err;

	l->ls->ops->lock(l, false);
	collect_err = pin_collect(r, &p);
	pthread_mutex_lock(&l->lock);
	err = pin_admit_locked(r, fresh);
	if (!err)
		err = collect_err;
	if (!err)
		err = pin_get_pages(l->ls, p);
	if (!err) {
		p->idnode.id = r->pin = layouts_new_id(l->ls);
		p->since_ns = layout_now_ns();
		pin_link_locked(r->mapper, p);
		p = NULL;
	} else if (err == PIN_QUEUED && fresh) {
		err = pin_park_locked(r);
	}
	pthread_mutex_unlock(&l->lock);
	l->ls->ops->unlock(l, false);
	free(p);
	return err;
}

static int pin_check(const struct pin_req *r)
{
	const struct mapper *m = r->mapper;

	if (r->flags & ~(PINDAX_PIN_NOWAIT | PINDAX_PIN_URING) || !r->nr ||
	    r->first + r->nr < r->first)
		return -EINVAL;
	if (dev_pagemap_type(m->l->ls->cfg.map) != PAGEMAP_FS_DAX)
		return -EOPNOTSUPP;
	if (!atomic_load(&m->proven_write) || !m->who.writable)
		return -EACCES;
	return 0;
}

void mapper_pin(struct pin_req *r)
{
	struct layout *l = r->mapper->l;
	int err = pin_check(r);

	r->since_ns = layout_now_ns();
	r->cancel_err = 0;
	l->ls->ops->get(l);
	if (!err)
		err = pin_try(r, true);
	if (err != PIN_QUEUED)
		r->done(r, err);
	l->ls->ops->put(l);
}

static struct pin_rec *pin_find_locked(struct mapper *m, uint64_t id)
{
	struct layouts *ls = m->l->ls;
	struct pin_rec *p = NULL;
	struct idnode *n;

	pthread_mutex_lock(&ls->lock);
	n = idmap_find(&ls->pins, id);
	if (n)
		p = container_of(n, struct pin_rec, idnode);
	/* p->m is constant; a pin of m cannot go while m->l->lock is held */
	if (p && p->m != m)
		p = NULL;
	pthread_mutex_unlock(&ls->lock);
	return p;
}

int mapper_unpin(struct mapper *m, uint64_t pin)
{
	struct pin_rec *p;

	pthread_mutex_lock(&m->l->lock);
	p = pin_find_locked(m, pin);
	if (p)
		pin_unlink_locked(p);
	pthread_mutex_unlock(&m->l->lock);
	if (!p)
		return -ENOENT;
	p->next = NULL;
	pin_drop_list(m->l->ls, p);
	return 0;
}

bool pin_cancel_locked(struct layout *l, uint64_t id, int err)
{
	struct pin_req *r;

	for (r = l->queued_pins; r; r = r->next)
		if (r->id == id) {
			if (!r->cancel_err)
				r->cancel_err = err;
			return true;
		}
	return false;
}

static void pin_unpark(struct layout *l, struct pin_req *r)
{
	struct pin_req **rp = &l->queued_pins;

	pthread_mutex_lock(&l->lock);
	while (*rp != r)
		rp = &(*rp)->next;
	*rp = r->next;
	if (!r->next)
		l->queued_pins_tail = rp;
	pthread_mutex_unlock(&l->lock);
}

/*
 * A parked request stays on the list while it is tried again, so that an
 * interrupt always finds it. Only this function takes requests off, and only
 * one thread runs a layout: "next" stays good without the lock in between.
 */
bool pin_retry_queued(struct layout *l)
{
	struct pin_req *r, *next;
	bool any = false;
	int err;

	pthread_mutex_lock(&l->lock);
	r = l->queued_pins;
	pthread_mutex_unlock(&l->lock);
	for (; r; r = next) {
		err = pin_try(r, false);
		pthread_mutex_lock(&l->lock);
		next = r->next;
		pthread_mutex_unlock(&l->lock);
		if (err == PIN_QUEUED)
			continue;
		if (err == -EINTR)
			atomic_fetch_add(&l->ls->c.interrupted, 1);
		pin_unpark(l, r);
		wait_unregister(l->ls, r->id, l);
		r->done(r, err);
		any = true;
	}
	return any;
}
