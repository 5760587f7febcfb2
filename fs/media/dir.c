// SPDX-License-Identifier: BSD-3-Clause
/*
 * Directories: the index in memory, and changes through a transaction.
 *
 * Owns: the index of a directory that is in use. Not: the layout of entries in
 * a block (dirblk.c), link counts and inodes (fs core).
 * Key invariants: outside of a transaction the index says what the media says.
 * Inside of one it says what the media will say after the commit; every change
 * is on the undo list until dir_commit() or dir_abort(). Entries never move, so
 * a cursor stays good while others come and go.
 * An addition looks for its block from the lowest one that may have room for an
 * entry of that size: filling a directory is O(1) an entry.
 * Locks: the directory inode's, held by the caller. docs/FORMAT.md,
 * "Directories".
 */
#include "fs/media/dir.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fs/media/dirblk.h"
#include "fs/media/internal.h"

#define MIN_BUCKETS 16U
#define SIZE_CLASSES (DIRENT_MAX / 8 + 1)

struct dent {
	struct dent *next; /* of the bucket */
	uint64_t pos;	   /* byte offset in the directory */
	uint64_t ino;
	uint32_t hash;
	uint8_t type;
	uint8_t len;
	char name[];
};

enum change {
	CHANGE_ADD,
	CHANGE_DEL,
	CHANGE_SET,
};

struct undo {
	enum change kind;
	struct dent *e;
	uint64_t old_ino; /* CHANGE_SET */
	uint8_t old_type;
};

struct dir {
	struct media *m;
	uint64_t ino;
	uint64_t *blk; /* blocks of the directory */
	uint16_t *gap; /* longest free record of each */
	uint64_t nr_blk, cap_blk;
	uint64_t stable_blk;	     /* nr_blk of the media */
	uint64_t hint[SIZE_CLASSES]; /* no block below has room for 8 * i */
	struct dent **bucket;
	uint64_t nr_buckets; /* power of two */
	uint64_t nr;
	struct undo *undo;
	unsigned int nr_undo, cap_undo;
};

/* --- hash index --- */

static uint32_t name_hash(const char *name, size_t len)
{
	uint64_t h = 0xcbf29ce484222325ULL;

	while (len--)
		h = (h ^ (unsigned char)*name++) * 0x100000001b3ULL;
	return (uint32_t)(h ^ h >> 32);
}

static struct dent **bucket_of(struct dir *d, uint32_t hash)
{
	return &d->bucket[hash & (d->nr_buckets - 1)];
}

static struct dent *find(struct dir *d, const char *name, size_t len)
{
	uint32_t hash = name_hash(name, len);
	struct dent *e;

	for (e = *bucket_of(d, hash); e; e = e->next) {
		if (e->hash == hash && e->len == len &&
		    !memcmp(e->name, name, len))
			return e;
	}
	return NULL;
}

static void link_dent(struct dir *d, struct dent *e)
{
	struct dent **b = bucket_of(d, e->hash);

	e->next = *b;
	*b = e;
	d->nr++;
}

static void unlink_dent(struct dir *d, struct dent *e)
{
	struct dent **p = bucket_of(d, e->hash);

	while (*p != e)
		p = &(*p)->next;
	*p = e->next;
	d->nr--;
}

/* Twice the buckets when there are more entries; if no memory: slower. */
static void grow_index(struct dir *d)
{
	struct dent **old = d->bucket, *e;
	uint64_t nr_old = d->nr_buckets, i;

	if (d->nr < d->nr_buckets)
		return;
	d->bucket = calloc(nr_old * 2, sizeof(struct dent *));
	if (!d->bucket) {
		d->bucket = old;
		return;
	}
	d->nr_buckets = nr_old * 2;
	d->nr = 0;
	for (i = 0; i < nr_old; i++) {
		while ((e = old[i])) {
			old[i] = e->next;
			link_dent(d, e);
		}
	}
	free(old);
}

static struct dent *new_dent(const char *name, size_t len, uint64_t ino,
			     uint8_t type, uint64_t pos)
{
	struct dent *e = malloc(sizeof(*e) + len);

	if (!e)
		return NULL;
	e->pos = pos;
	e->ino = ino;
	e->hash = name_hash(name, len);
	e->type = type;
	e->len = (uint8_t)len;
	memcpy(e->name, name, len);
	return e;
}

/* --- load --- */

static const struct pdx_dirblk *block_at(const struct dir *d, uint64_t b)
{
	return media_ptr(d->m, d->blk[b]);
}

static int load_block(struct dir *d, uint64_t b)
{
	const struct pdx_dirblk *blk = block_at(d, b);
	const struct pdx_dirent *de;
	struct dent *e;
	unsigned int off;
	int err = dirblk_check(blk, d->ino);

	if (err)
		return err;
	for (off = 0; (de = dirblk_at(blk, off)); off += get16(de->rec_len)) {
		if (!get64(de->ino))
			continue;
		if (find(d, (const char *)de->name, de->name_len))
			return -EBADMSG; /* one name twice */
		e = new_dent((const char *)de->name, de->name_len,
			     get64(de->ino), de->type, dirblk_pos(b, off));
		if (!e)
			return -ENOMEM;
		grow_index(d);
		link_dent(d, e);
	}
	d->gap[b] = dirblk_gap(blk);
	return 0;
}

static int load(struct dir *d, const struct pdx_inode *di)
{
	uint64_t nr = get64(di->size) >> PDX_BLOCK_SHIFT, b;
	int err;

	if (get64(di->size) % PDX_BLOCK_SIZE)
		return -EBADMSG;
	err = extent_map_all(d->m, di, nr, &d->blk);
	if (err)
		return err;
	d->gap = calloc(nr + 1, sizeof(*d->gap));
	d->bucket = calloc(MIN_BUCKETS, sizeof(struct dent *));
	if (!d->gap || !d->bucket)
		return -ENOMEM;
	d->nr_buckets = MIN_BUCKETS;
	d->nr_blk = d->cap_blk = d->stable_blk = nr;
	for (b = 0; b < nr && !err; b++)
		err = load_block(d, b);
	return err;
}

int dir_open(struct media *m, const struct pdx_inode *di, struct dir **ret_d)
{
	struct dir *d = calloc(1, sizeof(*d));
	int err;

	if (!d)
		return -ENOMEM;
	d->m = m;
	d->ino = get64(di->ino);
	err = load(d, di);
	if (err)
		dir_close(d);
	else
		*ret_d = d;
	return err;
}

void dir_close(struct dir *d)
{
	struct dent *e;
	uint64_t i;

	if (!d)
		return;
	for (i = 0; i < d->nr_buckets; i++) {
		while ((e = d->bucket[i])) {
			d->bucket[i] = e->next;
			free(e);
		}
	}
	for (i = 0; i < d->nr_undo; i++) {
		if (d->undo[i].kind == CHANGE_DEL)
			free(d->undo[i].e);
	}
	free(d->undo);
	free(d->bucket);
	free(d->gap);
	free(d->blk);
	free(d);
}

uint64_t dir_nr(const struct dir *d)
{
	return d->nr;
}

int dir_lookup(struct dir *d, const char *name, size_t len, uint64_t *ret_ino,
	       uint8_t *ret_type)
{
	const struct dent *e = find(d, name, len);

	if (!e)
		return -ENOENT;
	*ret_ino = e->ino;
	*ret_type = e->type;
	return 0;
}

/* --- changes --- */

static int reserve_undo(struct dir *d)
{
	unsigned int cap = d->cap_undo ? d->cap_undo * 2 : 4;
	struct undo *p;

	if (d->nr_undo < d->cap_undo)
		return 0;
	p = realloc(d->undo, cap * sizeof(*p));
	if (!p)
		return -ENOMEM;
	d->undo = p;
	d->cap_undo = cap;
	return 0;
}

static void note(struct dir *d, enum change kind, struct dent *e)
{
	d->undo[d->nr_undo++] = (struct undo){kind, e, e->ino, e->type};
}

static void set_gap(struct dir *d, uint64_t b, uint16_t gap)
{
	unsigned int class;

	d->gap[b] = gap;
	for (class = 0; class < SIZE_CLASSES && class * 8 <= gap; class ++) {
		if (b < d->hint[class])
			d->hint[class] = b;
	}
}

static int reserve_blk(struct dir *d)
{
	uint64_t cap = d->cap_blk ? d->cap_blk * 2 : 4, *blk;
	uint16_t *gap;

	if (d->nr_blk < d->cap_blk)
		return 0;
	blk = realloc(d->blk, cap * sizeof(*blk));
	if (!blk)
		return -ENOMEM;
	d->blk = blk;
	gap = realloc(d->gap, cap * sizeof(*gap));
	if (!gap)
		return -ENOMEM;
	d->gap = gap;
	d->cap_blk = cap;
	return 0;
}

/* One block more, all of it free. */
static int append_block(struct tx *tx, struct dir *d, struct pdx_inode *di)
{
	uint64_t goal = d->nr_blk ? d->blk[d->nr_blk - 1] + 1 : 0;
	unsigned int mark = tx_mark(tx);
	struct pdx_dirblk *blk;
	uint64_t block, nr;
	int err = reserve_blk(d);

	if (err)
		return err;
	err = alloc_blocks(tx, goal, 1, ALLOC_META | ALLOC_GROWTH, &block, &nr);
	if (err)
		return err;
	blk = tx_new_block(tx, block);
	if (!blk || !tx_edit_block(tx, block))
		return tx_error(tx);
	dirblk_init(blk, d->ino);
	err = extent_insert(tx, di, d->nr_blk, block, 1);
	if (err) {
		tx_rewind(tx, mark);
		return err;
	}
	d->blk[d->nr_blk] = block;
	d->gap[d->nr_blk] = dirblk_gap(blk);
	d->nr_blk++;
	di->size = mk64(d->nr_blk << PDX_BLOCK_SHIFT);
	return 0;
}

static int find_block(struct tx *tx, struct dir *d, struct pdx_inode *di,
		      unsigned int need, uint64_t *ret_b)
{
	uint64_t b = d->hint[need / 8];
	int err = 0;

	while (b < d->nr_blk && d->gap[b] < need)
		b++;
	if (b == d->nr_blk)
		err = append_block(tx, d, di);
	d->hint[need / 8] = b;
	*ret_b = b;
	return err;
}

int dir_add(struct tx *tx, struct dir *d, struct pdx_inode *di,
	    const char *name, size_t len, uint64_t ino, uint8_t type)
{
	struct pdx_dirblk *blk;
	struct dent *e;
	uint64_t b;
	int err;

	if (!dirent_name_ok(name, len) || !ino)
		return -EINVAL;
	if (find(d, name, len))
		return -EEXIST;
	err = reserve_undo(d);
	if (!err)
		err = find_block(tx, d, di, dirent_size(len), &b);
	if (err)
		return err;
	e = new_dent(name, len, ino, type, 0);
	if (!e)
		return -ENOMEM;
	blk = tx_edit_block(tx, d->blk[b]);
	if (!blk) {
		free(e);
		return tx_error(tx);
	}
	e->pos = dirblk_pos(b, dirblk_add(blk, name, len, ino, type));
	d->gap[b] = dirblk_gap(blk);
	grow_index(d);
	link_dent(d, e);
	note(d, CHANGE_ADD, e);
	return 0;
}

int dir_del(struct tx *tx, struct dir *d, const char *name, size_t len)
{
	struct dent *e = find(d, name, len);
	struct pdx_dirblk *blk;
	uint64_t b;
	int err;

	if (!e)
		return -ENOENT;
	err = reserve_undo(d);
	if (err)
		return err;
	b = e->pos >> PDX_BLOCK_SHIFT;
	blk = tx_edit_block(tx, d->blk[b]);
	if (!blk)
		return tx_error(tx);
	dirblk_del(blk, dirblk_off(e->pos));
	set_gap(d, b, dirblk_gap(blk));
	unlink_dent(d, e);
	note(d, CHANGE_DEL, e);
	return 0;
}

int dir_set(struct tx *tx, struct dir *d, const char *name, size_t len,
	    uint64_t ino, uint8_t type)
{
	struct dent *e = find(d, name, len);
	struct pdx_dirblk *blk;
	int err;

	if (!e)
		return -ENOENT;
	if (!ino)
		return -EINVAL;
	err = reserve_undo(d);
	if (err)
		return err;
	blk = tx_edit_block(tx, d->blk[e->pos >> PDX_BLOCK_SHIFT]);
	if (!blk)
		return tx_error(tx);
	dirblk_set(blk, dirblk_off(e->pos), ino, type);
	note(d, CHANGE_SET, e);
	e->ino = ino;
	e->type = type;
	return 0;
}

void dir_commit(struct dir *d)
{
	unsigned int i;

	for (i = 0; i < d->nr_undo; i++) {
		if (d->undo[i].kind == CHANGE_DEL)
			free(d->undo[i].e);
	}
	d->nr_undo = 0;
	d->stable_blk = d->nr_blk;
}

static void undo_one(struct dir *d, const struct undo *u)
{
	uint64_t b = u->e->pos >> PDX_BLOCK_SHIFT;

	/* The media was not changed: it says how much room there is. */
	if (b < d->stable_blk)
		set_gap(d, b, dirblk_gap(block_at(d, b)));
	switch (u->kind) {
	case CHANGE_ADD:
		unlink_dent(d, u->e);
		free(u->e);
		break;
	case CHANGE_DEL:
		link_dent(d, u->e);
		break;
	case CHANGE_SET:
		u->e->ino = u->old_ino;
		u->e->type = u->old_type;
		break;
	}
}

void dir_abort(struct dir *d)
{
	unsigned int class;

	while (d->nr_undo)
		undo_one(d, &d->undo[--d->nr_undo]);
	d->nr_blk = d->stable_blk;
	for (class = 0; class < SIZE_CLASSES; class ++) {
		if (d->hint[class] > d->nr_blk)
			d->hint[class] = d->nr_blk;
	}
}

/* --- reading in order --- */

int dir_next(struct dir *d, uint64_t cursor, struct dir_entry *ret_e)
{
	uint64_t pos = cursor ? cursor - 1 : 0;
	uint64_t b = pos >> PDX_BLOCK_SHIFT;
	const struct pdx_dirent *de;
	unsigned int off;

	for (; b < d->stable_blk; b++) {
		const struct pdx_dirblk *blk = block_at(d, b);

		for (off = 0; (de = dirblk_at(blk, off));
		     off += get16(de->rec_len)) {
			if (!get64(de->ino) || dirblk_pos(b, off) < pos)
				continue;
			ret_e->ino = get64(de->ino);
			ret_e->next =
				dirblk_pos(b, off) + get16(de->rec_len) + 1;
			ret_e->type = de->type;
			ret_e->len = de->name_len;
			memcpy(ret_e->name, de->name, de->name_len);
			ret_e->name[de->name_len] = '\0';
			return 0;
		}
		if (off != sizeof(blk->data))
			return -EBADMSG;
	}
	return -ENOENT;
}
