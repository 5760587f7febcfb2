/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax demo - the race of DMA against truncate, shown and prevented.
 *
 * Owns: the course of the demo. Two phases with the same programs and the same
 * seed, which differ in the mount option pinned= only. In each the parent makes
 * the filesystem and the two big files (the device's, and a filler that leaves
 * little room, so that freed blocks are soon reused), forks the three
 * processes, watches them, and collects what they left in shared memory.
 *
 * Everything the demo made is removed on every way out: there is one exit path,
 * and signals only set a flag that ends the phase. Children end on the phase's
 * stop flag, ignore the terminal's signals, and are killed with the parent.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <liburing.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"
#include "fs/proto.h"

#define SLACK_BLOCKS 2304U /* free when the device's file is whole */
#define MIN_WINDOW (256ULL << 10)
#define END_MS 20000

struct demo {
	struct demo_setup setup;
	struct demo_mount mount;
	uint64_t pool_bytes;
	struct demo_phase *unsafe, *wait;
	const char *dir;
	const char *svg;
	bool json;
	const char *where; /* the source file lies */
};

static volatile sig_atomic_t interrupted;

static void on_signal(int sig)
{
	interrupted = sig;
}

/* --- can it run here? --- */

static bool may_lock_all(void)
{
	unsigned long long caps = 0;
	char line[256];
	FILE *f = fopen("/proc/self/status", "re");

	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "CapEff:", 7))
			caps = strtoull(line + 7, NULL, 16);
	if (f)
		fclose(f);
	return caps >> 14 & 1; /* CAP_IPC_LOCK */
}

/* All channels' registrations together must fit the memlock limit. */
static int choose_window(struct demo *d)
{
	uint64_t part = d->setup.file_bytes / DEMO_CHANNELS, each;
	struct rlimit lim;

	d->setup.window_bytes = part;
	if (may_lock_all() || getrlimit(RLIMIT_MEMLOCK, &lim) ||
	    lim.rlim_cur == RLIM_INFINITY)
		return 0;
	each = lim.rlim_cur / 8 * 7 / DEMO_CHANNELS & ~(PINDAX_PAGE - 1);
	if (each < MIN_WINDOW) {
		say("memlock limit %llu KiB is too small for registered "
		    "buffers; raise it to %llu with `ulimit -l`",
		    (unsigned long long)lim.rlim_cur >> 10,
		    (MIN_WINDOW * DEMO_CHANNELS * 8 / 7 >> 10) + 4);
		return EXIT_CANNOT;
	}
	if (each < part)
		d->setup.window_bytes = each;
	return 0;
}

static int check_machine(void)
{
	struct io_uring ring;
	int err;

	if (access("/dev/fuse", R_OK | W_OK)) {
		err = errno;
		say_errno("/dev/fuse", err);
		say(err == ENOENT ? "load the module with `modprobe fuse`; a "
				    "container needs --device /dev/fuse "
				    "--cap-add SYS_ADMIN"
				  : "it must be readable and writable for you: "
				    "`chmod 666 /dev/fuse`, or run as root");
		return EXIT_CANNOT;
	}
	err = io_uring_queue_init(4, &ring, 0);
	if (err) {
		say_no_io_uring(-err);
		return EXIT_CANNOT;
	}
	io_uring_queue_exit(&ring);
	return 0;
}

/* --- one phase --- */

static int make_file(const char *dir, const char *name, uint64_t bytes)
{
	char path[PATH_MAX];
	int fd, err = 0;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return say_errno(path, errno), EXIT_CANNOT;
	if (bytes && fallocate(fd, 0, 0, (off_t)bytes))
		err = errno;
	close(fd);
	return err ? (say_errno(path, err), EXIT_CANNOT) : 0;
}

static int fill_pool(const struct demo *d)
{
	struct pindax_ioc_stat st = {0};
	int fd, err, code;

	code = make_file(d->mount.mount_dir, DEMO_FILE, d->setup.file_bytes);
	if (code)
		return code;
	fd = open(d->mount.mount_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	err = fd < 0 ? -errno : call_ioctl(fd, PINDAX_IOC_STAT, &st);
	if (fd >= 0)
		close(fd);
	if (err)
		return say_errno(d->mount.mount_dir, -err), EXIT_CANNOT;
	if (st.blocks_free <= SLACK_BLOCKS)
		return 0;
	return make_file(d->mount.mount_dir, "filler",
			 (st.blocks_free - SLACK_BLOCKS) * PINDAX_PAGE);
}

static pid_t start_role(const struct demo_setup *s, struct demo_phase *p,
			int (*body)(const struct demo_setup *,
				    struct demo_phase *))
{
	pid_t parent = getpid(), pid;

	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	/* Ctrl-C is for the parent, which ends the roles in order. */
	signal(SIGINT, SIG_IGN);
	signal(SIGHUP, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	_exit(body(s, p));
}

static void show_progress(const char *name, const struct demo_phase *p,
			  unsigned int seconds)
{
	if (!isatty(STDERR_FILENO))
		return;
	fprintf(stderr,
		"\r\033[Kpinned=%-6s %5.1f/%u s  truncates %" PRIu64
		"  DMA requests %" PRIu64 "  reused blocks %" PRIu64
		"  corrupted %" PRIu64,
		name, (double)(now_ns() - p->start_ns) / 1e9, seconds,
		p->truncates, p->dma_requests, p->reused_blocks,
		p->corrupted_blocks);
}

/* Reap roles that have ended. True while one runs. */
static bool reap(pid_t *pid, struct demo_phase *p)
{
	bool any = false;
	int status;

	for (int i = 0; i < DEMO_NR_ROLES; i++) {
		if (!pid[i])
			continue;
		if (waitpid(pid[i], &status, WNOHANG) != pid[i]) {
			any = true;
			continue;
		}
		pid[i] = 0;
		if (WIFSIGNALED(status))
			demo_fail(p, (enum demo_role_id)i,
				  "killed by signal %d", WTERMSIG(status));
		else if (status)
			demo_fail(p, (enum demo_role_id)i,
				  "ended with status %d", WEXITSTATUS(status));
	}
	return any;
}

static void end_roles(pid_t *pid, struct demo_phase *p)
{
	p->stop = true;
	for (int ms = 0; ms < END_MS; ms += 5) {
		if (!reap(pid, p))
			return;
		sleep_us(5000);
	}
	for (int i = 0; i < DEMO_NR_ROLES; i++) {
		if (!pid[i])
			continue;
		demo_fail(p, (enum demo_role_id)i, "did not end; killed");
		kill(pid[i], SIGKILL);
		while (waitpid(pid[i], NULL, 0) < 0 && errno == EINTR)
			;
		pid[i] = 0;
	}
}

static int say_roles(const struct demo_phase *p, const char *name)
{
	static const char *const role[] = {"device", "truncator", "victim"};
	int code = 0;

	for (int i = 0; i < DEMO_NR_ROLES; i++) {
		if (!p->role[i].error[0])
			continue;
		say("pinned=%s: the %s: %s", name, role[i], p->role[i].error);
		code = EXIT_CANNOT;
	}
	return code;
}

static int run_roles(struct demo *d, struct demo_phase *p, const char *name)
{
	pid_t pid[DEMO_NR_ROLES];
	uint64_t end;
	bool lost = false;

	p->start_ns = now_ns();
	end = p->start_ns + d->setup.seconds * 1000000000ULL;
	pid[DEMO_DEVICE] = start_role(&d->setup, p, demo_device);
	pid[DEMO_TRUNCATOR] = start_role(&d->setup, p, demo_truncator);
	pid[DEMO_VICTIM] = start_role(&d->setup, p, demo_victim);
	for (int i = 0; i < DEMO_NR_ROLES; i++) {
		if (pid[i] > 0)
			continue;
		demo_fail(p, (enum demo_role_id)i, "cannot fork");
		pid[i] = 0;
	}
	while (!p->stop && !interrupted && now_ns() < end && !lost) {
		show_progress(name, p, d->setup.seconds);
		sleep_us(100000);
		reap(pid, p);
		lost = demo_mount_lost(&d->mount);
	}
	p->end_ns = now_ns();
	end_roles(pid, p);
	if (isatty(STDERR_FILENO))
		fprintf(stderr, "\r\033[K");
	return say_roles(p, name) || lost ? EXIT_CANNOT : 0;
}

static int run_phase(struct demo *d, struct demo_phase *p, const char *name)
{
	int code, end;

	code = demo_mount_start(&d->mount, d->pool_bytes, name, &interrupted);
	if (!code)
		code = fill_pool(d);
	if (!code && !interrupted)
		code = run_roles(d, p, name);
	end = demo_mount_stop(&d->mount);
	if (interrupted)
		return 128 + interrupted;
	return code ? code : end;
}

/* --- the whole --- */

static int verdict(const struct demo *d)
{
	const struct demo_phase *u = d->unsafe, *w = d->wait;
	FILE *to = d->json ? stderr : stdout;
	int code = 0;

	if (u->reused_blocks < DEMO_MIN_REUSED ||
	    w->reused_blocks < DEMO_MIN_REUSED) {
		fprintf(to,
			"NOT SHOWN: fewer than %u blocks were reused in a "
			"phase; give it more --seconds\n",
			DEMO_MIN_REUSED);
		code = EXIT_FAILURE;
	}
	if (!u->corrupted_blocks) {
		fprintf(to, "NOT SHOWN: pinned=unsafe corrupted nothing; give "
			    "it more --seconds\n");
		code = EXIT_FAILURE;
	}
	if (w->corrupted_blocks) {
		fprintf(to,
			"BROKEN: pinned=wait let %" PRIu64
			" blocks be corrupted\n",
			w->corrupted_blocks);
		code = EXIT_FAILURE;
	}
	if (!code && !d->json)
		fprintf(to,
			"Shown: without the wait, DMA overwrote %" PRIu64
			" blocks of other files; with it, none.\n",
			u->corrupted_blocks);
	return code;
}

static int report(struct demo *d)
{
	int code = 0, err;

	if (d->json)
		code = demo_print_json(d->unsafe, d->wait);
	else
		demo_print_table(stdout, &d->setup, d->unsafe, d->wait);
	if (d->svg) {
		err = demo_write_svg(d->svg, &d->setup, d->unsafe, d->wait);
		if (err) {
			say_errno(d->svg, -err);
			code = EXIT_CANNOT;
		} else if (!d->json) {
			printf("Timeline: %s\n", d->svg);
		}
	}
	err = verdict(d);
	return err ? err : code;
}

static struct demo_phase *shared_phase(void)
{
	void *p = mmap(NULL, sizeof(struct demo_phase), PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int demo(struct demo *d)
{
	struct sigaction sa = {.sa_handler = on_signal};
	int code;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	code = check_machine();
	if (code)
		return code;
	d->unsafe = shared_phase();
	d->wait = shared_phase();
	if (!d->unsafe || !d->wait)
		return say_errno("shared memory", ENOMEM), EXIT_CANNOT;
	if (demo_source_create(&d->setup.source_fd, &d->setup.source_direct,
			       &d->where))
		return EXIT_CANNOT;
	code = demo_mount_prepare(&d->mount, d->dir, &d->pool_bytes);
	if (code)
		goto out_remove;
	d->setup.mount_dir = d->mount.mount_dir;
	d->setup.file_bytes = d->pool_bytes / 3;
	code = choose_window(d);
	if (code)
		goto out_remove;
	if (!d->json)
		printf("Pool: %" PRIu64 " MiB in %s; source: %u MiB in %s, %s. "
		       "Seed %" PRIu64 ".\n",
		       d->pool_bytes >> 20, d->mount.pool_dir,
		       DEMO_SOURCE_BYTES >> 20, d->where,
		       d->setup.source_direct ? "O_DIRECT"
					      : "buffered (no O_DIRECT there)",
		       d->setup.seed);
	code = run_phase(d, d->unsafe, "unsafe");
	if (!code)
		code = run_phase(d, d->wait, "wait");
	if (!code)
		code = report(d);
out_remove:
	demo_mount_remove(&d->mount);
	close(d->setup.source_fd);
	return code;
}

static int parse(const struct command *self, int argc, char **argv,
		 struct demo *d)
{
	static const struct option opts[] = {
		{"seconds", required_argument, NULL, 's'},
		{"json", no_argument, NULL, 'j'},
		{"svg", required_argument, NULL, 'v'},
		{"dir", required_argument, NULL, 'd'},
		{"seed", required_argument, NULL, 'e'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	char *end = NULL;
	int c;

	while ((c = getopt_long(argc, argv, "s:jh", opts, NULL)) >= 0) {
		errno = 0;
		switch (c) {
		case 's':
			d->setup.seconds =
				(unsigned int)strtoul(optarg, &end, 10);
			if (*end || errno || !d->setup.seconds ||
			    d->setup.seconds > 86400 || *optarg == '-')
				return command_misuse(
					self, "--seconds: 1 to 86400, please");
			break;
		case 'j':
			d->json = true;
			break;
		case 'v':
			d->svg = optarg;
			break;
		case 'd':
			d->dir = optarg;
			break;
		case 'e':
			d->setup.seed = strtoull(optarg, &end, 0);
			if (*end || errno || end == optarg)
				return command_misuse(
					self, "--seed: a number, please");
			break;
		case 'h':
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind != argc)
		return command_misuse(self, "no arguments, please");
	return 0;
}

static int run(const struct command *self, int argc, char **argv)
{
	struct demo d = {
		.setup = {.seconds = 5, .seed = 2018, .source_fd = -1},
	};
	int code = parse(self, argc, argv, &d);

	if (code < 0)
		return command_help(self);
	return code ? code : demo(&d);
}

const struct command cmd_demo = {
	.name = "demo",
	.args = "[--seconds N] [--json] [--svg FILE] [--dir DIR] [--seed N]",
	.summary = "Show the race of DMA against truncate, and that waiting "
		   "ends it",
	.help = "Makes a pool of at most 96 MiB on a tmpfs, mounts it twice "
		"(pinned=unsafe, then\n"
		"pinned=wait) and runs three processes on it each time: a "
		"device that reads from\n"
		"a disk by io_uring into registered buffers that are a mapped "
		"file, a truncator\n"
		"that takes blocks away from that file, and a victim whose "
		"files get them.\n"
		"Everything is unmounted and removed at the end, also after "
		"Ctrl-C.\n"
		"\n"
		"  -s, --seconds N  for each phase (5)\n"
		"  -j, --json       one line of JSON on standard output, "
		"nothing else\n"
		"      --svg FILE   write a timeline of both phases\n"
		"      --dir DIR    make the mount point there (and the pool, "
		"if on tmpfs)\n"
		"      --seed N     of all random choices, the same for both "
		"phases (2018)\n"
		"\n"
		"TMPDIR is where the source file goes if it is not on tmpfs, "
		"else the current\n"
		"directory or /var/tmp. Without root fusermount3 is needed.\n"
		"\n"
		"Exit codes: 0 at least 1,000 blocks were reused in each "
		"phase, pinned=unsafe\n"
		"corrupted some and pinned=wait none; 1 it was not so; 2 "
		"misuse; 3 it could not\n"
		"run here (the message says what to do); 128 + n ended by "
		"signal n.\n",
	.run = run,
};
