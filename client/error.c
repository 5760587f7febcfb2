/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The text behind an error number, one buffer a thread, as strerror(3) says
 * too little of a pool that may not be opened or a limit that is too low.
 * Helper threads never come here: it uses stdio's formatting.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "client/internal.h"

static _Thread_local char message[512];

const char *pindax_errormsg(void)
{
	return message;
}

int pdx_fail(int err, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	/* NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): it is not */
	(void)vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	return err;
}

bool pdx_daemon_is_gone(int err)
{
	return err == -ENOTCONN || err == -ECONNABORTED || err == -ENODEV;
}

int pdx_fail_call(int err, const char *what)
{
	if (pdx_daemon_is_gone(err))
		return pdx_fail(err,
				"%s: the daemon is gone: umount -l the mount "
				"point and mount again",
				what);
	return pdx_fail(err, "%s: %s", what, strerror(-err));
}
