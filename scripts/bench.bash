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
seconds_between() { awk -v a="$1" -v b="$2" -v hz="$(getconf CLK_TCK)" 'BEGIN { printf "%.1f\n", (b - a) / hz }'; }

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
