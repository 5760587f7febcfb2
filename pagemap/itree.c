// SPDX-License-Identifier: BSD-3-Clause
/*
 * Interval tree: an AVL tree ordered by the first page of each range, in which
 * every node also knows the greatest last page of its subtree.
 *
 * Owns: the links inside the caller's nodes. Not: their memory, nor any lock.
 * Invariant: for every node, height and max_last are right for its subtree,
 * and the heights of its two children differ by at most one. Every change of
 * links is followed by a walk up that restores both.
 * Nodes with equal first are neighbours in any order.
 * Locks: none; the caller's guards tree and nodes alike.
 * Read: Cormen et al., "Augmenting data structures".
 */
#include "pagemap/itree.h"

#include <assert.h>
#include <stddef.h>

static int height(const struct itree_node *n)
{
	return n ? n->height : 0;
}

static void update(struct itree_node *n)
{
	int l = height(n->left), r = height(n->right);

	n->height = 1 + (l > r ? l : r);
	n->max_last = n->last;
	if (n->left && n->left->max_last > n->max_last)
		n->max_last = n->left->max_last;
	if (n->right && n->right->max_last > n->max_last)
		n->max_last = n->right->max_last;
}

/* @new (may be NULL) takes @old's place under @old's parent. */
static void replace_child(struct itree *t, struct itree_node *old,
			  struct itree_node *new)
{
	struct itree_node *parent = old->parent;

	if (!parent)
		t->root = new;
	else if (parent->left == old)
		parent->left = new;
	else
		parent->right = new;
	if (new)
		new->parent = parent;
}

static struct itree_node *rotate_left(struct itree *t, struct itree_node *n)
{
	struct itree_node *up = n->right;

	replace_child(t, n, up);
	n->right = up->left;
	if (n->right)
		n->right->parent = n;
	up->left = n;
	n->parent = up;
	update(n);
	update(up);
	return up;
}

static struct itree_node *rotate_right(struct itree *t, struct itree_node *n)
{
	struct itree_node *up = n->left;

	replace_child(t, n, up);
	n->left = up->right;
	if (n->left)
		n->left->parent = n;
	up->right = n;
	n->parent = up;
	update(n);
	update(up);
	return up;
}

static void rebalance_up(struct itree *t, struct itree_node *n)
{
	for (; n; n = n->parent) {
		int tilt = height(n->left) - height(n->right);

		update(n);
		if (tilt > 1) {
			if (height(n->left->left) < height(n->left->right))
				(void)rotate_left(t, n->left); /* link kept */
			n = rotate_right(t, n);
		} else if (tilt < -1) {
			if (height(n->right->right) < height(n->right->left))
				(void)rotate_right(t, n->right); /* ditto */
			n = rotate_left(t, n);
		}
	}
}

void itree_insert(struct itree *t, struct itree_node *n)
{
	struct itree_node **link = &t->root, *parent = NULL;

	assert(n->first <= n->last);
	while (*link) {
		parent = *link;
		link = n->first < parent->first ? &parent->left
						: &parent->right;
	}
	n->left = n->right = NULL;
	n->parent = parent;
	*link = n;
	t->nr++;
	rebalance_up(t, n);
}

void itree_remove(struct itree *t, struct itree_node *n)
{
	struct itree_node *start, *next;

	assert(t->nr > 0);
	t->nr--;
	if (!n->left || !n->right) {
		start = n->parent;
		replace_child(t, n, n->left ? n->left : n->right);
		rebalance_up(t, start);
		return;
	}
	/* Two children: the successor, which has no left child, moves here. */
	for (next = n->right; next->left;)
		next = next->left;
	start = next->parent == n ? next : next->parent;
	if (next->parent != n) {
		replace_child(t, next, next->right);
		next->right = n->right;
		next->right->parent = next;
	}
	replace_child(t, n, next);
	next->left = n->left;
	next->left->parent = next;
	rebalance_up(t, start);
}

/* The leftmost overlap in the subtree of @n; n->max_last >= @first holds. */
static struct itree_node *leftmost(struct itree_node *n, uint64_t first,
				   uint64_t last)
{
	for (;;) {
		if (n->left && n->left->max_last >= first) {
			/*
			 * Something there ends late enough. If the leftmost
			 * such range starts too late, so do all to its right.
			 */
			n = n->left;
			continue;
		}
		if (n->first > last)
			return NULL;
		if (n->last >= first)
			return n;
		if (!n->right || n->right->max_last < first)
			return NULL;
		n = n->right;
	}
}

struct itree_node *itree_first(const struct itree *t, uint64_t first,
			       uint64_t last)
{
	if (!t->root || t->root->max_last < first)
		return NULL;
	return leftmost(t->root, first, last);
}

struct itree_node *itree_next(const struct itree_node *n, uint64_t first,
			      uint64_t last)
{
	for (;;) {
		const struct itree_node *from;

		if (n->right && n->right->max_last >= first)
			return leftmost(n->right, first, last);
		do {
			from = n;
			n = n->parent;
			if (!n)
				return NULL;
		} while (n->right == from);
		if (n->first > last)
			return NULL;
		if (n->last >= first)
			return (struct itree_node *)n;
	}
}
