// SPDX-License-Identifier: BSD-3-Clause
/*
 * Transactions: copies of objects, their difference, and what happens in memory
 * when they commit or abort.
 *
 * Owns: the copies and the list of allocated and freed ranges of one
 * transaction. Not: lanes (journal.c), the choice of blocks (alloc.c).
 * Key invariant: nothing reachable on media changes before journal_run(); what
 * is written earlier (new blocks) nobody can reach until then. So an abort only
 * takes back memory.
 * Space: a copy costs at most its length + one record in the lane, because runs
 * of changed words with at most two equal words between them are one record
 * (repeating two words costs what a new record would).
 * Locks: none of its own; the caller holds the locks of what it edits until
 * tx_commit() or tx_abort() has returned. See docs/FORMAT.md, "Journal".
 */
#include "fs/media/internal.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define REC ((uint32_t)sizeof(struct pdx_rec))

struct edit {
	struct edit *next;
	uint64_t off;
	uint32_t len;
	bool fresh;  /* written to its block, not through the journal */
	bool summed; /* gets its checksum at byte 4 */
	_Alignas(8) char copy[];
};

struct range_op {
	bool alloc;
	uint64_t block;
	uint64_t nr;
};

struct end_note {
	tx_end_fn *fn;
	uint64_t arg;
};

struct tx {
	struct media *m;
	struct edit *edits;
	struct range_op *op;
	struct end_note *note;
	unsigned int nr_op, cap_op;
	unsigned int nr_note, cap_note;
	uint32_t used; /* bytes of the lane, at most */
	int err;
};

int tx_begin(struct media *m, struct tx **ret_tx)
{
	struct tx *tx;

	if (m->readonly)
		return -EROFS;
	tx = calloc(1, sizeof(*tx));
	if (!tx)
		return -ENOMEM;
	tx->m = m;
	*ret_tx = tx;
	return 0;
}

struct media *tx_media(struct tx *tx)
{
	return tx->m;
}

int tx_error(const struct tx *tx)
{
	return tx->err;
}

uint32_t tx_room(struct tx *tx)
{
	uint32_t cap = journal_capacity(tx->m);

	return tx->used < cap ? cap - tx->used : 0;
}

static bool reserve(struct tx *tx, uint32_t bytes)
{
	if (tx->err)
		return false;
	if (bytes > tx_room(tx)) {
		tx->err = -E2BIG;
		return false;
	}
	tx->used += bytes;
	return true;
}

static struct edit *find(struct tx *tx, uint64_t off, uint32_t len)
{
	struct edit *e;

	for (e = tx->edits; e; e = e->next) {
		if (e->off == off && e->len == len)
			return e;
		assert(off >= e->off + e->len || off + len <= e->off);
	}
	return NULL;
}

static struct edit *add(struct tx *tx, uint64_t off, uint32_t len)
{
	struct edit *e;

	assert(off % 8 == 0 && len % 8 == 0 && len);
	assert(off + len <= tx->m->nr_blocks << PDX_BLOCK_SHIFT);
	e = malloc(sizeof(*e) + len);
	if (!e) {
		tx->err = -ENOMEM;
		return NULL;
	}
	e->off = off;
	e->len = len;
	e->fresh = false;
	e->summed = false;
	e->next = tx->edits;
	tx->edits = e;
	return e;
}

static struct edit *edit(struct tx *tx, uint64_t off, uint32_t len)
{
	struct edit *e = find(tx, off, len);

	if (e || tx->err)
		return tx->err ? NULL : e;
	if (!reserve(tx, len + REC))
		return NULL;
	e = add(tx, off, len);
	if (e)
		memcpy(e->copy, tx->m->base + off, len);
	return e;
}

void *tx_edit(struct tx *tx, uint64_t off, uint32_t len)
{
	struct edit *e = edit(tx, off, len);

	return e ? e->copy : NULL;
}

static void *edit_summed(struct tx *tx, uint64_t off, uint32_t len)
{
	struct edit *e = edit(tx, off, len);

	if (!e)
		return NULL;
	e->summed = true;
	return e->copy;
}

struct pdx_inode *tx_edit_record(struct tx *tx, uint64_t off)
{
	return edit_summed(tx, off, PDX_INODE_SIZE);
}

struct pdx_inode *tx_edit_inode(struct tx *tx, uint64_t ino)
{
	uint64_t off = itable_off(tx->m, ino);

	if (!off) {
		tx->err = tx->err ? tx->err : -ENOENT;
		return NULL;
	}
	return tx_edit_record(tx, off);
}

void *tx_edit_block(struct tx *tx, uint64_t block)
{
	return edit_summed(tx, block << PDX_BLOCK_SHIFT, PDX_BLOCK_SIZE);
}

void *tx_new_block(struct tx *tx, uint64_t block)
{
	uint64_t off = block << PDX_BLOCK_SHIFT;
	struct edit *e;

	if (tx->err)
		return NULL;
	e = find(tx, off, PDX_BLOCK_SIZE);
	if (!e)
		e = add(tx, off, PDX_BLOCK_SIZE);
	if (!e)
		return NULL;
	e->fresh = true;
	memset(e->copy, 0, PDX_BLOCK_SIZE);
	return e->copy;
}

const void *tx_view(struct tx *tx, uint64_t off, uint32_t len)
{
	struct edit *e = find(tx, off, len);

	return e ? e->copy : tx->m->base + off;
}

bool tx_is_copy(struct tx *tx, uint64_t off, uint32_t len)
{
	return tx && find(tx, off, len);
}

void tx_forget(struct tx *tx, uint64_t block)
{
	uint64_t off = block << PDX_BLOCK_SHIFT;
	struct edit **p, *e;

	for (p = &tx->edits; (e = *p); p = &e->next) {
		if (e->off != off || e->len != PDX_BLOCK_SIZE)
			continue;
		*p = e->next;
		if (!e->fresh)
			tx->used -= e->len + REC;
		free(e);
		return;
	}
}

/* Room for one more element, or NULL. */
static void *grow(void *array, unsigned int nr, unsigned int *cap, size_t size)
{
	unsigned int more = *cap ? *cap * 2 : 8;
	void *p;

	if (nr < *cap)
		return array;
	p = realloc(array, more * size);
	if (p)
		*cap = more;
	return p;
}

int tx_note_range(struct tx *tx, bool alloc, uint64_t block, uint64_t nr)
{
	/* One record holds 32 bits of length. */
	uint32_t bytes = (uint32_t)div_up(nr, UINT32_MAX) * REC;
	struct range_op *op;

	if (!reserve(tx, bytes))
		return tx->err;
	op = grow(tx->op, tx->nr_op, &tx->cap_op, sizeof(*op));
	if (!op) {
		tx->err = -ENOMEM;
		return tx->err;
	}
	tx->op = op;
	op[tx->nr_op++] = (struct range_op){alloc, block, nr};
	return 0;
}

int tx_on_end(struct tx *tx, tx_end_fn *fn, uint64_t arg)
{
	struct end_note *note;

	note = grow(tx->note, tx->nr_note, &tx->cap_note, sizeof(*note));
	if (!note)
		return -ENOMEM;
	tx->note = note;
	note[tx->nr_note++] = (struct end_note){fn, arg};
	return 0;
}

unsigned int tx_mark(const struct tx *tx)
{
	return tx->nr_op;
}

void tx_rewind(struct tx *tx, unsigned int mark)
{
	const struct range_op *op;

	while (tx->nr_op > mark) {
		op = &tx->op[--tx->nr_op];
		assert(op->alloc);
		tx->used -= (uint32_t)div_up(op->nr, UINT32_MAX) * REC;
		for (uint64_t b = 0; b < op->nr; b++)
			tx_forget(tx, op->block + b);
		alloc_undo(tx->m, op->block, op->nr);
	}
}

/* First word at or after @i in which the two differ, or @n. */
static uint32_t next_diff(const uint64_t *a, const uint64_t *b, uint32_t i,
			  uint32_t n)
{
	while (i < n && a[i] == b[i])
		i++;
	return i;
}

/* The changed words of one copy as records. */
static int diff(struct jbuf *buf, const struct edit *e, const char *media)
{
	const uint64_t *now = (const void *)e->copy;
	const uint64_t *was = (const void *)media;
	uint32_t n = e->len / 8, first, last, i;
	int err = 0;

	i = next_diff(now, was, 0, n);
	while (i < n && !err) {
		first = i;
		do {
			last = i;
			i = next_diff(now, was, i + 1, n);
		} while (i < n && i - last <= 3);
		err = jbuf_words(buf, e->off + first * 8ULL, now + first,
				 (last + 1 - first) * 8);
	}
	return err;
}

static int build(struct tx *tx, struct jbuf *buf)
{
	struct edit *e;
	uint64_t done, n;
	uint32_t type, crc;
	int err = 0;

	for (e = tx->edits; e && !err; e = e->next) {
		if (e->summed) {
			crc = csum_at4(e->copy, e->len);
			memcpy(e->copy + 4, &(le32){htole32(crc)}, 4);
		}
		if (!e->fresh)
			err = diff(buf, e, tx->m->base + e->off);
	}
	for (unsigned int i = 0; i < tx->nr_op; i++) {
		type = tx->op[i].alloc ? PDX_REC_SET : PDX_REC_CLEAR;
		for (done = 0; done < tx->op[i].nr && !err; done += n) {
			n = tx->op[i].nr - done;
			n = n < UINT32_MAX ? n : UINT32_MAX;
			err = jbuf_bits(buf, type, tx->op[i].block + done, n);
		}
	}
	return err;
}

static void destroy(struct tx *tx)
{
	struct edit *e;

	while ((e = tx->edits)) {
		tx->edits = e->next;
		free(e);
	}
	free(tx->op);
	free(tx->note);
	free(tx);
}

/* After the commit, with nothing of the journal held: the sink may do work. */
static void end(struct tx *tx, bool committed)
{
	const struct range_op *op;
	unsigned int i;

	for (i = 0; i < tx->nr_note; i++)
		tx->note[i].fn(tx->m, tx->note[i].arg, committed);
	for (i = 0; i < tx->nr_op; i++) {
		op = &tx->op[i];
		if (committed && !op->alloc)
			alloc_freed(tx->m, op->block, op->nr);
		if (!committed && op->alloc)
			alloc_undo(tx->m, op->block, op->nr);
	}
	destroy(tx);
}

int tx_commit(struct tx *tx)
{
	struct media *m = tx->m;
	struct jbuf buf = {0};
	struct edit *e;
	int err = tx->err;

	if (!err)
		err = build(tx, &buf);
	if (err) {
		tx_abort(tx);
		goto out_free;
	}
	for (e = tx->edits; e; e = e->next) {
		if (e->fresh)
			pmem_memcpy(m->pool, m->base + e->off, e->copy, e->len);
	}
	if (buf.len)
		journal_run(m, &buf);
	end(tx, true);
out_free:
	free(buf.data);
	return err;
}

void tx_abort(struct tx *tx)
{
	if (tx)
		end(tx, false);
}
