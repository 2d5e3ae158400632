package progress_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

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
	if got := d.Query("SELECT count(*) FROM pg_class WHERE relnamespace = 'pgsluice'::regnamespace AND relkind = 'r'"); got != "12" {
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

// take takes a lock in a session, and returns it, or who holds it.
func take(t *testing.T, ctx context.Context, c *pgx.Conn, stream int32, what progress.What) (progress.Lock, string) {
	t.Helper()
	lock, holder, err := progress.Try(ctx, progress.AskOf(c), stream, what, nil)
	must(t, err)
	return lock, holder
}

// free reports whether a session could take a lock, which it keeps.
func free(t *testing.T, ctx context.Context, c *pgx.Conn, stream int32, what progress.What) bool {
	t.Helper()
	_, holder := take(t, ctx, c, stream, what)
	return holder == ""
}

func TestLocks(t *testing.T) {
	d, ctx, a, s := begin(t)
	b := connect(t, d.URI)
	exclusive, shared := progress.WorkLock(progress.Applying), progress.WorkLock(progress.Loading)
	if !free(t, ctx, a, s.ID, exclusive) || free(t, ctx, b, s.ID, exclusive) || free(t, ctx, b, s.ID, shared) {
		t.Error("an exclusive lock does not exclude")
	}
	other, err := progress.Open(ctx, b, progress.Key{SystemID: "8", Database: "shop", Slot: "mig"})
	must(t, err)
	if !free(t, ctx, b, other.ID, exclusive) {
		t.Error("streams exclude each other")
	}
	_, holder := take(t, ctx, b, s.ID, exclusive)
	if !strings.Contains(holder, "test") || !strings.Contains(holder, fmt.Sprint(a.PgConn().PID())) ||
		!strings.Contains(holder, "127.0.0.1") {
		t.Errorf("%q", holder)
	}
	var f *fault.Error
	if err := progress.Locked(key, progress.Loading, holder); !errors.As(err, &f) ||
		f.Status != fault.TryAgain || !strings.Contains(f.Detail, holder) {
		t.Errorf("%+v", f)
	}
	// A session's end frees it.
	must(t, a.Close(ctx))
	for !free(t, ctx, b, s.ID, shared) {
		must(t, ctx.Err())
	}
	c, e := connect(t, d.URI), connect(t, d.URI)
	if !free(t, ctx, c, s.ID, shared) || free(t, ctx, c, s.ID, exclusive) {
		t.Error("shared locks do not share, or let a writer in")
	}
	if _, holder := take(t, ctx, e, s.ID, exclusive); strings.Count(holder, "process") != 2 {
		t.Errorf("%q", holder)
	}
	// Locks for one thing are given back.
	for _, what := range []progress.What{progress.SchemaLock, progress.TableLock("a", "b")} {
		lock, holder := take(t, ctx, b, s.ID, what)
		if holder != "" || free(t, ctx, c, s.ID, what) ||
			!free(t, ctx, c, s.ID, progress.TableLock("a", "c"+fmt.Sprint(len(lock.Unlock())))) {
			t.Errorf("%v: %q", what, holder)
		}
		if !try(t, ctx, b, lock.Unlock()) || !free(t, ctx, c, s.ID, what) {
			t.Errorf("%v is not given back", what)
		}
	}
	// A predecessor's sessions that work ahead keep a successor out, which then does not keep out
	// others.
	d, ctx, a, s = begin(t)
	b, c = connect(t, d.URI), connect(t, d.URI)
	ahead := progress.WorkLock(progress.Ahead)
	if !free(t, ctx, a, s.ID, ahead) || !free(t, ctx, c, s.ID, ahead) || free(t, ctx, b, s.ID, exclusive) {
		t.Error("a session that works ahead does not exclude a successor")
	}
	must(t, a.Close(ctx))
	must(t, c.Close(ctx))
	for !free(t, ctx, b, s.ID, exclusive) {
		must(t, ctx.Err())
	}
	if c = connect(t, d.URI); !free(t, ctx, c, s.ID, ahead) || free(t, ctx, c, s.ID, exclusive) {
		t.Error("a session that works ahead excludes its own")
	}
}

// Anybody may take any advisory lock. What others hold, or wait for, stands in nobody's way; what
// sessions of ours hold counts also when the keys have changed meanwhile.
func TestLocksOfOthers_P8(t *testing.T) {
	d, ctx, a, s := begin(t)
	role := "low_" + d.Name
	d.Exec("CREATE ROLE " + role + " LOGIN")
	t.Cleanup(func() { d.Exec("DROP ROLE " + role) })
	low := connect(t, d.As(role, ""))
	// grab takes all locks that are there, as everybody sees them, and keeps or waits for them.
	grab := func() {
		t.Helper()
		for _, k := range strings.Fields(d.Query("SELECT coalesce(string_agg(DISTINCT (classid::bigint << 32 | objid::bigint)::text, ' '), '') FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 AND pid <> " +
			fmt.Sprint(low.PgConn().PID()))) {
			waiting := connect(t, d.As(role, ""))
			waits, stop := context.WithCancel(ctx)
			done := make(chan struct{})
			go func() {
				defer close(done)
				_, _ = waiting.Exec(waits, "SELECT pg_advisory_lock("+k+")")
			}()
			t.Cleanup(func() { stop(); <-done }) // before the connection is closed
			pgtest.Wait(t, 10*time.Second, "the lock is waited for", func() bool {
				return d.Query("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = "+
					fmt.Sprint(waiting.PgConn().PID())) == "1"
			})
		}
	}
	exclusive, shared := progress.WorkLock(progress.Applying), progress.WorkLock(progress.Loading)
	var warned string
	try := func(c *pgx.Conn, what progress.What) string {
		t.Helper()
		_, holder, err := progress.Try(ctx, progress.AskOf(c), s.ID, what, func(text string) { warned = text })
		must(t, err)
		return holder
	}
	if holder := try(a, exclusive); holder != "" {
		t.Fatal(holder)
	}
	grab()
	b := connect(t, d.URI)
	if holder := try(b, exclusive); !strings.Contains(holder, fmt.Sprint(a.PgConn().PID())) || strings.Contains(holder, role) {
		t.Errorf("held by %q", holder)
	}
	must(t, a.Close(ctx))
	pgtest.Wait(t, 10*time.Second, "the other role has the lock", func() bool {
		return d.Query("SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE l.locktype = 'advisory' AND l.granted AND a.usename = '"+
			role+"'") == "1"
	})
	if applied, err := progress.IsApplied(ctx, b, s.ID); err != nil || applied {
		t.Errorf("another role's lock is taken for a session that applies: %v, %v", applied, err)
	}
	if holder := try(b, exclusive); holder != "" || !strings.Contains(warned, role) {
		t.Errorf("held by %q; warned: %q", holder, warned)
	}
	if applied, err := progress.IsApplied(ctx, b, s.ID); err != nil || !applied {
		t.Errorf("it is not seen that changes are applied: %v, %v", applied, err)
	}
	must(t, b.Close(ctx))
	// Two loads, between which somebody queues for the lock that they share: the second has another
	// key, and both keep an applier out.
	first, second, applier := connect(t, d.URI), connect(t, d.URI), connect(t, d.URI)
	for try(first, shared) != "" {
		must(t, ctx.Err())
	}
	grab()
	if holder := try(second, shared); holder != "" {
		t.Errorf("held by %q", holder)
	}
	must(t, second.Close(ctx))
	pgtest.Wait(t, 10*time.Second, "the second load is gone", func() bool {
		return d.Query("SELECT count(*) FROM pg_stat_activity WHERE pid = "+fmt.Sprint(second.PgConn().PID())) == "0"
	})
	if holder := try(applier, exclusive); !strings.Contains(holder, fmt.Sprint(first.PgConn().PID())) {
		t.Errorf("a load under an older key does not keep an applier out: %q", holder)
	}
	must(t, first.Close(ctx))
	for try(applier, exclusive) != "" {
		must(t, ctx.Err())
	}
}

func TestAdvance(t *testing.T) {
	d, ctx, c, s := begin(t)
	advance := func(from, to string) error {
		_, err := c.Exec(ctx, progress.Advance, to, nil, 2, 10, s.ID, from, nil, nil, nil, nil)
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
	if _, err := c.Exec(ctx, progress.Advance, "1/5", "2020-01-02 03:04:05Z", 1, 1, s.ID, "1/0", nil, nil, nil, nil); err != nil {
		t.Error(err)
	}
	s, err := progress.Open(ctx, c, key)
	if err != nil || s.Applied.String() != "1/5" || s.Transactions != 5 || s.Changes != 21 ||
		s.AppliedTime.UTC().Format("2006-01-02 15:04:05") != "2020-01-02 03:04:05" {
		t.Errorf("%+v, %v", s, err)
	}
	// Of two processes at the same position only one gets on, whichever is first.
	a, b := d.Connect(), d.Connect()
	ta, err := a.Begin(ctx)
	must(t, err)
	if _, err := ta.Exec(ctx, progress.Advance, "2/0", nil, 1, 1, s.ID, "1/5", nil, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := b.Exec(ctx, progress.Advance, "3/0", nil, 1, 1, s.ID, "1/5", nil, nil, nil, nil)
		second <- err
	}()
	must(t, ta.Commit(ctx))
	refused(<-second)
	// What is rolled back was not applied.
	tc, err := c.Begin(ctx)
	must(t, err)
	if _, err := tc.Exec(ctx, progress.Advance, "9/0", nil, 1, 1, s.ID, "2/0", nil, nil, nil, nil); err != nil {
		t.Fatal(err)
	}
	must(t, tc.Rollback(ctx))
	must(t, advance("2/0", "3/0"))
	// After the end nothing is applied any more.
	s, err = progress.Open(ctx, c, key)
	must(t, err)
	must(t, progress.StepBegins(ctx, c, s.ID, "open"))
	if ended, err := progress.EndStream(ctx, c, s.ID, s.Changes-1); err != nil || ended {
		t.Errorf("ended although more was applied: %v, %v", ended, err)
	}
	if ended, err := progress.EndStream(ctx, c, s.ID, s.Changes); err != nil || !ended {
		t.Errorf("ended: %v, %v", ended, err)
	}
	if at := d.Query("SELECT lsn FROM pgsluice.cutover WHERE step = 'open'"); at != "3/0" {
		t.Errorf("ended at %s", at)
	}
	ended := d.Query("SELECT ended_at FROM pgsluice.streams")
	refused(advance("3/0", "4/0"))
	if _, err := progress.EndStream(ctx, c, s.ID, s.Changes); err != nil {
		t.Fatal(err)
	}
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
		_, err := c.Exec(ctx, progress.Count, s.ID, []string{"public", "Ü"}, []string{"a", "b"},
			[]string{"public", "u"}, []string{"a", "b"},
			[]int64{1, 0}, []int64{2, 0}, []int64{3, 0}, []int64{0, 4})
		must(t, err)
	}
	list, err := progress.Tables(ctx, c, s.ID)
	must(t, err)
	if len(list) != 2 {
		t.Fatalf("%+v", list)
	}
	a, b := list[0], list[1]
	if a.Table != "a" || a.Inserts != 2 || a.Updates != 4 || a.Deletes != 6 || a.Truncates != 0 ||
		a.Status != "loaded" || a.PartsDone != 0 {
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
	ids, err := progress.NewIDs(ctx, c, 6)
	if err != nil || len(ids) != 6 || ids[0] >= ids[5] {
		t.Fatalf("%v, %v", ids, err)
	}
	list := []progress.Object{
		{ID: ids[0], Phase: progress.PhaseTable, Type: "INDEX", Schema: "public", Table: "a", Name: "i", SQL: "CREATE INDEX i ON a (x)"},
		{ID: ids[1], Phase: progress.PhaseTable, Type: "CONSTRAINT", Schema: "public", Table: "b",
			Name: "b_pkey", SQL: "ALTER …", Index: "CREATE UNIQUE INDEX …", Attach: "ALTER … USING INDEX"},
		{ID: ids[2], Phase: progress.PhaseCutover, Type: "FK CONSTRAINT", Schema: "public", Table: "a",
			Name: "a f", SQL: "ALTER TABLE …", Needs: ids[1:2]},
		{ID: ids[3], Phase: progress.PhaseCutover, Type: "COMMENT", Schema: "public", Table: "a", Name: "a f",
			SQL: "COMMENT …", Needs: ids[2:3]},
	}
	must(t, progress.AddObjects(ctx, c, s.ID, list, "deferred"))
	extension := []progress.Object{{ID: ids[4], Phase: progress.PhaseSchema, Type: "EXTENSION", Name: "x", SQL: "CREATE EXTENSION x"}}
	if _, err := c.Exec(ctx, progress.AddObjectsSQL(s.ID, extension, "done")+";"+
		progress.FailSQL(ids[4], errors.New("no")), pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	pending, err := progress.Pending(ctx, c, s.ID, progress.PhaseTable, "", "")
	if err != nil || len(pending) != 2 || pending[0].Name != "i" || pending[1].Attach != list[1].Attach ||
		pending[1].Index != list[1].Index {
		t.Fatalf("%+v, %v", pending, err)
	}
	if one, err := progress.Pending(ctx, c, s.ID, progress.PhaseTable, "public", "b"); err != nil || len(one) != 1 || one[0].ID != ids[1] {
		t.Errorf("%+v, %v", one, err)
	}
	must(t, progress.SetObject(ctx, c, ids[0], "done"))
	must(t, progress.Fail(ctx, c, ids[1], fmt.Errorf("build: %w",
		&pgconn.PgError{Severity: "ERROR", Code: "23505", Message: "duplicate key"})))
	for _, id := range ids[2:4] {
		must(t, progress.Fail(ctx, c, id, errors.New("there is none")))
	}
	failed, err := progress.Failed(ctx, c, s.ID)
	if err != nil || len(failed) != 4 || failed[0].Code != "23505" || failed[0].Because != 0 || failed[3].Error != "no" {
		t.Fatalf("%+v, %v", failed, err)
	}
	// The first cause is the one that did not fail because of another.
	if failed[1].Because != ids[1] || failed[2].Because != ids[1] || !slices.Equal(failed[2].Needs, ids[2:3]) {
		t.Errorf("%+v", failed[1:3])
	}
	// What has failed is tried again, what is done is not.
	if pending, err = progress.Pending(ctx, c, s.ID, progress.PhaseTable, "", ""); err != nil ||
		len(pending) != 1 || pending[0].Name != "b_pkey" {
		t.Errorf("%+v, %v", pending, err)
	}
	if _, err := c.Exec(ctx, progress.DoneSQL(ids[1:4]...)); err != nil {
		t.Error(err)
	}
	if failed, err = progress.Failed(ctx, c, s.ID); err != nil || len(failed) != 1 || failed[0].ID != ids[4] {
		t.Errorf("%+v, %v", failed, err)
	}
	all, err := progress.Objects(ctx, c, s.ID)
	if err != nil || len(all) != 5 || all[list[0].Key()] != (progress.Recorded{ID: ids[0], Done: true}) ||
		all[extension[0].Key()] != (progress.Recorded{ID: ids[4]}) {
		t.Errorf("%+v, %v", all, err)
	}
	if list[0].String() != "INDEX public.i" || (&progress.Object{Type: "EXTENSION", Name: "x"}).String() != "EXTENSION x" {
		t.Errorf("%v", &list[0])
	}
}

func TestLoad(t *testing.T) {
	d, ctx, c, s := begin(t)
	must(t, progress.SetLoadStatus(ctx, c, s.ID, "loading", 0x100))
	tables := []progress.LoadTable{{Schema: "public", Name: "a", SourceSchema: "public", SourceName: "a"},
		{Schema: "new", Name: "b", SourceSchema: "old", SourceName: "b"}}
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
	if a := states[[2]string{"public", "a"}]; a == nil || a.Status != "loading" || a.Snapshot != "s@0/100" ||
		a.Of != 2 || len(a.Done) != 1 || !a.Done[2] {
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
	if complete, err := progress.FinishLoad(ctx, c, s.ID); err != nil || !complete ||
		d.Query("SELECT applied_lsn FROM pgsluice.streams") != "5/0" {
		t.Errorf("complete: %v, %v", complete, err)
	}
}

func TestSteps(t *testing.T) {
	_, ctx, c, s := begin(t)
	must(t, progress.StepBegins(ctx, c, s.ID, "fence"))
	must(t, progress.StepEnds(ctx, c, s.ID, "fence", "done well"))
	must(t, progress.StepBegins(ctx, c, s.ID, "drain"))
	list, err := progress.Steps(ctx, c, s.ID)
	if err != nil || len(list) != 2 || list[0].Name != "fence" || list[0].Finished == nil ||
		list[0].Detail != "done well" || list[1].Finished != nil {
		t.Errorf("%+v, %v", list, err)
	}
	// A step that begins again is under way again, and the last one.
	must(t, progress.StepBegins(ctx, c, s.ID, "fence"))
	if list, err = progress.Steps(ctx, c, s.ID); err != nil || len(list) != 2 || list[1].Name != "fence" ||
		list[1].Finished != nil || list[1].Detail != "" {
		t.Errorf("%+v, %v", list, err)
	}
}
