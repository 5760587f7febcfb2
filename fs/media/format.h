/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef PINDAX_FS_MEDIA_FORMAT_H
#define PINDAX_FS_MEDIA_FORMAT_H

#include <assert.h>
#include <endian.h>
#include <stddef.h>
#include <stdint.h>

/*
 * Every byte that a namespace has on media. docs/FORMAT.md has the offset
 * tables and the ordering rules. Little-endian wrapper types: a missing swap
 * does not compile. "off" are bytes from the start of the namespace; a block
 * is one page of 4 KiB, numbered from the start of the namespace.
 */
typedef struct {
	uint16_t raw;
} le16;
typedef struct {
	uint32_t raw;
} le32;
typedef struct {
	uint64_t raw;
} le64;

static inline uint16_t get16(le16 v)
{
	return le16toh(v.raw);
}
static inline uint32_t get32(le32 v)
{
	return le32toh(v.raw);
}
static inline uint64_t get64(le64 v)
{
	return le64toh(v.raw);
}
static inline le16 mk16(uint16_t v)
{
	return (le16){htole16(v)};
}
static inline le32 mk32(uint32_t v)
{
	return (le32){htole32(v)};
}
static inline le64 mk64(uint64_t v)
{
	return (le64){htole64(v)};
}

#define PDX_BLOCK_SIZE 4096U
#define PDX_BLOCK_SHIFT 12
#define PDX_GROUP_BLOCKS 512U /* one 2 MiB group */

#define PDX_SUPER_MAGIC 0x30584144444e4950ULL /* "PINDDAX0" */
#define PDX_VERSION 1U
#define PDX_LABEL_MAX 31
#define PDX_DIR_INDEX_LINEAR 1U /* linear blocks, index built in memory */

struct pdx_super {
	le64 magic;
	le32 version;
	le32 csum; /* crc32c of the whole block with this field 0 */
	le64 compat;
	le64 incompat;
	le64 seq; /* the copy with the higher one is newer */
	uint8_t uuid[16];
	uint8_t label[32];
	le64 nr_blocks;	       /* of the namespace, both copies included */
	le64 control_block;    /* control region: docs/FORMAT.md */
	le64 nr_ledger_blocks; /* ledger pages that follow control + zero page
				*/
	le64 journal_block;
	le32 nr_lanes;
	le32 lane_blocks;
	le64 bitmap_block; /* block allocation map */
	le64 bitmap_blocks;
	le64 mapped_block; /* one bit a group: was ever mapped directly */
	le64 mapped_blocks;
	le64 root_block; /* records of the internal inodes */
	le64 data_block; /* first block of the data area */
	le32 dir_index;	 /* PDX_DIR_INDEX_* */
	le32 state;	 /* PDX_STATE_* */
	le64 mount_count;
	le64 mkfs_time_ns;
	uint8_t reserved[4096 - 200];
};
static_assert(sizeof(struct pdx_super) == PDX_BLOCK_SIZE, "super size");
static_assert(offsetof(struct pdx_super, csum) == 12, "super csum");

#define PDX_STATE_CLEAN 1U
#define PDX_INCOMPAT_KNOWN 0ULL /* bits that this version understands */

#define PDX_MIN_LEDGER_BLOCKS 64U
#define PDX_MAX_LEDGER_BLOCKS 4096U
#define PDX_MAX_LANES 64U
#define PDX_MAX_LANE_BLOCKS 1024U

/*
 * A journal lane: this header, then @len bytes of records. It counts when the
 * checksum is right; magic 0 is an empty lane, anything else is torn.
 */
#define PDX_LANE_MAGIC 0x454e414c58445000ULL
struct pdx_lane {
	le64 magic; /* 0: empty; stored last with one 8-byte store to empty */
	le64 seq;   /* order of replay */
	le32 len;   /* bytes of records, multiple of 8 */
	le32 csum;  /* crc32c of header with this field 0, and records */
	uint8_t reserved[40];
};
static_assert(sizeof(struct pdx_lane) == 64, "lane header size");
static_assert(offsetof(struct pdx_lane, csum) == 20, "lane csum");

#define PDX_REC_WORDS 1U /* len bytes of data follow, for byte off */
#define PDX_REC_SET 2U	 /* len blocks from block off are allocated */
#define PDX_REC_CLEAR 3U /* len blocks from block off are free */
struct pdx_rec {
	le32 type;
	le32 len;
	le64 off;
};
static_assert(sizeof(struct pdx_rec) == 16, "record size");

/* The internal files: records 0 and 1 of the root block, and their numbers. */
#define PDX_ITABLE_RECORD 0U
#define PDX_ORPHAN_RECORD 1U
#define PDX_ITABLE_INO 0xfffffffffffffff0ULL
#define PDX_ORPHAN_INO 0xfffffffffffffff1ULL
#define PDX_ROOT_INO 1ULL

#define PDX_MAX_FILE_PAGES (1ULL << 51) /* bytes stay below 2^63 */
#define PDX_MAX_DEPTH 5U		/* of an extent tree */

#define PDX_INODE_SIZE 512U
#define PDX_INODE_MAGIC 0x494e4f44U
#define PDX_INLINE_EXTENTS 14
#define PDX_INLINE_SYMLINK 336

/* state bits of an inode */
#define PDX_INO_USED 1U
#define PDX_INO_ORPHAN 2U /* no names left; has a slot in the orphan file */
#define PDX_INO_INTENT 4U /* intent_first.. are being dropped; has a slot */

struct pdx_extent {
	le64 lblk; /* file page; in an inner node the lowest of the child */
	le64 pblk; /* block of the namespace; in an inner node the child */
	le32 nr;   /* pages; 0 in an inner node */
	le32 flags;
};
static_assert(sizeof(struct pdx_extent) == 24, "extent size");

struct pdx_inode {
	le32 magic;
	le32 csum; /* crc32c of the record with this field 0 */
	le64 ino;
	le32 mode;
	le32 nlink;
	le32 uid;
	le32 gid;
	le64 size;
	le64 atime_ns; /* signed, ns since 1970 */
	le64 mtime_ns;
	le64 ctime_ns;
	le64 btime_ns;
	le64 nr_blocks; /* data and extent tree blocks it owns */
	le32 gen;
	le32 flags; /* FS_*_FL as in FS_IOC_GETFLAGS */
	le32 state; /* PDX_INO_* */
	le32 rdev;
	le64 intent_first; /* file pages being dropped */
	le64 intent_nr;
	le64 orphan_slot; /* slot in the orphan file + 1; 0 none */
	le64 parent;	  /* directories: inode of ".." */
	le64 xattr_block;
	le16 ext_depth; /* 0: ext[] are the leaves */
	le16 ext_nr;
	le32 reserved0;
	uint8_t reserved1[32];
	union {
		struct pdx_extent ext[PDX_INLINE_EXTENTS];
		uint8_t symlink[PDX_INLINE_SYMLINK];
	};
};
static_assert(sizeof(struct pdx_inode) == PDX_INODE_SIZE, "inode size");
static_assert(offsetof(struct pdx_inode, csum) == 4, "inode csum");

#define PDX_NODE_MAGIC 0x45585452U
#define PDX_NODE_RECS 168

struct pdx_node { /* extent tree node */
	le32 magic;
	le32 csum;  /* crc32c of the block with this field 0 */
	le64 owner; /* inode */
	le16 nr;
	le16 level; /* 0 leaf */
	le32 reserved0;
	uint8_t reserved1[40];
	struct pdx_extent rec[PDX_NODE_RECS];
};
static_assert(sizeof(struct pdx_node) == PDX_BLOCK_SIZE, "node size");

#define PDX_DIRBLK_MAGIC 0x44495242U
struct pdx_dirblk {
	le32 magic;
	le32 csum;  /* crc32c of the block with this field 0 */
	le64 owner; /* inode of the directory */
	uint8_t data[PDX_BLOCK_SIZE - 16]; /* pdx_dirents, back to back */
};
static_assert(sizeof(struct pdx_dirblk) == PDX_BLOCK_SIZE, "dirblk size");

struct pdx_dirent { /* 8-byte aligned; entries never move */
	le64 ino;   /* 0: free space of rec_len bytes */
	le16 rec_len;
	uint8_t name_len;
	uint8_t type;	 /* DT_* */
	uint8_t name[4]; /* name_len bytes, zero padded to 8 */
};
static_assert(sizeof(struct pdx_dirent) == 16, "dirent size");

/* Mount record, first block of the control region; not journaled. */
struct pdx_mount_record {
	le64 magic;
	le64 nonce; /* of this mount, random */
	le64 pid;
	le64 start_ns; /* CLOCK_REALTIME */
	uint8_t boot_id[40];
	uint8_t host[64];
};
#define PDX_MOUNT_MAGIC 0x544e554f4d584450ULL

#endif
