/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * When and where the device's blocks were somebody else's: worked out from the
 * events of a phase, for the picture.
 *
 * The file is cut at every boundary that occurs in an event, so that within one
 * row all bytes share one history: an operation's return takes the row's
 * blocks away, the next registration over it gives it new ones. A pin that
 * began before the blocks went and has not ended marks that part as pinned.
 * Rows with the same rectangle side by side are joined. Nothing is assumed
 * about either policy: that pinned=wait has no pinned zone is a result.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/pindax/zones.h"

#define LOOK_BACK_NS 1500000000ULL /* a row's state at the left edge */

struct step {
	uint64_t at_ns;
	uint64_t off, end;
	uint64_t pin_end_ns; /* 0: blocks go; else a registration */
};

struct zones {
	struct step *step;
	size_t nr_steps;
	uint64_t *cut;
	size_t nr_cuts;
	struct zone *zone;
	size_t nr, room;
	uint64_t from_ns, to_ns;
	int err;
};

static int by_time(const void *a, const void *b)
{
	const struct step *x = a, *y = b;

	return (x->at_ns > y->at_ns) - (x->at_ns < y->at_ns);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void add_step(struct zones *z, struct step s)
{
	if (s.at_ns + LOOK_BACK_NS < z->from_ns || s.at_ns > z->to_ns)
		return;
	z->step[z->nr_steps++] = s;
	z->cut[z->nr_cuts++] = s.off;
	z->cut[z->nr_cuts++] = s.end;
}

static int collect(struct zones *z, const struct demo_phase *p,
		   uint64_t file_bytes)
{
	size_t nr_ops = p->nr_ops < DEMO_MAX_OPS ? p->nr_ops : DEMO_MAX_OPS;
	size_t nr_pins =
		p->nr_pins < DEMO_MAX_PINS ? p->nr_pins : DEMO_MAX_PINS;
	size_t nr = nr_ops + nr_pins, kept = 0;

	z->step = calloc(nr + 1, sizeof(*z->step));
	z->cut = calloc(2 * nr + 2, sizeof(*z->cut));
	if (!z->step || !z->cut)
		return -ENOMEM;
	for (size_t i = 0; i < nr_ops; i++)
		add_step(z, (struct step){p->op[i].end_ns, p->op[i].off,
					  p->op[i].off + p->op[i].len, 0});
	for (size_t i = 0; i < nr_pins; i++)
		add_step(z, (struct step){p->pin[i].start_ns, p->pin[i].off,
					  p->pin[i].off + p->pin[i].len,
					  p->pin[i].end_ns});
	z->cut[z->nr_cuts++] = 0;
	z->cut[z->nr_cuts++] = file_bytes;
	qsort(z->step, z->nr_steps, sizeof(*z->step), by_time);
	qsort(z->cut, z->nr_cuts, sizeof(*z->cut), by_value);
	for (size_t i = 0; i < z->nr_cuts; i++)
		if (!kept || z->cut[kept - 1] != z->cut[i])
			z->cut[kept++] = z->cut[i];
	z->nr_cuts = kept;
	return 0;
}

/* Clip to the window and join with the same rectangle in the row before. */
static void emit(struct zones *z, struct zone n)
{
	if (n.from_ns < z->from_ns)
		n.from_ns = z->from_ns;
	if (n.to_ns > z->to_ns)
		n.to_ns = z->to_ns;
	if (n.from_ns >= n.to_ns)
		return;
	for (size_t i = 0; i < z->nr; i++) {
		struct zone *o = &z->zone[i];

		if (o->end != n.off || o->from_ns != n.from_ns ||
		    o->to_ns != n.to_ns || o->pinned != n.pinned)
			continue;
		o->end = n.end;
		return;
	}
	if (z->nr == z->room) {
		size_t room = z->room ? 2 * z->room : 64;
		struct zone *more = reallocarray(z->zone, room, sizeof(*more));

		if (!more) {
			z->err = -ENOMEM;
			return;
		}
		z->zone = more;
		z->room = room;
	}
	z->zone[z->nr++] = n;
}

static bool covers(const struct step *s, uint64_t off)
{
	return s->off <= off && off < s->end;
}

/* The blocks of a row are away in [from, to): that, and who pins them still. */
static void away(struct zones *z, uint64_t off, uint64_t end, uint64_t from,
		 uint64_t to)
{
	emit(z, (struct zone){from, to, off, end, false});
	for (size_t i = 0; i < z->nr_steps; i++) {
		const struct step *s = &z->step[i];

		if (s->at_ns >= from)
			break;
		if (!s->pin_end_ns || !covers(s, off) || s->pin_end_ns <= from)
			continue;
		emit(z, (struct zone){from,
				      s->pin_end_ns < to ? s->pin_end_ns : to,
				      off, end, true});
	}
}

static void one_row(struct zones *z, uint64_t off, uint64_t end)
{
	uint64_t since = 0;

	for (size_t i = 0; i < z->nr_steps; i++) {
		const struct step *s = &z->step[i];

		if (!covers(s, off))
			continue;
		if (!s->pin_end_ns) {
			since = since ? since : s->at_ns;
		} else if (since) {
			away(z, off, end, since, s->at_ns);
			since = 0;
		}
	}
	if (since)
		away(z, off, end, since, z->to_ns);
}

int zones_compute(const struct demo_phase *p, uint64_t file_bytes,
		  uint64_t from_ns, uint64_t to_ns, struct zone **ret_zone,
		  size_t *ret_nr)
{
	struct zones z = {.from_ns = from_ns, .to_ns = to_ns};
	int err = collect(&z, p, file_bytes);

	for (size_t i = 0; !err && i + 1 < z.nr_cuts; i++)
		one_row(&z, z.cut[i], z.cut[i + 1]);
	err = err ? err : z.err;
	free(z.step);
	free(z.cut);
	if (err) {
		free(z.zone);
		return err;
	}
	*ret_zone = z.zone;
	*ret_nr = z.nr;
	return 0;
}
