// SPDX-License-Identifier: BSD-3-Clause
/*
 * The check of a pool, first part: labels, superblocks, journal; and the order
 * of the parts.
 *
 * Owns: what counts as an error. Not: printing (cmd/fsck.c), repair.
 * Key invariant: nothing is written to the pool; the journal is replayed into a
 * copy-on-write mapping, so that the parts below see what a mount would see.
 * Each part believes only what an earlier one has found good.
 * Locks: none; the caller has claimed the pool.
 */
#include "fs/media/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

__attribute__((format(printf, 3, 0))) static void
vsay(struct check *c, bool error, const char *fmt, va_list ap)
{
	char line[256];

	if (c->lines > CHECK_MAX_LINES)
		return;
	if (c->lines++ == CHECK_MAX_LINES) {
		c->say(c->arg, error, "more is only counted");
		return;
	}
	(void)vsnprintf(line, sizeof(line), fmt, ap);
	c->say(c->arg, error, line);
}

void check_error(struct check *c, const char *fmt, ...)
{
	va_list ap;

	c->res->errors++;
	va_start(ap, fmt);
	vsay(c, true, fmt, ap);
	va_end(ap);
}

void check_note(struct check *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsay(c, false, fmt, ap);
	va_end(ap);
}

/* --- labels --- */

static int check_labels(struct check *c, struct pmem_pool *pool,
			struct label_area *la)
{
	int err = label_read(pool, la);

	switch (err) {
	case 0:
		break;
	case -EBADMSG:
		check_error(c, "labels: both copies of the label area of the "
			       "pool are damaged");
		return err;
	case -EOVERFLOW:
		check_error(c, "labels: the pool is shorter than it claims");
		return err;
	default:
		return err;
	}
	if (la->copy_bad >= 0)
		check_error(c, "labels: copy %d is damaged", la->copy_bad);
	if (!la->nr)
		check_error(c, "labels: the pool has no namespace");
	return 0;
}

/* --- superblocks --- */

static const char *super_why(int err)
{
	switch (err) {
	case -EINVAL:
		return "has no magic number";
	case -EOVERFLOW:
		return "claims a size larger than the pool";
	case -EPROTONOSUPPORT:
		return "is of another version or has unknown features";
	default:
		return "is damaged: bad checksum or impossible content";
	}
}

static int check_supers(struct check *c, struct pmem_pool *pool,
			const struct label_ns *ns)
{
	uint64_t nr = ns->len >> PDX_BLOCK_SHIFT;
	const char *base = pool->base + ns->off;
	struct pdx_super sb;
	int err, good = 0, i;

	for (i = 0; i < 2; i++) {
		memcpy(&sb, base + (i ? (nr - 1) << PDX_BLOCK_SHIFT : 0),
		       sizeof(sb));
		err = super_check(&sb, nr);
		if (err)
			check_error(c, "superblock: copy %d %s", i,
				    super_why(err));
		else
			good++;
		if (err == -EPROTONOSUPPORT)
			return err;
		if (!err && memcmp(sb.uuid, ns->uuid, sizeof(sb.uuid)) != 0)
			check_error(c,
				    "superblock: copy %d has a UUID that is "
				    "not the label's",
				    i);
	}
	return good ? 0 : -EBADMSG;
}

/* --- journal --- */

/* Lanes as they are on the pool; the open above has replayed a copy. */
static void check_journal(struct check *c, struct pmem_pool *pool,
			  const struct media_report *rep)
{
	struct media on_pool = *c->m;
	struct pdx_lane hdr;
	uint32_t i;

	on_pool.base = pool->base + on_pool.ns.off;
	for (i = 0; i < on_pool.journal->nr_lanes; i++) {
		if (journal_lane(&on_pool, i, &hdr) == LANE_TORN)
			check_note(c,
				   "journal: lane %u is torn: its transaction "
				   "did not happen",
				   i);
	}
	if (rep->replayed)
		check_note(c,
			   "journal: %" PRIu64 " transactions are replayed in "
			   "memory for this check; the next mount replays them",
			   rep->replayed);
}

/* --- all parts --- */

static int check_open(struct check *c, struct pmem_pool *pool,
		      const struct label_ns *ns, struct media_report *rep)
{
	int err = media_load(pool, ns, MEDIA_PRIVATE, &c->m, rep);

	if (err == -EBADMSG)
		check_error(c, "%s: damaged beyond reading",
			    rep->failed ? rep->failed : "namespace");
	return err;
}

static int check_ns(struct check *c, struct pmem_pool *pool,
		    const struct label_ns *ns)
{
	struct media_report rep = {0};
	int err;

	if (ns->len < PDX_MIN_NS_SIZE) {
		check_error(c, "labels: a namespace is too small");
		return 0;
	}
	err = check_supers(c, pool, ns);
	if (!err)
		err = check_open(c, pool, ns, &rep);
	if (err)
		return err == -EBADMSG ? 0 : err;
	check_journal(c, pool, &rep);
	c->res->replayed += rep.replayed;
	c->nr_ino = itable_nr_records(c->m);
	c->ino = calloc(c->nr_ino + 1, sizeof(*c->ino));
	c->owned = calloc(div_up(c->m->nr_blocks, 64) + 1, sizeof(*c->owned));
	err = c->ino && c->owned ? 0 : -ENOMEM;
	if (!err)
		err = check_inodes(c);
	if (!err)
		err = check_names(c);
	free(c->owned);
	free(c->ino);
	media_close(c->m, false);
	return err;
}

int media_check(struct pmem_pool *pool, check_say_fn *say, void *arg,
		struct check_result *ret)
{
	struct check_result res = {0};
	struct check c = {.say = say, .arg = arg, .res = &res};
	struct label_area la;
	uint32_t i;
	int err = check_labels(&c, pool, &la);

	for (i = 0; !err && i < la.nr; i++)
		err = check_ns(&c, pool, &la.ns[i]);
	*ret = res;
	/* Damage that was told is a result, not a failure of the check. */
	return res.errors && err != -ENOMEM && err != -EPROTONOSUPPORT ? 0
								       : err;
}
