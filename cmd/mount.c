// SPDX-License-Identifier: BSD-3-Clause
/*
 * mount.pindax - mount a pool. Options and messages; fs/ and fs/fuse/ do the
 * work.
 *
 * It goes to the background by a fork before any thread is started: the parent
 * waits on a pipe for the child's verdict, and the child's messages go to the
 * terminal until the mount answers. Without a verdict the child has died.
 * Exit codes are mount(8)'s: 1 usage or permission, 2 system, 32 no mount.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "cmd/complain.h"
#include "fs/fs.h"
#include "fs/fuse/preflight.h"
#include "fs/fuse/session.h"

#define EX_USAGE_ 1
#define EX_SYSTEM 2
#define EX_FAIL 32
/* How long an exiting daemon may hold its claim after its mount is gone. */
#define CLAIM_WAIT_MS 10000
#define CLAIM_POLL_MS 20

struct args {
	const char *pool, *dir;
	struct fs_options fs;
	struct serve_options serve;
	char mount_flags[256];
	char pool_path[PATH_MAX], dir_path[PATH_MAX];
	bool foreground, fake, sloppy, verbose;
	int verdict_fd; /* -1: in the foreground */
};

const char complain_name[] = "mount.pindax";

static void usage(FILE *to)
{
	(void)fprintf(
		to,
		"usage: mount.pindax POOL DIR [-o OPTIONS] [--foreground]\n"
		"  -o pinned=wait|fail|unsafe  truncate of pinned pages: wait "
		"(default),\n"
		"                              fail with ETXTBSY, or corrupt "
		"(demo only)\n"
		"  -o pin_timeout=SECONDS      such a wait ends with "
		"ETIMEDOUT\n"
		"  -o recall_timeout=SECONDS   bound on a client's answer to a "
		"recall\n"
		"  -o ro, noatime, nodev, nosuid, noexec, allow_other, ...\n"
		"  -s ignore unknown options  -f do all but the mount  "
		"-v say more\n"
		"Unmount with umount DIR. Make a pool with mkfs.pindax.\n");
}

/* --- options --- */

static bool in_list(const char *const *list, const char *s)
{
	for (; *list; list++) {
		if (strcmp(*list, s) == 0)
			return true;
	}
	return false;
}

static int parse_seconds(const char *name, const char *value, uint64_t *ret_ms)
{
	char *end;
	double s;

	errno = 0;
	s = value ? strtod(value, &end) : -1;
	if (!value || end == value || *end || errno || !(s >= 0 && s <= 1e9)) {
		complain("%s=%s: needs a number of seconds, as %s=5", name,
			 value ? value : "", name);
		return -EINVAL;
	}
	*ret_ms = (uint64_t)(s * 1000);
	if (s > 0 && !*ret_ms)
		*ret_ms = 1; /* 0 would be no limit */
	return 0;
}

static int parse_pinned(struct args *a, const char *value)
{
	if (value && strcmp(value, "wait") == 0)
		a->fs.pinned = PINNED_WAIT;
	else if (value && strcmp(value, "fail") == 0)
		a->fs.pinned = PINNED_FAIL;
	else if (value && strcmp(value, "unsafe") == 0)
		a->fs.pinned = PINNED_UNSAFE;
	else {
		complain("pinned=%s: is wait, fail or unsafe",
			 value ? value : "");
		return -EINVAL;
	}
	return 0;
}

static int parse_dax(const char *value)
{
	if (!value || strcmp(value, "always") == 0)
		return 0;
	complain("dax=%s: only dax=always (the default) is supported", value);
	return -EINVAL;
}

static void add_flag(struct args *a, const char *flag)
{
	size_t at = strlen(a->mount_flags);

	(void)snprintf(a->mount_flags + at, sizeof(a->mount_flags) - at, "%s%s",
		       at ? "," : "", flag);
}

static int parse_own(struct args *a, const char *name, const char *value,
		     bool *ret_known)
{
	*ret_known = true;
	if (strcmp(name, "pinned") == 0)
		return parse_pinned(a, value);
	if (strcmp(name, "pin_timeout") == 0)
		return parse_seconds(name, value, &a->fs.pin_timeout_ms);
	if (strcmp(name, "recall_timeout") == 0)
		return parse_seconds(name, value, &a->fs.recall_timeout_ms);
	if (strcmp(name, "dax") == 0)
		return parse_dax(value);
	*ret_known = false;
	return 0;
}

/* mount(8) and fstab(5) have options that mean nothing to a helper. */
static bool is_generic(const char *name)
{
	static const char *const strip[] = {
		"defaults",   "auto",	     "noauto",
		"user",	      "nouser",	     "users",
		"owner",      "group",	     "nofail",
		"_netdev",    "rw",	     "relatime",
		"norelatime", "strictatime", "nostrictatime",
		"lazytime",   "nolazytime",  "default_permissions",
		"nonempty",   "silent",	     "loud",
		"fsname",     "subtype",     "comment",
		"uhelper",    "helper",	     NULL};

	return in_list(strip, name) || strncmp(name, "x-", 2) == 0 ||
	       strncmp(name, "X-", 2) == 0;
}

static int parse_one(struct args *a, char *opt)
{
	static const char *const pass[] = {
		"dev",	"nodev", "suid",    "nosuid", "exec", "noexec",
		"sync", "async", "dirsync", "atime",  NULL};
	char *value = strchr(opt, '=');
	bool known;
	int err;

	if (value)
		*value++ = '\0';
	err = parse_own(a, opt, value, &known);
	if (known)
		return err;
	if (strcmp(opt, "ro") == 0) {
		a->fs.readonly = a->serve.readonly = true;
	} else if (strcmp(opt, "noatime") == 0) {
		a->fs.noatime = true;
		add_flag(a, opt);
	} else if (strcmp(opt, "allow_other") == 0) {
		a->serve.allow_other = true;
	} else if (in_list(pass, opt)) {
		add_flag(a, opt);
	} else if (strcmp(opt, "remount") == 0) {
		complain("remount is not supported: umount and mount again");
		return -EINVAL;
	} else if (*opt && !is_generic(opt) && !a->sloppy) {
		complain("unknown option '%s' (see mount.pindax --help)", opt);
		return -EINVAL;
	}
	return 0;
}

static int parse_list(struct args *a, char *list)
{
	char *save, *opt = strtok_r(list, ",", &save);
	int err = 0;

	for (; !err && opt; opt = strtok_r(NULL, ",", &save))
		err = parse_one(a, opt);
	return err;
}

/* mount -N: the mount belongs into another mount namespace. */
static int enter_namespace(const char *where)
{
	char path[PATH_MAX];
	int fd, err = 0;

	if (strspn(where, "0123456789") == strlen(where))
		(void)snprintf(path, sizeof(path), "/proc/%s/ns/mnt", where);
	else
		(void)snprintf(path, sizeof(path), "%s", where);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || setns(fd, CLONE_NEWNS) != 0) {
		err = -errno;
		complain("-N %s: %s", where, strerror(errno));
	}
	if (fd >= 0)
		close(fd);
	return err;
}

static const struct option long_opts[] = {
	{"foreground", no_argument, NULL, 'F'},
	{"help", no_argument, NULL, 'h'},
	{"version", no_argument, NULL, 'V'},
	{NULL, 0, NULL, 0},
};

/* -1: go on; else the exit code. */
static int parse_args(struct args *a, int argc, char **argv)
{
	char *lists[16];
	int nr = 0, c;

	while ((c = getopt_long(argc, argv, "o:sfnvhVt:N:", long_opts, NULL)) !=
	       -1) {
		if (c == 'o' && nr < (int)(sizeof(lists) / sizeof(lists[0])))
			lists[nr++] = optarg;
		else if (c == 's')
			a->sloppy = true;
		else if (c == 'f')
			a->fake = true;
		else if (c == 'v')
			a->verbose = true;
		else if (c == 'F')
			a->foreground = true;
		else if (c == 'N' && enter_namespace(optarg) != 0)
			return EX_SYSTEM;
		else if (c == 'h' || c == 'V') {
			if (c == 'h')
				usage(stdout);
			else
				(void)printf("mount.pindax %s\n",
					     PINDAX_VERSION);
			return 0;
		} else if (c == '?') {
			usage(stderr);
			return EX_USAGE_;
		}
	}
	if (argc - optind != 2) {
		usage(stderr);
		return EX_USAGE_;
	}
	a->pool = argv[optind];
	a->dir = argv[optind + 1];
	for (int i = 0; i < nr; i++) {
		if (parse_list(a, lists[i]) != 0)
			return EX_USAGE_;
	}
	return -1;
}

/* --- the mount --- */

static int exit_code(int err)
{
	if (err == -EACCES || err == -EPERM)
		return EX_USAGE_;
	return err == -ENOMEM ? EX_SYSTEM : EX_FAIL;
}

static void give_verdict(void *arg)
{
	struct args *a = arg;
	unsigned char code = 0;
	int fd;

	if (a->verdict_fd < 0)
		return;
	serve_log_init(true);
	if (write(a->verdict_fd, &code, 1) != 1)
		return; /* the parent is gone: nobody to tell */
	close(a->verdict_fd);
	a->verdict_fd = -1;
	fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	for (int i = 0; i < 3; i++)
		(void)dup2(fd, i);
	if (fd > 2)
		close(fd);
}

static void print_report(const struct args *a, const struct fs_report *rep)
{
	if (rep->emulated)
		complain("emulated pmem: survives processes, not a power cut");
	if (a->fs.pinned == PINNED_UNSAFE)
		complain("WARNING: pinned=unsafe corrupts files on purpose; "
			 "it is for the demo only");
	if (rep->label_copy_bad >= 0)
		complain("label copy %d is damaged; using the other",
			 rep->label_copy_bad);
	if (rep->media.sb_bad >= 0)
		complain("superblock copy %d is damaged; using the other",
			 rep->media.sb_bad);
	if (rep->reason[0])
		complain("direct mapping yes, pins no: %s", rep->reason);
	else if (!rep->fence_ok)
		complain("late DMA cannot be fenced on this backing");
	if (rep->media.unclean && a->verbose)
		complain("was not unmounted cleanly: %llu transactions "
			 "replayed, %llu orphans",
			 (unsigned long long)rep->media.replayed,
			 (unsigned long long)rep->media.orphans);
}

static void pause_ms(long ms)
{
	struct timespec t = {.tv_sec = ms / 1000,
			     .tv_nsec = (ms % 1000) * 1000000L};

	(void)nanosleep(&t, NULL);
}

/*
 * umount returns before its daemon has exited: while the pool is mounted
 * nowhere, its claim is about to be dropped.
 */
static int open_fs(struct args *a, struct fs **ret_fs, struct fs_report *rep)
{
	char dir[PATH_MAX];
	int err;

	for (int waited = 0;; waited += CLAIM_POLL_MS) {
		err = fs_open(a->pool_path, &a->fs, ret_fs, rep);
		if (err != -EBUSY || rep->nr_clients)
			break;
		if (preflight_mounted(a->pool_path, dir, sizeof(dir))) {
			complain("%s is already mounted on %s, by pid %d",
				 a->pool, dir, (int)rep->holder);
			return err;
		}
		if (waited >= CLAIM_WAIT_MS)
			break;
		pause_ms(CLAIM_POLL_MS);
	}
	if (err)
		complain("%s", rep->error);
	return err;
}

static int do_mount(struct args *a)
{
	struct fs_report rep;
	struct fs *fs;
	int err;

	serve_log_init(false);
	err = open_fs(a, &fs, &rep);
	if (err)
		return exit_code(err);
	print_report(a, &rep);
	err = serve(fs, &a->serve);
	if (err && (a->verdict_fd >= 0 || a->foreground))
		complain("cannot mount on %s", a->dir);
	fs_close(fs);
	return err ? exit_code(err) : 0;
}

/* The parent's side: the verdict, or the exit code of a child without one. */
static int wait_verdict(int fd)
{
	unsigned char code;
	ssize_t n;

	do {
		n = read(fd, &code, 1);
	} while (n < 0 && errno == EINTR);
	if (n == 1)
		return code;
	complain("the daemon died before the mount was ready");
	return EX_SYSTEM;
}

static int background(struct args *a)
{
	unsigned char code;
	int fds[2];
	pid_t pid;

	if (pipe2(fds, O_CLOEXEC) != 0) {
		complain("pipe: %s", strerror(errno));
		return EX_SYSTEM;
	}
	pid = fork();
	if (pid < 0) {
		complain("fork: %s", strerror(errno));
		return EX_SYSTEM;
	}
	if (pid > 0) {
		close(fds[1]);
		return wait_verdict(fds[0]);
	}
	close(fds[0]);
	(void)setsid();
	if (chdir("/") != 0)
		return EX_SYSTEM;
	a->verdict_fd = fds[1];
	code = (unsigned char)do_mount(a);
	if (a->verdict_fd >= 0 && write(a->verdict_fd, &code, 1) != 1)
		return EX_SYSTEM;
	return code;
}

static int resolve(struct args *a)
{
	char why[512];

	if (!realpath(a->pool, a->pool_path)) {
		complain("%s: %s%s", a->pool, strerror(errno),
			 errno == ENOENT ? "; make a pool with mkfs.pindax"
					 : "");
		return EX_FAIL;
	}
	if (preflight_mountpoint(a->dir, why, sizeof(why)) != 0 ||
	    preflight_fuse(why, sizeof(why)) != 0) {
		complain("%s", why);
		return EX_FAIL;
	}
	if (!realpath(a->dir, a->dir_path)) {
		complain("%s: %s", a->dir, strerror(errno));
		return EX_FAIL;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct args a = {.verdict_fd = -1};
	int code = parse_args(&a, argc, argv);

	if (code >= 0)
		return code;
	code = resolve(&a);
	if (code || a.fake)
		return code;
	if (geteuid() == 0)
		a.serve.allow_other = true;
	/* As in fstab: what is mounted must look like what was asked for. */
	a.serve.source = a.pool[0] == '/' ? a.pool : a.pool_path;
	a.serve.mountpoint = a.dir_path;
	a.serve.mount_flags = a.mount_flags;
	a.serve.ready = give_verdict;
	a.serve.ready_arg = &a;
	a.fs.notify = serve_notify;
	return a.foreground ? do_mount(&a) : background(&a);
}
