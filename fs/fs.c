// SPDX-License-Identifier: BSD-3-Clause
/*
 * A filesystem from mount to unmount: what is opened in which order, and undone
 * in the reverse one on every path.
 *
 * pool -> label -> claim -> media -> what the backing can do -> pagemaps ->
 * mount record -> layouts -> fencer, reaper -> orphans of the last mount.
 *
 * Nothing is believed about the backing that was not tried: pins by
 * registering a page, the fence by writing through a pin after a punch.
 * Locks: none; one thread opens and closes.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "fs/inode.h"
#include "fs/ledger.h"
#include "fs/media/alloc.h"

static void say(struct fs_report *rep, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/* The first message stands: it is nearest to the cause. */
static void say(struct fs_report *rep, const char *fmt, ...)
{
	va_list ap;

	if (rep->error[0])
		return;
	va_start(ap, fmt);
	(void)vsnprintf(rep->error, sizeof(rep->error), fmt, ap);
	va_end(ap);
}

static uint64_t monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000ULL + (uint64_t)t.tv_nsec;
}

/* --- pool and label --- */

static int open_pool(struct fs *fs, const char *path, struct fs_report *rep)
{
	int err = pmem_open(path, 0, &fs->pool);

	if ((err == -EACCES || err == -EROFS || err == -EPERM) && fs->readonly)
		err = pmem_open(path, PMEM_OPEN_RDONLY, &fs->pool);
	if (err == -ENOENT)
		say(rep, "%s: no such pool; make one with mkfs.pindax", path);
	else if (err == -EINVAL)
		say(rep, "%s is not a regular file, or is empty: not a pool",
		    path);
	else if (err)
		say(rep, "cannot open %s: %s", path, strerror(-err));
	return err;
}

static int read_label(struct fs *fs, const char *path, struct fs_report *rep)
{
	struct label_area la;
	int err = label_read(fs->pool, &la);

	if (err == -EINVAL)
		say(rep, "%s is not a pindax pool; make one with mkfs.pindax",
		    path);
	else if (err == -EBADMSG)
		say(rep, "%s: both copies of the label area are damaged", path);
	else if (err == -EPROTONOSUPPORT)
		say(rep, "%s was made by another version of pindax", path);
	else if (err == -EOVERFLOW)
		say(rep,
		    "%s is shorter than it claims: it was cut, or not copied "
		    "whole",
		    path);
	else if (err)
		say(rep, "%s: label area: %s", path, strerror(-err));
	if (err)
		return err;
	rep->label_copy_bad = la.copy_bad;
	if (!la.nr) {
		say(rep, "%s has no namespace; make one with mkfs.pindax",
		    path);
		return -ENODEV;
	}
	fs->ns = la.ns[0];
	return 0;
}

static int open_media(struct fs *fs, const char *path, struct fs_report *rep)
{
	int err = media_open(fs->pool, &fs->ns, fs->readonly, &fs->m,
			     &rep->media);

	if (err == -EINVAL)
		say(rep, "%s holds no pindax filesystem", path);
	else if (err == -EBADMSG)
		say(rep, "%s is damaged: run fsck.pindax -n %s", path, path);
	else if (err == -EPROTONOSUPPORT)
		say(rep, "%s was made by another version of pindax", path);
	else if (err == -EOVERFLOW)
		say(rep, "the filesystem of %s is larger than its pool", path);
	else if (err == -EROFS)
		say(rep,
		    "%s was not unmounted cleanly and its journal must be "
		    "replayed: mount it without ro once",
		    path);
	else if (err)
		say(rep, "%s: %s", path, strerror(-err));
	return err;
}

/* --- what the backing can do --- */

static const char *no_pins_reason(int err)
{
	switch (err) {
	case -EOPNOTSUPP:
		return "this backing refuses long-term pins (a disk "
		       "filesystem): use a pool on tmpfs for pins";
	case -EPERM:
		return "io_uring is disabled: sysctl kernel.io_uring_disabled=0"
		       " allows it";
	case -ENOSYS:
		return "this kernel has no io_uring";
	case -ENOMEM:
		return "memlock limit too small to register a page: raise it "
		       "with ulimit -l";
	default:
		return NULL;
	}
}

static void probe(struct fs *fs, enum pagemap_type *ret_type)
{
	const char *why;
	int err;

	*ret_type = PAGEMAP_FS_DAX_LIMITED;
	if (fs->pool->readonly) {
		(void)snprintf(fs->reason, sizeof(fs->reason),
			       "the pool file cannot be written");
		return;
	}
	err = pmem_probe_pins(fs->pool, LABEL_SCRATCH_OFF);
	if (err) {
		why = no_pins_reason(err);
		(void)snprintf(fs->reason, sizeof(fs->reason), "%s",
			       why ? why : strerror(-err));
	} else {
		*ret_type = PAGEMAP_FS_DAX;
		fs->fence_ok =
			pmem_probe_fence(fs->pool, LABEL_SCRATCH_OFF) == 0;
	}
	alloc_set_fence(fs->m, fs->fence_ok, fs->opt.pinned == PINNED_UNSAFE);
}

/* --- pagemaps --- */

static void data_page_free(void *owner, uint64_t first, uint64_t nr)
{
	struct fs *fs = owner;

	waitq_wake(fs->waitq, first, nr);
}

/* A ledger page's slot is given up by its mapper before the page goes idle. */
static void ledger_page_free(void *owner, uint64_t first, uint64_t nr)
{
	(void)owner;
	(void)first;
	(void)nr;
}

static const struct dev_pagemap_ops data_ops = {.page_free = data_page_free};
static const struct dev_pagemap_ops ledger_ops = {.page_free =
							  ledger_page_free};

/* The control region: mount record, zero page, ledger pages. */
static uint64_t zero_block(const struct fs *fs)
{
	return get64(fs->m->sb.control_block) + 1;
}

static uint64_t ledger_block(const struct fs *fs)
{
	return zero_block(fs) + 1;
}

static int attach_maps(struct fs *fs, enum pagemap_type type,
		       struct fs_report *rep)
{
	struct media *m = fs->m;
	struct dev_pagemap_desc data = {
		.type = type,
		.first = media_pool_page(m, m->data_block),
		.nr_pages = m->end_block - m->data_block,
		.ops = &data_ops,
		.owner = fs,
	};
	struct dev_pagemap_desc ledgers = {
		.type = PAGEMAP_PUBLIC,
		.first = media_pool_page(m, ledger_block(fs)),
		.nr_pages = get64(m->sb.nr_ledger_blocks),
		.ops = &ledger_ops,
		.owner = fs,
	};
	int err = pagemap_table_create(fs->pool->size_bytes >> PMEM_PAGE_SHIFT,
				       &fs->table);

	if (err)
		return err;
	err = dev_pagemap_attach(fs->table, &data, &fs->map);
	if (err == -EOPNOTSUPP)
		say(rep, "dax support not enabled: this build has no page "
			 "callbacks (DEV_PAGEMAP_OPS=n)");
	if (err || fs->pool->readonly)
		return err;
	err = dev_pagemap_attach(fs->table, &ledgers, &fs->ledger_map);
	/* Without callbacks there are no ledgers; the limited pool mounts. */
	return err == -EOPNOTSUPP ? 0 : err;
}

static void no_notify(struct layouts *ls, uint64_t fh)
{
	(void)ls;
	(void)fh;
}

static int create_layouts(struct fs *fs)
{
	struct layouts_config cfg = {
		.ops = &fs->layout_ops,
		.map = fs->map,
		.waitq = fs->waitq,
		.ledger_map = fs->ledger_map,
		.ledger_base = media_ptr(fs->m, ledger_block(fs)),
		.ledger_off = media_pool_page(fs->m, ledger_block(fs))
			      << PMEM_PAGE_SHIFT,
		.nr_ledgers = fs->pool->readonly
				      ? 0
				      : get64(fs->m->sb.nr_ledger_blocks),
		.policy = fs->opt.pinned,
		.pin_timeout_ms = fs->opt.pin_timeout_ms,
		.recall_timeout_ms = fs->opt.recall_timeout_ms,
		.pool_dev = fs->pool->dev,
		.pool_ino = fs->pool->ino,
	};

	fs->layout_ops = fs_layout_ops;
	fs->layout_ops.notify = fs->opt.notify ? fs->opt.notify : no_notify;
	return layouts_create(&cfg, &fs->layouts);
}

static int start(struct fs *fs, struct fs_report *rep)
{
	int err = waitq_create(&fs->waitq);

	if (!err)
		err = icache_init(fs);
	if (!err)
		err = claim_record(fs);
	if (!err)
		err = create_layouts(fs);
	if (!err)
		err = fencer_create(fs, &fs->fencer);
	if (!err)
		err = reaper_start(fs);
	if (!err)
		err = fs_inode_get(fs, FS_ROOT_INO, &fs->root);
	if (!err && !fs->readonly)
		err = orphans_resume(fs);
	if (err)
		say(rep, "%s: %s", fs->pool->path,
		    err == -EBADMSG ? "damaged: run fsck.pindax -n"
				    : strerror(-err));
	return err;
}

static void init_locks(struct fs *fs)
{
	pthread_mutex_init(&fs->rename_lock, NULL);
	pthread_mutex_init(&fs->dir_load_lock, NULL);
	pthread_mutex_init(&fs->icache_lock, NULL);
	pthread_mutex_init(&fs->reap_lock, NULL);
	pthread_cond_init(&fs->reap_cond, NULL);
	pthread_cond_init(&fs->space_cond, NULL);
}

static void fini_locks(struct fs *fs)
{
	pthread_mutex_destroy(&fs->rename_lock);
	pthread_mutex_destroy(&fs->dir_load_lock);
	pthread_mutex_destroy(&fs->icache_lock);
	pthread_mutex_destroy(&fs->reap_lock);
	pthread_cond_destroy(&fs->reap_cond);
	pthread_cond_destroy(&fs->space_cond);
}

/* Undoes whatever of fs_open() has been done. */
static void teardown(struct fs *fs, bool clean)
{
	fs_inode_put(fs->root);
	icache_fini(fs);
	reaper_stop(fs);
	if (fs->layouts)
		layouts_destroy(fs->layouts);
	fencer_destroy(fs->fencer);
	if (fs->m)
		alloc_set_sink(fs->m, NULL, NULL);
	if (fs->ledger_map)
		(void)dev_pagemap_detach(fs->ledger_map);
	if (fs->map)
		(void)dev_pagemap_detach(fs->map);
	pagemap_table_destroy(fs->table);
	waitq_destroy(fs->waitq);
	claim_drop(fs);
	media_close(fs->m, clean);
	pmem_close(fs->pool); /* drops the claim */
	free(fs->icache);
	fini_locks(fs);
	free(fs);
}

int fs_open(const char *path, const struct fs_options *opt, struct fs **ret_fs,
	    struct fs_report *rep)
{
	enum pagemap_type type;
	struct fs *fs = calloc(1, sizeof(*fs));
	int err;

	memset(rep, 0, sizeof(*rep));
	rep->label_copy_bad = -1;
	rep->media.sb_bad = -1;
	if (!fs)
		return -ENOMEM;
	init_locks(fs);
	fs->opt = *opt;
	fs->readonly = opt->readonly;
	fs->start_ns = monotonic_ns();
	err = open_pool(fs, path, rep);
	if (!err)
		err = read_label(fs, path, rep);
	if (!err)
		err = claim_take(fs, rep);
	if (!err)
		err = open_media(fs, path, rep);
	if (!err) {
		probe(fs, &type);
		err = attach_maps(fs, type, rep);
	}
	if (!err)
		err = start(fs, rep);
	if (err) {
		say(rep, "%s: %s", path, strerror(-err));
		if (fs->layouts)
			fs_shutdown(fs);
		teardown(fs, false);
		return err;
	}
	rep->emulated = fs->pool->emulated;
	rep->fence_ok = fs->fence_ok;
	memcpy(rep->reason, fs->reason, sizeof(rep->reason));
	*ret_fs = fs;
	return 0;
}

void fs_shutdown(struct fs *fs)
{
	if (!atomic_exchange(&fs->shut, true))
		layouts_shutdown(fs->layouts);
}

void fs_close(struct fs *fs)
{
	fs_shutdown(fs);
	teardown(fs, !fs->readonly);
}

struct layouts *fs_layouts(struct fs *fs)
{
	return fs->layouts;
}

bool fs_direct(struct fs *fs)
{
	return fs->ledger_map != NULL;
}

static uint32_t info_flags(const struct fs *fs)
{
	uint32_t flags = 0;

	if (fs->pool->emulated)
		flags |= PINDAX_INFO_EMULATED;
	if (fs->pool->byte_granular)
		flags |= PINDAX_INFO_BYTE_GRANULAR;
	if (fs->fence_ok)
		flags |= PINDAX_INFO_FENCE;
	if (fs->readonly)
		flags |= PINDAX_INFO_READONLY;
	if (fs->opt.pinned == PINNED_UNSAFE)
		flags |= PINDAX_INFO_UNSAFE;
	return flags;
}

static uint32_t wire_type(const struct fs *fs)
{
	return dev_pagemap_type(fs->map) == PAGEMAP_FS_DAX
		       ? PINDAX_TYPE_FS_DAX
		       : PINDAX_TYPE_FS_DAX_LIMITED;
}

static uint64_t pool_off(const struct fs *fs, uint64_t block)
{
	return media_pool_page(fs->m, block) << PMEM_PAGE_SHIFT;
}

void fs_info(struct fs *fs, struct pindax_ioc_info *ret_info)
{
	struct pindax_ioc_info *i = ret_info;

	memset(i, 0, sizeof(*i));
	i->version = PINDAX_PROTO_VERSION;
	i->type = wire_type(fs);
	i->flags = info_flags(fs);
	i->pinned = fs->opt.pinned;
	memcpy(i->uuid, fs->m->sb.uuid, sizeof(i->uuid));
	i->nonce = fs->nonce;
	i->ns_off = fs->ns.off;
	i->ns_len = fs->ns.len;
	i->mount_record_off = pool_off(fs, get64(fs->m->sb.control_block));
	i->zero_off = pool_off(fs, zero_block(fs));
	i->super_off = fs->ns.off;
	i->client_lock_byte = pmem_client_lock_byte(fs->ns.off);
	i->daemon_pid = (uint32_t)getpid();
	memcpy(i->reason, fs->reason, sizeof(i->reason));
	(void)snprintf(i->pool_path, sizeof(i->pool_path), "%s",
		       fs->pool->path);
}

void fs_stat(struct fs *fs, struct pindax_ioc_stat *ret_st)
{
	static const char *const names[] = {
		[PINNED_WAIT] = "wait",
		[PINNED_FAIL] = "fail",
		[PINNED_UNSAFE] = "unsafe",
	};
	struct pindax_ioc_stat *st = ret_st;
	struct alloc_stat as;

	memset(st, 0, sizeof(*st));
	layouts_stat(fs->layouts, st);
	alloc_stat(fs->m, &as);
	st->type = wire_type(fs);
	st->flags = info_flags(fs);
	st->block_size = PDX_BLOCK_SIZE;
	st->blocks_total = as.total;
	st->blocks_free = as.free;
	st->blocks_pending = as.pending;
	st->free_huge_runs = as.free_huge_runs;
	st->fenced_pages = as.fenced;
	st->inodes_used = itable_nr_used(fs->m);
	st->orphans = icache_orphans(fs);
	st->uptime_ns = monotonic_ns() - fs->start_ns;
	memcpy(st->label, fs->m->sb.label, sizeof(st->label));
	st->label[sizeof(st->label) - 1] = '\0';
	(void)snprintf(st->pinned, sizeof(st->pinned), "%s",
		       names[fs->opt.pinned]);
	(void)snprintf(st->version, sizeof(st->version), "%s", PINDAX_VERSION);
}
