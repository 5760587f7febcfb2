/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pins, io_uring registration and the limits of a process.
 *
 * Goal: a pin covers what was asked for, makes it present and holds nothing
 * while it waits; mappings work under mlockall, RLIMIT_DATA, a small budget of
 * mappings, and are not inherited by a child.
 * Method: the daemon of client_fake.h. What changes limits runs in a child,
 * which also shows that a forked child can start anew.
 */
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include "tests/unit/client_fake.h"

static void pin_fills_holes_and_makes_pages_present(void **state)
{
	struct pindax_map *m =
		map_all(16, PROT_READ | PROT_WRITE, PINDAX_MAP_LAZY);
	struct pindax_pin *pin;

	(void)state;
	assert_int_equal(pindax_pin(m, 4 * PG, 4 * PG, 0, &pin), 0);
	assert_int_equal(pins_of(4), 1);
	assert_int_equal(pins_of(8), 0);
	assert_int_not_equal(page_of(7), NO_PAGE);
	assert_int_equal(page_of(8), NO_PAGE);
	(void)count_faults();
	*at(m, 7) = 'p';
	assert_int_equal(count_faults(), 0);
	assert_int_equal(pindax_unmap(m), -EBUSY);
	pindax_unpin(pin);
	assert_int_equal(pins_of(4), 0);
	assert_int_equal(pindax_unmap(m), 0);
}

static void pin_refuses_what_it_must(void **state)
{
	struct pindax_map *m, *ro;
	struct pindax_pin *pin;

	(void)state;
	fake->nr_pages = 4;
	m = map_rw(8);
	ro = map_all(4, PROT_READ, 0);
	assert_int_equal(pindax_pin(m, 0, 8 * PG, 0, &pin), -ENXIO);
	assert_int_equal(pindax_pin(m, 1, PG, 0, &pin), -EINVAL);
	assert_int_equal(pindax_pin(m, 0, 0, 0, &pin), -EINVAL);
	assert_int_equal(pindax_pin(m, 8 * PG, PG, 0, &pin), -EINVAL);
	assert_int_equal(pindax_pin(ro, 0, PG, 0, &pin), -EACCES);
	file->type = PINDAX_TYPE_FS_DAX_LIMITED;
	assert_int_equal(pindax_pin(m, 0, PG, 0, &pin), -EOPNOTSUPP);
	file->type = PINDAX_TYPE_FS_DAX;
	assert_int_equal(pindax_map(file, 0, 100, PROT_READ, 0, &m), -EINVAL);
	assert_int_equal(pindax_map(file, 0, 0, PROT_READ, 0, &m), -EINVAL);
}

static void pin_of_ranges_waits_for_one_with_none_held(void **state)
{
	struct pindax_map *m = map_rw(16);
	struct pdx_range r[3] = {{.off = 0, .len = PG},
				 {.off = 4 * PG, .len = PG},
				 {.off = 8 * PG, .len = PG}};
	struct pindax_pin *pin;

	(void)state;
	fake->pin_again = 2;
	assert_int_equal(pdx_pin_ranges(m, r, 3, 0, false, &pin), 0);
	assert_int_equal(fake->pin_again, 0);
	assert_int_equal(pins_of(0), 1);
	assert_int_equal(pins_of(1), 0);
	assert_int_equal(pins_of(4), 1);
	assert_int_equal(pins_of(8), 1);
	pindax_unpin(pin);
}

static void closed_file_stays_attached_until_its_last_pin(void **state)
{
	struct pindax_map *m;
	struct pindax_pin *pin;

	m = map_rw(4);
	assert_int_equal(pindax_pin(m, 0, PG, 0, &pin), 0);
	pindax_close(file);
	*at(m, 0) = 'c';
	assert_int_equal(*pool_at(0), 'c');
	assert_int_equal(pins_of(0), 1);
	pindax_unpin(pin);
	assert_int_equal(pins_of(0), 0);
	file = NULL;
	(void)state;
}

static void budget_is_kept_by_dropping_windows(void **state)
{
	unsigned int budget = pdx.budget;
	struct pindax_pin *pin;
	struct pindax_map *m;

	(void)state;
	/* every second page: no two merge */
	for (uint64_t i = 0; i < FILE_PAGES; i++) {
		set_page(i, 2 * i);
		*pool_at(i) = (uint8_t)i;
	}
	pdx.budget = 600;
	m = map_rw(FILE_PAGES);
	assert_true(pdx.nr_runs <= 600);
	for (unsigned int round = 0; round < 2; round++)
		for (uint64_t i = 0; i < FILE_PAGES; i++)
			assert_int_equal(*at(m, i), (uint8_t)i);
	assert_true(pdx.nr_runs <= 600);
	assert_int_equal(pindax_pin(m, 0, FILE_PAGES * PG, 0, &pin), -ENOMEM);
	assert_non_null(strstr(pindax_errormsg(), "max_map_count"));
	pdx.budget = budget;
}

static void registered_buffer_is_pinned_and_receives_dma(void **state)
{
	struct pindax_map *m = map_rw(16);
	struct iovec iov[2] = {
		{.iov_base = (void *)(uintptr_t)(2 * PG), .iov_len = PG},
		{.iov_base = (void *)(uintptr_t)(8 * PG), .iov_len = 2 * PG}};
	int src = memfd_create("src", MFD_CLOEXEC);
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	struct pindax_pin *pin;

	(void)state;
	assert_int_equal(write(src, "dma", 3), 3);
	assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
	recall(0, 16);
	assert_int_equal(pindax_register_buffers(m, &ring, iov, 2, &pin), 0);
	assert_int_equal(pins_of(2), 1);
	assert_int_equal(pins_of(9), 1);
	assert_int_equal(pins_of(3), 0);
	io_uring_prep_read_fixed(io_uring_get_sqe(&ring), src, (void *)at(m, 9),
				 3, 0, 1);
	assert_int_equal(io_uring_submit(&ring), 1);
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, 3);
	assert_memory_equal(pool_at(9), "dma", 3);
	assert_int_equal(pindax_register_buffers(m, &ring, NULL, 0, &pin),
			 -EBUSY);
	assert_int_equal(pins_of(0), 0);
	assert_int_equal(pindax_unregister_buffers(&ring, pin), 0);
	assert_int_equal(pins_of(9), 0);
	io_uring_queue_exit(&ring);
	(void)close(src);
}

/* --- limits of the process, in a child --- */

static void in_child(void **state, void (*fn)(void **))
{
	pid_t pid = fork();
	int status;

	assert_true(pid >= 0);
	if (pid == 0) {
		struct pindax_map *m;

		/* The parent's objects are not ours. */
		if (pindax_map(file, 0, PG, PROT_READ, 0, &m) != -ESTALE)
			_exit(2);
		alarm(DEADLINE_S);
		setup(state);
		fn(state);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

#define CHECK(x)                                                               \
	do {                                                                   \
		if (!(x))                                                      \
			_exit(3);                                              \
	} while (0)

static void mlockall_child(void **state)
{
	struct pindax_map *m;
	uint8_t *old;

	(void)state;
	CHECK(!mlockall(MCL_CURRENT | MCL_FUTURE));
	m = map_rw(16);
	*at(m, 0) = 'x';
	old = pool_at(0);
	move_page(0);
	*at(m, 0) = 'y';
	CHECK(*old == 'x');
	CHECK(*pool_at(0) == 'y');
	recall(0, 16);
	CHECK(*at(m, 0) == 'y');
}

static void zap_works_under_mlockall(void **state)
{
	in_child(state, mlockall_child);
}

static size_t data_size(void)
{
	char text[256] = "", *at = text;
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	CHECK(f && fgets(text, sizeof(text), f));
	(void)fclose(f);
	for (unsigned int i = 0; i < 6; i++) /* the sixth: data and stack */
		pages = strtoul(at, &at, 10);
	return pages * PG;
}

/* Room for half the mapping's size: a zapped area must not count. */
static void rlimit_child(void **state)
{
	struct rlimit lim;
	struct pindax_map *m;

	(void)state;
	lim.rlim_cur = lim.rlim_max = data_size() + FILE_PAGES * PG / 2;
	CHECK(!setrlimit(RLIMIT_DATA, &lim));
	m = map_rw(FILE_PAGES);
	*at(m, 1000) = 'x';
	recall(0, FILE_PAGES);
	CHECK(*at(m, 1000) == 'x');
}

static void zap_works_under_small_rlimit_data(void **state)
{
	in_child(state, rlimit_child);
}

static void fork_child_has_no_mapping(void **state)
{
	struct pindax_map *m = map_rw(4);
	pid_t pid;
	int status;

	(void)state;
	recall(2, 2);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		struct pdx_vma v;

		pdx.maps_fd = open("/proc/self/maps", O_RDONLY);
		for (uint64_t i = 0; i < 4; i++)
			if (pdx_vma_at((void *)at(m, i), PG, &v) || v.id.ino)
				_exit(1);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(*at(m, 2), 0);
}

/* Some tests start the library anew in a forked child. */
const char *__tsan_default_options(void);
const char *__tsan_default_options(void)
{
	return "die_after_fork=0";
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(pin_fills_holes_and_makes_pages_present),
		T(pin_refuses_what_it_must),
		T(pin_of_ranges_waits_for_one_with_none_held),
		T(closed_file_stays_attached_until_its_last_pin),
		T(budget_is_kept_by_dropping_windows),
		T(registered_buffer_is_pinned_and_receives_dma),
		T(zap_works_under_mlockall),
		T(zap_works_under_small_rlimit_data),
		T(fork_child_has_no_mapping),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
