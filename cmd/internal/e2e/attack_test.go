package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// evilFunctions are functions with names of PostgreSQL's that whoever owns a database can put
// before them. Each notes who has called it, and makes its author a superuser if the caller may.
var evilFunctions = []string{
	"current_database() RETURNS name", "current_setting(text) RETURNS text",
	"current_setting(text, bool) RETURNS text", "pg_backend_pid() RETURNS int",
	"set_config(text, text, bool) RETURNS text", "pg_is_in_recovery() RETURNS bool",
	"quote_ident(text) RETURNS text", "format(text, VARIADIC text[]) RETURNS text",
	"coalesce_evil(text) RETURNS text", "version() RETURNS text", "now() RETURNS timestamptz",
	"clock_timestamp() RETURNS timestamptz", "to_regclass(text) RETURNS regclass",
	"format_type(oid, int) RETURNS text", "pg_get_expr(pg_node_tree, oid) RETURNS text",
	"hashtextextended(text, bigint) RETURNS bigint", "md5(text) RETURNS text",
	"count(\"any\") RETURNS bigint", "array_to_string(anyarray, text) RETURNS text",
	"pg_current_wal_lsn() RETURNS pg_lsn", "pg_current_wal_flush_lsn() RETURNS pg_lsn",
	"pg_advisory_lock(int, int) RETURNS void", "pg_export_snapshot() RETURNS text",
	"txid_current_snapshot() RETURNS txid_snapshot", "unnest(anyarray) RETURNS SETOF anyelement",
	"obj_description(oid, name) RETURNS text", "pg_get_userbyid(oid) RETURNS name",
}

// evil makes a schema, on both sides, whose functions and operators come before PostgreSQL's in
// each session of the database that does not say otherwise.
func evil(db *pgtest.DB) []string {
	list := []string{
		"CREATE SCHEMA evil", "GRANT USAGE ON SCHEMA evil TO PUBLIC",
		"CREATE TABLE evil.calls (role name, what text, query text)", "GRANT INSERT ON evil.calls TO PUBLIC",
		`CREATE FUNCTION evil.escalate(what text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO evil.calls VALUES (current_user, what, pg_catalog.current_query());
			BEGIN EXECUTE 'RESET ROLE'; EXCEPTION WHEN OTHERS THEN NULL; END;
			BEGIN EXECUTE 'RESET SESSION AUTHORIZATION'; EXCEPTION WHEN OTHERS THEN NULL; END;
			BEGIN EXECUTE 'ALTER ROLE dbo SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
			BEGIN EXECUTE 'ALTER ROLE low SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END;
		END $$`,
		`CREATE FUNCTION evil.same(text, text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
			PERFORM evil.escalate('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$`,
		`CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, PROCEDURE = evil.same)`,
		`CREATE FUNCTION evil.same(name, name) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN
			PERFORM evil.escalate('='); RETURN $1 OPERATOR(pg_catalog.=) $2; END $$`,
		`CREATE OPERATOR evil.= (LEFTARG = name, RIGHTARG = name, PROCEDURE = evil.same)`,
		`CREATE FUNCTION evil.cat(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
			PERFORM evil.escalate('||'); RETURN $1 OPERATOR(pg_catalog.||) $2; END $$`,
		`CREATE OPERATOR evil.|| (LEFTARG = text, RIGHTARG = text, PROCEDURE = evil.cat)`,
		`CREATE FUNCTION evil.over(int, int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			PERFORM evil.escalate('/'); RETURN $1 OPERATOR(pg_catalog./) $2; END $$`,
		`CREATE OPERATOR evil./ (LEFTARG = int, RIGHTARG = int, PROCEDURE = evil.over)`,
		// What a statement of DDL calls on the way, and what it leaves behind for those that
		// follow.
		`CREATE FUNCTION evil.ddl() RETURNS int LANGUAGE plpgsql AS $$ BEGIN
			PERFORM evil.escalate('ddl');
			BEGIN EXECUTE 'SET standard_conforming_strings = off'; EXCEPTION WHEN OTHERS THEN NULL; END;
			BEGIN EXECUTE 'SET search_path = evil, pg_catalog'; EXCEPTION WHEN OTHERS THEN NULL; END;
			BEGIN EXECUTE 'DEALLOCATE ALL'; EXCEPTION WHEN OTHERS THEN NULL; END;
			FOR i IN 0..40 LOOP
				BEGIN EXECUTE pg_catalog.format('PREPARE s%s AS SELECT evil.escalate(''prepared'')', i);
				EXCEPTION WHEN OTHERS THEN NULL; END;
			END LOOP;
			BEGIN CREATE TEMP TABLE pg_class (LIKE pg_catalog.pg_class); EXCEPTION WHEN OTHERS THEN NULL; END;
			RETURN 1; END $$`,
	}
	for _, f := range evilFunctions {
		name, returns, _ := strings.Cut(f, "(")
		args, returns, _ := strings.Cut(returns, ") RETURNS ")
		body := "RETURN NULL;"
		switch {
		case strings.HasPrefix(returns, "SETOF"):
			body = "RETURN;"
		case returns == "void":
			body = ""
		case name == "count":
			continue
		}
		list = append(list, fmt.Sprintf(`CREATE FUNCTION evil.%s(%s) RETURNS %s LANGUAGE plpgsql AS $$ BEGIN
			PERFORM evil.escalate('%s'); %s END $$`, name, args, returns, name, body))
	}
	return append(list,
		"ALTER DATABASE "+db.Name+" SET search_path = evil, pg_catalog",
		"ALTER DATABASE "+db.Name+" SET standard_conforming_strings = off",
		"ALTER DATABASE "+db.Name+" SET transform_null_equals = on",
		"ALTER DATABASE "+db.Name+" SET bytea_output = escape",
		"ALTER DATABASE "+db.Name+" SET role = dbo",
	)
}

// An attacker is a role that attacks a database until the test is over. It notes what the server
// should have refused.
type attacker struct {
	db   *pgtest.DB
	role string
	mu   sync.Mutex
	did  map[string]bool
}

func (a *attacker) note(what string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.did[what] = true
}

// repeat connects as the role and does something over and over. Sessions may be ended by a fence.
func (a *attacker) repeat(ctx context.Context, do func(context.Context, *pgx.Conn)) {
	for ctx.Err() == nil {
		if c, err := pgx.Connect(ctx, a.db.As(a.role, "")); err == nil {
			for ctx.Err() == nil && !c.IsClosed() {
				do(ctx, c)
				pause(ctx, 50*time.Millisecond)
			}
			_ = c.Close(context.WithoutCancel(ctx))
		}
		pause(ctx, 50*time.Millisecond)
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// messages writes logical messages that look like ours.
func (a *attacker) messages(ctx context.Context, c *pgx.Conn) {
	for _, prefix := range []string{"pgsluice.ddl", "pgsluice", "pgsluice.mark", "pgsluice.repair"} {
		for _, content := range []string{
			`{"query":"ALTER ROLE ` + a.role + ` SUPERUSER","nth":1,"tag":"ALTER ROLE","search_path":"","role":"postgres"}`,
			`{"query":"CREATE TABLE app.pwn ()","nth":1,"tag":"CREATE TABLE","search_path":"app","role":"postgres"}`,
			`{"query":"DROP TABLE app.t","nth":1,"tag":"DROP TABLE","search_path":"app","role":"app"}`,
			"\x00 not JSON", "", "now",
		} {
			for _, transactional := range []bool{true, false} {
				_, _ = c.Exec(ctx, "SELECT pg_catalog.pg_logical_emit_message($1, $2, $3::bytea)", transactional, prefix, []byte(content))
			}
		}
	}
}

// ours tries to read, to write and to call what is in schema pgsluice.
func (a *attacker) ours(ctx context.Context, c *pgx.Conn) {
	try := func(what, sql string) {
		if _, err := c.Exec(ctx, sql); err == nil {
			a.note(what)
		}
	}
	list := func(sql string) (names []string) {
		rows, err := c.Query(ctx, sql)
		if err == nil {
			names, _ = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		return names
	}
	try("created in schema pgsluice", "CREATE TABLE pgsluice.pwn ()")
	for _, r := range list(`SELECT pg_catalog.format('pgsluice.%I', c.relname) FROM pg_catalog.pg_class c
		WHERE c.relnamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('pgsluice') AND c.relkind IN ('r', 'v', 'p')`) {
		try("read "+r, "SELECT * FROM "+r)
		try("wrote "+r, "INSERT INTO "+r+" DEFAULT VALUES")
		try("deleted from "+r, "DELETE FROM "+r)
		try("made a trigger on "+r, "CREATE TRIGGER evil BEFORE INSERT OR UPDATE ON "+r+
			" FOR EACH ROW EXECUTE FUNCTION pg_catalog.suppress_redundant_updates_trigger()")
		try("published "+r, "CREATE PUBLICATION pwn FOR TABLE "+r)
	}
	for _, f := range list(`SELECT pg_catalog.format('pgsluice.%I(%s)', p.proname, (SELECT pg_catalog.string_agg(CASE t.typname
			WHEN 'oid' THEN pg_catalog.format('%s', pg_catalog.to_regclass('app.secret')::pg_catalog.oid) ELSE pg_catalog.format('%L', 'mig') END, ', ')
			FROM pg_catalog.unnest(p.proargtypes) a JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) a))
		FROM pg_catalog.pg_proc p WHERE p.pronamespace OPERATOR(pg_catalog.=) pg_catalog.to_regnamespace('pgsluice')`) {
		try("called "+f, "SELECT "+f)
	}
	try("dropped schema pgsluice", "DROP SCHEMA pgsluice CASCADE")
	try("dropped an event trigger", "DROP EVENT TRIGGER pgsluice_record")
	try("read what it may not", "SELECT * FROM app.secret")
}

// locks takes each advisory lock that anybody else has in the database, and keeps it.
func (a *attacker) locks(ctx context.Context, c *pgx.Conn) {
	rows, err := c.Query(ctx, `SELECT DISTINCT CASE WHEN objsubid = 2 THEN pg_catalog.format('%s, %s', classid::bigint::bit(32)::int, objid::bigint::bit(32)::int)
		ELSE ((classid::bigint << 32) | objid::bigint)::text END FROM pg_catalog.pg_locks WHERE locktype = 'advisory' AND pid <> pg_catalog.pg_backend_pid()`)
	if err != nil {
		return
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return
	}
	_, _ = c.Exec(ctx, "SET lock_timeout = '300ms'")
	for _, k := range keys {
		_, _ = c.Exec(ctx, "SELECT pg_catalog.pg_advisory_lock("+k+")")
		_, _ = c.Exec(ctx, "SELECT pg_catalog.pg_advisory_lock_shared("+k+")")
	}
}

// changes of the schema that try to run as somebody else on the target.
func (a *attacker) ddl(ctx context.Context, c *pgx.Conn) {
	for _, sql := range []string{
		"CREATE TABLE dbo_s.x AS SELECT evil.ddl() AS n",
		"DROP TABLE dbo_s.x",
		"CREATE OR REPLACE FUNCTION dbo_s.who() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::pg_catalog.text'",
		"CREATE MATERIALIZED VIEW dbo_s.m AS SELECT evil.ddl() AS n",
		"DROP MATERIALIZED VIEW dbo_s.m",
		"SELECT E'a'\n'\\'; CREATE TABLE public.pwn (); --'; CREATE TABLE dbo_s.y (n int PRIMARY KEY DEFAULT evil.ddl())",
		"INSERT INTO dbo_s.y DEFAULT VALUES; DROP TABLE dbo_s.y",
		"COMMENT ON SCHEMA dbo_s IS '\\'; ALTER ROLE dbo SUPERUSER; --'",
	} {
		// By the simple protocol, which allows several statements.
		_, _ = c.PgConn().Exec(ctx, sql).ReadAll()
	}
}

// rightsOf lists what roles may do, and who is a member of whom.
const rightsOf = `SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', rolname, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
	(SELECT pg_catalog.array_agg(m.roleid::pg_catalog.regrole::text ORDER BY 1) FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid)), '; ' ORDER BY rolname)
	FROM pg_catalog.pg_roles r WHERE rolname IN ('low', 'dbo', 'app')`

// A role that may only connect, and the owner of the database on either side, try for a whole
// migration by superusers to gain a right, to read what they may not, or to stop it.
func TestAttack_P1_P2_P3_P4_P5_P6_P7_P8(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	major := func(shared *pgtest.Server) int { return shared.Major }
	servers := [2]*pgtest.Server{pgtest.Start(t, major(pgtest.Source(t))), pgtest.Start(t, major(pgtest.Target(t)))}
	if servers[0].Major < 14 {
		t.Skip("statements are recorded from 14 on")
	}
	var dbs [2]*pgtest.DB
	for i, s := range servers {
		admin := s.Database(t, "")
		for _, role := range []string{"low", "dbo", "app"} {
			admin.Exec("CREATE ROLE " + role + " LOGIN")
		}
		admin.Exec("ALTER DATABASE " + admin.Name + " OWNER TO dbo")
		dbs[i] = admin
	}
	source, target := dbs[0], dbs[1]
	env := pgtest.NewEnv(t, source, target)
	for _, db := range dbs {
		db.URI += "&search_path=pg_catalog&role=none" // for the sessions of this test
	}
	for _, db := range dbs {
		own := *db
		own.URI = db.As("dbo", "")
		own.Exec(evil(db)...)
	}
	source.Exec("CREATE SCHEMA app AUTHORIZATION app", "CREATE SCHEMA dbo_s AUTHORIZATION dbo",
		"CREATE TABLE app.t (id int PRIMARY KEY, v text)", "CREATE TABLE app.secret (id int PRIMARY KEY, v text)",
		"ALTER TABLE app.t OWNER TO app", "ALTER TABLE app.secret OWNER TO app",
		"INSERT INTO app.t SELECT g, 'v' || g FROM generate_series(1, 5000) g",
		"INSERT INTO app.secret SELECT g, md5(g::text) FROM generate_series(1, 100) g")
	before := [2]string{source.Query(rightsOf), target.Query(rightsOf)}

	// Whoever makes our schema first is not trusted with what we do in it.
	for i, db := range dbs {
		own := *db
		own.URI = db.As("dbo", "")
		own.Exec("CREATE SCHEMA pgsluice")
		if i == 0 {
			if status, _, errs := env.Run(nil, "pgcutover", "ddl", "install"); status != 77 {
				t.Errorf("ddl install into a schema of dbo's has status %d: %s", status, errs)
			}
		} else if status, _, errs := env.Run(env.Must(nil, "pgextract", "--table", "app.t"), "pgapply"); status != 77 {
			t.Errorf("a load into a schema of dbo's has status %d: %s", status, errs)
		}
		own.Exec("DROP SCHEMA pgsluice CASCADE")
	}

	ctx, stop := context.WithCancel(context.Background())
	var all []*attacker
	var wg sync.WaitGroup
	for _, db := range dbs {
		for _, role := range []string{"low", "dbo"} {
			a := &attacker{db: db, role: role, did: make(map[string]bool)}
			all = append(all, a)
			for _, do := range []func(context.Context, *pgx.Conn){a.messages, a.ours, a.locks} {
				wg.Go(func() { a.repeat(ctx, do) })
			}
		}
	}
	defer func() { stop(); wg.Wait() }()

	// The databases have owners and settings of their own, which do not travel; check may warn of
	// that.
	if status, out, errs := env.Run(nil, "pgcutover", "check"); status > 1 {
		t.Errorf("check: status %d\n%s%s", status, out, errs)
	}
	env.Must(nil, "pgcutover", "ddl", "install")
	env.Bash("pgextract --slot mig --schema app --schema dbo_s | pgapply")
	// Not before: pg_dump does not get over tables that go while it looks at them.
	ddl, enough := context.WithCancel(ctx)
	rounds := 0
	wg.Go(func() {
		all[1].repeat(ddl, func(ctx context.Context, c *pgx.Conn) {
			if rounds++; rounds > 5 {
				enough()
				return
			}
			all[1].ddl(ctx, c)
		})
	})
	sync := env.Start(nil, nil, "bash", pgtest.Root()+"/scripts/sync", "mig")
	defer func() {
		for _, db := range dbs {
			t.Log(sync.Errors(), db.Query(rightsOf),
				oneLine(db.Query("SELECT role, what, left(query, 300), count(*) FROM evil.calls GROUP BY 1, 2, 3")))
		}
	}()
	own := *source
	own.URI = source.As("app", "")
	for i := range 20 {
		own.Exec(fmt.Sprintf("INSERT INTO app.t VALUES (%d, 'new')", 10000+i),
			fmt.Sprintf("UPDATE app.t SET v = 'changed' WHERE id = %d", i+1))
		if i%5 == 0 {
			own.Exec(fmt.Sprintf("ALTER TABLE app.t ADD c%d int DEFAULT %d", i, i))
		}
		env.Must(nil, "pgcutover", "status")
	}
	<-ddl.Done()
	env.Must(nil, "pgcutover", "ddl", "check")
	env.Must(nil, "pgcutover", "wait", "caught-up", "--timeout", "60s")
	if !sync.Running() {
		t.Fatalf("sync has ended: %s", sync.Errors())
	}
	env.Bash("scripts/cutover mig --yes >&2")
	if status := sync.Wait(soon); status != 0 {
		t.Errorf("sync: status %d: %s", status, sync.Errors())
	}
	pgtest.EqualTable(t, source, target, "app.t")
	pgtest.EqualTable(t, source, target, "app.secret")
	env.Must(nil, "pgcutover", "cleanup", "--slot", "mig")
	stop()
	wg.Wait()

	for _, a := range all {
		for what := range a.did {
			t.Errorf("%s of the database on port %d %s", a.role, a.db.Port, what)
		}
	}
	for i, db := range dbs {
		if after := db.Query(rightsOf); after != before[i] {
			t.Errorf("the roles' rights were %s\nand are %s", before[i], after)
		}
		if calls := db.Query("SELECT DISTINCT what FROM evil.calls WHERE role NOT IN ('low', 'dbo', 'app')"); calls != "" {
			t.Errorf("on port %d, functions of the owner's were called with more rights: %s", db.Port, oneLine(calls))
		}
		if made := db.Query("SELECT oid::regclass FROM pg_class WHERE relname ~ '^pwn' AND relowner = 'postgres'::regrole"); made != "" {
			t.Errorf("there is %s", made)
		}
		if left := db.Query("SELECT to_regnamespace('pgsluice')"); left != "NULL" {
			t.Error("schema pgsluice is still there")
		}
	}
	if who := target.Query("SELECT coalesce(string_agg(DISTINCT pg_get_userbyid(relowner), ', '), 'dbo') FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'dbo_s'"); who != "dbo" {
		t.Errorf("what dbo has made belongs to %s", who)
	}
}

func oneLine(s string) string { return strings.ReplaceAll(s, "\n", ", ") }
