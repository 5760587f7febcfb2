// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: pools open, are backed and persist as the header says; claims collide
 * where they must; the probes tell the truth about tmpfs and about a disk.
 * Method: real files in private directories on /dev/shm and on the disk under
 * /var/tmp (its cases are skipped where that is a tmpfs too).
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <linux/magic.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "pagemap/pmem.h"

#define POOL_SIZE (4ULL << 20)
#define SCRATCH (64ULL << 10)

static char ram_dir[] = "/dev/shm/test_pmem.XXXXXX";
static char disk_dir[] = "/var/tmp/test_pmem.XXXXXX";
static char ram_path[64], disk_path[64];
static bool have_disk;

static int setup_dirs(void **state)
{
	struct statfs sfs;

	(void)state;
	if (!mkdtemp(ram_dir) || !mkdtemp(disk_dir))
		return -1;
	(void)snprintf(ram_path, sizeof(ram_path), "%s/pool", ram_dir);
	(void)snprintf(disk_path, sizeof(disk_path), "%s/pool", disk_dir);
	have_disk = !statfs(disk_dir, &sfs) && sfs.f_type != TMPFS_MAGIC;
	return 0;
}

static int teardown_dirs(void **state)
{
	(void)state;
	return rmdir(ram_dir) || rmdir(disk_dir);
}

static int remove_pools(void **state)
{
	(void)state;
	(void)unlink(ram_path);	 /* may be there */
	(void)unlink(disk_path); /* may be there */
	return 0;
}

static struct pmem_pool *create(const char *path)
{
	struct pmem_pool *pool;

	assert_int_equal(pmem_create(path, POOL_SIZE, 0, &pool), 0);
	return pool;
}

static void ram_pool_is_backed_and_emulated(void **state)
{
	struct pmem_pool *pool = create(ram_path);
	struct stat st;

	(void)state;
	assert_int_equal(pool->size_bytes, POOL_SIZE);
	assert_true(pool->ram_backed && pool->emulated && pool->byte_granular);
	assert_string_equal(pool->path, ram_path);
	assert_int_equal(stat(ram_path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= POOL_SIZE);
	assert_true(st.st_dev == pool->dev && st.st_ino == pool->ino);
	/* libpmem2 was told by the environment, which is as it was */
	assert_null(getenv("PMEM2_FORCE_GRANULARITY"));
	pmem_close(pool);
}

static void disk_pool_persists_by_page(void **state)
{
	struct pmem_pool *pool;
	struct stat st;

	(void)state;
	if (!have_disk)
		skip();
	/* A RAM pool before it must not make it believe in cache lines. */
	pmem_close(create(ram_path));
	pool = create(disk_path);
	assert_false(pool->ram_backed || pool->emulated || pool->byte_granular);
	assert_int_equal(stat(disk_path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 < POOL_SIZE);
	pmem_memset(pool, pool->base + 8, 7, 100);
	pmem_drain(pool);
	pmem_persist(pool, pool->base + 4090, 20);
	pmem_close(pool);
	assert_int_equal(pmem_create(disk_path, 0,
				     PMEM_CREATE_FORCE | PMEM_CREATE_PREALLOC,
				     &pool),
			 0);
	assert_int_equal(stat(disk_path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= POOL_SIZE);
	pmem_close(pool);
}

static void stores_are_there_after_reopen(void **state)
{
	struct pmem_pool *pool = create(ram_path);
	char buf[300];

	(void)state;
	memset(buf, 'x', sizeof(buf));
	pmem_memcpy(pool, pool->base + 4000, buf, sizeof(buf));
	pmem_memset(pool, pool->base + 3, 'y', 5);
	pmem_drain(pool);
	pool->base[9] = 'z';
	pmem_persist(pool, pool->base + 9, 1);
	pmem_close(pool);

	assert_int_equal(pmem_open(ram_path, PMEM_OPEN_RDONLY, &pool), 0);
	assert_true(pool->readonly);
	assert_memory_equal(pool->base + 4000, buf, sizeof(buf));
	assert_memory_equal(pool->base, "\0\0\0yyyyy\0z", 10);
	pmem_close(pool);
}

static void create_does_not_take_over_unasked(void **state)
{
	struct pmem_pool *pool;
	char word[5] = {0};
	int fd;

	(void)state;
	fd = open(ram_path, O_RDWR | O_CREAT, 0600);
	assert_int_equal(write(fd, "data", 4), 4);
	assert_int_equal(pmem_create(ram_path, POOL_SIZE, 0, &pool), -EEXIST);
	/* too small to keep its size */
	assert_int_equal(pmem_create(ram_path, 0, PMEM_CREATE_FORCE, &pool),
			 -EINVAL);
	assert_int_equal(pread(fd, word, 4, 0), 4);
	assert_string_equal(word, "data");
	close(fd);
	assert_int_equal(
		pmem_create(ram_path, POOL_SIZE, PMEM_CREATE_FORCE, &pool), 0);
	assert_memory_equal(pool->base, "data", 4);
	pmem_close(pool);
}

static void failed_create_leaves_no_file(void **state)
{
	struct pmem_pool *pool;

	(void)state;
	assert_int_equal(pmem_create(ram_path, 0, 0, &pool), -EINVAL);
	assert_int_equal(pmem_create(ram_path, 4097, 0, &pool), -EINVAL);
	assert_int_equal(pmem_create(ram_path, 1ULL << 63, 0, &pool), -EINVAL);
	/* more than any tmpfs of this machine holds */
	assert_int_equal(pmem_create(ram_path, 1ULL << 50, 0, &pool), -ENOSPC);
	assert_int_equal(access(ram_path, F_OK), -1);
}

static void claimed_pool_is_not_taken_over(void **state)
{
	struct pmem_pool *pool = create(ram_path), *other;
	struct stat st;

	(void)state;
	assert_int_equal(pmem_claim(pool, 2 << 20, 4096), 0);
	assert_int_equal(
		pmem_create(ram_path, 2 << 20, PMEM_CREATE_FORCE, &other),
		-EBUSY);
	assert_int_equal(stat(ram_path, &st), 0);
	assert_int_equal(st.st_size, POOL_SIZE);
	pmem_close(pool);
}

static void what_is_no_pool_file_is_einval(void **state)
{
	struct pmem_pool *pool;

	(void)state;
	assert_int_equal(pmem_open(ram_path, 0, &pool), -ENOENT);
	assert_int_equal(pmem_open(ram_dir, 0, &pool), -EINVAL);
	assert_int_equal(pmem_open(ram_dir, PMEM_OPEN_RDONLY, &pool), -EINVAL);
	assert_int_equal(pmem_open("/dev/null", 0, &pool), -EINVAL);
	assert_int_equal(mkfifo(ram_path, 0600), 0);
	assert_int_equal(pmem_open(ram_path, PMEM_OPEN_RDONLY, &pool), -EINVAL);
	assert_int_equal(unlink(ram_path), 0);
	close(open(ram_path, O_RDWR | O_CREAT, 0600));
	assert_int_equal(pmem_open(ram_path, 0, &pool), -EINVAL);
	assert_int_equal(truncate(ram_path, 4095), 0);
	assert_int_equal(pmem_open(ram_path, 0, &pool), -EINVAL);
	assert_int_equal(truncate(ram_path, 8193), 0);
	assert_int_equal(pmem_open(ram_path, 0, &pool), 0);
	assert_int_equal(pool->size_bytes, 8192);
	pmem_close(pool);
}

static void open_fills_the_holes_of_a_ram_pool(void **state)
{
	struct pmem_pool *pool = create(ram_path);
	struct stat st;

	(void)state;
	assert_int_equal(fallocate(pool->fd,
				   FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				   4096, 8192),
			 0);
	pmem_close(pool);
	assert_int_equal(pmem_open(ram_path, 0, &pool), 0);
	assert_int_equal(stat(ram_path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= POOL_SIZE);
	pmem_close(pool);
}

static void memfd_is_a_ram_pool(void **state)
{
	struct pmem_pool *pool;
	char name[32];
	int fd;

	(void)state;
	fd = memfd_create("pool", 0);
	assert_int_equal(ftruncate(fd, POOL_SIZE), 0);
	(void)snprintf(name, sizeof(name), "/proc/self/fd/%d", fd);
	assert_int_equal(pmem_open(name, 0, &pool), 0);
	assert_true(pool->ram_backed);
	pmem_close(pool);
	close(fd);
}

static void claims_collide_exactly_where_they_overlap(void **state)
{
	struct pmem_pool *a = create(ram_path), *b;

	(void)state;
	assert_int_equal(pmem_open(ram_path, 0, &b), 0);
	assert_int_equal(pmem_claim(a, 0, 8192), 0);
	assert_int_equal(pmem_claim(a, 0, 8192), 0); /* its own: fine */
	assert_int_equal(pmem_claim(b, 8191, 4096), -EBUSY);
	assert_int_equal(pmem_claim(b, 8192, 4096), 0);
	assert_int_equal(pmem_claim(a, 4096, 8192), -EBUSY);
	pmem_unclaim(b, 8192, 4096);
	assert_int_equal(pmem_claim(a, 4096, 8192), 0);
	assert_int_equal(pmem_claim(b, UINT64_MAX, 1), -EINVAL);
	pmem_close(a);
	assert_int_equal(pmem_claim(b, 0, POOL_SIZE), 0);
	pmem_close(b);
}

struct late_claim {
	struct pmem_pool *pool;
	atomic_int tid;
	int err;
};

static void *claim_late(void *arg)
{
	struct late_claim *c = arg;

	atomic_store(&c->tid, gettid());
	c->err = pmem_claim_wait(c->pool, 0, 8192, 60000);
	return NULL;
}

/* Does the thread sleep, as it does between two looks? */
static bool sleeps(int tid)
{
	char path[64], line[256] = "", *end;
	FILE *f;

	(void)snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	f = fopen(path, "re");
	if (f) {
		(void)fgets(line, sizeof(line), f);
		fclose(f);
	}
	end = strrchr(line, ')');
	return end && strncmp(end, ") S", 3) == 0;
}

static void a_claim_that_is_dropped_is_waited_for(void **state)
{
	struct pmem_pool *a = create(ram_path), *b;
	struct late_claim c = {.err = 1};
	pthread_t thread;
	int i;

	(void)state;
	assert_int_equal(pmem_open(ram_path, 0, &b), 0);
	c.pool = b;
	assert_int_equal(pmem_claim(a, 0, 8192), 0);
	assert_int_equal(pmem_claim_wait(b, 0, 8192, 0), -EBUSY);
	assert_int_equal(pthread_create(&thread, NULL, claim_late, &c), 0);
	for (i = 0; i < 20000 && !(atomic_load(&c.tid) && sleeps(c.tid)); i++)
		(void)poll(NULL, 0, 1);
	pmem_unclaim(a, 0, 8192);
	assert_int_equal(pthread_join(thread, NULL), 0);
	assert_int_equal(c.err, 0);
	assert_int_equal(pmem_claim(a, 0, 8192), -EBUSY);
	pmem_close(a);
	pmem_close(b);
}

static void client_is_alive_while_it_maps(void **state)
{
	struct pmem_pool *pool = create(ram_path);
	int fd = open(ram_path, O_RDONLY);
	struct flock lk = {.l_type = F_RDLCK, .l_len = 1};
	void *map;

	(void)state;
	lk.l_start = (off_t)pmem_client_lock_byte(2 << 20);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lk), 0);
	map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(map, MAP_FAILED);
	close(fd); /* the mapping holds the description, and so the lock */
	assert_int_equal(pmem_clients_alive(pool, 2 << 20), 1);
	assert_int_equal(pmem_clients_alive(pool, 4 << 20), 0);
	munmap(map, 4096);
	assert_int_equal(pmem_clients_alive(pool, 2 << 20), 0);
	pmem_close(pool);
}

static void mapping_processes_are_found(void **state)
{
	struct pmem_pool *pool = create(ram_path);
	int ready[2], end[2], i, nr, found = 0;
	pid_t child, pids[16];
	char c = 0;

	(void)state;
	assert_int_equal(pipe(ready) | pipe(end), 0);
	child = fork();
	if (!child) {
		close(end[1]);
		(void)!write(ready[1], &c, 1);	 /* a failure ends the test */
		_exit((int)read(end[0], &c, 1)); /* until the test closes it */
	}
	assert_true(child > 0);
	assert_int_equal(read(ready[0], &c, 1), 1);
	nr = pmem_mapped_by(pool, pids, 16);
	for (i = 0; i < nr; i++)
		found += pids[i] == child || pids[i] == getpid();
	assert_int_equal(nr, 2);
	assert_int_equal(found, 2);
	assert_int_equal(pmem_mapped_by(pool, pids, 1), 1);
	close(end[1]);
	assert_int_equal(waitpid(child, NULL, 0), child);
	close(end[0]);
	close(ready[0]);
	close(ready[1]);
	pmem_close(pool);
}

/* -EPERM and -ENOSYS: no io_uring here, so nothing can be said. */
static void need_io_uring(void)
{
	struct io_uring ring;

	if (io_uring_queue_init(1, &ring, 0))
		skip();
	io_uring_queue_exit(&ring);
}

static void tmpfs_takes_pins_and_fences_them(void **state)
{
	struct pmem_pool *pool;

	(void)state;
	need_io_uring();
	pool = create(ram_path);
	memset(pool->base + SCRATCH - 1, 'a', 1);
	memset(pool->base + SCRATCH + 4096, 'b', 1);
	assert_int_equal(pmem_probe_pins(pool, SCRATCH), 0);
	assert_int_equal(pmem_probe_fence(pool, SCRATCH), 0);
	assert_int_equal(pool->base[SCRATCH], 0);
	assert_int_equal(pool->base[SCRATCH - 1], 'a');
	assert_int_equal(pool->base[SCRATCH + 4096], 'b');
	assert_int_equal(pmem_probe_pins(pool, POOL_SIZE), -EINVAL);
	assert_int_equal(pmem_probe_fence(pool, 4095), -EINVAL);
	pmem_close(pool);
}

static void disk_file_takes_no_pins(void **state)
{
	struct pmem_pool *pool;

	(void)state;
	if (!have_disk)
		skip();
	need_io_uring();
	pool = create(disk_path);
	assert_int_equal(pmem_probe_pins(pool, SCRATCH), -EOPNOTSUPP);
	assert_int_equal(pmem_probe_fence(pool, SCRATCH), -EOPNOTSUPP);
	pmem_close(pool);
}

static void fence_empties_and_backs_the_range(void **state)
{
	struct pmem_pool *pool = create(ram_path);
	struct stat st;
	uint64_t i;

	(void)state;
	memset(pool->base, 'x', POOL_SIZE);
	assert_int_equal(pmem_fence(pool, 8192, 12288), 0);
	for (i = 0; i < 32768; i++)
		assert_int_equal(pool->base[i],
				 i >= 8192 && i < 20480 ? 0 : 'x');
	assert_int_equal(stat(ram_path, &st), 0);
	assert_true((uint64_t)st.st_blocks * 512 >= POOL_SIZE);
	assert_int_equal(pmem_fence(pool, 0, POOL_SIZE), 0);
	assert_int_equal(pmem_fence(pool, 1, 4096), -EINVAL);
	assert_int_equal(pmem_fence(pool, 4096, 0), -EINVAL);
	assert_int_equal(pmem_fence(pool, POOL_SIZE, 4096), -EINVAL);
	assert_int_equal(pmem_refill(pool, 4096, POOL_SIZE), -EINVAL);
	pmem_close(pool);
}

static void late_dma_misses_a_fenced_page(void **state)
{
	struct pmem_pool *pool;
	struct io_uring_cqe *cqe;
	struct io_uring ring;
	struct iovec iov;
	char page[4096];
	int fds[2];

	(void)state;
	need_io_uring();
	pool = create(ram_path);
	iov = (struct iovec){pool->base + (1 << 20), 8192};
	assert_int_equal(io_uring_queue_init(2, &ring, 0), 0);
	assert_int_equal(io_uring_register_buffers(&ring, &iov, 1), 0);
	assert_int_equal(pipe(fds), 0);
	io_uring_prep_read_fixed(io_uring_get_sqe(&ring), fds[0], iov.iov_base,
				 4096, 0, 0);
	assert_int_equal(io_uring_submit(&ring), 1);
	assert_int_equal(pmem_fence(pool, 1 << 20, 4096), 0);
	memset(page, 'D', sizeof(page));
	assert_int_equal(write(fds[1], page, sizeof(page)), sizeof(page));
	assert_int_equal(io_uring_wait_cqe(&ring, &cqe), 0);
	assert_int_equal(cqe->res, 4096);
	assert_int_equal(pool->base[1 << 20], 0);
	io_uring_queue_exit(&ring);
	close(fds[0]);
	close(fds[1]);
	pmem_close(pool);
}

#define CASE(test) cmocka_unit_test_teardown(test, remove_pools)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(ram_pool_is_backed_and_emulated),
		CASE(disk_pool_persists_by_page),
		CASE(stores_are_there_after_reopen),
		CASE(create_does_not_take_over_unasked),
		CASE(failed_create_leaves_no_file),
		CASE(claimed_pool_is_not_taken_over),
		CASE(what_is_no_pool_file_is_einval),
		CASE(open_fills_the_holes_of_a_ram_pool),
		CASE(memfd_is_a_ram_pool),
		CASE(claims_collide_exactly_where_they_overlap),
		CASE(a_claim_that_is_dropped_is_waited_for),
		CASE(client_is_alive_while_it_maps),
		CASE(mapping_processes_are_found),
		CASE(tmpfs_takes_pins_and_fences_them),
		CASE(disk_file_takes_no_pins),
		CASE(fence_empties_and_backs_the_range),
		CASE(late_dma_misses_a_fenced_page),
	};

	return cmocka_run_group_tests(tests, setup_dirs, teardown_dirs);
}
