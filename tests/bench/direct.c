/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * direct FILE MIB PAIRS - memcpy through a direct mapping of a file, and
 * through a plain shared mapping of the pool.
 *
 * Both mappings are of this process and show the same pages of the pool (the
 * file's extents say which), so that caches and placement are the same and only
 * the mapping differs. Every page is touched in both before the clock starts.
 * One turn stores and loads the whole file in blocks of 64 KiB, 256 KiB and
 * 1 MiB. Turns alternate, and the side that begins alternates, too. Prints
 * "throughput WHO MB/S" for each turn. One thread of its own, no locks.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "bench.h"

#define BLOCK_MAX MIB

static const size_t block_size[] = {64 << 10, 256 << 10, BLOCK_MAX};
#define NR_SIZES (sizeof(block_size) / sizeof(block_size[0]))

/* Where each MiB of the file is, in both mappings. */
struct side {
	const char *name;
	char **mib;
};

/* The pool offset of each MiB of the file; an extent may not end within one. */
static void find_blocks(int fd, const char *pool, struct side *s, size_t nr)
{
	static struct pindax_ioc_extents x;
	size_t found = 0;

	x.off = 0;
	while (found < nr) {
		must(ioctl(fd, PINDAX_IOC_EXTENTS, &x), "extents");
		if (!x.nr)
			die("extents", "the file has holes");
		for (uint32_t i = 0; i < x.nr; i++) {
			const struct pindax_extent_info *e = &x.ext[i];

			x.off = e->file_off + e->len;
			for (; found < nr && (found + 1) * MIB <= x.off;
			     found++) {
				if (found * MIB < e->file_off)
					die("extents",
					    "an extent ends within a MiB");
				s->mib[found] = (char *)pool + e->pool_off +
						found * MIB - e->file_off;
			}
		}
	}
}

static void *map_pool(const char *path)
{
	struct stat st;
	void *p;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	must(fd, path);
	must(fstat(fd, &st), path);
	p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED,
		 fd, 0);
	if (p == MAP_FAILED)
		die(path, strerror(errno));
	close(fd);
	return p;
}

static void copy_all(const struct side *s, size_t nr_mib, char *buf,
		     size_t block)
{
	for (size_t m = 0; m < nr_mib; m++)
		for (size_t off = 0; off < MIB; off += block)
			memcpy(s->mib[m] + off, buf, block);
	for (size_t m = 0; m < nr_mib; m++)
		for (size_t off = 0; off < MIB; off += block) {
			memcpy(buf, s->mib[m] + off, block);
			/* What was loaded is used, as far as gcc knows. */
			__asm__ volatile("" : : "r"(buf) : "memory");
		}
}

static void turn(const struct side *s, size_t nr_mib, char *buf, bool print)
{
	uint64_t start = now_ns(), bytes = 2 * NR_SIZES * nr_mib * MIB;
	double seconds;

	for (size_t i = 0; i < NR_SIZES; i++)
		copy_all(s, nr_mib, buf, block_size[i]);
	seconds = (double)(now_ns() - start) / 1e9;
	if (print)
		printf("throughput %s %.1f\n", s->name,
		       (double)bytes / seconds / 1e6);
}

int main(int argc, char **argv)
{
	struct side side[2] = {{.name = "pindax"}, {.name = "plain"}};
	struct pindax_file *file;
	struct pindax_map *map;
	struct pindax_info info;
	unsigned long nr_mib, pairs;
	char *buf;
	int fd;

	if (argc != 4)
		die("usage", "direct FILE MIB PAIRS");
	nr_mib = number(argv[2], 1UL << 16);
	pairs = number(argv[3], 10000);
	fd = open(argv[1], O_RDWR | O_CLOEXEC);
	must(fd, argv[1]);
	must_pindax(pindax_check(fd, &info), argv[1]);
	must_pindax(pindax_open(fd, &file), argv[1]);
	must_pindax(pindax_map(file, 0, nr_mib * MIB, PROT_READ | PROT_WRITE, 0,
			       &map),
		    argv[1]);

	buf = aligned_alloc(4096, BLOCK_MAX);
	side[0].mib = calloc(nr_mib, sizeof(char *));
	side[1].mib = calloc(nr_mib, sizeof(char *));
	if (!buf || !side[0].mib || !side[1].mib)
		die("memory", strerror(ENOMEM));
	memset(buf, 0xa5, BLOCK_MAX);
	for (size_t m = 0; m < nr_mib; m++)
		side[0].mib[m] = (char *)pindax_map_addr(map) + m * MIB;
	find_blocks(fd, map_pool(info.pool_path), &side[1], nr_mib);

	for (unsigned long i = 0; i < pairs + 1; i++) {
		/* The first pair touches the pages and does not count. */
		turn(&side[i % 2], nr_mib, buf, i > 0);
		turn(&side[(i + 1) % 2], nr_mib, buf, i > 0);
	}
	must_pindax(pindax_unmap(map), "unmap");
	pindax_close(file);
	return EXIT_SUCCESS;
}
