/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * superedit POOL COPY FIELD [VALUE] - damage or edit superblocks, for scripts.
 *
 * COPY is 0, 1 or both, in the order in which they lie in the pool. FIELD is
 * version, incompat, nr_blocks or dir_index, set to VALUE with a checksum that
 * is right again; flip, which inverts a byte under the checksum; or zero,
 * which clears the block. Finds the copies by their magic, so it knows nothing
 * of where they are. Reads and writes the pool file; nothing has it mounted.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/media/format.h"

static uint32_t crc32c_slow(const void *buf, size_t len)
{
	const uint8_t *p = buf;
	uint32_t crc = ~0U;
	int bit;

	while (len-- > 0) {
		crc ^= *p++;
		for (bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78U : 0);
	}
	return ~crc;
}

static int edit(struct pdx_super *sb, const char *field, uint64_t value)
{
	if (strcmp(field, "flip") == 0) {
		sb->reserved[7] ^= 0xff;
		return 0;
	}
	if (strcmp(field, "zero") == 0) {
		memset(sb, 0, sizeof(*sb));
		return 0;
	}
	if (strcmp(field, "version") == 0)
		sb->version = mk32((uint32_t)value);
	else if (strcmp(field, "incompat") == 0)
		sb->incompat = mk64(value);
	else if (strcmp(field, "nr_blocks") == 0)
		sb->nr_blocks = mk64(value);
	else if (strcmp(field, "dir_index") == 0)
		sb->dir_index = mk32((uint32_t)value);
	else
		return -1;
	sb->csum = mk32(0);
	sb->csum = mk32(crc32c_slow(sb, sizeof(*sb)));
	return 0;
}

static int edit_copies(char *base, size_t size, char **argv, uint64_t value)
{
	struct pdx_super *copy[2] = {NULL, NULL};
	size_t off;
	int i;

	for (off = 0; off + PDX_BLOCK_SIZE <= size; off += PDX_BLOCK_SIZE) {
		struct pdx_super *sb = (void *)(base + off);

		if (get64(sb->magic) == PDX_SUPER_MAGIC)
			copy[copy[0] != NULL] = sb;
	}
	for (i = 0; i < 2; i++) {
		if (strcmp(argv[2], "both") != 0 && argv[2][0] != '0' + i)
			continue;
		if (copy[i] == NULL || edit(copy[i], argv[3], value) != 0)
			return 2;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct stat st;
	char *base;
	int fd;

	if (argc < 4) {
		fprintf(stderr, "usage: superedit POOL COPY FIELD [VALUE]\n");
		return 2;
	}
	fd = open(argv[1], O_RDWR);
	if (fd < 0 || fstat(fd, &st) != 0) {
		perror(argv[1]);
		return 2;
	}
	base = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE,
		    MAP_SHARED, fd, 0);
	if (base == MAP_FAILED) {
		perror("mmap");
		return 2;
	}
	return edit_copies(base, (size_t)st.st_size, argv,
			   argc > 4 ? strtoull(argv[4], NULL, 0) : 0);
}
