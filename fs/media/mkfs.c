// SPDX-License-Identifier: BSD-3-Clause
/*
 * Making an empty filesystem in a namespace.
 *
 * Owns: the choice of the regions' sizes. Not: the pool file and its labels
 * (cmd/mkfs.c, pagemap/label.c).
 * Key invariant: both superblocks are wiped before anything else and written
 * after everything else, so a namespace that was left half made is no
 * filesystem. Hence nothing here needs the journal.
 * Locks: none; the caller has claimed the namespace.
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <sys/stat.h>

#define SMALL_POOL (64ULL << 20) /* below: a smaller journal */

struct plan {
	uint64_t nr_blocks;
	uint64_t ledger;
	uint32_t lanes, lane_blocks;
	uint64_t journal, bitmap, bitmap_blocks, mapped, mapped_blocks;
	uint64_t root, data;
	uint64_t itable, orphans, used_end; /* first blocks of the data area */
};

static void plan_make(uint64_t len_bytes, struct plan *p)
{
	bool small = len_bytes < SMALL_POOL;
	uint64_t nr = len_bytes >> PDX_BLOCK_SHIFT;

	p->nr_blocks = nr;
	p->ledger = nr / 64;
	if (p->ledger < PDX_MIN_LEDGER_BLOCKS)
		p->ledger = PDX_MIN_LEDGER_BLOCKS;
	if (p->ledger > PDX_MAX_LEDGER_BLOCKS)
		p->ledger = PDX_MAX_LEDGER_BLOCKS;
	p->lanes = small ? 4 : 8;
	p->lane_blocks = small ? 32 : 64;
	p->journal = 3 + p->ledger;
	p->bitmap = p->journal + (uint64_t)p->lanes * p->lane_blocks;
	p->bitmap_blocks = div_up(nr, PDX_BLOCK_SIZE * 8ULL);
	p->mapped = p->bitmap + p->bitmap_blocks;
	p->mapped_blocks = div_up(nr, PDX_BLOCK_SIZE * 8ULL * PDX_GROUP_BLOCKS);
	p->root = p->mapped + p->mapped_blocks;
	p->data = p->root + 1;
	p->itable = p->data;
	p->orphans = p->itable + ITABLE_CHUNK;
	p->used_end = p->orphans + ORPHAN_CHUNK;
}

struct target {
	struct pmem_pool *pool;
	char *base;
};

static void *at(const struct target *t, uint64_t block)
{
	return t->base + (block << PDX_BLOCK_SHIFT);
}

static void wipe(const struct target *t, uint64_t block, uint64_t nr)
{
	pmem_memset(t->pool, at(t, block), 0, nr << PDX_BLOCK_SHIFT);
}

static void write_bitmap(const struct target *t, const struct plan *p)
{
	unsigned char *map = at(t, p->bitmap);
	uint64_t bits = p->bitmap_blocks * PDX_BLOCK_SIZE * 8, b;

	for (b = 0; b < p->used_end; b++)
		map[b / 8] |= (unsigned char)(1U << (b & 7));
	for (b = p->nr_blocks - 1; b < bits; b++)
		map[b / 8] |= (unsigned char)(1U << (b & 7));
	pmem_flush(t->pool, map, p->bitmap_blocks << PDX_BLOCK_SHIFT);
}

static void write_inode(const struct target *t, void *where,
			struct pdx_inode *di)
{
	di->magic = mk32(PDX_INODE_MAGIC);
	di->state = mk32(PDX_INO_USED);
	di->gen = mk32(1);
	di->csum = mk32(csum_at4(di, sizeof(*di)));
	pmem_memcpy(t->pool, where, di, sizeof(*di));
}

static void write_internal(const struct target *t, const struct plan *p,
			   uint32_t record, uint64_t ino, uint64_t block,
			   uint32_t nr)
{
	struct pdx_inode di = {
		.ino = mk64(ino),
		.mode = mk32(S_IFREG | 0600),
		.nlink = mk32(1),
		.size = mk64((uint64_t)nr << PDX_BLOCK_SHIFT),
		.nr_blocks = mk64(nr),
		.ext_nr = mk16(1),
	};

	di.ext[0].pblk = mk64(block);
	di.ext[0].nr = mk32(nr);
	write_inode(t, (struct pdx_inode *)at(t, p->root) + record, &di);
}

static void write_root_dir(const struct target *t, const struct plan *p,
			   const struct mkfs_options *opt)
{
	struct pdx_inode di = {
		.ino = mk64(PDX_ROOT_INO),
		.mode = mk32(S_IFDIR | 0755),
		.nlink = mk32(2),
		.uid = mk32(opt->uid),
		.gid = mk32(opt->gid),
		.atime_ns = mk64(opt->now_ns),
		.mtime_ns = mk64(opt->now_ns),
		.ctime_ns = mk64(opt->now_ns),
		.btime_ns = mk64(opt->now_ns),
		.parent = mk64(PDX_ROOT_INO),
	};

	write_inode(t, (struct pdx_inode *)at(t, p->itable) + PDX_ROOT_INO,
		    &di);
}

static void super_fill(struct pdx_super *sb, const struct plan *p,
		       const struct label_ns *ns,
		       const struct mkfs_options *opt)
{
	sb->magic = mk64(PDX_SUPER_MAGIC);
	sb->version = mk32(PDX_VERSION);
	memcpy(sb->uuid, ns->uuid, sizeof(sb->uuid));
	if (opt->label)
		memcpy(sb->label, opt->label,
		       strnlen(opt->label, PDX_LABEL_MAX));
	sb->nr_blocks = mk64(p->nr_blocks);
	sb->control_block = mk64(1);
	sb->nr_ledger_blocks = mk64(p->ledger);
	sb->journal_block = mk64(p->journal);
	sb->nr_lanes = mk32(p->lanes);
	sb->lane_blocks = mk32(p->lane_blocks);
	sb->bitmap_block = mk64(p->bitmap);
	sb->bitmap_blocks = mk64(p->bitmap_blocks);
	sb->mapped_block = mk64(p->mapped);
	sb->mapped_blocks = mk64(p->mapped_blocks);
	sb->root_block = mk64(p->root);
	sb->data_block = mk64(p->data);
	sb->dir_index = mk32(PDX_DIR_INDEX_LINEAR);
	sb->state = mk32(PDX_STATE_CLEAN);
	sb->mkfs_time_ns = mk64(opt->now_ns);
}

int media_mkfs(struct pmem_pool *pool, const struct label_ns *ns,
	       const struct mkfs_options *opt)
{
	struct target t = {pool, pool->base + ns->off};
	struct media m = {
		.pool = pool,
		.ns = *ns,
		.base = t.base,
		.sb_bad = -1,
	};
	struct plan p;

	if (ns->off % PMEM_HUGE_SIZE || ns->len % PDX_BLOCK_SIZE ||
	    ns->len < PDX_MIN_NS_SIZE || ns->off > pool->size_bytes ||
	    ns->len > pool->size_bytes - ns->off)
		return -EINVAL;
	if (opt->label && strlen(opt->label) > PDX_LABEL_MAX)
		return -EINVAL;
	plan_make(ns->len, &p);
	wipe(&t, 0, 1);
	wipe(&t, p.nr_blocks - 1, 1);
	pmem_drain(pool);
	wipe(&t, 1, p.used_end - 1);
	write_bitmap(&t, &p);
	write_internal(&t, &p, PDX_ITABLE_RECORD, PDX_ITABLE_INO, p.itable,
		       ITABLE_CHUNK);
	write_internal(&t, &p, PDX_ORPHAN_RECORD, PDX_ORPHAN_INO, p.orphans,
		       ORPHAN_CHUNK);
	write_root_dir(&t, &p, opt);
	/* All of it before the superblocks that say it is there. */
	pmem_drain(pool);
	m.nr_blocks = p.nr_blocks;
	super_fill(&m.sb, &p, ns, opt);
	super_write(&m);
	return 0;
}
