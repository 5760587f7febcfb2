/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_FUSE_SESSION_H
#define PINDAX_FS_FUSE_SESSION_H

#include <stdbool.h>
#include <stdint.h>

/* Serving an open filesystem at a mount point. No FUSE type in sight. */
struct fs;
struct layouts;

struct serve_options {
	const char *source; /* shown in /proc/mounts */
	const char *mountpoint;
	const char *mount_flags; /* "nodev,noexec", or "" */
	bool readonly;
	bool allow_other;
	/* Called once, when the mount answers; then the loop goes on. */
	void (*ready)(void *arg);
	void *ready_arg;
};

/* Where libfuse's and our messages go: syslog or stderr. */
void serve_log_init(bool to_syslog);

/*
 * serve - mount and answer requests until it is unmounted, or SIGTERM, SIGINT
 * or SIGHUP. Parked requests are answered, then it is unmounted. -errno when
 * it could not be mounted: ready() was not called then.
 */
int serve(struct fs *fs, const struct serve_options *opt);
/* For struct fs_options. */
void serve_notify(struct layouts *ls, uint64_t fh);

#endif
