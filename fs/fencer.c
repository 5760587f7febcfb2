// SPDX-License-Identifier: BSD-3-Clause
/*
 * The way of a freed block to its next owner: idle, fenced, released.
 *
 * The allocator's sink. By the time a range is freed its break has seen every
 * page idle; the fencer looks again, and a range that is busy all the same
 * waits on the idle waitqueue. Then what was ever mapped directly is fenced
 * (alloc_fence()) and the range may be allocated again. All of it happens in
 * one thread of its own, so that the reply of a large truncate does not wait
 * for its fence; short ranges are done on the spot, as that is cheaper than
 * waking a thread. A range that cannot be fenced now goes into the allocator's
 * quarantine.
 *
 * pinned=unsafe: released at once, neither idle nor fenced. That is the bug the
 * demo shows; blocks for metadata are fenced by the allocator even then.
 *
 * Locks: f->lock guards the queues and is a leaf.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>
#include "fs/inode.h"
#include "fs/media/alloc.h"

#define INLINE_PAGES 8U	  /* up to so many are fenced by who frees them */
#define CHUNK_PAGES 4096U /* released at a time: writers may be waiting */
#define FENCER_NICE 10

struct frange {
	struct waiter w;
	struct fencer *f;
	uint64_t block, nr;
	struct frange *next;
	struct frange **pprev; /* while parked */
};

struct fencer {
	struct fs *fs;
	pthread_mutex_t lock;
	pthread_cond_t work; /* also: stop */
	pthread_cond_t progress;
	/* all guarded by lock */
	struct frange *head, **tail;
	struct frange *parked; /* on the waitqueue */
	uint64_t seq_in, seq_done;
	bool stop;
	pthread_t thread;
};

static void enqueue_locked(struct fencer *f, struct frange *r)
{
	r->next = NULL;
	*f->tail = r;
	f->tail = &r->next;
	f->seq_in++;
}

static void take_off_locked(struct frange *r)
{
	*r->pprev = r->next;
	if (r->next)
		r->next->pprev = r->pprev;
}

static void unpark_locked(struct frange *r)
{
	take_off_locked(r);
	enqueue_locked(r->f, r);
	pthread_cond_signal(&r->f->work);
}

static void range_woken(struct waiter *w, int why)
{
	struct frange *r = (struct frange *)w;
	struct fencer *f = r->f;

	(void)why; /* there is no deadline */
	pthread_mutex_lock(&f->lock);
	unpark_locked(r);
	pthread_cond_broadcast(&f->progress);
	pthread_mutex_unlock(&f->lock);
}

static bool range_busy(struct fencer *f, uint64_t block, uint64_t nr,
		       uint64_t *ret_block, uint64_t *ret_nr)
{
	struct media *m = f->fs->m;
	uint64_t page;

	if (!pages_first_busy(f->fs->map, media_pool_page(m, block), nr, &page,
			      ret_nr))
		return false;
	*ret_block = media_block_of(m, page);
	return true;
}

/* Wait for the range to go idle; it comes back through range_woken(). */
static void park(struct fencer *f, struct frange *r)
{
	uint64_t first = media_pool_page(f->fs->m, r->block), block, nr;

	r->w.node.first = first;
	r->w.node.last = first + r->nr - 1;
	r->w.fn = range_woken;
	r->w.deadline_ns = 0;
	pthread_mutex_lock(&f->lock);
	r->next = f->parked;
	r->pprev = &f->parked;
	if (r->next)
		r->next->pprev = &r->next;
	f->parked = r;
	pthread_mutex_unlock(&f->lock);
	if (waitq_add(f->fs->waitq, &r->w) != 0) {
		/* The fence takes the pages from whoever has them. */
		alloc_quarantine(f->fs->m, r->block, r->nr);
		pthread_mutex_lock(&f->lock);
		take_off_locked(r);
		pthread_mutex_unlock(&f->lock);
		free(r);
		return;
	}
	/*
	 * Partner of the decrement to idle before waitq_wake(): without this
	 * second look a page that went idle in between would never wake us. If
	 * it was woken already, r is somebody else's and is not touched.
	 */
	if (!range_busy(f, media_block_of(f->fs->m, first), 1, &block, &nr) &&
	    waitq_cancel(f->fs->waitq, &r->w)) {
		pthread_mutex_lock(&f->lock);
		unpark_locked(r);
		pthread_mutex_unlock(&f->lock);
	}
}

static struct frange *range_new(struct fencer *f, uint64_t block, uint64_t nr)
{
	struct frange *r = calloc(1, sizeof(*r));

	if (r) {
		r->f = f;
		r->block = block;
		r->nr = nr;
	}
	return r;
}

/*
 * Splits off the first @nr pages of @r for parking. NULL when that is the whole
 * of @r, or there is no memory: then @r itself is parked.
 */
static struct frange *split_head(struct frange *r, uint64_t nr)
{
	struct frange *head;

	if (nr == r->nr)
		return NULL;
	head = range_new(r->f, r->block, nr);
	if (head) {
		r->block += nr;
		r->nr -= nr;
	}
	return head;
}

/* Takes one bite off @r. false: @r was given away. */
static bool process_some(struct fencer *f, struct frange *r)
{
	uint64_t nr = r->nr < CHUNK_PAGES ? r->nr : CHUNK_PAGES;
	uint64_t block, busy_nr;
	struct frange *head;

	if (range_busy(f, r->block, nr, &block, &busy_nr)) {
		if (block == r->block) {
			head = split_head(r, busy_nr);
			park(f, head ? head : r);
			return head != NULL;
		}
		nr = block - r->block;
	}
	if (alloc_fence(f->fs->m, r->block, nr) != 0)
		alloc_quarantine(f->fs->m, r->block, nr);
	else
		alloc_release(f->fs->m, r->block, nr);
	r->block += nr;
	r->nr -= nr;
	return true;
}

static void process(struct fencer *f, struct frange *r)
{
	while (process_some(f, r)) {
		if (!r->nr) {
			free(r);
			return;
		}
	}
}

static void *fencer_main(void *arg)
{
	struct fencer *f = arg;
	struct frange *r;

	/* Whoever waits for the operation that freed the blocks goes first;
	 * a thread's own niceness, and no harm if it is refused. */
	(void)setpriority(PRIO_PROCESS, (id_t)gettid(), FENCER_NICE);
	pthread_mutex_lock(&f->lock);
	for (;;) {
		while (!f->head && !f->stop)
			pthread_cond_wait(&f->work, &f->lock);
		r = f->head;
		if (!r)
			break;
		f->head = r->next;
		if (!f->head)
			f->tail = &f->head;
		pthread_mutex_unlock(&f->lock);
		process(f, r);
		pthread_mutex_lock(&f->lock);
		f->seq_done++;
		pthread_cond_broadcast(&f->progress);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

static bool release_inline(struct fencer *f, uint64_t block, uint64_t nr)
{
	uint64_t b, n;

	if (nr > INLINE_PAGES || range_busy(f, block, nr, &b, &n) ||
	    alloc_fence(f->fs->m, block, nr) != 0)
		return false;
	alloc_release(f->fs->m, block, nr);
	return true;
}

static void sink(void *arg, uint64_t block, uint64_t nr)
{
	struct fencer *f = arg;
	struct frange *r;

	if (f->fs->opt.pinned == PINNED_UNSAFE) {
		alloc_release(f->fs->m, block, nr);
		return;
	}
	if (release_inline(f, block, nr))
		return;
	r = range_new(f, block, nr);
	/* No memory: the blocks are free on media and come back at the next
	 * mount; nobody gets them unfenced. */
	if (!r)
		return;
	pthread_mutex_lock(&f->lock);
	enqueue_locked(f, r);
	pthread_mutex_unlock(&f->lock);
}

/*
 * Not by who queues: that is an operation somebody waits for, and waking a
 * thread costs as much as the rest of a small truncate.
 */
void fencer_kick(struct fencer *f)
{
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	if (f->head)
		pthread_cond_signal(&f->work);
	pthread_mutex_unlock(&f->lock);
}

bool fencer_wait(struct fencer *f)
{
	uint64_t until;
	bool any;

	pthread_mutex_lock(&f->lock);
	until = f->seq_in;
	any = f->seq_done < until;
	pthread_cond_signal(&f->work);
	while (f->seq_done < until)
		pthread_cond_wait(&f->progress, &f->lock);
	pthread_mutex_unlock(&f->lock);
	return any;
}

int fencer_create(struct fs *fs, struct fencer **ret_f)
{
	struct fencer *f = calloc(1, sizeof(*f));
	int err;

	if (!f)
		return -ENOMEM;
	f->fs = fs;
	f->tail = &f->head;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->work, NULL);
	pthread_cond_init(&f->progress, NULL);
	err = -pthread_create(&f->thread, NULL, fencer_main, f);
	if (err) {
		free(f);
		return err;
	}
	alloc_set_sink(fs->m, sink, f);
	*ret_f = f;
	return 0;
}

/* Ranges that never went idle: free on media, fenced at the next mount. */
static void drop_parked(struct fencer *f)
{
	struct frange *r;

	pthread_mutex_lock(&f->lock);
	while ((r = f->parked) != NULL) {
		pthread_mutex_unlock(&f->lock);
		if (waitq_cancel(f->fs->waitq, &r->w)) {
			pthread_mutex_lock(&f->lock);
			unpark_locked(r);
			continue;
		}
		/* Its wake-up runs in this moment and takes it off the list. */
		pthread_mutex_lock(&f->lock);
		while (f->parked == r)
			pthread_cond_wait(&f->progress, &f->lock);
	}
	pthread_mutex_unlock(&f->lock);
}

void fencer_destroy(struct fencer *f)
{
	struct frange *r;

	if (!f)
		return;
	(void)fencer_wait(f);
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_signal(&f->work);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
	drop_parked(f);
	while ((r = f->head) != NULL) {
		f->head = r->next;
		free(r);
	}
	pthread_cond_destroy(&f->work);
	pthread_cond_destroy(&f->progress);
	pthread_mutex_destroy(&f->lock);
	free(f);
}
