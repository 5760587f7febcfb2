// SPDX-License-Identifier: BSD-3-Clause
/*
 * The check of a pool, third part: directories, reachability, link counts, and
 * the orphan file.
 *
 * Owns: the graph of names, as found. Not: blocks (check_inode.c).
 * Key invariant: every inode in use has as many names as it says and can be
 * reached from the root, or it is on the orphan file; who has work left over is
 * on the orphan file, and nobody else.
 * Locks: none.
 */
#include "fs/media/check_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/stat.h>

#include "fs/media/dir.h"

enum reach {
	REACH_UNKNOWN = 0,
	REACH_PATH, /* on the way up that is being walked */
	REACH_ROOT,
	REACH_LOST,
};

static bool is_dir(const struct check_ino *i)
{
	return i->used && !i->bad && S_ISDIR(i->mode);
}

/* --- entries --- */

static void check_entry(struct check *c, uint64_t dir,
			const struct dir_entry *e)
{
	struct check_ino *i;

	if (e->ino >= c->nr_ino || !c->ino[e->ino].used) {
		check_error(c,
			    "directories: '%s' in inode %" PRIu64
			    " names inode %" PRIu64 ", which is free",
			    e->name, dir, e->ino);
		return;
	}
	i = &c->ino[e->ino];
	i->links++;
	if (i->bad)
		return;
	if (e->type != (i->mode & S_IFMT) >> 12)
		check_error(c,
			    "directories: '%s' in inode %" PRIu64
			    " has the wrong type",
			    e->name, dir);
	if (!S_ISDIR(i->mode))
		return;
	c->ino[dir].subdirs++;
	if (i->named_in || e->ino == PDX_ROOT_INO)
		check_error(c,
			    "directories: '%s' in inode %" PRIu64
			    " is a second name of directory %" PRIu64,
			    e->name, dir, e->ino);
	else
		i->named_in = dir;
	if (i->parent != dir)
		check_error(c,
			    "directories: inode %" PRIu64 " is in %" PRIu64
			    " and takes %" PRIu64 " for its parent",
			    e->ino, dir, i->parent);
}

static int check_dir(struct check *c, uint64_t ino)
{
	struct dir_entry e;
	struct pdx_inode di;
	uint64_t cursor = 0;
	struct dir *d;
	int err = itable_read(c->m, ino, &di);

	if (!err)
		err = dir_open(c->m, &di, &d);
	if (err == -EBADMSG) {
		check_error(c,
			    "directories: a block of inode %" PRIu64
			    " is damaged",
			    ino);
		return 0;
	}
	if (err)
		return err;
	while (!dir_next(d, cursor, &e)) {
		cursor = e.next;
		check_entry(c, ino, &e);
	}
	dir_close(d);
	return 0;
}

/* --- reachability --- */

/* Walks up by names until the answer is known, then tells all on the way. */
static void check_reach(struct check *c, uint64_t ino)
{
	uint64_t at = ino, next;
	uint8_t answer;

	while (at && c->ino[at].reach == REACH_UNKNOWN) {
		c->ino[at].reach = at == PDX_ROOT_INO ? REACH_ROOT : REACH_PATH;
		at = c->ino[at].reach == REACH_ROOT ? at : c->ino[at].named_in;
	}
	answer = at && c->ino[at].reach == REACH_ROOT ? REACH_ROOT : REACH_LOST;
	for (at = ino; at && c->ino[at].reach == REACH_PATH; at = next) {
		next = c->ino[at].named_in;
		c->ino[at].reach = answer;
	}
	if (c->ino[ino].reach == REACH_LOST &&
	    !(c->ino[ino].state & PDX_INO_ORPHAN))
		check_error(c,
			    "directories: inode %" PRIu64
			    " cannot be reached from the root",
			    ino);
}

/* --- link counts --- */

static void check_links(struct check *c, uint64_t ino)
{
	const struct check_ino *i = &c->ino[ino];
	bool orphan = i->state & PDX_INO_ORPHAN;
	uint32_t want = i->links;

	if (S_ISDIR(i->mode))
		want = orphan ? 0 : 2 + i->subdirs;
	if (i->nlink != want)
		check_error(c,
			    "links: inode %" PRIu64 " has a count of %u, "
			    "and %u were found",
			    ino, i->nlink, want);
	if (orphan && i->links)
		check_error(c, "links: orphan %" PRIu64 " has a name", ino);
	if (!orphan && !i->links && !S_ISDIR(i->mode))
		check_error(c,
			    "links: inode %" PRIu64 " has no name and is "
			    "no orphan",
			    ino);
}

/* --- orphan file --- */

static void check_slots(struct check *c)
{
	uint64_t cursor = 0, ino, slot;
	const struct check_ino *i;

	while (!orphans_next(c->m, &cursor, &ino)) {
		slot = cursor - 1;
		c->res->orphans++;
		if (ino >= c->nr_ino || !c->ino[ino].used) {
			check_error(c,
				    "orphans: slot %" PRIu64 " names inode "
				    "%" PRIu64 ", which is free",
				    slot, ino);
			continue;
		}
		i = &c->ino[ino];
		c->ino[ino].has_slot |= i->slot == slot + 1;
		if (!i->bad && i->slot != slot + 1)
			check_error(c,
				    "orphans: slot %" PRIu64 " names inode "
				    "%" PRIu64 ", which has another",
				    slot, ino);
	}
}

static void check_orphan(struct check *c, uint64_t ino)
{
	const struct check_ino *i = &c->ino[ino];
	bool left = i->state & (PDX_INO_ORPHAN | PDX_INO_INTENT);

	if (left && !i->has_slot)
		check_error(c,
			    "orphans: inode %" PRIu64 " has work left over "
			    "and no slot",
			    ino);
	if (!left && i->slot)
		check_error(c,
			    "orphans: inode %" PRIu64 " has a slot and no "
			    "work left over",
			    ino);
}

int check_names(struct check *c)
{
	uint64_t ino;
	int err = 0;

	if (c->nr_ino <= PDX_ROOT_INO || !is_dir(&c->ino[PDX_ROOT_INO]))
		check_error(c, "directories: there is no root directory");
	for (ino = 1; ino < c->nr_ino && !err; ino++) {
		if (is_dir(&c->ino[ino]))
			err = check_dir(c, ino);
	}
	if (err)
		return err;
	check_slots(c);
	for (ino = 1; ino < c->nr_ino; ino++) {
		if (!c->ino[ino].used || c->ino[ino].bad)
			continue;
		if (is_dir(&c->ino[ino]))
			check_reach(c, ino);
		check_links(c, ino);
		check_orphan(c, ino);
	}
	return 0;
}
