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

// The four programs use the same words for the same things, and each says what it does without a server, a terminal or an input.
func TestHelp(t *testing.T) {
	for name, want := range map[string]string{
		"pgextract": "--data-only --force-terminal --format --help --jobs --log-format --no-acl --no-owner --publication --slot --source --version",
		"pgdecode":  "--confirm-from --force-terminal --help --log-format --publication --slot --source --until --version",
		"pgapply":   "--help --jobs --log-format --rename --target --version",
		"pgcutover": "--help --log-format --slot --source --target --version",
	} {
		text := help(t, name)
		for _, f := range strings.Fields(want) {
			if !strings.Contains(text, f) {
				t.Errorf("%s --help does not have %s", name, f)
			}
		}
		for _, line := range strings.Split(text, "\n") {
			if len(line) > 110 {
				t.Errorf("%s --help has a line of %d characters", name, len(line))
			}
		}
	}
	verbs := regexp.MustCompile(`(?m)^  ([a-z]+)  `).FindAllStringSubmatch(help(t, "pgcutover"), -1)
	if len(verbs) != 11 {
		t.Errorf("pgcutover has %d commands", len(verbs))
	}
	for _, v := range verbs {
		if text := help(t, "pgcutover", v[1]); !strings.HasPrefix(text, "Usage: pgcutover "+v[1]) {
			t.Errorf("pgcutover %s --help: %q", v[1], text)
		}
	}
}

// Every command of ours that the documents or scripts show has only flags and verbs that exist.
func TestDocumentedFlags(t *testing.T) {
	texts := map[string]string{"pgcutover": help(t, "pgcutover")} // program and verb → help
	command := regexp.MustCompile(`\b(pgextract|pgdecode|pgapply|pgcutover)((?: [a-z]+(?:-[a-z]+)*\b)?)((?: +(?:--?[A-Za-z][A-Za-z-]*|[A-Za-z0-9_$./:"{}-]+))*)`)
	root := pgtest.Root()
	files := []string{"README.md", "ARCHITECTURE.md", "CHANGELOG.md"}
	scripts, err := filepath.Glob(filepath.Join(root, "scripts", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		if info, err := os.Stat(s); err == nil && info.Mode().IsRegular() {
			files = append(files, filepath.Join("scripts", filepath.Base(s)))
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
		{"pgextract --slot=", "--slot is given, and is empty"},
		{"pgextract --slot=mig --table=", "--table"},
		{"pgextract --slot=mig --target=", "--target"},
		{"pgdecode --slot=", "--slot"},
		{"pgdecode --slot=mig --until=", "--until"},
		{"pgapply --target=", "--target"},
		{"pgcutover check --slot=", "--slot"},
		{"pgcutover cleanup --slot=", "--slot"},
		{"pgcutover verify --ready=", "--ready"},
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
		if status, _, errs := e.Run(nil, args[0], args[1:]...); args[0] != "pgapply" && (status != 75 || !strings.Contains(errs, "could not connect")) {
			t.Errorf("%s with libpq's variables: status %d, errors %q", c.command, status, errs)
		}
	}
}
