// SPDX-License-Identifier: BSD-3-Clause
/*
 * Inodes without a name: how their blocks and their record go.
 *
 * Unlink, rename-over and the last close never wait. The transaction that
 * takes the last name away puts the inode on the orphan file; when the kernel
 * has forgotten it and no description is open, the reaper breaks its whole
 * layout (BREAK_ORPHAN), whose commit frees blocks and record as soon as the
 * last pin is gone, in whatever thread that happens.
 *
 * Invariant: a record is freed only after its inode has left the hash, as its
 * number may be given out again at once.
 * Locks: reap_lock guards the queue only.
 */
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include "fs/inode.h"

/* How long a writer without space waits for an unlinked file to be freed. */
#define SPACE_WAIT_NS 200000000LL

struct orphan_op {
	struct break_req br;
	struct inode *ip;
};

static int free_record(struct inode *ip)
{
	struct pdx_inode *di;
	struct change c;
	int err = change_begin_inode(ip, &c, &di);

	if (err)
		return err;
	err = orphan_del(c.tx, di);
	if (!err)
		err = itable_free(c.tx, ip->ino);
	inode_unhash(ip);
	err = change_end(&c, err);
	if (err)
		inode_rehash(ip);
	else
		ip->reaped = true;
	return err;
}

/* Inode lock held exclusively; nobody holds its pages. */
static int reap_locked(struct inode *ip)
{
	int err = 0;

	if (get64(ip->di.nr_blocks))
		err = inode_drop(ip, 0, FS_MAX_PAGES);
	if (!err)
		err = free_record(ip);
	return err;
}

static void reap_done(struct inode *ip, int err)
{
	struct fs *fs = ip->fs;

	/* What failed stays on the orphan file for the next mount. */
	if (!err)
		inode_reaped(ip);
	fencer_kick(fs->fencer);
	fs_inode_put(ip);
	pthread_mutex_lock(&fs->reap_lock);
	fs->reap_seq++;
	fs->reap_pending--;
	pthread_cond_broadcast(&fs->space_cond);
	pthread_mutex_unlock(&fs->reap_lock);
}

static int orphan_commit(struct break_req *r)
{
	return reap_locked(((struct orphan_op *)r)->ip);
}

static void reap_at_once(struct inode *ip)
{
	int err;

	inode_wrlock(ip);
	err = ip->reaped ? 0 : reap_locked(ip);
	inode_unlock(ip);
	reap_done(ip, err);
}

static void orphan_done(struct break_req *r, int err)
{
	struct orphan_op *o = (struct orphan_op *)r;
	struct inode *ip = o->ip;

	free(o);
	if (err == -ENODEV && atomic_load(&ip->fs->shut))
		reap_at_once(ip);
	else
		reap_done(ip, err);
}

static void reap(struct inode *ip)
{
	struct orphan_op *o;

	/* After the shutdown there are no leases and pins to ask about. */
	if (atomic_load(&ip->fs->shut)) {
		reap_at_once(ip);
		return;
	}
	o = calloc(1, sizeof(*o));
	if (!o) {
		reap_done(ip, -ENOMEM);
		return;
	}
	o->ip = ip;
	o->br.id = layouts_new_id(ip->fs->layouts);
	o->br.layout = &ip->layout;
	o->br.op = BREAK_ORPHAN;
	o->br.nr = LAYOUT_TO_END;
	o->br.commit = orphan_commit;
	o->br.done = orphan_done;
	layout_break(&o->br);
}

void reaper_queue(struct inode *ip)
{
	struct fs *fs = ip->fs;

	pthread_mutex_lock(&fs->reap_lock);
	ip->reap_next = NULL;
	*fs->reap_tail = ip;
	fs->reap_tail = &ip->reap_next;
	fs->reap_pending++;
	pthread_cond_signal(&fs->reap_cond);
	pthread_mutex_unlock(&fs->reap_lock);
}

static void *reaper_main(void *arg)
{
	struct fs *fs = arg;
	struct inode *ip;

	pthread_mutex_lock(&fs->reap_lock);
	for (;;) {
		while (!fs->reap_head && !fs->reap_stop)
			pthread_cond_wait(&fs->reap_cond, &fs->reap_lock);
		ip = fs->reap_head;
		if (!ip)
			break;
		fs->reap_head = ip->reap_next;
		if (!fs->reap_head)
			fs->reap_tail = &fs->reap_head;
		pthread_mutex_unlock(&fs->reap_lock);
		reap(ip);
		pthread_mutex_lock(&fs->reap_lock);
	}
	pthread_mutex_unlock(&fs->reap_lock);
	return NULL;
}

int reaper_start(struct fs *fs)
{
	int err;

	fs->reap_tail = &fs->reap_head;
	err = -pthread_create(&fs->reap_thread, NULL, reaper_main, fs);
	fs->reap_running = !err;
	return err;
}

static void wait_until_reaped(struct fs *fs)
{
	pthread_mutex_lock(&fs->reap_lock);
	while (fs->reap_pending)
		pthread_cond_wait(&fs->space_cond, &fs->reap_lock);
	pthread_mutex_unlock(&fs->reap_lock);
}

void reaper_stop(struct fs *fs)
{
	if (!fs->reap_running)
		return;
	wait_until_reaped(fs);
	pthread_mutex_lock(&fs->reap_lock);
	fs->reap_stop = true;
	pthread_cond_signal(&fs->reap_cond);
	pthread_mutex_unlock(&fs->reap_lock);
	pthread_join(fs->reap_thread, NULL);
	fs->reap_running = false;
}

static int resume_one(struct fs *fs, uint64_t ino)
{
	struct inode *ip;
	int err = fs_inode_get(fs, ino, &ip);

	if (err)
		return err;
	inode_wrlock(ip);
	if (!(get32(ip->di.state) & PDX_INO_ORPHAN))
		err = inode_settle(ip);
	inode_unlock(ip);
	if (inode_claim_reap(ip))
		reaper_queue(ip);
	fs_inode_put(ip);
	return err;
}

int orphans_resume(struct fs *fs)
{
	uint64_t cursor = 0, ino, *list = NULL, *more;
	size_t nr = 0, max = 0;
	int err;

	/* First the list, then the work: it clears slots. */
	while ((err = orphans_next(fs->m, &cursor, &ino)) == 0) {
		if (nr == max) {
			max = max ? 2 * max : 64;
			more = realloc(list, max * sizeof(*list));
			if (!more) {
				err = -ENOMEM;
				break;
			}
			list = more;
		}
		list[nr++] = ino;
	}
	if (err == -ENOENT)
		err = 0;
	for (size_t i = 0; !err && i < nr; i++)
		err = resume_one(fs, list[i]);
	free(list);
	wait_until_reaped(fs);
	return err;
}

/* Unlinked files whose last close or forget is behind us or near. */
static bool orphans_closing(struct fs *fs)
{
	bool any;

	pthread_mutex_lock(&fs->icache_lock);
	any = fs->nr_closing > 0;
	pthread_mutex_unlock(&fs->icache_lock);
	return any;
}

bool fs_space_wait(struct fs *fs)
{
	bool came = fencer_wait(fs->fencer);
	struct timespec until;
	uint64_t seq;
	int err = 0;

	if (came || !orphans_closing(fs))
		return came;
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += SPACE_WAIT_NS;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_sec++;
		until.tv_nsec -= 1000000000L;
	}
	pthread_mutex_lock(&fs->reap_lock);
	seq = fs->reap_seq;
	while (fs->reap_seq == seq && err != ETIMEDOUT)
		err = pthread_cond_timedwait(&fs->space_cond, &fs->reap_lock,
					     &until);
	came = fs->reap_seq != seq;
	pthread_mutex_unlock(&fs->reap_lock);
	if (came)
		(void)fencer_wait(fs->fencer);
	return came;
}
