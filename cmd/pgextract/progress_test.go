package main_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A load that takes a while says how far it is: in lines, and for programs.
func TestProgressLines(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	splitTable(source, "big")
	for _, log := range []string{"text", "json"} {
		target.Exec("DROP SCHEMA IF EXISTS pgsluice CASCADE", "DROP TABLE IF EXISTS big")
		e := pgtest.NewEnv(t, source, target)
		x, a := startSlowly(e, 2<<20, []string{"--log-format", log}, nil)
		pgtest.Wait(t, timeout, "a line about the progress", func() bool { return strings.Contains(a.Errors(), "loading") })
		if s := a.Wait(timeout); s != 0 {
			t.Fatal(a.Errors())
		}
		x.Wait(timeout)
		// before it, where the target is
		line := a.Errors()[strings.LastIndexByte(a.Errors()[:strings.Index(a.Errors(), "loading")], '\n')+1:]
		line, _, _ = strings.Cut(line, "\n")
		if log == "text" {
			if !strings.Contains(line, "% of 1 table") || !strings.Contains(line, "/s, ") || !strings.HasSuffix(line, " left") {
				t.Error(line)
			}
			continue
		}
		var m struct {
			Msg     string
			Rows    int
			Bytes   int
			Percent float64
			Left    int `json:"seconds_left"`
		}
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Msg != "loading" || m.Rows == 0 ||
			m.Bytes == 0 || m.Percent <= 0 || m.Percent >= 100 {
			t.Error(line, err)
		}
	}
}

// On a terminal there are bars, and the last words stand below them.
func TestProgressBars(t *testing.T) { progressBars(t, "big") }

// The terminal obeys nothing of a table's name.
func TestProgressBars_P11(t *testing.T) {
	pgtest.Slow(t)
	written := progressBars(t, "big\x1b[31m\u009b\u202e\npgapply: forged")
	if !strings.Contains(written, `public.big\x1b[31m\u009b\u202e\npgapply: forged`) ||
		strings.ContainsAny(written, "\u009b\u202e") || strings.Contains(written, "\x1b[31m") {
		t.Errorf("%q", written)
	}
}

// progressBars loads a table on a terminal, and returns what was written there.
func progressBars(t *testing.T, name string) string {
	t.Helper()
	source, target := pgtest.Pair(t)
	splitTable(source, "big")
	if name != "big" {
		source.Exec(`ALTER TABLE big RENAME TO "` + name + `"`)
	}
	e := pgtest.NewEnv(t, source, target)
	file := e.Must(nil, "pgextract")
	terminal := pgtest.OpenTerminal(t, 160, 40)
	written := terminal.Written
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(e.Dir+"/pgapply", "--target", target.URI)
	cmd.Stdin, cmd.Stderr = r, terminal.TTY
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = r.Close()
	half := len(file) / 2
	if _, err := w.Write(file[:half]); err != nil {
		t.Fatal(err)
	}
	pgtest.Wait(t, timeout, "bars", func() bool {
		return strings.Contains(written(), "public.big") && strings.Contains(written(), "% of 1 table")
	})
	if _, err := w.Write(file[half:]); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err, written())
	}
	pgtest.Wait(t, timeout, "the last line", func() bool { return strings.Contains(written(), "pgapply: loaded 26,000 rows") })
	pgtest.Equal(t, source, target)
	return written()
}
