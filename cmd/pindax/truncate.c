/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax truncate, pindax punch - take blocks away from a file and wait for
 * whoever pins them without blocking anything else on the file: by ioctl first,
 * then the real system call (pindax_truncate(), pindax_fallocate()).
 *
 * Signals keep their default action: a wait that is interrupted ends the
 * program, and the file is as before.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <unistd.h>
#include "client/pindax.h"
#include "cmd/pindax/command.h"

/* Parses options and opens the first of @nr arguments. -1: *ret_code says. */
static int begin(const struct command *self, int argc, char **argv, int nr,
		 uint64_t *ret_num, int *ret_code)
{
	static const struct option opts[] = {
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c, fd;

	while ((c = getopt_long(argc, argv, "h", opts, NULL)) >= 0) {
		*ret_code = c == 'h' ? command_help(self) : EXIT_USAGE;
		return -1;
	}
	if (argc - optind != nr) {
		*ret_code = command_misuse(self, "%d arguments, please", nr);
		return -1;
	}
	for (int i = 1; i < nr; i++) {
		if (!parse_size(argv[optind + i], &ret_num[i - 1]))
			continue;
		*ret_code = command_misuse(self, "'%s' is no size",
					   argv[optind + i]);
		return -1;
	}
	fd = open(argv[optind], O_RDWR | O_CLOEXEC);
	if (fd < 0)
		*ret_code = say_errno(argv[optind], errno);
	return fd;
}

static int run_truncate(const struct command *self, int argc, char **argv)
{
	uint64_t size;
	int code, err, fd = begin(self, argc, argv, 2, &size, &code);

	if (fd < 0)
		return code;
	err = pindax_truncate(fd, (off_t)size);
	close(fd);
	return err ? say_library(argv[optind], err) : 0;
}

static int run_punch(const struct command *self, int argc, char **argv)
{
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	uint64_t num[2];
	int code, err, fd = begin(self, argc, argv, 3, num, &code);

	if (fd < 0)
		return code;
	err = pindax_fallocate(fd, mode, (off_t)num[0], (off_t)num[1]);
	close(fd);
	return err ? say_library(argv[optind], err) : 0;
}

#define HELP                                                                   \
	"Sizes are bytes, or have a suffix K, M, G or T. Waits for pins over " \
	"what is\n"                                                            \
	"taken away, as the mount's pinned= says; `pindax pins FILE` shows "   \
	"the wait.\n"                                                          \
	"\n"                                                                   \
	"Exit codes: 0 done, 1 failed (pinned=fail, pin_timeout, ...) and "    \
	"nothing\n"                                                            \
	"changed, 2 misuse.\n"

const struct command cmd_truncate = {
	.name = "truncate",
	.args = "FILE SIZE",
	.summary = "Set a file's size; blocks nothing else while it waits",
	.help = HELP,
	.run = run_truncate,
};

const struct command cmd_punch = {
	.name = "punch",
	.args = "FILE OFFSET LENGTH",
	.summary = "Punch a hole; blocks nothing else while it waits",
	.help = HELP,
	.run = run_punch,
};
