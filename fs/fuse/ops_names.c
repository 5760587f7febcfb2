// SPDX-License-Identifier: BSD-3-Clause
/*
 * Requests about names and attributes: decode, call fs/, reply. None of them
 * waits for a pin, except a setattr with a size, which is in ops_file.c.
 */
#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "fs/fuse/daemon.h"

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct inode *dir = req_inode(req, parent), *ip;
	struct fuse_entry_param none = {.entry_timeout = 86400.0};
	int err;

	if (!dir)
		return;
	err = fs_lookup(dir, name, &ip);
	fs_inode_put(dir);
	if (!err)
		reply_entry(req, ip);
	else if (err == -ENOENT)
		fuse_reply_entry(req, &none); /* the kernel keeps that, too */
	else
		reply_err(req, err);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t nlookup)
{
	fs_forget(server_of(req)->fs, ino, nlookup);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t count,
			    struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		fs_forget(server_of(req)->fs, forgets[i].ino,
			  forgets[i].nlookup);
	fuse_reply_none(req);
}

static void op_getattr(fuse_req_t req, fuse_ino_t ino,
		       struct fuse_file_info *fi)
{
	struct inode *ip = req_inode(req, ino);

	(void)fi;
	if (!ip)
		return;
	reply_attr(req, ip);
	fs_inode_put(ip);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name,
		 mode_t mode, dev_t rdev, const char *target)
{
	struct inode *dir = req_inode(req, parent), *ip;
	struct fs_cred cred;
	int err;

	if (!dir)
		return;
	req_cred(req, false, &cred);
	err = fs_create(dir, name, mode, rdev, target, &cred, &ip);
	fs_inode_put(dir);
	if (err)
		reply_err(req, err);
	else
		reply_entry(req, ip);
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name,
		     mode_t mode)
{
	make(req, parent, name, S_IFDIR | (mode & 07777), 0, NULL);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name,
		     mode_t mode, dev_t rdev)
{
	make(req, parent, name, mode, rdev, NULL);
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent,
		       const char *name)
{
	make(req, parent, name, S_IFLNK | 0777, 0, target);
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t newparent,
		    const char *newname)
{
	struct inode *ip, *dir = req_inode(req, newparent);
	int err;

	if (!dir)
		return;
	ip = req_inode(req, ino);
	if (!ip) {
		fs_inode_put(dir);
		return;
	}
	err = fs_link(ip, dir, newname);
	if (err)
		reply_err(req, err);
	else
		reply_entry(req, ip);
	fs_inode_put(ip);
	fs_inode_put(dir);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct inode *dir = req_inode(req, parent);

	if (!dir)
		return;
	reply_err(req, fs_unlink(dir, name));
	fs_inode_put(dir);
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct inode *dir = req_inode(req, parent);

	if (!dir)
		return;
	reply_err(req, fs_rmdir(dir, name));
	fs_inode_put(dir);
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name,
		      fuse_ino_t newparent, const char *newname,
		      unsigned int flags)
{
	struct inode *newdir, *dir = req_inode(req, parent);

	if (!dir)
		return;
	newdir = req_inode(req, newparent);
	if (newdir) {
		reply_err(req, fs_rename(dir, name, newdir, newname, flags));
		fs_inode_put(newdir);
	}
	fs_inode_put(dir);
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	struct inode *ip = req_inode(req, ino);
	char target[4096];
	int err;

	if (!ip)
		return;
	err = fs_readlink(ip, target, sizeof(target));
	fs_inode_put(ip);
	if (err)
		reply_err(req, err);
	else
		fuse_reply_readlink(req, target);
}

static void op_opendir(fuse_req_t req, fuse_ino_t ino,
		       struct fuse_file_info *fi)
{
	struct inode *ip = req_inode(req, ino);
	struct handle *h;

	if (!ip)
		return;
	h = handle_create(ip, fi->flags, fuse_req_ctx(req)->uid);
	fs_inode_put(ip);
	if (!h) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	h->is_dir = true;
	fi->fh = (uint64_t)(uintptr_t)h;
	if (fuse_reply_open(req, fi) != 0)
		handle_destroy(server_of(req)->fs, h);
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino,
			  struct fuse_file_info *fi)
{
	(void)ino;
	handle_destroy(server_of(req)->fs, handle_of(fi));
	fuse_reply_err(req, 0);
}

struct dirbuf {
	fuse_req_t req;
	char *buf;
	size_t used, size;
};

static int add_entry(const struct fs_dirent *e, void *arg)
{
	struct dirbuf *b = arg;
	struct stat st = {.st_ino = e->ino, .st_mode = (mode_t)DTTOIF(e->type)};
	size_t n =
		fuse_add_direntry(b->req, b->buf + b->used, b->size - b->used,
				  e->name, &st, (off_t)e->next);

	if (n > b->size - b->used)
		return 1;
	b->used += n;
	return 0;
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		       struct fuse_file_info *fi)
{
	struct dirbuf b = {.req = req, .size = size};
	int err;

	(void)ino;
	b.buf = malloc(size);
	if (!b.buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	err = fs_readdir(handle_of(fi)->ip, (uint64_t)off, add_entry, &b);
	/* What was found before the damage is shown first. */
	if (err && !b.used)
		reply_err(req, err);
	else
		fuse_reply_buf(req, b.buf, b.used);
	free(b.buf);
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync,
			struct fuse_file_info *fi)
{
	/* Every change of a directory was durable when it was answered. */
	(void)ino;
	(void)datasync;
	(void)fi;
	fuse_reply_err(req, 0);
}

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	(void)ino;
	fs_statfs(server_of(req)->fs, &st);
	fuse_reply_statfs(req, &st);
}

void ops_names_init(struct fuse_lowlevel_ops *ops)
{
	ops->lookup = op_lookup;
	ops->forget = op_forget;
	ops->forget_multi = op_forget_multi;
	ops->getattr = op_getattr;
	ops->mkdir = op_mkdir;
	ops->mknod = op_mknod;
	ops->symlink = op_symlink;
	ops->link = op_link;
	ops->unlink = op_unlink;
	ops->rmdir = op_rmdir;
	ops->rename = op_rename;
	ops->readlink = op_readlink;
	ops->opendir = op_opendir;
	ops->releasedir = op_releasedir;
	ops->readdir = op_readdir;
	ops->fsyncdir = op_fsyncdir;
	ops->statfs = op_statfs;
}
