// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: the extent tree maps what was inserted and nothing else, at any depth,
 * through splits, merges and removals; it frees each block once; it takes a
 * full pool without harm and believes no damaged node. Method: a pool on tmpfs;
 * random inserts and removals against a plain array, committed and aborted;
 * nodes are damaged and read again.
 */
#include "tests/unit/pool.h"

#include <errno.h>
#include <sys/stat.h>

struct world {
	struct test_pool t;
	uint64_t ino;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	test_pool_make(&w->t, 64ULL << 20);
	w->ino = test_file(w->t.m, S_IFREG | 0644);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	test_pool_remove(&w->t);
	free(w);
	return 0;
}

static uint64_t nr_free(struct world *w)
{
	struct alloc_stat st;

	alloc_stat(w->t.m, &st);
	return st.free;
}

static void record(struct world *w, struct pdx_inode *di)
{
	assert_int_equal(itable_read(w->t.m, w->ino, di), 0);
}

/* Maps [lblk, lblk + nr), which is a hole, to blocks of the allocator's. */
static int fill(struct world *w, struct tx *tx, uint64_t goal, uint64_t lblk,
		uint64_t nr, uint64_t *model)
{
	struct pdx_inode *di = tx_edit_inode(tx, w->ino);
	uint64_t block, got, i;
	int err = 0;

	while (nr && !err) {
		err = alloc_blocks(tx, goal, nr, 0, &block, &got);
		if (err)
			break;
		err = extent_insert(tx, di, lblk, block, got);
		for (i = 0; model && i < got; i++)
			model[lblk + i] = block + i;
		lblk += got;
		nr -= got;
		goal = block + got;
	}
	return err;
}

static void fill_now(struct world *w, uint64_t goal, uint64_t lblk, uint64_t nr,
		     uint64_t *model)
{
	struct tx *tx;

	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	assert_int_equal(fill(w, tx, goal, lblk, nr, model), 0);
	assert_int_equal(tx_commit(tx), 0);
}

static void remove_now(struct world *w, uint64_t lblk, uint64_t nr)
{
	uint64_t end = nr > UINT64_MAX - lblk ? UINT64_MAX : lblk + nr;
	struct tx *tx;

	while (lblk < end) {
		uint64_t done = lblk;

		assert_int_equal(tx_begin(w->t.m, &tx), 0);
		assert_int_equal(extent_remove(tx, tx_edit_inode(tx, w->ino),
					       lblk, end - lblk, &done),
				 0);
		assert_int_equal(tx_commit(tx), 0);
		assert_true(done > lblk);
		lblk = done;
	}
}

static int count_fn(const struct extent *e, void *arg)
{
	uint64_t *sum = arg;

	sum[0]++;
	sum[1] += e->nr;
	return 0;
}

#define SPAN 3000ULL

static void check_model(struct world *w, const uint64_t *model)
{
	uint64_t i, mapped = 0, sum[2] = {0};
	struct pdx_inode di;
	struct extent e;

	record(w, &di);
	for (i = 0; i < SPAN; i++) {
		assert_int_equal(extent_lookup(w->t.m, NULL, &di, i, &e), 0);
		assert_int_equal(e.lblk, i);
		assert_int_equal(e.pblk, model[i]);
		assert_true(e.nr > 0);
		mapped += model[i] != 0;
		if (model[i])
			assert_true(alloc_on_media(w->t.m, model[i]));
	}
	assert_int_equal(extent_walk(w->t.m, &di, 0, UINT64_MAX, count_fn, sum),
			 0);
	assert_int_equal(sum[1], mapped);
}

static void holes_are_told_with_their_length(void **state)
{
	struct world *w = *state;
	struct pdx_inode di;
	struct extent e;

	record(w, &di);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 7, &e), 0);
	assert_int_equal(e.pblk, 0);
	assert_int_equal(e.nr, UINT64_MAX - 7);
	fill_now(w, 0, 100, 10, NULL);
	record(w, &di);
	assert_int_equal(get64(di.nr_blocks), 10);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 7, &e), 0);
	assert_int_equal(e.nr, 93);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 104, &e), 0);
	assert_int_equal(e.nr, 6);
	assert_true(e.pblk);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 110, &e), 0);
	assert_int_equal(e.nr, UINT64_MAX - 110);
}

static void contiguous_pieces_become_one_extent(void **state)
{
	struct world *w = *state;
	uint64_t sum[2] = {0}, block, got, base;
	struct pdx_inode di, *edit;
	struct tx *tx;

	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	edit = tx_edit_inode(tx, w->ino);
	assert_int_equal(alloc_blocks(tx, 0, 512, ALLOC_HUGE, &base, &got), 0);
	assert_int_equal(got, 512);
	assert_int_equal(extent_insert(tx, edit, 0, base, 10), 0);
	assert_int_equal(extent_insert(tx, edit, 20, base + 20, 10), 0);
	assert_int_equal(extent_insert(tx, edit, 10, base + 10, 10), 0);
	assert_int_equal(extent_insert(tx, edit, 40, base + 40, 472), 0);
	assert_int_equal(extent_insert(tx, edit, 35, base + 35, 5), 0);
	assert_int_equal(extent_insert(tx, edit, 30, base + 30, 5), 0);
	assert_int_equal(extent_insert(tx, edit, 29, base + 30, 5), -EEXIST);
	assert_int_equal(extent_insert(tx, edit, 511, base + 30, 5), -EEXIST);
	assert_int_equal(tx_commit(tx), 0);
	record(w, &di);
	extent_walk(w->t.m, &di, 0, UINT64_MAX, count_fn, sum);
	assert_int_equal(sum[0], 1);
	assert_int_equal(sum[1], 512);
	block = get64(di.ext[0].pblk);
	assert_int_equal(block, base);
}

static void random_changes_match_an_array(void **state)
{
	struct world *w = *state;
	static uint64_t model[SPAN], saved[SPAN];
	uint64_t before = nr_free(w), lblk, nr, n, i;
	struct test_rand r;
	struct tx *tx;

	test_rand_init(&r);
	memset(model, 0, sizeof(model));
	for (n = 1; n <= 6000; n++) {
		lblk = test_rand(&r, SPAN);
		nr = 1 + test_rand(&r, n % 64 ? 3 : 200);
		nr = nr < SPAN - lblk ? nr : SPAN - lblk;
		if (!model[lblk]) {
			for (i = 1; i < nr && !model[lblk + i];)
				i++;
			memcpy(saved, model, sizeof(saved));
			assert_int_equal(tx_begin(w->t.m, &tx), 0);
			assert_int_equal(fill(w, tx, 0, lblk, i, model), 0);
			if (n % 5) {
				assert_int_equal(tx_commit(tx), 0);
			} else {
				tx_abort(tx);
				memcpy(model, saved, sizeof(saved));
			}
		} else if (test_rand(&r, 3) == 0 || nr > 4) {
			remove_now(w, lblk, nr);
			memset(&model[lblk], 0, nr * sizeof(*model));
		}
		if (n % 500 == 0)
			check_model(w, model);
		if (n % 1500 == 0)
			test_pool_reopen(&w->t, n % 1000);
	}
	check_model(w, model);
	remove_now(w, 0, UINT64_MAX);
	assert_int_equal(nr_free(w), before);
}

/* Every second page, so that nothing merges. */
static void make_deep(struct world *w, uint64_t nr)
{
	struct tx *tx;
	uint64_t i, k;

	for (i = 0; i < nr; i += 8) {
		assert_int_equal(tx_begin(w->t.m, &tx), 0);
		for (k = i; k < i + 8; k++)
			assert_int_equal(fill(w, tx, 0, 2 * k, 1, NULL), 0);
		assert_int_equal(tx_commit(tx), 0);
	}
}

static void a_deep_tree_grows_and_shrinks(void **state)
{
	struct world *w = *state;
	uint64_t before = nr_free(w), sum[2] = {0};
	struct pdx_inode di;

	make_deep(w, 5000);
	record(w, &di);
	assert_int_equal(get16(di.ext_depth), 2);
	assert_int_equal(get64(di.nr_blocks), before - nr_free(w));
	extent_walk(w->t.m, &di, 0, UINT64_MAX, count_fn, sum);
	assert_int_equal(sum[0], 5000);
	/* Written in order: nodes are full. */
	assert_true(get64(di.nr_blocks) <= 5000 + 5000 / 168 + 3);
	remove_now(w, 20, 9900);
	record(w, &di);
	assert_int_equal(get16(di.ext_depth), 1);
	remove_now(w, 0, UINT64_MAX);
	record(w, &di);
	assert_int_equal(get16(di.ext_depth), 0);
	assert_int_equal(get64(di.nr_blocks), 0);
	assert_int_equal(nr_free(w), before);
}

static void a_full_pool_leaves_nothing_half_done(void **state)
{
	struct world *w = *state;
	struct alloc_stat st, full;
	struct pdx_inode di;
	struct extent e;
	struct tx *tx;
	uint64_t lblk = 0;
	int err = 0;

	while (!err) {
		assert_int_equal(tx_begin(w->t.m, &tx), 0);
		err = fill(w, tx, 0, lblk, 1, NULL);
		if (err)
			tx_abort(tx);
		else
			err = tx_commit(tx);
		lblk += 2;
	}
	assert_int_equal(err, -ENOSPC);
	alloc_stat(w->t.m, &full);
	assert_true(full.free == full.reserved);
	/* A split in the middle, by the reserve. */
	remove_now(w, 100, 1);
	test_pool_reopen(&w->t, false);
	record(w, &di);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 100, &e), 0);
	assert_int_equal(e.pblk, 0);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 98, &e), 0);
	assert_true(e.pblk);
	alloc_stat(w->t.m, &st);
	assert_int_equal(st.free, full.free + 1);
}

static void punching_the_middle_works_on_a_full_pool(void **state)
{
	struct world *w = *state;
	struct alloc_stat st;
	uint64_t lblk = 0, i, sum[2] = {0}, holes = 0;
	struct pdx_inode di;

	alloc_stat(w->t.m, &st);
	fill_now(w, 0, 0, st.free - st.reserved, NULL);
	lblk = st.free - st.reserved;
	/* Each hole makes an extent more: tree blocks come from the reserve. */
	for (i = 5; i + 1 < lblk; i += 10, holes++)
		remove_now(w, i, 1);
	record(w, &di);
	extent_walk(w->t.m, &di, 0, UINT64_MAX, count_fn, sum);
	assert_int_equal(sum[1], lblk - holes);
}

static void expect_damage(struct world *w, const struct pdx_inode *di)
{
	struct extent e;

	assert_int_equal(extent_lookup(w->t.m, NULL, di, 4, &e), -EBADMSG);
}

static void damaged_nodes_are_ebadmsg(void **state)
{
	struct world *w = *state;
	struct pdx_node *node, good;
	struct pdx_inode di;
	unsigned int i;

	make_deep(w, 400);
	record(w, &di);
	assert_int_equal(get16(di.ext_depth), 1);
	node = media_ptr(w->t.m, get64(di.ext[0].pblk));
	good = *node;
	for (i = 0; i < 11; i++) {
		*node = good;
		switch (i) {
		case 0:
			node->magic = mk32(1);
			break;
		case 1:
			node->owner = mk64(1);
			break;
		case 2:
			node->nr = mk16(169);
			break;
		case 3:
			node->nr = mk16(0);
			break;
		case 4:
			node->level = mk16(1);
			break;
		case 5:
			node->rec[3].pblk = mk64(1);
			break;
		case 6:
			node->rec[3].nr = mk32(1U << 30);
			break;
		case 7:
			node->rec[3].lblk = node->rec[2].lblk;
			break;
		case 8:
			node->rec[0].lblk = mk64(1);
			break;
		case 9:
			node->reserved1[7] = 1;
			break;
		default:
			node->rec[3].nr = mk32(0);
			break;
		}
		expect_damage(w, &di);
		node->csum = mk32(csum_at4(node, sizeof(*node)));
		expect_damage(w, &di);
	}
}

static void damaged_roots_are_ebadmsg(void **state)
{
	struct world *w = *state;
	struct pdx_inode di, bad;
	struct extent e;
	unsigned int i;

	make_deep(w, 400);
	record(w, &di);
	assert_int_equal(extent_lookup(w->t.m, NULL, &di, 4, &e), 0);
	for (i = 0; i < 5; i++) {
		bad = di;
		switch (i) {
		case 0:
			bad.ext_nr = mk16(15);
			break;
		case 1:
			bad.ext_depth = mk16(60000);
			break;
		case 2:
			bad.ext[0].pblk = mk64(UINT64_MAX);
			break;
		case 3:
			bad.ext_nr = mk16(0);
			break;
		default:
			bad.ext[0].pblk = bad.ext[1].pblk;
			break;
		}
		expect_damage(w, &bad);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(holes_are_told_with_their_length),
		T(contiguous_pieces_become_one_extent),
		T(random_changes_match_an_array),
		T(a_deep_tree_grows_and_shrinks),
		T(a_full_pool_leaves_nothing_half_done),
		T(punching_the_middle_works_on_a_full_pool),
		T(damaged_nodes_are_ebadmsg),
		T(damaged_roots_are_ebadmsg),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
