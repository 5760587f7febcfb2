# SPDX-License-Identifier: BSD-3-Clause
# make help says what there is. CFLAGS, CC, WERROR=0, V=1, SAN=address|thread
# and DEV_PAGEMAP_OPS=n are yours to set.

VERSION := 0.1.0
PREFIX ?= /usr/local
SBINDIR ?= $(PREFIX)/sbin
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include

CC ?= gcc
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
pkg_cflags = $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
pkg_libs = $(shell pkg-config --libs $(PKGS) 2>/dev/null)
fuse_cflags = $(shell pkg-config --cflags fuse3 2>/dev/null)
fuse_libs = $(shell pkg-config --libs fuse3 2>/dev/null)

pagemap_src := $(sort $(wildcard pagemap/*.c))
fs_src := $(sort $(wildcard fs/*.c fs/media/*.c fs/layout/*.c))
fuse_src := $(sort $(wildcard fs/fuse/*.c))
client_src := $(sort $(wildcard client/*.c))
pindax_src := $(sort $(wildcard cmd/pindax/*.c))
unit_src := $(sort $(wildcard tests/unit/test_*.c))
tool_src := $(sort $(wildcard tests/tools/*.c))
bench_src := $(sort $(wildcard tests/bench/*.c))

obj = $(patsubst %.c,$(B)/%.o,$(1))
core_obj := $(call obj,$(pagemap_src) $(fs_src))
progs := $(addprefix $(B)/,mkfs.pindax mount.pindax fsck.pindax pindax)
libs := $(B)/libpindax.a $(B)/libpindax.so.0
units := $(patsubst tests/unit/%.c,$(B)/unit/%,$(unit_src))
tools := $(patsubst tests/tools/%.c,$(B)/tools/%,$(tool_src))

.PHONY: all progs units tools clean help
all: $(libs) $(progs)
units: $(units)
tools: $(tools)

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

$(B)/mkfs.pindax: $(B)/cmd/mkfs.o $(B)/libcore.a
$(B)/fsck.pindax: $(B)/cmd/fsck.o $(B)/libcore.a
$(B)/mount.pindax: $(B)/cmd/mount.o $(call obj,$(fuse_src)) $(B)/libcore.a
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
# Small programs that the scripts use.
$(B)/tools/%: $(B)/tests/tools/%.o $(B)/libpindax.a
	$(call say,LD)
	@mkdir -p $(@D)
	$(Q)$(CC) $(base_ldflags) $(CFLAGS) $(LDFLAGS) -o $@ $^ $(pkg_libs)

clean:
	rm -rf build build-*

-include $(shell find $(B) -name '*.d' 2>/dev/null)
