/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Messages that say what to do, the reading of sizes, and JSON output.
 *
 * Owns: every text that the commands print for an errno. A message names the
 * object first, then what is wrong with it, then the command or setting that
 * helps, if there is one. JSON goes to stdout only, messages to stderr only.
 * No state, no locks.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <unistd.h>
#include "client/pindax.h"
#include "cmd/pindax/command.h"

void say(const char *fmt, ...)
{
	va_list ap;

	fflush(stdout);
	fprintf(stderr, "pindax: ");
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
}

/*
 * The mount point above @path, from the mount table: a mount whose daemon is
 * gone cannot be asked by stat(2).
 */
static void mount_point_of(const char *path, char *ret_dir)
{
	char abs[PATH_MAX * 2], cwd[PATH_MAX], line[PATH_MAX * 2],
		dir[PATH_MAX];
	size_t best = 0;
	FILE *f;

	snprintf(ret_dir, PATH_MAX, "DIR");
	if (path[0] != '/' && getcwd(cwd, sizeof(cwd)))
		snprintf(abs, sizeof(abs), "%s/%s", cwd, path);
	else
		snprintf(abs, sizeof(abs), "%s", path);
	f = fopen("/proc/self/mounts", "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %4095s fuse", dir) != 1)
			continue;
		size_t n = strlen(dir);

		if (n <= best || strncmp(abs, dir, n) != 0 ||
		    (abs[n] != '/' && abs[n] != '\0'))
			continue;
		best = n;
		snprintf(ret_dir, PATH_MAX, "%s", dir);
	}
	fclose(f);
}

int say_errno(const char *path, int err)
{
	char dir[PATH_MAX];

	switch (err) {
	case ENOTCONN:
	case ECONNABORTED:
		mount_point_of(path, dir);
		say("%s: %s: the daemon of this mount is gone; "
		    "run `umount -l %s` and mount again",
		    path, strerror(err), dir);
		break;
	case ENOTTY:
		say("%s: is not on a pindax mount", path);
		break;
	case ETXTBSY:
		say("%s: pinned, and the mount has pinned=fail; "
		    "`pindax pins %s` says by whom",
		    path, path);
		break;
	case ETIMEDOUT:
		say("%s: still pinned when the time was up; "
		    "`pindax pins %s` says by whom",
		    path, path);
		break;
	default:
		say("%s: %s", path, strerror(err));
	}
	return EXIT_FAILURE;
}

int say_library(const char *path, int err)
{
	const char *msg = pindax_errormsg();
	struct rlimit lim;

	if (err == -ENOTCONN || err == -ECONNABORTED || err == -ENOTTY ||
	    err == -ETXTBSY || err == -ETIMEDOUT || !*msg)
		return say_errno(path, -err);
	say("%s: %s", path, msg);
	if (err == -ENOMEM && !strstr(msg, "ulimit") &&
	    !getrlimit(RLIMIT_MEMLOCK, &lim) && lim.rlim_cur != RLIM_INFINITY)
		say("the memlock limit is %" PRIu64
		    " KiB; raise it with `ulimit -l` if that is the reason",
		    (uint64_t)lim.rlim_cur / 1024);
	return EXIT_FAILURE;
}

void say_no_io_uring(int err)
{
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	char line[32] = "";
	long level;

	if (f) {
		if (!fgets(line, sizeof(line), f))
			line[0] = '\0';
		fclose(f);
	}
	level = strtol(line, NULL, 10);
	if (level > 0)
		say("io_uring is disabled by sysctl "
		    "kernel.io_uring_disabled=%ld; "
		    "enable it with `sysctl -w kernel.io_uring_disabled=0`",
		    level);
	else if (err == ENOSYS || err == EPERM)
		say("io_uring: %s: the kernel has none or a seccomp filter "
		    "hides it; in a container allow the io_uring system calls",
		    strerror(err));
	else if (err == ENOMEM)
		say("io_uring: no memory for a ring; "
		    "raise the memlock limit with `ulimit -l`");
	else
		say("io_uring: %s", strerror(err));
}

int parse_size(const char *s, uint64_t *ret_bytes)
{
	static const char units[] = "KMGT";
	unsigned int shift = 0;
	unsigned long long v;
	const char *unit;
	char *end;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	errno = 0;
	v = strtoull(s, &end, 0);
	if (errno)
		return -ERANGE;
	if (*end) {
		unit = strchr(units, toupper((unsigned char)*end));
		if (!unit || end[1])
			return -EINVAL;
		shift = 10 * (unsigned int)(unit - units + 1);
	}
	if (v > (unsigned long long)INT64_MAX >> shift)
		return -ERANGE;
	*ret_bytes = v << shift;
	return 0;
}

const char *size_text(uint64_t bytes, char *buf, size_t buf_len)
{
	static const char *const unit[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	unsigned int i = 0;

	for (; i < 4 && bytes && bytes % 1024 == 0; i++)
		bytes /= 1024;
	snprintf(buf, buf_len, "%" PRIu64 " %s", bytes, unit[i]);
	return buf;
}

/* Length of the UTF-8 sequence at @s, 0 when it is none. */
static size_t utf8_len(const unsigned char *s)
{
	size_t n = s[0] < 0x80		 ? 1
		   : (s[0] >> 5) == 0x06 ? 2
		   : (s[0] >> 4) == 0x0e ? 3
		   : (s[0] >> 3) == 0x1e ? 4
					 : 0;

	for (size_t i = 1; i < n; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	return n;
}

void text_clean(char *s)
{
	while (*s) {
		size_t n = utf8_len((unsigned char *)s);

		if (!n || (n == 1 && iscntrl((unsigned char)*s))) {
			*s = '?';
			n = 1;
		}
		s += n;
	}
}

int call_ioctl(int fd, unsigned long request, void *arg)
{
	return ioctl(fd, request, arg) < 0 ? -errno : 0;
}

void json_put_u64(struct json_object *o, const char *key, uint64_t v)
{
	json_object_object_add(o, key, json_object_new_uint64(v));
}

void json_put_str(struct json_object *o, const char *key, const char *v)
{
	json_object_object_add(o, key, v ? json_object_new_string(v) : NULL);
}

void json_put_num(struct json_object *o, const char *key, double v,
		  int decimals)
{
	char text[64];

	snprintf(text, sizeof(text), "%.*f", decimals, v);
	json_object_object_add(o, key, json_object_new_double_s(v, text));
}

int json_print(struct json_object *o)
{
	const int flags =
		JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE;
	int bad = puts(json_object_to_json_string_ext(o, flags)) < 0 ||
		  fflush(stdout);

	json_object_put(o);
	if (bad)
		say("standard output: %s", strerror(errno));
	return bad ? EXIT_FAILURE : 0;
}
