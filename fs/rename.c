// SPDX-License-Identifier: BSD-3-Clause
/*
 * Rename: two entries, up to two directories and two inodes in one
 * transaction; the replaced inode becomes an orphan in the same one.
 *
 * Locks, in this order: rename_lock when the directories differ (then no
 * directory's parent changes under us); the directories, an ancestor before its
 * descendant, else the lower number first; the moved and the replaced inode,
 * directories before files, else the lower number first. A directory is never
 * locked below its own descendant: both loops (moving into itself, replacing an
 * ancestor) are refused before the inodes are locked.
 */
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "fs/inode.h"

struct rename {
	struct inode *odir, *ndir;
	const char *oname, *nname;
	size_t olen, nlen;
	unsigned int flags;
	struct dir *od, *nd;
	struct inode *src;
	struct inode *dst;  /* NULL: the new name is free */
	uint64_t below_new; /* the child of odir on the way to ndir, or 0 */
	uint64_t below_old; /* the child of ndir on the way to odir, or 0 */
};

/*
 * The child of @top through which @ip is reached, in *ret_child; 0 when @top is
 * no ancestor of it. rename_lock is held, no inode lock.
 */
static int child_towards(struct inode *top, struct inode *ip,
			 uint64_t *ret_child)
{
	struct fs *fs = top->fs;
	uint64_t ino = ip->ino, up;
	struct inode *at;
	int err;

	*ret_child = 0;
	while (ino != FS_ROOT_INO) {
		err = fs_inode_get(fs, ino, &at);
		if (err)
			return err;
		inode_rdlock(at);
		up = get64(at->di.parent);
		inode_unlock(at);
		fs_inode_put(at);
		if (up == top->ino) {
			*ret_child = ino;
			return 0;
		}
		if (!up || up == ino)
			return -EBADMSG;
		ino = up;
	}
	return 0;
}

static int lock_dirs(struct rename *r)
{
	struct fs *fs = r->odir->fs;
	bool old_first;
	int err;

	if (r->odir == r->ndir) {
		inode_wrlock(r->odir);
		return 0;
	}
	pthread_mutex_lock(&fs->rename_lock);
	err = child_towards(r->odir, r->ndir, &r->below_new);
	if (!err)
		err = child_towards(r->ndir, r->odir, &r->below_old);
	if (err) {
		pthread_mutex_unlock(&fs->rename_lock);
		return err;
	}
	if (r->below_new || r->below_old)
		old_first = r->below_new != 0;
	else
		old_first = r->odir->ino < r->ndir->ino;
	inode_wrlock(old_first ? r->odir : r->ndir);
	inode_wrlock(old_first ? r->ndir : r->odir);
	return 0;
}

static void unlock_dirs(struct rename *r)
{
	inode_unlock(r->odir);
	if (r->odir == r->ndir)
		return;
	inode_unlock(r->ndir);
	pthread_mutex_unlock(&r->odir->fs->rename_lock);
}

static int find(struct rename *r)
{
	struct fs *fs = r->odir->fs;
	uint64_t ino;
	uint8_t type;
	int err = inode_dir(r->odir, &r->od);

	if (!err)
		err = inode_dir(r->ndir, &r->nd);
	if (!err)
		err = dir_lookup(r->od, r->oname, r->olen, &ino, &type);
	if (err)
		return err;
	if (ino == r->below_new)
		return -EINVAL; /* into itself */
	err = fs_inode_get(fs, ino, &r->src);
	if (err)
		return err;
	err = dir_lookup(r->nd, r->nname, r->nlen, &ino, &type);
	if (err == -ENOENT)
		return get32(r->ndir->di.nlink) ? 0 : -ENOENT;
	if (err)
		return err;
	if (ino == r->below_old)
		return r->flags & RENAME_EXCHANGE ? -EINVAL : -ENOTEMPTY;
	return fs_inode_get(fs, ino, &r->dst);
}

/*
 * A directory that stays in its parent is not locked: nothing in it changes,
 * and two unrelated directories may be locked by one holder of rename_lock at
 * a time only. Else this thread, one that moves between the two, and one that
 * removes a child could wait for each other in a ring.
 */
static bool must_lock(const struct rename *r, const struct inode *ip)
{
	bool stays = ip == r->src || r->flags & RENAME_EXCHANGE;

	return inode_type(ip) != S_IFDIR || r->odir != r->ndir || !stays;
}

/* A directory before a file that may have a name in it. */
static bool locked_before(const struct inode *a, const struct inode *b)
{
	bool a_dir = inode_type(a) == S_IFDIR, b_dir = inode_type(b) == S_IFDIR;

	return a_dir != b_dir ? a_dir : a->ino < b->ino;
}

static void lock_inodes(struct rename *r)
{
	struct inode *a = r->src, *b = r->dst;

	if (b && locked_before(b, a)) {
		a = r->dst;
		b = r->src;
	}
	if (must_lock(r, a))
		inode_wrlock(a);
	if (b && must_lock(r, b))
		inode_wrlock(b);
}

static void unlock_inodes(struct rename *r)
{
	if (must_lock(r, r->src))
		inode_unlock(r->src);
	if (r->dst && must_lock(r, r->dst))
		inode_unlock(r->dst);
}

static int check(struct rename *r)
{
	bool src_dir = inode_type(r->src) == S_IFDIR;
	bool dst_dir = r->dst && inode_type(r->dst) == S_IFDIR;

	if (r->flags & RENAME_EXCHANGE)
		return r->dst ? 0 : -ENOENT;
	if (r->dst && r->flags & RENAME_NOREPLACE)
		return -EEXIST;
	if (r->dst && src_dir != dst_dir)
		return src_dir ? -ENOTDIR : -EISDIR;
	if (dst_dir)
		return inode_empty_dir(r->dst);
	if (src_dir && r->odir != r->ndir &&
	    get32(r->ndir->di.nlink) >= FS_LINK_MAX)
		return -EMLINK;
	return 0;
}

static uint8_t dtype(struct inode *ip)
{
	return (uint8_t)IFTODT(inode_type(ip));
}

static void add_links(struct pdx_inode *di, int by)
{
	di->nlink = mk32((uint32_t)((int)get32(di->nlink) + by));
}

static int move_entries(struct rename *r, struct change *c,
			struct pdx_inode *ndi)
{
	int err;

	if (r->flags & RENAME_EXCHANGE) {
		err = dir_set(c->tx, r->nd, r->nname, r->nlen, r->src->ino,
			      dtype(r->src));
		if (!err)
			err = dir_set(c->tx, r->od, r->oname, r->olen,
				      r->dst->ino, dtype(r->dst));
		return err;
	}
	if (r->dst)
		err = dir_set(c->tx, r->nd, r->nname, r->nlen, r->src->ino,
			      dtype(r->src));
	else
		err = dir_add(c->tx, r->nd, ndi, r->nname, r->nlen, r->src->ino,
			      dtype(r->src));
	if (!err)
		err = dir_del(c->tx, r->od, r->oname, r->olen);
	return err;
}

/* Links of the directories that ".." of the moved ones make. */
static void move_links(struct rename *r, struct pdx_inode *odi,
		       struct pdx_inode *ndi, struct pdx_inode *sdi,
		       struct pdx_inode *tdi)
{
	bool exchange = r->flags & RENAME_EXCHANGE;

	if (sdi && inode_type(r->src) == S_IFDIR) {
		add_links(odi, -1);
		add_links(ndi, 1);
		sdi->parent = mk64(r->ndir->ino);
	}
	if (tdi && inode_type(r->dst) == S_IFDIR) {
		add_links(ndi, -1);
		if (exchange) {
			add_links(odi, 1);
			tdi->parent = mk64(r->odir->ino);
		}
	}
}

/* The records to change, NULL where there is nothing to change. */
static int edit_all(struct rename *r, struct change *c, struct pdx_inode **odi,
		    struct pdx_inode **ndi, struct pdx_inode **sdi,
		    struct pdx_inode **tdi)
{
	bool src = must_lock(r, r->src), dst = r->dst && must_lock(r, r->dst);

	*odi = change_edit(c, r->odir);
	*ndi = change_edit(c, r->ndir);
	*sdi = src ? change_edit(c, r->src) : NULL;
	*tdi = dst ? change_edit(c, r->dst) : NULL;
	if (!*odi || !*ndi || (src && !*sdi) || (dst && !*tdi))
		return -ENOMEM;
	return 0;
}

static int rename_tx(struct rename *r)
{
	struct pdx_inode *odi, *ndi, *sdi, *tdi;
	int64_t now = fs_now_ns();
	struct change c;
	int err = change_begin(r->odir->fs, &c);

	if (err)
		return err;
	err = edit_all(r, &c, &odi, &ndi, &sdi, &tdi);
	if (err)
		return change_end(&c, err);
	change_dir(&c, r->od);
	change_dir(&c, r->nd);
	err = move_entries(r, &c, ndi);
	move_links(r, odi, ndi, sdi, tdi);
	touch_mc(odi, now);
	touch_mc(ndi, now);
	if (sdi)
		touch_c(sdi, now);
	if (tdi && r->flags & RENAME_EXCHANGE)
		touch_c(tdi, now);
	else if (tdi && !err)
		err = inode_drop_link(&c, tdi);
	return change_end(&c, err);
}

static int rename_locked(struct rename *r)
{
	bool orphan = false;
	int err = find(r);

	/* Two names of one file: rename does nothing (POSIX). */
	if (err || r->src == r->dst) {
		if (!err && r->flags & RENAME_NOREPLACE)
			err = -EEXIST;
		return err;
	}
	lock_inodes(r);
	err = check(r);
	if (!err)
		err = rename_tx(r);
	orphan = !err && r->dst && !(r->flags & RENAME_EXCHANGE) &&
		 !get32(r->dst->di.nlink);
	unlock_inodes(r);
	if (err)
		return err;
	inode_set_name(r->src, r->ndir->ino, r->nname);
	if (orphan)
		inode_orphaned(r->dst);
	else if (r->dst && r->flags & RENAME_EXCHANGE)
		inode_set_name(r->dst, r->odir->ino, r->oname);
	return 0;
}

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

int fs_rename(struct inode *olddir, const char *oldname, struct inode *newdir,
	      const char *newname, unsigned int flags)
{
	struct rename r = {.odir = olddir,
			   .ndir = newdir,
			   .oname = oldname,
			   .nname = newname,
			   .olen = strlen(oldname),
			   .nlen = strlen(newname),
			   .flags = flags};
	int err;

	if (flags != 0 && flags != RENAME_NOREPLACE && flags != RENAME_EXCHANGE)
		return -EINVAL;
	if (is_dots(oldname) || is_dots(newname))
		return -EBUSY;
	if (!r.olen || !r.nlen)
		return -ENOENT;
	if (r.olen > FS_NAME_MAX || r.nlen > FS_NAME_MAX)
		return -ENAMETOOLONG;
	do {
		err = lock_dirs(&r);
		if (err)
			return err;
		err = rename_locked(&r);
		unlock_dirs(&r);
		fs_inode_put(r.src);
		fs_inode_put(r.dst);
		r.src = r.dst = NULL;
	} while (err == -ENOSPC && fs_space_wait(olddir->fs));
	return err;
}
