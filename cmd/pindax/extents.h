/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CMD_EXTENTS_H
#define PINDAX_CMD_EXTENTS_H

#include <stdint.h>
#include "fs/proto.h"

/*
 * extents_walk - call @fn for the extents of @fd that overlap [off, end), in
 * order. Stops at the first value of @fn that is not 0 and returns it; else 0
 * or -errno of the ioctl.
 */
int extents_walk(int fd, uint64_t off, uint64_t end,
		 int (*fn)(const struct pindax_extent_info *e, void *arg),
		 void *arg);

#endif
