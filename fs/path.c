// SPDX-License-Identifier: BSD-3-Clause
/*
 * A path of an inode, for people: pins and waiters are reported by file.
 *
 * Each inode in memory remembers a name it was found by. That is a hint: it is
 * checked against the directory, and when it is stale the directory is
 * searched. A file whose remembered directory no longer names it has no path.
 * Locks: one inode at a time, shared.
 */
#include <errno.h>
#include <string.h>
#include "fs/inode.h"

struct step {
	uint64_t parent;
	char name[FS_NAME_MAX + 1];
};

static void remembered(struct inode *ip, struct step *s)
{
	pthread_mutex_lock(&ip->fs->icache_lock);
	s->parent = ip->parent;
	s->name[0] = '\0';
	if (ip->name && strlen(ip->name) <= FS_NAME_MAX)
		memcpy(s->name, ip->name, strlen(ip->name) + 1);
	pthread_mutex_unlock(&ip->fs->icache_lock);
	if (inode_type(ip) != S_IFDIR)
		return;
	inode_rdlock(ip);
	s->parent = get64(ip->di.parent);
	inode_unlock(ip);
}

static int search(struct dir *d, uint64_t ino, char *name)
{
	struct dir_entry e;
	uint64_t cursor = 0;
	int err;

	while ((err = dir_next(d, cursor, &e)) == 0 && e.ino != ino)
		cursor = e.next;
	if (!err)
		memcpy(name, e.name, (size_t)e.len + 1);
	return err;
}

/* The name of @ino in s->parent, checked. */
static int verify(struct fs *fs, uint64_t ino, struct step *s)
{
	struct inode *up;
	struct dir *d;
	uint64_t found = 0;
	uint8_t type;
	int err;

	if (!s->parent)
		return -ENOENT;
	err = fs_inode_get(fs, s->parent, &up);
	if (err)
		return err;
	inode_rdlock(up);
	err = inode_dir(up, &d);
	if (!err) {
		if (!s->name[0] ||
		    dir_lookup(d, s->name, strlen(s->name), &found, &type) ||
		    found != ino)
			err = search(d, ino, s->name);
	}
	inode_unlock(up);
	fs_inode_put(up);
	return err;
}

/* Steps up by one; the name is put before *at. */
static int step_up(struct fs *fs, uint64_t *ino, char *buf, size_t *at)
{
	struct inode *ip;
	struct step s;
	size_t len;
	int err = fs_inode_get(fs, *ino, &ip);

	if (err)
		return err;
	remembered(ip, &s);
	fs_inode_put(ip);
	err = verify(fs, *ino, &s);
	if (err)
		return err;
	len = strlen(s.name);
	if (len + 1 > *at)
		return -ENAMETOOLONG;
	*at -= len;
	memcpy(buf + *at, s.name, len);
	buf[--*at] = '/';
	*ino = s.parent;
	return 0;
}

int fs_path(struct fs *fs, uint64_t ino, char *buf, size_t size)
{
	size_t at = size - 1;
	int err;

	if (size < 2)
		return -ENAMETOOLONG;
	buf[at] = '\0';
	if (ino == FS_ROOT_INO)
		buf[--at] = '/';
	while (ino != FS_ROOT_INO) {
		err = step_up(fs, &ino, buf, &at);
		if (err)
			return err;
	}
	memmove(buf, buf + at, size - at);
	return 0;
}
