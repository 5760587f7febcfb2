/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax pins - who holds pages, and who waits for them.
 *
 * Owns: the two tables and the JSON that scripts read (its keys are a promise:
 * docs of the command). One snapshot is printed: every row is of the same
 * moment. Ages are seconds since the row's time stamp, by the clock of the
 * snapshot. A range to the end of the file has length null in JSON and "to end"
 * in the table.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/report.h"

static bool is_holder(const struct pindax_report_row *row)
{
	return row->kind <= PINDAX_HELD_URING;
}

static double age_s(const struct report *r, const struct pindax_report_row *row)
{
	return r->now_ns > row->since_ns
		       ? (double)(r->now_ns - row->since_ns) / 1e9
		       : 0;
}

static const char *range_text(const struct pindax_report_row *row, char *buf,
			      size_t len)
{
	if (row->len == UINT64_MAX)
		snprintf(buf, len, "%" PRIu64 " to end", row->off);
	else
		snprintf(buf, len, "%" PRIu64 "+%" PRIu64, row->off, row->len);
	return buf;
}

static void print_holders(const struct report *r, char *const *path)
{
	bool any = false;

	for (uint32_t i = 0; i < r->nr; i++) {
		const struct pindax_report_row *row = &r->row[i];
		char range[64];

		if (!is_holder(row))
			continue;
		if (!any)
			printf("%-8s %-15s %6s %-6s %10s  %-24s %s\n", "PID",
			       "COMMAND", "UID", "KIND", "AGE", "RANGE",
			       "FILE");
		any = true;
		printf("%-8u %-15.16s %6u %-6s %8.3f s  %-24s %s\n", row->pid,
		       row->comm, row->uid, report_kind_text(row->kind),
		       age_s(r, row), range_text(row, range, sizeof(range)),
		       path[i] ? path[i] : "(unlinked)");
	}
	if (!any)
		puts("no leases and no pins");
}

static void print_waiters(const struct report *r, char *const *path)
{
	bool any = false;

	for (uint32_t i = 0; i < r->nr; i++) {
		const struct pindax_report_row *row = &r->row[i];
		uint32_t shown = row->nr_for < PINDAX_REPORT_FOR
					 ? row->nr_for
					 : PINDAX_REPORT_FOR;
		char range[64];

		if (is_holder(row))
			continue;
		if (!any)
			printf("\n%-8s %-15s %-10s %10s  %-24s %-12s %s\n",
			       "PID", "COMMAND", "WAITS IN", "SINCE", "RANGE",
			       "FOR", "FILE");
		any = true;
		printf("%-8u %-15.16s %-10s %8.3f s  %-24s ", row->pid,
		       row->comm, report_kind_text(row->kind), age_s(r, row),
		       range_text(row, range, sizeof(range)));
		int n = 0;

		for (uint32_t j = 0; j < shown; j++)
			n += printf("%s%u", j ? "," : "", row->for_pid[j]);
		if (row->nr_for > shown)
			n += printf(",...");
		if (!n)
			n = printf("-");
		printf("%*s %s\n", n < 12 ? 12 - n : 0, "",
		       path[i] ? path[i] : "(unlinked)");
	}
	if (!any)
		puts("no waiters");
}

static json_object *json_row(const struct report *r,
			     const struct pindax_report_row *row,
			     const char *path)
{
	json_object *o = json_object_new_object();
	bool holder = is_holder(row);

	json_put_u64(o, "pid", row->pid);
	json_put_str(o, "comm", row->comm);
	if (holder)
		json_put_u64(o, "uid", row->uid);
	else
		json_put_str(o, "op", report_kind_text(row->kind));
	json_put_str(o, "path", path);
	json_put_u64(o, "offset", row->off);
	if (row->len == UINT64_MAX)
		json_object_object_add(o, "length", NULL);
	else
		json_put_u64(o, "length", row->len);
	if (holder)
		json_put_str(o, "kind", report_kind_text(row->kind));
	json_put_num(o, holder ? "age_s" : "waiting_s", age_s(r, row), 6);
	return o;
}

static int print_json(const struct report *r, char *const *path)
{
	json_object *top = json_object_new_object();
	json_object *holders = json_object_new_array();
	json_object *waiters = json_object_new_array();

	for (uint32_t i = 0; i < r->nr; i++) {
		const struct pindax_report_row *row = &r->row[i];
		json_object *o = json_row(r, row, path[i]);

		if (is_holder(row)) {
			json_object_array_add(holders, o);
			continue;
		}
		json_object *pids = json_object_new_array();

		for (uint32_t j = 0; j < row->nr_for && j < PINDAX_REPORT_FOR;
		     j++)
			json_object_array_add(
				pids, json_object_new_uint64(row->for_pid[j]));
		json_object_object_add(o, "for", pids);
		json_object_array_add(waiters, o);
	}
	json_object_object_add(top, "holders", holders);
	json_object_object_add(top, "waiters", waiters);
	return json_print(top);
}

/* @arg is what the user called it; @file: that is a file. */
static int show(int fd, const char *root, const char *arg, bool file, bool json)
{
	struct report r;
	char **path;
	int err;

	err = report_read(fd, file ? 0 : PINDAX_REPORT_MOUNT, &r);
	if (err)
		return say_errno(arg, -err);
	path = calloc((size_t)r.nr + 1, sizeof(*path));
	if (!path) {
		report_free(&r);
		return say_errno("pins", ENOMEM);
	}
	for (uint32_t i = 0; i < r.nr; i++) {
		r.row[i].comm[sizeof(r.row[i].comm) - 1] = '\0';
		text_clean(r.row[i].comm);
		path[i] = report_path(fd, root, r.row[i].ino);
		if (path[i])
			text_clean(path[i]);
	}
	err = 0;
	if (json) {
		err = print_json(&r, path);
	} else {
		print_holders(&r, path);
		print_waiters(&r, path);
	}
	for (uint32_t i = 0; i < r.nr; i++)
		free(path[i]);
	free(path);
	report_free(&r);
	return err;
}

/* The directory that holds @file, to find the mount's root from. */
static int parent_dir(const char *file)
{
	char *real = realpath(file, NULL);
	int fd;

	if (!real)
		return -1;
	*strrchr(real, '/') = '\0';
	fd = open(*real ? real : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	free(real);
	return fd;
}

static int pins_of(const char *arg, bool json)
{
	char *root = NULL;
	struct stat st;
	int fd, dir, err;

	fd = open(arg, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st)) {
		err = say_errno(arg, errno);
		goto out_close;
	}
	dir = S_ISDIR(st.st_mode) ? dup(fd) : parent_dir(arg);
	if (dir < 0) {
		err = say_errno(arg, errno);
		goto out_close;
	}
	err = mount_root(dir, &root);
	close(dir);
	if (err) {
		err = say_errno(arg, -err);
		goto out_close;
	}
	if (S_ISDIR(st.st_mode)) {
		close(fd);
		fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		err = fd < 0 ? say_errno(root, errno)
			     : show(fd, root, arg, false, json);
	} else {
		err = show(fd, root, arg, true, json);
	}
	free(root);
out_close:
	if (fd >= 0)
		close(fd);
	return err;
}

static int run(const struct command *self, int argc, char **argv)
{
	return command_show(self, argc, argv, "DIR or FILE", pins_of);
}

const struct command cmd_pins = {
	.name = "pins",
	.args = "DIR|FILE [--json]",
	.summary = "Who holds which pages of a mount or file, and who waits",
	.help = "A DIR stands for the whole mount that it is in; of a FILE "
		"only its own rows\n"
		"are shown. Kinds: lease (a direct mapping), pin, uring "
		"(registered buffers).\n"
		"\n"
		"  -j, --json  one line:\n"
		"      "
		"{\"holders\":[{\"pid\",\"comm\",\"uid\",\"path\",\"offset\","
		"\"length\",\"kind\",\n"
		"      "
		"\"age_s\"}],\"waiters\":[{\"pid\",\"comm\",\"op\",\"path\","
		"\"offset\",\"length\",\n"
		"      \"waiting_s\",\"for\":[pid,...]}]}\n"
		"      length is null for a range that goes to the end of the "
		"file, path is\n"
		"      null for an unlinked file; op is truncate, punch, zero, "
		"open-trunc, pin,\n"
		"      fill, orphan, or reserved (an operation that has waited "
		"and may go on).\n"
		"\n"
		"Exit codes: 0 shown, 1 failed, 2 misuse.\n",
	.run = run,
};
