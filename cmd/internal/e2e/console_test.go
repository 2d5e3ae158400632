package e2e

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

var update = flag.Bool("update", false, "write the output of commands in the documents anew, from a run with the whole sample database")

// What was typed and what came of it.
type typed struct {
	command string
	output  []string // lines
	status  int
}

// parseConsole cuts a block into its commands and their output.
func parseConsole(block string) (list []typed) {
	for line := range strings.Lines(block) {
		line = strings.TrimRight(line, "\n")
		if command, ok := strings.CutPrefix(line, "$ "); ok {
			list = append(list, typed{command: command})
		} else if len(list) > 0 {
			x := &list[len(list)-1]
			x.output = append(x.output, line)
		}
	}
	return list
}

// writeConsole is the reverse. Long lines are wrapped, and go on indented.
func writeConsole(list []typed) string {
	var b strings.Builder
	for _, x := range list {
		fmt.Fprintf(&b, "$ %s\n", x.command)
		for _, line := range x.output {
			line = strings.ReplaceAll(line, "\t", "  ")
			for len(line) > 98 {
				at := strings.LastIndex(line[:98], " ")
				if at < 40 {
					break
				}
				fmt.Fprintf(&b, "%s\n", line[:at])
				line = "    " + line[at+1:]
			}
			fmt.Fprintf(&b, "%s\n", line)
		}
	}
	return b.String()
}

var (
	aServer  = regexp.MustCompile(`^(\w+: )?(source|target)  +\S+@`)
	progress = regexp.MustCompile(`^pgapply: loading: `)
	tableRow = regexp.MustCompile(`^\S.*  (loaded|queued|loading)  `)
	// What takes long on a busy machine is said, and is no part of a document.
	impatient = regexp.MustCompile(`^pg\w+: waiting for |^\w+: hint: .*pg_terminate_backend`)
)

// abridge leaves out what a document need not show: servers that were named before, how far a load
// is, and most of many lines of one kind.
func abridge(output string, servers bool) (lines []string) {
	seen := make(map[string]bool)
	var run []string
	kind := ""
	end := func() {
		gap := false
		for i, line := range run {
			unchanged := kind != "row" || strings.HasSuffix(strings.Join(strings.Fields(line), " "), " 0 0 0 0")
			if len(run) > 4 && i > 1 && i < len(run)-1 && unchanged {
				if !gap {
					lines = append(lines, "…")
				}
				gap = true
				continue
			}
			gap = false
			lines = append(lines, line)
		}
		run = nil
	}
	for line := range strings.Lines(output) {
		line = strings.TrimRight(line, "\n")
		if m := aServer.FindStringSubmatch(line); m != nil {
			if !servers || seen[m[2]] {
				continue
			}
			seen[m[2]] = true
		}
		if line == "" || progress.MatchString(line) || impatient.MatchString(line) {
			continue
		}
		is := "\x00" + strconv.Itoa(len(lines)+len(run)) // like no other
		switch word, _, _ := strings.Cut(line, "\t"); {
		case word == "ok" || word == "note": // of check, which prints them in the order of its looks
			is = "ok"
		case word == "equal":
			is = word
		case tableRow.MatchString(line):
			is = "row"
		}
		if is != kind {
			end()
		}
		kind = is
		run = append(run, line)
	}
	end()
	return lines
}

// masked returns lines in which nothing depends on the run: each joined with those that go on,
// without numbers, and sorted, because several programs write.
func masked(lines []string) (list []string) {
	for _, line := range lines {
		if strings.HasPrefix(line, "    ") && len(list) > 0 {
			list[len(list)-1] += " " + line
		} else {
			list = append(list, line)
		}
	}
	for i, line := range list {
		line = regexp.MustCompile(`\b[0-9A-F]+/[0-9A-F]+\b`).ReplaceAllString(line, "LSN")
		line = regexp.MustCompile(`(\d[\d.,:]*( ?([kMGT]i?)?B\b(/s)?|ms\b|µs\b|[smh]\b)?)+`).ReplaceAllString(line, "N")
		line = regexp.MustCompile(`N (\w+?)s?\b`).ReplaceAllString(line, "N $1")
		line = regexp.MustCompile(`-{3,}`).ReplaceAllString(line, "---")
		list[i] = strings.Join(strings.Fields(line), " ")
	}
	slices.Sort(list)
	return list
}

// type runs commands one after the other in one shell, and returns what each has printed, on
// standard output and error.
func (w *workplace) typeIn(commands []string) []typed {
	w.t.Helper()
	var script strings.Builder
	script.WriteString("set -uo pipefail; cd \"$1\"; PATH=$1:$PATH\n")
	background := make(map[int]string)
	for i, c := range commands {
		if c, ok := strings.CutSuffix(c, " &"); ok {
			background[i] = filepath.Join(w.dir, fmt.Sprintf("background.%d", i))
			fmt.Fprintf(&script, "{ %s\n} > %s 2>&1 &\nprintf '\\1%%s\\2' $?\n", c, background[i])
			continue
		}
		fmt.Fprintf(&script, "{ %s\n} 2>&1\nprintf '\\1%%s\\2' $?\n", c)
	}
	script.WriteString("wait\n")
	var out bytes.Buffer
	p := w.Start(nil, &out, "bash", "-c", script.String(), "bash", w.dir)
	if status := p.Wait(5 * time.Minute); status != 0 || p.Errors() != "" {
		w.t.Errorf("the shell has ended with %d: %s", status, p.Errors())
	}
	var list []typed
	for i, part := range strings.Split(out.String(), "\x02") {
		if i >= len(commands) {
			break
		}
		text, status, _ := strings.Cut(part, "\x01")
		n, _ := strconv.Atoi(status)
		if file := background[i]; file != "" {
			b, err := os.ReadFile(file)
			if err != nil {
				w.t.Fatal(err)
			}
			text = string(b)
		}
		list = append(list, typed{command: commands[i], output: []string{text}, status: n})
	}
	return list
}

// compare compares the output in blocks of a page with that of a run, or replaces it if -update is
// given. Commands are found by their text.
func (p *page) compare(run []typed, servers, rows bool) {
	p.t.Helper()
	text := codeBlock.ReplaceAllStringFunc(p.text, func(whole string) string {
		m := codeBlock.FindStringSubmatch(whole)
		if m[1] != "console" {
			return whole
		}
		shown := parseConsole(m[2])
		for i, x := range shown {
			at := slices.IndexFunc(run, func(y typed) bool { return y.command == x.command })
			if at < 0 {
				p.t.Errorf("%s: %q was not run", p.name, x.command)
				continue
			}
			got := abridge(run[at].output[0], servers || x.command == "pgcutover check")
			if !rows {
				if at := slices.IndexFunc(got, func(s string) bool { return strings.HasPrefix(s, "table  ") }); at >= 0 {
					got = append(got[:at:at], "…")
				}
			}
			if *update {
				shown[i].output = got
				continue
			}
			if a, b := strings.Join(masked(x.output), "\n"), strings.Join(masked(got), "\n"); a != b {
				p.t.Errorf("%s: %q has other output than the page says. Run: go test ./cmd/internal/e2e -run TestDocsQuickstart -update\npage, masked:\n%s\n\nnow:\n%s",
					p.name, x.command, a, b)
			}
		}
		return "```console\n" + writeConsole(shown) + "```"
	})
	if *update && text != p.text {
		if err := os.WriteFile(filepath.Join(pgtest.Root(), p.name), []byte(text), 0o644); err != nil {
			p.t.Fatal(err)
		}
	}
}

// The tutorial, with the output that the page has, and the operator's session of the README, which
// is the same one.
func TestDocsQuickstart(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	p, readme := readPage(t, "docs/quickstart.md"), readPage(t, "README.md")
	var commands []string
	for range p.blocks("console") {
		for _, x := range parseConsole(p.take("console", "$ ")) {
			commands = append(commands, x.command)
		}
	}
	session := parseConsole(readme.take("console", "$ "))
	readme.done()

	w := newWorkplace(t)
	// As those of scripts/cluster: no other test's slots are there, and a crash loses nothing.
	w.source = pgtest.Start(t, pgtest.Source(t).Major, "fsync=on").Database(t, "")
	w.target = pgtest.Start(t, pgtest.Target(t).Major, "fsync=on").Database(t, "")
	w.Source, w.Target = "", ""
	plain := func(uri string) string { uri, _, _ = strings.Cut(uri, "?"); return uri }
	// Servers are there already, and cannot be stopped; the slot has a name that no other test has.
	stub := fmt.Sprintf("#!/bin/bash\ncase $* in 'start source') echo '%s' ;; 'start target') echo '%s' ;; 'stop --all') ;; *) exit 64 ;; esac\n",
		plain(w.source.Server.URI("postgres")), plain(w.target.Server.URI("postgres")))
	if err := os.WriteFile(filepath.Join(w.dir, "scripts", "cluster"), []byte(stub), 0o755); err != nil {
		t.Fatal(err)
	}
	if !*update { // fewer rows do as well
		name := filepath.Join(w.dir, "scripts", "sample", "data.sql")
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		less := strings.NewReplacer("generate_series(1, 100000)", "generate_series(1, 4000)",
			"generate_series(1, 50000)", "generate_series(1, 1000)").Replace(string(data))
		if err := os.WriteFile(name, []byte(less), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// What the README has besides the tutorial's commands. The state at each moment is the same.
	const watch, confirmed = "pgcutover status --watch", "scripts/cutover mig"
	var wanted []string
	for _, x := range session[1:] {
		switch x.command {
		case watch, confirmed:
		default:
			wanted = append(wanted, x.command)
		}
	}
	for _, c := range wanted {
		if !slices.Contains(commands, c) {
			t.Errorf("README.md has %q, and docs/quickstart.md does not", c)
		}
	}
	var real []string
	for _, c := range commands {
		if c == "pgcutover status" { // which has the counts of the tables after a second
			real = append(real, `until [[ $(psql -XAtd "$PGSLUICE_TARGET" -c "SELECT sum(updates) FROM pgsluice.tables") == 10 ]]; do sleep 0.1; done`)
		}
		real = append(real, c)
		if c == "pgcutover status" {
			real = append(real, "timeout -s INT 3 "+watch+" > /dev/null || test $? = 124")
		}
		if strings.HasPrefix(c, confirmed+" ") {
			real = append(real, "wait $!")
		}
	}
	admin := func(d *pgtest.DB) *pgtest.DB { x := *d; x.Name, x.URI = "shop", d.Server.URI("shop"); return &x }
	source, target := admin(w.source), admin(w.target)
	t.Cleanup(func() {
		for _, d := range []*pgtest.DB{w.source, w.target} {
			_, _ = d.Try("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'shop'")
			_, _ = d.Try("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = 'shop'")
			_, _ = d.Try("DROP DATABASE IF EXISTS shop")
		}
	})

	// First all up to the cutover, then what there is to see on the servers, then the end.
	cut := slices.Index(real, "pgcutover cleanup --slot mig")
	if cut < 0 {
		t.Fatal("docs/quickstart.md has no cleanup any more")
	}
	first, last := real[:cut], real[cut:]
	run := w.typeIn(first)
	for _, x := range run {
		t.Logf("$ %s\n%s", x.command, x.output[0])
	}
	if len(run) != len(first) {
		t.Fatalf("%d of %d commands were run: %v", len(run), len(first), run)
	}
	if source.Query("SELECT count(*) FROM shop.genres") == target.Query("SELECT count(*) FROM shop.genres") {
		t.Error("the target cannot be written to after the cutover, or the source can")
	}
	target.Exec("DELETE FROM shop.genres WHERE name = 'Noir'")
	pgtest.Equal(t, source, target)
	if n := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE state <> 'done'"); n != "0" {
		t.Errorf("%s objects are still missing on the target", n)
	}
	if _, err := source.Try("INSERT INTO probe VALUES (1)"); err == nil {
		t.Error("the source can be written to after the cutover")
	}
	run = append(run, w.typeIn(append([]string{"export PGSLUICE_SOURCE='" + source.URI +
		"' PGSLUICE_TARGET='" + target.URI + "'"}, last...))[1:]...)
	nothingLeft(t, source, target)
	for _, x := range run {
		if text := x.output[0]; x.status != 0 && !strings.Contains(text, "read-only transaction") {
			t.Errorf("%q: exit status %d\n%s", x.command, x.status, text)
		}
	}
	p.done()
	if t.Failed() || pgtest.Source(t).Major != pgtest.Target(t).Major {
		// other versions say other things
		return
	}
	p.compare(run, true, true)
	for _, x := range run {
		if x.command == "pgcutover status" && len(run) > 0 {
			run = append(run, typed{command: watch, output: x.output})
		}
		if strings.HasPrefix(x.command, confirmed+" ") {
			run = append(run, typed{command: confirmed, output: x.output})
		}
	}
	run = append(run, typed{command: session[0].command, output: []string{""}})
	readme.compare(run, false, false)
}
