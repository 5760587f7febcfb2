// SPDX-License-Identifier: BSD-3-Clause
/*
 * The checksum of everything that pindax keeps on media.
 *
 * Owns: the arithmetic and the choice between the CPU's crc32 instruction and
 * the portable code. Not: where checksums lie and what they cover (label.c,
 * fs/media).
 * Invariant: both ways give the same sum; the choice is made per call from
 * the CPU's feature word, so there is no state and no lock.
 * The portable way walks nibbles through a table of 16 words: it is for old
 * CPUs only, and a constant table needs no set-up that could race.
 */
#include "pagemap/crc32c.h"

#include <string.h>

static const uint32_t nibble[16] = {
	0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
	0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
	0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
};

static uint32_t crc_portable(uint32_t crc, const unsigned char *p, size_t len)
{
	while (len--) {
		crc ^= *p++;
		crc = (crc >> 4) ^ nibble[crc & 15];
		crc = (crc >> 4) ^ nibble[crc & 15];
	}
	return crc;
}

#ifdef __x86_64__
__attribute__((target("sse4.2"))) static uint32_t
crc_sse42(uint32_t crc, const unsigned char *p, size_t len)
{
	uint64_t word, c = crc;

	for (; len >= sizeof(word); p += sizeof(word), len -= sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		c = __builtin_ia32_crc32di(c, word);
	}
	crc = (uint32_t)c;
	while (len--)
		crc = __builtin_ia32_crc32qi(crc, *p++);
	return crc;
}
#endif

uint32_t crc32c(uint32_t crc, const void *buf, size_t len)
{
#ifdef __x86_64__
	if (__builtin_cpu_supports("sse4.2"))
		return ~crc_sse42(~crc, buf, len);
#endif
	return ~crc_portable(~crc, buf, len);
}
