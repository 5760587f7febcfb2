/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * FAULT and UNMAP: how a mapper gets and gives back a lease.
 *
 * A fault never parks. It walks the extents under the inode's lock, marks the
 * blocks as "mapped directly" on media (they must be fenced before they get a
 * new owner), and only then, under layout->lock, looks for a break that has
 * sealed the range and records the grant. A break seals under the same lock
 * with the inode's lock held, so it either sees the grant and recalls it, or
 * the fault sees the break and queues: nothing slips between.
 *
 * Holes of a writable mapping are filled first. When another lease shows zeros
 * (or SIGBUS) there, that one must be recalled before: a BREAK_FILL of the
 * daemon's own, behind which the fault queues like behind any other.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <stdlib.h>

/* Zeroing and fencing go with the inode's lock held: a truncate of the file
 * must not wait long for it. The caller asks again for the rest. */
#define FILL_PAGES 512U

struct fault_walk {
	struct layout *l;
	struct pindax_ioc_fault *f;
	uint64_t next; /* file page not covered yet */
	uint64_t last; /* of the request, cut at the end of the file */
	bool write;
	bool hole; /* a writable fault met one at @next */
	int err;
};

static bool emit(struct fault_walk *w, uint64_t pool_page, uint64_t nr,
		 uint32_t kind)
{
	struct pindax_ioc_fault *f = w->f;

	if (f->nr == PINDAX_FAULT_MAX)
		return false;
	f->grant[f->nr++] = (struct pindax_grant){
		.file_off = w->next << 12,
		.pool_off = kind == PINDAX_GRANT_BLOCKS ? pool_page << 12 : 0,
		.len = nr << 12,
		.kind = kind,
	};
	w->next += nr;
	return true;
}

/* The hole before an extent, or up to the end of the file. */
static bool emit_hole(struct fault_walk *w, uint64_t until)
{
	if (w->next >= until)
		return true;
	if (w->write) {
		w->hole = true;
		return false;
	}
	return emit(w, 0, until - w->next, PINDAX_GRANT_ZERO);
}

static int fault_extent(uint64_t lblk, uint64_t pool_page, uint64_t nr,
			void *arg)
{
	struct fault_walk *w = arg;

	if (!emit_hole(w, lblk))
		return 1;
	w->err = w->l->ls->ops->mark_mapped(w->l, pool_page, nr);
	if (w->err)
		return 1;
	return emit(w, pool_page, nr, PINDAX_GRANT_BLOCKS) ? 0 : 1;
}

/* Inode lock held: what is at [w->next, last], as far as the reply has room. */
static int collect(struct fault_walk *w, uint64_t last)
{
	uint64_t size = w->l->ls->ops->size_pages(w->l);
	int stop = 0;

	w->last = last;
	if (w->next < size) {
		uint64_t end = last < size ? last + 1 : size;

		stop = w->l->ls->ops->walk(w->l, w->next, end - w->next,
					   fault_extent, w);
		if (stop < 0)
			return stop;
		if (!stop)
			stop = !emit_hole(w, end);
	}
	if (!stop && w->next <= last)
		(void)emit(w, 0, last - w->next + 1, PINDAX_GRANT_EOF);
	return w->err;
}

static int queue_fault_locked(struct mapper *m, struct pindax_ioc_fault *f,
			      uint64_t first, uint64_t last)
{
	struct queued_fault *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->m = m;
	q->ticket = layouts_new_id(m->l->ls);
	q->first = first;
	q->last = last;
	q->next = m->l->queued_faults;
	m->l->queued_faults = q;
	f->status = PINDAX_FAULT_QUEUED;
	f->ticket = q->ticket;
	f->nr = 0;
	f->next_off = f->off;
	return 0;
}

/* Cuts the collected grants at the first page that a break has sealed. */
static void cut_at_break(struct pindax_ioc_fault *f, uint64_t first_blocked)
{
	uint64_t end = first_blocked << 12;

	while (f->nr && f->grant[f->nr - 1].file_off >= end)
		f->nr--;
	if (f->nr) {
		struct pindax_grant *g = &f->grant[f->nr - 1];

		if (g->file_off + g->len > end)
			g->len = end - g->file_off;
	}
}

static int record_locked(struct mapper *m, struct pindax_ioc_fault *f,
			 bool write)
{
	uint32_t i;
	int err;

	for (i = 0; i < f->nr; i++) {
		struct pindax_grant *g = &f->grant[i];
		uint64_t first = g->file_off >> 12;

		err = grant_set_locked(m, first, first + (g->len >> 12) - 1,
				       g->kind, write);
		if (err)
			return err;
		f->next_off = g->file_off + g->len;
	}
	f->status = PINDAX_FAULT_GRANTED;
	f->epoch = m->epoch;
	return 0;
}

/* Inode lock held. What was collected becomes leases, or the fault queues. */
static int grant_or_queue(struct mapper *m, struct pindax_ioc_fault *f,
			  uint64_t first, uint64_t last, bool write)
{
	struct layout *l = m->l;
	struct break_req *b;
	int err = 0;

	pthread_mutex_lock(&l->lock);
	if (m->dead) {
		err = -ENOENT;
		goto out_unlock;
	}
	b = break_blocks_fault_locked(l, first, last);
	if (b && b->first <= first)
		err = queue_fault_locked(m, f, first, last);
	else {
		if (b)
			cut_at_break(f, b->first);
		err = record_locked(m, f, write);
	}
out_unlock:
	pthread_mutex_unlock(&l->lock);
	return err;
}

static int fill_commit(struct break_req *b)
{
	const struct layout_ops *ops = b->layout->ls->ops;
	uint64_t size = ops->size_pages(b->layout);

	/* a truncate may have been quicker */
	if (b->first >= size)
		return 0;
	return ops->fill(b->layout, b->first,
			 b->nr < size - b->first ? b->nr : size - b->first);
}

static void fill_done(struct break_req *b, int err)
{
	/* the fault asks again and meets the error, if there was one, itself */
	(void)err;
	free(b);
}

/* The fault queues behind a break that recalls the leases in its way. */
static int fill_by_break(struct mapper *m, struct pindax_ioc_fault *f,
			 uint64_t first, uint64_t nr)
{
	struct break_req *b = calloc(1, sizeof(*b));
	struct layout *l = m->l;
	int err;

	if (!b)
		return -ENOMEM;
	pthread_mutex_lock(&l->lock);
	err = m->dead ? -ENOENT
		      : queue_fault_locked(m, f, first, range_last(first, nr));
	pthread_mutex_unlock(&l->lock);
	if (err) {
		free(b);
		return err;
	}
	*b = (struct break_req){
		.id = layouts_new_id(l->ls),
		.layout = l,
		.op = BREAK_FILL,
		.first = first,
		.nr = nr,
		.tgid = m->who.tgid,
		.commit = fill_commit,
		.done = fill_done,
	};
	layout_break(b);
	return 0;
}

/* Blocks for the hole at @first; *ret_queued when that has to wait. */
static int fill_hole(struct mapper *m, struct pindax_ioc_fault *f,
		     uint64_t first, uint64_t last, bool *ret_queued)
{
	const struct layout_ops *ops = m->l->ls->ops;
	uint64_t size, nr;
	int err = 0;

	*ret_queued = false;
	ops->lock(m->l, true);
	size = ops->size_pages(m->l);
	if (first >= size) {
		ops->unlock(m->l, true);
		return 0; /* truncated meanwhile: the next walk says EOF */
	}
	nr = (last < size ? last + 1 : size) - first;
	if (nr > FILL_PAGES)
		nr = FILL_PAGES;
	if (layout_needs_fill(m->l, first, nr))
		*ret_queued = true;
	else
		err = ops->fill(m->l, first, nr);
	ops->unlock(m->l, true);
	return *ret_queued ? fill_by_break(m, f, first, nr) : err;
}

static int check_fault(const struct mapper *m, const struct pindax_ioc_fault *f)
{
	bool write = f->flags & PINDAX_FAULT_WRITE;

	if (f->flags & ~PINDAX_FAULT_WRITE || (f->off | f->len) & 4095 ||
	    !f->len || f->off + f->len < f->off || f->off + f->len > INT64_MAX)
		return -EINVAL;
	if (!m->proven || (write && (!m->who.writable || !m->proven_write)))
		return -EACCES;
	return 0;
}

static bool wants_touch(const struct pindax_ioc_fault *f, bool write)
{
	return write && f->status == PINDAX_FAULT_GRANTED && f->nr &&
	       f->grant[0].kind == PINDAX_GRANT_BLOCKS;
}

int mapper_fault(struct mapper *m, struct pindax_ioc_fault *f)
{
	const struct layout_ops *ops = m->l->ls->ops;
	bool write = f->flags & PINDAX_FAULT_WRITE, queued = false;
	uint64_t first = f->off >> 12, last = (f->off + f->len - 1) >> 12;
	struct fault_walk w;
	int err = check_fault(m, f);

	if (err)
		return err;
	f->status = PINDAX_FAULT_GRANTED;
	f->ticket = f->epoch = 0;
	atomic_fetch_add(&m->l->ls->c.faults, 1);
	for (;;) {
		w = (struct fault_walk){
			.l = m->l, .f = f, .next = first, .write = write};
		f->nr = 0;
		f->next_off = f->off;
		ops->lock(m->l, false);
		err = collect(&w, last);
		/* something to give, or a break to queue behind */
		if (!err && (f->nr || !w.hole))
			err = grant_or_queue(m, f, first, last, write);
		ops->unlock(m->l, false);
		if (err || f->nr || f->status == PINDAX_FAULT_QUEUED || !w.hole)
			break;
		err = fill_hole(m, f, w.next, last, &queued);
		if (err || queued)
			break;
	}
	if (!err && wants_touch(f, write))
		ops->touch(m->l);
	return err;
}

int mapper_unmap(struct mapper *m, uint64_t off, uint64_t len)
{
	bool wrote;

	if ((off | len) & 4095 || !len || off + len < off)
		return -EINVAL;
	pthread_mutex_lock(&m->l->lock);
	wrote = grant_clear_locked(m, off >> 12, (off + len - 1) >> 12,
				   UINT64_MAX);
	pthread_mutex_unlock(&m->l->lock);
	if (wrote)
		m->l->ls->ops->touch(m->l);
	return 0;
}
