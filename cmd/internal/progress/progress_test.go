package progress_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/format"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, uri string) *pgx.Conn {
	t.Helper()
	c, err := pgdial.Server{Side: "target", DSN: uri, App: "test"}.Connect(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var key = progress.Key{SystemID: "7", Database: "shop", Slot: "mig"}

// begin makes a database with the schema and one stream.
func begin(t *testing.T) (*pgtest.DB, context.Context, *pgx.Conn, *progress.Stream) {
	t.Helper()
	d := pgtest.Target(t).Database(t, "")
	ctx, c := pgtest.Context(t), connect(t, d.URI)
	must(t, progress.Ensure(ctx, c))
	s, err := progress.Open(ctx, c, key)
	must(t, err)
	return d, ctx, c, s
}

func TestEnsure(t *testing.T) {
	d := pgtest.Target(t).Database(t, "")
	ctx := pgtest.Context(t)
	if list, err := progress.Streams(ctx, connect(t, d.URI), ""); err != nil || list != nil {
		t.Errorf("without the schema: %v, %v", list, err)
	}
	// Several processes begin at once.
	var g sync.WaitGroup
	for range 8 {
		c := connect(t, d.URI)
		g.Go(func() {
			if err := progress.Ensure(ctx, c); err != nil {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if got := d.Query("SELECT count(*) FROM pg_class WHERE relnamespace = 'pgsluice'::regnamespace AND relkind = 'r'"); got != "7" {
		t.Errorf("%s tables", got)
	}
	// A role that may not create it is told so.
	role := "weak_" + d.Name
	d.Exec("DROP SCHEMA pgsluice CASCADE", "CREATE ROLE "+role+" LOGIN")
	t.Cleanup(func() { d.Exec("DROP OWNED BY "+role, "DROP ROLE "+role) })
	weak := connect(t, d.As(role, ""))
	var f *fault.Error
	if err := progress.Ensure(ctx, weak); !errors.As(err, &f) || f.Status != fault.Permission || !strings.Contains(f.Hint, "GRANT CREATE") {
		t.Errorf("not allowed: %v", err)
	}
	d.Exec("GRANT CREATE ON DATABASE " + d.Name + " TO " + role)
	must(t, progress.Ensure(ctx, weak))
}

func TestOpen(t *testing.T) {
	_, ctx, c, s := begin(t)
	if s.Key != key || s.Applied != 0 || s.Start != 0 || s.LoadStatus != "none" || s.Ended || s.Transactions != 0 {
		t.Errorf("%+v", s)
	}
	again, err := progress.Open(ctx, c, key)
	if err != nil || again.ID != s.ID {
		t.Errorf("%+v, %v", again, err)
	}
	other, err := progress.Open(ctx, c, progress.KeyOf(&format.Header{SystemID: "7", Database: "shop", Slot: "other"}))
	if err != nil || other.ID == s.ID || other.Key.Slot != "other" {
		t.Errorf("%+v, %v", other, err)
	}
	for slot, want := range map[string]int{"": 2, "mig": 1, "none": 0} {
		if list, err := progress.Streams(ctx, c, slot); err != nil || len(list) != want {
			t.Errorf("slot %q: %d streams, %v", slot, len(list), err)
		}
	}
	if key.String() != `slot "mig" of database "shop"` || (progress.Key{Database: "shop"}).String() != `load of database "shop"` {
		t.Errorf("%v, %v", key, progress.Key{Database: "shop"})
	}
}

func try(t *testing.T, ctx context.Context, c *pgx.Conn, sql string) bool {
	t.Helper()
	var ok bool
	must(t, c.QueryRow(ctx, sql).Scan(&ok))
	return ok
}

func TestLocks(t *testing.T) {
	d, ctx, a, s := begin(t)
	b := connect(t, d.URI)
	exclusive, shared := progress.LockStatement(s.ID, progress.Applying), progress.LockStatement(s.ID, progress.Loading)
	if holder, err := progress.Holder(ctx, a, s.ID); err != nil || holder != "" {
		t.Errorf("%q, %v", holder, err)
	}
	if !try(t, ctx, a, exclusive) || try(t, ctx, b, exclusive) || try(t, ctx, b, shared) {
		t.Error("an exclusive lock does not exclude")
	}
	if !try(t, ctx, b, progress.LockStatement(s.ID+1, progress.Applying)) {
		t.Error("streams exclude each other")
	}
	holder, err := progress.Holder(ctx, b, s.ID)
	if err != nil || !strings.Contains(holder, "test") || !strings.Contains(holder, fmt.Sprint(a.PgConn().PID())) || !strings.Contains(holder, "127.0.0.1") {
		t.Errorf("%q, %v", holder, err)
	}
	var f *fault.Error
	if err := progress.Locked(key, progress.Loading, holder); !errors.As(err, &f) || f.Status != fault.TryAgain || !strings.Contains(f.Detail, holder) {
		t.Errorf("%+v", f)
	}
	// A session's end frees it.
	must(t, a.Close(ctx))
	for !try(t, ctx, b, shared) {
		must(t, ctx.Err())
	}
	c := connect(t, d.URI)
	if !try(t, ctx, c, shared) || try(t, ctx, c, exclusive) {
		t.Error("shared locks do not share, or let a writer in")
	}
	if holder, err := progress.Holder(ctx, b, s.ID); err != nil || strings.Count(holder, "process") != 2 {
		t.Errorf("%q, %v", holder, err)
	}
	// A predecessor's sessions that work ahead keep a successor out, which then does not keep out others.
	d, ctx, a, s = begin(t)
	b, c = connect(t, d.URI), connect(t, d.URI)
	exclusive, ahead := progress.LockStatement(s.ID, progress.Applying), progress.LockStatement(s.ID, progress.Ahead)
	if !try(t, ctx, a, ahead) || !try(t, ctx, c, ahead) || try(t, ctx, b, exclusive) {
		t.Error("a session that works ahead does not exclude a successor")
	}
	must(t, a.Close(ctx))
	must(t, c.Close(ctx))
	for !try(t, ctx, b, exclusive) {
		must(t, ctx.Err())
	}
	if c = connect(t, d.URI); !try(t, ctx, c, ahead) || try(t, ctx, c, exclusive) {
		t.Error("a session that works ahead excludes its own")
	}
}

func TestAdvance(t *testing.T) {
	d, ctx, c, s := begin(t)
	advance := func(from, to string) error {
		_, err := c.Exec(ctx, progress.Advance, to, nil, 2, 10, s.ID, from)
		return err
	}
	refused := func(err error) {
		t.Helper()
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "22012" {
			t.Errorf("not refused: %v", err)
		}
	}
	must(t, advance("0/0", "0/10"))
	must(t, advance("0/10", "1/0"))
	refused(advance("0/10", "1/1")) // somebody else has applied since
	refused(advance("0/0", "1/1"))
	if _, err := c.Exec(ctx, progress.Advance, "1/5", "2020-01-02 03:04:05Z", 1, 1, s.ID, "1/0"); err != nil {
		t.Error(err)
	}
	s, err := progress.Open(ctx, c, key)
	if err != nil || s.Applied.String() != "1/5" || s.Transactions != 5 || s.Changes != 21 || s.AppliedTime.UTC().Format("2006-01-02 15:04:05") != "2020-01-02 03:04:05" {
		t.Errorf("%+v, %v", s, err)
	}
	// Of two processes at the same position only one gets on, whichever is first.
	a, b := d.Connect(), d.Connect()
	ta, err := a.Begin(ctx)
	must(t, err)
	if _, err := ta.Exec(ctx, progress.Advance, "2/0", nil, 1, 1, s.ID, "1/5"); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := b.Exec(ctx, progress.Advance, "3/0", nil, 1, 1, s.ID, "1/5")
		second <- err
	}()
	must(t, ta.Commit(ctx))
	refused(<-second)
	// What is rolled back was not applied.
	tc, err := c.Begin(ctx)
	must(t, err)
	if _, err := tc.Exec(ctx, progress.Advance, "9/0", nil, 1, 1, s.ID, "2/0"); err != nil {
		t.Fatal(err)
	}
	must(t, tc.Rollback(ctx))
	must(t, advance("2/0", "3/0"))
	// After the end nothing is applied any more.
	must(t, progress.EndStream(ctx, c, s.ID))
	ended := d.Query("SELECT ended_at FROM pgsluice.streams")
	refused(advance("3/0", "4/0"))
	must(t, progress.EndStream(ctx, c, s.ID))
	if got := d.Query("SELECT ended_at FROM pgsluice.streams"); got != ended {
		t.Error("the end has moved")
	}
	if s, err = progress.Open(ctx, c, key); err != nil || !s.Ended || s.Applied.String() != "3/0" {
		t.Errorf("%+v, %v", s, err)
	}
}

func TestCount(t *testing.T) {
	d, ctx, c, s := begin(t)
	for range 2 {
		_, err := c.Exec(ctx, progress.Count, s.ID, []string{"public", "Ü"}, []string{"a", "b"}, []string{"public", "u"}, []string{"a", "b"},
			[]int64{1, 0}, []int64{2, 0}, []int64{3, 0}, []int64{0, 4})
		must(t, err)
	}
	list, err := progress.Tables(ctx, c, s.ID)
	must(t, err)
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	a, b := list[0], list[1]
	if a.Table != "a" || a.Inserts != 2 || a.Updates != 4 || a.Deletes != 6 || a.Truncates != 0 || a.Status != "loaded" || a.PartsDone != 0 {
		t.Errorf("%+v", a)
	}
	if b.Schema != "Ü" || b.SourceSchema != "u" || b.SourceTable != "b" || b.Truncates != 8 {
		t.Errorf("%+v", b)
	}
	if got := d.Query("SELECT count(*) FROM pgsluice.tables"); got != "2" {
		t.Errorf("%s rows", got)
	}
}

func TestObjects(t *testing.T) {
	_, ctx, c, s := begin(t)
	must(t, progress.AddObjects(ctx, c, s.ID, nil, "deferred"))
	list := []progress.Object{
		{Phase: progress.PhaseTable, Type: "INDEX", Schema: "public", Table: "a", Name: "i", SQL: "CREATE INDEX i ON a (x)"},
		{Phase: progress.PhaseTable, Type: "CONSTRAINT", Schema: "public", Table: "b", Name: "b_pkey", SQL: "ALTER …", Index: "CREATE UNIQUE INDEX …", Attach: "ALTER … USING INDEX"},
		{Phase: progress.PhaseCutover, Type: "FK CONSTRAINT", Schema: "public", Table: "a", Name: "a f", SQL: "ALTER TABLE …"},
	}
	must(t, progress.AddObjects(ctx, c, s.ID, list, "deferred"))
	must(t, progress.AddObjects(ctx, c, s.ID, []progress.Object{{Phase: progress.PhaseSchema, Type: "EXTENSION", Name: "x", SQL: "CREATE EXTENSION x", Error: "no"}}, "failed"))
	pending, err := progress.Pending(ctx, c, s.ID, progress.PhaseTable, "", "")
	if err != nil || len(pending) != 2 || pending[0].Name != "i" || pending[1].Attach != list[1].Attach || pending[1].Index != list[1].Index {
		t.Fatalf("%+v, %v", pending, err)
	}
	if one, err := progress.Pending(ctx, c, s.ID, progress.PhaseTable, "public", "b"); err != nil || len(one) != 1 || one[0].ID != pending[1].ID {
		t.Errorf("%+v, %v", one, err)
	}
	must(t, progress.SetObject(ctx, c, pending[0].ID, "done", ""))
	must(t, progress.SetObject(ctx, c, pending[1].ID, "failed", "duplicate key"))
	failed, err := progress.Failed(ctx, c, s.ID)
	if err != nil || len(failed) != 2 || failed[0].Error != "duplicate key" || failed[1].Error != "no" {
		t.Errorf("%+v, %v", failed, err)
	}
	// What has failed is tried again, what is done is not.
	if pending, err = progress.Pending(ctx, c, s.ID, progress.PhaseTable, "", ""); err != nil || len(pending) != 1 || pending[0].Name != "b_pkey" {
		t.Errorf("%+v, %v", pending, err)
	}
	all, err := progress.Objects(ctx, c, s.ID)
	if err != nil || len(all) != 4 || !all[list[0].Key()] || all[list[1].Key()] || all[list[2].Key()] {
		t.Errorf("%+v, %v", all, err)
	}
	if list[0].String() != "INDEX public.i" || (&progress.Object{Type: "EXTENSION", Name: "x"}).String() != "EXTENSION x" {
		t.Errorf("%v", &list[0])
	}
}

func TestLoad(t *testing.T) {
	d, ctx, c, s := begin(t)
	must(t, progress.SetLoadStatus(ctx, c, s.ID, "loading", 0x100))
	tables := []progress.LoadTable{{Schema: "public", Name: "a", SourceSchema: "public", SourceName: "a"}, {Schema: "new", Name: "b", SourceSchema: "old", SourceName: "b"}}
	for range 2 {
		must(t, progress.QueueTables(ctx, c, s.ID, tables))
	}
	if complete, err := progress.FinishLoad(ctx, c, s.ID); err != nil || complete {
		t.Errorf("complete: %v, %v", complete, err)
	}
	d.Exec("UPDATE pgsluice.tables SET status = 'loading', snapshot_lsn = '0/100', snapshot = 's@0/100', parts = 2 WHERE table_name = 'a'",
		"INSERT INTO pgsluice.parts (stream_id, schema_name, table_name, part, of, snapshot_lsn, rows, bytes) VALUES (1, 'public', 'a', 2, 2, '0/100', 5, 50)")
	states, err := progress.TableStates(ctx, c, s.ID)
	must(t, err)
	if a := states[[2]string{"public", "a"}]; a == nil || a.Status != "loading" || a.Snapshot != "s@0/100" || a.Of != 2 || len(a.Done) != 1 || !a.Done[2] {
		t.Errorf("%+v", a)
	}
	if b := states[[2]string{"new", "b"}]; b == nil || b.Status != "queued" || len(b.Done) != 0 {
		t.Errorf("%+v", b)
	}
	list, err := progress.Tables(ctx, c, s.ID)
	if err != nil || len(list) != 2 || list[0].SourceSchema != "old" || list[1].PartsDone != 1 || list[1].Parts != 2 {
		t.Errorf("%+v, %v", list, err)
	}
	d.Exec("UPDATE pgsluice.tables SET status = 'loaded'")
	// A load that was begun again has another snapshot; changes begin at the first one.
	must(t, progress.SetLoadStatus(ctx, c, s.ID, "loading", 0x200))
	if complete, err := progress.FinishLoad(ctx, c, s.ID); err != nil || !complete {
		t.Errorf("complete: %v, %v", complete, err)
	}
	if s, err = progress.Open(ctx, c, key); err != nil || s.LoadStatus != "loaded" || s.Start != 0x100 || s.Applied != 0x100 {
		t.Errorf("%+v, %v", s, err)
	}
	snapshots, err := progress.Snapshots(ctx, c, s.ID)
	if err != nil || len(snapshots) != 1 || snapshots[[2]string{"public", "a"}] != 0x100 {
		t.Errorf("%v, %v", snapshots, err)
	}
	// A load never takes a position back.
	d.Exec("UPDATE pgsluice.streams SET applied_lsn = '5/0'")
	if complete, err := progress.FinishLoad(ctx, c, s.ID); err != nil || !complete || d.Query("SELECT applied_lsn FROM pgsluice.streams") != "5/0" {
		t.Errorf("complete: %v, %v", complete, err)
	}
}

func TestSteps(t *testing.T) {
	_, ctx, c, s := begin(t)
	must(t, progress.StepBegins(ctx, c, s.ID, "fence"))
	must(t, progress.StepEnds(ctx, c, s.ID, "fence", "done well"))
	must(t, progress.StepBegins(ctx, c, s.ID, "drain"))
	list, err := progress.Steps(ctx, c, s.ID)
	if err != nil || len(list) != 2 || list[0].Name != "fence" || list[0].Finished == nil || list[0].Detail != "done well" || list[1].Finished != nil {
		t.Errorf("%+v, %v", list, err)
	}
	// A step that begins again is under way again, and the last one.
	must(t, progress.StepBegins(ctx, c, s.ID, "fence"))
	if list, err = progress.Steps(ctx, c, s.ID); err != nil || len(list) != 2 || list[1].Name != "fence" || list[1].Finished != nil || list[1].Detail != "" {
		t.Errorf("%+v, %v", list, err)
	}
}
