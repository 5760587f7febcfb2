// SPDX-License-Identifier: BSD-3-Clause
/*
 * Opening and closing a namespace: the two superblocks, and the order in which
 * the other parts are loaded.
 *
 * Owns: the superblocks. Not: the label area (pagemap/label.c), the content of
 * any other region.
 * Key invariants: the copies are written one after the other, each made durable
 * before the next, so one is good at every moment. Every size and sum in a
 * superblock is checked before it is used: super_check() is the only gate, and
 * what it lets through needs no further check of region bounds.
 * Locks: none; open and close are the owner's, before and after all use.
 * See docs/FORMAT.md, "Superblock".
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

uint32_t csum_at4(const void *buf, size_t len)
{
	static const char zero[4];
	const char *p = buf;
	uint32_t crc;

	crc = crc32c(0, p, 4);
	crc = crc32c(crc, zero, sizeof(zero));
	return crc32c(crc, p + 8, len - 8);
}

static uint32_t super_csum(const struct pdx_super *sb)
{
	static const char zero[4];
	const char *p = (const char *)sb;
	uint32_t crc;

	crc = crc32c(0, p, offsetof(struct pdx_super, csum));
	crc = crc32c(crc, zero, sizeof(zero));
	return crc32c(crc, p + 16, sizeof(*sb) - 16);
}

/* Regions follow each other without a gap, so sums of checked terms suffice. */
static bool geometry_ok(const struct pdx_super *sb)
{
	uint64_t nr = get64(sb->nr_blocks);
	uint64_t ledger = get64(sb->nr_ledger_blocks);
	uint64_t lanes = get32(sb->nr_lanes), lane = get32(sb->lane_blocks);
	uint64_t next = 1;

	if (nr < PDX_MIN_NS_SIZE / PDX_BLOCK_SIZE || nr >> 48)
		return false;
	if (get64(sb->control_block) != next ||
	    ledger < PDX_MIN_LEDGER_BLOCKS || ledger > PDX_MAX_LEDGER_BLOCKS)
		return false;
	next += 2 + ledger;
	if (get64(sb->journal_block) != next || !lanes ||
	    lanes > PDX_MAX_LANES || lane < 16 || lane > PDX_MAX_LANE_BLOCKS)
		return false;
	next += lanes * lane;
	if (get64(sb->bitmap_block) != next ||
	    get64(sb->bitmap_blocks) != div_up(nr, PDX_BLOCK_SIZE * 8ULL))
		return false;
	next += get64(sb->bitmap_blocks);
	if (get64(sb->mapped_block) != next ||
	    get64(sb->mapped_blocks) !=
		    div_up(nr, PDX_BLOCK_SIZE * 8ULL * PDX_GROUP_BLOCKS))
		return false;
	next += get64(sb->mapped_blocks);
	return get64(sb->root_block) == next &&
	       get64(sb->data_block) == next + 1 && next + 2 < nr - 1;
}

bool all_zero(const void *buf, size_t len)
{
	const unsigned char *p = buf;

	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

int super_check(const struct pdx_super *sb, uint64_t ns_blocks)
{
	if (get64(sb->magic) != PDX_SUPER_MAGIC)
		return -EINVAL;
	if (get32(sb->csum) != super_csum(sb))
		return -EBADMSG;
	if (get32(sb->version) != PDX_VERSION ||
	    get64(sb->incompat) & ~PDX_INCOMPAT_KNOWN ||
	    get32(sb->dir_index) != PDX_DIR_INDEX_LINEAR)
		return -EPROTONOSUPPORT;
	if (get64(sb->nr_blocks) > ns_blocks)
		return -EOVERFLOW;
	if (get64(sb->nr_blocks) != ns_blocks || !geometry_ok(sb) ||
	    !all_zero(sb->reserved, sizeof(sb->reserved)))
		return -EBADMSG;
	return 0;
}

/* Of two refusals the one that tells more. */
static int worse(int a, int b)
{
	static const int order[] = {-EPROTONOSUPPORT, -EOVERFLOW, -EBADMSG};
	unsigned int i;

	for (i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		if (a == order[i] || b == order[i])
			return order[i];
	}
	return -EINVAL;
}

/* A good copy that this version does not know is no reason to use an older. */
static int super_read(struct media *m)
{
	struct pdx_super sb[2];
	int err[2], i, use;

	for (i = 0; i < 2; i++) {
		memcpy(&sb[i], media_ptr(m, i ? m->nr_blocks - 1 : 0),
		       sizeof(sb[i]));
		err[i] = super_check(&sb[i], m->nr_blocks);
		if (err[i] == -EPROTONOSUPPORT)
			return err[i];
	}
	if (err[0] && err[1])
		return worse(err[0], err[1]);
	m->sb_bad = err[0] ? 0 : err[1] ? 1 : -1;
	use = err[0] || (!err[1] && get64(sb[1].seq) > get64(sb[0].seq));
	m->sb = sb[use];
	return 0;
}

void super_write(struct media *m)
{
	uint64_t copy[2] = {0, m->nr_blocks - 1};
	int i, first = m->sb_bad == 1; /* the bad copy, if any, goes first */

	m->sb.seq = mk64(get64(m->sb.seq) + 1);
	m->sb.csum = mk32(super_csum(&m->sb));
	for (i = 0; i < 2; i++) {
		pmem_memcpy(m->pool, media_ptr(m, copy[i ^ first]), &m->sb,
			    sizeof(m->sb));
		/* One copy whole before the other is touched. */
		pmem_drain(m->pool);
	}
}

static int media_map(struct media *m, enum media_mode mode)
{
	void *p;

	m->base = m->pool->base + m->ns.off;
	if (mode != MEDIA_PRIVATE)
		return 0;
	p = mmap(NULL, m->ns.len, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_NORESERVE, m->pool->fd, (off_t)m->ns.off);
	if (p == MAP_FAILED)
		return -errno;
	m->base = p;
	m->private_map = true;
	return 0;
}

static void media_free(struct media *m)
{
	orphans_destroy(m->orphans);
	itable_destroy(m->itable);
	alloc_destroy(m->alloc);
	journal_destroy(m->journal);
	if (m->private_map)
		munmap(m->base, m->ns.len);
	free(m);
}

static int journal_load(struct media *m, enum media_mode mode,
			struct media_report *rep)
{
	int err = journal_create(m);

	if (err)
		return err;
	if (mode == MEDIA_RO)
		return journal_nr_full(m) ? -EROFS : 0;
	return journal_replay(m, &rep->replayed);
}

static int parts_load(struct media *m, enum media_mode mode,
		      struct media_report *rep)
{
	uint64_t cursor = 0, ino;
	int err;

	err = media_map(m, mode);
	if (err)
		return err;
	rep->failed = "superblock";
	err = super_read(m);
	if (err)
		return err;
	m->data_block = get64(m->sb.data_block);
	m->end_block = m->nr_blocks - 1;
	m->was_unclean = !(get32(m->sb.state) & PDX_STATE_CLEAN);
	rep->failed = "journal";
	err = journal_load(m, mode, rep);
	if (err)
		return err;
	rep->failed = "allocation map";
	err = alloc_load(m);
	if (err)
		return err;
	rep->failed = "inode table";
	err = itable_load(m);
	if (err)
		return err;
	rep->failed = "orphan file";
	err = orphans_load(m);
	if (err)
		return err;
	rep->failed = NULL;
	while (!orphans_next(m, &cursor, &ino))
		rep->orphans++;
	return 0;
}

int media_load(struct pmem_pool *pool, const struct label_ns *ns,
	       enum media_mode mode, struct media **ret_m,
	       struct media_report *rep)
{
	struct media_report r = {.sb_bad = -1};
	struct media *m;
	int err;

	if (mode == MEDIA_RW && pool->readonly)
		return -EROFS;
	if (ns->off % PDX_BLOCK_SIZE || ns->len < PDX_MIN_NS_SIZE)
		return -EINVAL;
	if (ns->off > pool->size_bytes || ns->len > pool->size_bytes - ns->off)
		return -EOVERFLOW;
	m = calloc(1, sizeof(*m));
	if (!m)
		return -ENOMEM;
	m->pool = pool;
	m->ns = *ns;
	m->nr_blocks = ns->len >> PDX_BLOCK_SHIFT;
	m->readonly = mode != MEDIA_RW;
	err = parts_load(m, mode, &r);
	if (err) {
		media_free(m);
		if (rep)
			*rep = r;
		return err;
	}
	if (mode == MEDIA_RW) {
		m->sb.state =
			mk32(get32(m->sb.state) & ~(uint32_t)PDX_STATE_CLEAN);
		m->sb.mount_count = mk64(get64(m->sb.mount_count) + 1);
		super_write(m);
	}
	r.sb_bad = m->sb_bad;
	r.unclean = m->was_unclean;
	if (rep)
		*rep = r;
	*ret_m = m;
	return 0;
}

int media_open(struct pmem_pool *pool, const struct label_ns *ns, bool readonly,
	       struct media **ret_m, struct media_report *rep)
{
	return media_load(pool, ns, readonly ? MEDIA_RO : MEDIA_RW, ret_m, rep);
}

void media_close(struct media *m, bool clean)
{
	if (!m)
		return;
	if (clean && !m->readonly) {
		alloc_clear_marks(m);
		m->sb.state = mk32(get32(m->sb.state) | PDX_STATE_CLEAN);
		super_write(m);
	}
	media_free(m);
}
