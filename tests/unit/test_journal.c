// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: a transaction is on the media as a whole or not at all, whenever the
 * daemon ends; a replay may happen twice; torn and hostile lanes do no harm;
 * many threads commit at once.
 * Method: a hook copies the whole pool between the steps of a commit; the copy
 * is put back and opened as after a crash. Lanes are also written by hand.
 */
#include "tests/unit/pool.h"

#include <errno.h>
#include <pthread.h>
#include <sys/stat.h>

#define POOL_SIZE (20ULL << 20)
#define WORDS 64ULL /* words that every transaction of a test changes */

struct world {
	struct test_pool t;
	uint64_t block[2]; /* of the test's own, allocated */
	char *image;
	enum journal_step take; /* copy the pool at this step */
	bool taken;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	uint64_t nr;
	struct tx *tx;

	test_pool_make(&w->t, POOL_SIZE);
	w->image = malloc(POOL_SIZE);
	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	assert_int_equal(alloc_blocks(tx, 0, 2, 0, &w->block[0], &nr), 0);
	assert_int_equal(nr, 2);
	w->block[1] = w->block[0] + 1;
	assert_int_equal(tx_commit(tx), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	test_pool_remove(&w->t);
	free(w->image);
	free(w);
	return 0;
}

static void take_image(struct world *w)
{
	memcpy(w->image, w->t.pool->base, POOL_SIZE);
	w->taken = true;
}

static void hook(void *arg, enum journal_step step)
{
	struct world *w = arg;

	if (step == w->take)
		take_image(w);
}

/* The daemon ends; the media is what it was when the image was taken. */
static void crash(struct world *w)
{
	assert_true(w->taken);
	media_close(w->t.m, false);
	memcpy(w->t.pool->base, w->image, POOL_SIZE);
	test_pool_open(&w->t);
}

static uint64_t *words(struct world *w, int i)
{
	return media_ptr(w->t.m, w->block[i]);
}

static int store_all(struct world *w, uint64_t value)
{
	struct tx *tx;
	uint64_t *p;
	int i;

	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	for (i = 0; i < 2; i++) {
		p = tx_edit(tx, w->block[i] << PDX_BLOCK_SHIFT, PDX_BLOCK_SIZE);
		assert_non_null(p);
		for (uint64_t k = 0; k < WORDS; k++)
			p[k * 7] = value;
	}
	return tx_commit(tx);
}

static void holds(struct world *w, uint64_t value)
{
	int i;

	for (i = 0; i < 2; i++) {
		for (uint64_t k = 0; k < WORDS; k++)
			assert_int_equal(words(w, i)[k * 7], value);
	}
}

static void commit_changes_and_abort_does_not(void **state)
{
	struct world *w = *state;
	struct tx *tx;
	uint64_t *p;

	assert_int_equal(store_all(w, 5), 0);
	holds(w, 5);
	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	p = tx_edit(tx, w->block[0] << PDX_BLOCK_SHIFT, PDX_BLOCK_SIZE);
	p[0] = 6;
	assert_ptr_equal(
		p, tx_edit(tx, w->block[0] << PDX_BLOCK_SHIFT, PDX_BLOCK_SIZE));
	assert_ptr_equal(
		p, tx_view(tx, w->block[0] << PDX_BLOCK_SHIFT, PDX_BLOCK_SIZE));
	tx_abort(tx);
	holds(w, 5);
	test_pool_reopen(&w->t, false);
	assert_int_equal(w->t.rep.replayed, 0);
	assert_true(w->t.rep.unclean);
	holds(w, 5);
}

static void a_crash_before_the_commit_changes_nothing(void **state)
{
	struct world *w = *state;

	assert_int_equal(store_all(w, 1), 0);
	take_image(w);
	assert_int_equal(store_all(w, 2), 0);
	crash(w);
	assert_int_equal(w->t.rep.replayed, 0);
	holds(w, 1);
}

static void a_crash_after_the_commit_is_replayed(void **state)
{
	struct world *w = *state;
	enum journal_step steps[] = {JOURNAL_COMMITTED, JOURNAL_APPLIED,
				     JOURNAL_EMPTIED};
	unsigned int i;

	for (i = 0; i < 3; i++) {
		assert_int_equal(store_all(w, 10 + i), 0);
		w->t.m->journal->hook = hook;
		w->t.m->journal->hook_arg = w;
		w->take = steps[i];
		assert_int_equal(store_all(w, 20 + i), 0);
		crash(w);
		assert_int_equal(w->t.rep.replayed,
				 steps[i] == JOURNAL_EMPTIED ? 0 : 1);
		holds(w, 20 + i);
		/* The same once more: a crash in the replay. */
		crash(w);
		holds(w, 20 + i);
	}
}

static void allocations_follow_the_transaction(void **state)
{
	struct world *w = *state;
	uint64_t block, nr, i;
	struct tx *tx;

	w->t.m->journal->hook = hook;
	w->t.m->journal->hook_arg = w;
	w->take = JOURNAL_COMMITTED;
	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	assert_int_equal(alloc_blocks(tx, 0, 200, 0, &block, &nr), 0);
	assert_int_equal(free_blocks(tx, w->block[1], 1), 0);
	assert_int_equal(tx_commit(tx), 0);
	crash(w);
	for (i = 0; i < nr; i++)
		assert_true(alloc_on_media(w->t.m, block + i));
	assert_true(alloc_on_media(w->t.m, w->block[0]));
	assert_false(alloc_on_media(w->t.m, w->block[1]));
}

static void a_full_journal_refuses_a_read_only_open(void **state)
{
	struct world *w = *state;
	struct media *m;

	w->t.m->journal->hook = hook;
	w->t.m->journal->hook_arg = w;
	w->take = JOURNAL_COMMITTED;
	assert_int_equal(store_all(w, 3), 0);
	media_close(w->t.m, false);
	memcpy(w->t.pool->base, w->image, POOL_SIZE);
	assert_int_equal(media_open(w->t.pool, &w->t.ns, true, &m, NULL),
			 -EROFS);
	test_pool_open(&w->t);
	holds(w, 3);
	media_close(w->t.m, true);
	assert_int_equal(media_open(w->t.pool, &w->t.ns, true, &w->t.m, NULL),
			 0);
	holds(w, 3);
}

static struct pdx_lane *lane_of(struct world *w, char *pool, uint32_t lane)
{
	const struct pdx_super *sb = (const void *)(pool + w->t.ns.off);

	return (void *)(pool + w->t.ns.off +
			((get64(sb->journal_block) +
			  (uint64_t)lane * get32(sb->lane_blocks))
			 << PDX_BLOCK_SHIFT));
}

static void a_torn_lane_did_not_happen(void **state)
{
	struct world *w = *state;
	struct pdx_lane *lane;
	struct test_rand r;
	unsigned int i, at;

	test_rand_init(&r);
	assert_int_equal(store_all(w, 1), 0);
	w->t.m->journal->hook = hook;
	w->t.m->journal->hook_arg = w;
	w->take = JOURNAL_COMMITTED;
	assert_int_equal(store_all(w, 2), 0);
	lane = lane_of(w, w->image, 0);
	for (i = 0; i < 64; i++) {
		at = (unsigned int)test_rand(&r,
					     sizeof(*lane) + get32(lane->len));
		((char *)lane)[at] ^= 4;
		crash(w);
		assert_int_equal(w->t.rep.replayed, 0);
		holds(w, 1);
		((char *)lane)[at] ^= 4;
	}
	crash(w);
	holds(w, 2);
}

/* A lane with a right checksum, whatever its records say. */
static void write_lane(struct world *w, uint32_t nr, uint64_t seq,
		       uint32_t type, uint64_t off, uint32_t len,
		       uint64_t value)
{
	struct pdx_lane *lane = lane_of(w, w->image, nr);
	struct pdx_rec *rec = (void *)(lane + 1);

	memset(lane, 0, sizeof(*lane));
	lane->magic = mk64(PDX_LANE_MAGIC);
	lane->seq = mk64(seq);
	lane->len = mk32(sizeof(*rec) + 8);
	rec->type = mk32(type);
	rec->len = mk32(len);
	rec->off = mk64(off);
	memcpy(rec + 1, &value, 8);
	lane->csum = mk32(crc32c(0, lane, sizeof(*lane) + get32(lane->len)));
}

static void lanes_are_replayed_in_order(void **state)
{
	struct world *w = *state;
	uint64_t off = w->block[0] << PDX_BLOCK_SHIFT;

	take_image(w);
	write_lane(w, 0, 9, PDX_REC_WORDS, off, 8, 99);
	write_lane(w, 1, 7, PDX_REC_WORDS, off, 8, 77);
	write_lane(w, 2, 8, PDX_REC_WORDS, off, 8, 88);
	crash(w);
	assert_int_equal(w->t.rep.replayed, 3);
	assert_int_equal(words(w, 0)[0], 99);
	/* The next transaction is younger than all of them. */
	assert_int_equal(store_all(w, 100), 0);
	assert_true(w->t.m->journal->seq > 9);
}

static void records_that_name_what_they_may_not_are_refused(void **state)
{
	struct world *w = *state;
	uint64_t end = (w->t.m->nr_blocks - 1) << PDX_BLOCK_SHIFT;
	uint64_t off = w->block[0] << PDX_BLOCK_SHIFT;
	struct bad_rec {
		uint64_t type;
		uint64_t off;
		uint32_t len;
	} bad[] = {
		{PDX_REC_WORDS, 0, 8},
		{PDX_REC_WORDS, end, 8},
		{PDX_REC_WORDS, end - 8, 16},
		{PDX_REC_WORDS, off, 16},
		{PDX_REC_WORDS, off + 4, 8},
		{PDX_REC_WORDS, off, 0},
		{PDX_REC_WORDS, off, 7},
		{PDX_REC_WORDS, UINT64_MAX, 8},
		{PDX_REC_WORDS, UINT64_MAX - 7, 8},
		{PDX_REC_SET, 0, 1},
		{PDX_REC_SET, w->block[0], 0},
		{PDX_REC_CLEAR, w->block[0], UINT32_MAX},
		{PDX_REC_CLEAR, UINT64_MAX, 2},
		{0, off, 8},
		{77, off, 8},
	};
	struct media *m;
	unsigned int i;

	media_close(w->t.m, true);
	memcpy(w->image, w->t.pool->base, POOL_SIZE);
	test_pool_open(&w->t);
	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		write_lane(w, 1, 3, (uint32_t)bad[i].type, bad[i].off,
			   bad[i].len, 1);
		media_close(w->t.m, true);
		memcpy(w->t.pool->base, w->image, POOL_SIZE);
		assert_int_equal(
			media_open(w->t.pool, &w->t.ns, false, &m, NULL),
			-EBADMSG);
		*lane_of(w, w->image, 1) = (struct pdx_lane){0};
		memcpy(w->t.pool->base, w->image, POOL_SIZE);
		test_pool_open(&w->t);
	}
}

static void what_outgrows_a_lane_leaves_nothing(void **state)
{
	struct world *w = *state;
	struct alloc_stat before, after;
	uint64_t block, nr, i;
	struct tx *tx;
	void *p;

	alloc_stat(w->t.m, &before);
	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	assert_int_equal(alloc_blocks(tx, 0, 100, 0, &block, &nr), 0);
	assert_int_equal(nr, 100);
	for (i = 0; i < nr; i++) {
		p = tx_edit(tx, (block + i) << PDX_BLOCK_SHIFT, 4096);
		if (!p)
			break;
		memset(p, 0x77, 4096);
	}
	assert_true(i > 25 && i < nr);
	assert_int_equal(tx_commit(tx), -E2BIG);
	alloc_stat(w->t.m, &after);
	assert_int_equal(before.free, after.free);
	assert_false(alloc_on_media(w->t.m, block));
	assert_int_equal(store_all(w, 4), 0);
}

/* Worst cases of the difference fit the room that was reserved for them. */
static void any_pattern_of_changes_fits(void **state)
{
	struct world *w = *state;
	uint64_t block, nr, i, k, stride;
	struct tx *tx;
	uint64_t *p;

	for (stride = 1; stride < 8; stride++) {
		assert_int_equal(tx_begin(w->t.m, &tx), 0);
		assert_int_equal(alloc_blocks(tx, 0, 60, 0, &block, &nr), 0);
		for (i = 0; tx_room(tx) >= 4096 + 16; i++) {
			p = tx_edit(tx, (block + i) << PDX_BLOCK_SHIFT, 4096);
			for (k = 0; k < 512; k += stride)
				p[k] = ~p[k];
		}
		assert_int_equal(tx_commit(tx), 0);
		assert_int_equal(tx_begin(w->t.m, &tx), 0);
		assert_int_equal(free_blocks(tx, block, nr), 0);
		assert_int_equal(tx_commit(tx), 0);
	}
}

#define THREADS 8
#define ROUNDS 300

struct worker {
	struct world *w;
	pthread_t thread;
	uint64_t block;
};

static void *commit_many(void *arg)
{
	struct worker *k = arg;
	struct media *m = k->w->t.m;
	uint64_t i, block, nr;
	struct tx *tx;
	uint64_t *p;

	for (i = 1; i <= ROUNDS; i++) {
		if (tx_begin(m, &tx))
			return "begin";
		if (alloc_blocks(tx, 0, 3, 0, &block, &nr))
			return "alloc";
		p = tx_edit(tx, k->block << PDX_BLOCK_SHIFT, 64);
		p[i % 8] = i;
		if (i % 5 == 0) {
			tx_abort(tx);
			continue;
		}
		if (tx_commit(tx) || tx_begin(m, &tx))
			return "commit";
		if (free_blocks(tx, block, nr) || tx_commit(tx))
			return "free";
	}
	return NULL;
}

static void more_threads_than_lanes_commit_at_once(void **state)
{
	struct world *w = *state;
	struct worker k[THREADS];
	struct alloc_stat before, after;
	uint64_t block, nr, i;
	struct tx *tx;
	void *said;

	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	assert_int_equal(alloc_blocks(tx, 0, THREADS, 0, &block, &nr), 0);
	assert_int_equal(nr, THREADS);
	assert_int_equal(tx_commit(tx), 0);
	alloc_stat(w->t.m, &before);
	for (i = 0; i < THREADS; i++) {
		k[i].w = w;
		k[i].block = block + i;
		pthread_create(&k[i].thread, NULL, commit_many, &k[i]);
	}
	for (i = 0; i < THREADS; i++) {
		pthread_join(k[i].thread, &said);
		assert_null(said);
	}
	alloc_stat(w->t.m, &after);
	assert_int_equal(before.free, after.free);
	test_pool_reopen(&w->t, false);
	assert_int_equal(w->t.rep.replayed, 0);
	alloc_stat(w->t.m, &after);
	assert_int_equal(before.free, after.free);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(commit_changes_and_abort_does_not),
		T(a_crash_before_the_commit_changes_nothing),
		T(a_crash_after_the_commit_is_replayed),
		T(allocations_follow_the_transaction),
		T(a_full_journal_refuses_a_read_only_open),
		T(a_torn_lane_did_not_happen),
		T(lanes_are_replayed_in_order),
		T(records_that_name_what_they_may_not_are_refused),
		T(what_outgrows_a_lane_leaves_nothing),
		T(any_pattern_of_changes_fits),
		T(more_threads_than_lanes_commit_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
