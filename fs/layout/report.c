/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who holds what, and who waits for whom: the rows behind `pindax pins`.
 *
 * A snapshot per layout, taken under its lock; rows of different files may be
 * of slightly different moments. Names of processes are read from /proc when
 * the report is made, so a pid that was reused meanwhile shows its new name.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct rows {
	struct pindax_report_row *row;
	uint32_t nr, cap;
	int err;
};

static struct pindax_report_row *new_row(struct rows *rs)
{
	if (rs->nr == rs->cap) {
		uint32_t cap = rs->cap ? rs->cap * 2 : 32;
		struct pindax_report_row *row =
			realloc(rs->row, cap * sizeof(*row));

		if (!row) {
			rs->err = -ENOMEM;
			return NULL;
		}
		rs->row = row;
		rs->cap = cap;
	}
	memset(&rs->row[rs->nr], 0, sizeof(rs->row[0]));
	return &rs->row[rs->nr++];
}

static void set_range(struct pindax_report_row *row, uint64_t first,
		      uint64_t last)
{
	row->off = first << 12;
	row->len = last >= UINT64_MAX >> 12 ? UINT64_MAX
					    : (last - first + 1) << 12;
}

static void add_for(struct pindax_report_row *row, pid_t pid)
{
	uint32_t i;

	for (i = 0; i < row->nr_for && i < PINDAX_REPORT_FOR; i++)
		if (row->for_pid[i] == (uint32_t)pid)
			return;
	if (row->nr_for < PINDAX_REPORT_FOR)
		row->for_pid[row->nr_for] = (uint32_t)pid;
	row->nr_for++;
}

static void lease_rows(struct rows *rs, struct layout *l, uint64_t ino)
{
	struct itree_node *n;

	for (n = itree_first(&l->grants, 0, UINT64_MAX); n;
	     n = itree_next(n, 0, UINT64_MAX)) {
		struct grant *g = container_of(n, struct grant, node);
		struct pindax_report_row *row = new_row(rs);

		if (!row)
			return;
		row->kind = PINDAX_HELD_LEASE;
		row->pid = (uint32_t)g->m->who.tgid;
		row->uid = g->m->who.uid;
		row->id = g->m->by_id.id;
		row->ino = ino;
		row->since_ns = g->since_ns;
		set_range(row, n->first, n->last);
		memcpy(row->comm, g->m->comm, sizeof(row->comm));
	}
}

static void pin_rows(struct rows *rs, struct layout *l, uint64_t ino)
{
	struct itree_node *n;

	for (n = itree_first(&l->pins, 0, UINT64_MAX); n;
	     n = itree_next(n, 0, UINT64_MAX)) {
		struct pin_rec *p = container_of(n, struct pin_rec, node);
		struct pindax_report_row *row = new_row(rs);

		if (!row)
			return;
		row->kind = p->flags & PINDAX_PIN_URING ? PINDAX_HELD_URING
							: PINDAX_HELD_PIN;
		row->pid = (uint32_t)p->m->who.tgid;
		row->uid = p->m->who.uid;
		row->id = p->idnode.id;
		row->ino = ino;
		row->since_ns = p->since_ns;
		set_range(row, n->first, n->last);
		memcpy(row->comm, p->m->comm, sizeof(row->comm));
	}
}

static void for_pins(struct pindax_report_row *row, struct layout *l,
		     const struct break_req *b)
{
	uint64_t last = range_last(b->first, b->nr);
	struct itree_node *n;

	for (n = itree_first(&l->pins, b->first, last); n;
	     n = itree_next(n, b->first, last))
		add_for(row,
			container_of(n, struct pin_rec, node)->m->who.tgid);
}

static void for_recalls(struct pindax_report_row *row, struct layout *l,
			const struct break_req *b)
{
	struct mapper *m;
	struct recall *r;

	for (m = l->mappers; m; m = m->next)
		for (r = m->recalls; r; r = r->next)
			if (r->break_id == b->id && !r->hint)
				add_for(row, m->who.tgid);
}

static void for_earlier(struct pindax_report_row *row, struct layout *l,
			const struct break_req *b)
{
	uint64_t last = range_last(b->first, b->nr);
	struct break_req *p;

	for (p = l->breaks; p && p != b; p = p->next)
		if (ranges_overlap(p->first, range_last(p->first, p->nr),
				   b->first, last))
			add_for(row, p->tgid);
}

static void break_rows(struct rows *rs, struct layout *l, uint64_t ino)
{
	struct break_req *b;

	for (b = l->breaks; b; b = b->next) {
		struct pindax_report_row *row = new_row(rs);

		if (!row)
			return;
		row->kind = b->phase == PHASE_RESERVED ? PINDAX_WAIT_RESERVED
						       : (uint32_t)b->op;
		row->pid = (uint32_t)b->tgid;
		row->id = b->id;
		row->ino = ino;
		row->since_ns = b->since_ns;
		set_range(row, b->first, range_last(b->first, b->nr));
		if (b->phase == PHASE_QUEUED)
			for_earlier(row, l, b);
		else if (b->phase == PHASE_DRAIN)
			for_pins(row, l, b);
		else if (b->phase == PHASE_SEAL)
			for_recalls(row, l, b);
	}
}

static void queued_pin_rows(struct rows *rs, struct layout *l, uint64_t ino)
{
	struct pin_req *r;

	for (r = l->queued_pins; r; r = r->next) {
		uint64_t last = r->first + r->nr - 1;
		struct pindax_report_row *row = new_row(rs);
		struct break_req *b;

		if (!row)
			return;
		row->kind = PINDAX_WAIT_PIN;
		row->pid = (uint32_t)r->mapper->who.tgid;
		row->uid = r->mapper->who.uid;
		row->id = r->id;
		row->ino = ino;
		row->since_ns = r->since_ns;
		set_range(row, r->first, last);
		b = break_blocks_pin_locked(l, r->first, last);
		if (b)
			add_for(row, b->tgid);
	}
}

static void layout_rows(struct rows *rs, struct layout *l)
{
	uint64_t ino = l->ls->ops->ino(l);

	pthread_mutex_lock(&l->lock);
	lease_rows(rs, l, ino);
	pin_rows(rs, l, ino);
	break_rows(rs, l, ino);
	queued_pin_rows(rs, l, ino);
	pthread_mutex_unlock(&l->lock);
}

/* --- which layouts have anything to show --- */

struct layout_set {
	struct layouts *ls;
	struct layout **l;
	size_t nr, cap;
	int err;
};

static void set_add(struct layout_set *s, struct layout *l)
{
	if (s->nr == s->cap) {
		size_t cap = s->cap ? s->cap * 2 : 64;
		struct layout **p =
			realloc(s->l, cap * sizeof(struct layout *));

		if (!p) {
			s->err = -ENOMEM;
			return;
		}
		s->l = p;
		s->cap = cap;
	}
	s->ls->ops->get(l);
	s->l[s->nr++] = l;
}

static void add_mapper(struct idnode *n, void *arg)
{
	set_add(arg, container_of(n, struct mapper, by_id)->l);
}

static void add_waiter(struct idnode *n, void *arg)
{
	set_add(arg, container_of(n, struct wait_ent, idnode)->l);
}

static int by_pointer(const void *a, const void *b)
{
	const struct layout *const *x = a, *const *y = b;

	return *x < *y ? -1 : *x > *y;
}

static void all_rows(struct layouts *ls, struct rows *rs)
{
	struct layout_set s = {.ls = ls};
	size_t i;

	pthread_mutex_lock(&ls->lock);
	idmap_each(&ls->mappers, add_mapper, &s);
	idmap_each(&ls->waiting, add_waiter, &s);
	idmap_each(&ls->reserved, add_waiter, &s);
	pthread_mutex_unlock(&ls->lock);
	if (s.nr)
		qsort(s.l, s.nr, sizeof(struct layout *), by_pointer);
	for (i = 0; i < s.nr; i++)
		if (i == 0 || s.l[i] != s.l[i - 1])
			layout_rows(rs, s.l[i]);
	for (i = 0; i < s.nr; i++)
		ls->ops->put(s.l[i]);
	free(s.l);
	if (s.err)
		rs->err = s.err;
}

static void name_rows(struct rows *rs)
{
	uint32_t i;

	for (i = 0; i < rs->nr; i++)
		if (rs->row[i].pid && !rs->row[i].comm[0])
			layout_read_comm((pid_t)rs->row[i].pid,
					 rs->row[i].comm);
}

int layouts_report(struct layouts *ls, struct layout *l,
		   struct pindax_report_row **ret_rows, uint32_t *ret_nr)
{
	struct rows rs = {0};

	if (l)
		layout_rows(&rs, l);
	else
		all_rows(ls, &rs);
	if (rs.err) {
		free(rs.row);
		return rs.err;
	}
	name_rows(&rs);
	*ret_rows = rs.row;
	*ret_nr = rs.nr;
	return 0;
}

void layouts_stat(struct layouts *ls, struct pindax_ioc_stat *st)
{
	st->mappers = atomic_load(&ls->c.mappers);
	st->leases = atomic_load(&ls->c.leases);
	st->pins = atomic_load(&ls->c.pins);
	st->pinned_pages = atomic_load(&ls->c.pinned_pages);
	st->waiters = atomic_load(&ls->c.waiters);
	st->breaks = atomic_load(&ls->c.breaks);
	st->breaks_waited = atomic_load(&ls->c.breaks_waited);
	st->recalls = atomic_load(&ls->c.recalls);
	st->faults = atomic_load(&ls->c.faults);
	st->interrupted = atomic_load(&ls->c.interrupted);
	st->timed_out = atomic_load(&ls->c.timed_out);
}
