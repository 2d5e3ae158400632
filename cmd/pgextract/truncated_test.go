package main_test

import (
	"bufio"
	"io"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// To a snapshot that is older than its truncation a table looks empty: that must not pass for what was in it.
func TestTruncatedMeanwhile(t *testing.T) {
	source := pgtest.Source(t).Database(t, "")
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)")
	for _, change := range []string{"TRUNCATE b", "VACUUM FULL b", "ALTER TABLE b ALTER id TYPE bigint"} {
		env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, false), Source: source.URI}
		r, w := io.Pipe()
		hold := env.Start(nil, w, "pgextract", "--hold", "--slot", source.Name)
		token := ""
		for lines := bufio.NewScanner(r); token == "" && lines.Scan(); {
			if after, ok := strings.CutPrefix(lines.Text(), "snapshot\t"); ok {
				token = after
			}
		}
		args := []string{"--data-only", "--slot", source.Name, "--snapshot", token}
		env.Must(nil, "pgextract", args...)
		source.Exec(change)
		if status, _, errs := env.Run(nil, "pgextract", args...); status != 75 || !strings.Contains(errs, "table public.b was truncated or rewritten") {
			t.Errorf("%s: status %d: %s", change, status, errs)
		}
		hold.Kill()
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
