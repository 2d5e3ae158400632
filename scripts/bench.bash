# shellcheck shell=bash
# bench.bash - functions of the benchmarks, which set $work to a directory and name their servers
# bench-source and bench-target
# shellcheck source=SCRIPTDIR/lib.bash
. "$(dirname "${BASH_SOURCE[0]}")/lib.bash"

q() { psql -XAtq -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

# db URI NAME prints the URI of another database on the same server.
db() { printf '%s/%s\n' "${1%/*}" "$2"; }

# share N prints $percent percent of N.
share() { echo $(($1 * ${percent:?} / 100)); }

# machine prints the date, and what the figures were measured on.
machine() {
	local model memory
	model=$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | sort | uniq -c | sed 's/^ *\([0-9]*\) /\1 × /') # none on some processors
	memory=$(awk '/^MemTotal/ { printf "%.0f GB", $2 / 1048576 }' /proc/meminfo)
	printf '# %(%F)T, %s, %s of memory, PostgreSQL %s\n' -1 "${model:-$(nproc) processors}" "$memory" "$(q "${src:?}" 'SHOW server_version')"
}

# summary FILE prints what a contestant needed, from a file with a line for each of its runs:
# seconds, and figures such as CPU seconds, separated by tabs. The first three fields are median,
# least and greatest seconds, the others medians.
summary() {
	local column last
	last=$(head -n 1 "$1" | wc -w)
	printf '%s %s %s' "$(cut -f 1 "$1" | median)" "$(cut -f 1 "$1" | sort -n | head -n 1)" "$(cut -f 1 "$1" | sort -n | tail -n 1)"
	for ((column = 2; column <= last; column++)); do printf ' %s' "$(cut -f "$column" "$1" | median)"; done
	printf '\n'
}

# tabs FIELD ... prints fields separated by tabs, without a newline.
tabs() {
	local IFS=$'\t'
	printf '%s' "$*"
}

median() { sort -n | awk '{ a[NR] = $1 } END { print a[int((NR + 1) / 2)] }'; }

# ticks PID ... prints the CPU ticks that processes and their exited children have used.
ticks() {
	local pid line sum=0
	for pid; do
		{ line=$(<"/proc/$pid/stat"); } 2>/dev/null || continue
		read -ra line <<<"${line##*) }"
		sum=$((sum + line[11] + line[12] + line[13] + line[14]))
	done
	echo "$sum"
}

# server_ticks NAME prints the CPU ticks that a server has used.
server_ticks() {
	local pid children
	read -r pid <"$PGSLUICE_TMP/$1/data/postmaster.pid"
	read -ra children <"/proc/$pid/task/$pid/children" || true
	ticks "$pid" "${children[@]}"
}

# seconds_between TICKS TICKS prints the difference in seconds.
seconds_between() { awk -v a="$1" -v b="$2" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.2f\n", (b - a) / hz }'; }

# descendants PID ... prints the IDs of processes and all their descendants.
descendants() {
	local pid children
	for pid; do
		children=()
		printf '%s\n' "$pid"
		{ read -ra children <"/proc/$pid/task/$pid/children"; } 2>/dev/null || true
		((${#children[@]} == 0)) || descendants "${children[@]}"
	done
}
