/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The layouts of a mount as a whole: start, shutdown, and which requests wait,
 * so that an interrupt that knows only a number finds its request.
 *
 * A request is registered from before it can wait until just before done() is
 * called; an interrupt that comes later finds nothing and is ignored, which is
 * why the FUSE layer hands the number around and never a pointer.
 *
 * Locks: layouts->lock guards the maps and comes after layout->lock.
 */
#include "fs/layout/internal.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <time.h>

uint64_t layout_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ULL + (uint64_t)ts.tv_nsec;
}

void layout_init(struct layout *l, struct layouts *ls)
{
	*l = (struct layout){.ls = ls};
	pthread_mutex_init(&l->lock, NULL);
	l->breaks_tail = &l->breaks;
	l->queued_pins_tail = &l->queued_pins;
}

void layout_fini(struct layout *l)
{
	pthread_mutex_destroy(&l->lock);
}

bool layout_busy(struct layout *l)
{
	bool busy;

	pthread_mutex_lock(&l->lock);
	busy = l->mappers || l->breaks || l->queued_pins;
	pthread_mutex_unlock(&l->lock);
	return busy;
}

uint64_t layouts_new_id(struct layouts *ls)
{
	return atomic_fetch_add(&ls->next_id, 1);
}

static int ent_add(struct layouts *ls, struct idmap *map, uint64_t id,
		   struct layout *l)
{
	struct wait_ent *w = malloc(sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->idnode.id = id;
	w->l = l;
	pthread_mutex_lock(&ls->lock);
	idmap_add(map, &w->idnode);
	pthread_mutex_unlock(&ls->lock);
	return 0;
}

static bool ent_del(struct layouts *ls, struct idmap *map, uint64_t id,
		    const struct layout *l)
{
	struct idnode *n;

	pthread_mutex_lock(&ls->lock);
	n = idmap_find(map, id);
	while (n && container_of(n, struct wait_ent, idnode)->l != l)
		n = idmap_more(n);
	if (n)
		idmap_del(map, n);
	pthread_mutex_unlock(&ls->lock);
	if (n)
		free(container_of(n, struct wait_ent, idnode));
	return n != NULL;
}

int wait_register(struct layouts *ls, uint64_t id, struct layout *l)
{
	int err = ent_add(ls, &ls->waiting, id, l);

	if (!err)
		atomic_fetch_add(&ls->c.waiters, 1);
	return err;
}

void wait_unregister(struct layouts *ls, uint64_t id, const struct layout *l)
{
	if (ent_del(ls, &ls->waiting, id, l))
		atomic_fetch_sub(&ls->c.waiters, 1);
}

int reserve_register(struct layouts *ls, uint64_t fh, struct layout *l)
{
	return ent_add(ls, &ls->reserved, fh, l);
}

void reserve_unregister(struct layouts *ls, uint64_t fh, const struct layout *l)
{
	(void)ent_del(ls, &ls->reserved, fh, l); /* gone is fine */
}

void layouts_cancel(struct layouts *ls, uint64_t id, int err)
{
	struct layout *l = NULL;
	struct idnode *n;
	bool found;

	pthread_mutex_lock(&ls->lock);
	n = idmap_find(&ls->waiting, id);
	if (n) {
		l = container_of(n, struct wait_ent, idnode)->l;
		ls->ops->get(l); /* the waiting request holds one, too */
	}
	pthread_mutex_unlock(&ls->lock);
	if (!l)
		return;
	pthread_mutex_lock(&l->lock);
	found = break_cancel_locked(l, id, err) ||
		pin_cancel_locked(l, id, err);
	pthread_mutex_unlock(&l->lock);
	if (found)
		layout_run(l);
	ls->ops->put(l);
}

static void maps_fini(struct layouts *ls)
{
	idmap_fini(&ls->mappers);
	idmap_fini(&ls->by_fh);
	idmap_fini(&ls->pins);
	idmap_fini(&ls->waiting);
	idmap_fini(&ls->reserved);
	free(ls->ledger_used);
}

int layouts_create(const struct layouts_config *cfg, struct layouts **ret_ls)
{
	struct layouts *ls = calloc(1, sizeof(*ls));
	int err = -ENOMEM;

	if (!ls)
		return -ENOMEM;
	ls->cfg = *cfg;
	ls->ops = cfg->ops;
	if (!ls->cfg.recall_timeout_ms)
		ls->cfg.recall_timeout_ms = 30000;
	atomic_init(&ls->next_id, 1);
	pthread_mutex_init(&ls->lock, NULL);
	pthread_mutex_init(&ls->ready_lock, NULL);
	ls->ready_tail = &ls->ready;
	ls->epfd = ls->evfd = -1;
	ls->ledger_used = calloc(cfg->nr_ledgers + 1, 1);
	if (!ls->ledger_used || idmap_init(&ls->mappers) ||
	    idmap_init(&ls->by_fh) || idmap_init(&ls->pins) ||
	    idmap_init(&ls->waiting) || idmap_init(&ls->reserved))
		goto out_free;
	err = worker_start(ls);
	if (err)
		goto out_free;
	*ret_ls = ls;
	return 0;

out_free:
	maps_fini(ls);
	free(ls);
	return err;
}

struct first_ids {
	uint64_t id[64];
	size_t nr;
};

static void collect_ids(struct idnode *n, void *arg)
{
	struct first_ids *f = arg;

	if (f->nr < 64)
		f->id[f->nr++] = n->id;
}

/* Ids of what is in the map right now, at most 64 of them. */
static size_t some_ids(struct layouts *ls, struct idmap *map,
		       struct first_ids *f)
{
	f->nr = 0;
	pthread_mutex_lock(&ls->lock);
	idmap_each(map, collect_ids, f);
	pthread_mutex_unlock(&ls->lock);
	return f->nr;
}

static struct mapper *mapper_get_any(struct layouts *ls, uint64_t id)
{
	struct mapper *m = NULL;
	struct idnode *n;

	pthread_mutex_lock(&ls->lock);
	n = idmap_find(&ls->mappers, id);
	if (n) {
		m = container_of(n, struct mapper, by_id);
		mapper_ref(m);
	}
	pthread_mutex_unlock(&ls->lock);
	return m;
}

void layouts_shutdown(struct layouts *ls)
{
	struct first_ids f;
	size_t i;

	/* a commit that runs in another thread ends by itself: look again */
	while (some_ids(ls, &ls->waiting, &f)) {
		for (i = 0; i < f.nr; i++)
			layouts_cancel(ls, f.id[i], -ENODEV);
		sched_yield();
	}
	while (some_ids(ls, &ls->reserved, &f))
		for (i = 0; i < f.nr; i++)
			layouts_release_fh(ls, f.id[i]);
	while (some_ids(ls, &ls->mappers, &f))
		for (i = 0; i < f.nr; i++) {
			struct mapper *m = mapper_get_any(ls, f.id[i]);

			if (!m)
				continue;
			mapper_drop(m);
			mapper_put(m);
		}
	worker_stop(ls);
}

void layouts_destroy(struct layouts *ls)
{
	if (!ls)
		return;
	worker_stop(ls);
	maps_fini(ls);
	pthread_mutex_destroy(&ls->lock);
	pthread_mutex_destroy(&ls->ready_lock);
	free(ls);
}
