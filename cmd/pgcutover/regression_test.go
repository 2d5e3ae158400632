package main

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// What PostgreSQL's own regression tests leave behind, and the load or the ledger had not foreseen.
func TestRegressionObjects(t *testing.T) {
	source, target := pgtest.Pair(t)
	if source.Major < 11 {
		t.Skip("version 10 has no indexes of partitioned tables")
	}
	m := &migration{source: source, target: target, slot: "mig_" + source.Name, Env: pgtest.NewEnv(t, source, target)}
	owner := "owner_of_" + source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE " + owner)
		t.Cleanup(func() { d.Exec("BEGIN READ WRITE; DROP OWNED BY " + owner + "; DROP ROLE " + owner + "; COMMIT") })
	}
	source.Exec("GRANT CREATE ON SCHEMA public TO "+owner,
		// The server evaluates it to attach an index, with the rights of who does that.
		"CREATE FUNCTION own(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN IF current_user <> '"+owner+"' THEN RAISE 'called by %', current_user; END IF; RETURN $1; END $$",
		"CREATE TABLE parted (a int) PARTITION BY RANGE (a); CREATE TABLE part PARTITION OF parted FOR VALUES FROM (1) TO (10); ALTER TABLE parted OWNER TO "+owner+"; ALTER TABLE part OWNER TO "+owner,
		"SET ROLE "+owner+`; CREATE INDEX "its index" ON parted ((public.own(a) + public.own(0)))`,
		// Older servers let a rule be renamed so; none lets it be created so.
		"CREATE TABLE ruled (a int); CREATE RULE r AS ON INSERT TO ruled WHERE NEW.a > 10 DO INSTEAD NOTHING; UPDATE pg_rewrite SET rulename = '_RETURN' WHERE rulename = 'r'")
	m.Bash("pgextract --slot " + m.slot + " | pgapply 2>&1 || true")
	if n := target.Query(`SELECT indisvalid FROM pg_index WHERE indexrelid = '"its index"'::regclass`); n != "t" {
		t.Errorf("the index is valid: %s", n)
	}
	lines := m.missing()
	for _, l := range lines {
		if l.Name != "public.ruled._RETURN" || !strings.Contains(l.Cause, "must not be named") {
			t.Errorf("%s %s %s: %s; %s", l.Problem, l.Kind, l.Name, l.Cause, strings.Join(l.SQL, "; "))
		}
	}
	if n := len(lines); n != 1 {
		t.Errorf("%d lines", n)
	}
}

// What only a superuser can create keeps a load without one from being complete. It is printed, in
// an order in which it can be executed, and then the load goes on.
func TestRegressionBaseType(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	e := pgtest.NewEnv(t, source, target)
	mover := "mover_of_" + target.Name
	target.Exec("CREATE ROLE "+mover+" LOGIN", "GRANT CREATE ON DATABASE "+target.Name+" TO "+mover, "GRANT CREATE ON SCHEMA public TO "+mover)
	t.Cleanup(func() { target.Exec("DROP OWNED BY " + mover + " CASCADE; DROP ROLE " + mover) })
	e.Target = target.As(mover, "")
	source.Exec("CREATE TYPE alias; CREATE FUNCTION alias_in(cstring) RETURNS alias STRICT IMMUTABLE LANGUAGE internal AS 'int8in'; CREATE FUNCTION alias_out(alias) RETURNS cstring STRICT IMMUTABLE LANGUAGE internal AS 'int8out'",
		"CREATE TYPE alias (INPUT = alias_in, OUTPUT = alias_out, LIKE = int8)",
		"CREATE TABLE uses (id int PRIMARY KEY, a alias); INSERT INTO uses VALUES (1, '2'); CREATE VIEW shows AS SELECT a FROM uses")
	e.Bash("pgextract --slot " + source.Name + " --no-owner | pgapply || true")
	status, sql, said := e.Run(nil, "pgcutover", "missing", "--slot", source.Name, "--sql")
	if status != 78 {
		t.Errorf("status %d: %s", status, said)
	}
	target.Exec(string(sql))
	e.Bash("pgextract --slot " + source.Name + " --no-owner --resume | pgapply")
	e.Must(nil, "pgcutover", "missing", "--slot", source.Name)
	if got := target.Query("SELECT a FROM shows"); got != "2" {
		t.Errorf("the row is %q", got)
	}
}
