/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * pindax - look at a pindax mount and work with its pins.
 *
 * Owns: the table of commands, and the usage texts made of it. Each command
 * parses its own options and prints its own answer; nothing here touches a
 * mount. Exit codes: 0 done, 1 failed, 2 misuse; a command that has others
 * says so in its help.
 *
 * Read: README.md for the commands by example.
 */
#include <getopt.h>
#include <stdarg.h>
#include <string.h>
#include "cmd/pindax/command.h"

static const struct command *const commands[] = {
	&cmd_pins,     &cmd_hold,  &cmd_map,  &cmd_stat,
	&cmd_truncate, &cmd_punch, &cmd_demo,
};
#define NR_COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void usage(FILE *to)
{
	fprintf(to, "Usage: pindax COMMAND [ARGUMENT]...\n\n");
	for (size_t i = 0; i < NR_COMMANDS; i++)
		fprintf(to, "  %-9s %s\n", commands[i]->name,
			commands[i]->summary);
	fprintf(to, "\npindax COMMAND --help says more. Exit codes: 0 done, "
		    "1 failed, 2 misuse.\n");
}

int command_help(const struct command *c)
{
	printf("Usage: pindax %s %s\n\n%s.\n\n%s", c->name, c->args, c->summary,
	       c->help);
	return 0;
}

int command_misuse(const struct command *c, const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "pindax %s: ", c->name);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fprintf(stderr, "\nUsage: pindax %s %s\n", c->name, c->args);
	return EXIT_USAGE;
}

int command_show(const struct command *self, int argc, char **argv,
		 const char *what, int (*fn)(const char *path, bool json))
{
	static const struct option opts[] = {
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	bool json = false;
	int c;

	while ((c = getopt_long(argc, argv, "jh", opts, NULL)) >= 0) {
		if (c == 'h')
			return command_help(self);
		if (c != 'j')
			return EXIT_USAGE;
		json = true;
	}
	if (argc - optind != 1)
		return command_misuse(self, "one %s, please", what);
	return fn(argv[optind], json);
}

static int run(const struct command *c, int argc, char **argv)
{
	static char name[32];

	/* getopt_long() begins its messages with it. */
	snprintf(name, sizeof(name), "pindax %s", c->name);
	argv[0] = name;
	return c->run(c, argc, argv);
}

int main(int argc, char **argv)
{
	if (argc < 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") ||
	    !strcmp(argv[1], "help")) {
		usage(stdout);
		return 0;
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("pindax %s\n", PINDAX_VERSION);
		return 0;
	}
	for (size_t i = 0; i < NR_COMMANDS; i++)
		if (!strcmp(argv[1], commands[i]->name))
			return run(commands[i], argc - 1, argv + 1);
	say("no command '%s'", argv[1]);
	usage(stderr);
	return EXIT_USAGE;
}
