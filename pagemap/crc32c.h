/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_CRC32C_H
#define PINDAX_PAGEMAP_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/*
 * CRC-32C (Castagnoli) of @len bytes, continued from @crc (0 to begin), so that
 * crc32c(crc32c(0, a, n), b, m) is the checksum of a followed by b.
 */
uint32_t crc32c(uint32_t crc, const void *buf, size_t len);

#endif
