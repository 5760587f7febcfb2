/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mappings: address space, the record of what each page shows, and the calls
 * pindax_map() and pindax_unmap(). What is mapped where is grant.c's and
 * zap.c's work.
 *
 * Invariant: a page of a map is either present (mapped by a grant that was
 * current when it was mapped) or zapped (a touch faults). Pages that got SIGBUS
 * for an error count as zapped, so that a pin tries again.
 *
 * The address is congruent to the file offset modulo 2 MiB, so that huge pages
 * of a 2 MiB run can be mapped as such. Locks: internal.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "client/internal.h"

#define PAGES_PER_WINDOW (PDX_WINDOW / PDX_PAGE)

struct pindax_map *pdx_map_find(struct pindax_file *f, const void *addr)
{
	uintptr_t at = (uintptr_t)addr;
	struct pindax_map *m = f->maps;

	while (m &&
	       (at < (uintptr_t)m->base || at >= (uintptr_t)m->base + m->len))
		m = m->next;
	return m;
}

size_t pdx_next_present(const struct pindax_map *m, size_t page, bool present)
{
	size_t nr = pdx_map_pages(m);

	while (page < nr && (m->where[page] != PDX_AT_ZAPPED) != present)
		page++;
	return page < nr ? page : nr;
}

/* Does a kernel mapping of its own begin at the page? */
static bool begins(const struct pindax_map *m, size_t page)
{
	uint64_t here = m->where[page];
	uint64_t before = page ? m->where[page - 1] : PDX_AT_ZAPPED;

	if (here == PDX_AT_ZAPPED)
		return false;
	if (here < PDX_AT_POOL(0) || before < PDX_AT_POOL(0))
		return here != before;
	return here != before + PDX_PAGE;
}

/* @zapped: it is known that nothing is mapped there. */
static void count_window(struct pindax_map *m, size_t w, bool zapped)
{
	size_t page = w * PAGES_PER_WINDOW, end = page + PAGES_PER_WINDOW;
	uint16_t n = 0;

	if (end > pdx_map_pages(m))
		end = pdx_map_pages(m);
	for (; page < end && !zapped; page++)
		n += begins(m, page);
	atomic_fetch_add(&pdx.nr_runs, (unsigned int)n - m->runs[w]);
	m->runs[w] = n;
}

void pdx_note(struct pindax_map *m, size_t page, size_t nr, uint64_t where)
{
	size_t end = page + nr, w = page / PAGES_PER_WINDOW;

	if (where == PDX_AT_ZAPPED)
		/* a zap of a large range is waited for */
		memset(&m->where[page], 0, nr * sizeof(m->where[0]));
	for (size_t i = page; where != PDX_AT_ZAPPED && i < end; i++) {
		m->where[i] = where;
		if (where >= PDX_AT_POOL(0))
			where += PDX_PAGE;
	}
	/* The page after the range may begin a mapping now. */
	for (; w <= end / PAGES_PER_WINDOW; w++)
		count_window(m, w,
			     where == PDX_AT_ZAPPED &&
				     w * PAGES_PER_WINDOW >= page &&
				     (w + 1) * PAGES_PER_WINDOW <= end);
}

static void map_free(struct pindax_map *m)
{
	free(m->where);
	free(m->runs);
	free(m);
}

static int map_alloc(struct pindax_file *f, uint64_t off, size_t len, int prot,
		     struct pindax_map **ret_m)
{
	struct pindax_map *m = calloc(1, sizeof(*m));
	size_t pages = len / PDX_PAGE;

	if (!m)
		return -ENOMEM;
	m->file = f;
	m->off = off;
	m->len = len;
	m->prot = prot;
	m->where = calloc(pages + 1, sizeof(*m->where));
	m->runs = calloc(len / PDX_WINDOW + 1, sizeof(*m->runs));
	if (!m->where || !m->runs) {
		map_free(m);
		return -ENOMEM;
	}
	*ret_m = m;
	return 0;
}

static int reserve(struct pindax_map *m)
{
	size_t len = m->len + PDX_WINDOW, skip;
	uint8_t *p = mmap(NULL, len, PROT_NONE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	skip = (size_t)(m->off - (uintptr_t)p) % PDX_WINDOW;
	if (skip)
		(void)munmap(p, skip);
	m->base = p + skip;
	(void)munmap(m->base + m->len, PDX_WINDOW - skip);
	return 0;
}

/* All of it zapped, and from then on in the hands of faults and recalls. */
static int join(struct pindax_map *m)
{
	struct pindax_file *f = m->file;
	int err;

	pthread_rwlock_wrlock(&f->grant_lock);
	pthread_mutex_lock(&pdx.lock);
	pthread_mutex_lock(&f->lock);
	m->next = f->maps;
	f->maps = m;
	pthread_mutex_unlock(&pdx.lock);
	err = pdx_arm_fresh(m);
	pthread_mutex_unlock(&f->lock);
	pthread_rwlock_unlock(&f->grant_lock);
	return err;
}

static void unlink_locked(struct pindax_map *m)
{
	struct pindax_map **at = &m->file->maps;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	if (m->file->evict_map == m)
		m->file->evict_map = NULL;
}

static unsigned int count_runs(const struct pindax_map *m)
{
	unsigned int n = 0;

	for (size_t w = 0; w <= m->len / PDX_WINDOW; w++)
		n += m->runs[w];
	return n;
}

/*
 * End the leases of [off, end), less what other maps of the file cover from
 * @other on.
 */
static void end_leases(struct pindax_file *f, struct pindax_map *other,
		       uint64_t off, uint64_t end)
{
	struct pindax_ioc_range r = {.mapper = f->mapper};

	for (; other && off < end; other = other->next) {
		uint64_t o_end = other->off + other->len;

		if (other->off >= end || o_end <= off)
			continue;
		if (other->off > off)
			end_leases(f, other->next, off, other->off);
		off = o_end;
	}
	if (off >= end)
		return;
	r.off = off;
	r.len = end - off;
	/* Without the daemon there is no lease left to end. */
	(void)f->daemon.call(&f->daemon, PINDAX_IOC_UNMAP, &r);
}

void pdx_map_destroy(struct pindax_map *m)
{
	struct pindax_file *f = m->file;

	pthread_rwlock_wrlock(&f->grant_lock);
	pthread_mutex_lock(&pdx.lock);
	pthread_mutex_lock(&f->lock);
	unlink_locked(m);
	pthread_mutex_unlock(&pdx.lock);
	(void)munmap(m->base, m->len);
	atomic_fetch_sub(&pdx.nr_runs, count_runs(m));
	pthread_mutex_unlock(&f->lock);
	pdx_wake(m->base, m->len);
	/* No grant is on its way: what is mapped later is asked for later. */
	end_leases(f, f->maps, m->off, m->off + m->len);
	pthread_rwlock_unlock(&f->grant_lock);
	map_free(m);
}

static int check_args(const struct pindax_file *f, uint64_t offset, size_t len,
		      int prot, unsigned int flags)
{
	uint64_t end;
	int err = pdx_file_usable(f);

	if (err)
		return err;
	if (offset % PDX_PAGE || len % PDX_PAGE || len == 0 ||
	    __builtin_add_overflow(offset, len, &end) || end > INT64_MAX ||
	    len > SIZE_MAX / 4)
		return pdx_fail(-EINVAL, "offset and length must be multiples "
					 "of 4096, and the length not 0");
	if ((prot != PROT_READ && prot != (PROT_READ | PROT_WRITE)) ||
	    (flags & ~PINDAX_MAP_LAZY))
		return pdx_fail(-EINVAL, "unknown protection or flag");
	if ((prot & PROT_WRITE) && !f->writable)
		return pdx_fail(-EACCES,
				"a writable mapping needs a descriptor opened "
				"O_RDWR and write permission on the pool");
	return 0;
}

int pindax_map(struct pindax_file *file, uint64_t offset, size_t len, int prot,
	       unsigned int flags, struct pindax_map **ret_map)
{
	struct pindax_map *m;
	int err = check_args(file, offset, len, prot, flags);

	if (err)
		return err;
	err = map_alloc(file, offset, len, prot, &m);
	if (err)
		return pdx_fail(err, "no memory");
	err = reserve(m);
	if (err) {
		map_free(m);
		return pdx_fail(err, "no address space for %zu bytes: %s", len,
				strerror(-err));
	}
	err = join(m);
	if (err) {
		(void)pdx_fail(err, "preparing the mapping: %s",
			       strerror(-err));
	} else if (!(flags & PINDAX_MAP_LAZY)) {
		err = pdx_fill(m, 0, len, true);
		/* Too many extents at once: the rest comes by faults. */
		if (err == -E2BIG)
			err = 0;
		else if (err)
			(void)pdx_fail_call(err, "mapping");
	}
	if (err) {
		pdx_map_destroy(m);
		return err;
	}
	*ret_map = m;
	return 0;
}

int pindax_unmap(struct pindax_map *map)
{
	struct pindax_file *f = map->file;
	bool pinned;
	int err = pdx_file_usable(f);

	if (err)
		return err;
	pthread_mutex_lock(&f->lock);
	pinned = map->pins;
	pthread_mutex_unlock(&f->lock);
	if (pinned)
		return pdx_fail(-EBUSY, "the mapping is pinned");
	pdx_map_destroy(map);
	return 0;
}

void *pindax_map_addr(const struct pindax_map *map)
{
	return map->base;
}

size_t pindax_map_len(const struct pindax_map *map)
{
	return map->len;
}
