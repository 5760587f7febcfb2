// SPDX-License-Identifier: BSD-3-Clause
/*
 * Requests about a file's data, and those that may wait for pins: setattr with
 * a size, open with O_TRUNC, fallocate, and a write that must recall leases.
 *
 * Files are opened FOPEN_DIRECT_IO (dax=always): read(2) and write(2) go to the
 * pool and always agree with direct mappings.
 *
 * A request that may wait is an object (struct file_op): operation, park,
 * what to answer. No thread is held; done() answers from whatever thread ends
 * the wait. The operation may be over before the submitting call returns.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include "fs/fuse/daemon.h"

struct file_op {
	struct fs_op op;
	struct park park;
	struct server *s;
	struct fuse_file_info fi; /* open */
	struct handle *h;	  /* open */
	void (*answer)(struct file_op *fo);
};

static void file_op_done(struct fs_op *op, int err)
{
	struct file_op *fo = (struct file_op *)op;

	park_end(&fo->park);
	if (err) {
		if (fo->h)
			handle_destroy(fo->s->fs, fo->h);
		reply_err(fo->park.req, err);
	} else {
		fo->answer(fo);
	}
	free(fo);
}

/*
 * NULL: answered. The process is looked up in /proc only when somebody may
 * have to know it: leases, pins or a reservation are there.
 */
static struct file_op *file_op_new(fuse_req_t req, struct inode *ip,
				   struct handle *h, size_t extra,
				   void (*answer)(struct file_op *fo))
{
	struct file_op *fo = calloc(1, sizeof(*fo) + extra);
	struct fs_cred cred;

	if (!fo) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	req_cred(req, layout_busy(fs_layout(ip)), &cred);
	fs_op_init(&fo->op, ip, &cred, (uint64_t)(uintptr_t)h, file_op_done);
	fo->s = server_of(req);
	fo->answer = answer;
	park_begin(&fo->park, req, fo->op.id);
	return fo;
}

static void file_op_submit(struct file_op *fo, void (*submit)(struct fs_op *op))
{
	struct fs *fs = fo->s->fs;
	uint64_t id = fo->op.id;

	submit(&fo->op);
	park_submitted(fs, id);
}

/* --- setattr --- */

static void answer_attr(struct file_op *fo)
{
	reply_attr(fo->park.req, fo->op.ip);
}

static void fill_attr(const struct stat *st, int to_set, struct fs_attr *a)
{
	static const struct {
		int fuse;
		unsigned int fs;
	} map[] = {
		{FUSE_SET_ATTR_MODE, FS_SET_MODE},
		{FUSE_SET_ATTR_UID, FS_SET_UID},
		{FUSE_SET_ATTR_GID, FS_SET_GID},
		{FUSE_SET_ATTR_SIZE, FS_SET_SIZE},
		{FUSE_SET_ATTR_ATIME, FS_SET_ATIME},
		{FUSE_SET_ATTR_MTIME, FS_SET_MTIME},
		{FUSE_SET_ATTR_ATIME_NOW, FS_SET_ATIME_NOW},
		{FUSE_SET_ATTR_MTIME_NOW, FS_SET_MTIME_NOW},
	};

	for (size_t i = 0; i < sizeof(map) / sizeof(map[0]); i++) {
		if (to_set & map[i].fuse)
			a->valid |= map[i].fs;
	}
	a->mode = st->st_mode;
	a->uid = st->st_uid;
	a->gid = st->st_gid;
	a->size = (uint64_t)st->st_size;
	a->atime = st->st_atim;
	a->mtime = st->st_mtim;
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st,
		       int to_set, struct fuse_file_info *fi)
{
	struct inode *ip = req_inode(req, ino);
	struct file_op *fo;

	if (!ip)
		return;
	fo = file_op_new(req, ip, handle_of(fi), 0, answer_attr);
	fs_inode_put(ip);
	if (!fo)
		return;
	fill_attr(st, to_set, &fo->op.attr);
	file_op_submit(fo, fs_setattr);
}

/* --- open, create, release --- */

static void answer_open(struct file_op *fo)
{
	if (fuse_reply_open(fo->park.req, &fo->fi) != 0)
		handle_destroy(fo->s->fs, fo->h);
}

static struct handle *open_handle(fuse_req_t req, struct inode *ip,
				  struct fuse_file_info *fi)
{
	struct handle *h = handle_create(ip, fi->flags, fuse_req_ctx(req)->uid);

	fi->fh = (uint64_t)(uintptr_t)h;
	fi->direct_io = 1;
	return h;
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct inode *ip = req_inode(req, ino);
	struct server *s = server_of(req);
	struct file_op *fo;
	struct handle *h;

	if (!ip)
		return;
	h = open_handle(req, ip, fi);
	fs_inode_put(ip);
	if (!h) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	if (!(fi->flags & O_TRUNC)) {
		if (fuse_reply_open(req, fi) != 0)
			handle_destroy(s->fs, h);
		return;
	}
	fo = file_op_new(req, h->ip, h, 0, answer_open);
	if (!fo) {
		handle_destroy(s->fs, h);
		return;
	}
	fo->fi = *fi;
	fo->h = h;
	file_op_submit(fo, fs_open_trunc);
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name,
		      mode_t mode, struct fuse_file_info *fi)
{
	struct inode *dir = req_inode(req, parent), *ip;
	struct server *s = server_of(req);
	struct fuse_entry_param e;
	struct fs_cred cred;
	struct handle *h;
	int err;

	if (!dir)
		return;
	req_cred(req, false, &cred);
	err = fs_create(dir, name, S_IFREG | (mode & 07777), 0, NULL, &cred,
			&ip);
	fs_inode_put(dir);
	if (err) {
		reply_err(req, err);
		return;
	}
	entry_fill(ip, &e);
	h = open_handle(req, ip, fi);
	if (!h) {
		fuse_reply_err(req, ENOMEM);
	} else if (fuse_reply_create(req, &e, fi) == 0) {
		return;
	} else {
		handle_destroy(s->fs, h);
	}
	fs_forget(s->fs, e.ino, 1);
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	layouts_flush_fh(fs_layouts(server_of(req)->fs), fi->fh);
	fuse_reply_err(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino,
		       struct fuse_file_info *fi)
{
	(void)ino;
	handle_destroy(server_of(req)->fs, handle_of(fi));
	fuse_reply_err(req, 0);
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync,
		     struct fuse_file_info *fi)
{
	(void)ino;
	reply_err(req, datasync ? 0 : fs_fsync(handle_of(fi)->ip));
}

/* --- read, write --- */

static pthread_key_t read_key;
static pthread_once_t read_once = PTHREAD_ONCE_INIT;

struct read_buf {
	size_t size;
	char data[];
};

static void read_key_init(void)
{
	(void)pthread_key_create(&read_key, free); /* NULL is handled below */
}

/* This thread's buffer: a fresh large one would fault in every page. */
static char *read_buffer(size_t size)
{
	struct read_buf *b;

	(void)pthread_once(&read_once, read_key_init);
	b = pthread_getspecific(read_key);
	if (b && b->size >= size)
		return b->data;
	free(b);
	b = malloc(sizeof(*b) + size);
	if (b)
		b->size = size;
	if (pthread_setspecific(read_key, b) != 0) {
		free(b);
		return NULL;
	}
	return b ? b->data : NULL;
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	char *buf = read_buffer(size);
	ssize_t n;

	(void)ino;
	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	n = fs_read(handle_of(fi)->ip, buf, size, (uint64_t)off);
	if (n < 0)
		reply_err(req, (int)n);
	else
		fuse_reply_buf(req, buf, (size_t)n);
}

static void answer_write(struct file_op *fo)
{
	fuse_reply_write(fo->park.req, fo->op.ret_len);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf,
		     size_t size, off_t off, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	ssize_t n = fs_write(h->ip, buf, size, (uint64_t)off);
	struct file_op *fo;

	(void)ino;
	if (n >= 0) {
		fuse_reply_write(req, (size_t)n);
		return;
	}
	if (n != -EAGAIN) {
		reply_err(req, (int)n);
		return;
	}
	/* Leases must be recalled first: the data is the thread's, copy it. */
	fo = file_op_new(req, h->ip, h, size, answer_write);
	if (!fo)
		return;
	memcpy(fo + 1, buf, size);
	fo->op.buf = fo + 1;
	fo->op.len = size;
	fo->op.off = (uint64_t)off;
	file_op_submit(fo, fs_write_op);
}

static void answer_ok(struct file_op *fo)
{
	fuse_reply_err(fo->park.req, 0);
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off,
			 off_t len, struct fuse_file_info *fi)
{
	struct handle *h = handle_of(fi);
	struct file_op *fo = file_op_new(req, h->ip, h, 0, answer_ok);

	(void)ino;
	if (!fo)
		return;
	fo->op.mode = mode;
	fo->op.off = (uint64_t)off;
	fo->op.range_len = (uint64_t)len;
	file_op_submit(fo, fs_fallocate);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence,
		     struct fuse_file_info *fi)
{
	uint64_t found;
	int err;

	(void)ino;
	if (off < 0) {
		fuse_reply_err(req, ENXIO);
		return;
	}
	err = fs_lseek(handle_of(fi)->ip, (uint64_t)off, whence, &found);
	if (err)
		reply_err(req, err);
	else
		fuse_reply_lseek(req, (off_t)found);
}

static void op_poll(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi,
		    struct fuse_pollhandle *ph)
{
	unsigned int events = POLLIN | POLLOUT;

	(void)ino;
	/*
	 * First the handle, then the look: an event that is queued in between
	 * finds the handle.
	 */
	if (ph)
		handle_set_poll(handle_of(fi), ph);
	if (layouts_fh_events(fs_layouts(server_of(req)->fs), fi->fh))
		events |= POLLPRI;
	fuse_reply_poll(req, events);
}

void ops_file_init(struct fuse_lowlevel_ops *ops)
{
	ops->setattr = op_setattr;
	ops->open = op_open;
	ops->create = op_create;
	ops->flush = op_flush;
	ops->release = op_release;
	ops->fsync = op_fsync;
	ops->read = op_read;
	ops->write = op_write;
	ops->fallocate = op_fallocate;
	ops->lseek = op_lseek;
	ops->poll = op_poll;
	ops->ioctl = op_ioctl;
}
