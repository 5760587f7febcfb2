# shellcheck shell=bash
# SPDX-License-Identifier: BSD-3-Clause
# What the numbered scripts share; sourced first. The harness (check) has set T,
# a private tmpfs; DISK, a folder on whatever /var/tmp is; PATH to the programs.
# Any command that fails ends the script. At the end of one that passed, the
# filesystem is unmounted and must be clean to fsck.
#
# Nothing here sleeps in place of an event: every wait polls a state that can be
# seen (pindax pins, /proc) until it comes true or a deadline fails the script.
# Only "nothing happens" cannot be seen; what must not wait has to end before
# the pin does, and what must wait has to show up among the waiters.
set -eEu
exec {trace_fd}>"$TRACE"
BASH_XTRACEFD=$trace_fd
PS4='+ ${BASH_SOURCE##*/}:${LINENO} '
set -x

POOL=$T/pool
MNT=$T/mnt
DAEMON=
PAGE=4096
declare -A HOLD=() OP=()
# The tool's input (below). What runs in the background must not keep it open.
exec {tool_fd}>/dev/null

fail()
{
	{ set +x; } 2>/dev/null
	local i
	echo "FAILED: $*"
	for ((i = 1; i < ${#FUNCNAME[@]}; i++)); do
		echo "    in ${FUNCNAME[i]}, ${BASH_SOURCE[i]##*/} line" \
			"${BASH_LINENO[i - 1]}"
	done
	exit 1
}

# What the namespace's processes are at, when time is up.
out_of_time()
{
	local p
	{ set +x; } 2>/dev/null
	for p in /proc/[0-9]*; do
		echo "${p##*/} $(tr '\0' ' ' <"$p/cmdline" | cut -c1-70):" \
			"$(sed 's/.*) //' "$p/stat" | cut -c1)" \
			"$(cat "$p/wchan")"
	done 2>/dev/null
	timeout -k 1 3 pindax pins "$MNT" || :
	fail "out of time"
}
trap out_of_time TERM
trap 'fail "command failed ($?): $BASH_COMMAND"' ERR

skip()
{
	echo "$*"
	trap - EXIT
	exit 77
}

need_root() # the real one: other users exist, and every mount is allowed
{
	[ "$(id -u)" -eq 0 ] && grep -q 4294967295 /proc/self/uid_map ||
		skip "needs root"
}

# await SECONDS COMMAND... - until the command succeeds.
await()
{
	local end=$((SECONDS + $1 * SLOW + 1))
	shift
	until "$@"; do
		[ $SECONDS -le $end ] || fail "waited in vain for: $*"
		sleep 0.01
	done
}

same() # WHAT EXPECTED FOUND
{
	[ "$2" = "$3" ] || fail "$1: expected '$2', found '$3'"
}

# refused PATTERN COMMAND... - it fails, and says something that matches.
refused()
{
	local pattern=$1 out status=0
	shift
	out=$("$@" 2>&1) || status=$?
	[ $status -ne 0 ] || fail "succeeded: $*"
	[ $status -lt 124 ] || fail "died with status $status: $*: $out"
	grep -qiE "$pattern" <<<"$out" || fail "$*: does not say '$pattern': $out"
}

# --- pools and mounts ---

make_pool() # [SIZE [MKFS OPTIONS...]]
{
	mkfs.pindax -s "${1:-32M}" "${@:2}" "$POOL" >"$T/mkfs.log" 2>&1 ||
		fail "mkfs: $(cat "$T/mkfs.log")"
}

daemon_pid() # print the pid of the daemon that serves POOL
{
	local p
	for p in /proc/[0-9]*; do
		[ "$(readlink "$p/exe" 2>/dev/null)" = \
			"$(readlink -f "$T/bin/mount.pindax")" ] || continue
		echo "${p##*/}"
	done
}

mount_pool() # [OPTIONS]
{
	mount.pindax "$POOL" "$MNT" -o "allow_other${1:+,$1}" \
		>>"$T/mount.log" 2>&1 || fail "mount: $(cat "$T/mount.log")"
	DAEMON=$(daemon_pid)
	[ -n "$DAEMON" ] || fail "no daemon after mount"
}

start() # [MOUNT OPTIONS [SIZE]]
{
	make_pool "${2:-32M}"
	mount_pool "${1:-}"
}

gone()
{
	! kill -0 "$1" 2>/dev/null
}

daemon_gone() # umount(2) returns before the daemon has let go of the pool
{
	await 20 gone "$DAEMON"
	DAEMON=
}

clean()
{
	fsck.pindax -n "$POOL" >"$T/fsck.log" 2>&1 ||
		fail "fsck ($?): $(cat "$T/fsck.log")"
}

umount_pool()
{
	umount "$MNT"
	daemon_gone
	clean
}

at_end()
{
	local status=$? name
	trap - EXIT
	[ $status -eq 0 ] || exit $status
	for name in "${!HOLD[@]}"; do
		release "$name"
	done
	[ ${#OP[@]} -eq 0 ] || fail "still running: ${!OP[*]}"
	[ -z "$DAEMON" ] || umount_pool
}
trap at_end EXIT

free_blocks()
{
	stat -f -c %f "$MNT"
}

free_is()
{
	[ "$(free_blocks)" -eq "$1" ]
}

# --- files ---

fill() # FILE OFFSET LEN BYTE
{
	fileop write "$@" >"$T/fill.out" || fail "fill $*: $(cat "$T/fill.out")"
}

holds() # FILE OFFSET LEN BYTE
{
	local out
	out=$(fileop check "$@") || fail "$1 from $2, $3 bytes: $out"
}

fresh() # FILE [PAGES [BYTE]] - a new file, every page of it backed
{
	rm -f "$1"
	fill "$1" 0 $((${2:-64} * PAGE)) "${3:-97}"
}

size()
{
	stat -c %s "$1"
}

blocks() # in pages
{
	echo $(($(stat -c %b "$1") / 8))
}

# --- holders ---

held()
{
	grep -qx held "$T/hold.$1" && return
	gone "${HOLD[$1]}" && fail "hold $1 ended: $(cat "$T/hold.$1")"
	return 1
}

hold() # NAME FILE OFFSET LEN [--lease|--pin|--uring]
{
	: >"$T/hold.$1"
	pindax hold "${@:2}" >"$T/hold.$1" 2>&1 </dev/null {tool_fd}>&- &
	HOLD[$1]=$!
	await 10 held "$1"
}

release() # NAME
{
	local pid=${HOLD[$1]} status=0
	kill -TERM "$pid"
	await 10 gone "$pid"
	wait "$pid" || status=$?
	unset "HOLD[$1]"
	same "status of the released hold $1" 0 $status
}

kill_holder() # NAME
{
	local pid=${HOLD[$1]}
	kill -KILL "$pid"
	wait "$pid" 2>/dev/null || :
	unset "HOLD[$1]"
}

# --- operations that may wait ---

begin() # NAME COMMAND...
{
	"${@:2}" >"$T/op.$1" 2>&1 </dev/null {tool_fd}>&- &
	OP[$1]=$!
}

pins_json()
{
	pindax pins --json "${1:-$MNT}"
}

count() # JQ EXPRESSION over pindax pins
{
	pins_json | jq "$1"
}

waiters_are()
{
	[ "$(count '.waiters|length')" -eq "$1" ]
}

is_waiter() # PID
{
	[ "$(count "[.waiters[]|select(.pid==$1)]|length")" -gt 0 ]
}

# It is among the waiters, or comes to be; ending instead is a failure.
parked() # NAME
{
	local end=$((SECONDS + 10 * SLOW))
	until is_waiter "${OP[$1]}"; do
		gone "${OP[$1]}" &&
			fail "$1 did not wait: $(cat "$T/op.$1")"
		[ $SECONDS -le $end ] || fail "$1 never parked: $(pins_json)"
		sleep 0.01
	done
}

still_parked() # NAME
{
	gone "${OP[$1]}" && fail "$1 ended too early: $(cat "$T/op.$1")"
	is_waiter "${OP[$1]}" || fail "$1 is no longer a waiter"
}

ended() # NAME [OUTPUT [STATUS]] - it ends; by default it succeeded
{
	local pid=${OP[$1]} status=0 end=$((SECONDS + 15 * SLOW))
	until gone "$pid"; do
		[ $SECONDS -le $end ] || fail "$1 does not end: $(pins_json)"
		sleep 0.01
	done
	wait "$pid" || status=$?
	unset "OP[$1]"
	same "status of $1 ($(cat "$T/op.$1"))" "${3:-0}" $status
	[ -z "${2-}" ] || same "result of $1" "$2" "$(cat "$T/op.$1")"
}

sleeps_in() # PID STATE - as in ps: D for a queue behind a lock in the kernel
{
	[ "$(sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -c1)" = "$2" ]
}

# One row of a table: while HOLDER holds a range of FILE, does OPERATION wait?
# case_of WAITS KIND FILE OFFSET LEN OPERATION... ; F and G are made anew before.
case_of()
{
	local waits=$1 kind=$2 before
	fresh "$F"
	fresh "$G"
	before=$(size "$F")/$(blocks "$F")
	hold holder "$3" "$4" "$5" "$kind"
	begin op "${@:6}"
	if [ "$waits" = waits ]; then
		parked op
		same "size and blocks meanwhile" "$before" \
			"$(size "$F")/$(blocks "$F")"
		release holder
		ended op
	else
		ended op
		release holder
	fi
}
F=$MNT/f
G=$MNT/g

# --- a program driven by hand: device, maptool ---
# One at a time; it answers each line of its input with one line.

start_tool() # FIRST-LINE COMMAND...
{
	rm -f "$T/tool.in"
	mkfifo "$T/tool.in"
	: >"$T/tool.out"
	"${@:2}" <"$T/tool.in" >"$T/tool.out" 2>&1 &
	HOLD[tool]=$!
	exec {tool_fd}>"$T/tool.in"
	ANSWERS=0
	answer "$1"
}

start_device() # FILE OFFSET LEN
{
	start_tool ready device "$@"
}

answered()
{
	[ "$(wc -l <"$T/tool.out")" -gt "$ANSWERS" ] || gone "${HOLD[tool]}"
}

answer() # EXPECTED - the answer to the last command that was sent
{
	await 10 answered
	ANSWERS=$((ANSWERS + 1))
	same "the tool's answer" "$1" "$(sed -n "${ANSWERS}p" "$T/tool.out")"
}

send() # COMMAND
{
	echo "$1" >&"$tool_fd"
}

tell() # COMMAND [ANSWER]
{
	send "$1"
	answer "${2:-ok}"
}

stop_tool() # its input ends, and then so does it, without complaint
{
	local pid=${HOLD[tool]} status=0
	exec {tool_fd}>&-
	await 10 gone "$pid"
	wait "$pid" || status=$?
	unset 'HOLD[tool]'
	same "status of the tool ($(tail -n 1 "$T/tool.out"))" 0 $status
}
