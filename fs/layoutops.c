// SPDX-License-Identifier: BSD-3-Clause
/*
 * What fs/layout needs to know of an inode: its lock, its blocks as pool
 * pages, its size, and how to put blocks into holes.
 *
 * A file page's pool page is the namespace's first page plus the block. The
 * layout calls walk, size_pages and fill with the inode's lock held, and
 * everything else without any lock. Nothing here calls back into fs/layout.
 * Read fs/layout/layout.h.
 */
#include <errno.h>
#include "fs/inode.h"
#include "fs/media/alloc.h"

static void ops_lock(struct layout *l, bool exclusive)
{
	if (exclusive)
		inode_wrlock(inode_of(l));
	else
		inode_rdlock(inode_of(l));
}

static void ops_unlock(struct layout *l, bool exclusive)
{
	(void)exclusive; /* a rwlock knows how it is held */
	inode_unlock(inode_of(l));
}

struct walk_arg {
	struct media *m;
	int (*fn)(uint64_t lblk, uint64_t pool_page, uint64_t nr, void *arg);
	void *arg;
};

static int walk_one(const struct extent *e, void *arg)
{
	struct walk_arg *w = arg;

	return w->fn(e->lblk, media_pool_page(w->m, e->pblk), e->nr, w->arg);
}

static int ops_walk(struct layout *l, uint64_t first, uint64_t nr,
		    int (*fn)(uint64_t lblk, uint64_t pool_page, uint64_t nr,
			      void *arg),
		    void *arg)
{
	struct inode *ip = inode_of(l);
	struct walk_arg w = {.m = ip->fs->m, .fn = fn, .arg = arg};

	/* An inline symbolic link keeps its text where extents would be. */
	if (first >= FS_MAX_PAGES || !get64(ip->di.nr_blocks))
		return 0;
	if (nr > FS_MAX_PAGES - first)
		nr = FS_MAX_PAGES - first;
	return extent_walk(w.m, &ip->di, first, nr, walk_one, &w);
}

static uint64_t ops_size_pages(struct layout *l)
{
	return bytes_to_pages(inode_size(inode_of(l)));
}

static int ops_fill(struct layout *l, uint64_t first, uint64_t nr)
{
	return inode_fill(inode_of(l), first, nr);
}

static int ops_mark_mapped(struct layout *l, uint64_t pool_page, uint64_t nr)
{
	struct media *m = inode_of(l)->fs->m;

	/* Nobody can store through a read-only mount's mappings. */
	if (inode_of(l)->fs->readonly)
		return 0;
	return alloc_mark_mapped(m, media_block_of(m, pool_page), nr);
}

static void ops_touch(struct layout *l)
{
	if (!inode_of(l)->fs->readonly)
		inode_touch_lazy(inode_of(l));
}

static void ops_get(struct layout *l)
{
	inode_ref(inode_of(l));
}

static void ops_put(struct layout *l)
{
	fs_inode_put(inode_of(l));
}

static uint64_t ops_ino(const struct layout *l)
{
	return inode_of(l)->ino;
}

const struct layout_ops fs_layout_ops = {
	.lock = ops_lock,
	.unlock = ops_unlock,
	.walk = ops_walk,
	.size_pages = ops_size_pages,
	.fill = ops_fill,
	.mark_mapped = ops_mark_mapped,
	.touch = ops_touch,
	.get = ops_get,
	.put = ops_put,
	.notify = NULL, /* struct fs_options has it: set in the mount's copy */
	.ino = ops_ino,
};
