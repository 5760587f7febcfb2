/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CMD_COMPLAIN_H
#define PINDAX_CMD_COMPLAIN_H

/*
 * What mkfs, mount and fsck say on stderr: "NAME: ..." and a new line. Each
 * program defines its name, as it may be called by another (mount.fuse.pindax).
 */
extern const char complain_name[];
void complain(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
