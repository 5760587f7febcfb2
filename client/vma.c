/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Asks the kernel what is mapped at an address of this process. A recall must
 * not put anything over memory that the program has meanwhile unmapped and
 * reused, and no bookkeeping of the library can know what the program did with
 * munmap(2).
 *
 * PROCMAP_QUERY (Linux 6.11) answers in a microsecond; before that the text of
 * /proc/self/maps is read. Used by helper threads: no stdio, no allocation. The
 * text goes through one static buffer, so callers of the slow way take turns
 * under a lock of this file, which is a leaf.
 */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include "client/internal.h"

/* Of <linux/fs.h>, which in Debian 12 is older than the call. */
struct procmap_query {
	uint64_t size;
	uint64_t query_flags;
	uint64_t query_addr;
	uint64_t vma_start;
	uint64_t vma_end;
	uint64_t vma_flags;
	uint64_t vma_page_size;
	uint64_t vma_offset;
	uint64_t inode;
	uint32_t dev_major;
	uint32_t dev_minor;
	uint32_t vma_name_size;
	uint32_t build_id_size;
	uint64_t vma_name_addr;
	uint64_t build_id_addr;
};
#define PROCMAP_QUERY_CMD _IOWR('f', 17, struct procmap_query)
#define PROCMAP_COVERING_OR_NEXT 0x10U

struct vma {
	uint64_t start, end, off;
	struct pdx_file_id id;
};

static pthread_mutex_t text_lock = PTHREAD_MUTEX_INITIALIZER;
static char text[16384]; /* guarded by text_lock */
atomic_bool pdx_vma_text_only;

/* The mapping that covers @addr, or the next one. -ENOENT: none. */
static int query_ioctl(uint64_t addr, struct vma *ret)
{
	struct procmap_query q = {.size = sizeof(q),
				  .query_flags = PROCMAP_COVERING_OR_NEXT,
				  .query_addr = addr};

	if (ioctl(pdx.maps_fd, PROCMAP_QUERY_CMD, &q))
		return -errno;
	ret->start = q.vma_start;
	ret->end = q.vma_end;
	ret->off = q.vma_offset;
	ret->id = (struct pdx_file_id){
		.ino = q.inode, .major = q.dev_major, .minor = q.dev_minor};
	return 0;
}

static const char *number(const char *s, unsigned int base, uint64_t *ret)
{
	uint64_t v = 0;

	for (;; s++) {
		unsigned int d;

		if (*s >= '0' && *s <= '9')
			d = (unsigned int)(*s - '0');
		else if (*s >= 'a' && *s <= 'f')
			d = (unsigned int)(*s - 'a') + 10;
		else
			break;
		if (d >= base)
			break;
		v = v * base + d;
	}
	*ret = v;
	return s;
}

/* "start-end perms offset major:minor inode path" */
static bool parse_line(const char *s, struct vma *ret)
{
	uint64_t major, minor;

	s = number(s, 16, &ret->start);
	if (*s++ != '-')
		return false;
	s = number(s, 16, &ret->end);
	if (*s != ' ' || strnlen(s, 6) < 6)
		return false;
	s = number(s + 6, 16, &ret->off);
	if (*s++ != ' ')
		return false;
	s = number(s, 16, &major);
	if (*s++ != ':')
		return false;
	s = number(s, 16, &minor);
	if (*s++ != ' ')
		return false;
	(void)number(s, 10, &ret->id.ino);
	ret->id.major = (uint32_t)major;
	ret->id.minor = (uint32_t)minor;
	return true;
}

/* Lines of the buffer up to the last newline; -EAGAIN: not among them. */
static int scan_text(size_t *len, uint64_t addr, struct vma *ret)
{
	char *line = text, *nl;

	text[*len] = '\0';
	while ((nl = strchr(line, '\n'))) {
		*nl = '\0';
		if (parse_line(line, ret) && ret->end > addr)
			return 0;
		line = nl + 1;
	}
	*len -= (size_t)(line - text);
	memmove(text, line, *len);
	return -EAGAIN;
}

static int query_text(uint64_t addr, struct vma *ret)
{
	size_t len = 0;
	off_t pos = 0;
	int err;

	pthread_mutex_lock(&text_lock);
	do {
		ssize_t n = pread(pdx.maps_fd, text + len,
				  sizeof(text) - 1 - len, pos);

		err = n < 0 ? -errno : -ENOENT;
		if (n <= 0)
			break;
		pos += n;
		len += (size_t)n;
		err = scan_text(&len, addr, ret);
	} while (err == -EAGAIN);
	pthread_mutex_unlock(&text_lock);
	return err;
}

int pdx_vma_at(const void *addr, size_t len, struct pdx_vma *ret_vma)
{
	uint64_t at = (uintptr_t)addr, end = at + len;
	struct vma v = {0};
	int err = -ENOTTY;

	if (!atomic_load_explicit(&pdx_vma_text_only, memory_order_relaxed))
		err = query_ioctl(at, &v);
	if (err == -ENOTTY || err == -EINVAL) {
		atomic_store_explicit(&pdx_vma_text_only, true,
				      memory_order_relaxed);
		err = query_text(at, &v);
	}
	if (err && err != -ENOENT)
		return err;
	*ret_vma = (struct pdx_vma){.len = len};
	if (err || v.start >= end)
		return 0;
	if (v.start > at) {
		ret_vma->len = v.start - at;
		return 0;
	}
	ret_vma->id = v.id;
	ret_vma->file_off = v.off + (at - v.start);
	ret_vma->len = (v.end < end ? v.end : end) - at;
	return 0;
}

int pdx_learn_id(int fd, int flags, struct pdx_file_id *ret_id)
{
	struct pdx_vma v;
	int err;
	void *p = mmap(NULL, PDX_PAGE, PROT_NONE, flags, fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	err = pdx_vma_at(p, PDX_PAGE, &v);
	(void)munmap(p, PDX_PAGE);
	if (!err)
		*ret_id = v.id;
	return err;
}
