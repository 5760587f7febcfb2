/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mappers: one process on one open file description.
 *
 * A mapper ends when its client drops it, when its process dies (worker.c), or
 * when its description was released and the process maps the pool no more.
 * FUSE_RELEASE alone proves nothing: a mapping outlives its descriptor.
 *
 * Locks: layout->lock guards what a mapper holds, layouts->lock the maps that
 * find it; the second comes after the first. A mapper's memory goes with its
 * last reference; "dead" (layout->lock) says that it holds nothing any more.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

void mapper_ref(struct mapper *m)
{
	atomic_fetch_add(&m->refs, 1);
}

void mapper_put(struct mapper *m)
{
	if (!m || atomic_fetch_sub(&m->refs, 1) != 1)
		return;
	m->l->ls->ops->put(m->l);
	if (m->pidfd >= 0)
		close(m->pidfd);
	free(m);
}

static int ledger_take(struct layouts *ls, uint64_t *ret_index)
{
	uint64_t nr = ls->cfg.nr_ledgers, i;
	int err = -ENOSPC;

	pthread_mutex_lock(&ls->lock);
	for (i = 0; i < nr; i++) {
		uint64_t k = (ls->ledger_hint + i) % nr;

		if (ls->ledger_used[k])
			continue;
		ls->ledger_used[k] = 1;
		ls->ledger_hint = k + 1;
		*ret_index = k;
		err = 0;
		break;
	}
	pthread_mutex_unlock(&ls->lock);
	return err;
}

static uint64_t ledger_pool_page(struct layouts *ls, uint64_t index)
{
	return (ls->cfg.ledger_off >> 12) + index;
}

static void ledger_give_back(struct layouts *ls, uint64_t index)
{
	if (ls->cfg.ledger_map)
		page_put(ls->cfg.ledger_map, ledger_pool_page(ls, index));
	pthread_mutex_lock(&ls->lock);
	ls->ledger_used[index] = 0;
	pthread_mutex_unlock(&ls->lock);
}

void layout_read_comm(pid_t pid, char comm[16])
{
	char path[40];
	ssize_t n = -1;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", (int)pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd >= 0) {
		n = read(fd, comm, 15);
		close(fd);
	}
	if (n > 0 && comm[n - 1] == '\n')
		n--;
	comm[n > 0 ? n : 0] = '\0';
}

/* Ledger page, challenge, pidfd: what a mapper has before it is known. */
static int mapper_prepare(struct layouts *ls, struct mapper *m)
{
	int err = ledger_take(ls, &m->ledger);

	if (err)
		return err;
	if (getrandom(&m->challenge, sizeof(m->challenge), 0) !=
	    (ssize_t)sizeof(m->challenge)) {
		err = -EIO;
		goto out_ledger;
	}
	if (ls->cfg.ledger_map &&
	    !page_try_get(ls->cfg.ledger_map,
			  ledger_pool_page(ls, m->ledger))) {
		err = -EIO; /* frozen: nobody freezes ledger pages */
		goto out_ledger;
	}
	m->pidfd = (int)syscall(SYS_pidfd_open, m->who.tgid, 0);
	if (m->pidfd < 0) {
		err = -errno;
		ledger_give_back(ls, m->ledger);
		return err;
	}
	m->page = (struct pindax_ledger *)ls->cfg.ledger_base + m->ledger;
	memset(m->page, 0, sizeof(*m->page));
	m->page->mapper = m->by_id.id;
	__atomic_store_n(&m->page->challenge, m->challenge, __ATOMIC_RELEASE);
	return 0;

out_ledger:
	pthread_mutex_lock(&ls->lock);
	ls->ledger_used[m->ledger] = 0;
	pthread_mutex_unlock(&ls->lock);
	return err;
}

static void mapper_publish(struct layouts *ls, struct mapper *m)
{
	struct layout *l = m->l;

	pthread_mutex_lock(&l->lock);
	m->next = l->mappers;
	m->pprev = &l->mappers;
	if (m->next)
		m->next->pprev = &m->next;
	l->mappers = m;
	pthread_mutex_lock(&ls->lock);
	idmap_add(&ls->mappers, &m->by_id);
	idmap_add(&ls->by_fh, &m->by_fh);
	pthread_mutex_unlock(&ls->lock);
	pthread_mutex_unlock(&l->lock);
	atomic_fetch_add(&ls->c.mappers, 1);
}

int mapper_create(struct layout *l, const struct mapper_who *who,
		  uint64_t *ret_id, uint64_t *ret_ledger_off)
{
	struct layouts *ls = l->ls;
	struct mapper *m;
	uint64_t id;
	int err;

	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	id = layouts_new_id(ls);
	m->l = l;
	m->who = *who;
	m->pidfd = -1;
	m->by_id.id = id;
	m->by_fh.id = who->fh;
	m->retries_tail = &m->retries;
	atomic_init(&m->refs, 2); /* the registry's and ours */
	layout_read_comm(who->tgid, m->comm);
	err = mapper_prepare(ls, m);
	if (err) {
		if (m->pidfd >= 0)
			close(m->pidfd);
		free(m);
		return err;
	}
	ls->ops->get(l);
	*ret_id = id;
	*ret_ledger_off = ls->cfg.ledger_off + m->ledger * 4096;
	mapper_publish(ls, m);
	err = worker_watch(ls, m);
	if (err)
		mapper_drop(m); /* the registry's reference goes, not ours */
	/* NOLINTNEXTLINE(clang-analyzer-unix.Malloc): it starts with two */
	mapper_put(m);
	return err;
}

struct mapper *mapper_get(struct layouts *ls, uint64_t id, uint64_t fh)
{
	struct mapper *m = NULL;
	struct idnode *n;

	pthread_mutex_lock(&ls->lock);
	n = idmap_find(&ls->mappers, id);
	if (n && container_of(n, struct mapper, by_id)->who.fh == fh) {
		m = container_of(n, struct mapper, by_id);
		mapper_ref(m);
	}
	pthread_mutex_unlock(&ls->lock);
	return m;
}

int mapper_prove(struct mapper *m, uint64_t challenge, uint64_t answer,
		 unsigned int flags)
{
	bool ok = challenge == m->challenge;

	if (flags & ~PINDAX_PROVE_RDONLY)
		return -EINVAL;
	/* the page is the client's too: one load, hostile or not */
	if (!(flags & PINDAX_PROVE_RDONLY))
		ok = ok && answer != 0 &&
		     __atomic_load_n(&m->page->answer, __ATOMIC_ACQUIRE) ==
			     answer;
	if (!ok)
		return -EACCES;
	atomic_store(&m->proven, true);
	atomic_store(&m->proven_write, !(flags & PINDAX_PROVE_RDONLY));
	return 0;
}

static void queued_faults_forget_locked(struct layout *l, struct mapper *m)
{
	struct queued_fault **qp = &l->queued_faults, *q;

	while ((q = *qp) != NULL) {
		if (q->m != m) {
			qp = &q->next;
			continue;
		}
		*qp = q->next;
		free(q);
	}
}

static void mapper_unpublish_locked(struct layouts *ls, struct mapper *m)
{
	m->dead = true;
	*m->pprev = m->next;
	if (m->next)
		m->next->pprev = m->pprev;
	pthread_mutex_lock(&ls->lock);
	idmap_del(&ls->mappers, &m->by_id);
	idmap_del(&ls->by_fh, &m->by_fh);
	pthread_mutex_unlock(&ls->lock);
}

void mapper_drop(struct mapper *m)
{
	struct layout *l = m->l;
	struct layouts *ls = l->ls;
	struct pin_rec *pins = NULL;
	struct recall *r;
	bool was_dead, wrote = false;

	pthread_mutex_lock(&l->lock);
	was_dead = m->dead;
	if (!was_dead) {
		mapper_unpublish_locked(ls, m);
		wrote = grant_clear_locked(m, 0, UINT64_MAX, UINT64_MAX);
		queued_faults_forget_locked(l, m);
		/* the process cannot touch what it was to zap: that answers */
		for (r = m->recalls; r; r = r->next)
			if (!r->hint)
				break_acked_locked(l, r->break_id);
		event_free_all_locked(m);
		pins = pin_detach_all_locked(m);
	}
	pthread_mutex_unlock(&l->lock);
	if (was_dead)
		return;
	if (wrote)
		ls->ops->touch(l);
	pin_drop_list(ls, pins);
	ledger_give_back(ls, m->ledger);
	atomic_fetch_sub(&ls->c.mappers, 1);
	layout_run(l);
	mapper_put(m); /* the registry's */
}

void layouts_release_fh(struct layouts *ls, uint64_t fh)
{
	struct layout *l = NULL;
	struct idnode *n;
	bool any = false;

	pthread_mutex_lock(&ls->lock);
	for (n = idmap_find(&ls->by_fh, fh); n; n = idmap_more(n)) {
		atomic_store(&container_of(n, struct mapper, by_fh)->fh_gone,
			     true);
		any = true;
	}
	n = idmap_find(&ls->reserved, fh);
	if (n) {
		l = container_of(n, struct wait_ent, idnode)->l;
		ls->ops->get(l);
	}
	pthread_mutex_unlock(&ls->lock);
	if (any)
		layouts_flush_fh(ls, fh); /* the worker: do they live? */
	if (l) {
		break_unreserve(l, fh);
		ls->ops->put(l);
	}
}

bool layouts_fh_events(struct layouts *ls, uint64_t fh)
{
	struct idnode *n;
	bool any = false;

	pthread_mutex_lock(&ls->lock);
	for (n = idmap_find(&ls->by_fh, fh); n && !any; n = idmap_more(n))
		any = atomic_load(
			&container_of(n, struct mapper, by_fh)->has_events);
	pthread_mutex_unlock(&ls->lock);
	return any;
}
