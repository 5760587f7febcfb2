/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * maptool - a program that maps a file of a pindax mount, for the scripts.
 *
 * FILE is mapped through libpindax, OFF and LEN are bytes (page multiples where
 * a mapping begins or ends, rounded outwards otherwise), BYTE is 0-255. A
 * command prints what it says, fails with the library's text on stderr and
 * status 1, and "hold" means: until end of input.
 *
 *   info FILE                  "map pin persist", those that it can; the reason
 *   fill FILE OFF LEN BYTE     store BYTE; "ok"
 *   check FILE OFF LEN BYTE    read-only map; "ok" or "differs at OFF: BYTE"
 *   lazy FILE OFF BYTE         lazy map of the whole window, one store; "ok"
 *   persist FILE OFF LEN BYTE  fill, then pindax_persist; "ok"
 *   map FILE OFF LEN           map and touch, print "held", hold
 *   sigbus FILE OFF            touch: "SIGBUS", "SIGSEGV" or the byte
 *   sigbus-loop FILE OFF       the same for every line of input
 *   touch-loop FILE OFF LEN    two threads store counters and verify them while
 *                              others truncate and punch; "held"; hold; then
 *                              "ok ROUNDS BUS" (touches that got SIGBUS).
 *                              A page may read as zero after a punch, never as
 *                              anything that was not stored there.
 *   pin-twice FILE             one thread pins twice, the second time while
 *                              what input asks for is parked: "held", a line,
 *                              "twice", hold, "ok"
 *   touch-while-pinned FILE OFF LEN
 *                              pin, "held"; for each line touch the pages, "ok"
 *   pin-nowait FILE OFF LEN    "ok" or the errno's name
 *   mlockall FILE              map under mlockall(MCL_CURRENT | MCL_FUTURE),
 *                              "held"; for each line store and load, "ok"
 *   rlimit-data FILE BYTES     the same under RLIMIT_DATA of what is in use and
 *                              BYTES more
 *   rlimit-memlock FILE BYTES  register under RLIMIT_MEMLOCK: the error's text
 *   uring FILE OFF LEN SRC     register, "held", fixed reads from SRC into the
 *                              range until end of input; "ok READS". Page N
 *                              of the range gets page N of SRC, modulo its size
 *   fork FILE                  a child finds no mapping, attaches and maps anew
 *   truncate FILE SIZE         pindax_truncate
 *   punch FILE OFF LEN         pindax_fallocate(PUNCH_HOLE)
 *   kernel-touch FILE OFF LEN  "held"; for each line read(2) from /dev/zero
 * into the range: "ok" or the errno's name
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <liburing.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "client/pindax.h"

#define PAGE 4096U

struct target {
	const char *path;
	int fd;
	struct pindax_file *file;
	struct pindax_map *map;
	uint64_t off; /* what was asked for, in the mapping */
	uint64_t len;
	volatile uint8_t *p; /* the byte at off */
};

static int fail(const char *what)
{
	fprintf(stderr, "maptool: %s: %s\n", what, pindax_errormsg());
	return 1;
}

static int say(const char *what)
{
	printf("%s\n", what);
	fflush(stdout);
	return 0;
}

static uint64_t num(const char *s)
{
	char *end;
	uint64_t v = strtoull(s, &end, 0);

	if (end == s || *end) {
		fprintf(stderr, "maptool: not a number: %s\n", s);
		exit(2);
	}
	return v;
}

/* The next line of input is there; false: end of input. */
static bool next_line(void)
{
	int c = getchar();

	while (c != '\n' && c != EOF)
		c = getchar();
	return c == '\n';
}

static int attach(struct target *t, const char *path, bool write)
{
	t->path = path;
	t->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC);
	if (t->fd < 0) {
		fprintf(stderr, "maptool: %s: %s\n", path, strerror(errno));
		return 1;
	}
	return pindax_open(t->fd, &t->file) ? fail(path) : 0;
}

static int map_range(struct target *t, uint64_t off, uint64_t len, bool write,
		     unsigned int flags)
{
	uint64_t lo = off - off % PAGE, hi = off + len + (-(off + len) % PAGE);
	int prot = PROT_READ | (write ? PROT_WRITE : 0);

	if (pindax_map(t->file, lo, hi - lo, prot, flags, &t->map))
		return fail(t->path);
	t->off = off - lo;
	t->len = len;
	t->p = (uint8_t *)pindax_map_addr(t->map) + t->off;
	return 0;
}

static int open_map(struct target *t, char **arg, bool write)
{
	int err = attach(t, arg[0], write);

	return err ? err : map_range(t, num(arg[1]), num(arg[2]), write, 0);
}

/* The whole file, which has a page at least. */
static int open_whole(struct target *t, const char *path)
{
	struct stat st;

	if (attach(t, path, true))
		return 1;
	if (fstat(t->fd, &st)) {
		perror(path);
		return 1;
	}
	return map_range(t, 0, (uint64_t)st.st_size, true, 0);
}

static int done(struct target *t, int status)
{
	if (t->map && pindax_unmap(t->map) && !status)
		status = fail("unmap");
	pindax_close(t->file);
	if (t->fd > 0)
		(void)close(t->fd);
	return status;
}

static int cmd_info(char **arg)
{
	int fd = open(arg[0], O_RDONLY | O_CLOEXEC);
	struct pindax_info info;

	if (fd < 0 || pindax_check(fd, &info))
		return fail(arg[0]);
	printf("%s%s%s%s%s\n", info.can & PINDAX_CAN_MAP ? "map " : "",
	       info.can & PINDAX_CAN_PIN ? "pin " : "",
	       info.can & PINDAX_CAN_PERSIST ? "persist" : "",
	       *info.reason ? ": " : "", info.reason);
	(void)close(fd);
	return 0;
}

static int fill(char **arg, bool persist)
{
	struct target t = {0};
	int status = open_map(&t, arg, true);

	if (!status) {
		memset((void *)(uintptr_t)t.p, (int)num(arg[3]), t.len);
		if (persist && pindax_persist(t.map, t.off, t.len))
			status = fail("persist");
	}
	return done(&t, status ? status : say("ok"));
}

static int cmd_fill(char **arg)
{
	return fill(arg, false);
}

static int cmd_persist(char **arg)
{
	return fill(arg, true);
}

static int cmd_check(char **arg)
{
	struct target t = {0};
	int status = open_map(&t, arg, false);

	for (uint64_t i = 0; !status && i < t.len; i++)
		if (t.p[i] != num(arg[3])) {
			printf("differs at %" PRIu64 ": %u\n", num(arg[1]) + i,
			       t.p[i]);
			return done(&t, 1);
		}
	return done(&t, status ? status : say("ok"));
}

static int cmd_lazy(char **arg)
{
	uint64_t off = num(arg[1]), window = off - off % (2U << 20);
	struct target t = {0};
	int status = attach(&t, arg[0], true);

	if (!status)
		status = map_range(&t, window, 2U << 20, true, PINDAX_MAP_LAZY);
	if (!status)
		t.p[off - window] = (uint8_t)num(arg[2]);
	return done(&t, status ? status : say("ok"));
}

static int cmd_map(char **arg)
{
	struct target t = {0};
	int status = open_map(&t, arg, true);

	for (uint64_t i = 0; !status && i < t.len; i += PAGE)
		*(volatile uint8_t *)&t.p[i] |= 0;
	if (!status) {
		(void)say("held");
		while (next_line())
			;
	}
	return done(&t, status);
}

/* --- touches that may raise a signal --- */

static _Thread_local sigjmp_buf jump;
static _Thread_local volatile bool jumping;

static void on_signal(int sig)
{
	if (!jumping)
		_exit(128 + sig);
	siglongjmp(jump, sig);
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = on_signal};

	sigaction(SIGBUS, &sa, NULL);
	sigaction(SIGSEGV, &sa, NULL);
}

static int sigbus(struct target *t)
{
	int sig = sigsetjmp(jump, 1);

	jumping = true;
	if (!sig)
		printf("%u\n", *t->p);
	jumping = false;
	if (sig)
		printf("%s\n", sig == SIGBUS ? "SIGBUS" : "SIGSEGV");
	fflush(stdout);
	return 0;
}

static int open_byte(struct target *t, char **arg)
{
	catch_signals();
	if (attach(t, arg[0], true))
		return 1;
	return map_range(t, num(arg[1]), 1, true, 0);
}

static int cmd_sigbus(char **arg)
{
	struct target t = {0};
	int status = open_byte(&t, arg);

	return done(&t, status ? status : sigbus(&t));
}

static int cmd_sigbus_loop(char **arg)
{
	struct target t = {0};
	int status = open_byte(&t, arg);

	if (!status)
		(void)say("held");
	while (!status && next_line())
		status = sigbus(&t);
	return done(&t, status);
}

struct toucher {
	pthread_t thread;
	const struct target *t;
	unsigned int id;
	atomic_bool *stop;
	uint64_t *last; /* of each page: what was stored there */
	uint64_t rounds, bus, wrong;
};

/*
 * One page: what is there is what was stored or zero; then store and load. A
 * punch may come between the store and the load, so the load may be zero, too.
 */
static void touch_page(struct toucher *w, uint64_t page)
{
	volatile uint64_t *at =
		(volatile uint64_t *)(uintptr_t)(w->t->p + page * PAGE) + w->id;
	uint64_t value = w->rounds << 16 | page, found;

	if (sigsetjmp(jump, 1)) {
		jumping = false;
		w->bus++;
		w->last[page] = 0;
		return;
	}
	jumping = true;
	found = *at;
	if (found && found != w->last[page])
		w->wrong++;
	w->last[page] = value;
	*at = value;
	found = *at;
	if (found && found != value)
		w->wrong++;
	jumping = false;
}

static void *toucher_main(void *arg)
{
	struct toucher *w = arg;

	while (!atomic_load(w->stop)) {
		w->rounds++;
		for (uint64_t p = 0; p < w->t->len / PAGE; p++)
			touch_page(w, p);
	}
	return NULL;
}

static int run_touchers(struct target *t)
{
	atomic_bool stop = false;
	struct toucher w[2];
	uint64_t rounds = 0, bus = 0, wrong = 0;

	for (unsigned int i = 0; i < 2; i++) {
		w[i] = (struct toucher){.t = t, .id = i, .stop = &stop};
		w[i].last = calloc(t->len / PAGE + 1, sizeof(uint64_t));
		for (uint64_t p = 0; w[i].last && p < t->len / PAGE; p++)
			memset((void *)(uintptr_t)(t->p + p * PAGE), 0, 16);
		if (!w[i].last ||
		    pthread_create(&w[i].thread, NULL, toucher_main, &w[i]))
			exit(2);
	}
	(void)say("held");
	while (next_line())
		;
	atomic_store(&stop, true);
	for (unsigned int i = 0; i < 2; i++) {
		(void)pthread_join(w[i].thread, NULL);
		rounds += w[i].rounds;
		bus += w[i].bus;
		wrong += w[i].wrong;
		free(w[i].last);
	}
	printf("%s %llu %llu\n", wrong ? "wrong" : "ok",
	       (unsigned long long)rounds, (unsigned long long)bus);
	return wrong ? 1 : 0;
}

static int cmd_touch_loop(char **arg)
{
	struct target t = {0};
	int status;

	catch_signals();
	status = open_map(&t, arg, true);
	return done(&t, status ? status : run_touchers(&t));
}

/* --- pins --- */

static int cmd_pin_twice(char **arg)
{
	struct target t = {0};
	struct pindax_pin *a = NULL, *b = NULL;
	int status = open_whole(&t, arg[0]);

	if (!status && pindax_pin(t.map, 0, pindax_map_len(t.map), 0, &a))
		status = fail("pin");
	if (!status) {
		(void)say("held");
		(void)next_line();
		if (pindax_pin(t.map, 0, PAGE, 0, &b))
			status = fail("second pin");
	}
	if (!status) {
		(void)say("twice");
		while (next_line())
			;
	}
	pindax_unpin(b);
	pindax_unpin(a);
	return done(&t, status ? status : say("ok"));
}

static int cmd_touch_while_pinned(char **arg)
{
	struct pindax_pin *pin = NULL;
	struct target t = {0};
	int status = open_map(&t, arg, true);

	if (!status && pindax_pin(t.map, t.off, t.len, 0, &pin))
		status = fail("pin");
	if (!status)
		(void)say("held");
	while (!status && next_line()) {
		for (uint64_t i = 0; i < t.len; i += PAGE)
			t.p[i]++;
		(void)say("ok");
	}
	pindax_unpin(pin);
	return done(&t, status);
}

static int cmd_pin_nowait(char **arg)
{
	struct pindax_pin *pin = NULL;
	struct target t = {0};
	int err, status = open_map(&t, arg, true);

	if (status)
		return done(&t, status);
	err = pindax_pin(t.map, t.off, t.len, PINDAX_NOWAIT, &pin);
	pindax_unpin(pin);
	return done(&t, say(err ? strerrorname_np(-err) : "ok"));
}

/* --- limits --- */

static int store_loop(struct target *t)
{
	uint8_t n = 0;

	(void)say("held");
	while (next_line()) {
		n++;
		for (uint64_t i = 0; i < t->len; i += PAGE)
			t->p[i] = n;
		for (uint64_t i = 0; i < t->len; i += PAGE)
			if (t->p[i] != n)
				return say("lost a store") + 1;
		(void)say("ok");
	}
	return 0;
}

static int cmd_mlockall(char **arg)
{
	struct target t = {0};
	int status = 0;

	if (mlockall(MCL_CURRENT | MCL_FUTURE)) {
		perror("maptool: mlockall");
		return 1;
	}
	status = open_whole(&t, arg[0]);
	return done(&t, status ? status : store_loop(&t));
}

static uint64_t data_size(void)
{
	char text[256] = "", *at = text;
	uint64_t pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f || !fgets(text, sizeof(text), f))
		exit(2);
	(void)fclose(f);
	for (int i = 0; i < 6; i++) /* the sixth: data and stack */
		pages = strtoull(at, &at, 10);
	return pages * PAGE;
}

static int cmd_rlimit_data(char **arg)
{
	struct target t = {0};
	struct rlimit lim;
	int status = attach(&t, arg[0], true);

	if (status)
		return done(&t, status);
	pindax_close(t.file); /* the helpers run now */
	(void)close(t.fd);
	t = (struct target){0};
	lim.rlim_cur = lim.rlim_max = data_size() + num(arg[1]);
	if (setrlimit(RLIMIT_DATA, &lim)) {
		perror("maptool: setrlimit");
		return 1;
	}
	status = open_whole(&t, arg[0]);
	return done(&t, status ? status : store_loop(&t));
}

static int cmd_rlimit_memlock(char **arg)
{
	struct rlimit lim = {num(arg[1]), num(arg[1])};
	struct pindax_pin *pin;
	struct target t = {0};
	struct io_uring ring;
	int status = open_whole(&t, arg[0]);

	if (status)
		return done(&t, status);
	if (io_uring_queue_init(4, &ring, 0) ||
	    setrlimit(RLIMIT_MEMLOCK, &lim)) {
		perror("maptool: ring or limit");
		return done(&t, 1);
	}
	if (pindax_register_buffers(t.map, &ring, NULL, 0, &pin)) {
		status = say(pindax_errormsg());
	} else {
		(void)say("ok");
		(void)pindax_unregister_buffers(&ring, pin);
	}
	io_uring_queue_exit(&ring);
	return done(&t, status);
}

static int cmd_kernel_touch(char **arg)
{
	struct target t = {0};
	int zero = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	int status = open_map(&t, arg, true);

	if (!status)
		(void)say("held");
	while (!status && next_line()) {
		ssize_t n = read(zero, (void *)(uintptr_t)t.p, t.len);

		(void)say(n == (ssize_t)t.len ? "ok"
			  : n < 0	      ? strerrorname_np(errno)
					      : "short");
	}
	(void)close(zero);
	return done(&t, status);
}

/* --- io_uring --- */

static atomic_bool input_ended;

static void *wait_input(void *arg)
{
	while (next_line())
		;
	atomic_store(&input_ended, true);
	return arg;
}

/* One fixed read of a page; false: it failed. */
static bool read_one(struct io_uring *ring, struct target *t, int src,
		     uint64_t page, off_t from)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);
	struct io_uring_cqe *cqe;
	int res;

	io_uring_prep_read_fixed(sqe, src,
				 (void *)(uintptr_t)(t->p + page * PAGE), PAGE,
				 (uint64_t)from, 0);
	if (io_uring_submit(ring) != 1 || io_uring_wait_cqe(ring, &cqe))
		return false;
	res = cqe->res;
	io_uring_cqe_seen(ring, cqe);
	if (res < 0)
		fprintf(stderr, "maptool: read: %s\n", strerror(-res));
	return res > 0;
}

static int stream(struct io_uring *ring, struct target *t, const char *path)
{
	int src = open(path, O_RDONLY | O_CLOEXEC);
	uint64_t reads = 0, pages = t->len / PAGE;
	pthread_t thread;
	off_t size = src < 0 ? 0 : lseek(src, 0, SEEK_END);
	uint64_t src_pages = size > 0 ? (uint64_t)size / PAGE : 0;

	if (!src_pages || pthread_create(&thread, NULL, wait_input, NULL)) {
		fprintf(stderr, "maptool: %s: no page to read\n", path);
		return 1;
	}
	(void)say("held");
	for (; !atomic_load(&input_ended); reads++) {
		uint64_t page = reads % pages;

		if (!read_one(ring, t, src, page,
			      (off_t)(page % src_pages * PAGE)))
			return 1;
	}
	(void)pthread_join(thread, NULL);
	(void)close(src);
	printf("ok %llu\n", (unsigned long long)reads);
	return 0;
}

static int cmd_uring(char **arg)
{
	struct pindax_pin *pin;
	struct target t = {0};
	struct io_uring ring;
	int status = open_map(&t, arg, true);

	if (status)
		return done(&t, status);
	if (io_uring_queue_init(8, &ring, 0)) {
		fprintf(stderr, "maptool: no ring\n");
		return done(&t, 1);
	}
	if (pindax_register_buffers(t.map, &ring, NULL, 0, &pin)) {
		status = fail("register");
	} else {
		status = stream(&ring, &t, arg[3]);
		if (pindax_unregister_buffers(&ring, pin) && !status)
			status = fail("unregister");
	}
	io_uring_queue_exit(&ring);
	return done(&t, status);
}

/* --- the rest --- */

/* In the child: the parent's mapping is away, one of our own works. */
static int fork_child(const struct target *parent)
{
	struct target t = {0};
	int sig;

	catch_signals();
	sig = sigsetjmp(jump, 1);
	jumping = true;
	if (!sig) {
		printf("child reads %u\n", *parent->p);
		return 1;
	}
	jumping = false;
	if (sig != SIGSEGV || open_whole(&t, parent->path))
		return 1;
	*t.p = 'c';
	return done(&t, 0);
}

static int cmd_fork(char **arg)
{
	struct target t = {0};
	int status = open_whole(&t, arg[0]);
	pid_t pid;

	if (status)
		return done(&t, status);
	*t.p = 'p';
	pid = fork();
	if (pid == 0)
		exit(fork_child(&t));
	if (pid < 0 || waitpid(pid, &status, 0) != pid || status) {
		fprintf(stderr, "maptool: child: status %d\n", status);
		return done(&t, 1);
	}
	return done(&t, say(*t.p == 'c' ? "ok" : "child's store not seen"));
}

static int cmd_truncate(char **arg)
{
	int fd = open(arg[0], O_RDWR | O_CLOEXEC);
	int err = pindax_truncate(fd, (off_t)num(arg[1]));

	return err ? fail(strerrorname_np(-err)) : say("ok");
}

static int cmd_punch(char **arg)
{
	int fd = open(arg[0], O_RDWR | O_CLOEXEC);
	int err =
		pindax_fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				 (off_t)num(arg[1]), (off_t)num(arg[2]));

	return err ? fail(strerrorname_np(-err)) : say("ok");
}

static const struct {
	const char *name;
	int nr_args;
	int (*fn)(char **arg);
} commands[] = {
	{"info", 1, cmd_info},
	{"fill", 4, cmd_fill},
	{"persist", 4, cmd_persist},
	{"check", 4, cmd_check},
	{"lazy", 3, cmd_lazy},
	{"map", 3, cmd_map},
	{"sigbus", 2, cmd_sigbus},
	{"sigbus-loop", 2, cmd_sigbus_loop},
	{"touch-loop", 3, cmd_touch_loop},
	{"pin-twice", 1, cmd_pin_twice},
	{"touch-while-pinned", 3, cmd_touch_while_pinned},
	{"pin-nowait", 3, cmd_pin_nowait},
	{"mlockall", 1, cmd_mlockall},
	{"rlimit-data", 2, cmd_rlimit_data},
	{"rlimit-memlock", 2, cmd_rlimit_memlock},
	{"kernel-touch", 3, cmd_kernel_touch},
	{"uring", 4, cmd_uring},
	{"fork", 1, cmd_fork},
	{"truncate", 2, cmd_truncate},
	{"punch", 3, cmd_punch},
};

int main(int argc, char **argv)
{
	for (size_t i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands);
	     i++)
		if (!strcmp(argv[1], commands[i].name) &&
		    argc == commands[i].nr_args + 2)
			return commands[i].fn(argv + 2);
	fprintf(stderr, "maptool: unknown command or wrong arguments; see the "
			"top of tests/tools/maptool.c\n");
	return 2;
}
