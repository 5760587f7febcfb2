// SPDX-License-Identifier: BSD-3-Clause
/*
 * The pool file and its one mapping.
 *
 * Owns: opening, sizing and backing the file, mapping it through libpmem2, and
 * every store that must persist: flush, drain, copy and set. Not: claims
 * (pmem_claim.c), pins and fences (pmem_probe.c), what the bytes mean.
 * Invariant: all persistence of the program passes through the five functions
 * at the end of this file, so that it can be recorded in one place.
 * A RAM-backed pool that is writable is backed fully from open on: no store to
 * it can raise SIGBUS because somebody else filled the tmpfs.
 * Locks: granularity_lock, a leaf, around the environment during one
 * pmem2_map_new(); a pool is constant after open and needs none.
 * Read: libpmem2(7), docs/ARCHITECTURE.md.
 */
#include "pagemap/pmem_priv.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define FORCE_ENV "PMEM2_FORCE_GRANULARITY"
/* One F_OFD lock over everything: any claim or client of the pool collides. */
#define WHOLE_FILE 0

static pthread_mutex_t granularity_lock = PTHREAD_MUTEX_INITIALIZER;

/*
 * libpmem2 finds PAGE granularity on tmpfs, as it cannot know that nothing
 * there outlives the power anyway. CACHE_LINE is as good and much cheaper, but
 * only the environment can tell it so, and only a RAM-backed pool may be told:
 * on a disk it would lose data. What the user has set himself stays.
 */
static int map_new(struct pmem_pool *pool, struct pmem2_config *cfg,
		   struct pmem2_source *src)
{
	bool force;
	int rc;

	pthread_mutex_lock(&granularity_lock);
	force = pool->ram_backed && !getenv(FORCE_ENV);
	if (force)
		(void)setenv(FORCE_ENV, "CACHE_LINE", 1); /* else: slower */
	rc = pmem2_map_new(&pool->priv->map, cfg, src);
	if (force)
		(void)unsetenv(FORCE_ENV);
	pthread_mutex_unlock(&granularity_lock);
	return rc;
}

/* libpmem2 returns -errno, or numbers of its own from -100000 down. */
static int pmem2_errno(int rc)
{
	return rc <= 0 && rc > -4096 ? rc : -EINVAL;
}

static void take_functions(struct pmem_pool *pool)
{
	struct pmem_priv *priv = pool->priv;

	priv->flush = pmem2_get_flush_fn(priv->map);
	priv->drain = pmem2_get_drain_fn(priv->map);
	priv->memcpy = pmem2_get_memcpy_fn(priv->map);
	priv->memset = pmem2_get_memset_fn(priv->map);
	pool->base = pmem2_map_get_address(priv->map);
	pool->byte_granular = pmem2_map_get_store_granularity(priv->map) !=
			      PMEM2_GRANULARITY_PAGE;
}

static int pool_map(struct pmem_pool *pool)
{
	struct pmem2_source *src;
	struct pmem2_config *cfg;
	int rc;

	rc = pmem2_source_from_fd(&src, pool->fd);
	if (rc)
		return pmem2_errno(rc);
	rc = pmem2_config_new(&cfg);
	if (rc)
		goto out_source;
	rc = pmem2_config_set_required_store_granularity(
		cfg, PMEM2_GRANULARITY_PAGE);
	if (!rc)
		rc = pmem2_config_set_length(cfg, pool->size_bytes);
	if (!rc && pool->readonly)
		rc = pmem2_config_set_protection(cfg, PMEM2_PROT_READ);
	if (!rc)
		rc = map_new(pool, cfg, src);
	if (!rc)
		take_functions(pool);
	(void)pmem2_config_delete(&cfg); /* always 0 */
out_source:
	(void)pmem2_source_delete(&src); /* always 0 */
	return pmem2_errno(rc);
}

/* The name for messages and for clients; a memfd's has no real path. */
static char *pool_path(const char *path)
{
	char *real = realpath(path, NULL);

	return real ? real : strdup(path);
}

static int pool_identify(struct pmem_pool *pool, const char *path)
{
	struct statfs sfs;
	struct stat st;

	if (fstat(pool->fd, &st) < 0 || fstatfs(pool->fd, &sfs) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	pool->size_bytes = (uint64_t)st.st_size & ~(PMEM_PAGE_SIZE - 1);
	pool->dev = st.st_dev;
	pool->ino = st.st_ino;
	pool->ram_backed =
		sfs.f_type == TMPFS_MAGIC || sfs.f_type == RAMFS_MAGIC;
	pool->emulated = pool->ram_backed;
	pool->path = pool_path(path);
	return pool->path ? 0 : -ENOMEM;
}

/*
 * A daemon that died between punch and refill (pmem_fence()) left holes. Full
 * files are not walked again: that costs 0.1 us a page.
 */
static int pool_back(struct pmem_pool *pool)
{
	struct stat st;

	if (fstat(pool->fd, &st) < 0)
		return -errno;
	if ((uint64_t)st.st_blocks * 512 >= pool->size_bytes)
		return 0;
	return pmem_refill(pool, 0, pool->size_bytes);
}

static void pool_free(struct pmem_pool *pool)
{
	if (pool->priv && pool->priv->map)
		(void)pmem2_map_delete(&pool->priv->map); /* ours: always 0 */
	if (pool->fd >= 0)
		close(pool->fd);
	free(pool->priv);
	free(pool->path);
	free(pool);
}

static int pool_alloc(bool readonly, struct pmem_pool **ret_pool)
{
	struct pmem_pool *pool = calloc(1, sizeof(*pool));

	if (!pool)
		return -ENOMEM;
	pool->fd = -1;
	pool->readonly = readonly;
	pool->priv = calloc(1, sizeof(*pool->priv));
	if (!pool->priv) {
		pool_free(pool);
		return -ENOMEM;
	}
	*ret_pool = pool;
	return 0;
}

/* Identify, check, back and map the file that is open as pool->fd. */
static int pool_setup(struct pmem_pool *pool, const char *path, bool prealloc)
{
	int rc;

	rc = pool_identify(pool, path);
	if (rc)
		return rc;
	if (!pool->size_bytes)
		return -EINVAL;
	if (prealloc || (pool->ram_backed && !pool->readonly))
		rc = pool_back(pool);
	return rc ? rc : pool_map(pool);
}

int pmem_open(const char *path, unsigned int flags, struct pmem_pool **ret_pool)
{
	bool readonly = flags & PMEM_OPEN_RDONLY;
	struct pmem_pool *pool;
	int rc;

	rc = pool_alloc(readonly, &pool);
	if (rc)
		return rc;
	/* O_NONBLOCK: a FIFO is refused and not waited for. */
	pool->fd = open(path, (readonly ? O_RDONLY : O_RDWR) | O_CLOEXEC |
				      O_NOCTTY | O_NONBLOCK);
	if (pool->fd < 0) {
		rc = errno == EISDIR || errno == ENXIO ? -EINVAL : -errno;
		goto out_free;
	}
	rc = pool_setup(pool, path, false);
	if (rc)
		goto out_free;
	*ret_pool = pool;
	return 0;

out_free:
	pool_free(pool);
	return rc;
}

/* Cutting a file that a daemon serves would take its pages away under it. */
static int resize_unclaimed(struct pmem_pool *pool, uint64_t size_bytes)
{
	struct stat st;
	int rc;

	if (fstat(pool->fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (!size_bytes && st.st_size < (off_t)PMEM_PAGE_SIZE)
		return -EINVAL;
	rc = pmem_claim_wait(pool, WHOLE_FILE, WHOLE_FILE, PMEM_CLAIM_WAIT_MS);
	if (rc || !size_bytes)
		return rc;
	return ftruncate(pool->fd, (off_t)size_bytes) < 0 ? -errno : 0;
}

static int create_file(const char *path, unsigned int flags, bool *ret_new)
{
	int oflags = O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;
	int fd;

	fd = open(path, oflags | O_EXCL, 0600);
	if (fd >= 0) {
		*ret_new = true;
		return fd;
	}
	if (errno != EEXIST || !(flags & PMEM_CREATE_FORCE))
		return -errno;
	*ret_new = false;
	fd = open(path, oflags & ~O_CREAT);
	if (fd < 0)
		return errno == EISDIR || errno == ENXIO ? -EINVAL : -errno;
	return fd;
}

int pmem_create(const char *path, uint64_t size_bytes, unsigned int flags,
		struct pmem_pool **ret_pool)
{
	struct pmem_pool *pool;
	bool fresh = false;
	int rc;

	if (size_bytes % PMEM_PAGE_SIZE || size_bytes > INT64_MAX)
		return -EINVAL;
	rc = pool_alloc(false, &pool);
	if (rc)
		return rc;
	rc = create_file(path, flags, &fresh);
	if (rc < 0)
		goto out_free;
	pool->fd = rc;
	rc = resize_unclaimed(pool, size_bytes);
	if (!rc)
		rc = pool_setup(pool, path, flags & PMEM_CREATE_PREALLOC);
	if (rc)
		goto out_unlink;
	pmem_unclaim(pool, WHOLE_FILE, WHOLE_FILE);
	*ret_pool = pool;
	return 0;

out_unlink:
	if (fresh)
		(void)unlink(path); /* only a leftover: rc says why */
out_free:
	pool_free(pool);
	return rc;
}

void pmem_close(struct pmem_pool *pool)
{
	if (!pool)
		return;
	/* A forked child may hold the description: the claims go now. */
	pmem_unclaim(pool, WHOLE_FILE, WHOLE_FILE);
	pool_free(pool);
}

void pmem_flush(struct pmem_pool *pool, const void *ptr, size_t len)
{
	pool->priv->flush(ptr, len);
}

void pmem_drain(struct pmem_pool *pool)
{
	pool->priv->drain();
}

void pmem_persist(struct pmem_pool *pool, const void *ptr, size_t len)
{
	pmem_flush(pool, ptr, len);
	pmem_drain(pool);
}

/*
 * Where the pool is ordinary memory a small copy stays in the caches (and is
 * written back from there), which is quicker for both sides. A large one goes
 * past them, as it would only push out what is used.
 */
#define CACHED_MAX (128U << 10)

static unsigned int copy_flags(const struct pmem_pool *pool, size_t len)
{
	return PMEM2_F_MEM_NODRAIN |
	       (pool->ram_backed && len <= CACHED_MAX ? PMEM2_F_MEM_TEMPORAL
						      : 0);
}

void pmem_memcpy(struct pmem_pool *pool, void *dst, const void *src, size_t len)
{
	pool->priv->memcpy(dst, src, len, copy_flags(pool, len));
}

void pmem_memset(struct pmem_pool *pool, void *dst, int c, size_t len)
{
	pool->priv->memset(dst, c, len, copy_flags(pool, len));
}
