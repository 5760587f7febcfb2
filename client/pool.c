/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The pool file, opened by the client under its own rights, one descriptor a
 * mount and process. It must be the pool that is mounted: the superblock's UUID
 * and the nonce of the mount record are compared with what the daemon says, as
 * a file that was renamed or replaced must not be mapped.
 *
 * Liveness: before the first mapping an OFD read lock is taken on the byte that
 * the daemon names. It belongs to the open file description, which lives as
 * long as the last mapping made through it, so that a mount that comes after a
 * crash of the daemon can see that old clients still map the blocks.
 *
 * The list and the references are guarded by pdx.lock.
 */
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "client/internal.h"

#define SUPER_UUID_OFF 40
#define MOUNT_MAGIC 0x544e554f4d584450ULL

int pdx_pool_adopt(int fd, bool rdonly, struct pdx_pool **ret_p)
{
	struct pdx_pool *p = calloc(1, sizeof(*p));
	int err;

	if (!p)
		return -ENOMEM;
	p->fd = fd;
	p->rdonly = rdonly;
	p->refs = 1;
	err = pdx_learn_id(fd, MAP_SHARED, &p->id);
	if (err) {
		free(p);
		return err;
	}
	*ret_p = p;
	return 0;
}

/* Is this the pool of this mount? */
static int check_identity(int fd, const struct pindax_ioc_info *info)
{
	uint8_t uuid[16];
	uint64_t record[2];

	if (pread(fd, uuid, sizeof(uuid),
		  (off_t)(info->super_off + SUPER_UUID_OFF)) != sizeof(uuid) ||
	    pread(fd, record, sizeof(record), (off_t)info->mount_record_off) !=
		    sizeof(record))
		return pdx_fail(-EACCES, "%s: too short to be the mounted pool",
				info->pool_path);
	if (memcmp(uuid, info->uuid, sizeof(uuid)) != 0 ||
	    le64toh(record[0]) != MOUNT_MAGIC ||
	    le64toh(record[1]) != info->nonce)
		return pdx_fail(-EACCES,
				"%s is not the pool that is mounted: it was "
				"renamed or replaced since, or this process "
				"sees another file of that name",
				info->pool_path);
	return 0;
}

static int lock_alive(int fd, const struct pindax_ioc_info *info)
{
	struct flock fl = {.l_type = F_RDLCK,
			   .l_whence = SEEK_SET,
			   .l_start = (off_t)info->client_lock_byte,
			   .l_len = 1};

	if (!fcntl(fd, F_OFD_SETLK, &fl))
		return 0;
	if (errno == EAGAIN || errno == EACCES)
		return pdx_fail(-EBUSY,
				"%s: another mount is taking the pool over",
				info->pool_path);
	return pdx_fail(-errno, "%s: lock: %s", info->pool_path,
			strerror(errno));
}

static int open_path(const struct pindax_ioc_info *info, bool *ret_rdonly)
{
	const int flags = O_CLOEXEC | O_NOCTTY;
	int fd = open(info->pool_path, O_RDWR | flags);

	*ret_rdonly = false;
	if (fd < 0 && (errno == EACCES || errno == EPERM || errno == EROFS)) {
		fd = open(info->pool_path, O_RDONLY | flags);
		*ret_rdonly = true;
	}
	if (fd >= 0)
		return fd;
	if (errno == EACCES || errno == EPERM)
		return pdx_fail(-EACCES,
				"%s: who may not open the pool file may not "
				"map its blocks; its owner says who may "
				"(chmod, chown). read(2) and write(2) need no "
				"such permission",
				info->pool_path);
	return pdx_fail(-EACCES, "%s: the pool cannot be opened: %s",
			info->pool_path, strerror(errno));
}

/* pdx.lock held. */
static struct pdx_pool *find_locked(uint64_t nonce)
{
	struct pdx_pool *p = pdx.pools;

	while (p && p->nonce != nonce)
		p = p->next;
	if (p)
		p->refs++;
	return p;
}

/* pdx.lock held. */
static int open_pool(const struct pindax_ioc_info *info,
		     struct pdx_pool **ret_p)
{
	struct pdx_pool *p;
	bool rdonly;
	int err, fd = open_path(info, &rdonly);

	if (fd < 0)
		return fd;
	err = check_identity(fd, info);
	if (!err)
		err = lock_alive(fd, info);
	if (err)
		goto out_close;
	err = pdx_pool_adopt(fd, rdonly, &p);
	if (err) {
		(void)pdx_fail(err, "%s: cannot be mapped: %s", info->pool_path,
			       strerror(-err));
		goto out_close;
	}
	p->nonce = info->nonce;
	p->next = pdx.pools;
	*ret_p = p;
	return 0;
out_close:
	(void)close(fd);
	return err;
}

int pdx_pool_get(const struct pindax_ioc_info *info, struct pdx_pool **ret_p)
{
	struct pdx_pool *p;
	int err = 0;

	/* Under the lock, so that two threads do not open it twice. */
	pthread_mutex_lock(&pdx.lock);
	p = find_locked(info->nonce);
	if (!p) {
		err = open_pool(info, &p);
		if (!err)
			pdx.pools = p;
	}
	pthread_mutex_unlock(&pdx.lock);
	if (!err)
		*ret_p = p;
	return err;
}

void pdx_pool_put(struct pdx_pool *p)
{
	struct pdx_pool **at;
	bool last;

	pthread_mutex_lock(&pdx.lock);
	last = --p->refs == 0;
	for (at = &pdx.pools; last && *at; at = &(*at)->next)
		if (*at == p) {
			*at = p->next;
			break;
		}
	pthread_mutex_unlock(&pdx.lock);
	if (!last)
		return;
	if (p->fd >= 0)
		(void)close(p->fd);
	free(p);
}
