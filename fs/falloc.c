// SPDX-License-Identifier: BSD-3-Clause
/*
 * fallocate: allocation, hole punch and zero range.
 *
 * Punch and zero are commits of a break over the pages they touch, the edges
 * that are only zeroed in part included: a device that writes there must be
 * done. Allocation takes nothing away: it waits only for leases that show the
 * hole or the end of the file (BREAK_FILL), never for pins.
 *
 * What does not fit one transaction is done in several, each of which leaves
 * the file whole. Locks: the inode's. Read truncate.c first.
 */
#include <errno.h>
#include <fcntl.h>
#include "fs/inode.h"
#include "fs/media/alloc.h"

static uint64_t op_first(const struct fs_op *op)
{
	return op->off >> PDX_BLOCK_SHIFT;
}

static uint64_t op_nr(const struct fs_op *op)
{
	return bytes_to_pages(op->off + op->range_len) - op_first(op);
}

static bool op_grows(const struct fs_op *op)
{
	return !(op->mode & FALLOC_FL_KEEP_SIZE) &&
	       op->off + op->range_len > inode_size(op->ip);
}

/* --- punch --- */

static int punch_commit(struct fs_op *op)
{
	struct inode *ip = op->ip;
	uint64_t off = op->off, end = off + op->range_len;
	uint64_t first = bytes_to_pages(off), last = end >> PDX_BLOCK_SHIFT;
	int err = inode_settle(ip);

	if (!err && first < last)
		err = inode_drop(ip, first, last - first);
	if (err)
		return err;
	if (first >= last) {
		/* No whole page, at most one edge between two pages. */
		err = inode_zero_bytes(ip, off, end);
	} else {
		err = inode_zero_bytes(ip, off, first << PDX_BLOCK_SHIFT);
		if (!err)
			err = inode_zero_bytes(ip, last << PDX_BLOCK_SHIFT,
					       end);
	}
	inode_touch_lazy(ip);
	return err;
}

static void punch_start(struct fs_op *op)
{
	op_submit_break(op, BREAK_PUNCH, op_first(op), op_nr(op), punch_commit);
}

/* --- allocate, zero --- */

static int grow_to(struct inode *ip, uint64_t size)
{
	struct fs_attr a = {.size = size};

	return inode_set_size(ip, &a);
}

static int count_one(const struct extent *e, void *arg)
{
	*(uint64_t *)arg += e->nr;
	return 0;
}

/* Looked at first, so that a request that cannot be served does nothing. */
static int room_for(struct fs_op *op)
{
	struct inode *ip = op->ip;
	uint64_t have = 0;
	struct alloc_stat st;
	int err = extent_walk(ip->fs->m, &ip->di, op_first(op), op_nr(op),
			      count_one, &have);

	if (err)
		return err;
	alloc_stat(ip->fs->m, &st);
	if (op_nr(op) - have + st.reserved > st.free + st.pending)
		return -ENOSPC;
	return 0;
}

static int allocate_locked(struct fs_op *op)
{
	struct inode *ip = op->ip;
	int err = room_for(op);

	if (!err && op_grows(op))
		err = inode_zero_tail(ip, op->off + op->range_len);
	if (!err)
		err = inode_fill(ip, op_first(op), op_nr(op));
	if (!err && op_grows(op))
		err = grow_to(ip, op->off + op->range_len);
	return err;
}

static bool allocate_needs_fill(struct fs_op *op, uint64_t *ret_first,
				uint64_t *ret_nr)
{
	uint64_t first = op_first(op), end = first + op_nr(op);
	uint64_t size = bytes_to_pages(inode_size(op->ip));

	if (op_grows(op) && size < first)
		first = size;
	*ret_first = first;
	*ret_nr = end - first;
	return layout_needs_fill(&op->ip->layout, first, end - first);
}

static int allocate_commit(struct fs_op *op)
{
	uint64_t first, nr;

	if (allocate_needs_fill(op, &first, &nr))
		return -ERESTART;
	return allocate_locked(op);
}

static void allocate_start(struct fs_op *op)
{
	struct inode *ip = op->ip;
	uint64_t first, nr;
	bool fill;
	int err = 0;

	do {
		inode_wrlock(ip);
		fill = allocate_needs_fill(op, &first, &nr);
		if (!fill)
			err = allocate_locked(op);
		inode_unlock(ip);
	} while (err == -ENOSPC && fs_space_wait(ip->fs));
	if (fill)
		op_submit_break(op, BREAK_FILL, first, nr, allocate_commit);
	else
		op_finish(op, err);
}

static int zero_commit(struct fs_op *op)
{
	struct inode *ip = op->ip;
	uint64_t end = op->off + op->range_len, first, nr;
	int err;

	/* The break is over the range only; growing may begin before it. */
	if (op_grows(op) && allocate_needs_fill(op, &first, &nr))
		return -ERESTART;
	err = inode_settle(ip);
	if (!err)
		err = room_for(op);
	if (!err)
		err = inode_zero_bytes(ip, op->off, end);
	if (!err)
		err = allocate_locked(op);
	inode_touch_lazy(ip);
	return err;
}

static void zero_start(struct fs_op *op)
{
	uint64_t first = op_first(op), size;

	inode_rdlock(op->ip);
	size = bytes_to_pages(inode_size(op->ip));
	if (op_grows(op) && size < first)
		first = size;
	inode_unlock(op->ip);
	op_submit_break(op, BREAK_ZERO, first, op_first(op) + op_nr(op) - first,
			zero_commit);
}

static int falloc_check(struct fs_op *op)
{
	uint32_t type = inode_type(op->ip);
	bool punch = op->mode & FALLOC_FL_PUNCH_HOLE;
	uint64_t end;

	if (type != S_IFREG)
		return type == S_IFDIR ? -EISDIR : -ENODEV;
	if (op->ip->fs->readonly)
		return -EROFS;
	if (!op->range_len)
		return -EINVAL;
	if (__builtin_add_overflow(op->off, op->range_len, &end) ||
	    (end > FS_MAX_SIZE && !punch))
		return -EFBIG;
	/* Nothing lies beyond the largest file. */
	if (op->off >= FS_MAX_SIZE)
		op->range_len = 0;
	else if (end > FS_MAX_SIZE)
		op->range_len = FS_MAX_SIZE - op->off;
	return 0;
}

void fs_fallocate(struct fs_op *op)
{
	int err = falloc_check(op);

	switch (op->mode) {
	case 0:
	case FALLOC_FL_KEEP_SIZE:
		op->start = allocate_start;
		break;
	case FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE:
		op->start = punch_start;
		break;
	case FALLOC_FL_ZERO_RANGE:
	case FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE:
		op->start = zero_start;
		break;
	default:
		err = -EOPNOTSUPP;
	}
	if (err || !op->range_len)
		op_finish(op, err);
	else
		op->start(op);
}
