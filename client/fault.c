/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Page faults of zapped ranges: the reader, the queue, the workers.
 *
 * The reader takes events off userfaultfd and puts faults into the queue.
 * mremap in a zap sleeps until the reader has read its event, so the reader may
 * wait for nothing that a zap holds: it takes the queue's lock alone, which is
 * never held over a system call. If the queue is full it drops the fault and
 * says so; when the queue has drained everybody is woken and those who still
 * miss their page fault once more.
 *
 * Workers ask the daemon and map. A fault that the daemon queues behind a break
 * is parked in the queue, not in a worker, until the recall thread sees RETRY
 * with its ticket; a RETRY that overtakes its own answer is noticed by the
 * file's count of them, read before asking.
 *
 * A fault asks for the allocated neighbourhood in its 2 MiB window, as one
 * fault a page would make a refault of a large file slow, but never for more
 * holes than its own page: those would be allocated. If a part of the
 * neighbourhood is in a break, the page is asked for alone.
 *
 * No allocation, no stdio, all signals blocked.
 */
#include <errno.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "client/internal.h"

#define QUEUE_SIZE 512
#define NR_WORKERS 2
#define READ_BATCH 16

enum fault_state {
	FAULT_FREE,
	FAULT_READY,
	FAULT_BUSY,
	FAULT_PARKED,
};

struct fault {
	enum fault_state state;
	bool again; /* asked for once more while busy */
	bool eager; /* nobody touched it: only what has blocks already */
	uint8_t *addr;
	size_t len;
	uint64_t file; /* parked: id */
	uint64_t ticket;
};

struct worker {
	struct pindax_ioc_fault fault;
	struct pindax_ioc_extents extents;
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t ready;
	struct fault slot[QUEUE_SIZE];
	unsigned int nr_used, hand;
	bool overflow;
} q = {.lock = PTHREAD_MUTEX_INITIALIZER, .ready = PTHREAD_COND_INITIALIZER};

static struct worker workers[NR_WORKERS];

/* --- the queue --- */

static void enqueue(uint8_t *addr, size_t len, bool eager)
{
	struct fault *free_slot = NULL;

	pthread_mutex_lock(&q.lock);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++) {
		struct fault *e = &q.slot[i];

		if (e->state == FAULT_FREE) {
			free_slot = free_slot ? free_slot : e;
		} else if (e->addr == addr && e->len == len) {
			/* A worker may have woken before this one came. */
			e->again = e->state == FAULT_BUSY;
			goto out;
		}
	}
	if (!free_slot) {
		q.overflow = true;
		goto out;
	}
	*free_slot = (struct fault){
		.state = FAULT_READY, .addr = addr, .len = len, .eager = eager};
	q.nr_used++;
	pthread_cond_signal(&q.ready);
out:
	pthread_mutex_unlock(&q.lock);
}

static struct fault *dequeue(void)
{
	struct fault *e = NULL;

	pthread_mutex_lock(&q.lock);
	while (!e) {
		for (unsigned int i = 0; !e && i < QUEUE_SIZE; i++) {
			unsigned int at = (q.hand + i) % QUEUE_SIZE;

			if (q.slot[at].state == FAULT_READY)
				e = &q.slot[at];
		}
		if (!e)
			pthread_cond_wait(&q.ready, &q.lock);
	}
	q.hand = (unsigned int)(e - q.slot) + 1;
	e->state = FAULT_BUSY;
	e->again = false;
	pthread_mutex_unlock(&q.lock);
	return e;
}

/* Returns whether faults were dropped and the queue has room again. */
static bool finish(struct fault *e)
{
	bool flush = false;

	pthread_mutex_lock(&q.lock);
	if (e->again) {
		e->state = FAULT_READY;
		pthread_cond_signal(&q.ready);
	} else {
		e->state = FAULT_FREE;
		q.nr_used--;
		flush = q.overflow && q.nr_used < QUEUE_SIZE / 2;
		if (flush)
			q.overflow = false;
	}
	pthread_mutex_unlock(&q.lock);
	return flush;
}

static void park(struct fault *e, struct pindax_file *f, uint64_t ticket,
		 unsigned int seen)
{
	pthread_mutex_lock(&q.lock);
	e->file = f->id;
	e->ticket = ticket;
	e->state = FAULT_PARKED;
	if (atomic_load(&f->retries) != seen) {
		e->state = FAULT_READY;
		pthread_cond_signal(&q.ready);
	}
	pthread_mutex_unlock(&q.lock);
}

static void retry(struct pindax_file *f, bool all, uint64_t ticket)
{
	pthread_mutex_lock(&q.lock);
	/* Before the scan: see park(). */
	atomic_fetch_add(&f->retries, 1);
	for (unsigned int i = 0; i < QUEUE_SIZE; i++) {
		struct fault *e = &q.slot[i];

		if (e->state == FAULT_PARKED && e->file == f->id &&
		    (all || e->ticket == ticket))
			e->state = FAULT_READY;
	}
	pthread_cond_broadcast(&q.ready);
	pthread_mutex_unlock(&q.lock);
	pthread_mutex_lock(&f->lock);
	pthread_cond_broadcast(&f->retry);
	pthread_mutex_unlock(&f->lock);
}

void pdx_fault_retry(struct pindax_file *f, uint64_t ticket)
{
	retry(f, false, ticket);
}

void pdx_fault_retry_all(struct pindax_file *f)
{
	retry(f, true, 0);
}

void pdx_fault_eager(uint8_t *addr, size_t len)
{
	enqueue(addr, len, true);
}

static void wake_everybody(void)
{
	pthread_mutex_lock(&pdx.lock);
	for (struct pindax_file *f = pdx.files; f; f = f->next)
		for (struct pindax_map *m = f->maps; m; m = m->next)
			pdx_wake(m->base, m->len);
	pthread_mutex_unlock(&pdx.lock);
}

/* --- workers --- */

/* Extents from @from on into w->extents: how many. None if nobody can tell. */
static uint32_t get_extents(struct worker *w, const struct pindax_file *f,
			    uint64_t from)
{
	struct pindax_ioc_extents *x = &w->extents;

	x->off = from;
	x->nr = 0;
	x->reserved = 0;
	if (f->daemon.call(&f->daemon, PINDAX_IOC_EXTENTS, x) ||
	    x->nr > PINDAX_EXTENTS_MAX)
		return 0;
	return x->nr;
}

/*
 * The allocated run of the file that covers @at, or the next one, as far as one
 * answer tells; an empty one at UINT64_MAX if there is none.
 */
static void allocated_run(struct worker *w, const struct pindax_file *f,
			  uint64_t from, uint64_t at, uint64_t *ret_start,
			  uint64_t *ret_end)
{
	const struct pindax_extent_info *e = w->extents.ext;
	uint64_t start = UINT64_MAX, end = UINT64_MAX;
	uint32_t nr = get_extents(w, f, from);

	if (nr && e[nr - 1].file_off + e[nr - 1].len <= at)
		nr = get_extents(w, f, at);
	for (uint32_t i = 0; i < nr; i++) {
		if (e[i].file_off != end) {
			if (end != UINT64_MAX && end > at)
				break;
			start = e[i].file_off;
		}
		end = e[i].file_off + e[i].len;
	}
	if (end <= at || start % PDX_PAGE || end % PDX_PAGE)
		start = end = UINT64_MAX;
	*ret_start = start;
	*ret_end = end;
}

/*
 * What to ask for when the page at @off of a writable map is missing: the
 * allocated run around it in its window. False: the page lies in a hole, which
 * reaches to *ret_hole_end within the window; the page alone is asked for.
 */
static bool neighbourhood(struct worker *w, const struct pindax_map *m,
			  uint64_t off, struct pdx_ask *ask,
			  uint64_t *ret_hole_end)
{
	uint64_t lo = off / PDX_WINDOW * PDX_WINDOW;
	uint64_t hi = m->len - lo < PDX_WINDOW ? m->len : lo + PDX_WINDOW;
	uint64_t start, end;

	allocated_run(w, m->file, m->off + lo, m->off + off, &start, &end);
	if (start > m->off + off) {
		ask->off = off;
		ask->len = PDX_PAGE;
		*ret_hole_end = start < m->off + hi ? start - m->off : hi;
		return false;
	}
	if (start < m->off + lo)
		start = m->off + lo;
	if (end > m->off + hi)
		end = m->off + hi;
	ask->off = start - m->off;
	ask->len = end - start;
	return true;
}

/* Read-only maps allocate nothing: the whole window. */
static void window(const struct pindax_map *m, uint64_t off,
		   struct pdx_ask *ask)
{
	ask->off = off / PDX_WINDOW * PDX_WINDOW;
	ask->len =
		m->len - ask->off < PDX_WINDOW ? m->len - ask->off : PDX_WINDOW;
}

static bool page_present(struct pindax_map *m, uint64_t off)
{
	size_t page = off / PDX_PAGE;
	bool is;

	pthread_mutex_lock(&m->file->lock);
	is = pdx_next_present(m, page, true) == page;
	pthread_mutex_unlock(&m->file->lock);
	return is;
}

/*
 * One page and what can be had with it. PDX_STEP_MAPPED: go on at *ret_next.
 */
static int serve_page(struct worker *w, struct pindax_map *m, uint64_t off,
		      bool eager, uint64_t *ret_next, uint64_t *ret_ticket)
{
	struct pdx_ask ask = {.buf = &w->fault};
	int err;

	*ret_next = off + PDX_PAGE;
	if (page_present(m, off)) {
		pdx_wake(m->base + off, PDX_PAGE);
		return PDX_STEP_MAPPED;
	}
	if (!(m->prot & PROT_WRITE))
		window(m, off, &ask);
	else if (!neighbourhood(w, m, off, &ask, ret_next) && eager)
		return PDX_STEP_MAPPED;
	else
		*ret_next = off + PDX_PAGE;
	err = pdx_grant_step(m, &ask);
	if (err == PDX_STEP_MAPPED && ask.next_off > off)
		return err;
	if (err != PDX_STEP_STALE && ask.len > PDX_PAGE) {
		ask.off = off;
		ask.len = PDX_PAGE;
		err = pdx_grant_step(m, &ask);
	}
	if (err == PDX_STEP_QUEUED)
		*ret_ticket = ask.ticket;
	if (err >= 0 || err == -EINTR)
		return err >= 0 ? err : PDX_STEP_STALE;
	if (!eager)
		pdx_poison(m, off);
	return PDX_STEP_MAPPED;
}

/* grant_lock (read) held: maps stay. Returns PDX_STEP_MAPPED or _QUEUED. */
static int serve_file(struct worker *w, struct pindax_file *f,
		      const struct fault *e, uint64_t *ret_ticket)
{
	uint8_t *end = e->addr + e->len;
	uint8_t *at = e->addr;

	while (at < end) {
		struct pindax_map *m = pdx_map_find(f, at);
		uint64_t next;
		int err;

		if (!m) {
			/* Unmapped meanwhile: the touch gets its SIGSEGV. */
			pdx_wake(at, PDX_PAGE);
			at += PDX_PAGE;
			continue;
		}
		err = serve_page(w, m, (uint64_t)(at - m->base), e->eager,
				 &next, ret_ticket);
		if (err == PDX_STEP_QUEUED)
			return err;
		if (err == PDX_STEP_MAPPED)
			at = m->base + next;
	}
	return PDX_STEP_MAPPED;
}

/*
 * A fault in no map of ours: unmapped meanwhile, or a zapped area that the
 * program moved with mremap(2). The second would fault for ever: SIGBUS.
 */
static void serve_stray(uint8_t *addr)
{
	struct pdx_vma v;

	if (!pdx_vma_at(addr, PDX_PAGE, &v) && pdx_same_id(&v.id, &pdx.zap_id))
		(void)mmap(addr, PDX_PAGE, PROT_READ, MAP_SHARED | MAP_FIXED,
			   pdx.eof_fd, 0);
	pdx_wake(addr, PDX_PAGE);
}

static void serve(struct worker *w, struct fault *e)
{
	struct pindax_file *f = pdx_file_by_addr(e->addr);
	uint64_t ticket = 0;
	unsigned int seen;
	int err;

	if (!f) {
		if (!e->eager)
			serve_stray(e->addr);
		goto out;
	}
	seen = atomic_load(&f->retries);
	pthread_rwlock_rdlock(&f->grant_lock);
	err = serve_file(w, f, e, &ticket);
	pthread_rwlock_unlock(&f->grant_lock);
	if (err == PDX_STEP_QUEUED)
		park(e, f, ticket, seen);
	pdx_file_release(f);
	if (err == PDX_STEP_QUEUED)
		return;
out:
	if (finish(e))
		wake_everybody();
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;

	for (;;)
		serve(w, dequeue());
	return NULL;
}

/* --- the reader --- */

static void *reader_main(void *arg)
{
	static struct uffd_msg msg[READ_BATCH];

	(void)arg;
	for (;;) {
		ssize_t n = read(pdx.uffd, msg, sizeof(msg));

		if (n < 0 && errno != EINTR && errno != EAGAIN)
			break;
		for (ssize_t i = 0; i < n / (ssize_t)sizeof(msg[0]); i++) {
			uint64_t at = msg[i].arg.pagefault.address;

			/* REMAP events are over when they have been read. */
			if (msg[i].event != UFFD_EVENT_PAGEFAULT)
				continue;
			at -= at % PDX_PAGE;
			enqueue((uint8_t *)(uintptr_t)at, PDX_PAGE, false);
		}
	}
	return NULL;
}

int pdx_fault_start(void)
{
	int err = pdx_thread(reader_main, NULL);

	for (unsigned int i = 0; !err && i < NR_WORKERS; i++)
		err = pdx_thread(worker_main, &workers[i]);
	return err;
}

void pdx_fault_forget(void)
{
	pthread_mutex_init(&q.lock, NULL);
	pthread_cond_init(&q.ready, NULL);
	memset(q.slot, 0, sizeof(q.slot));
	q.nr_used = 0;
	q.overflow = false;
}
