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

# A terminal can be lost, and tee can die of the same Ctrl-C. A script that nobody reads any more
# goes on all the same, and cleans up. Its children die of a closed pipe as usual: bash gives them
# the default in place of a trap.
trap : PIPE

# message TEXT prints a message of the script. It cannot fail.
message() {
	local shown clear rest
	shown "$1"
	clear_line
	printf '%s%s: %s%s\n' "$clear" "${0##*/}" "$shown" "$rest" >&2 || true
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

# set_again WORD ... sets again to a command that can be pasted. It is printed and logged, so that
# passwords in connection strings are left out.
# shellcheck disable=SC2034 # the scripts read again
set_again() {
	local word words=()
	for word; do
		if [[ $word == *://*:*@* || ${word,,} == *password*=* ]]; then
			word=$(sed -E 's#(://[^:/@?[:space:]]*:)[^[:space:]]*@#\1PASSWORD@#g
				s#(password[[:space:]]*=[[:space:]]*)('\''([^'\''\\]|\\.)*'\''|[^&[:space:]]+)#\1PASSWORD#Ig' <<<"$word")
		fi
		words+=("$word")
	done
	printf -v again ' %q' "${words[@]}"
	again=${again# }
}

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

# The functions below run two programs as a pipe, for a script that starts them again and again. The
# script sets the trap 'stopped=yes' on TERM, INT and HUP before it runs any command, and calls
# prepare_pipe. It has functions first and second, which run one program each by run, and look,
# which sets away to the side that does not answer. Its variables: slot; again, the command that
# continues; kept, what is not lost when the script stops.
dir='' away='' answer='' again='' kept='' statuses=()

# prepare_pipe makes the directory for the files of the pipe. It is removed when the script exits.
prepare_pipe() {
	dir=$(mktemp -d)
	# Signals must not interrupt the cleanup.
	trap 'trap "" TERM INT HUP; rm -rf "$dir"' EXIT
	mkfifo "$dir/stream"
}

# run NAME PROGRAM ... leaves the program's process ID in NAME.pid while it runs, and then its status
# in NAME.status. A signal to the whole group, from a terminal or a supervisor, reaches the program
# directly; run waits for it.
run() {
	local pid status=0
	trap '' INT
	trap : TERM HUP
	"${@:2}" <&0 &
	pid=$!
	# Before exec, the process is a copy of this shell, and would lose a signal.
	while ps -o comm= -p "$pid" | grep -qxE "(.*/)?(bash|${0##*/})"; do :; done
	# tell may have run before the ID was written. If the ID cannot be written, nothing could stop the
	# program later.
	if ! echo "$pid" >"$dir/$1.pid" || [[ -e $dir/stopped ]]; then kill "$pid" 2>/dev/null || true; fi
	wait_for "$pid" || status=$?
	: >"$dir/$1.pid"
	echo "$status" >"$dir/$1.status"
}

# wait_for waits for a child, even if signals interrupt the wait, and returns its status.
wait_for() {
	local status
	while :; do
		status=0
		wait "$1" || status=$?
		kill -0 "$1" 2>/dev/null || break
	done
	if ((status > 128)); then # a signal to this shell may have interrupted the wait
		status=0
		wait "$1" || status=$?
	fi
	return "$status"
}

# run_pipe runs both programs until they have exited, and sets statuses. There is a FIFO between
# them. It is not a pipeline: if the trap ran while bash 5.2 starts one, bash would wait for the
# first program before it started the second, and hang.
# shellcheck disable=SC2034 # the scripts read statuses
run_pipe() {
	local both from to name i=0
	rm -f "$dir"/{first,second}.{pid,status}
	# shellcheck disable=SC2094 # a FIFO
	exec {both}<>"$dir/stream" {from}<"$dir/stream" {to}>"$dir/stream" {both}>&-
	first >&"$to" {to}>&- {from}<&- &
	second <&"$from" {from}<&- {to}>&- &
	exec {from}<&- {to}>&-
	wait_all
	for name in first second; do
		# If the file is missing, run was killed or could not write it.
		{ read -r "statuses[i]" <"$dir/$name.status"; } 2>/dev/null || statuses[i]=137
		i=$((i + 1))
	done
	end_if_told
}

# doze SECONDS waits for that time. bash runs a trap after the wait. It is not read -t: if its time
# ends while bash 5.2 runs a trap, bash gives up the trap, and runs no other one from then on.
# bash reports a sleep that a signal to the group has ended.
doze() { { sleep "$1"; } 2>/dev/null || true; }

# wait_all waits until both programs have exited. It passes a request to stop on to them.
wait_all() {
	local told=''
	while jobs -r >"$dir/jobs" && [[ -s $dir/jobs ]]; do
		if [[ $stopped && ! $told ]]; then told=yes && tell; fi
		doze 0.2
	done
	until wait; do :; done # in case the list of jobs could not be written
}

# tell sends SIGTERM to the programs: they end in order.
tell() {
	local name pid
	: >"$dir/stopped" || true
	for name in first second; do
		{ read -r pid <"$dir/$name.pid"; } 2>/dev/null || continue
		kill "$pid" 2>/dev/null || true
	done
}

# end_if_told exits if a signal has arrived.
end_if_told() {
	[[ $stopped ]] || return 0
	message "stopped; $kept. To continue: $again"
	exit 143
}

# pause SECONDS sleeps, and exits if a signal arrives in that time.
pause() {
	local until=$((SECONDS + $1))
	while ((SECONDS < until)) && [[ ! $stopped ]]; do doze 1; done
	end_if_told
}

# ask FIELD sets answer to a field of the migration's status, and away to yes if a server that knows
# the field cannot be reached.
# shellcheck disable=SC2034 # the scripts read answer
ask() {
	local status=0 asking
	timeout 20 pgcutover status --slot "$slot" --get "$1" >"$dir/answer" 2>/dev/null &
	asking=$!
	# In the background: a signal must stop the script even if the server does not answer.
	while kill -0 "$asking" 2>/dev/null; do
		if [[ $stopped ]]; then kill "$asking" 2>/dev/null || true; fi
		doze 0.1
	done
	end_if_told
	wait "$asking" || status=$?
	read -r answer <"$dir/answer" || answer=''
	away=''
	if ((status == 75 || status == 124)); then away=yes; fi
}

# wait_for_servers waits until look finds that both servers answer. It prints one message for the
# whole wait, not one for each attempt.
wait_for_servers() {
	local began=$SECONDS named=''
	look
	while [[ $away ]]; do
		if [[ $away != "$named" ]]; then
			message "the $away does not answer; waiting for it"
			named=$away
		fi
		pause 2
		look
	done
	if [[ $named ]]; then message "the $named is back after $((SECONDS - began)) s"; fi
}

try_again() { (($1 == 75 || $1 > 128)); }
