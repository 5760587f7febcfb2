/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_PMEM_H
#define PINDAX_PAGEMAP_PMEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PMEM_PAGE_SIZE 4096ULL
#define PMEM_PAGE_SHIFT 12
#define PMEM_HUGE_SIZE (2ULL << 20) /* one compound page */
#define PMEM_HUGE_PAGES (PMEM_HUGE_SIZE / PMEM_PAGE_SIZE)

/*
 * One pool file, opened through libpmem2 and mapped once.
 * All offsets are bytes from the start of the pool file.
 * All fields are constant after pmem_open()/pmem_create().
 */
struct pmem_pool {
	char *base;	     /* the one mapping, size_bytes long */
	uint64_t size_bytes; /* multiple of PMEM_PAGE_SIZE */
	int fd;
	bool readonly;
	bool ram_backed;    /* tmpfs, memfd: lost at reboot */
	bool emulated;	    /* persistence survives processes, not power */
	bool byte_granular; /* persist costs cache lines, not msync */
	dev_t dev;
	ino_t ino;
	char *path; /* realpath(3) of the pool */
	struct pmem_priv *priv;
};

#define PMEM_OPEN_RDONLY 1U
#define PMEM_CREATE_FORCE 2U	/* an existing file is taken over */
#define PMEM_CREATE_PREALLOC 4U /* back a disk pool fully, too */

/*
 * pmem_create - make (or with FORCE reuse) @path as a pool of @size_bytes.
 * A RAM-backed pool is backed fully at once, so that a full tmpfs is -ENOSPC
 * here and never a SIGBUS later. @size_bytes 0: keep the file's size.
 * The content of a reused file is not cleared.
 * Return 0; -EEXIST without FORCE; -EBUSY somebody has a claim on any byte of
 * the file, or maps it as a client; -ENOSPC; -EINVAL (size); -errno of open.
 */
int pmem_create(const char *path, uint64_t size_bytes, unsigned int flags,
		struct pmem_pool **ret_pool);

/*
 * pmem_open - map an existing pool. A device node, directory or empty file is
 * -EINVAL. The file's size is rounded down to a page.
 */
int pmem_open(const char *path, unsigned int flags,
	      struct pmem_pool **ret_pool);
void pmem_close(struct pmem_pool *pool);

/*
 * Persistence, libpmem2's in every case. flush starts the write-back of
 * [ptr, ptr + len); drain waits for all flushes of this thread; persist is
 * both. On pools without byte granularity flush is an msync.
 */
void pmem_flush(struct pmem_pool *pool, const void *ptr, size_t len);
void pmem_drain(struct pmem_pool *pool);
void pmem_persist(struct pmem_pool *pool, const void *ptr, size_t len);
/* Copy or set and flush, no drain; non-temporal where libpmem2 finds it good */
void pmem_memcpy(struct pmem_pool *pool, void *dst, const void *src,
		 size_t len);
void pmem_memset(struct pmem_pool *pool, void *dst, int c, size_t len);

/*
 * pmem_probe_pins - can a long-term pin be taken on this backing?
 * Registers the scratch page at @scratch_off as an io_uring buffer and drops
 * it again. Return 0 yes; -EOPNOTSUPP no (the kernel said EFAULT or
 * EOPNOTSUPP); another -errno when it cannot be told: -EPERM io_uring is
 * disabled, -ENOSYS, -ENOMEM the memlock limit.
 */
int pmem_probe_pins(struct pmem_pool *pool, uint64_t scratch_off);

/*
 * pmem_probe_fence - does punching a pinned page take it out of the pool?
 * Pins the scratch page, punches and refills it, lets a late DMA land through
 * the pin and looks whether the pool saw it. 0 yes; -EOPNOTSUPP no; -errno.
 */
int pmem_probe_fence(struct pmem_pool *pool, uint64_t scratch_off);

/*
 * pmem_fence - take [off, off + len) away from whoever still pins it.
 * Page multiples. On success the range reads as zeros and is backed.
 * -EBUSY: a pinned huge folio could not be split, retry with its whole 2 MiB
 *  or keep the block quarantined; -ENOSPC: punched but not refilled, the range
 *  must not be touched until pmem_refill() succeeds; -EOPNOTSUPP: the backing
 *  cannot punch.
 */
int pmem_fence(struct pmem_pool *pool, uint64_t off, uint64_t len);
int pmem_refill(struct pmem_pool *pool, uint64_t off, uint64_t len);

/*
 * Byte-range claims by OFD locks, so that two daemons never serve one
 * namespace. The lock is dropped by pmem_unclaim(), pmem_close(), process end.
 * pmem_claim: 0; -EBUSY somebody else has any byte of it.
 */
int pmem_claim(struct pmem_pool *pool, uint64_t off, uint64_t len);
/*
 * The same, but looks again for a while: umount(8) returns before its daemon
 * has exited and let go.
 */
#define PMEM_CLAIM_WAIT_MS 3000U /* for a daemon that was unmounted */
int pmem_claim_wait(struct pmem_pool *pool, uint64_t off, uint64_t len,
		    unsigned int timeout_ms);
void pmem_unclaim(struct pmem_pool *pool, uint64_t off, uint64_t len);

/*
 * Liveness of clients. A client holds an OFD read lock on byte
 * pmem_client_lock_byte(namespace offset) of the pool through the description
 * it maps, so the lock lives as long as its last mapping.
 * pmem_clients_alive: 0 nobody; 1 somebody; -errno.
 */
uint64_t pmem_client_lock_byte(uint64_t ns_off);
int pmem_clients_alive(struct pmem_pool *pool, uint64_t ns_off);
/* pids that map this pool file or have it open, from /proc; returns how many
 * were stored */
int pmem_mapped_by(struct pmem_pool *pool, pid_t *pids, int max);

#endif
