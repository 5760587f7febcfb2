/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Pins. A pin is granted by the daemon; then every page of the range is made
 * present in this process, so that a device or the kernel, whose touches may
 * not be able to fault, find them. Nothing of a pinned range is recalled.
 *
 * Several ranges in one pin: only the first is waited for. While the others are
 * asked for, pins are held already, and a break that covers both would wait for
 * those while we queue behind it. So the others are asked for without waiting,
 * and on EAGAIN everything is let go and the one that was busy is waited for
 * first.
 *
 * The daemon refuses a hole (ENODATA) and is asked to fill it: a pin allocates
 * what it covers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include "client/internal.h"

/* Punches may undo a fill before the pin comes; not for ever. */
#define MAX_FILLS 1000

static void unpin_one(const struct pindax_file *f, uint64_t id)
{
	struct pindax_ioc_unpin u = {.mapper = f->mapper, .pin = id};

	/* A daemon that is gone has no pins. */
	(void)f->daemon.call(&f->daemon, PINDAX_IOC_UNPIN, &u);
}

static int pin_one(struct pindax_map *m, const struct pdx_range *r,
		   unsigned int flags, uint64_t *ret_id)
{
	struct pindax_file *f = m->file;
	struct pindax_ioc_pin p = {.mapper = f->mapper,
				   .off = m->off + r->off,
				   .len = r->len,
				   .flags = flags};
	int err = f->daemon.call(&f->daemon, PINDAX_IOC_PIN, &p);

	for (int i = 0; err == -ENODATA && i < MAX_FILLS; i++) {
		err = pdx_fill(m, r->off, r->len, false);
		if (err)
			return err;
		err = f->daemon.call(&f->daemon, PINDAX_IOC_PIN, &p);
	}
	if (!err)
		*ret_id = p.pin;
	return err;
}

/* All ranges or none, beginning with @start; *ret_busy: the one that failed. */
static int pin_from(struct pindax_map *m, const struct pdx_range *r,
		    unsigned int nr, unsigned int start, unsigned int flags,
		    struct pindax_pin *pin, unsigned int *ret_busy)
{
	unsigned int i;
	int err = 0;

	for (i = 0; i < nr; i++) {
		unsigned int at = (start + i) % nr;

		err = pin_one(m, &r[at], flags | (i ? PINDAX_PIN_NOWAIT : 0),
			      &pin->ids[at]);
		if (err) {
			*ret_busy = at;
			break;
		}
	}
	while (err && i-- > 0)
		unpin_one(m->file, pin->ids[(start + i) % nr]);
	return err;
}

static void pin_join(struct pindax_pin *pin)
{
	struct pindax_file *f = pin->map->file;

	pthread_mutex_lock(&f->lock);
	pin->next = pin->map->pins;
	pin->map->pins = pin;
	f->nr_pins++;
	pthread_mutex_unlock(&f->lock);
}

/* Returns whether the file was closed and this was its last pin. */
static bool pin_leave(struct pindax_pin *pin)
{
	struct pindax_file *f = pin->map->file;
	struct pindax_pin **at;
	bool last;

	pthread_mutex_lock(&f->lock);
	for (at = &pin->map->pins; *at != pin; at = &(*at)->next)
		;
	*at = pin->next;
	last = --f->nr_pins == 0 && f->closing;
	pthread_mutex_unlock(&f->lock);
	return last;
}

static int pin_error(int err)
{
	switch (err) {
	case -E2BIG:
		return pdx_fail(-ENOMEM,
				"the range has more extents than this process "
				"may map (half of vm.max_map_count: %u)",
				pdx.budget);
	case -EAGAIN:
		return pdx_fail(err,
				"an operation is taking blocks away there");
	case -EDEADLK:
		return pdx_fail(err, "an operation waits for a pin that this "
				     "thread holds: waiting would never end");
	case -ENXIO:
		return pdx_fail(err, "beyond the end of the file");
	case -ENODATA:
		return pdx_fail(-EIO, "the daemon does not fill the hole");
	default:
		return pdx_fail_call(err, "pinning");
	}
}

static int check_range(const struct pindax_map *m, const struct pdx_range *r)
{
	if (r->off % PDX_PAGE || r->len % PDX_PAGE || r->len == 0)
		return pdx_fail(-EINVAL, "offset and length must be multiples "
					 "of 4096, and the length not 0");
	if (r->off >= m->len || r->len > m->len - r->off)
		return pdx_fail(-EINVAL, "beyond the end of the mapping");
	return 0;
}

static int check_map(const struct pindax_map *m)
{
	const struct pindax_file *f = m->file;
	int err = pdx_file_usable(f);

	if (err)
		return err;
	if (f->type != PINDAX_TYPE_FS_DAX)
		return pdx_fail(-EOPNOTSUPP, "the pool cannot be pinned: %s",
				f->reason);
	if (!(m->prot & PROT_WRITE))
		return pdx_fail(-EACCES, "a pin needs a writable mapping");
	return 0;
}

int pdx_pin_ranges(struct pindax_map *m, const struct pdx_range *r,
		   unsigned int nr, unsigned int flags, bool uring,
		   struct pindax_pin **ret_pin)
{
	struct pindax_pin *pin;
	uint64_t lo = UINT64_MAX, hi = 0;
	unsigned int start = 0;
	int err = check_map(m);

	for (unsigned int i = 0; !err && i < nr; i++) {
		err = check_range(m, &r[i]);
		lo = r[i].off < lo ? r[i].off : lo;
		hi = r[i].off + r[i].len > hi ? r[i].off + r[i].len : hi;
	}
	if (err)
		return err;
	pin = calloc(1, sizeof(*pin) + nr * sizeof(pin->ids[0]));
	if (!pin)
		return pdx_fail(-ENOMEM, "no memory");
	*pin = (struct pindax_pin){
		.map = m, .off = lo, .len = hi - lo, .uring = uring, .nr = nr};
	do {
		unsigned int first = start;

		err = pin_from(m, r, nr, start, flags, pin, &start);
		if (err && start == first)
			break; /* it was waited for */
	} while (err == -EAGAIN || err == -EDEADLK);
	if (err) {
		free(pin);
		return pin_error(err);
	}
	pin_join(pin);
	for (unsigned int i = 0; !err && i < nr; i++)
		err = pdx_fill(m, r[i].off, r[i].len, true);
	if (err) {
		pindax_unpin(pin);
		return pin_error(err);
	}
	*ret_pin = pin;
	return 0;
}

int pindax_pin(struct pindax_map *map, uint64_t offset, size_t len,
	       unsigned int flags, struct pindax_pin **ret_pin)
{
	struct pdx_range r = {.off = offset, .len = len};

	if (flags & ~PINDAX_NOWAIT)
		return pdx_fail(-EINVAL, "unknown flag");
	return pdx_pin_ranges(map, &r, 1,
			      flags & PINDAX_NOWAIT ? PINDAX_PIN_NOWAIT : 0,
			      false, ret_pin);
}

void pindax_unpin(struct pindax_pin *pin)
{
	struct pindax_file *f;

	if (!pin)
		return;
	f = pin->map->file;
	if (f->generation != pdx.generation)
		return; /* the parent's */
	for (unsigned int i = 0; i < pin->nr; i++)
		unpin_one(f, pin->ids[i]);
	if (pin_leave(pin))
		pdx_file_destroy(f);
	free(pin);
}
