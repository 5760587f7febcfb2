/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_TESTS_BENCH_H
#define PINDAX_TESTS_BENCH_H

/*
 * What the measuring programs share. They print lines of "NAME WHO VALUE",
 * which tests/bench/run collects, and end with status 1 and a message when they
 * could not measure: a figure is printed only when it was really measured.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#include "client/pindax.h"
#include "fs/proto.h"

#define MIB (1ULL << 20)
#define NS_PER_S 1000000000ULL

static inline uint64_t now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static inline void sleep_ns(uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S),
			      .tv_nsec = (long)(ns % NS_PER_S)};

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

_Noreturn static inline void die(const char *what, const char *why)
{
	fprintf(stderr, "bench: %s: %s\n", what, why);
	exit(EXIT_FAILURE);
}

/* @ret of a system call: -1 ends the program. */
static inline void must(int ret, const char *what)
{
	if (ret < 0)
		die(what, strerror(errno));
}

/* @ret of a call of libpindax: negative ends the program. */
static inline void must_pindax(int ret, const char *what)
{
	if (ret < 0)
		die(what, pindax_errormsg());
}

/*
 * Fork, before the library has threads. The child dies with its parent, so
 * that no measurement that was given up leaves a holder behind.
 */
static inline pid_t start_child(void)
{
	pid_t parent = getpid(), pid = fork();

	must(pid, "fork");
	if (pid)
		return pid;
	must(prctl(PR_SET_PDEATHSIG, SIGKILL), "prctl");
	if (getppid() != parent)
		_exit(EXIT_FAILURE);
	return 0;
}

static inline int compare_u64(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Of a sorted array, nearest rank. */
static inline uint64_t percentile(const uint64_t *sorted, size_t nr,
				  unsigned int percent)
{
	size_t rank = (nr * percent + 99) / 100;

	return sorted[rank ? rank - 1 : 0];
}

static inline unsigned long number(const char *s, unsigned long max)
{
	char *end;
	unsigned long v;

	errno = 0;
	v = strtoul(s, &end, 10);
	if (errno || end == s || *end || *s == '-' || v > max)
		die(s, "not a number, or too big");
	return v;
}

/* @cpu "any": wherever the scheduler likes. */
static inline void stay_on_cpu(const char *cpu)
{
	cpu_set_t set;

	if (!strcmp(cpu, "any"))
		return;
	CPU_ZERO(&set);
	CPU_SET(number(cpu, CPU_SETSIZE - 1), &set);
	must(sched_setaffinity(0, sizeof(set), &set), "sched_setaffinity");
}

#endif
