// SPDX-License-Identifier: BSD-3-Clause
/*
 * What every request needs: its inode, who asks, and the common replies.
 *
 * Counts: an entry that the kernel got is one look-up until it forgets it; if
 * the reply did not arrive (the request was aborted), it is taken back here.
 * Errors of the media are EIO to programs; the log has the rest.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/fuse/daemon.h"

/* Names change through this mount only, so the kernel may keep them. */
#define ENTRY_TIMEOUT_S 86400.0
/* Stores through direct mappings move mtime behind the kernel's back. */
#define ATTR_TIMEOUT_S 1.0

void reply_err(fuse_req_t req, int err)
{
	if (err == -EBADMSG) {
		fuse_log(FUSE_LOG_ERR,
			 "damaged metadata found: run fsck.pindax -n\n");
		err = -EIO;
	}
	fuse_reply_err(req, -err);
}

void entry_fill(struct inode *ip, struct fuse_entry_param *ret_e)
{
	uint32_t gen;

	memset(ret_e, 0, sizeof(*ret_e));
	fs_getattr(ip, &ret_e->attr, &gen);
	ret_e->ino = fs_ino(ip);
	ret_e->generation = gen;
	ret_e->attr_timeout = ATTR_TIMEOUT_S;
	ret_e->entry_timeout = ENTRY_TIMEOUT_S;
}

void reply_entry(fuse_req_t req, struct inode *ip)
{
	struct fs *fs = server_of(req)->fs;
	struct fuse_entry_param e;

	entry_fill(ip, &e);
	if (fuse_reply_entry(req, &e) != 0)
		fs_forget(fs, e.ino, 1);
}

void reply_attr(fuse_req_t req, struct inode *ip)
{
	struct stat st;

	fs_getattr(ip, &st, NULL);
	fuse_reply_attr(req, &st, ATTR_TIMEOUT_S);
}

struct inode *req_inode(fuse_req_t req, fuse_ino_t ino)
{
	struct inode *ip = fs_inode_find(server_of(req)->fs, ino);

	if (!ip)
		fuse_reply_err(req, ESTALE);
	return ip;
}

/* The kernel names the calling thread; people and pins know processes. */
static pid_t tgid_of(pid_t tid)
{
	char path[32], line[128];
	long tgid = tid;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/%d/status", (int)tid);
	f = fopen(path, "re");
	if (!f)
		return tid; /* it is gone, or in another pid namespace */
	while (fgets(line, sizeof(line), f)) {
		if (strncmp(line, "Tgid:", 5) == 0) {
			tgid = strtol(line + 5, NULL, 10);
			break;
		}
	}
	fclose(f);
	return (pid_t)tgid;
}

void req_cred(fuse_req_t req, bool need_tgid, struct fs_cred *ret_cred)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	*ret_cred = (struct fs_cred){
		.uid = ctx->uid,
		.gid = ctx->gid,
		.tgid = need_tgid ? tgid_of(ctx->pid) : ctx->pid,
		.tid = ctx->pid,
	};
}
