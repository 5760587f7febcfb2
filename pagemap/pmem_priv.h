/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_PAGEMAP_PMEM_PRIV_H
#define PINDAX_PAGEMAP_PMEM_PRIV_H

#include <libpmem2.h>
#include "pagemap/pmem.h"

/* What libpmem2 gave for the one mapping. Constant after open. */
struct pmem_priv {
	struct pmem2_map *map;
	pmem2_flush_fn flush;
	pmem2_drain_fn drain;
	pmem2_memcpy_fn memcpy;
	pmem2_memset_fn memset;
};

#endif
