/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_FUSE_DAEMON_H
#define PINDAX_FS_FUSE_DAEMON_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "fs/fs.h"

/*
 * Private to fs/fuse/: one mount, its open descriptions and parked requests.
 *
 * Rule of this folder: no lock of ours is held while calling into libfuse or
 * into fs/ with a callback.
 */
struct server {
	struct fs *fs;
	struct fuse_session *se;
	void (*ready)(void *arg); /* the kernel has been answered */
	void *ready_arg;
	/* watch.c */
	pthread_t watch_thread;
	pthread_mutex_t watch_lock;
	pthread_cond_t watch_cond;
	bool watch_stop; /* guarded by watch_lock */
	bool watch_running;
};

/*
 * One open file description, or open directory. Its address is the fh of the
 * kernel and of fs/layout. flags and who opened it are kept here: at IOCTL time
 * the kernel tells neither.
 */
struct handle {
	struct inode *ip; /* an open count */
	int flags;	  /* of open(2) */
	uid_t uid;
	bool is_dir;
	/* guarded by the table's lock (handle.c) */
	struct handle *next;
	struct fuse_pollhandle *ph; /* the latest; NULL: nobody polls */
	/* a REPORT being read; guarded by report_lock */
	pthread_mutex_t report_lock;
	struct pindax_report_row *rows;
	uint32_t nr_rows;
	uint64_t rows_ns;
};

static inline struct server *server_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}
static inline struct handle *handle_of(const struct fuse_file_info *fi)
{
	return fi ? (struct handle *)(uintptr_t)fi->fh : NULL;
}
static inline bool handle_writable(const struct handle *h)
{
	return (h->flags & O_ACCMODE) != O_RDONLY;
}

/* --- handle.c --- */
/* Takes an open count on @ip. NULL: no memory. */
struct handle *handle_create(struct inode *ip, int flags, uid_t uid);
void handle_destroy(struct fs *fs, struct handle *h);
/* The kernel is gone: nobody releases what was open. */
void handle_destroy_all(struct fs *fs);
/* Remembers @ph; an older one is given back. */
void handle_set_poll(struct handle *h, struct fuse_pollhandle *ph);
void handle_notify(struct layouts *ls, uint64_t fh);

/* --- park.c --- */
/*
 * A request that may wait. FUSE_INTERRUPT comes once, at any time, and carries
 * our number only: between park_begin() and park_submitted() it is remembered,
 * as the operation may not be known to fs/layout yet.
 */
struct park {
	fuse_req_t req;
	uint64_t id;
	bool interrupted; /* guarded by the table's lock */
	struct park *next;
};
void park_begin(struct park *p, fuse_req_t req, uint64_t id);
/* In done(): the request is about to be answered. */
void park_end(struct park *p);
/* After the operation was submitted. @id and nothing else: the object may be
 * gone. */
void park_submitted(struct fs *fs, uint64_t id);

/* --- reply.c --- */
/* @err: 0 or a negative errno of fs/ */
void reply_err(fuse_req_t req, int err);
/* Takes one look-up of @ip, which goes back if the kernel did not get it. */
void reply_entry(fuse_req_t req, struct inode *ip);
void reply_attr(fuse_req_t req, struct inode *ip);
void entry_fill(struct inode *ip, struct fuse_entry_param *ret_e);
/* The inode of a request, with a reference; NULL: answered with ESTALE. */
struct inode *req_inode(fuse_req_t req, fuse_ino_t ino);
void req_cred(fuse_req_t req, bool need_tgid, struct fs_cred *ret_cred);

/* --- ops_names.c, ops_file.c, ioctl.c --- */
void ops_names_init(struct fuse_lowlevel_ops *ops);
void ops_file_init(struct fuse_lowlevel_ops *ops);
void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	      struct fuse_file_info *fi, unsigned int flags, const void *in,
	      size_t in_size, size_t out_size);

/* --- watch.c --- */
/* Long waits go to the log. The session's signals must be blocked or set up. */
int watch_start(struct server *s);
void watch_stop(struct server *s);

/* --- initpatch.c --- */
/* After the session is mounted: flags that libfuse 3.14 does not know. */
int initpatch_install(struct fuse_session *se);

#endif
