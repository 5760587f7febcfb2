/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The demo's own filesystem: private directories, a pool on tmpfs, a mount.
 *
 * Owns: everything the demo leaves on the machine while it runs, and its
 * removal. The pool lies in a private directory on a tmpfs, as only memory
 * there can be pinned for long; the mount point in one under --dir, or beside
 * it. mkfs.pindax and mount.pindax are those beside this program, else those in
 * PATH.
 *
 * The daemon runs in the foreground as a child, so that its end can be waited
 * for: umount(8) returns before the server has given up the pool. It has a
 * process group of its own (the terminal's Ctrl-C must reach the demo first,
 * which ends things in order) and is told to unmount when the demo dies.
 * Its words go to a log that is shown only when something fails.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"
#include "fs/proto.h"

#define POOL_BYTES (96ULL << 20)
#define SMALL_POOL_BYTES (48ULL << 20) /* fits a container's /dev/shm */
#define ROOM_BYTES (8ULL << 20)
#define READY_MS 20000
#define STOP_MS 15000

/* Free bytes of the tmpfs at @dir; 0 when it is none or not ours to use. */
static uint64_t tmpfs_room(const char *dir)
{
	struct statfs fs;

	if (!dir || statfs(dir, &fs) || fs.f_type != TMPFS_MAGIC ||
	    access(dir, W_OK | X_OK))
		return 0;
	return (uint64_t)fs.f_bavail * (uint64_t)fs.f_bsize;
}

static int make_private(const char *dir, char *ret_path, size_t len)
{
	snprintf(ret_path, len, "%s/pindax-demo-XXXXXX", dir);
	if (mkdtemp(ret_path))
		return 0;
	say_errno(dir, errno);
	ret_path[0] = '\0';
	return EXIT_CANNOT;
}

static const char *choose_tmpfs(const char *dir, uint64_t *ret_room)
{
	const char *place[] = {dir, "/dev/shm", getenv("XDG_RUNTIME_DIR"),
			       getenv("TMPDIR"), "/tmp"};
	const char *best = NULL;

	*ret_room = 0;
	for (size_t i = 0; i < sizeof(place) / sizeof(place[0]); i++) {
		uint64_t room = tmpfs_room(place[i]);

		if (room >= POOL_BYTES + ROOM_BYTES) {
			*ret_room = room;
			return place[i];
		}
		if (room > *ret_room) {
			*ret_room = room;
			best = place[i];
		}
	}
	return best;
}

int demo_mount_prepare(struct demo_mount *m, const char *dir,
		       uint64_t *ret_pool_bytes)
{
	const char *tmp = getenv("TMPDIR"), *tmpfs;
	uint64_t room;
	int code;

	memset(m, 0, sizeof(*m));
	tmpfs = choose_tmpfs(dir, &room);
	if (room < SMALL_POOL_BYTES + ROOM_BYTES) {
		say("no tmpfs with %llu MiB free for the demo's pool (looked "
		    "at "
		    "--dir, /dev/shm, XDG_RUNTIME_DIR, TMPDIR, /tmp)",
		    (SMALL_POOL_BYTES + ROOM_BYTES) >> 20);
		say("make one: `mount -t tmpfs -o size=128M tmpfs DIR`, then "
		    "--dir DIR; for a container: --shm-size=128m");
		return EXIT_CANNOT;
	}
	*ret_pool_bytes =
		room >= POOL_BYTES + ROOM_BYTES ? POOL_BYTES : SMALL_POOL_BYTES;
	code = make_private(tmpfs, m->pool_dir, sizeof(m->pool_dir));
	if (code)
		return code;
	if (!dir)
		dir = tmp && *tmp ? tmp : "/tmp";
	code = make_private(dir, m->mount_dir, sizeof(m->mount_dir));
	if (code)
		return code;
	snprintf(m->pool, sizeof(m->pool), "%s/pool", m->pool_dir);
	snprintf(m->log, sizeof(m->log), "%s/log", m->pool_dir);
	return 0;
}

/* @name beside this program, else just its name for a search in PATH. */
static void find_program(const char *name, char *ret_path, size_t len)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash;

	if (n > 0) {
		self[n] = '\0';
		slash = strrchr(self, '/');
		if (slash)
			*slash = '\0';
		snprintf(ret_path, len, "%s/%s", self, name);
		if (!access(ret_path, X_OK))
			return;
	}
	snprintf(ret_path, len, "%s", name);
}

/* In the child: never returns. */
static void become(const char *log_path, const char *path, char *const *argv)
{
	/* clang 14 loses the array behind log_path across fork() and takes it
	 * for NULL. NOLINTNEXTLINE(clang-analyzer-core.NonNullParamChecker) */
	int log = open(log_path, O_WRONLY | O_CREAT | O_APPEND, 0600);
	int null = open("/dev/null", O_RDONLY);

	setpgid(0, 0);
	signal(SIGINT, SIG_DFL);
	signal(SIGTERM, SIG_DFL);
	signal(SIGHUP, SIG_DFL);
	if (log < 0 || null < 0)
		_exit(1);
	dup2(null, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execvp(path, argv);
	dprintf(STDERR_FILENO, "%s: %s (build it, or put it into PATH)\n", path,
		strerror(errno));
	_exit(127);
}

/* Fork and run; output is appended to the log. -1 when fork fails. */
static pid_t start(const char *log_path, const char *name,
		   const char *const *args)
{
	const char *argv[12] = {name};
	char path[PATH_MAX + 64];
	pid_t pid, parent = getpid();

	find_program(name, path, sizeof(path));
	for (unsigned int i = 0; i < 10 && args[i]; i++)
		argv[i + 1] = args[i];
	fflush(NULL);
	pid = fork();
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (getppid() == parent)
		become(log_path, path, (char *const *)argv);
	_exit(1);
}

static void show_log(const struct demo_mount *m)
{
	FILE *f = fopen(m->log, "re");
	char line[1024];

	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		fprintf(stderr, "  %s", line);
	fclose(f);
}

static int make_fs(const struct demo_mount *m, uint64_t pool_bytes)
{
	char size[32];
	const char *args[] = {"-f", "-s", size, m->pool, NULL};
	pid_t pid;
	int status;

	snprintf(size, sizeof(size), "%lluM",
		 (unsigned long long)pool_bytes >> 20);
	pid = start(m->log, "mkfs.pindax", args);
	if (pid < 0)
		return say_errno("fork", errno), EXIT_CANNOT;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (!status)
		return 0;
	say("mkfs.pindax failed:");
	show_log(m);
	return EXIT_CANNOT;
}

static bool is_ready(const struct demo_mount *m)
{
	struct pindax_ioc_info in = {0};
	int fd = open(m->mount_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	bool ok;

	if (fd < 0)
		return false;
	ok = !call_ioctl(fd, PINDAX_IOC_INFO, &in);
	close(fd);
	return ok;
}

bool demo_mount_lost(struct demo_mount *m)
{
	int status;

	if (!m->daemon || waitpid(m->daemon, &status, WNOHANG) != m->daemon)
		return false;
	m->daemon = 0;
	if (WIFSIGNALED(status))
		say("mount.pindax was killed by signal %d (%s):",
		    WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		say("mount.pindax ended with status %d:", WEXITSTATUS(status));
	show_log(m);
	return true;
}

int demo_mount_start(struct demo_mount *m, uint64_t pool_bytes,
		     const char *policy, volatile const int *interrupted)
{
	char option[64];
	const char *args[] = {m->pool, m->mount_dir,   "-o",
			      option,  "--foreground", NULL};
	int code = make_fs(m, pool_bytes);

	if (code)
		return code;
	snprintf(option, sizeof(option), "pinned=%s", policy);
	m->daemon = start(m->log, "mount.pindax", args);
	if (m->daemon < 0) {
		m->daemon = 0;
		return say_errno("fork", errno), EXIT_CANNOT;
	}
	m->mounted = true;
	for (int ms = 0; ms < READY_MS && !*interrupted; ms += 5) {
		if (is_ready(m))
			return 0;
		if (demo_mount_lost(m))
			return EXIT_CANNOT;
		sleep_us(5000);
	}
	if (!*interrupted)
		say("mount.pindax was not ready within %d s", READY_MS / 1000);
	return EXIT_CANNOT;
}

static bool daemon_ended(struct demo_mount *m, int wait_ms)
{
	for (int ms = 0; m->daemon && ms < wait_ms; ms += 5) {
		if (waitpid(m->daemon, NULL, WNOHANG) == m->daemon)
			m->daemon = 0;
		else
			sleep_us(5000);
	}
	return !m->daemon;
}

static void detach(const struct demo_mount *m)
{
	char *argv[] = {"fusermount3",	      "-u", "-z", "-q",
			(char *)m->mount_dir, NULL};
	pid_t pid;

	if (!umount2(m->mount_dir, MNT_DETACH) || errno != EPERM)
		return;
	pid = fork();
	if (!pid) {
		execvp(argv[0], argv);
		_exit(127);
	}
	while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
		;
}

int demo_mount_stop(struct demo_mount *m)
{
	int code = 0;

	if (!m->mounted)
		return 0;
	if (m->daemon)
		kill(m->daemon, SIGTERM);
	if (!daemon_ended(m, STOP_MS)) {
		say("mount.pindax did not unmount within %d s; it is killed",
		    STOP_MS / 1000);
		kill(m->daemon, SIGKILL);
		(void)daemon_ended(m, STOP_MS); /* nothing more to be done */
		code = EXIT_CANNOT;
	}
	/* Nothing is mounted there after a clean end: then this fails. */
	detach(m);
	m->mounted = false;
	return code;
}

void demo_mount_remove(struct demo_mount *m)
{
	(void)demo_mount_stop(m); /* has said what went wrong */
	if (m->pool[0]) {
		unlink(m->pool);
		unlink(m->log);
	}
	if (m->mount_dir[0] && rmdir(m->mount_dir))
		say_errno(m->mount_dir, errno);
	if (m->pool_dir[0] && rmdir(m->pool_dir))
		say_errno(m->pool_dir, errno);
	m->mount_dir[0] = '\0';
	m->pool_dir[0] = '\0';
}
