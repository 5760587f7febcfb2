/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * hostile FILE ROUNDS SEED - a client that lies, for scripts.
 *
 * Throws pindax's ioctls with random bytes, with plausible headers and random
 * rest, and with values at the edges, at an open file: alone, as a mapper that
 * was made but not proven, and with other descriptions' ids. Nothing may be
 * granted to it (it never proves that it can open the pool), nothing may hang
 * or kill the daemon. Exits 1 when a call that needs a proof succeeds.
 * PIN and BREAK of a file that nobody pins never park, so one thread is enough.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/proto.h"

static uint64_t state;

static uint64_t rnd(void) /* xorshift64: the seed repeats the run */
{
	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state;
}

static uint64_t edge(void)
{
	static const uint64_t v[] = {
		0,	    1,
		4095,	    4096,
		4097,	    1ULL << 20,
		1ULL << 31, UINT32_MAX,
		1ULL << 32, INT64_MAX,
		1ULL << 63, UINT64_MAX,
		-4096ULL,   INT64_MAX - 4095,
	};
	uint64_t i = rnd() % (sizeof(v) / sizeof(*v) + 1);

	return i < sizeof(v) / sizeof(*v) ? v[i] : rnd();
}

static const unsigned long cmds[] = {
	PINDAX_IOC_INFO,  PINDAX_IOC_MAPPER,  PINDAX_IOC_PROVE,
	PINDAX_IOC_FAULT, PINDAX_IOC_UNMAP,   PINDAX_IOC_EVENTS,
	PINDAX_IOC_ACK,	  PINDAX_IOC_PIN,     PINDAX_IOC_UNPIN,
	PINDAX_IOC_BREAK, PINDAX_IOC_EXTENTS, PINDAX_IOC_REPORT,
	PINDAX_IOC_PATH,  PINDAX_IOC_STAT,    PINDAX_IOC_MAPPER_DROP,
};

static unsigned long pick_cmd(void)
{
	unsigned long cmd = cmds[rnd() % (sizeof(cmds) / sizeof(*cmds))];

	switch (rnd() % 8) {
	case 0: /* a size that is not the command's */
		return _IOC(_IOC_DIR(cmd), PINDAX_IOC_TYPE, _IOC_NR(cmd),
			    rnd() % 16384);
	case 1: /* an unknown number */
		return _IOC(_IOC_READ | _IOC_WRITE, PINDAX_IOC_TYPE,
			    rnd() % 256, rnd() % 16384);
	default:
		return cmd;
	}
}

static void fill(uint64_t *buf, size_t words, uint64_t id)
{
	size_t i;

	memset(buf, 0, words * sizeof(*buf));
	switch (rnd() % 3) {
	case 0:
		for (i = 0; i < words; i++)
			buf[i] = rnd();
		break;
	case 1:
		for (i = 0; i < 8; i++)
			buf[i] = edge();
		break;
	default:
		buf[0] = id;
		for (i = 1; i < 6; i++)
			buf[i] = rnd() % 4 ? edge() : 0;
		break;
	}
}

/* Calls that hand out pages or pins. */
static int needs_proof(unsigned long cmd)
{
	return cmd == PINDAX_IOC_PROVE || cmd == PINDAX_IOC_FAULT ||
	       cmd == PINDAX_IOC_PIN;
}

int main(int argc, char **argv)
{
	struct pindax_ioc_mapper m = {.version = PINDAX_PROTO_VERSION};
	static uint64_t buf[2048];
	long rounds;
	int fd[2];

	if (argc != 4) {
		fprintf(stderr, "usage: hostile FILE ROUNDS SEED\n");
		return 2;
	}
	rounds = strtol(argv[2], NULL, 0);
	state = strtoull(argv[3], NULL, 0) | 1;
	fd[0] = open(argv[1], O_RDWR);
	fd[1] = open(argv[1], O_RDONLY);
	if (fd[0] < 0 || fd[1] < 0) {
		perror(argv[1]);
		return 2;
	}
	if (ioctl(fd[0], PINDAX_IOC_MAPPER, &m) != 0) {
		perror("MAPPER");
		return 2;
	}
	while (rounds-- > 0) {
		unsigned long cmd = pick_cmd();
		int which = rnd() % 4 == 0;

		fill(buf, sizeof(buf) / sizeof(*buf), m.id + rnd() % 3);
		if (ioctl(fd[which], cmd, buf) == 0 && needs_proof(cmd)) {
			printf("command %#lx succeeded unproven\n", cmd);
			return 1;
		}
		if (errno == ECONNABORTED || errno == ENOTCONN) {
			printf("the daemon is gone after %#lx\n", cmd);
			return 1;
		}
	}
	puts("ok");
	return 0;
}
