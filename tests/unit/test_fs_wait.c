/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Operations on a file that somebody maps or pins, through the layout's own
 * interface and without a mount: which wait, for what, what an interrupt
 * leaves, and that a block has no new owner while it is pinned.
 *
 * "It waits" is seen in the count of waiters, "it does not" in done() having
 * been called when the call returns.
 */
#include <poll.h>
#include "tests/unit/fs_fixture.h"

#define MIB (1ULL << 20)
#define PAGE 4096ULL
#define PAGES 64ULL
#define FH 1 /* of the one description */

/* A file of PAGES pages of 'a', page 32 pinned by a mapper. */
struct held {
	struct inode *ip;
	struct test_mapper m;
	uint64_t pin;
};

static void hold(struct world *w, struct held *h)
{
	h->ip = file_new(w, "f");
	file_fill(h->ip, 'a', PAGES * PAGE, 0);
	mapper_start(w, h->ip, FH, &h->m);
	assert_int_equal(mapper_take(&h->m, 0, PAGES * PAGE, true),
			 PINDAX_GRANT_BLOCKS);
	h->pin = mapper_hold(w, &h->m, 32, 1);
}

static void let_go(struct world *w, struct held *h)
{
	mapper_stop(&h->m);
	file_close(w, h->ip);
}

static void truncate_waits_for_a_pin_it_would_cut(void **state)
{
	struct world *w = *state;
	struct test_op t;
	struct held h;

	hold(w, &h);
	start_truncate(&t, h.ip, 16 * PAGE);
	until_waiters(w, 1);
	assert_false(test_op_is_done(&t));
	/* Reads and writes go on, also where it will cut. */
	assert_true(file_is(h.ip, 'a', PAGES * PAGE, 0));
	file_fill(h.ip, 'b', PAGE, 32 * PAGE);
	assert_int_equal(mapper_obey(&h.m), 0); /* nothing is recalled yet */
	assert_int_equal(mapper_unpin(h.m.m, h.pin), 0);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	assert_int_equal(file_stat(h.ip).st_size, 16 * PAGE);
	let_go(w, &h);
}

static void what_keeps_the_pinned_page_does_not_wait(void **state)
{
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	struct world *w = *state;
	struct test_op t;
	struct held h;

	hold(w, &h);
	/* Its lease is recalled, but the pin is no matter. */
	start_truncate(&t, h.ip, 33 * PAGE);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	start_falloc(&t, h.ip, punch, 0, 32 * PAGE);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	assert_int_equal(do_truncate(h.ip, 33 * PAGE), 0);
	start_truncate(&t, h.ip, 2 * PAGES * PAGE);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	assert_int_equal(do_falloc(h.ip, 0, 0, 16 * PAGE), 0);
	assert_true(file_is(h.ip, 'a', PAGE, 32 * PAGE));
	let_go(w, &h);
}

static void punch_and_zero_wait_for_the_page_they_touch(void **state)
{
	const int modes[] = {FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			     FALLOC_FL_ZERO_RANGE};
	struct world *w = *state;
	struct test_op t;
	struct held h;

	hold(w, &h);
	for (int i = 0; i < 2; i++) {
		/* In part only: a device writes there all the same. */
		start_falloc(&t, h.ip, modes[i], 32 * PAGE + 5, 10);
		until_waiters(w, 1);
		assert_int_equal(mapper_unpin(h.m.m, h.pin), 0);
		assert_int_equal(test_op_obey(&t, &h.m), 0);
		assert_true(file_is(h.ip, 0, 10, 32 * PAGE + 5));
		assert_true(file_is(h.ip, 'a', 5, 32 * PAGE));
		(void)mapper_take(&h.m, 32 * PAGE, PAGE, true);
		h.pin = mapper_hold(w, &h.m, 32, 1);
	}
	let_go(w, &h);
}

static void an_interrupt_changes_nothing(void **state)
{
	struct world *w = *state;
	struct stat before, after;
	struct test_op t;
	struct held h;

	hold(w, &h);
	before = file_stat(h.ip);
	start_truncate(&t, h.ip, 16 * PAGE + 9);
	until_waiters(w, 1);
	layouts_cancel(fs_layouts(w->fs), t.op.id, -EINTR);
	assert_int_equal(test_op_wait(&t), -EINTR);
	after = file_stat(h.ip);
	assert_int_equal(after.st_size, before.st_size);
	assert_int_equal(after.st_blocks, before.st_blocks);
	assert_int_equal(after.st_mtim.tv_nsec, before.st_mtim.tv_nsec);
	assert_true(file_is(h.ip, 'a', PAGES * PAGE, 0));
	/* and it can be done again */
	assert_int_equal(mapper_unpin(h.m.m, h.pin), 0);
	start_truncate(&t, h.ip, 16 * PAGE);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	let_go(w, &h);
}

static void pin_timeout_ends_a_wait(void **state)
{
	struct world *w = *state;
	struct test_op t;
	struct held h;

	w->opt.pin_timeout_ms = 30;
	world_remount(w);
	hold(w, &h);
	start_truncate(&t, h.ip, 0);
	assert_int_equal(test_op_wait(&t), -ETIMEDOUT);
	assert_int_equal(file_stat(h.ip).st_size, PAGES * PAGE);
	let_go(w, &h);
}

static void pinned_fail_fails_at_once(void **state)
{
	struct world *w = *state;
	struct test_op t;
	struct held h;

	w->opt.pinned = PINNED_FAIL;
	world_remount(w);
	hold(w, &h);
	assert_int_equal(do_truncate(h.ip, 0), -ETXTBSY);
	assert_int_equal(file_stat(h.ip).st_size, PAGES * PAGE);
	start_truncate(&t, h.ip, 33 * PAGE);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	let_go(w, &h);
}

static void pinned_unsafe_does_not_wait(void **state)
{
	struct world *w = *state;
	struct test_op t;
	struct held h;

	w->opt.pinned = PINNED_UNSAFE;
	world_remount(w);
	hold(w, &h);
	start_truncate(&t, h.ip, 0);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	assert_int_equal(file_stat(h.ip).st_blocks, 0);
	let_go(w, &h);
}

/* The blocks of an unlinked file that is pinned go to nobody. */
static void unlink_does_not_wait_and_frees_when_idle(void **state)
{
	struct world *w = *state;
	struct pindax_ioc_stat st;
	struct fs_extent old[8], new[64];
	struct inode *ip;
	struct held h;
	int n_old, n_new;

	hold(w, &h);
	n_old = fs_extents(h.ip, 32 * PAGE, old, 1);
	assert_int_equal(n_old, 1);
	assert_int_equal(fs_unlink(w->root, "f"), 0);
	/* The description is closed; the mapper lives on with its pin. */
	file_close(w, h.ip);
	until_waiters(w, 1);
	fs_stat(w->fs, &st);
	assert_int_equal(st.orphans, 1);

	ip = file_new(w, "g");
	for (uint64_t off = 0;; off += MIB) {
		char buf[MIB / 16];

		memset(buf, 'g', sizeof(buf));
		if (fs_write(ip, buf, sizeof(buf), off) < 0)
			break;
	}
	for (uint64_t off = 0; (n_new = fs_extents(ip, off, new, 64)) > 0;) {
		for (int i = 0; i < n_new; i++)
			assert_false(new[i].pool_off <=
				     old[0].pool_off &&old[0].pool_off <
				     new[i].pool_off + new[i].len);
		off = new[n_new - 1].file_off + new[n_new - 1].len;
	}
	mapper_stop(&h.m);
	until_waiters(w, 0);
	assert_int_equal(fs_unlink(w->root, "g"), 0);
	file_close(w, ip);
	(void)settled_free(w);
}

static void a_write_into_a_mapped_hole_recalls_it_first(void **state)
{
	struct world *w = *state;
	struct inode *ip = file_new(w, "f");
	struct test_mapper m;
	struct test_op t;

	assert_int_equal(do_truncate(ip, 8 * PAGE), 0);
	mapper_start(w, ip, FH, &m);
	assert_int_equal(mapper_take(&m, 0, 8 * PAGE, false),
			 PINDAX_GRANT_ZERO);
	assert_int_equal(mapper_take(&m, 8 * PAGE, PAGE, false),
			 PINDAX_GRANT_EOF);
	assert_int_equal(fs_write(ip, "x", 1, PAGE), -EAGAIN);
	test_op_init(&t, ip);
	t.op.buf = "xyz";
	t.op.len = 3;
	t.op.off = PAGE;
	fs_write_op(&t.op);
	assert_int_equal(test_op_obey(&t, &m), 0);
	assert_int_equal(t.op.ret_len, 3);
	assert_true(file_is(ip, 0, PAGE, 0));
	assert_true(file_is(ip, 'x', 1, PAGE));
	/* Growing shows pages that a lease says are beyond the end. */
	start_truncate(&t, ip, 16 * PAGE);
	assert_int_equal(test_op_obey(&t, &m), 0);
	assert_int_equal(file_stat(ip).st_size, 16 * PAGE);
	mapper_stop(&m);
	file_close(w, ip);
}

static void an_end_of_the_mount_ends_every_wait(void **state)
{
	struct world *w = *state;
	struct test_op t;
	struct held h;

	hold(w, &h);
	start_truncate(&t, h.ip, 0);
	until_waiters(w, 1);
	mapper_put(h.m.m);
	fs_shutdown(w->fs);
	assert_int_equal(test_op_wait(&t), -ENODEV);
	file_close(w, h.ip);
	world_remount(w);
	h.ip = file_open(w, "f");
	assert_true(file_is(h.ip, 'a', PAGES * PAGE, 0));
	file_close(w, h.ip);
}

static void a_reserved_range_lets_its_owner_through(void **state)
{
	struct world *w = *state;
	struct test_op t;
	struct held h;

	hold(w, &h);
	test_op_init(&t, h.ip);
	t.op.mode = PINDAX_BREAK_TRUNCATE;
	t.op.off = 16 * PAGE;
	t.op.fh = FH;
	t.op.cred.tgid = getpid();
	fs_break(&t.op);
	until_waiters(w, 1);
	assert_int_equal(mapper_unpin(h.m.m, h.pin), 0);
	assert_int_equal(test_op_obey(&t, &h.m), 0);
	assert_int_equal(file_stat(h.ip).st_size, PAGES * PAGE);
	test_op_init(&t, h.ip);
	t.op.cred.tgid = getpid();
	t.op.attr.valid = FS_SET_SIZE;
	t.op.attr.size = 16 * PAGE;
	fs_setattr(&t.op);
	assert_int_equal(test_op_wait(&t), 0);
	assert_int_equal(file_stat(h.ip).st_size, 16 * PAGE);
	let_go(w, &h);
}

static void a_build_without_callbacks_has_no_pins(void **state)
{
	(void)state;
	skip();
}

#define T(fn) cmocka_unit_test_setup_teardown(fn, world_setup, world_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(truncate_waits_for_a_pin_it_would_cut),
		T(what_keeps_the_pinned_page_does_not_wait),
		T(punch_and_zero_wait_for_the_page_they_touch),
		T(an_interrupt_changes_nothing),
		T(pin_timeout_ends_a_wait),
		T(pinned_fail_fails_at_once),
		T(pinned_unsafe_does_not_wait),
		T(unlink_does_not_wait_and_frees_when_idle),
		T(a_write_into_a_mapped_hole_recalls_it_first),
		T(an_end_of_the_mount_ends_every_wait),
		T(a_reserved_range_lets_its_owner_through),
	};
	const struct CMUnitTest none[] = {
		cmocka_unit_test(a_build_without_callbacks_has_no_pins),
	};

	if (!CAN_PIN)
		return cmocka_run_group_tests(none, NULL, NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
