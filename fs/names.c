// SPDX-License-Identifier: BSD-3-Clause
/*
 * Names: look-up, and what makes or removes one entry of one directory.
 *
 * Each change is one transaction over the directory, its entry and the inode,
 * made under the exclusive lock of the directory (parent before child). An
 * inode whose last name goes is put on the orphan file in the same
 * transaction; orphans.c frees it later.
 *
 * Rename is rename.c's. Permissions are the kernel's (default_permissions).
 */
#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>
#include "fs/inode.h"
#include "fs/media/alloc.h"

#define SYMLINK_MAX_BYTES 4095U

static int name_check(const char *name, size_t *ret_len)
{
	size_t len = strlen(name);

	if (!len)
		return -ENOENT;
	if (len > FS_NAME_MAX)
		return -ENAMETOOLONG;
	*ret_len = len;
	return 0;
}

static uint8_t dtype_of(uint32_t mode)
{
	return (uint8_t)IFTODT(mode);
}

static int dotdot(struct inode *dir, struct inode **ret_ip)
{
	uint64_t parent;

	inode_rdlock(dir);
	parent = get64(dir->di.parent);
	inode_unlock(dir);
	return fs_inode_get(dir->fs, parent ? parent : FS_ROOT_INO, ret_ip);
}

static int lookup_named(struct inode *dir, const char *name,
			struct inode **ret_ip)
{
	struct inode *ip = NULL;
	struct dir *d;
	uint64_t ino;
	uint8_t type;
	size_t len;
	int err = name_check(name, &len);

	if (err)
		return err;
	inode_rdlock(dir);
	err = inode_dir(dir, &d);
	if (!err)
		err = dir_lookup(d, name, len, &ino, &type);
	if (!err)
		err = fs_inode_get(dir->fs, ino, &ip);
	/* Counted under the directory's lock: see inode.c's invariant. */
	if (!err)
		inode_add_lookup(ip, dir->ino, name);
	inode_unlock(dir);
	if (!err)
		*ret_ip = ip;
	return err;
}

int fs_lookup(struct inode *dir, const char *name, struct inode **ret_ip)
{
	struct inode *ip;
	int err;

	if (inode_type(dir) != S_IFDIR)
		return -ENOTDIR;
	if (strcmp(name, ".") != 0 && strcmp(name, "..") != 0) {
		err = lookup_named(dir, name, &ip);
		if (err)
			return err;
		/* The look-up count keeps it. */
		fs_inode_put(ip);
		*ret_ip = ip;
		return 0;
	}
	if (name[1]) {
		err = dotdot(dir, &ip);
		if (err)
			return err;
	} else {
		ip = dir;
		inode_ref(ip);
	}
	inode_add_lookup(ip, 0, NULL);
	fs_inode_put(ip);
	*ret_ip = ip;
	return 0;
}

/* --- create --- */

struct new_inode {
	uint64_t ino;
	mode_t mode;
	dev_t rdev;
	const char *target;
	const struct fs_cred *cred;
};

/* A long target has a block of its own, written before it is reachable. */
static int store_target(struct tx *tx, struct pdx_inode *di, const char *target)
{
	struct media *m = tx_media(tx);
	size_t len = strlen(target);
	uint64_t block, nr;
	int err;

	if (len > SYMLINK_MAX_BYTES)
		return -ENAMETOOLONG;
	di->size = mk64(len);
	if (len <= sizeof(di->symlink)) {
		memcpy(di->symlink, target, len);
		return 0;
	}
	err = alloc_blocks(tx, 0, 1, 0, &block, &nr);
	if (err)
		return err;
	pmem_memset(m->pool, media_ptr(m, block), 0, PDX_BLOCK_SIZE);
	pmem_memcpy(m->pool, media_ptr(m, block), target, len);
	pmem_drain(m->pool);
	return extent_insert(tx, di, 0, block, 1);
}

static int init_record(struct tx *tx, const struct inode *dir,
		       struct new_inode *n, uint32_t gen)
{
	struct pdx_inode *di = tx_edit_inode(tx, n->ino);
	uint32_t dir_mode = get32(dir->di.mode);
	uint64_t now = (uint64_t)fs_now_ns();
	gid_t gid = n->cred->gid;
	mode_t mode = n->mode;

	if (!di)
		return -ENOMEM;
	if (dir_mode & S_ISGID) {
		gid = get32(dir->di.gid);
		if (S_ISDIR(mode))
			mode |= S_ISGID;
	}
	memset(di, 0, sizeof(*di));
	di->magic = mk32(PDX_INODE_MAGIC);
	di->ino = mk64(n->ino);
	di->mode = mk32(mode);
	di->nlink = mk32(S_ISDIR(mode) ? 2 : 1);
	di->uid = mk32(n->cred->uid);
	di->gid = mk32(gid);
	di->atime_ns = mk64(now);
	di->mtime_ns = mk64(now);
	di->ctime_ns = mk64(now);
	di->btime_ns = mk64(now);
	di->gen = mk32(gen);
	di->state = mk32(PDX_INO_USED);
	if (S_ISDIR(mode))
		di->parent = mk64(dir->ino);
	if (S_ISCHR(mode) || S_ISBLK(mode))
		di->rdev = mk32((uint32_t)n->rdev);
	return n->target ? store_target(tx, di, n->target) : 0;
}

static int create_tx(struct inode *dir, struct dir *d, const char *name,
		     size_t len, struct new_inode *n)
{
	struct pdx_inode *ddi;
	struct change c;
	uint32_t gen;
	int err = change_begin(dir->fs, &c);

	if (err)
		return err;
	ddi = change_edit(&c, dir);
	if (!ddi)
		return change_end(&c, -ENOMEM);
	change_dir(&c, d);
	err = itable_alloc(c.tx, &n->ino, &gen);
	if (!err)
		err = init_record(c.tx, dir, n, gen);
	if (!err)
		err = dir_add(c.tx, d, ddi, name, len, n->ino,
			      dtype_of(n->mode));
	if (!err && S_ISDIR(n->mode))
		ddi->nlink = mk32(get32(ddi->nlink) + 1);
	touch_mc(ddi, fs_now_ns());
	return change_end(&c, err);
}

/* A directory that may get one entry more. */
static int addable(struct inode *dir, struct dir **ret_d, const char *name,
		   size_t len, bool subdir)
{
	uint64_t ino;
	uint8_t type;
	int err = inode_dir(dir, ret_d);

	if (err)
		return err;
	if (!get32(dir->di.nlink))
		return -ENOENT;
	err = dir_lookup(*ret_d, name, len, &ino, &type);
	if (err != -ENOENT)
		return err ? err : -EEXIST;
	if (subdir && get32(dir->di.nlink) >= FS_LINK_MAX)
		return -EMLINK;
	return 0;
}

static int create_once(struct inode *dir, const char *name, size_t len,
		       struct new_inode *n, struct inode **ret_ip)
{
	struct inode *ip = NULL;
	struct dir *d;
	int err;

	inode_wrlock(dir);
	err = addable(dir, &d, name, len, S_ISDIR(n->mode));
	if (!err)
		err = create_tx(dir, d, name, len, n);
	if (!err)
		err = fs_inode_get(dir->fs, n->ino, &ip);
	if (!err)
		inode_add_lookup(ip, dir->ino, name);
	inode_unlock(dir);
	if (!err)
		*ret_ip = ip;
	return err;
}

int fs_create(struct inode *dir, const char *name, mode_t mode, dev_t rdev,
	      const char *target, const struct fs_cred *cred,
	      struct inode **ret_ip)
{
	struct new_inode n = {
		.mode = mode, .rdev = rdev, .target = target, .cred = cred};
	struct inode *ip = NULL; /* for gcc with sanitizers */
	size_t len;
	int err = name_check(name, &len);

	if (err)
		return err;
	do {
		err = create_once(dir, name, len, &n, &ip);
	} while (err == -ENOSPC && fs_space_wait(dir->fs));
	if (err)
		return err;
	fs_inode_put(ip);
	*ret_ip = ip;
	return 0;
}

/* --- link --- */

static int link_tx(struct inode *ip, struct inode *dir, struct dir *d,
		   const char *name, size_t len)
{
	struct pdx_inode *ddi, *di;
	struct change c;
	int err = change_begin(dir->fs, &c);

	if (err)
		return err;
	ddi = change_edit(&c, dir);
	di = change_edit(&c, ip);
	if (!ddi || !di)
		return change_end(&c, -ENOMEM);
	change_dir(&c, d);
	err = dir_add(c.tx, d, ddi, name, len, ip->ino,
		      dtype_of(get32(di->mode)));
	di->nlink = mk32(get32(di->nlink) + 1);
	touch_c(di, fs_now_ns());
	touch_mc(ddi, fs_now_ns());
	return change_end(&c, err);
}

static int link_once(struct inode *ip, struct inode *dir, const char *name,
		     size_t len)
{
	struct dir *d;
	int err;

	inode_wrlock(dir);
	err = addable(dir, &d, name, len, false);
	if (!err) {
		inode_wrlock(ip);
		if (!get32(ip->di.nlink))
			err = -ENOENT;
		else if (get32(ip->di.nlink) >= FS_LINK_MAX)
			err = -EMLINK;
		else
			err = link_tx(ip, dir, d, name, len);
		inode_unlock(ip);
	}
	if (!err)
		inode_add_lookup(ip, dir->ino, name);
	inode_unlock(dir);
	return err;
}

int fs_link(struct inode *ip, struct inode *dir, const char *name)
{
	size_t len;
	int err = name_check(name, &len);

	if (err)
		return err;
	if (inode_type(ip) == S_IFDIR)
		return -EPERM;
	do {
		err = link_once(ip, dir, name, len);
	} while (err == -ENOSPC && fs_space_wait(dir->fs));
	return err;
}

/* --- unlink, rmdir --- */

static int remove_tx(struct inode *dir, struct dir *d, struct inode *ip,
		     const char *name, size_t len)
{
	bool subdir = inode_type(ip) == S_IFDIR;
	struct pdx_inode *ddi, *di;
	struct change c;
	int err = change_begin(dir->fs, &c);

	if (err)
		return err;
	ddi = change_edit(&c, dir);
	di = change_edit(&c, ip);
	if (!ddi || !di)
		return change_end(&c, -ENOMEM);
	change_dir(&c, d);
	err = dir_del(c.tx, d, name, len);
	if (!err)
		err = inode_drop_link(&c, di);
	if (subdir)
		ddi->nlink = mk32(get32(ddi->nlink) - 1);
	touch_mc(ddi, fs_now_ns());
	return change_end(&c, err);
}

int inode_drop_link(struct change *c, struct pdx_inode *di)
{
	bool subdir = S_ISDIR(get32(di->mode));
	uint32_t nlink = subdir ? 0 : get32(di->nlink) - 1;

	touch_c(di, fs_now_ns());
	di->nlink = mk32(nlink);
	if (nlink)
		return 0;
	di->state = mk32(get32(di->state) | PDX_INO_ORPHAN);
	/* A truncate in progress has its slot already. */
	return get64(di->orphan_slot) ? 0 : orphan_add(c->tx, di);
}

int inode_empty_dir(struct inode *ip)
{
	struct dir *d;
	int err = inode_dir(ip, &d);

	if (err)
		return err;
	return dir_nr(d) ? -ENOTEMPTY : 0;
}

static int remove_locked(struct inode *dir, struct inode *ip, struct dir *d,
			 const char *name, size_t len, bool want_dir)
{
	bool is_dir = inode_type(ip) == S_IFDIR;
	int err = 0;

	if (want_dir && !is_dir)
		return -ENOTDIR;
	if (!want_dir && is_dir)
		return -EISDIR;
	if (is_dir)
		err = inode_empty_dir(ip);
	return err ? err : remove_tx(dir, d, ip, name, len);
}

static int remove_name(struct inode *dir, const char *name, bool want_dir)
{
	struct inode *ip = NULL;
	bool orphan = false;
	struct dir *d;
	uint64_t ino;
	uint8_t type;
	size_t len;
	int err = name_check(name, &len);

	if (err)
		return err;
	inode_wrlock(dir);
	err = inode_dir(dir, &d);
	if (!err)
		err = dir_lookup(d, name, len, &ino, &type);
	if (!err)
		err = fs_inode_get(dir->fs, ino, &ip);
	if (!err) {
		inode_wrlock(ip);
		err = remove_locked(dir, ip, d, name, len, want_dir);
		orphan = !err && !get32(ip->di.nlink);
		inode_unlock(ip);
	}
	if (orphan)
		inode_orphaned(ip);
	inode_unlock(dir);
	fs_inode_put(ip);
	return err;
}

int fs_unlink(struct inode *dir, const char *name)
{
	return remove_name(dir, name, false);
}

int fs_rmdir(struct inode *dir, const char *name)
{
	if (strcmp(name, ".") == 0)
		return -EINVAL;
	if (strcmp(name, "..") == 0)
		return -ENOTEMPTY;
	return remove_name(dir, name, true);
}

/* --- reading --- */

int fs_readlink(struct inode *ip, char *buf, size_t size)
{
	uint64_t len;
	struct extent e;
	int err = 0;

	if (inode_type(ip) != S_IFLNK)
		return -EINVAL;
	inode_rdlock(ip);
	len = inode_size(ip);
	if (len > SYMLINK_MAX_BYTES || len >= size) {
		err = -EBADMSG;
	} else if (len <= sizeof(ip->di.symlink)) {
		memcpy(buf, ip->di.symlink, len);
	} else {
		err = extent_lookup(ip->fs->m, NULL, &ip->di, 0, &e);
		if (!err && !e.pblk)
			err = -EBADMSG;
		if (!err)
			memcpy(buf, media_ptr(ip->fs->m, e.pblk), len);
	}
	inode_unlock(ip);
	if (!err)
		buf[len] = '\0';
	return err;
}

/* Cursors: 0 ".", 1 "..", then those of fs/media/dir.h plus 2. */
static int emit_dots(struct inode *dir, uint64_t cursor,
		     int (*fn)(const struct fs_dirent *e, void *arg), void *arg)
{
	struct fs_dirent e = {.type = DT_DIR};
	uint64_t up = get64(dir->di.parent);

	for (; cursor < 2; cursor++) {
		e.ino = cursor == 0 || !up ? dir->ino : up;
		e.next = cursor + 1;
		memcpy(e.name, "..", 3);
		e.name[cursor + 1] = '\0';
		if (fn(&e, arg))
			return 1;
	}
	return 0;
}

static int emit_entries(struct dir *d, uint64_t cursor,
			int (*fn)(const struct fs_dirent *e, void *arg),
			void *arg)
{
	struct dir_entry de;
	struct fs_dirent e;
	int err;

	while ((err = dir_next(d, cursor, &de)) == 0) {
		e.ino = de.ino;
		e.next = de.next + 2;
		e.type = de.type;
		memcpy(e.name, de.name, (size_t)de.len + 1);
		if (fn(&e, arg))
			return 0;
		cursor = de.next;
	}
	return err == -ENOENT ? 0 : err;
}

int fs_readdir(struct inode *dir, uint64_t cursor,
	       int (*fn)(const struct fs_dirent *e, void *arg), void *arg)
{
	struct dir *d;
	int err;

	inode_rdlock(dir);
	err = inode_dir(dir, &d);
	/* A removed directory has no entries, not even dots. */
	if (!err && get32(dir->di.nlink) &&
	    emit_dots(dir, cursor, fn, arg) == 0)
		err = emit_entries(d, cursor > 2 ? cursor - 2 : 0, fn, arg);
	inode_unlock(dir);
	return err;
}
