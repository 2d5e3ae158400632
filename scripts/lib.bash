# lib.bash - functions that the scripts share; they source it
# shellcheck shell=bash

# shown TEXT sets shown to TEXT with "?" in place of each control character: C0, C1, DEL, line
# separators, and bidirectional controls. Other roles may have chosen parts of the text.
shown() {
	local LC_ALL=C
	shown=${1//[$'\001'-$'\037'$'\177']/?}
	shown=${shown//$'\302'[$'\200'-$'\237']/?}
	shown=${shown//$'\342\200'[$'\216\217\250'-$'\256']/?}
	shown=${shown//$'\342\201'[$'\246'-$'\251']/?}
	shown=${shown//$'\330\234'/?}
}

# clear_line sets clear and rest to what a message needs before and after it on a terminal, so that
# it overwrites the progress bars or the status that another program shows below the cursor. A
# background job clears nothing before its message: the user may be typing there.
clear_line() {
	local stat
	clear='' rest=''
	[[ -t 2 ]] || return 0
	rest=$'\e[K'
	# After the name: state, parent, group, session, terminal, and the terminal's foreground group.
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

# die MESSAGE [HINT [STATUS]] prints what failed and what to do about it, and exits.
die() {
	message "$1"
	if [[ ${2:-} ]]; then message "hint: $2"; fi
	exit "${3:-1}"
}

# usage_error MESSAGE prints the message and the script's manual, which is its head, and exits.
usage_error() {
	message "$1"
	usage >&2
	exit 64
}

usage() {
	awk 'NR > 1 && !/^#/ { exit } NR > 1 { sub(/^# ?/, ""); print }' "$0"
}

# Here, so that no script runs anything before it answers --help.
if [[ ${1:-} == @(--help|-h) ]]; then
	usage
	exit 0
fi

# quietly runs a command and shows its output only if it fails.
quietly() {
	local log status=0
	log=$(mktemp)
	"$@" >"$log" 2>&1 </dev/null || status=$?
	if ((status)); then tail -n 20 "$log" >&2; fi
	rm -f "$log"
	return "$status"
}

# end_children PID ... sends SIGTERM to children until they have exited. One signal is not enough: a
# new child is a copy of this shell for a moment, and that copy loses a signal that this shell traps.
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

# set_cache sets cache, the directory for downloads. It is not below root's home directory: root's
# servers run as another user, who cannot read files there.
set_cache() {
	cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/pgsluice
	if ((EUID == 0)); then cache=/var/cache/pgsluice; fi
	cache=${PGSLUICE_CACHE:-$cache}
}

# lock_cache waits for the lock of the cache and holds it until the script exits.
lock_cache() {
	if ! mkdir -p "$cache" || ! exec 9>"$cache/lock"; then
		die "could not write to directory \"$cache\"" 'Set PGSLUICE_CACHE to a directory that you may write to.'
	fi
	flock 9
}

# turn_back exchanges source and target, and sets slot to that of the way back, which pgcutover
# reverse has created on the target.
turn_back() {
	local source=${PGSLUICE_SOURCE:-}
	[[ $source && ${PGSLUICE_TARGET:-} ]] || die 'the way back needs PGSLUICE_SOURCE and PGSLUICE_TARGET' 'Set both as for the migration.' 64
	export PGSLUICE_SOURCE=$PGSLUICE_TARGET PGSLUICE_TARGET=$source
	source=${PGSLUICE_SOURCE_PASSWORD_COMMAND:-}
	export PGSLUICE_SOURCE_PASSWORD_COMMAND=${PGSLUICE_TARGET_PASSWORD_COMMAND:-} PGSLUICE_TARGET_PASSWORD_COMMAND=$source
	slot=${slot}_back
}

# find_programs PROGRAM ... makes sure that our own programs are on PATH. It adds bin/ of this
# repository to PATH if they are built there.
find_programs() {
	local program bin
	bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/bin
	for program; do
		type -P "$program" >/dev/null && continue
		[[ -x $bin/$program ]] || die "there is no $program on PATH" 'Build it: go build -o bin/ ./cmd/...' 69
		PATH=$bin:$PATH
	done
}
