package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The status has the last error of each filter with its time, also of one that knows nothing of the
// target; in UTC for programs, wherever they run.
func TestLastErrors_H9(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	e, slot := scriptPair(t, source, target)
	e.Vars = []string{"TZ=Asia/Tokyo"}
	type failure struct {
		Program, Message, Hint string
		At                     string
		Status                 int `json:"exit_status"`
	}
	last := func() map[string]failure {
		t.Helper()
		var s struct {
			Errors []failure `json:"last_errors"`
			Active string    `json:"last_active"`
		}
		out := e.Must(nil, "pgcutover", "status", "--json", "--slot", slot)
		if err := json.Unmarshal(out, &s); err != nil {
			t.Fatal(err)
		}
		m := make(map[string]failure)
		for _, f := range s.Errors {
			m[f.Program] = f
			if at, err := time.Parse(time.RFC3339Nano, f.At); err != nil || time.Since(at) > time.Minute || !strings.HasSuffix(f.At, "Z") {
				t.Errorf("%+v", f)
			}
		}
		if strings.Contains(string(out), "+09:00") || !strings.HasSuffix(s.Active, "Z") {
			t.Errorf("not in UTC: %s", out)
		}
		return m
	}
	if m := last(); len(m) != 0 {
		t.Errorf("%v", m)
	}
	// A row that stands in the way.
	target.Exec("INSERT INTO t VALUES (1000, 'in the way')")
	source.Exec("INSERT INTO t VALUES (1000, 'y')")
	run := "pgdecode --slot " + slot + " --until now | pgapply"
	if status, _, errs := e.Run(nil, "bash", "-o", "pipefail", "-c", run); status == 0 {
		t.Fatal(errs)
	}
	if m := last(); len(m) != 1 || m["pgapply"].Status == 0 || !strings.Contains(m["pgapply"].Message, "public.t") {
		t.Errorf("%+v", m)
	}
	target.Exec("DELETE FROM t WHERE a = 1000")
	e.Bash(run)
	// One that cannot decode any more.
	sync := e.Start(nil, nil, "bash", "-o", "pipefail", "-c", "pgdecode --slot "+slot+" | pgapply")
	pgtest.Wait(t, soon, "the slot is read", func() bool {
		return source.Query("SELECT active FROM pg_replication_slots WHERE slot_name = '"+slot+"'") == "t"
	})
	source.Exec("DROP PUBLICATION "+slot, "INSERT INTO t VALUES (1001, 'y')")
	if status := sync.Wait(soon); status == 0 {
		t.Error("it decodes without a publication")
	}
	if m := last(); m["pgdecode"].Status == 0 || !strings.Contains(m["pgdecode"].Message, slot) {
		t.Errorf("%+v: %s", m, sync.Errors())
	}
	// Ones that have not come so far as to begin a stream: they cannot reach the source.
	confirmed := filepath.Join(t.TempDir(), "confirmed")
	if err := os.WriteFile(confirmed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for program, args := range map[string]string{"pgdecode": " --confirm-from " + confirmed, "pgextract": " --resume"} {
		status, _, errs := e.Run(nil, "bash", "-o", "pipefail", "-c",
			"PGSLUICE_SOURCE=postgres://127.0.0.1:1/x "+program+" --slot "+slot+args+" | pgapply")
		if m := last(); status != 65 || m[program].Status != 75 ||
			!strings.Contains(m[program].Message, "could not connect") ||
			!strings.Contains(errs, "the input is empty") {
			t.Errorf("status %d, %+v: %s", status, m, errs)
		}
	}
	// And one that cannot read the schema.
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "pg_dump"),
		[]byte("#!/bin/sh\ncase \"$*\" in *version*) echo 'pg_dump (PostgreSQL) 99.0' && exit ;; esac\necho no >&2\nexit 1\n"),
		0o755); err != nil {
		t.Fatal(err)
	}
	status, _, errs := e.Run(nil, "bash", "-o", "pipefail", "-c", "PATH="+dir+":$PATH; pgextract | pgapply")
	if status == 0 {
		t.Errorf("no pg_dump: %s", errs)
	}
	if got := target.Query("SELECT count(*) FROM pgsluice.failures f JOIN pgsluice.streams s USING (stream_id) WHERE f.program = 'pgextract' AND s.slot = ''"); got != "1" {
		t.Errorf("pgextract has not said why it failed: %s", errs)
	}
	if status, out, errs := e.Run(nil, "pgcutover", "status", "--slot", slot, "--get",
		"last_errors"); status != 0 || !strings.Contains(string(out), `"pgdecode"`) {
		t.Errorf("%d: %s%s", status, out, errs)
	}
	out := string(e.Must(nil, "pgcutover", "status", "--slot", slot))
	if !strings.Contains(out, "last error") || !strings.Contains(out, " JST, status ") || strings.Contains(out, "UTC") {
		t.Errorf("%s", out)
	}
}
