/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Attaching to an open file description: what the pool can do, the mapper, the
 * proof that the client may open the pool, and the life of struct pindax_file.
 *
 * Knows the ioctls; what they promise is in fs/proto.h, why in
 * docs/PROTOCOL.md, "Who is who". A file is found by helper threads under
 * pdx.lock by id or address, never by a pointer they kept; destroying one waits
 * until no helper uses it.
 *
 * A file that is closed while pins are left stays attached until the last of
 * them is released: the daemon must not think pages idle into which a device
 * may still write.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>
#include "client/internal.h"
#include "fs/ledger.h"

int pdx_ioctl_call(const struct pdx_daemon *d, unsigned long cmd, void *arg)
{
	return ioctl(d->fd, cmd, arg) < 0 ? -errno : 0;
}

/* --- references of helper threads --- */

struct pindax_file *pdx_file_by_id(uint64_t id)
{
	struct pindax_file *f;

	pthread_mutex_lock(&pdx.lock);
	for (f = pdx.files; f; f = f->next)
		if (f->id == id)
			break;
	if (f)
		f->users++;
	pthread_mutex_unlock(&pdx.lock);
	return f;
}

struct pindax_file *pdx_file_by_addr(const void *addr)
{
	struct pindax_file *f;

	pthread_mutex_lock(&pdx.lock);
	for (f = pdx.files; f; f = f->next)
		if (pdx_map_find(f, addr))
			break;
	if (f)
		f->users++;
	pthread_mutex_unlock(&pdx.lock);
	return f;
}

void pdx_file_release(struct pindax_file *f)
{
	pthread_mutex_lock(&pdx.lock);
	if (--f->users == 0)
		pthread_cond_broadcast(&pdx.idle);
	pthread_mutex_unlock(&pdx.lock);
}

int pdx_file_usable(const struct pindax_file *f)
{
	if (f->generation == pdx.generation)
		return 0;
	return pdx_fail(-ESTALE, "attached before fork(): a child attaches "
				 "with a pindax_open() of its own");
}

/* --- create and destroy --- */

static int init_locks(struct pindax_file *f)
{
	pthread_condattr_t attr;
	int err = pthread_condattr_init(&attr);

	if (err)
		return -err;
	(void)pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	err = pthread_cond_init(&f->retry, &attr);
	(void)pthread_condattr_destroy(&attr);
	if (err)
		return -err;
	pthread_mutex_init(&f->lock, NULL);
	pthread_rwlock_init(&f->grant_lock, NULL);
	return 0;
}

static void fini_locks(struct pindax_file *f)
{
	pthread_cond_destroy(&f->retry);
	pthread_mutex_destroy(&f->lock);
	pthread_rwlock_destroy(&f->grant_lock);
}

static void file_unlist(struct pindax_file *f)
{
	struct pindax_file **at;

	pthread_mutex_lock(&pdx.lock);
	for (at = &pdx.files; *at != f; at = &(*at)->next)
		;
	*at = f->next;
	while (f->users)
		pthread_cond_wait(&pdx.idle, &pdx.lock);
	pthread_mutex_unlock(&pdx.lock);
}

int pdx_file_create(const struct pdx_file_config *cfg,
		    struct pindax_file **ret_file)
{
	struct epoll_event ev = {.events = cfg->daemon.events};
	struct pindax_file *f = calloc(1, sizeof(*f));
	int err = f ? init_locks(f) : -ENOMEM;

	if (err)
		goto out_free;
	f->daemon = cfg->daemon;
	f->pool = cfg->pool;
	f->mapper = cfg->mapper;
	f->writable = cfg->writable;
	f->type = cfg->type;
	f->flags = cfg->flags;
	f->generation = pdx.generation;
	(void)snprintf(f->reason, sizeof(f->reason), "%s", cfg->reason);
	pthread_mutex_lock(&pdx.lock);
	f->id = ++pdx.next_id;
	f->next = pdx.files;
	pdx.files = f;
	pthread_mutex_unlock(&pdx.lock);
	ev.data.u64 = f->id;
	if (epoll_ctl(pdx.epoll_fd, EPOLL_CTL_ADD, f->daemon.fd, &ev)) {
		err = -errno;
		goto out_unlist;
	}
	*ret_file = f;
	return 0;
out_unlist:
	file_unlist(f);
	fini_locks(f);
out_free:
	free(f);
	return pdx_fail(err, "attaching: %s", strerror(-err));
}

void pdx_file_destroy(struct pindax_file *f)
{
	struct pindax_ioc_mapper_id id = {.mapper = f->mapper};

	while (f->maps)
		pdx_map_destroy(f->maps);
	/* Not if the daemon is gone: then it is out already. */
	(void)epoll_ctl(pdx.epoll_fd, EPOLL_CTL_DEL, f->daemon.fd, NULL);
	pdx_fault_retry_all(f);
	file_unlist(f);
	(void)f->daemon.call(&f->daemon, PINDAX_IOC_MAPPER_DROP, &id);
	(void)close(f->daemon.fd);
	pdx_pool_put(f->pool);
	fini_locks(f);
	free(f);
}

/* --- the daemon's side --- */

static int get_info(int fd, struct pindax_ioc_info *info)
{
	int err = 0;

	memset(info, 0, sizeof(*info));
	if (ioctl(fd, PINDAX_IOC_INFO, info))
		err = -errno;
	if (err == -ENOTTY || err == -EINVAL || err == -ENOSYS ||
	    err == -EOPNOTSUPP)
		return pdx_fail(-ENOTTY, "not a file of a pindax mount");
	if (err)
		return pdx_fail_call(err, "asking the mount");
	if (info->version != PINDAX_PROTO_VERSION)
		return pdx_fail(-EPROTO,
				"the mount speaks protocol %u, this library %u",
				info->version, PINDAX_PROTO_VERSION);
	info->reason[sizeof(info->reason) - 1] = '\0';
	info->pool_path[sizeof(info->pool_path) - 1] = '\0';
	return 0;
}

/* Read the challenge, leave an answer where the pool can be written. */
static int answer_challenge(const struct pdx_pool *pool, uint64_t ledger_off,
			    struct pindax_ioc_prove *prove)
{
	struct pindax_ledger *page;

	page = mmap(NULL, sizeof(*page),
		    pool->rdonly ? PROT_READ : PROT_READ | PROT_WRITE,
		    MAP_SHARED, pool->fd, (off_t)ledger_off);
	if (page == MAP_FAILED)
		return -errno;
	prove->challenge = __atomic_load_n(&page->challenge, __ATOMIC_ACQUIRE);
	if (pool->rdonly) {
		prove->flags = PINDAX_PROVE_RDONLY;
	} else {
		if (getrandom(&prove->answer, sizeof(prove->answer), 0) < 0)
			prove->answer = ~prove->challenge; /* need not hide */
		__atomic_store_n(&page->answer, prove->answer,
				 __ATOMIC_RELEASE);
	}
	(void)munmap(page, sizeof(*page));
	return 0;
}

static int make_mapper(int fd, const struct pdx_pool *pool, uint64_t *ret_id)
{
	struct pindax_ioc_mapper mapper = {.version = PINDAX_PROTO_VERSION};
	struct pindax_ioc_prove prove = {0};
	struct pindax_ioc_mapper_id drop;
	int err;

	if (ioctl(fd, PINDAX_IOC_MAPPER, &mapper))
		return pdx_fail_call(-errno, "attaching");
	prove.mapper = mapper.id;
	err = answer_challenge(pool, mapper.ledger_off, &prove);
	if (!err && ioctl(fd, PINDAX_IOC_PROVE, &prove))
		err = -errno;
	if (err) {
		drop.mapper = mapper.id;
		(void)ioctl(fd, PINDAX_IOC_MAPPER_DROP, &drop);
		if (err == -EACCES)
			return pdx_fail(err, "the pool file is not the one "
					     "that is mounted, but a copy");
		return pdx_fail_call(err, "proving access to the pool");
	}
	*ret_id = mapper.id;
	return 0;
}

static bool description_writable(int fd)
{
	int fl = fcntl(fd, F_GETFL);

	return fl >= 0 && (fl & O_ACCMODE) == O_RDWR;
}

static int attach(int fd, const struct pindax_ioc_info *info,
		  struct pindax_file **ret_file)
{
	struct pdx_file_config cfg = {.daemon = {.call = pdx_ioctl_call,
						 .fd = fd,
						 .events = EPOLLPRI}};
	int err = pdx_pool_get(info, &cfg.pool);

	if (err)
		return err;
	err = make_mapper(fd, cfg.pool, &cfg.mapper);
	if (err)
		goto out_pool;
	cfg.writable = description_writable(fd) && !cfg.pool->rdonly;
	cfg.type = info->type;
	cfg.flags = info->flags;
	cfg.reason = info->reason;
	err = pdx_file_create(&cfg, ret_file);
	if (!err)
		return 0;
	(void)ioctl(fd, PINDAX_IOC_MAPPER_DROP,
		    &(struct pindax_ioc_mapper_id){.mapper = cfg.mapper});
out_pool:
	pdx_pool_put(cfg.pool);
	return err;
}

int pindax_open(int fd, struct pindax_file **ret_file)
{
	struct pindax_ioc_info info;
	int own, err;

	err = get_info(fd, &info);
	if (!err)
		err = pdx_start();
	if (err)
		return err;
	own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
	if (own < 0)
		return pdx_fail(-errno, "dup: %s", strerror(errno));
	err = attach(own, &info, ret_file);
	if (err)
		(void)close(own);
	return err;
}

void pindax_close(struct pindax_file *file)
{
	bool pinned;

	if (!file || pdx_file_usable(file))
		return; /* a forked child: nothing of it is here */
	pthread_mutex_lock(&file->lock);
	file->closing = true;
	pinned = file->nr_pins;
	pthread_mutex_unlock(&file->lock);
	if (!pinned)
		pdx_file_destroy(file);
}

int pindax_check(int fd, struct pindax_info *ret_info)
{
	struct pindax_ioc_info info;
	int err = get_info(fd, &info);

	if (err)
		return err;
	memset(ret_info, 0, sizeof(*ret_info));
	if (info.type == PINDAX_TYPE_FS_DAX ||
	    info.type == PINDAX_TYPE_FS_DAX_LIMITED)
		ret_info->can |= PINDAX_CAN_MAP;
	if (info.type == PINDAX_TYPE_FS_DAX)
		ret_info->can |= PINDAX_CAN_PIN;
	if (!(info.flags & PINDAX_INFO_EMULATED))
		ret_info->can |= PINDAX_CAN_PERSIST;
	ret_info->ino = info.ino;
	memcpy(ret_info->reason, info.reason, sizeof(ret_info->reason));
	memcpy(ret_info->pool_path, info.pool_path,
	       sizeof(ret_info->pool_path));
	return 0;
}
