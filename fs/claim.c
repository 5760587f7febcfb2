// SPDX-License-Identifier: BSD-3-Clause
/*
 * Who has the namespace: the claim of this daemon, the clients that an earlier
 * one left, and the mount record that tells others.
 *
 * The claim (an OFD lock) decides; the record only names the holder in messages
 * and carries the nonce by which clients recognise this mount. A client's
 * liveness lock outlives its daemon: while one is held, its process may still
 * store to blocks through old mappings, and the namespace must not be served.
 *
 * The record lies in the control region and is not journaled: a torn one is as
 * good as none. Read docs/PROTOCOL.md, "Liveness".
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include "fs/inode.h"

static void read_boot_id(uint8_t *buf, size_t size)
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	ssize_t n = 0;

	memset(buf, 0, size);
	if (fd < 0)
		return;
	n = read(fd, buf, size - 1);
	close(fd);
	if (n > 0 && buf[n - 1] == '\n')
		buf[n - 1] = '\0';
}

/* The record of whoever has the namespace now; it is not open here. */
static pid_t holder_of(struct fs *fs)
{
	const char *base = fs->pool->base + fs->ns.off;
	const struct pdx_super *sb = (const void *)base;
	struct pdx_mount_record rec;
	uint8_t boot[sizeof(rec.boot_id)];
	uint64_t block = get64(sb->control_block);

	if (get64(sb->magic) != PDX_SUPER_MAGIC ||
	    block >= fs->ns.len >> PDX_BLOCK_SHIFT)
		return 0;
	memcpy(&rec, base + (block << PDX_BLOCK_SHIFT), sizeof(rec));
	read_boot_id(boot, sizeof(boot));
	if (get64(rec.magic) != PDX_MOUNT_MAGIC ||
	    memcmp(boot, rec.boot_id, sizeof(boot)) != 0 ||
	    get64(rec.pid) > INT32_MAX)
		return 0;
	return (pid_t)get64(rec.pid);
}

static void list_clients(struct fs *fs, struct fs_report *rep)
{
	pid_t pids[FS_REPORT_PIDS + 1];
	int nr = pmem_mapped_by(fs->pool, pids, FS_REPORT_PIDS + 1);

	rep->nr_clients = 0;
	for (int i = 0; i < nr && rep->nr_clients < FS_REPORT_PIDS; i++) {
		if (pids[i] != getpid()) /* this process maps it, too */
			rep->clients[rep->nr_clients++] = pids[i];
	}
}

static void say_clients(struct fs *fs, struct fs_report *rep)
{
	size_t at = 0;
	int n;

	list_clients(fs, rep);
	n = snprintf(rep->error, sizeof(rep->error),
		     "%s is still mapped by clients of an earlier mount: end",
		     fs->pool->path);
	if (n > 0)
		at = (size_t)n;
	for (int i = 0; i < rep->nr_clients && at < sizeof(rep->error); i++) {
		n = snprintf(rep->error + at, sizeof(rep->error) - at,
			     " pid %d", (int)rep->clients[i]);
		at += n > 0 ? (size_t)n : 0;
	}
	if (!rep->nr_clients && at < sizeof(rep->error))
		(void)snprintf(rep->error + at, sizeof(rep->error) - at,
			       " them first");
}

int claim_take(struct fs *fs, struct fs_report *rep)
{
	int err = pmem_claim(fs->pool, fs->ns.off, fs->ns.len);

	if (err == -EBUSY) {
		rep->holder = holder_of(fs);
		if (rep->holder)
			(void)snprintf(rep->error, sizeof(rep->error),
				       "%s is already mounted, by pid %d",
				       fs->pool->path, (int)rep->holder);
		else
			(void)snprintf(rep->error, sizeof(rep->error),
				       "%s is in use: by mkfs, fsck, or a "
				       "mount that is starting or ending",
				       fs->pool->path);
		return err;
	}
	if (err)
		return err;
	fs->claimed = true;
	err = pmem_clients_alive(fs->pool, fs->ns.off);
	if (err > 0) {
		say_clients(fs, rep);
		return -EBUSY;
	}
	return err;
}

static struct pdx_mount_record *record_of(struct fs *fs)
{
	return media_ptr(fs->m, get64(fs->m->sb.control_block));
}

static void store_record(struct fs *fs, const struct pdx_mount_record *rec)
{
	pmem_memcpy(fs->pool, record_of(fs), rec, sizeof(*rec));
	pmem_drain(fs->pool);
}

int claim_record(struct fs *fs)
{
	struct pdx_mount_record rec = {.magic = mk64(PDX_MOUNT_MAGIC)};
	struct timespec now;

	if (getrandom(&fs->nonce, sizeof(fs->nonce), 0) !=
	    (ssize_t)sizeof(fs->nonce))
		return -errno;
	/* Without a record there is no direct mapping: it is not offered. */
	if (fs->pool->readonly)
		return 0;
	clock_gettime(CLOCK_REALTIME, &now);
	rec.nonce = mk64(fs->nonce);
	rec.pid = mk64((uint64_t)getpid());
	rec.start_ns = mk64((uint64_t)now.tv_sec * 1000000000ULL +
			    (uint64_t)now.tv_nsec);
	read_boot_id(rec.boot_id, sizeof(rec.boot_id));
	(void)gethostname((char *)rec.host, sizeof(rec.host) - 1);
	store_record(fs, &rec);
	return 0;
}

void claim_drop(struct fs *fs)
{
	struct pdx_mount_record none = {.magic = mk64(0)};

	if (!fs->claimed)
		return;
	if (fs->m && !fs->pool->readonly)
		store_record(fs, &none);
	fs->claimed = false;
}
