# SPDX-License-Identifier: BSD-3-Clause
# main.json as text for a terminal.

def left($n): tostring | . + " " * ([$n - length, 0] | max);
def right($n): tostring | " " * ([$n - length, 0] | max) + .;

def row($ratio; $pairs; $goal; $key; $ours; $theirs; $unit; $verdict):
	"\($ratio | right(7))  \($pairs | left(16)) \($goal | left(8)) " +
	"\($key | left(38)) \($ours | right(11)) \($theirs | right(11)) " +
	"\($unit | left(5)) \($verdict)" | sub(" +$"; "");

def spread: "\(.spread.ratio[0]) - \(.spread.ratio[1])";

def verdict:
	if .met == false then "MISSED" elif .met then "met" else "" end;

def commands: to_entries[] |
	"", .key, "    pindax  \(.value.command_pindax)",
	"    \(.value.peer_name | left(7)) \(.value.command_peer)";

row("RATIO"; "PAIRS"; "GOAL"; "KEY"; "PINDAX"; "PEER"; "UNIT"; ""),
(to_entries[] | .key as $key | .value |
	row(.ratio; spread; .goal // ""; $key; .pindax; .peer; .unit; verdict)),
"", "Commands (programs of the build without their folder):",
commands
