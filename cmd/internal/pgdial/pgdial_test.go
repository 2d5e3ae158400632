package pgdial_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func source(uri string) pgdial.Server { return pgdial.Server{Side: "source", DSN: uri, App: "test"} }

// The two ways to connect set the same, and fail the same.
var ways = map[string]func(ctx context.Context, s pgdial.Server) (*pgconn.PgConn, error){
	"Connect": func(ctx context.Context, s pgdial.Server) (*pgconn.PgConn, error) {
		c, err := s.Connect(ctx)
		if err != nil {
			return nil, err
		}
		return c.PgConn(), nil
	},
	"ConnectRaw": func(ctx context.Context, s pgdial.Server) (*pgconn.PgConn, error) {
		c, _, err := s.ConnectRaw(ctx, false)
		return c, err
	},
	"replication": func(ctx context.Context, s pgdial.Server) (*pgconn.PgConn, error) {
		c, _, err := s.ConnectRaw(ctx, true)
		return c, err
	},
}

// ask returns a query's only value.
func ask(t *testing.T, c *pgconn.PgConn, sql string) string {
	t.Helper()
	r, err := c.Exec(pgtest.Context(t), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return string(r[len(r)-1].Rows[0][0])
}

// Sessions print values the way that the stream promises, whatever the database, the role and the
// environment say.
func TestSession(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	settings := map[string]string{"DateStyle": "German, DMY", "IntervalStyle": "iso_8601",
		"extra_float_digits": "-15", "bytea_output": "escape",
		"TimeZone": "Asia/Tokyo", "lc_monetary": "C", "statement_timeout": "20s", "lock_timeout": "20s",
		"idle_in_transaction_session_timeout": "20s", "exit_on_error": "on",
		"row_security": "on", "client_encoding": "LATIN1"}
	for k, v := range settings {
		d.Exec(fmt.Sprintf("ALTER DATABASE %s SET %s = '%s'", d.Name, k, v))
	}
	t.Setenv("PGTZ", "America/Lima")
	t.Setenv("PGOPTIONS", "-c datestyle=SQL")
	want := map[string]string{"DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "extra_float_digits": "3",
		"bytea_output": "hex", "TimeZone": "UTC",
		"lc_monetary": "C", "statement_timeout": "0", "lock_timeout": "0",
		"idle_in_transaction_session_timeout": "0", "row_security": "off", "exit_on_error": "off",
		"client_encoding": "UTF8", "application_name": "test"}
	for name, connect := range ways {
		c, err := connect(pgtest.Context(t), source(d.URI))
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range want {
			if got := ask(t, c, "SHOW "+k); got != v {
				t.Errorf("%s: %s is %q, not %q", name, k, got, v)
			}
		}
		if got := ask(t, c, "SHOW server_version_num"); got != fmt.Sprint(pgdial.Version(c)) {
			t.Errorf("%s: version %d is %s", name, pgdial.Version(c), got)
		}
		_ = c.Close(pgtest.Context(t))
	}
	c, err := ways["Connect"](pgtest.Context(t), source(d.URI+"&application_name=mine"))
	if err != nil {
		t.Fatal(err)
	}
	if got := ask(t, c, "SHOW application_name"); got != "mine" {
		t.Errorf("application_name is %s", got)
	}
	_ = c.Close(pgtest.Context(t))
	ascii := pgtest.Source(t).Database(t, "ENCODING 'SQL_ASCII' TEMPLATE template0")
	if c, err = ways["ConnectRaw"](pgtest.Context(t), source(ascii.URI)); err != nil {
		t.Fatal(err)
	}
	if got := ask(t, c, "SHOW client_encoding"); got != "SQL_ASCII" {
		t.Errorf("client_encoding is %s for a database in SQL_ASCII", got)
	}
	_ = c.Close(pgtest.Context(t))
}

// Every session begins with an empty search path, reads statements as they are meant, and is who it
// has logged in as: whatever the owner of the database has preset, no function of his is called.
func TestSearchPath_P5(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	owner := "owner_" + d.Name
	d.Exec("CREATE ROLE "+owner+" LOGIN SUPERUSER REPLICATION", "CREATE ROLE other_"+owner)
	defer d.Exec("DROP OWNED BY "+owner, "DROP ROLE "+owner, "DROP ROLE other_"+owner)
	d.Exec("CREATE SCHEMA evil", "CREATE TABLE evil.calls (what text)",
		"CREATE FUNCTION evil.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS $$INSERT INTO evil.calls VALUES ('set_config') RETURNING 'x'$$",
		"CREATE FUNCTION evil.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS $$INSERT INTO evil.calls VALUES ('pg_is_in_recovery') RETURNING false$$")
	for _, preset := range []string{"search_path = evil, pg_catalog", "standard_conforming_strings = off",
		"array_nulls = off", "transform_null_equals = on", "xmloption = document",
		"quote_all_identifiers = on", "client_min_messages = debug1"} {
		name, _, _ := strings.Cut(preset, " = ")
		if _, err := d.Try("ALTER DATABASE " + d.Name + " SET " + preset); err != nil && name != "standard_conforming_strings" {
			// fixed from 19 on
			t.Fatal(err)
		}
		if _, err := d.Try("ALTER ROLE " + owner + " IN DATABASE " + d.Name + " SET " + preset); err != nil &&
			name != "standard_conforming_strings" {
			t.Fatal(err)
		}
	}
	d.Exec("ALTER ROLE " + owner + " SET role = other_" + owner)
	want := map[string]string{"search_path": "", "standard_conforming_strings": "on", "array_nulls": "on",
		"transform_null_equals": "off", "xmloption": "content",
		"quote_all_identifiers": "off", "client_min_messages": "error", "role": "none"}
	for name, connect := range ways {
		for _, dsn := range []string{d.As(owner, ""),
			d.As(owner, "") + "&target_session_attrs=primary&search_path=evil",
			d.As(owner, "") + "&Search_Path=evil",
			d.As(owner, "") + "&options=-c%20search_path%3Devil%20-c%20array_nulls%3Doff"} {
			c, err := connect(pgtest.Context(t), source(dsn))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for k, v := range want {
				if got := ask(t, c, "SHOW "+k); got != v {
					t.Errorf("%s, %s: %s is %q, not %q", name, dsn, k, got, v)
				}
			}
			_ = c.Close(pgtest.Context(t))
		}
		// Who asks for a role in the connection string gets it.
		for _, role := range []string{"&role=other_" + owner, "&options=-c%20role%3Dother_" + owner} {
			c, err := connect(pgtest.Context(t), source(d.As(owner, "")+role))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if got := ask(t, c, "SHOW role"); got != "other_"+owner {
				t.Errorf("%s: role is %s", name, got)
			}
			_ = c.Close(pgtest.Context(t))
		}
	}
	if got := d.Query("SELECT count(*) FROM evil.calls"); got != "0" {
		t.Errorf("%s functions of the database's owner were called", got)
	}
	// A superuser who logs in is no other role, even if the database makes it one.
	if _, err := d.Try("ALTER DATABASE " + d.Name + " SET session_authorization = " + owner); err == nil {
		for name, connect := range ways {
			if c, err := connect(pgtest.Context(t), source(d.URI)); err == nil {
				if got := ask(t, c, "SHOW session_authorization"); got != "postgres" {
					t.Errorf("%s: the session belongs to %s", name, got)
				}
				_ = c.Close(pgtest.Context(t))
			} else if fault.StatusOf(err) != fault.Config {
				t.Errorf("%s: status %d, %v", name, fault.StatusOf(err), err)
			}
		}
		d.Exec("ALTER DATABASE " + d.Name + " RESET ALL")
	}
}

// A pooler either does not know our settings or leaves them out. Both are found out at once, and
// for good, and the pooler is named.
func TestPooler_P5_C10(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	const all = "search_path, array_nulls, transform_null_equals, xmloption, quote_all_identifiers, intervalstyle, extra_float_digits, bytea_output, lc_monetary, statement_timeout, lock_timeout, client_min_messages, role"
	for _, x := range [][2]string{{"transaction", ""}, {"transaction", all}, {"session", ""}, {"session", all}} {
		mode, ignore := x[0], x[1]
		b := pgtest.StartPgBouncer(t, fmt.Sprintf("%s = host=127.0.0.1 port=%d dbname=%[1]s user=postgres", d.Name, d.Port),
			"auth_type=any", "pool_mode="+mode, "ignore_startup_parameters="+ignore)
		dsn := "postgres://postgres@127.0.0.1:" + b.Port + "/" + d.Name + "?sslmode=disable"
		for _, name := range []string{"Connect", "ConnectRaw"} {
			c, err := ways[name](pgtest.Context(t), source(dsn))
			if err == nil {
				_ = c.Close(pgtest.Context(t))
			}
			var f *fault.Error
			if fault.StatusOf(err) != fault.Config || !errors.As(err, &f) || !strings.Contains(f.Error()+f.Detail, "PgBouncer") {
				t.Errorf("%s, %s mode, ignoring %q: status %d, %v", name, mode, ignore, fault.StatusOf(err), err)
			}
		}
		b.Stop()
	}
}

// A server that is too old is refused by its version, whatever is asked of it; one that is even
// older does not know our settings.
func TestOldServer_H6(t *testing.T) {
	for _, version := range []string{"9.5.25", "9.4.26", "8.4.22"} {
		uri := pgtest.Stub{Version: version}.Start(t)
		for name, connect := range ways {
			c, err := connect(pgtest.Context(t), source(uri))
			if err == nil {
				_ = c.Close(pgtest.Context(t))
			}
			if fault.StatusOf(err) != fault.Config || !strings.Contains(err.Error(), version) {
				t.Errorf("%s, %s: status %d, %v", name, version, fault.StatusOf(err), err)
			}
		}
	}
}

// Where to connect to: the flag, then our own variables, then libpq's.
func TestWhere(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	t.Setenv("PGSLUICE_SOURCE", "")
	t.Setenv("PGSLUICE_TARGET", "of the environment")
	if s := pgdial.Source("of the flag", "", "a"); s.DSN != "of the flag" || s.Side != "source" || s.App != "a" {
		t.Errorf("%+v", s)
	}
	if s := pgdial.Target("", "", "a"); s.DSN != "of the environment" || s.Side != "target" {
		t.Errorf("%+v", s)
	}
	for k, v := range map[string]string{"PGHOST": "127.0.0.1", "PGPORT": fmt.Sprint(d.Port),
		"PGUSER": "postgres", "PGDATABASE": d.Name, "PGSSLMODE": "disable"} {
		t.Setenv(k, v)
	}
	service := filepath.Join(t.TempDir(), "services")
	if err := os.WriteFile(service, fmt.Appendf(nil,
		"[mine]\nhost=127.0.0.1\nport=%d\nuser=postgres\ndbname=%s\n", d.Port, d.Name), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PGSERVICEFILE", service)
	for _, dsn := range []string{"", d.URI, fmt.Sprintf("host=127.0.0.1 port=%d user=postgres dbname=%s", d.Port, d.Name), "service=mine"} {
		c, err := source(dsn).Connect(pgtest.Context(t))
		if err != nil {
			t.Errorf("%q: %v", dsn, err)
			continue
		}
		if got := ask(t, c.PgConn(), "SELECT current_database()"); got != d.Name {
			t.Errorf("%q: connected to %s", dsn, got)
		}
		_ = c.Close(pgtest.Context(t))
	}
}

// Everything that can go wrong when connecting has the status that tells a loop whether to try
// again, and never the password.
func TestConnectErrors(t *testing.T) {
	s := pgtest.Start(t, 0, "max_connections=4", "superuser_reserved_connections=1", "max_wal_senders=0", "ssl=off")
	d := s.Database(t, "")
	d.Exec("CREATE ROLE locked LOGIN PASSWORD 'right'", "CREATE ROLE barred LOGIN", "CREATE ROLE nologin", "CREATE ROLE ordinary LOGIN")
	hba := d.Query("SHOW hba_file")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(hba,
		append([]byte("host all locked all scram-sha-256\nhost all barred all reject\n"), text...),
		0o600); err != nil {
		t.Fatal(err)
	}
	d.Exec("SELECT pg_reload_conf()")
	pgtest.Wait(t, 10*time.Second, "pg_hba.conf is read", func() bool {
		return d.Query("SELECT count(*) FROM pg_hba_file_rules WHERE user_name = '{barred}'") == "1"
	})
	address := fmt.Sprintf("127.0.0.1:%d", s.Port)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := closed.Addr().String()
	_ = closed.Close()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	no := "?sslmode=disable"
	for _, c := range []struct {
		name, dsn string
		status    fault.Status
		says      string
	}{
		{"connection refused", "postgres://me:geheim@" + refused + "/db" + no, fault.TryAgain, "refused"},
		{"unknown host", "postgres://me:geheim@no-such-host.invalid/db" + no, fault.Unavailable, "no such host"},
		{"silence", "postgres://me:geheim@" + silent.Addr().String() + "/db" + no + "&connect_timeout=1", fault.TryAgain, "timeout"},
		{"wrong password", "postgres://locked:geheim@" + address + "/" + d.Name + no, fault.Permission, "password authentication failed"},
		{"no password", "postgres://locked@" + address + "/" + d.Name + no, fault.Permission, "password"},
		{"no pg_hba entry", "postgres://barred:geheim@" + address + "/" + d.Name + no, fault.Permission, "pg_hba.conf"},
		{"unknown role", "postgres://nobody:geheim@" + address + "/" + d.Name + no, fault.Permission, "nobody"},
		{"not permitted to log in", "postgres://nologin:geheim@" + address + "/" + d.Name + no, fault.Permission, "nologin"},
		{"unknown database", "postgres://postgres:geheim@" + address + "/nothing" + no, fault.Unavailable, `"nothing"`},
		{"no TLS", "postgres://postgres:geheim@" + address + "/" + d.Name + "?sslmode=require", fault.Config, "TLS"},
		{"not a URI", "postgres://me:ge%zzheim@host/db", fault.Usage, "connection string"},
		{"a wrong keyword", "host=x password=geheim sslmode=nonsense", fault.Usage, "sslmode"},
	} {
		for name, connect := range ways {
			if name == "replication" {
				continue // the server has no room for any
			}
			conn, err := connect(pgtest.Context(t), source(c.dsn))
			if err == nil {
				_ = conn.Close(pgtest.Context(t))
				t.Errorf("%s, %s: connected", c.name, name)
				continue
			}
			var f *fault.Error
			if !errors.As(err, &f) || f.Status != c.status || !strings.Contains(err.Error(), c.says) ||
				!strings.Contains(err.Error(), "source") || f.Hint == "" && c.status != fault.Unavailable {
				t.Errorf("%s, %s: status %d, %v, hint %+v", c.name, name, fault.StatusOf(err), err, f)
			}
			if f != nil && strings.Contains(err.Error()+f.Detail+f.Hint, "heim") {
				t.Errorf("%s, %s: the password is in %v", c.name, name, f)
			}
		}
	}
	// The context's end is not the server's fault.
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := source("postgres://me@" + silent.Addr().String() + "/db" + no).Connect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	// Too many connections.
	var open []*pgconn.PgConn
	for len(open) < 10 {
		c, err := ways["ConnectRaw"](pgtest.Context(t), source(strings.Replace(d.URI, "postgres@", "ordinary@", 1)))
		if err != nil {
			if fault.StatusOf(err) != fault.TryAgain {
				t.Errorf("too many connections: status %d, %v", fault.StatusOf(err), err)
			}
			break
		}
		open = append(open, c)
	}
	if len(open) != 3 {
		t.Errorf("%d connections", len(open))
	}
	for _, c := range open {
		_ = c.Close(pgtest.Context(t))
	}
	pgtest.Wait(t, 10*time.Second, "the server has room again", func() bool {
		c, err := source(d.URI).Connect(pgtest.Context(t))
		if err != nil {
			return false
		}
		defer c.Close(pgtest.Context(t))
		var n int
		err = c.QueryRow(pgtest.Context(t), "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'").Scan(&n)
		return err == nil && n == 1
	})
	// A session that the server ends, and one whose server dies.
	terminate := func() {
		d.Exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'test'")
	}
	for i, end := range []func(){terminate, s.Kill} {
		name := []string{"terminated", "killed"}[i]
		c, err := source(d.URI).Connect(pgtest.Context(t))
		if err != nil {
			t.Fatal(err)
		}
		end()
		_, err = c.Exec(pgtest.Context(t), "SELECT 1")
		if err = source("").Explain(err); fault.StatusOf(err) != fault.TryAgain || !pgdial.Lost(err) {
			t.Errorf("%s: status %d, %v", name, fault.StatusOf(err), err)
		}
	}
}

func TestExplain(t *testing.T) {
	s := source("")
	if s.Explain(nil) != nil {
		t.Error("no error is one")
	}
	known := fault.New(fault.Data, "torn")
	if got := s.Explain(fmt.Errorf("read: %w", known)); fault.StatusOf(got) != fault.Data || got.Error() != "read: torn" {
		t.Errorf("got %v", got)
	}
	for code, want := range map[string]fault.Status{
		"57P01": fault.TryAgain, "57P02": fault.TryAgain, "57P03": fault.TryAgain, "08006": fault.TryAgain,
		"53300": fault.TryAgain, "53200": fault.TryAgain, "53400": fault.Config,
		"40001": fault.TryAgain, "40P01": fault.TryAgain, "55006": fault.TryAgain, "28P01": fault.Permission,
		"28000": fault.Permission, "42501": fault.Permission,
		"3D000": fault.Unavailable, "57P04": fault.Unavailable, "42704": fault.Unavailable,
		"55000": fault.Config, "25006": fault.Config, "23505": fault.Failed,
		"XX000": fault.Failed, "": fault.Failed,
	} {
		err := fmt.Errorf("do it: %w", &pgconn.PgError{Severity: "ERROR", Code: code, Message: "m", Detail: "D.", Hint: "H."})
		got := s.Explain(err)
		var f *fault.Error
		if !errors.As(got, &f) || f.Status != want || f.Detail != "D." || f.Hint != "H." ||
			!strings.Contains(got.Error(), "source: do it: ") {
			t.Errorf("%s: %+v", code, got)
		}
	}
	for _, err := range []error{io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, os.ErrDeadlineExceeded,
		&net.OpError{Op: "read", Err: errors.New("reset")}} {
		if got := s.Explain(fmt.Errorf("read: %w", err)); fault.StatusOf(got) != fault.TryAgain || !pgdial.Lost(got) {
			t.Errorf("%v: %v", err, got)
		}
	}
	if got := s.Explain(errors.New("other")); fault.StatusOf(got) != fault.Failed || pgdial.Lost(got) {
		t.Errorf("got %v", got)
	}
}

// A server that starts up says so, and it is worth waiting for.
func TestStartingUp(t *testing.T) {
	s := pgtest.Start(t, 0, "max_wal_size=4GB", "checkpoint_timeout=1h", "full_page_writes=on")
	d := s.Database(t, "")
	d.Exec("CREATE TABLE t (a int, b text)", "INSERT INTO t SELECT g, repeat('x', 200) FROM generate_series(1, 700000) g")
	s.Kill()
	seen := make(chan error, 1)
	stop := make(chan struct{})
	go func() {
		var first error
		for first == nil {
			select {
			case <-stop:
				seen <- nil
				return
			default:
			}
			_, err := source(d.URI).Connect(pgtest.Context(t))
			if err != nil && strings.Contains(err.Error(), "57P03") {
				first = err
			}
		}
		seen <- first
	}()
	s.Restart(t)
	close(stop)
	if err := <-seen; fault.StatusOf(err) != fault.TryAgain {
		t.Errorf("status %d, %v", fault.StatusOf(err), err)
	}
}

func TestTLS(t *testing.T) {
	settings, certificate := pgtest.TLS(t)
	s := pgtest.Start(t, 0, settings...)
	d := s.Database(t, "")
	d.Exec("CREATE ROLE locked SUPERUSER LOGIN PASSWORD 'right'")
	hba := d.Query("SHOW hba_file")
	text, err := os.ReadFile(hba)
	if err != nil {
		t.Fatal(err)
	}
	// SCRAM binds itself to the TLS channel.
	if err := os.WriteFile(hba,
		append([]byte("hostssl all locked all scram-sha-256\nhostnossl all locked all reject\n"), text...),
		0o600); err != nil {
		t.Fatal(err)
	}
	d.Exec("SELECT pg_reload_conf()")
	pgtest.Wait(t, 10*time.Second, "pg_hba.conf is read", func() bool {
		return d.Query("SELECT count(*) FROM pg_hba_file_rules WHERE user_name = '{locked}'") == "2"
	})
	for _, mode := range []string{"prefer", "require", "verify-full&sslrootcert=" + certificate} {
		dsn := strings.Replace(d.As("locked", "right"), "sslmode=disable", "sslmode="+mode, 1)
		for name, connect := range ways {
			c, err := connect(pgtest.Context(t), source(dsn))
			if err != nil {
				t.Errorf("%s, %s: %v", mode, name, err)
				continue
			}
			if got := ask(t, c, "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()"); got != "t" {
				t.Errorf("%s, %s: the connection is not encrypted", mode, name)
			}
			_ = c.Close(pgtest.Context(t))
		}
	}
	// A certificate that is not trusted stays so: there is no use in trying again.
	_, other := pgtest.TLS(t)
	for _, mode := range []string{"verify-full", "verify-full&sslrootcert=" + other, "verify-ca&sslrootcert=" + other} {
		_, err := source(strings.Replace(d.URI, "sslmode=disable", "sslmode="+mode, 1)).Connect(pgtest.Context(t))
		var f *fault.Error
		if !errors.As(err, &f) || f.Status != fault.Config || !strings.Contains(f.Hint, "sslrootcert") {
			t.Errorf("%s: status %d, %+v", mode, fault.StatusOf(err), err)
		}
	}
}
