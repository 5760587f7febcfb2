/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * storm DIR MILLISECONDS SEED - stores through a mapping against recalls.
 *
 * Two writers store to random pages of DIR/storm through one direct mapping and
 * read back, by load and by read(2). A cutter punches pages and cuts and
 * extends the file under them, by system calls and through the library, so that
 * every store may meet a zap, a refault or the end of the file (SIGBUS). A
 * victim creates files that get the freed blocks and checks that nobody wrote
 * there. A store may vanish only if a cut of its page overlapped it: each page
 * has a sequence number that is odd during a cut, and what lies between two
 * reads of the same even number is judged. Exits 1 on a store lost or
 * misplaced.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "client/pindax.h"

#define PAGE 4096UL
#define PAGES 64
#define VICTIM_PAGES 96

static struct storm {
	const char *dir;
	int fd;
	char *addr;
	uint64_t seed;
	atomic_bool stop;
	atomic_uint seq[PAGES]; /* odd: a cut of the page is under way */
	atomic_ulong stores, judged, cuts, sigbus, victim_pages;
	atomic_bool failed;
} storm;

static __thread sigjmp_buf bus_jump;

static void on_sigbus(int sig)
{
	(void)sig;
	siglongjmp(bus_jump, 1);
}

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void wrong(const char *what, unsigned int page, uint64_t expected,
		  uint64_t found)
{
	printf("%s, page %u: expected %#jx, found %#jx\n", what, page,
	       (uintmax_t)expected, (uintmax_t)found);
	fflush(stdout);
	atomic_store(&storm.failed, true);
	atomic_store(&storm.stop, true);
}

static void store_once(unsigned int page, uint64_t stamp)
{
	volatile uint64_t *p = (uint64_t *)(void *)(storm.addr + page * PAGE);
	unsigned int seq = atomic_load(&storm.seq[page]);
	uint64_t loaded, read_back = 0;

	if (seq & 1)
		return;
	if (sigsetjmp(bus_jump, 1) != 0) {
		atomic_fetch_add(&storm.sigbus, 1);
		if (seq == atomic_load(&storm.seq[page]))
			wrong("SIGBUS inside the file", page, stamp, 0);
		return;
	}
	*p = stamp;
	loaded = *p;
	if (pread(storm.fd, &read_back, sizeof(read_back),
		  (off_t)(page * PAGE)) < 0)
		wrong("read", page, 0, (uint64_t)errno);
	atomic_fetch_add(&storm.stores, 1);
	if (seq != atomic_load(&storm.seq[page]))
		return;
	atomic_fetch_add(&storm.judged, 1);
	if (loaded != stamp)
		wrong("store lost to a load", page, stamp, loaded);
	if (read_back != stamp)
		wrong("store lost to read(2)", page, stamp, read_back);
}

/* Writer n owns every second page, so that a stamp has one author. */
static void *writer(void *arg)
{
	unsigned int n = (unsigned int)(uintptr_t)arg;
	uint64_t state = storm.seed + n + 1, count = 0;

	while (!atomic_load(&storm.stop)) {
		unsigned int page = next_random(&state) % (PAGES / 2) * 2 + n;

		store_once(page, ++count << 16 | page);
	}
	return NULL;
}

static void cut_mark(unsigned int first, unsigned int nr)
{
	unsigned int i;

	for (i = first; i < first + nr; i++)
		atomic_fetch_add(&storm.seq[i], 1);
}

static int cut_punch(unsigned int first, unsigned int nr, bool library)
{
	int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	off_t off = (off_t)(first * PAGE), len = (off_t)(nr * PAGE);

	if (library)
		return pindax_fallocate(storm.fd, mode, off, len);
	return fallocate(storm.fd, mode, off, len) == 0 ? 0 : -errno;
}

static int cut_truncate(unsigned int first, bool library)
{
	off_t size = (off_t)(first * PAGE);
	int ret = library ? pindax_truncate(storm.fd, size)
			  : (ftruncate(storm.fd, size) == 0 ? 0 : -errno);

	if (ret != 0)
		return ret;
	return ftruncate(storm.fd, (off_t)(PAGES * PAGE)) == 0 ? 0 : -errno;
}

static void *cutter(void *arg)
{
	uint64_t state = storm.seed * 3 + 1;

	(void)arg;
	while (!atomic_load(&storm.stop)) {
		uint64_t r = next_random(&state);
		unsigned int first = r % PAGES;
		unsigned int nr = 1 + (r >> 8) % 4;
		bool cut = (r >> 16) % 3 == 0, library = (r >> 24) % 2;
		int ret;

		if (cut || first + nr > PAGES)
			nr = PAGES - first;
		cut_mark(first, nr);
		ret = cut ? cut_truncate(first, library)
			  : cut_punch(first, nr, library);
		cut_mark(first, nr);
		if (ret != 0)
			wrong("cut", first, 0, (uint64_t)-ret);
		atomic_fetch_add(&storm.cuts, 1);
	}
	return NULL;
}

static bool victim_round(const char *path, uint64_t *buf, uint64_t round)
{
	uint64_t got[PAGE / 8];
	unsigned int i, word;
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (fd < 0)
		return false;
	for (i = 0; i < VICTIM_PAGES; i++) {
		for (word = 0; word < PAGE / 8; word++)
			buf[word] = round << 32 | ~i << 12 | word;
		if (pwrite(fd, buf, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE)
			break;
	}
	while (i-- > 0) {
		if (pread(fd, got, PAGE, (off_t)(i * PAGE)) != (ssize_t)PAGE)
			break;
		for (word = 0; word < PAGE / 8; word++) {
			uint64_t want = round << 32 | ~i << 12 | word;

			if (got[word] != want)
				wrong("victim", i, want, got[word]);
		}
		atomic_fetch_add(&storm.victim_pages, 1);
	}
	close(fd);
	return unlink(path) == 0;
}

static void *victim(void *arg)
{
	char path[4096];
	uint64_t *buf = malloc(PAGE), round = 0;

	(void)arg;
	snprintf(path, sizeof(path), "%s/victim", storm.dir);
	while (buf && !atomic_load(&storm.stop))
		if (!victim_round(path, buf, ++round))
			wrong("victim's file", 0, 0, (uint64_t)errno);
	free(buf);
	return NULL;
}

static int prepare(struct pindax_file **ret_file)
{
	char path[4096];
	struct pindax_map *map;
	int ret;

	snprintf(path, sizeof(path), "%s/storm", storm.dir);
	storm.fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (storm.fd < 0 || ftruncate(storm.fd, (off_t)(PAGES * PAGE)) != 0)
		return -errno;
	ret = pindax_open(storm.fd, ret_file);
	if (ret == 0)
		ret = pindax_map(*ret_file, 0, PAGES * PAGE,
				 PROT_READ | PROT_WRITE, 0, &map);
	if (ret == 0)
		storm.addr = pindax_map_addr(map);
	return ret;
}

int main(int argc, char **argv)
{
	void *(*const fn[])(void *) = {writer, writer, cutter, victim};
	struct sigaction sa = {.sa_handler = on_sigbus, .sa_flags = SA_NODEFER};
	struct timespec ts;
	struct pindax_file *file;
	pthread_t thread[4];
	long ms;
	int i, ret;

	if (argc != 4) {
		fprintf(stderr, "usage: storm DIR MILLISECONDS SEED\n");
		return 2;
	}
	storm.dir = argv[1];
	ms = strtol(argv[2], NULL, 0);
	storm.seed = strtoull(argv[3], NULL, 0) | 1;
	sigaction(SIGBUS, &sa, NULL);
	ret = prepare(&file);
	if (ret != 0) {
		printf("%s: %s\n", strerrorname_np(-ret), pindax_errormsg());
		return 1;
	}
	for (i = 0; i < 4; i++)
		if (pthread_create(&thread[i], NULL, fn[i],
				   (void *)(uintptr_t)i) != 0)
			return 1;
	ts = (struct timespec){ms / 1000, ms % 1000 * 1000000};
	nanosleep(&ts, NULL);
	atomic_store(&storm.stop, true);
	for (i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	pindax_close(file);
	printf("%lu stores, %lu judged, %lu cuts, %lu SIGBUS, %lu pages\n",
	       storm.stores, storm.judged, storm.cuts, storm.sigbus,
	       storm.victim_pages);
	return storm.failed || storm.judged == 0 || storm.cuts == 0;
}
