/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CLIENT_INTERNAL_H
#define PINDAX_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "client/pindax.h"
#include "fs/proto.h"

/*
 * What the parts of libpindax share. docs/PROTOCOL.md, "In the client", has
 * the rules.
 *
 * Locks, in this order (docs/LOCKING.md, level "client"):
 *   file->grant_lock  read: from asking the daemon for a grant until it is
 *                     mapped; write: while a map joins or leaves the file
 *   pdx.lock          the lists of files and maps, pools, references
 *   file->lock        what is mapped where, recalls, pins; held over mmap and
 *                     mremap, so that a grant is checked, mapped and woken in
 *                     one step that a recall comes before or after
 *   the fault queue's lock: leaf, never held over a system call
 * The reader takes the last one only: mremap in a zap waits for the reader.
 * No lock but grant_lock (read) is held over a call to the daemon; UNMAP alone
 * is made under grant_lock (write).
 */
#define PDX_PAGE 4096U
#define PDX_WINDOW                                                             \
	(2U << 20) /* what one fault maps at most; huge page size              \
		    */

/* --- error text (error.c) --- */

/* Remember the text for pindax_errormsg(); returns @err. */
int pdx_fail(int err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* The same for an error of the daemon while doing @what. */
int pdx_fail_call(int err, const char *what);

/* --- the way to the daemon --- */

/* A test puts a daemon of its own here. */
struct pdx_daemon {
	/* @cmd PINDAX_IOC_*, @arg its struct; 0 or -errno */
	int (*call)(const struct pdx_daemon *d, unsigned long cmd, void *arg);
	void *ctx;
	int fd; /* the open file description; polled for events; owned */
	uint32_t events; /* EPOLL*: events are queued */
};
int pdx_ioctl_call(const struct pdx_daemon *d, unsigned long cmd, void *arg);
bool pdx_daemon_is_gone(int err);

/* --- who owns an address (vma.c) --- */

/* Names one file as /proc shows it for a mapping. */
struct pdx_file_id {
	uint64_t ino;
	uint32_t major, minor;
};
static inline bool pdx_same_id(const struct pdx_file_id *a,
			       const struct pdx_file_id *b)
{
	return a->ino == b->ino && a->major == b->major && a->minor == b->minor;
}

struct pdx_vma {
	struct pdx_file_id id; /* ino 0: nothing that has a file */
	uint64_t file_off;     /* at the address asked for */
	size_t len;	       /* from there, at most what was asked for */
};
/* Set where the kernel has no PROCMAP_QUERY, or by a test. */
extern atomic_bool pdx_vma_text_only;
/* What lies at @addr. No allocation, no stdio. */
int pdx_vma_at(const void *addr, size_t len, struct pdx_vma *ret_vma);
/* How /proc names a mapping of @fd; learned from one, as stat(2) may differ. */
int pdx_learn_id(int fd, int flags, struct pdx_file_id *ret_id);

/* --- pools (pool.c) --- */

struct pdx_pool {
	struct pdx_pool *next;
	uint64_t nonce;
	int fd; /* holds the liveness lock */
	bool rdonly;
	unsigned int refs; /* guarded by pdx.lock */
	struct pdx_file_id id;
};
int pdx_pool_get(const struct pindax_ioc_info *info, struct pdx_pool **ret_p);
/* Of an open pool file, with no checks; takes @fd over. */
int pdx_pool_adopt(int fd, bool rdonly, struct pdx_pool **ret_p);
void pdx_pool_put(struct pdx_pool *p);

/* --- the process (state.c) --- */

struct pdx_state {
	pthread_mutex_t lock;
	pthread_cond_t idle;	 /* a file lost its last user */
	bool started;		 /* guarded by lock: helper threads run */
	unsigned int generation; /* of the process; goes up in a forked child */
	struct pindax_file *files;
	struct pdx_pool *pools;
	uint64_t next_id;
	/* set up by pdx_start(), constant afterwards */
	int uffd;
	bool user_only; /* uffd does not see faults from inside the kernel */
	int zap_fd;	/* sparse memfd: what a zapped range shows */
	int eof_fd;	/* empty memfd: SIGBUS */
	int zero_fd;	/* /dev/zero */
	int maps_fd;	/* /proc/self/maps */
	int epoll_fd;
	struct pdx_file_id zap_id, eof_id, zero_id;
	unsigned int budget; /* mappings */
	atomic_uint nr_runs; /* mappings that show something */
};
extern struct pdx_state pdx;

/* Start the helper threads unless they run. -EOPNOTSUPP: no userfaultfd. */
int pdx_start(void);
/* The fault queue's part of a start, and of a forked child's new start. */
int pdx_fault_start(void);
void pdx_fault_forget(void);
int pdx_recall_start(void);
/* A thread that blocks every signal. */
int pdx_thread(void *(*fn)(void *), void *arg);

/* --- files (attach.c) --- */

#define PDX_RECALLS 64

struct pdx_recall {
	uint64_t off, end;
	uint64_t epoch;
};

struct pindax_file {
	struct pindax_file *next; /* guarded by pdx.lock */
	uint64_t id;
	unsigned int generation; /* of the process that attached */
	unsigned int users;	 /* helpers; guarded by pdx.lock */
	struct pdx_daemon daemon;
	struct pdx_pool *pool;
	uint64_t mapper;
	bool writable;	      /* description and pool */
	uint32_t type, flags; /* PINDAX_TYPE_*, PINDAX_INFO_* */
	char reason[256];
	pthread_rwlock_t grant_lock;
	pthread_mutex_t lock;
	/* to change: grant_lock (write), pdx.lock and lock */
	struct pindax_map *maps;
	/* guarded by lock */
	struct pdx_recall recalls[PDX_RECALLS];
	unsigned int recall_next;
	uint64_t recall_floor; /* epoch of the newest recall forgotten */
	unsigned int nr_pins;
	bool closing;		      /* goes with its last pin */
	struct pindax_map *evict_map; /* where the last eviction stopped */
	size_t evict_window;
	/* RETRY events so far, to see one that came before its answer */
	atomic_uint retries;
	pthread_cond_t retry; /* with lock */
	atomic_bool dead;     /* the daemon is gone */
};

struct pdx_file_config {
	struct pdx_daemon daemon; /* its fd is taken over on success */
	struct pdx_pool *pool;	  /* reference taken over on success */
	uint64_t mapper;
	bool writable;
	uint32_t type, flags;
	const char *reason;
};
int pdx_file_create(const struct pdx_file_config *cfg,
		    struct pindax_file **ret_file);
/* Unmaps, drops the mapper, waits for the helpers, frees. */
void pdx_file_destroy(struct pindax_file *f);
/* A user's reference: NULL when nothing of ours is there. */
struct pindax_file *pdx_file_by_id(uint64_t id);
struct pindax_file *pdx_file_by_addr(const void *addr);
void pdx_file_release(struct pindax_file *f);
/* 0, or -ESTALE with its text: attached before a fork. */
int pdx_file_usable(const struct pindax_file *f);

/* --- maps (map.c) --- */

struct pindax_map {
	struct pindax_map *next;
	struct pindax_file *file;
	uint8_t *base;
	size_t len;
	uint64_t off; /* of the file */
	int prot;
	/* guarded by file->lock */
	uint64_t *where; /* PDX_AT_* of each page */
	uint16_t *runs;	 /* mappings that begin in each window */
	struct pindax_pin *pins;
};

struct pindax_pin {
	struct pindax_pin *next; /* guarded by file->lock */
	struct pindax_map *map;
	uint64_t off; /* of the map: what is pinned, or a hull of it */
	size_t len;
	bool uring;
	unsigned int nr;
	uint64_t ids[];
};

/* What a page shows: nothing (zapped), or this, or the pool at this offset. */
#define PDX_AT_ZAPPED 0U
#define PDX_AT_ZERO 1U
#define PDX_AT_EOF 2U
#define PDX_AT_POOL(off) ((off) + PDX_PAGE)

static inline size_t pdx_map_pages(const struct pindax_map *m)
{
	return m->len / PDX_PAGE;
}

/* The map of the file that covers @addr. grant_lock or file->lock held. */
struct pindax_map *pdx_map_find(struct pindax_file *f, const void *addr);
/* First page from @page on that is (not) present; the number of pages: none. */
size_t pdx_next_present(const struct pindax_map *m, size_t page, bool present);
/* Pages [page, page + nr) show this now; the runs are counted anew. */
void pdx_note(struct pindax_map *m, size_t page, size_t nr, uint64_t where);
/* Take the map out of its file and free it. grant_lock (write) is taken. */
void pdx_map_destroy(struct pindax_map *m);

/* --- zap (zap.c): file->lock held --- */

/*
 * Make the whole of a map that nobody has seen yet a zapped area: in place, as
 * there is no touch that could be missed.
 */
int pdx_arm_fresh(const struct pindax_map *m);
/*
 * Zap what is present of pages [page, page + nr). An error says that a part
 * could not even be taken away: then do not acknowledge. @graves: where to put
 * page tables that are to be unmapped later, or NULL.
 */
struct pdx_graves;
int pdx_zap(struct pindax_map *m, size_t page, size_t nr,
	    struct pdx_graves *graves);

/* --- page tables out of the way (grave.c): the recall thread --- */

#define PDX_GRAVES 16

struct pdx_grave {
	uint8_t *base;
	size_t len;
};
struct pdx_graves {
	struct pdx_grave grave[PDX_GRAVES];
	unsigned int nr;
};
void pdx_set_aside(struct pdx_graves *gr, uint8_t *at, size_t len);
/* Unmap a piece of what was set aside; there is something. */
void pdx_bury(struct pdx_graves *gr);

/* --- grants (grant.c) --- */

#define PDX_STEP_MAPPED 0
#define PDX_STEP_QUEUED 1
#define PDX_STEP_STALE 2

struct pdx_ask {
	uint64_t off, len; /* of the map; page multiples */
	bool strict; /* -E2BIG instead of going beyond the mapping budget */
	uint64_t next_off; /* out: MAPPED up to here */
	uint64_t ticket;   /* out: QUEUED */
	struct pindax_ioc_fault *buf;
};
/*
 * Ask once and map what was granted. grant_lock (read) held. PDX_STEP_*, or
 * -errno of the daemon or of mmap.
 */
int pdx_grant_step(struct pindax_map *m, struct pdx_ask *ask);
/*
 * Make [off, off + len) of the map present; waits while a break is in its last
 * steps there. @strict: see above. Not for helper threads.
 */
int pdx_fill(struct pindax_map *m, uint64_t off, uint64_t len, bool strict);
/* A page where a touch gets SIGBUS, and whoever waits there goes on to it. */
void pdx_poison(struct pindax_map *m, uint64_t off);
void pdx_wake(const void *addr, size_t len);

/* --- faults and recalls --- */

/* The event RETRY: faults parked with the ticket are asked again. */
void pdx_fault_retry(struct pindax_file *f, uint64_t ticket);
/* All of the file's: its daemon is gone, or it is being closed. */
void pdx_fault_retry_all(struct pindax_file *f);
/*
 * Bring back what has blocks in [addr, addr + len) without a touch: where the
 * kernel's own touches would not raise a fault.
 */
void pdx_fault_eager(uint8_t *addr, size_t len);
/* file->lock held: was [off, end) of the file recalled after @epoch? */
bool pdx_recalled_since(const struct pindax_file *f, uint64_t off, uint64_t end,
			uint64_t epoch);

/* --- pins (pin.c) --- */

struct pdx_range {
	uint64_t off; /* of the map */
	uint64_t len;
};
int pdx_pin_ranges(struct pindax_map *m, const struct pdx_range *r,
		   unsigned int nr, unsigned int flags, bool uring,
		   struct pindax_pin **ret_pin);

#endif
