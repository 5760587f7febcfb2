/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_LABEL_H
#define PINDAX_PAGEMAP_LABEL_H

#include <stdint.h>
#include "pagemap/pmem.h"

/*
 * The label area at the start of a pool lists its namespaces, as the label
 * area of an NVDIMM does (UEFI 2.7, Label Storage Area: two index blocks, the
 * one with the newer sequence number and a good checksum is valid).
 * Layout in bytes: docs/FORMAT.md. Read and written by this module only.
 */
#define LABEL_AREA_SIZE (2ULL << 20)	/* first namespace starts here */
#define LABEL_SCRATCH_OFF (64ULL << 10) /* page for the probes */
#define LABEL_MAX_NS 32
#define LABEL_NAME_MAX 31

struct label_ns {
	char name[LABEL_NAME_MAX + 1];
	uint8_t uuid[16];
	uint64_t off; /* bytes, 2 MiB multiple */
	uint64_t len; /* bytes, page multiple */
};

struct label_area {
	uint64_t pool_size; /* bytes, as the labels claim it */
	uint8_t pool_uuid[16];
	uint32_t nr;
	struct label_ns ns[LABEL_MAX_NS];
	int copy_bad; /* -1 both good, else the bad copy's number 0 or 1 */
};

/* Write both copies of a fresh area. */
int label_format(struct pmem_pool *pool, const struct label_area *la);
/*
 * label_read - -EINVAL not a pool (no magic); -EBADMSG both copies' checksums
 * are bad; -EPROTONOSUPPORT unknown version; -EOVERFLOW the pool file is
 * shorter than it claims; overlapping or out-of-range namespaces are -EBADMSG.
 */
int label_read(struct pmem_pool *pool, struct label_area *ret_la);
/* Replaces the older copy, so that a crash leaves one of the two. */
int label_write(struct pmem_pool *pool, const struct label_area *la);

#endif
