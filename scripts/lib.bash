# lib.bash - what the scripts share; sourced, never run
# shellcheck shell=bash

# shown sets shown to a text in which "?" stands for every control character (C0, C1, DEL, and what
# separates lines or turns the order of text around): it may hold what somebody else has written.
shown() {
	local LC_ALL=C
	shown=${1//[$'\001'-$'\037'$'\177']/?}
	shown=${shown//$'\302'[$'\200'-$'\237']/?}
	shown=${shown//$'\342\200'[$'\216\217\250'-$'\256']/?}
	shown=${shown//$'\342\201'[$'\246'-$'\251']/?}
	shown=${shown//$'\330\234'/?}
}

# clear_line sets clear and rest to what has to stand before and behind a line on a terminal, so
# that nothing is left beside it of the bars, or of the status, that another program may be showing
# below the cursor. In the background of a shell, what stands before it may be what somebody is
# typing.
clear_line() {
	local stat
	clear='' rest=''
	[[ -t 2 ]] || return 0
	rest=$'\e[K'
	# Behind the name: state, parent, group, session, terminal, and the group in its foreground.
	{ stat=$(</proc/$$/stat) && read -r -a stat <<<"${stat##*) }" && [[ ${stat[2]} == "${stat[5]}" ]]; } 2>/dev/null || return 0
	clear=$'\r\e[J'
}

# message TEXT prints a message of the script.
message() {
	local shown clear rest
	shown "$1"
	clear_line
	printf '%s%s: %s%s\n' "$clear" "${0##*/}" "$shown" "$rest" >&2
}

# die MESSAGE [HINT [STATUS]] says what failed and what to do about it.
die() {
	message "$1"
	if [[ ${2:-} ]]; then message "hint: $2"; fi
	exit "${3:-1}"
}

# usage_error MESSAGE prints the head of the script, which is its manual, after the message.
usage_error() {
	message "$1"
	usage >&2
	exit 64
}

usage() {
	awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
}

# Whatever the script does, this comes first.
if [[ ${1:-} == @(--help|-h) ]]; then
	usage
	exit 0
fi

# quietly runs a command, and shows what it printed only when it fails.
quietly() {
	local log status=0
	log=$(mktemp)
	"$@" >"$log" 2>&1 </dev/null || status=$?
	if ((status)); then tail -n 20 "$log" >&2; fi
	rm -f "$log"
	return "$status"
}

# end_children PID ... tells children to end, and waits until they have. Once is not enough: what
# has just been started is a copy of this shell for a moment, which forgets a signal that this shell
# has a trap for.
end_children() {
	local pid left=yes
	while [[ $left ]]; do
		left=''
		for pid; do
			if kill "$pid" 2>/dev/null; then left=yes; fi
		done
		[[ ! $left ]] || sleep 0.1
	done
	for pid; do wait "$pid" 2>/dev/null || true; done
}

# set_cache sets cache, the folder for what was downloaded. It is not under root's home,
# because root's servers run as another user, who could not read them there.
set_cache() {
	cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/pgsluice
	if ((EUID == 0)); then cache=/var/cache/pgsluice; fi
	cache=${PGSLUICE_CACHE:-$cache}
}

# lock_cache lets one script at a time change the cache, until it ends.
lock_cache() {
	if ! mkdir -p "$cache" || ! exec 9>"$cache/lock"; then
		die "cannot write to directory \"$cache\"" 'Set PGSLUICE_CACHE to one that you may write to.'
	fi
	flock 9
}

# find_programs makes sure that our own programs can be run: from PATH, or as built into bin/ of
# this repository.
find_programs() {
	local program bin
	bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/bin
	for program; do
		type -P "$program" >/dev/null && continue
		[[ -x $bin/$program ]] || die "there is no $program on PATH" 'Build it: go build -o bin/ ./cmd/...' 69
		PATH=$bin:$PATH
	done
}
