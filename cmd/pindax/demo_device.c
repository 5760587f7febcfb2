/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device: DMA from a disk into a direct mapping, requests always in flight.
 *
 * One mapping of the whole file, DEMO_CHANNELS threads. Each thread is one
 * channel with an io_uring of its own and owns one part of the file: it
 * registers what exists of its part as a fixed buffer (which pins exactly
 * that), streams READ_FIXED requests from the source into random places of it
 * for a while, drains, unregisters, and starts over. So a truncate waits for
 * the channels whose parts it cuts, and for no other.
 *
 * While a channel is registered it trusts the filesystem, as a real device
 * must: it never looks whether the blocks are still the file's. That is what
 * goes wrong with pinned=unsafe.
 *
 * A register that finds its range truncated (ENXIO), or the space for a hole
 * taken (ENOSPC), is tried again a moment later: both end when the truncator
 * extends the file or the victim deletes.
 *
 * No locks: channels share the mapping through the library only, and write to
 * disjoint words of the shared memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "client/pindax.h"
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"
#include "cmd/pindax/extents.h"

#define PIN_MIN_US 15000
#define PIN_SPREAD_US 30000
#define REST_MAX_US 3000
#define RETRY_US 500

struct request {
	uint64_t off; /* in the file */
};

struct channel {
	const struct demo_setup *setup;
	struct demo_phase *phase;
	struct pindax_map *map;
	int fd; /* of the file, for its size and extents */
	unsigned int nr;
	bool unsafe; /* pinned=unsafe */
	uint64_t rng;
	struct io_uring ring;

	/* of the registration */
	struct pindax_pin *pin;
	uint64_t start_ns;
	uint64_t off, len;
	uint32_t *pool_page; /* by page of [off, off + len) */
	struct request req[DEMO_DEPTH];
	unsigned int in_flight;
};

/* The part of the channel's range that the file has now; 0: nothing. */
static uint64_t existing(struct channel *c, uint64_t *ret_off)
{
	uint64_t part = c->setup->file_bytes / DEMO_CHANNELS;
	uint64_t first = part * c->nr, size, len, slack;
	struct stat st;

	if (fstat(c->fd, &st))
		return 0;
	size = (uint64_t)st.st_size & ~(PINDAX_PAGE - 1);
	if (size <= first)
		return 0;
	len = size - first < part ? size - first : part;
	slack = 0;
	if (len > c->setup->window_bytes) {
		slack = len - c->setup->window_bytes;
		len = c->setup->window_bytes;
		slack = random_below(&c->rng, slack / PINDAX_PAGE + 1) *
			PINDAX_PAGE;
	}
	*ret_off = first + slack;
	return len < DEMO_REQUEST ? 0 : len;
}

static int note_extent(const struct pindax_extent_info *e, void *arg)
{
	struct channel *c = arg;

	for (uint64_t i = 0; i < e->len; i += PINDAX_PAGE) {
		uint64_t at = e->file_off + i;
		uint64_t page = (e->pool_off + i) / PINDAX_PAGE;

		if (at < c->off || at >= c->off + c->len ||
		    page >= DEMO_POOL_PAGES)
			continue;
		c->pool_page[(at - c->off) / PINDAX_PAGE] = (uint32_t)page;
		atomic_store_explicit(&c->phase->page[page].file_page,
				      (uint32_t)(at / PINDAX_PAGE) + 1,
				      memory_order_relaxed);
	}
	return 0;
}

/* Which pages of the pool the device writes to from now on. */
static int note_pages(struct channel *c)
{
	memset(c->pool_page, 0xff, c->len / PINDAX_PAGE * sizeof(uint32_t));
	return extents_walk(c->fd, c->off, c->off + c->len, note_extent, c);
}

static void note_landed(struct channel *c, const struct request *r)
{
	uint64_t t = now_ns(), first = (r->off - c->off) / PINDAX_PAGE;

	for (uint64_t i = 0; i < DEMO_REQUEST / PINDAX_PAGE; i++) {
		uint32_t page = c->pool_page[first + i];

		if (page < DEMO_POOL_PAGES)
			atomic_store_explicit(&c->phase->page[page].dma_ns, t,
					      memory_order_relaxed);
	}
	atomic_fetch_add_explicit(&c->phase->dma_requests, 1,
				  memory_order_relaxed);
}

static void submit(struct channel *c, struct request *r)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&c->ring);
	uint64_t nr = (c->len - DEMO_REQUEST) / PINDAX_PAGE + 1;
	uint64_t from = random_below(&c->rng, DEMO_SOURCE_BYTES / DEMO_REQUEST);

	r->off = c->off + random_below(&c->rng, nr) * PINDAX_PAGE;
	io_uring_prep_read_fixed(sqe, c->setup->source_fd,
				 (char *)pindax_map_addr(c->map) + r->off,
				 DEMO_REQUEST, from * DEMO_REQUEST, 0);
	io_uring_sqe_set_data(sqe, r);
	c->in_flight++;
}

/* Take what has completed (at least one); resubmit unless @drain. */
static int turn(struct channel *c, bool drain)
{
	struct io_uring_cqe *cqe;
	int err = io_uring_submit_and_wait(&c->ring, 1);

	if (err < 0)
		return err == -EINTR ? 0 : err;
	while (!io_uring_peek_cqe(&c->ring, &cqe)) {
		struct request *r = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&c->ring, cqe);
		c->in_flight--;
		if (res != (int)DEMO_REQUEST)
			return res < 0 ? res : -EIO;
		note_landed(c, r);
		if (!drain)
			submit(c, r);
	}
	return 0;
}

/* Requests in flight until @end_ns, and none when it returns 0. */
static int stream(struct channel *c, uint64_t end_ns)
{
	int err = 0;

	for (unsigned int i = 0; i < DEMO_DEPTH; i++)
		submit(c, &c->req[i]);
	while (!err && !c->phase->stop && now_ns() < end_ns)
		err = turn(c, false);
	while (!err && c->in_flight)
		err = turn(c, true);
	return err;
}

/* 0: registered. 1: not now. Else an error that ends the device. */
static int take(struct channel *c)
{
	struct iovec iov;
	int err;

	c->len = existing(c, &c->off);
	if (!c->len)
		return 1;
	iov.iov_base = (void *)(uintptr_t)c->off; /* offset, not address */
	iov.iov_len = c->len;
	err = pindax_register_buffers(c->map, &c->ring, &iov, 1, &c->pin);
	switch (err) {
	case -ENXIO:
	case -ENOSPC:
	case -EAGAIN:
	case -EINTR:
		return 1;
	case -EFAULT:
		/* Unsafe: zapped between the pin and the registration. */
		if (c->unsafe)
			return 1;
		break;
	case 0:
		c->start_ns = now_ns();
		return note_pages(c);
	default:
		break;
	}
	demo_fail(c->phase, DEMO_DEVICE,
		  "register %" PRIu64 "+%" PRIu64 ": %s (%s)", c->off, c->len,
		  pindax_errormsg(), strerror(-err));
	return err;
}

static int release(struct channel *c)
{
	struct demo_channel *shared = &c->phase->channel[c->nr];
	struct demo_pin *log = demo_new_pin(c->phase);
	uint64_t end_ns = now_ns();

	if (log)
		*log = (struct demo_pin){c->start_ns, end_ns, c->off, c->len};
	shared->unpin_off = c->off;
	shared->unpin_len = c->len;
	/* Last: the truncator reads it first. Stamped before the call, so the
	 * wake-up time includes the kernel's unregistering. */
	shared->unpin_ns = end_ns;
	return pindax_unregister_buffers(&c->ring, c->pin);
}

static int run_channel(struct channel *c)
{
	uint64_t len_us;
	int err;

	while (!c->phase->stop) {
		err = take(c);
		if (err == 1) {
			sleep_us(RETRY_US);
			continue;
		}
		if (err)
			return err;
		atomic_fetch_add(&c->phase->registrations, 1);
		len_us = PIN_MIN_US + random_below(&c->rng, PIN_SPREAD_US);
		err = stream(c, c->start_ns + 1000 * len_us);
		if (err)
			return err;
		err = release(c);
		if (err)
			return err;
		sleep_us(random_below(&c->rng, REST_MAX_US));
	}
	return 0;
}

static void *channel_main(void *arg)
{
	struct channel *c = arg;
	int err;

	c->pool_page =
		calloc(c->setup->file_bytes / PINDAX_PAGE, sizeof(uint32_t));
	if (!c->pool_page) {
		demo_fail(c->phase, DEMO_DEVICE, "out of memory");
		return NULL;
	}
	err = io_uring_queue_init(DEMO_DEPTH, &c->ring, 0);
	if (err) {
		demo_fail(c->phase, DEMO_DEVICE, "io_uring: %s",
			  strerror(-err));
		goto out_free;
	}
	err = run_channel(c);
	if (err)
		demo_fail(c->phase, DEMO_DEVICE, "channel %u: %s", c->nr,
			  strerror(-err));
	/* Ends what is in flight and registered, if the channel failed. */
	io_uring_queue_exit(&c->ring);
out_free:
	free(c->pool_page);
	return NULL;
}

static int run_channels(const struct demo_setup *s, struct demo_phase *p,
			int fd, struct pindax_map *map)
{
	struct channel ch[DEMO_CHANNELS];
	pthread_t thread[DEMO_CHANNELS];
	struct pindax_ioc_info in = {0};
	unsigned int nr;
	int err = call_ioctl(fd, PINDAX_IOC_INFO, &in);

	if (err)
		return demo_fail(p, DEMO_DEVICE, "info: %s", strerror(-err));

	for (nr = 0; nr < DEMO_CHANNELS; nr++) {
		ch[nr] = (struct channel){
			.setup = s,
			.phase = p,
			.map = map,
			.fd = fd,
			.nr = nr,
			.unsafe = in.flags & PINDAX_INFO_UNSAFE,
			.rng = s->seed + 1000 + nr,
		};
		if (pthread_create(&thread[nr], NULL, channel_main, &ch[nr])) {
			demo_fail(p, DEMO_DEVICE, "cannot start a thread");
			break;
		}
	}
	while (nr--)
		pthread_join(thread[nr], NULL);
	return p->role[DEMO_DEVICE].error[0] ? EXIT_FAILURE : 0;
}

int demo_device(const struct demo_setup *s, struct demo_phase *p)
{
	char path[PATH_MAX];
	struct pindax_file *file;
	struct pindax_map *map;
	int fd, err, code;

	snprintf(path, sizeof(path), "%s/" DEMO_FILE, s->mount_dir);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return demo_fail(p, DEMO_DEVICE, "%s: %s", path,
				 strerror(errno));
	err = pindax_open(fd, &file);
	if (err) {
		code = demo_fail(p, DEMO_DEVICE, "open: %s (%s)",
				 pindax_errormsg(), strerror(-err));
		goto out_close;
	}
	/* Lazy: the truncator may be at work already, and holes are filled
	 * when a channel registers them. */
	err = pindax_map(file, 0, s->file_bytes, PROT_READ | PROT_WRITE,
			 PINDAX_MAP_LAZY, &map);
	if (err)
		code = demo_fail(p, DEMO_DEVICE, "map: %s (%s)",
				 pindax_errormsg(), strerror(-err));
	else
		code = run_channels(s, p, fd, map);
	pindax_close(file);
out_close:
	close(fd);
	return code;
}
