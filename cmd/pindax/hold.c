/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax hold - take a lease or a pin and keep it: the tool with which shell
 * scripts make a pin.
 *
 * Owns: taking one range through libpindax, and the wait for what ends it (the
 * command, end of input, a signal). Prints "held" when the range is held, so
 * that a script that reads the line knows. Until then SIGTERM and SIGINT
 * interrupt the taking (a pin may have to wait); afterwards they are read from
 * a signalfd, so that none is lost between a check and a sleep.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <liburing.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>
#include "client/pindax.h"
#include "cmd/pindax/command.h"

enum hold_kind {
	HOLD_LEASE,
	HOLD_PIN,
	HOLD_URING,
};

struct hold {
	const char *path;
	enum hold_kind kind;
	bool close_fd; /* drop the program's own descriptor once held */
	uint64_t off;
	uint64_t len;
	char **command; /* NULL: until end of input */

	int fd;
	struct pindax_file *file;
	struct pindax_map *map;
	struct pindax_pin *pin;
	struct io_uring ring;
	bool has_ring;
};

static volatile sig_atomic_t got_signal;

static void on_signal(int sig)
{
	got_signal = sig;
}

static int take_uring(struct hold *h)
{
	int err = io_uring_queue_init(4, &h->ring, 0);

	if (err) {
		say_no_io_uring(-err);
		return EXIT_FAILURE;
	}
	h->has_ring = true;
	err = pindax_register_buffers(h->map, &h->ring, NULL, 0, &h->pin);
	return err ? say_library(h->path, err) : 0;
}

static int take(struct hold *h)
{
	int err;

	h->fd = open(h->path, O_RDWR | O_CLOEXEC);
	if (h->fd < 0)
		return say_errno(h->path, errno);
	err = pindax_open(h->fd, &h->file);
	if (err)
		return say_library(h->path, err);
	err = pindax_map(h->file, h->off, h->len, PROT_READ | PROT_WRITE, 0,
			 &h->map);
	if (err)
		return say_library(h->path, err);
	if (h->kind == HOLD_URING)
		return take_uring(h);
	if (h->kind == HOLD_PIN) {
		err = pindax_pin(h->map, 0, h->len, 0, &h->pin);
		if (err)
			return say_library(h->path, err);
	}
	return 0;
}

static void drop(struct hold *h)
{
	if (h->kind == HOLD_URING && h->pin)
		(void)pindax_unregister_buffers(&h->ring, h->pin);
	else
		pindax_unpin(h->pin);
	if (h->has_ring)
		io_uring_queue_exit(&h->ring);
	if (h->map)
		(void)pindax_unmap(h->map); /* ends with the process anyway */
	if (h->file)
		pindax_close(h->file);
	if (h->fd >= 0)
		close(h->fd);
}

static int start_command(const struct hold *h, pid_t *ret_pid)
{
	posix_spawnattr_t attr;
	sigset_t none, def;
	int err;

	/* The command starts with the signals that this program had. */
	sigemptyset(&none);
	sigemptyset(&def);
	sigaddset(&def, SIGINT);
	sigaddset(&def, SIGTERM);
	sigaddset(&def, SIGHUP);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &def);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK |
						POSIX_SPAWN_SETSIGDEF);
	err = posix_spawnp(ret_pid, h->command[0], NULL, &attr, h->command,
			   environ);
	posix_spawnattr_destroy(&attr);
	return err;
}

static int exit_code(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status)
				   : WEXITSTATUS(status);
}

/* A termination signal is the command's to obey: this one waits for it. */
static int hold_for_command(struct hold *h, int sigfd)
{
	struct signalfd_siginfo si;
	pid_t pid;
	int status, err;

	err = start_command(h, &pid);
	if (err) {
		say("%s: %s", h->command[0], strerror(err));
		return err == ENOENT ? 127 : 126;
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		if (read(sigfd, &si, sizeof(si)) != sizeof(si))
			continue;
		/* The terminal's SIGINT has reached the command by itself. */
		if (si.ssi_signo != SIGCHLD && si.ssi_code == SI_USER)
			kill(pid, (int)si.ssi_signo);
	}
	return exit_code(status);
}

/* A background job without input gets /dev/null: that ends nothing. */
static bool stdin_counts(void)
{
	struct stat st;

	if (fstat(STDIN_FILENO, &st))
		return false;
	return !(S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3));
}

static int hold_for_input(int sigfd)
{
	struct pollfd p[2] = {
		{.fd = sigfd, .events = POLLIN},
		{.fd = stdin_counts() ? STDIN_FILENO : -1, .events = POLLIN},
	};
	struct signalfd_siginfo si;
	char buf[4096];
	ssize_t n;

	/* Reading the terminal from the background is an error, not a stop. */
	signal(SIGTTIN, SIG_IGN);
	for (;;) {
		if (poll(p, 2, -1) < 0)
			continue;
		if (p[0].revents &&
		    read(sigfd, &si, sizeof(si)) == sizeof(si) &&
		    si.ssi_signo != SIGCHLD)
			return 0;
		if (!p[1].revents)
			continue;
		n = read(STDIN_FILENO, buf, sizeof(buf));
		if (n == 0)
			return 0;
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			p[1].fd = -1;
	}
}

static int hold_until_end(struct hold *h)
{
	sigset_t set;
	int sigfd, code;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGCHLD);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigfd = signalfd(-1, &set, SFD_CLOEXEC);
	if (sigfd < 0)
		return say_errno("signalfd", errno);
	if (h->close_fd) {
		close(h->fd);
		h->fd = -1;
	}
	puts("held");
	fflush(stdout);
	if (got_signal)
		code = 0;
	else
		code = h->command ? hold_for_command(h, sigfd)
				  : hold_for_input(sigfd);
	close(sigfd);
	return code;
}

static int hold(struct hold *h)
{
	struct sigaction sa = {.sa_handler = on_signal};
	int code;

	sigaction(SIGINT, &sa, NULL);
	sigaction(SIGTERM, &sa, NULL);
	sigaction(SIGHUP, &sa, NULL);
	code = take(h);
	if (code && got_signal)
		code = 128 + got_signal;
	if (!code)
		code = hold_until_end(h);
	drop(h);
	return code;
}

static int parse_range(const struct command *self, char **arg, struct hold *h)
{
	h->path = arg[0];
	if (parse_size(arg[1], &h->off) || h->off % PINDAX_PAGE)
		return command_misuse(self,
				      "OFFSET '%s' is no multiple of 4096 (4K)",
				      arg[1]);
	if (parse_size(arg[2], &h->len) || h->len % PINDAX_PAGE || !h->len)
		return command_misuse(
			self,
			"LENGTH '%s' is no positive multiple of 4096 (4K)",
			arg[2]);
	return 0;
}

static int run(const struct command *self, int argc, char **argv)
{
	static const struct option opts[] = {
		{"lease", no_argument, NULL, 'l'},
		{"pin", no_argument, NULL, 'p'},
		{"uring", no_argument, NULL, 'u'},
		{"close", no_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct hold h = {.kind = HOLD_PIN, .fd = -1};
	int c, code;

	while ((c = getopt_long(argc, argv, "lpuch", opts, NULL)) >= 0) {
		switch (c) {
		case 'l':
			h.kind = HOLD_LEASE;
			break;
		case 'p':
			h.kind = HOLD_PIN;
			break;
		case 'u':
			h.kind = HOLD_URING;
			break;
		case 'c':
			h.close_fd = true;
			break;
		case 'h':
			return command_help(self);
		default:
			return EXIT_USAGE;
		}
	}
	if (argc - optind < 3)
		return command_misuse(self, "FILE OFFSET LENGTH, please");
	code = parse_range(self, argv + optind, &h);
	if (code)
		return code;
	if (argc - optind > 3)
		h.command = argv + optind + 3;
	return hold(&h);
}

const struct command cmd_hold = {
	.name = "hold",
	.args = "FILE OFFSET LENGTH [--lease|--pin|--uring] [--close] [-- "
		"COMMAND]",
	.summary =
		"Hold a range of a file: make a lease or a pin from a script",
	.help = "Takes the range, prints `held`, and releases it when COMMAND "
		"ends; without a\n"
		"COMMAND on end of input (a standard input that is /dev/null "
		"does not count) or\n"
		"on SIGTERM, SIGINT or SIGHUP. OFFSET and LENGTH are multiples "
		"of 4K and may\n"
		"have a suffix K, M, G or T. FILE is opened for reading and "
		"writing.\n"
		"\n"
		"  --lease  a direct mapping: recalled when its blocks are "
		"taken away\n"
		"  --pin    (default) a declared pin: truncate and punch of "
		"the range wait\n"
		"  --uring  the range registered as a buffer of an io_uring of "
		"its own\n"
		"  --close  close FILE's descriptor once the range is held; "
		"what is held stays\n"
		"\n"
		"Example: pindax hold /mnt/f 0 2M --uring -- sleep 10 &\n"
		"         pindax truncate /mnt/f 0        # returns after ten "
		"seconds\n"
		"\n"
		"Exit codes: the COMMAND's (128 + n when a signal n killed it, "
		"127 not found,\n"
		"126 not executable); 0 released; 1 could not take the range; "
		"2 misuse.\n",
	.run = run,
};
