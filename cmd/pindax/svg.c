/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The demo's picture: one panel a phase, time to the right, the device's file
 * upwards; pins as bars, blocks given back as ground, truncates as brackets or
 * lines, corrupted blocks as red marks.
 *
 * Owns: the choice of the window (the part of each phase in which most happens)
 * and every line of SVG. The file is plain SVG 1.1 without scripts, fonts or
 * references, with a ground of its own, so that it reads alike in a browser, in
 * a README, and on a dark page. Marks nearer than a pixel or two are drawn
 * once.
 *
 * Read: zones.c for what "given back" means.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "cmd/pindax/zones.h"

#define WIDTH 1240
#define HEIGHT 922
#define LEFT 92
#define PLOT_W 1068
#define PLOT_H 270
#define PANEL_1 172 /* top of the plot */
#define PANEL_2 556
#define LEGEND_Y 884
#define WINDOW_NS 700000000ULL
#define SKIP_NS 200000000ULL /* the start of a phase is not typical */
#define MARK_PX 3.0

struct panel {
	FILE *f;
	const struct demo_phase *p;
	uint64_t file_bytes;
	uint64_t from_ns, to_ns;
	double top;
};

static uint64_t capped(uint32_t nr, uint32_t max)
{
	return nr < max ? nr : max;
}

static double px(const struct panel *n, uint64_t t)
{
	if (t <= n->from_ns)
		return LEFT;
	if (t >= n->to_ns)
		return LEFT + PLOT_W;
	return LEFT + PLOT_W * (double)(t - n->from_ns) /
			      (double)(n->to_ns - n->from_ns);
}

static double py(const struct panel *n, uint64_t off)
{
	return n->top + PLOT_H * (1 - (double)off / (double)n->file_bytes);
}

static bool visible(const struct panel *n, uint64_t start, uint64_t end)
{
	return end > n->from_ns && start < n->to_ns;
}

static void rect(const struct panel *n, const char *class, uint64_t t0,
		 uint64_t t1, uint64_t off, uint64_t end)
{
	double x = px(n, t0), y = py(n, end);

	fprintf(n->f,
		"<rect class=\"%s\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" "
		"height=\"%.1f\"/>\n",
		class, x, y, px(n, t1) - x, py(n, off) - y);
}

static void vline(const struct panel *n, const char *class, uint64_t t,
		  uint64_t off, uint64_t end)
{
	fprintf(n->f,
		"<line class=\"%s\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" "
		"y2=\"%.1f\"/>\n",
		class, px(n, t), px(n, t), py(n, end), py(n, off));
}

/* --- the window --- */

static unsigned int score(const struct demo_phase *p, uint64_t from,
			  uint64_t to)
{
	uint64_t nr_ops = capped(p->nr_ops, DEMO_MAX_OPS);
	uint64_t nr_hits = capped(p->nr_hits, DEMO_MAX_HITS);
	unsigned int s = 0;

	for (uint64_t i = 0; i < nr_ops; i++)
		if (p->op[i].waited && p->op[i].start_ns >= from &&
		    p->op[i].end_ns < to)
			s++;
	for (uint64_t i = 0; i < nr_hits; i++)
		if (p->hit[i].at_ns >= from && p->hit[i].at_ns < to)
			s++;
	return s;
}

static void choose_window(struct panel *n)
{
	uint64_t start = n->p->start_ns + SKIP_NS, best = start;
	unsigned int best_score = 0;

	/* Ten thousand places at most: a long demo has enough to see early. */
	for (unsigned int i = 0; i < 200; i++) {
		uint64_t from = start + i * (WINDOW_NS / 7);

		if (from + WINDOW_NS > n->p->end_ns)
			break;
		unsigned int s = score(n->p, from, from + WINDOW_NS);

		if (s > best_score) {
			best_score = s;
			best = from;
		}
	}
	n->from_ns = best;
	n->to_ns = best + WINDOW_NS;
}

/* --- what a panel shows --- */

static int draw_zones(const struct panel *n, bool pinned)
{
	struct zone *zone = NULL;
	size_t nr = 0;
	int err;

	err = zones_compute(n->p, n->file_bytes, n->from_ns, n->to_ns, &zone,
			    &nr);
	for (size_t i = 0; !err && i < nr; i++)
		if (zone[i].pinned == pinned)
			rect(n, pinned ? "race" : "away", zone[i].from_ns,
			     zone[i].to_ns, zone[i].off, zone[i].end);
	free(zone);
	return err;
}

static void draw_pins(const struct panel *n)
{
	uint64_t nr = capped(n->p->nr_pins, DEMO_MAX_PINS);

	for (uint64_t i = 0; i < nr; i++) {
		const struct demo_pin *pin = &n->p->pin[i];

		if (visible(n, pin->start_ns, pin->end_ns))
			rect(n, "pin", pin->start_ns, pin->end_ns, pin->off,
			     pin->off + pin->len);
	}
}

static void draw_ops(const struct panel *n)
{
	uint64_t nr = capped(n->p->nr_ops, DEMO_MAX_OPS);

	for (uint64_t i = 0; i < nr; i++) {
		const struct demo_op *op = &n->p->op[i];
		uint64_t end = op->off + op->len;

		if (!visible(n, op->start_ns, op->end_ns))
			continue;
		if (op->waited) {
			rect(n, "wait", op->start_ns, op->end_ns, op->off, end);
			if (op->start_ns > n->from_ns)
				vline(n, "call", op->start_ns, op->off, end);
		}
		if (op->end_ns < n->to_ns)
			vline(n, op->waited ? "woke" : "done", op->end_ns,
			      op->off, end);
	}
}

static void draw_hits(const struct panel *n)
{
	const int cols = (int)(PLOT_W / MARK_PX) + 1;
	const int rows = (int)(PLOT_H / MARK_PX) + 1;
	uint64_t nr = capped(n->p->nr_hits, DEMO_MAX_HITS);
	bool *seen = calloc((size_t)cols, (size_t)rows * sizeof(*seen));

	for (uint64_t i = 0; seen && i < nr; i++) {
		const struct demo_hit *h = &n->p->hit[i];

		if (!visible(n, h->at_ns, h->at_ns + 1))
			continue;
		double x = px(n, h->at_ns), y = py(n, h->file_off);
		int at = (int)((y - n->top) / MARK_PX) * cols +
			 (int)((x - LEFT) / MARK_PX);

		if (at < 0 || at >= cols * rows || seen[at])
			continue;
		seen[at] = true;
		fprintf(n->f,
			"<circle class=\"hit\" cx=\"%.1f\" cy=\"%.1f\" "
			"r=\"2.1\"/>\n",
			x, y);
	}
	free(seen);
}

static void draw_axes(const struct panel *n)
{
	const uint64_t tick = n->file_bytes / DEMO_CHANNELS;
	FILE *f = n->f;

	for (uint64_t off = 0; off <= n->file_bytes; off += tick) {
		fprintf(f,
			"<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" "
			"y2=\"%.1f\"/>\n"
			"<text class=\"tick\" x=\"%d\" y=\"%.1f\" "
			"text-anchor=\"end\">%" PRIu64 " MiB</text>\n",
			LEFT, LEFT + PLOT_W, py(n, off), py(n, off), LEFT - 8,
			py(n, off) + 4, off >> 20);
	}
	for (unsigned int ms = 0; ms <= WINDOW_NS / 1000000; ms += 100) {
		double x = px(n, n->from_ns + ms * 1000000ULL);

		fprintf(f,
			"<line class=\"axis\" x1=\"%.1f\" x2=\"%.1f\" "
			"y1=\"%.1f\" y2=\"%.1f\"/>\n"
			"<text class=\"tick\" x=\"%.1f\" y=\"%.1f\" "
			"text-anchor=\"middle\">%u</text>\n",
			x, x, n->top + PLOT_H, n->top + PLOT_H + 5, x,
			n->top + PLOT_H + 19, ms);
	}
	for (unsigned int i = 0; i < DEMO_CHANNELS; i++)
		fprintf(f,
			"<text class=\"tick\" x=\"%d\" y=\"%.1f\">channel "
			"%u</text>\n",
			LEFT + PLOT_W + 10, py(n, i * tick + tick / 2) + 4,
			i + 1);
	fprintf(f,
		"<rect class=\"frame\" x=\"%d\" y=\"%.1f\" width=\"%d\" "
		"height=\"%d\"/>\n"
		"<text class=\"label\" transform=\"translate(24 %.1f) "
		"rotate(-90)\" text-anchor=\"middle\">offset in the device's "
		"file</text>\n"
		"<text class=\"label\" x=\"%d\" y=\"%.1f\" "
		"text-anchor=\"middle\">milliseconds, from %.1f s after the "
		"start of the phase</text>\n",
		LEFT, n->top, PLOT_W, PLOT_H, n->top + PLOT_H / 2.0,
		LEFT + PLOT_W / 2, n->top + PLOT_H + 37,
		(double)(n->from_ns - n->p->start_ns) / 1e9);
}

/* --- one operation that a note points at --- */

static unsigned int hits_after(const struct panel *n, const struct demo_op *op)
{
	uint64_t nr = capped(n->p->nr_hits, DEMO_MAX_HITS);
	unsigned int hits = 0;

	for (uint64_t i = 0; i < nr; i++) {
		const struct demo_hit *h = &n->p->hit[i];

		if (h->at_ns >= op->end_ns &&
		    h->at_ns < op->end_ns + 60000000 &&
		    h->file_off >= op->off && h->file_off < op->off + op->len)
			hits++;
	}
	return hits;
}

/* The longest wait, or else the operation that did most harm. */
static const struct demo_op *choose_op(const struct panel *n)
{
	uint64_t nr = capped(n->p->nr_ops, DEMO_MAX_OPS), best = 0;
	const uint64_t margin = (n->to_ns - n->from_ns) / 5;
	const struct demo_op *chosen = NULL;

	for (uint64_t i = 0; i < nr; i++) {
		const struct demo_op *op = &n->p->op[i];
		uint64_t weight;

		if (op->end_ns < n->from_ns + margin ||
		    op->end_ns + margin > n->to_ns)
			continue;
		weight = op->waited ? op->end_ns - op->start_ns
				    : hits_after(n, op);
		if (weight > best) {
			best = weight;
			chosen = op;
		}
	}
	return chosen;
}

static void draw_note(const struct panel *n)
{
	const struct demo_op *op = choose_op(n);
	const char *name;
	char text[160];
	double x;

	if (!op)
		return;
	name = op->kind == DEMO_TRUNCATE ? "truncate" : "punch";
	if (op->waited)
		snprintf(text, sizeof(text),
			 "this %s waited %.1f ms and returned %.2f ms after "
			 "the last unpin",
			 name, (double)(op->end_ns - op->start_ns) / 1e6,
			 (double)(op->end_ns - op->unpin_ns) / 1e6);
	else
		snprintf(
			text, sizeof(text),
			"this %s returned after %.2f ms although the range was "
			"pinned: %u blocks were hit",
			name, (double)(op->end_ns - op->start_ns) / 1e6,
			hits_after(n, op));
	x = px(n, op->end_ns);
	fprintf(n->f,
		"<path class=\"leader\" d=\"M%.1f %.1fV%.1f\"/>\n"
		"<text class=\"note\" x=\"%.1f\" y=\"%.1f\" "
		"text-anchor=\"middle\">%s</text>\n",
		x, n->top - 11, py(n, op->off + op->len), x, n->top - 16, text);
}

static int draw_panel(struct panel *n, const char *policy, const char *result)
{
	int err;

	choose_window(n);
	fprintf(n->f,
		"<text class=\"head\" x=\"%d\" y=\"%.1f\">pinned=%s</text>\n"
		"<text class=\"result\" x=\"%d\" y=\"%.1f\" "
		"text-anchor=\"end\">%s</text>\n"
		"<rect class=\"plot\" x=\"%d\" y=\"%.1f\" width=\"%d\" "
		"height=\"%d\"/>\n",
		LEFT, n->top - 44, policy, LEFT + PLOT_W, n->top - 44, result,
		LEFT, n->top, PLOT_W, PLOT_H);
	err = draw_zones(n, false);
	draw_pins(n);
	if (!err)
		err = draw_zones(n, true);
	draw_axes(n);
	draw_ops(n);
	draw_hits(n);
	draw_note(n);
	return err;
}

static void draw_head(FILE *f, const struct demo_setup *s)
{
	fprintf(f,
		"<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" "
		"height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" "
		"font-family=\"Helvetica, Arial, 'Liberation Sans', "
		"sans-serif\">\n"
		"<title>pindax demo: DMA against truncate</title>\n"
		"<style>\n"
		"text{fill:#1f2933}\n"
		".title{font-size:25px;font-weight:bold}\n"
		".sub{font-size:14.5px;fill:#52606d}\n"
		".head{font-size:18px;font-weight:bold}\n"
		".result{font-size:15px}\n"
		".bad{fill:#c1121f;font-weight:bold}\n"
		".good{fill:#1b7f4b;font-weight:bold}\n"
		".tick{font-size:12px;fill:#52606d}\n"
		".label{font-size:13px;fill:#3e4c59}\n"
		".note{font-size:13px;font-style:italic}\n"
		".leader{fill:none;stroke:#1f2933;stroke-width:1;"
		"stroke-dasharray:2 2}\n"
		".plot{fill:#fff}\n"
		".frame{fill:none;stroke:#7b8794}\n"
		".axis{stroke:#7b8794}\n"
		".grid{stroke:#9aa5b1;stroke-width:.6;stroke-dasharray:4 4}\n"
		".pin{fill:#2f7ec1;fill-opacity:.42;stroke:#1d5a91;"
		"stroke-width:.6}\n"
		".away{fill:#d9d4c7}\n"
		".race{fill:#f7b7a3}\n"
		".wait{fill:url(#hatch)}\n"
		".call{stroke:#b97c00;stroke-width:1;stroke-dasharray:3 2}\n"
		".woke{stroke:#9a5b00;stroke-width:2.4}\n"
		".done{stroke:#323f4b;stroke-width:1.4}\n"
		".hit{fill:#c1121f}\n"
		"</style>\n"
		"<defs><pattern id=\"hatch\" width=\"6\" height=\"6\" "
		"patternUnits=\"userSpaceOnUse\" "
		"patternTransform=\"rotate(45)\">"
		"<rect width=\"6\" height=\"6\" fill=\"#ffd166\" "
		"fill-opacity=\".25\"/>"
		"<rect width=\"2\" height=\"6\" fill=\"#e08e00\"/>"
		"</pattern></defs>\n"
		"<rect width=\"%d\" height=\"%d\" rx=\"10\" "
		"fill=\"#f7f8fa\"/>\n",
		WIDTH, HEIGHT, WIDTH, HEIGHT, WIDTH, HEIGHT);
	fprintf(f,
		"<text class=\"title\" x=\"%d\" y=\"46\">DMA against "
		"truncate</text>\n"
		"<text class=\"sub\" x=\"%d\" y=\"72\">A device reads from a "
		"disk into a mapped file of %" PRIu64 " MiB through io_uring "
		"registered buffers, while another process truncates and "
		"punches the file</text>\n"
		"<text class=\"sub\" x=\"%d\" y=\"92\">and a third stores "
		"files in the blocks that are given back. Same programs, same "
		"seed: only the mount option differs.</text>\n",
		LEFT, LEFT, s->file_bytes >> 20, LEFT);
}

static void draw_legend(FILE *f)
{
	static const struct {
		const char *shape;
		int width;
		const char *text;
	} item[] = {
		{"<rect class=\"pin\" width=\"26\" height=\"14\"/>", 26,
		 "pinned by the device"},
		{"<rect class=\"away\" width=\"26\" height=\"14\"/>", 26,
		 "blocks given back"},
		{"<rect class=\"race\" width=\"26\" height=\"14\"/>", 26,
		 "given back, still pinned"},
		{"<circle class=\"hit\" cx=\"6\" cy=\"7\" r=\"3.4\"/>", 12,
		 "another file's block overwritten"},
		{"<rect class=\"wait\" width=\"24\" height=\"14\"/>"
		 "<path class=\"call\" d=\"M0 0V14\"/>"
		 "<path class=\"woke\" d=\"M24 -1V15\"/>",
		 26, "truncate or punch waits, returns"},
		{"<path class=\"done\" d=\"M5 -1V15\"/>", 10,
		 "returns at once"},
	};
	double x = LEFT;

	for (size_t i = 0; i < sizeof(item) / sizeof(item[0]); i++) {
		fprintf(f,
			"<g transform=\"translate(%.0f %d)\">%s"
			"<text class=\"label\" x=\"%d\" y=\"11.5\">%s</text>"
			"</g>\n",
			x, LEGEND_Y, item[i].shape, item[i].width + 7,
			item[i].text);
		/* 5.9 px: the mean width of a letter at this size */
		x += item[i].width + 7 + 5.9 * (double)strlen(item[i].text) +
		     21;
	}
}

int demo_write_svg(const char *path, const struct demo_setup *s,
		   const struct demo_phase *unsafe,
		   const struct demo_phase *wait)
{
	struct demo_quantiles w, k;
	struct panel n = {.file_bytes = s->file_bytes};
	char result[256];
	int err;

	n.f = fopen(path, "we");
	if (!n.f)
		return -errno;
	draw_head(n.f, s);
	n.p = unsafe;
	n.top = PANEL_1;
	snprintf(result, sizeof(result),
		 "truncate does not wait: <tspan class=\"bad\">%s</tspan> of "
		 "%s reused blocks corrupted in %u s",
		 demo_number(unsafe->corrupted_blocks),
		 demo_number(unsafe->reused_blocks), s->seconds);
	err = draw_panel(&n, "unsafe", result);
	n.p = wait;
	n.top = PANEL_2;
	demo_wait_quantiles(wait, &w, &k);
	snprintf(result, sizeof(result),
		 "truncate waits for the pins (p50 %.1f ms, wake-up %.2f ms): "
		 "<tspan class=\"%s\">%s</tspan> of %s reused blocks "
		 "corrupted in %u s",
		 w.p50 / 1e3, k.p50 / 1e3,
		 wait->corrupted_blocks ? "bad" : "good",
		 demo_number(wait->corrupted_blocks),
		 demo_number(wait->reused_blocks), s->seconds);
	if (!err)
		err = draw_panel(&n, "wait", result);
	draw_legend(n.f);
	fprintf(n.f, "</svg>\n");
	if (ferror(n.f) && !err)
		err = -EIO;
	if (fclose(n.f) && !err)
		err = -errno;
	return err;
}
