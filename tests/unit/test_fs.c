/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The filesystem without a mount: names, data, sizes, space, and what a remount
 * finds. What waits for pins is test_fs_wait.c's.
 */
#include "tests/unit/fs_fixture.h"

#define KIB 1024ULL
#define MIB (1024ULL * KIB)
#define PAGE 4096ULL

static struct inode *make_dir(struct inode *dir, const char *name)
{
	struct inode *ip;

	assert_int_equal(
		fs_create(dir, name, S_IFDIR | 0755, 0, NULL, &ME, &ip), 0);
	return ip;
}

static void names_live_across_a_remount(void **state)
{
	struct world *w = *state;
	struct inode *d = make_dir(w->root, "d"), *ip;
	char target[4096], path[4096];

	file_close(w, file_new(w, "f"));
	assert_int_equal(fs_create(d, "s", S_IFLNK | 0777, 0, "../f", &ME, &ip),
			 0);
	assert_int_equal(fs_lookup(w->root, "f", &ip), 0);
	assert_int_equal(fs_link(ip, d, "hard"), 0);
	assert_int_equal(file_stat(ip).st_nlink, 2);

	world_remount(w);
	assert_int_equal(fs_lookup(w->root, "d", &d), 0);
	assert_int_equal(fs_lookup(d, "s", &ip), 0);
	assert_int_equal(fs_readlink(ip, target, sizeof(target)), 0);
	assert_string_equal(target, "../f");
	assert_int_equal(fs_lookup(d, "hard", &ip), 0);
	assert_int_equal(file_stat(ip).st_nlink, 2);
	assert_int_equal(fs_path(w->fs, fs_ino(ip), path, sizeof(path)), 0);
	assert_string_equal(path, "/d/hard");
	assert_int_equal(file_stat(d).st_nlink, 2);
	assert_int_equal(file_stat(w->root).st_nlink, 3);
}

static void names_are_checked(void **state)
{
	struct world *w = *state;
	struct inode *d = make_dir(w->root, "d"), *ip;
	char name[300];

	memset(name, 'n', 256);
	name[256] = '\0';
	assert_int_equal(fs_create(w->root, name, S_IFREG, 0, NULL, &ME, &ip),
			 -ENAMETOOLONG);
	name[255] = '\0';
	assert_int_equal(fs_create(w->root, name, S_IFREG, 0, NULL, &ME, &ip),
			 0);
	assert_int_equal(fs_create(w->root, "d", S_IFREG, 0, NULL, &ME, &ip),
			 -EEXIST);
	assert_int_equal(fs_lookup(w->root, "none", &ip), -ENOENT);
	assert_int_equal(fs_unlink(w->root, "d"), -EISDIR);
	assert_int_equal(fs_rmdir(w->root, name), -ENOTDIR);
	assert_int_equal(fs_create(d, "x", S_IFREG, 0, NULL, &ME, &ip), 0);
	assert_int_equal(fs_rmdir(w->root, "d"), -ENOTEMPTY);
	assert_int_equal(fs_unlink(d, "x"), 0);
	assert_int_equal(fs_rmdir(w->root, "d"), 0);
	/* It is still known, but nothing can be put there. */
	assert_int_equal(fs_create(d, "y", S_IFREG, 0, NULL, &ME, &ip),
			 -ENOENT);
}

static void long_symlinks_have_a_block(void **state)
{
	struct world *w = *state;
	char target[4097], got[4096];
	struct inode *ip;

	memset(target, 't', sizeof(target));
	target[4096] = '\0';
	assert_int_equal(fs_create(w->root, "s", S_IFLNK, 0, target, &ME, &ip),
			 -ENAMETOOLONG);
	target[4095] = '\0';
	assert_int_equal(fs_create(w->root, "s", S_IFLNK, 0, target, &ME, &ip),
			 0);
	assert_int_equal(fs_readlink(ip, got, sizeof(got)), 0);
	assert_string_equal(got, target);
}

static void rename_replaces_and_exchanges(void **state)
{
	struct world *w = *state;
	struct inode *a = file_new(w, "a"), *b = file_new(w, "b"), *ip;
	struct inode *d = make_dir(w->root, "d");

	file_fill(a, 'a', 10, 0);
	assert_int_equal(fs_rename(w->root, "a", w->root, "b", 1), -EEXIST);
	assert_int_equal(fs_rename(w->root, "a", w->root, "b", 2), 0);
	assert_int_equal(fs_lookup(w->root, "a", &ip), 0);
	assert_ptr_equal(ip, b);
	assert_int_equal(fs_rename(w->root, "b", w->root, "a", 0), 0);
	assert_int_equal(file_stat(b).st_nlink, 0);
	assert_int_equal(fs_rename(w->root, "a", d, "a", 0), 0);
	assert_int_equal(fs_lookup(d, "a", &ip), 0);
	assert_true(file_is(ip, 'a', 10, 0));
	assert_int_equal(fs_rename(w->root, "none", d, "a", 0), -ENOENT);
	/* As the kernel has it: an ancestor is full before it is a directory.
	 */
	assert_int_equal(fs_rename(d, "a", w->root, "d", 0), -ENOTEMPTY);
	assert_int_equal(fs_rename(w->root, "d", d, "a", 0), -EINVAL);
	file_close(w, a);
	file_close(w, b);
}

static void rename_refuses_loops(void **state)
{
	struct world *w = *state;
	struct inode *a = make_dir(w->root, "a"), *b = make_dir(a, "b"),
		     *c = make_dir(b, "c"), *ip;

	assert_int_equal(fs_rename(w->root, "a", c, "x", 0), -EINVAL);
	assert_int_equal(fs_rename(a, "b", b, "c", 0), -EINVAL);
	/* Over an ancestor: it cannot be empty. */
	assert_int_equal(fs_rename(b, "c", w->root, "a", 0), -ENOTEMPTY);
	assert_int_equal(fs_rename(b, "c", w->root, "c", 0), 0);
	assert_int_equal(file_stat(b).st_nlink, 2);
	assert_int_equal(file_stat(w->root).st_nlink, 4);
	assert_int_equal(fs_lookup(c, "..", &ip), 0);
	assert_ptr_equal(ip, w->root);
	assert_int_equal(fs_rename(w->root, "a", c, "a", 0), 0);
	assert_int_equal(file_stat(w->root).st_nlink, 3);
}

struct seen {
	unsigned int nr, stop_at;
	uint64_t next;
	bool dots[2];
};

static int see(const struct fs_dirent *e, void *arg)
{
	struct seen *s = arg;

	if (s->nr == s->stop_at)
		return 1;
	s->nr++;
	s->next = e->next;
	if (strcmp(e->name, ".") == 0)
		s->dots[0] = true;
	if (strcmp(e->name, "..") == 0)
		s->dots[1] = true;
	return 0;
}

static void readdir_goes_on_where_it_stopped(void **state)
{
	struct world *w = *state;
	struct seen s = {0};
	char name[16];
	unsigned int total = 0;

	for (int i = 0; i < 500; i++) {
		(void)snprintf(name, sizeof(name), "f%d", i);
		file_close(w, file_new(w, name));
	}
	do {
		s.nr = 0;
		s.stop_at = 7;
		assert_int_equal(fs_readdir(w->root, s.next, see, &s), 0);
		total += s.nr;
	} while (s.nr);
	assert_int_equal(total, 502);
	assert_true(s.dots[0] && s.dots[1]);
}

static void data_lives_across_a_remount(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");

	file_fill(ip, 'x', 3 * MIB + 5, 100);
	file_fill(ip, 'y', 1, 2 * MIB);
	file_close(w, ip);
	world_remount(w);
	ip = file_open(w, "f");
	assert_int_equal(file_stat(ip).st_size, 3 * MIB + 105);
	assert_true(file_is(ip, 0, 100, 0));
	assert_true(file_is(ip, 'x', 2 * MIB - 100, 100));
	assert_true(file_is(ip, 'y', 1, 2 * MIB));
	assert_true(file_is(ip, 'x', MIB + 104, 2 * MIB + 1));
	file_close(w, ip);
}

static void holes_read_as_zeros(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");
	uint64_t off;

	file_fill(ip, 'a', 10, 5 * PAGE + 7);
	file_fill(ip, 'b', 1, 1000 * PAGE);
	assert_int_equal(file_stat(ip).st_blocks, 16);
	assert_true(file_is(ip, 0, 5 * PAGE + 7, 0));
	assert_true(file_is(ip, 0, 900 * PAGE, 5 * PAGE + 17));
	assert_int_equal(fs_lseek(ip, 0, SEEK_DATA, &off), 0);
	assert_int_equal(off, 5 * PAGE);
	assert_int_equal(fs_lseek(ip, off, SEEK_HOLE, &off), 0);
	assert_int_equal(off, 6 * PAGE);
	assert_int_equal(fs_lseek(ip, 1000 * PAGE, SEEK_HOLE, &off), 0);
	assert_int_equal(off, 1000 * PAGE + 1);
	assert_int_equal(fs_lseek(ip, off, SEEK_DATA, &off), -ENXIO);
	file_close(w, ip);
}

static void a_cut_tail_is_zeros_when_it_grows_again(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");

	file_fill(ip, 'a', 3 * PAGE, 0);
	assert_int_equal(do_truncate(ip, PAGE + 10), 0);
	assert_int_equal(file_stat(ip).st_blocks, 16);
	assert_int_equal(do_truncate(ip, 3 * PAGE), 0);
	assert_true(file_is(ip, 'a', PAGE + 10, 0));
	assert_true(file_is(ip, 0, 2 * PAGE - 10, PAGE + 10));
	assert_int_equal(do_truncate(ip, FS_MAX_SIZE + 1), -EFBIG);
	assert_int_equal(do_truncate(ip, 0), 0);
	assert_int_equal(file_stat(ip).st_blocks, 0);
	file_close(w, ip);
}

/* Every second page: as many extents as pages, a tree of two levels. */
static void fragment(struct inode *ip, int c, uint64_t pages)
{
	for (uint64_t i = 0; i < pages; i++)
		file_fill(ip, c, 1, i * 2 * PAGE);
}

static void a_truncate_of_many_extents_gives_all_back(void **state)
{
	struct world *w = *state;
	uint64_t before = settled_free(w);
	struct inode *ip = file_new(w, "f");
	struct stat st;

	fragment(ip, 'a', 2000);
	assert_int_equal(do_truncate(ip, 2 * PAGE), 0);
	st = file_stat(ip);
	assert_int_equal(st.st_size, 2 * PAGE);
	assert_true(st.st_blocks <= 16);
	file_fill(ip, 'b', 1, 2000 * PAGE);
	assert_true(file_is(ip, 0, 1998 * PAGE, 2 * PAGE));
	assert_int_equal(fs_unlink(w->root, "f"), 0);
	file_close(w, ip);
	/* The tables of inodes and orphans may have grown by a block each. */
	assert_in_range(before - settled_free(w), 0, 2);
}

/* However small the writes: each 2 MiB of a large file is an aligned run. */
static void a_large_file_lies_in_aligned_runs(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");
	struct fs_extent ext[16];
	uint64_t aligned = 0;
	int n;

	for (uint64_t i = 0; i < 48; i++)
		file_fill(ip, 'a', 64 * PAGE, i * 64 * PAGE);
	n = fs_extents(ip, 0, ext, 16);
	assert_in_range(n, 1, 16);
	for (int i = 0; i < n; i++) {
		uint64_t skip = -ext[i].file_off & (PMEM_HUGE_SIZE - 1);

		if (skip < ext[i].len &&
		    !((ext[i].pool_off + skip) & (PMEM_HUGE_SIZE - 1)))
			aligned += (ext[i].len - skip) / PMEM_HUGE_SIZE;
	}
	/* 12 MiB; the first run was begun when the file was small */
	assert_in_range(aligned, 5, 6);
	file_close(w, ip);
}

static void punch_and_zero_are_exact(void **state)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");

	file_fill(ip, 'a', 10 * PAGE, 0);
	assert_int_equal(do_falloc(ip, punch, PAGE + 10, 3 * PAGE), 0);
	assert_int_equal(file_stat(ip).st_blocks, 8 * 8);
	assert_true(file_is(ip, 'a', PAGE + 10, 0));
	assert_true(file_is(ip, 0, 3 * PAGE, PAGE + 10));
	assert_true(file_is(ip, 'a', 6 * PAGE - 10, 4 * PAGE + 10));
	assert_int_equal(do_falloc(ip, punch, 5 * PAGE + 1, 2), 0);
	assert_true(file_is(ip, 0, 2, 5 * PAGE + 1));
	assert_true(file_is(ip, 'a', 5, 5 * PAGE + 3));
	assert_int_equal(do_falloc(ip, FALLOC_FL_ZERO_RANGE, 0, 12 * PAGE), 0);
	assert_int_equal(file_stat(ip).st_size, 12 * PAGE);
	assert_int_equal(file_stat(ip).st_blocks, 12 * 8);
	assert_true(file_is(ip, 0, 12 * PAGE, 0));
	assert_int_equal(do_falloc(ip, FALLOC_FL_KEEP_SIZE, 0, 20 * PAGE), 0);
	assert_int_equal(file_stat(ip).st_size, 12 * PAGE);
	assert_int_equal(file_stat(ip).st_blocks, 20 * 8);
	assert_int_equal(do_falloc(ip, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE),
			 -EOPNOTSUPP);
	assert_int_equal(do_falloc(ip, 0, 0, 0), -EINVAL);
	file_close(w, ip);
}

static void a_full_pool_leaves_things_whole(void **state)
{
	struct world *w = *state;
	uint64_t before = settled_free(w);
	struct inode *ip = file_new(w, "f");
	char *buf = calloc(1, MIB);
	uint64_t size = 0;
	ssize_t n;

	assert_int_equal(do_falloc(ip, 0, 0, 64 * MIB), -ENOSPC);
	assert_int_equal(file_stat(ip).st_blocks, 0);
	assert_int_equal(file_stat(ip).st_size, 0);
	while ((n = fs_write(ip, buf, MIB, size)) > 0)
		size += (uint64_t)n;
	assert_int_equal(n, -ENOSPC);
	assert_int_equal(file_stat(ip).st_size, size);
	assert_true(file_is(ip, 0, MIB, size - MIB));
	free(buf);
	/* Full or not, names go, and their space comes back to the next. */
	assert_int_equal(fs_unlink(w->root, "f"), 0);
	file_close(w, ip);
	ip = file_new(w, "g");
	file_fill(ip, 'g', 20 * MIB, 0);
	assert_int_equal(do_truncate(ip, 0), 0);
	file_fill(ip, 'h', 20 * MIB, 0);
	assert_int_equal(fs_unlink(w->root, "g"), 0);
	file_close(w, ip);
	assert_in_range(before - settled_free(w), 0, 2);
}

static void an_unlinked_file_lives_while_it_is_open(void **state)
{
	struct world *w = *state;
	uint64_t before = settled_free(w);
	struct inode *ip = file_new(w, "f"), *none;
	struct pindax_ioc_stat st;
	char path[4096];

	file_fill(ip, 'a', MIB, 0);
	assert_int_equal(fs_unlink(w->root, "f"), 0);
	assert_int_equal(fs_lookup(w->root, "f", &none), -ENOENT);
	assert_int_equal(fs_path(w->fs, fs_ino(ip), path, sizeof(path)),
			 -ENOENT);
	assert_true(file_is(ip, 'a', MIB, 0));
	file_fill(ip, 'b', 10, 0);
	fs_stat(w->fs, &st);
	assert_int_equal(st.orphans, 1);
	file_close(w, ip);
	assert_in_range(before - settled_free(w), 0, 2);
}

static void what_a_crash_left_is_freed_at_mount(void **state)
{
	struct world *w = *state;
	uint64_t before = settled_free(w);
	struct inode *ip = file_new(w, "f");
	struct pindax_ioc_stat st;
	char copy[128];
	char cmd[320];

	fragment(ip, 'a', 500);
	assert_int_equal(fs_unlink(w->root, "f"), 0);
	/* The pool as a SIGKILL would leave it, with the file still open. */
	(void)snprintf(copy, sizeof(copy), "%s/copy", w->dir);
	(void)snprintf(cmd, sizeof(cmd), "cp %s %s", w->pool, copy);
	assert_int_equal(system(cmd), 0); /* NOLINT(cert-env33-c) */
	file_close(w, ip);
	world_unmount(w);
	assert_int_equal(rename(copy, w->pool), 0);
	world_mount(w);
	fs_stat(w->fs, &st);
	assert_int_equal(st.orphans, 0);
	assert_int_equal(st.inodes_used, 1);
	assert_in_range(before - settled_free(w), 0, 2);
}

static void times_follow_what_is_done(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");
	struct test_op t;
	struct stat st;

	file_fill(ip, 'a', PAGE, 0);
	test_op_init(&t, ip);
	t.op.attr.valid = FS_SET_MTIME | FS_SET_ATIME | FS_SET_MODE;
	t.op.attr.mode = 0600;
	t.op.attr.mtime = (struct timespec){.tv_sec = -5, .tv_nsec = 7};
	t.op.attr.atime = (struct timespec){.tv_sec = 9, .tv_nsec = 8};
	fs_setattr(&t.op);
	assert_int_equal(test_op_wait(&t), 0);
	file_close(w, ip);
	world_remount(w);
	ip = file_open(w, "f");
	st = file_stat(ip);
	assert_int_equal(st.st_mode, S_IFREG | 0600);
	assert_int_equal(st.st_mtim.tv_sec, -5);
	assert_int_equal(st.st_mtim.tv_nsec, 7);
	assert_int_equal(st.st_atim.tv_sec, 9);
	/* An overwrite is no transaction; its time must live all the same. */
	file_fill(ip, 'b', 1, 0);
	assert_true(file_stat(ip).st_mtim.tv_sec > 9);
	file_close(w, ip);
	world_remount(w);
	ip = file_open(w, "f");
	assert_true(file_stat(ip).st_mtim.tv_sec > 9);
	file_close(w, ip);
}

static void a_pool_is_opened_once(void **state)
{
	struct world *w = *state;
	struct fs_report rep;
	struct fs *other;

	assert_int_equal(fs_open(w->pool, &w->opt, &other, &rep), -EBUSY);
	assert_int_equal(rep.holder, getpid());
	assert_non_null(strstr(rep.error, "already mounted"));
}

static void a_readonly_mount_changes_nothing(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f"), *none;

	file_fill(ip, 'a', PAGE, 0);
	file_close(w, ip);
	w->opt.readonly = true;
	world_remount(w);
	ip = file_open(w, "f");
	assert_true(file_is(ip, 'a', PAGE, 0));
	assert_int_equal(fs_write(ip, "b", 1, 0), -EROFS);
	assert_int_equal(do_truncate(ip, 0), -EROFS);
	assert_int_equal(do_falloc(ip, 0, 0, MIB), -EROFS);
	assert_int_equal(fs_unlink(w->root, "f"), -EROFS);
	assert_int_equal(fs_create(w->root, "g", S_IFREG, 0, NULL, &ME, &none),
			 -EROFS);
	file_close(w, ip);
}

static void what_is_no_pool_is_said(void **state)
{
	struct world *w = *state;
	char path[128];
	struct fs_report rep;
	struct fs *other;
	FILE *f;

	(void)snprintf(path, sizeof(path), "%s/other", w->dir);
	assert_int_equal(fs_open(path, &w->opt, &other, &rep), -ENOENT);
	assert_non_null(strstr(rep.error, "mkfs.pindax"));
	f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fseek(f, 16 * MIB, SEEK_SET), 0);
	assert_int_equal(fputc('x', f), 'x');
	assert_int_equal(fclose(f), 0);
	assert_int_equal(fs_open(path, &w->opt, &other, &rep), -EINVAL);
	assert_non_null(strstr(rep.error, "not a pindax pool"));
	unlink(path);
	world_unmount(w);
	assert_int_equal(truncate(w->pool, 16 * MIB), 0);
	assert_int_equal(fs_open(w->pool, &w->opt, &other, &rep), -EOVERFLOW);
	assert_non_null(strstr(rep.error, "shorter"));
}

/*
 * A directory is locked before what is below it NOW. The order of two
 * directories may thus turn round in the life of a mount, which is sound under
 * rename_lock and which the detector cannot know.
 */
const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
	return "deadlock:lock_dirs\n";
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(names_live_across_a_remount),
		T(names_are_checked),
		T(long_symlinks_have_a_block),
		T(rename_replaces_and_exchanges),
		T(rename_refuses_loops),
		T(readdir_goes_on_where_it_stopped),
		T(data_lives_across_a_remount),
		T(holes_read_as_zeros),
		T(a_cut_tail_is_zeros_when_it_grows_again),
		T(a_truncate_of_many_extents_gives_all_back),
		T(a_large_file_lies_in_aligned_runs),
		T(punch_and_zero_are_exact),
		T(a_full_pool_leaves_things_whole),
		T(an_unlinked_file_lives_while_it_is_open),
		T(what_a_crash_left_is_freed_at_mount),
		T(times_follow_what_is_done),
		T(a_pool_is_opened_once),
		T(a_readonly_mount_changes_nothing),
		T(what_is_no_pool_is_said),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
