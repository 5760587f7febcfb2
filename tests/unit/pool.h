/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_TESTS_UNIT_POOL_H
#define PINDAX_TESTS_UNIT_POOL_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "fs/media/internal.h"

/* A formatted pool in a private file on tmpfs, for the tests of fs/media. */
struct test_pool {
	char path[64];
	struct pmem_pool *pool;
	struct label_ns ns;
	struct media *m; /* open read-write */
	struct media_report rep;
};

static inline void test_pool_open(struct test_pool *t)
{
	assert_int_equal(media_open(t->pool, &t->ns, false, &t->m, &t->rep), 0);
}

static inline void test_pool_file(struct test_pool *t, uint64_t size_bytes)
{
	int fd;

	/* Emulated pmem, as the daemon sets it up for a RAM-backed pool. */
	setenv("PMEM2_FORCE_GRANULARITY", "CACHE_LINE", 1);
	memset(t, 0, sizeof(*t));
	strcpy(t->path, "/dev/shm/pindax-unit-XXXXXX");
	fd = mkstemp(t->path);
	assert_true(fd >= 0);
	close(fd);
	assert_int_equal(
		pmem_create(t->path, size_bytes, PMEM_CREATE_FORCE, &t->pool),
		0);
	strcpy(t->ns.name, "test");
	memset(t->ns.uuid, 0x5a, sizeof(t->ns.uuid));
	t->ns.off = LABEL_AREA_SIZE;
	t->ns.len = size_bytes - LABEL_AREA_SIZE;
}

static inline void test_pool_make(struct test_pool *t, uint64_t size_bytes)
{
	struct mkfs_options opt = {.label = "unit", .now_ns = 1};

	test_pool_file(t, size_bytes);
	assert_int_equal(media_mkfs(t->pool, &t->ns, &opt), 0);
	test_pool_open(t);
}

/* As a crash would (nothing is said to the media), or cleanly. */
static inline void test_pool_reopen(struct test_pool *t, bool clean)
{
	media_close(t->m, clean);
	test_pool_open(t);
}

static inline void test_pool_remove(struct test_pool *t)
{
	media_close(t->m, true);
	pmem_close(t->pool);
	unlink(t->path);
}

/* The seed is printed, and PINDAX_SEED gives it again. */
struct test_rand {
	uint64_t state;
};

static inline void test_rand_init(struct test_rand *r)
{
	const char *env = getenv("PINDAX_SEED");

	r->state = env ? strtoull(env, NULL, 0) : (uint64_t)time(NULL);
	print_message("PINDAX_SEED=%llu\n", (unsigned long long)r->state);
}

static inline uint64_t test_rand(struct test_rand *r, uint64_t below)
{
	uint64_t z = r->state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return (z ^ z >> 31) % below;
}

/* A file of the test's own: number and record, committed. */
static inline uint64_t test_file(struct media *m, uint32_t mode)
{
	struct pdx_inode *di;
	struct tx *tx;
	uint64_t ino;
	uint32_t gen;

	assert_int_equal(tx_begin(m, &tx), 0);
	assert_int_equal(itable_alloc(tx, &ino, &gen), 0);
	di = tx_edit_inode(tx, ino);
	assert_non_null(di);
	memset(di, 0, sizeof(*di));
	di->magic = mk32(PDX_INODE_MAGIC);
	di->ino = mk64(ino);
	di->gen = mk32(gen);
	di->mode = mk32(mode);
	di->nlink = mk32(1);
	di->state = mk32(PDX_INO_USED);
	assert_int_equal(tx_commit(tx), 0);
	return ino;
}

#endif
