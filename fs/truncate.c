// SPDX-License-Identifier: BSD-3-Clause
/*
 * Size changes, and how blocks leave a file.
 *
 * Proof that a block which leaves a file has no holder: the operation is the
 * commit of a break (fs/layout). The break has stopped new pins, recalled the
 * leases, found every page idle, and holds the inode's lock from its last look
 * until the transaction is durable. Freed blocks then pass the fencer.
 *
 * A truncate that needs more than one transaction sets the new size and an
 * intent record (and a slot on the orphan file) in the first: that is its
 * atomic point. The rest is dropped in chunks, here or after a crash by
 * orphans_resume(), before anything else may put blocks there
 * (inode_settle()).
 *
 * Locks: the inode's, exclusively. Punch and zero are falloc.c's.
 */
#include <errno.h>
#include <string.h>
#include "fs/inode.h"

/* --- operations that may wait --- */

void fs_op_init(struct fs_op *op, struct inode *ip, const struct fs_cred *cred,
		uint64_t fh, void (*done)(struct fs_op *op, int err))
{
	memset(op, 0, sizeof(*op));
	inode_ref(ip);
	op->ip = ip;
	op->cred = *cred;
	op->fh = fh;
	op->done = done;
	op->id = layouts_new_id(ip->fs->layouts);
}

void fs_op_fini(struct fs_op *op)
{
	fs_inode_put(op->ip);
}

void op_finish(struct fs_op *op, int err)
{
	struct inode *ip = op->ip;

	/* done() gives the operation's memory away. */
	op->done(op, err);
	fencer_kick(ip->fs->fencer);
	fs_inode_put(ip);
}

static struct fs_op *op_of(struct break_req *r)
{
	return (struct fs_op *)(void *)((char *)r - offsetof(struct fs_op, br));
}

static int op_break_commit(struct break_req *r)
{
	struct fs_op *op = op_of(r);

	return op->commit(op);
}

static void op_break_done(struct break_req *r, int err)
{
	struct fs_op *op = op_of(r);

	/* The file changed before the break had it: look at it anew. */
	if (err == -ERESTART)
		op->start(op);
	else
		op_finish(op, err);
}

void op_submit_break(struct fs_op *op, enum break_op kind, uint64_t first,
		     uint64_t nr, int (*commit)(struct fs_op *op))
{
	struct break_req *r = &op->br;

	memset(r, 0, sizeof(*r));
	r->id = op->id;
	r->layout = &op->ip->layout;
	r->op = kind;
	r->first = first;
	r->nr = nr;
	r->tgid = op->cred.tgid;
	r->tid = op->cred.tid;
	r->fh = op->fh;
	r->timeout_ms = op->timeout_ms;
	op->commit = commit;
	r->commit = commit ? op_break_commit : NULL;
	r->done = op_break_done;
	layout_break(r);
}

/* --- dropping blocks --- */

/* One transaction's worth of [*next, end); *next moves on success. */
static int drop_chunk(struct inode *ip, uint64_t *next, uint64_t end)
{
	uint64_t done = *next;
	struct pdx_inode *di;
	struct change c;
	int err = change_begin_inode(ip, &c, &di);

	if (err)
		return err;
	err = extent_remove(c.tx, di, *next, end - *next, &done);
	touch_mc(di, fs_now_ns());
	err = change_end(&c, err);
	if (!err)
		*next = done;
	return err;
}

int inode_drop(struct inode *ip, uint64_t first, uint64_t nr)
{
	uint64_t next = first;
	int err = 0;

	while (!err && next < first + nr)
		err = drop_chunk(ip, &next, first + nr);
	return err;
}

static void clear_intent(struct pdx_inode *di)
{
	di->state = mk32(get32(di->state) & ~PDX_INO_INTENT);
	di->intent_first = mk64(0);
	di->intent_nr = mk64(0);
}

/* The orphan file lists the inode while it is an orphan or has an intent. */
static int leave_orphan_file(struct tx *tx, struct pdx_inode *di)
{
	if (get32(di->state) & (PDX_INO_ORPHAN | PDX_INO_INTENT))
		return 0;
	return orphan_del(tx, di);
}

static int settle_chunk(struct inode *ip)
{
	struct pdx_inode *di;
	struct change c;
	uint64_t first, end, done;
	int err = change_begin_inode(ip, &c, &di);

	if (err)
		return err;
	first = get64(di->intent_first);
	end = first + get64(di->intent_nr);
	err = extent_remove(c.tx, di, first, end - first, &done);
	if (!err) {
		di->intent_first = mk64(done);
		di->intent_nr = mk64(end - done);
		if (done == end) {
			clear_intent(di);
			err = leave_orphan_file(c.tx, di);
		}
	}
	return change_end(&c, err);
}

int inode_settle(struct inode *ip)
{
	int err = 0;

	while (!err && get32(ip->di.state) & PDX_INO_INTENT)
		err = settle_chunk(ip);
	return err;
}

/* The record of a truncate: size, intent if one transaction may not do. */
static int cut_first(struct inode *ip, const struct fs_attr *a)
{
	uint64_t first = bytes_to_pages(a->size), done = first;
	int64_t now = fs_now_ns();
	struct pdx_inode *di;
	struct change c;
	int err = change_begin_inode(ip, &c, &di);

	if (err)
		return err;
	if (get16(di->ext_depth)) {
		if (!get64(di->orphan_slot))
			err = orphan_add(c.tx, di);
		di->state = mk32(get32(di->state) | PDX_INO_INTENT);
	}
	if (!err)
		err = extent_remove(c.tx, di, first, FS_MAX_PAGES - first,
				    &done);
	if (!err && get32(di->state) & PDX_INO_INTENT) {
		di->intent_first = mk64(done);
		di->intent_nr = mk64(FS_MAX_PAGES - done);
		if (done == FS_MAX_PAGES) {
			clear_intent(di);
			err = leave_orphan_file(c.tx, di);
		}
	}
	di->size = mk64(a->size);
	touch_mc(di, now);
	attr_apply(di, a, now);
	return change_end(&c, err);
}

static int cut(struct inode *ip, const struct fs_attr *a)
{
	uint64_t end = bytes_to_pages(a->size) << PDX_BLOCK_SHIFT;
	int err = cut_first(ip, a);

	if (err)
		return err;
	/*
	 * The size is durable: from here on the truncate has happened. What
	 * fails is done again when the file grows, or at the next mount.
	 */
	(void)inode_zero_bytes(ip, a->size, end);
	(void)inode_settle(ip);
	return 0;
}

static int grow(struct inode *ip, const struct fs_attr *a)
{
	int64_t now = fs_now_ns();
	struct pdx_inode *di;
	struct change c;
	int err = inode_zero_tail(ip, a->size);

	if (err)
		return err;
	err = change_begin_inode(ip, &c, &di);
	if (err)
		return err;
	di->size = mk64(a->size);
	touch_mc(di, now);
	attr_apply(di, a, now);
	return change_end(&c, 0);
}

int inode_set_size(struct inode *ip, const struct fs_attr *a)
{
	int err = inode_settle(ip);

	if (err)
		return err;
	return a->size < inode_size(ip) ? cut(ip, a) : grow(ip, a);
}

/* --- setattr with a size --- */

/* Growing shows pages that a lease says are beyond the end. */
static bool grow_needs_fill(struct inode *ip, uint64_t size)
{
	uint64_t first = bytes_to_pages(inode_size(ip));
	uint64_t end = bytes_to_pages(size);

	return end > first &&
	       layout_needs_fill(&ip->layout, first, end - first);
}

static int cut_commit(struct fs_op *op)
{
	/* Somebody else cut it deeper: this one grows it, by other rules. */
	if (grow_needs_fill(op->ip, op->attr.size))
		return -ERESTART;
	return inode_set_size(op->ip, &op->attr);
}

static int grow_commit(struct fs_op *op)
{
	if (op->attr.size < inode_size(op->ip) ||
	    grow_needs_fill(op->ip, op->attr.size))
		return -ERESTART;
	return inode_set_size(op->ip, &op->attr);
}

static void set_size_start(struct fs_op *op)
{
	struct inode *ip = op->ip;
	uint64_t size, want = op->attr.size;
	bool fill = false;
	int err = 0;

	inode_wrlock(ip);
	size = inode_size(ip);
	if (want >= size) {
		fill = grow_needs_fill(ip, want);
		if (!fill)
			err = inode_set_size(ip, &op->attr);
	}
	inode_unlock(ip);
	if (want < size)
		op_submit_break(op, (enum break_op)op->mode,
				want >> PDX_BLOCK_SHIFT, LAYOUT_TO_END,
				cut_commit);
	else if (fill)
		op_submit_break(op, BREAK_FILL, bytes_to_pages(size),
				bytes_to_pages(want) - bytes_to_pages(size),
				grow_commit);
	else
		op_finish(op, err);
}

void truncate_start(struct fs_op *op, enum break_op kind)
{
	uint32_t type = inode_type(op->ip); /* never changes */
	int err = 0;

	if (type == S_IFDIR)
		err = -EISDIR;
	else if (type != S_IFREG)
		err = -EINVAL;
	else if (op->ip->fs->readonly)
		err = -EROFS;
	else if (op->attr.size > FS_MAX_SIZE)
		err = -EFBIG;
	op->mode = (int)kind;
	op->start = set_size_start;
	if (err)
		op_finish(op, err);
	else
		set_size_start(op);
}

/* --- BREAK without an operation --- */

static int break_range(struct fs_op *op, enum break_op *ret_kind,
		       uint64_t *ret_first, uint64_t *ret_nr)
{
	uint64_t end;

	if (op->mode == PINDAX_BREAK_TRUNCATE) {
		if (op->range_len || op->off > FS_MAX_SIZE)
			return -EINVAL;
		*ret_kind = BREAK_TRUNCATE;
		*ret_first = op->off >> PDX_BLOCK_SHIFT;
		*ret_nr = LAYOUT_TO_END;
		return 0;
	}
	if (!op->range_len || op->off > FS_MAX_SIZE ||
	    __builtin_add_overflow(op->off, op->range_len, &end))
		return -EINVAL;
	if (end > FS_MAX_SIZE)
		end = FS_MAX_SIZE;
	if (op->mode == PINDAX_BREAK_PUNCH)
		*ret_kind = BREAK_PUNCH;
	else if (op->mode == PINDAX_BREAK_ZERO)
		*ret_kind = BREAK_ZERO;
	else
		return -EINVAL;
	*ret_first = op->off >> PDX_BLOCK_SHIFT;
	*ret_nr = bytes_to_pages(end) - *ret_first;
	return *ret_nr ? 0 : -EINVAL;
}

void fs_break(struct fs_op *op)
{
	enum break_op kind = BREAK_TRUNCATE;
	uint64_t first = 0, nr = 0;
	int err = break_range(op, &kind, &first, &nr);

	if (!err && op->ip->fs->readonly)
		err = -EROFS;
	if (err)
		op_finish(op, err);
	else
		op_submit_break(op, kind, first, nr, NULL);
}
