/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_TESTS_FS_FIXTURE_H
#define PINDAX_TESTS_FS_FIXTURE_H

/*
 * A filesystem on a pool of its own on /dev/shm, driven without a mount, and
 * the two things tests do with what may wait: start it, and wait for its end or
 * for the state in which it is parked, both with a deadline.
 *
 * A build without page callbacks refuses a pool that can be pinned: there the
 * pool is on a disk, and tests that need pins are skipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "fs/fs.h"
#include "fs/ledger.h"

#define POOL_MIB 32
#define DEADLINE_S 20
#ifdef PINDAX_NO_PAGEMAP_OPS
#define POOL_DIR "/var/tmp"
#define CAN_PIN false
#else
#define POOL_DIR "/dev/shm"
#define CAN_PIN true
#endif

struct world {
	char dir[64];
	char pool[96];
	struct fs *fs;
	struct fs_options opt;
	struct inode *root;
};

static const struct fs_cred ME = {.uid = 0, .gid = 0, .tgid = 0, .tid = 0};

static inline void world_format(struct world *w)
{
	struct label_area la = {.nr = 1};
	struct mkfs_options mo = {.label = "test", .now_ns = 1};
	struct pmem_pool *pool;

	assert_int_equal(
		pmem_create(w->pool, (uint64_t)POOL_MIB << 20, 0, &pool), 0);
	la.pool_size = pool->size_bytes;
	memset(la.pool_uuid, 7, sizeof(la.pool_uuid));
	memset(la.ns[0].uuid, 9, sizeof(la.ns[0].uuid));
	strcpy(la.ns[0].name, "default");
	la.ns[0].off = LABEL_AREA_SIZE;
	la.ns[0].len = pool->size_bytes - LABEL_AREA_SIZE;
	assert_int_equal(label_format(pool, &la), 0);
	assert_int_equal(media_mkfs(pool, &la.ns[0], &mo), 0);
	pmem_close(pool);
}

static inline void world_mount(struct world *w)
{
	struct fs_report rep;
	int err = fs_open(w->pool, &w->opt, &w->fs, &rep);

	if (err)
		print_error("fs_open: %s\n", rep.error);
	assert_int_equal(err, 0);
	assert_int_equal(fs_inode_get(w->fs, FS_ROOT_INO, &w->root), 0);
}

static inline void world_unmount(struct world *w)
{
	fs_inode_put(w->root);
	fs_close(w->fs);
	w->fs = NULL;
}

static inline void world_remount(struct world *w)
{
	world_unmount(w);
	world_mount(w);
}

static inline int world_setup(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	strcpy(w->dir, POOL_DIR "/pindax-test-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	(void)snprintf(w->pool, sizeof(w->pool), "%s/pool", w->dir);
	world_format(w);
	world_mount(w);
	*state = w;
	return 0;
}

static inline int world_teardown(void **state)
{
	struct world *w = *state;

	if (w->fs)
		world_unmount(w);
	unlink(w->pool);
	rmdir(w->dir);
	free(w);
	return 0;
}

/* A new regular file, open; close with file_close(). */
static inline struct inode *file_new(struct world *w, const char *name)
{
	struct inode *ip;

	assert_int_equal(
		fs_create(w->root, name, S_IFREG | 0644, 0, NULL, &ME, &ip), 0);
	fs_inode_open(ip);
	return ip;
}

static inline struct inode *file_open(struct world *w, const char *name)
{
	struct inode *ip;

	assert_int_equal(fs_lookup(w->root, name, &ip), 0);
	fs_inode_open(ip);
	return ip;
}

static inline void file_close(struct world *w, struct inode *ip)
{
	uint64_t ino = fs_ino(ip);

	fs_inode_release(ip);
	fs_forget(w->fs, ino, UINT64_MAX);
}

static inline void file_fill(struct inode *ip, int c, size_t len, uint64_t off)
{
	char *buf = malloc(len);

	memset(buf, c, len);
	assert_int_equal(fs_write(ip, buf, len, off), len);
	free(buf);
}

static inline bool file_is(struct inode *ip, int c, size_t len, uint64_t off)
{
	unsigned char *buf = malloc(len);
	bool same = fs_read(ip, buf, len, off) == (ssize_t)len;

	for (size_t i = 0; same && i < len; i++)
		same = buf[i] == (unsigned char)c;
	free(buf);
	return same;
}

static inline struct stat file_stat(struct inode *ip)
{
	struct stat st;

	fs_getattr(ip, &st, NULL);
	return st;
}

/* --- operations --- */

struct test_op {
	struct fs_op op;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	int err;
};

static inline void test_op_done(struct fs_op *op, int err)
{
	struct test_op *t = (struct test_op *)op;

	pthread_mutex_lock(&t->lock);
	t->done = true;
	t->err = err;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->lock);
}

static inline void test_op_init(struct test_op *t, struct inode *ip)
{
	pthread_mutex_init(&t->lock, NULL);
	pthread_cond_init(&t->cond, NULL);
	t->done = false;
	fs_op_init(&t->op, ip, &ME, 0, test_op_done);
}

static inline bool test_op_is_done(struct test_op *t)
{
	bool done;

	pthread_mutex_lock(&t->lock);
	done = t->done;
	pthread_mutex_unlock(&t->lock);
	return done;
}

static inline int test_op_wait(struct test_op *t)
{
	struct timespec until;
	int err = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_sec += DEADLINE_S;
	pthread_mutex_lock(&t->lock);
	while (!t->done && !err)
		err = pthread_cond_timedwait(&t->cond, &t->lock, &until);
	pthread_mutex_unlock(&t->lock);
	assert_int_equal(err, 0);
	return t->err;
}

static inline void start_truncate(struct test_op *t, struct inode *ip,
				  uint64_t size)
{
	test_op_init(t, ip);
	t->op.attr.valid = FS_SET_SIZE;
	t->op.attr.size = size;
	fs_setattr(&t->op);
}

static inline int do_truncate(struct inode *ip, uint64_t size)
{
	struct test_op t;

	start_truncate(&t, ip, size);
	return test_op_wait(&t);
}

static inline void start_falloc(struct test_op *t, struct inode *ip, int mode,
				uint64_t off, uint64_t len)
{
	test_op_init(t, ip);
	t->op.mode = mode;
	t->op.off = off;
	t->op.range_len = len;
	fs_fallocate(&t->op);
}

static inline int do_falloc(struct inode *ip, int mode, uint64_t off,
			    uint64_t len)
{
	struct test_op t;

	start_falloc(&t, ip, mode, off, len);
	return test_op_wait(&t);
}

/* --- a client in this process --- */

struct test_mapper {
	struct mapper *m;
	uint64_t id;
};

/* Each description is a number here. */
static inline void mapper_start(struct world *w, struct inode *ip, uint64_t fh,
				struct test_mapper *t)
{
	struct mapper_who who = {
		.tgid = getpid(), .uid = getuid(), .fh = fh, .writable = true};
	struct pindax_ledger *page;
	uint64_t off;
	int fd = open(w->pool, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(mapper_create(fs_layout(ip), &who, &t->id, &off), 0);
	t->m = mapper_get(fs_layouts(w->fs), t->id, fh);
	assert_non_null(t->m);
	page = mmap(NULL, sizeof(*page), PROT_READ | PROT_WRITE, MAP_SHARED, fd,
		    (off_t)off);
	assert_ptr_not_equal(page, MAP_FAILED);
	__atomic_store_n(&page->answer, 77, __ATOMIC_RELEASE);
	assert_int_equal(mapper_prove(t->m, page->challenge, 77, 0), 0);
	munmap(page, sizeof(*page));
	close(fd);
}

static inline void mapper_stop(struct test_mapper *t)
{
	mapper_drop(t->m);
	mapper_put(t->m);
}

/* Takes the lease; returns the kind of the first grant. */
static inline uint32_t mapper_take(struct test_mapper *t, uint64_t off,
				   uint64_t len, bool write)
{
	struct pindax_ioc_fault f = {
		.mapper = t->id,
		.off = off,
		.len = len,
		.flags = write ? PINDAX_FAULT_WRITE : 0,
	};

	assert_int_equal(mapper_fault(t->m, &f), 0);
	assert_int_equal(f.status, PINDAX_FAULT_GRANTED);
	return f.grant[0].kind;
}

struct test_pin {
	struct pin_req r;
	int err;
	bool done;
};

static inline void test_pin_done(struct pin_req *r, int err)
{
	struct test_pin *p = (struct test_pin *)r;

	p->err = err;
	p->done = true;
}

static inline uint64_t mapper_hold(struct world *w, struct test_mapper *t,
				   uint64_t first, uint64_t nr)
{
	struct test_pin p = {.r = {.id = layouts_new_id(fs_layouts(w->fs)),
				   .mapper = t->m,
				   .first = first,
				   .nr = nr,
				   .done = test_pin_done}};

	mapper_pin(&p.r);
	assert_true(p.done);
	assert_int_equal(p.err, 0);
	return p.r.pin;
}

/* Takes what is queued and acknowledges it, as if it had been unmapped. */
static inline unsigned int mapper_obey(struct test_mapper *t)
{
	struct pindax_ioc_events e = {.mapper = t->id};
	unsigned int recalls = 0;

	assert_int_equal(mapper_events(t->m, &e), 0);
	for (uint32_t i = 0; i < e.nr; i++) {
		if (e.ev[i].kind != PINDAX_EVENT_RECALL)
			continue;
		assert_int_equal(mapper_ack(t->m, e.ev[i].epoch), 0);
		recalls++;
	}
	return recalls;
}

/* Obeys recalls until the operation has ended. */
static inline int test_op_obey(struct test_op *t, struct test_mapper *m)
{
	struct timespec step = {.tv_nsec = 1000000};

	for (int i = 0; i < DEADLINE_S * 1000 && !test_op_is_done(t); i++) {
		(void)mapper_obey(m);
		(void)nanosleep(&step, NULL);
	}
	return test_op_wait(t);
}

static inline void until_waiters(struct world *w, uint64_t nr)
{
	struct timespec step = {.tv_nsec = 1000000};
	struct pindax_ioc_stat st;

	for (int i = 0; i < DEADLINE_S * 1000; i++) {
		fs_stat(w->fs, &st);
		if (st.waiters == nr)
			return;
		(void)nanosleep(&step, NULL);
	}
	fail_msg("%llu waiters, not %llu", (unsigned long long)st.waiters,
		 (unsigned long long)nr);
}

/* Space that is on its way has arrived: no orphan, nothing pending. */
static inline uint64_t settled_free(struct world *w)
{
	struct timespec step = {.tv_nsec = 1000000};
	struct pindax_ioc_stat st;

	for (int i = 0; i < DEADLINE_S * 1000; i++) {
		fs_stat(w->fs, &st);
		if (!st.orphans && !st.blocks_pending)
			return st.blocks_free;
		(void)nanosleep(&step, NULL);
	}
	fail_msg("orphans %llu, pending %llu", (unsigned long long)st.orphans,
		 (unsigned long long)st.blocks_pending);
	return 0;
}

#endif
