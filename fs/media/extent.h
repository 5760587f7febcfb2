/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_EXTENT_H
#define PINDAX_FS_MEDIA_EXTENT_H

#include <stdint.h>
#include "fs/media/tx.h"

/*
 * The extents of a file: a B+tree on media, its root in the inode record (14
 * records), nodes of 168. Read in place, changed through a transaction.
 * The caller holds the inode's lock: shared to look up, exclusive to change.
 */
struct extent {
	uint64_t lblk; /* file page */
	uint64_t pblk; /* block of the namespace; 0: a hole */
	uint64_t nr;   /* pages */
};

/*
 * extent_lookup - the extent or hole that holds page @lblk, cut so that it
 * starts at @lblk; a last hole is endless (nr = UINT64_MAX - lblk).
 * -EBADMSG: corrupt node. @di is the record (copy, or the tx's edit with @tx;
 * @tx may be NULL).
 */
int extent_lookup(struct media *m, struct tx *tx, const struct pdx_inode *di,
		  uint64_t lblk, struct extent *ret_ext);
/*
 * extent_insert - map hole [lblk, lblk + nr) to @pblk; merges with neighbours.
 * Updates di->nr_blocks (tree blocks included). -ENOSPC (a tree block).
 */
int extent_insert(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
		  uint64_t pblk, uint64_t nr);
/*
 * extent_remove - free the blocks of [lblk, lblk + nr), splitting at the edges.
 * Handles as many extents as tx_room() allows: *ret_done is the first page not
 * handled yet (lblk + nr when all are). Never -ENOSPC (a split may use the
 * reserve).
 */
int extent_remove(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
		  uint64_t nr, uint64_t *ret_done);

/* Walks extents (not holes) of [lblk, lblk + nr); stops when fn returns != 0
 * and returns that. */
int extent_walk(struct media *m, const struct pdx_inode *di, uint64_t lblk,
		uint64_t nr, int (*fn)(const struct extent *e, void *arg),
		void *arg);

#endif
