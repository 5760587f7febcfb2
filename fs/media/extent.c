// SPDX-License-Identifier: BSD-3-Clause
/*
 * The extent tree: walking it, and putting extents in.
 *
 * Owns: the extent records of an inode and its tree blocks. Not: taking extents
 * out (extent_remove.c), the blocks themselves (alloc.c).
 * A B+tree: the root is in the inode record (14 records), nodes are blocks of
 * 168. A record of an inner node has the lowest file page below it and the
 * child's block. Nodes are split when full and freed when empty; half-empty
 * neighbours are not joined.
 * Key invariants: records are in order and do not overlap; what is read from
 * media is checked (sum, owner, level, order, every block inside the data area)
 * each time before it is believed. The lowest page in a parent is exact.
 * Locks: the inode's, held by the caller. See docs/FORMAT.md, "Extents".
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>

/* --- checks --- */

static bool rec_ok(const struct media *m, const struct pdx_extent *r, bool leaf)
{
	uint64_t lblk = get64(r->lblk), nr = get32(r->nr);

	if (lblk >= PDX_MAX_FILE_PAGES || get32(r->flags))
		return false;
	if (!leaf)
		return !nr && media_in_data(m, get64(r->pblk), 1);
	return nr && nr <= PDX_MAX_FILE_PAGES - lblk &&
	       media_in_data(m, get64(r->pblk), nr);
}

static bool recs_ok(const struct media *m, const struct etree *n)
{
	bool leaf = !n->level;
	uint64_t next = 0, lblk;
	unsigned int i;

	for (i = 0; i < n->nr; i++) {
		lblk = get64(n->rec[i].lblk);
		if (!rec_ok(m, &n->rec[i], leaf) || (i && lblk < next))
			return false;
		next = lblk + (leaf ? get32(n->rec[i].nr) : 1);
	}
	return true;
}

int eroot_load(struct media *m, const struct pdx_inode *di, struct etree *n)
{
	n->block = 0;
	n->level = get16(di->ext_depth);
	n->nr = get16(di->ext_nr);
	n->rec = di->ext;
	if (n->level > PDX_MAX_DEPTH || n->nr > PDX_INLINE_EXTENTS ||
	    (n->level && !n->nr) || !recs_ok(m, n))
		return -EBADMSG;
	return 0;
}

int enode_load(struct media *m, struct tx *tx, uint64_t ino, uint64_t block,
	       unsigned int level, struct etree *n)
{
	uint64_t off = block << PDX_BLOCK_SHIFT;
	const struct pdx_node *node = (const void *)(m->base + off);
	bool copy = tx_is_copy(tx, off, PDX_BLOCK_SIZE);

	if (copy)
		node = tx_view(tx, off, PDX_BLOCK_SIZE);
	else if (get32(node->csum) != csum_at4(node, PDX_BLOCK_SIZE))
		return -EBADMSG;
	n->block = block;
	n->level = level;
	n->nr = get16(node->nr);
	n->rec = node->rec;
	if (get32(node->magic) != PDX_NODE_MAGIC || get64(node->owner) != ino ||
	    get16(node->level) != level || !n->nr || n->nr > PDX_NODE_RECS ||
	    get32(node->reserved0) ||
	    !all_zero(node->reserved1, sizeof(node->reserved1)))
		return -EBADMSG;
	return copy || recs_ok(m, n) ? 0 : -EBADMSG;
}

/* --- the way down --- */

/* Last record whose page is <= @lblk; 0 when all are above. */
static unsigned int inner_search(const struct etree *n, uint64_t lblk)
{
	unsigned int lo = 0, hi = n->nr, mid;

	while (hi - lo > 1) {
		mid = (lo + hi) / 2;
		if (get64(n->rec[mid].lblk) <= lblk)
			lo = mid;
		else
			hi = mid;
	}
	return lo;
}

unsigned int eleaf_search(const struct etree *leaf, uint64_t lblk)
{
	unsigned int lo = 0, hi = leaf->nr, mid;
	const struct pdx_extent *r;

	while (lo < hi) {
		mid = (lo + hi) / 2;
		r = &leaf->rec[mid];
		if (get64(r->lblk) + get32(r->nr) > lblk)
			hi = mid;
		else
			lo = mid + 1;
	}
	return lo;
}

/* The child holds what its parent says: from the key up to the next key. */
static bool child_fits(const struct etree *n, const struct etree *child,
		       uint64_t limit)
{
	const struct pdx_extent *last = &child->rec[child->nr - 1];

	return get64(child->rec[0].lblk) == get64(n->rec[n->idx].lblk) &&
	       get64(last->lblk) + get32(last->nr) <= limit;
}

int epath_find(struct media *m, struct tx *tx, const struct pdx_inode *di,
	       uint64_t lblk, struct epath *p)
{
	struct etree root = {0}, *n;
	unsigned int level;
	int err;

	err = eroot_load(m, di, &root);
	if (err)
		return err;
	p->depth = root.level;
	p->node[p->depth] = root;
	p->limit = UINT64_MAX;
	for (level = p->depth; level > 0; level--) {
		n = &p->node[level];
		n->idx = inner_search(n, lblk);
		if (n->idx + 1 < n->nr)
			p->limit = get64(n->rec[n->idx + 1].lblk);
		err = enode_load(m, tx, get64(di->ino),
				 get64(n->rec[n->idx].pblk), level - 1,
				 &p->node[level - 1]);
		if (err)
			return err;
		if (!child_fits(n, &p->node[level - 1], p->limit))
			return -EBADMSG;
	}
	return 0;
}

int extent_lookup(struct media *m, struct tx *tx, const struct pdx_inode *di,
		  uint64_t lblk, struct extent *ret_ext)
{
	const struct pdx_extent *r;
	struct epath p;
	unsigned int i;
	uint64_t skip, next;
	int err = epath_find(m, tx, di, lblk, &p);

	if (err)
		return err;
	i = eleaf_search(&p.node[0], lblk);
	r = &p.node[0].rec[i];
	ret_ext->lblk = lblk;
	if (i < p.node[0].nr && get64(r->lblk) <= lblk) {
		skip = lblk - get64(r->lblk);
		ret_ext->pblk = get64(r->pblk) + skip;
		ret_ext->nr = get32(r->nr) - skip;
		return 0;
	}
	next = i < p.node[0].nr ? get64(r->lblk) : p.limit;
	ret_ext->pblk = 0;
	ret_ext->nr = next - lblk;
	return 0;
}

/* --- changing nodes --- */

struct pdx_extent *enode_edit(struct tx *tx, struct pdx_inode *di,
			      const struct etree *n)
{
	struct pdx_node *node;

	if (!n->block)
		return di->ext;
	node = tx_edit_block(tx, n->block);
	return node ? node->rec : NULL;
}

/* The node was edited before: it is a copy of this transaction. */
void enode_set_nr(struct tx *tx, struct pdx_inode *di, struct etree *n,
		  unsigned int nr)
{
	struct pdx_extent *rec = enode_edit(tx, di, n);
	unsigned int cap = n->block ? PDX_NODE_RECS : PDX_INLINE_EXTENTS;
	struct pdx_node *node;

	/* Unused records are zeros, so that equal trees are equal bytes. */
	memset(&rec[nr], 0, (cap - nr) * sizeof(*rec));
	n->nr = nr;
	n->rec = rec;
	if (!n->block) {
		di->ext_nr = mk16((uint16_t)nr);
		return;
	}
	node = tx_edit_block(tx, n->block);
	node->nr = mk16((uint16_t)nr);
}

int epath_fix_keys(struct tx *tx, struct pdx_inode *di, struct epath *p,
		   unsigned int level)
{
	struct pdx_extent *rec;
	struct etree *n;

	for (level++; level <= p->depth; level++) {
		n = &p->node[level];
		if (get64(n->rec[n->idx].lblk) ==
		    get64(p->node[level - 1].rec[0].lblk))
			return 0;
		rec = enode_edit(tx, di, n);
		if (!rec)
			return tx_error(tx);
		rec[n->idx].lblk = p->node[level - 1].rec[0].lblk;
		n->rec = rec;
		if (n->idx)
			return 0;
	}
	return 0;
}

static void add_blocks(struct pdx_inode *di, uint64_t nr)
{
	di->nr_blocks = mk64(get64(di->nr_blocks) + nr);
}

/* --- insertion with splits --- */

struct spare { /* blocks for the nodes that a split makes, taken beforehand */
	uint64_t block[PDX_MAX_DEPTH + 1];
	unsigned int nr;
};

static unsigned int node_cap(const struct etree *n)
{
	return n->block ? PDX_NODE_RECS : PDX_INLINE_EXTENTS;
}

/* All or none, so that -ENOSPC leaves the tree as it was. */
static int spare_get(struct tx *tx, const struct epath *p, unsigned int flags,
		     struct spare *s)
{
	unsigned int mark = tx_mark(tx), level, need = 0;
	uint64_t got, goal = p->node[0].block;
	int err;

	s->nr = 0;
	for (level = 0; level <= p->depth; level++) {
		if (p->node[level].nr < node_cap(&p->node[level]))
			break;
		need++;
	}
	if (need == p->depth + 1 && p->depth == PDX_MAX_DEPTH)
		return -EFBIG;
	while (s->nr < need) {
		err = alloc_blocks(tx, goal, 1, flags, &s->block[s->nr], &got);
		if (err) {
			tx_rewind(tx, mark);
			return err;
		}
		s->nr++;
	}
	return 0;
}

static struct pdx_node *new_node(struct tx *tx, struct pdx_inode *di,
				 struct spare *s, unsigned int level,
				 uint64_t *ret_block)
{
	uint64_t block = s->block[--s->nr];
	struct pdx_node *node = tx_new_block(tx, block);

	if (!node || !tx_edit_block(tx, block))
		return NULL;
	node->magic = mk32(PDX_NODE_MAGIC);
	node->owner = di->ino;
	node->level = mk16((uint16_t)level);
	add_blocks(di, 1);
	*ret_block = block;
	return node;
}

/* The root is full: its records go down into a node of their own. */
static int root_push_down(struct tx *tx, struct pdx_inode *di, struct epath *p,
			  struct spare *s)
{
	struct etree *root = &p->node[p->depth];
	struct pdx_node *node;
	uint64_t block;

	node = new_node(tx, di, s, p->depth, &block);
	if (!node)
		return tx_error(tx);
	memcpy(node->rec, di->ext, root->nr * sizeof(*node->rec));
	node->nr = mk16((uint16_t)root->nr);
	p->node[p->depth + 1] = (struct etree){
		.level = p->depth + 1,
		.rec = di->ext,
	};
	root->block = block;
	root->rec = node->rec;
	p->depth++;
	di->ext_depth = mk16((uint16_t)p->depth);
	di->ext[0] = (struct pdx_extent){
		.lblk = node->rec[0].lblk,
		.pblk = mk64(block),
	};
	enode_set_nr(tx, di, &p->node[p->depth], 1);
	return 0;
}

static int put_rec(struct tx *tx, struct pdx_inode *di, struct etree *n,
		   unsigned int idx, const struct pdx_extent *r)
{
	struct pdx_extent *rec = enode_edit(tx, di, n);

	if (!rec)
		return tx_error(tx);
	memmove(&rec[idx + 1], &rec[idx], (n->nr - idx) * sizeof(*rec));
	rec[idx] = *r;
	enode_set_nr(tx, di, n, n->nr + 1);
	return 0;
}

/*
 * Node @n (not the root) is full: makes a right neighbour, puts @r where it
 * belongs and gives back the neighbour's record for the parent. An append moves
 * nothing, so that a file written in order has full nodes.
 */
static int split(struct tx *tx, struct pdx_inode *di, struct etree *n,
		 unsigned int idx, const struct pdx_extent *r, struct spare *s,
		 struct pdx_extent *ret_up)
{
	unsigned int keep = idx == n->nr ? n->nr : n->nr / 2;
	struct etree right = {.level = n->level};
	struct pdx_extent *rec;
	struct pdx_node *node;
	int err;

	rec = enode_edit(tx, di, n);
	node = new_node(tx, di, s, n->level, &right.block);
	if (!rec || !node)
		return tx_error(tx);
	memcpy(node->rec, &rec[keep], (n->nr - keep) * sizeof(*rec));
	enode_set_nr(tx, di, &right, n->nr - keep);
	enode_set_nr(tx, di, n, keep);
	if (idx < keep)
		err = put_rec(tx, di, n, idx, r);
	else
		err = put_rec(tx, di, &right, idx - keep, r);
	if (err)
		return err;
	*ret_up = (struct pdx_extent){
		.lblk = right.rec[0].lblk,
		.pblk = mk64(right.block),
	};
	return 0;
}

int epath_insert(struct tx *tx, struct pdx_inode *di, struct epath *p,
		 unsigned int idx, const struct pdx_extent *rec,
		 unsigned int flags)
{
	struct pdx_extent up = *rec, down;
	struct spare s = {0};
	unsigned int level = 0;
	int err = spare_get(tx, p, flags, &s);

	if (err)
		return err;
	/* Above the leaf a record never goes in front: no key changes there. */
	for (;; level++) {
		struct etree *n = &p->node[level];

		if (n->nr == PDX_INLINE_EXTENTS && !n->block) {
			err = root_push_down(tx, di, p, &s);
			if (err)
				return err;
		}
		if (n->nr < node_cap(n)) {
			err = put_rec(tx, di, n, idx, &up);
			if (!err && !level)
				err = epath_fix_keys(tx, di, p, 0);
			return err;
		}
		down = up;
		err = split(tx, di, n, idx, &down, &s, &up);
		if (!err && !level)
			err = epath_fix_keys(tx, di, p, 0);
		if (err)
			return err;
		idx = p->node[level + 1].idx + 1;
	}
}

/* Can [lblk, +nr) -> pblk be told as one extent with @r before it? */
static bool joins(const struct pdx_extent *r, uint64_t lblk, uint64_t pblk,
		  uint64_t nr)
{
	return get64(r->lblk) + get32(r->nr) == lblk &&
	       get64(r->pblk) + get32(r->nr) == pblk &&
	       get32(r->nr) + nr <= UINT32_MAX;
}

/* Merges into the neighbours in the leaf; false: a record of its own. */
static int merge(struct tx *tx, struct pdx_inode *di, struct epath *p,
		 unsigned int idx, const struct pdx_extent *r, bool *ret_done)
{
	struct etree *leaf = &p->node[0];
	uint64_t lblk = get64(r->lblk), pblk = get64(r->pblk);
	uint32_t nr = get32(r->nr);
	bool left, right;
	struct pdx_extent *rec;

	left = idx > 0 && joins(&leaf->rec[idx - 1], lblk, pblk, nr);
	right = idx < leaf->nr &&
		joins(r, get64(leaf->rec[idx].lblk), get64(leaf->rec[idx].pblk),
		      get32(leaf->rec[idx].nr));
	*ret_done = left || right;
	if (!*ret_done)
		return 0;
	rec = enode_edit(tx, di, leaf);
	if (!rec)
		return tx_error(tx);
	leaf->rec = rec;
	if (left) {
		rec[idx - 1].nr = mk32(get32(rec[idx - 1].nr) + nr);
		right = right &&
			joins(&rec[idx - 1], get64(rec[idx].lblk),
			      get64(rec[idx].pblk), get32(rec[idx].nr));
		if (!right)
			return 0;
		rec[idx - 1].nr =
			mk32(get32(rec[idx - 1].nr) + get32(rec[idx].nr));
		memmove(&rec[idx], &rec[idx + 1],
			(leaf->nr - idx - 1) * sizeof(*rec));
		enode_set_nr(tx, di, leaf, leaf->nr - 1);
		return 0;
	}
	rec[idx].lblk = r->lblk;
	rec[idx].pblk = r->pblk;
	rec[idx].nr = mk32(get32(rec[idx].nr) + nr);
	return epath_fix_keys(tx, di, p, 0);
}

static int insert_one(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
		      uint64_t pblk, uint32_t nr, unsigned int flags)
{
	struct media *m = tx_media(tx);
	struct pdx_extent r = {mk64(lblk), mk64(pblk), mk32(nr), mk32(0)};
	struct epath p;
	unsigned int idx;
	bool done;
	int err = epath_find(m, tx, di, lblk, &p);

	if (err)
		return err;
	idx = eleaf_search(&p.node[0], lblk);
	if (idx < p.node[0].nr && get64(p.node[0].rec[idx].lblk) < lblk + nr)
		return -EEXIST;
	if (p.limit < lblk + nr)
		return -EEXIST;
	err = merge(tx, di, &p, idx, &r, &done);
	if (!err && !done)
		err = epath_insert(tx, di, &p, idx, &r, flags);
	if (!err)
		add_blocks(di, nr);
	return err;
}

int extent_insert_flags(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
			uint64_t pblk, uint64_t nr, unsigned int flags)
{
	uint64_t n;
	int err = 0;

	if (lblk > PDX_MAX_FILE_PAGES || nr > PDX_MAX_FILE_PAGES - lblk)
		return -EFBIG;
	if (!nr || !media_in_data(tx_media(tx), pblk, nr))
		return -EINVAL;
	for (; nr && !err; lblk += n, pblk += n, nr -= n) {
		n = nr < UINT32_MAX ? nr : UINT32_MAX;
		err = insert_one(tx, di, lblk, pblk, (uint32_t)n, flags);
	}
	return err;
}

int extent_insert(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
		  uint64_t pblk, uint64_t nr)
{
	return extent_insert_flags(tx, di, lblk, pblk, nr,
				   ALLOC_META | ALLOC_GROWTH);
}
