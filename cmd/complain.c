/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The one voice of the small programs. pindax(1) has its own
 * (cmd/pindax/say.c), which also says what to do about an errno.
 */
#include "cmd/complain.h"

#include <stdarg.h>
#include <stdio.h>

void complain(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	(void)fprintf(stderr, "%s: ", complain_name);
	(void)vfprintf(stderr, fmt, ap);
	(void)fputc('\n', stderr);
	va_end(ap);
}
