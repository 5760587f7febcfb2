// SPDX-License-Identifier: BSD-3-Clause
/*
 * The label area: which namespaces a pool has.
 *
 * Owns: the two index copies at the start of the pool, their bytes, and the
 * choice between them. Not: what a namespace holds.
 * Invariant: of the two copies at least one is whole at every moment after
 * label_format(): a change replaces the other one, under a higher sequence
 * number. The copy that is good and has the higher number counts.
 * Nothing read from the pool is used before it was copied out and checked: the
 * pool may be written by others.
 * Locks: none. Writers hold the claim of [0, LABEL_AREA_SIZE).
 * Read: docs/FORMAT.md.
 */
#include "pagemap/label.h"

#include <assert.h>
#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "pagemap/crc32c.h"

#define LABEL_MAGIC 0x304c424c58444e50ULL /* "PNDXLBL0" */
#define LABEL_VERSION 1U
#define LABEL_COPY_SIZE 4096U

/* Little-endian wrappers: a missing swap does not compile. */
typedef struct {
	uint32_t raw;
} disk32;
typedef struct {
	uint64_t raw;
} disk64;

static uint32_t get_d32(disk32 v)
{
	return le32toh(v.raw);
}
static uint64_t get_d64(disk64 v)
{
	return le64toh(v.raw);
}
static disk32 mk_d32(uint32_t v)
{
	return (disk32){htole32(v)};
}
static disk64 mk_d64(uint64_t v)
{
	return (disk64){htole64(v)};
}

struct label_disk_ns {
	char name[LABEL_NAME_MAX + 1]; /* NUL-terminated, zero-filled */
	uint8_t uuid[16];
	disk64 off; /* bytes from the start of the pool */
	disk64 len; /* bytes */
};
static_assert(sizeof(struct label_disk_ns) == 64, "size");

struct label_disk {
	disk64 magic;
	disk32 version;
	disk32 nr;  /* namespaces in use */
	disk64 seq; /* the higher one counts */
	disk64 pool_size;
	uint8_t pool_uuid[16];
	uint8_t reserved1[80];		       /* zero */
	struct label_disk_ns ns[LABEL_MAX_NS]; /* beyond nr: zero */
	uint8_t reserved2[1916];	       /* zero */
	disk32 csum; /* crc32c of bytes 0-4091, whatever the version */
};
static_assert(sizeof(struct label_disk) == LABEL_COPY_SIZE, "size");
static_assert(offsetof(struct label_disk, ns) == 128, "ns");
static_assert(offsetof(struct label_disk, csum) == 4092, "csum");

static uint32_t disk_csum(const struct label_disk *d)
{
	return crc32c(0, d, offsetof(struct label_disk, csum));
}

static bool all_zero(const void *buf, size_t len)
{
	const unsigned char *p = buf;

	while (len && !*p)
		p++, len--;
	return !len;
}

static bool ns_valid(const struct label_area *la, const struct label_ns *ns)
{
	const struct label_ns *other;

	if (!ns->name[0] || ns->name[LABEL_NAME_MAX])
		return false;
	if (ns->off < LABEL_AREA_SIZE || ns->off % PMEM_HUGE_SIZE || !ns->len ||
	    ns->len % PMEM_PAGE_SIZE)
		return false;
	if (ns->len > la->pool_size || ns->off > la->pool_size - ns->len)
		return false;
	for (other = la->ns; other < ns; other++)
		if (ns->off < other->off + other->len &&
		    other->off < ns->off + ns->len)
			return false;
	return true;
}

static bool area_valid(const struct label_area *la)
{
	uint32_t i;

	if (la->nr > LABEL_MAX_NS || la->pool_size < LABEL_AREA_SIZE ||
	    la->pool_size % PMEM_PAGE_SIZE || la->pool_size > INT64_MAX)
		return false;
	for (i = 0; i < la->nr; i++)
		if (!ns_valid(la, &la->ns[i]))
			return false;
	return true;
}

static void encode(const struct label_area *la, uint64_t seq,
		   struct label_disk *d)
{
	uint32_t i;

	memset(d, 0, sizeof(*d));
	d->magic = mk_d64(LABEL_MAGIC);
	d->version = mk_d32(LABEL_VERSION);
	d->nr = mk_d32(la->nr);
	d->seq = mk_d64(seq);
	d->pool_size = mk_d64(la->pool_size);
	memcpy(d->pool_uuid, la->pool_uuid, sizeof(d->pool_uuid));
	for (i = 0; i < la->nr; i++) {
		struct label_disk_ns *dn = &d->ns[i];

		/* bytes after the NUL are not the caller's to leak */
		memcpy(dn->name, la->ns[i].name, strlen(la->ns[i].name));
		memcpy(dn->uuid, la->ns[i].uuid, sizeof(dn->uuid));
		dn->off = mk_d64(la->ns[i].off);
		dn->len = mk_d64(la->ns[i].len);
	}
	d->csum = mk_d32(disk_csum(d));
}

/*
 * One copy. -EINVAL no magic; -EBADMSG checksum or content; -EPROTONOSUPPORT.
 */
static int decode(const struct label_disk *d, struct label_area *la)
{
	uint32_t i;

	if (get_d64(d->magic) != LABEL_MAGIC)
		return -EINVAL;
	if (get_d32(d->csum) != disk_csum(d))
		return -EBADMSG;
	if (get_d32(d->version) != LABEL_VERSION)
		return -EPROTONOSUPPORT;
	memset(la, 0, sizeof(*la));
	la->nr = get_d32(d->nr);
	la->pool_size = get_d64(d->pool_size);
	memcpy(la->pool_uuid, d->pool_uuid, sizeof(la->pool_uuid));
	if (la->nr > LABEL_MAX_NS ||
	    !all_zero(d->reserved1, sizeof(d->reserved1)) ||
	    !all_zero(d->reserved2, sizeof(d->reserved2)) ||
	    !all_zero(&d->ns[la->nr],
		      (LABEL_MAX_NS - la->nr) * sizeof(d->ns[0])))
		return -EBADMSG;
	for (i = 0; i < la->nr; i++) {
		memcpy(la->ns[i].name, d->ns[i].name, sizeof(la->ns[i].name));
		memcpy(la->ns[i].uuid, d->ns[i].uuid, sizeof(la->ns[i].uuid));
		la->ns[i].off = get_d64(d->ns[i].off);
		la->ns[i].len = get_d64(d->ns[i].len);
	}
	return area_valid(la) ? 0 : -EBADMSG;
}

static char *copy_at(struct pmem_pool *pool, int copy)
{
	return pool->base + (copy ? LABEL_COPY_SIZE : 0);
}

/* Both copies as they are, each with its own verdict. */
struct label_pair {
	struct label_disk disk[2];
	struct label_area area[2];
	int rc[2];
};

static uint64_t pair_seq(const struct label_pair *lp, int i)
{
	return get_d64(lp->disk[i].seq);
}

static int pair_read(struct pmem_pool *pool, struct label_pair **ret_lp)
{
	struct label_pair *lp;
	int i;

	if (pool->size_bytes < LABEL_AREA_SIZE)
		return -EINVAL;
	lp = malloc(sizeof(*lp));
	if (!lp)
		return -ENOMEM;
	for (i = 0; i < 2; i++) {
		memcpy(&lp->disk[i], copy_at(pool, i), LABEL_COPY_SIZE);
		lp->rc[i] = decode(&lp->disk[i], &lp->area[i]);
	}
	*ret_lp = lp;
	return 0;
}

/* The copy that counts, or why there is none. */
static int pair_pick(const struct label_pair *lp)
{
	/* Written by a newer pindax: the other copy may be long outdated. */
	if (lp->rc[0] == -EPROTONOSUPPORT || lp->rc[1] == -EPROTONOSUPPORT)
		return -EPROTONOSUPPORT;
	if (!lp->rc[0] && !lp->rc[1])
		return pair_seq(lp, 1) > pair_seq(lp, 0);
	if (!lp->rc[0])
		return 0;
	if (!lp->rc[1])
		return 1;
	return lp->rc[0] == -EBADMSG || lp->rc[1] == -EBADMSG ? -EBADMSG
							      : -EINVAL;
}

static void copy_write(struct pmem_pool *pool, const struct label_area *la,
		       int copy, uint64_t seq)
{
	struct label_disk d;

	encode(la, seq, &d);
	pmem_memcpy(pool, copy_at(pool, copy), &d, sizeof(d));
	pmem_drain(pool);
}

int label_format(struct pmem_pool *pool, const struct label_area *la)
{
	struct label_pair *lp;
	uint64_t seq = 0;
	int i, rc;

	if (pool->readonly)
		return -EROFS;
	if (!area_valid(la) || la->pool_size > pool->size_bytes)
		return -EINVAL;
	rc = pair_read(pool, &lp);
	if (rc)
		return rc;
	/* Beyond what is there, so that a crash between the two leaves ours. */
	for (i = 0; i < 2; i++)
		if (!lp->rc[i] && pair_seq(lp, i) > seq)
			seq = pair_seq(lp, i);
	free(lp);
	copy_write(pool, la, 0, seq + 1);
	copy_write(pool, la, 1, seq + 2);
	return 0;
}

int label_read(struct pmem_pool *pool, struct label_area *ret_la)
{
	struct label_pair *lp;
	int pick, rc;

	rc = pair_read(pool, &lp);
	if (rc)
		return rc;
	pick = pair_pick(lp);
	if (pick < 0) {
		rc = pick;
		goto out_free;
	}
	if (lp->area[pick].pool_size > pool->size_bytes) {
		rc = -EOVERFLOW;
		goto out_free;
	}
	*ret_la = lp->area[pick];
	ret_la->copy_bad = lp->rc[!pick] ? !pick : -1;
out_free:
	free(lp);
	return rc;
}

int label_write(struct pmem_pool *pool, const struct label_area *la)
{
	struct label_pair *lp;
	int pick, rc;

	if (pool->readonly)
		return -EROFS;
	if (!area_valid(la) || la->pool_size > pool->size_bytes)
		return -EINVAL;
	rc = pair_read(pool, &lp);
	if (rc)
		return rc;
	pick = pair_pick(lp);
	if (pick < 0)
		rc = pick;
	else
		copy_write(pool, la, !pick, pair_seq(lp, pick) + 1);
	free(lp);
	return rc;
}
