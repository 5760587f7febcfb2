/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * idmap: a chained hash from ids to embedded nodes, for the mappers, pins and
 * waiting requests of a mount. Owns the bucket array, never the nodes.
 * Ids are handed out in sequence, so the low bits spread well enough after one
 * multiplication. The caller's lock guards everything.
 */
#include "fs/layout/idmap.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_BUCKETS 256U

static struct idnode **slot(const struct idmap *m, uint64_t id)
{
	uint64_t h = id * 0x9e3779b97f4a7c15ULL;

	return &m->bucket[(h >> 32) & (m->nr_buckets - 1)];
}

int idmap_init(struct idmap *m)
{
	m->bucket = calloc(FIRST_BUCKETS, sizeof(struct idnode *));
	if (!m->bucket)
		return -ENOMEM;
	m->nr_buckets = FIRST_BUCKETS;
	m->nr = 0;
	return 0;
}

void idmap_fini(struct idmap *m)
{
	free(m->bucket);
	m->bucket = NULL;
}

static void grow(struct idmap *m)
{
	struct idmap bigger = {.nr_buckets = m->nr_buckets * 2, .nr = m->nr};
	uint64_t i;

	bigger.bucket = calloc(bigger.nr_buckets, sizeof(struct idnode *));
	if (!bigger.bucket)
		return;
	for (i = 0; i < m->nr_buckets; i++) {
		struct idnode *n = m->bucket[i], *next;

		for (; n; n = next) {
			struct idnode **s = slot(&bigger, n->id);

			next = n->next;
			n->next = *s;
			*s = n;
		}
	}
	free(m->bucket);
	*m = bigger;
}

void idmap_add(struct idmap *m, struct idnode *n)
{
	struct idnode **s;

	if (m->nr >= m->nr_buckets)
		grow(m);
	s = slot(m, n->id);
	n->next = *s;
	*s = n;
	m->nr++;
}

void idmap_del(struct idmap *m, struct idnode *n)
{
	struct idnode **s = slot(m, n->id);

	while (*s != n)
		s = &(*s)->next;
	*s = n->next;
	m->nr--;
}

struct idnode *idmap_find(const struct idmap *m, uint64_t id)
{
	struct idnode *n = *slot(m, id);

	while (n && n->id != id)
		n = n->next;
	return n;
}

struct idnode *idmap_more(const struct idnode *n)
{
	uint64_t id = n->id;

	do {
		n = n->next;
	} while (n && n->id != id);
	return (struct idnode *)n;
}

void idmap_each(const struct idmap *m, void (*fn)(struct idnode *n, void *arg),
		void *arg)
{
	uint64_t i;

	for (i = 0; i < m->nr_buckets; i++) {
		struct idnode *n = m->bucket[i], *next;

		for (; n; n = next) {
			next = n->next;
			fn(n, arg);
		}
	}
}
