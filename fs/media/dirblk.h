/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_DIRBLK_H
#define PINDAX_FS_MEDIA_DIRBLK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "fs/media/format.h"

/* Entries in one directory block. @off counts from the start of blk->data. */
#define DIRENT_HDR ((unsigned int)offsetof(struct pdx_dirent, name))
#define DIRENT_NAME_MAX 255U
#define DIRENT_MAX ((DIRENT_HDR + DIRENT_NAME_MAX + 7) / 8 * 8)

static inline unsigned int dirent_size(size_t name_len)
{
	return (unsigned int)((DIRENT_HDR + name_len + 7) / 8 * 8);
}
bool dirent_name_ok(const char *name, size_t len);

/* Byte offset in the directory of an entry of its block @b, and back. */
static inline uint64_t dirblk_pos(uint64_t b, unsigned int off)
{
	return (b << PDX_BLOCK_SHIFT) + offsetof(struct pdx_dirblk, data) + off;
}
static inline unsigned int dirblk_off(uint64_t pos)
{
	return (unsigned int)(pos & (PDX_BLOCK_SIZE - 1)) -
	       (unsigned int)offsetof(struct pdx_dirblk, data);
}

void dirblk_init(struct pdx_dirblk *blk, uint64_t owner);
/* Sum, owner, and every entry. -EBADMSG. */
int dirblk_check(const struct pdx_dirblk *blk, uint64_t owner);
/* The record at @off; NULL at the end, and when what is there is damaged. */
const struct pdx_dirent *dirblk_at(const struct pdx_dirblk *blk,
				   unsigned int off);
uint16_t dirblk_gap(const struct pdx_dirblk *blk); /* longest free record */

/* On a checked copy. add: there is a gap for it; returns the entry's off. */
unsigned int dirblk_add(struct pdx_dirblk *blk, const char *name, size_t len,
			uint64_t ino, uint8_t type);
void dirblk_del(struct pdx_dirblk *blk, unsigned int off);
void dirblk_set(struct pdx_dirblk *blk, unsigned int off, uint64_t ino,
		uint8_t type);

#endif
