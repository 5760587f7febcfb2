// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: a directory finds, adds, removes and lists names, in a transaction and
 * after it, takes changes back, stays fast with many names, and believes no
 * damaged block.
 * Method: a pool on tmpfs; a random run against a plain table of names; bytes
 * of a block are damaged and the directory opened again.
 */
#include "tests/unit/pool.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "fs/media/dir.h"
#include "fs/media/dirblk.h"

struct world {
	struct test_pool t;
	struct dir *d;
	uint64_t ino;
};

static int setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	struct pdx_inode di;

	test_pool_make(&w->t, 64ULL << 20);
	w->ino = test_file(w->t.m, S_IFDIR | 0755);
	assert_int_equal(itable_read(w->t.m, w->ino, &di), 0);
	assert_int_equal(dir_open(w->t.m, &di, &w->d), 0);
	*state = w;
	return 0;
}

static int teardown(void **state)
{
	struct world *w = *state;

	dir_close(w->d);
	test_pool_remove(&w->t);
	free(w);
	return 0;
}

static void reopen(struct world *w)
{
	struct pdx_inode di;

	dir_close(w->d);
	w->d = NULL;
	assert_int_equal(itable_read(w->t.m, w->ino, &di), 0);
	assert_int_equal(dir_open(w->t.m, &di, &w->d), 0);
}

static int add(struct world *w, const char *name, uint64_t ino)
{
	struct pdx_inode *di;
	struct tx *tx;
	int err;

	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	di = tx_edit_inode(tx, w->ino);
	err = dir_add(tx, w->d, di, name, strlen(name), ino, DT_REG);
	if (err) {
		tx_abort(tx);
		dir_abort(w->d);
		return err;
	}
	assert_int_equal(tx_commit(tx), 0);
	dir_commit(w->d);
	return 0;
}

static int del(struct world *w, const char *name)
{
	struct tx *tx;
	int err;

	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	err = dir_del(tx, w->d, name, strlen(name));
	if (err) {
		tx_abort(tx);
		dir_abort(w->d);
		return err;
	}
	assert_int_equal(tx_commit(tx), 0);
	dir_commit(w->d);
	return 0;
}

static uint64_t look(struct world *w, const char *name)
{
	uint64_t ino;
	uint8_t type;

	return dir_lookup(w->d, name, strlen(name), &ino, &type) ? 0 : ino;
}

static void names_are_found_after_reopen(void **state)
{
	struct world *w = *state;

	assert_int_equal(add(w, "a", 5), 0);
	assert_int_equal(add(w, "a long name with spaces", 6), 0);
	assert_int_equal(add(w, "a", 7), -EEXIST);
	assert_int_equal(del(w, "nobody"), -ENOENT);
	reopen(w);
	assert_int_equal(look(w, "a"), 5);
	assert_int_equal(look(w, "a long name with spaces"), 6);
	assert_int_equal(look(w, "b"), 0);
	assert_int_equal(dir_nr(w->d), 2);
}

static void names_that_no_entry_may_have_are_refused(void **state)
{
	struct world *w = *state;
	char name[300];

	memset(name, 'x', sizeof(name));
	name[256] = '\0';
	assert_int_equal(add(w, name, 5), -EINVAL);
	name[255] = '\0';
	assert_int_equal(add(w, name, 5), 0);
	assert_int_equal(look(w, name), 5);
	assert_int_equal(add(w, "a/b", 5), -EINVAL);
	assert_int_equal(add(w, "..", 5), -EINVAL);
	assert_int_equal(add(w, "", 5), -EINVAL);
	assert_int_equal(add(w, "...", 5), 0);
}

static void abort_takes_every_change_back(void **state)
{
	struct world *w = *state;
	struct pdx_inode *di;
	struct tx *tx;
	char name[300];
	unsigned int i;

	assert_int_equal(add(w, "keep", 5), 0);
	assert_int_equal(add(w, "set", 6), 0);
	assert_int_equal(tx_begin(w->t.m, &tx), 0);
	di = tx_edit_inode(tx, w->ino);
	assert_int_equal(dir_del(tx, w->d, "keep", 4), 0);
	assert_int_equal(dir_set(tx, w->d, "set", 3, 9, DT_DIR), 0);
	for (i = 0; i < 100; i++) { /* into a second block and a third */
		snprintf(name, sizeof(name), "%0200u", i);
		assert_int_equal(
			dir_add(tx, w->d, di, name, 200, 10 + i, DT_REG), 0);
	}
	assert_int_equal(dir_del(tx, w->d, name, 200), 0);
	assert_int_equal(look(w, "set"), 9);
	assert_int_equal(look(w, "keep"), 0);
	tx_abort(tx);
	dir_abort(w->d);
	assert_int_equal(look(w, "keep"), 5);
	assert_int_equal(look(w, "set"), 6);
	assert_int_equal(dir_nr(w->d), 2);
	assert_int_equal(add(w, "next", 7), 0);
	reopen(w);
	assert_int_equal(look(w, "keep"), 5);
	assert_int_equal(look(w, "set"), 6);
	assert_int_equal(look(w, "next"), 7);
	assert_int_equal(dir_nr(w->d), 3);
}

static void cursor_is_stable_while_others_come_and_go(void **state)
{
	struct world *w = *state;
	struct dir_entry e;
	uint64_t cursor = 0, seen = 0;
	char name[32];
	unsigned int i;

	for (i = 0; i < 500; i++) {
		snprintf(name, sizeof(name), "entry-%u", i);
		assert_int_equal(add(w, name, 100 + i), 0);
	}
	while (!dir_next(w->d, cursor, &e)) {
		cursor = e.next;
		seen++;
		assert_int_equal(look(w, e.name), e.ino);
		/* Each is removed as soon as it was seen. */
		assert_int_equal(del(w, e.name), 0);
	}
	assert_int_equal(seen, 500);
	assert_int_equal(dir_nr(w->d), 0);
	assert_int_equal(dir_next(w->d, 0, &e), -ENOENT);
	assert_int_equal(dir_next(w->d, UINT64_MAX, &e), -ENOENT);
}

#define NAMES 400

static void check_model(struct world *w, const uint64_t *model)
{
	struct dir_entry e;
	uint64_t cursor = 0, nr = 0, want = 0;
	char name[256];
	unsigned int i;

	for (i = 0; i < NAMES; i++) {
		snprintf(name, sizeof(name), "%0*u", (int)(1 + i % 200), i);
		assert_int_equal(look(w, name), model[i]);
		want += model[i] != 0;
	}
	while (!dir_next(w->d, cursor, &e)) {
		cursor = e.next;
		nr++;
	}
	assert_int_equal(nr, want);
	assert_int_equal(dir_nr(w->d), want);
}

static void random_changes_match_a_table(void **state)
{
	struct world *w = *state;
	uint64_t model[NAMES] = {0}, i, n;
	struct test_rand r;
	char name[256];

	test_rand_init(&r);
	for (n = 1; n <= 20000; n++) {
		i = test_rand(&r, NAMES);
		snprintf(name, sizeof(name), "%0*u", (int)(1 + i % 200),
			 (unsigned int)i);
		if (model[i]) {
			assert_int_equal(del(w, name), 0);
			model[i] = 0;
		} else {
			assert_int_equal(add(w, name, n), 0);
			model[i] = n;
		}
		if (n % 4000 == 0) {
			reopen(w);
			check_model(w, model);
		}
	}
}

static void fifty_thousand_names_are_no_burden(void **state)
{
	struct world *w = *state;
	struct timespec a, b;
	char name[32];
	unsigned int i;

	clock_gettime(CLOCK_MONOTONIC, &a);
	for (i = 0; i < 50000; i++) {
		snprintf(name, sizeof(name), "file-%u", i);
		assert_int_equal(add(w, name, 2 + i), 0);
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	print_message("50,000 names: %.0f ms\n",
		      (double)(b.tv_sec - a.tv_sec) * 1e3 +
			      (double)(b.tv_nsec - a.tv_nsec) / 1e6);
	reopen(w);
	assert_int_equal(dir_nr(w->d), 50000);
	assert_int_equal(look(w, "file-49999"), 50001);
}

static struct pdx_dirblk *first_block(struct world *w, struct pdx_inode *di)
{
	struct extent e;

	assert_int_equal(itable_read(w->t.m, w->ino, di), 0);
	assert_int_equal(extent_lookup(w->t.m, NULL, di, 0, &e), 0);
	return media_ptr(w->t.m, e.pblk);
}

static void damaged_entries_are_ebadmsg(void **state)
{
	struct world *w = *state;
	struct pdx_inode di;
	struct pdx_dirblk *blk, good;
	struct pdx_dirent *de;
	struct dir *d;
	unsigned int i;

	assert_int_equal(add(w, "one", 5), 0);
	assert_int_equal(add(w, "two", 6), 0);
	blk = first_block(w, &di);
	good = *blk;
	de = (void *)blk->data;
	for (i = 0; i < 8; i++) {
		*blk = good;
		switch (i) {
		case 0:
			de->rec_len = mk16(8);
			break;
		case 1:
			de->rec_len = mk16(4088);
			break;
		case 2:
			de->rec_len = mk16(20);
			break;
		case 3:
			de->name_len = 200;
			break;
		case 4:
			de->name[1] = '/';
			break;
		case 5:
			de->name_len = 0;
			break;
		case 6:
			memcpy(de->name, "two", 3);
			break;
		default:
			blk->owner = mk64(77);
			break;
		}
		/* With a wrong sum, and with a right one. */
		assert_int_equal(dir_open(w->t.m, &di, &d), -EBADMSG);
		blk->csum = mk32(csum_at4(blk, sizeof(*blk)));
		assert_int_equal(dir_open(w->t.m, &di, &d), -EBADMSG);
	}
	*blk = good;
	di.size = mk64(1ULL << 60);
	assert_int_equal(dir_open(w->t.m, &di, &d), -EBADMSG);
	di.size = mk64(2ULL * PDX_BLOCK_SIZE);
	assert_int_equal(dir_open(w->t.m, &di, &d), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(names_are_found_after_reopen),
		T(names_that_no_entry_may_have_are_refused),
		T(abort_takes_every_change_back),
		T(cursor_is_stable_while_others_come_and_go),
		T(random_changes_match_a_table),
		T(fifty_thousand_names_are_no_burden),
		T(damaged_entries_are_ebadmsg),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
