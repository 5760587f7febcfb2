// SPDX-License-Identifier: BSD-3-Clause
/*
 * Attributes: stat, the fields of setattr that do not touch blocks, times,
 * statfs.
 *
 * Times that only data access changes are kept in memory (lazy_*): a write to
 * allocated pages is no transaction. They reach the media at fsync, at the last
 * reference, and with any other change of the inode; a crash may lose them, as
 * it may lose the stores of a mapping that was not persisted.
 *
 * Locks: the inode's. Size changes are truncate.c's.
 */
#include <errno.h>
#include <string.h>
#include <time.h>
#include "fs/inode.h"
#include "fs/media/alloc.h"

#define NS_PER_S 1000000000LL

int64_t fs_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (int64_t)t.tv_sec * NS_PER_S + t.tv_nsec;
}

static struct timespec ns_to_timespec(int64_t ns)
{
	int64_t s = ns / NS_PER_S, rest = ns % NS_PER_S;

	if (rest < 0) {
		s--;
		rest += NS_PER_S;
	}
	return (struct timespec){.tv_sec = s, .tv_nsec = rest};
}

static uint64_t timespec_to_ns(const struct timespec *t)
{
	/* ns since 1970 in 64 bits end in 1677 and 2262: clamp, as ext4 does */
	const int64_t max_s = INT64_MAX / NS_PER_S - 1;
	int64_t s = t->tv_sec;

	if (s > max_s)
		s = max_s;
	if (s < -max_s)
		s = -max_s;
	return (uint64_t)(s * NS_PER_S + t->tv_nsec);
}

void fs_getattr(struct inode *ip, struct stat *ret_st, uint32_t *ret_gen)
{
	int64_t m, a;

	memset(ret_st, 0, sizeof(*ret_st));
	inode_rdlock(ip);
	m = atomic_load(&ip->lazy_mtime_ns);
	a = atomic_load(&ip->lazy_atime_ns);
	ret_st->st_ino = ip->ino;
	ret_st->st_mode = get32(ip->di.mode);
	ret_st->st_nlink = get32(ip->di.nlink);
	ret_st->st_uid = get32(ip->di.uid);
	ret_st->st_gid = get32(ip->di.gid);
	ret_st->st_rdev = get32(ip->di.rdev);
	ret_st->st_size = (off_t)inode_size(ip);
	ret_st->st_blksize = PDX_BLOCK_SIZE;
	ret_st->st_blocks =
		(blkcnt_t)get64(ip->di.nr_blocks) * (PDX_BLOCK_SIZE / 512);
	ret_st->st_atim =
		ns_to_timespec(a ? a : (int64_t)get64(ip->di.atime_ns));
	ret_st->st_mtim =
		ns_to_timespec(m ? m : (int64_t)get64(ip->di.mtime_ns));
	ret_st->st_ctim =
		ns_to_timespec(m ? m : (int64_t)get64(ip->di.ctime_ns));
	if (ret_gen)
		*ret_gen = get32(ip->di.gen);
	inode_unlock(ip);
}

void attr_apply(struct pdx_inode *di, const struct fs_attr *a, int64_t now_ns)
{
	uint32_t mode = get32(di->mode);

	if (a->valid & FS_SET_MODE)
		mode = (mode & S_IFMT) | (a->mode & 07777);
	if (a->valid & FS_SET_UID)
		di->uid = mk32(a->uid);
	if (a->valid & FS_SET_GID)
		di->gid = mk32(a->gid);
	di->mode = mk32(mode);
	if (a->valid & FS_SET_ATIME)
		di->atime_ns = mk64(timespec_to_ns(&a->atime));
	if (a->valid & FS_SET_ATIME_NOW)
		di->atime_ns = mk64((uint64_t)now_ns);
	if (a->valid & FS_SET_MTIME)
		di->mtime_ns = mk64(timespec_to_ns(&a->mtime));
	if (a->valid & FS_SET_MTIME_NOW)
		di->mtime_ns = mk64((uint64_t)now_ns);
	touch_c(di, now_ns);
}

void inode_touch_lazy(struct inode *ip)
{
	atomic_store(&ip->lazy_mtime_ns, fs_now_ns());
}

int inode_flush_times(struct inode *ip)
{
	struct pdx_inode *di;
	struct change c;
	int err = 0;

	if (ip->fs->readonly || (!atomic_load(&ip->lazy_mtime_ns) &&
				 !atomic_load(&ip->lazy_atime_ns)))
		return 0;
	inode_wrlock(ip);
	if (!ip->reaped) {
		err = change_begin_inode(ip, &c, &di);
		if (!err)
			err = change_end(&c, 0);
	}
	inode_unlock(ip);
	return err;
}

int fs_fsync(struct inode *ip)
{
	/* Data and all other metadata are durable already. */
	return inode_flush_times(ip);
}

static void setattr_start(struct fs_op *op)
{
	struct change c;
	struct pdx_inode *di;
	int err;

	inode_wrlock(op->ip);
	err = change_begin_inode(op->ip, &c, &di);
	if (!err) {
		attr_apply(di, &op->attr, fs_now_ns());
		err = change_end(&c, 0);
	}
	inode_unlock(op->ip);
	op_finish(op, err);
}

void fs_setattr(struct fs_op *op)
{
	if (op->attr.valid & FS_SET_SIZE)
		truncate_start(op, BREAK_TRUNCATE);
	else
		setattr_start(op);
}

void fs_open_trunc(struct fs_op *op)
{
	op->attr.valid = FS_SET_SIZE | FS_SET_MTIME_NOW;
	op->attr.size = 0;
	truncate_start(op, BREAK_OPEN_TRUNC);
}

void fs_statfs(struct fs *fs, struct statvfs *ret_st)
{
	struct alloc_stat st;
	uint64_t used = itable_nr_used(fs->m);

	alloc_stat(fs->m, &st);
	memset(ret_st, 0, sizeof(*ret_st));
	ret_st->f_bsize = PDX_BLOCK_SIZE;
	ret_st->f_frsize = PDX_BLOCK_SIZE;
	ret_st->f_blocks = st.total;
	/* What is freed and not fenced yet is there for the asking: a writer
	 * that finds nothing else waits for it. */
	ret_st->f_bfree = st.free + st.pending;
	ret_st->f_bavail = ret_st->f_bfree > st.reserved
				   ? ret_st->f_bfree - st.reserved
				   : 0;
	ret_st->f_ffree = ret_st->f_bavail * (PDX_BLOCK_SIZE / PDX_INODE_SIZE);
	ret_st->f_files = used + ret_st->f_ffree;
	ret_st->f_favail = ret_st->f_ffree;
	ret_st->f_namemax = FS_NAME_MAX;
	ret_st->f_fsid = (unsigned long)fs->nonce;
	if (fs->readonly)
		ret_st->f_flag |= ST_RDONLY;
}
