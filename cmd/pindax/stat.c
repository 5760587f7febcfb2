/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax stat - what a mount can do, what it holds, what it has done.
 *
 * Owns: the names of the counters, on the terminal and in JSON. Values are the
 * daemon's (STAT and INFO ioctls); the rows of one STAT answer are read without
 * a common lock, so sums over them may be off by what is under way.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "fs/proto.h"

struct counter {
	const char *key;
	const char *text;
	size_t off;
};
#define COUNTER(field, text)                                                   \
	{                                                                      \
#field, text, offsetof(struct pindax_ioc_stat, field)          \
	}
static const struct counter counters[] = {
	COUNTER(block_size, "block size"),
	COUNTER(blocks_total, "blocks"),
	COUNTER(blocks_free, "blocks free"),
	COUNTER(blocks_pending, "blocks freed, not yet fenced"),
	COUNTER(free_huge_runs, "free 2 MiB runs"),
	COUNTER(inodes_used, "inodes used"),
	COUNTER(orphans, "orphans"),
	COUNTER(mappers, "mappers"),
	COUNTER(leases, "leases"),
	COUNTER(pins, "pins"),
	COUNTER(pinned_pages, "pinned pages"),
	COUNTER(waiters, "waiters"),
	COUNTER(breaks, "breaks since the mount"),
	COUNTER(breaks_waited, "  of these waited"),
	COUNTER(recalls, "recalls"),
	COUNTER(faults, "faults"),
	COUNTER(fenced_pages, "fenced pages"),
	COUNTER(interrupted, "waits interrupted"),
	COUNTER(timed_out, "waits timed out"),
};
#define NR_COUNTERS (sizeof(counters) / sizeof(counters[0]))

static uint64_t value(const struct pindax_ioc_stat *st, const struct counter *c)
{
	uint64_t v;

	memcpy(&v, (const char *)st + c->off, sizeof(v));
	return v;
}

static const char *type_text(uint32_t type)
{
	return type == PINDAX_TYPE_FS_DAX	    ? "FS_DAX"
	       : type == PINDAX_TYPE_FS_DAX_LIMITED ? "FS_DAX_LIMITED"
						    : "?";
}

static int print_json(const struct pindax_ioc_stat *st,
		      const struct pindax_ioc_info *in)
{
	json_object *o = json_object_new_object();

	json_put_str(o, "version", st->version);
	json_put_str(o, "label", st->label);
	json_put_str(o, "pool", in->pool_path);
	json_put_u64(o, "daemon_pid", in->daemon_pid);
	json_put_str(o, "type", type_text(st->type));
	json_put_str(o, "reason", in->reason);
	json_put_str(o, "pinned", st->pinned);
	json_object_object_add(
		o, "emulated_pmem",
		json_object_new_boolean(!!(st->flags & PINDAX_INFO_EMULATED)));
	json_object_object_add(
		o, "fence",
		json_object_new_boolean(!!(st->flags & PINDAX_INFO_FENCE)));
	json_object_object_add(
		o, "readonly",
		json_object_new_boolean(!!(st->flags & PINDAX_INFO_READONLY)));
	json_put_num(o, "uptime_s", (double)st->uptime_ns / 1e9, 3);
	for (size_t i = 0; i < NR_COUNTERS; i++)
		json_put_u64(o, counters[i].key, value(st, &counters[i]));
	return json_print(o);
}

static void print_table(const struct pindax_ioc_stat *st,
			const struct pindax_ioc_info *in)
{
	printf("%-30s %s\n", "pool", in->pool_path);
	if (st->label[0])
		printf("%-30s %s\n", "label", st->label);
	printf("%-30s %u, version %s, up %.1f s\n", "daemon", in->daemon_pid,
	       st->version, (double)st->uptime_ns / 1e9);
	printf("%-30s %s\n", "type", type_text(st->type));
	if (in->reason[0])
		printf("%-30s %s\n", "", in->reason);
	printf("%-30s %s\n", "persistence",
	       st->flags & PINDAX_INFO_EMULATED
		       ? "emulated: survives processes, not a power cut"
		       : "survives a power cut");
	printf("%-30s %s\n", "late DMA can be fenced",
	       st->flags & PINDAX_INFO_FENCE ? "yes" : "no");
	printf("%-30s %s%s\n", "pinned=", st->pinned,
	       st->flags & PINDAX_INFO_READONLY ? ", read-only" : "");
	for (size_t i = 0; i < NR_COUNTERS; i++)
		printf("%-30s %" PRIu64 "\n", counters[i].text,
		       value(st, &counters[i]));
}

static int stat_of(const char *dir, bool json)
{
	struct pindax_ioc_stat st = {0};
	struct pindax_ioc_info in = {0};
	int fd, err;

	fd = open(dir, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return say_errno(dir, errno);
	err = call_ioctl(fd, PINDAX_IOC_STAT, &st);
	if (!err)
		err = call_ioctl(fd, PINDAX_IOC_INFO, &in);
	close(fd);
	if (err)
		return say_errno(dir, -err);
	st.label[sizeof(st.label) - 1] = '\0';
	st.pinned[sizeof(st.pinned) - 1] = '\0';
	st.version[sizeof(st.version) - 1] = '\0';
	in.reason[sizeof(in.reason) - 1] = '\0';
	in.pool_path[sizeof(in.pool_path) - 1] = '\0';
	text_clean(st.label);
	text_clean(in.pool_path);
	if (json)
		return print_json(&st, &in);
	print_table(&st, &in);
	return 0;
}

static int run(const struct command *self, int argc, char **argv)
{
	return command_show(self, argc, argv, "DIR", stat_of);
}

const struct command cmd_stat = {
	.name = "stat",
	.args = "DIR [--json]",
	.summary = "What a mount can do, what it holds, what it has done",
	.help = "DIR is any directory or file of the mount.\n"
		"\n"
		"  -j, --json  one line with the same values\n"
		"\n"
		"Exit codes: 0 shown, 1 failed, 2 misuse.\n",
	.run = run,
};
