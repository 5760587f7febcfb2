/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_TX_H
#define PINDAX_FS_MEDIA_TX_H

#include <stdint.h>
#include "fs/media/media.h"

/*
 * One transaction: all of it is on media after a crash, or none of it.
 *
 * A redo journal. tx_edit() hands out a copy of an object; the caller changes
 * the copy. At commit the changed 8-byte words and the bit ranges are written
 * to a lane with a checksum, one fence; then they are applied in place, one
 * fence; then the lane is emptied, one fence. Nothing is in place before it is
 * in the journal, so an abort has nothing to undo on media.
 *
 * Isolation is the caller's: it holds the lock of every object it edits until
 * tx_commit() has returned (docs/LOCKING.md). Objects of one transaction never
 * overlap in part: the same (off, len) gives the same copy.
 * One transaction is used by one thread. tx_commit() may sleep for a free lane;
 * nothing before it holds one, so transactions may nest (a table that grows
 * commits a transaction of its own inside the caller's).
 */
struct tx;

int tx_begin(struct media *m, struct tx **ret_tx);
/*
 * The copy to change; kept until commit or abort. @off and @len are multiples
 * of 8. NULL: no memory or the
 * transaction would outgrow its lane: the error sticks and commit returns it
 * (after undoing everything as an abort does).
 */
void *tx_edit(struct tx *tx, uint64_t off, uint32_t len);
/* What this transaction would see at @off: its own copy, else the media. */
const void *tx_view(struct tx *tx, uint64_t off, uint32_t len);
/* Bytes that lane space still allows, to chunk long work. */
uint32_t tx_room(struct tx *tx);
struct media *tx_media(struct tx *tx);

/* An inode record; its checksum is made at commit. NULL as tx_edit(). */
struct pdx_inode *tx_edit_inode(struct tx *tx, uint64_t ino);
/* A block with a header checksum at byte 4 (node, dirblk): made at commit. */
void *tx_edit_block(struct tx *tx, uint64_t block);
/* A block that was just allocated: the copy starts as zeros, and is written to
 * the block itself (unreachable yet), not through the journal. It gets a header
 * checksum only when tx_edit_block() is called for it as well. */
void *tx_new_block(struct tx *tx, uint64_t block);

/*
 * tx_commit - 0: durable. Else -errno and nothing happened: allocations are
 * taken back, frees forgotten. @tx is gone in both cases. After success the
 * freed ranges go to the free sink (alloc.h).
 */
int tx_commit(struct tx *tx);
void tx_abort(struct tx *tx); /* NULL is fine */

#endif
