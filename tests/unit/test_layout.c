/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Leases, pins and breaks against a fake inode: an array of pool pages under a
 * rwlock. Everything but deadlines happens in the calling thread, so a test
 * sees the whole life of a break step by step.
 */
#include "tests/unit/layout_fixture.h"

static void truncate_waits_for_pin(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 10, 4);
	start(&t, BREAK_TRUNCATE, 12, LAYOUT_TO_END);
	assert_false(t.done);
	assert_int_equal(W->size_pages, 32);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(W->size_pages, 12);
	mapper_put(m);
	world_down();
}

/*
 * Three busy pages. When the first goes idle the break looks for the next; that
 * one goes idle after it was seen busy and before it is waited for. To wait for
 * it all the same, because "something" is busy still, is a wait that nobody
 * ends.
 */
static void a_page_that_went_idle_too_early_is_not_waited_for(void **state)
{
	struct test_break t;

	(void)state;
	world_up(NORMAL);
	assert_int_equal(pages_try_get(W->map, W->page[4], 1), 0);
	assert_int_equal(pages_try_get(W->map, W->page[6], 1), 0);
	assert_int_equal(pages_try_get(W->map, W->page[8], 1), 0);
	start(&t, BREAK_PUNCH, 0, 16);
	assert_false(t.done);
	W->drop_after_walk = W->page[6];
	pages_put(W->map, W->page[4], 1);
	/* the worker has looked, and waits for the third */
	while (page_count(W->map, W->page[6]) > 1)
		sched_yield();
	op_lock(&W->l, true);
	op_unlock(&W->l, true);
	pages_put(W->map, W->page[8], 1);
	wait_for(&t.done);
	assert_int_equal(t.err, 0);
	world_down();
}

static void pins_outside_the_range_do_not_delay(void **state)
{
	struct test_break t;
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	must_pin(m, 0, 8);
	must_pin(m, 20, 4);
	start(&t, BREAK_PUNCH, 8, 12);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void leases_are_recalled_and_faults_queue(void **state)
{
	static struct pindax_ioc_events e;
	struct test_break t;
	struct mapper *m;
	uint64_t epoch, ticket;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 16, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(F.next_off, 16 * 4096);
	start(&t, BREAK_PUNCH, 4, 4);
	assert_false(t.done);
	assert_true(layouts_fh_events(W->ls, 1));
	assert_int_equal(W->notified, 1);
	/* outside: granted; straddling: up to the edge; inside: queued */
	assert_int_equal(fault(m, 10, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(fault(m, 2, 4, 0), 0);
	assert_int_equal(F.next_off, 4 * 4096);
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_QUEUED);
	ticket = F.ticket;
	epoch = take_recall(m);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, epoch), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(mapper_events(m, &e), 0);
	assert_int_equal(e.nr, 1);
	assert_int_equal(e.ev[0].kind, PINDAX_EVENT_RETRY);
	assert_int_equal(e.ev[0].ticket, ticket);
	assert_false(layouts_fh_events(W->ls, 1));
	/* now a hole: a reader sees zeros, a writer gets a block */
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(F.grant[0].kind, PINDAX_GRANT_ZERO);
	mapper_put(m);
	world_down();
}

static void a_hint_saves_the_recall_and_binds_nobody(void **state)
{
	static struct pindax_ioc_events e;
	struct test_break t;
	struct mapper *m;
	uint64_t pin, hint;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 16, PINDAX_FAULT_WRITE), 0);
	pin = must_pin(m, 4, 4);
	start(&t, BREAK_PUNCH, 4, 4);
	assert_int_equal(mapper_events(m, &e), 0);
	assert_int_equal(e.nr, 1);
	assert_int_equal(e.ev[0].kind, PINDAX_EVENT_HINT);
	/* faults are granted while it drains, before and after the answer */
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(mapper_ack(m, e.ev[0].epoch), 0);
	assert_false(t.done);
	assert_int_equal(fault(m, 4, 1, 0), 0);
	assert_int_equal(F.status, PINDAX_FAULT_GRANTED);
	assert_int_equal(mapper_unmap(m, 4ULL * 4096, 2ULL * 4096), 0);
	/* nothing of the range is mapped: nobody to wait for */
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);

	/* not answered: recalled as ever, and a late answer is ignored */
	assert_int_equal(fault(m, 16, 4, 0), 0);
	pin = must_pin(m, 16, 1);
	start(&t, BREAK_PUNCH, 16, 4);
	assert_int_equal(mapper_events(m, &e), 0);
	hint = e.ev[0].epoch;
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	assert_int_equal(mapper_ack(m, hint), 0);
	mapper_put(m);
	world_down();
}

static void acks_of_no_recall_are_ignored(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t epoch;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 8, 0), 0);
	start(&t, BREAK_PUNCH, 0, 8);
	/* before it was taken, and with a wrong number */
	assert_int_equal(mapper_ack(m, 1), 0);
	epoch = take_recall(m);
	assert_int_equal(mapper_ack(m, epoch + 1), 0);
	assert_int_equal(mapper_ack(m, epoch - 1), 0);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, epoch), 0);
	assert_true(t.done);
	assert_int_equal(mapper_ack(m, epoch), 0);
	mapper_put(m);
	world_down();
}

static void new_pins_queue_behind_a_break(void **state)
{
	struct test_break t;
	struct test_pin p, inside, nowait, deadlock;
	struct mapper *m, *other;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	other = new_mapper(2);
	pin = must_pin(m, 8, 4);
	start(&t, BREAK_PUNCH, 8, 8);
	start_pin(&p, other, 12, 2);
	assert_false(p.done);
	/* inside a pin of the same mapper: at once */
	start_pin(&inside, m, 9, 2);
	assert_true(inside.done);
	assert_int_equal(inside.err, 0);
	start_pin_tid(&nowait, other, 12, 1, PINDAX_PIN_NOWAIT, 1000);
	assert_true(nowait.done);
	assert_int_equal(nowait.err, -EAGAIN);
	/* thread 2000 holds what the break waits for */
	start_pin_tid(&deadlock, m, 14, 1, 0, 2000);
	assert_true(deadlock.done);
	assert_int_equal(deadlock.err, -EDEADLK);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_false(t.done);
	assert_int_equal(mapper_unpin(m, inside.r.pin), 0);
	assert_true(t.done);
	/* the queued pin finds a hole now */
	assert_true(p.done);
	assert_int_equal(p.err, -ENODATA);
	mapper_put(m);
	mapper_put(other);
	world_down();
}

static void a_cancelled_break_changes_nothing(void **state)
{
	struct test_break t;
	struct test_pin p;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 8, 4);
	start(&t, BREAK_TRUNCATE, 0, LAYOUT_TO_END);
	start_pin(&p, m, 20, 1);
	assert_false(p.done);
	layouts_cancel(W->ls, t.b.id, -EINTR);
	assert_true(t.done);
	assert_int_equal(t.err, -EINTR);
	assert_int_equal(W->commits, 0);
	assert_int_equal(W->size_pages, 32);
	/* what queued behind it goes on; a second cancel finds nothing */
	assert_true(p.done);
	assert_int_equal(p.err, 0);
	layouts_cancel(W->ls, t.b.id, -EINTR);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_int_equal(mapper_unpin(m, pin), -ENOENT);
	start(&t, BREAK_PUNCH, 8, 4);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void a_cancelled_pin_holds_nothing(void **state)
{
	struct test_break t;
	struct test_pin p;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 8, 4);
	start(&t, BREAK_TRUNCATE, 0, LAYOUT_TO_END);
	start_pin(&p, m, 20, 1);
	layouts_cancel(W->ls, p.r.id, -EINTR);
	assert_true(p.done);
	assert_int_equal(p.err, -EINTR);
	assert_int_equal(mapper_unpin(m, pin), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void overlapping_breaks_are_served_in_order(void **state)
{
	struct test_break first, second, apart;
	struct mapper *m;
	uint64_t a, b;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	a = must_pin(m, 4, 1);
	b = must_pin(m, 8, 1);
	start(&first, BREAK_PUNCH, 0, 6);
	start(&second, BREAK_PUNCH, 4, 8);
	start(&apart, BREAK_PUNCH, 20, 4);
	assert_true(apart.done);
	assert_int_equal(mapper_unpin(m, b), 0);
	assert_false(second.done);
	assert_int_equal(mapper_unpin(m, a), 0);
	assert_true(first.done);
	assert_true(second.done);
	assert_int_equal(W->commits, 3);
	mapper_put(m);
	world_down();
}

static void pinned_fail_is_etxtbsy_for_pins_only(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up((struct params){.policy = PINNED_FAIL});
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 8, 0), 0);
	pin = must_pin(m, 0, 4);
	start(&t, BREAK_PUNCH, 0, 8);
	assert_true(t.done);
	assert_int_equal(t.err, -ETXTBSY);
	assert_int_equal(mapper_unpin(m, pin), 0);
	start(&t, BREAK_PUNCH, 0, 8);
	assert_false(t.done); /* a lease is recalled, not refused */
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void timeouts_end_a_wait(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(
		(struct params){.pin_timeout_ms = 20, .recall_timeout_ms = 20});
	m = new_mapper(1);
	pin = must_pin(m, 0, 4);
	start(&t, BREAK_PUNCH, 0, 8);
	assert_false(t.done);
	wait_for(&t.done);
	assert_int_equal(t.err, -ETIMEDOUT);
	assert_int_equal(mapper_unpin(m, pin), 0);
	/* a lease holder that never answers */
	assert_int_equal(fault(m, 0, 8, 0), 0);
	start(&t, BREAK_PUNCH, 0, 8);
	wait_for(&t.done);
	assert_int_equal(t.err, -ETIMEDOUT);
	assert_int_equal(W->commits, 0);
	mapper_put(m);
	world_down();
}

static void unsafe_does_not_wait_but_recalls(void **state)
{
	struct mapper *m;
	struct test_break t;
	uint64_t pin;

	(void)state;
	world_up((struct params){.policy = PINNED_UNSAFE});
	m = new_mapper(1);
	pin = must_pin(m, 0, 1);
	assert_int_equal(fault(m, 8, 1, 0), 0);
	memset(&t, 0, sizeof(t));
	/* commit NULL would reserve; a commit that does not look at pages */
	start(&t, BREAK_PUNCH, 8, 1);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	assert_int_equal(mapper_unpin(m, pin), 0);
	mapper_put(m);
	world_down();
}

static void a_fill_recalls_zeros_and_goes_past_a_drain(void **state)
{
	struct mapper *reader, *writer;
	struct test_break drain;
	uint64_t pin, epoch;

	(void)state;
	world_up(NORMAL);
	reader = new_mapper(1);
	writer = new_mapper(2);
	W->page[5] = HOLE;
	pin = must_pin(writer, 6, 1);
	start(&drain, BREAK_TRUNCATE, 0, LAYOUT_TO_END);
	assert_int_equal(fault(reader, 5, 1, 0), 0);
	assert_int_equal(F.grant[0].kind, PINDAX_GRANT_ZERO);
	assert_int_equal(fault(writer, 5, 1, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.status, PINDAX_FAULT_QUEUED);
	epoch = take_recall(reader);
	assert_int_equal(W->page[5], HOLE);
	assert_int_equal(mapper_ack(reader, epoch), 0);
	assert_int_not_equal(W->page[5], HOLE);
	assert_true(layouts_fh_events(W->ls, 2));
	assert_int_equal(fault(writer, 5, 1, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.grant[0].kind, PINDAX_GRANT_BLOCKS);
	assert_false(drain.done);
	layouts_cancel(W->ls, drain.b.id, -EINTR);
	assert_int_equal(mapper_unpin(writer, pin), 0);
	mapper_put(reader);
	mapper_put(writer);
	world_down();
}

static void eof_is_granted_and_recalled_when_the_file_grows(void **state)
{
	struct mapper *m;
	struct test_break t;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 30, 4, 0), 0);
	assert_int_equal(F.nr, 3);
	assert_int_equal(F.grant[2].kind, PINDAX_GRANT_EOF);
	assert_int_equal(F.grant[2].file_off, 32 * 4096);
	assert_true(layout_needs_fill(&W->l, 32, 1));
	assert_false(layout_needs_fill(&W->l, 0, 32));
	start(&t, BREAK_FILL, 32, 4);
	assert_false(t.done);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_true(t.done);
	mapper_put(m);
	world_down();
}

static void a_full_pool_fails_the_fault(void **state)
{
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	W->page[5] = HOLE;
	W->fill_err = -ENOSPC;
	assert_int_equal(fault(m, 5, 1, PINDAX_FAULT_WRITE), -ENOSPC);
	/* and with a lease to recall first: the second try meets the error */
	assert_int_equal(fault(m, 5, 1, 0), 0);
	assert_int_equal(fault(m, 5, 1, PINDAX_FAULT_WRITE), 0);
	assert_int_equal(F.status, PINDAX_FAULT_QUEUED);
	assert_int_equal(mapper_ack(m, take_recall(m)), 0);
	assert_int_equal(fault(m, 5, 1, PINDAX_FAULT_WRITE), -ENOSPC);
	mapper_put(m);
	world_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(truncate_waits_for_pin),
		cmocka_unit_test(
			a_page_that_went_idle_too_early_is_not_waited_for),
		cmocka_unit_test(pins_outside_the_range_do_not_delay),
		cmocka_unit_test(leases_are_recalled_and_faults_queue),
		cmocka_unit_test(a_hint_saves_the_recall_and_binds_nobody),
		cmocka_unit_test(acks_of_no_recall_are_ignored),
		cmocka_unit_test(new_pins_queue_behind_a_break),
		cmocka_unit_test(a_cancelled_break_changes_nothing),
		cmocka_unit_test(a_cancelled_pin_holds_nothing),
		cmocka_unit_test(overlapping_breaks_are_served_in_order),
		cmocka_unit_test(pinned_fail_is_etxtbsy_for_pins_only),
		cmocka_unit_test(timeouts_end_a_wait),
		cmocka_unit_test(unsafe_does_not_wait_but_recalls),
		cmocka_unit_test(a_fill_recalls_zeros_and_goes_past_a_drain),
		cmocka_unit_test(
			eof_is_granted_and_recalled_when_the_file_grows),
		cmocka_unit_test(a_full_pool_fails_the_fault),
	};

	return layout_run(tests, sizeof(tests) / sizeof(*tests));
}
