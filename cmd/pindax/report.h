/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CMD_REPORT_H
#define PINDAX_CMD_REPORT_H

#include <stdint.h>
#include "fs/proto.h"

/* The rows of one REPORT snapshot. */
struct report {
	struct pindax_report_row *row;
	uint32_t nr;
	uint64_t now_ns;
};

/* All rows (malloc'ed); 0 or -errno of the ioctl, -ENOMEM. */
int report_read(int fd, unsigned int flags, struct report *ret_report);
void report_free(struct report *r);

/*
 * report_path - where the row's file is, as an absolute path under @root.
 * Allocated; NULL when it has no name (unlinked) or cannot be told.
 */
char *report_path(int fd, const char *root, uint64_t ino);

/* "lease", "truncate", ...; "?" for a kind this program does not know. */
const char *report_kind_text(uint32_t kind);

/*
 * mount_root - the root directory of the mount that holds directory @fd: up as
 * long as st_dev stays the same. Absolute, malloc'ed. -errno.
 */
int mount_root(int fd, char **ret_path);

#endif
