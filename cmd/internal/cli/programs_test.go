package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// help returns what a program prints when it is asked for help.
func help(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(pgtest.Programs(t, true), args[0]), append(args[1:], "--help")...)
	errs := new(strings.Builder)
	cmd.Stderr = errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%v --help: %v, errors %q", args, err, errs)
	}
	return string(out)
}

var flag = regexp.MustCompile(`--[a-z][a-z-]+`)

// The four programs use the same words for the same things, and each says what it does without a
// server, a terminal or an input: flags by group, examples, exit statuses, in 80 columns.
func TestHelp(t *testing.T) {
	for name, want := range map[string]struct{ groups, flags, exits string }{
		"pgextract": {"Connection: What: Parallel: Resume: Output: Other:",
			"--data-only --force-terminal --format --help --jobs --log-format --no-acl --no-owner --publication --slot --source --version",
			"0 1 64 69 75 77 78 130 143"},
		"pgdecode": {"Connection: What: Resume: Output: Other:",
			"--confirm-from --force-terminal --help --log-format --publication --slot --source --until --version",
			"0 1 64 65 69 75 77 78 130 143"},
		"pgapply": {"Connection: What: Parallel: Resume: Conflicts: Output: Other:",
			"--help --jobs --log-format --rename --target --version", "0 1 64 65 69 75 77 78 130 143"},
		"pgcutover": {"Connection: Output: Other:", "--help --log-format --slot --source --target --version", "0 1 64 69 75 77 78 130 143"},
	} {
		text := help(t, name)
		for _, f := range strings.Fields(want.flags) {
			if !strings.Contains(text, f) {
				t.Errorf("%s --help does not have %s", name, f)
			}
		}
		rest := text
		for _, g := range append(strings.Fields(want.groups), "Examples:", "Exit statuses:") {
			_, after, found := strings.Cut(rest, "\n"+g+"\n")
			if !found {
				t.Errorf("%s --help does not have %q, or not in this place", name, g)
				continue
			}
			rest = after
		}
		var exits []string
		for _, m := range regexp.MustCompile(`(?m)^  (\d+) +\S`).FindAllStringSubmatch(rest, -1) {
			exits = append(exits, m[1])
		}
		if got := strings.Join(exits, " "); got != want.exits {
			t.Errorf("%s --help has the exit statuses %s, want %s", name, got, want.exits)
		}
		if n := strings.Count(text, "\n    "+name+" ") + strings.Count(text, "| "+name); n < 2 {
			t.Errorf("%s --help has %d examples", name, n)
		}
		fits(t, name, text)
	}
}

// fits fails the test if help does not fit a terminal.
func fits(t *testing.T, name, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if len(line) > 80 {
			t.Errorf("%s --help has a line of %d characters: %s", name, len(line), line)
		}
	}
}

// The commands of pgcutover are listed in the order of the night, and each has an example.
func TestCommands(t *testing.T) {
	want := "roles, check, ddl install, ddl check, status, missing, wait, lock, prepare, rehearse, fence, drain, verify, reverse, open, finish, unfence, ddl uninstall, watch, cleanup"
	commands, _, _ := strings.Cut(help(t, "pgcutover"), "\nConnection:")
	var list []string
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)?)  `).FindAllStringSubmatch(commands, -1) {
		list = append(list, m[1])
	}
	if got := strings.Join(list, ", "); got != want {
		t.Errorf("the commands are\n%s, want\n%s", got, want)
	}
	for _, v := range list {
		text := help(t, append([]string{"pgcutover"}, strings.Fields(v)...)...)
		if !strings.HasPrefix(text, "Usage: pgcutover "+v) || !strings.Contains(text, "\nExamples:\n") ||
			!strings.Contains(text, "\n    pgcutover "+v) || !strings.Contains(text, "\nExit statuses:\n") {
			t.Errorf("pgcutover %s --help: %s", v, text)
		}
		fits(t, "pgcutover "+v, text)
	}
}

// Every command of ours that the documents or scripts show has only flags and verbs that exist.
func TestDocumentedFlags(t *testing.T) {
	texts := map[string]string{"pgcutover": help(t, "pgcutover")} // program and verb → help
	command := regexp.MustCompile(`\b(pgextract|pgdecode|pgapply|pgcutover)((?: [a-z]+(?:-[a-z]+)*\b)?)((?: +(?:--?[A-Za-z][A-Za-z-]*|[A-Za-z0-9_$./:"{}-]+))*)`)
	root := pgtest.Root()
	files := []string{"README.md", "ARCHITECTURE.md", "CHANGELOG.md", "cmd/pgextract/main.go",
		"cmd/pgdecode/main.go", "cmd/pgapply/main.go", "cmd/pgcutover/main.go"}
	scripts, err := filepath.Glob(filepath.Join(root, "scripts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"systemd", "kubernetes"} {
		list, _ := filepath.Glob(filepath.Join(root, "scripts", "deploy", f, "*"))
		if len(list) == 0 {
			t.Errorf("there is nothing in scripts/deploy/%s", f)
		}
		scripts = append(scripts, list...)
	}
	pages, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil || len(pages) == 0 {
		t.Fatalf("no pages in docs: %v", err)
	}
	for _, s := range pages {
		files = append(files, filepath.Join("docs", filepath.Base(s)))
	}
	for _, s := range scripts {
		if info, err := os.Stat(s); err == nil && info.Mode().IsRegular() {
			files = append(files, strings.TrimPrefix(s, root+"/"))
		}
	}
	seen := 0
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range command.FindAllStringSubmatch(string(text), -1) {
			used := flag.FindAllString(m[3], -1)
			args := []string{m[1]}
			if m[1] == "pgcutover" {
				verb := strings.TrimSpace(m[2])
				if verb == "" || len(used) == 0 && !strings.Contains(texts["pgcutover"], "\n  "+verb+" ") {
					continue // prose
				}
				args = append(args, verb)
			}
			if len(used) == 0 {
				continue
			}
			key := strings.Join(args, " ")
			if texts[key] == "" {
				texts[key] = help(t, args...)
			}
			for _, f := range used {
				seen++
				if !strings.Contains(texts[key], f) {
					t.Errorf("%s: %s has no %s", file, key, f)
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d flags were found", seen)
	}
}

// What is wrong with a command line is said before anything is connected to.
func TestUsage(t *testing.T) {
	nowhere := "host=127.0.0.1 port=1 user=nobody dbname=none"
	for _, c := range []struct{ command, says string }{
		{"pgextract --jobs=x", "--jobs"},
		{"pgextract --slot=Mig", `"Mig"`},
		{"pgextract --format=csv", `"csv"`},
		{"pgdecode", "--slot"},
		{"pgdecode --slot=a-b", `"a-b"`},
		{"pgdecode --slot=mig --until=later", "--until"},
		{"pgapply --rename=old", `"old"`},
		{"pgapply --rename==new", `"=new"`},
		{"pgapply file.pgs", "file.pgs"},
		{"pgcutover", "check"},
		{"pgcutover begin", "begin"},
		{"pgcutover wait", "<for>"},
		{"pgcutover wait finished", `"finished"`},
		{"pgcutover wait caught-up --lag=much", "--lag"},
		{"pgcutover wait loaded --timeout=5", "--timeout"},
		{"pgcutover cleanup", "--slot"},
		{"pgcutover status --slot=Mig", `"Mig"`},
		// An empty value is a variable that is not set.
		{"pgextract --slot=", "--slot has an empty value"},
		{"pgextract --slot=mig --table=", "--table"},
		{"pgextract --slot=mig --target=", "--target"},
		{"pgdecode --slot=", "--slot"},
		{"pgdecode --slot=mig --until=", "--until"},
		{"pgapply --target=", "--target"},
		{"pgcutover check --slot=", "--slot"},
		{"pgcutover cleanup --slot=", "--slot"},
		{"pgcutover verify --snapshots=", "--snapshots"},
	} {
		args := strings.Fields(c.command)
		e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: nowhere, Target: nowhere}
		status, out, errs := e.Run(nil, args[0], args[1:]...)
		if status != 64 || len(out) > 0 || !strings.HasPrefix(errs, args[0]+": ") || !strings.Contains(errs, c.says) {
			t.Errorf("%s: status %d, output %q, errors %q", c.command, status, out, errs)
		}
	}
	// Where the servers are is nobody's guess.
	for _, c := range []struct{ command, source, target, says string }{
		{"pgextract --slot=mig", "", nowhere, "--source"},
		{"pgextract --slot=mig --resume", nowhere, "", "PGSLUICE_TARGET"},
		{"pgdecode --slot=mig", "", "", "PGSLUICE_SOURCE"},
		{"pgapply", nowhere, "", "PGSLUICE_TARGET"},
		{"pgcutover check", "", nowhere, "PGSLUICE_SOURCE"},
		{"pgcutover status", nowhere, "", "--target"},
	} {
		args := strings.Fields(c.command)
		e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: c.source, Target: c.target}
		if status, _, errs := e.Run(nil, args[0], args[1:]...); status != 64 || !strings.Contains(errs, c.says) {
			t.Errorf("%s: status %d, errors %q", c.command, status, errs)
		}
		e.Vars = []string{"PGHOST=127.0.0.1", "PGPORT=1"}
		if status, _, errs := e.Run(nil, args[0], args[1:]...); args[0] != "pgapply" &&
			(status != 75 || !strings.Contains(errs, "could not connect")) {
			t.Errorf("%s with libpq's variables: status %d, errors %q", c.command, status, errs)
		}
	}
}
