// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: the interval tree finds exactly the overlaps, in order, whatever was
 * inserted and removed before. Method: small cases by hand, then a thousand
 * random steps against a plain array, with the tree's shape checked.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "pagemap/itree.h"

#define NR_NODES 200
#define NR_STEPS 2000
#define SPAN 500

static struct itree_node *insert(struct itree *t, struct itree_node *n,
				 uint64_t first, uint64_t last)
{
	n->first = first;
	n->last = last;
	itree_insert(t, n);
	return n;
}

static void empty_tree_has_no_overlap(void **state)
{
	struct itree t = ITREE_INIT;

	(void)state;
	assert_null(itree_first(&t, 0, UINT64_MAX));
}

static void bounds_are_closed(void **state)
{
	struct itree t = ITREE_INIT;
	struct itree_node n;

	(void)state;
	insert(&t, &n, 10, 19);
	assert_null(itree_first(&t, 0, 9));
	assert_ptr_equal(itree_first(&t, 0, 10), &n);
	assert_ptr_equal(itree_first(&t, 19, 19), &n);
	assert_ptr_equal(itree_first(&t, 12, 13), &n);
	assert_null(itree_first(&t, 20, UINT64_MAX));
	itree_remove(&t, &n);
	assert_null(itree_first(&t, 0, UINT64_MAX));
	insert(&t, &n, 0, UINT64_MAX);
	assert_ptr_equal(itree_first(&t, UINT64_MAX, UINT64_MAX), &n);
}

static void equal_ranges_are_all_found(void **state)
{
	struct itree_node n[5], *it;
	struct itree t = ITREE_INIT;
	int i, hits = 0;

	(void)state;
	for (i = 0; i < 5; i++)
		insert(&t, &n[i], 7, 8);
	for (it = itree_first(&t, 8, 8); it; it = itree_next(it, 8, 8))
		hits++;
	assert_int_equal(hits, 5);
	itree_remove(&t, &n[2]);
	hits = 0;
	for (it = itree_first(&t, 0, 7); it; it = itree_next(it, 0, 7)) {
		assert_ptr_not_equal(it, &n[2]);
		hits++;
	}
	assert_int_equal(hits, 4);
}

/* Returns the height; the whole tree in about that depth. */
static int check_shape(const struct itree_node *n, const struct itree_node *up)
{
	uint64_t max;
	int l, r;

	if (!n)
		return 0;
	assert_ptr_equal(n->parent, up);
	l = check_shape(n->left, n);
	r = check_shape(n->right, n);
	assert_true(abs(l - r) <= 1);
	assert_int_equal(n->height, 1 + (l > r ? l : r));
	max = n->last;
	if (n->left && n->left->max_last > max)
		max = n->left->max_last;
	if (n->right && n->right->max_last > max)
		max = n->right->max_last;
	assert_true(n->max_last == max);
	return n->height;
}

static void compare(const struct itree *t, const struct itree_node *nodes,
		    const bool *in, uint64_t first, uint64_t last)
{
	bool seen[NR_NODES] = {false};
	struct itree_node *it;
	uint64_t prev = 0;
	int i;

	for (it = itree_first(t, first, last); it;
	     it = itree_next(it, first, last)) {
		assert_true(it->first >= prev);
		prev = it->first;
		assert_false(seen[it - nodes]);
		seen[it - nodes] = true;
	}
	for (i = 0; i < NR_NODES; i++)
		assert_int_equal(seen[i], in[i] && nodes[i].first <= last &&
						  nodes[i].last >= first);
}

static void random_steps_agree_with_an_array(void **state)
{
	struct itree_node nodes[NR_NODES];
	bool in[NR_NODES] = {false};
	struct itree t = ITREE_INIT;
	unsigned int seed = 20180523;
	uint64_t nr = 0;
	int step;

	(void)state;
	print_message("seed %u\n", seed);
	for (step = 0; step < NR_STEPS; step++) {
		int i = rand_r(&seed) % NR_NODES;
		uint64_t first = rand_r(&seed) % SPAN;
		uint64_t last = first + rand_r(&seed) % (SPAN / 10);

		if (in[i])
			itree_remove(&t, &nodes[i]);
		else
			insert(&t, &nodes[i], first, last);
		nr += in[i] ? -1 : 1;
		in[i] = !in[i];
		assert_true(t.nr == nr);
		(void)check_shape(t.root, NULL); /* asserts inside */
		first = rand_r(&seed) % SPAN;
		compare(&t, nodes, in, first, first + rand_r(&seed) % 50);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(empty_tree_has_no_overlap),
		cmocka_unit_test(bounds_are_closed),
		cmocka_unit_test(equal_ranges_are_all_found),
		cmocka_unit_test(random_steps_agree_with_an_array),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
