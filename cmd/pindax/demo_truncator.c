/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The truncator: takes blocks away from the device's file, gives the victim
 * time to get them, makes the file whole again, and measures.
 *
 * Truncates and punches take turns at random, half of them through libpindax
 * (which waits by ioctl) and half as the plain system calls that any program
 * would make (which wait in the kernel's SETATTR or FALLOCATE).
 *
 * An operation has waited when the daemon's count of breaks that waited went
 * up meanwhile: nothing else on the mount waits for pins. The last unpin that
 * it waited for is the latest that a channel stamped while it ran, over a range
 * that it takes away.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "client/pindax.h"
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"
#include "fs/proto.h"

#define HOLE_MIN_US 5000 /* the victim's time to take the blocks */
#define HOLE_SPREAD_US 10000
#define REST_SPREAD_US 8000

struct truncator {
	const struct demo_setup *setup;
	struct demo_phase *phase;
	uint64_t rng;
	int fd;
	bool waits; /* the mount's policy: not pinned=unsafe */
};

static int breaks_waited(int fd, uint64_t *ret_nr)
{
	struct pindax_ioc_stat st = {0};
	int err = call_ioctl(fd, PINDAX_IOC_STAT, &st);

	if (!err)
		*ret_nr = st.breaks_waited;
	return err;
}

/* Latest unpin within (start, end) over a range that overlaps the op's. */
static uint64_t last_unpin(struct demo_phase *p, const struct demo_op *op)
{
	uint64_t last = 0;

	for (unsigned int i = 0; i < DEMO_CHANNELS; i++) {
		uint64_t t = p->channel[i].unpin_ns;
		uint64_t off = p->channel[i].unpin_off;
		uint64_t len = p->channel[i].unpin_len;

		if (t > op->start_ns && t < op->end_ns && t > last &&
		    off < op->off + op->len && op->off < off + len)
			last = t;
	}
	return last;
}

static void choose(struct truncator *t, struct demo_op *op)
{
	uint64_t size = t->setup->file_bytes, pages;

	memset(op, 0, sizeof(*op));
	if (random_below(&t->rng, 2)) {
		op->kind = DEMO_TRUNCATE;
		/* Any byte: the page that is cut waits for its pin, too. */
		op->off = size / 8 + random_below(&t->rng, size / 4 * 3);
		op->len = size - op->off;
		return;
	}
	op->kind = DEMO_PUNCH;
	pages = size / PINDAX_PAGE;
	op->len = (pages / 32 + random_below(&t->rng, pages / 5)) * PINDAX_PAGE;
	op->off = random_below(&t->rng, pages - op->len / PINDAX_PAGE) *
		  PINDAX_PAGE;
}

static int execute(struct truncator *t, const struct demo_op *op, bool library)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	off_t off = (off_t)op->off, len = (off_t)op->len;

	if (op->kind == DEMO_TRUNCATE) {
		if (library)
			return pindax_truncate(t->fd, off);
		return ftruncate(t->fd, off) ? -errno : 0;
	}
	if (library)
		return pindax_fallocate(t->fd, mode, off, len);
	return fallocate(t->fd, mode, off, len) ? -errno : 0;
}

static int one_round(struct truncator *t, bool library)
{
	struct demo_phase *p = t->phase;
	struct demo_op op, *log;
	uint64_t before = 0, after = 0;
	int err;

	choose(t, &op);
	err = breaks_waited(t->fd, &before);
	if (err)
		return err;
	op.start_ns = now_ns();
	err = execute(t, &op, library);
	op.end_ns = now_ns();
	if (err)
		return err;
	op.unpin_ns = last_unpin(p, &op);
	err = breaks_waited(t->fd, &after);
	if (err)
		return err;
	op.waited = t->waits && after != before && op.unpin_ns;
	log = demo_new_op(p);
	if (log)
		*log = op;
	atomic_fetch_add(&p->truncates, 1);
	if (op.waited)
		atomic_fetch_add(&p->waits, 1);

	sleep_us(HOLE_MIN_US + random_below(&t->rng, HOLE_SPREAD_US));
	if (op.kind == DEMO_TRUNCATE &&
	    ftruncate(t->fd, (off_t)t->setup->file_bytes))
		return -errno;
	sleep_us(random_below(&t->rng, REST_SPREAD_US));
	return 0;
}

int demo_truncator(const struct demo_setup *s, struct demo_phase *p)
{
	struct truncator t = {
		.setup = s,
		.phase = p,
		.rng = s->seed + 2000,
	};
	struct pindax_ioc_info in = {0};
	char path[PATH_MAX];
	bool library = false;
	int err;

	snprintf(path, sizeof(path), "%s/" DEMO_FILE, s->mount_dir);
	t.fd = open(path, O_RDWR | O_CLOEXEC);
	if (t.fd < 0)
		return demo_fail(p, DEMO_TRUNCATOR, "%s: %s", path,
				 strerror(errno));
	err = call_ioctl(t.fd, PINDAX_IOC_INFO, &in);
	t.waits = !(in.flags & PINDAX_INFO_UNSAFE);
	while (!err && !p->stop) {
		err = one_round(&t, library);
		library = !library;
	}
	close(t.fd);
	return err ? demo_fail(p, DEMO_TRUNCATOR, "%s: %s", path,
			       strerror(-err))
		   : 0;
}
