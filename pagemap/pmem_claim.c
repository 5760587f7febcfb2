// SPDX-License-Identifier: BSD-3-Clause
/*
 * Who uses a pool file: the claims of daemons and the liveness of clients.
 *
 * Owns: the OFD locks of the pool's description and the look into /proc.
 * Not: what a namespace is; which clients there were before this daemon.
 * Invariant: OFD locks belong to the open file description, so two opens in
 * one process collide as two processes do, and closing some other descriptor
 * of the file drops nothing (POSIX locks would go with it).
 * Claims lie on the bytes of the namespace itself, clients' locks on bytes
 * from CLIENT_BYTES on, far beyond the end of any pool.
 * Locks: none.
 */
#include "pagemap/pmem.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define CLIENT_BYTES (1ULL << 62)
#define CLAIM_POLL_MS 20U

/* As lock commands have it, @len 0 is "to the end of all offsets". */
static int claim_lock(struct pmem_pool *pool, short type, uint64_t off,
		      uint64_t len)
{
	struct flock lk = {.l_type = type, .l_whence = SEEK_SET};

	if (off > INT64_MAX || len > INT64_MAX - off)
		return -EINVAL;
	lk.l_start = (off_t)off;
	lk.l_len = (off_t)len;
	if (fcntl(pool->fd, F_OFD_SETLK, &lk) == 0)
		return 0;
	return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
}

int pmem_claim(struct pmem_pool *pool, uint64_t off, uint64_t len)
{
	/* A read-only description can hold a read lock only. */
	return claim_lock(pool, pool->readonly ? F_RDLCK : F_WRLCK, off, len);
}

int pmem_claim_wait(struct pmem_pool *pool, uint64_t off, uint64_t len,
		    unsigned int timeout_ms)
{
	const struct timespec pause = {.tv_nsec = CLAIM_POLL_MS * 1000000L};
	unsigned int waited;
	int err;

	for (waited = 0;; waited += CLAIM_POLL_MS) {
		err = pmem_claim(pool, off, len);
		if (err != -EBUSY || waited >= timeout_ms)
			return err;
		(void)nanosleep(&pause, NULL); /* a signal only hurries it */
	}
}

void pmem_unclaim(struct pmem_pool *pool, uint64_t off, uint64_t len)
{
	(void)claim_lock(pool, F_UNLCK, off, len); /* cannot collide */
}

uint64_t pmem_client_lock_byte(uint64_t ns_off)
{
	return CLIENT_BYTES + (ns_off >> PMEM_PAGE_SHIFT);
}

int pmem_clients_alive(struct pmem_pool *pool, uint64_t ns_off)
{
	struct flock lk = {
		.l_type = F_WRLCK,
		.l_whence = SEEK_SET,
		.l_start = (off_t)pmem_client_lock_byte(ns_off),
		.l_len = 1,
	};

	if (fcntl(pool->fd, F_OFD_GETLK, &lk) < 0)
		return -errno;
	return lk.l_type != F_UNLCK;
}

/* "ADDR PERMS OFFSET MAJOR:MINOR INODE PATH", proc(5) */
static bool line_is_pool(const struct pmem_pool *pool, const char *line)
{
	char *end;
	int field;

	for (field = 0; field < 3 && line; field++) {
		line = strchr(line, ' ');
		if (line)
			line++;
	}
	if (!line || strtoul(line, &end, 16) != major(pool->dev) ||
	    *end != ':' || strtoul(end + 1, &end, 16) != minor(pool->dev))
		return false;
	return strtoull(end, NULL, 10) == pool->ino;
}

/* Does a mapping of the process @pid show the file? */
static bool maps_pool(const struct pmem_pool *pool, pid_t pid)
{
	char name[32], *line = NULL;
	size_t size = 0;
	bool found = false;
	FILE *f;

	(void)snprintf(name, sizeof(name), "/proc/%d/maps", (int)pid);
	f = fopen(name, "re");
	if (!f)
		return false; /* it ended, or it is not ours to see */
	while (!found && getline(&line, &size, f) > 0)
		found = line_is_pool(pool, line);
	free(line);
	fclose(f);
	return found;
}

/* Has the process the file open? It may keep a client's lock without a mapping,
 * as while its last registered buffer lives. */
static bool opens_pool(const struct pmem_pool *pool, pid_t pid)
{
	struct dirent *de;
	bool found = false;
	struct stat st;
	char name[32];
	DIR *dir;

	(void)snprintf(name, sizeof(name), "/proc/%d/fd", (int)pid);
	dir = opendir(name);
	if (!dir)
		return false;
	while (!found && (de = readdir(dir)))
		found = fstatat(dirfd(dir), de->d_name, &st, 0) == 0 &&
			st.st_dev == pool->dev && st.st_ino == pool->ino;
	closedir(dir);
	return found;
}

int pmem_mapped_by(struct pmem_pool *pool, pid_t *pids, int max)
{
	struct dirent *de;
	int nr = 0;
	DIR *dir;

	dir = opendir("/proc");
	if (!dir)
		return 0;
	while (nr < max && (de = readdir(dir))) {
		pid_t pid;

		if (!isdigit((unsigned char)de->d_name[0]))
			continue;
		pid = (pid_t)strtol(de->d_name, NULL, 10);
		if (maps_pool(pool, pid) || opens_pool(pool, pid))
			pids[nr++] = pid;
	}
	closedir(dir);
	return nr;
}
