/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Taking page tables out of the way of a zap. Unmapping a range of touched 4
 * KiB pages walks every one of them, some 10 ms for 256 MiB, while whoever
 * recalled the range waits. Moving the page tables to another address instead
 * takes microseconds; they are unmapped there after the acknowledge.
 *
 * mremap(MREMAP_DONTUNMAP) moves them and leaves an equal mapping with no page
 * present: a touch in between finds the same block again, as if the zap had not
 * begun yet, and the zapped area that comes next has little to unmap. The
 * address of the grave is known to nobody, so no load or store of the program
 * can reach the blocks through it.
 *
 * All of this may fail (older kernels, limits); then the zap unmaps by itself.
 * Used by the recall thread alone: no lock, no allocation.
 */
#include <sys/mman.h>
#include "client/internal.h"

#define PIECE ((size_t)32 << 20) /* between two looks for new recalls */

void pdx_set_aside(struct pdx_graves *gr, uint8_t *at, size_t len)
{
	uint8_t *base, *to;
	struct pdx_vma v;

	if (len < PDX_WINDOW || gr->nr == PDX_GRAVES)
		return;
	base = mmap(NULL, len + PDX_WINDOW, PROT_NONE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return;
	/* Whole page tables move only between addresses so aligned. */
	to = base + (uintptr_t)(at - base) % PDX_WINDOW;
	gr->grave[gr->nr++] = (struct pdx_grave){base, len + PDX_WINDOW};
	for (; len && !pdx_vma_at(at, len, &v); len -= v.len) {
		(void)mremap(at, v.len, v.len,
			     MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
			     to);
		at += v.len;
		to += v.len;
	}
}

void pdx_bury(struct pdx_graves *gr)
{
	struct pdx_grave *g = &gr->grave[gr->nr - 1];
	size_t n = g->len < PIECE ? g->len : PIECE;

	(void)munmap(g->base, n);
	g->base += n;
	g->len -= n;
	if (!g->len)
		gr->nr--;
}
