package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

var (
	// What runs one of our programs, or another script that does.
	ours = `(?:pgextract|pgdecode|pgapply|pgcutover|"?\$here/(?:load|sync|cutover)"?|scripts/(?:load|sync|cutover|migrate|load-parallel|fleet|demo))`
	// What they print for programs: fields, JSON, the lines of --hold.
	forPrograms = regexp.MustCompile(`--(get|json|hold)\b`)
	// What may follow in a pipe: what passes a stream on, or keeps it.
	passOn   = regexp.MustCompile(`^(zstd|age|pv|tee|ssh|node|cat|timeout)\b`)
	parsers  = regexp.MustCompile(`\b(sed|grep|awk|cut|head|tail|wc|read|mapfile|sort|paste|tr)\b`)
	comment  = regexp.MustCompile(`(?m)^\s*#.*$`)
	goesOn   = regexp.MustCompile(`(\\|\|)\n\s*`)
	function = regexp.MustCompile(`(?ms)^(\w+)\(\) [{(](.*?)(?:[})]$|^[})])`)
	written  = regexp.MustCompile(`[^<>&12]>+\s*("[^"]+"|[\w./$]+)`)
)

// parsed returns the lines of a script that read what our programs print for people.
func parsed(script string) (list []string) {
	script = goesOn.ReplaceAllString(comment.ReplaceAllString(script, ""), "$1 ")
	names := []string{ours}
	for _, f := range function.FindAllStringSubmatch(script, -1) {
		if regexp.MustCompile(`(^|[\s;(])`+ours+`\s`).MatchString(f[2]) && !forPrograms.MatchString(f[2]) {
			names = append(names, f[1])
		}
	}
	command := `(?:exec |timeout \S+ |if |! |then |do |else )*(?:` + strings.Join(names, "|") + `)(?:[\s;)"]|$)`
	begins := regexp.MustCompile(`^\s*` + command)
	runs := regexp.MustCompile(`(?:^|[;&(){}|!])\s*` + command)
	kept := regexp.MustCompile(`[$<]\((?:[^()]*(?:&&|;|\|)\s*)?` + command)
	var files []string
	for _, line := range strings.Split(script, "\n") {
		bad := false
		if runs.MatchString(line) && !forPrograms.MatchString(line) {
			stages := strings.Split(strings.ReplaceAll(line, "||", ";"), "|")
			for i, stage := range stages[1:] {
				if runs.MatchString(stages[i]) {
					bad = bad || !begins.MatchString(stage) && !passOn.MatchString(strings.TrimSpace(strings.TrimPrefix(stage, "&")))
				}
			}
			bad = bad || kept.MatchString(line)
			for _, m := range written.FindAllStringSubmatch(line, -1) {
				if m[1] != "/dev/null" {
					files = append(files, m[1])
				}
			}
		}
		for _, f := range files {
			bad = bad || parsers.MatchString(line) && strings.Contains(line, f)
		}
		if bad {
			list = append(list, strings.TrimSpace(line))
		}
	}
	return list
}

// What a program prints for people, a name or a server can have a part in; scripts read what it
// prints for programs.
func TestScriptsParseNoText_P11(t *testing.T) {
	for _, bad := range []string{
		`pgcutover status --slot "$slot" | sed -n '1s/^slot .*: //p'`,
		"state() { pgcutover status --slot \"$slot\" | sed -n 1p; }\ncurrent=$(state)",
		"state() {\n\tpgcutover status\n}\ncurrent=$(state)",
		`found=$(pgcutover status --slot "$slot")`,
		"pgcutover status 2>&1 |\n\tgrep missing",
		"pgcutover verify >\"$dir/verified\" &\ngrep -v '^equal' \"$dir/verified\"",
		"timeout 20 pgcutover status >\"$dir/text\"\nread -r text <\"$dir/text\"",
		`pgextract --slot mig | pgapply 2>&1 | grep loaded`,
		`while read -r x; do :; done < <(pgcutover check)`,
		`"$here/sync" demo 2>&1 | awk '{ print }'`,
	} {
		if len(parsed(bad)) == 0 {
			t.Errorf("not found: %s", bad)
		}
	}
	for _, good := range []string{
		`pgextract --slot mig | pgapply`,
		`pgextract | zstd > load.pgs.zst`,
		`open=$(pgcutover status --get target_open)`,
		`exec {held}< <(exec pgextract --slot "$slot" --hold)`,
		`if ! pgcutover wait loaded --timeout 1ms 2>/dev/null; then`,
		`pgcutover unfence || say 'that failed'`,
		"pgcutover verify >\"$dir/different\" &\ncat \"$dir/different\" >&2",
		"# pgcutover status | grep x",
	} {
		if list := parsed(good); len(list) > 0 {
			t.Errorf("found: %q", list)
		}
	}
	seen := 0
	for _, glob := range []string{"scripts/*", "scripts/sample/*"} {
		files, err := filepath.Glob(filepath.Join(pgtest.Root(), glob))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil || !strings.Contains(fmt.Sprintf("%.100s", text), "bash") {
				continue // a folder, or no script
			}
			seen++
			for _, line := range parsed(string(text)) {
				t.Errorf("%s parses what is for people: %s", file, line)
			}
		}
	}
	if seen < 12 {
		t.Errorf("only %d scripts were found", seen)
	}
}
