/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * truncate mapped|unmapped DIR MIB - truncate a file of MIB to nothing, and
 * take its space again.
 *
 * The file is written through the mount. With "mapped" another process then
 * maps it directly and stores to every page of it; nobody ever pins it. Two
 * times are printed: "truncate US", of ftruncate(2) to 0, and "reusable US",
 * from the same start until fallocate(2) has given all of the space to another
 * file. The free space beside the file is less than MIB (checked), so those are
 * blocks of the truncated file. "attempts N" is how often fallocate was tried.
 *
 * The filesystem tells its own truth about space: what was freed a moment ago
 * may need a moment more, so ENOSPC is tried again until a deadline.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include "bench.h"

#define PAGE 4096
#define SPACE_DEADLINE_NS (30 * NS_PER_S)
#define RETRY_NS 100000ULL
#define ALARM_S 120

/* Allocate all of it; returns how often that was tried. */
static unsigned int allocate(int fd, uint64_t bytes)
{
	uint64_t deadline = now_ns() + SPACE_DEADLINE_NS;
	unsigned int attempts = 1;

	while (fallocate(fd, 0, 0, (off_t)bytes) != 0) {
		if (errno != ENOSPC || now_ns() > deadline)
			die("fallocate", strerror(errno));
		sleep_ns(RETRY_NS);
		attempts++;
	}
	return attempts;
}

static void write_file(int fd, uint64_t bytes)
{
	char *buf = malloc(MIB);

	if (!buf)
		die("memory", strerror(ENOMEM));
	memset(buf, 0x5a, MIB);
	for (uint64_t off = 0; off < bytes; off += MIB)
		if (pwrite(fd, buf, MIB, (off_t)off) != (ssize_t)MIB)
			die("write", strerror(errno));
	free(buf);
}

static void check_scarce(int fd, uint64_t bytes)
{
	struct statvfs st;

	must(fstatvfs(fd, &st), "statvfs");
	if (st.f_bfree * st.f_frsize >= bytes)
		die("free space", "the pool is too big for this measurement");
}

/* Until the daemon has nothing left to do for what was freed before. */
static void settle(int fd)
{
	uint64_t deadline = now_ns() + SPACE_DEADLINE_NS;
	struct pindax_ioc_stat st;

	do {
		must(ioctl(fd, PINDAX_IOC_STAT, &st), "stat");
		if (now_ns() > deadline)
			die("freed blocks", "stay pending");
		sleep_ns(RETRY_NS);
	} while (st.blocks_pending);
}

/* The other process: map, touch, say so, keep the mapping until told. */
static void hold_mapping(const char *path, uint64_t bytes, int ready, int end)
{
	struct pindax_file *file;
	struct pindax_map *map;
	int fd = open(path, O_RDWR | O_CLOEXEC);
	char c = 0, *p;

	must(fd, path);
	must_pindax(pindax_open(fd, &file), path);
	must_pindax(pindax_map(file, 0, bytes, PROT_READ | PROT_WRITE, 0, &map),
		    path);
	p = pindax_map_addr(map);
	for (uint64_t off = 0; off < bytes; off += PAGE)
		*(volatile char *)(p + off) = 1;
	if (write(ready, &c, 1) != 1)
		die("pipe", strerror(errno));
	(void)read(end, &c, 1); /* its end is the message */
	must_pindax(pindax_unmap(map), "unmap");
	pindax_close(file);
}

static void measure(int fd, int next_fd, uint64_t bytes)
{
	uint64_t start, truncated, reusable;
	unsigned int attempts;

	check_scarce(fd, bytes);
	settle(fd);
	start = now_ns();
	must(ftruncate(fd, 0), "ftruncate");
	truncated = now_ns();
	attempts = allocate(next_fd, bytes);
	reusable = now_ns();
	printf("truncate %.1f\n", (double)(truncated - start) / 1e3);
	printf("reusable %.1f\n", (double)(reusable - start) / 1e3);
	printf("attempts %u\n", attempts);
}

static int create(const char *dir, const char *name)
{
	int dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;

	must(dir_fd, dir);
	(void)unlinkat(dir_fd, name, 0); /* of a run that was interrupted */
	fd = openat(dir_fd, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	must(fd, name);
	close(dir_fd);
	return fd;
}

int main(int argc, char **argv)
{
	int ready[2], end[2], fd, next_fd, status = 0;
	char path[4096], c;
	uint64_t bytes;
	pid_t child = 0;

	if (argc != 4)
		die("usage", "truncate mapped|unmapped DIR MIB");
	bytes = number(argv[3], 1UL << 20) * MIB;
	snprintf(path, sizeof(path), "%s/file", argv[2]);
	alarm(ALARM_S);
	fd = create(argv[2], "file");
	next_fd = create(argv[2], "next");
	(void)allocate(fd, bytes);
	write_file(fd, bytes);
	if (!strcmp(argv[1], "mapped")) {
		must(pipe2(ready, O_CLOEXEC), "pipe");
		must(pipe2(end, O_CLOEXEC), "pipe");
		child = start_child();
		if (!child) {
			close(end[1]);
			hold_mapping(path, bytes, ready[1], end[0]);
			return EXIT_SUCCESS;
		}
		close(ready[1]);
		if (read(ready[0], &c, 1) != 1)
			die("the mapping process", "has ended");
	}
	measure(fd, next_fd, bytes);
	must(ftruncate(next_fd, 0), "ftruncate");
	settle(fd);
	if (child) {
		close(end[1]);
		must(waitpid(child, &status, 0), "waitpid");
	}
	return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
