# SPDX-License-Identifier: BSD-3-Clause
# make help says what there is. CFLAGS, CC, WERROR=0, V=1, SAN=address|thread
# and DEV_PAGEMAP_OPS=n are yours to set.

VERSION := 0.1.0
PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
PKGCONFIGDIR ?= $(LIBDIR)/pkgconfig
MANDIR ?= $(PREFIX)/share/man
# Where mount(8) looks for mount.TYPE. With PREFIX=/usr on a merged-/usr system
# that is SBINDIR; anywhere else install puts links to the helper there.
MOUNTDIR ?= /sbin
DEMO_SECONDS ?= 20

ifeq ($(origin CC),default)
CC := gcc
endif
CFLAGS ?= -O2 -g
WERROR ?= 1
DEV_PAGEMAP_OPS ?= y
SAN ?=
V ?= 0

# One output folder a variant, so that variants never mix objects.
variant := $(if $(filter n,$(DEV_PAGEMAP_OPS)),-noops)$(if $(SAN),-$(SAN))
B ?= build$(variant)

Q := $(if $(filter 1,$(V)),,@)
say = $(if $(filter 1,$(V)),,@printf '  %-7s %s\n' $(1) $@)

PKGS := libpmem2 liburing
warn := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes \
	-Wundef -Wvla -Wcast-align -Wformat=2 -Wimplicit-fallthrough \
	$(if $(filter 1,$(WERROR)),-Werror)
san_address := -fsanitize=address,undefined -fno-sanitize-recover=all
san_thread := -fsanitize=thread
sanflags := $(if $(SAN),$(san_$(SAN)) -fno-omit-frame-pointer)
base_cflags = -std=gnu17 -D_GNU_SOURCE -I. -MMD -MP -fPIC -pthread $(warn) \
	-DPINDAX_VERSION='"$(VERSION)"' \
	$(if $(filter n,$(DEV_PAGEMAP_OPS)),-DPINDAX_NO_PAGEMAP_OPS) $(sanflags)
base_ldflags = -pthread $(sanflags)
# Asked once. Targets that install what is missing first start a new make.
pkg_cflags := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
pkg_libs := $(shell pkg-config --libs $(PKGS) 2>/dev/null)
fuse_cflags := $(shell pkg-config --cflags fuse3 2>/dev/null)
fuse_libs := $(shell pkg-config --libs fuse3 2>/dev/null)

pagemap_src := $(sort $(wildcard pagemap/*.c))
fs_src := $(sort $(wildcard fs/*.c fs/media/*.c fs/layout/*.c))
fuse_src := $(sort $(wildcard fs/fuse/*.c))
client_src := $(sort $(wildcard client/*.c))
pindax_src := $(sort $(wildcard cmd/pindax/*.c))
unit_src := $(sort $(wildcard tests/unit/test_*.c))
tool_src := $(sort $(wildcard tests/tools/*.c))
bench_src := $(sort $(wildcard tests/bench/*.c))

src_dirs := pagemap fs client cmd tests

obj = $(patsubst %.c,$(B)/%.o,$(1))
core_obj := $(call obj,$(pagemap_src) $(fs_src))
progs := $(addprefix $(B)/,mkfs.pindax mount.pindax fsck.pindax pindax)
libs := $(B)/libpindax.a $(B)/libpindax.so.0
units := $(patsubst tests/unit/%.c,$(B)/unit/%,$(unit_src))
tools := $(patsubst tests/tools/%.c,$(B)/tools/%,$(tool_src))
benches := $(patsubst tests/bench/%.c,$(B)/bench/%,$(bench_src))

again = $(MAKE) --no-print-directory \
	$(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: all units tools benches deps demo bench lint format install uninstall
.PHONY: check check-full check-asan check-tsan tidy-flags clean help
.SECONDARY: # keep the objects of test programs
all: $(libs) $(progs)
units: $(units)
tools: $(tools)
benches: $(benches)

deps:
	@tests/deps

demo:
	@tests/deps
	@+$(again) all
	$(B)/pindax demo --seconds $(DEMO_SECONDS) --svg $(B)/demo.svg

# tests/check builds every variant it needs by itself.
check:
	@tests/deps
	@+tests/check
check-full check-asan check-tsan: check-%:
	@tests/deps
	@+tests/check --$*
bench:
	@tests/deps
	@+$(again) all benches
	tests/bench/run $(B)
lint:
	@tests/deps
	@+tests/check lint
format:
	clang-format -i $(shell find $(src_dirs) -name '*.[ch]')

$(B)/pagemap/%.o $(B)/fs/%.o: base_cflags += -Wconversion -Wno-sign-conversion
$(B)/fs/fuse/%.o: base_cflags += $(fuse_cflags)
$(B)/%.o: %.c
	$(call say,CC)
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_cflags) $(pkg_cflags) $(CFLAGS) -c -o $@ $<

$(B)/libcore.a: $(core_obj)
	$(call say,AR)
	$(Q)rm -f $@; $(AR) rcs $@ $^
$(B)/libpindax.a: $(call obj,$(client_src))
	$(call say,AR)
	$(Q)rm -f $@; $(AR) rcs $@ $^
$(B)/libpindax.so.0: $(call obj,$(client_src)) client/libpindax.map
	$(call say,LD)
	$(Q)$(CC) -shared $(base_ldflags) $(CFLAGS) $(LDFLAGS) \
		-Wl,-soname,libpindax.so.0 \
		-Wl,--version-script=client/libpindax.map \
		-o $@ $(filter %.o,$^) $(pkg_libs)
	$(Q)ln -sf libpindax.so.0 $(B)/libpindax.so

$(B)/mkfs.pindax: $(B)/cmd/mkfs.o $(B)/cmd/complain.o $(B)/libcore.a
$(B)/fsck.pindax: $(B)/cmd/fsck.o $(B)/cmd/complain.o $(B)/libcore.a
$(B)/mount.pindax: $(B)/cmd/mount.o $(B)/cmd/complain.o $(call obj,$(fuse_src)) $(B)/libcore.a
$(B)/mount.pindax: extra_libs = $(fuse_libs)
$(B)/cmd/mount.o: base_cflags += $(fuse_cflags)
$(B)/pindax: $(call obj,$(pindax_src)) $(B)/libpindax.a
$(B)/pindax: extra_libs = -ljson-c -lm
$(progs):
	$(call say,LD)
	$(Q)$(CC) $(base_ldflags) $(CFLAGS) $(LDFLAGS) -o $@ $(filter %.o,$^) \
		$(filter %.a,$^) $(pkg_libs) $(extra_libs)

# Unit tests see the whole core and the client library, never FUSE.
$(B)/unit/%: $(B)/tests/unit/%.o $(B)/libcore.a $(B)/libpindax.a
	$(call say,LD)
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_ldflags) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(pkg_libs) \
		-lcmocka
# Small programs that the scripts use, and those that measure.
$(tools) $(benches): $(B)/%: $(B)/tests/%.o $(B)/libpindax.a
	$(call say,LD)
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_ldflags) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(pkg_libs)

# What clang-tidy must know, one flag a line.
tidy-flags:
	@printf '%s\n' $(filter-out -MMD -MP,$(base_cflags)) $(pkg_cflags) \
		$(fuse_cflags)

D = $(DESTDIR)
mount_links := $(MOUNTDIR)/mount.pindax $(MOUNTDIR)/mount.fuse.pindax
man1 := $(wildcard docs/*.1)
man3 := $(wildcard docs/*.3)
man8 := $(wildcard docs/*.8)
.PHONY: install-mount-links
install: all install-mount-links
	install -d $D$(SBINDIR) $D$(BINDIR) $D$(LIBDIR) $D$(INCLUDEDIR) \
		$D$(PKGCONFIGDIR) $(addprefix $D$(MANDIR)/man,1 3 8)
	install -m 755 $(filter %.pindax,$(progs)) $D$(SBINDIR)
	ln -sf mount.pindax $D$(SBINDIR)/mount.fuse.pindax
	install -m 755 $(B)/pindax $D$(BINDIR)
	install -m 644 $(B)/libpindax.a $D$(LIBDIR)
	install -m 644 $(B)/libpindax.so.0 $D$(LIBDIR)/libpindax.so.$(VERSION)
	ln -sf libpindax.so.$(VERSION) $D$(LIBDIR)/libpindax.so.0
	ln -sf libpindax.so.0 $D$(LIBDIR)/libpindax.so
	install -m 644 client/pindax.h $D$(INCLUDEDIR)
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' \
		-e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' -e 's|@VERSION@|$(VERSION)|' \
		client/pindax.pc.in >$D$(PKGCONFIGDIR)/pindax.pc
	$(if $(man1),install -m 644 $(man1) $D$(MANDIR)/man1)
	$(if $(man3),install -m 644 $(man3) $D$(MANDIR)/man3)
	$(if $(man8),install -m 644 $(man8) $D$(MANDIR)/man8)
	$(if $D,,-ldconfig)
install-mount-links:
ifeq ($(filter /sbin /usr/sbin $(MOUNTDIR),$(SBINDIR)),)
	install -d $D$(MOUNTDIR)
	for l in $(mount_links); do ln -sf $(SBINDIR)/mount.pindax $D$$l; done
endif
uninstall:
	rm -f $(addprefix $D$(SBINDIR)/,mkfs.pindax fsck.pindax mount.pindax \
		mount.fuse.pindax) $D$(BINDIR)/pindax \
		$(addprefix $D$(LIBDIR)/,libpindax.a libpindax.so \
		libpindax.so.0 libpindax.so.$(VERSION)) \
		$D$(INCLUDEDIR)/pindax.h $D$(PKGCONFIGDIR)/pindax.pc \
		$(addprefix $D$(MANDIR)/man1/,$(notdir $(man1))) \
		$(addprefix $D$(MANDIR)/man3/,$(notdir $(man3))) \
		$(addprefix $D$(MANDIR)/man8/,$(notdir $(man8))) \
		$(addprefix $D,$(mount_links))

clean:
	rm -rf build build-*

help:
	@echo 'make demo       the race and its cure, in a minute (installs deps)'
	@echo 'make check      every test (installs deps); check-full: the long way'
	@echo 'make check-asan, check-tsan   unit tests and scripts under it'
	@echo 'make            programs and libraries, in build/'
	@echo 'make units, tools             test programs, in build/'
	@echo 'make bench      figures, side by side with their peers'
	@echo 'make lint       formatter, clang-tidy, cppcheck, include rules'
	@echo 'make format     let clang-format lay out the sources'
	@echo 'make deps       install the packages that are missing'
	@echo 'make install    to PREFIX (/usr/local) below DESTDIR; uninstall'
	@echo 'variables: CC CFLAGS WERROR=0 V=1 SAN=address|thread'
	@echo '           DEV_PAGEMAP_OPS=n B=folder DEMO_SECONDS'

-include $(shell find $(B) -name '*.d' 2>/dev/null)
