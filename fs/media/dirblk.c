// SPDX-License-Identifier: BSD-3-Clause
/*
 * The entries of one directory block.
 *
 * Owns: the layout of entries. Not: which block (dir.c), the checksum of a
 * change (tx.c makes it at commit).
 * Key invariants: records fill the block without a gap; a free record has inode
 * 0; two free records are never neighbours. An entry is at most 8 bytes longer
 * than its name needs: what is left over would be too short for a record.
 * Locks: the directory inode's. docs/FORMAT.md, "Directories".
 */
#include "fs/media/dirblk.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "fs/media/internal.h"

#define DATA ((unsigned int)sizeof(((struct pdx_dirblk *)NULL)->data))
#define MIN_REC ((unsigned int)sizeof(struct pdx_dirent))

static struct pdx_dirent *rec(struct pdx_dirblk *blk, unsigned int off)
{
	return (void *)(blk->data + off);
}

bool dirent_name_ok(const char *name, size_t len)
{
	if (!len || len > DIRENT_NAME_MAX)
		return false;
	if (memchr(name, '/', len) || memchr(name, '\0', len))
		return false;
	return !(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.')));
}

void dirblk_init(struct pdx_dirblk *blk, uint64_t owner)
{
	memset(blk, 0, sizeof(*blk));
	blk->magic = mk32(PDX_DIRBLK_MAGIC);
	blk->owner = mk64(owner);
	rec(blk, 0)->rec_len = mk16((uint16_t)DATA);
}

const struct pdx_dirent *dirblk_at(const struct pdx_dirblk *blk,
				   unsigned int off)
{
	const struct pdx_dirent *de = (const void *)(blk->data + off);
	unsigned int len;

	if (off > DATA - MIN_REC || off % 8)
		return NULL;
	len = get16(de->rec_len);
	if (len < MIN_REC || len % 8 || len > DATA - off)
		return NULL;
	if (get64(de->ino) && dirent_size(de->name_len) > len)
		return NULL;
	return de;
}

int dirblk_check(const struct pdx_dirblk *blk, uint64_t owner)
{
	const struct pdx_dirent *de;
	unsigned int off = 0;

	if (get32(blk->magic) != PDX_DIRBLK_MAGIC ||
	    get64(blk->owner) != owner ||
	    get32(blk->csum) != csum_at4(blk, sizeof(*blk)))
		return -EBADMSG;
	for (; (de = dirblk_at(blk, off)); off += get16(de->rec_len)) {
		if (get64(de->ino) &&
		    !dirent_name_ok((const char *)de->name, de->name_len))
			return -EBADMSG;
	}
	return off == DATA ? 0 : -EBADMSG;
}

uint16_t dirblk_gap(const struct pdx_dirblk *blk)
{
	const struct pdx_dirent *de;
	unsigned int off = 0;
	uint16_t gap = 0;

	for (; (de = dirblk_at(blk, off)); off += get16(de->rec_len)) {
		if (!get64(de->ino) && get16(de->rec_len) > gap)
			gap = get16(de->rec_len);
	}
	return gap;
}

unsigned int dirblk_add(struct pdx_dirblk *blk, const char *name, size_t len,
			uint64_t ino, uint8_t type)
{
	unsigned int need = dirent_size(len), have, off = 0;
	struct pdx_dirent *de = rec(blk, 0);

	while (get64(de->ino) || get16(de->rec_len) < need) {
		off += get16(de->rec_len);
		assert(off < DATA);
		de = rec(blk, off);
	}
	have = get16(de->rec_len);
	if (have - need >= MIN_REC) {
		rec(blk, off + need)->rec_len = mk16((uint16_t)(have - need));
		have = need;
	}
	de->ino = mk64(ino);
	de->rec_len = mk16((uint16_t)have);
	de->name_len = (uint8_t)len;
	de->type = type;
	memcpy(de->name, name, len);
	return off;
}

/* A free record is all zeros but for its length. */
void dirblk_del(struct pdx_dirblk *blk, unsigned int off)
{
	unsigned int prev = off, first = off, end, at;

	for (at = 0; at < off; at += get16(rec(blk, at)->rec_len))
		prev = at;
	if (prev != off && !get64(rec(blk, prev)->ino))
		first = prev;
	end = off + get16(rec(blk, off)->rec_len);
	if (end < DATA && !get64(rec(blk, end)->ino))
		end += get16(rec(blk, end)->rec_len);
	memset(blk->data + first, 0, end - first);
	rec(blk, first)->rec_len = mk16((uint16_t)(end - first));
}

void dirblk_set(struct pdx_dirblk *blk, unsigned int off, uint64_t ino,
		uint8_t type)
{
	struct pdx_dirent *de = rec(blk, off);

	de->ino = mk64(ino);
	de->type = type;
}
