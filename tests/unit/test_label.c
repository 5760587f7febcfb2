// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: the label area reads back what was written, survives the loss of
 * either copy and refuses what it cannot trust. Method: a small pool on tmpfs
 * whose label bytes are damaged one way at a time. Offsets: docs/FORMAT.md.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "pagemap/crc32c.h"
#include "pagemap/label.h"

#define POOL_SIZE (16ULL << 20)
#define COPY_SIZE ((size_t)4096)
#define OFF_VERSION 8
#define OFF_RESERVED 60
#define OFF_NS 128
#define OFF_CSUM 4092

static char dir[] = "/dev/shm/test_label.XXXXXX";
static char path[64];

static int setup_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	(void)snprintf(path, sizeof(path), "%s/pool", dir);
	return 0;
}

static int teardown_dir(void **state)
{
	(void)state;
	return rmdir(dir);
}

static void two_namespaces(struct label_area *la)
{
	memset(la, 0, sizeof(*la));
	la->pool_size = POOL_SIZE;
	memset(la->pool_uuid, 0x11, 16);
	la->nr = 2;
	strcpy(la->ns[0].name, "first");
	memset(la->ns[0].uuid, 0x22, 16);
	la->ns[0].off = LABEL_AREA_SIZE;
	la->ns[0].len = 6ULL << 20;
	strcpy(la->ns[1].name, "second");
	la->ns[1].off = 8ULL << 20;
	la->ns[1].len = POOL_SIZE - (8ULL << 20);
}

static int setup(void **state)
{
	struct pmem_pool *pool;
	struct label_area la;

	if (pmem_create(path, POOL_SIZE, 0, &pool))
		return -1;
	two_namespaces(&la);
	if (label_format(pool, &la))
		return -1;
	*state = pool;
	return 0;
}

static int teardown(void **state)
{
	pmem_close(*state);
	return unlink(path);
}

static void crc_has_the_known_check_value(void **state)
{
	char buf[100];
	int i;

	(void)state;
	assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283);
	assert_int_equal(crc32c(0, "", 0), 0);
	for (i = 0; i < 100; i++)
		buf[i] = (char)(i * 7);
	for (i = 0; i <= 100; i++)
		assert_int_equal(crc32c(crc32c(0, buf, i), buf + i, 100 - i),
				 crc32c(0, buf, 100));
}

static void labels_read_back_as_written(void **state)
{
	struct label_area la, want;

	two_namespaces(&want);
	want.copy_bad = -1;
	memset(&la, 0xff, sizeof(la));
	assert_int_equal(label_read(*state, &la), 0);
	assert_memory_equal(&la, &want, sizeof(la));
}

static void write_replaces_the_older_copy(void **state)
{
	struct pmem_pool *pool = *state;
	struct label_area la, got;
	char before[2 * COPY_SIZE];
	int i, changed;

	two_namespaces(&la);
	for (i = 0; i < 4; i++) {
		memcpy(before, pool->base, sizeof(before));
		la.ns[0].uuid[0] = (uint8_t)i;
		assert_int_equal(label_write(pool, &la), 0);
		changed = memcmp(before, pool->base, COPY_SIZE) ? 0 : 1;
		/* format ends with copy 1, so the first write takes copy 0 */
		assert_int_equal(changed, i % 2);
		assert_memory_equal(before + !changed * COPY_SIZE,
				    pool->base + !changed * COPY_SIZE,
				    COPY_SIZE);
		assert_int_equal(label_read(pool, &got), 0);
		assert_int_equal(got.ns[0].uuid[0], i);
	}
}

static void one_bad_copy_is_named_and_repaired(void **state)
{
	struct pmem_pool *pool = *state;
	struct label_area la;
	int bad;

	for (bad = 0; bad < 2; bad++) {
		pool->base[bad * COPY_SIZE + OFF_NS] ^= 1;
		assert_int_equal(label_read(pool, &la), 0);
		assert_int_equal(la.copy_bad, bad);
		assert_string_equal(la.ns[0].name, "first");
		assert_int_equal(label_write(pool, &la), 0);
		assert_int_equal(label_read(pool, &la), 0);
		assert_int_equal(la.copy_bad, -1);
	}
}

static void torn_write_leaves_the_old_labels(void **state)
{
	struct pmem_pool *pool = *state;
	struct label_area la;
	char old[COPY_SIZE];

	memcpy(old, pool->base, COPY_SIZE);
	two_namespaces(&la);
	strcpy(la.ns[0].name, "renamed");
	assert_int_equal(label_write(pool, &la), 0);
	/* as if the second half of copy 0 had never reached the media */
	memcpy(pool->base + COPY_SIZE / 2, old + COPY_SIZE / 2, COPY_SIZE / 2);
	assert_int_equal(label_read(pool, &la), 0);
	assert_int_equal(la.copy_bad, 0);
	assert_string_equal(la.ns[0].name, "first");
}

static void both_bad_copies_are_ebadmsg(void **state)
{
	struct pmem_pool *pool = *state;
	struct label_area la;

	pool->base[100] ^= 1;
	pool->base[COPY_SIZE + 100] ^= 1;
	assert_int_equal(label_read(pool, &la), -EBADMSG);
	two_namespaces(&la);
	assert_int_equal(label_write(pool, &la), -EBADMSG);
}

static void no_magic_is_not_a_pool(void **state)
{
	struct pmem_pool *pool = *state;
	struct label_area la = {.nr = 77};

	memset(pool->base, 0, 2 * COPY_SIZE);
	assert_int_equal(label_read(pool, &la), -EINVAL);
	assert_int_equal(la.nr, 77);
}

/* Damage that carries a good checksum, in both copies. */
static void poke(struct pmem_pool *pool, int off, unsigned char byte)
{
	uint32_t csum;
	int i;

	for (i = 0; i < 2; i++) {
		char *copy = pool->base + i * COPY_SIZE;

		copy[off] = (char)byte;
		csum = crc32c(0, copy, OFF_CSUM);
		memcpy(copy + OFF_CSUM, &csum, sizeof(csum));
	}
}

static void unknown_version_is_refused(void **state)
{
	struct label_area la;

	poke(*state, OFF_VERSION, 9);
	assert_int_equal(label_read(*state, &la), -EPROTONOSUPPORT);
}

static void nonsense_under_a_good_checksum_is_refused(void **state)
{
	static const struct {
		int off;
		unsigned char byte;
	} pokes[] = {
		{12, 33},	     /* nr too high */
		{12, 1},	     /* bytes beyond nr */
		{OFF_RESERVED, 1},   /* reserved */
		{OFF_NS, 0},	     /* no name */
		{OFF_NS + 31, 'x'},  /* name without end */
		{OFF_NS + 48, 1},    /* off unaligned */
		{OFF_NS + 50, 0},    /* off in the label area */
		{OFF_NS + 55, 0x80}, /* off out of range */
		{OFF_NS + 56, 1},    /* len unaligned */
		{OFF_NS + 58, 0x70}, /* overlaps the second */
		{OFF_NS + 63, 0xff}, /* off + len overflows */
		{31, 0x80},	     /* pool_size negative as off_t */
	};
	struct pmem_pool *pool = *state;
	char good[2 * COPY_SIZE];
	struct label_area la;
	size_t i;

	memcpy(good, pool->base, sizeof(good));
	for (i = 0; i < sizeof(pokes) / sizeof(pokes[0]); i++) {
		poke(pool, pokes[i].off, pokes[i].byte);
		assert_int_equal(label_read(pool, &la), -EBADMSG);
		memcpy(pool->base, good, sizeof(good));
	}
	assert_int_equal(label_read(pool, &la), 0);
}

static void pool_shorter_than_its_labels_is_eoverflow(void **state)
{
	struct pmem_pool *pool;
	struct label_area la;

	pmem_close(*state);
	*state = NULL;
	assert_int_equal(truncate(path, (off_t)(POOL_SIZE - 4096)), 0);
	assert_int_equal(pmem_open(path, 0, &pool), 0);
	assert_int_equal(label_read(pool, &la), -EOVERFLOW);
	*state = pool;
}

static void wrong_areas_are_not_written(void **state)
{
	struct pmem_pool *pool = *state;
	struct label_area la;

	two_namespaces(&la);
	la.ns[1].off = la.ns[0].off;
	assert_int_equal(label_write(pool, &la), -EINVAL);
	assert_int_equal(label_format(pool, &la), -EINVAL);
	two_namespaces(&la);
	la.nr = LABEL_MAX_NS + 1;
	assert_int_equal(label_format(pool, &la), -EINVAL);
	two_namespaces(&la);
	la.pool_size = POOL_SIZE + 4096;
	assert_int_equal(label_format(pool, &la), -EINVAL);
	assert_int_equal(label_read(pool, &la), 0);
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(crc_has_the_known_check_value),
		CASE(labels_read_back_as_written),
		CASE(write_replaces_the_older_copy),
		CASE(one_bad_copy_is_named_and_repaired),
		CASE(torn_write_leaves_the_old_labels),
		CASE(both_bad_copies_are_ebadmsg),
		CASE(no_magic_is_not_a_pool),
		CASE(unknown_version_is_refused),
		CASE(nonsense_under_a_good_checksum_is_refused),
		CASE(pool_shorter_than_its_labels_is_eoverflow),
		CASE(wrong_areas_are_not_written),
	};

	return cmocka_run_group_tests(tests, setup_dir, teardown_dir);
}
