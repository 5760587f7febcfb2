// SPDX-License-Identifier: BSD-3-Clause
/*
 * Looks before the mount: /dev/fuse, the mount point, the mount table. Only
 * messages depend on what is found here; the mount itself and the claim of the
 * namespace decide.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/fuse/preflight.h"

int preflight_fuse(char *why, size_t size)
{
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), err;

	if (fd >= 0) {
		close(fd);
		return 0;
	}
	err = errno;
	if (err == ENOENT || err == ENODEV || err == ENXIO)
		(void)snprintf(why, size,
			       "there is no /dev/fuse: load the module with "
			       "'modprobe fuse', or pass the device into the "
			       "container (--device /dev/fuse)");
	else
		(void)snprintf(why, size,
			       "cannot open /dev/fuse: %s (in a container: "
			       "--device /dev/fuse --cap-add SYS_ADMIN)",
			       strerror(err));
	return -err;
}

int preflight_mountpoint(const char *dir, char *why, size_t size)
{
	struct stat st;
	int err;

	if (stat(dir, &st) == 0) {
		if (S_ISDIR(st.st_mode))
			return 0;
		(void)snprintf(why, size, "%s is not a directory", dir);
		return -ENOTDIR;
	}
	err = errno;
	if (err == ENOENT)
		(void)snprintf(why, size,
			       "the mount point %s does not exist: mkdir it",
			       dir);
	else if (err == ENOTCONN)
		(void)snprintf(why, size,
			       "%s: the daemon of an earlier mount is gone: "
			       "run 'umount -l %s' first",
			       dir, dir);
	else
		(void)snprintf(why, size, "%s: %s", dir, strerror(err));
	return -err;
}

static bool same_pool(const char *source, const char *pool)
{
	char real[PATH_MAX];

	return strcmp(source, pool) == 0 ||
	       (realpath(source, real) && strcmp(real, pool) == 0);
}

bool preflight_mounted(const char *pool, char *dir, size_t size)
{
	FILE *f = setmntent("/proc/self/mounts", "re");
	char strings[2 * PATH_MAX];
	struct mntent ent;
	bool found = false;

	if (!f)
		return false;
	while (!found && getmntent_r(f, &ent, strings, sizeof(strings))) {
		found = strcmp(ent.mnt_type, "fuse.pindax") == 0 &&
			same_pool(ent.mnt_fsname, pool);
	}
	if (found)
		(void)snprintf(dir, size, "%s", ent.mnt_dir);
	endmntent(f);
	return found;
}
