/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device [-r] FILE OFFSET LEN - a device driver that scripts drive by hand.
 *
 * Maps the range (-r: of a descriptor opened for reading only), prints "ready",
 * then obeys one command a line of its input and answers each with a line:
 * "ok", a value, or an error's name.
 *
 *   pin / unpin          a declared pin of the whole range; up to 8 nest
 *   subpin FIRST NR      a pin of some pages of it (NOWAIT)
 *   register / unregister  the range as fixed buffer of an io_uring
 *   read                 start an IORING_OP_READ_FIXED of the range from a pipe
 *                        that holds nothing: a transfer in flight
 *   finish BYTE          let the data come, reap the completion, look at it
 *   store BYTE           store to every page, and load it back
 *   load PAGE            print the page's first byte
 *   munmap               munmap(2) of the addresses, past the library
 *   truncate SIZE        pindax_truncate() by this very thread
 * One thread: what a command does to the one that waits for it is the point.
 */
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "client/pindax.h"

#define PAGE 4096U
#define MAX_PINS 8

static struct device {
	int fd;
	size_t len;
	struct pindax_map *map;
	char *addr;
	struct pindax_pin *pin[MAX_PINS];
	unsigned int nr_pins;
	struct io_uring ring;
	struct pindax_pin *registration;
	int pipe[2];
} dev;

static int cmd_pin(long a, long b)
{
	(void)a;
	(void)b;
	if (dev.nr_pins == MAX_PINS)
		return -E2BIG;
	int ret = pindax_pin(dev.map, 0, dev.len, 0, &dev.pin[dev.nr_pins]);
	if (ret == 0)
		dev.nr_pins++;
	return ret;
}

static int cmd_subpin(long first, long nr)
{
	if (dev.nr_pins == MAX_PINS)
		return -E2BIG;
	int ret = pindax_pin(dev.map, (uint64_t)first * PAGE, (size_t)nr * PAGE,
			     PINDAX_NOWAIT, &dev.pin[dev.nr_pins]);
	if (ret == 0)
		dev.nr_pins++;
	return ret;
}

static int cmd_unpin(long a, long b)
{
	(void)a;
	(void)b;
	if (dev.nr_pins == 0)
		return -ENOENT;
	pindax_unpin(dev.pin[--dev.nr_pins]);
	return 0;
}

static int cmd_register(long a, long b)
{
	(void)a;
	(void)b;
	return pindax_register_buffers(dev.map, &dev.ring, NULL, 0,
				       &dev.registration);
}

static int cmd_unregister(long a, long b)
{
	(void)a;
	(void)b;
	return pindax_unregister_buffers(&dev.ring, dev.registration);
}

static int cmd_read(long a, long b)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&dev.ring);
	unsigned int len = dev.len < 65536 ? (unsigned int)dev.len : 65536;

	(void)a;
	(void)b;
	if (sqe == NULL)
		return -EBUSY;
	io_uring_prep_read_fixed(sqe, dev.pipe[0], dev.addr, len, 0, 0);
	int ret = io_uring_submit(&dev.ring);
	return ret < 0 ? ret : 0;
}

static int cmd_finish(long byte, long b)
{
	struct io_uring_cqe *cqe;
	char buf[PAGE];

	(void)b;
	memset(buf, (int)byte, sizeof(buf));
	if (write(dev.pipe[1], buf, sizeof(buf)) != (ssize_t)sizeof(buf))
		return -errno;
	int ret = io_uring_wait_cqe(&dev.ring, &cqe);
	if (ret != 0)
		return ret;
	ret = cqe->res;
	io_uring_cqe_seen(&dev.ring, cqe);
	if (ret < 0)
		return ret;
	return memcmp(dev.addr, buf, (size_t)ret) == 0 ? 0 : -EBADMSG;
}

static int cmd_store(long byte, long b)
{
	volatile char *p = dev.addr;
	size_t off;

	(void)b;
	for (off = 0; off < dev.len; off += PAGE)
		p[off] = (char)byte;
	for (off = 0; off < dev.len; off += PAGE)
		if (p[off] != (char)byte)
			return -EBADMSG;
	return 0;
}

static int cmd_load(long page, long b)
{
	volatile unsigned char *p = (unsigned char *)dev.addr;

	(void)b;
	printf("%d\n", p[(size_t)page * PAGE]);
	return 1; /* has answered */
}

static int cmd_munmap(long a, long b)
{
	(void)a;
	(void)b;
	return munmap(dev.addr, dev.len) == 0 ? 0 : -errno;
}

static int cmd_truncate(long size, long b)
{
	(void)b;
	return pindax_truncate(dev.fd, size);
}

static const struct command {
	const char *name;
	int (*fn)(long a, long b);
} commands[] = {
	{"pin", cmd_pin},
	{"subpin", cmd_subpin},
	{"unpin", cmd_unpin},
	{"register", cmd_register},
	{"unregister", cmd_unregister},
	{"read", cmd_read},
	{"finish", cmd_finish},
	{"store", cmd_store},
	{"load", cmd_load},
	{"munmap", cmd_munmap},
	{"truncate", cmd_truncate},
};

static void obey(char *line)
{
	char *save, *name = strtok_r(line, " \n", &save);
	long arg[2] = {0, 0};
	int ret = -EINVAL;
	size_t i;

	for (i = 0; i < 2; i++) {
		char *s = strtok_r(NULL, " \n", &save);

		if (s != NULL)
			arg[i] = strtol(s, NULL, 0);
	}
	for (i = 0; name && i < sizeof(commands) / sizeof(*commands); i++)
		if (strcmp(name, commands[i].name) == 0)
			ret = commands[i].fn(arg[0], arg[1]);
	if (ret <= 0)
		puts(ret == 0 ? "ok" : strerrorname_np(-ret));
	fflush(stdout);
}

static int fatal(const char *what, int err)
{
	printf("%s: %s: %s\n", what, strerrorname_np(-err), pindax_errormsg());
	return 1;
}

int main(int argc, char **argv)
{
	struct pindax_file *file;
	char line[256];
	int flags = O_RDWR, ret;

	if (argc > 1 && strcmp(argv[1], "-r") == 0) {
		flags = O_RDONLY;
		argc--;
		argv++;
	}
	if (argc != 4) {
		fprintf(stderr, "usage: device [-r] FILE OFFSET LEN\n");
		return 2;
	}
	dev.fd = open(argv[1], flags);
	if (dev.fd < 0 || pipe(dev.pipe) != 0)
		return fatal(argv[1], -errno);
	ret = pindax_open(dev.fd, &file);
	if (ret != 0)
		return fatal("pindax_open", ret);
	dev.len = strtoul(argv[3], NULL, 0);
	ret = pindax_map(file, strtoull(argv[2], NULL, 0), dev.len,
			 PROT_READ | PROT_WRITE, 0, &dev.map);
	if (ret != 0)
		return fatal("pindax_map", ret);
	dev.addr = pindax_map_addr(dev.map);
	ret = io_uring_queue_init(8, &dev.ring, 0);
	if (ret != 0)
		return fatal("io_uring_queue_init", ret);
	puts("ready");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin) != NULL)
		obey(line);
	return 0;
}
