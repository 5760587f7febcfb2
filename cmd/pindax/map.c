/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax map - where a file's blocks are in the pool, as filefrag shows it.
 *
 * Owns: the walk over the EXTENTS ioctl and its table. Each call of the ioctl
 * is a moment of its own, so a file that changes meanwhile may show extents of
 * two moments, as with FIEMAP. Read: fs/proto.h, EXTENTS.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/extents.h"

#define HUGE_BYTES (2ULL << 20)

int extents_walk(int fd, uint64_t off, uint64_t end,
		 int (*fn)(const struct pindax_extent_info *e, void *arg),
		 void *arg)
{
	struct pindax_ioc_extents *q = malloc(sizeof(*q));
	int err = q ? 0 : -ENOMEM;

	while (!err && off < end) {
		memset(q, 0, sizeof(*q));
		q->off = off;
		err = call_ioctl(fd, PINDAX_IOC_EXTENTS, q);
		if (err || !q->nr)
			break;
		if (q->nr > PINDAX_EXTENTS_MAX) {
			err = -EPROTO;
			break;
		}
		for (uint32_t i = 0; i < q->nr && !err; i++)
			if (q->ext[i].file_off < end)
				err = fn(&q->ext[i], arg);
		uint64_t next =
			q->ext[q->nr - 1].file_off + q->ext[q->nr - 1].len;

		if (next <= off)
			err = err ? err : -EPROTO;
		off = next;
	}
	free(q);
	return err;
}

struct map_print {
	uint64_t size;
	uint64_t nr;
	uint64_t bytes;
	uint64_t huge_runs;
};

/* Whole 2 MiB runs of the extent that one page table entry could map. */
static uint64_t huge_runs(const struct pindax_extent_info *e)
{
	uint64_t first = (e->file_off + HUGE_BYTES - 1) / HUGE_BYTES;
	uint64_t last = (e->file_off + e->len) / HUGE_BYTES;

	if ((e->file_off ^ e->pool_off) & (HUGE_BYTES - 1))
		return 0;
	return last > first ? last - first : 0;
}

static int print_extent(const struct pindax_extent_info *e, void *arg)
{
	struct map_print *p = arg;
	uint64_t runs = huge_runs(e);
	bool last = e->file_off + e->len >= p->size;
	char len[32], flags[64] = "";

	if (!p->nr)
		printf("%6s %14s %14s %12s  %s\n", "EXTENT", "FILE OFFSET",
		       "POOL OFFSET", "LENGTH", "FLAGS");
	if (runs)
		snprintf(flags, sizeof(flags), "%" PRIu64 "x2MiB%s", runs,
			 last ? ",last" : "");
	else if (last)
		snprintf(flags, sizeof(flags), "last");
	printf("%6" PRIu64 " %14" PRIu64 " %14" PRIu64 " %12s  %s\n", p->nr,
	       e->file_off, e->pool_off, size_text(e->len, len, sizeof(len)),
	       flags);
	p->nr++;
	p->bytes += e->len;
	p->huge_runs += runs;
	return 0;
}

static int run(const struct command *self, int argc, char **argv)
{
	static const struct option opts[] = {
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct map_print p = {0};
	char size[32], bytes[32];
	struct stat st;
	int c, fd, err;

	while ((c = getopt_long(argc, argv, "h", opts, NULL)) >= 0)
		return c == 'h' ? command_help(self) : EXIT_USAGE;
	if (argc - optind != 1)
		return command_misuse(self, "one FILE, please");
	fd = open(argv[optind], O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return say_errno(argv[optind], errno);
	if (fstat(fd, &st)) {
		err = -errno;
		goto out_close;
	}
	p.size = (uint64_t)st.st_size;
	err = extents_walk(fd, 0, UINT64_MAX, print_extent, &p);
	if (!err)
		printf("%s: size %s, %" PRIu64 " extents, %s allocated, "
		       "%" PRIu64 " aligned 2 MiB runs\n",
		       argv[optind], size_text(p.size, size, sizeof(size)),
		       p.nr, size_text(p.bytes, bytes, sizeof(bytes)),
		       p.huge_runs);
out_close:
	close(fd);
	return err ? say_errno(argv[optind], -err) : 0;
}

const struct command cmd_map = {
	.name = "map",
	.args = "FILE",
	.summary = "Where a file's blocks are in the pool",
	.help = "One line an extent, offsets in bytes. Flags: Nx2MiB (so many "
		"runs are aligned\n"
		"to 2 MiB in file and pool and can be held as one page), "
		"last.\n"
		"\n"
		"Exit codes: 0 shown, 1 failed, 2 misuse.\n",
	.run = run,
};
