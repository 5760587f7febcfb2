// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: maps attach and detach with the users of the callbacks balanced over
 * every failure, and a batch drops every reference whatever maps its pages
 * lie in and whether the callbacks are on, off or toggled meanwhile. Method:
 * single steps, then batches under a thread that toggles.
 */
#include "pagemap_fixture.h"

/* --- attach --- */

static void zeroed_and_wrong_descriptors_are_refused(void **state)
{
	struct fixture *f = *state;
	static const struct dev_pagemap_ops no_free = {NULL, release};
	struct owner o = {0};
	struct dev_pagemap *map = (void *)&o;
	struct dev_pagemap_desc d = {0};
	int users = dev_pagemap_ops_users();

	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EINVAL);
	d = desc_of(PAGEMAP_NONE, 0, 1, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EINVAL);
	assert_int_equal(o.released, 1);
	d = desc_of(PAGEMAP_PUBLIC + 1, 0, 1, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EINVAL);
	d = desc_of(PINNABLE, 0, 0, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EINVAL);
	d = desc_of(PINNABLE, UINT64_MAX, 2, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EINVAL);
	d = desc_of(PAGEMAP_PRIVATE, 0, 1, &o);
	d.ops = &no_free;
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EINVAL);
	d = desc_of(PINNABLE, TABLE_PAGES - 1, 2, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -ENXIO);
	d = desc_of(PINNABLE, MAP_FIRST + MAP_NR - 1, 2, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), -EBUSY);
	/* released on every path, outputs and count of users untouched */
	assert_int_equal(o.released, 7);
	assert_ptr_equal(map, &o);
	assert_int_equal(dev_pagemap_ops_users(), users);
}

static void attach_without_memory_changes_nothing(void **state)
{
	struct pagemap_table *t;
	struct dev_pagemap *map;
	struct dev_pagemap_desc d;
	struct owner o = {0};
	int users = dev_pagemap_ops_users();

	(void)state;
	assert_int_equal(pagemap_table_create(UINT64_MAX, &t), 0);
	d = desc_of(PINNABLE, 0, 1ULL << 50, &o);
	assert_int_equal(dev_pagemap_attach(t, &d, &map), -ENOMEM);
	d = desc_of(PINNABLE, 0, 1ULL << 63, &o);
	assert_int_equal(dev_pagemap_attach(t, &d, &map), -ENOMEM);
	assert_int_equal(o.released, 2);
	assert_int_equal(dev_pagemap_ops_users(), users);
	pagemap_table_destroy(t);
}

static void build_without_ops_attaches_limited_only(void **state)
{
	static const enum pagemap_type managed[] = {
		PAGEMAP_FS_DAX, PAGEMAP_PRIVATE, PAGEMAP_PUBLIC};
	struct fixture *f = *state;
	struct dev_pagemap *map;
	struct dev_pagemap_desc d;
	struct owner o = {0};
	int i;

	assert_int_equal(dev_pagemap_detach(f->map), 0);
	for (i = 0; i < 3; i++) {
		d = desc_of(managed[i], 0, RUN, &o);
		assert_int_equal(dev_pagemap_attach(f->t, &d, &map),
				 OPS_BUILT ? 0 : -EOPNOTSUPP);
		assert_int_equal(dev_pagemap_ops_users(), OPS_BUILT);
		if (OPS_BUILT)
			assert_int_equal(dev_pagemap_detach(map), 0);
		assert_int_equal(o.released, i + 1);
	}
	assert_int_equal(dev_pagemap_get_ops(), OPS_BUILT ? 0 : -EOPNOTSUPP);
	dev_pagemap_put_ops();
	assert_int_equal(dev_pagemap_ops_users(), 0);
	d = (struct dev_pagemap_desc){PAGEMAP_FS_DAX_LIMITED, 0, RUN, NULL,
				      NULL};
	assert_int_equal(dev_pagemap_attach(f->t, &d, &map), 0);
	assert_int_equal(dev_pagemap_type(map), PAGEMAP_FS_DAX_LIMITED);
	assert_int_equal(dev_pagemap_ops_users(), 0);
	assert_true(page_try_get(map, 3));
	page_put(map, 3);
	assert_int_equal(dev_pagemap_detach(map), 0);

	d = desc_of(PINNABLE, MAP_FIRST, MAP_NR, &f->owner);
	f->owner.released = 0;
	assert_int_equal(dev_pagemap_attach(f->t, &d, &f->map), 0);
}

static void maps_are_found_by_page_and_held(void **state)
{
	struct fixture *f = *state;
	struct dev_pagemap_desc d;
	struct dev_pagemap *head, *found;
	struct owner o = {0};

	assert_null(get_dev_pagemap(f->t, MAP_FIRST - 1));
	assert_null(get_dev_pagemap(f->t, MAP_FIRST + MAP_NR));
	assert_null(get_dev_pagemap(f->t, UINT64_MAX));
	d = desc_of(PINNABLE, 0, MAP_FIRST, &o);
	assert_int_equal(dev_pagemap_attach(f->t, &d, &head), 0);
	found = get_dev_pagemap(f->t, MAP_FIRST - 1);
	assert_ptr_equal(found, head);
	assert_int_equal(dev_pagemap_detach(head), -EBUSY);
	put_dev_pagemap(found);
	found = get_dev_pagemap(f->t, MAP_FIRST);
	assert_ptr_equal(found, f->map);
	put_dev_pagemap(found);
	assert_true(page_try_get(head, 0));
	assert_int_equal(dev_pagemap_detach(head), -EBUSY);
	assert_int_equal(o.released, 0);
	page_put(head, 0);
	assert_int_equal(dev_pagemap_detach(head), 0);
	assert_int_equal(o.released, 1);
	assert_null(get_dev_pagemap(f->t, 0));
	/* the range is free for another, and all its pages are idle again */
	assert_int_equal(dev_pagemap_attach(f->t, &d, &head), 0);
	assert_int_equal(page_count(head, 0), 1);
	assert_int_equal(dev_pagemap_detach(head), 0);
}

static void detach_leaves_callbacks_of_other_users_on(void **state)
{
	struct dev_pagemap *dax, *priv, *pub;
	struct owner a = {0}, b = {0}, c = {0};
	struct dev_pagemap_desc d;
	struct pagemap_table *t;
	int users = dev_pagemap_ops_users();

	(void)state;
	if (!OPS_BUILT)
		skip();
	assert_int_equal(pagemap_table_create(100, &t), 0);
	d = desc_of(PAGEMAP_FS_DAX, 0, 40, &a);
	assert_int_equal(dev_pagemap_attach(t, &d, &dax), 0);
	d = desc_of(PAGEMAP_PRIVATE, 40, 10, &b);
	assert_int_equal(dev_pagemap_attach(t, &d, &priv), 0);
	d = desc_of(PAGEMAP_PUBLIC, 50, 50, &c);
	assert_int_equal(dev_pagemap_attach(t, &d, &pub), 0);
	assert_int_equal(dev_pagemap_ops_users(), users + 3);
	assert_int_equal(dev_pagemap_detach(dax), 0);
	assert_true(page_try_get(priv, 49));
	assert_true(page_try_get(pub, 50));
	page_put(priv, 49);
	assert_int_equal(b.pages, 1);
	assert_int_equal(c.pages, 0);
	page_put(pub, 50);
	assert_int_equal(b.pages, 1);
	assert_int_equal(c.pages, 1);
	assert_int_equal(dev_pagemap_detach(priv), 0);
	assert_int_equal(dev_pagemap_detach(pub), 0);
	assert_int_equal(dev_pagemap_ops_users(), users);
	pagemap_table_destroy(t);
}

/* In pages; the second field of proc(5)'s statm. */
static long resident(void)
{
	FILE *f = fopen("/proc/self/statm", "re");
	char line[128] = "", *end;

	assert_non_null(f);
	assert_non_null(fgets(line, sizeof(line), f));
	fclose(f);
	(void)strtol(line, &end, 10); /* the first */
	return strtol(end, NULL, 10);
}

static void huge_map_costs_only_touched_memory(void **state)
{
	uint64_t nr = (1ULL << 40) / PMEM_PAGE_SIZE, page, n, i;
	struct dev_pagemap *map;
	struct dev_pagemap_desc d;
	struct pagemap_table *t;
	struct owner o = {0};
	long before;

	(void)state;
	assert_int_equal(pagemap_table_create(nr, &t), 0);
	d = desc_of(PINNABLE, 0, nr, &o);
	before = resident();
	assert_int_equal(dev_pagemap_attach(t, &d, &map), 0);
	for (i = 0; i < 4; i++)
		assert_true(page_try_get(map, i * (nr / 4)));
	assert_int_equal(page_count(map, nr - 1), 1);
	assert_true(resident() - before <
		    1024); /* 4 MiB, sanitizers included */
	assert_true(pages_first_busy(map, 1, nr - 1, &page, &n));
	assert_int_equal(page, nr / 4);
	assert_int_equal(n, 1);
	for (i = 0; i < 4; i++)
		page_put(map, i * (nr / 4));
	assert_false(pages_first_busy(map, 0, nr, &page, &n));
	assert_int_equal(dev_pagemap_detach(map), 0);
	pagemap_table_destroy(t);
}

/* --- batches --- */

/* Unmanaged, limited, compound, split and plain pages, some more than once. */
struct batch {
	struct dev_pagemap *head; /* a map of another type beside the big one */
	struct owner head_owner;
	uint64_t pages[RUN + 16];
	unsigned int nr;
};

static void batch_take(struct fixture *f, struct batch *b)
{
	struct dev_pagemap_desc d =
		desc_of(PAGEMAP_FS_DAX_LIMITED, 1, 9, &b->head_owner);
	uint64_t i;

	memset(b, 0, sizeof(*b));
	assert_int_equal(dev_pagemap_attach(f->t, &d, &b->head), 0);
	b->pages[b->nr++] = TABLE_PAGES - 1; /* in no map */
	b->pages[b->nr++] = 0;
	b->pages[b->nr++] = 9;
	assert_true(page_try_get(b->head, 9));
	/* single pages of a run that is referenced as a whole */
	assert_int_equal(pages_try_get(f->map, RUN, RUN), 0);
	for (i = 0; i < RUN; i++)
		b->pages[b->nr++] = RUN + i;
	/* one page of a compound; the rest is put by the test */
	assert_int_equal(pages_try_get(f->map, 3 * RUN, RUN), 0);
	b->pages[b->nr++] = 3 * RUN + 1;
	/* the same page twice, then out of order */
	assert_int_equal(pages_try_get(f->map, 5 * RUN + 1, 2), 0);
	page_get(f->map, 5 * RUN + 2);
	b->pages[b->nr++] = 5 * RUN + 2;
	b->pages[b->nr++] = 5 * RUN + 2;
	b->pages[b->nr++] = 5 * RUN + 1;
	b->pages[b->nr++] = UINT64_MAX;
}

static void batch_check(struct fixture *f, struct batch *b)
{
	uint64_t page, nr;

	assert_int_equal(page_count(b->head, 9), 1);
	assert_int_equal(b->head_owner.calls, 0);
	assert_int_equal(page_count(f->map, 3 * RUN + 1), 1);
	assert_int_equal(page_count(f->map, 3 * RUN), 2);
	page_put(f->map, 3 * RUN);
	pages_put(f->map, 3 * RUN + 2, RUN - 2);
	assert_false(pages_first_busy(f->map, MAP_FIRST, MAP_NR, &page, &nr));
	assert_int_equal(dev_pagemap_detach(b->head), 0);
}

static void mixed_batch_drops_every_reference(void **state)
{
	struct fixture *f = *state;
	struct batch b;

	batch_take(f, &b);
	pages_put_batch(f->t, b.pages, b.nr);
	batch_check(f, &b);
	assert_int_equal(freed(&f->owner), OPS_BUILT ? 2 * RUN + 2 : 0);
}

static void mixed_batch_drops_every_reference_with_ops_off(void **state)
{
	struct fixture *f = *state;
	struct batch b;

	if (!OPS_BUILT)
		skip();
	dev_pagemap_put_ops(); /* the fixture's own */
	assert_int_equal(dev_pagemap_ops_users(), 0);
	batch_take(f, &b);
	pages_put_batch(f->t, b.pages, b.nr);
	batch_check(f, &b);
	assert_int_equal(f->owner.calls, 0);
	assert_true(page_try_get(f->map, RUN)); /* the path of one decrement */
	page_put(f->map, RUN);
	assert_true(page_idle(f->map, RUN));
	assert_int_equal(f->owner.calls, 0);
	assert_int_equal(dev_pagemap_get_ops(), 0);
	assert_true(page_try_get(f->map, RUN));
	page_put(f->map, RUN);
	assert_int_equal(f->owner.calls, 1);
}

static void ops_toggled_in_mid_batch_lose_no_reference(void **state)
{
	struct fixture *f = *state;
	pthread_t toggler;
	struct batch b;
	int i;

	if (!OPS_BUILT)
		skip();
	atomic_store(&toggling, true);
	assert_int_equal(pthread_create(&toggler, NULL, toggle_ops, NULL), 0);
	for (i = 0; i < 100; i++) {
		batch_take(f, &b);
		pages_put_batch(f->t, b.pages, b.nr);
		batch_check(f, &b);
	}
	atomic_store(&toggling, false);
	pthread_join(toggler, NULL);
	assert_int_equal(dev_pagemap_ops_users(), 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(zeroed_and_wrong_descriptors_are_refused),
		CASE(attach_without_memory_changes_nothing),
		CASE(build_without_ops_attaches_limited_only),
		CASE(maps_are_found_by_page_and_held),
		CASE(detach_leaves_callbacks_of_other_users_on),
		CASE(huge_map_costs_only_touched_memory),
		CASE(mixed_batch_drops_every_reference),
		CASE(mixed_batch_drops_every_reference_with_ops_off),
		CASE(ops_toggled_in_mid_batch_lose_no_reference),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
