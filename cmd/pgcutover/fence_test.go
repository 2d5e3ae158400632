package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// who opens a session of a role, with further options of the connection.
func who(t *testing.T, d *pgtest.DB, role, options string) (*pgx.Conn, error) {
	t.Helper()
	uri := d.As(role, "")
	if options != "" && strings.Contains(uri, "?") {
		uri += "&" + options
	} else if options != "" {
		uri += "?" + options
	}
	c, err := pgx.Connect(pgtest.Context(t), uri)
	if err == nil {
		t.Cleanup(func() { _ = c.Close(pgtest.Context(t)) })
	}
	return c, err
}

// A role that does not see the sessions of others cannot fence: neither check nor fence takes what
// it does not see for nothing. With the rights, the fence ends a session that calls itself one of
// ours, and nobody comes back: not even the owner of the database with BEGIN READ WRITE. What it
// may not end is named before anything is closed. unfence restores exactly what was there.
func TestFenceHolds_F1_F2_F3_F4_F5_F8_F11(t *testing.T) {
	ctx := pgtest.Context(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	mover, app := "mover_"+source.Name, "app_"+source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE "+mover+" LOGIN REPLICATION", "CREATE ROLE "+app+" LOGIN", "GRANT "+app+" TO "+mover)
		t.Cleanup(func() {
			_, _ = d.Try("BEGIN READ WRITE; ALTER DATABASE " + d.Name + " OWNER TO postgres; DROP OWNED BY " + app + ", " + mover + "; COMMIT")
			d.Exec("BEGIN READ WRITE; DROP ROLE " + app + ", " + mover + "; COMMIT")
		})
	}
	source.Exec("GRANT ALL ON ALL TABLES IN SCHEMA public TO "+app+", "+mover, "ALTER DATABASE "+source.Name+" OWNER TO "+app)
	m.load() // sync is at work as a superuser, whose sessions only one of those may end
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	session, err := who(t, source, app, "application_name=pgdecode")
	if err != nil {
		t.Fatal(err)
	}
	fence := func(status int, args ...string) string {
		t.Helper()
		_, errs := m.cut(status, append(args, "--source", source.As(mover, ""))...)
		return errs
	}
	open := func(when string) {
		t.Helper()
		if s := m.status(); s.steps() != "" {
			t.Errorf("%s: nothing was closed, but status has steps: %s", when, s.steps())
		}
		if _, err := session.Exec(ctx, "INSERT INTO log VALUES ('open')"); err != nil {
			t.Errorf("%s: %v", when, err)
		}
	}
	for _, right := range []string{"pg_read_all_stats", "pg_signal_backend"} {
		out, _ := m.cut(78, "check", "--source", source.As(mover, ""))
		says(t, out, right)
		says(t, fence(77, "fence"), right)
		says(t, fence(77, "fence", "--check"), right)
		open(right)
		source.Exec("GRANT " + right + " TO " + mover)
	}
	// A superuser's session stands in the way, together with a role that is exempt, in any spelling
	// that the server takes.
	super := source.Connect()
	for _, off := range []string{"'f'", "'OFF'", "'n'", "0", "'fal'"} {
		source.Exec("ALTER ROLE " + app + " SET default_transaction_read_only = " + off)
		if off == "'f'" {
			says(t, fence(78, "fence"), "2 conditions", app, "process", "--trust postgres")
		} else {
			says(t, fence(78, "fence", "--check", "--trust", "postgres"), app)
		}
	}
	open("exempt")
	// The worker of a subscription writes even into a read-only database.
	source.Exec("CREATE SUBSCRIPTION sub_"+source.Name+" CONNECTION 'host=127.0.0.1 port=1 dbname=none' PUBLICATION p WITH (connect = false, slot_name = 'x')",
		"ALTER SUBSCRIPTION sub_"+source.Name+" ENABLE")
	says(t, fence(78, "fence", "--trust", "postgres"), "ALTER SUBSCRIPTION \"sub_"+source.Name+"\" DISABLE")
	out, _ := m.cut(78, "check", "--source", source.As(mover, ""))
	says(t, out, "error\tthe source takes changes from a subscription, which no fence stops: sub_"+source.Name)
	source.Exec("ALTER SUBSCRIPTION sub_"+source.Name+" DISABLE", "ALTER SUBSCRIPTION sub_"+source.Name+" SET (slot_name = NONE)", "DROP SUBSCRIPTION sub_"+source.Name)
	open("subscription")
	source.Exec("ALTER ROLE " + app + " IN DATABASE " + source.Name + " SET default_transaction_read_only = 'yes'") // this one wins
	out, _ = m.cut(78, "check", "--source", source.As(mover, ""))
	says(t, out, "error\tonly a superuser may end these sessions")
	if _, err := super.Exec(ctx, "BEGIN"); err != nil {
		t.Fatal(err)
	}
	fence(78, "fence", "--trust", "postgres") // it is not idle
	open("a superuser's transaction")
	if _, err := super.Exec(ctx, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	rights := "SELECT string_agg(concat(a), ' ' ORDER BY concat(a)) FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = current_database()"
	for _, had := range []string{"GRANT CONNECT ON DATABASE %s TO PUBLIC", "REVOKE CONNECT ON DATABASE %s FROM PUBLIC; GRANT CONNECT ON DATABASE %[1]s TO " + mover + " WITH GRANT OPTION",
		"SET ROLE " + mover + "; GRANT CONNECT ON DATABASE %s TO PUBLIC"} {
		source.Exec(fmt.Sprintf(had, source.Name))
		target.Exec(fmt.Sprintf(had, target.Name))
		before := source.Query(rights)
		if session.IsClosed() {
			if session, err = who(t, source, app, ""); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			fence(0, "fence", "--trust", "postgres")
		}
		if _, err := session.Exec(ctx, "INSERT INTO log VALUES ('fenced')"); err == nil {
			t.Error("a session that calls itself pgdecode was not ended")
		}
		for _, options := range []string{"", "options=-c%20default_transaction_read_only%3Doff"} {
			c, err := who(t, source, app, options)
			if strings.Contains(had, "SET ROLE") { // this grant cannot be given back: it is kept
				if err != nil {
					t.Error(err)
				}
			} else if err == nil {
				_, err = c.Exec(ctx, "BEGIN READ WRITE; INSERT INTO log VALUES ('fenced'); COMMIT")
				t.Errorf("the owner can connect to the fenced source, and write: %v", err)
			}
		}
		if _, err := super.Exec(ctx, "SELECT 1"); err != nil {
			t.Error(err)
		}
		during, err := who(t, source, mover, "")
		if err != nil {
			t.Fatal(err)
		}
		fence(0, "drain")
		if out, _ := m.cut(0, "missing", "--source", source.As(mover, "")); strings.Contains(out, "database") {
			t.Errorf("the fence's own rights are a difference:\n%s", out)
		}
		m.cut(0, "status")
		fence(0, "unfence")
		if after := source.Query(rights); after != before {
			t.Errorf("the rights were\n%s\nand are\n%s", before, after)
		}
		if _, err := during.Exec(ctx, "SELECT 1"); err == nil {
			t.Error("a session of the fence's time stays read-only")
		}
		if _, err := super.Exec(ctx, "INSERT INTO log VALUES ('free')"); err != nil {
			t.Error(err)
		}
	}
	out, _ = m.cut(78, "check", "--source", source.As(mover, ""))
	says(t, out, "warning\tthe fence will not refuse connections to the source", mover)
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("SET ROLE "+mover+"; REVOKE CONNECT ON DATABASE "+d.Name+" FROM PUBLIC", "REVOKE CONNECT ON DATABASE "+d.Name+" FROM "+mover)
	}
}
