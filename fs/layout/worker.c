/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What happens to layouts without a request of their own: pages that went idle,
 * deadlines, and processes that died.
 *
 * A waitq callback may run inside page_put() (lock level: any that a caller of
 * page_put() holds), so it only moves its object to the ready list. The thread
 * that dropped the page runs the list itself once it holds no lock (between
 * ready_section_enter() and ready_section_leave()): the last unpin then costs
 * a parked truncate no hop to another thread. From any other thread (the
 * waitq's timer) the list is left to the worker.
 *
 * The worker also holds a pidfd of each mapper's process in an epoll set. A
 * process that died can touch nothing more through its mappings; its pins end,
 * and what its rings still have in flight is fenced before the blocks get a
 * new owner (docs/PROTOCOL.md, "The fence").
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define KICK_ID UINT64_MAX /* epoll data of the eventfd */
#define GONE_CHECK_MS 250  /* look at mappers without a description */

static __thread int in_section;

static void kick(struct layouts *ls)
{
	uint64_t one = 1;
	ssize_t n;

	do {
		n = write(ls->evfd, &one, sizeof(one));
	} while (n < 0 && errno == EINTR);
	/* EAGAIN: the counter is full, so the worker is awake anyway */
}

static void idle_wait_fn(struct waiter *w, int why)
{
	struct idle_wait *iw = container_of(w, struct idle_wait, w);
	struct layouts *ls = iw->l->ls;

	(void)why; /* layout_run() looks at pages and clock itself */
	pthread_mutex_lock(&ls->ready_lock);
	iw->next = NULL;
	*ls->ready_tail = iw;
	ls->ready_tail = &iw->next;
	pthread_mutex_unlock(&ls->ready_lock);
	if (!in_section)
		kick(ls);
}

static void idle_wait_put(struct idle_wait *iw, unsigned int nr)
{
	if (atomic_fetch_sub(&iw->refs, nr) == nr)
		free(iw);
}

int idle_wait_arm(struct layout *l, uint64_t first, uint64_t nr,
		  uint64_t deadline_ns, struct idle_wait **ret_w)
{
	struct idle_wait *iw = calloc(1, sizeof(*iw));
	int err;

	if (!iw)
		return -ENOMEM;
	iw->l = l;
	atomic_init(&iw->refs, 2);
	iw->w.fn = idle_wait_fn;
	iw->w.deadline_ns = deadline_ns;
	/* no pool has this page: a range that only its deadline wakes */
	iw->w.node.first = nr ? first : UINT64_MAX;
	iw->w.node.last = nr ? first + nr - 1 : UINT64_MAX;
	l->ls->ops->get(l);
	/* stored before it is queued: its callback may come at once */
	*ret_w = iw;
	err = waitq_add(l->ls->cfg.waitq, &iw->w);
	if (err) {
		*ret_w = NULL;
		l->ls->ops->put(l);
		free(iw);
	}
	return err;
}

void idle_wait_disarm(struct layout *l, struct idle_wait *w)
{
	if (!w)
		return;
	/*
	 * When the callback was quicker, the other half is the ready list's;
	 * the extra layout_run() finds nothing to do.
	 */
	if (!waitq_cancel(l->ls->cfg.waitq, &w->w)) {
		idle_wait_put(w, 1);
		return;
	}
	idle_wait_put(w, 2);
	/* not the last: the break has a reference of its own */
	l->ls->ops->put(l);
}

static void ready_run(struct layouts *ls)
{
	struct idle_wait *iw;

	for (;;) {
		pthread_mutex_lock(&ls->ready_lock);
		iw = ls->ready;
		if (iw) {
			ls->ready = iw->next;
			if (!ls->ready)
				ls->ready_tail = &ls->ready;
		}
		pthread_mutex_unlock(&ls->ready_lock);
		if (!iw)
			return;
		layout_run(iw->l);
		ls->ops->put(iw->l);
		idle_wait_put(iw, 1);
	}
}

void ready_section_enter(void)
{
	in_section++;
}

void ready_section_leave(struct layouts *ls)
{
	if (--in_section == 0)
		ready_run(ls);
}

static bool process_dead(const struct mapper *m)
{
	struct pollfd p = {.fd = m->pidfd, .events = POLLIN};

	return poll(&p, 1, 0) > 0;
}

/* Does any line of /proc/PID/maps name the pool's device and inode? */
static bool process_maps_pool(const struct layouts *ls, pid_t pid)
{
	char path[40], line[512], want[64];
	bool found = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)pid);
	snprintf(want, sizeof(want), " %02x:%02x %lu ", major(ls->cfg.pool_dev),
		 minor(ls->cfg.pool_dev), (unsigned long)ls->cfg.pool_ino);
	f = fopen(path, "re");
	if (!f)
		/* unreadable is unknown, and unknown is never "none" */
		return errno != ENOENT && errno != ESRCH;
	while (!found && fgets(line, sizeof(line), f))
		found = strstr(line, want) != NULL;
	fclose(f);
	return found;
}

struct gone_list {
	struct mapper **m;
	size_t nr, cap;
};

static void collect_gone(struct idnode *n, void *arg)
{
	struct mapper *m = container_of(n, struct mapper, by_id);
	struct gone_list *g = arg;

	if (!atomic_load(&m->fh_gone) || g->nr == g->cap)
		return;
	mapper_ref(m);
	g->m[g->nr++] = m;
}

/*
 * Mappers whose description was released but whose process lives. It cannot
 * talk to us any more, yet it may still map the pool; an exec or a last munmap
 * shows in /proc only. Returns whether any is left.
 */
static bool check_gone(struct layouts *ls)
{
	struct mapper *batch[64];
	struct gone_list g = {.m = batch, .cap = 64};
	bool left = false;
	size_t i;

	pthread_mutex_lock(&ls->lock);
	idmap_each(&ls->mappers, collect_gone, &g);
	pthread_mutex_unlock(&ls->lock);
	for (i = 0; i < g.nr; i++) {
		struct mapper *m = g.m[i];

		if (process_dead(m) || !process_maps_pool(ls, m->who.tgid))
			mapper_drop(m);
		else
			left = true;
		mapper_put(m);
	}
	return left || g.nr == g.cap;
}

static void drop_by_id(struct layouts *ls, uint64_t id)
{
	struct idnode *n;
	struct mapper *m = NULL;

	pthread_mutex_lock(&ls->lock);
	n = idmap_find(&ls->mappers, id);
	if (n) {
		m = container_of(n, struct mapper, by_id);
		mapper_ref(m);
	}
	pthread_mutex_unlock(&ls->lock);
	if (!m)
		return;
	mapper_drop(m);
	mapper_put(m);
}

static void *worker_main(void *arg)
{
	struct layouts *ls = arg;
	struct epoll_event ev[32];
	bool gone = false;
	uint64_t count;
	int i, n;

	while (!atomic_load(&ls->stopping)) {
		n = epoll_wait(ls->epfd, ev, 32, gone ? GONE_CHECK_MS : -1);
		for (i = 0; i < n; i++) {
			if (ev[i].data.u64 != KICK_ID)
				drop_by_id(ls, ev[i].data.u64);
			else if (read(ls->evfd, &count, sizeof(count)) < 0)
				continue; /* EAGAIN: another kick read it */
		}
		ready_run(ls);
		gone = check_gone(ls);
	}
	return NULL;
}

int worker_watch(struct layouts *ls, struct mapper *m)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = m->by_id.id};

	return epoll_ctl(ls->epfd, EPOLL_CTL_ADD, m->pidfd, &ev) ? -errno : 0;
}

void layouts_flush_fh(struct layouts *ls, uint64_t fh)
{
	(void)fh; /* the worker looks at every process that may have gone */
	kick(ls);
}

int worker_start(struct layouts *ls)
{
	struct epoll_event ev = {.events = EPOLLIN, .data.u64 = KICK_ID};
	sigset_t all, old;
	int err;

	ls->epfd = epoll_create1(EPOLL_CLOEXEC);
	ls->evfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (ls->epfd < 0 || ls->evfd < 0 ||
	    epoll_ctl(ls->epfd, EPOLL_CTL_ADD, ls->evfd, &ev)) {
		err = -errno;
		goto out_close;
	}
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = -pthread_create(&ls->worker, NULL, worker_main, ls);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err)
		goto out_close;
	ls->worker_started = true;
	return 0;

out_close:
	if (ls->epfd >= 0)
		close(ls->epfd);
	if (ls->evfd >= 0)
		close(ls->evfd);
	return err;
}

void worker_stop(struct layouts *ls)
{
	if (!ls->worker_started)
		return;
	atomic_store(&ls->stopping, true);
	kick(ls);
	pthread_join(ls->worker, NULL);
	ready_run(ls);
	close(ls->epfd);
	close(ls->evfd);
	ls->worker_started = false;
}
