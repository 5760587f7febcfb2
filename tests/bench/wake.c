/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * wake FILE ROUNDS CPU_A CPU_B - from the last unpin to the return of the
 * truncate that waited for it, and the same with an eventfd.
 *
 * A holds a pin through the library; B calls ftruncate(2), which parks. A sees
 * B among the daemon's waiters, lets it fall asleep, stamps the time and
 * unpins; B stamps the time when ftruncate has returned. In every second round
 * B reads an eventfd instead and A writes it: same processes, same CPUs, same
 * settling time, and the daemon asked the same question just before.
 * Prints "p50|p99 WHO US", over ROUNDS of each. A CPU may be "any".
 *
 * The stamps are in shared memory; a pipe each way orders every access to them.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "bench.h"

#define FILE_BYTES (64ULL << 10)
#define SETTLE_NS 500000ULL
#define PARK_DEADLINE_NS (5 * NS_PER_S)
#define WARM_UP 20
/* Nothing here takes long; a hang must not outlive the bench. */
#define ALARM_S 300

enum kind {
	PINDAX,
	EVENTFD,
	NR_KINDS,
};

struct bench {
	const char *path;
	int fd; /* its own open file description in each process */
	int event;
	int order[2];	  /* pipe, A to B: what to do */
	int done[2];	  /* pipe, B to A: it has been done */
	uint64_t *end_ns; /* shared; B writes, then tells by the pipe */
};

static void tell(int fd, char what)
{
	if (write(fd, &what, 1) != 1)
		die("pipe", strerror(errno));
}

static bool hear(int fd, char *ret_what)
{
	return read(fd, ret_what, 1) == 1;
}

/* B: do as told until A closes its end. */
static void be_woken(struct bench *b)
{
	uint64_t value;
	char what;

	b->fd = open(b->path, O_RDWR | O_CLOEXEC);
	must(b->fd, b->path);
	while (hear(b->order[0], &what)) {
		if (what == PINDAX) {
			must(ftruncate(b->fd, 0), "ftruncate");
			*b->end_ns = now_ns();
			must(ftruncate(b->fd, FILE_BYTES), "ftruncate");
		} else {
			if (read(b->event, &value, sizeof(value)) < 0)
				die("eventfd", strerror(errno));
			*b->end_ns = now_ns();
		}
		tell(b->done[1], what);
	}
}

static uint64_t nr_waiters(int fd)
{
	struct pindax_ioc_stat st;

	must(ioctl(fd, PINDAX_IOC_STAT, &st), "stat");
	return st.waiters;
}

/* A: @begin_ns is stamped right before what wakes B. */
static uint64_t round_ns(struct bench *b, struct pindax_map *map,
			 enum kind kind)
{
	uint64_t begin_ns, deadline = now_ns() + PARK_DEADLINE_NS, one = 1;
	struct pindax_pin *pin = NULL;
	char what;

	if (kind == PINDAX)
		must_pindax(pindax_pin(map, 0, FILE_BYTES, 0, &pin), "pin");
	tell(b->order[1], (char)kind);
	while (nr_waiters(b->fd) == 0 && kind == PINDAX)
		if (now_ns() > deadline)
			die("ftruncate", "did not park");
	sleep_ns(SETTLE_NS);
	begin_ns = now_ns();
	if (kind == PINDAX)
		pindax_unpin(pin);
	else if (write(b->event, &one, sizeof(one)) < 0)
		die("eventfd", strerror(errno));
	if (!hear(b->done[0], &what))
		die("the truncating process", "has ended");
	return *b->end_ns - begin_ns;
}

static void print(const char *who, uint64_t *ns, size_t nr)
{
	qsort(ns, nr, sizeof(*ns), compare_u64);
	printf("p50 %s %.3f\n", who, (double)percentile(ns, nr, 50) / 1e3);
	printf("p99 %s %.3f\n", who, (double)percentile(ns, nr, 99) / 1e3);
}

static void measure(struct bench *b, size_t rounds)
{
	uint64_t *ns[NR_KINDS];
	struct pindax_file *file;
	struct pindax_map *map;

	b->fd = open(b->path, O_RDWR | O_CLOEXEC);
	must(b->fd, b->path);
	must_pindax(pindax_open(b->fd, &file), b->path);
	must_pindax(pindax_map(file, 0, FILE_BYTES, PROT_READ | PROT_WRITE, 0,
			       &map),
		    b->path);
	for (int k = 0; k < NR_KINDS; k++) {
		ns[k] = calloc(rounds, sizeof(uint64_t));
		if (!ns[k])
			die("memory", strerror(ENOMEM));
	}
	for (size_t i = 0; i < rounds + WARM_UP; i++)
		for (int k = 0; k < NR_KINDS; k++) {
			uint64_t t = round_ns(b, map, (enum kind)k);

			if (i >= WARM_UP)
				ns[k][i - WARM_UP] = t;
		}
	print("pindax", ns[PINDAX], rounds);
	print("eventfd", ns[EVENTFD], rounds);
	must_pindax(pindax_unmap(map), "unmap");
	pindax_close(file);
}

int main(int argc, char **argv)
{
	struct bench b = {0};
	size_t rounds;
	int status, fd;
	pid_t child;

	if (argc != 5)
		die("usage", "wake FILE ROUNDS CPU_A CPU_B");
	b.path = argv[1];
	rounds = number(argv[2], 10000000);
	fd = open(b.path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	must(fd, b.path);
	must(ftruncate(fd, FILE_BYTES), b.path);
	close(fd);
	b.event = eventfd(0, EFD_CLOEXEC);
	must(b.event, "eventfd");
	must(pipe2(b.order, O_CLOEXEC), "pipe");
	must(pipe2(b.done, O_CLOEXEC), "pipe");
	b.end_ns = mmap(NULL, sizeof(*b.end_ns), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (b.end_ns == MAP_FAILED)
		die("mmap", strerror(errno));
	alarm(ALARM_S);
	child = start_child();
	if (!child) {
		close(b.order[1]);
		close(b.done[0]);
		stay_on_cpu(argv[4]);
		be_woken(&b);
		return EXIT_SUCCESS;
	}
	close(b.order[0]);
	close(b.done[1]);
	stay_on_cpu(argv[3]);
	measure(&b, rounds);
	close(b.order[1]);
	must(waitpid(child, &status, 0), "waitpid");
	return status ? EXIT_FAILURE : EXIT_SUCCESS;
}
