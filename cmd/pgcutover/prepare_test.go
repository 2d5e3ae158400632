package main

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A proxy passes sessions on to a server, and counts how often a client has waited for a reply.
type proxy struct {
	uri   string
	trips atomic.Int64
	delay time.Duration // of each reply
}

// through starts a proxy before the server of a URI.
func through(t testing.TB, d *pgtest.DB, uri string) *proxy {
	t.Helper()
	server, p := fmt.Sprintf("127.0.0.1:%d", d.Port), new(proxy)
	p.uri = strings.Replace(uri, server, pgtest.Listen(t, func(c net.Conn) { p.serve(c, server) }), 1)
	if p.uri == uri {
		t.Fatalf("%s does not name %s", uri, server)
	}
	return p
}

func (p *proxy) serve(client net.Conn, addr string) {
	defer client.Close()
	server, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer server.Close()
	var asked atomic.Bool
	go func() {
		b := make([]byte, 1<<16)
		for {
			n, err := client.Read(b)
			if n > 0 {
				// How often a step asks whether the target has caught up depends on how busy the
				// machine is.
				if !bytes.Contains(b[:n], []byte("SELECT applied_lsn::")) {
					asked.Store(true)
				}
				_, err = server.Write(b[:n])
			}
			if err != nil {
				_ = server.(*net.TCPConn).CloseWrite()
				return
			}
		}
	}()
	b := make([]byte, 1<<16)
	for {
		n, err := server.Read(b)
		if n > 0 && asked.Swap(false) {
			p.trips.Add(1)
			time.Sleep(p.delay)
		}
		if _, e := client.Write(b[:n]); e != nil || err == io.EOF || err != nil {
			return
		}
	}
}

// many makes tables, each with a foreign key, a trigger and a sequence. Every third one has another
// key.
func many(d *pgtest.DB, n int) {
	d.Exec("CREATE TABLE parent (id int PRIMARY KEY); INSERT INTO parent SELECT generate_series(1, 9); CREATE TABLE fired (t text)",
		"CREATE FUNCTION fire() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.fired VALUES (TG_TABLE_NAME); RETURN NEW; END'")
	for from := 1; from <= n; from += 100 {
		d.Exec(fmt.Sprintf(`DO $$ BEGIN FOR i IN %d..%d LOOP EXECUTE format('CREATE TABLE t%%1$s (id serial PRIMARY KEY, p int REFERENCES %%2$s, n int); INSERT INTO t%%1$s (p) VALUES (1), (2);
			CREATE TRIGGER fire BEFORE INSERT ON t%%1$s FOR EACH ROW EXECUTE PROCEDURE fire();', i, CASE WHEN i <= 200 THEN 'parent' ELSE 't' || i - 200 END);
			IF i %% 3 = 0 THEN EXECUTE format('ALTER TABLE t%%s ADD FOREIGN KEY (n) REFERENCES t%%s', i, i - 1); END IF; END LOOP; END $$`, from, min(from+99, n)))
	}
}

// counted does the steps of a cutover in the sessions of its lock, as scripts/cutover does, and
// fails the test if one takes more than a fixed number of round trips.
func (m *migration) counted(what string, delay time.Duration) {
	m.T.Helper()
	a, b := through(m.T, m.source, m.source.URI), through(m.T, m.target, m.target.URI)
	a.delay, b.delay = delay, delay
	e := &pgtest.Env{T: m.T, Dir: m.Dir, Source: a.uri, Target: b.uri, Vars: m.Vars}
	h := m.hold(e, "--snapshots")
	for _, step := range []string{"ready", "fence", "drain", "open"} {
		// As counted, and a few more. Large results count twice. The application does not wait for
		// the first one. drain asks until sync has applied the rest, which is little.
		most := map[string]int64{"ready": 75, "fence": 30, "drain": 40, "open": 28}[step]
		if pgtest.Full() {
			most = 300
		}
		a.trips.Store(0)
		b.trips.Store(0)
		began := time.Now()
		// drain names the snapshots.
		if names := h.ask(step); strings.Contains(names, ",") != (step == "drain") {
			m.T.Fatalf("%s: answered %q: %s", step, names, h.Errors())
		}
		took, trips := time.Since(began), a.trips.Load()+b.trips.Load()
		m.T.Logf("%s, %s: %v, %d round trips", what, step, took, trips)
		if most := time.Duration(trips)*delay + time.Second; delay > 0 && took > most {
			m.T.Errorf("%s, %s: %v, more than %v", what, step, took, most)
		}
		if trips > most {
			m.T.Errorf("%s, %s: %d round trips: %s", what, step, trips, h.Errors())
		}
	}
	h.end()
}

// How long the source is closed does not depend on the number of tables: what is left to do then
// takes a fixed number of round trips, with 200 tables as with 5,000. Meanwhile sync goes on.
func TestDowntimeManyTables_F14(t *testing.T) {
	source, target := pgtest.Pair(t)
	n := 200
	if pgtest.Full() {
		n = 5000
		source = pgtest.Start(t, source.Major, "max_locks_per_transaction=512").Database(t, "")
		target = pgtest.Start(t, target.Major, "max_locks_per_transaction=512").Database(t, "")
	}
	many(source, n)
	m := &migration{source: source, target: target, slot: "many_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.load()
	caughtUp := func() {
		t.Helper()
		m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	}
	caughtUp()
	_, errs := m.cut(0, "prepare", "--timeout", "10m")
	keys := n + n/3
	count := func(what string) int {
		t.Helper()
		var v int
		_, _ = fmt.Sscan(target.Query(what), &v)
		return v
	}
	const keysSQL = "SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace"
	const triggersSQL = "SELECT count(*) FROM pg_trigger WHERE tgname = 'fire' AND tgenabled = 'O'"
	if a, b := count(keysSQL), count(triggersSQL); a != keys || b != n {
		t.Errorf("%d keys, %d triggers after prepare: %s", a, b, errs)
	}
	if got := count("SELECT count(*) FROM pg_class c WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND relname ~ '^t[0-9]' AND oid NOT IN (SELECT starelid FROM pg_statistic)"); got != 0 {
		t.Errorf("%d tables have no statistics before the target opens", got)
	}
	// Neither keys nor triggers act on what sync writes, in any order, nor after a restart of it.
	source.Exec("SET session_replication_role = replica; DELETE FROM parent; INSERT INTO t1 (p) VALUES (77)",
		"INSERT INTO parent SELECT generate_series(1, 99)", "INSERT INTO t2 (p) VALUES (8)", "TRUNCATE fired")
	caughtUp()
	m.sync.Kill()
	m.startSync()
	source.Exec("UPDATE t3 SET p = 5", "BEGIN; TRUNCATE parent CASCADE; INSERT INTO parent SELECT generate_series(1, 99); COMMIT",
		"INSERT INTO t1 (id, p) VALUES (1, 3)", "TRUNCATE fired")
	caughtUp()
	m.cut(0, "prepare", "--timeout", "10m")
	source.Exec("SELECT setval('t7_id_seq', 4711)", "INSERT INTO t8 (p) VALUES (9)", "TRUNCATE fired")
	caughtUp()
	if a, b := count(keysSQL), count(triggersSQL); a != keys || b != n {
		t.Errorf("%d keys, %d triggers after prepare again", a, b)
	}
	if got := count("SELECT count(*) FROM fired"); got != 0 {
		t.Errorf("triggers have fired for %d applied rows", got)
	}

	m.counted(fmt.Sprint(n, " tables"), 0)
	if got := target.Query("SELECT nextval('t7_id_seq'), nextval('t8_id_seq') > (SELECT max(id) FROM t8), nextval('t9_id_seq')"); got != "4712\tt\t3" {
		t.Errorf("sequences: %s", got)
	}
	if _, err := target.Try("INSERT INTO t5 (p) VALUES (1000)"); err == nil || !strings.Contains(err.Error(), "23503") {
		t.Errorf("a key is not enforced: %v", err)
	}
	if target.Exec("INSERT INTO t5 (p) VALUES (1)"); count("SELECT count(*) FROM fired") != 1 {
		t.Error("a trigger does not fire")
	}
	m.cut(0, "finish")
	if a, b := count(keysSQL+" AND convalidated"), count(triggersSQL); a != keys || b != n {
		t.Errorf("%d valid keys, %d triggers after finish", a, b)
	}
}

// What prepare has done early follows what becomes of both sides until open: keys that are dropped,
// tables that are truncated, sequences of all kinds. No sequence hands out a value twice, wherever
// prepare and open were killed. Statistics are there when the target opens.
func TestPreparedChanges_F14(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	m := begin(t, source, target)
	sequences := []string{"plain", "cached", "down", "cycled", "fresh", "unset", "late", "customer_id_seq", `"Order_id_seq"`}
	source.Exec("CREATE SEQUENCE plain", "CREATE SEQUENCE cached CACHE 20", "CREATE SEQUENCE down INCREMENT -3 START -5", "CREATE SEQUENCE cycled MAXVALUE 5 CYCLE",
		"CREATE SEQUENCE fresh START 7", "CREATE SEQUENCE unset", "SELECT setval('unset', 50, false)",
		"CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child (id int PRIMARY KEY, p int, q int)", "INSERT INTO parent SELECT generate_series(1, 9)",
		"INSERT INTO child SELECT g, g % 9 + 1, g % 9 + 1 FROM generate_series(1, 500) g",
		"ALTER TABLE child ADD CONSTRAINT kept FOREIGN KEY (p) REFERENCES parent, ADD CONSTRAINT gone FOREIGN KEY (q) REFERENCES parent",
		"CREATE STATISTICS pair (ndistinct, dependencies) ON p, q FROM child")
	m.load()
	use := func() {
		t.Helper()
		source.Exec("SELECT nextval('plain'), nextval('cached'), nextval('down'), nextval('cycled')", "SELECT nextval('plain'), nextval('cycled'), nextval('cycled')",
			"INSERT INTO customer (name) VALUES ('x')")
	}
	killed := func(verb string) {
		t.Helper()
		p := m.Start(nil, nil, "pgcutover", verb, "--slot", m.slot)
		time.Sleep(time.Duration(rand.IntN(150)) * time.Millisecond)
		p.Kill()
		_ = p.Wait(10 * time.Second)
	}
	caughtUp := func() {
		t.Helper()
		m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	}
	use()
	caughtUp()
	killed("prepare")
	m.cut(0, "prepare")
	for _, what := range []string{"SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'event'", "SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'event_2'",
		"SELECT count(*) > 0 FROM pg_statistic_ext_data d JOIN pg_statistic_ext e ON e.oid = d.stxoid WHERE e.stxname = 'pair'"} {
		if target.Major < 12 && strings.Contains(what, "_ext_data") {
			continue
		}
		if got := target.Query(what); got != "t" {
			t.Errorf("before the target opens: %s: %s", what, got)
		}
	}
	use()
	// The source gives up keys, and truncates what they referenced. Sync goes on.
	truncate := "DELETE FROM parent"
	if source.Major > 10 { // 10 decodes no truncate, and a new file of a table may mean one
		truncate = "TRUNCATE parent"
		for _, d := range []*pgtest.DB{target, source} {
			d.Exec("ALTER TABLE child ALTER p TYPE bigint") // makes its key anew
		}
	}
	source.Exec("ALTER TABLE child DROP CONSTRAINT kept, DROP CONSTRAINT gone", truncate, "INSERT INTO parent SELECT generate_series(1, 20)",
		"ALTER TABLE child ADD CONSTRAINT kept FOREIGN KEY (p) REFERENCES parent", "UPDATE child SET p = 20 WHERE id = 1", "UPDATE child SET q = 999 WHERE id = 2",
		"CREATE SEQUENCE late START 3", "SELECT nextval('late')")
	caughtUp()
	out, _ := m.cut(1, "missing")
	says(t, out, "gone", "late")
	if sql, _ := m.Bash("pgcutover missing --slot "+m.slot+" --sql || true"), 0; !strings.Contains(sql, "gone") {
		t.Errorf("missing --sql: %s", sql)
	} else {
		target.Exec(sql)
	}
	if got, out, errs := m.Run(nil, "pgcutover", "missing", "--slot", m.slot); got != 0 {
		t.Errorf("after the statements: status %d: %s%s", got, out, errs)
	}
	m.cut(0, "fence")
	m.cut(0, "drain")
	for range 3 {
		killed("open")
	}
	m.cut(0, "open")
	for _, s := range sequences {
		next := "BEGIN READ WRITE; SELECT nextval('" + s + "')"
		if a, b := source.Query(next), target.Query(next); a != b {
			t.Errorf("sequence %s goes on with %s on the target, and with %s on the source", s, b, a)
		}
	}
	m.cut(0, "finish")
	if got := target.Query("SELECT string_agg(conname || convalidated, ' ') FROM pg_constraint WHERE conrelid = 'child'::regclass AND contype = 'f'"); got != "kepttrue" {
		t.Errorf("keys: %s", got)
	}
}

// Thousands of sequences are compared in a few queries, and those that differ are set in one.
func TestManySequences_F14(t *testing.T) {
	pgtest.Long(t)
	const locks, buffers = "max_locks_per_transaction=512", "shared_buffers=256MB" // a page for each sequence
	source, target := pgtest.Start(t, pgtest.Source(t).Major, locks, buffers).Database(t, ""), pgtest.Start(t, pgtest.Target(t).Major, locks, buffers).Database(t, "")
	source.Exec("CREATE TABLE t (a int PRIMARY KEY)", `DO $$ BEGIN FOR i IN 1..10000 LOOP EXECUTE 'CREATE SEQUENCE s' || i; IF i % 5 > 0 THEN PERFORM nextval(('s' || i)::regclass); END IF;
		IF i % 100 = 0 THEN COMMIT; END IF; END LOOP; END $$`)
	m := &migration{source: source, target: target, slot: "seq_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	m.cut(0, "prepare")
	source.Exec("SELECT nextval(('s' || g)::regclass) FROM generate_series(1, 10000, 10) g")
	m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	m.counted("10,000 sequences", 0)
	const values = "SELECT string_agg(nextval(('s' || g)::regclass)::text, ' ' ORDER BY g) FROM generate_series(1, 10000) g"
	if a, b := source.Query("BEGIN READ WRITE; "+values), target.Query(values); a != b {
		t.Error("the sequences go on with other values")
	}
}

// Where both servers are 100 ms away, each step takes its round trips, and not much more.
func TestDowntimeFarAway_F14(t *testing.T) {
	pgtest.Long(t)
	source, target := pgtest.Pair(t)
	many(source, 50)
	m := &migration{source: source, target: target, slot: "far_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	m.cut(0, "prepare")
	m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	m.counted("100 ms away", 100*time.Millisecond)
}

// A role that may no longer set session_replication_role when sync starts again drops the keys
// that prepare has created: they would refuse, or act on, what is applied. They wait for open.
func TestReplicaRevoked_F14(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	if target.Major < 15 {
		t.Skip("no role but a superuser may set it")
	}
	mover := "mover_" + target.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE "+mover+" LOGIN", "GRANT ALL ON DATABASE "+d.Name+" TO "+mover, "REVOKE CREATE ON SCHEMA public FROM PUBLIC", "GRANT ALL ON SCHEMA public TO "+mover)
	}
	source.Exec("SET ROLE " + mover + "; CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (id int PRIMARY KEY, p int REFERENCES parent ON DELETE CASCADE); INSERT INTO parent VALUES (1), (2); INSERT INTO child VALUES (1, 1), (2, 2)")
	target.Exec("GRANT SET ON PARAMETER session_replication_role TO " + mover)
	m := &migration{source: source, target: target, slot: "rev_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	m.Target = target.As(mover, "")
	m.load()
	caughtUp := func() {
		t.Helper()
		m.cut(0, "wait", "caught-up", "--timeout", "60s", "--lag", "0")
	}
	caughtUp()
	keys := func(want string) {
		t.Helper()
		if got := target.Query("SELECT count(*) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'child'::regclass"); got != want {
			t.Errorf("%s keys, not %s", got, want)
		}
	}
	m.cut(0, "prepare")
	keys("1")
	m.sync.Kill()
	target.Exec("REVOKE SET ON PARAMETER session_replication_role FROM " + mover)
	m.startSync()
	source.Exec("BEGIN; SET LOCAL session_replication_role = replica; DELETE FROM parent WHERE id = 1; INSERT INTO child VALUES (9, 9); COMMIT", "DELETE FROM child WHERE id IN (1, 9)")
	caughtUp()
	keys("0")
	m.cut(0, "prepare")
	keys("0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	m.cut(0, "open")
	keys("1")
	pgtest.Equal(t, source, target)
}
