// SPDX-License-Identifier: BSD-3-Clause
/*
 * fsck.pindax - check a pool. Options and printing; fs/media/check.c does the
 * work and says what is checked.
 *
 * The pool is opened read-only and never changed. A journal that a crash left
 * is replayed in memory for the check. Exit codes are fsck(8)'s: 0 clean, 4
 * errors were left, 8 the pool could not be checked, 16 misuse.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "cmd/complain.h"
#include "fs/media/check.h"

#define EX_CLEAN 0
#define EX_ERRORS 4
#define EX_CANNOT 8
#define EX_MISUSE 16

const char complain_name[] = "fsck.pindax";

static void usage(FILE *to)
{
	(void)fprintf(to, "usage: fsck.pindax -n POOL\n"
			  "  -n             check only (there is no repair)\n"
			  "  -V, --version\n"
			  "exit: 0 clean, 4 errors found, 8 cannot check, "
			  "16 misuse\n");
}

/* Names come from the pool: what a terminal might obey is not printed. */
static void say(void *arg, bool error, const char *line)
{
	(void)arg;
	(void)fputs(error ? "error: " : "note: ", stdout);
	for (; *line; line++)
		(void)putchar((unsigned char)*line < ' ' || *line == 127
				      ? '?'
				      : *line);
	(void)putchar('\n');
}

static int open_pool(const char *path, struct pmem_pool **ret_pool)
{
	int err = pmem_open(path, PMEM_OPEN_RDONLY, ret_pool);

	if (err == -EINVAL)
		complain("%s is not a regular file, or is empty: not a pool",
			 path);
	else if (err)
		complain("%s: %s", path, strerror(-err));
	if (err)
		return EX_CANNOT;
	err = pmem_claim_wait(*ret_pool, 0, (*ret_pool)->size_bytes,
			      PMEM_CLAIM_WAIT_MS);
	if (!err)
		return 0;
	if (err == -EBUSY)
		complain("%s is mounted: unmount it first", path);
	else
		complain("%s: %s", path, strerror(-err));
	pmem_close(*ret_pool);
	return EX_CANNOT;
}

static int verdict(const char *path, int err, const struct check_result *r)
{
	if (err == -EINVAL)
		complain("%s is not a pindax pool", path);
	else if (err == -EPROTONOSUPPORT)
		complain("%s was made by another version of pindax", path);
	else if (err)
		complain("%s: %s", path, strerror(-err));
	if (err)
		return EX_CANNOT;
	(void)printf("%s: %s, %" PRIu64 " inodes (%" PRIu64
		     " directories), %" PRIu64 " of %" PRIu64
		     " blocks used, %" PRIu64 " orphans\n",
		     path, r->errors ? "errors" : "clean", r->inodes, r->dirs,
		     r->blocks_used, r->blocks, r->orphans);
	if (!r->errors)
		return EX_CLEAN;
	complain("%s: %" PRIu64 " errors, left as they are", path, r->errors);
	return EX_ERRORS;
}

/* 0 go on; else the exit code + 1, so that 0 after --help can be told. */
static int parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool check_only = false;
	int c;

	while ((c = getopt_long(argc, argv, "nVh", longs, NULL)) != -1) {
		switch (c) {
		case 'n':
			check_only = true;
			break;
		case 'V':
			(void)puts("fsck.pindax " PINDAX_VERSION);
			return EX_CLEAN + 1;
		case 'h':
			usage(stdout);
			return EX_CLEAN + 1;
		default:
			usage(stderr);
			return EX_MISUSE + 1;
		}
	}
	if (optind + 1 != argc) {
		usage(stderr);
		return EX_MISUSE + 1;
	}
	if (!check_only) {
		complain("there is no repair yet: give -n to check only");
		return EX_MISUSE + 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct check_result res = {0};
	struct pmem_pool *pool;
	int err = parse(argc, argv);

	if (err)
		return err - 1;
	err = open_pool(argv[optind], &pool);
	if (err)
		return err;
	err = media_check(pool, say, NULL, &res);
	err = verdict(argv[optind], err, &res);
	pmem_close(pool);
	return err;
}
