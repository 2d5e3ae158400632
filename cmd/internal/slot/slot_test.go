package slot_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/format"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func server(d *pgtest.DB) pgdial.Server {
	return pgdial.Server{Side: "source", DSN: d.URI, App: "test"}
}

func connect(t *testing.T, d *pgtest.DB) *pgx.Conn {
	t.Helper()
	c, err := server(d).Connect(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func TestCheckName(t *testing.T) {
	for _, name := range []string{"a", "mig_1", "_", "0", strings.Repeat("x", 63)} {
		if err := slot.CheckName(name); err != nil {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"", "Mig", "a-b", "a b", `a"`, "é", "a\n", strings.Repeat("x", 64)} {
		if err := slot.CheckName(name); fault.StatusOf(err) != fault.Usage {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestIdentify(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	ctx, c := pgtest.Context(t), connect(t, d)
	id, err := slot.Identify(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	system := d.Query("SELECT system_identifier FROM pg_control_system()")
	if id.SystemID != system || id.Database != d.Name || id.Version/10000 != d.Major || id.Encoding != "UTF8" || id.Recovery {
		t.Errorf("%+v", id)
	}
	repl, _, err := server(d).ConnectRaw(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	defer repl.Close(ctx)
	id.SystemID = ""
	if err := id.IdentifySystem(ctx, repl); err != nil || id.SystemID != system || id.Timeline != 1 || id.Database != d.Name {
		t.Errorf("%+v, %v", id, err)
	}
	h := id.Header(format.Changes)
	if h.StreamKind != format.Changes || h.SystemID != system || h.Timeline != 1 || h.Database != d.Name ||
		h.Encoding != "UTF8" || h.ServerVersion != uint64(id.Version) {
		t.Errorf("%+v", h)
	}
}

func TestGetAndUsable(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	other := pgtest.Source(t).Database(t, "")
	ctx, c := pgtest.Context(t), connect(t, d)
	name := func(s string) string { return s + "_" + d.Name }
	info, err := slot.Get(ctx, c, name("none"))
	if err != nil || info != nil {
		t.Errorf("%+v, %v", info, err)
	}
	if err := info.Usable("none", d.Name); fault.StatusOf(err) != fault.Unavailable {
		t.Errorf("a slot that does not exist: %v", err)
	}
	d.Exec("SELECT pg_create_logical_replication_slot('"+name("good")+"', 'pgoutput')",
		"SELECT pg_create_logical_replication_slot('"+name("test")+"', 'test_decoding')",
		"SELECT pg_create_physical_replication_slot('"+name("phys")+"')")
	t.Cleanup(func() { d.Exec("SELECT pg_drop_replication_slot('" + name("phys") + "')") })
	other.Exec("SELECT pg_create_logical_replication_slot('" + name("other") + "', 'pgoutput')")
	info, err = slot.Get(ctx, c, name("good"))
	if err != nil || info.Name != name("good") || info.Plugin != "pgoutput" || info.Database != d.Name ||
		info.Active || info.ActivePID != 0 || info.Temporary ||
		info.Confirmed == 0 || info.Restart == 0 || info.Restart > info.Confirmed || info.CurrentLSN < info.Confirmed || info.Retained < 0 {
		t.Errorf("%+v, %v", info, err)
	}
	if want := map[bool]string{true: "reserved"}[d.Major >= 13]; info.WALStatus != want {
		t.Errorf("WAL status %q", info.WALStatus)
	}
	if err := info.Usable(name("good"), d.Name); err != nil {
		t.Error(err)
	}
	for s, want := range map[string]fault.Status{"test": fault.OK, "phys": fault.Config, "other": fault.Unavailable} {
		info, err := slot.Get(ctx, c, name(s))
		if err != nil {
			t.Fatal(err)
		}
		if err := info.Usable(name(s), d.Name); fault.StatusOf(err) != want {
			t.Errorf("%s: %v", s, err)
		}
	}
	if err := (&slot.Info{Plugin: "wal2json", Database: "d"}).Usable("s", "d"); fault.StatusOf(err) != fault.Config {
		t.Errorf("a slot of another plugin: %v", err)
	}
	if err := (&slot.Info{Plugin: "pgoutput", Database: "d", WALStatus: "lost"}).
		Usable("s", "d"); fault.StatusOf(err) != fault.Unavailable {
		t.Errorf("a lost slot: %v", err)
	}
	// What it holds back grows with the WAL.
	d.Exec("CREATE TABLE t AS SELECT generate_series(1, 10000)")
	if later, err := slot.Get(ctx, c, name("good")); err != nil || later.Retained < info.Retained+100000 {
		t.Errorf("%d bytes, then %d, %v", info.Retained, later.Retained, err)
	}
}

// Mark, Now and FlushLSN are positions behind everything that was committed, also asynchronously
// and in a fenced database.
func TestPositions(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE TABLE t (a int)", "ALTER DATABASE "+d.Name+" SET synchronous_commit = off",
		"ALTER DATABASE "+d.Name+" SET default_transaction_read_only = on")
	ctx, c := pgtest.Context(t), connect(t, d)
	write := func() format.LSN {
		t.Helper()
		lsn, err := format.ParseLSN(d.Query("BEGIN READ WRITE; INSERT INTO t VALUES (1); COMMIT; SELECT pg_current_wal_insert_lsn()"))
		if err != nil {
			t.Fatal(err)
		}
		return lsn
	}
	for name, f := range map[string]func() (format.LSN, error){
		"Mark": func() (format.LSN, error) { return slot.Mark(ctx, c, "here") },
		"Now":  func() (format.LSN, error) { return slot.Now(ctx, c) },
	} {
		before := write()
		at, err := f()
		if err != nil || at < before {
			t.Errorf("%s: %v, not behind %v, %v", name, at, before, err)
		}
		if flushed, err := slot.FlushLSN(ctx, c); err != nil || flushed < at {
			t.Errorf("%s: flushed up to %v, not %v, %v", name, flushed, at, err)
		}
	}
	// The session's own setting is as before.
	var s string
	if err := c.QueryRow(ctx, "SHOW synchronous_commit").Scan(&s); err != nil || s != "off" {
		t.Errorf("synchronous_commit is %s, %v", s, err)
	}
}

func TestExport(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE TABLE t (a int)", "INSERT INTO t VALUES (1)", "CREATE PUBLICATION p FOR TABLE t")
	ctx, c := pgtest.Context(t), connect(t, d)
	name := "exp_" + d.Name
	for _, temporary := range []bool{false, true} {
		before := d.Query("SELECT count(*) FROM t")
		s, _, err := slot.Export(ctx, server(d), name, slot.PGOutput, temporary)
		if err != nil {
			t.Fatal(err)
		}
		var info *slot.Info
		pgtest.Wait(t, 10*time.Second, "the session that made the slot is gone", func() bool {
			info, err = slot.Get(ctx, c, name)
			return err != nil || info == nil || !info.Active
		})
		if err != nil || (info == nil) != temporary {
			t.Errorf("temporary %v: slot %+v, %v", temporary, info, err)
		}
		if info != nil && info.Confirmed != s.LSN {
			t.Errorf("the snapshot is at %v, the slot %+v", s.LSN, info)
		}
		if info != nil {
			d.Exec("SELECT pg_drop_replication_slot('" + name + "')")
		}
		// Other sessions see what the snapshot does, and nothing that came later, for as long as it
		// is kept.
		d.Exec("INSERT INTO t VALUES (2)")
		look := func() (string, error) {
			return d.Try("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT " +
				slot.QuoteLiteral(s.Name) + "; SELECT count(*) FROM t")
		}
		if got, err := look(); err != nil || got != before {
			t.Errorf("the snapshot sees %s rows, not %s, %v", got, before, err)
		}
		s.Release(ctx)
		s.Release(ctx)
		pgtest.Wait(t, 10*time.Second, "the snapshot is gone", func() bool { _, err := look(); return err != nil })
	}
	s, err := slot.Hold(ctx, server(d))
	if err != nil || s.Name == "" || s.LSN != 0 {
		t.Fatalf("%+v, %v", s, err)
	}
	s.Release(ctx)
}

// PostgreSQL loses sight of what was truncated or altered while it made a slot, for transactions
// that are open when the slot is ready.
func TestExportWhileSchemaChanges(t *testing.T) {
	d := pgtest.Start(t, 0).Database(t, "")
	ctx := pgtest.Context(t)
	d.Exec("CREATE TABLE t (a int)", "CREATE TABLE u (a int)", "CREATE PUBLICATION p FOR TABLE t, u")
	begin := func() (tx pgx.Tx, waitedFor func()) {
		tx, err := d.Connect().Begin(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var xid string
		if err := tx.QueryRow(ctx, "SELECT txid_current()::text").Scan(&xid); err != nil {
			t.Fatal(err)
		}
		return tx, func() {
			t.Helper()
			pgtest.Wait(t, 20*time.Second, "the slot's creation waits for transaction "+xid, func() bool {
				return d.Query("SELECT count(*) FROM pg_locks WHERE NOT granted AND transactionid = '"+xid+"'") == "1"
			})
		}
	}
	commit := func(tx pgx.Tx) {
		t.Helper()
		if err := tx.Commit(ctx); err != nil {
			t.Fatal(err)
		}
	}
	first, waited := begin()
	done := make(chan error, 1)
	var altered []string
	go func() {
		s, a, err := slot.Export(ctx, server(d), "s", slot.PGOutput, false)
		if err == nil {
			s.Release(ctx)
		}
		altered = a
		done <- err
	}()
	waited()
	second, waited := begin()
	d.Exec("TRUNCATE t", "ALTER TABLE u ADD COLUMN b int")
	commit(first)
	waited()
	third, waited := begin()
	if _, err := third.Exec(ctx, "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	if _, err := third.Exec(ctx, "INSERT INTO u VALUES (1, 2)"); err != nil {
		t.Fatal(err)
	}
	commit(second) // the slot is ready, and made again
	waited()
	commit(third)
	if err := <-done; err != nil || len(altered) > 0 {
		t.Fatalf("%v, %v", altered, err)
	}
	d.Exec("INSERT INTO t VALUES (2)", "INSERT INTO u VALUES (2, 3)")
	if n := d.Query("SELECT count(*) FROM pg_logical_slot_peek_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'p') WHERE get_byte(data, 0) = ascii('I')"); n != "2" {
		t.Errorf("%s inserts", n)
	}
}

func TestExportErrors(t *testing.T) {
	s := pgtest.Start(t, 0, "wal_level=replica", "max_replication_slots=1")
	d := s.Database(t, "")
	d.Exec("CREATE ROLE weak LOGIN", "CREATE ROLE strong LOGIN REPLICATION")
	ctx := pgtest.Context(t)
	try := func(user string) error {
		srv := server(d)
		srv.DSN = d.As(user, "")
		snap, _, err := slot.Export(ctx, srv, "s", slot.PGOutput, false)
		if err == nil {
			snap.Release(ctx)
		}
		return err
	}
	if err := try("strong"); fault.StatusOf(err) != fault.Config || !strings.Contains(err.Error(), "wal_level") {
		t.Errorf("wal_level: status %d, %v", fault.StatusOf(err), err)
	}
	if err := try("weak"); fault.StatusOf(err) != fault.Permission {
		t.Errorf("no REPLICATION: status %d, %v", fault.StatusOf(err), err)
	}
	d.Exec("ALTER SYSTEM SET wal_level = logical")
	s.Stop()
	s.Restart(t)
	if err := try("strong"); err != nil {
		t.Error(err)
	}
	if err := try("strong"); err == nil || !strings.Contains(err.Error(), `"s"`) {
		t.Errorf("a slot that exists: %v", err)
	}
	srv := server(d)
	if _, _, err := slot.Export(ctx, srv, "other", slot.PGOutput, false); fault.StatusOf(err) != fault.Config {
		t.Errorf("no slot is free: status %d, %v", fault.StatusOf(err), err)
	}
	d.Exec("SELECT pg_drop_replication_slot('s')")
}

// The command that starts streaming is one that the server understands.
func TestStartCommand(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	name := "start_" + d.Name
	d.Exec(`CREATE PUBLICATION "a ""b"", c's"`, `CREATE PUBLICATION x`, "SELECT pg_create_logical_replication_slot('"+name+"', 'pgoutput')")
	ctx := pgtest.Context(t)
	repl, _, err := server(d).ConnectRaw(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	defer repl.Close(ctx)
	sql := slot.StartCommand(pgdial.Version(repl), name, 0, []string{`a "b", c's`, "x"})
	results := repl.Exec(ctx, sql)
	done := make(chan error, 1)
	go func() {
		_, err := results.ReadAll() // it goes on until it is ended
		done <- err
	}()
	c := connect(t, d)
	var info *slot.Info
	pgtest.Wait(t, 10*time.Second, sql, func() bool {
		info, err = slot.Get(ctx, c, name)
		return err != nil || info.Active
	})
	if err != nil || info.ActivePID == 0 {
		t.Errorf("%+v, %v", info, err)
	}
	d.Exec(fmt.Sprintf("SELECT pg_terminate_backend(%d)", info.ActivePID))
	<-done
	for version, want := range map[int]string{100000: "'1'", 130000: "'1'", 140000: "'2'", 150000: "'3'", 160000: "'4'", 180000: "'4'"} {
		if sql := slot.StartCommand(version, "s", 0x16B374D848, []string{"p"}); !strings.HasPrefix(sql,
			"START_REPLICATION SLOT \"s\" LOGICAL 16/B374D848 (proto_version "+want+",") ||
			strings.Contains(sql, "streaming") != (version >= 140000) {
			t.Errorf("%d: %s", version, sql)
		}
	}
}
