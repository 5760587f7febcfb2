/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_FUSE_PREFLIGHT_H
#define PINDAX_FS_FUSE_PREFLIGHT_H

#include <stdbool.h>
#include <stddef.h>

/*
 * What can be known before anything is mounted. Each returns 0 or -errno, with
 * a line for people in @why: what is wrong and what to do.
 */
int preflight_fuse(char *why, size_t size);
int preflight_mountpoint(const char *dir, char *why, size_t size);

/* The mount point at which the pool (a real path) is mounted, in @dir. */
bool preflight_mounted(const char *pool, char *dir, size_t size);

#endif
