// SPDX-License-Identifier: BSD-3-Clause
/*
 * mkfs.pindax - make a pool: the file, its labels, one namespace, an empty
 * filesystem. Options and messages; pagemap/ and fs/media/ do the work.
 *
 * A file that this run created is removed again when anything fails, also on
 * SIGINT, SIGTERM and SIGHUP. An existing file is looked at before it is
 * touched: it must be empty, or -f given, and nobody may have it mounted or
 * mapped. Exit codes: 0 made, 1 not made, 2 misuse.
 */
#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "cmd/complain.h"
#include "fs/media/media.h"

#define EX_FAIL 1
#define EX_MISUSE 2
#define MIN_POOL (LABEL_AREA_SIZE + PDX_MIN_NS_SIZE)

struct args {
	const char *path, *label;
	uint64_t size_bytes; /* 0: not given */
	bool sized, force, prealloc;
};

const char complain_name[] = "mkfs.pindax";

static void usage(FILE *to)
{
	(void)fprintf(
		to,
		"usage: mkfs.pindax [-f] [-P] [-s SIZE] [-L LABEL] POOL\n"
		"  -s, --size SIZE    of a new pool: bytes, or with K, M, G, "
		"T\n"
		"  -L, --label LABEL  name of the filesystem, up to %d bytes\n"
		"  -f, --force        take over a file that is not empty\n"
		"  -P, --prealloc     back a pool on a disk fully, too\n"
		"  -V, --version\n"
		"example: mkfs.pindax -s 256M /dev/shm/pool\n",
		PDX_LABEL_MAX);
}

/* --- a file that was created here does not outlive a failure --- */

static const char *volatile created_path;

static void remove_and_die(int sig)
{
	const char *path = created_path;

	if (path)
		(void)unlink(path);
	_exit(128 + sig);
}

static void catch_signals(void)
{
	struct sigaction sa = {.sa_handler = remove_and_die};

	sigemptyset(&sa.sa_mask);
	(void)sigaction(SIGINT, &sa, NULL);
	(void)sigaction(SIGTERM, &sa, NULL);
	(void)sigaction(SIGHUP, &sa, NULL);
}

/* --- options --- */

static int parse_size(const char *s, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	const char *unit;
	unsigned int shift = 0;
	char *end;
	uint64_t n;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	n = strtoull(s, &end, 10);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (n > (uint64_t)INT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = (n << shift) & ~(PMEM_PAGE_SIZE - 1);
	return 0;
}

static int take_size(struct args *a, const char *s)
{
	int err = parse_size(s, &a->size_bytes);

	if (err == -ERANGE)
		complain("size %s is too large", s);
	else if (err)
		complain("'%s' is no size: give bytes, or a number with K, M, "
			 "G or T, as in -s 256M",
			 s);
	else if (a->size_bytes < MIN_POOL)
		complain("size %s is too small: a pool has at least %lluM", s,
			 MIN_POOL >> 20);
	else
		return 0;
	return EX_MISUSE;
}

/* 0 go on; else the exit code + 1, so that 0 after --help can be told. */
static int parse(int argc, char **argv, struct args *a)
{
	static const struct option longs[] = {
		{"size", required_argument, NULL, 's'},
		{"label", required_argument, NULL, 'L'},
		{"force", no_argument, NULL, 'f'},
		{"prealloc", no_argument, NULL, 'P'},
		{"version", no_argument, NULL, 'V'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "s:L:fPVh", longs, NULL)) != -1) {
		switch (c) {
		case 's':
			if (take_size(a, optarg))
				return EX_MISUSE + 1;
			a->sized = true;
			break;
		case 'L':
			a->label = optarg;
			break;
		case 'f':
			a->force = true;
			break;
		case 'P':
			a->prealloc = true;
			break;
		case 'V':
			(void)puts("mkfs.pindax " PINDAX_VERSION);
			return 1;
		case 'h':
			usage(stdout);
			return 1;
		default:
			usage(stderr);
			return EX_MISUSE + 1;
		}
	}
	if (optind + 1 != argc) {
		usage(stderr);
		return EX_MISUSE + 1;
	}
	if (a->label && strlen(a->label) > PDX_LABEL_MAX) {
		complain("the label is longer than %d bytes", PDX_LABEL_MAX);
		return EX_MISUSE + 1;
	}
	a->path = argv[optind];
	return 0;
}

/* --- what is there already --- */

static bool is_pool(const char *path)
{
	struct pmem_pool *pool;
	struct label_area la;
	int err;

	if (pmem_open(path, PMEM_OPEN_RDONLY, &pool))
		return false;
	err = label_read(pool, &la);
	pmem_close(pool);
	return err != -EINVAL; /* damaged and foreign versions count */
}

static int look_at_file(const struct args *a, const struct stat *st)
{
	if (S_ISDIR(st->st_mode)) {
		complain("%s is a directory", a->path);
		return EX_FAIL;
	}
	if (!S_ISREG(st->st_mode)) {
		complain("%s is not a regular file", a->path);
		return EX_FAIL;
	}
	if (st->st_size && !a->force) {
		complain(is_pool(a->path)
				 ? "%s exists and is a pindax pool; -f makes "
				   "a new one of it"
				 : "%s exists and is not empty; -f takes it "
				   "over",
			 a->path);
		return EX_FAIL;
	}
	if (a->sized)
		return 0;
	if ((uint64_t)st->st_size < MIN_POOL) {
		complain("%s is too small: a pool has at least %lluM; give a "
			 "size, as in: mkfs.pindax -f -s 256M %s",
			 a->path, MIN_POOL >> 20, a->path);
		return EX_FAIL;
	}
	return 0;
}

static int check_target(const struct args *a, bool *ret_exists)
{
	struct stat st;

	*ret_exists = stat(a->path, &st) == 0;
	if (*ret_exists)
		return look_at_file(a, &st);
	if (errno != ENOENT) {
		complain("%s: %s", a->path, strerror(errno));
		return EX_FAIL;
	}
	if (!a->sized) {
		complain("%s does not exist; give a size, as in: mkfs.pindax "
			 "-s 256M %s",
			 a->path, a->path);
		return EX_FAIL;
	}
	return 0;
}

/* --- making it --- */

static void discard(struct pmem_pool *pool)
{
	if (created_path)
		(void)unlink(created_path);
	pmem_close(pool);
}

static int make_pool(const struct args *a, bool exists,
		     struct pmem_pool **ret_pool)
{
	struct pmem_pool *pool;
	unsigned int flags = 0;
	uint64_t size = a->sized ? a->size_bytes : 0;
	int err;

	if (exists)
		flags |= PMEM_CREATE_FORCE;
	if (a->prealloc)
		flags |= PMEM_CREATE_PREALLOC;
	if (!exists)
		created_path = a->path;
	err = pmem_create(a->path, size, flags, &pool);
	if (!err) {
		err = pmem_claim(pool, 0, pool->size_bytes);
		if (!err)
			*ret_pool = pool;
		else
			discard(pool);
	}
	if (err == -EBUSY)
		complain("%s is in use: mounted, or mapped by a program",
			 a->path);
	else if (err == -ENOSPC)
		complain("%s: no space: a pool is backed fully when it is made",
			 a->path);
	else if (err)
		complain("%s: %s", a->path, strerror(-err));
	return err;
}

/*
 * The pages of a file that is taken over may still be the target of some dead
 * program's DMA. Where they can be taken away from it, they are.
 */
static int fence_old_pages(struct pmem_pool *pool)
{
	int err;

	if (!pool->ram_backed)
		return 0;
	err = pmem_fence(pool, 0, pool->size_bytes);
	if (err == -EOPNOTSUPP)
		return 0;
	if (err)
		complain("%s: its pages cannot be replaced: %s", pool->path,
			 err == -EBUSY ? "a program has pinned them"
				       : strerror(-err));
	return err;
}

static int random_bytes(void *buf, size_t len)
{
	return getrandom(buf, len, 0) == (ssize_t)len ? 0 : -EIO;
}

static int format(struct pmem_pool *pool, const struct args *a)
{
	struct label_area la = {.nr = 1, .copy_bad = -1};
	struct mkfs_options opt = {
		.label = a->label,
		.uid = geteuid(),
		.gid = getegid(),
	};
	struct label_ns *ns = &la.ns[0];
	struct timespec now;
	int err;

	clock_gettime(CLOCK_REALTIME, &now);
	opt.now_ns =
		(uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
	la.pool_size = pool->size_bytes;
	(void)snprintf(ns->name, sizeof(ns->name), "namespace0");
	ns->off = LABEL_AREA_SIZE;
	ns->len = pool->size_bytes - LABEL_AREA_SIZE;
	err = random_bytes(la.pool_uuid, sizeof(la.pool_uuid));
	if (!err)
		err = random_bytes(ns->uuid, sizeof(ns->uuid));
	if (!err)
		err = media_mkfs(pool, ns, &opt);
	/* The labels last: until then the file is no pool. */
	if (!err)
		err = label_format(pool, &la);
	if (err)
		complain("%s: %s", pool->path, strerror(-err));
	return err;
}

/* --- what it can do --- */

static const char *no_pins(int err)
{
	switch (err) {
	case -EOPNOTSUPP:
		return "no; use tmpfs for pins";
	case -EPERM:
		return "no: io_uring is disabled (sysctl "
		       "kernel.io_uring_disabled)";
	case -ENOSYS:
		return "no: this kernel has no io_uring";
	case -ENOMEM:
		return "not tried: memlock limit (ulimit -l) too small";
	default:
		return "could not be tried";
	}
}

static void describe(struct pmem_pool *pool, const struct args *a)
{
	int pins = pmem_probe_pins(pool, LABEL_SCRATCH_OFF);

	(void)printf("%s: %" PRIu64 " MiB%s%s\n", a->path,
		     pool->size_bytes >> 20, a->label ? ", label " : "",
		     a->label ? a->label : "");
	(void)printf("direct mapping yes, pins %s\n",
		     pins ? no_pins(pins) : "yes");
	if (!pins && pmem_probe_fence(pool, LABEL_SCRATCH_OFF))
		(void)puts("pinned pages cannot be taken away from a dead "
			   "program here: freed blocks are only zeroed");
	if (pool->ram_backed)
		(void)puts("in memory: lost at reboot");
	else if (pool->emulated)
		(void)puts("emulated pmem: survives processes, not a power "
			   "cut");
}

int main(int argc, char **argv)
{
	struct args a = {0};
	struct pmem_pool *pool = NULL;
	bool exists;
	int err = parse(argc, argv, &a);

	if (err)
		return err - 1;
	err = check_target(&a, &exists);
	if (err)
		return err;
	catch_signals();
	err = make_pool(&a, exists, &pool);
	if (err)
		return EX_FAIL;
	err = exists ? fence_old_pages(pool) : 0;
	if (!err)
		err = format(pool, &a);
	if (err) {
		discard(pool);
		return EX_FAIL;
	}
	describe(pool, &a);
	created_path = NULL;
	pmem_close(pool);
	return 0;
}
