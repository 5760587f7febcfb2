# SPDX-License-Identifier: BSD-3-Clause
# $values and $commands: lines of KEY, WHO, VALUE or COMMAND, tabs between.
# Result: {KEY: {ratio, goal, ...}}. The ratio is that of the medians. A peer of
# several variants stands with its best one. Turn i of one side was measured
# right beside turn i of the other: spread.ratio is over these pairs.

def goals: {
	direct_vs_plain: ["higher", "MB/s", ">=", 0.98],
	read4k_vs_passthrough: ["higher", "op/s", ">", 1],
	write4k_vs_passthrough: ["higher", "op/s", ">", 1],
	seqread_vs_passthrough: ["higher", "MB/s", ">", 1],
	seqwrite_vs_passthrough: ["higher", "MB/s", ">", 1],
	wake_vs_eventfd_p50: ["lower", "us", "<=", 3],
	wake_vs_eventfd_p99: ["lower", "us", "<=", 3],
	truncate_mapped_vs_unmapped: ["lower", "us", "<=", 3],
	truncate_mapped_reusable_vs_unmapped: ["lower", "us"]
};

def rows: split("\n") | map(select(. != "") | split("\t"));

def median:
	sort | length as $n |
	if $n % 2 == 1 then .[($n - 1) / 2]
	else (.[$n / 2 - 1] + .[$n / 2]) / 2 end;

def digits($n): . * pow(10; $n) | round / pow(10; $n);

def met($op; $goal):
	if $op == ">=" then . >= $goal
	elif $op == ">" then . > $goal
	else . <= $goal end;

def values_by_who: group_by(.[1]) |
	map({key: .[0][1], value: map(.[2] | tonumber)}) | from_entries;

def best($better):
	to_entries | map(select(.key != "pindax")) |
	if $better == "higher" then max_by(.value | median)
	else min_by(.value | median) end | .key;

($commands | rows) as $command |
($values | rows) | group_by(.[0]) | map(
	.[0][0] as $key |
	# A key with a suffix is the same figure in another placement.
	(goals | to_entries | map(select(.key as $k | $key | startswith($k))) |
		max_by(.key | length) | .value) as [$better, $unit, $op, $goal] |
	values_by_who as $v |
	($v | best($better)) as $peer |
	($v.pindax | median) as $ours |
	($v[$peer] | median) as $theirs |
	([$v.pindax, $v[$peer]] | transpose |
		map(select(all(. != null)) | .[0] / .[1])) as $pairs |
	{key: $key, value: {
		ratio: ($ours / $theirs | digits(3)),
		goal: (if $op then "\($op) \($goal)" else null end),
		met: (if $op then $ours / $theirs | met($op; $goal)
			else null end),
		pindax: ($ours | digits(3)),
		peer: ($theirs | digits(3)),
		peer_name: $peer,
		unit: $unit,
		better: $better,
		command_pindax: ($command | map(select(.[0] == $key and
			.[1] == "pindax")) | .[0][2]),
		command_peer: ($command | map(select(.[0] == $key and
			.[1] == $peer)) | .[0][2]),
		runs: ($v.pindax | length),
		spread: {
			ratio: ($pairs | [min, max] | map(digits(3))),
			pindax: ($v.pindax | [min, max]),
			peer: ($v[$peer] | [min, max])
		},
		values: $v
	}}
) | from_entries
