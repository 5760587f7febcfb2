# SPDX-License-Identifier: BSD-3-Clause
# main.json as the table of docs/PERFORMANCE.md.

def spread: "\(.spread.ratio[0]) - \(.spread.ratio[1])";

"| figure | ratio | in pairs | goal | pindax | peer | unit |",
"|---|---|---|---|---|---|---|",
(to_entries[] |
	"| \(.key) | \(.value.ratio) | \(.value | spread) | " +
	"\(.value.goal // "-")\(if .value.met == false then ", missed"
		else "" end) | " +
	"\(.value.pindax) | \(.value.peer) | \(.value.unit) |")
