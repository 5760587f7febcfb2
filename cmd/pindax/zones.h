/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CMD_ZONES_H
#define PINDAX_CMD_ZONES_H

#include <stddef.h>
#include <stdint.h>
#include "cmd/pindax/demo.h"

/*
 * A rectangle in time and file range in which the blocks that the device had
 * there were not the file's any more: from the return of the truncate or punch
 * that took them to the next registration, which brings other blocks.
 */
struct zone {
	uint64_t from_ns, to_ns;
	uint64_t off, end;
	bool pinned; /* the device still held them: this is the race */
};

/* The zones of [from, to), malloc'ed. 0 or -ENOMEM. */
int zones_compute(const struct demo_phase *p, uint64_t file_bytes,
		  uint64_t from_ns, uint64_t to_ns, struct zone **ret_zone,
		  size_t *ret_nr);

#endif
