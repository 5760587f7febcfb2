// SPDX-License-Identifier: BSD-3-Clause
/*
 * File data: read, write, and blocks for holes.
 *
 * Data goes straight to the pool. Ordering: a new block is written or zeroed
 * in every byte, and that is durable, before the transaction that makes it
 * part of a file commits: nobody ever sees what its last owner left. A page's
 * bytes beyond the end of the file are zeros on media whenever the file grows
 * (inode_zero_tail()): a mapping may have stored there.
 *
 * Writes to allocated pages take the inode's lock shared and no transaction;
 * all else takes it exclusively. Blocks that go are truncate.c's; whether a
 * lease must be recalled first is the callers' question (layout_needs_fill()).
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>
#include "fs/inode.h"
#include "fs/media/alloc.h"

/* Lane space left in a transaction that may still insert an extent: a split
 * of every level of the tree, and the bitmap words. */
#define ROOM_MIN (24U << 10)
/* Blocks zeroed in one transaction, so that a lane is not held for long. */
#define FILL_MAX 16384U

static uint64_t page_of(uint64_t byte)
{
	return byte >> PDX_BLOCK_SHIFT;
}

static char *data_ptr(struct inode *ip, const struct extent *e, uint64_t off)
{
	return (char *)media_ptr(ip->fs->m, e->pblk) +
	       (off - (e->lblk << PDX_BLOCK_SHIFT));
}

/* Bytes of [off, off + len) that lie in the extent that starts at off's page */
static size_t span_of(const struct extent *e, uint64_t off, size_t len)
{
	uint64_t in = off & (PDX_BLOCK_SIZE - 1);
	uint64_t have;

	if (e->nr > (UINT64_MAX >> PDX_BLOCK_SHIFT) - 1)
		return len;
	have = (e->nr << PDX_BLOCK_SHIFT) - in;
	return have < len ? (size_t)have : len;
}

/* relatime: atime moves when it is not newer than mtime or ctime, or a day
 * old, so that reads of a busy file store nothing. */
static void touch_atime(struct inode *ip)
{
	const int64_t day_ns = 24LL * 3600 * 1000000000LL;
	int64_t now = fs_now_ns();
	int64_t a = atomic_load(&ip->lazy_atime_ns);
	int64_t m = atomic_load(&ip->lazy_mtime_ns);

	if (ip->fs->opt.noatime || ip->fs->readonly)
		return;
	if (!a)
		a = (int64_t)get64(ip->di.atime_ns);
	if (!m)
		m = (int64_t)get64(ip->di.mtime_ns);
	if (a > m && a > (int64_t)get64(ip->di.ctime_ns) && now - a < day_ns)
		return;
	atomic_store(&ip->lazy_atime_ns, now);
}

static int read_locked(struct inode *ip, char *buf, size_t len, uint64_t off)
{
	struct extent e;
	size_t n;
	int err;

	while (len) {
		err = extent_lookup(ip->fs->m, NULL, &ip->di, page_of(off), &e);
		if (err)
			return err;
		n = span_of(&e, off, len);
		if (e.pblk)
			memcpy(buf, data_ptr(ip, &e, off), n);
		else
			memset(buf, 0, n);
		buf += n;
		off += n;
		len -= n;
	}
	return 0;
}

ssize_t fs_read(struct inode *ip, void *buf, size_t len, uint64_t off)
{
	uint64_t size;
	int err = 0;

	inode_rdlock(ip);
	size = inode_size(ip);
	if (off >= size)
		len = 0;
	else if (len > size - off)
		len = (size_t)(size - off);
	if (len) {
		err = read_locked(ip, buf, len, off);
		touch_atime(ip);
	}
	inode_unlock(ip);
	return err ? err : (ssize_t)len;
}

/* -EAGAIN: there is a hole, or it lies beyond the end. Shared lock. */
static int overwrite(struct inode *ip, const char *buf, size_t len,
		     uint64_t off)
{
	struct fs *fs = ip->fs;
	struct extent e;
	size_t n, done;
	int err;

	if (off + len > inode_size(ip) || get32(ip->di.state) & PDX_INO_INTENT)
		return -EAGAIN;
	for (done = 0; done < len; done += n) {
		err = extent_lookup(fs->m, NULL, &ip->di, page_of(off + done),
				    &e);
		if (err)
			return err;
		if (!e.pblk)
			return -EAGAIN;
		n = span_of(&e, off + done, len - done);
		pmem_memcpy(fs->pool, data_ptr(ip, &e, off + done), buf + done,
			    n);
	}
	pmem_drain(fs->pool);
	inode_touch_lazy(ip);
	return 0;
}

/* Where the allocator should look: behind the block of the page before. */
static uint64_t alloc_goal(struct change *c, struct pdx_inode *di,
			   uint64_t lblk)
{
	struct extent e;

	if (!lblk || extent_lookup(c->fs->m, c->tx, di, lblk - 1, &e) != 0 ||
	    !e.pblk)
		return 0;
	return e.pblk + 1;
}

/*
 * Blocks for up to @want pages of the hole at @lblk. *ret_e is what was
 * mapped; its content is still undefined.
 * @huge: the file is large. Each 2 MiB of it then starts a whole aligned run,
 * whatever the size of the writes that fill it, so that a direct mapping can
 * have huge pages and a pin of the run costs one reference.
 */
static int map_hole(struct change *c, struct pdx_inode *di, uint64_t lblk,
		    uint64_t want, bool huge, struct extent *ret_e)
{
	uint64_t in_run = lblk % PMEM_HUGE_PAGES;
	struct extent e = {.lblk = lblk};
	int err;

	if (huge && in_run && want > PMEM_HUGE_PAGES - in_run)
		want = PMEM_HUGE_PAGES - in_run;
	err = alloc_blocks(c->tx, alloc_goal(c, di, lblk), want,
			   huge && !in_run ? ALLOC_HUGE : 0, &e.pblk, &e.nr);
	if (!err)
		err = extent_insert(c->tx, di, lblk, e.pblk, e.nr);
	if (!err)
		*ret_e = e;
	return err;
}

/* Zeroes what a write of [off, off + n) leaves of the new extent's pages. */
static void zero_around(struct inode *ip, const struct extent *e, uint64_t off,
			size_t n)
{
	uint64_t first = e->lblk << PDX_BLOCK_SHIFT;
	uint64_t last = (e->lblk + e->nr) << PDX_BLOCK_SHIFT;
	struct pmem_pool *pool = ip->fs->pool;

	if (off > first)
		pmem_memset(pool, data_ptr(ip, e, first), 0,
			    (size_t)(off - first));
	if (off + n < last)
		pmem_memset(pool, data_ptr(ip, e, off + n), 0,
			    (size_t)(last - off - n));
}

/*
 * One transaction's worth of a write. *ret_done > 0 on success; with -ENOSPC it
 * is what there would have been room for.
 */
static int write_chunk(struct inode *ip, const char *buf, size_t len,
		       uint64_t off, size_t *ret_done)
{
	bool huge = len >= PMEM_HUGE_SIZE || inode_size(ip) >= PMEM_HUGE_SIZE;
	struct pdx_inode *di;
	struct change c;
	struct extent e;
	size_t n, done = 0;
	int err = change_begin_inode(ip, &c, &di);

	*ret_done = 0;
	if (err)
		return err;
	while (done < len && tx_room(c.tx) >= ROOM_MIN) {
		uint64_t lblk = page_of(off + done);
		bool fresh = false;

		err = extent_lookup(ip->fs->m, c.tx, di, lblk, &e);
		if (!err && !e.pblk) {
			uint64_t want = bytes_to_pages(off + len) - lblk;

			fresh = true;
			err = map_hole(&c, di, lblk, want < e.nr ? want : e.nr,
				       huge, &e);
		}
		if (err)
			break;
		n = span_of(&e, off + done, len - done);
		if (fresh)
			zero_around(ip, &e, off + done, n);
		pmem_memcpy(ip->fs->pool, data_ptr(ip, &e, off + done),
			    buf + done, n);
		done += n;
	}
	if (!err) {
		pmem_drain(ip->fs->pool);
		if (off + done > get64(di->size))
			di->size = mk64(off + done);
		touch_mc(di, fs_now_ns());
	}
	*ret_done = done;
	return change_end(&c, err);
}

int inode_write_locked(struct inode *ip, const char *buf, size_t len,
		       uint64_t off, size_t *ret_done)
{
	size_t n = 0, done = 0, part = len;
	int err = inode_settle(ip);

	if (!err)
		err = inode_zero_tail(ip, off);
	while (!err && done < part) {
		err = write_chunk(ip, buf + done, part - done, off + done, &n);
		if (!err) {
			done += n;
		} else if (err == -ENOSPC && n) {
			/* Nothing of the chunk was kept: once more, shorter */
			part = done + n;
			err = 0;
		}
	}
	if (err && !done)
		return err;
	*ret_done = done;
	return 0;
}

/*
 * The pages whose leases a write may have to recall: those it covers and, if
 * the file grows, those beyond its end up to there, which show SIGBUS so far.
 * No pin is among the latter, so growing never waits for one.
 */
static bool write_needs_fill(struct inode *ip, uint64_t off, size_t len,
			     uint64_t *ret_first, uint64_t *ret_nr)
{
	uint64_t first = page_of(off), end = bytes_to_pages(off + len);
	uint64_t beyond = bytes_to_pages(inode_size(ip));

	if (beyond < first)
		first = beyond;
	*ret_first = first;
	*ret_nr = end - first;
	return layout_needs_fill(&ip->layout, first, end - first);
}

static int write_check(struct inode *ip, size_t *len, uint64_t off)
{
	if (ip->fs->readonly)
		return -EROFS;
	if (off >= FS_MAX_SIZE)
		return -EFBIG;
	if (*len > FS_MAX_SIZE - off)
		*len = (size_t)(FS_MAX_SIZE - off);
	return 0;
}

/* The exclusive part of a write. -EAGAIN as fs_write(). */
static int write_slow(struct inode *ip, const char *buf, size_t len,
		      uint64_t off, size_t *ret_done)
{
	uint64_t first, nr;
	int err;

	inode_wrlock(ip);
	if (write_needs_fill(ip, off, len, &first, &nr))
		err = -EAGAIN;
	else
		err = inode_write_locked(ip, buf, len, off, ret_done);
	inode_unlock(ip);
	return err;
}

ssize_t fs_write(struct inode *ip, const void *buf, size_t len, uint64_t off)
{
	size_t n, done = 0;
	int err = write_check(ip, &len, off);

	if (err || !len)
		return err;
	inode_rdlock(ip);
	err = overwrite(ip, buf, len, off);
	inode_unlock(ip);
	if (!err)
		return (ssize_t)len;
	if (err != -EAGAIN)
		return err;
	do {
		n = 0;
		err = write_slow(ip, (const char *)buf + done, len - done,
				 off + done, &n);
		done += n;
		/* Short or not at all: space may be on its way. */
	} while (done < len && (!err || err == -ENOSPC) &&
		 fs_space_wait(ip->fs));
	return done ? (ssize_t)done : err;
}

static int write_commit(struct fs_op *op)
{
	uint64_t first, nr;

	/* The file was cut meanwhile, and leases beyond its end are new. */
	if (write_needs_fill(op->ip, op->off, op->len, &first, &nr))
		return -ERESTART;
	return inode_write_locked(op->ip, op->buf, op->len, op->off,
				  &op->ret_len);
}

static void write_start(struct fs_op *op)
{
	ssize_t n = fs_write(op->ip, op->buf, op->len, op->off);
	uint64_t first, nr;

	if (n != -EAGAIN) {
		if (n > 0)
			op->ret_len = (size_t)n;
		op_finish(op, n < 0 ? (int)n : 0);
		return;
	}
	inode_rdlock(op->ip);
	(void)write_needs_fill(op->ip, op->off, op->len, &first, &nr);
	inode_unlock(op->ip);
	op_submit_break(op, BREAK_FILL, first, nr, write_commit);
}

void fs_write_op(struct fs_op *op)
{
	int err = write_check(op->ip, &op->len, op->off);

	op->start = write_start;
	if (err || !op->len)
		op_finish(op, err);
	else
		write_start(op);
}

int inode_zero_bytes(struct inode *ip, uint64_t from, uint64_t to)
{
	struct fs *fs = ip->fs;
	struct extent e;
	int err;

	while (from < to) {
		uint64_t left = to - from;
		size_t n;

		err = extent_lookup(fs->m, NULL, &ip->di, page_of(from), &e);
		if (err)
			return err;
		n = span_of(&e, from, left);
		if (e.pblk)
			pmem_memset(fs->pool, data_ptr(ip, &e, from), 0, n);
		from += n;
	}
	pmem_drain(fs->pool);
	return 0;
}

int inode_zero_tail(struct inode *ip, uint64_t upto)
{
	uint64_t size = inode_size(ip);
	uint64_t end = bytes_to_pages(size) << PDX_BLOCK_SHIFT;

	if (upto <= size || size == end)
		return 0;
	return inode_zero_bytes(ip, size, upto < end ? upto : end);
}

/* One transaction's worth of filling. *next moves on success. */
static int fill_chunk(struct inode *ip, uint64_t *next, uint64_t end, bool huge)
{
	uint64_t lblk = *next, filled = 0;
	struct pdx_inode *di;
	struct change c;
	struct extent e;
	int err = change_begin_inode(ip, &c, &di);

	if (err)
		return err;
	while (lblk < end && filled < FILL_MAX && tx_room(c.tx) >= ROOM_MIN) {
		err = extent_lookup(ip->fs->m, c.tx, di, lblk, &e);
		if (!err && !e.pblk) {
			uint64_t want = end - lblk < e.nr ? end - lblk : e.nr;

			if (want > FILL_MAX)
				want = FILL_MAX;
			err = map_hole(&c, di, lblk, want, huge, &e);
			if (!err)
				pmem_memset(ip->fs->pool,
					    media_ptr(ip->fs->m, e.pblk), 0,
					    e.nr << PDX_BLOCK_SHIFT);
			filled += e.nr;
		}
		if (err)
			break;
		lblk += e.nr;
	}
	if (!err && filled) {
		pmem_drain(ip->fs->pool);
		touch_c(di, fs_now_ns());
	}
	err = change_end(&c, err);
	if (!err)
		*next = lblk;
	return err;
}

int inode_fill(struct inode *ip, uint64_t first, uint64_t nr)
{
	uint64_t next = first;
	bool huge = nr >= PMEM_HUGE_PAGES || inode_size(ip) >= PMEM_HUGE_SIZE;
	int err = inode_settle(ip);

	while (!err && next < first + nr) {
		err = fill_chunk(ip, &next, first + nr, huge);
		/* The caller's lock is held: wait for fences only. */
		if (err == -ENOSPC && fencer_wait(ip->fs->fencer))
			err = 0;
	}
	return err;
}

/* The first byte at or after @off that is data (or a hole). */
int fs_lseek(struct inode *ip, uint64_t off, int whence, uint64_t *ret_off)
{
	bool want_data = whence == SEEK_DATA;
	uint64_t size;
	struct extent e;
	int err = 0;

	inode_rdlock(ip);
	size = inode_size(ip);
	if (off >= size)
		err = -ENXIO;
	while (!err && off < size) {
		err = extent_lookup(ip->fs->m, NULL, &ip->di, page_of(off), &e);
		if (err || (e.pblk != 0) == want_data)
			break;
		if (!e.pblk && e.nr >= FS_MAX_PAGES)
			off = size;
		else
			off = (e.lblk + e.nr) << PDX_BLOCK_SHIFT;
	}
	inode_unlock(ip);
	if (!err && off >= size) {
		/* There is always a hole at the end, and never data. */
		off = size;
		err = want_data ? -ENXIO : 0;
	}
	if (!err)
		*ret_off = off;
	return err;
}

struct extents_arg {
	struct inode *ip;
	struct fs_extent *ext;
	int nr, max;
};

static int extents_one(const struct extent *e, void *arg)
{
	struct extents_arg *a = arg;

	a->ext[a->nr++] = (struct fs_extent){
		.file_off = e->lblk << PDX_BLOCK_SHIFT,
		.pool_off = media_pool_page(a->ip->fs->m, e->pblk)
			    << PMEM_PAGE_SHIFT,
		.len = e->nr << PDX_BLOCK_SHIFT,
	};
	return a->nr == a->max;
}

int fs_extents(struct inode *ip, uint64_t off, struct fs_extent *ret_ext,
	       int max)
{
	struct extents_arg a = {.ip = ip, .ext = ret_ext, .max = max};
	int err = 0;

	inode_rdlock(ip);
	if (max > 0 && off < FS_MAX_SIZE && get64(ip->di.nr_blocks))
		err = extent_walk(ip->fs->m, &ip->di, page_of(off),
				  FS_MAX_PAGES - page_of(off), extents_one, &a);
	inode_unlock(ip);
	return err < 0 ? err : a.nr;
}
