/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Truncate and fallocate that wait for pins in an ioctl of the daemon instead
 * of in the system call: there the kernel would hold the inode's lock and with
 * it everything that writes to the file. The ioctl waits and reserves the
 * range; the real system call follows and finds it idle. If it comes too late
 * for the reservation it waits by itself.
 *
 * On any other filesystem these are the plain system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "client/internal.h"

static int break_layout(int fd, struct pindax_ioc_break *b)
{
	int err;

	if (!ioctl(fd, PINDAX_IOC_BREAK, b))
		return 0;
	err = -errno;
	switch (err) {
	case -ENOTTY: /* not ours */
	case -ENOSYS:
	case -EBADF: /* the system call says it better */
	case -EINVAL:
		return 0;
	case -EINTR:
		return pdx_fail(err, "interrupted; nothing was changed");
	case -ETIMEDOUT:
		return pdx_fail(err, "the range stayed pinned for longer than "
				     "the mount's pin_timeout");
	case -ETXTBSY:
		return pdx_fail(err, "the range is pinned, and the mount does "
				     "not wait (pinned=fail)");
	default:
		return pdx_fail_call(err, "waiting for pins");
	}
}

int pindax_truncate(int fd, off_t size)
{
	struct pindax_ioc_break b = {.off = (uint64_t)size,
				     .op = PINDAX_BREAK_TRUNCATE};
	int err = size >= 0 ? break_layout(fd, &b) : 0;

	if (err)
		return err;
	if (ftruncate(fd, size))
		return pdx_fail_call(-errno, "ftruncate");
	return 0;
}

int pindax_fallocate(int fd, int mode, off_t offset, off_t len)
{
	struct pindax_ioc_break b = {.off = (uint64_t)offset,
				     .len = (uint64_t)len};
	int err = 0;

	if (mode & FALLOC_FL_PUNCH_HOLE)
		b.op = PINDAX_BREAK_PUNCH;
	else if (mode & FALLOC_FL_ZERO_RANGE)
		b.op = PINDAX_BREAK_ZERO;
	if (b.op && offset >= 0 && len > 0)
		err = break_layout(fd, &b);
	if (err)
		return err;
	if (fallocate(fd, mode, offset, len))
		return pdx_fail_call(-errno, "fallocate");
	return 0;
}
