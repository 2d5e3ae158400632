package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// plays is a pgcutover that records its verbs, and fails as the files beside it say: away, when it
// is asked whether the target is open; stuck, at drain; full, where open takes away the directory
// of temporary files.
const plays = `#!/bin/bash
case "$*" in
*'--get target_open') if [[ -e $0.away ]]; then exit 75; fi; if [[ -e $0.opened ]]; then echo true; else echo false; fi ;;
*'--get state') echo syncing ;;
*'--get '*) ;;
lock*)
	echo 1
	while read -r step; do
		echo "$step" >>"$0.calls"
		[[ $step != drain || ! -e $0.stuck ]] || exit
		[[ $step != open ]] || : >"$0.opened"
		[[ $step != open || ! -e $0.full ]] || rm -rf "${TMPDIR:?}"
		echo 0
	done
	;;
*) echo "$1" >>"$0.calls" ;;
esac
`

// cutOverPlayed cuts over with such a pgcutover, and returns what was called, --switch and --resume
// among it.
func cutOverPlayed(t *testing.T, fails, stderr string) (status int, calls []string, errs string) {
	t.Helper()
	dir := t.TempDir()
	e := played(t, dir, plays)
	if err := os.WriteFile(filepath.Join(dir, "pgcutover."+fails), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "tmp"), 0o755); err != nil {
		t.Fatal(err)
	}
	e.Vars = append(e.Vars, "TMPDIR="+filepath.Join(dir, "tmp"))
	path := filepath.Join(dir, "pgcutover.calls")
	status, _, errs = e.Run(nil, "bash", "-c", `exec bash "$0" mig --yes --no-reverse --pause true --switch "echo switch >>$1" --resume "echo resume >>$1" `+stderr,
		script("cutover"), path)
	b, _ := os.ReadFile(path)
	return status, strings.Fields(string(b)), errs
}

// A script whose messages nobody reads, because the terminal is gone or tee has died of the same
// Ctrl-C, gives the source and the application back all the same.
func TestCutoverUnread(t *testing.T) {
	t.Parallel()
	for name, stderr := range map[string]string{"the reader has ended": "2> >(exec true)", "nothing can be written": "2>/dev/full"} {
		t.Run(name, func(t *testing.T) {
			status, calls, _ := cutOverPlayed(t, "stuck", stderr)
			if status != 75 || len(calls) < 2 || !slices.Equal(calls[len(calls)-2:], []string{"unfence", "resume"}) {
				t.Errorf("status %d, calls: %v", status, calls)
			}
		})
	}
}

// Nobody knows whether an earlier run has opened the target: the application stays held, and is not
// told that the source is the primary.
func TestCutoverCannotAsk(t *testing.T) {
	t.Parallel()
	status, calls, errs := cutOverPlayed(t, "away", "")
	if status != 75 || slices.Contains(calls, "resume") || strings.Contains(errs, "still the primary") || !strings.Contains(errs, "Try again: ") {
		t.Errorf("status %d, calls: %v: %s", status, calls, errs)
	}
}

// The disk is full when the target opens: the application goes there all the same. What cannot be
// compared is not called different.
func TestCutoverOnFullDisk(t *testing.T) {
	t.Parallel()
	status, calls, errs := cutOverPlayed(t, "full", "")
	i := slices.Index(calls, "open")
	if status != 74 || i < 0 || !slices.Equal(calls[i:], []string{"open", "switch", "resume", "verified", "finish"}) || strings.Contains(errs, "DIFFERS") {
		t.Errorf("status %d, calls: %v: %s", status, calls, errs)
	}
}
