/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asks the daemon for grants and maps them: what both the fault workers and
 * the callers of pindax_map() and pindax_pin() do.
 *
 * Key invariant: a grant is mapped only if no recall with a higher epoch
 * overlaps it. The check, mmap and the wake-up are one step under file->lock,
 * and a recall notes its epoch and zaps under the same lock: either it finds
 * the mapping and takes it away, or the grant finds the recall and is thrown
 * away. Recalls are remembered in a small ring; a grant older than the newest
 * one that fell out counts as stale.
 *
 * The daemon's answer is checked before it moves anything: a grant must not
 * make us map outside the range that was asked for.
 *
 * No allocation, stdio or error text here but in pdx_fill(): helper threads
 * run the rest.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include "client/internal.h"

#define RETRY_POLL_NS 200000000L

bool pdx_recalled_since(const struct pindax_file *f, uint64_t off, uint64_t end,
			uint64_t epoch)
{
	if (epoch < f->recall_floor)
		return true;
	for (unsigned int i = 0; i < PDX_RECALLS; i++) {
		const struct pdx_recall *r = &f->recalls[i];

		if (r->epoch > epoch && r->off < end && off < r->end)
			return true;
	}
	return false;
}

void pdx_wake(const void *addr, size_t len)
{
	struct uffdio_range r = {.start = (uintptr_t)addr, .len = len};

	/* Fails only for a range that no waiter can be in. */
	(void)ioctl(pdx.uffd, UFFDIO_WAKE, &r);
}

static bool range_pinned(const struct pindax_map *m, uint64_t off, uint64_t end)
{
	for (const struct pindax_pin *p = m->pins; p; p = p->next)
		if (p->off < end && off < p->off + p->len)
			return true;
	return false;
}

static bool evict_window(struct pindax_map *m, size_t w, uint64_t keep_off)
{
	uint64_t off = (uint64_t)w * PDX_WINDOW;
	size_t first = off / PDX_PAGE, nr = PDX_WINDOW / PDX_PAGE;

	if (m->runs[w] == 0 || keep_off / PDX_WINDOW == w ||
	    range_pinned(m, off, off + PDX_WINDOW))
		return false;
	if (first + nr > pdx_map_pages(m))
		nr = pdx_map_pages(m) - first;
	return !pdx_zap(m, first, nr, NULL);
}

/* The next window in turn, of any map of the file, that nothing pins. */
static bool evict_one(struct pindax_map *m, uint64_t keep_off)
{
	struct pindax_file *f = m->file;
	struct pindax_map *at = f->evict_map ? f->evict_map : f->maps;
	struct pindax_map *start = at;
	size_t w = f->evict_map ? f->evict_window : 0;
	bool done = false;

	do {
		for (; !done && w <= at->len / PDX_WINDOW; w++)
			done = evict_window(at, w,
					    at == m ? keep_off : UINT64_MAX);
		if (done)
			break;
		w = 0;
		at = at->next ? at->next : f->maps;
	} while (at != start);
	f->evict_map = at;
	f->evict_window = w;
	return done;
}

/* Room for one more mapping. */
static int make_room(struct pindax_map *m, const struct pdx_ask *ask)
{
	if (atomic_load(&pdx.nr_runs) < pdx.budget)
		return 0;
	if (ask->strict)
		return -E2BIG;
	/* A fault must be answered even if nothing can go. */
	(void)evict_one(m, ask->off);
	return 0;
}

struct run {
	uint64_t off, len; /* of the map */
	uint64_t pool_off;
	uint32_t kind;
};

/*
 * Not mmap(3): under ThreadSanitizer that is a write to the range, and the
 * order between it and the touch that faulted for it is one that only the
 * kernel knows.
 */
static long mmap_fixed(void *at, size_t len, int prot, int flags, int fd,
		       off_t off)
{
	return syscall(SYS_mmap, at, len, prot, flags | MAP_FIXED, fd, off);
}

static int map_at(struct pindax_map *m, const struct run *r)
{
	uint8_t *at = m->base + r->off;
	int fd = m->file->pool->fd, prot = m->prot, flags = MAP_SHARED;
	off_t off = (off_t)r->pool_off;

	if (r->kind != PINDAX_GRANT_BLOCKS)
		off = 0;
	if (r->kind == PINDAX_GRANT_ZERO) {
		/* One mapping for a hole of any size, where the pool's zero
		 * page would take one a page; as recallable as any other. It
		 * is /dev/zero's so that a zap can tell it from a stranger's
		 * anonymous memory. */
		fd = pdx.zero_fd;
		prot = PROT_READ;
		flags = MAP_PRIVATE | MAP_NORESERVE;
	} else if (r->kind == PINDAX_GRANT_EOF) {
		fd = pdx.eof_fd;
	}
	if (mmap_fixed(at, r->len, prot, flags, fd, off) == -1)
		return -errno;
	/* Cannot fail on what was just mapped; fork() waits for file->lock. */
	(void)madvise(at, r->len, MADV_DONTFORK);
	return 0;
}

static uint64_t where_of(const struct run *r)
{
	if (r->kind == PINDAX_GRANT_BLOCKS)
		return PDX_AT_POOL(r->pool_off);
	return r->kind == PINDAX_GRANT_ZERO ? PDX_AT_ZERO : PDX_AT_EOF;
}

/* What of the run is present already stays: it is the same block. */
static int map_run(struct pindax_map *m, const struct pdx_ask *ask,
		   const struct run *r)
{
	size_t page = r->off / PDX_PAGE, end = page + r->len / PDX_PAGE;

	for (page = pdx_next_present(m, page, false); page < end;
	     page = pdx_next_present(m, page, false)) {
		size_t stop = pdx_next_present(m, page, true);
		struct run part = *r;
		int err;

		if (stop > end)
			stop = end;
		part.off = page * PDX_PAGE;
		part.len = (stop - page) * PDX_PAGE;
		part.pool_off += part.off - r->off;
		err = make_room(m, ask);
		if (!err)
			err = map_at(m, &part);
		if (err)
			return err;
		pdx_note(m, page, stop - page, where_of(&part));
		page = stop;
	}
	return 0;
}

/* Grants must tile [off, next_off) within what was asked for. */
static int check_answer(const struct pindax_map *m, const struct pdx_ask *ask)
{
	const struct pindax_ioc_fault *b = ask->buf;
	uint64_t at = m->off + ask->off, end = at + ask->len;
	bool rdonly = !(m->prot & PROT_WRITE);

	if (b->nr == 0 || b->nr > PINDAX_FAULT_MAX || b->next_off > end)
		return -EPROTO;
	for (uint32_t i = 0; i < b->nr; i++) {
		const struct pindax_grant *g = &b->grant[i];

		if (g->file_off != at || g->len == 0 || g->len % PDX_PAGE ||
		    g->len > end - at || g->pool_off % PDX_PAGE ||
		    g->pool_off > (uint64_t)INT64_MAX - g->len)
			return -EPROTO;
		if (g->kind != PINDAX_GRANT_BLOCKS &&
		    g->kind != PINDAX_GRANT_EOF &&
		    !(g->kind == PINDAX_GRANT_ZERO && rdonly))
			return -EPROTO;
		at += g->len;
	}
	return at == b->next_off ? 0 : -EPROTO;
}

static bool continues(const struct run *r, const struct pindax_grant *g)
{
	return r->len && r->kind == g->kind &&
	       (r->kind != PINDAX_GRANT_BLOCKS ||
		r->pool_off + r->len == g->pool_off);
}

/* file->lock held. *ret_next: mapped up to there, also on error. */
static int map_grants(struct pindax_map *m, const struct pdx_ask *ask,
		      uint64_t *ret_next)
{
	const struct pindax_ioc_fault *b = ask->buf;
	struct run r = {.off = ask->off};
	int err;

	for (uint32_t i = 0; i < b->nr; i++) {
		const struct pindax_grant *g = &b->grant[i];

		if (continues(&r, g)) {
			r.len += g->len;
			continue;
		}
		err = r.len ? map_run(m, ask, &r) : 0;
		if (err)
			goto out;
		r = (struct run){.off = g->file_off - m->off,
				 .len = g->len,
				 .pool_off = g->pool_off,
				 .kind = g->kind};
	}
	err = map_run(m, ask, &r);
	if (!err)
		r.off += r.len;
out:
	*ret_next = r.off;
	return err;
}

int pdx_grant_step(struct pindax_map *m, struct pdx_ask *ask)
{
	struct pindax_file *f = m->file;
	struct pindax_ioc_fault *b = ask->buf;
	int err;

	b->mapper = f->mapper;
	b->off = m->off + ask->off;
	b->len = ask->len;
	b->flags = m->prot & PROT_WRITE ? PINDAX_FAULT_WRITE : 0;
	b->status = 0;
	b->nr = 0;
	b->reserved = 0;
	err = f->daemon.call(&f->daemon, PINDAX_IOC_FAULT, b);
	if (err)
		return err;
	if (b->status == PINDAX_FAULT_QUEUED) {
		ask->ticket = b->ticket;
		return PDX_STEP_QUEUED;
	}
	err = check_answer(m, ask);
	if (err)
		return err;
	pthread_mutex_lock(&f->lock);
	if (pdx_recalled_since(f, b->off, b->next_off, b->epoch)) {
		pthread_mutex_unlock(&f->lock);
		return PDX_STEP_STALE;
	}
	err = map_grants(m, ask, &ask->next_off);
	if (ask->next_off > ask->off)
		pdx_wake(m->base + ask->off, ask->next_off - ask->off);
	pthread_mutex_unlock(&f->lock);
	return err;
}

void pdx_poison(struct pindax_map *m, uint64_t off)
{
	struct pindax_file *f = m->file;
	struct run r = {.off = off, .len = PDX_PAGE, .kind = PINDAX_GRANT_EOF};

	pthread_mutex_lock(&f->lock);
	if (pdx_next_present(m, off / PDX_PAGE, false) == off / PDX_PAGE)
		(void)map_at(m, &r); /* else the thread faults once more */
	pdx_wake(m->base + off, PDX_PAGE);
	pthread_mutex_unlock(&f->lock);
}

/*
 * Wait for a RETRY later than the @seen first ones. Looks again now and then
 * even without one: asking twice does no harm.
 */
static void wait_retry(struct pindax_file *f, unsigned int seen)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += RETRY_POLL_NS;
	if (until.tv_nsec >= 1000000000L) {
		until.tv_nsec -= 1000000000L;
		until.tv_sec++;
	}
	pthread_mutex_lock(&f->lock);
	while (atomic_load(&f->retries) == seen && !atomic_load(&f->dead))
		if (pthread_cond_timedwait(&f->retry, &f->lock, &until))
			break;
	pthread_mutex_unlock(&f->lock);
}

/* The first pages of [off, end) that are not present; false: none. */
static bool next_gap(struct pindax_map *m, uint64_t *off, uint64_t end,
		     uint64_t *ret_len)
{
	size_t page, stop, last = end / PDX_PAGE;

	pthread_mutex_lock(&m->file->lock);
	page = pdx_next_present(m, *off / PDX_PAGE, false);
	stop = pdx_next_present(m, page, true);
	pthread_mutex_unlock(&m->file->lock);
	if (page >= last)
		return false;
	if (stop > last)
		stop = last;
	*off = page * (uint64_t)PDX_PAGE;
	*ret_len = (stop - page) * (uint64_t)PDX_PAGE;
	return true;
}

int pdx_fill(struct pindax_map *m, uint64_t off, uint64_t len, bool strict)
{
	struct pindax_file *f = m->file;
	struct pdx_ask ask = {.strict = strict};
	uint64_t end = off + len;
	int err = 0;

	ask.buf = calloc(1, sizeof(*ask.buf));
	if (!ask.buf)
		return -ENOMEM;
	while (!err && next_gap(m, &off, end, &ask.len)) {
		unsigned int seen = atomic_load(&f->retries);

		ask.off = off;
		pthread_rwlock_rdlock(&f->grant_lock);
		err = pdx_grant_step(m, &ask);
		pthread_rwlock_unlock(&f->grant_lock);
		if (err == PDX_STEP_QUEUED)
			wait_retry(f, seen);
		else if (err == PDX_STEP_MAPPED)
			off = ask.next_off;
		if (err > 0)
			err = 0;
	}
	free(ask.buf);
	return err;
}
