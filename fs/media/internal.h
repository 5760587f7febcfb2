/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_INTERNAL_H
#define PINDAX_FS_MEDIA_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include "fs/media/alloc.h"
#include "fs/media/extent.h"
#include "fs/media/media.h"
#include "fs/media/tx.h"

/* What the files of fs/media share among themselves, and their tests. */

/* The private mapping of fsck is memory only: nothing to make durable. */
static inline void media_flush(const struct media *m, const void *p, size_t len)
{
	if (!m->private_map)
		pmem_flush(m->pool, p, len);
}

static inline void media_drain(const struct media *m)
{
	if (!m->private_map)
		pmem_drain(m->pool);
}

static inline uint64_t div_up(uint64_t n, uint64_t by)
{
	return n / by + (n % by != 0);
}

/* Is [block, block + nr) inside the data area? nr > 0. */
static inline bool media_in_data(const struct media *m, uint64_t block,
				 uint64_t nr)
{
	return block >= m->data_block && block < m->end_block &&
	       nr <= m->end_block - block;
}

/* --- bit ranges of in-memory maps (bits.c) --- */
bool bit_test(const uint64_t *map, uint64_t bit);
void bits_set(uint64_t *map, uint64_t first, uint64_t nr);
void bits_clear(uint64_t *map, uint64_t first, uint64_t nr);
/* The first set (clear) bit of [from, end), or end. */
uint64_t bits_next_set(const uint64_t *map, uint64_t from, uint64_t end);
uint64_t bits_next_clear(const uint64_t *map, uint64_t from, uint64_t end);
uint64_t bits_count(const uint64_t *map, uint64_t first, uint64_t nr);

/* --- checksums at byte 4 (super.c) --- */
uint32_t csum_at4(const void *buf, size_t len);

/* Reserved bytes are zero, and read as an error when they are not. */
bool all_zero(const void *buf, size_t len);

/* --- superblocks (super.c) --- */
/* -EINVAL no magic; -EBADMSG; -EPROTONOSUPPORT; -EOVERFLOW. */
int super_check(const struct pdx_super *sb, uint64_t ns_blocks);
/* Stores m->sb in both copies, one after the other. */
void super_write(struct media *m);

enum media_mode {
	MEDIA_RW,
	MEDIA_RO,
	MEDIA_PRIVATE, /* replays into a copy-on-write mapping */
};
int media_load(struct pmem_pool *pool, const struct label_ns *ns,
	       enum media_mode mode, struct media **ret_m,
	       struct media_report *rep);

/* --- journal (journal.c) --- */

/* Records of one transaction, with room for the header in front. */
struct jbuf {
	char *data;
	uint32_t len; /* header included */
	uint32_t cap;
};
int jbuf_words(struct jbuf *b, uint64_t off, const void *data, uint32_t len);
int jbuf_bits(struct jbuf *b, uint32_t type, uint64_t block, uint64_t nr);

enum journal_step {
	JOURNAL_COMMITTED, /* in the lane, not in place */
	JOURNAL_APPLIED,   /* in place, lane still full */
	JOURNAL_EMPTIED,
};
struct journal {
	pthread_mutex_t lock;
	pthread_cond_t freed;
	uint64_t busy; /* lanes in use; guarded by lock */
	uint64_t seq;  /* last one given; guarded by lock */
	uint32_t nr_lanes;
	uint32_t lane_bytes;
	/* Crash tests look at the media between two steps. */
	void (*hook)(void *arg, enum journal_step step);
	void *hook_arg;
};
enum lane_state {
	LANE_EMPTY,
	LANE_FULL,
	LANE_TORN,
};
int journal_create(struct media *m);
void journal_destroy(struct journal *j);
enum lane_state journal_lane(const struct media *m, uint32_t lane,
			     struct pdx_lane *ret_hdr);
uint32_t journal_nr_full(const struct media *m);
/* -EBADMSG: a record with a good checksum names what no record may. */
int journal_replay(struct media *m, uint64_t *ret_nr);
uint32_t journal_capacity(const struct media *m); /* bytes of records */
void journal_run(struct media *m, struct jbuf *b);

/* --- transactions (tx.c) --- */
typedef void tx_end_fn(struct media *m, uint64_t arg, bool committed);
/* Called at the end, after the lane was emptied. */
int tx_on_end(struct tx *tx, tx_end_fn *fn, uint64_t arg);
struct pdx_inode *tx_edit_record(struct tx *tx, uint64_t off);
int tx_error(const struct tx *tx);
int tx_note_range(struct tx *tx, bool alloc, uint64_t block, uint64_t nr);
/* Takes back the allocations made since tx_mark(). */
unsigned int tx_mark(const struct tx *tx);
void tx_rewind(struct tx *tx, unsigned int mark);
/* The block was freed: its copy need not be written. */
void tx_forget(struct tx *tx, uint64_t block);
/* Is @p a copy of this transaction (whose checksum is made at commit)? */
bool tx_is_copy(struct tx *tx, uint64_t off, uint32_t len);

/* --- allocator (alloc.c, alloc_fence.c) --- */
struct alloc {
	pthread_mutex_t lock; /* guards everything below */
	uint64_t *map;	      /* 1: may not be allocated now */
	uint64_t *unfenced;   /* 1: mapped directly and not fenced since */
	uint64_t *quar;	      /* 1: the fence failed; also set in map */
	uint64_t *marked;     /* groups: copy of the marks on media */
	uint64_t *full;	      /* groups: all 512 blocks free */
	uint64_t *part;	      /* groups: some blocks free, not all */
	uint16_t *gfree;      /* free blocks of each group */
	uint64_t nr_groups;
	uint64_t hint_full; /* no full group below */
	uint64_t hint_part; /* no partial group below */
	uint64_t nr_free;
	uint64_t nr_pending;
	uint64_t nr_full;
	uint64_t nr_quar;
	uint64_t nr_unfenced_free; /* unfenced and not in map */
	uint64_t nr_fenced;	   /* since the mount */
	uint64_t reserve;
	bool retrying;
	bool fence_ok;
	bool unsafe;
	alloc_sink_fn *sink;
	void *sink_arg;
};
int alloc_load(struct media *m);
void alloc_destroy(struct alloc *a);
/* On the bitmap on media; takes the allocator's lock when there is one. */
void alloc_apply(struct media *m, uint64_t block, uint64_t nr, bool set);
void alloc_undo(struct media *m, uint64_t block, uint64_t nr);
void alloc_freed(struct media *m, uint64_t block, uint64_t nr);
void alloc_take_locked(struct alloc *a, uint64_t block, uint64_t nr);
void alloc_give_locked(struct alloc *a, uint64_t block, uint64_t nr);
void alloc_default_sink(void *arg, uint64_t block, uint64_t nr);
/* Tries the fence on quarantined blocks again: one piece, or all of them. */
void alloc_retry(struct media *m, bool all);
/* Fences what was just taken; what resists is quarantined. Returns how many
 * blocks from @block on are ready, the rest is back in the map. */
uint64_t alloc_ready(struct media *m, uint64_t block, uint64_t nr);
/* At a clean unmount: groups without unfenced blocks lose their mark. */
void alloc_clear_marks(struct media *m);

/* --- extents (extent.c) --- */
struct etree {		/* one node, or the root in the record */
	uint64_t block; /* 0: root */
	unsigned int nr;
	unsigned int level;
	const struct pdx_extent *rec;
	unsigned int idx; /* record that the path goes through */
};
struct epath {
	struct etree node[PDX_MAX_DEPTH + 1]; /* [0] leaf ... [depth] root */
	unsigned int depth;
	uint64_t limit; /* first page that belongs to the next leaf */
};
int eroot_load(struct media *m, const struct pdx_inode *di, struct etree *n);
int enode_load(struct media *m, struct tx *tx, uint64_t ino, uint64_t block,
	       unsigned int level, struct etree *n);
/* Walks down to the leaf that would hold @lblk. -EBADMSG. */
int epath_find(struct media *m, struct tx *tx, const struct pdx_inode *di,
	       uint64_t lblk, struct epath *p);
/* First record of the leaf that ends beyond @lblk; nr when none. */
unsigned int eleaf_search(const struct etree *leaf, uint64_t lblk);
struct pdx_extent *enode_edit(struct tx *tx, struct pdx_inode *di,
			      const struct etree *n);
void enode_set_nr(struct tx *tx, struct pdx_inode *di, struct etree *n,
		  unsigned int nr);
/* The lowest page of node[level] may have changed: tell its parents. */
int epath_fix_keys(struct tx *tx, struct pdx_inode *di, struct epath *p,
		   unsigned int level);
int extent_insert_flags(struct tx *tx, struct pdx_inode *di, uint64_t lblk,
			uint64_t pblk, uint64_t nr, unsigned int flags);
/* Puts one record after position idx - 1 of the leaf, splitting full nodes. */
int epath_insert(struct tx *tx, struct pdx_inode *di, struct epath *p,
		 unsigned int idx, const struct pdx_extent *rec,
		 unsigned int flags);
/* For fsck: every tree block of the file, then every extent. */
struct extent_visit {
	int (*node)(void *arg, uint64_t block);
	int (*extent)(void *arg, const struct extent *e);
	void *arg;
};
int extent_visit(struct media *m, const struct pdx_inode *di,
		 const struct extent_visit *v);
/*
 * extent_map_all - blocks of pages [0, nr), none of which may be a hole.
 * -EBADMSG, -ENOMEM. Free with free().
 */
int extent_map_all(struct media *m, const struct pdx_inode *di, uint64_t nr,
		   uint64_t **ret_blocks);

/* --- internal files (ifile.c) --- */
struct ifile {
	uint64_t rec_off; /* of its record in the namespace */
	uint64_t ino;
	uint64_t *blk; /* guarded by the owner's lock, as nr */
	uint64_t nr;
};
int ifile_load(struct media *m, uint32_t record, uint64_t ino, struct ifile *f);
void ifile_fini(struct ifile *f);
/* Commits up to @want zeroed blocks more; the owner then appends them. */
int ifile_grow(struct media *m, struct ifile *f, uint64_t want,
	       unsigned int flags, uint64_t *ret_block, uint64_t *ret_nr);
int ifile_reserve(struct ifile *f, uint64_t more);
void ifile_append(struct ifile *f, uint64_t block, uint64_t nr);

/* --- inode table, orphan file --- */
#define PDX_INODES_PER_BLOCK (PDX_BLOCK_SIZE / PDX_INODE_SIZE)
#define PDX_SLOTS_PER_BLOCK (PDX_BLOCK_SIZE / 8U)
#define ITABLE_CHUNK 64U /* blocks */
#define ORPHAN_CHUNK 4U
/* -ENOENT a free record; -EBADMSG. */
int inode_check(const struct pdx_inode *di, uint64_t ino);
int itable_load(struct media *m);
void itable_destroy(struct itable *t);
uint64_t itable_nr_records(struct media *m);
int orphans_load(struct media *m);
void orphans_destroy(struct orphans *o);

#endif
