// SPDX-License-Identifier: BSD-3-Clause
/*
 * Open file descriptions, and who polls them.
 *
 * An event for a mapper may come from any thread, also while its description is
 * being released: so it names the description by number, and the table says
 * whether that is still open. The poll handle is taken out under the lock and
 * used after it, as notifying the kernel is a write that may wait.
 *
 * A number may be used again for a new description; the worst that does is a
 * poll that looks once too often.
 * Locks: the table's, a leaf.
 */
#include <stdlib.h>
#include "fs/fuse/daemon.h"

#define BUCKETS 1024U

static struct {
	pthread_mutex_t lock;
	struct handle *bucket[BUCKETS];
} table = {.lock = PTHREAD_MUTEX_INITIALIZER};

static struct handle **bucket_of(const struct handle *h)
{
	uint64_t key = (uint64_t)(uintptr_t)h;

	return &table.bucket[((key * 0x9e3779b97f4a7c15ULL) >> 32) % BUCKETS];
}

struct handle *handle_create(struct inode *ip, int flags, uid_t uid)
{
	struct handle *h = calloc(1, sizeof(*h));
	struct handle **b;

	if (!h)
		return NULL;
	h->ip = ip;
	h->flags = flags;
	h->uid = uid;
	pthread_mutex_init(&h->report_lock, NULL);
	fs_inode_open(ip);
	b = bucket_of(h);
	pthread_mutex_lock(&table.lock);
	h->next = *b;
	*b = h;
	pthread_mutex_unlock(&table.lock);
	return h;
}

static struct fuse_pollhandle *take_off(struct handle *h)
{
	struct handle **p = bucket_of(h);
	struct fuse_pollhandle *ph;

	pthread_mutex_lock(&table.lock);
	while (*p != h)
		p = &(*p)->next;
	*p = h->next;
	ph = h->ph;
	h->ph = NULL;
	pthread_mutex_unlock(&table.lock);
	return ph;
}

void handle_destroy(struct fs *fs, struct handle *h)
{
	struct fuse_pollhandle *ph = take_off(h);

	layouts_release_fh(fs_layouts(fs), (uint64_t)(uintptr_t)h);
	if (ph)
		fuse_pollhandle_destroy(ph);
	fs_inode_release(h->ip);
	pthread_mutex_destroy(&h->report_lock);
	free(h->rows);
	free(h);
}

static struct handle *first_of(unsigned int bucket)
{
	struct handle *h;

	pthread_mutex_lock(&table.lock);
	h = table.bucket[bucket];
	pthread_mutex_unlock(&table.lock);
	return h;
}

void handle_destroy_all(struct fs *fs)
{
	struct handle *h;

	for (unsigned int i = 0; i < BUCKETS; i++) {
		while ((h = first_of(i)) != NULL)
			handle_destroy(fs, h);
	}
}

void handle_set_poll(struct handle *h, struct fuse_pollhandle *ph)
{
	struct fuse_pollhandle *old;

	pthread_mutex_lock(&table.lock);
	old = h->ph;
	h->ph = ph;
	pthread_mutex_unlock(&table.lock);
	if (old)
		fuse_pollhandle_destroy(old);
}

void handle_notify(struct layouts *ls, uint64_t fh)
{
	/* Compared, not followed, until the table has it. */
	struct handle *want = (struct handle *)(uintptr_t)fh, *h;
	struct fuse_pollhandle *ph = NULL;

	(void)ls; /* one mount a process */
	pthread_mutex_lock(&table.lock);
	for (h = *bucket_of(want); h && h != want; h = h->next)
		;
	if (h) {
		ph = h->ph;
		h->ph = NULL;
	}
	pthread_mutex_unlock(&table.lock);
	if (!ph)
		return;
	(void)fuse_lowlevel_notify_poll(ph); /* fails once unmounted */
	fuse_pollhandle_destroy(ph);
}
