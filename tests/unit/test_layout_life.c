/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fs/layout: reservations, mappers that die, what is refused, the report, and
 * random threads over one file.
 *
 * Goal: nothing that ends by itself (a process, a description, a reservation)
 * leaves a wait behind, and no commit runs over a held page. Method: the owner
 * of layout_fixture.h, one process that plays them all.
 */
#include "tests/unit/layout_fixture.h"

static void reserve(struct test_break *t, pid_t tgid, uint64_t first,
		    uint64_t nr)
{
	memset(t, 0, sizeof(*t));
	t->b = (struct break_req){
		.id = layouts_new_id(W->ls),
		.layout = &W->l,
		.op = BREAK_TRUNCATE,
		.first = first,
		.nr = nr,
		.tgid = tgid,
		.fh = 9,
		.done = test_done,
	};
	layout_break(&t->b);
}

static void a_reservation_is_adopted_by_its_process(void **state)
{
	struct test_break r, t;
	struct test_pin p;
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	reserve(&r, 1, 4, LAYOUT_TO_END);
	assert_true(r.done);
	assert_int_equal(r.err, 0);
	assert_int_equal(W->commits, 0);
	start_pin(&p, m, 8, 1);
	assert_false(p.done);
	start(&t, BREAK_TRUNCATE, 4, LAYOUT_TO_END);
	assert_true(t.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(W->size_pages, 4);
	assert_true(p.done);
	assert_int_equal(p.err, -ENXIO);
	mapper_put(m);
	world_down();
}

static void a_reservation_ends_with_time_or_its_description(void **state)
{
	struct test_break r, t;
	struct test_pin p;
	struct mapper *m;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	reserve(&r, 1, 4, 4);
	start_pin(&p, m, 5, 1);
	assert_false(p.done);
	wait_for(&p.done); /* PINDAX_RESERVE_MS */
	assert_int_equal(p.err, 0);
	assert_int_equal(mapper_unpin(m, p.r.pin), 0);
	reserve(&r, 1, 4, 4);
	start_pin(&p, m, 5, 1);
	assert_false(p.done);
	layouts_release_fh(W->ls, 9);
	assert_true(p.done);
	assert_int_equal(mapper_unpin(m, p.r.pin), 0);
	/* another process waits for it; the own, if it needs more, does not */
	reserve(&r, 7, 4, 4);
	start(&t, BREAK_PUNCH, 4, 4);
	assert_false(t.done);
	layouts_release_fh(W->ls, 9);
	assert_true(t.done);
	reserve(&r, 1, 4, 4);
	start(&t, BREAK_PUNCH, 4, 8);
	assert_true(t.done);
	mapper_put(m);
	world_down();
}

static void a_dead_process_holds_nothing(void **state)
{
	struct test_break t, u;
	struct mapper *m;
	pid_t pid;

	(void)state;
	world_up(NORMAL);
	pid = fork();
	if (pid == 0) {
		pause();
		_exit(0);
	}
	m = new_mapper_of(pid, 1, true);
	must_pin(m, 4, 4);
	assert_int_equal(fault(m, 20, 4, 0), 0);
	start(&t, BREAK_PUNCH, 0, 8);  /* waits for the pin */
	start(&u, BREAK_PUNCH, 20, 4); /* waits for an acknowledge */
	assert_false(t.done || u.done);
	kill(pid, SIGKILL);
	wait_for(&t.done);
	wait_for(&u.done);
	assert_int_equal(t.err, 0);
	assert_int_equal(u.err, 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	mapper_put(m);
	world_down();
}

static void a_released_description_of_a_living_process_is_no_proof(void **state)
{
	struct test_break t;
	struct mapper *m;
	uint64_t pin;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	pin = must_pin(m, 4, 4);
	(void)pin;
	start(&t, BREAK_PUNCH, 0, 8);
	/* our process does not map the fake pool: it is found out and dropped
	 */
	layouts_release_fh(W->ls, 1);
	wait_for(&t.done);
	assert_int_equal(t.err, 0);
	mapper_put(m);
	world_down();
}

static void what_pins_and_faults_refuse(void **state)
{
	struct mapper_who who = {.tgid = getpid(), .fh = 3, .writable = true};
	struct mapper *m, *ro, *raw;
	struct test_pin p;
	uint64_t id, off;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	ro = new_mapper_of(getpid(), 2, false);
	assert_int_equal(mapper_create(&W->l, &who, &id, &off), 0);
	raw = mapper_get(W->ls, id, 3);
	assert_null(mapper_get(W->ls, id, 4));
	assert_int_equal(mapper_prove(raw, 1, 1, 0), -EACCES);
	assert_int_equal(fault(raw, 0, 1, 0), -EACCES);
	assert_int_equal(fault(ro, 0, 1, PINDAX_FAULT_WRITE), -EACCES);
	assert_int_equal(fault(m, 0, 0, 0), -EINVAL);
	assert_int_equal(fault(m, UINT64_MAX >> 12, 1, 0), -EINVAL);
	assert_int_equal(fault(m, 0, 1, 8), -EINVAL);
	start_pin(&p, ro, 0, 1);
	assert_int_equal(p.err, -EACCES);
	start_pin(&p, m, 31, 2);
	assert_int_equal(p.err, -ENXIO);
	start_pin(&p, m, UINT64_MAX - 1, 4);
	assert_int_equal(p.err, -EINVAL);
	W->page[3] = HOLE;
	start_pin(&p, m, 0, 8);
	assert_int_equal(p.err, -ENODATA);
	assert_int_equal(mapper_unmap(m, 1, 4096), -EINVAL);
	mapper_put(m);
	mapper_put(ro);
	mapper_put(raw);
	world_down();

	world_up((struct params){.type = PAGEMAP_FS_DAX_LIMITED});
	m = new_mapper(1);
	start_pin(&p, m, 0, 1);
	assert_int_equal(p.err, -EOPNOTSUPP);
	mapper_put(m);
	world_down();
}

static void ledger_pages_run_out_and_come_back(void **state)
{
	struct mapper_who who = {.tgid = getpid(), .fh = 1};
	struct mapper *m[16];
	uint64_t id, off;
	int i;

	(void)state;
	world_up(NORMAL);
	for (i = 0; i < 16; i++)
		m[i] = new_mapper((uint64_t)i);
	assert_int_equal(mapper_create(&W->l, &who, &id, &off), -ENOSPC);
	mapper_drop(m[3]);
	assert_int_equal(mapper_create(&W->l, &who, &id, &off), 0);
	for (i = 0; i < 16; i++)
		mapper_put(m[i]);
	world_down();
}

static void the_report_names_holders_and_whom_a_waiter_waits_for(void **state)
{
	struct pindax_report_row *rows;
	struct pindax_ioc_stat st = {0};
	struct test_break t;
	struct mapper *m;
	uint32_t nr;

	(void)state;
	world_up(NORMAL);
	m = new_mapper(1);
	assert_int_equal(fault(m, 0, 8, 0), 0);
	must_pin(m, 2, 2);
	start(&t, BREAK_TRUNCATE, 1, LAYOUT_TO_END);
	assert_int_equal(layouts_report(W->ls, NULL, &rows, &nr), 0);
	assert_int_equal(nr, 3);
	assert_int_equal(rows[0].kind, PINDAX_HELD_LEASE);
	assert_int_equal(rows[0].len, 8 * 4096);
	assert_int_equal(rows[1].kind, PINDAX_HELD_PIN);
	assert_int_equal(rows[1].pid, getpid());
	assert_int_equal(rows[2].kind, PINDAX_WAIT_TRUNCATE);
	assert_true(rows[2].len == UINT64_MAX);
	assert_int_equal(rows[2].nr_for, 1);
	assert_int_equal(rows[2].for_pid[0], getpid());
	free(rows);
	layouts_stat(W->ls, &st);
	assert_int_equal(st.pins, 1);
	assert_int_equal(st.pinned_pages, 2);
	assert_int_equal(st.waiters, 1);
	/* shutting down ends what waits */
	layouts_shutdown(W->ls);
	assert_true(t.done);
	assert_int_equal(t.err, -ENODEV);
	mapper_put(m);
	world_down();
}

/* --- random threads --- */

#define ROUNDS 300

struct pinner {
	struct mapper *m;
	unsigned int seed;
	pid_t tid;
};

static void *random_pinner(void *arg)
{
	struct pinner *pn = arg;
	struct pindax_ioc_fault *f = malloc(sizeof(*f));
	int i;

	for (i = 0; i < ROUNDS; i++) {
		uint64_t first = (uint64_t)rand_r(&pn->seed) % 30;
		struct test_pin t;

		*f = (struct pindax_ioc_fault){.off = first * 4096,
					       .len = 4096};
		must(mapper_fault(pn->m, f) == 0);
		start_pin_tid(&t, pn->m, first,
			      1 + (uint64_t)rand_r(&pn->seed) % 2, 0, pn->tid);
		wait_for(&t.done);
		must(t.err == 0);
		sched_yield();
		must(mapper_unpin(pn->m, t.r.pin) == 0);
	}
	free(f);
	return NULL;
}

static int refill(struct break_req *b)
{
	/* the blocks go and others come: what is held must not */
	drop_pages(b);
	return op_fill(b->layout, b->first, b->nr);
}

static void *random_breaker(void *arg)
{
	unsigned int seed = (unsigned int)(uintptr_t)arg;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		struct test_break t = {0};

		t.b.id = layouts_new_id(W->ls);
		t.b.layout = &W->l;
		t.b.op = BREAK_PUNCH;
		t.b.first = (uint64_t)rand_r(&seed) % 28;
		t.b.nr = 1 + (uint64_t)rand_r(&seed) % 4;
		t.b.commit = refill;
		t.b.done = test_done;
		layout_break(&t.b);
		if (rand_r(&seed) % 4 == 0)
			layouts_cancel(W->ls, t.b.id, -EINTR);
		wait_for(&t.done);
		must(t.err == 0 || t.err == -EINTR);
	}
	return NULL;
}

struct acker {
	struct pinner *pn;
	atomic_int stop;
};

static void *acknowledger(void *arg)
{
	struct pindax_ioc_events *e = malloc(sizeof(*e));
	struct acker *a = arg;
	uint32_t i, k;

	while (!atomic_load(&a->stop)) {
		for (k = 0; k < 2; k++) {
			mapper_events(a->pn[k].m, e);
			for (i = 0; i < e->nr; i++)
				if (e->ev[i].kind == PINDAX_EVENT_RECALL)
					mapper_ack(a->pn[k].m, e->ev[i].epoch);
		}
		sched_yield();
	}
	free(e);
	return NULL;
}

static void no_commit_runs_over_a_held_page(void **state)
{
	struct pinner pn[2] = {{.seed = 1, .tid = 1}, {.seed = 2, .tid = 2}};
	struct acker ack = {.pn = pn};
	pthread_t p[2], b[2], a;
	intptr_t i;

	(void)state;
	world_up(NORMAL);
	for (i = 0; i < 2; i++)
		pn[i].m = new_mapper((uint64_t)i);
	pthread_create(&a, NULL, acknowledger, &ack);
	for (i = 0; i < 2; i++) {
		pthread_create(&p[i], NULL, random_pinner, &pn[i]);
		pthread_create(&b[i], NULL, random_breaker, (void *)(i + 11));
	}
	for (i = 0; i < 2; i++) {
		pthread_join(p[i], NULL);
		pthread_join(b[i], NULL);
	}
	atomic_store(&ack.stop, 1);
	pthread_join(a, NULL);
	assert_true(W->commits > 0);
	for (i = 0; i < 2; i++)
		mapper_put(pn[i].m);
	world_down();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_reservation_is_adopted_by_its_process),
		cmocka_unit_test(
			a_reservation_ends_with_time_or_its_description),
		cmocka_unit_test(a_dead_process_holds_nothing),
		cmocka_unit_test(
			a_released_description_of_a_living_process_is_no_proof),
		cmocka_unit_test(what_pins_and_faults_refuse),
		cmocka_unit_test(ledger_pages_run_out_and_come_back),
		cmocka_unit_test(
			the_report_names_holders_and_whom_a_waiter_waits_for),
		cmocka_unit_test(no_commit_runs_over_a_held_page),
	};

	return layout_run(tests, sizeof(tests) / sizeof(*tests));
}
