/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * without WHAT COMMAND [ARGUMENT...] - run a command on a system that lacks a
 * feature, for scripts: a seccomp filter makes its system call fail.
 *
 * WHAT is uring (io_uring_setup: EPERM, as with kernel.io_uring_disabled=2),
 * userfaultfd (EPERM; /dev/userfaultfd stays, hide it in a mount namespace),
 * membarrier (ENOSYS), odirect (openat with O_DIRECT: EINVAL, as a filesystem
 * without it answers) or punch (fallocate: EOPNOTSUPP).
 * The filter is inherited by children and cannot be taken off.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define NR offsetof(struct seccomp_data, nr)
#define FLAGS offsetof(struct seccomp_data, args[2]) /* low word: x86, arm */

static const struct feature {
	const char *name;
	unsigned int nr; /* of the system call */
	unsigned int error;
	/* It fails when a bit of mask is set in this word of seccomp_data; for
	 * any use of the call, that is in its own number, never 0 here. */
	unsigned int word, mask;
} features[] = {
	{"uring", SYS_io_uring_setup, EPERM, NR, ~0U},
	{"userfaultfd", SYS_userfaultfd, EPERM, NR, ~0U},
	{"membarrier", SYS_membarrier, ENOSYS, NR, ~0U},
	{"odirect", SYS_openat, EINVAL, FLAGS, O_DIRECT},
	{"punch", SYS_fallocate, EOPNOTSUPP, NR, ~0U},
};

static int install(const struct feature *f)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, NR),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, f->nr, 0, 3),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, f->word),
		BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, f->mask, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | f->error),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {
		.len = sizeof(filter) / sizeof(*filter),
		.filter = filter,
	};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
		return -errno;
	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0)
		return -errno;
	return 0;
}

int main(int argc, char **argv)
{
	size_t i;
	int ret;

	for (i = 0; argc > 2 && i < sizeof(features) / sizeof(*features); i++) {
		if (strcmp(features[i].name, argv[1]) != 0)
			continue;
		ret = install(&features[i]);
		if (ret != 0) {
			fprintf(stderr, "without: %s\n", strerror(-ret));
			return 77;
		}
		execvp(argv[2], argv + 2);
		perror(argv[2]);
		return 127;
	}
	fprintf(stderr, "usage: without FEATURE COMMAND [ARGUMENT...]\n");
	return 2;
}
