/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Durability of stores. The daemon knows what the pool needs: cache line
 * flushes where the pool is persistent memory (or is to behave as if), msync(2)
 * elsewhere. libpmem2 could do this, but is told by the environment which way
 * to take, and a library must leave its host's environment alone.
 *
 * A flush of a zapped page faults it in again: the stores themselves are in the
 * caches under the block's address, wherever it is mapped.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "client/internal.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>

#define CACHE_LINE 64U

enum flush_kind {
	FLUSH_UNKNOWN,
	FLUSH_NONE,
	FLUSH_CLFLUSH,
	FLUSH_CLFLUSHOPT,
	FLUSH_CLWB,
};

static enum flush_kind detect(void)
{
	unsigned int a, b, c, d;

	if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
		if (b & bit_CLWB)
			return FLUSH_CLWB;
		if (b & bit_CLFLUSHOPT)
			return FLUSH_CLFLUSHOPT;
	}
	if (__get_cpuid(1, &a, &b, &c, &d) && (d & (1U << 19)))
		return FLUSH_CLFLUSH;
	return FLUSH_NONE;
}

static enum flush_kind flush_kind(void)
{
	static _Atomic enum flush_kind kind;
	enum flush_kind k = atomic_load_explicit(&kind, memory_order_relaxed);

	if (k == FLUSH_UNKNOWN) {
		k = detect();
		atomic_store_explicit(&kind, k, memory_order_relaxed);
	}
	return k;
}

__attribute__((target("clwb"))) static void flush_clwb(char *p, char *end)
{
	for (; p < end; p += CACHE_LINE)
		_mm_clwb(p);
}

__attribute__((target("clflushopt"))) static void flush_opt(char *p, char *end)
{
	for (; p < end; p += CACHE_LINE)
		_mm_clflushopt(p);
}

static void flush_plain(char *p, char *end)
{
	for (; p < end; p += CACHE_LINE)
		_mm_clflush(p);
}

static int flush_lines(char *p, size_t len)
{
	char *end = p + len;

	p -= (uintptr_t)p % CACHE_LINE;
	switch (flush_kind()) {
	case FLUSH_CLWB:
		flush_clwb(p, end);
		break;
	case FLUSH_CLFLUSHOPT:
		flush_opt(p, end);
		break;
	case FLUSH_CLFLUSH:
		flush_plain(p, end);
		break;
	default:
		return -EOPNOTSUPP;
	}
	_mm_sfence();
	return 0;
}
#else
static int flush_lines(char *p, size_t len)
{
	(void)p;
	(void)len;
	return -EOPNOTSUPP;
}
#endif

int pindax_persist(struct pindax_map *map, uint64_t offset, size_t len)
{
	char *p = (char *)map->base + offset;
	uintptr_t skew = (uintptr_t)p % PDX_PAGE;
	int err = pdx_file_usable(map->file);

	if (err)
		return err;
	if (offset > map->len || len > map->len - offset)
		return pdx_fail(-EINVAL, "beyond the end of the mapping");
	if (len == 0)
		return 0;
	if ((map->file->flags & PINDAX_INFO_BYTE_GRANULAR) &&
	    !flush_lines(p, len))
		return 0;
	if (msync(p - skew, len + skew, MS_SYNC))
		return pdx_fail(-errno, "msync: %s", strerror(errno));
	return 0;
}
