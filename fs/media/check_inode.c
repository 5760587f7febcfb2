// SPDX-License-Identifier: BSD-3-Clause
/*
 * The check of a pool, second part: inode records, their extents, and the
 * allocation map.
 *
 * Owns: who owns which block, as found. Not: names (check_dir.c).
 * Key invariant: a block of the data area is allocated on media exactly if one
 * inode, or one internal file, has it as data or as a tree block.
 * Locks: none.
 */
#include "fs/media/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>

struct owner {
	struct check *c;
	uint64_t ino;
	uint64_t nr; /* blocks it owns */
};

static const char *ino_name(uint64_t ino, char buf[static 32])
{
	if (ino == PDX_ITABLE_INO)
		return "the inode table";
	if (ino == PDX_ORPHAN_INO)
		return "the orphan file";
	(void)snprintf(buf, 32, "inode %" PRIu64, ino);
	return buf;
}

/* Notes the blocks as owned; tells of the first bad one of the range. */
static void own(struct owner *o, uint64_t block, uint64_t nr)
{
	struct check *c = o->c;
	uint64_t b, twice = 0, unmarked = 0;
	char buf[32];

	for (b = block; b < block + nr; b++) {
		if (bit_test(c->owned, b) && !twice)
			twice = b;
		if (!alloc_on_media(c->m, b) && !unmarked)
			unmarked = b;
	}
	bits_set(c->owned, block, nr);
	o->nr += nr;
	if (twice)
		check_error(c,
			    "extents: block %" PRIu64 " of %s has an owner "
			    "already",
			    twice, ino_name(o->ino, buf));
	if (unmarked)
		check_error(c,
			    "extents: block %" PRIu64 " of %s is free in "
			    "the allocation map",
			    unmarked, ino_name(o->ino, buf));
}

static int own_node(void *arg, uint64_t block)
{
	own(arg, block, 1);
	return 0;
}

static int own_extent(void *arg, const struct extent *e)
{
	own(arg, e->pblk, e->nr);
	return 0;
}

static void check_extents(struct check *c, const struct pdx_inode *di,
			  uint64_t ino)
{
	struct owner o = {.c = c, .ino = ino};
	struct extent_visit v = {own_node, own_extent, &o};
	uint64_t xattr = get64(di->xattr_block);
	char buf[32];
	int err = extent_visit(c->m, di, &v);

	if (err) {
		check_error(c, "extents: the tree of %s is damaged",
			    ino_name(ino, buf));
		return;
	}
	if (get64(di->nr_blocks) != o.nr)
		check_error(c,
			    "extents: %s has %" PRIu64 " blocks and claims "
			    "%" PRIu64,
			    ino_name(ino, buf), o.nr, get64(di->nr_blocks));
	if (xattr && media_in_data(c->m, xattr, 1))
		own(&o, xattr, 1);
	else if (xattr)
		check_error(c,
			    "inodes: the attributes of %s lie outside the "
			    "data area",
			    ino_name(ino, buf));
}

static bool has_extents(const struct pdx_inode *di)
{
	switch (get32(di->mode) & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
		return true;
	case S_IFLNK:
		return get64(di->size) >= PDX_INLINE_SYMLINK;
	default:
		return false;
	}
}

static void check_record(struct check *c, uint64_t ino)
{
	struct check_ino *i = &c->ino[ino];
	struct pdx_inode di;
	int err = itable_read(c->m, ino, &di);

	if (err == -ENOENT)
		return;
	i->used = true;
	if (err) {
		i->bad = true;
		check_error(
			c, "inodes: the record of inode %" PRIu64 " is damaged",
			ino);
		return;
	}
	c->res->inodes++;
	c->res->dirs += S_ISDIR(get32(di.mode));
	i->parent = get64(di.parent);
	i->slot = get64(di.orphan_slot);
	i->nlink = get32(di.nlink);
	i->mode = get32(di.mode);
	i->state = get32(di.state);
	if (has_extents(&di))
		check_extents(c, &di, ino);
}

static void check_internal(struct check *c, uint32_t record, uint64_t ino)
{
	const struct pdx_inode *di =
		media_ptr(c->m, get64(c->m->sb.root_block));

	check_extents(c, di + record, ino);
}

/* Runs of blocks that are marked and have no owner, or lie outside. */
static void check_map(struct check *c)
{
	struct media *m = c->m;
	uint64_t b, leaked = 0, first = 0, open_fixed = 0;
	bool fixed, marked;

	for (b = 0; b < m->nr_blocks; b++) {
		fixed = b < m->data_block || b >= m->end_block;
		marked = alloc_on_media(m, b);
		if (fixed && !marked)
			open_fixed++;
		if (fixed || !marked)
			continue;
		c->res->blocks_used++;
		if (bit_test(c->owned, b))
			continue;
		if (!leaked++)
			first = b;
	}
	c->res->blocks += m->end_block - m->data_block;
	if (open_fixed)
		check_error(c,
			    "allocation map: %" PRIu64 " blocks of fixed "
			    "regions are free",
			    open_fixed);
	if (leaked)
		check_error(c,
			    "allocation map: %" PRIu64 " blocks are marked "
			    "and belong to nobody, the first is %" PRIu64,
			    leaked, first);
}

int check_inodes(struct check *c)
{
	uint64_t ino;

	check_internal(c, PDX_ITABLE_RECORD, PDX_ITABLE_INO);
	check_internal(c, PDX_ORPHAN_RECORD, PDX_ORPHAN_INO);
	for (ino = 1; ino < c->nr_ino; ino++)
		check_record(c, ino);
	check_map(c);
	return 0;
}
