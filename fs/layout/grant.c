/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The leases of an inode: who was granted which file pages, as what.
 *
 * One interval tree an inode, one list a mapper, over the same nodes. A mapper
 * has at most one grant over a page: setting a range cuts what it had there.
 * Neighbours of the same kind are merged, keeping the higher epoch; a grant may
 * therefore claim an older part that was zapped meanwhile. That errs on the
 * safe side: the mapper is asked to zap a range that it has not mapped.
 *
 * "Soft" grants show zeros (a hole in a read-only map) or SIGBUS (beyond the
 * end): they must be recalled before a hole fills or the file grows.
 * All of it is guarded by layout->lock.
 */
#include "fs/layout/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

static bool soft(uint32_t kind)
{
	return kind != PINDAX_GRANT_BLOCKS;
}

static void grant_link(struct mapper *m, struct grant *g)
{
	struct layout *l = m->l;

	g->m = m;
	g->next = m->grants;
	g->pprev = &m->grants;
	if (g->next)
		g->next->pprev = &g->next;
	m->grants = g;
	itree_insert(&l->grants, &g->node);
	if (soft(g->kind))
		l->nr_soft++;
	atomic_fetch_add(&l->ls->c.leases, 1);
}

static void grant_unlink(struct grant *g)
{
	struct layout *l = g->m->l;

	itree_remove(&l->grants, &g->node);
	*g->pprev = g->next;
	if (g->next)
		g->next->pprev = g->pprev;
	if (soft(g->kind))
		l->nr_soft--;
	atomic_fetch_sub(&l->ls->c.leases, 1);
}

/* The tree is keyed by the range: a node leaves it before it changes. */
static void grant_resize(struct grant *g, uint64_t first, uint64_t last)
{
	struct layout *l = g->m->l;

	itree_remove(&l->grants, &g->node);
	g->node.first = first;
	g->node.last = last;
	itree_insert(&l->grants, &g->node);
}

static struct grant *next_of(struct mapper *m, uint64_t first, uint64_t last)
{
	struct itree_node *n = itree_first(&m->l->grants, first, last);

	while (n && container_of(n, struct grant, node)->m != m)
		n = itree_next(n, first, last);
	return n ? container_of(n, struct grant, node) : NULL;
}

/* @spare takes the right half when a grant is split; used at most once, as only
 * one grant can stick out on both sides. */
static void cut(struct mapper *m, struct grant *g, uint64_t first,
		uint64_t last, struct grant **spare)
{
	uint64_t gf = g->node.first, gl = g->node.last;

	if (gf < first && gl > last) {
		struct grant *right = *spare;

		assert(right);
		*spare = NULL;
		right->kind = g->kind;
		right->write = g->write;
		right->epoch = g->epoch;
		right->since_ns = g->since_ns;
		right->node.first = last + 1;
		right->node.last = gl;
		grant_resize(g, gf, first - 1);
		grant_link(m, right);
	} else if (gf < first) {
		grant_resize(g, gf, first - 1);
	} else if (gl > last) {
		grant_resize(g, last + 1, gl);
	} else {
		grant_unlink(g);
		free(g);
	}
}

static bool mergeable(const struct grant *a, const struct grant *b)
{
	return a->kind == b->kind && a->write == b->write;
}

static void absorb(struct grant *g, const struct grant *n)
{
	if (n->epoch > g->epoch)
		g->epoch = n->epoch;
	if (n->since_ns < g->since_ns)
		g->since_ns = n->since_ns;
}

static void merge_neighbours(struct mapper *m, struct grant *g)
{
	struct grant *n;

	if (g->node.first > 0) {
		n = next_of(m, g->node.first - 1, g->node.first - 1);
		if (n && mergeable(n, g)) {
			uint64_t first = n->node.first;

			absorb(g, n);
			grant_unlink(n);
			free(n);
			grant_resize(g, first, g->node.last);
		}
	}
	if (g->node.last < UINT64_MAX) {
		n = next_of(m, g->node.last + 1, g->node.last + 1);
		if (n && mergeable(n, g)) {
			uint64_t last = n->node.last;

			absorb(g, n);
			grant_unlink(n);
			free(n);
			grant_resize(g, g->node.first, last);
		}
	}
}

int grant_set_locked(struct mapper *m, uint64_t first, uint64_t last,
		     uint32_t kind, bool write)
{
	struct grant *g = calloc(1, sizeof(*g));
	struct grant *spare = calloc(1, sizeof(*spare));
	struct grant *old;

	if (!g || !spare) {
		free(g);
		free(spare);
		return -ENOMEM;
	}
	while ((old = next_of(m, first, last)) != NULL)
		cut(m, old, first, last, &spare);
	g->node.first = first;
	g->node.last = last;
	g->kind = kind;
	g->write = write;
	g->epoch = m->epoch;
	g->since_ns = layout_now_ns();
	grant_link(m, g);
	merge_neighbours(m, g);
	free(spare);
	return 0;
}

bool grant_clear_locked(struct mapper *m, uint64_t first, uint64_t last,
			uint64_t epoch)
{
	struct grant *spare = calloc(1, sizeof(*spare));
	struct itree_node *n, *next;
	bool wrote = false;

	for (n = itree_first(&m->l->grants, first, last); n; n = next) {
		struct grant *g = container_of(n, struct grant, node);

		next = itree_next(n, first, last);
		if (g->m != m || g->epoch >= epoch)
			continue;
		/* no memory to split it: keep it whole, on the safe side */
		if (!spare && g->node.first < first && g->node.last > last)
			continue;
		wrote |= g->write;
		cut(m, g, first, last, &spare);
	}
	free(spare);
	return wrote;
}

bool layout_needs_fill(struct layout *l, uint64_t first, uint64_t nr)
{
	uint64_t last = range_last(first, nr);
	struct itree_node *n;
	bool needs = false;

	pthread_mutex_lock(&l->lock);
	if (l->nr_soft)
		for (n = itree_first(&l->grants, first, last); n && !needs;
		     n = itree_next(n, first, last))
			needs = soft(container_of(n, struct grant, node)->kind);
	pthread_mutex_unlock(&l->lock);
	return needs;
}
