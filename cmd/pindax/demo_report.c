/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The demo's results: quantiles, the table, the JSON line.
 *
 * Owns: what the numbers are called. "wait" is how long an operation took that
 * waited for a pin, from call to return; "wake" is from the stamp before the
 * last unpin to that return, and so includes the kernel's unregistering of the
 * buffer. Reads the shared memory after its writers have ended. The JSON keys
 * are a promise.
 */
#include <inttypes.h>
#include <json-c/json.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/pindax/command.h"
#include "cmd/pindax/demo.h"

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

/* Nearest rank: the smallest sample that a share @q lies at or below. */
static double rank(const double *v, uint64_t nr, double q)
{
	uint64_t i = (uint64_t)ceil(q * (double)nr);

	return v[i ? i - 1 : 0];
}

static void quantiles(double *v, uint64_t nr, struct demo_quantiles *ret_q)
{
	memset(ret_q, 0, sizeof(*ret_q));
	ret_q->nr = nr;
	if (!nr)
		return;
	qsort(v, nr, sizeof(*v), compare);
	ret_q->p50 = rank(v, nr, 0.5);
	ret_q->p99 = rank(v, nr, 0.99);
	ret_q->max = v[nr - 1];
}

void demo_wait_quantiles(const struct demo_phase *p,
			 struct demo_quantiles *ret_wait,
			 struct demo_quantiles *ret_wake)
{
	uint64_t nr_ops = p->nr_ops < DEMO_MAX_OPS ? p->nr_ops : DEMO_MAX_OPS;
	double *wait = calloc(nr_ops + 1, sizeof(double));
	double *wake = calloc(nr_ops + 1, sizeof(double));
	uint64_t nr = 0;

	for (uint64_t i = 0; wait && wake && i < nr_ops; i++) {
		const struct demo_op *op = &p->op[i];

		if (!op->waited)
			continue;
		wait[nr] = (double)(op->end_ns - op->start_ns) / 1e3;
		wake[nr] = (double)(op->end_ns - op->unpin_ns) / 1e3;
		nr++;
	}
	quantiles(wait, nr, ret_wait);
	quantiles(wake, nr, ret_wake);
	free(wait);
	free(wake);
}

const char *demo_number(uint64_t v)
{
	static char buf[4][32];
	static unsigned int turn;
	char digits[24], *to = buf[turn++ % 4], *start = to;
	int n = snprintf(digits, sizeof(digits), "%" PRIu64, v);

	for (int i = 0; i < n; i++) {
		if (i && (n - i) % 3 == 0)
			*to++ = ',';
		*to++ = digits[i];
	}
	*to = '\0';
	return start;
}

static void line(FILE *to, const char *name, uint64_t unsafe, uint64_t wait)
{
	fprintf(to, "%-42s %16s %16s\n", name, demo_number(unsafe),
		demo_number(wait));
}

static void duration(FILE *to, const char *name, const struct demo_quantiles *q,
		     double us)
{
	char text[32] = "-";

	if (q->nr)
		snprintf(text, sizeof(text), "%.2f ms", us / 1e3);
	fprintf(to, "%-42s %16s %16s\n", name, "-", text);
}

void demo_print_table(FILE *to, const struct demo_setup *s,
		      const struct demo_phase *u, const struct demo_phase *w)
{
	struct demo_quantiles wait, wake;

	demo_wait_quantiles(w, &wait, &wake);
	fprintf(to, "\n%-42s %16s %16s\n", "", "pinned=unsafe", "pinned=wait");
	line(to, "truncates and punches done", u->truncates, w->truncates);
	line(to, "  waited for the device's pins", u->waits, w->waits);
	duration(to, "  wait, p50", &wait, wait.p50);
	duration(to, "  wait, p99", &wait, wait.p99);
	duration(to, "  wait, max", &wait, wait.max);
	duration(to, "  last unpin to return, p50", &wake, wake.p50);
	duration(to, "  last unpin to return, p99", &wake, wake.p99);
	line(to, "buffer registrations", u->registrations, w->registrations);
	line(to,
	     s->source_direct ? "DMA requests completed (O_DIRECT)"
			      : "requests completed (buffered, no O_DIRECT)",
	     u->dma_requests, w->dma_requests);
	line(to, "victim blocks checked", u->victim_blocks, w->victim_blocks);
	line(to, "  reused: the device's before", u->reused_blocks,
	     w->reused_blocks);
	line(to, "  CORRUPTED", u->corrupted_blocks, w->corrupted_blocks);
	line(to, "    of these with the device's stamp", u->device_stamps,
	     w->device_stamps);
	fputc('\n', to);
}

static json_object *json_counts(const struct demo_phase *p)
{
	json_object *o = json_object_new_object();

	json_put_u64(o, "truncates", p->truncates);
	json_put_u64(o, "dma_requests", p->dma_requests);
	return o;
}

static void json_blocks(json_object *o, const struct demo_phase *p)
{
	json_put_u64(o, "victim_blocks", p->victim_blocks);
	json_put_u64(o, "reused_blocks", p->reused_blocks);
	json_put_u64(o, "corrupted_blocks", p->corrupted_blocks);
}

int demo_print_json(const struct demo_phase *u, const struct demo_phase *w)
{
	json_object *top = json_object_new_object();
	json_object *unsafe = json_counts(u), *wait = json_counts(w);
	json_object *wait_us = json_object_new_object();
	json_object *wake_us = json_object_new_object();
	struct demo_quantiles wait_q, wake_q;

	demo_wait_quantiles(w, &wait_q, &wake_q);
	json_put_num(wait_us, "p50", wait_q.p50, 1);
	json_put_num(wait_us, "p99", wait_q.p99, 1);
	json_put_num(wait_us, "max", wait_q.max, 1);
	json_put_num(wake_us, "p50", wake_q.p50, 1);
	json_put_num(wake_us, "p99", wake_q.p99, 1);
	json_blocks(unsafe, u);
	json_put_u64(wait, "waits", w->waits);
	json_object_object_add(wait, "wait_us", wait_us);
	json_object_object_add(wait, "wake_us", wake_us);
	json_blocks(wait, w);
	json_object_object_add(top, "unsafe", unsafe);
	json_object_object_add(top, "wait", wait);
	return json_print(top);
}
