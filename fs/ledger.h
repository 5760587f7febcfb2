/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_LEDGER_H
#define PINDAX_FS_LEDGER_H

#include <assert.h>
#include <stdint.h>

/*
 * A mapper's page in the control region of the pool, shared by the daemon and
 * one client process. Both treat the other's words as hostile.
 *
 * Proof of access: the daemon writes a random challenge into the page before
 * it returns the page's offset; the client, which must be able to map the pool
 * to see it, returns it by ioctl and stores a nonce of its own in answer (that
 * it can write too). protocol.md, "Proof of access to the pool".
 */
struct pindax_ledger {
	uint64_t challenge; /* written by the daemon */
	uint64_t answer;    /* written by the client */
	uint64_t mapper;    /* id, written by the daemon */
	uint64_t reserved[509];
};
static_assert(sizeof(struct pindax_ledger) == 4096, "one page");

#endif
