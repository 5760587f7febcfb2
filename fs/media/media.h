/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_MEDIA_H
#define PINDAX_FS_MEDIA_MEDIA_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include "fs/media/format.h"
#include "pagemap/crc32c.h"
#include "pagemap/label.h"
#include "pagemap/pmem.h"

/*
 * One namespace, open: superblock, journal, allocation state, orphan file.
 * Everything above (fs/) changes the media only through struct tx (tx.h).
 */
struct media {
	struct pmem_pool *pool;
	struct label_ns ns;
	char *base;	     /* pool->base + ns.off */
	struct pdx_super sb; /* in memory copy of the newer valid one */
	uint64_t nr_blocks;
	uint64_t data_block; /* first block of the data area */
	uint64_t end_block;  /* one past its last */
	bool readonly;
	bool was_unclean; /* the last daemon did not unmount */
	bool private_map; /* base is a copy-on-write mapping (fsck) */
	int sb_bad;	  /* -1, or the number of the bad superblock copy */
	struct journal *journal;
	struct alloc *alloc;
	struct itable *itable;
	struct orphans *orphans;
};

struct mkfs_options {
	const char *label; /* may be NULL */
	uint64_t now_ns;
	uint32_t uid; /* of the root directory */
	uint32_t gid;
};
#define PDX_MIN_NS_SIZE (12ULL << 20)

/* Format the namespace @ns of @pool (root directory included). 0, -EINVAL
 * too small, -ENOMEM. Writes superblocks last. */
int media_mkfs(struct pmem_pool *pool, const struct label_ns *ns,
	       const struct mkfs_options *opt);

struct media_report {	   /* what the mount prints */
	int sb_bad;	   /* -1 or the bad copy */
	uint64_t replayed; /* journal transactions */
	uint64_t orphans;  /* found on the orphan file */
	bool unclean;
	/* After a failure: the part that could not be read, else NULL. */
	const char *failed;
};

/*
 * media_open - validate, replay the journal (not with readonly: then a journal
 * that needs replay is -EROFS), load the allocation map and the inode table's
 * state. Orphans are left to the caller (orphans_next()).
 * -EINVAL bad magic in both superblocks; -EBADMSG checksums; -EPROTONOSUPPORT
 * version or incompat features; -EOVERFLOW the namespace is larger than the
 * pool; -ENOMEM.
 */
int media_open(struct pmem_pool *pool, const struct label_ns *ns, bool readonly,
	       struct media **ret_m, struct media_report *rep);
/* @clean: marks the superblock clean. NULL is fine. */
void media_close(struct media *m, bool clean);

static inline uint64_t media_pool_page(const struct media *m, uint64_t block)
{
	return (m->ns.off >> PDX_BLOCK_SHIFT) + block;
}
static inline uint64_t media_block_of(const struct media *m, uint64_t pool_page)
{
	return pool_page - (m->ns.off >> PDX_BLOCK_SHIFT);
}
static inline void *media_ptr(const struct media *m, uint64_t block)
{
	return m->base + (block << PDX_BLOCK_SHIFT);
}

/* --- inode table (itable.c): an internal file of 512-byte records --- */

/* Byte offset of the record in the namespace; 0: no such record. */
uint64_t itable_off(struct media *m, uint64_t ino);
/*
 * itable_read - copy of the record. -ENOENT free or no such inode; -EBADMSG
 * checksum, magic or number is wrong (an error of the media: the caller
 * returns EIO). The caller holds the inode's lock or knows it is not changing.
 */
int itable_read(struct media *m, uint64_t ino, struct pdx_inode *ret_di);
struct tx;
/* Picks a free number, grows the table when there is none; -ENOSPC. The number
 * goes back by itself when @tx aborts. *ret_gen: generation to store. */
int itable_alloc(struct tx *tx, uint64_t *ret_ino, uint32_t *ret_gen);
/* Clears the record; the number is free again after commit. */
int itable_free(struct tx *tx, uint64_t ino);
uint64_t itable_nr_used(struct media *m);

/* --- orphan file (orphan.c) --- */

/*
 * An inode is on it while it is PDX_INO_ORPHAN or PDX_INO_INTENT.
 * orphan_add finds a slot (grows the file from reserved blocks) and stores it
 * in
 * @di->orphan_slot; orphan_del clears it. @di is the tx's edit of the inode.
 */
int orphan_add(struct tx *tx, struct pdx_inode *di);
int orphan_del(struct tx *tx, struct pdx_inode *di);
/* Iterate at mount: *cursor starts at 0. -ENOENT at the end. */
int orphans_next(struct media *m, uint64_t *cursor, uint64_t *ret_ino);

#endif
