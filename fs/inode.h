/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_INODE_H
#define PINDAX_FS_INODE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include "fs/fs.h"
#include "fs/media/dir.h"
#include "fs/media/extent.h"
#include "fs/media/tx.h"

/*
 * Private to fs/: the mounted filesystem and its inodes in memory.
 *
 * Locks, outer to inner (docs/LOCKING.md):
 *  fs->rename_lock  cross-directory renames: keeps every directory's parent
 *  inode->lock      parent before child, else lower number first
 *  layout->lock     (fs/layout)
 *  journal lanes    (fs/media: tx_begin() may sleep for one)
 *  fs->icache_lock  the hash, counts and last known names
 *  fs->reap_lock, fencer's lock: queues only
 */
struct inode {
	struct fs *fs;
	uint64_t ino;
	uint32_t type; /* S_IFMT bits; constant once it is in the hash */
	pthread_rwlock_t lock;
	struct layout layout;

	/* guarded by lock */
	struct pdx_inode di;	   /* what is on media; csum is not kept up */
	_Atomic(struct dir *) dir; /* set once, under fs->dir_load_lock, too */
	bool reaped;		   /* its record has been freed */

	/* Times newer than di's, 0: none. See fs.h; merged by change_edit(). */
	_Atomic int64_t lazy_mtime_ns;
	_Atomic int64_t lazy_atime_ns;

	/* guarded by fs->icache_lock */
	struct inode *hash_next;
	uint64_t refs; /* nlookup > 0 is one, each open is one */
	uint64_t nlookup;
	uint64_t nopen;
	bool hashed;
	bool orphan;	 /* no name is left */
	bool reaping;	 /* the reaper has it or had it */
	uint64_t parent; /* a last known name, for fs_path(); 0: none */
	char *name;

	struct inode *reap_next; /* guarded by fs->reap_lock */
};

#define ICACHE_BUCKETS 16384U

struct fencer;

struct fs {
	struct pmem_pool *pool;
	struct media *m;
	struct fs_options opt;
	struct label_ns ns;
	bool readonly;
	bool fence_ok;
	char reason[256]; /* why not FS_DAX, or empty */
	uint64_t nonce;
	uint64_t start_ns; /* CLOCK_MONOTONIC */
	bool claimed;
	_Atomic bool shut; /* layouts_shutdown() has begun */

	struct pagemap_table *table;
	struct dev_pagemap *map;	/* data pages */
	struct dev_pagemap *ledger_map; /* PUBLIC; NULL: no direct mapping */
	struct waitq *waitq;
	struct layouts *layouts;
	struct fencer *fencer;
	struct inode *root;

	struct layout_ops layout_ops; /* with the options' notify */

	pthread_mutex_t rename_lock;
	pthread_mutex_t dir_load_lock; /* leaf */
	pthread_mutex_t icache_lock;
	struct inode **icache; /* guarded by icache_lock */
	uint64_t nr_orphans;   /* guarded by icache_lock */
	uint64_t nr_closing;   /* the same: those without opens, whose space is
				* coming */

	pthread_mutex_t reap_lock;
	pthread_cond_t reap_cond;	      /* work, or stop */
	pthread_cond_t space_cond;	      /* an orphan is gone */
	struct inode *reap_head, **reap_tail; /* guarded by reap_lock */
	uint64_t reap_seq;     /* reaped so far; guarded by reap_lock */
	uint64_t reap_pending; /* queued or in flight; guarded by reap_lock */
	bool reap_stop;
	bool reap_running;
	pthread_t reap_thread;
};

static inline struct inode *inode_of(const struct layout *l)
{
	return (struct inode *)(void *)((char *)(uintptr_t)l -
					offsetof(struct inode, layout));
}

static inline uint64_t inode_size(const struct inode *ip)
{
	return get64(ip->di.size);
}

static inline uint32_t inode_type(const struct inode *ip)
{
	return ip->type;
}

static inline uint64_t bytes_to_pages(uint64_t bytes) /* rounded up */
{
	return (bytes + PDX_BLOCK_SIZE - 1) >> PDX_BLOCK_SHIFT;
}

int64_t fs_now_ns(void); /* CLOCK_REALTIME */

/* --- inode.c: cache --- */
int icache_init(struct fs *fs);
void icache_fini(struct fs *fs); /* drops what the kernel never forgot */
void inode_rdlock(struct inode *ip);
void inode_wrlock(struct inode *ip);
void inode_unlock(struct inode *ip);
void inode_ref(struct inode *ip); /* has one already */
/* One look-up more, and the name it was found by (NULL: not by one). */
void inode_add_lookup(struct inode *ip, uint64_t parent, const char *name);
void inode_set_name(struct inode *ip, uint64_t parent, const char *name);
/* The last name went away in a transaction that has committed. */
void inode_orphaned(struct inode *ip);
/* Nobody can reach the orphan: it gets a reference and is the reaper's. */
bool inode_claim_reap(struct inode *ip);
void inode_reaped(struct inode *ip);
uint64_t icache_orphans(struct fs *fs);
/* The record is about to be freed: its number may come back at once. */
void inode_unhash(struct inode *ip);
void inode_rehash(struct inode *ip);
/* The directory's index; inode lock held. -ENOTDIR, -EBADMSG, -ENOMEM. */
int inode_dir(struct inode *ip, struct dir **ret_d);

/* --- change.c: one transaction over some inodes --- */
#define CHANGE_INODES 5
struct change {
	struct fs *fs;
	struct tx *tx;
	unsigned int nr;
	struct inode *ip[CHANGE_INODES];
	struct pdx_inode *di[CHANGE_INODES];
	int64_t lazy_m[CHANGE_INODES], lazy_a[CHANGE_INODES];
	unsigned int nr_dirs;
	struct dir *dir[2];
};
/* -EROFS, -ENOMEM */
int change_begin(struct fs *fs, struct change *c);
/* The copy to change; @ip is locked exclusively. NULL: no memory, no room. */
struct pdx_inode *change_edit(struct change *c, struct inode *ip);
/* Both of the above for one inode; after an error there is nothing to end. */
int change_begin_inode(struct inode *ip, struct change *c,
		       struct pdx_inode **ret_di);
/* A directory whose index is changed: committed or taken back with the rest. */
void change_dir(struct change *c, struct dir *d);
/* Commit when @err is 0, else abort. Inodes in memory follow on success. */
int change_end(struct change *c, int err);
static inline void touch_mc(struct pdx_inode *di, int64_t now_ns)
{
	di->mtime_ns = mk64((uint64_t)now_ns);
	di->ctime_ns = di->mtime_ns;
}
static inline void touch_c(struct pdx_inode *di, int64_t now_ns)
{
	di->ctime_ns = mk64((uint64_t)now_ns);
}

/* --- attr.c --- */
void attr_apply(struct pdx_inode *di, const struct fs_attr *a, int64_t now_ns);
/* Lazy times to media. The caller holds no lock. */
int inode_flush_times(struct inode *ip);
void inode_touch_lazy(struct inode *ip);

/* --- names.c: inode lock held exclusively --- */
/* One name less in @di, an orphan when it was the last. */
int inode_drop_link(struct change *c, struct pdx_inode *di);
int inode_empty_dir(struct inode *ip); /* -ENOTEMPTY */

/* --- data.c: inode lock held exclusively --- */
/* Bytes [from, to) of allocated pages become zeros; holes are skipped. */
int inode_zero_bytes(struct inode *ip, uint64_t from, uint64_t to);
/* Zeroed blocks into the holes of the pages. */
int inode_fill(struct inode *ip, uint64_t first, uint64_t nr);
int inode_write_locked(struct inode *ip, const char *buf, size_t len,
		       uint64_t off, size_t *ret_done);
/* The file grows from its size to @off: stale bytes of its last page go. */
int inode_zero_tail(struct inode *ip, uint64_t upto);

/* --- truncate.c: inode lock held exclusively --- */
int inode_set_size(struct inode *ip, const struct fs_attr *a);
/* Finish a truncate whose blocks are not all dropped yet. */
int inode_settle(struct inode *ip);
/* Pages [first, first + nr) become holes. */
int inode_drop(struct inode *ip, uint64_t first, uint64_t nr);
/* setattr with a size, whichever way it goes. */
void truncate_start(struct fs_op *op, enum break_op kind);
void op_submit_break(struct fs_op *op, enum break_op kind, uint64_t first,
		     uint64_t nr, int (*commit)(struct fs_op *op));
void op_finish(struct fs_op *op, int err);

/* --- orphans.c --- */
int reaper_start(struct fs *fs);
void reaper_stop(struct fs *fs);     /* after what is queued is done */
void reaper_queue(struct inode *ip); /* takes over a reference */
/* Orphans and truncates that the last mount left. */
int orphans_resume(struct fs *fs);
/*
 * fs_space_wait - after -ENOSPC, no lock held: wait for space that is on its
 * way (orphans, fences). true: some came, try again.
 */
bool fs_space_wait(struct fs *fs);

/* --- fencer.c --- */
int fencer_create(struct fs *fs, struct fencer **ret_f);
void fencer_destroy(struct fencer *f); /* after what is queued is done */
/* Begin with what is queued. Whoever frees blocks calls it once nobody waits
 * for the operation any more. */
void fencer_kick(struct fencer *f);
/* Wait until all that is queued now was tried. true: something was queued.
 * The caller may hold inode locks, but no transaction. */
bool fencer_wait(struct fencer *f);

/* --- layoutops.c --- */
extern const struct layout_ops fs_layout_ops;

/* --- claim.c --- */
int claim_take(struct fs *fs, struct fs_report *rep);
int claim_record(struct fs *fs);
void claim_drop(struct fs *fs);

#endif
