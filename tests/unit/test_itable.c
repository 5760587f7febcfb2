// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: inode numbers and orphan slots have one owner each, go back when their
 * transaction does not happen, and survive a remount; a damaged record is told
 * from a free one.
 * Method: a pool on tmpfs; thousands of numbers taken, freed and aborted.
 */
#include "tests/unit/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

static int setup(void **state)
{
	struct test_pool *t = calloc(1, sizeof(*t));

	test_pool_make(t, 32ULL << 20);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	test_pool_remove(*state);
	free(*state);
	return 0;
}

static void free_number(struct test_pool *t, uint64_t ino)
{
	struct tx *tx;

	assert_int_equal(tx_begin(t->m, &tx), 0);
	assert_int_equal(itable_free(tx, ino), 0);
	assert_int_equal(tx_commit(tx), 0);
}

static void a_new_filesystem_has_a_root_directory(void **state)
{
	struct test_pool *t = *state;
	struct pdx_inode di;

	assert_int_equal(itable_nr_used(t->m), 1);
	assert_int_equal(itable_read(t->m, PDX_ROOT_INO, &di), 0);
	assert_true(S_ISDIR(get32(di.mode)));
	assert_int_equal(get32(di.nlink), 2);
	assert_int_equal(itable_read(t->m, 0, &di), -ENOENT);
	assert_int_equal(itable_read(t->m, 2, &di), -ENOENT);
	assert_int_equal(itable_read(t->m, UINT64_MAX, &di), -ENOENT);
	assert_int_equal(itable_off(t->m, 1ULL << 40), 0);
}

static void numbers_are_used_again_with_a_new_generation(void **state)
{
	struct test_pool *t = *state;
	struct pdx_inode di;
	uint64_t ino = test_file(t->m, S_IFREG | 0600), again;
	uint32_t gen;

	assert_int_equal(itable_read(t->m, ino, &di), 0);
	gen = get32(di.gen);
	free_number(t, ino);
	assert_int_equal(itable_read(t->m, ino, &di), -ENOENT);
	test_pool_reopen(t, false);
	again = test_file(t->m, S_IFREG | 0600);
	assert_int_equal(again, ino);
	assert_int_equal(itable_read(t->m, ino, &di), 0);
	assert_int_equal(get32(di.gen), gen + 1);
}

static void an_abort_gives_the_number_back(void **state)
{
	struct test_pool *t = *state;
	uint64_t a, b, used = itable_nr_used(t->m);
	struct tx *tx;
	uint32_t gen;

	assert_int_equal(tx_begin(t->m, &tx), 0);
	assert_int_equal(itable_alloc(tx, &a, &gen), 0);
	assert_int_equal(itable_nr_used(t->m), used + 1);
	tx_abort(tx);
	assert_int_equal(itable_nr_used(t->m), used);
	b = test_file(t->m, S_IFREG | 0600);
	assert_int_equal(a, b);
	/* A free that does not happen leaves it used. */
	assert_int_equal(tx_begin(t->m, &tx), 0);
	assert_int_equal(itable_free(tx, b), 0);
	tx_abort(tx);
	assert_int_equal(itable_nr_used(t->m), used + 1);
	assert_true(test_file(t->m, S_IFREG | 0600) != b);
}

static void the_table_grows(void **state)
{
	struct test_pool *t = *state;
	uint64_t i, ino = 0, records = itable_nr_records(t->m);
	struct pdx_inode di;

	for (i = 0; i < 3000; i++) {
		ino = test_file(t->m, S_IFREG | 0600);
		assert_int_equal(ino, i + 2);
	}
	assert_true(itable_nr_records(t->m) > records);
	test_pool_reopen(t, false);
	assert_int_equal(itable_nr_used(t->m), 3001);
	assert_int_equal(itable_read(t->m, ino, &di), 0);
	for (i = 2; i <= ino; i++)
		free_number(t, i);
	test_pool_reopen(t, true);
	assert_int_equal(itable_nr_used(t->m), 1);
}

static void a_full_pool_has_no_number_left(void **state)
{
	struct test_pool *t = *state;
	uint64_t block, nr, used;
	struct tx *tx;
	uint32_t gen;
	int err = 0;

	for (;;) {
		assert_int_equal(tx_begin(t->m, &tx), 0);
		err = alloc_blocks(tx, 0, 1 << 20, 0, &block, &nr);
		if (err)
			break;
		assert_int_equal(tx_commit(tx), 0);
	}
	tx_abort(tx);
	for (err = 0; !err;) {
		assert_int_equal(tx_begin(t->m, &tx), 0);
		err = itable_alloc(tx, &used, &gen);
		tx_abort(tx);
		if (!err)
			(void)test_file(t->m, S_IFREG | 0600);
	}
	assert_int_equal(err, -ENOSPC);
	/* Deleting goes on. */
	free_number(t, 2);
	assert_int_equal(test_file(t->m, S_IFREG | 0600), 2);
}

static void a_damaged_record_is_neither_free_nor_read(void **state)
{
	struct test_pool *t = *state;
	uint64_t ino = test_file(t->m, S_IFREG | 0600);
	struct pdx_inode *rec, di, good;
	unsigned int i;

	rec = (void *)(t->m->base + itable_off(t->m, ino));
	good = *rec;
	for (i = 0; i < 6; i++) {
		*rec = good;
		switch (i) {
		case 0:
			rec->magic = mk32(0);
			break;
		case 1:
			rec->ino = mk64(ino + 1);
			break;
		case 2:
			rec->mode = mk32(0);
			break;
		case 3:
			rec->size = mk64(UINT64_MAX);
			break;
		case 4:
			rec->mode = mk32(S_IFREG | 1U << 20);
			break;
		default:
			rec->state = mk32(0);
			break;
		}
		assert_int_equal(itable_read(t->m, ino, &di), -EBADMSG);
		rec->csum = mk32(csum_at4(rec, sizeof(*rec)));
		assert_int_equal(itable_read(t->m, ino, &di),
				 i == 5 ? -ENOENT : -EBADMSG);
	}
	rec->magic = mk32(7);
	test_pool_reopen(t, false);
	assert_int_equal(test_file(t->m, S_IFREG | 0600), ino + 1);
}

/* --- orphans --- */

static void set_orphan(struct test_pool *t, uint64_t ino, bool add, bool commit)
{
	struct pdx_inode *di;
	struct tx *tx;

	assert_int_equal(tx_begin(t->m, &tx), 0);
	di = tx_edit_inode(tx, ino);
	assert_int_equal(add ? orphan_add(tx, di) : orphan_del(tx, di), 0);
	if (commit)
		assert_int_equal(tx_commit(tx), 0);
	else
		tx_abort(tx);
}

static uint64_t count_orphans(struct test_pool *t)
{
	uint64_t cursor = 0, ino, nr = 0;

	while (!orphans_next(t->m, &cursor, &ino))
		nr++;
	return nr;
}

static void orphans_are_found_after_a_crash(void **state)
{
	struct test_pool *t = *state;
	uint64_t a = test_file(t->m, S_IFREG | 0600);
	uint64_t b = test_file(t->m, S_IFREG | 0600);
	uint64_t cursor = 0, ino;
	struct pdx_inode di;

	set_orphan(t, a, true, true);
	set_orphan(t, b, true, false);
	set_orphan(t, a, true, true); /* it has a slot already */
	test_pool_reopen(t, false);
	assert_int_equal(t->rep.orphans, 1);
	assert_int_equal(orphans_next(t->m, &cursor, &ino), 0);
	assert_int_equal(ino, a);
	assert_int_equal(orphans_next(t->m, &cursor, &ino), -ENOENT);
	set_orphan(t, a, false, false);
	assert_int_equal(count_orphans(t), 1);
	set_orphan(t, a, false, true);
	assert_int_equal(itable_read(t->m, a, &di), 0);
	assert_int_equal(get64(di.orphan_slot), 0);
	test_pool_reopen(t, false);
	assert_int_equal(count_orphans(t), 0);
}

static void the_orphan_file_grows_from_the_reserve(void **state)
{
	struct test_pool *t = *state;
	uint64_t i, block, nr;
	struct tx *tx;

	for (i = 0; i < 2100; i++)
		(void)test_file(t->m, S_IFREG | 0600);
	for (;;) { /* nothing is free but the reserve */
		assert_int_equal(tx_begin(t->m, &tx), 0);
		if (alloc_blocks(tx, 0, 1 << 20, 0, &block, &nr))
			break;
		assert_int_equal(tx_commit(tx), 0);
	}
	tx_abort(tx);
	for (i = 0; i < 2100; i++)
		set_orphan(t, i + 2, true, true);
	test_pool_reopen(t, false);
	assert_int_equal(count_orphans(t), 2100);
	for (i = 0; i < 2100; i++)
		set_orphan(t, i + 2, false, true);
	assert_int_equal(count_orphans(t), 0);
}

static void a_hostile_slot_number_is_ebadmsg(void **state)
{
	struct test_pool *t = *state;
	uint64_t ino = test_file(t->m, S_IFREG | 0600);
	struct pdx_inode *di;
	struct tx *tx;

	assert_int_equal(tx_begin(t->m, &tx), 0);
	di = tx_edit_inode(tx, ino);
	di->orphan_slot = mk64(UINT64_MAX);
	assert_int_equal(orphan_del(tx, di), -EBADMSG);
	tx_abort(tx);
}

/* --- many threads --- */

#define THREADS 4

static void *make_files(void *arg)
{
	struct media *m = arg;
	struct pdx_inode *di;
	struct tx *tx;
	uint64_t ino;
	uint32_t gen;
	int i;

	for (i = 0; i < 400; i++) {
		if (tx_begin(m, &tx) || itable_alloc(tx, &ino, &gen))
			return "alloc";
		di = tx_edit_inode(tx, ino);
		memset(di, 0, sizeof(*di));
		di->magic = mk32(PDX_INODE_MAGIC);
		di->ino = mk64(ino);
		di->mode = mk32(S_IFREG);
		di->state = mk32(PDX_INO_USED);
		if (orphan_add(tx, di) || tx_commit(tx))
			return "commit";
	}
	return NULL;
}

static void threads_share_table_and_orphan_file(void **state)
{
	struct test_pool *t = *state;
	pthread_t thread[THREADS];
	void *said;
	int i;

	for (i = 0; i < THREADS; i++)
		pthread_create(&thread[i], NULL, make_files, t->m);
	for (i = 0; i < THREADS; i++) {
		pthread_join(thread[i], &said);
		assert_null(said);
	}
	test_pool_reopen(t, false);
	assert_int_equal(itable_nr_used(t->m), THREADS * 400 + 1);
	assert_int_equal(count_orphans(t), THREADS * 400);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(a_new_filesystem_has_a_root_directory),
		T(numbers_are_used_again_with_a_new_generation),
		T(an_abort_gives_the_number_back),
		T(the_table_grows),
		T(a_full_pool_has_no_number_left),
		T(a_damaged_record_is_neither_free_nor_read),
		T(orphans_are_found_after_a_crash),
		T(the_orphan_file_grows_from_the_reserve),
		T(a_hostile_slot_number_is_ebadmsg),
		T(threads_share_table_and_orphan_file),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
