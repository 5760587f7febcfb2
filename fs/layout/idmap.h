/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_LAYOUT_IDMAP_H
#define PINDAX_FS_LAYOUT_IDMAP_H

#include <stdint.h>

/*
 * A hash from 64-bit ids to nodes that their owner embeds. It doubles when it
 * is full; when there is no memory for that it gets slower, never fails.
 * Duplicate ids are allowed: idmap_find() returns the latest, idmap_more() the
 * next. Not thread-safe.
 */
struct idnode {
	uint64_t id;
	struct idnode *next;
};

struct idmap {
	struct idnode **bucket;
	uint64_t nr_buckets; /* power of two */
	uint64_t nr;
};

int idmap_init(struct idmap *m); /* -ENOMEM */
void idmap_fini(struct idmap *m);
void idmap_add(struct idmap *m, struct idnode *n);
void idmap_del(struct idmap *m, struct idnode *n); /* must be there */
struct idnode *idmap_find(const struct idmap *m, uint64_t id);
struct idnode *idmap_more(const struct idnode *n);
/* Calls fn for each node; fn must not change the map. */
void idmap_each(const struct idmap *m, void (*fn)(struct idnode *n, void *arg),
		void *arg);

#endif
