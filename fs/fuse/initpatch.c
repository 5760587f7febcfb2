// SPDX-License-Identifier: BSD-3-Clause
/*
 * INIT flags that libfuse 3.14 does not know, set in its reply on the way to
 * the kernel: FUSE_DIRECT_IO_ALLOW_MMAP, without which mmap(MAP_SHARED) of a
 * file with direct I/O is ENODEV.
 *
 * libfuse lets a server do its own reads and writes of /dev/fuse. The hook
 * looks at the INIT request for what the kernel offers and at its reply, which
 * is the first one; after that it only passes on.
 * The kernel sends INIT first and waits: no other request is read meanwhile, so
 * the state needs no lock; `done` is atomic for the threads that come later.
 */
#include <errno.h>
#include <linux/fuse.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>
#include "fs/fuse/daemon.h"

#define ALLOW_MMAP (1ULL << 36) /* since Linux 6.6; newer than our header */
#define INIT_EXT (1ULL << 30)

static struct {
	atomic_bool seen, done;
	uint64_t unique;
	uint64_t offered;
} init;

static void look_at_request(const void *buf, size_t len)
{
	const struct fuse_in_header *h = buf;
	struct fuse_init_in in;

	if (len < sizeof(*h) + offsetof(struct fuse_init_in, unused) ||
	    h->opcode != FUSE_INIT)
		return;
	memcpy(&in, h + 1, offsetof(struct fuse_init_in, unused));
	init.unique = h->unique;
	init.offered = in.flags;
	if (in.flags & INIT_EXT)
		init.offered |= (uint64_t)in.flags2 << 32;
	atomic_store(&init.seen, true);
}

static void patch_reply(struct iovec *iov, int count)
{
	const struct fuse_out_header *h = iov[0].iov_base;
	struct fuse_init_out *out;

	if (h->unique != init.unique)
		return;
	atomic_store(&init.done, true);
	if (h->error || count < 2 || iov[1].iov_len < sizeof(*out) ||
	    !(init.offered & ALLOW_MMAP))
		return;
	out = iov[1].iov_base;
	out->flags |= (uint32_t)INIT_EXT;
	out->flags2 |= (uint32_t)(ALLOW_MMAP >> 32);
}

static ssize_t hook_read(int fd, void *buf, size_t len, void *userdata)
{
	ssize_t n = read(fd, buf, len);

	(void)userdata;
	if (n > 0 && !atomic_load_explicit(&init.seen, memory_order_relaxed))
		look_at_request(buf, (size_t)n);
	return n;
}

static ssize_t hook_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	(void)userdata;
	if (!atomic_load_explicit(&init.done, memory_order_relaxed) &&
	    atomic_load(&init.seen))
		patch_reply(iov, count);
	return writev(fd, iov, count);
}

int initpatch_install(struct fuse_session *se)
{
	static const struct fuse_custom_io io = {
		.writev = hook_writev,
		.read = hook_read,
	};

	return fuse_session_custom_io(se, &io, fuse_session_fd(se));
}
