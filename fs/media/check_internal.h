/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_CHECK_INTERNAL_H
#define PINDAX_FS_MEDIA_CHECK_INTERNAL_H

#include "fs/media/check.h"
#include "fs/media/internal.h"

/* What a check knows of one inode. */
struct check_ino {
	uint64_t named_in; /* directories: where the name is; 0 none */
	uint64_t parent;   /* directories: what the record says */
	uint64_t slot;	   /* orphan_slot */
	uint32_t nlink;
	uint32_t links;	  /* names found */
	uint32_t subdirs; /* names of directories in it */
	uint32_t mode;
	uint32_t state;
	bool used;
	bool bad;      /* damaged record */
	bool has_slot; /* its slot names it */
	uint8_t reach; /* REACH_* */
};

struct check {
	struct media *m;
	check_say_fn *say;
	void *arg;
	struct check_result *res;
	struct check_ino *ino; /* by number */
	uint64_t nr_ino;
	uint64_t *owned; /* blocks */
	uint64_t lines;
};

void check_error(struct check *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
void check_note(struct check *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
int check_inodes(struct check *c); /* records, extents, allocation map */
int check_names(struct check *c);  /* directories, link counts, orphans */

#endif
