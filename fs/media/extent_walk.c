// SPDX-License-Identifier: BSD-3-Clause
/*
 * Reading many extents: of a range, of a whole tree, of an internal file.
 *
 * Owns: nothing; reads what extent.c keeps. Not: changes.
 * Key invariant: a walk ends on any media, because each leaf's limit lies above
 * the page that led to it, and levels only go down.
 * Locks: the inode's, shared, held by the caller.
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>

int extent_walk(struct media *m, const struct pdx_inode *di, uint64_t lblk,
		uint64_t nr, int (*fn)(const struct extent *e, void *arg),
		void *arg)
{
	uint64_t end = nr > UINT64_MAX - lblk ? UINT64_MAX : lblk + nr;
	struct epath p;
	unsigned int i;
	int err;

	while (lblk < end) {
		err = epath_find(m, NULL, di, lblk, &p);
		if (err)
			return err;
		i = eleaf_search(&p.node[0], lblk);
		for (; i < p.node[0].nr; i++) {
			const struct pdx_extent *r = &p.node[0].rec[i];
			uint64_t lo = get64(r->lblk), hi = lo + get32(r->nr);
			uint64_t from = lo > lblk ? lo : lblk;
			struct extent e = {
				.lblk = from,
				.pblk = get64(r->pblk) + (from - lo),
				.nr = (hi < end ? hi : end) - from,
			};

			if (lo >= end)
				return 0;
			err = fn(&e, arg);
			if (err)
				return err;
		}
		lblk = p.limit;
	}
	return 0;
}

static int visit_leaf(const struct etree *n, const struct extent_visit *v)
{
	struct extent e;
	unsigned int i;
	int err = 0;

	for (i = 0; i < n->nr && !err; i++) {
		e.lblk = get64(n->rec[i].lblk);
		e.pblk = get64(n->rec[i].pblk);
		e.nr = get32(n->rec[i].nr);
		err = v->extent(v->arg, &e);
	}
	return err;
}

int extent_visit(struct media *m, const struct pdx_inode *di,
		 const struct extent_visit *v)
{
	struct etree stack[PDX_MAX_DEPTH + 1], *n;
	unsigned int top = 0;
	uint64_t block;
	int err = eroot_load(m, di, &stack[0]);

	if (err)
		return err;
	stack[0].idx = 0;
	for (;;) {
		n = &stack[top];
		if (!n->level) {
			err = visit_leaf(n, v);
			n->idx = n->nr;
		}
		while (!err && n->idx == n->nr && top)
			n = &stack[--top];
		if (err || n->idx == n->nr)
			return err;
		block = get64(n->rec[n->idx++].pblk);
		err = v->node(v->arg, block);
		if (!err)
			err = enode_load(m, NULL, get64(di->ino), block,
					 n->level - 1, &stack[top + 1]);
		if (err)
			return err;
		stack[++top].idx = 0;
	}
}

struct map_all {
	uint64_t *blk;
	uint64_t next;
};

static int map_all_fn(const struct extent *e, void *arg)
{
	struct map_all *a = arg;
	uint64_t i;

	if (e->lblk != a->next)
		return -EBADMSG;
	for (i = 0; i < e->nr; i++)
		a->blk[a->next++] = e->pblk + i;
	return 0;
}

int extent_map_all(struct media *m, const struct pdx_inode *di, uint64_t nr,
		   uint64_t **ret_blocks)
{
	struct map_all a = {0};
	int err;

	if (nr > m->nr_blocks)
		return -EBADMSG; /* more pages than there are blocks */
	a.blk = malloc((nr + 1) * sizeof(*a.blk));
	if (!a.blk)
		return -ENOMEM;
	err = extent_walk(m, di, 0, nr, map_all_fn, &a);
	if (!err && a.next != nr)
		err = -EBADMSG;
	if (err)
		free(a.blk);
	else
		*ret_blocks = a.blk;
	return err;
}
