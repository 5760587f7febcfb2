/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The zap: takes mappings of the pool away so that the next touch raises a
 * fault, with no moment in which a touch goes unnoticed. Knows addresses, not
 * why they are taken away.
 *
 * The replacement is prepared elsewhere and moved over the range by mremap:
 * - its source is a sparse shared memfd, which RLIMIT_DATA does not count. The
 *   memfd's offset is the address, so that zapped neighbours merge into one
 *   mapping;
 * - no page of it may ever exist, or a touch would read zeros and lose stores
 *   without a fault. It is mapped PROT_NONE, which mlockall(MCL_FUTURE) cannot
 *   populate, unlocked, and only then made accessible; what may be there all
 *   the same is punched out;
 * - MADV_DONTFORK, else a child reads zeros; MADV_NOHUGEPAGE, else khugepaged
 *   fills it;
 * - userfaultfd is registered before the move and keeps by the REMAP event,
 *   for which mremap waits: the reader thread must never wait for us.
 * In large chunks, and small ones when that fails: the source counts against
 * RLIMIT_AS while it is prepared.
 *
 * If that fails the range is made inaccessible instead, which keeps the promise
 * to the daemon and costs the program a SIGSEGV at its next touch.
 * Locks: file->lock is held throughout.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include "client/internal.h"

#define CHUNK ((size_t)1 << 30)
#define SMALL_CHUNK ((size_t)PDX_WINDOW)

static int prepare(const struct pindax_map *m, uint8_t *src, size_t len,
		   off_t at)
{
	struct uffdio_register reg = {
		.range = {.start = (uintptr_t)src, .len = len},
		.mode = UFFDIO_REGISTER_MODE_MISSING};

	if (munlock(src, len) || madvise(src, len, MADV_DONTFORK))
		return -errno;
	(void)madvise(src, len, MADV_NOHUGEPAGE); /* EINVAL: no huge pages */
	if (mprotect(src, len, m->prot) ||
	    fallocate(pdx.zap_fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		      at, (off_t)len) ||
	    ioctl(pdx.uffd, UFFDIO_REGISTER, &reg))
		return -errno;
	return 0;
}

static int arm_chunk(const struct pindax_map *m, uint8_t *at, size_t len)
{
	off_t off = (off_t)(uintptr_t)at;
	int err;
	uint8_t *src = mmap(NULL, len, PROT_NONE, MAP_SHARED | MAP_NORESERVE,
			    pdx.zap_fd, off);

	if (src == MAP_FAILED)
		return -errno;
	err = prepare(m, src, len, off);
	if (!err && mremap(src, len, len, MREMAP_MAYMOVE | MREMAP_FIXED, at) ==
			    MAP_FAILED)
		err = -errno;
	if (err)
		(void)munmap(src, len);
	return err;
}

int pdx_arm_fresh(const struct pindax_map *m)
{
	off_t off = (off_t)(uintptr_t)m->base;

	if (mmap(m->base, m->len, PROT_NONE,
		 MAP_SHARED | MAP_FIXED | MAP_NORESERVE, pdx.zap_fd,
		 off) == MAP_FAILED)
		return -errno;
	return prepare(m, m->base, m->len, off);
}

static int arm(const struct pindax_map *m, uint8_t *at, size_t len)
{
	size_t chunk = CHUNK;

	while (len) {
		size_t n = len < chunk ? len : chunk;
		int err = arm_chunk(m, at, n);

		if (err && n > SMALL_CHUNK) {
			chunk = SMALL_CHUNK;
			continue;
		}
		if (err)
			return err;
		at += n;
		len -= n;
	}
	return 0;
}

/* Nothing may be touched there any more, whatever it costs. */
static int take_away(uint8_t *at, size_t len)
{
	void *p = mmap(at, len, PROT_NONE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
		       -1, 0);

	if (p != MAP_FAILED || !munmap(at, len))
		return 0;
	return -errno;
}

/* Is that what we mapped at @page, or has the program put something there? */
static bool is_ours(const struct pindax_map *m, size_t page,
		    const struct pdx_vma *v)
{
	uint64_t where = m->where[page];

	if (where == PDX_AT_ZERO)
		return pdx_same_id(&v->id, &pdx.zero_id);
	if (where == PDX_AT_EOF)
		return pdx_same_id(&v->id, &pdx.eof_id);
	return pdx_same_id(&v->id, &m->file->pool->id) &&
	       PDX_AT_POOL(v->file_off) == where;
}

/* How much from @page on, at most @nr pages, is ours or is not. */
static int scan(const struct pindax_map *m, size_t page, size_t nr,
		size_t *ret_nr, bool *ret_ours)
{
	size_t at = page, end = page + nr;
	bool ours = false;

	while (at < end) {
		struct pdx_vma v;
		int err = pdx_vma_at(m->base + at * PDX_PAGE,
				     (end - at) * PDX_PAGE, &v);

		if (err)
			return err;
		if (at > page && is_ours(m, at, &v) != ours)
			break;
		ours = is_ours(m, at, &v);
		at += v.len / PDX_PAGE;
	}
	*ret_nr = at - page;
	*ret_ours = ours;
	return 0;
}

/* Zap what is still ours of pages that we once mapped. */
static int zap_run(struct pindax_map *m, size_t page, size_t nr,
		   struct pdx_graves *graves)
{
	while (nr) {
		uint8_t *at = m->base + page * PDX_PAGE;
		size_t n;
		bool ours;
		int err = scan(m, page, nr, &n, &ours);

		if (!err && ours && graves)
			pdx_set_aside(graves, at, n * PDX_PAGE);
		if (!err && ours && arm(m, at, n * PDX_PAGE))
			err = take_away(at, n * PDX_PAGE);
		if (err)
			return err;
		pdx_note(m, page, n, PDX_AT_ZAPPED);
		page += n;
		nr -= n;
	}
	return 0;
}

int pdx_zap(struct pindax_map *m, size_t page, size_t nr,
	    struct pdx_graves *graves)
{
	size_t end = page + nr;

	for (page = pdx_next_present(m, page, true); page < end;
	     page = pdx_next_present(m, page, true)) {
		size_t stop = pdx_next_present(m, page, false);
		int err;

		if (stop > end)
			stop = end;
		err = zap_run(m, page, stop - page, graves);
		if (err)
			return err;
		page = stop;
	}
	return 0;
}
