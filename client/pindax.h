/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * libpindax - direct mappings of files on a pindax mount, and pins over them.
 *
 * A mapping gives load/store access to the file's blocks in the pool. While
 * nobody pins it, the daemon may take blocks away at any time (truncate, hole
 * punch): the library then unmaps the range, and the next touch faults it in
 * again, or gets SIGBUS beyond the end of the file, as with mmap(2). A pin says
 * "a device may write here": truncate and punch of that range wait until it is
 * released. Registering a range as io_uring buffers takes such a pin for
 * exactly as long as it is registered.
 *
 * Thread-safety: every function may be called from any thread; calls on one
 * object are serialised by the library, except that destroying an object while
 * another thread uses it is the caller's bug.
 * Fork: mappings are not inherited (MADV_DONTFORK); a child starts anew with
 * pindax_open(), and objects of its parent give it -ESTALE. Raw clone() is not
 * covered.
 * Touches by the kernel (read(2) into a mapping): where the process may not
 * handle the kernel's page faults (neither root nor allowed to open
 * /dev/userfaultfd), what was recalled is brought back at once as far as it has
 * blocks; a read(2) into a hole that was punched fails with EFAULT until the
 * program itself touches or pins it.
 * A touch that cannot be served (no space for a hole, the daemon is gone) gets
 * SIGBUS, also later, until the page is pinned or mapped anew.
 * Errors: 0 or a negative errno; pindax_errormsg() says more.
 * The library starts helper threads at the first mapping; they block all
 * signals.
 */
#ifndef PINDAX_H
#define PINDAX_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

struct io_uring;
struct pindax_file;
struct pindax_map;
struct pindax_pin;

/* What a file's pool can do. */
#define PINDAX_CAN_MAP 1U
#define PINDAX_CAN_PIN 2U
#define PINDAX_CAN_PERSIST 4U /* power-fail safe, not emulated */

struct pindax_info {
	unsigned int can; /* PINDAX_CAN_* */
	char reason[256]; /* why something is missing, or empty */
	char pool_path[1024];
	uint64_t ino;
};

/*
 * pindax_check - is the open file @fd direct-mappable, and if not, why not?
 * 0 (look at ret->can); -ENOTTY: not on a pindax mount.
 */
int pindax_check(int fd, struct pindax_info *ret_info);

/*
 * pindax_open - attach to the open file description of @fd. The library keeps
 * a duplicate of @fd until pindax_close(): close @fd as you like.
 * -ENOTTY not pindax; -EISDIR; -EACCES the pool file cannot be opened, or is
 * not the one that is mounted; -EOPNOTSUPP; -ENOSPC no ledger page is left.
 * POSIX record locks (F_SETLK) of the process on this file go with
 * pindax_close(), as they do with any close(2): use F_OFD_SETLK.
 */
int pindax_open(int fd, struct pindax_file **ret_file);
/* Unmaps what is left; if pins are left, when the last of them is released. */
void pindax_close(struct pindax_file *file);

/*
 * pindax_map - map [offset, offset + len) of the file, page multiples.
 * @prot: PROT_READ, or PROT_READ | PROT_WRITE (then @fd was opened O_RDWR).
 * A writable mapping allocates the holes of its range (below the file's size),
 * unless PINDAX_MAP_LAZY: then holes are filled at the first touch.
 * -EINVAL unaligned or empty; -EACCES; -ENOSPC; -ENOMEM (also: more mappings
 * than half of vm.max_map_count).
 */
#define PINDAX_MAP_LAZY 1U
int pindax_map(struct pindax_file *file, uint64_t offset, size_t len, int prot,
	       unsigned int flags, struct pindax_map **ret_map);
int pindax_unmap(struct pindax_map *map); /* -EBUSY while pinned */
void *pindax_map_addr(const struct pindax_map *map);
size_t pindax_map_len(const struct pindax_map *map);

/*
 * pindax_pin - hold [offset, offset + len) of the MAPPING, page multiples, and
 * make it present. Waits while an operation takes blocks away there.
 * A range inside one that this process pins already is granted at once.
 * -EAGAIN with PINDAX_NOWAIT instead of waiting; -EDEADLK this thread holds a
 * pin that the operation waits for; -EINTR; -ENXIO beyond the end of the file;
 * -EOPNOTSUPP the pool cannot be pinned; -EACCES not a writable mapping.
 */
#define PINDAX_NOWAIT 1U
int pindax_pin(struct pindax_map *map, uint64_t offset, size_t len,
	       unsigned int flags, struct pindax_pin **ret_pin);
void pindax_unpin(struct pindax_pin *pin); /* NULL is fine */

/*
 * pindax_register_buffers - register ranges of one mapping as the buffers of
 * @ring (which has none: -EBUSY) and hold a pin over them until
 * pindax_unregister_buffers(). @iov holds offsets into the MAPPING in iov_base
 * (cast) and page multiple lengths; NULL, 0: the whole mapping as one buffer.
 * Errors of pindax_pin(); -ENOMEM: the memlock limit or the mapping limit,
 * pindax_errormsg() says which.
 */
struct iovec;
int pindax_register_buffers(struct pindax_map *map, struct io_uring *ring,
			    const struct iovec *iov, unsigned int nr,
			    struct pindax_pin **ret_pin);
int pindax_unregister_buffers(struct io_uring *ring, struct pindax_pin *pin);

/*
 * pindax_persist - stores to [offset, offset + len) of the mapping, any bytes,
 * are durable when it returns (to the pool's granularity).
 */
int pindax_persist(struct pindax_map *map, uint64_t offset, size_t len);

/*
 * ftruncate(2) and fallocate(2) that wait for pins without holding the inode's
 * lock in the kernel: other calls on the file go on meanwhile.
 * @fd: a descriptor open for writing; need not be attached.
 */
int pindax_truncate(int fd, off_t size);
int pindax_fallocate(int fd, int mode, off_t offset, off_t len);

/* What went wrong in this thread's last call that failed. Never NULL. */
const char *pindax_errormsg(void);

#ifdef __cplusplus
}
#endif

#endif
