/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_CHECK_H
#define PINDAX_FS_MEDIA_CHECK_H

#include <stdbool.h>
#include <stdint.h>
#include "pagemap/pmem.h"

/*
 * Is everything on the pool as it must be? Reads only: the journal is replayed
 * into a private copy. Each finding goes to @say as one line without a newline;
 * @error: something is wrong, else it is worth knowing. After CHECK_MAX_LINES
 * errors they are only counted.
 */
#define CHECK_MAX_LINES 200
typedef void check_say_fn(void *arg, bool error, const char *line);

struct check_result {
	uint64_t errors;
	uint64_t inodes;
	uint64_t dirs;
	uint64_t blocks_used; /* of the data area */
	uint64_t blocks;
	uint64_t replayed;
	uint64_t orphans;
};

/*
 * media_check - labels, superblocks, journal, inodes, extents against the
 * allocation map, directories, link counts, orphans, of every namespace.
 * The caller has claimed the pool.
 * Return 0 when the check came to its end or damage stopped it (errors > 0);
 * -EINVAL not a pool; -EPROTONOSUPPORT of another version; -ENOMEM.
 */
int media_check(struct pmem_pool *pool, check_say_fn *say, void *arg,
		struct check_result *ret);

#endif
