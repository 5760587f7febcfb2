/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The victim: any program that stores files on the same filesystem.
 *
 * It creates small files, stamps every block, fsyncs, keeps a window of them
 * alive for a moment, reads each back, compares every byte, and deletes it.
 * The pool is nearly full, so the files get the blocks that the truncator has
 * just taken away from the device's file; which, it learns by the EXTENTS
 * ioctl and the device's notes in shared memory.
 *
 * It uses read(2) and write(2) only and has no part in the race: with a
 * filesystem that keeps its promises it can never read what it did not write.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"
#include "cmd/pindax/extents.h"

#define WINDOW 40U   /* files alive: 1,800 blocks in the mean */
#define FILE_MAX 96U /* blocks */
#define MIN_AGE_NS (12ULL * 1000 * 1000)

struct small_file {
	uint64_t id;
	uint64_t written_ns;
	unsigned int nr; /* blocks */
	uint32_t pool_page[FILE_MAX];
	int fd; /* -1: none */
};

struct victim {
	const struct demo_setup *setup;
	struct demo_phase *phase;
	struct small_file file[WINDOW];
	uint64_t next_id;
	uint64_t rng;
	char *buf;    /* of the largest file */
	char *expect; /* one block */
};

static void name_of(const struct victim *v, uint64_t id, char *path)
{
	snprintf(path, PATH_MAX, "%s/victim-%llu", v->setup->mount_dir,
		 (unsigned long long)id);
}

static int note_extent(const struct pindax_extent_info *e, void *arg)
{
	struct small_file *f = arg;

	for (uint64_t i = 0; i < e->len; i += PINDAX_PAGE) {
		uint64_t lblk = (e->file_off + i) / PINDAX_PAGE;
		uint64_t page = (e->pool_off + i) / PINDAX_PAGE;

		if (lblk < f->nr && page < DEMO_POOL_PAGES)
			f->pool_page[lblk] = (uint32_t)page;
	}
	return 0;
}

static int write_file(struct victim *v, struct small_file *f)
{
	/* Small ones fill what is partly free, large ones open whole runs. */
	static const unsigned int sizes[] = {4, 16, 64, FILE_MAX};
	size_t bytes;
	char path[PATH_MAX];
	ssize_t n;
	int err;

	f->id = v->next_id++;
	f->nr = sizes[random_below(&v->rng, 4)];
	bytes = f->nr * PINDAX_PAGE;
	memset(f->pool_page, 0, sizeof(f->pool_page));
	name_of(v, f->id, path);
	f->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (f->fd < 0)
		return -errno;
	for (unsigned int i = 0; i < f->nr; i++)
		stamp_fill(v->buf + i * PINDAX_PAGE, STAMP_VICTIM, f->id, i);
	n = pwrite(f->fd, v->buf, bytes, 0);
	if (n != (ssize_t)bytes)
		err = n < 0 ? -errno : -ENOSPC;
	else
		err = fsync(f->fd) ? -errno : 0;
	if (!err)
		err = extents_walk(f->fd, 0, bytes, note_extent, f);
	f->written_ns = now_ns();
	if (err) {
		close(f->fd);
		f->fd = -1;
		unlink(path);
	}
	return err;
}

static void note_hit(struct victim *v, const struct small_file *f,
		     uint32_t page, uint32_t file_page, const char *block)
{
	struct demo_hit *hit = demo_new_hit(v->phase);
	uint64_t t = v->phase->page[page].dma_ns;

	atomic_fetch_add(&v->phase->corrupted_blocks, 1);
	if (stamp_is(block, STAMP_DEVICE))
		atomic_fetch_add(&v->phase->device_stamps, 1);
	if (!hit)
		return;
	hit->at_ns = t > f->written_ns ? t : now_ns();
	hit->file_off = file_page ? (file_page - 1) * PINDAX_PAGE : 0;
}

static void check_block(struct victim *v, const struct small_file *f,
			unsigned int i)
{
	const char *block = v->buf + i * PINDAX_PAGE;
	uint32_t page = f->pool_page[i];
	uint32_t was = v->phase->page[page].file_page;

	atomic_fetch_add(&v->phase->victim_blocks, 1);
	if (was)
		atomic_fetch_add(&v->phase->reused_blocks, 1);
	stamp_fill(v->expect, STAMP_VICTIM, f->id, i);
	if (memcmp(v->expect, block, PINDAX_PAGE) != 0)
		note_hit(v, f, page, was, block);
}

static int check_and_delete(struct victim *v, struct small_file *f)
{
	char path[PATH_MAX];
	int err = 0;
	ssize_t n;

	if (f->fd < 0)
		return 0;
	n = pread(f->fd, v->buf, f->nr * PINDAX_PAGE, 0);
	if (n != (ssize_t)(f->nr * PINDAX_PAGE))
		err = n < 0 ? -errno : -EIO;
	for (unsigned int i = 0; !err && i < f->nr; i++)
		check_block(v, f, i);
	close(f->fd);
	f->fd = -1;
	name_of(v, f->id, path);
	if (unlink(path) && !err)
		err = -errno;
	return err;
}

static void let_age(const struct small_file *f)
{
	uint64_t age = now_ns() - f->written_ns;

	if (f->fd >= 0 && age < MIN_AGE_NS)
		sleep_us((MIN_AGE_NS - age) / 1000 + 1);
}

static int run_victim(struct victim *v)
{
	unsigned int at = 0;
	int err = 0;

	while (!err && !v->phase->stop) {
		struct small_file *f = &v->file[at];

		let_age(f);
		err = check_and_delete(v, f);
		if (err)
			break;
		err = write_file(v, f);
		/* Full for a moment: the device got the space back first. */
		if (err == -ENOSPC) {
			err = 0;
			sleep_us(500);
		}
		at = (at + 1) % WINDOW;
	}
	for (unsigned int i = 0; i < WINDOW; i++) {
		int e = check_and_delete(v, &v->file[i]);

		err = err ? err : e;
	}
	return err;
}

int demo_victim(const struct demo_setup *s, struct demo_phase *p)
{
	struct victim v = {.setup = s, .phase = p, .rng = s->seed + 3000};
	int err = -ENOMEM;

	for (unsigned int i = 0; i < WINDOW; i++)
		v.file[i].fd = -1;
	v.buf = malloc(FILE_MAX * PINDAX_PAGE);
	v.expect = malloc(PINDAX_PAGE);
	if (v.buf && v.expect)
		err = run_victim(&v);
	free(v.buf);
	free(v.expect);
	return err ? demo_fail(p, DEMO_VICTIM, "%s", strerror(-err)) : 0;
}
