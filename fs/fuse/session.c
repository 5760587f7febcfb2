// SPDX-License-Identifier: BSD-3-Clause
/*
 * The session: mount, INIT, the multi-threaded loop, the end.
 *
 * The end, in this order: the loop has stopped; parked requests are answered
 * (fs_shutdown()); the mount goes; the caller closes the filesystem. A parked
 * caller thus gets its errno and not a dead connection, unless umount -f cut
 * that.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <syslog.h>
#include <unistd.h>
#include "fs/fuse/daemon.h"
#include "fs/fuse/session.h"

#define MAX_IO_BYTES (1U << 20)
#define MAX_THREADS 10U

static bool log_to_syslog;

static void log_line(enum fuse_log_level level, const char *fmt, va_list ap)
	__attribute__((format(printf, 2, 0)));
static void log_line(enum fuse_log_level level, const char *fmt, va_list ap)
{
	/* libfuse's levels have syslog's values. */
	if (log_to_syslog)
		vsyslog((int)level, fmt, ap);
	else
		vfprintf(stderr, fmt, ap);
}

void serve_log_init(bool to_syslog)
{
	log_to_syslog = to_syslog;
	if (to_syslog)
		openlog("mount.pindax", LOG_PID, LOG_DAEMON);
	fuse_set_log_func(log_line);
}

void serve_notify(struct layouts *ls, uint64_t fh)
{
	handle_notify(ls, fh);
}

static void op_init(void *userdata, struct fuse_conn_info *conn)
{
	const unsigned int splice = FUSE_CAP_SPLICE_READ |
				    FUSE_CAP_SPLICE_WRITE |
				    FUSE_CAP_SPLICE_MOVE;
	struct server *s = userdata;

	/* Splicing from memory costs nine times what a copy does. */
	conn->want &= ~splice;
	/* The kernel clears the setuid bits itself, by SETATTR. */
	conn->want &= ~FUSE_CAP_HANDLE_KILLPRIV;
	conn->want |=
		conn->capable & (FUSE_CAP_IOCTL_DIR | FUSE_CAP_ATOMIC_O_TRUNC);
	conn->max_write = MAX_IO_BYTES;
	conn->max_readahead = MAX_IO_BYTES;
	conn->max_background = 64;
	conn->congestion_threshold = 48;
	conn->time_gran = 1;
	if (s->ready)
		s->ready(s->ready_arg);
}

/* A comma in a mount option is escaped, as libfuse reads it. */
static char *escape(const char *s)
{
	char *out = malloc(2 * strlen(s) + 1), *p = out;

	if (!out)
		return NULL;
	for (; *s; s++) {
		if (*s == ',' || *s == '\\')
			*p++ = '\\';
		*p++ = *s;
	}
	*p = '\0';
	return out;
}

static int session_args(const struct serve_options *opt, struct fuse_args *args)
{
	char *source = escape(opt->source), *o = NULL;
	int err = -ENOMEM;

	if (source &&
	    asprintf(&o,
		     "-ofsname=%s,subtype=pindax,default_permissions%s%s%s%s",
		     source, opt->allow_other ? ",allow_other" : "",
		     opt->readonly ? ",ro" : "", *opt->mount_flags ? "," : "",
		     opt->mount_flags) > 0 &&
	    fuse_opt_add_arg(args, "pindax") == 0 &&
	    fuse_opt_add_arg(args, o) == 0)
		err = 0;
	free(source);
	free(o);
	return err;
}

static int loop(struct fuse_session *se)
{
	struct fuse_loop_config *cfg = fuse_loop_cfg_create();
	int err;

	if (!cfg)
		return -ENOMEM;
	fuse_loop_cfg_set_max_threads(cfg, MAX_THREADS);
	fuse_loop_cfg_set_idle_threads(cfg, MAX_THREADS);
	err = fuse_session_loop_mt(se, cfg);
	fuse_loop_cfg_destroy(cfg);
	/* A positive value is the signal that ended it. */
	return err < 0 ? err : 0;
}

static int run(struct server *s, const struct serve_options *opt)
{
	int err;

	if (fuse_set_signal_handlers(s->se) != 0)
		return -EIO;
	err = fuse_session_mount(s->se, opt->mountpoint) ? -EPERM : 0;
	if (!err) {
		err = initpatch_install(s->se);
		if (!err)
			err = watch_start(s);
		if (!err)
			err = loop(s->se);
		watch_stop(s);
		fs_shutdown(s->fs);
		fuse_session_unmount(s->se);
		handle_destroy_all(s->fs);
	}
	fuse_remove_signal_handlers(s->se);
	return err;
}

int serve(struct fs *fs, const struct serve_options *opt)
{
	struct server s = {
		.fs = fs, .ready = opt->ready, .ready_arg = opt->ready_arg};
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);
	struct fuse_lowlevel_ops ops = {.init = op_init};
	int err = session_args(opt, &args);

	if (!err) {
		ops_names_init(&ops);
		ops_file_init(&ops);
		s.se = fuse_session_new(&args, &ops, sizeof(ops), &s);
		err = s.se ? run(&s, opt) : -EINVAL;
		/* Nothing answers a request any more: they have all ended. */
		if (s.se)
			fuse_session_destroy(s.se);
	}
	fuse_opt_free_args(&args);
	return err;
}
