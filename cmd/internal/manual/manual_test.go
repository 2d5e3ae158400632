package manual_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

var programs = []string{"pgextract", "pgdecode", "pgapply", "pgcutover"}

// output returns what a program prints, for example with --generate.
func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(pgtest.Programs(t, true), program), args...)
	errs := new(strings.Builder)
	cmd.Stderr = errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 || len(out) == 0 {
		t.Fatalf("%s %s: %v, %d bytes, errors %q", program, strings.Join(args, " "), err, len(out), errs)
	}
	return string(out)
}

// generated writes a generated file into a folder, and returns its name.
func generated(t *testing.T, program, kind string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), program+"."+kind)
	if err := os.WriteFile(name, []byte(output(t, program, "--generate", kind)), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// checked runs a program on a file, and fails the test if the program prints anything.
func checked(t *testing.T, file string, command ...string) {
	t.Helper()
	if _, err := exec.LookPath(command[0]); err != nil {
		t.Logf("%s is not installed, and has not checked %s", command[0], filepath.Base(file))
		return
	}
	out, _ := exec.Command(command[0], append(command[1:], file)...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") { // of a build without a commit
			t.Errorf("%v: %s", command, line)
		}
	}
}

// A manual page has every flag and command of --help, and is what man expects.
func TestManualPages(t *testing.T) {
	for _, p := range programs {
		file := generated(t, p, "man")
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		page := strings.ReplaceAll(string(b), `\-`, "-")
		sections := []string{"NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "EXIT STATUS", "ENVIRONMENT", "EXAMPLES", "SEE ALSO"}
		helps := []string{output(t, p, "--help")}
		if p == "pgcutover" {
			sections = append(sections, "COMMANDS")
			for _, c := range commands(helps[0]) {
				if !strings.Contains(page, "\n.SS \"pgcutover "+c+"\"\n") {
					t.Errorf("the manual page of pgcutover has no command %s", c)
				}
				helps = append(helps, output(t, p, append(strings.Fields(c), "--help")...))
			}
		}
		for _, s := range sections {
			if !strings.Contains(page, "\n.SH \""+s+"\"\n") {
				t.Errorf("the manual page of %s has no %s", p, s)
			}
		}
		for _, h := range helps {
			for _, f := range flags(h) {
				if !strings.Contains(page, f) {
					t.Errorf("the manual page of %s has no %s", p, f)
				}
			}
		}
		checked(t, file, "mandoc", "-T", "lint", "-W", "warning")
		checked(t, file, "groff", "-man", "-ww", "-z")
	}
}

// commands returns the commands that --help lists.
func commands(help string) (list []string) {
	help, _, _ = strings.Cut(help, "\nConnection:")
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)?)  `).FindAllStringSubmatch(help, -1) {
		list = append(list, m[1])
	}
	return list
}

// flags returns the flags that --help lists, with the names of their values.
func flags(help string) (list []string) {
	for _, m := range regexp.MustCompile(`(?m)^  (?:-h, )?(--[a-z-]+\S*)`).FindAllStringSubmatch(help, -1) {
		list = append(list, m[1])
	}
	return list
}

// The shells can read their completions.
func TestCompletionSyntax(t *testing.T) {
	for _, p := range programs {
		for _, shell := range []string{"bash", "zsh", "fish"} {
			checked(t, generated(t, p, shell), shell, "-n")
		}
	}
}

// What bash and fish complete: commands, the flags of a command, values from a list.
func TestCompletion(t *testing.T) {
	made := make(map[string]string)
	file := func(program, shell string) string {
		key := program + shell
		if made[key] == "" {
			made[key] = generated(t, program, shell)
		}
		return made[key]
	}
	all := strings.Join(flagNames(output(t, "pgcutover", "status", "--help")), " ")
	for _, c := range []struct{ line, want string }{
		{"pgcutover |fe", "fence"},
		{"pgcutover |c", "check cleanup"},
		{"pgcutover |ddl|", "install check uninstall"},
		{"pgcutover |ddl|un", "uninstall"},
		{"pgcutover |status|--", all},
		{"pgcutover |status|--w", "--watch"},
		{"pgcutover |check|--w", ""},
		{"pgcutover |wait|", "loaded caught-up"},
		{"pgcutover |--slot|check|st", "status"}, // a slot's name is no command
		{"pgcutover |fence|--allow-o", "--allow-orphans"},
		{"pgextract |--format|", "auto text binary"},
		{"pgextract |--ex", "--exclude-table --exclude-table-data"},
		{"pgapply |--on-conflict|s", "skip"},
		{"pgdecode |--slot|", ""},
		{"pgdecode |--slot|mig|--conf", "--confirm-from"},
	} {
		words := strings.Split(strings.ReplaceAll(c.line, " |", "|"), "|")
		want := strings.Fields(c.want)
		if got := bashCompletes(t, file(words[0], "bash"), words); !sameWords(got, want,
			c.want == "install check uninstall" || c.want == "loaded caught-up") {
			t.Errorf("bash completes %q to %q, want %q", words, got, want)
		}
		if _, err := exec.LookPath("fish"); err != nil || strings.Contains(c.line, "|--slot|check|") {
			continue // fish takes any word that is a command's name for that command
		}
		if got := fishCompletes(t, file(words[0], "fish"), words); !sameWords(got, want, false) {
			t.Errorf("fish completes %q to %q, want %q", words, got, want)
		}
	}
	// bash makes three words of --flag=value.
	for _, c := range []struct{ words, want string }{
		{"pgextract --format = b", "binary"},
		{"pgextract --format =", "auto text binary"},
		{"pgcutover --slot = check st", "status"},
	} {
		words := strings.Fields(c.words)
		if got := bashCompletes(t, file(words[0], "bash"), words); !sameWords(got, strings.Fields(c.want), false) {
			t.Errorf("bash completes %q to %q, want %q", c.words, got, c.want)
		}
	}
	if got := bashCompletes(t, file("pgcutover", "bash"), []string{"pgcutover", ""}); !slices.Contains(got,
		"unfence") || !slices.Contains(got, "--slot") {
		t.Errorf("bash completes nothing to %q", got)
	}
}

// sameWords compares words without their order. With more, got may also have flags.
func sameWords(got, want []string, more bool) bool {
	got = slices.Clone(got)
	if more {
		got = slices.DeleteFunc(got, func(s string) bool { return strings.HasPrefix(s, "--") })
	}
	slices.Sort(got)
	want = slices.Sorted(slices.Values(want))
	return slices.Equal(got, want)
}

func flagNames(help string) (list []string) {
	for _, f := range flags(help) {
		name, _, _ := strings.Cut(f, "=")
		list = append(list, name)
	}
	return list
}

func bashCompletes(t *testing.T, file string, words []string) []string {
	t.Helper()
	cmd := exec.Command("bash", append([]string{"-euc",
		`. "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); "_$1"; printf '%s\n' "${COMPREPLY[@]-}"`,
		"bash", file}, words...)...)
	return lines(t, cmd)
}

func fishCompletes(t *testing.T, file string, words []string) (list []string) {
	t.Helper()
	cmd := exec.Command("fish", "--no-config", "-c", "source $argv[1]; complete -C $argv[2]", file, strings.Join(words, " "))
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	for _, l := range lines(t, cmd) {
		word, _, _ := strings.Cut(l, "\t") // behind the tab is the description
		list = append(list, word)
	}
	return list
}

// lines returns what a command prints, line by line.
func lines(t *testing.T, cmd *exec.Cmd) []string {
	t.Helper()
	errs := new(strings.Builder)
	cmd.Stderr = errs
	out, err := cmd.Output()
	if err != nil || errs.Len() > 0 {
		t.Fatalf("%v: %v, errors %q", cmd.Args, err, errs)
	}
	return strings.FieldsFunc(string(out), func(r rune) bool { return r == '\n' })
}
