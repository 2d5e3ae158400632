package pgtest

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// wrapper stands in for pgcutover. A line of bash is executed before each verb, and before each
// step that scripts/cutover lets the holder of its lock do: $1 is the verb or step.
const wrapper = `#!/bin/bash
real=REAL
if [[ $1 != lock ]]; then
	run() { "$real" "$@"; }
	LINE
	exec "$real" "$@"
fi
LINE
coproc HOLDER { exec "$real" "$@"; }
holder=$HOLDER_PID
exec {answers}<&"${HOLDER[0]}" {orders}>&"${HOLDER[1]}" {HOLDER[1]}>&-
read -r answer <&"$answers" || { wait "$holder"; exit; }
printf '%s\n' "$answer"
run() { printf '%s\n' "$1" >&"$orders" && read -r answer <&"$answers"; }
while read -r step; do
	set -- "$step"
	answer=''
	LINE
	[[ $answer ]] || run "$@"
	printf '%s\n' "$answer"
done
exec {orders}>&-
wait "$holder"
`

// Wrapped returns an environment in which bash executes a line before each verb of pgcutover and
// each step of a cutover, $1. In the line, run "$@" does the verb or step.
func Wrapped(t testing.TB, e *Env, line string) *Env {
	t.Helper()
	dir := t.TempDir()
	text := strings.NewReplacer("REAL", "'"+filepath.Join(e.Dir, "pgcutover")+"'", "LINE", line).Replace(wrapper)
	if err := os.WriteFile(filepath.Join(dir, "pgcutover"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	w := *e
	w.Vars = append(slices.Clone(e.Vars), "PATH="+dir+":"+e.Dir+":"+os.Getenv("PATH"))
	return &w
}
