// SPDX-License-Identifier: BSD-3-Clause
/*
 * Goal: a namespace opens when one superblock is good and not when none is; no
 * bytes on the pool crash an open or a check; the check is clean on a used
 * filesystem and finds each kind of damage.
 * Method: a pool on tmpfs; superblock fields are set to hostile values under
 * right checksums; single faults are planted; random bytes are overwritten.
 */
#include "tests/unit/pool.h"

#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>

#include "fs/media/check.h"
#include "fs/media/dir.h"

#define POOL_SIZE (20ULL << 20)
#define GOLDEN_FRESH 0xb43ac739
#define GOLDEN_BLOCKS 0x8f3b8de7

static int setup(void **state)
{
	struct test_pool *t = calloc(1, sizeof(*t));

	test_pool_make(t, POOL_SIZE);
	*state = t;
	return 0;
}

static int teardown(void **state)
{
	test_pool_remove(*state);
	free(*state);
	return 0;
}

/* --- a small tree of files, made as the fs core would --- */

static int end_dir(struct dir *d, struct tx *tx, int err)
{
	if (err)
		tx_abort(tx);
	else
		err = tx_commit(tx);
	if (err)
		dir_abort(d);
	else
		dir_commit(d);
	return err;
}

static uint64_t create(struct test_pool *t, uint64_t dir, const char *name,
		       uint32_t mode)
{
	struct pdx_inode *di, *ddi, copy;
	uint64_t ino;
	uint32_t gen;
	struct dir *d;
	struct tx *tx;
	int err;

	assert_int_equal(itable_read(t->m, dir, &copy), 0);
	assert_int_equal(dir_open(t->m, &copy, &d), 0);
	assert_int_equal(tx_begin(t->m, &tx), 0);
	ddi = tx_edit_inode(tx, dir);
	assert_int_equal(itable_alloc(tx, &ino, &gen), 0);
	di = tx_edit_inode(tx, ino);
	memset(di, 0, sizeof(*di));
	di->magic = mk32(PDX_INODE_MAGIC);
	di->ino = mk64(ino);
	di->gen = mk32(gen);
	di->mode = mk32(mode);
	di->nlink = mk32(S_ISDIR(mode) ? 2 : 1);
	di->parent = mk64(S_ISDIR(mode) ? dir : 0);
	di->state = mk32(PDX_INO_USED);
	err = dir_add(tx, d, ddi, name, strlen(name), ino,
		      (uint8_t)((mode & S_IFMT) >> 12));
	if (S_ISDIR(mode))
		ddi->nlink = mk32(get32(ddi->nlink) + 1);
	assert_int_equal(end_dir(d, tx, err), 0);
	dir_close(d);
	return ino;
}

/* Every other page, so that the file needs a tree. */
static void write_holes(struct test_pool *t, uint64_t ino, unsigned int nr)
{
	uint64_t block, got;
	struct pdx_inode *di;
	struct tx *tx;

	for (uint64_t i = 0; i < nr; i++) {
		assert_int_equal(tx_begin(t->m, &tx), 0);
		di = tx_edit_inode(tx, ino);
		assert_int_equal(alloc_blocks(tx, 0, 1, 0, &block, &got), 0);
		assert_int_equal(extent_insert(tx, di, i * 2, block, 1), 0);
		di->size = mk64((i * 2 + 1) * 4096ULL);
		assert_int_equal(tx_commit(tx), 0);
	}
}

static void make_tree(struct test_pool *t)
{
	uint64_t sub = create(t, PDX_ROOT_INO, "sub", S_IFDIR | 0755);
	uint64_t file = create(t, sub, "file", S_IFREG | 0644);

	write_holes(t, file, 60);
	(void)create(t, PDX_ROOT_INO, "empty", S_IFREG | 0644);
	(void)create(t, sub, "deeper", S_IFDIR | 0755);
	(void)create(t, sub, "pipe", S_IFIFO | 0644);
}

/* --- check --- */

struct said {
	char text[8192];
	unsigned int notes;
};

static void hear(void *arg, bool error, const char *line)
{
	struct said *s = arg;
	size_t at = strlen(s->text);

	s->notes += !error;
	snprintf(s->text + at, sizeof(s->text) - at, "%s\n", line);
}

static uint64_t check(struct test_pool *t, struct said *s)
{
	struct check_result res;

	memset(s, 0, sizeof(*s));
	assert_int_equal(media_check(t->pool, hear, s, &res), 0);
	return res.errors;
}

static void format_labels(struct test_pool *t)
{
	struct label_area la = {.pool_size = t->pool->size_bytes, .nr = 1};

	la.ns[0] = t->ns;
	assert_int_equal(label_format(t->pool, &la), 0);
}

static void assert_clean(struct test_pool *t)
{
	struct said s;

	if (check(t, &s))
		fail_msg("not clean: %s", s.text);
}

/* --- open --- */

static void a_new_filesystem_is_clean(void **state)
{
	struct test_pool *t = *state;

	format_labels(t);
	assert_false(t->rep.unclean);
	assert_int_equal(t->rep.sb_bad, -1);
	assert_clean(t);
	make_tree(t);
	assert_clean(t);
	test_pool_reopen(t, true);
	assert_false(t->rep.unclean);
	test_pool_reopen(t, false);
	assert_true(t->rep.unclean);
	assert_clean(t);
}

/* The sum of a directory block and a tree node, wherever they were put. */
static uint32_t sum_of_blocks(struct test_pool *t)
{
	struct pdx_inode dir, file;
	struct pdx_node node;
	uint32_t crc;

	assert_int_equal(itable_read(t->m, PDX_ROOT_INO, &dir), 0);
	assert_int_equal(itable_read(t->m, 3, &file), 0);
	assert_int_equal(get16(file.ext_depth), 1);
	crc = crc32c(0, media_ptr(t->m, get64(dir.ext[0].pblk)), 4096);
	memcpy(&node, media_ptr(t->m, get64(file.ext[0].pblk)), sizeof(node));
	node.csum = mk32(0);
	for (unsigned int i = 0; i < PDX_NODE_RECS; i++)
		node.rec[i].pblk = mk64(0);
	return crc32c(crc, &node, sizeof(node));
}

/*
 * A change of any byte that mkfs writes, or of how entries and extents lie in
 * their blocks, needs a new PDX_VERSION and a line in the change log of
 * docs/FORMAT.md; then the new sums go here.
 */
static void the_format_has_not_changed(void **state)
{
	struct test_pool t;
	uint32_t fresh, blocks;

	(void)state;
	test_pool_make(&t, LABEL_AREA_SIZE + PDX_MIN_NS_SIZE);
	media_close(t.m, true);
	fresh = crc32c(0, t.pool->base + t.ns.off, t.ns.len);
	test_pool_open(&t);
	make_tree(&t);
	blocks = sum_of_blocks(&t);
	test_pool_remove(&t);
	print_message("sums: %#x %#x\n", fresh, blocks);
	assert_int_equal(fresh, GOLDEN_FRESH);
	assert_int_equal(blocks, GOLDEN_BLOCKS);
}

static void mkfs_refuses_impossible_namespaces(void **state)
{
	struct test_pool *t = *state;
	struct mkfs_options opt = {0};
	struct label_ns ns = t->ns;

	ns.len = PDX_MIN_NS_SIZE - PDX_BLOCK_SIZE;
	assert_int_equal(media_mkfs(t->pool, &ns, &opt), -EINVAL);
	ns.len = t->ns.len + PDX_BLOCK_SIZE;
	assert_int_equal(media_mkfs(t->pool, &ns, &opt), -EINVAL);
	ns = t->ns;
	ns.off += PDX_BLOCK_SIZE;
	assert_int_equal(media_mkfs(t->pool, &ns, &opt), -EINVAL);
	ns.off = UINT64_MAX & ~(PMEM_HUGE_SIZE - 1);
	assert_int_equal(media_mkfs(t->pool, &ns, &opt), -EINVAL);
	opt.label = "a label of more than thirty-one bytes";
	assert_int_equal(media_mkfs(t->pool, &t->ns, &opt), -EINVAL);
}

static void the_smallest_pool_works(void **state)
{
	struct test_pool t;

	(void)state;
	test_pool_make(&t, LABEL_AREA_SIZE + PDX_MIN_NS_SIZE);
	format_labels(&t);
	make_tree(&t);
	assert_clean(&t);
	test_pool_remove(&t);
}

static struct pdx_super *super(struct test_pool *t, int copy)
{
	char *base = t->pool->base + t->ns.off;

	return (void *)(base + (copy ? t->ns.len - PDX_BLOCK_SIZE : 0));
}

static void sum_super(struct pdx_super *sb)
{
	sb->csum = mk32(0);
	sb->csum = mk32(crc32c(0, sb, sizeof(*sb)));
}

static void one_bad_superblock_is_told_and_mended(void **state)
{
	struct test_pool *t = *state;
	struct said s;
	int copy;

	format_labels(t);
	for (copy = 0; copy < 2; copy++) {
		media_close(t->m, true);
		super(t, copy)->nr_lanes = mk32(77);
		assert_int_equal(check(t, &s), 1);
		assert_non_null(strstr(s.text, "superblock: copy"));
		test_pool_open(t);
		assert_int_equal(t->rep.sb_bad, copy);
		test_pool_reopen(t, true);
		assert_int_equal(t->rep.sb_bad, -1);
		assert_clean(t);
	}
}

static int open_error(struct test_pool *t)
{
	struct media *m = NULL;
	int err = media_open(t->pool, &t->ns, true, &m, NULL);

	if (!err)
		media_close(m, false);
	return err;
}

static void both_superblocks_bad_is_an_error(void **state)
{
	struct test_pool *t = *state;
	struct pdx_super good;
	struct label_ns ns;
	struct media *m;
	int i, copy;

	media_close(t->m, true);
	good = *super(t, 0);
	for (i = 0; i < 6; i++) {
		static const int want[] = {-EINVAL,	     -EBADMSG,
					   -EPROTONOSUPPORT, -EPROTONOSUPPORT,
					   -EOVERFLOW,	     -EPROTONOSUPPORT};

		for (copy = 0; copy < 2; copy++) {
			struct pdx_super *sb = super(t, copy);

			*sb = good;
			switch (i) {
			case 0:
				sb->magic = mk64(1);
				break;
			case 1:
				sb->label[0] ^= 1;
				continue;
			case 2:
				sb->version = mk32(2);
				break;
			case 3:
				sb->incompat = mk64(1ULL << 63);
				break;
			case 4:
				sb->nr_blocks = mk64(UINT64_MAX);
				break;
			default:
				sb->dir_index = mk32(9);
				break;
			}
			sum_super(sb);
		}
		assert_int_equal(open_error(t), want[i]);
	}
	*super(t, 0) = good;
	*super(t, 1) = good;
	ns = t->ns;
	ns.len += PDX_BLOCK_SIZE;
	assert_int_equal(media_open(t->pool, &ns, true, &m, NULL), -EOVERFLOW);
	ns.len -= 2ULL * PDX_BLOCK_SIZE;
	assert_true(media_open(t->pool, &ns, true, &m, NULL) < 0);
	test_pool_open(t);
}

static void no_field_of_a_superblock_is_believed(void **state)
{
	struct test_pool *t = *state;
	static const uint64_t hostile[] = {
		0,	    1,		2,	   63,
		64,	    1000,	1 << 20,   UINT32_MAX,
		1ULL << 40, 1ULL << 52, INT64_MAX, UINT64_MAX - 1,
		UINT64_MAX,
	};
	size_t field, first = offsetof(struct pdx_super, nr_blocks);
	size_t last = offsetof(struct pdx_super, state);
	struct pdx_super good;
	unsigned int i;
	int copy, err;

	media_close(t->m, true);
	good = *super(t, 0);
	for (field = first; field < last; field += 4) {
		for (i = 0; i < sizeof(hostile) / sizeof(hostile[0]); i++) {
			for (copy = 0; copy < 2; copy++) {
				struct pdx_super *sb = super(t, copy);

				*sb = good;
				memcpy((char *)sb + field, &hostile[i],
				       field % 8 ? 4 : 8);
				sum_super(sb);
			}
			err = open_error(t);
			assert_true(!err || err == -EBADMSG ||
				    err == -EOVERFLOW ||
				    err == -EPROTONOSUPPORT);
		}
	}
	*super(t, 0) = good;
	*super(t, 1) = good;
	test_pool_open(t);
}

/* --- what the check finds --- */

static struct pdx_inode *rec_of(struct test_pool *t, uint64_t ino)
{
	return (void *)(t->m->base + itable_off(t->m, ino));
}

static void sum_inode(struct pdx_inode *di)
{
	di->csum = mk32(csum_at4(di, sizeof(*di)));
}

static void plant(struct test_pool *t, int fault)
{
	struct pdx_inode *di = rec_of(t, 3); /* /sub/file */
	le64 *map = media_ptr(t->m, get64(t->m->sb.bitmap_block));
	uint64_t b = t->m->end_block - 3;
	struct tx *tx;

	switch (fault) {
	case 0: /* a leak */
		map[b / 64] = mk64(get64(map[b / 64]) | 1ULL << (b % 64));
		break;
	case 1: /* owned and not marked */
		b = get64(rec_of(t, 2)->ext[0].pblk);
		map[b / 64] = mk64(get64(map[b / 64]) & ~(1ULL << (b % 64)));
		break;
	case 2: /* owned twice */
		di = rec_of(t, 4);
		di->ext_nr = mk16(1);
		di->ext[0] = rec_of(t, 2)->ext[0];
		di->nr_blocks = mk64(1);
		break;
	case 3:
		di->nlink = mk32(7);
		break;
	case 4:
		di->nr_blocks = mk64(1);
		break;
	case 5: /* a directory that says it is elsewhere */
		di = rec_of(t, 5);
		di->parent = mk64(PDX_ROOT_INO);
		break;
	case 6:
		di->state = mk32(PDX_INO_USED | PDX_INO_INTENT);
		break;
	case 7:
		di->ext[0].pblk = mk64(UINT64_MAX);
		break;
	case 8: /* a name of a free inode */
		assert_int_equal(tx_begin(t->m, &tx), 0);
		assert_int_equal(itable_free(tx, 4), 0);
		assert_int_equal(tx_commit(tx), 0);
		return;
	case 9: /* an inode without a name */
		(void)test_file(t->m, S_IFREG | 0600);
		return;
	case 10: /* wrong type in the name */
		di->mode = mk32(S_IFIFO | 0600);
		break;
	case 11: /* a slot of nobody's */
		assert_int_equal(tx_begin(t->m, &tx), 0);
		assert_int_equal(orphan_add(tx, tx_edit_inode(tx, 3)), 0);
		assert_int_equal(tx_commit(tx), 0);
		return;
	case 12: /* a bit of a fixed region */
		map[0] = mk64(get64(map[0]) & ~1ULL);
		return;
	case 13: /* no root */
		di = rec_of(t, PDX_ROOT_INO);
		di->mode = mk32(S_IFREG | 0600);
		break;
	case 14: /* a damaged record */
		di->size = mk64(77);
		return;
	default:
		break;
	}
	sum_inode(di);
}

static void the_check_finds_each_fault(void **state)
{
	struct test_pool *t = *state;
	static const char *const says[] = {
		"belong to nobody",  "free in the allocation map",
		"owner already",     "count of 7",
		"claims 1",	     "for its parent",
		"no slot",	     "tree of inode 3",
		"which is free",     "no name",
		"wrong type",	     "no work left over",
		"fixed regions",     "no root directory",
		"record of inode 3",
	};
	char *good = malloc(POOL_SIZE);
	struct said s;
	unsigned int i;

	format_labels(t);
	make_tree(t);
	assert_clean(t);
	memcpy(good, t->pool->base, POOL_SIZE);
	for (i = 0; i < sizeof(says) / sizeof(says[0]); i++) {
		plant(t, (int)i);
		assert_true(check(t, &s) > 0);
		if (!strstr(s.text, says[i]))
			fail_msg("fault %u: %s", i, s.text);
		media_close(t->m, false);
		memcpy(t->pool->base, good, POOL_SIZE);
		test_pool_open(t);
	}
	assert_clean(t);
	free(good);
}

static void the_check_replays_in_memory_only(void **state)
{
	struct test_pool *t = *state;
	char *before = malloc(POOL_SIZE);
	struct pdx_lane *lane;
	struct pdx_rec *rec;
	struct said s;

	format_labels(t);
	make_tree(t);
	/* Sets what is set already: a transaction that was applied. */
	lane = media_ptr(t->m, get64(t->m->sb.journal_block));
	rec = (void *)(lane + 1);
	*lane = (struct pdx_lane){.magic = mk64(PDX_LANE_MAGIC),
				  .seq = mk64(1),
				  .len = mk32(sizeof(*rec))};
	*rec = (struct pdx_rec){.type = mk32(PDX_REC_SET),
				.len = mk32(1),
				.off = mk64(t->m->data_block)};
	lane->csum = mk32(crc32c(0, lane, sizeof(*lane) + sizeof(*rec)));
	memcpy(before, t->pool->base, POOL_SIZE);
	assert_int_equal(check(t, &s), 0);
	assert_int_equal(s.notes, 1);
	assert_memory_equal(before, t->pool->base, POOL_SIZE);
	lane->csum = mk32(0);
	assert_int_equal(check(t, &s), 0);
	assert_non_null(strstr(s.text, "torn"));
	free(before);
}

/* Metadata is thick at the start: most of the damage goes there. */
static void damage(struct test_pool *t, struct test_rand *r)
{
	uint64_t ns = t->ns.off, n = 1 + test_rand(r, 12), at, first;

	first = get64(super(t, 0)->journal_block) << PDX_BLOCK_SHIFT;
	while (n--) {
		at = first + test_rand(r, 4 << 20);
		switch (test_rand(r, 4)) {
		case 0:
			at = test_rand(r, t->ns.len);
			break;
		case 1:
			at = itable_off(t->m, 1 + test_rand(r, 6)) +
			     test_rand(r, PDX_INODE_SIZE);
			break;
		default:
			break;
		}
		t->pool->base[ns + at] = (char)test_rand(r, 256);
	}
}

/* Right sums over wrong content: what a checksum cannot catch. */
static void mend_sums(struct test_pool *t)
{
	uint64_t ino;

	for (ino = 1; ino < 7; ino++)
		sum_inode(rec_of(t, ino));
}

static void random_damage_never_crashes(void **state)
{
	struct test_pool *t = *state;
	struct check_result res;
	char *good = malloc(POOL_SIZE);
	struct test_rand r;
	struct media *m;
	struct said s;
	unsigned int i;

	test_rand_init(&r);
	format_labels(t);
	make_tree(t);
	memcpy(good, t->pool->base, POOL_SIZE);
	for (i = 0; i < 150; i++) {
		damage(t, &r);
		if (i % 2)
			mend_sums(t);
		memset(&s, 0, sizeof(s));
		(void)media_check(t->pool, hear, &s, &res);
		m = NULL;
		if (!media_open(t->pool, &t->ns, false, &m, NULL))
			media_close(m, true);
		memcpy(t->pool->base, good, POOL_SIZE);
	}
	free(good);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
		T(a_new_filesystem_is_clean),
		cmocka_unit_test(the_format_has_not_changed),
		T(mkfs_refuses_impossible_namespaces),
		cmocka_unit_test(the_smallest_pool_works),
		T(one_bad_superblock_is_told_and_mended),
		T(both_superblocks_bad_is_an_error),
		T(no_field_of_a_superblock_is_believed),
		T(the_check_finds_each_fault),
		T(the_check_replays_in_memory_only),
		T(random_damage_never_crashes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
