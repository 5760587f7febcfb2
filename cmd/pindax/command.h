/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CMD_COMMAND_H
#define PINDAX_CMD_COMMAND_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

/*
 * What the commands of pindax(1) share: the table entry, messages that say
 * what to do, and the reading of arguments.
 */
#define PINDAX_PAGE 4096ULL

/* exit codes; hold passes on its command's, 128 + n is death by signal n */
#define EXIT_USAGE 2
#define EXIT_CANNOT 3 /* demo: it could not be run here */

struct command {
	const char *name;
	const char *args;    /* after the name in the usage line */
	const char *summary; /* one line */
	const char *help;    /* options and exit codes */
	int (*run)(const struct command *self, int argc, char **argv);
};

extern const struct command cmd_pins;
extern const struct command cmd_hold;
extern const struct command cmd_map;
extern const struct command cmd_stat;
extern const struct command cmd_truncate;
extern const struct command cmd_punch;
extern const struct command cmd_demo;

/* Print the command's help and return 0, or a hint and return EXIT_USAGE. */
int command_help(const struct command *c);
int command_misuse(const struct command *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The command line of "NAME PATH [--json]": calls @fn with the path. @what
 * names it in a hint. Returns the exit code. */
int command_show(const struct command *self, int argc, char **argv,
		 const char *what, int (*fn)(const char *path, bool json));

/* "pindax: ..." on stderr, with a new line. */
void say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/*
 * say_errno - "pindax: PATH: what failed", then what to do about it where that
 * is known. @err is a positive errno. Returns EXIT_FAILURE.
 */
int say_errno(const char *path, int err);
/* The same for a call of libpindax: @err is what it returned. */
int say_library(const char *path, int err);
/* Why io_uring_queue_init() failed with -@err and what to do. */
void say_no_io_uring(int err);

/*
 * parse_size - "4096", "64K", "2M", "1G", "1T" (powers of 1024). 0, or -EINVAL
 * for anything else, -ERANGE beyond INT64_MAX.
 */
int parse_size(const char *s, uint64_t *ret_bytes);

/* A size for people, exact: "4 KiB", "2040 KiB", "3 MiB", "17 B". */
const char *size_text(uint64_t bytes, char *buf, size_t buf_len);

/* Control characters and bytes that are no UTF-8 become '?', in place. */
void text_clean(char *s);

/* ioctl(2) that returns 0 or -errno. */
int call_ioctl(int fd, unsigned long request, void *arg);

struct json_object;
void json_put_u64(struct json_object *o, const char *key, uint64_t v);
void json_put_str(struct json_object *o, const char *key, const char *v);
void json_put_num(struct json_object *o, const char *key, double v,
		  int decimals);
/* One line on stdout; frees @o. 0, or EXIT_FAILURE when stdout fails. */
int json_print(struct json_object *o);

#endif
