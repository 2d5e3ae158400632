package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A cutover goes on without a way back only if there never can be one. A host that is not found
// ends pgcutover reverse --check with the same status. The programs are replaced by one that ends
// as it is told.
func TestWayBackIsNotLostByChance(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		check, follow, verbs string
		want                 int
	}{
		{"exit 69", "echo false", "wait prepare missing fence --check reverse --check reverse --drop", 0},
		{"exit 69", "echo true", "wait prepare missing fence --check reverse --check", 69},
		{"exit 69", "exit 75", "wait prepare missing fence --check reverse --check", 69},
		{"exit 78", "echo false", "wait prepare missing fence --check reverse --check", 78},
		{"exit 0", "exit 75", "wait prepare missing fence --check reverse --check reverse", 0},
	} {
		t.Run(c.check+","+c.follow, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			text := `#!/bin/bash
case "$*" in
*'--get target_open') echo false ;;
*'--get state') echo syncing ;;
*'--get source_can_follow') ` + c.follow + ` ;;
lock*) echo 1; while read -r step; do echo 0; done ;;
*) verb=$1; for flag; do [[ $flag != --check && $flag != --drop ]] || verb+=" $flag"; done; echo "$verb" >>` + dir + `/verbs ;;
esac
[[ $* != 'reverse --check'* ]] || { ` + c.check + `; }
`
			e := played(t, dir, text)
			status, _, errs := e.Run(nil, "bash", script("cutover"), "mig", "--yes", "--verify", "no")
			b, _ := os.ReadFile(filepath.Join(dir, "verbs"))
			verbs, _ := strings.CutSuffix(strings.Join(strings.Fields(string(b)), " "), " finish")
			if status != c.want || verbs != c.verbs {
				t.Errorf("status %d, verbs %q, %s", status, verbs, errs)
			}
		})
	}
}
