/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The recall thread: one for all files of the process. Waits for events of any
 * attached description, zaps what the daemon recalls, then acknowledges.
 *
 * Zap first, acknowledge after: once acknowledged the blocks may have a new
 * owner. A recall is noted in the file's ring before it zaps, under the lock
 * under which grants are mapped, so that a grant on its way is found stale
 * (grant.c). A zap that failed is not acknowledged; the daemon's recall_timeout
 * decides then.
 *
 * epoll instead of poll: each look at a FUSE description is a round trip to the
 * daemon, and epoll looks only at those that were notified. A description
 * whose daemon is gone reports an error for ever and is taken out of the set.
 *
 * No allocation, no stdio, all signals blocked. Never waits for a fault worker
 * or for the program.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include "client/internal.h"

#define BATCH 16
/* Burying is work: let those who waited for the acknowledge go first. */
#define BURY_MS 1

/* Of the recall thread. */
static struct pdx_graves graves;

static void note_recall(struct pindax_file *f, uint64_t off, uint64_t end,
			uint64_t epoch)
{
	struct pdx_recall *r = &f->recalls[f->recall_next];

	if (r->epoch > f->recall_floor)
		f->recall_floor = r->epoch;
	*r = (struct pdx_recall){.off = off, .end = end, .epoch = epoch};
	f->recall_next = (f->recall_next + 1) % PDX_RECALLS;
}

/* The part of the map in [off, end) of the file; false: none. */
static bool overlap(const struct pindax_map *m, uint64_t off, uint64_t end,
		    uint64_t *ret_off, uint64_t *ret_len)
{
	uint64_t lo = off > m->off ? off : m->off;
	uint64_t hi = end < m->off + m->len ? end : m->off + m->len;

	if (lo >= hi)
		return false;
	lo -= lo % PDX_PAGE;
	hi += -hi % PDX_PAGE;
	*ret_off = lo - m->off;
	*ret_len = hi - lo;
	return true;
}

static void bring_back(struct pindax_file *f, uint64_t off, uint64_t end)
{
	uint64_t at, len;

	pthread_mutex_lock(&f->lock);
	for (struct pindax_map *m = f->maps; m; m = m->next)
		if (overlap(m, off, end, &at, &len))
			pdx_fault_eager(m->base + at, len);
	pthread_mutex_unlock(&f->lock);
}

static int recall(struct pindax_file *f, const struct pindax_event *ev)
{
	struct pindax_ioc_ack ack = {.mapper = f->mapper, .epoch = ev->epoch};
	uint64_t end, at, len;
	int err = 0;

	if (ev->len == 0 || __builtin_add_overflow(ev->off, ev->len, &end))
		end = UINT64_MAX;
	pthread_mutex_lock(&f->lock);
	note_recall(f, ev->off, end, ev->epoch);
	for (struct pindax_map *m = f->maps; m; m = m->next) {
		int e;

		if (!overlap(m, ev->off, end, &at, &len))
			continue;
		e = pdx_zap(m, at / PDX_PAGE, len / PDX_PAGE, &graves);
		err = err ? err : e;
	}
	pthread_mutex_unlock(&f->lock);
	if (err)
		return 0;
	err = f->daemon.call(&f->daemon, PINDAX_IOC_ACK, &ack);
	if (pdx.user_only)
		bring_back(f, ev->off, end);
	return err;
}

static int take_events(struct pindax_file *f)
{
	static struct pindax_ioc_events b;
	int err;

	do {
		memset(&b, 0, sizeof(b));
		b.mapper = f->mapper;
		err = f->daemon.call(&f->daemon, PINDAX_IOC_EVENTS, &b);
		if (err)
			return err;
		for (uint32_t i = 0; i < b.nr && i < PINDAX_EVENTS_MAX; i++) {
			const struct pindax_event *ev = &b.ev[i];

			/* A kernel's touch of what is zapped may fail where it
			 * raises no fault: no more than must be. */
			if (ev->kind == PINDAX_EVENT_RECALL ||
			    (ev->kind == PINDAX_EVENT_HINT && !pdx.user_only))
				err = recall(f, ev);
			else if (ev->kind == PINDAX_EVENT_RETRY)
				pdx_fault_retry(f, ev->ticket);
			if (pdx_daemon_is_gone(err))
				return err;
		}
	} while (b.more && b.nr);
	return 0;
}

static void handle(const struct epoll_event *ev)
{
	struct pindax_file *f = pdx_file_by_id(ev->data.u64);
	int err;

	if (!f)
		return; /* closed since */
	err = take_events(f);
	if (pdx_daemon_is_gone(err) || (err && (ev->events & EPOLLERR))) {
		(void)epoll_ctl(pdx.epoll_fd, EPOLL_CTL_DEL, f->daemon.fd,
				NULL);
		atomic_store(&f->dead, true);
		pdx_fault_retry_all(f);
	}
	pdx_file_release(f);
}

static void *recall_main(void *arg)
{
	static struct epoll_event ev[BATCH];

	(void)arg;
	graves.nr = 0; /* in a forked child they are the parent's */
	for (;;) {
		int n = epoll_wait(pdx.epoll_fd, ev, BATCH,
				   graves.nr ? BURY_MS : -1);

		if (n < 0 && errno != EINTR)
			break;
		for (int i = 0; i < n; i++)
			handle(&ev[i]);
		if (n == 0)
			pdx_bury(&graves);
	}
	return NULL;
}

int pdx_recall_start(void)
{
	return pdx_thread(recall_main, NULL);
}
