/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * When and where the demo's device had lost its blocks (cmd/pindax/zones.c):
 * hand-made phases of a few events, compared with the rectangles that a reader
 * of the picture must see. The tool's objects are in no library, so the source
 * is included.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
/* NOLINTNEXTLINE(bugprone-suspicious-include): see above */
#include "cmd/pindax/zones.c"

#define FILE_BYTES 1000

static struct demo_phase *phase;
static struct zone *zone;
static size_t nr_zones;

static int setup(void **state)
{
	(void)state;
	phase = calloc(1, sizeof(*phase));
	zone = NULL;
	nr_zones = 0;
	return phase ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	free(zone);
	free(phase);
	return 0;
}

static void pin(uint64_t start, uint64_t end, uint64_t off, uint64_t len)
{
	phase->pin[phase->nr_pins++] = (struct demo_pin){start, end, off, len};
}

static void op(uint64_t end, uint64_t off, uint64_t len)
{
	phase->op[phase->nr_ops++] =
		(struct demo_op){.end_ns = end, .off = off, .len = len};
}

static void compute(void)
{
	assert_int_equal(
		zones_compute(phase, FILE_BYTES, 100, 900, &zone, &nr_zones),
		0);
}

static void expect(uint64_t from, uint64_t to, uint64_t off, uint64_t end,
		   bool pinned)
{
	for (size_t i = 0; i < nr_zones; i++)
		if (zone[i].from_ns == from && zone[i].to_ns == to &&
		    zone[i].off == off && zone[i].end == end &&
		    zone[i].pinned == pinned)
			return;
	fail_msg("no zone %llu-%llu of %llu-%llu", (unsigned long long)from,
		 (unsigned long long)to, (unsigned long long)off,
		 (unsigned long long)end);
}

static void nothing_happened_no_zone(void **state)
{
	(void)state;
	pin(200, 300, 0, 500);
	compute();
	assert_int_equal(nr_zones, 0);
}

static void blocks_are_away_until_the_next_registration(void **state)
{
	(void)state;
	pin(200, 300, 0, 1000);
	op(310, 400, 600);
	pin(350, 450, 0, 1000);
	compute();
	assert_int_equal(nr_zones, 1);
	expect(310, 350, 400, 1000, false);
}

static void an_older_pin_over_the_zone_is_the_race(void **state)
{
	(void)state;
	pin(200, 300, 0, 500);
	op(250, 400, 600);
	pin(400, 450, 0, 1000);
	compute();
	/* rows 400-500 and 500-1000 are one rectangle: same history */
	assert_int_equal(nr_zones, 2);
	expect(250, 400, 400, 1000, false);
	expect(250, 300, 400, 500, true);
}

static void a_part_registered_again_leaves_the_rest_away(void **state)
{
	(void)state;
	op(250, 0, 1000);
	pin(300, 450, 200, 300);
	compute();
	expect(250, 900, 0, 200, false);
	expect(250, 300, 200, 500, false);
	expect(250, 900, 500, 1000, false);
	assert_int_equal(nr_zones, 3);
}

static void zones_are_clipped_to_the_window(void **state)
{
	(void)state;
	op(50, 0, 1000);
	compute();
	assert_int_equal(nr_zones, 1);
	expect(100, 900, 0, 1000, false);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nothing_happened_no_zone, setup,
						teardown),
		cmocka_unit_test_setup_teardown(
			blocks_are_away_until_the_next_registration, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			an_older_pin_over_the_zone_is_the_race, setup,
			teardown),
		cmocka_unit_test_setup_teardown(
			a_part_registered_again_leaves_the_rest_away, setup,
			teardown),
		cmocka_unit_test_setup_teardown(zones_are_clipped_to_the_window,
						setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
