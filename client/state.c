/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The library's state in this process: userfaultfd, the files that a zapped
 * range is made of, the helper threads, and what a fork does to all that.
 *
 * A forked child inherits none of it. Mappings and zapped areas are
 * MADV_DONTFORK; the child's handler closes the descriptors (a copy of the
 * pool's would keep the liveness lock, a copy of the file's would keep RELEASE
 * away) and forgets the lists. Objects of the parent answer -ESTALE there; the
 * child attaches anew. The parent takes every lock before the fork, so that no
 * mapping is caught between mmap and MADV_DONTFORK. vfork and posix_spawn run
 * no handlers and need none; raw clone() is not covered.
 *
 * The helpers live as long as the process: there is no safe moment to stop the
 * thread that answers its page faults.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "client/internal.h"

struct pdx_state pdx = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.idle = PTHREAD_COND_INITIALIZER,
	.uffd = -1,
	.zap_fd = -1,
	.eof_fd = -1,
	.zero_fd = -1,
	.maps_fd = -1,
	.epoll_fd = -1,
};
static pthread_once_t atfork_once = PTHREAD_ONCE_INIT;

/* Every user address is an offset of the zap file: see zap.c. */
#define ZAP_FILE_SIZE (1LL << 47)
#define THREAD_STACK ((size_t)256 << 10)
#define DEFAULT_MAX_MAP_COUNT 65530U

static void close_fd(int *fd)
{
	if (*fd >= 0)
		(void)close(*fd);
	*fd = -1;
}

static void close_all(void)
{
	close_fd(&pdx.uffd);
	close_fd(&pdx.zap_fd);
	close_fd(&pdx.eof_fd);
	close_fd(&pdx.zero_fd);
	close_fd(&pdx.maps_fd);
	close_fd(&pdx.epoll_fd);
}

static void fork_prepare(void)
{
	pthread_mutex_lock(&pdx.lock);
	for (struct pindax_file *f = pdx.files; f; f = f->next)
		pthread_mutex_lock(&f->lock);
}

static void fork_parent(void)
{
	for (struct pindax_file *f = pdx.files; f; f = f->next)
		pthread_mutex_unlock(&f->lock);
	pthread_mutex_unlock(&pdx.lock);
}

static void fork_child(void)
{
	for (struct pindax_file *f = pdx.files; f; f = f->next) {
		close_fd(&f->daemon.fd);
		pthread_mutex_unlock(&f->lock);
	}
	for (struct pdx_pool *p = pdx.pools; p; p = p->next)
		close_fd(&p->fd);
	close_all();
	pdx.files = NULL;
	pdx.pools = NULL;
	pdx.started = false;
	pdx.generation++;
	atomic_store(&pdx.nr_runs, 0);
	pdx_fault_forget();
	pthread_mutex_unlock(&pdx.lock);
}

static void install_atfork(void)
{
	(void)pthread_atfork(fork_prepare, fork_parent, fork_child);
}

/*
 * Kernel faults too if that is allowed: first as root or with the sysctl, then
 * by the device, which grants it by its file permissions; faults of user code
 * alone are the last resort.
 */
static int open_uffd(bool *ret_user_only)
{
	const int flags = O_CLOEXEC;
	int dev, fd = (int)syscall(SYS_userfaultfd, flags);

	*ret_user_only = false;
	if (fd >= 0)
		return fd;
	dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
	if (dev >= 0) {
		/* USERFAULTFD_IOC_NEW, not in Debian 12's header */
		fd = ioctl(dev, _IO(0xAA, 0x00), flags);
		(void)close(dev);
		if (fd >= 0)
			return fd;
	}
	*ret_user_only = true;
	fd = (int)syscall(SYS_userfaultfd, flags | 1 /* UFFD_USER_MODE_ONLY */);
	return fd >= 0 ? fd : -errno;
}

static int start_uffd(void)
{
	struct uffdio_api api = {.api = UFFD_API,
				 .features = UFFD_FEATURE_EVENT_REMAP |
					     UFFD_FEATURE_MISSING_SHMEM};
	int fd = open_uffd(&pdx.user_only);

	if (fd < 0)
		return pdx_fail(-EOPNOTSUPP,
				"userfaultfd is not available (%s): a recalled "
				"mapping could not fault in again",
				strerror(-fd));
	pdx.uffd = fd;
	if (ioctl(fd, UFFDIO_API, &api))
		return pdx_fail(-EOPNOTSUPP,
				"userfaultfd lacks remap events or shared "
				"memory: %s",
				strerror(errno));
	return 0;
}

static int start_files(void)
{
	int err;

	pdx.maps_fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	pdx.zap_fd = memfd_create("pindax-zap", MFD_CLOEXEC);
	pdx.eof_fd = memfd_create("pindax-eof", MFD_CLOEXEC);
	pdx.zero_fd = open("/dev/zero", O_RDONLY | O_CLOEXEC);
	if (pdx.maps_fd < 0 || pdx.zap_fd < 0 || pdx.eof_fd < 0 ||
	    pdx.zero_fd < 0 || ftruncate(pdx.zap_fd, ZAP_FILE_SIZE)) {
		err = -errno;
		goto out;
	}
	err = pdx_learn_id(pdx.zap_fd, MAP_SHARED, &pdx.zap_id);
	if (!err)
		err = pdx_learn_id(pdx.eof_fd, MAP_SHARED, &pdx.eof_id);
	if (!err)
		err = pdx_learn_id(pdx.zero_fd, MAP_PRIVATE, &pdx.zero_id);
out:
	return err ? pdx_fail(err, "setting up the library: %s", strerror(-err))
		   : 0;
}

static unsigned int read_budget(void)
{
	char text[32] = "";
	unsigned long n = 0;
	int fd = open("/proc/sys/vm/max_map_count", O_RDONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (read(fd, text, sizeof(text) - 1) > 0)
			n = strtoul(text, NULL, 10);
		(void)close(fd);
	}
	if (n == 0 || n > INT_MAX)
		n = DEFAULT_MAX_MAP_COUNT;
	return (unsigned int)n / 2;
}

int pdx_thread(void *(*fn)(void *), void *arg)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	int err = pthread_attr_init(&attr);

	if (err)
		return -err;
	/* small: stacks count against memlock and data limits */
	(void)pthread_attr_setstacksize(&attr, THREAD_STACK);
	(void)pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	err = pthread_create(&thread, &attr, fn, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	return -err;
}

static int start_locked(void)
{
	int err = start_uffd();

	if (!err)
		err = start_files();
	if (err)
		goto out_close;
	pdx.budget = read_budget();
	pdx.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	if (pdx.epoll_fd < 0) {
		err = pdx_fail(-errno, "epoll: %s", strerror(errno));
		goto out_close;
	}
	err = pdx_fault_start();
	if (!err)
		err = pdx_recall_start();
	if (err) {
		/* A thread that runs already keeps the descriptors in use. */
		(void)pdx_fail(err, "starting a thread: %s", strerror(-err));
		return err;
	}
	pdx.started = true;
	return 0;
out_close:
	close_all();
	return err;
}

int pdx_start(void)
{
	int err = 0;

	(void)pthread_once(&atfork_once, install_atfork);
	pthread_mutex_lock(&pdx.lock);
	if (!pdx.started)
		err = start_locked();
	pthread_mutex_unlock(&pdx.lock);
	return err;
}
