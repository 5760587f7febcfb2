// SPDX-License-Identifier: BSD-3-Clause
/*
 * The log of long waits: each request that has waited for a second is named
 * once, with the file, and with those it waits for.
 *
 * A thread of its own looks once a second, and only when somebody waits. What
 * is logged is chosen by when the wait began: each look takes those that began
 * after the last look's limit and up to its own, so none is named twice and
 * none is forgotten.
 * Locks: the watch's, for its end only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/fuse/daemon.h"

#define NS_PER_S 1000000000ULL

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static const char *op_name(uint32_t kind)
{
	switch (kind) {
	case PINDAX_WAIT_TRUNCATE:
		return "truncate";
	case PINDAX_WAIT_PUNCH:
		return "punch";
	case PINDAX_WAIT_ZERO:
		return "zero range";
	case PINDAX_WAIT_OPEN_TRUNC:
		return "open(O_TRUNC)";
	case PINDAX_WAIT_PIN:
		return "pin";
	case PINDAX_WAIT_FILL:
		return "write";
	default:
		return NULL; /* a holder, a reservation, an orphan */
	}
}

static void log_wait(struct fs *fs, const struct pindax_report_row *r)
{
	char path[4096], holders[PINDAX_REPORT_FOR * 12 + 16] = "";
	uint32_t nr = r->nr_for;
	size_t at = 0;

	if (fs_path(fs, r->ino, path, sizeof(path)) != 0)
		(void)snprintf(path, sizeof(path), "inode %llu",
			       (unsigned long long)r->ino);
	for (uint32_t i = 0; i < nr && i < PINDAX_REPORT_FOR; i++) {
		int n = snprintf(holders + at, sizeof(holders) - at, " %u",
				 r->for_pid[i]);

		at += n > 0 ? (size_t)n : 0;
	}
	if (nr > PINDAX_REPORT_FOR)
		(void)snprintf(holders + at, sizeof(holders) - at, " ...");
	fuse_log(FUSE_LOG_NOTICE,
		 "%s of %s by pid %u (%.15s) has waited for a second for "
		 "pid%s: see pindax pins\n",
		 op_name(r->kind), path, r->pid, r->comm,
		 nr ? holders : "s unknown");
}

static void look(struct server *s, uint64_t from_ns, uint64_t upto_ns)
{
	struct pindax_report_row *rows;
	struct pindax_ioc_stat st;
	uint32_t nr;

	layouts_stat(fs_layouts(s->fs), &st);
	if (!st.waiters ||
	    layouts_report(fs_layouts(s->fs), NULL, &rows, &nr) != 0)
		return;
	for (uint32_t i = 0; i < nr; i++) {
		if (op_name(rows[i].kind) && rows[i].since_ns > from_ns &&
		    rows[i].since_ns <= upto_ns)
			log_wait(s->fs, &rows[i]);
	}
	free(rows);
}

static void *watch_main(void *arg)
{
	struct server *s = arg;
	uint64_t from = now_ns(), upto;
	struct timespec until;
	int err;

	pthread_mutex_lock(&s->watch_lock);
	while (!s->watch_stop) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_sec++;
		do {
			err = pthread_cond_timedwait(&s->watch_cond,
						     &s->watch_lock, &until);
		} while (!err && !s->watch_stop);
		if (s->watch_stop)
			break;
		pthread_mutex_unlock(&s->watch_lock);
		upto = now_ns() - NS_PER_S;
		look(s, from, upto);
		from = upto;
		pthread_mutex_lock(&s->watch_lock);
	}
	pthread_mutex_unlock(&s->watch_lock);
	return NULL;
}

int watch_start(struct server *s)
{
	int err;

	pthread_mutex_init(&s->watch_lock, NULL);
	pthread_cond_init(&s->watch_cond, NULL);
	s->watch_stop = false;
	err = -pthread_create(&s->watch_thread, NULL, watch_main, s);
	s->watch_running = !err;
	return err;
}

void watch_stop(struct server *s)
{
	if (!s->watch_running)
		return;
	pthread_mutex_lock(&s->watch_lock);
	s->watch_stop = true;
	pthread_cond_signal(&s->watch_cond);
	pthread_mutex_unlock(&s->watch_lock);
	pthread_join(s->watch_thread, NULL);
	pthread_cond_destroy(&s->watch_cond);
	pthread_mutex_destroy(&s->watch_lock);
	s->watch_running = false;
}
