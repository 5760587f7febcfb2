/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The device's data: a stamped file on a disk filesystem.
 *
 * Owns: the choice of the place (TMPDIR, the current directory, /var/tmp, /tmp:
 * the first that is no tmpfs and knows O_DIRECT, else the first that takes the
 * file at all) and writing it. The file is unlinked as soon as it is open, so
 * nothing is left behind however the demo ends. Without O_DIRECT the kernel
 * copies from its page cache into the registered buffer; the demo still shows
 * the race, and the table says which it was.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"

#define CHUNK (1U << 20)

static bool on_disk(const char *dir)
{
	struct statfs fs;

	return !statfs(dir, &fs) && fs.f_type != TMPFS_MAGIC &&
	       fs.f_type != RAMFS_MAGIC;
}

static int write_stamps(int fd)
{
	char *buf = malloc(CHUNK);
	int err = buf ? 0 : -ENOMEM;

	for (uint64_t off = 0; !err && off < DEMO_SOURCE_BYTES; off += CHUNK) {
		for (uint64_t i = 0; i < CHUNK; i += PINDAX_PAGE)
			stamp_fill(buf + i, STAMP_DEVICE,
				   (off + i) / PINDAX_PAGE, 0);
		ssize_t n = pwrite(fd, buf, CHUNK, (off_t)off);

		if (n != (ssize_t)CHUNK)
			err = n < 0 ? -errno : -ENOSPC;
	}
	free(buf);
	if (!err && fsync(fd))
		err = -errno;
	return err;
}

/* Does a read through @fd really work, as O_DIRECT was accepted at open? */
static bool reads_direct(int fd)
{
	char *buf = aligned_alloc(PINDAX_PAGE, PINDAX_PAGE);
	bool ok;

	ok = buf && pread(fd, buf, PINDAX_PAGE, 0) == (ssize_t)PINDAX_PAGE &&
	     stamp_is(buf, STAMP_DEVICE);
	free(buf);
	return ok;
}

static int create_in(const char *dir, int *ret_fd, bool *ret_direct)
{
	char path[4096];
	int fd, direct, err;

	snprintf(path, sizeof(path), "%s/pindax-demo-source-XXXXXX", dir);
	fd = mkostemp(path, O_CLOEXEC);
	if (fd < 0)
		return -errno;
	err = write_stamps(fd);
	direct = err ? -1 : open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
	unlink(path);
	if (err) {
		close(fd);
		return err;
	}
	if (direct >= 0 && reads_direct(direct)) {
		close(fd);
		*ret_fd = direct;
		*ret_direct = true;
		return 0;
	}
	if (direct >= 0)
		close(direct);
	*ret_fd = fd;
	*ret_direct = false;
	return 0;
}

int demo_source_create(int *ret_fd, bool *ret_direct, const char **ret_where)
{
	const char *dirs[] = {getenv("TMPDIR"), ".", "/var/tmp", "/tmp"};
	int fd = -1, err = -ENOENT, buffered = -1;
	bool direct = false;

	for (size_t i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {
		if (!dirs[i] || !*dirs[i] || !on_disk(dirs[i]))
			continue;
		int e = create_in(dirs[i], &fd, &direct);

		if (e) {
			err = e;
			continue;
		}
		if (direct || buffered < 0)
			*ret_where = dirs[i];
		if (direct) {
			if (buffered >= 0)
				close(buffered);
			*ret_fd = fd;
			*ret_direct = true;
			return 0;
		}
		if (buffered < 0)
			buffered = fd;
		else
			close(fd);
	}
	if (buffered < 0) {
		say("no place for the source file of %u MiB on a disk: %s; "
		    "set TMPDIR to a directory that is not on tmpfs",
		    DEMO_SOURCE_BYTES >> 20, strerror(-err));
		return err;
	}
	*ret_fd = buffered;
	*ret_direct = false;
	return 0;
}
