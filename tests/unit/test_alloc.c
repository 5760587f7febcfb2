// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: no block has two owners, none is lost; aligned runs stay whole while
 * there are others; the reserve is kept for deleting; what was mapped directly
 * is fenced before it is somebody else's, also after a crash.
 * Method: a pool on tmpfs; random allocations, frees, aborts and reopens
 * against a plain map of owners. A fence is seen by its zeros.
 */
#include "tests/unit/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

#define GROUP ((uint64_t)PDX_GROUP_BLOCKS)

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

static struct alloc_stat stat_of(struct test_pool *t)
{
	struct alloc_stat st;

	alloc_stat(t->m, &st);
	return st;
}

static int take(struct test_pool *t, uint64_t goal, uint64_t want,
		unsigned int flags, uint64_t *ret_block, uint64_t *ret_nr)
{
	struct tx *tx;
	int err;

	assert_int_equal(tx_begin(t->m, &tx), 0);
	err = alloc_blocks(tx, goal, want, flags, ret_block, ret_nr);
	if (err) {
		tx_abort(tx);
		return err;
	}
	assert_true(*ret_nr >= 1 && *ret_nr <= want);
	return tx_commit(tx);
}

static int give(struct test_pool *t, uint64_t block, uint64_t nr)
{
	struct tx *tx;
	int err;

	assert_int_equal(tx_begin(t->m, &tx), 0);
	err = free_blocks(tx, block, nr);
	if (err) {
		tx_abort(tx);
		return err;
	}
	return tx_commit(tx);
}

static void big_requests_get_aligned_runs(void **state)
{
	struct test_pool *t = *state;
	uint64_t a, b, c, nr;
	struct alloc_stat st = stat_of(t);

	assert_true(st.free_huge_runs > 4);
	assert_int_equal(take(t, 0, 1, 0, &a, &nr), 0);
	assert_int_equal(take(t, 0, 2 * GROUP, ALLOC_HUGE, &b, &nr), 0);
	assert_int_equal(nr, 2 * GROUP);
	assert_int_equal(b % GROUP, 0);
	/* The namespace begins at a multiple of 2 MiB of the pool. */
	assert_int_equal(media_pool_page(t->m, b) % GROUP, 0);
	/* Going on where the file ends. */
	assert_int_equal(take(t, b + nr, GROUP, ALLOC_HUGE, &c, &nr), 0);
	assert_int_equal(c, b + 2 * GROUP);
	assert_int_equal(nr, GROUP);
}

static void small_requests_leave_whole_groups_alone(void **state)
{
	struct test_pool *t = *state;
	uint64_t runs = stat_of(t).free_huge_runs, block, nr, i, n;
	uint64_t partial = stat_of(t).free - runs * GROUP;

	for (i = 0; i < partial; i += nr) {
		n = partial - i < 3 ? partial - i : 3;
		assert_int_equal(take(t, 0, n, 0, &block, &nr), 0);
	}
	assert_int_equal(stat_of(t).free_huge_runs, runs);
	assert_int_equal(take(t, 0, 1, 0, &block, &nr), 0);
	assert_int_equal(stat_of(t).free_huge_runs, runs - 1);
	assert_int_equal(give(t, block, 1), 0);
	assert_int_equal(stat_of(t).free_huge_runs, runs);
}

static void the_reserve_is_for_deleting(void **state)
{
	struct test_pool *t = *state;
	struct alloc_stat st;
	uint64_t block, nr, i;

	while (!take(t, 0, 10000, 0, &block, &nr))
		;
	st = stat_of(t);
	assert_true(st.free >= 64);
	assert_int_equal(st.free, st.reserved);
	assert_int_equal(take(t, 0, 1, 0, &block, &nr), -ENOSPC);
	assert_int_equal(take(t, 0, 1, ALLOC_META | ALLOC_GROWTH, &block, &nr),
			 -ENOSPC);
	for (i = 0; i < st.free; i += nr)
		assert_int_equal(take(t, 0, 7,
				      i & 1 ? ALLOC_META : ALLOC_RESERVE,
				      &block, &nr),
				 0);
	assert_int_equal(take(t, 0, 1, ALLOC_META, &block, &nr), -ENOSPC);
	assert_int_equal(stat_of(t).free, 0);
	test_pool_reopen(t, false);
	assert_int_equal(stat_of(t).free, 0);
}

static void blocks_that_nobody_owns_cannot_be_freed(void **state)
{
	struct test_pool *t = *state;
	uint64_t block, nr;

	assert_int_equal(take(t, 0, 4, 0, &block, &nr), 0);
	assert_int_equal(give(t, block, nr + 1), -EBADMSG);
	assert_int_equal(give(t, 1, 1), -EBADMSG);
	assert_int_equal(give(t, t->m->end_block - 1, 2), -EBADMSG);
	assert_int_equal(give(t, UINT64_MAX, 2), -EBADMSG);
	assert_int_equal(give(t, block, nr), 0);
	assert_int_equal(give(t, block, nr), -EBADMSG);
}

#define HOLD 256

struct held {
	uint64_t block, nr;
};

static void check_owners(struct test_pool *t, const struct held *h,
			 uint64_t base_used)
{
	uint64_t *seen = calloc(div_up(t->m->nr_blocks, 64), 8);
	uint64_t used = 0, i;

	for (i = 0; i < HOLD; i++) {
		if (!h[i].nr)
			continue;
		assert_int_equal(bits_count(seen, h[i].block, h[i].nr), 0);
		bits_set(seen, h[i].block, h[i].nr);
		used += h[i].nr;
	}
	for (i = t->m->data_block; i < t->m->end_block; i++) {
		if (bit_test(seen, i))
			assert_true(alloc_on_media(t->m, i));
	}
	assert_int_equal(stat_of(t).total - stat_of(t).free, used + base_used);
	assert_int_equal(stat_of(t).pending, 0);
	free(seen);
}

static void random_use_matches_a_map_of_owners(void **state)
{
	struct test_pool *t = *state;
	static struct held h[HOLD];
	uint64_t base = stat_of(t).total - stat_of(t).free, n, i, block, nr;
	static const unsigned int flags[] = {0, ALLOC_META, ALLOC_HUGE, 0};
	struct test_rand r;
	struct tx *tx;

	memset(h, 0, sizeof(h));
	test_rand_init(&r);
	for (n = 1; n <= 20000; n++) {
		i = test_rand(&r, HOLD);
		if (h[i].nr) {
			assert_int_equal(give(t, h[i].block, h[i].nr), 0);
			h[i].nr = 0;
		} else if (n % 7 == 0) {
			assert_int_equal(tx_begin(t->m, &tx), 0);
			(void)alloc_blocks(tx, 0, 50, 0, &block, &nr);
			tx_abort(tx);
		} else if (take(t, test_rand(&r, t->m->nr_blocks),
				1 + test_rand(&r, n % 16 ? 20 : 1200),
				flags[n % 4], &h[i].block, &h[i].nr)) {
			h[i].nr = 0;
		}
		if (n % 2000 == 0) {
			test_pool_reopen(t, n % 4000);
			check_owners(t, h, base);
		}
	}
}

/* --- the fence --- */

static void stamp(struct test_pool *t, uint64_t block, uint64_t nr)
{
	memset(media_ptr(t->m, block), 0x5a, nr << PDX_BLOCK_SHIFT);
}

static bool is_stamped(struct test_pool *t, uint64_t block)
{
	return *(char *)media_ptr(t->m, block) == 0x5a;
}

static void mapped_blocks_are_fenced_when_freed(void **state)
{
	struct test_pool *t = *state;
	struct alloc_stat st;
	uint64_t block, nr;

	alloc_set_fence(t->m, true, false);
	assert_int_equal(take(t, 0, 8, 0, &block, &nr), 0);
	stamp(t, block, 8);
	assert_int_equal(alloc_mark_mapped(t->m, block, 4), 0);
	assert_int_equal(give(t, block, 8), 0);
	assert_false(is_stamped(t, block + 3));
	assert_true(is_stamped(t, block + 4)); /* was never mapped */
	alloc_stat(t->m, &st);
	assert_int_equal(st.fenced, 4);
}

static void
after_a_crash_free_blocks_are_fenced_at_their_first_use(void **state)
{
	struct test_pool *t = *state;
	uint64_t block, nr;

	alloc_set_fence(t->m, true, false);
	assert_int_equal(take(t, 0, 8, 0, &block, &nr), 0);
	assert_int_equal(alloc_mark_mapped(t->m, block, 8), 0);
	assert_int_equal(give(t, block, 8), 0);
	stamp(t, block, 8); /* a late DMA of a client that died */
	test_pool_reopen(t, false);
	alloc_set_fence(t->m, true, true); /* unsafe */
	assert_int_equal(take(t, block, 2, 0, &block, &nr), 0);
	assert_int_equal(nr, 2);
	assert_true(is_stamped(t, block));
	/* Metadata goes elsewhere, and is fenced if it has to come here. */
	assert_int_equal(take(t, block + 2, 2, ALLOC_META, &block, &nr), 0);
	assert_false(is_stamped(t, block));
	alloc_set_fence(t->m, true, false);
	while (!take(t, 0, 1, ALLOC_META, &block, &nr))
		assert_false(is_stamped(t, block));
}

static void a_clean_unmount_forgets_groups_that_are_fenced(void **state)
{
	struct test_pool *t = *state;
	uint64_t a, b, nr;

	alloc_set_fence(t->m, true, false);
	assert_int_equal(take(t, 0, GROUP, ALLOC_HUGE, &a, &nr), 0);
	assert_int_equal(take(t, 0, GROUP, ALLOC_HUGE, &b, &nr), 0);
	assert_int_equal(alloc_mark_mapped(t->m, a, 1), 0);
	assert_int_equal(alloc_mark_mapped(t->m, b, 1), 0);
	assert_int_equal(give(t, a, GROUP), 0);
	test_pool_reopen(t, true);
	assert_false(bit_test(t->m->alloc->marked, a / GROUP));
	assert_true(bit_test(t->m->alloc->marked, b / GROUP));
	/* What was mapped in a former mount is fenced when it is freed. */
	alloc_set_fence(t->m, true, false);
	stamp(t, b, 1);
	assert_int_equal(give(t, b, GROUP), 0);
	assert_false(is_stamped(t, b));
}

static void the_mark_is_on_media_before_the_grant(void **state)
{
	struct test_pool *t = *state;
	uint64_t block, nr;

	assert_int_equal(take(t, 0, 1, 0, &block, &nr), 0);
	assert_int_equal(alloc_mark_mapped(t->m, block, 1), 0);
	assert_int_equal(alloc_mark_mapped(t->m, t->m->end_block, 1), -EIO);
	assert_int_equal(alloc_mark_mapped(t->m, 1, 1), -EIO);
	test_pool_reopen(t, false);
	assert_true(bit_test(t->m->alloc->marked, block / GROUP));
	assert_true(bit_test(t->m->alloc->unfenced, block));
}

/* --- sink and quarantine --- */

struct sunk {
	uint64_t block, nr;
};

static void keep(void *arg, uint64_t block, uint64_t nr)
{
	*(struct sunk *)arg = (struct sunk){block, nr};
}

static void freed_blocks_wait_for_their_release(void **state)
{
	struct test_pool *t = *state;
	uint64_t block, nr, free0;
	struct sunk s = {0};

	alloc_set_sink(t->m, keep, &s);
	assert_int_equal(take(t, 0, 10, 0, &block, &nr), 0);
	free0 = stat_of(t).free;
	assert_int_equal(give(t, block, nr), 0);
	assert_int_equal(s.block, block);
	assert_int_equal(s.nr, nr);
	assert_false(alloc_on_media(t->m, block));
	assert_int_equal(stat_of(t).free, free0);
	assert_int_equal(stat_of(t).pending, nr);
	alloc_release(t->m, block, nr);
	assert_int_equal(stat_of(t).free, free0 + nr);
	assert_int_equal(stat_of(t).pending, 0);
}

static void quarantined_blocks_come_back_when_the_fence_holds(void **state)
{
	struct test_pool *t = *state;
	uint64_t block, nr, other, free0;
	struct sunk s = {0};

	alloc_set_fence(t->m, true, false);
	alloc_set_sink(t->m, keep, &s);
	assert_int_equal(take(t, 0, 10, 0, &block, &nr), 0);
	assert_int_equal(take(t, 0, 1, 0, &other, &nr), 0);
	assert_int_equal(alloc_mark_mapped(t->m, block, 10), 0);
	stamp(t, block, 10);
	assert_int_equal(give(t, block, 10), 0);
	alloc_quarantine(t->m, block, 10);
	free0 = stat_of(t).free;
	assert_int_equal(stat_of(t).pending, 10);
	/* The next release tries again. */
	assert_int_equal(give(t, other, 1), 0);
	alloc_release(t->m, other, 1);
	assert_int_equal(stat_of(t).free, free0 + 11);
	assert_int_equal(stat_of(t).pending, 0);
	assert_false(is_stamped(t, block));
	/* And so does an allocation that finds nothing else. */
	while (!take(t, 0, 10000, 0, &block, &nr))
		;
	alloc_set_sink(t->m, keep, &s);
	assert_int_equal(take(t, 0, 1, ALLOC_META, &block, &nr), 0);
	assert_int_equal(give(t, block, 1), 0);
	alloc_quarantine(t->m, block, 1);
	while (!take(t, 0, 10000, ALLOC_META, &other, &nr))
		;
	assert_int_equal(stat_of(t).pending, 0);
	assert_int_equal(stat_of(t).free, 0);
	alloc_set_sink(t->m, NULL, NULL);
}

/* --- many threads --- */

#define THREADS 4

struct worker {
	struct test_pool *t;
	pthread_t thread;
	uint64_t seed;
};

static void *use_blocks(void *arg)
{
	struct worker *k = arg;
	struct test_rand r = {k->seed};
	struct media *m = k->t->m;
	uint64_t block, nr, i;
	uint64_t *p;
	struct tx *tx;

	for (i = 0; i < 400; i++) {
		if (tx_begin(m, &tx) ||
		    alloc_blocks(tx, 0, 1 + test_rand(&r, 40), 0, &block, &nr))
			return "alloc";
		/* Only one thread may store here: TSan sees a second. */
		p = media_ptr(m, block + nr - 1);
		p[0] = i;
		if (tx_commit(tx))
			return "commit";
		if (i % 3 == 0 && alloc_mark_mapped(m, block, nr))
			return "mark";
		if (tx_begin(m, &tx) || free_blocks(tx, block, nr) ||
		    tx_commit(tx))
			return "free";
	}
	return NULL;
}

static void threads_share_the_allocator(void **state)
{
	struct test_pool *t = *state;
	struct alloc_stat before = stat_of(t);
	struct worker k[THREADS];
	unsigned int i;
	void *said;

	alloc_set_fence(t->m, true, false);
	for (i = 0; i < THREADS; i++) {
		k[i].t = t;
		k[i].seed = i;
		pthread_create(&k[i].thread, NULL, use_blocks, &k[i]);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(k[i].thread, &said);
		assert_null(said);
	}
	assert_int_equal(stat_of(t).free, before.free);
	test_pool_reopen(t, false);
	assert_int_equal(stat_of(t).free, before.free);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(big_requests_get_aligned_runs),
		T(small_requests_leave_whole_groups_alone),
		T(the_reserve_is_for_deleting),
		T(blocks_that_nobody_owns_cannot_be_freed),
		T(random_use_matches_a_map_of_owners),
		T(mapped_blocks_are_fenced_when_freed),
		T(after_a_crash_free_blocks_are_fenced_at_their_first_use),
		T(a_clean_unmount_forgets_groups_that_are_fenced),
		T(the_mark_is_on_media_before_the_grant),
		T(freed_blocks_wait_for_their_release),
		T(quarantined_blocks_come_back_when_the_fence_holds),
		T(threads_share_the_allocator),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
