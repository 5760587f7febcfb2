/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_PROTO_H
#define PINDAX_FS_PROTO_H

#include <assert.h>
#include <stdint.h>
#include <sys/ioctl.h>

/*
 * The ioctls between a client and the daemon. Issued on a descriptor of the
 * file they speak of (REPORT, STAT, INFO: of any file or directory of the
 * mount). Structs have no padding and no pointers, are the same on 32 and 64
 * bits, and are at most 16,383 bytes (what a FUSE ioctl carries). All offsets
 * and lengths are bytes; those of ranges are multiples of 4096.
 * Reserved fields must be zero (EINVAL).
 *
 * Errors beyond each call's own: ENOTTY not a pindax file; EINVAL unaligned,
 * empty or overflowing range, unknown flag; ENOENT no such mapper of this
 * description, or pin of this mapper; EACCES mapper not proven.
 */
#define PINDAX_PROTO_VERSION 1U
#define PINDAX_IOC_TYPE 0xB1

/* what a pool can do: enum pagemap_type's values on the wire */
#define PINDAX_TYPE_FS_DAX 1U
#define PINDAX_TYPE_FS_DAX_LIMITED 2U

#define PINDAX_INFO_EMULATED 1U	     /* survives processes, not a power cut */
#define PINDAX_INFO_BYTE_GRANULAR 2U /* persist costs cache lines, no msync */
#define PINDAX_INFO_FENCE 4U	     /* late DMA can be fenced */
#define PINDAX_INFO_READONLY 8U
#define PINDAX_INFO_UNSAFE 16U /* pinned=unsafe */

struct pindax_ioc_info {
	uint32_t version;
	uint32_t type;	 /* PINDAX_TYPE_* */
	uint32_t flags;	 /* PINDAX_INFO_* */
	uint32_t pinned; /* policy: 0 wait, 1 fail, 2 defer, 3 unsafe */
	uint8_t uuid[16];
	uint64_t nonce;	 /* of this mount; is in the mount record, too */
	uint64_t ns_off; /* of the namespace in the pool */
	uint64_t ns_len;
	uint64_t mount_record_off; /* in the pool */
	uint64_t zero_off;  /* in the pool: a page that always reads zeros */
	uint64_t super_off; /* in the pool: superblock, holds the uuid */
	uint64_t client_lock_byte; /* OFD read lock of the pool file */
	uint64_t ino;		   /* of the file the ioctl was issued on */
	uint32_t daemon_pid;
	uint32_t reserved;
	char reason[256]; /* why not FS_DAX, or empty */
	char pool_path[1024];
};

/*
 * MAPPER - make the caller's mapper of this open file description. The daemon
 * takes the process from the request, never from the struct.
 * EOPNOTSUPP direct mapping is off; ENOSPC no ledger page is left; EISDIR.
 */
struct pindax_ioc_mapper {
	uint32_t version;    /* in: PINDAX_PROTO_VERSION, else EPROTO */
	uint32_t flags;	     /* in: 0 */
	uint64_t id;	     /* out */
	uint64_t ledger_off; /* out: in the pool; the challenge is there */
};

/*
 * PROVE - @challenge as read from the ledger page, after storing @answer there.
 * With PINDAX_PROVE_RDONLY nothing was stored: read-only mappings only.
 * EACCES wrong.
 */
#define PINDAX_PROVE_RDONLY 1U
struct pindax_ioc_prove {
	uint64_t mapper;
	uint64_t challenge;
	uint64_t answer;
	uint32_t flags;
	uint32_t reserved;
};

struct pindax_ioc_mapper_id { /* MAPPER_DROP */
	uint64_t mapper;
};

/* kinds of a grant */
#define PINDAX_GRANT_BLOCKS 1U /* map the pool at pool_off */
#define PINDAX_GRANT_ZERO 2U   /* a hole in a read-only map: the zero page */
#define PINDAX_GRANT_EOF 3U    /* beyond the end: SIGBUS */

struct pindax_grant {
	uint64_t file_off;
	uint64_t pool_off; /* of BLOCKS */
	uint64_t len;
	uint32_t kind;
	uint32_t reserved;
};

/*
 * FAULT - ask for the lease on [off, off + len) and what to map there. Never
 * parks. status GRANTED: nr grants that cover [off, next_off) without a gap
 * (next_off < off + len: ask again from there); each is good while no recall
 * with an epoch above @epoch overlaps it. QUEUED: a break is in its last steps
 * there; an event RETRY with @ticket comes when it is over.
 * With WRITE holes get zeroed blocks (ENOSPC); EACCES without O_RDWR.
 */
#define PINDAX_FAULT_WRITE 1U
#define PINDAX_FAULT_GRANTED 0U
#define PINDAX_FAULT_QUEUED 1U
#define PINDAX_FAULT_MAX 480
struct pindax_ioc_fault {
	uint64_t mapper;
	uint64_t off;
	uint64_t len;
	uint32_t flags;
	uint32_t status;   /* out */
	uint64_t ticket;   /* out */
	uint64_t epoch;	   /* out */
	uint64_t next_off; /* out */
	uint32_t nr;	   /* out */
	uint32_t reserved;
	struct pindax_grant grant[PINDAX_FAULT_MAX];
};

/* UNMAP - the client has unmapped the range: leases over it end. */
struct pindax_ioc_range {
	uint64_t mapper;
	uint64_t off;
	uint64_t len;
};

/*
 * EVENTS - take what is queued for the mapper; never parks. poll(2) on the
 * description reports POLLPRI while anything is queued.
 * RECALL: zap [off, off + len) and everything granted there with an epoch
 * below @epoch, then ACK @epoch. len 0 is "to the end". RETRY: see FAULT.
 * HINT: an operation waits for pins there and will recall the range when they
 * are gone. A client may zap and ACK now, as for a RECALL, so that the
 * operation need not wait for that, too; or do nothing. Faults are granted as
 * ever meanwhile.
 */
#define PINDAX_EVENT_RECALL 1U
#define PINDAX_EVENT_RETRY 2U
#define PINDAX_EVENT_HINT 3U
struct pindax_event {
	uint32_t kind;
	uint32_t reserved;
	uint64_t off;
	uint64_t len;
	uint64_t epoch;	 /* RECALL, HINT */
	uint64_t ticket; /* RETRY */
};
#define PINDAX_EVENTS_MAX 64
struct pindax_ioc_events {
	uint64_t mapper;
	uint32_t nr;   /* out */
	uint32_t more; /* out: 1 when more are queued */
	struct pindax_event ev[PINDAX_EVENTS_MAX];
};

struct pindax_ioc_ack { /* ACK; a late or unknown epoch is ignored */
	uint64_t mapper;
	uint64_t epoch;
};

/*
 * PIN - hold the pages of [off, off + len). Parks while a break drains or
 * seals there, unless the range lies inside one that the mapper pins already.
 * EAGAIN with NOWAIT instead of parking; EDEADLK the calling thread holds a
 * pin that the break waits for; EINTR; ENXIO beyond the end; ENODATA there is
 * a hole (FAULT with WRITE, then again); EOPNOTSUPP FS_DAX_LIMITED; EACCES
 * without O_RDWR or with a read-only proof.
 */
#define PINDAX_PIN_NOWAIT 1U
#define PINDAX_PIN_URING 2U /* for the report: an io_uring registration */
struct pindax_ioc_pin {
	uint64_t mapper;
	uint64_t off;
	uint64_t len;
	uint32_t flags;
	uint32_t reserved;
	uint64_t pin; /* out */
};

struct pindax_ioc_unpin {
	uint64_t mapper;
	uint64_t pin;
};

/*
 * BREAK - recall leases and wait for pins over the range that the operation
 * takes away, and reserve it for the caller's process until its SETATTR or
 * FALLOCATE over it, the close of the description, or
 * PINDAX_RESERVE_MS. Parks; nothing else on the file is blocked.
 * TRUNCATE: off is the new size, any byte (len 0). PUNCH, ZERO: any bytes.
 * EBADF without write access; EINTR; ETIMEDOUT; ETXTBSY.
 * timeout_ms 0: the mount's pin_timeout.
 */
#define PINDAX_BREAK_TRUNCATE 1U
#define PINDAX_BREAK_PUNCH 2U
#define PINDAX_BREAK_ZERO 3U
#define PINDAX_RESERVE_MS 100
struct pindax_ioc_break {
	uint64_t off;
	uint64_t len;
	uint32_t op;
	uint32_t flags; /* 0 */
	uint32_t timeout_ms;
	uint32_t reserved;
};

/* EXTENTS - what filefrag shows; from @off on. EOF: nr 0. */
#define PINDAX_EXTENTS_MAX 500
struct pindax_extent_info {
	uint64_t file_off;
	uint64_t pool_off;
	uint64_t len;
	uint64_t reserved;
};
struct pindax_ioc_extents {
	uint64_t off;
	uint32_t nr; /* out */
	uint32_t reserved;
	struct pindax_extent_info ext[PINDAX_EXTENTS_MAX];
};

/*
 * REPORT - leases, pins and waiters: of the file, or with MOUNT or on the root
 * directory of all files. start 0 takes a new snapshot (kept with the
 * description), later calls read on from it. Other users' processes are shown
 * to everyone who can open the file, as in lsof.
 */
#define PINDAX_REPORT_MOUNT 1U
#define PINDAX_HELD_LEASE 1U
#define PINDAX_HELD_PIN 2U
#define PINDAX_HELD_URING 3U
#define PINDAX_WAIT_TRUNCATE 16U
#define PINDAX_WAIT_PUNCH 17U
#define PINDAX_WAIT_ZERO 18U
#define PINDAX_WAIT_OPEN_TRUNC 19U
#define PINDAX_WAIT_PIN 20U
#define PINDAX_WAIT_FILL 21U
#define PINDAX_WAIT_ORPHAN 22U
#define PINDAX_WAIT_RESERVED 23U /* a BREAK that holds its reservation */
#define PINDAX_REPORT_FOR 8
struct pindax_report_row {
	uint32_t kind; /* HELD_* or WAIT_* */
	uint32_t pid;
	uint32_t uid;
	uint32_t nr_for; /* waiters: holders waited for, may exceed the array */
	uint64_t id;	 /* pin, or request */
	uint64_t ino;
	uint64_t off;
	uint64_t len;	   /* UINT64_MAX: to the end */
	uint64_t since_ns; /* CLOCK_MONOTONIC */
	char comm[16];
	uint32_t for_pid[PINDAX_REPORT_FOR];
	uint32_t reserved[2];
};
#define PINDAX_REPORT_MAX 120
struct pindax_ioc_report {
	uint32_t flags;
	uint32_t start;	 /* row to start with */
	uint32_t nr;	 /* out */
	uint32_t more;	 /* out */
	uint64_t now_ns; /* out: CLOCK_MONOTONIC of the snapshot */
	struct pindax_report_row row[PINDAX_REPORT_MAX];
};

/* PATH - a path of inode @ino within the mount, as "/a/b"; ENOENT unlinked. */
struct pindax_ioc_path {
	uint64_t ino;
	char path[4096];
};

struct pindax_ioc_stat {
	uint32_t type;
	uint32_t flags; /* PINDAX_INFO_* */
	uint64_t block_size;
	uint64_t blocks_total;
	uint64_t blocks_free;
	uint64_t blocks_pending; /* freed, not yet fenced */
	uint64_t free_huge_runs;
	uint64_t inodes_used;
	uint64_t orphans;
	uint64_t mappers;
	uint64_t leases;
	uint64_t pins;
	uint64_t pinned_pages;
	uint64_t waiters;
	uint64_t breaks; /* since the mount, as all below */
	uint64_t breaks_waited;
	uint64_t recalls;
	uint64_t faults;
	uint64_t fenced_pages;
	uint64_t interrupted;
	uint64_t timed_out;
	uint64_t uptime_ns;
	char label[32];
	char pinned[16];
	char version[32];
};

#define PINDAX_IOC_INFO _IOR(PINDAX_IOC_TYPE, 0, struct pindax_ioc_info)
#define PINDAX_IOC_MAPPER _IOWR(PINDAX_IOC_TYPE, 1, struct pindax_ioc_mapper)
#define PINDAX_IOC_PROVE _IOW(PINDAX_IOC_TYPE, 2, struct pindax_ioc_prove)
#define PINDAX_IOC_MAPPER_DROP                                                 \
	_IOW(PINDAX_IOC_TYPE, 3, struct pindax_ioc_mapper_id)
#define PINDAX_IOC_FAULT _IOWR(PINDAX_IOC_TYPE, 4, struct pindax_ioc_fault)
#define PINDAX_IOC_UNMAP _IOW(PINDAX_IOC_TYPE, 5, struct pindax_ioc_range)
#define PINDAX_IOC_EVENTS _IOWR(PINDAX_IOC_TYPE, 6, struct pindax_ioc_events)
#define PINDAX_IOC_ACK _IOW(PINDAX_IOC_TYPE, 7, struct pindax_ioc_ack)
#define PINDAX_IOC_PIN _IOWR(PINDAX_IOC_TYPE, 8, struct pindax_ioc_pin)
#define PINDAX_IOC_UNPIN _IOW(PINDAX_IOC_TYPE, 9, struct pindax_ioc_unpin)
#define PINDAX_IOC_BREAK _IOW(PINDAX_IOC_TYPE, 10, struct pindax_ioc_break)
#define PINDAX_IOC_EXTENTS _IOWR(PINDAX_IOC_TYPE, 11, struct pindax_ioc_extents)
#define PINDAX_IOC_REPORT _IOWR(PINDAX_IOC_TYPE, 12, struct pindax_ioc_report)
#define PINDAX_IOC_PATH _IOWR(PINDAX_IOC_TYPE, 13, struct pindax_ioc_path)
#define PINDAX_IOC_STAT _IOR(PINDAX_IOC_TYPE, 14, struct pindax_ioc_stat)

static_assert(sizeof(struct pindax_ioc_fault) <= 16383, "FUSE ioctl limit");
static_assert(sizeof(struct pindax_ioc_report) <= 16383, "FUSE ioctl limit");
static_assert(sizeof(struct pindax_ioc_extents) <= 16383, "FUSE ioctl limit");
static_assert(sizeof(struct pindax_ioc_path) <= 16383, "FUSE ioctl limit");

#endif
