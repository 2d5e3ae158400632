package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A role that does not see the sessions of others cannot fence: neither check nor fence takes what
// it does not see for nothing. With the rights, the fence ends a session that calls itself one of
// ours.
func TestFenceSeesHiddenSessions_F1_F2_F4_F11(t *testing.T) {
	pgtest.Raced(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	mover, app := "mover_"+source.Name, "app_"+source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE "+mover+" LOGIN REPLICATION", "CREATE ROLE "+app+" LOGIN")
		t.Cleanup(func() { d.Exec("DROP OWNED BY "+app+", "+mover, "DROP ROLE "+app+", "+mover) })
	}
	source.Exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO " + app + ", " + mover)
	m.load()
	source.Exec("ALTER DATABASE " + source.Name + " OWNER TO " + mover)
	t.Cleanup(func() { source.Exec("ALTER DATABASE " + source.Name + " OWNER TO postgres") })
	uri := source.As(app, "")
	if !strings.Contains(uri, "?") {
		uri += "?"
	} else {
		uri += "&"
	}
	session, err := pgx.Connect(pgtest.Context(t), uri+"application_name=pgdecode")
	if err != nil {
		t.Fatal(err)
	}
	defer session.Close(pgtest.Context(t))
	for _, right := range []string{"pg_read_all_stats", "pg_signal_backend"} {
		out, _ := m.cut(78, "check", "--source", source.As(mover, ""))
		says(t, out, right)
		for _, args := range [][]string{{"fence"}, {"fence", "--check"}} {
			_, errs := m.cut(77, append(args, "--source", source.As(mover, ""))...)
			says(t, errs, right)
		}
		if s := m.status(); s.steps() != "" {
			t.Errorf("nothing was closed, but status has steps: %s", s.steps())
		}
		if _, err := session.Exec(pgtest.Context(t), "INSERT INTO log VALUES ('open')"); err != nil {
			t.Error(err)
		}
		source.Exec("GRANT " + right + " TO " + mover)
	}
	// sync is at work as a superuser, whose sessions only one of those may end
	m.cut(0, "fence")
	if _, err := session.Exec(pgtest.Context(t), "INSERT INTO log VALUES ('fenced')"); err == nil {
		t.Error("a session that calls itself pgdecode was not ended")
	}
	m.cut(0, "unfence")
	// A role's own setting, in a spelling that the server takes.
	for _, off := range []string{"'f'", "'OFF'", "'n'", "0", "'fal'"} {
		source.Exec("ALTER ROLE " + app + " SET default_transaction_read_only = " + off)
		_, errs := m.cut(78, "fence")
		says(t, errs, app)
	}
	source.Exec("ALTER ROLE " + app + " IN DATABASE " + source.Name + " SET default_transaction_read_only = 'yes'")
	m.cut(0, "fence", "--check") // this setting wins
}
