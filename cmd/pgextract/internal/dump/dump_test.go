package dump

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A password must not stand on a command line, where everybody on the machine can read it.
func TestWithoutPassword(t *testing.T) {
	for dsn, want := range map[string]string{
		"postgres://me:geheim@host/db":                                    "postgres://me@host/db",
		"postgresql://me:geheim@h1:1,h2:2/db?sslmode=require":             "postgresql://me@h1:1,h2:2/db?sslmode=require",
		"postgres://me:ge%40heim@[::1]:5432/db":                           "postgres://me@[::1]:5432/db",
		"postgres://me:ge@heim@host":                                      "postgres://me@host",
		"postgres://me@host/db?password=geheim&x=1":                       "postgres://me@host/db?&x=1",
		"postgres://host?user=me&password=geheim":                         "postgres://host?user=me&",
		"postgres://me@host/db?sslpassword=geheim":                        "postgres://me@host/db?",
		"postgres:///db?host=/run":                                        "postgres:///db?host=/run",
		"postgres://me@host/a:b@c":                                        "postgres://me@host/a:b@c",
		"host=h password=geheim dbname=d":                                 "host=h  dbname=d",
		"password = 'ge \\' heim' host=h":                                 " host=h",
		"host=h password=ge\\ heim user=u":                                "host=h  user=u",
		"host=h sslpassword=geheim":                                       "host=h ",
		"host=h passfile=/x user=u options='-c password_encryption=none'": "host=h passfile=/x user=u options='-c password_encryption=none'",
		"": "",
	} {
		if got := withoutPassword(dsn); got != want {
			t.Errorf("%q becomes %q, not %q", dsn, got, want)
		}
	}
}

func TestSchema(t *testing.T) {
	d := sample(t)
	ctx := pgtest.Context(t)
	entries, _, err := Schema(ctx, Options{DSN: d.URI, Version: d.Major * 10000, Args: []string{`--exclude-schema="S s"`}})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.Schema == "S s" {
			t.Errorf("the options were not passed on: %+v", e)
		}
	}
	// The password is passed on, but not on the command line.
	settings, _ := pgtest.TLS(t)
	s := pgtest.Start(t, 0, settings...)
	d = s.Database(t, "")
	d.Exec("CREATE ROLE locked SUPERUSER LOGIN PASSWORD 'right'", "CREATE TABLE t ()")
	hba := d.Query("SHOW hba_file")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba, append([]byte("host all locked all scram-sha-256\n"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	d.Exec("SELECT pg_reload_conf()")
	if entries, _, err = Schema(ctx, Options{DSN: d.As("locked", "right"), Password: "right",
		Version: s.Major * 10000}); err != nil || len(entries) == 0 {
		t.Errorf("%d entries, %v", len(entries), err)
	}
	for name, o := range map[string]Options{
		"no such database": {DSN: s.URI("nothing")},
		"no such snapshot": {DSN: d.URI, Snapshot: "00000003-0000001B-1"},
		"nobody listens":   {DSN: "postgres://postgres@127.0.0.1:1/postgres"},
		"wrong password":   {DSN: d.As("locked", "wrong"), Password: "wrong"},
	} {
		o.Version = s.Major * 10000
		_, _, err := Schema(ctx, o)
		want, hint := fault.Failed, "--data-only"
		if name == "no such snapshot" || name == "nobody listens" {
			want, hint = fault.TryAgain, "--resume"
		}
		var f *fault.Error
		if !errors.As(err, &f) || f.Status != want ||
			!strings.Contains(err.Error(), "pg_dump failed: ") || !strings.Contains(f.Hint, hint) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// pg_dump's session has the settings that it is given, and neither those of the database nor the
// user's own.
func TestDumpSettings_P5(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE SCHEMA evil", "CREATE TABLE evil.calls (what text)",
		"CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$INSERT INTO evil.calls VALUES ('set_config') RETURNING 'x'$$",
		`SET standard_conforming_strings = on; CREATE TABLE t (a text DEFAULT 'a\b')`,
		"ALTER DATABASE "+d.Name+" SET standard_conforming_strings = off",
		"ALTER DATABASE "+d.Name+" SET search_path = evil, pg_catalog",
		"ALTER DATABASE "+d.Name+" SET quote_all_identifiers = on")
	t.Setenv("PGOPTIONS", "-c standard_conforming_strings=off")
	service := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(service, fmt.Appendf(nil,
		"[mine]\nhost=127.0.0.1\nport=%d\nuser=postgres\ndbname=%s\noptions=-c search_path=evil\n", d.Port,
		d.Name), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", service)
	for k, v := range map[string]string{"PGHOST": "127.0.0.1", "PGPORT": fmt.Sprint(d.Port), "PGUSER": "postgres", "PGDATABASE": d.Name} {
		t.Setenv(k, v)
	}
	for _, dsn := range []string{"", d.URI, d.URI + "&options=-c%20search_path%3Devil%2Cpg_catalog",
		"service=mine", fmt.Sprintf("host=127.0.0.1 options='-c search_path=evil' port=%d", d.Port)} {
		server := pgdial.Server{Side: "source", DSN: dsn, App: "test"}
		settings, err := server.Options()
		if err != nil {
			t.Fatal(err)
		}
		entries, _, err := Schema(context.Background(), Options{DSN: dsn, Settings: settings, Version: d.Major * 10000})
		if err != nil {
			t.Fatalf("%q: %v", dsn, err)
		}
		found := false
		for _, e := range entries {
			if e.Desc == "TABLE" && e.Tag == "t" {
				found = true
				if !strings.Contains(e.SQL, `DEFAULT 'a\b'`) || strings.Contains(e.SQL, `"t"`) {
					t.Errorf("%q: %s", dsn, e.SQL)
				}
			}
		}
		if !found {
			t.Errorf("%q: the table is not there: %+v", dsn, entries)
		}
	}
	if got := d.Query("SET search_path = ''; SELECT count(*) FROM evil.calls"); got != "0" {
		t.Errorf("%s functions of the database's owner were called", got)
	}
}

// The first pg_dump that is not older than the source is run: PATH's own, or one that is installed
// beside it.
func TestFind(t *testing.T) {
	ctx := context.Background()
	real, err := find(ctx, pgtest.Source(t).Major*10000)
	if err != nil {
		t.Fatal(err)
	}
	old := filepath.Join(t.TempDir(), "pg_dump")
	if err := os.WriteFile(old, []byte("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", filepath.Dir(old)+":"+os.Getenv("PATH"))
	if got, err := find(ctx, 90600); err != nil || got != old {
		t.Errorf("got %s, %v", got, err)
	}
	if got, err := find(ctx, 100000); err != nil || got == old {
		t.Errorf("got %s, %v; with the other PATH %s", got, err, real)
	}
	var f *fault.Error
	if _, err := find(ctx, 990000); !errors.As(err, &f) || f.Status != fault.Config ||
		!strings.Contains(f.Hint, "postgresql-client-99") || !strings.Contains(f.Detail, "9") {
		t.Errorf("got %+v", err)
	}
}

func TestWarnings_C23(t *testing.T) {
	got := warningsIn("pg_dump: warning: there is something\npg_dump: detail: It is odd.\npg_dump: hint: Look.\n\npg_dump: WARNING: older\n")
	if want := []string{"there is something; detail: It is odd.; hint: Look.", "older"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if list := warningsIn(""); list != nil {
		t.Errorf("%q", list)
	}
}
