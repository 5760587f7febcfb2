// SPDX-License-Identifier: BSD-3-Clause
/*
 * Internal files: the inode table and the orphan file are files without names,
 * whose inode records lie in the root block.
 *
 * Owns: their records and the list of their blocks in memory. Not: what is in
 * them (itable.c, orphan.c).
 * Key invariant: such a file has no holes, only grows, and grows in a
 * transaction of its own that is committed before anybody uses the new blocks.
 * So the growth stays when the transaction that asked for it aborts, and nobody
 * else ever edits the record.
 * Locks: the owner's; growing is serialised by the owner as well.
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>

int ifile_load(struct media *m, uint32_t record, uint64_t ino, struct ifile *f)
{
	uint64_t off = (get64(m->sb.root_block) << PDX_BLOCK_SHIFT) +
		       (uint64_t)record * PDX_INODE_SIZE;
	struct pdx_inode di;
	uint64_t nr;
	int err;

	memcpy(&di, m->base + off, sizeof(di));
	err = inode_check(&di, ino);
	if (err)
		return -EBADMSG;
	nr = get64(di.size) >> PDX_BLOCK_SHIFT;
	if (get64(di.size) % PDX_BLOCK_SIZE)
		return -EBADMSG;
	err = extent_map_all(m, &di, nr, &f->blk);
	if (err)
		return err;
	f->nr = nr;
	f->ino = ino;
	f->rec_off = off;
	return 0;
}

void ifile_fini(struct ifile *f)
{
	free(f->blk);
	f->blk = NULL;
}

static int grow(struct media *m, struct tx *tx, struct ifile *f, uint64_t want,
		unsigned int flags, uint64_t *ret_block, uint64_t *ret_nr)
{
	uint64_t goal = f->nr ? f->blk[f->nr - 1] + 1 : 0;
	struct pdx_inode *di = tx_edit_record(tx, f->rec_off);
	int err;

	if (!di)
		return tx_error(tx);
	err = alloc_blocks(tx, goal, want, flags, ret_block, ret_nr);
	if (err)
		return err;
	/* Unreachable until the commit, whose fence covers the zeros, too. */
	pmem_memset(m->pool, media_ptr(m, *ret_block), 0,
		    *ret_nr << PDX_BLOCK_SHIFT);
	err = extent_insert_flags(tx, di, f->nr, *ret_block, *ret_nr, flags);
	if (!err)
		di->size = mk64((f->nr + *ret_nr) << PDX_BLOCK_SHIFT);
	return err;
}

int ifile_grow(struct media *m, struct ifile *f, uint64_t want,
	       unsigned int flags, uint64_t *ret_block, uint64_t *ret_nr)
{
	uint64_t block = 0, nr = 0;
	struct tx *tx;
	int err = tx_begin(m, &tx);

	if (err)
		return err;
	err = grow(m, tx, f, want, flags, &block, &nr);
	if (err) {
		tx_abort(tx);
		return err;
	}
	err = tx_commit(tx);
	if (err)
		return err;
	*ret_block = block;
	*ret_nr = nr;
	return 0;
}

int ifile_reserve(struct ifile *f, uint64_t more)
{
	uint64_t *p = realloc(f->blk, (f->nr + more + 1) * sizeof(*p));

	if (!p)
		return -ENOMEM;
	f->blk = p;
	return 0;
}

void ifile_append(struct ifile *f, uint64_t block, uint64_t nr)
{
	while (nr--)
		f->blk[f->nr++] = block++;
}
