/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The client's zap and refault engine.
 *
 * Goal: whatever order grants, recalls, retries and touches come in, no store
 * goes to a page that was recalled, none is lost, and nobody sleeps for ever.
 * Method: the daemon of client_fake.h, threads that touch and store.
 */
#include <fcntl.h>
#include "tests/unit/client_fake.h"

static void map_shows_the_files_pages_and_allocates_holes(void **state)
{
	struct pindax_map *m;

	(void)state;
	set_page(0, 7);
	set_page(1, 3);
	fake->next_free = 20;
	memset(pool_at(0), 'a', PG);
	memset(pool_at(1), 'b', PG);
	m = map_rw(4);
	assert_int_equal(*at(m, 0), 'a');
	assert_int_equal(*at(m, 1), 'b');
	assert_int_not_equal(page_of(3), NO_PAGE);
	*at(m, 3) = 'c';
	assert_int_equal(*pool_at(3), 'c');
	assert_int_equal(page_of(4), NO_PAGE);
	assert_int_equal((uintptr_t)pindax_map_addr(m) % PDX_WINDOW, 0);
	assert_int_equal(pindax_unmap(m), 0);
	assert_false(leased(0));
}

static void recalled_page_is_not_touched_and_faults_in_again(void **state)
{
	struct pindax_map *m = map_rw(8);
	uint8_t *old;

	(void)state;
	*at(m, 2) = 'x';
	old = pool_at(2);
	move_page(2);
	*at(m, 2) = 'y';
	assert_int_equal(*old, 'x');
	assert_int_equal(*pool_at(2), 'y');
	recall(0, 0); /* to the end */
	for (uint64_t i = 0; i < 8; i++)
		assert_int_equal(*at(m, i), *pool_at(i));
}

static void kernel_touch_of_recalled_page_faults_in_again(void **state)
{
	struct pindax_map *m = map_rw(8);
	int fd = open("/dev/zero", O_RDONLY);

	(void)state;
	if (pdx.user_only)
		skip();
	memset((void *)at(m, 0), 'x', 8 * PG);
	recall(0, 8);
	assert_int_equal(read(fd, (void *)at(m, 2), 8192), 8192);
	assert_int_equal(*at(m, 3), 0);
	assert_int_equal(*at(m, 4), 'x');
	(void)close(fd);
}

static void stale_grant_is_asked_for_again(void **state)
{
	struct pindax_map *m = map_rw(4);
	struct toucher t;
	uint8_t *old;

	(void)state;
	recall(0, 4);
	pthread_mutex_lock(&fake->lock);
	fake->hold_answers = true;
	toucher_start(&t, at(m, 1));
	while (!fake->nr_held)
		wait_changed();
	/* The grant is on its way and names the old block. */
	old = pool_at(1);
	*old = 'o';
	recall_locked(0, 4);
	set_page(1, alloc_page());
	*pool_at(1) = 'n';
	fake->hold_answers = false;
	pthread_cond_broadcast(&fake->changed);
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t), 'n');
}

static void queued_fault_waits_for_its_retry_alone(void **state)
{
	struct pindax_map *m = map_rw(8);
	struct toucher t[2];

	(void)state;
	memset((void *)at(m, 0), 'q', 8 * PG);
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 8);
	fake->sealed[5] = true;
	toucher_start(&t[0], at(m, 5));
	while (fake->nr_queued < 2) /* the window, then the page */
		wait_changed();
	pthread_mutex_unlock(&fake->lock);
	/* Its neighbours do not wait, though they share its window. */
	toucher_start(&t[1], at(m, 4));
	assert_int_equal(toucher_join(&t[1]), 'q');
	assert_int_equal(t[0].got, -1);
	pthread_mutex_lock(&fake->lock);
	fake->sealed[5] = false;
	for (uint64_t i = 1; i <= fake->ticket; i++)
		retry(i);
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t[0]), 'q');
}

static void retry_that_overtakes_its_answer_is_not_lost(void **state)
{
	struct pindax_map *m = map_rw(1);
	unsigned int before;
	struct toucher t;

	(void)state;
	*at(m, 0) = 'r';
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 1);
	fake->sealed[0] = true;
	fake->hold_answers = true;
	toucher_start(&t, at(m, 0));
	while (!fake->nr_held)
		wait_changed();
	fake->sealed[0] = false;
	before = atomic_load(&file->retries);
	retry(fake->ticket);
	while (atomic_load(&file->retries) == before) {
		pthread_mutex_unlock(&fake->lock);
		(void)sched_yield();
		pthread_mutex_lock(&fake->lock);
	}
	fake->hold_answers = false;
	pthread_cond_broadcast(&fake->changed);
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t), 'r');
}

static void touch_past_the_end_gets_sigbus_until_the_file_grows(void **state)
{
	struct pindax_map *m;

	(void)state;
	fake->nr_pages = 2;
	m = map_rw(4);
	assert_int_equal(touch(at(m, 1)), 0);
	assert_int_equal(touch(at(m, 2)), -SIGBUS);
	assert_int_equal(page_of(2), NO_PAGE);
	pthread_mutex_lock(&fake->lock);
	recall_locked(2, 2);
	fake->nr_pages = 3;
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(touch(at(m, 2)), 0);
	assert_int_equal(touch(at(m, 3)), -SIGBUS);
}

static void hole_in_read_only_map_reads_zeros_until_filled(void **state)
{
	struct pindax_map *m = map_all(64, PROT_READ, 0);

	(void)state;
	for (uint64_t i = 0; i < 64; i++)
		assert_int_equal(*at(m, i), 0);
	assert_int_equal(page_of(5), NO_PAGE);
	pthread_mutex_lock(&fake->lock);
	recall_locked(5, 1);
	set_page(5, alloc_page());
	*pool_at(5) = 'f';
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(*at(m, 5), 'f');
	assert_int_equal(*at(m, 6), 0);
	assert_int_equal(touch(at(m, 5)), 'f');
}

static void lazy_map_allocates_only_the_touched_page(void **state)
{
	struct pindax_map *m =
		map_all(FILE_PAGES, PROT_READ | PROT_WRITE, PINDAX_MAP_LAZY);

	(void)state;
	assert_int_equal(count_faults(), 0);
	*at(m, 600) = 'l';
	assert_int_equal(*pool_at(600), 'l');
	assert_int_equal(page_of(599), NO_PAGE);
	assert_int_equal(page_of(601), NO_PAGE);
}

static void one_fault_brings_the_allocated_neighbours(void **state)
{
	struct pindax_map *m = map_rw(FILE_PAGES);

	(void)state;
	memset((void *)at(m, 0), 'n', FILE_PAGES * PG);
	recall(0, FILE_PAGES);
	set_page(100, NO_PAGE);
	(void)count_faults();
	for (uint64_t i = 101; i < 512; i++)
		assert_int_equal(*at(m, i), 'n');
	assert_true(count_faults() <= 2);
	assert_int_equal(page_of(100), NO_PAGE);
}

static void strangers_memory_survives_a_recall(void **state)
{
	struct pindax_map *m = map_rw(8);
	void *p;

	(void)state;
	p = mmap((void *)at(m, 3), PG, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	assert_ptr_equal(p, at(m, 3));
	*at(m, 3) = 's';
	/* Of the pool, too, but not what we put there. */
	p = mmap((void *)at(m, 5), PG, PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_FIXED, fake->pool_fd,
		 (POOL_PAGES - 1) * (off_t)PG);
	assert_ptr_equal(p, at(m, 5));
	*at(m, 5) = 't';
	(void)munmap((void *)at(m, 6), PG);
	recall(0, 8);
	assert_int_equal(*at(m, 3), 's');
	assert_int_equal(*at(m, 5), 't');
	assert_int_equal(touch(at(m, 6)), -SIGSEGV);
	*at(m, 4) = 'o';
	assert_int_equal(*pool_at(4), 'o');
}

static void strangers_memory_survives_without_procmap_query(void **state)
{
	atomic_store(&pdx_vma_text_only, true);
	strangers_memory_survives_a_recall(state);
	atomic_store(&pdx_vma_text_only, false);
}

static void unmap_keeps_the_lease_of_another_map(void **state)
{
	struct pindax_map *a = map_rw(8), *b;

	(void)state;
	assert_int_equal(pindax_map(file, 2 * PG, 2 * PG, PROT_READ, 0, &b), 0);
	assert_int_equal(pindax_unmap(a), 0);
	assert_false(leased(1));
	assert_true(leased(2));
	assert_true(leased(3));
	assert_false(leased(4));
	assert_int_equal(*at(b, 0), 0);
}

static void eager_refault_where_the_kernel_cannot_fault(void **state)
{
	struct pindax_map *m = map_rw(8);
	bool back = false;

	(void)state;
	memset((void *)at(m, 0), 'e', 8 * PG);
	pdx.user_only = true;
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 8);
	pthread_mutex_unlock(&fake->lock);
	while (!back) { /* the harness ends us if it never comes */
		pthread_mutex_lock(&file->lock);
		back = pdx_next_present(m, 0, false) == 8;
		pthread_mutex_unlock(&file->lock);
	}
	pdx.user_only = false;
}

static void dead_daemon_gives_sigbus_and_errors(void **state)
{
	struct pindax_map *m = map_rw(4), *other;
	struct pindax_pin *pin;
	struct toucher t;

	(void)state;
	*at(m, 3) = 'd';
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, 3);
	fake->sealed[2] = true;
	toucher_start(&t, at(m, 3)); /* present: goes on */
	fake->dead = true;
	notify();
	pthread_mutex_unlock(&fake->lock);
	assert_int_equal(toucher_join(&t), 'd');
	assert_int_equal(touch(at(m, 0)), -SIGBUS);
	assert_int_equal(pindax_pin(m, 0, PG, 0, &pin), -ENOTCONN);
	assert_non_null(strstr(pindax_errormsg(), "umount -l"));
	assert_int_equal(pindax_map(file, 0, PG, PROT_READ, 0, &other),
			 -ENOTCONN);
	while (!atomic_load(&file->dead))
		(void)sched_yield();
	pthread_mutex_lock(&fake->lock);
	fake->dead = false;
	pthread_mutex_unlock(&fake->lock);
}

#define NR_TOUCHERS 600

static void more_faults_than_the_queue_holds(void **state)
{
	struct toucher *t = calloc(NR_TOUCHERS, sizeof(*t));
	struct pindax_map *m = map_rw(NR_TOUCHERS);

	(void)state;
	for (uint64_t i = 0; i < NR_TOUCHERS; i++)
		*at(m, i) = (uint8_t)i;
	pthread_mutex_lock(&fake->lock);
	recall_locked(0, NR_TOUCHERS);
	memset(fake->sealed, 1, sizeof(fake->sealed));
	pthread_mutex_unlock(&fake->lock);
	for (uint64_t i = 0; i < NR_TOUCHERS; i++)
		toucher_start(&t[i], at(m, i));
	pthread_mutex_lock(&fake->lock);
	while (fake->nr_queued < 512)
		wait_changed();
	memset(fake->sealed, 0, sizeof(fake->sealed));
	pthread_mutex_unlock(&fake->lock);
	pdx_fault_retry_all(file);
	for (uint64_t i = 0; i < NR_TOUCHERS; i++)
		assert_int_equal(toucher_join(&t[i]), (uint8_t)i);
	free(t);
}

/* --- storing threads against recalls --- */

struct storm {
	pthread_t thread;
	struct pindax_map *m;
	uint64_t pages;
	unsigned int id;
	atomic_bool *stop;
	uint64_t rounds;
	uint64_t wrong;
};

static void *storm_main(void *arg)
{
	struct storm *s = arg;

	while (!atomic_load(s->stop)) {
		s->rounds++;
		for (uint64_t p = 0; p < s->pages; p++) {
			volatile uint64_t *w =
				(volatile uint64_t *)(uintptr_t)at(s->m, p) +
				s->id;

			*w = s->rounds;
			if (*w != s->rounds)
				s->wrong++;
		}
	}
	return NULL;
}

/* Between recall and release the block's owner may change it: move the bytes
 * to another block and poison the old one. */
static void storm_recall(uint64_t first, uint64_t nr)
{
	pthread_mutex_lock(&fake->lock);
	memset(&fake->sealed[first], 1, nr);
	recall_locked(first, nr);
	for (uint64_t p = first; p < first + nr; p++) {
		uint8_t *old = pool_at(p);

		set_page(p, alloc_page());
		memcpy(pool_at(p), old, PG);
		memset(old, 0xdd, PG);
	}
	memset(&fake->sealed[first], 0, nr);
	for (; fake->ticket; fake->ticket--)
		if (fake->nr_ev < PINDAX_EVENTS_MAX)
			retry(fake->ticket);
	pthread_mutex_unlock(&fake->lock);
	pdx_fault_retry_all(file);
}

static void storm_start(struct storm s[2], uint64_t pages, atomic_bool *stop)
{
	struct pindax_map *m = map_rw(pages);

	for (unsigned int i = 0; i < 2; i++) {
		s[i] = (struct storm){
			.m = m, .pages = pages, .id = i, .stop = stop};
		assert_int_equal(
			pthread_create(&s[i].thread, NULL, storm_main, &s[i]),
			0);
	}
}

static void storm_end(struct storm s[2])
{
	atomic_store(s[0].stop, true);
	for (unsigned int i = 0; i < 2; i++) {
		pthread_join(s[i].thread, NULL);
		assert_int_equal(s[i].wrong, 0);
		assert_true(s[i].rounds > 0);
	}
	for (uint64_t p = 0; p < s[0].pages; p++)
		for (unsigned int i = 0; i < 2; i++)
			assert_int_equal(((uint64_t *)(void *)pool_at(p))[i],
					 s[i].rounds);
}

static void no_store_is_lost_and_none_hits_a_recalled_block(void **state)
{
	const uint64_t pages = 64;
	unsigned int seed = (unsigned int)time(NULL);
	atomic_bool stop = false;
	struct storm s[2];

	(void)state;
	print_message("seed %u\n", seed);
	storm_start(s, pages, &stop);
	for (unsigned int i = 0; i < 1500; i++) {
		uint64_t first = (uint64_t)rand_r(&seed) % pages;
		uint64_t nr = 1 + (uint64_t)rand_r(&seed) % 8;

		storm_recall(first, nr < pages - first ? nr : pages - first);
	}
	storm_end(s);
}

/* Whole page tables are set aside, then buried while stores go on. */
static void no_store_is_lost_when_page_tables_are_set_aside(void **state)
{
	atomic_bool stop = false;
	struct storm s[2];

	(void)state;
	storm_start(s, FILE_PAGES, &stop);
	for (unsigned int i = 0; i < 60; i++)
		storm_recall(0, FILE_PAGES);
	storm_end(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(map_shows_the_files_pages_and_allocates_holes),
		T(recalled_page_is_not_touched_and_faults_in_again),
		T(kernel_touch_of_recalled_page_faults_in_again),
		T(stale_grant_is_asked_for_again),
		T(queued_fault_waits_for_its_retry_alone),
		T(retry_that_overtakes_its_answer_is_not_lost),
		T(touch_past_the_end_gets_sigbus_until_the_file_grows),
		T(hole_in_read_only_map_reads_zeros_until_filled),
		T(lazy_map_allocates_only_the_touched_page),
		T(one_fault_brings_the_allocated_neighbours),
		T(strangers_memory_survives_a_recall),
		T(strangers_memory_survives_without_procmap_query),
		T(unmap_keeps_the_lease_of_another_map),
		T(eager_refault_where_the_kernel_cannot_fault),
		T(dead_daemon_gives_sigbus_and_errors),
		T(more_faults_than_the_queue_holds),
		T(no_store_is_lost_and_none_hits_a_recalled_block),
		T(no_store_is_lost_when_page_tables_are_set_aside),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
