// SPDX-License-Identifier: BSD-3-Clause
/*
 * The inodes in memory: hash, counts, locks, last known names.
 *
 * An inode is in the hash while anybody refers to it: the kernel by look-ups,
 * open descriptions, leases and pins through the layout, an operation in
 * flight. What is not in the hash nobody changes, so a record is read from the
 * media under icache_lock alone.
 *
 * Invariant: the look-up count of an inode is raised only under the lock of a
 * directory that names it. So once the last name is gone and both counts are
 * zero, nobody can find it again, and the reaper owns it.
 *
 * Locks: icache_lock is inside every inode lock and is held for hash work only.
 * Does not know what is in an inode. Read docs/LOCKING.md.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "fs/inode.h"

static unsigned int bucket_of(uint64_t ino)
{
	return (unsigned int)((ino * 0x9e3779b97f4a7c15ULL) >> 32) %
	       ICACHE_BUCKETS;
}

static struct inode *find_locked(struct fs *fs, uint64_t ino)
{
	struct inode *ip = fs->icache[bucket_of(ino)];

	while (ip && ip->ino != ino)
		ip = ip->hash_next;
	return ip;
}

static void hash_locked(struct inode *ip)
{
	struct inode **b = &ip->fs->icache[bucket_of(ip->ino)];

	ip->hash_next = *b;
	*b = ip;
	ip->hashed = true;
}

static void unhash_locked(struct inode *ip)
{
	struct inode **p = &ip->fs->icache[bucket_of(ip->ino)];

	if (!ip->hashed)
		return;
	while (*p != ip)
		p = &(*p)->hash_next;
	*p = ip->hash_next;
	ip->hashed = false;
}

static void inode_free(struct inode *ip)
{
	layout_fini(&ip->layout);
	dir_close(atomic_load(&ip->dir));
	pthread_rwlock_destroy(&ip->lock);
	free(ip->name);
	free(ip);
}

static int inode_new(struct fs *fs, uint64_t ino, struct inode **ret_ip)
{
	struct inode *ip = calloc(1, sizeof(*ip));
	pthread_rwlockattr_t attr;
	int err;

	if (!ip)
		return -ENOMEM;
	ip->fs = fs;
	ip->ino = ino;
	ip->refs = 1;
	/* Writers first: a stream of readers must not starve a truncate. */
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(
		&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	err = -pthread_rwlock_init(&ip->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	if (err) {
		free(ip);
		return err;
	}
	layout_init(&ip->layout, fs->layouts);
	*ret_ip = ip;
	return 0;
}

struct inode *fs_inode_find(struct fs *fs, uint64_t ino)
{
	struct inode *ip;

	pthread_mutex_lock(&fs->icache_lock);
	ip = find_locked(fs, ino);
	if (ip)
		ip->refs++;
	pthread_mutex_unlock(&fs->icache_lock);
	return ip;
}

static void count_orphan_locked(struct inode *ip)
{
	ip->fs->nr_orphans++;
	if (!ip->nopen)
		ip->fs->nr_closing++;
}

int fs_inode_get(struct fs *fs, uint64_t ino, struct inode **ret_ip)
{
	struct inode *ip = fs_inode_find(fs, ino), *fresh;
	int err;

	if (ip) {
		*ret_ip = ip;
		return 0;
	}
	err = inode_new(fs, ino, &fresh);
	if (err)
		return err;
	pthread_mutex_lock(&fs->icache_lock);
	ip = find_locked(fs, ino);
	if (ip) {
		ip->refs++;
	} else {
		/* Under the lock: nobody can have it and change it meanwhile */
		err = itable_read(fs->m, ino, &fresh->di);
		if (!err) {
			fresh->type = get32(fresh->di.mode) & S_IFMT;
			fresh->orphan = get32(fresh->di.state) & PDX_INO_ORPHAN;
			if (fresh->orphan)
				count_orphan_locked(fresh);
			hash_locked(fresh);
			ip = fresh;
			fresh = NULL;
		}
	}
	pthread_mutex_unlock(&fs->icache_lock);
	if (fresh)
		inode_free(fresh);
	if (!err)
		*ret_ip = ip;
	return err;
}

void inode_ref(struct inode *ip)
{
	pthread_mutex_lock(&ip->fs->icache_lock);
	assert(ip->refs > 0);
	ip->refs++;
	pthread_mutex_unlock(&ip->fs->icache_lock);
}

/* Nobody can reach the orphan any more: it goes to the reaper, once. */
static bool must_reap_locked(struct inode *ip)
{
	if (!ip->orphan || ip->reaping || ip->nlookup || ip->nopen ||
	    ip->fs->readonly)
		return false;
	ip->reaping = true;
	ip->refs++;
	return true;
}

static bool times_dirty(struct inode *ip)
{
	return !ip->orphan && !ip->fs->readonly &&
	       (atomic_load(&ip->lazy_mtime_ns) ||
		atomic_load(&ip->lazy_atime_ns));
}

void fs_inode_put(struct inode *ip)
{
	struct fs *fs;
	bool last = false, flush = false, failed = false;

	if (!ip)
		return;
	fs = ip->fs;
	do {
		if (flush)
			failed = inode_flush_times(ip) != 0;
		pthread_mutex_lock(&fs->icache_lock);
		assert(ip->refs > 0);
		/* Times that cannot be stored are not worth the inode. */
		flush = ip->refs == 1 && !failed && times_dirty(ip);
		last = !flush && --ip->refs == 0;
		if (last)
			unhash_locked(ip);
		pthread_mutex_unlock(&fs->icache_lock);
	} while (flush);
	if (last)
		inode_free(ip);
}

void fs_forget(struct fs *fs, uint64_t ino, uint64_t nlookup)
{
	struct inode *ip;
	bool drop = false, reap = false;

	pthread_mutex_lock(&fs->icache_lock);
	ip = find_locked(fs, ino);
	if (ip && ip->nlookup) {
		ip->nlookup -= nlookup < ip->nlookup ? nlookup : ip->nlookup;
		drop = !ip->nlookup;
		reap = must_reap_locked(ip);
	}
	pthread_mutex_unlock(&fs->icache_lock);
	if (reap)
		reaper_queue(ip);
	if (drop)
		fs_inode_put(ip);
}

void fs_inode_open(struct inode *ip)
{
	struct fs *fs = ip->fs;

	pthread_mutex_lock(&fs->icache_lock);
	if (ip->orphan && !ip->nopen)
		fs->nr_closing--;
	ip->nopen++;
	ip->refs++;
	pthread_mutex_unlock(&fs->icache_lock);
}

void fs_inode_release(struct inode *ip)
{
	struct fs *fs = ip->fs;
	bool reap;

	pthread_mutex_lock(&fs->icache_lock);
	assert(ip->nopen > 0);
	ip->nopen--;
	if (ip->orphan && !ip->nopen)
		fs->nr_closing++;
	reap = must_reap_locked(ip);
	pthread_mutex_unlock(&fs->icache_lock);
	if (reap)
		reaper_queue(ip);
	fs_inode_put(ip);
}

static void set_name_locked(struct inode *ip, uint64_t parent, char *name)
{
	free(ip->name);
	ip->name = name;
	ip->parent = parent;
}

void inode_set_name(struct inode *ip, uint64_t parent, const char *name)
{
	char *copy = strdup(name);

	/* Without memory the old name stays: it is a hint that is verified. */
	if (!copy)
		return;
	pthread_mutex_lock(&ip->fs->icache_lock);
	set_name_locked(ip, parent, copy);
	pthread_mutex_unlock(&ip->fs->icache_lock);
}

void inode_add_lookup(struct inode *ip, uint64_t parent, const char *name)
{
	struct fs *fs = ip->fs;
	char *copy = NULL;
	bool known;

	pthread_mutex_lock(&fs->icache_lock);
	known = !name || (ip->name && ip->parent == parent &&
			  strcmp(ip->name, name) == 0);
	if (ip->nlookup++ == 0)
		ip->refs++;
	if (!known)
		copy = strdup(name);
	if (copy)
		set_name_locked(ip, parent, copy);
	pthread_mutex_unlock(&fs->icache_lock);
}

void inode_orphaned(struct inode *ip)
{
	struct fs *fs = ip->fs;
	bool reap;

	pthread_mutex_lock(&fs->icache_lock);
	ip->orphan = true;
	set_name_locked(ip, 0, NULL);
	count_orphan_locked(ip);
	reap = must_reap_locked(ip);
	pthread_mutex_unlock(&fs->icache_lock);
	if (reap)
		reaper_queue(ip);
}

bool inode_claim_reap(struct inode *ip)
{
	bool reap;

	pthread_mutex_lock(&ip->fs->icache_lock);
	reap = must_reap_locked(ip);
	pthread_mutex_unlock(&ip->fs->icache_lock);
	return reap;
}

void inode_reaped(struct inode *ip)
{
	pthread_mutex_lock(&ip->fs->icache_lock);
	ip->fs->nr_closing--;
	ip->fs->nr_orphans--;
	pthread_mutex_unlock(&ip->fs->icache_lock);
}

uint64_t icache_orphans(struct fs *fs)
{
	uint64_t nr;

	pthread_mutex_lock(&fs->icache_lock);
	nr = fs->nr_orphans;
	pthread_mutex_unlock(&fs->icache_lock);
	return nr;
}

void inode_unhash(struct inode *ip)
{
	pthread_mutex_lock(&ip->fs->icache_lock);
	unhash_locked(ip);
	pthread_mutex_unlock(&ip->fs->icache_lock);
}

void inode_rehash(struct inode *ip)
{
	pthread_mutex_lock(&ip->fs->icache_lock);
	hash_locked(ip);
	pthread_mutex_unlock(&ip->fs->icache_lock);
}

void inode_rdlock(struct inode *ip)
{
	pthread_rwlock_rdlock(&ip->lock);
}

void inode_wrlock(struct inode *ip)
{
	pthread_rwlock_wrlock(&ip->lock);
}

void inode_unlock(struct inode *ip)
{
	pthread_rwlock_unlock(&ip->lock);
}

int inode_dir(struct inode *ip, struct dir **ret_d)
{
	struct dir *d = atomic_load_explicit(&ip->dir, memory_order_acquire);
	int err = 0;

	if (inode_type(ip) != S_IFDIR)
		return -ENOTDIR;
	if (!d) {
		/* Two look-ups under the shared lock may both want to load. */
		pthread_mutex_lock(&ip->fs->dir_load_lock);
		d = atomic_load_explicit(&ip->dir, memory_order_relaxed);
		if (!d)
			err = dir_open(ip->fs->m, &ip->di, &d);
		if (!err)
			atomic_store_explicit(&ip->dir, d,
					      memory_order_release);
		pthread_mutex_unlock(&ip->fs->dir_load_lock);
	}
	if (!err)
		*ret_d = d;
	return err;
}

uint64_t fs_ino(const struct inode *ip)
{
	return ip->ino;
}

struct layout *fs_layout(struct inode *ip)
{
	return &ip->layout;
}

uint32_t fs_inode_mode(struct inode *ip)
{
	uint32_t mode;

	inode_rdlock(ip);
	mode = get32(ip->di.mode);
	inode_unlock(ip);
	return mode;
}

int icache_init(struct fs *fs)
{
	fs->icache = calloc(ICACHE_BUCKETS, sizeof(struct inode *));
	return fs->icache ? 0 : -ENOMEM;
}

/* The next inode that the kernel or an open description holds, or NULL. */
static struct inode *held_inode(struct fs *fs, unsigned int *bucket)
{
	struct inode *ip = NULL;

	pthread_mutex_lock(&fs->icache_lock);
	for (; *bucket < ICACHE_BUCKETS; (*bucket)++) {
		ip = fs->icache[*bucket];
		while (ip && !ip->nlookup && !ip->nopen)
			ip = ip->hash_next;
		if (ip)
			break;
	}
	pthread_mutex_unlock(&fs->icache_lock);
	return ip;
}

void icache_fini(struct fs *fs)
{
	unsigned int bucket = 0;
	struct inode *ip;

	if (!fs->icache)
		return;
	while ((ip = held_inode(fs, &bucket)) != NULL) {
		if (ip->nopen)
			fs_inode_release(ip);
		else
			fs_forget(fs, ip->ino, UINT64_MAX);
	}
}
