// SPDX-License-Identifier: BSD-3-Clause
/*
 * Taking extents out of a file, one step of one extent at a time.
 *
 * Owns: the removal side of the tree of extent.c. Not: whether anybody still
 * holds the blocks (fs/layout asked before), nor their release (the sink).
 * Key invariant: after each step the tree is whole and says what was done so
 * far, so a transaction that runs out of room commits what it has and the
 * caller goes on in the next one. A step that cuts the middle out of an extent
 * may need a tree block: it comes from the reserve. Locks: the inode's, held by
 * the caller. See docs/FORMAT.md, "Extents".
 */
#include "fs/media/internal.h"

#include <errno.h>

/* What one step may need of the lane: every node of a path, and some. */
#define STEP_ROOM ((PDX_MAX_DEPTH + 2) * (PDX_BLOCK_SIZE + 16) + 512)

static void sub_blocks(struct pdx_inode *di, uint64_t nr)
{
	uint64_t have = get64(di->nr_blocks);

	di->nr_blocks = mk64(have > nr ? have - nr : 0);
}

static int free_node(struct tx *tx, struct pdx_inode *di, uint64_t block)
{
	int err = free_blocks(tx, block, 1);

	if (err)
		return err;
	tx_forget(tx, block);
	sub_blocks(di, 1);
	return 0;
}

/* Record @idx of the leaf goes, and every node that is empty then. */
static int drop_rec(struct tx *tx, struct pdx_inode *di, struct epath *p,
		    unsigned int idx)
{
	unsigned int level = 0;
	struct pdx_extent *rec;
	struct etree *n;
	int err;

	for (;; level++, idx = p->node[level].idx) {
		n = &p->node[level];
		if (n->nr > 1 || !n->block)
			break;
		err = free_node(tx, di, n->block);
		if (err)
			return err;
	}
	rec = enode_edit(tx, di, n);
	if (!rec)
		return tx_error(tx);
	memmove(&rec[idx], &rec[idx + 1], (n->nr - idx - 1) * sizeof(*rec));
	enode_set_nr(tx, di, n, n->nr - 1);
	if (!n->nr) {
		di->ext_depth = mk16(0);
		return 0;
	}
	return idx ? 0 : epath_fix_keys(tx, di, p, level);
}

/* Cuts file pages [lo, hi) out of record @idx, which holds all of them. */
static int cut(struct tx *tx, struct pdx_inode *di, struct epath *p,
	       unsigned int idx, uint64_t lo, uint64_t hi)
{
	struct etree *leaf = &p->node[0];
	const struct pdx_extent old = leaf->rec[idx];
	uint64_t lblk = get64(old.lblk), pblk = get64(old.pblk);
	uint32_t head = (uint32_t)(lo - lblk);
	uint32_t tail = (uint32_t)(lblk + get32(old.nr) - hi);
	struct pdx_extent *rec, rest = {
					.lblk = mk64(hi),
					.pblk = mk64(pblk + (hi - lblk)),
					.nr = mk32(tail),
				};
	int err = 0;

	rec = head || tail ? enode_edit(tx, di, leaf) : NULL;
	if ((head || tail) && !rec)
		return tx_error(tx);
	if (rec)
		leaf->rec = rec;
	if (head)
		rec[idx].nr = mk32(head);
	if (head && tail) {
		err = epath_insert(tx, di, p, idx + 1, &rest,
				   ALLOC_META | ALLOC_RESERVE);
		if (err) /* it failed before it changed anything */
			rec[idx] = old;
	} else if (tail) {
		rec[idx] = rest;
		err = epath_fix_keys(tx, di, p, 0);
	} else if (!head) {
		err = drop_rec(tx, di, p, idx);
	}
	if (err)
		return err;
	sub_blocks(di, hi - lo);
	return free_blocks(tx, pblk + head, hi - lo);
}

/* The first extent of [cur, end), or what of it lies there. */
static int remove_step(struct tx *tx, struct pdx_inode *di, uint64_t cur,
		       uint64_t end, uint64_t *ret_next)
{
	const struct pdx_extent *r;
	struct epath p;
	uint64_t lo, hi;
	unsigned int i;
	int err = epath_find(tx_media(tx), tx, di, cur, &p);

	if (err)
		return err;
	i = eleaf_search(&p.node[0], cur);
	if (i == p.node[0].nr) {
		*ret_next = p.limit < end ? p.limit : end;
		return 0;
	}
	r = &p.node[0].rec[i];
	lo = get64(r->lblk) > cur ? get64(r->lblk) : cur;
	hi = get64(r->lblk) + get32(r->nr);
	hi = hi < end ? hi : end;
	if (lo < end)
		err = cut(tx, di, &p, i, lo, hi);
	if (!err)
		*ret_next = lo < end ? hi : end;
	return err;
}

/* A root with one child whose records fit it takes them up. */
static int pull_up(struct tx *tx, struct pdx_inode *di)
{
	struct etree *root, *child;
	struct epath p;
	int err;

	for (;;) {
		err = epath_find(tx_media(tx), tx, di, 0, &p);
		if (err || !p.depth)
			return err;
		root = &p.node[p.depth];
		child = &p.node[p.depth - 1];
		if (root->nr > 1 || child->nr > PDX_INLINE_EXTENTS)
			return 0;
		memcpy(di->ext, child->rec, child->nr * sizeof(*child->rec));
		enode_set_nr(tx, di, root, child->nr);
		di->ext_depth = mk16((uint16_t)child->level);
		err = free_node(tx, di, child->block);
		if (err)
			return err;
	}
}

int extent_remove(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
		  uint64_t nr, uint64_t *ret_done)
{
	uint64_t end = nr > UINT64_MAX - lblk ? UINT64_MAX : lblk + nr;
	uint64_t cur = lblk;
	int err = 0;

	while (cur < end && tx_room(tx) >= STEP_ROOM && !err)
		err = remove_step(tx, di, cur, end, &cur);
	if (!err && cur > lblk)
		err = pull_up(tx, di);
	if (!err)
		*ret_done = cur;
	return err;
}
