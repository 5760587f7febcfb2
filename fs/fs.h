/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_FS_H
#define PINDAX_FS_FS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include "fs/layout/layout.h"
#include "fs/media/media.h"

/*
 * The filesystem without FUSE: one mounted namespace, its inodes, and the
 * operations on them. fs/fuse/ decodes requests and calls this; unit tests and
 * the crash tests call it directly.
 *
 * Errors are 0 or -errno. Metadata operations are one transaction each and
 * durable at return; data is durable at return of fs_write(). Timestamps that
 * data access alone changes (atime, and mtime of a write that changes neither
 * size nor extents) are kept in memory until fsync, the last close, or the
 * next transaction on the inode.
 *
 * An inode pointer is valid while the caller has a reference, a look-up count
 * or an open count on it.
 */
struct fs;
struct inode;

#define FS_ROOT_INO PDX_ROOT_INO
#define FS_NAME_MAX 255U
#define FS_LINK_MAX 65000U
#define FS_MAX_SIZE (16ULL << 40) /* bytes */
#define FS_MAX_PAGES (FS_MAX_SIZE >> PDX_BLOCK_SHIFT)

struct fs_options {
	bool readonly;
	bool noatime;
	enum pinned_policy pinned;
	uint64_t pin_timeout_ms;    /* 0: none */
	uint64_t recall_timeout_ms; /* 0: the layouts' default */
	/* Events are queued for open file @fh; any thread, no lock held. May be
	 * NULL. */
	void (*notify)(struct layouts *ls, uint64_t fh);
};

#define FS_REPORT_PIDS 8
struct fs_report {
	struct media_report media;
	int label_copy_bad; /* -1, or the bad copy of the label area */
	bool emulated;	    /* survives processes, not a power cut */
	bool fence_ok;	    /* late DMA can be fenced */
	char reason[256];   /* why the pool is FS_DAX_LIMITED, or empty */
	/* when fs_open() failed: */
	char error[512]; /* what is wrong and what to do */
	pid_t holder;	 /* -EBUSY: the daemon that has it, or 0 */
	pid_t clients[FS_REPORT_PIDS]; /* -EBUSY: who maps the pool still */
	int nr_clients;
};

/*
 * fs_open - open the first namespace of the pool at @path.
 * -EBUSY somebody has it (rep->holder), or clients of an earlier daemon still
 * map it (rep->clients); errors of pmem_open(), label_read(), media_open();
 * -EOPNOTSUPP a pool with pins in a build without page callbacks. @rep is
 * filled in both cases.
 */
int fs_open(const char *path, const struct fs_options *opt, struct fs **ret_fs,
	    struct fs_report *rep);
/* Every parked operation ends with -ENODEV; no new one may come. */
void fs_shutdown(struct fs *fs);
/* After fs_shutdown(). Drops all counts, frees what is unlinked, marks clean.
 */
void fs_close(struct fs *fs);

struct layouts *fs_layouts(struct fs *fs);
void fs_info(struct fs *fs, struct pindax_ioc_info *ret_info);
/* Can files be mapped directly at all? No: the pool file is read-only. */
bool fs_direct(struct fs *fs);
void fs_stat(struct fs *fs, struct pindax_ioc_stat *ret_st);
void fs_statfs(struct fs *fs, struct statvfs *ret_st);

/* --- inodes --- */

/* A reference on an inode that is in memory (the kernel knows it); or NULL. */
struct inode *fs_inode_find(struct fs *fs, uint64_t ino);
/* The same, but reads it from the media if it must. -ENOENT, -EBADMSG. */
int fs_inode_get(struct fs *fs, uint64_t ino, struct inode **ret_ip);
void fs_inode_put(struct inode *ip); /* NULL is fine */
void fs_forget(struct fs *fs, uint64_t ino, uint64_t nlookup);
/* Counts of open descriptions: an unlinked inode lives while it has any. */
void fs_inode_open(struct inode *ip);
void fs_inode_release(struct inode *ip);
uint64_t fs_ino(const struct inode *ip);
struct layout *fs_layout(struct inode *ip);
uint32_t fs_inode_mode(struct inode *ip);

void fs_getattr(struct inode *ip, struct stat *ret_st, uint32_t *ret_gen);

/* --- names: each adds one to the look-up count of *ret_ip --- */

struct fs_cred {
	uid_t uid;
	gid_t gid;
	pid_t tgid;
	pid_t tid;
};

int fs_lookup(struct inode *dir, const char *name, struct inode **ret_ip);
/*
 * fs_create - make @name in @dir, of the type in @mode. @target: of a symbolic
 * link. -EEXIST, -ENOENT (the directory is gone), -ENAMETOOLONG, -ENOSPC,
 * -EMLINK, -EROFS.
 */
int fs_create(struct inode *dir, const char *name, mode_t mode, dev_t rdev,
	      const char *target, const struct fs_cred *cred,
	      struct inode **ret_ip);
int fs_link(struct inode *ip, struct inode *dir, const char *name);
int fs_unlink(struct inode *dir, const char *name);
int fs_rmdir(struct inode *dir, const char *name);
/* @flags: 0, RENAME_NOREPLACE or RENAME_EXCHANGE */
int fs_rename(struct inode *olddir, const char *oldname, struct inode *newdir,
	      const char *newname, unsigned int flags);
/* @buf is NUL terminated, at least 4096 bytes. */
int fs_readlink(struct inode *ip, char *buf, size_t size);

struct fs_dirent {
	uint64_t ino;
	uint64_t next; /* cursor to go on with */
	uint8_t type;  /* DT_* */
	char name[FS_NAME_MAX + 1];
};
/*
 * fs_readdir - calls @fn for each entry from @cursor (0: start) on, "." and
 * ".." included, until it returns non-zero. The directory is locked meanwhile.
 */
int fs_readdir(struct inode *dir, uint64_t cursor,
	       int (*fn)(const struct fs_dirent *e, void *arg), void *arg);
/* A path of @ino as "/a/b". -ENOENT no name known; -ENAMETOOLONG. */
int fs_path(struct fs *fs, uint64_t ino, char *buf, size_t size);

/* --- data --- */

/* Bytes read (0 at the end), or -errno. */
ssize_t fs_read(struct inode *ip, void *buf, size_t len, uint64_t off);
/*
 * fs_write - bytes written, or -errno. -EAGAIN: leases that show a hole or the
 * end of the file there must be recalled first; go on with fs_write_op().
 */
ssize_t fs_write(struct inode *ip, const void *buf, size_t len, uint64_t off);
int fs_fsync(struct inode *ip);
/* SEEK_DATA or SEEK_HOLE. -ENXIO */
int fs_lseek(struct inode *ip, uint64_t off, int whence, uint64_t *ret_off);

struct fs_extent {
	uint64_t file_off, pool_off, len; /* bytes */
};
/* The extents from @off on, up to @max; the number stored, or -errno. */
int fs_extents(struct inode *ip, uint64_t off, struct fs_extent *ret_ext,
	       int max);

/* --- operations that may wait --- */

#define FS_SET_MODE 1U
#define FS_SET_UID 2U
#define FS_SET_GID 4U
#define FS_SET_SIZE 8U
#define FS_SET_ATIME 16U
#define FS_SET_MTIME 32U
#define FS_SET_ATIME_NOW 64U
#define FS_SET_MTIME_NOW 128U

struct fs_attr {
	unsigned int valid; /* FS_SET_* */
	mode_t mode;	    /* permission bits */
	uid_t uid;
	gid_t gid;
	uint64_t size;
	struct timespec atime, mtime;
};

/*
 * An operation in flight. The caller owns the memory until done() has been
 * called: exactly once, by any thread, maybe before the call returns, with no
 * lock held. layouts_cancel(fs_layouts(fs), op->id, -EINTR) interrupts it; one
 * that was interrupted has changed nothing.
 */
struct fs_op {
	struct inode *ip;
	uint64_t id; /* for layouts_cancel() */
	struct fs_cred cred;
	uint64_t fh; /* the open file description, or 0 */
	void (*done)(struct fs_op *op, int err);
	/* arguments: those of the operation only */
	struct fs_attr attr; /* fs_setattr */
	const void *buf;     /* fs_write_op: caller's, valid until done() */
	size_t len;
	uint64_t off;	     /* write, fallocate, break: bytes */
	uint64_t range_len;  /* fallocate, break: bytes */
	int mode;	     /* fallocate: FALLOC_FL_*; break: PINDAX_BREAK_* */
	uint64_t timeout_ms; /* break; 0: the mount's */
	size_t ret_len;	     /* fs_write_op: bytes written */
	/* private */
	struct break_req br;
	void (*start)(struct fs_op *op);
	int (*commit)(struct fs_op *op);
};

/* Zeroes @op, takes a reference on @ip (done drops it), gives it an id. */
void fs_op_init(struct fs_op *op, struct inode *ip, const struct fs_cred *cred,
		uint64_t fh, void (*done)(struct fs_op *op, int err));
/* An operation that was initialised and will not be started. */
void fs_op_fini(struct fs_op *op);

void fs_setattr(struct fs_op *op);
/* The truncation of open(O_TRUNC). */
void fs_open_trunc(struct fs_op *op);
void fs_write_op(struct fs_op *op);
/* -EOPNOTSUPP: a mode that is not served. */
void fs_fallocate(struct fs_op *op);
/* Only breaks and reserves: PINDAX_IOC_BREAK. */
void fs_break(struct fs_op *op);

#endif
