/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_LAYOUT_INTERNAL_H
#define PINDAX_FS_LAYOUT_INTERNAL_H

#include <stdatomic.h>
#include <stddef.h>
#include "fs/layout/idmap.h"
#include "fs/layout/layout.h"
#include "fs/ledger.h"

#define container_of(ptr, type, member)                                        \
	((type *)(void *)((char *)(ptr)-offsetof(type, member)))

/*
 * The life of a break. Everything before PHASE_COMMIT can be cancelled and
 * then has changed nothing.
 *
 *  QUEUED    an earlier break overlaps
 *  DRAIN     new pins over the range queue; waits until its pages are idle
 *  SEAL      faults queue too; leases are recalled, waits for acknowledges
 *  COMMIT    the operation runs under the inode's lock
 *  RESERVED  a BREAK ioctl's range, held for the system call that follows
 */
enum break_phase {
	PHASE_QUEUED,
	PHASE_DRAIN,
	PHASE_SEAL,
	PHASE_COMMIT,
	PHASE_RESERVED,
};

/* A lease over a range of file pages, as one mapper was granted it. */
struct grant {
	struct itree_node node; /* file pages; in layout->grants */
	struct mapper *m;
	struct grant *next, **pprev; /* of the mapper */
	uint32_t kind;		     /* PINDAX_GRANT_* */
	bool write;
	uint64_t epoch; /* of the mapper when it was given */
	uint64_t since_ns;
};

struct pool_run {
	uint64_t first; /* pool page */
	uint64_t nr;
};

/* A pin and the page references it holds. The pool pages are kept here: with
 * pinned=unsafe the file may have other blocks when the pin ends. */
struct pin_rec {
	struct itree_node node; /* file pages; in layout->pins */
	struct idnode idnode;	/* in layouts->pins */
	struct mapper *m;
	struct pin_rec *next, **pprev; /* of the mapper */
	unsigned int flags;
	pid_t tid;
	uint64_t since_ns;
	uint64_t nr_pages;
	unsigned int nr_runs;
	struct pool_run run[];
};

/* A recall on its way to a mapper, until it is acknowledged. */
struct recall {
	struct recall *next;
	uint64_t epoch;
	uint64_t first, last;
	uint64_t break_id;
	bool hint; /* nobody waits for the answer */
	bool sent;
};

/* A fault that a break holds up; the same object is then its RETRY event. */
struct queued_fault {
	struct queued_fault *next;
	struct mapper *m;
	uint64_t ticket;
	uint64_t first, last;
};

struct mapper {
	struct idnode by_id, by_fh; /* in layouts */
	struct layout *l;
	struct mapper *next, **pprev; /* of the layout */
	atomic_uint refs;
	struct mapper_who who;
	char comm[16];
	int pidfd;
	uint64_t ledger; /* index of its page */
	struct pindax_ledger *page;
	uint64_t challenge;
	atomic_bool has_events;
	atomic_bool fh_gone; /* the description was released */
	atomic_bool proven, proven_write;
	/* guarded by layout->lock */
	bool dead;
	uint64_t epoch;
	uint64_t recalled_in; /* last round of recalls that asked it */
	struct grant *grants;
	struct pin_rec *pins;
	struct recall *recalls;
	struct queued_fault *retries, **retries_tail;
	struct mapper *notify_next;
	bool notify_queued;
};

/*
 * A waiter on pages or on a deadline alone. Its callback may run inside
 * page_put(), so all it does is move the object to the ready list; whoever
 * runs that list moves the layout's breaks on and frees the object.
 */
struct idle_wait {
	struct waiter w;
	atomic_uint refs; /* the break's, and the queue's or ready list's */
	struct layout *l; /* holds ops->get() until the queue's part ends */
	struct idle_wait *next;
};

/* The layout of a request that waits, or of a description's reservation. */
struct wait_ent {
	struct idnode idnode;
	struct layout *l;
};

struct layouts_counters {
	atomic_uint_fast64_t mappers, leases, pins, pinned_pages, waiters;
	atomic_uint_fast64_t breaks, breaks_waited, recalls, faults;
	atomic_uint_fast64_t interrupted, timed_out;
};

struct layouts {
	struct layouts_config cfg;
	const struct layout_ops *ops;
	struct layouts_counters c;
	atomic_uint_fast64_t next_id;

	pthread_mutex_t lock; /* guards the maps and ledger_used */
	struct idmap mappers;
	struct idmap by_fh;
	struct idmap pins;
	struct idmap waiting;
	struct idmap reserved; /* by description */
	uint8_t *ledger_used;
	uint64_t ledger_hint;

	pthread_mutex_t ready_lock;
	struct idle_wait *ready, **ready_tail;

	pthread_t worker;
	bool worker_started;
	atomic_bool stopping;
	int epfd, evfd;
};

uint64_t layout_now_ns(void);

static inline uint64_t range_last(uint64_t first, uint64_t nr)
{
	return nr >= LAYOUT_TO_END - first ? UINT64_MAX : first + nr - 1;
}

static inline bool ranges_overlap(uint64_t a, uint64_t a_last, uint64_t b,
				  uint64_t b_last)
{
	return a <= b_last && b <= a_last;
}

/* grant.c; all: layout->lock held */
int grant_set_locked(struct mapper *m, uint64_t first, uint64_t last,
		     uint32_t kind, bool write);
/* Ends the mapper's grants over the range given with an epoch below @epoch;
 * true when a writable one was among them. */
bool grant_clear_locked(struct mapper *m, uint64_t first, uint64_t last,
			uint64_t epoch);

/* break.c */
/* Moves every break, queued pin and queued fault of @l on as far as they go.
 * No lock held. */
void layout_run(struct layout *l);
/* The first page of the range that a fault (or pin) must not have now. */
struct break_req *break_blocks_fault_locked(struct layout *l, uint64_t first,
					    uint64_t last);
struct break_req *break_blocks_pin_locked(struct layout *l, uint64_t first,
					  uint64_t last);
/* A mapper acknowledged, or died: its recall of that break is over. */
void break_acked_locked(struct layout *l, uint64_t break_id);
/* layouts_cancel() of one layout; true when the request was found. */
bool break_cancel_locked(struct layout *l, uint64_t id, int err);
/* The reservations of the description end. */
void break_unreserve(struct layout *l, uint64_t fh);

/* pin.c */
bool pin_cancel_locked(struct layout *l, uint64_t id, int err);
/* Tries the queued pins again; true when one was finished. No lock held, and
 * only by the thread that runs the layout (layout->running). */
bool pin_retry_queued(struct layout *l);
/* Takes all pins off a mapper; the caller drops them without locks. */
struct pin_rec *pin_detach_all_locked(struct mapper *m);
void pin_drop_list(struct layouts *ls, struct pin_rec *list);

/* event.c; layout->lock held. After it is dropped: event_notify(). */
int event_recall_locked(struct mapper *m, uint64_t first, uint64_t last,
			uint64_t break_id, bool hint);
/* The hints that a break gave end with it. */
void event_drop_hints_locked(struct layout *l, uint64_t break_id);
/* Ends the queued fault @q (frees it): its mapper is told to ask again. */
void event_retry_locked(struct queued_fault *q);
void event_free_all_locked(struct mapper *m);
void event_notify(struct layout *l);

/* registry.c */
int wait_register(struct layouts *ls, uint64_t id, struct layout *l);
void wait_unregister(struct layouts *ls, uint64_t id, const struct layout *l);
int reserve_register(struct layouts *ls, uint64_t fh, struct layout *l);
void reserve_unregister(struct layouts *ls, uint64_t fh,
			const struct layout *l);
void mapper_ref(struct mapper *m);
/* Name of a process, empty when it is gone. */
void layout_read_comm(pid_t pid, char comm[16]);

/* worker.c */
int worker_start(struct layouts *ls);
void worker_stop(struct layouts *ls);
int worker_watch(struct layouts *ls, struct mapper *m);
/* Arms a waiter on pool pages [first, first + nr), or with nr 0 on the
 * deadline alone. */
int idle_wait_arm(struct layout *l, uint64_t first, uint64_t nr,
		  uint64_t deadline_ns, struct idle_wait **ret_w);
void idle_wait_disarm(struct layout *l, struct idle_wait *w);
/* Around pages_put(): wake-ups are run by this thread afterwards. */
void ready_section_enter(void);
void ready_section_leave(struct layouts *ls);

#endif
