// SPDX-License-Identifier: BSD-3-Clause
/*
 * The inode table: record N of an internal file is inode N.
 *
 * Owns: which numbers are free, and where a record lies. Not: what is in a
 * record beyond its header (fs core).
 * Key invariants: numbers that are free in memory are free on media and belong
 * to no transaction. Which are free is found by one pass over the table at
 * mount (about 60 ns a record). A record that is damaged counts as used: it is
 * never handed out, and fsck names it. A freed record keeps its generation.
 * Locks: itable->grow before itable->lock; a transaction commits under grow, so
 * grow comes before the allocator's and the journal's. docs/FORMAT.md,
 * "Inodes".
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

struct itable {
	pthread_mutex_t grow;  /* one at a time makes the table longer */
	pthread_rwlock_t lock; /* guards everything below */
	struct ifile file;
	uint64_t *used;
	uint64_t nr; /* records */
	uint64_t nr_used;
	uint64_t hint; /* no free number below */
};

/* --- records --- */

static bool mode_ok(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFLNK:
	case S_IFIFO:
	case S_IFSOCK:
	case S_IFCHR:
	case S_IFBLK:
		return !(mode >> 16);
	default:
		return false;
	}
}

int inode_check(const struct pdx_inode *di, uint64_t ino)
{
	if (!get32(di->magic) && all_zero(di, sizeof(*di)))
		return -ENOENT;
	if (get32(di->magic) != PDX_INODE_MAGIC ||
	    get32(di->csum) != csum_at4(di, sizeof(*di)) ||
	    get64(di->ino) != ino)
		return -EBADMSG;
	if (!(get32(di->state) & PDX_INO_USED))
		return -ENOENT;
	if (!mode_ok(get32(di->mode)) || get64(di->size) >> 63 ||
	    get32(di->reserved0) ||
	    !all_zero(di->reserved1, sizeof(di->reserved1)))
		return -EBADMSG;
	return 0;
}

static uint64_t record_off_locked(const struct itable *t, uint64_t ino)
{
	if (!ino || ino >= t->nr)
		return 0;
	return (t->file.blk[ino / PDX_INODES_PER_BLOCK] << PDX_BLOCK_SHIFT) +
	       ino % PDX_INODES_PER_BLOCK * PDX_INODE_SIZE;
}

uint64_t itable_off(struct media *m, uint64_t ino)
{
	struct itable *t = m->itable;
	uint64_t off;

	pthread_rwlock_rdlock(&t->lock);
	off = record_off_locked(t, ino);
	pthread_rwlock_unlock(&t->lock);
	return off;
}

int itable_read(struct media *m, uint64_t ino, struct pdx_inode *ret_di)
{
	uint64_t off = itable_off(m, ino);
	struct pdx_inode di;
	int err;

	if (!off)
		return -ENOENT;
	memcpy(&di, m->base + off, sizeof(di));
	err = inode_check(&di, ino);
	if (!err)
		*ret_di = di;
	return err;
}

/* --- numbers --- */

static void number_end(struct media *m, uint64_t ino, bool keep_used)
{
	struct itable *t = m->itable;

	if (keep_used)
		return;
	pthread_rwlock_wrlock(&t->lock);
	bits_clear(t->used, ino, 1);
	t->nr_used--;
	t->hint = ino < t->hint ? ino : t->hint;
	pthread_rwlock_unlock(&t->lock);
}

static void alloc_end(struct media *m, uint64_t ino, bool committed)
{
	number_end(m, ino, committed);
}

static void free_end(struct media *m, uint64_t ino, bool committed)
{
	number_end(m, ino, !committed);
}

static bool take_number(struct itable *t, uint64_t *ret_ino)
{
	uint64_t ino;
	bool found;

	pthread_rwlock_wrlock(&t->lock);
	ino = bits_next_clear(t->used, t->hint, t->nr);
	found = ino < t->nr;
	t->hint = ino;
	if (found) {
		bits_set(t->used, ino, 1);
		t->nr_used++;
		*ret_ino = ino;
	}
	pthread_rwlock_unlock(&t->lock);
	return found;
}

/* Room in memory first, so that a committed growth cannot be lost to -ENOMEM.
 */
static int reserve_locked(struct itable *t, uint64_t more_blocks)
{
	uint64_t nr = t->nr + more_blocks * PDX_INODES_PER_BLOCK;
	uint64_t *used = realloc(t->used, (nr / 64 + 1) * sizeof(*used));

	if (!used)
		return -ENOMEM;
	t->used = used;
	return ifile_reserve(&t->file, more_blocks);
}

static int grow_locked(struct media *m)
{
	struct itable *t = m->itable;
	uint64_t block, nr;
	int err;

	pthread_rwlock_wrlock(&t->lock);
	err = reserve_locked(t, ITABLE_CHUNK);
	pthread_rwlock_unlock(&t->lock);
	if (err)
		return err;
	err = ifile_grow(m, &t->file, ITABLE_CHUNK, ALLOC_META | ALLOC_GROWTH,
			 &block, &nr);
	if (err)
		return err;
	pthread_rwlock_wrlock(&t->lock);
	ifile_append(&t->file, block, nr);
	nr *= PDX_INODES_PER_BLOCK;
	bits_clear(t->used, t->nr, nr);
	t->nr += nr;
	pthread_rwlock_unlock(&t->lock);
	return 0;
}

static int get_number(struct media *m, uint64_t *ret_ino)
{
	struct itable *t = m->itable;
	int err = 0;

	if (take_number(t, ret_ino))
		return 0;
	pthread_mutex_lock(&t->grow);
	/* Somebody may have made it longer while this one waited. */
	while (!err && !take_number(t, ret_ino))
		err = grow_locked(m);
	pthread_mutex_unlock(&t->grow);
	return err;
}

int itable_alloc(struct tx *tx, uint64_t *ret_ino, uint32_t *ret_gen)
{
	struct media *m = tx_media(tx);
	const struct pdx_inode *old;
	uint64_t ino;
	int err = get_number(m, &ino);

	if (err)
		return err;
	err = tx_on_end(tx, alloc_end, ino);
	if (err) {
		number_end(m, ino, false);
		return err;
	}
	old = (const void *)(m->base + itable_off(m, ino));
	*ret_ino = ino;
	*ret_gen = get32(old->gen) + 1;
	return 0;
}

int itable_free(struct tx *tx, uint64_t ino)
{
	struct pdx_inode *di = tx_edit_inode(tx, ino);
	uint32_t gen;

	if (!di)
		return tx_error(tx);
	gen = get32(di->gen);
	memset(di, 0, sizeof(*di));
	di->magic = mk32(PDX_INODE_MAGIC);
	di->ino = mk64(ino);
	di->gen = mk32(gen);
	return tx_on_end(tx, free_end, ino);
}

uint64_t itable_nr_used(struct media *m)
{
	uint64_t nr;

	pthread_rwlock_rdlock(&m->itable->lock);
	nr = m->itable->nr_used;
	pthread_rwlock_unlock(&m->itable->lock);
	return nr;
}

uint64_t itable_nr_records(struct media *m)
{
	uint64_t nr;

	pthread_rwlock_rdlock(&m->itable->lock);
	nr = m->itable->nr;
	pthread_rwlock_unlock(&m->itable->lock);
	return nr;
}

/* --- load --- */

static int scan(struct media *m, struct itable *t)
{
	const struct pdx_inode *di;
	uint64_t ino;

	t->nr = t->file.nr * PDX_INODES_PER_BLOCK;
	t->used = calloc(t->nr / 64 + 1, sizeof(*t->used));
	if (!t->used)
		return -ENOMEM;
	for (ino = 1; ino < t->nr; ino++) {
		di = (const void *)(m->base + record_off_locked(t, ino));
		if (inode_check(di, ino) == -ENOENT)
			continue;
		bits_set(t->used, ino, 1);
		t->nr_used++;
	}
	if (t->nr)
		bits_set(t->used, 0, 1); /* no inode has number 0 */
	return 0;
}

int itable_load(struct media *m)
{
	struct itable *t = calloc(1, sizeof(*t));
	int err;

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->grow, NULL);
	pthread_rwlock_init(&t->lock, NULL);
	err = ifile_load(m, PDX_ITABLE_RECORD, PDX_ITABLE_INO, &t->file);
	if (!err)
		err = scan(m, t);
	if (err) {
		itable_destroy(t);
		return err;
	}
	m->itable = t;
	return 0;
}

void itable_destroy(struct itable *t)
{
	if (!t)
		return;
	ifile_fini(&t->file);
	free(t->used);
	pthread_rwlock_destroy(&t->lock);
	pthread_mutex_destroy(&t->grow);
	free(t);
}
