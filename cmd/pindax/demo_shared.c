/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What all processes of the demo use: clock, random numbers, stamps, and the
 * event arrays in shared memory.
 *
 * A stamp covers its whole 4 KiB block: three words that name writer and block,
 * a pattern made of them, and a checksum. So one foreign byte is found, and a
 * block that the device overwrote can be proven to be the device's.
 *
 * The event arrays are filled through an atomic counter; a slot belongs to who
 * drew it, and the parent reads them when the writers have ended: no locks.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"

#define STAMP_WORDS (PINDAX_PAGE / sizeof(uint64_t))

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

void sleep_us(uint64_t us)
{
	struct timespec t = {
		.tv_sec = (time_t)(us / 1000000),
		.tv_nsec = (long)(us % 1000000) * 1000,
	};

	nanosleep(&t, NULL);
}

uint64_t random_next(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ULL;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
	return z ^ (z >> 31);
}

/* The last word of a block: a checksum over all before it (FNV-1a, by words) */
static uint64_t stamp_sum(const uint64_t *w)
{
	uint64_t sum = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < STAMP_WORDS - 1; i++)
		sum = (sum ^ w[i]) * 0x100000001b3ULL;
	return sum;
}

void stamp_fill(void *block, uint64_t who, uint64_t a, uint64_t b)
{
	uint64_t *w = block, x = who ^ a * 31 ^ b;

	w[0] = who;
	w[1] = a;
	w[2] = b;
	for (size_t i = 3; i < STAMP_WORDS - 1; i++) {
		x = x * 6364136223846793005ULL + 1442695040888963407ULL;
		w[i] = x;
	}
	w[STAMP_WORDS - 1] = stamp_sum(w);
}

bool stamp_is(const void *block, uint64_t who)
{
	const uint64_t *w = block;

	return w[0] == who && w[STAMP_WORDS - 1] == stamp_sum(w);
}

int demo_fail(struct demo_phase *p, enum demo_role_id role, const char *fmt,
	      ...)
{
	va_list ap;

	va_start(ap, fmt);
	if (!p->role[role].error[0])
		vsnprintf(p->role[role].error, sizeof(p->role[role].error), fmt,
			  ap);
	va_end(ap);
	p->stop = true;
	return EXIT_FAILURE;
}

struct demo_pin *demo_new_pin(struct demo_phase *p)
{
	uint32_t i = atomic_fetch_add(&p->nr_pins, 1);

	return i < DEMO_MAX_PINS ? &p->pin[i] : NULL;
}

struct demo_op *demo_new_op(struct demo_phase *p)
{
	uint32_t i = atomic_fetch_add(&p->nr_ops, 1);

	return i < DEMO_MAX_OPS ? &p->op[i] : NULL;
}

struct demo_hit *demo_new_hit(struct demo_phase *p)
{
	uint32_t i = atomic_fetch_add(&p->nr_hits, 1);

	return i < DEMO_MAX_HITS ? &p->hit[i] : NULL;
}
