// SPDX-License-Identifier: BSD-3-Clause
/*
 * Blocks that were mapped directly: their marks on media, the fence that takes
 * them away from a late DMA, and the quarantine of those that resist.
 *
 * Owns: alloc's unfenced, marked and quar maps, and the mapped bitmap on media.
 * Not: when a block is given up (fs/layout), nor the punch itself (pagemap).
 * Key invariants: a group's mark is durable before any of its blocks is mapped;
 * a block is unfenced from then until a fence over it succeeded, and no
 * unfenced block gets a new owner (data blocks in unsafe mode excepted). After
 * a mount every block of a marked group counts as unfenced, because who mapped
 * what was known in memory only. A fence runs without the lock: its blocks are
 * taken in the map, so nobody else wants them meanwhile. Locks: alloc->lock.
 * See docs/FORMAT.md, "Mapped groups".
 */
#include "fs/media/internal.h"

#include <errno.h>

#define GROUP ((uint64_t)PDX_GROUP_BLOCKS)

static uint64_t pool_off(const struct media *m, uint64_t block)
{
	return m->ns.off + (block << PDX_BLOCK_SHIFT);
}

static int punch(struct media *m, uint64_t block, uint64_t nr)
{
	return pmem_fence(m->pool, pool_off(m, block), nr << PDX_BLOCK_SHIFT);
}

static void set_fenced(struct media *m, uint64_t block, uint64_t nr)
{
	pthread_mutex_lock(&m->alloc->lock);
	bits_clear(m->alloc->unfenced, block, nr);
	m->alloc->nr_fenced += nr;
	pthread_mutex_unlock(&m->alloc->lock);
}

/*
 * May the whole group be punched? Its blocks are free, quarantined, or in
 * [block, block + nr), which the caller owns. Takes the free ones; their bits
 * are returned in @took.
 */
static bool group_take(struct alloc *a, uint64_t g, uint64_t block, uint64_t nr,
		       uint64_t *took)
{
	uint64_t first = g * GROUP, b;
	bool ok = true;

	pthread_mutex_lock(&a->lock);
	for (b = first; ok && b < first + GROUP; b++)
		ok = !bit_test(a->map, b) || bit_test(a->quar, b) ||
		     (b >= block && b - block < nr);
	for (b = first; ok && b < first + GROUP; b++) {
		if (bit_test(a->map, b))
			continue;
		bits_set(took, b - first, 1);
		alloc_take_locked(a, b, 1);
	}
	pthread_mutex_unlock(&a->lock);
	return ok;
}

/* A pinned huge folio cannot be split, but punched as a whole. */
static int punch_group(struct media *m, uint64_t g, uint64_t block, uint64_t nr)
{
	struct alloc *a = m->alloc;
	uint64_t took[PDX_GROUP_BLOCKS / 64] = {0}, first = g * GROUP, i;
	int err;

	if (!group_take(a, g, block, nr, took))
		return -EBUSY;
	err = punch(m, first, GROUP);
	pthread_mutex_lock(&a->lock);
	if (!err)
		bits_clear(a->unfenced, first, GROUP);
	for (i = 0; i < GROUP; i++) {
		if (!bit_test(took, i))
			continue;
		if (err == -ENOSPC) { /* punched, not backed: untouchable */
			bits_set(a->unfenced, first + i, 1);
			bits_set(a->quar, first + i, 1);
			a->nr_quar++;
			a->nr_pending++;
		} else {
			alloc_give_locked(a, first + i, 1);
		}
	}
	pthread_mutex_unlock(&a->lock);
	return err;
}

/* [block, block + nr) in pieces of a group each, after a busy answer. */
static int punch_pieces(struct media *m, uint64_t block, uint64_t nr)
{
	uint64_t end = block + nr, n, stop;
	int err;

	for (; block < end; block += n) {
		stop = (block / GROUP + 1) * GROUP;
		n = (stop < end ? stop : end) - block;
		err = punch(m, block, n);
		if (err == -EBUSY)
			err = punch_group(m, block / GROUP, block, n);
		if (err)
			return err;
		set_fenced(m, block, n);
	}
	return 0;
}

static int fence_run(struct media *m, uint64_t block, uint64_t nr)
{
	int err = punch(m, block, nr);

	if (err == -EBUSY)
		return punch_pieces(m, block, nr);
	if (!err)
		set_fenced(m, block, nr);
	return err;
}

int alloc_fence(struct media *m, uint64_t block, uint64_t nr)
{
	struct alloc *a = m->alloc;
	uint64_t b = block, stop, end = block + nr;
	bool fence_ok;
	int err;

	for (; b < end; b = stop) {
		pthread_mutex_lock(&a->lock);
		fence_ok = a->fence_ok;
		b = bits_next_set(a->unfenced, b, end);
		stop = bits_next_clear(a->unfenced, b, end);
		pthread_mutex_unlock(&a->lock);
		if (b == end)
			break;
		if (!fence_ok) {
			pmem_memset(m->pool, media_ptr(m, b), 0,
				    (stop - b) << PDX_BLOCK_SHIFT);
			pmem_drain(m->pool);
			set_fenced(m, b, stop - b);
			continue;
		}
		err = fence_run(m, b, stop - b);
		if (err)
			return err;
	}
	return 0;
}

/* --- quarantine --- */

static void quarantine_locked(struct alloc *a, uint64_t block, uint64_t nr)
{
	bits_set(a->quar, block, nr);
	a->nr_quar += nr;
}

void alloc_quarantine(struct media *m, uint64_t block, uint64_t nr)
{
	pthread_mutex_lock(&m->alloc->lock);
	quarantine_locked(m->alloc, block, nr);
	pthread_mutex_unlock(&m->alloc->lock);
}

/* The next quarantined run from *pos on, within one group, taken out. */
static bool quarantine_next(struct alloc *a, uint64_t *pos, uint64_t *ret_nr)
{
	uint64_t last = a->nr_groups * GROUP, b, stop;

	pthread_mutex_lock(&a->lock);
	b = bits_next_set(a->quar, *pos, last);
	stop = b < last ? (b / GROUP + 1) * GROUP : last;
	stop = bits_next_clear(a->quar, b, stop);
	bits_clear(a->quar, b, stop - b);
	a->nr_quar -= stop - b;
	pthread_mutex_unlock(&a->lock);
	*pos = b;
	*ret_nr = stop - b;
	return b < last;
}

void alloc_retry(struct media *m, bool all)
{
	struct alloc *a = m->alloc;
	uint64_t pos = 0, nr;
	int err;

	pthread_mutex_lock(&a->lock);
	if (a->retrying || !a->nr_quar) {
		pthread_mutex_unlock(&a->lock);
		return;
	}
	a->retrying = true;
	pthread_mutex_unlock(&a->lock);
	do {
		if (!quarantine_next(a, &pos, &nr))
			break;
		err = alloc_fence(m, pos, nr);
		pthread_mutex_lock(&a->lock);
		if (err) {
			quarantine_locked(a, pos, nr);
		} else {
			a->nr_pending -= nr;
			alloc_give_locked(a, pos, nr);
		}
		pthread_mutex_unlock(&a->lock);
		pos += nr;
	} while (all);
	pthread_mutex_lock(&a->lock);
	a->retrying = false;
	pthread_mutex_unlock(&a->lock);
}

uint64_t alloc_ready(struct media *m, uint64_t block, uint64_t nr)
{
	struct alloc *a = m->alloc;
	uint64_t end = block + nr, b = block, n = 0, stop;

	if (!alloc_fence(m, block, nr))
		return nr;
	/* Something in it resists: find the first piece that does. */
	for (; b < end; b += n) {
		stop = (b / GROUP + 1) * GROUP;
		n = (stop < end ? stop : end) - b;
		if (alloc_fence(m, b, n))
			break;
	}
	if (b == end)
		return nr;
	pthread_mutex_lock(&a->lock);
	quarantine_locked(a, b, n);
	a->nr_pending += n;
	if (b + n < end)
		alloc_give_locked(a, b + n, end - b - n);
	pthread_mutex_unlock(&a->lock);
	return b - block;
}

void alloc_default_sink(void *arg, uint64_t block, uint64_t nr)
{
	struct media *m = arg;
	bool unsafe;

	pthread_mutex_lock(&m->alloc->lock);
	unsafe = m->alloc->unsafe;
	pthread_mutex_unlock(&m->alloc->lock);
	if (!unsafe && alloc_fence(m, block, nr))
		alloc_quarantine(m, block, nr);
	else
		alloc_release(m, block, nr);
}

void alloc_set_fence(struct media *m, bool fence_ok, bool unsafe)
{
	pthread_mutex_lock(&m->alloc->lock);
	m->alloc->fence_ok = fence_ok;
	m->alloc->unsafe = unsafe;
	pthread_mutex_unlock(&m->alloc->lock);
}

/* --- marks on media --- */

/* Returns whether the mark is new on media, and has to be made durable. */
static bool mark_locked(struct media *m, uint64_t g, bool set)
{
	le64 *marks = media_ptr(m, get64(m->sb.mapped_block));
	uint64_t mask = 1ULL << (g & 63), word = get64(marks[g / 64]);

	if (set == bit_test(m->alloc->marked, g))
		return false;
	marks[g / 64] = mk64(set ? word | mask : word & ~mask);
	pmem_flush(m->pool, &marks[g / 64], sizeof(*marks));
	if (set)
		bits_set(m->alloc->marked, g, 1);
	else
		bits_clear(m->alloc->marked, g, 1);
	return true;
}

int alloc_mark_mapped(struct media *m, uint64_t block, uint64_t nr)
{
	struct alloc *a = m->alloc;
	bool fresh = false;
	uint64_t g;

	if (!nr)
		return 0;
	if (m->readonly || !media_in_data(m, block, nr))
		return -EIO;
	pthread_mutex_lock(&a->lock);
	bits_set(a->unfenced, block, nr);
	for (g = block / GROUP; g <= (block + nr - 1) / GROUP; g++)
		fresh |= mark_locked(m, g, true);
	/* Under the lock: who finds the mark set may rely on its being durable
	 * (partner: the caller's grant; without it a crash forgets a mapping).
	 */
	if (fresh)
		pmem_drain(m->pool);
	pthread_mutex_unlock(&a->lock);
	return 0;
}

void alloc_clear_marks(struct media *m)
{
	struct alloc *a = m->alloc;
	bool any = false;
	uint64_t g;

	pthread_mutex_lock(&a->lock);
	for (g = 0; a->fence_ok && g < a->nr_groups; g++) {
		if (bit_test(a->marked, g) &&
		    !bits_count(a->unfenced, g * GROUP, GROUP))
			any |= mark_locked(m, g, false);
	}
	if (any)
		pmem_drain(m->pool);
	pthread_mutex_unlock(&a->lock);
}
