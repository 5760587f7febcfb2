/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_DIR_H
#define PINDAX_FS_MEDIA_DIR_H

#include <stdint.h>
#include "fs/media/tx.h"

/*
 * A directory: blocks of entries on media that never move, and a hash index in
 * memory that is built at the first use. The cursor of an entry is its byte
 * offset in the directory + 1, stable while others come and go.
 * "." and ".." are not stored. Caller holds the directory inode's lock, shared
 * for look-ups, exclusive for changes (until after tx_commit()).
 */
struct dir;

/* Load. -EBADMSG, -ENOMEM. */
int dir_open(struct media *m, const struct pdx_inode *di, struct dir **ret_d);
void dir_close(struct dir *d);
uint64_t dir_nr(const struct dir *d);

/* -ENOENT */
int dir_lookup(struct dir *d, const char *name, size_t len, uint64_t *ret_ino,
	       uint8_t *ret_type);
/*
 * Changes are seen in the index at once and taken back by dir_abort(): after
 * tx_commit() call dir_commit() or dir_abort() accordingly.
 * dir_add: -ENOSPC; the name must not be there. di is the directory's edit
 * (grows). dir_del, dir_set: the name must be there.
 */
int dir_add(struct tx *tx, struct dir *d, struct pdx_inode *di,
	    const char *name, size_t len, uint64_t ino, uint8_t type);
int dir_del(struct tx *tx, struct dir *d, const char *name, size_t len);
int dir_set(struct tx *tx, struct dir *d, const char *name, size_t len,
	    uint64_t ino, uint8_t type);
void dir_commit(struct dir *d);
void dir_abort(struct dir *d);

struct dir_entry {
	uint64_t ino;
	uint64_t next; /* cursor to go on with */
	uint8_t type;
	uint8_t len;
	char name[256]; /* NUL terminated */
};
/* The first entry at or after @cursor (0: start). -ENOENT at the end. */
int dir_next(struct dir *d, uint64_t cursor, struct dir_entry *ret_e);

#endif
