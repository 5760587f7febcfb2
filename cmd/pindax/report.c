/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading who holds what: the REPORT and PATH ioctls.
 *
 * Owns: the cursor over one snapshot and the words for the kinds of rows.
 * Printing is pins.c's. A snapshot is kept by the daemon with the description,
 * so all calls for one must use the same descriptor; rows are copied as they
 * came and outlive it. No locks. Read: fs/proto.h, REPORT.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/report.h"

int report_read(int fd, unsigned int flags, struct report *ret_report)
{
	struct pindax_ioc_report *q = malloc(sizeof(*q));
	struct report r = {0};
	int err = -ENOMEM;

	if (!q)
		return -ENOMEM;
	do {
		memset(q, 0, sizeof(*q));
		q->flags = flags;
		q->start = r.nr;
		err = call_ioctl(fd, PINDAX_IOC_REPORT, q);
		if (err)
			goto out_free;
		if (q->nr > PINDAX_REPORT_MAX || (q->more && !q->nr)) {
			err = -EPROTO;
			goto out_free;
		}
		struct pindax_report_row *row = reallocarray(
			r.row, (size_t)r.nr + q->nr + 1, sizeof(*row));
		if (!row) {
			err = -ENOMEM;
			goto out_free;
		}
		r.row = row;
		memcpy(row + r.nr, q->row, q->nr * sizeof(*row));
		r.nr += q->nr;
		r.now_ns = q->now_ns;
	} while (q->more);
	*ret_report = r;
	free(q);
	return 0;

out_free:
	free(r.row);
	free(q);
	return err;
}

void report_free(struct report *r)
{
	free(r->row);
	r->row = NULL;
	r->nr = 0;
}

char *report_path(int fd, const char *root, uint64_t ino)
{
	struct pindax_ioc_path *q = calloc(1, sizeof(*q));
	char *path = NULL;

	if (!q)
		return NULL;
	q->ino = ino;
	if (!call_ioctl(fd, PINDAX_IOC_PATH, q)) {
		q->path[sizeof(q->path) - 1] = '\0';
		if (asprintf(&path, "%s%s", strcmp(root, "/") ? root : "",
			     q->path) < 0)
			path = NULL;
	}
	free(q);
	return path;
}

const char *report_kind_text(uint32_t kind)
{
	switch (kind) {
	case PINDAX_HELD_LEASE:
		return "lease";
	case PINDAX_HELD_PIN:
		return "pin";
	case PINDAX_HELD_URING:
		return "uring";
	case PINDAX_WAIT_TRUNCATE:
		return "truncate";
	case PINDAX_WAIT_PUNCH:
		return "punch";
	case PINDAX_WAIT_ZERO:
		return "zero";
	case PINDAX_WAIT_OPEN_TRUNC:
		return "open-trunc";
	case PINDAX_WAIT_PIN:
		return "pin";
	case PINDAX_WAIT_FILL:
		return "fill";
	case PINDAX_WAIT_ORPHAN:
		return "orphan";
	case PINDAX_WAIT_RESERVED:
		return "reserved";
	default:
		return "?";
	}
}

/* The path of an open directory, as the kernel knows it. */
static int fd_path(int fd, char **ret_path)
{
	char link[64], path[PATH_MAX];
	ssize_t n;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return -errno;
	path[n] = '\0';
	*ret_path = strdup(path);
	return *ret_path ? 0 : -ENOMEM;
}

int mount_root(int fd, char **ret_path)
{
	struct stat st, up;
	int dir, parent, err;

	dir = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	for (;;) {
		parent = openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		/* A parent that may not be read ends the walk, too. */
		if (parent < 0)
			break;
		if (fstat(dir, &st) || fstat(parent, &up) ||
		    st.st_dev != up.st_dev || st.st_ino == up.st_ino) {
			close(parent);
			break;
		}
		close(dir);
		dir = parent;
	}
	err = fd_path(dir, ret_path);
	close(dir);
	return err;
}
