/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * io_uring buffers over a mapping: pin, then register; unregister, then unpin.
 * In between the kernel holds the pages, and the pin says so to the daemon.
 *
 * The pages are made present by the pin: a registration that faults would hold
 * the ring's lock until the fault is answered, and fails where userfaultfd does
 * not see the kernel's faults.
 */
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include "client/internal.h"

#define MAX_BUFFERS (1U << 14) /* the kernel's limit */

static int memlock_error(uint64_t need)
{
	struct rlimit lim;

	if (!getrlimit(RLIMIT_MEMLOCK, &lim) && lim.rlim_cur != RLIM_INFINITY &&
	    lim.rlim_cur < (1ULL << 40))
		return pdx_fail(-ENOMEM,
				"memlock limit %llu MiB; raise with ulimit -l "
				"(%llu MiB to register, and what is "
				"registered or locked already)",
				(unsigned long long)lim.rlim_cur >> 20,
				(unsigned long long)(need + (1U << 20) - 1) >>
					20);
	return pdx_fail(-ENOMEM, "io_uring_register_buffers: no memory");
}

static int register_error(int err, uint64_t need)
{
	switch (err) {
	case -ENOMEM:
		return memlock_error(need);
	case -EBUSY:
		return pdx_fail(err, "the ring has registered buffers already");
	default:
		return pdx_fail(err, "io_uring_register_buffers: %s",
				strerror(-err));
	}
}

/* @iov as ranges of the map (the whole of it: nr 0) and as addresses. */
static uint64_t translate(struct pindax_map *m, const struct iovec *iov,
			  unsigned int nr, struct pdx_range *r,
			  struct iovec *addr)
{
	uint64_t need = 0;

	for (unsigned int i = 0; i < nr; i++) {
		r[i] = (struct pdx_range){
			.off = iov ? (uintptr_t)iov[i].iov_base : 0,
			.len = iov ? iov[i].iov_len : m->len};
		addr[i].iov_base = (void *)((uintptr_t)m->base + r[i].off);
		addr[i].iov_len = r[i].len;
		need += r[i].len;
	}
	return need;
}

int pindax_register_buffers(struct pindax_map *map, struct io_uring *ring,
			    const struct iovec *iov, unsigned int nr,
			    struct pindax_pin **ret_pin)
{
	struct pindax_pin *pin;
	struct pdx_range *r;
	struct iovec *addr;
	uint64_t need;
	int err;

	if (!iov != !nr || nr > MAX_BUFFERS)
		return pdx_fail(-EINVAL, "1 to %u buffers, or NULL and 0",
				MAX_BUFFERS);
	if (!iov)
		nr = 1;
	r = calloc(nr, sizeof(*r));
	addr = calloc(nr, sizeof(*addr));
	if (!r || !addr) {
		err = pdx_fail(-ENOMEM, "no memory");
		goto out;
	}
	need = translate(map, iov, nr, r, addr);
	err = pdx_pin_ranges(map, r, nr, PINDAX_PIN_URING, true, &pin);
	if (err)
		goto out;
	err = io_uring_register_buffers(ring, addr, nr);
	if (err < 0) {
		pindax_unpin(pin);
		err = register_error(err, need);
		goto out;
	}
	err = 0;
	*ret_pin = pin;
out:
	free(r);
	free(addr);
	return err;
}

int pindax_unregister_buffers(struct io_uring *ring, struct pindax_pin *pin)
{
	int err;

	if (!pin || !pin->uring)
		return pdx_fail(-EINVAL, "not a registration's pin");
	err = io_uring_unregister_buffers(ring);
	/* ENXIO: the program has unregistered them itself. */
	if (err < 0 && err != -ENXIO)
		return pdx_fail(err, "io_uring_unregister_buffers: %s",
				strerror(-err));
	pindax_unpin(pin);
	return 0;
}
