// SPDX-License-Identifier: BSD-3-Clause
/*
 * Ranges of bits in arrays of 64-bit words, in memory.
 *
 * Owns: nothing; pure functions over the caller's array. Not: the bitmap on
 * media, which is little-endian and shared with readers (alloc.c).
 * Invariant: bit n is bit n % 64 of word n / 64.
 * Locks: the caller's.
 */
#include "fs/media/internal.h"

static uint64_t mask_from(uint64_t bit)
{
	return ~0ULL << (bit & 63);
}

static uint64_t mask_upto(uint64_t end) /* end > 0, exclusive */
{
	return ~0ULL >> (63 - ((end - 1) & 63));
}

bool bit_test(const uint64_t *map, uint64_t bit)
{
	return map[bit / 64] >> (bit & 63) & 1;
}

void bits_set(uint64_t *map, uint64_t first, uint64_t nr)
{
	uint64_t w = first / 64, last, mask = mask_from(first);

	if (!nr)
		return;
	last = (first + nr - 1) / 64;
	for (; w < last; w++, mask = ~0ULL)
		map[w] |= mask;
	map[w] |= mask & mask_upto(first + nr);
}

void bits_clear(uint64_t *map, uint64_t first, uint64_t nr)
{
	uint64_t w = first / 64, last, mask = mask_from(first);

	if (!nr)
		return;
	last = (first + nr - 1) / 64;
	for (; w < last; w++, mask = ~0ULL)
		map[w] &= ~mask;
	map[w] &= ~(mask & mask_upto(first + nr));
}

static uint64_t next(const uint64_t *map, uint64_t from, uint64_t end,
		     uint64_t flip)
{
	uint64_t w = from / 64, word, bit;

	if (from >= end)
		return end;
	word = (map[w] ^ flip) & mask_from(from);
	while (!word) {
		if (++w > (end - 1) / 64)
			return end;
		word = map[w] ^ flip;
	}
	bit = w * 64 + (uint64_t)__builtin_ctzll(word);
	return bit < end ? bit : end;
}

uint64_t bits_next_set(const uint64_t *map, uint64_t from, uint64_t end)
{
	return next(map, from, end, 0);
}

uint64_t bits_next_clear(const uint64_t *map, uint64_t from, uint64_t end)
{
	return next(map, from, end, ~0ULL);
}

uint64_t bits_count(const uint64_t *map, uint64_t first, uint64_t nr)
{
	uint64_t w = first / 64, last, mask = mask_from(first), n = 0;

	if (!nr)
		return 0;
	last = (first + nr - 1) / 64;
	for (; w < last; w++, mask = ~0ULL)
		n += (uint64_t)__builtin_popcountll(map[w] & mask);
	mask &= mask_upto(first + nr);
	return n + (uint64_t)__builtin_popcountll(map[w] & mask);
}
