// SPDX-License-Identifier: BSD-3-Clause
/*
 * The redo journal: lanes, their commit, and their replay at mount.
 *
 * Owns: the lanes on media and who uses which. Not: what is in a transaction
 * (tx.c) nor the allocation map's rules (alloc.c).
 * Key invariant: a lane is emptied, durably, before the locks of the objects
 * that it changed are dropped. So two full lanes never name the same word or
 * block, and replaying any subset of the full lanes in any order, any number of
 * times, gives the same media (they are replayed in order of seq all the same).
 * A lane is one commit unit: header and records are made durable by ONE fence,
 * in whatever order the cache lines arrive; the checksum over both decides
 * whether the transaction happened. The lane was durably empty before, so an
 * old header cannot vouch for new records.
 * Locks: journal->lock, taken for the choice of a lane only; a lane belongs to
 * one thread from lane_get() to lane_put(). See docs/FORMAT.md, "Journal".
 */
#include "fs/media/internal.h"

#include <errno.h>
#include <stdlib.h>

#define HDR ((uint32_t)sizeof(struct pdx_lane))
#define REC ((uint32_t)sizeof(struct pdx_rec))

static char *lane_ptr(const struct media *m, uint32_t lane)
{
	uint64_t block = get64(m->sb.journal_block) +
			 (uint64_t)lane * get32(m->sb.lane_blocks);

	return media_ptr(m, block);
}

static int jbuf_room(struct jbuf *b, uint32_t more)
{
	uint32_t cap = b->cap ? b->cap : 1024;
	char *p;

	if (!b->len)
		b->len = HDR;
	while (cap < b->len + more)
		cap *= 2;
	if (cap == b->cap)
		return 0;
	p = realloc(b->data, cap);
	if (!p)
		return -ENOMEM;
	b->data = p;
	b->cap = cap;
	return 0;
}

static int jbuf_add(struct jbuf *b, uint32_t type, uint64_t off, uint32_t len,
		    const void *data, uint32_t data_len)
{
	struct pdx_rec rec = {
		.type = mk32(type),
		.len = mk32(len),
		.off = mk64(off),
	};
	int err = jbuf_room(b, REC + data_len);

	if (err)
		return err;
	memcpy(b->data + b->len, &rec, REC);
	if (data_len)
		memcpy(b->data + b->len + REC, data, data_len);
	b->len += REC + data_len;
	return 0;
}

int jbuf_words(struct jbuf *b, uint64_t off, const void *data, uint32_t len)
{
	return jbuf_add(b, PDX_REC_WORDS, off, len, data, len);
}

int jbuf_bits(struct jbuf *b, uint32_t type, uint64_t block, uint64_t nr)
{
	return jbuf_add(b, type, block, (uint32_t)nr, NULL, 0);
}

int journal_create(struct media *m)
{
	struct journal *j = calloc(1, sizeof(*j));

	if (!j)
		return -ENOMEM;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->freed, NULL);
	j->nr_lanes = get32(m->sb.nr_lanes);
	j->lane_bytes = get32(m->sb.lane_blocks) * PDX_BLOCK_SIZE;
	m->journal = j;
	return 0;
}

void journal_destroy(struct journal *j)
{
	if (!j)
		return;
	pthread_cond_destroy(&j->freed);
	pthread_mutex_destroy(&j->lock);
	free(j);
}

uint32_t journal_capacity(const struct media *m)
{
	return m->journal->lane_bytes - HDR;
}

static uint32_t lane_csum(struct pdx_lane hdr, const void *records)
{
	uint32_t crc;

	hdr.csum = mk32(0);
	crc = crc32c(0, &hdr, HDR);
	return crc32c(crc, records, get32(hdr.len));
}

enum lane_state journal_lane(const struct media *m, uint32_t lane,
			     struct pdx_lane *ret_hdr)
{
	const char *p = lane_ptr(m, lane);
	struct pdx_lane hdr;

	memcpy(&hdr, p, HDR);
	if (!get64(hdr.magic))
		return LANE_EMPTY;
	if (get64(hdr.magic) != PDX_LANE_MAGIC || get32(hdr.len) % 8 ||
	    get32(hdr.len) > journal_capacity(m) ||
	    lane_csum(hdr, p + HDR) != get32(hdr.csum))
		return LANE_TORN;
	*ret_hdr = hdr;
	return LANE_FULL;
}

uint32_t journal_nr_full(const struct media *m)
{
	struct pdx_lane hdr;
	uint32_t i, n = 0;

	for (i = 0; i < m->journal->nr_lanes; i++)
		n += journal_lane(m, i, &hdr) == LANE_FULL;
	return n;
}

/* May a record of this kind name this place? */
static bool rec_valid(const struct media *m, const struct pdx_rec *rec,
		      uint32_t left)
{
	uint64_t off = get64(rec->off), len = get32(rec->len);
	uint64_t first = get64(m->sb.root_block) << PDX_BLOCK_SHIFT;
	uint64_t end = m->end_block << PDX_BLOCK_SHIFT;

	switch (get32(rec->type)) {
	case PDX_REC_WORDS:
		return len && len <= left && len % 8 == 0 && off % 8 == 0 &&
		       off >= first && off < end && len <= end - off;
	case PDX_REC_SET:
	case PDX_REC_CLEAR:
		return len && media_in_data(m, off, len);
	default:
		return false;
	}
}

static int records_check(const struct media *m, const char *p, uint32_t len)
{
	struct pdx_rec rec;

	while (len) {
		if (len < REC)
			return -EBADMSG;
		memcpy(&rec, p, REC);
		p += REC;
		len -= REC;
		if (!rec_valid(m, &rec, len))
			return -EBADMSG;
		if (get32(rec.type) != PDX_REC_WORDS)
			continue;
		p += get32(rec.len);
		len -= get32(rec.len);
	}
	return 0;
}

/*
 * Stores are of whole words and carry values, not changes: doing it twice is
 * doing it once. No fence here.
 */
static void records_apply(struct media *m, const char *p, uint32_t len)
{
	const char *end = p + len;
	struct pdx_rec rec;
	uint64_t off;
	uint32_t n;

	while (p < end) {
		memcpy(&rec, p, REC);
		p += REC;
		off = get64(rec.off);
		n = get32(rec.len);
		if (get32(rec.type) != PDX_REC_WORDS) {
			alloc_apply(m, off, n, get32(rec.type) == PDX_REC_SET);
			continue;
		}
		memcpy(m->base + off, p, n);
		media_flush(m, m->base + off, n);
		p += n;
	}
}

static void lane_empty(struct media *m, char *lane)
{
	uint64_t *magic = (uint64_t *)(void *)lane;

	__atomic_store_n(magic, 0, __ATOMIC_RELAXED);
	media_flush(m, magic, sizeof(*magic));
}

struct full_lane {
	uint64_t seq;
	uint32_t len;
	const char *records;
};

static int by_seq(const void *a, const void *b)
{
	const struct full_lane *x = a, *y = b;

	return (x->seq > y->seq) - (x->seq < y->seq);
}

int journal_replay(struct media *m, uint64_t *ret_nr)
{
	struct full_lane full[PDX_MAX_LANES] = {0};
	struct pdx_lane hdr;
	uint32_t i, nr = 0;
	int err;

	for (i = 0; i < m->journal->nr_lanes; i++) {
		if (journal_lane(m, i, &hdr) != LANE_FULL)
			continue;
		full[nr].seq = get64(hdr.seq);
		full[nr].len = get32(hdr.len);
		full[nr].records = lane_ptr(m, i) + HDR;
		err = records_check(m, full[nr].records, full[nr].len);
		if (err)
			return err;
		nr++;
	}
	qsort(full, nr, sizeof(full[0]), by_seq);
	for (i = 0; i < nr; i++)
		records_apply(m, full[i].records, full[i].len);
	/* Everything is in place before the first lane is given up: a crash in
	 * between replays a subset again, which changes nothing. */
	media_drain(m);
	for (i = 0; i < m->journal->nr_lanes; i++)
		lane_empty(m, lane_ptr(m, i));
	media_drain(m);
	if (nr)
		m->journal->seq = full[nr - 1].seq;
	*ret_nr = nr;
	return 0;
}

static uint32_t lane_get(struct journal *j, uint64_t *ret_seq)
{
	uint64_t all = j->nr_lanes == 64 ? ~0ULL : (1ULL << j->nr_lanes) - 1;
	uint32_t lane;

	pthread_mutex_lock(&j->lock);
	while ((j->busy & all) == all)
		pthread_cond_wait(&j->freed, &j->lock);
	lane = (uint32_t)__builtin_ctzll(~j->busy);
	j->busy |= 1ULL << lane;
	*ret_seq = ++j->seq;
	pthread_mutex_unlock(&j->lock);
	return lane;
}

static void lane_put(struct journal *j, uint32_t lane)
{
	pthread_mutex_lock(&j->lock);
	j->busy &= ~(1ULL << lane);
	pthread_cond_signal(&j->freed);
	pthread_mutex_unlock(&j->lock);
}

static void step(struct journal *j, enum journal_step s)
{
	if (j->hook)
		j->hook(j->hook_arg, s);
}

/* Cannot fail: everything that can was done while @b was filled. */
void journal_run(struct media *m, struct jbuf *b)
{
	struct journal *j = m->journal;
	struct pdx_lane hdr = {.magic = mk64(PDX_LANE_MAGIC)};
	uint32_t lane, len = b->len - HDR;
	uint64_t seq;
	char *p;

	lane = lane_get(j, &seq);
	p = lane_ptr(m, lane);
	hdr.seq = mk64(seq);
	hdr.len = mk32(len);
	hdr.csum = mk32(lane_csum(hdr, b->data + HDR));
	memcpy(b->data, &hdr, HDR);
	pmem_memcpy(m->pool, p, b->data, b->len);
	/* The commit point. It also covers the new blocks that tx.c wrote: they
	 * are durable whenever the lane that makes them reachable is. */
	pmem_drain(m->pool);
	step(j, JOURNAL_COMMITTED);
	records_apply(m, b->data + HDR, len);
	/* In place before the lane is emptied, or a crash loses it. */
	pmem_drain(m->pool);
	step(j, JOURNAL_APPLIED);
	lane_empty(m, p);
	/* Empty before the caller drops its locks: the key invariant. */
	pmem_drain(m->pool);
	step(j, JOURNAL_EMPTIED);
	lane_put(j, lane);
}
