/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * fileop [-r] OP FILE [ARGUMENT...] - one system call on a file, for scripts.
 *
 * Prints "ok" or the error's name (EINTR, ETXTBSY, ...) and exits 0 or 1, so
 * that a script can compare exactly what a program would see; 2 is bad usage.
 * SIGINT is caught: the call under way is interrupted, or with -r restarted
 * (SA_RESTART). Numbers may end in k or m. The table at the end lists the
 * operations; those that start with p are the library's, which wait by ioctl.
 * One thread, no locks.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "client/pindax.h"

#define CHUNK 65536

struct args {
	const char *path;
	int fd;
	off_t off;	  /* the first number */
	off_t len;	  /* the second */
	long arg;	  /* the third */
	const char *text; /* the first argument as it is */
};

static void on_signal(int sig)
{
	(void)sig; /* only there to end a system call */
}

static int result(int ret)
{
	return ret < 0 ? -errno : 0;
}

static int op_truncate(const struct args *a)
{
	return result(ftruncate(a->fd, a->off));
}

static int op_truncpath(const struct args *a)
{
	return result(truncate(a->path, a->off));
}

static int op_otrunc(const struct args *a)
{
	return result(open(a->path, O_RDWR | O_TRUNC));
}

static int op_punch(const struct args *a)
{
	return result(fallocate(a->fd,
				FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				a->off, a->len));
}

static int op_zero(const struct args *a)
{
	return result(fallocate(a->fd, FALLOC_FL_ZERO_RANGE, a->off, a->len));
}

static int op_zerokeep(const struct args *a)
{
	return result(fallocate(a->fd,
				FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
				a->off, a->len));
}

static int op_collapse(const struct args *a)
{
	return result(
		fallocate(a->fd, FALLOC_FL_COLLAPSE_RANGE, a->off, a->len));
}

static int op_alloc(const struct args *a)
{
	return result(fallocate(a->fd, 0, a->off, a->len));
}

static int op_keep(const struct args *a)
{
	return result(fallocate(a->fd, FALLOC_FL_KEEP_SIZE, a->off, a->len));
}

static int op_ptruncate(const struct args *a)
{
	return pindax_truncate(a->fd, a->off);
}

static int op_ppunch(const struct args *a)
{
	return pindax_fallocate(a->fd,
				FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
				a->off, a->len);
}

static int op_pzero(const struct args *a)
{
	return pindax_fallocate(a->fd, FALLOC_FL_ZERO_RANGE, a->off, a->len);
}

/* Write len bytes of the value arg. A short write is ENOSPC. */
static int op_write(const struct args *a)
{
	char buf[CHUNK];
	off_t done;
	ssize_t n;

	memset(buf, (int)a->arg, sizeof(buf));
	for (done = 0; done < a->len; done += n) {
		size_t want = sizeof(buf);

		if (a->len - done < (off_t)want)
			want = (size_t)(a->len - done);
		n = pwrite(a->fd, buf, want, a->off + done);
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENOSPC;
	}
	return 0;
}

/* Are len bytes from off all of the value arg? EBADMSG says no. */
static int op_check(const struct args *a)
{
	unsigned char buf[CHUNK];
	off_t done;
	ssize_t n;
	int i;

	for (done = 0; done < a->len; done += n) {
		size_t want = sizeof(buf);

		if (a->len - done < (off_t)want)
			want = (size_t)(a->len - done);
		n = pread(a->fd, buf, want, a->off + done);
		if (n < 0)
			return -errno;
		if (n == 0)
			return -ENODATA;
		for (i = 0; i < n; i++) {
			if (buf[i] == (unsigned char)a->arg)
				continue;
			printf("byte %jd is %d, not %ld\n",
			       (intmax_t)a->off + done + i, buf[i], a->arg);
			return -EBADMSG;
		}
	}
	return 0;
}

static int op_read(const struct args *a)
{
	char buf[CHUNK];

	return result((int)pread(a->fd, buf, sizeof(buf), a->off));
}

static int op_append(const struct args *a)
{
	int fd = open(a->path, O_WRONLY | O_APPEND);

	if (fd < 0)
		return -errno;
	return result((int)write(fd, "x", 1));
}

static int op_sendfile(const struct args *a)
{
	int pipefd[2];
	off_t off = a->off;

	if (pipe(pipefd) != 0)
		return -errno;
	return result((int)sendfile(pipefd[1], a->fd, &off, 4096));
}

static int op_fsync(const struct args *a)
{
	return result(fsync(a->fd));
}

static int op_stat(const struct args *a)
{
	struct stat st;

	return result(stat(a->path, &st));
}

static int op_statfs(const struct args *a)
{
	struct statvfs st;

	return result(statvfs(a->path, &st));
}

static int op_access(const struct args *a)
{
	return result(access(a->path, R_OK | W_OK));
}

static int op_open(const struct args *a)
{
	return result(open(a->path, O_RDWR));
}

static int op_flock(const struct args *a)
{
	if (flock(a->fd, LOCK_EX) != 0)
		return -errno;
	return result(flock(a->fd, LOCK_UN));
}

static int op_getxattr(const struct args *a)
{
	char buf[64];

	if (fgetxattr(a->fd, "user.none", buf, sizeof(buf)) < 0 &&
	    errno != ENODATA && errno != EOPNOTSUPP)
		return -errno;
	return 0;
}

static int op_seekend(const struct args *a)
{
	return result((int)lseek(a->fd, 0, SEEK_END));
}

static int op_seekdata(const struct args *a)
{
	if (lseek(a->fd, a->off, SEEK_DATA) < 0 && errno != ENXIO)
		return -errno;
	return 0;
}

static int op_chmod(const struct args *a)
{
	return result(fchmod(a->fd, 0644));
}

static int op_utimes(const struct args *a)
{
	return result(futimens(a->fd, NULL));
}

static int op_link(const struct args *a)
{
	return result(link(a->path, a->text));
}

static int op_unlink(const struct args *a)
{
	return result(unlink(a->path));
}

static int op_rename(const struct args *a)
{
	return result(rename(a->path, a->text));
}

/* The kernel's own mapping: load a byte of the page at off; store it back. */
static int with_mmap(const struct args *a, bool store)
{
	volatile char *p;
	char c;

	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, a->fd, a->off);
	if (p == MAP_FAILED)
		return -errno;
	c = *p;
	if (store)
		*p = c;
	return result(munmap((void *)p, 4096));
}

static int op_mmap(const struct args *a)
{
	return with_mmap(a, false);
}

static int op_mmapstore(const struct args *a)
{
	return with_mmap(a, true);
}

struct op {
	const char *name;
	int (*fn)(const struct args *a);
	int flags; /* of the open before it; -1: none */
};

static const struct op ops[] = {
	{"truncate", op_truncate, O_RDWR},
	{"truncpath", op_truncpath, -1},
	{"otrunc", op_otrunc, -1},
	{"punch", op_punch, O_RDWR},
	{"zero", op_zero, O_RDWR},
	{"zerokeep", op_zerokeep, O_RDWR},
	{"collapse", op_collapse, O_RDWR},
	{"alloc", op_alloc, O_RDWR | O_CREAT},
	{"keep", op_keep, O_RDWR},
	{"ptruncate", op_ptruncate, O_RDWR},
	{"ppunch", op_ppunch, O_RDWR},
	{"pzero", op_pzero, O_RDWR},
	{"write", op_write, O_RDWR | O_CREAT},
	{"check", op_check, O_RDONLY},
	{"read", op_read, O_RDONLY},
	{"append", op_append, -1},
	{"sendfile", op_sendfile, O_RDONLY},
	{"fsync", op_fsync, O_RDWR},
	{"stat", op_stat, -1},
	{"statfs", op_statfs, -1},
	{"access", op_access, -1},
	{"open", op_open, -1},
	{"flock", op_flock, O_RDWR},
	{"getxattr", op_getxattr, O_RDONLY},
	{"seekend", op_seekend, O_RDONLY},
	{"seekdata", op_seekdata, O_RDONLY},
	{"chmod", op_chmod, O_RDWR},
	{"utimes", op_utimes, O_RDWR},
	{"link", op_link, -1},
	{"unlink", op_unlink, -1},
	{"rename", op_rename, -1},
	{"mmap", op_mmap, O_RDWR},
	{"mmapstore", op_mmapstore, O_RDWR},
};

static off_t number(const char *s)
{
	char *end;
	off_t n = strtoll(s, &end, 0);

	if (*end == 'k')
		return n << 10;
	if (*end == 'm')
		return n << 20;
	return n;
}

static int run(const struct op *op, int argc, char **argv)
{
	struct args a = {.path = argv[0], .fd = -1};

	if (argc > 1) {
		a.text = argv[1];
		a.off = number(argv[1]);
	}
	if (argc > 2)
		a.len = number(argv[2]);
	if (argc > 3)
		a.arg = (long)number(argv[3]);
	if (op->flags != -1) {
		a.fd = open(a.path, op->flags, 0644);
		if (a.fd < 0)
			return -errno;
	}
	return op->fn(&a);
}

int main(int argc, char **argv)
{
	struct sigaction sa = {.sa_handler = on_signal};
	int first = 1, ret;
	size_t i;

	if (argc > 1 && strcmp(argv[1], "-r") == 0) {
		sa.sa_flags = SA_RESTART;
		first = 2;
	}
	sigaction(SIGINT, &sa, NULL);
	for (i = 0; argc >= first + 2 && i < sizeof(ops) / sizeof(*ops); i++) {
		if (strcmp(ops[i].name, argv[first]) != 0)
			continue;
		ret = run(&ops[i], argc - first - 1, argv + first + 1);
		puts(ret == 0 ? "ok" : strerrorname_np(-ret));
		return ret != 0;
	}
	fprintf(stderr, "usage: fileop [-r] OP FILE [ARGUMENT...]\n");
	return 2;
}
