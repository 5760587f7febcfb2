// SPDX-License-Identifier: BSD-3-Clause
/*
 * The block allocator: which blocks are free, and which of them to take.
 *
 * Owns: the bitmap on media and its image in memory. Not: the fence and the
 * marks of mapped groups (alloc_fence.c), nor when a freed block may be given
 * out again (the sink, fs/layout).
 * Key invariant: a block that is free in memory (map bit clear) is free on
 * media and belongs to no transaction, sink or quarantine. The map in memory is
 * changed first on allocation and last on release; media changes in between, at
 * the commit.
 * Choice: blocks lie in groups of 512 (2 MiB, aligned in the pool). Two maps of
 * groups, wholly free and partly free, each with the lowest group that may be
 * in it, make the search O(1) in the common case. Small requests fill partly
 * free groups from below, so that whole ones stay whole. Locks: alloc->lock (a
 * leaf; nothing is called with it held but memory and flush). See
 * docs/FORMAT.md, "Allocation map".
 */
#include "fs/media/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define GROUP ((uint64_t)PDX_GROUP_BLOCKS)
#define TRIES 8	     /* groups looked into before the best so far is taken */
#define WHOLE_MIN 64 /* blocks for which opening a whole group can pay */

struct pick {
	uint64_t goal; /* 0: none */
	uint64_t want;
	bool huge;
	bool avoid; /* unfenced blocks count as taken */
	uint64_t block;
	uint64_t nr; /* 0: nothing found */
};

/* --- state in memory --- */

static void group_update(struct alloc *a, uint64_t g, uint64_t nr_free)
{
	bool was_full = a->gfree[g] == GROUP;
	bool is_full = nr_free == GROUP;

	a->gfree[g] = (uint16_t)nr_free;
	bits_clear(a->full, g, 1);
	bits_clear(a->part, g, 1);
	if (is_full) {
		bits_set(a->full, g, 1);
		a->hint_full = g < a->hint_full ? g : a->hint_full;
	} else if (nr_free) {
		bits_set(a->part, g, 1);
		a->hint_part = g < a->hint_part ? g : a->hint_part;
	}
	a->nr_full += is_full;
	a->nr_full -= was_full;
}

/* Blocks of [b, end) that lie in b's group. */
static uint64_t group_piece(uint64_t b, uint64_t end)
{
	uint64_t stop = (b / GROUP + 1) * GROUP;

	return (stop < end ? stop : end) - b;
}

void alloc_take_locked(struct alloc *a, uint64_t block, uint64_t nr)
{
	uint64_t b, n, end = block + nr;

	bits_set(a->map, block, nr);
	a->nr_free -= nr;
	a->nr_unfenced_free -= bits_count(a->unfenced, block, nr);
	for (b = block; b < end; b += n) {
		n = group_piece(b, end);
		group_update(a, b / GROUP, a->gfree[b / GROUP] - n);
	}
}

static void give_run(struct alloc *a, uint64_t block, uint64_t nr)
{
	uint64_t b, n, end = block + nr;

	bits_clear(a->map, block, nr);
	a->nr_free += nr;
	a->nr_unfenced_free += bits_count(a->unfenced, block, nr);
	for (b = block; b < end; b += n) {
		n = group_piece(b, end);
		group_update(a, b / GROUP, a->gfree[b / GROUP] + n);
	}
}

/* Blocks that are free already (corrupt media freed them twice) stay so. */
void alloc_give_locked(struct alloc *a, uint64_t block, uint64_t nr)
{
	uint64_t b, stop, end = block + nr;

	b = bits_next_set(a->map, block, end);
	while (b < end) {
		stop = bits_next_clear(a->map, b, end);
		give_run(a, b, stop - b);
		b = bits_next_set(a->map, stop, end);
	}
}

/* --- the choice --- */

static uint64_t avail_word(const struct alloc *a, uint64_t w, bool avoid)
{
	return ~(a->map[w] | (avoid ? a->unfenced[w] : 0));
}

static uint64_t next_avail(const struct alloc *a, uint64_t from, uint64_t end,
			   bool avoid, uint64_t flip)
{
	uint64_t w = from / 64, word, bit;

	if (from >= end)
		return end;
	word = (avail_word(a, w, avoid) ^ flip) & ~0ULL << (from & 63);
	while (!word) {
		if (++w > (end - 1) / 64)
			return end;
		word = avail_word(a, w, avoid) ^ flip;
	}
	bit = w * 64 + (uint64_t)__builtin_ctzll(word);
	return bit < end ? bit : end;
}

/* Available blocks from @b on, without a gap, at most @want. */
static uint64_t run_len(const struct media *m, uint64_t b, uint64_t want,
			bool avoid)
{
	uint64_t end = m->end_block - b < want ? m->end_block : b + want;

	return next_avail(m->alloc, b, end, avoid, ~0ULL) - b;
}

static bool group_whole(const struct alloc *a, uint64_t g, bool avoid)
{
	if (!bit_test(a->full, g))
		return false;
	return !avoid || !bits_count(a->unfenced, g * GROUP, GROUP);
}

static bool pick_goal(const struct media *m, struct pick *p)
{
	if (!media_in_data(m, p->goal, 1))
		return false;
	p->nr = run_len(m, p->goal, p->want, p->avoid);
	p->block = p->goal;
	return p->nr > 0;
}

/* Whole groups, as many in a row as are wanted and there. */
static bool pick_whole(struct alloc *a, struct pick *p)
{
	uint64_t g, start = a->hint_full, run = 1, want;
	unsigned int tries;

	g = bits_next_set(a->full, start, a->nr_groups);
	a->hint_full = g;
	if (p->goal / GROUP > g && p->goal / GROUP < a->nr_groups)
		start = bits_next_set(a->full, p->goal / GROUP, a->nr_groups);
	else
		start = g;
	g = start < a->nr_groups ? start : g;
	for (tries = 0; g < a->nr_groups && !group_whole(a, g, p->avoid);) {
		if (++tries == TRIES)
			return false;
		g = bits_next_set(a->full, g + 1, a->nr_groups);
	}
	if (g >= a->nr_groups)
		return false;
	want = p->want < GROUP ? 1 : p->want / GROUP;
	while (run < want && g + run < a->nr_groups &&
	       group_whole(a, g + run, p->avoid))
		run++;
	p->block = g * GROUP;
	p->nr = p->want < run * GROUP ? p->want : run * GROUP;
	return true;
}

/*
 * The first run of the group that is long enough, else its longest. It may go
 * on into the next group, but not for a few blocks into a whole one.
 */
static void pick_in_group(const struct media *m, uint64_t g, struct pick *p)
{
	uint64_t b = g * GROUP, end = b + GROUP, n;
	bool cut = p->want < GROUP && g + 1 < m->alloc->nr_groups &&
		   bit_test(m->alloc->full, g + 1);

	while ((b = next_avail(m->alloc, b, end, p->avoid, 0)) < end) {
		n = run_len(m, b, p->want, p->avoid);
		n = cut && n > end - b ? end - b : n;
		if (n > p->nr) {
			p->block = b;
			p->nr = n;
		}
		if (p->nr >= p->want)
			return;
		b += n;
	}
}

static void pick_part(const struct media *m, struct pick *p)
{
	struct alloc *a = m->alloc;
	uint64_t goal = p->goal / GROUP, g;
	unsigned int tries = 0;

	a->hint_part = bits_next_set(a->part, a->hint_part, a->nr_groups);
	g = a->hint_part;
	if (goal > g && goal < a->nr_groups)
		g = bits_next_set(a->part, goal, a->nr_groups);
	if (g >= a->nr_groups)
		g = a->hint_part;
	while (g < a->nr_groups && tries++ < TRIES && p->nr < p->want) {
		pick_in_group(m, g, p);
		g = bits_next_set(a->part, g + 1, a->nr_groups);
	}
}

static bool pick(const struct media *m, struct pick *p)
{
	struct alloc *a = m->alloc;
	bool aligned = p->goal % GROUP == 0;

	p->nr = 0;
	if (p->huge) {
		if (aligned && p->goal &&
		    group_whole(a, p->goal / GROUP, p->avoid) &&
		    pick_goal(m, p)) {
			if (p->nr > GROUP)
				p->nr -= p->nr % GROUP;
			return true;
		}
		if (pick_whole(a, p))
			return true;
	}
	if (p->goal && pick_goal(m, p))
		return true;
	p->nr = 0;
	if (p->want >= GROUP && pick_whole(a, p))
		return true;
	p->nr = 0;
	pick_part(m, p);
	if (p->nr &&
	    (p->nr >= p->want || p->want < WHOLE_MIN || p->nr >= p->want / 4))
		return true;
	return pick_whole(a, p) || p->nr;
}

/*
 * Unfenced blocks are left for later while there are others. Only for metadata
 * does that also hold in unsafe mode and where there is no fence: they must not
 * be hit by a late DMA if that can be helped.
 */
static bool pick_and_take(struct media *m, struct pick *p, bool meta)
{
	struct alloc *a = m->alloc;
	bool found = false;

	p->avoid = a->nr_unfenced_free && (meta || (a->fence_ok && !a->unsafe));
	if (p->avoid)
		found = pick(m, p);
	if (!found) {
		p->avoid = false;
		found = pick(m, p);
	}
	if (found)
		alloc_take_locked(a, p->block, p->nr);
	return found;
}

int alloc_blocks(struct tx *tx, uint64_t goal, uint64_t want,
		 unsigned int flags, uint64_t *ret_block, uint64_t *ret_nr)
{
	struct media *m = tx_media(tx);
	struct alloc *a = m->alloc;
	bool meta = flags & ALLOC_META, retried = false, fence;
	bool reserve =
		(flags & ALLOC_RESERVE) || (meta && !(flags & ALLOC_GROWTH));
	struct pick p = {.goal = goal, .huge = flags & ALLOC_HUGE};
	uint64_t keep, nr = 0;
	int err;

	while (!nr) {
		pthread_mutex_lock(&a->lock);
		keep = reserve ? 0 : a->reserve;
		p.want = a->nr_free > keep ? a->nr_free - keep : 0;
		p.want = want < p.want ? want : p.want;
		if (!p.want || !pick_and_take(m, &p, meta))
			p.nr = 0;
		fence = a->fence_ok && (meta || !a->unsafe);
		pthread_mutex_unlock(&a->lock);
		if (p.nr) {
			nr = p.nr;
			if (fence)
				nr = alloc_ready(m, p.block, p.nr);
		} else if (retried) {
			return -ENOSPC;
		} else {
			alloc_retry(m, true);
			retried = true;
		}
	}
	err = tx_note_range(tx, true, p.block, nr);
	if (err) {
		alloc_undo(m, p.block, nr);
		return err;
	}
	*ret_block = p.block;
	*ret_nr = nr;
	return 0;
}

int free_blocks(struct tx *tx, uint64_t block, uint64_t nr)
{
	struct media *m = tx_media(tx);
	uint64_t end = block + nr, clear;

	if (!nr)
		return 0;
	if (!media_in_data(m, block, nr))
		return -EBADMSG;
	pthread_mutex_lock(&m->alloc->lock);
	clear = bits_next_clear(m->alloc->map, block, end);
	pthread_mutex_unlock(&m->alloc->lock);
	if (clear != end)
		return -EBADMSG; /* an extent of blocks that nobody owns */
	return tx_note_range(tx, false, block, nr);
}

/* --- ends of transactions, the sink --- */

void alloc_undo(struct media *m, uint64_t block, uint64_t nr)
{
	pthread_mutex_lock(&m->alloc->lock);
	alloc_give_locked(m->alloc, block, nr);
	pthread_mutex_unlock(&m->alloc->lock);
}

void alloc_freed(struct media *m, uint64_t block, uint64_t nr)
{
	struct alloc *a = m->alloc;
	alloc_sink_fn *sink;
	void *arg;

	pthread_mutex_lock(&a->lock);
	a->nr_pending += nr;
	sink = a->sink;
	arg = a->sink_arg;
	pthread_mutex_unlock(&a->lock);
	sink(arg, block, nr);
}

void alloc_release(struct media *m, uint64_t block, uint64_t nr)
{
	struct alloc *a = m->alloc;
	bool retry;

	assert(media_in_data(m, block, nr));
	pthread_mutex_lock(&a->lock);
	a->nr_pending -= nr < a->nr_pending ? nr : a->nr_pending;
	alloc_give_locked(a, block, nr);
	retry = a->nr_quar;
	pthread_mutex_unlock(&a->lock);
	if (retry)
		alloc_retry(m, false);
}

void alloc_set_sink(struct media *m, alloc_sink_fn *fn, void *arg)
{
	pthread_mutex_lock(&m->alloc->lock);
	m->alloc->sink = fn ? fn : alloc_default_sink;
	m->alloc->sink_arg = fn ? arg : m;
	pthread_mutex_unlock(&m->alloc->lock);
}

/* --- the bitmap on media --- */

static le64 *media_map(const struct media *m)
{
	return media_ptr(m, get64(m->sb.bitmap_block));
}

/*
 * Words are shared between transactions, ranges are not: a block changes hands
 * only after the lane of the transaction that freed it was emptied. Under the
 * lock the read-modify-writes of two transactions commute, and since both have
 * passed their commit points, a flush of the word by either of them makes
 * nothing durable that a replay would not. Hence the flush may come after the
 * lock.
 */
void alloc_apply(struct media *m, uint64_t block, uint64_t nr, bool set)
{
	le64 *map = media_map(m) + block / 64;
	uint64_t n = (block + nr - 1) / 64 - block / 64 + 1, i, mask;
	struct alloc *a = m->alloc;

	if (a)
		pthread_mutex_lock(&a->lock);
	for (i = 0; i < n; i++) {
		mask = ~0ULL;
		if (i == 0)
			mask &= ~0ULL << (block & 63);
		if (i == n - 1)
			mask &= ~0ULL >> (63 - ((block + nr - 1) & 63));
		if (set)
			map[i] = mk64(get64(map[i]) | mask);
		else
			map[i] = mk64(get64(map[i]) & ~mask);
	}
	if (a)
		pthread_mutex_unlock(&a->lock);
	media_flush(m, map, n * sizeof(*map));
}

bool alloc_on_media(struct media *m, uint64_t block)
{
	bool set;

	pthread_mutex_lock(&m->alloc->lock);
	set = get64(media_map(m)[block / 64]) >> (block & 63) & 1;
	pthread_mutex_unlock(&m->alloc->lock);
	return set;
}

void alloc_stat(struct media *m, struct alloc_stat *ret_st)
{
	struct alloc *a = m->alloc;

	pthread_mutex_lock(&a->lock);
	ret_st->total = m->end_block - m->data_block;
	ret_st->free = a->nr_free;
	ret_st->reserved = a->nr_free < a->reserve ? a->nr_free : a->reserve;
	ret_st->pending = a->nr_pending;
	ret_st->free_huge_runs = a->nr_full;
	ret_st->fenced = a->nr_fenced;
	pthread_mutex_unlock(&a->lock);
}

/* --- load --- */

static uint64_t reserve_of(uint64_t data_blocks)
{
	uint64_t r = data_blocks / 256;

	r = r < 64 ? 64 : r;
	return r > 4096 ? 4096 : r;
}

static void load_maps(struct media *m)
{
	struct alloc *a = m->alloc;
	const le64 *map = media_map(m);
	const le64 *marks = media_ptr(m, get64(m->sb.mapped_block));
	uint64_t words = a->nr_groups * (GROUP / 64), g, set;

	for (uint64_t w = 0; w < words && w < div_up(m->nr_blocks, 64); w++)
		a->map[w] = get64(map[w]);
	/* What lies outside the data area is never free, whatever media says */
	bits_set(a->map, 0, m->data_block);
	bits_set(a->map, m->end_block, words * 64 - m->end_block);
	for (g = 0; g < div_up(a->nr_groups, 64); g++)
		a->marked[g] = get64(marks[g]);
	a->hint_full = a->nr_groups;
	a->hint_part = a->nr_groups;
	for (g = 0; g < a->nr_groups; g++) {
		set = bits_count(a->map, g * GROUP, GROUP);
		a->nr_free += GROUP - set;
		group_update(a, g, GROUP - set);
		if (!bit_test(a->marked, g))
			continue;
		/* Who mapped which of its blocks was in memory only. */
		bits_set(a->unfenced, g * GROUP, GROUP);
		a->nr_unfenced_free += GROUP - set;
	}
}

int alloc_load(struct media *m)
{
	uint64_t groups = div_up(m->nr_blocks, GROUP);
	size_t words = groups * (GROUP / 64);
	struct alloc *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->lock, NULL);
	a->nr_groups = groups;
	a->map = calloc(words, 8);
	a->unfenced = calloc(words, 8);
	a->quar = calloc(words, 8);
	a->marked = calloc(div_up(groups, 64), 8);
	a->full = calloc(div_up(groups, 64), 8);
	a->part = calloc(div_up(groups, 64), 8);
	a->gfree = calloc(groups, sizeof(*a->gfree));
	a->sink = alloc_default_sink;
	a->sink_arg = m;
	if (!a->map || !a->unfenced || !a->quar || !a->marked || !a->full ||
	    !a->part || !a->gfree) {
		alloc_destroy(a);
		return -ENOMEM;
	}
	a->reserve = reserve_of(m->end_block - m->data_block);
	m->alloc = a;
	load_maps(m);
	return 0;
}

void alloc_destroy(struct alloc *a)
{
	if (!a)
		return;
	free(a->map);
	free(a->unfenced);
	free(a->quar);
	free(a->marked);
	free(a->full);
	free(a->part);
	free(a->gfree);
	pthread_mutex_destroy(&a->lock);
	free(a);
}
