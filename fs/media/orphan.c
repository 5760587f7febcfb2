// SPDX-License-Identifier: BSD-3-Clause
/*
 * The orphan file: an internal file of 8-byte slots, each 0 or the number of an
 * inode that has work left over: it has no names and waits for its blocks to be
 * idle, or a truncate of it was committed and is not finished.
 *
 * Owns: the slots. Not: what is done with an orphan (fs core).
 * Key invariant: a slot that is free in memory is 0 on media and belongs to no
 * transaction. The file grows from the reserve: deleting must always work.
 * Locks: orphans->grow before orphans->lock, as in itable.c.
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>

struct orphans {
	pthread_mutex_t grow;
	pthread_mutex_t lock; /* guards everything below */
	struct ifile file;
	uint64_t *used;
	uint64_t nr; /* slots */
	uint64_t hint;
};

static uint64_t slot_off_locked(const struct orphans *o, uint64_t slot)
{
	return (o->file.blk[slot / PDX_SLOTS_PER_BLOCK] << PDX_BLOCK_SHIFT) +
	       slot % PDX_SLOTS_PER_BLOCK * sizeof(le64);
}

static uint64_t slot_off(struct orphans *o, uint64_t slot)
{
	uint64_t off;

	pthread_mutex_lock(&o->lock);
	off = slot < o->nr ? slot_off_locked(o, slot) : 0;
	pthread_mutex_unlock(&o->lock);
	return off;
}

static void slot_put(struct media *m, uint64_t slot)
{
	struct orphans *o = m->orphans;

	pthread_mutex_lock(&o->lock);
	bits_clear(o->used, slot, 1);
	o->hint = slot < o->hint ? slot : o->hint;
	pthread_mutex_unlock(&o->lock);
}

static void add_end(struct media *m, uint64_t slot, bool committed)
{
	if (!committed)
		slot_put(m, slot);
}

static void del_end(struct media *m, uint64_t slot, bool committed)
{
	if (committed)
		slot_put(m, slot);
}

static bool take_slot(struct orphans *o, uint64_t *ret_slot)
{
	uint64_t slot;
	bool found;

	pthread_mutex_lock(&o->lock);
	slot = bits_next_clear(o->used, o->hint, o->nr);
	found = slot < o->nr;
	o->hint = slot;
	if (found) {
		bits_set(o->used, slot, 1);
		*ret_slot = slot;
	}
	pthread_mutex_unlock(&o->lock);
	return found;
}

static int reserve_locked(struct orphans *o, uint64_t more_blocks)
{
	uint64_t nr = o->nr + more_blocks * PDX_SLOTS_PER_BLOCK;
	uint64_t *used = realloc(o->used, (nr / 64 + 1) * sizeof(*used));

	if (!used)
		return -ENOMEM;
	o->used = used;
	return ifile_reserve(&o->file, more_blocks);
}

static int grow_locked(struct media *m)
{
	struct orphans *o = m->orphans;
	uint64_t block, nr;
	int err;

	pthread_mutex_lock(&o->lock);
	err = reserve_locked(o, ORPHAN_CHUNK);
	pthread_mutex_unlock(&o->lock);
	if (err)
		return err;
	err = ifile_grow(m, &o->file, ORPHAN_CHUNK, ALLOC_META | ALLOC_RESERVE,
			 &block, &nr);
	if (err)
		return err;
	pthread_mutex_lock(&o->lock);
	ifile_append(&o->file, block, nr);
	nr *= PDX_SLOTS_PER_BLOCK;
	bits_clear(o->used, o->nr, nr);
	o->nr += nr;
	pthread_mutex_unlock(&o->lock);
	return 0;
}

static int get_slot(struct media *m, uint64_t *ret_slot)
{
	struct orphans *o = m->orphans;
	int err = 0;

	if (take_slot(o, ret_slot))
		return 0;
	pthread_mutex_lock(&o->grow);
	while (!err && !take_slot(o, ret_slot))
		err = grow_locked(m);
	pthread_mutex_unlock(&o->grow);
	return err;
}

static int set_slot(struct tx *tx, uint64_t slot, uint64_t ino)
{
	uint64_t off = slot_off(tx_media(tx)->orphans, slot);
	le64 *p = off ? tx_edit(tx, off, sizeof(*p)) : NULL;

	if (!p)
		return off ? tx_error(tx) : -EBADMSG;
	*p = mk64(ino);
	return 0;
}

int orphan_add(struct tx *tx, struct pdx_inode *di)
{
	struct media *m = tx_media(tx);
	uint64_t slot;
	int err;

	if (get64(di->orphan_slot))
		return 0;
	err = get_slot(m, &slot);
	if (err)
		return err;
	err = tx_on_end(tx, add_end, slot);
	if (err) {
		slot_put(m, slot);
		return err;
	}
	err = set_slot(tx, slot, get64(di->ino));
	if (!err)
		di->orphan_slot = mk64(slot + 1);
	return err;
}

int orphan_del(struct tx *tx, struct pdx_inode *di)
{
	uint64_t slot = get64(di->orphan_slot);
	int err;

	if (!slot)
		return 0;
	err = set_slot(tx, slot - 1, 0);
	if (!err)
		err = tx_on_end(tx, del_end, slot - 1);
	if (!err)
		di->orphan_slot = mk64(0);
	return err;
}

int orphans_next(struct media *m, uint64_t *cursor, uint64_t *ret_ino)
{
	struct orphans *o = m->orphans;
	const le64 *slot;
	int err = -ENOENT;

	pthread_mutex_lock(&o->lock);
	while (err && *cursor < o->nr) {
		slot = (const void *)(m->base + slot_off_locked(o, *cursor));
		(*cursor)++;
		if (!get64(*slot))
			continue;
		*ret_ino = get64(*slot);
		err = 0;
	}
	pthread_mutex_unlock(&o->lock);
	return err;
}

static int scan(struct media *m, struct orphans *o)
{
	const le64 *slot;
	uint64_t i;

	o->nr = o->file.nr * PDX_SLOTS_PER_BLOCK;
	o->used = calloc(o->nr / 64 + 1, sizeof(*o->used));
	if (!o->used)
		return -ENOMEM;
	for (i = 0; i < o->nr; i++) {
		slot = (const void *)(m->base + slot_off_locked(o, i));
		if (get64(*slot))
			bits_set(o->used, i, 1);
	}
	return 0;
}

int orphans_load(struct media *m)
{
	struct orphans *o = calloc(1, sizeof(*o));
	int err;

	if (!o)
		return -ENOMEM;
	pthread_mutex_init(&o->grow, NULL);
	pthread_mutex_init(&o->lock, NULL);
	err = ifile_load(m, PDX_ORPHAN_RECORD, PDX_ORPHAN_INO, &o->file);
	if (!err)
		err = scan(m, o);
	if (err) {
		orphans_destroy(o);
		return err;
	}
	m->orphans = o;
	return 0;
}

void orphans_destroy(struct orphans *o)
{
	if (!o)
		return;
	ifile_fini(&o->file);
	free(o->used);
	pthread_mutex_destroy(&o->lock);
	pthread_mutex_destroy(&o->grow);
	free(o);
}
