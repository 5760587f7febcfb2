/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_ITREE_H
#define PINDAX_PAGEMAP_ITREE_H

#include <stdint.h>

/*
 * An interval tree of caller-owned nodes: closed ranges [first, last],
 * duplicates allowed. O(log n) insert and remove, O(log n + hits) search.
 * Not thread-safe: the caller's lock guards tree and nodes.
 */
struct itree_node {
	uint64_t first;
	uint64_t last;
	/* private */
	uint64_t max_last;
	struct itree_node *left, *right, *parent;
	int height;
};

struct itree {
	struct itree_node *root;
	uint64_t nr;
};

#define ITREE_INIT                                                             \
	{                                                                      \
		0                                                              \
	}

void itree_insert(struct itree *t, struct itree_node *n);
void itree_remove(struct itree *t, struct itree_node *n);
/* Overlaps of [first, last] in order of n->first; NULL when there is none. */
struct itree_node *itree_first(const struct itree *t, uint64_t first,
			       uint64_t last);
struct itree_node *itree_next(const struct itree_node *n, uint64_t first,
			      uint64_t last);

#endif
