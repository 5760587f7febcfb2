/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_CMD_DEMO_H
#define PINDAX_CMD_DEMO_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

/*
 * The demo: a device that writes by DMA, a truncator that takes its blocks
 * away, and a victim that gets them; once with pinned=unsafe, once with
 * pinned=wait. Three processes and their parent share one struct demo_phase
 * in anonymous shared memory, and nothing else.
 */
#define DEMO_CHANNELS 4 /* of the device; each owns a part of the file */
#define DEMO_DEPTH 4	/* requests in flight, per channel */
#define DEMO_REQUEST (32U << 10) /* bytes a request */
#define DEMO_SOURCE_BYTES (32U << 20)
#define DEMO_MIN_REUSED 1000U
#define DEMO_FILE "device"

/* What a phase remembers for percentiles and the picture. */
#define DEMO_MAX_PINS (1U << 18)
#define DEMO_MAX_OPS (1U << 18)
#define DEMO_MAX_HITS (1U << 18)
/* 192 MiB of pool */
#define DEMO_POOL_PAGES (192U << 8)

/* All times are CLOCK_MONOTONIC nanoseconds, all ranges bytes of the file. */
struct demo_pin {
	uint64_t start_ns;
	uint64_t end_ns; /* stamped just before the pin was dropped */
	uint64_t off;
	uint64_t len;
};

enum demo_op_kind {
	DEMO_TRUNCATE,
	DEMO_PUNCH,
};

struct demo_op {
	uint64_t start_ns;
	uint64_t end_ns;
	uint64_t unpin_ns; /* of the last pin it waited for; 0: none */
	uint64_t off;
	uint64_t len;
	uint32_t kind;
	uint32_t waited;
};

/* A block of the victim with other content than the victim wrote. */
struct demo_hit {
	uint64_t at_ns;	   /* when the DMA landed, as far as known */
	uint64_t file_off; /* where in the device's file the block was */
};

/* One page of the pool. Written by the device, read by the victim. */
struct demo_page {
	_Atomic uint64_t dma_ns;    /* end of the last request that wrote it */
	_Atomic uint32_t file_page; /* of the device's file, plus 1; 0 never */
};

/* What the truncator must know of a channel's last unpin. */
struct demo_channel {
	_Atomic uint64_t unpin_ns;
	_Atomic uint64_t unpin_off;
	_Atomic uint64_t unpin_len;
};

/* One process: why it ended early, or an empty text. */
struct demo_role {
	char error[512];
};
enum demo_role_id {
	DEMO_DEVICE,
	DEMO_TRUNCATOR,
	DEMO_VICTIM,
	DEMO_NR_ROLES,
};

struct demo_phase {
	_Atomic bool stop;
	uint64_t start_ns, end_ns;
	struct demo_role role[DEMO_NR_ROLES];

	_Atomic uint64_t truncates; /* truncates and punches done */
	_Atomic uint64_t waits;	    /* of these waited for a pin */
	_Atomic uint64_t dma_requests;
	_Atomic uint64_t registrations;
	_Atomic uint64_t victim_blocks;
	_Atomic uint64_t reused_blocks;
	_Atomic uint64_t corrupted_blocks;
	_Atomic uint64_t
		device_stamps; /* corrupted, holding the device's data */

	/* filled up to the array's size, counted beyond it */
	_Atomic uint32_t nr_pins, nr_ops, nr_hits;
	struct demo_channel channel[DEMO_CHANNELS];
	struct demo_page page[DEMO_POOL_PAGES];
	struct demo_pin pin[DEMO_MAX_PINS];
	struct demo_op op[DEMO_MAX_OPS];
	struct demo_hit hit[DEMO_MAX_HITS];
};

/* The setting, the same for both phases. */
struct demo_setup {
	unsigned int seconds;
	uint64_t seed;
	uint64_t file_bytes;   /* of the device's file */
	uint64_t window_bytes; /* most that a channel may register */
	int source_fd;
	bool source_direct; /* opened O_DIRECT */
	const char *mount_dir;
};

/* The bodies of the three processes; the return value is the exit status. */
int demo_device(const struct demo_setup *s, struct demo_phase *p);
int demo_truncator(const struct demo_setup *s, struct demo_phase *p);
int demo_victim(const struct demo_setup *s, struct demo_phase *p);

/* Note why a role gives up; returns EXIT_FAILURE. Thread-safe enough: the
 * first text stays. */
int demo_fail(struct demo_phase *p, enum demo_role_id role, const char *fmt,
	      ...) __attribute__((format(printf, 3, 4)));

/* A slot of an event array, or NULL when it is full. */
struct demo_pin *demo_new_pin(struct demo_phase *p);
struct demo_op *demo_new_op(struct demo_phase *p);
struct demo_hit *demo_new_hit(struct demo_phase *p);

uint64_t now_ns(void);
void sleep_us(uint64_t us);
/* splitmix64: enough for places and pauses, and the same everywhere. */
uint64_t random_next(uint64_t *state);
static inline uint64_t random_below(uint64_t *state, uint64_t n)
{
	return random_next(state) % n;
}

/* --- stamps: every block of both files tells who wrote it --- */
#define STAMP_DEVICE 0x4543495645440000ULL /* "\0\0DEVICE" */
#define STAMP_VICTIM 0x4d49544349560000ULL /* "\0\0VICTIM" */
/* Fill a 4 KiB block; @who is STAMP_*, @a and @b name the block. */
void stamp_fill(void *block, uint64_t who, uint64_t a, uint64_t b);
bool stamp_is(const void *block, uint64_t who); /* a whole, true stamp */

/* --- the source file on disk --- */
/* The file is unlinked already; *ret_where (static) says where it lies. */
int demo_source_create(int *ret_fd, bool *ret_direct, const char **ret_where);

/* --- pool, mount, and their end --- */
struct demo_mount {
	char pool_dir[4096]; /* private directories, "" when there is none */
	char mount_dir[4096];
	char pool[4200];
	char log[4200];
	pid_t daemon; /* 0: not mounted */
	bool mounted;
};
/* Directories; says why not. @dir NULL: chosen. 0 or an exit code. */
int demo_mount_prepare(struct demo_mount *m, const char *dir,
		       uint64_t *ret_pool_bytes);
/* mkfs and mount with pinned=@policy. 0 or an exit code, having said why. */
int demo_mount_start(struct demo_mount *m, uint64_t pool_bytes,
		     const char *policy, volatile const int *interrupted);
int demo_mount_stop(struct demo_mount *m);
/* Has the daemon ended by itself? Says so and shows its last words. */
bool demo_mount_lost(struct demo_mount *m);
void demo_mount_remove(struct demo_mount *m);

/* --- results --- */
struct demo_quantiles {
	uint64_t nr;
	double p50, p99, max; /* microseconds */
};
void demo_wait_quantiles(const struct demo_phase *p,
			 struct demo_quantiles *ret_wait,
			 struct demo_quantiles *ret_wake);
/* 1234567 as "1,234,567", in one of four buffers in turn. */
const char *demo_number(uint64_t v);
void demo_print_table(FILE *to, const struct demo_setup *s,
		      const struct demo_phase *unsafe,
		      const struct demo_phase *wait);
int demo_print_json(const struct demo_phase *unsafe,
		    const struct demo_phase *wait);
/* 0 or -errno. */
int demo_write_svg(const char *path, const struct demo_setup *s,
		   const struct demo_phase *unsafe,
		   const struct demo_phase *wait);

#endif
