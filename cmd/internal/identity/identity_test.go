package identity

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// Two sessions tell by themselves whether they are on one database; any role may ask.
func TestSame(t *testing.T) {
	ctx := pgtest.Context(t)
	a := pgtest.Source(t).Database(t, "")
	b := pgtest.Source(t).Database(t, "")
	other := pgtest.Target(t).Database(t, "")
	role := "nobody_" + a.Name
	a.Exec("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() { _, _ = b.Try("DROP ROLE " + role) })
	connect := func(uri string) *pgx.Conn {
		c, err := pgx.Connect(context.Background(), uri)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		return c
	}
	first := a.Connect()
	for _, c := range []struct {
		with *pgx.Conn
		same bool
	}{{a.Connect(), true}, {connect(a.As(role, "")), true}, {b.Connect(), false}, {other.Connect(), false}} {
		for _, pair := range [][2]*pgx.Conn{{first, c.with}, {c.with, first}} {
			if same, err := Same(ctx, pair[0], pair[1]); err != nil || same != c.same {
				t.Errorf("%v, %v instead of %v", same, err, c.same)
			}
		}
	}
	// A probe lives as long as the session that holds it.
	p, err := Hold(ctx, first)
	if err != nil {
		t.Fatal(err)
	}
	second := a.Connect()
	if seen, err := p.Seen(ctx, second); err != nil || !seen {
		t.Errorf("%v, %v", seen, err)
	}
	_ = first.Close(ctx)
	for {
		seen, err := p.Seen(ctx, second)
		if err != nil {
			t.Fatal(err)
		}
		if !seen {
			break
		}
	}
}

// Whoever may connect to both sides sees the source's probe and takes the same lock on the target:
// they are two databases nevertheless. Neither does it help him on another server, nor beside the
// source in the same one.
func TestProbeMirrored_I2(t *testing.T) {
	ctx := pgtest.Context(t)
	source := pgtest.Source(t).Database(t, "")
	role := "mirror_" + source.Name
	source.Exec("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() {
		admin := pgtest.Source(t).Database(t, "")
		admin.Exec("DROP ROLE " + role)
	})
	p, err := Hold(ctx, source.Connect())
	if err != nil {
		t.Fatal(err)
	}
	for _, other := range []*pgtest.DB{source.Server.Database(t, ""), pgtest.Target(t).Database(t, "")} {
		user := other.URI
		if other.Server == source.Server {
			user = other.As(role, "")
		}
		c, err := pgx.Connect(ctx, user)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		if _, err := c.Exec(ctx, "SELECT pg_catalog.pg_advisory_lock($1)", int64(p)); err != nil {
			t.Fatal(err)
		}
		if seen, err := p.Seen(ctx, other.Connect()); err != nil || seen {
			t.Errorf("a probe that another process holds is seen: %v, %v", seen, err)
		}
	}
	if seen, err := p.Seen(ctx, source.Connect()); err != nil || !seen {
		t.Errorf("%v, %v", seen, err)
	}
}

// Whether the identifier may be asked for or not, a transaction goes on, and two sessions tell
// whether they are on one database.
func TestSystemClosed_F13(t *testing.T) {
	ctx := pgtest.Context(t)
	d := pgtest.Source(t).Database(t, "")
	role := "closed_" + d.Name
	d.Exec("CREATE ROLE "+role+" LOGIN", "REVOKE EXECUTE ON FUNCTION pg_catalog.pg_control_system() FROM PUBLIC")
	t.Cleanup(func() {
		admin := pgtest.Source(t).Database(t, "")
		admin.Exec("DROP ROLE " + role)
	})
	for user, known := range map[string]bool{role: false, "postgres": true} {
		c, err := pgx.Connect(ctx, d.As(user, ""))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(context.Background()) })
		if _, err := c.Exec(ctx, "BEGIN READ ONLY"); err != nil {
			t.Fatal(err)
		}
		if id, err := System(ctx, c); err != nil || (id != "") != known {
			t.Errorf("%s: %q, %v", user, id, err)
		}
		if same, err := Same(ctx, c, d.Connect()); err != nil || !same {
			t.Errorf("%s: %v, %v", user, same, err)
		}
	}
}

func TestLine_I9(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	line := Line("source", d.Connect())
	if !strings.HasPrefix(line, "source  postgres@127.0.0.1:") || !strings.Contains(line, "/"+d.Name+" (PostgreSQL ") {
		t.Error(line)
	}
	// A name may have what moves a terminal's cursor, or looks like the end of a line.
	const role = "a\x1b[2J\nb\u202eä \x7f"
	d.Exec(`CREATE ROLE "` + role + `" LOGIN PASSWORD 'x'`)
	t.Cleanup(func() { d.Exec(`DROP ROLE "` + role + `"`) })
	config, err := pgx.ParseConfig(d.URI)
	if err != nil {
		t.Fatal(err)
	}
	config.User, config.Password = role, "x"
	c, err := pgx.ConnectConfig(pgtest.Context(t), config)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(pgtest.Context(t))
	if got := Line("source", c); !strings.HasPrefix(got, `source  a\x1b[2J\nb\u202eä \x7f@127.0.0.1:`) {
		t.Error(got)
	}
}
