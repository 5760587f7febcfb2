// SPDX-License-Identifier: BSD-3-Clause
/*
 * The ioctls of fs/proto.h: each is decoded strictly and handed on.
 *
 * The process is the request's, never the struct's; rights are those that the
 * description was opened with (the handle keeps them). Ranges and mappers are
 * checked by fs/layout, which knows them. PIN and BREAK may wait: they are
 * objects with a park, as in ops_file.c. The others never wait.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "fs/fuse/daemon.h"

struct call {
	fuse_req_t req;
	struct server *s;
	struct layouts *ls;
	struct handle *h;
	const void *in; /* the struct; NULL when the ioctl takes none */
};

static void reply_out(const struct call *c, const void *buf, size_t size)
{
	fuse_reply_ioctl(c->req, 0, buf, size);
}

static void reply_done(const struct call *c, int err)
{
	if (err)
		reply_err(c->req, err);
	else
		fuse_reply_ioctl(c->req, 0, NULL, 0);
}

static uint64_t fh_of(const struct handle *h)
{
	return (uint64_t)(uintptr_t)h;
}

static void ioc_info(const struct call *c)
{
	struct pindax_ioc_info info;

	fs_info(c->s->fs, &info);
	info.ino = fs_ino(c->h->ip);
	reply_out(c, &info, sizeof(info));
}

static void ioc_stat(const struct call *c)
{
	struct pindax_ioc_stat st;

	fs_stat(c->s->fs, &st);
	reply_out(c, &st, sizeof(st));
}

static int regular(const struct call *c)
{
	uint32_t type = fs_inode_mode(c->h->ip) & S_IFMT;

	if (type == S_IFDIR)
		return -EISDIR;
	return type == S_IFREG ? 0 : -ENOTTY;
}

static void ioc_mapper(const struct call *c)
{
	struct pindax_ioc_mapper m;
	struct mapper_who who;
	struct fs_cred cred;
	int err = regular(c);

	memcpy(&m, c->in, sizeof(m));
	if (!err && m.version != PINDAX_PROTO_VERSION)
		err = -EPROTO;
	else if (!err && (m.flags || m.id || m.ledger_off))
		err = -EINVAL;
	if (err) {
		reply_err(c->req, err);
		return;
	}
	req_cred(c->req, true, &cred);
	who = (struct mapper_who){
		.tgid = cred.tgid,
		.uid = cred.uid,
		.fh = fh_of(c->h),
		.writable = (c->h->flags & O_ACCMODE) == O_RDWR,
	};
	err = fs_direct(c->s->fs) ? mapper_create(fs_layout(c->h->ip), &who,
						  &m.id, &m.ledger_off)
				  : -EOPNOTSUPP;
	if (err)
		reply_err(c->req, err);
	else
		reply_out(c, &m, sizeof(m));
}

/* NULL: answered with ENOENT. */
static struct mapper *mapper_of(const struct call *c, uint64_t id)
{
	struct mapper *m = mapper_get(c->ls, id, fh_of(c->h));

	if (!m)
		fuse_reply_err(c->req, ENOENT);
	return m;
}

static void ioc_prove(const struct call *c)
{
	const struct pindax_ioc_prove *p = c->in;
	struct mapper *m;

	if (p->reserved || p->flags & ~PINDAX_PROVE_RDONLY) {
		fuse_reply_err(c->req, EINVAL);
		return;
	}
	m = mapper_of(c, p->mapper);
	if (!m)
		return;
	reply_done(c, mapper_prove(m, p->challenge, p->answer, p->flags));
	mapper_put(m);
}

static void ioc_mapper_drop(const struct call *c)
{
	const struct pindax_ioc_mapper_id *id = c->in;
	struct mapper *m = mapper_of(c, id->mapper);

	if (!m)
		return;
	mapper_drop(m);
	mapper_put(m);
	reply_done(c, 0);
}

static void ioc_fault(const struct call *c)
{
	const struct pindax_ioc_fault *in = c->in;
	struct pindax_ioc_fault f = {.mapper = in->mapper,
				     .off = in->off,
				     .len = in->len,
				     .flags = in->flags};
	struct mapper *m;
	int err;

	if (in->reserved || in->flags & ~PINDAX_FAULT_WRITE) {
		fuse_reply_err(c->req, EINVAL);
		return;
	}
	m = mapper_of(c, f.mapper);
	if (!m)
		return;
	err = mapper_fault(m, &f);
	mapper_put(m);
	if (err)
		reply_err(c->req, err);
	else /* only the grants there are: most faults have one */
		reply_out(c, &f,
			  offsetof(struct pindax_ioc_fault, grant) +
				  f.nr * sizeof(f.grant[0]));
}

static void ioc_unmap(const struct call *c)
{
	const struct pindax_ioc_range *r = c->in;
	struct mapper *m = mapper_of(c, r->mapper);

	if (!m)
		return;
	reply_done(c, mapper_unmap(m, r->off, r->len));
	mapper_put(m);
}

static void ioc_events(const struct call *c)
{
	const struct pindax_ioc_events *in = c->in;
	struct pindax_ioc_events e = {.mapper = in->mapper};
	struct mapper *m = mapper_of(c, e.mapper);
	int err;

	if (!m)
		return;
	err = mapper_events(m, &e);
	mapper_put(m);
	if (err)
		reply_err(c->req, err);
	else
		reply_out(c, &e,
			  offsetof(struct pindax_ioc_events, ev) +
				  e.nr * sizeof(e.ev[0]));
}

static void ioc_ack(const struct call *c)
{
	const struct pindax_ioc_ack *a = c->in;
	struct mapper *m = mapper_of(c, a->mapper);

	if (!m)
		return;
	reply_done(c, mapper_ack(m, a->epoch));
	mapper_put(m);
}

/* --- pin --- */

struct pin_op {
	struct pin_req r;
	struct park park;
	struct mapper *m;
	struct pindax_ioc_pin out;
};

static void pin_done(struct pin_req *r, int err)
{
	struct pin_op *po = (struct pin_op *)r;
	struct mapper *m = po->m;

	park_end(&po->park);
	if (err) {
		reply_err(po->park.req, err);
	} else {
		po->out.pin = r->pin;
		/* Nobody to tell: the request was aborted meanwhile. */
		if (fuse_reply_ioctl(po->park.req, 0, &po->out,
				     sizeof(po->out)) != 0)
			(void)mapper_unpin(m, r->pin);
	}
	free(po);
	mapper_put(m);
}

static int pin_range(const struct pindax_ioc_pin *p)
{
	uint64_t end;

	if (p->reserved || p->flags & ~(PINDAX_PIN_NOWAIT | PINDAX_PIN_URING) ||
	    !p->len || (p->off | p->len) & (PDX_BLOCK_SIZE - 1) ||
	    __builtin_add_overflow(p->off, p->len, &end))
		return -EINVAL;
	return 0;
}

static void ioc_pin(const struct call *c)
{
	const struct pindax_ioc_pin *p = c->in;
	struct mapper *m;
	struct pin_op *po;
	uint64_t id;
	int err = pin_range(p);

	if (err) {
		reply_err(c->req, err);
		return;
	}
	m = mapper_of(c, p->mapper);
	if (!m)
		return;
	po = calloc(1, sizeof(*po));
	if (!po) {
		mapper_put(m);
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	id = layouts_new_id(c->ls);
	po->m = m;
	po->out = *p;
	po->r = (struct pin_req){
		.id = id,
		.mapper = m,
		.first = p->off >> PDX_BLOCK_SHIFT,
		.nr = p->len >> PDX_BLOCK_SHIFT,
		.flags = p->flags,
		.tid = fuse_req_ctx(c->req)->pid,
		.done = pin_done,
	};
	park_begin(&po->park, c->req, id);
	mapper_pin(&po->r);
	park_submitted(c->s->fs, id);
}

static void ioc_unpin(const struct call *c)
{
	const struct pindax_ioc_unpin *u = c->in;
	struct mapper *m = mapper_of(c, u->mapper);

	if (!m)
		return;
	reply_done(c, mapper_unpin(m, u->pin));
	mapper_put(m);
}

/* --- break --- */

struct break_op_req {
	struct fs_op op;
	struct park park;
};

static void break_done(struct fs_op *op, int err)
{
	struct break_op_req *bo = (struct break_op_req *)op;

	park_end(&bo->park);
	if (err)
		reply_err(bo->park.req, err);
	else
		fuse_reply_ioctl(bo->park.req, 0, NULL, 0);
	free(bo);
}

static void ioc_break(const struct call *c)
{
	const struct pindax_ioc_break *b = c->in;
	struct break_op_req *bo;
	struct fs_cred cred;
	uint64_t id;
	int err = regular(c);

	if (!err && !handle_writable(c->h))
		err = -EBADF;
	else if (!err && (b->flags || b->reserved || b->op > INT32_MAX))
		err = -EINVAL;
	if (err) {
		reply_err(c->req, err);
		return;
	}
	bo = calloc(1, sizeof(*bo));
	if (!bo) {
		fuse_reply_err(c->req, ENOMEM);
		return;
	}
	req_cred(c->req, true, &cred);
	fs_op_init(&bo->op, c->h->ip, &cred, fh_of(c->h), break_done);
	id = bo->op.id;
	bo->op.off = b->off;
	bo->op.range_len = b->len;
	bo->op.mode = (int)b->op;
	bo->op.timeout_ms = b->timeout_ms;
	park_begin(&bo->park, c->req, id);
	fs_break(&bo->op);
	park_submitted(c->s->fs, id);
}

/* --- extents, reports --- */

static void ioc_extents(const struct call *c)
{
	const struct pindax_ioc_extents *in = c->in;
	struct fs_extent ext[PINDAX_EXTENTS_MAX];
	struct pindax_ioc_extents e = {.off = in->off};
	int n = regular(c);

	if (!n && in->reserved)
		n = -EINVAL;
	if (!n)
		n = fs_extents(c->h->ip, e.off, ext, PINDAX_EXTENTS_MAX);
	if (n < 0) {
		reply_err(c->req, n);
		return;
	}
	for (int i = 0; i < n; i++) {
		e.ext[i].file_off = ext[i].file_off;
		e.ext[i].pool_off = ext[i].pool_off;
		e.ext[i].len = ext[i].len;
	}
	e.nr = (uint32_t)n;
	reply_out(c, &e,
		  offsetof(struct pindax_ioc_extents, ext) +
			  (size_t)n * sizeof(e.ext[0]));
}

static int take_snapshot(const struct call *c, bool all)
{
	struct pindax_report_row *rows = NULL;
	struct timespec now;
	uint32_t nr = 0;
	int err = layouts_report(c->ls, all ? NULL : fs_layout(c->h->ip), &rows,
				 &nr);

	if (err)
		return err;
	clock_gettime(CLOCK_MONOTONIC, &now);
	free(c->h->rows);
	c->h->rows = rows;
	c->h->nr_rows = nr;
	c->h->rows_ns =
		(uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
	return 0;
}

static void ioc_report(const struct call *c)
{
	const struct pindax_ioc_report *in = c->in;
	struct pindax_ioc_report r = {.flags = in->flags, .start = in->start};
	bool all = in->flags & PINDAX_REPORT_MOUNT ||
		   fs_ino(c->h->ip) == FS_ROOT_INO;
	uint32_t left;
	int err = 0;

	if (in->flags & ~PINDAX_REPORT_MOUNT) {
		fuse_reply_err(c->req, EINVAL);
		return;
	}
	pthread_mutex_lock(&c->h->report_lock);
	if (!r.start)
		err = take_snapshot(c, all);
	if (!err && r.start < c->h->nr_rows) {
		left = c->h->nr_rows - r.start;
		r.nr = left < PINDAX_REPORT_MAX ? left : PINDAX_REPORT_MAX;
		r.more = left > r.nr;
		memcpy(r.row, c->h->rows + r.start, r.nr * sizeof(r.row[0]));
	}
	r.now_ns = c->h->rows_ns;
	pthread_mutex_unlock(&c->h->report_lock);
	if (err)
		reply_err(c->req, err);
	else
		reply_out(c, &r,
			  offsetof(struct pindax_ioc_report, row) +
				  r.nr * sizeof(r.row[0]));
}

static void ioc_path(const struct call *c)
{
	const struct pindax_ioc_path *in = c->in;
	struct pindax_ioc_path p = {.ino = in->ino};
	int err = fs_path(c->s->fs, p.ino, p.path, sizeof(p.path));

	if (err)
		reply_err(c->req, err);
	else
		reply_out(c, &p, sizeof(p));
}

static const struct {
	unsigned int cmd;
	void (*fn)(const struct call *c);
} calls[] = {
	{PINDAX_IOC_INFO, ioc_info},
	{PINDAX_IOC_MAPPER, ioc_mapper},
	{PINDAX_IOC_PROVE, ioc_prove},
	{PINDAX_IOC_MAPPER_DROP, ioc_mapper_drop},
	{PINDAX_IOC_FAULT, ioc_fault},
	{PINDAX_IOC_UNMAP, ioc_unmap},
	{PINDAX_IOC_EVENTS, ioc_events},
	{PINDAX_IOC_ACK, ioc_ack},
	{PINDAX_IOC_PIN, ioc_pin},
	{PINDAX_IOC_UNPIN, ioc_unpin},
	{PINDAX_IOC_BREAK, ioc_break},
	{PINDAX_IOC_EXTENTS, ioc_extents},
	{PINDAX_IOC_REPORT, ioc_report},
	{PINDAX_IOC_PATH, ioc_path},
	{PINDAX_IOC_STAT, ioc_stat},
};

/* The kernel copies as the command number says: anything else is not ours. */
static bool sizes_fit(unsigned int cmd, const void *in, size_t in_size,
		      size_t out_size)
{
	size_t size = _IOC_SIZE(cmd);

	if (_IOC_DIR(cmd) & _IOC_WRITE && (!in || in_size != size))
		return false;
	return !(_IOC_DIR(cmd) & _IOC_READ) || out_size == size;
}

void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned int cmd, void *arg,
	      struct fuse_file_info *fi, unsigned int flags, const void *in,
	      size_t in_size, size_t out_size)
{
	struct server *s = server_of(req);
	struct call c = {.req = req,
			 .s = s,
			 .ls = fs_layouts(s->fs),
			 .h = handle_of(fi),
			 .in = in};
	size_t i = 0;

	(void)ino;
	(void)arg;
	while (i < sizeof(calls) / sizeof(calls[0]) && calls[i].cmd != cmd)
		i++;
	if (i == sizeof(calls) / sizeof(calls[0]))
		fuse_reply_err(req, ENOTTY);
	else if (flags & FUSE_IOCTL_UNRESTRICTED ||
		 !sizes_fit(cmd, in, in_size, out_size))
		fuse_reply_err(req, EINVAL);
	else
		calls[i].fn(&c);
}
