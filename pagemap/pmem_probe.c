// SPDX-License-Identifier: BSD-3-Clause
/*
 * What the pool's backing can do, found by doing it; and the fence.
 *
 * Owns: the two probes at mount (long-term pins, fencing) and taking pages of
 * the pool away from whoever still pins them. Not: when a fence is due.
 * Invariant: nothing is inferred from the name or the options of a
 * filesystem. A fence counts only when the punched offset holds no data any
 * more: a pinned huge folio is zeroed in place instead, and a late DMA would
 * still land in the pool.
 * The mapping stays valid throughout: the next touch faults the fresh page in.
 * Locks: none. The caller owns the range, as it owns any free block.
 * Read: "The fence" in docs/ARCHITECTURE.md.
 */
#include "pagemap/pmem.h"

#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/falloc.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define LATE_STAMP 0x5a /* what the late DMA of the probe writes */

static bool range_ok(const struct pmem_pool *pool, uint64_t off, uint64_t len)
{
	return off % PMEM_PAGE_SIZE == 0 && len % PMEM_PAGE_SIZE == 0 &&
	       len > 0 && len <= pool->size_bytes &&
	       off <= pool->size_bytes - len;
}

/* A ring with the scratch page registered. */
static int pin_scratch(struct pmem_pool *pool, uint64_t scratch_off,
		       struct io_uring *ring)
{
	struct iovec iov = {pool->base + scratch_off, PMEM_PAGE_SIZE};
	int rc;

	if (!range_ok(pool, scratch_off, PMEM_PAGE_SIZE) || pool->readonly)
		return -EINVAL;
	rc = io_uring_queue_init(2, ring, 0);
	if (rc)
		return rc;
	rc = io_uring_register_buffers(ring, &iov, 1);
	if (!rc)
		return 0;
	io_uring_queue_exit(ring);
	/*
	 * EFAULT: the kernel refuses long-term writable pins of this file's
	 * pages. EOPNOTSUPP: likewise, for a DAX mapping.
	 */
	return rc == -EFAULT ? -EOPNOTSUPP : rc;
}

int pmem_probe_pins(struct pmem_pool *pool, uint64_t scratch_off)
{
	struct io_uring ring;
	int rc;

	rc = pin_scratch(pool, scratch_off, &ring);
	if (!rc)
		io_uring_queue_exit(&ring);
	return rc;
}

/* The request waits for the pipe to fill: a DMA in flight. */
static int start_late_dma(struct io_uring *ring, int pipe_fd, void *page)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	int rc;

	io_uring_prep_read_fixed(sqe, pipe_fd, page, PMEM_PAGE_SIZE, 0, 0);
	rc = io_uring_submit(ring);
	if (rc < 0)
		return rc;
	return rc == 1 ? 0 : -EIO;
}

static int land_late_dma(struct io_uring *ring, int pipe_fd)
{
	struct io_uring_cqe *cqe;
	char stamp[PMEM_PAGE_SIZE];
	int rc;

	memset(stamp, LATE_STAMP, sizeof(stamp));
	if (write(pipe_fd, stamp, sizeof(stamp)) != sizeof(stamp))
		return -EIO;
	do {
		rc = io_uring_wait_cqe(ring, &cqe);
	} while (rc == -EINTR);
	if (rc)
		return rc;
	if (cqe->res < 0)
		rc = cqe->res;
	else if (cqe->res != sizeof(stamp))
		rc = -EIO;
	io_uring_cqe_seen(ring, cqe);
	return rc;
}

static bool page_is_zero(const char *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, PMEM_PAGE_SIZE - 1);
}

int pmem_probe_fence(struct pmem_pool *pool, uint64_t scratch_off)
{
	char *page = pool->base + scratch_off;
	struct io_uring ring;
	int pipe_fds[2];
	int rc, refill_rc;

	rc = pin_scratch(pool, scratch_off, &ring);
	if (rc)
		return rc;
	if (pipe2(pipe_fds, O_CLOEXEC) < 0) {
		rc = -errno;
		goto out_ring;
	}
	rc = start_late_dma(&ring, pipe_fds[0], page);
	if (rc)
		goto out_pipe;
	rc = pmem_fence(pool, scratch_off, PMEM_PAGE_SIZE);
	if (rc == -EBUSY) /* zeroed in place: the DMA would land */
		rc = -EOPNOTSUPP;
	if (rc)
		goto out_pipe;
	rc = land_late_dma(&ring, pipe_fds[1]);
	/* The kernel wrote, if at all, before the completion was read. */
	atomic_signal_fence(memory_order_seq_cst);
	if (!rc && !page_is_zero(page))
		rc = -EOPNOTSUPP;
	memset(page, 0, PMEM_PAGE_SIZE);
out_pipe:
	/* Both ends gone: a request still in flight ends now. */
	close(pipe_fds[0]);
	close(pipe_fds[1]);
out_ring:
	io_uring_queue_exit(&ring);
	/* A probe that fails leaves no hole to step into. */
	refill_rc = pmem_refill(pool, scratch_off, PMEM_PAGE_SIZE);
	return rc ? rc : refill_rc;
}

int pmem_refill(struct pmem_pool *pool, uint64_t off, uint64_t len)
{
	int rc;

	if (!range_ok(pool, off, len))
		return -EINVAL;
	/*
	 * Not posix_fallocate(3): where the filesystem has no fallocate, that
	 * reads and writes back a byte of each block, under the users' stores.
	 */
	do {
		rc = fallocate(pool->fd, 0, (off_t)off, (off_t)len);
	} while (rc < 0 && errno == EINTR);
	return rc < 0 ? -errno : 0;
}

/*
 * Is a page of the range in the pool's page cache? 1, 0 or -errno. mincore(2)
 * looks at these pages only; lseek(SEEK_DATA), which would tell as well, passes
 * over pages that were refilled and not touched since, to the end of the pool
 * if need be: a fence of 64 KiB took up to 200 ms in a pool of 2 GiB.
 */
static int any_present(struct pmem_pool *pool, uint64_t off, uint64_t len)
{
	unsigned char vec[PMEM_HUGE_PAGES];
	uint64_t n, i;

	for (; len; off += n, len -= n) {
		n = len < PMEM_HUGE_SIZE ? len : PMEM_HUGE_SIZE;
		if (mincore(pool->base + off, n, vec))
			return -errno;
		for (i = 0; i < n / PMEM_PAGE_SIZE; i++)
			if (vec[i] & 1)
				return 1;
	}
	return 0;
}

int pmem_fence(struct pmem_pool *pool, uint64_t off, uint64_t len)
{
	int present, rc;

	if (!range_ok(pool, off, len))
		return -EINVAL;
	do {
		rc = fallocate(pool->fd,
			       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       (off_t)off, (off_t)len);
	} while (rc < 0 && errno == EINTR);
	if (rc < 0)
		return -errno;
	present = any_present(pool, off, len);
	rc = pmem_refill(pool, off, len);
	if (rc)
		return rc;
	if (present < 0)
		return present;
	return present ? -EBUSY : 0;
}
