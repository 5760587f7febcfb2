/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_LAYOUT_LAYOUT_H
#define PINDAX_FS_LAYOUT_LAYOUT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/proto.h"
#include "pagemap/itree.h"
#include "pagemap/pagemap.h"
#include "pagemap/waitq.h"

/*
 * Leases, pins and breaks: who may map a file's pages, who holds them, and how
 * an operation that takes blocks away waits for both. The rules and their
 * reasons are in docs/PROTOCOL.md. Knows pages and file ranges; blocks, names
 * and FUSE are the owner's, reached through struct layout_ops.
 *
 * Ranges are in file pages. [first, first + nr) with nr = LAYOUT_TO_END means
 * everything from first on.
 *
 * Locks (docs/LOCKING.md): the owner's inode lock comes before layout->lock,
 * that before the registry's. No callback is called with layout->lock held,
 * except ops->walk and ops->size_pages (which take no lock: the inode's is
 * held).
 */
#define LAYOUT_TO_END UINT64_MAX

struct layouts; /* one a mount */
struct layout;	/* one an inode, embedded by its owner */
struct mapper;	/* one process on one open file description */

struct layout_ops {
	/* The inode's lock. */
	void (*lock)(struct layout *l, bool exclusive);
	void (*unlock)(struct layout *l, bool exclusive);
	/* Inode lock held. Blocks of the range in order, as pool pages; stops
	 * and returns fn's value when it is not 0. */
	int (*walk)(struct layout *l, uint64_t first, uint64_t nr,
		    int (*fn)(uint64_t lblk, uint64_t pool_page, uint64_t nr,
			      void *arg),
		    void *arg);
	/* Inode lock held: file pages up to the size, rounded up. */
	uint64_t (*size_pages)(struct layout *l);
	/* Inode lock held exclusively: zeroed, committed blocks into the holes
	 * of the range (which lies below the size). -ENOSPC. */
	int (*fill)(struct layout *l, uint64_t first, uint64_t nr);
	/* Before the first grant of these pool pages: they are unfenced now. */
	int (*mark_mapped)(struct layout *l, uint64_t pool_page, uint64_t nr);
	/* A writable grant was given, or ends: mtime, ctime. No lock held. */
	void (*touch)(struct layout *l);
	/*
	 * Keep the inode in memory while leases, pins or waiters refer to it.
	 * get, and a put that is not the last, may come with the inode's lock
	 * or layout->lock held: they take no lock that comes before those. The
	 * last put comes without any lock.
	 */
	void (*get)(struct layout *l);
	void (*put)(struct layout *l);
	/* Events are queued for a mapper of this open file (may be called from
	 * any thread, no lock held). */
	void (*notify)(struct layouts *ls, uint64_t fh);
	uint64_t (*ino)(const struct layout *l);
};

enum pinned_policy {
	PINNED_WAIT = 0,
	PINNED_FAIL = 1,
	PINNED_UNSAFE = 3,
};

struct layouts_config {
	const struct layout_ops *ops;
	struct dev_pagemap
		*map;	     /* of the data pages; FS_DAX or FS_DAX_LIMITED */
	struct waitq *waitq; /* woken by the map's page_free */
	struct dev_pagemap *ledger_map; /* PUBLIC: ledger pages; may be NULL */
	void *ledger_base;		/* of the first ledger page */
	uint64_t ledger_off; /* the same as a byte offset in the pool */
	uint64_t nr_ledgers;
	enum pinned_policy policy;
	uint64_t pin_timeout_ms;    /* 0: none */
	uint64_t recall_timeout_ms; /* 0: 30 s */
	dev_t pool_dev; /* to see in /proc whether a process still maps it */
	ino_t pool_ino;
};

int layouts_create(const struct layouts_config *cfg, struct layouts **ret_ls);
/* Every request still waiting is completed with -ENODEV, then all mappers,
 * leases and pins are dropped. */
void layouts_shutdown(struct layouts *ls);
void layouts_destroy(struct layouts *ls);

struct layout {
	pthread_mutex_t lock;
	struct layouts *ls;
	/* all guarded by lock */
	struct itree grants;			 /* struct grant */
	struct itree pins;			 /* struct pin_rec */
	struct break_req *breaks, **breaks_tail; /* in order of arrival */
	struct pin_req *queued_pins, **queued_pins_tail;
	struct queued_fault *queued_faults;
	struct mapper *mappers;
	struct mapper *notify; /* have events, poll is to be woken */
	uint64_t nr_soft;      /* grants of kind ZERO or EOF */
	/* One thread at a time moves the breaks of a layout on; others leave
	 * a note (again) and go. */
	bool running, again;
};

void layout_init(struct layout *l, struct layouts *ls);
void layout_fini(struct layout *l); /* nothing refers to it any more */
/* Racy hint without a lock: any lease, pin or break here? */
bool layout_busy(struct layout *l);

/* --- mappers --- */

struct mapper_who {
	pid_t tgid;
	uid_t uid;
	uint64_t fh;   /* the open file description */
	bool writable; /* it was opened O_RDWR */
};
int mapper_create(struct layout *l, const struct mapper_who *who,
		  uint64_t *ret_id, uint64_t *ret_ledger_off);
/* Reference to mapper @id of description @fh; NULL: no such. */
struct mapper *mapper_get(struct layouts *ls, uint64_t id, uint64_t fh);
void mapper_put(struct mapper *m);
int mapper_prove(struct mapper *m, uint64_t challenge, uint64_t answer,
		 unsigned int flags);
/* Ends its leases and pins (those blocks count as touched: fenced later). */
void mapper_drop(struct mapper *m);
/* FUSE_RELEASE: drops all mappers and reservations of the description. */
void layouts_release_fh(struct layouts *ls, uint64_t fh);
/* FUSE_FLUSH: look again whether the description's processes live. */
void layouts_flush_fh(struct layouts *ls, uint64_t fh);
/* For poll: does the description have events? */
bool layouts_fh_events(struct layouts *ls, uint64_t fh);

/* FAULT, UNMAP, EVENTS, ACK of fs/proto.h: same struct, 0 or -errno. The range
 * checks are done here. */
int mapper_fault(struct mapper *m, struct pindax_ioc_fault *f);
int mapper_unmap(struct mapper *m, uint64_t off, uint64_t len);
int mapper_events(struct mapper *m, struct pindax_ioc_events *e);
int mapper_ack(struct mapper *m, uint64_t epoch);

/* --- requests that may wait ---
 * The caller owns the memory until done() has been called: exactly once, by
 * any thread, maybe before the submitting call returns, with no lock held.
 * layouts_cancel(id) makes a waiting one finish with @err; an id that is
 * unknown or finished is ignored, so it may be called late.
 */
void layouts_cancel(struct layouts *ls, uint64_t id, int err);
/* A new request id; store it in req->id before submitting. */
uint64_t layouts_new_id(struct layouts *ls);

struct pin_req {
	uint64_t id;
	struct mapper *mapper; /* referenced by the caller until done */
	uint64_t first, nr;
	unsigned int flags; /* PINDAX_PIN_* */
	pid_t tid;	    /* calling thread */
	void (*done)(struct pin_req *r, int err);
	uint64_t pin; /* out */
	/* private, guarded by the layout's lock */
	struct pin_req *next;
	uint64_t since_ns;
	int cancel_err;
};
void mapper_pin(struct pin_req *r);
int mapper_unpin(struct mapper *m, uint64_t pin);

enum break_op {
	BREAK_TRUNCATE = PINDAX_WAIT_TRUNCATE,
	BREAK_PUNCH = PINDAX_WAIT_PUNCH,
	BREAK_ZERO = PINDAX_WAIT_ZERO,
	BREAK_OPEN_TRUNC = PINDAX_WAIT_OPEN_TRUNC,
	/* A hole gets blocks, or the file grows: only leases that show zeros or
	 * SIGBUS there are recalled; pins do not matter. */
	BREAK_FILL = PINDAX_WAIT_FILL,
	/* An orphan's blocks: no policy, no timeout, nobody waits for it. */
	BREAK_ORPHAN = PINDAX_WAIT_ORPHAN,
};

struct break_req {
	uint64_t id;
	struct layout *layout;
	enum break_op op;
	uint64_t first, nr; /* blocks that go, and the page cut in part */
	pid_t tgid;	    /* who asks; 0: the daemon itself */
	pid_t tid;
	uint64_t timeout_ms; /* 0: the mount's */
	uint64_t fh;	     /* of a reservation: ends with the description */
	/*
	 * COMMIT: the inode's lock is held exclusively, all pages of the range
	 * are idle and unmapped. Its error is the request's. NULL: a BREAK
	 * ioctl: the range becomes a reservation, done(0) is called, and the
	 * request's memory is copied, not kept.
	 */
	int (*commit)(struct break_req *r);
	void (*done)(struct break_req *r, int err);
	/* private, guarded by the layout's lock */
	struct break_req *next;
	struct idle_wait *wait; /* armed: pages, or a deadline alone */
	int phase;		/* enum break_phase */
	unsigned int acks_missing;
	uint64_t since_ns, deadline_ns, seal_deadline_ns;
	bool waited; /* it was parked at least once */
	bool hinted; /* mappers were told that it drains */
	int cancel_err;
};
void layout_break(struct break_req *r);

/*
 * layout_needs_fill - would a write to these pages have to recall a lease (one
 * that shows zeros or SIGBUS there)? Inode lock held. Then BREAK_FILL first.
 */
bool layout_needs_fill(struct layout *l, uint64_t first, uint64_t nr);

/* --- reports --- */

/* Rows of one layout, or of all (l NULL), malloc'ed. -ENOMEM. */
int layouts_report(struct layouts *ls, struct layout *l,
		   struct pindax_report_row **ret_rows, uint32_t *ret_nr);
/* Fills the counters that are this module's (mappers .. timed_out). */
void layouts_stat(struct layouts *ls, struct pindax_ioc_stat *st);

#endif
