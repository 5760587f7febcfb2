// SPDX-License-Identifier: BSD-3-Clause
/*
 * One transaction over the records of some inodes, and the inodes in memory
 * that must follow it: an inode in memory changes when the transaction has
 * committed, and not at all when it has not.
 *
 * Times that were kept in memory only ride along with any transaction on their
 * inode. Caller holds each inode's lock exclusively until change_end().
 * Blocks and names are the callers'. Read fs/media/tx.h.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>
#include "fs/inode.h"

int change_begin(struct fs *fs, struct change *c)
{
	memset(c, 0, sizeof(*c));
	c->fs = fs;
	if (fs->readonly)
		return -EROFS;
	return tx_begin(fs->m, &c->tx);
}

static void merge_lazy(struct change *c, unsigned int i)
{
	struct pdx_inode *di = c->di[i];
	int64_t m = atomic_load(&c->ip[i]->lazy_mtime_ns);
	int64_t a = atomic_load(&c->ip[i]->lazy_atime_ns);

	c->lazy_m[i] = m;
	c->lazy_a[i] = a;
	if (m)
		touch_mc(di, m);
	if (a)
		di->atime_ns = mk64((uint64_t)a);
}

struct pdx_inode *change_edit(struct change *c, struct inode *ip)
{
	struct pdx_inode *di;

	for (unsigned int i = 0; i < c->nr; i++) {
		if (c->ip[i] == ip)
			return c->di[i];
	}
	assert(c->nr < CHANGE_INODES);
	di = tx_edit_inode(c->tx, ip->ino);
	if (!di)
		return NULL;
	c->ip[c->nr] = ip;
	c->di[c->nr] = di;
	merge_lazy(c, c->nr++);
	return di;
}

int change_begin_inode(struct inode *ip, struct change *c,
		       struct pdx_inode **ret_di)
{
	struct pdx_inode *di;
	int err = change_begin(ip->fs, c);

	if (err)
		return err;
	di = change_edit(c, ip);
	if (!di)
		return change_end(c, -ENOMEM);
	*ret_di = di;
	return 0;
}

void change_dir(struct change *c, struct dir *d)
{
	for (unsigned int i = 0; i < c->nr_dirs; i++) {
		if (c->dir[i] == d)
			return;
	}
	assert(c->nr_dirs < 2);
	c->dir[c->nr_dirs++] = d;
}

static void publish(struct change *c, const struct pdx_inode *copy)
{
	for (unsigned int i = 0; i < c->nr; i++) {
		struct inode *ip = c->ip[i];

		ip->di = copy[i];
		/* A newer one may have come meanwhile: that one stays. */
		atomic_compare_exchange_strong(&ip->lazy_mtime_ns,
					       &c->lazy_m[i], 0);
		atomic_compare_exchange_strong(&ip->lazy_atime_ns,
					       &c->lazy_a[i], 0);
	}
}

int change_end(struct change *c, int err)
{
	struct pdx_inode copy[CHANGE_INODES];

	if (err) {
		tx_abort(c->tx);
	} else {
		/* The edits are gone with the transaction: copy them first. */
		for (unsigned int i = 0; i < c->nr; i++)
			copy[i] = *c->di[i];
		err = tx_commit(c->tx);
		if (!err)
			publish(c, copy);
	}
	for (unsigned int i = 0; i < c->nr_dirs; i++) {
		if (err)
			dir_abort(c->dir[i]);
		else
			dir_commit(c->dir[i]);
	}
	return err;
}
