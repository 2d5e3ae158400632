package main_test

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// by hand: what is on the target is taken off for the load, and is exactly what it was after the
// cutover.
const byHand = `CREATE TABLE "Parents" ("A" int, b text, "unique" int UNIQUE, PRIMARY KEY ("A", b));
	CREATE TABLE kids (id int PRIMARY KEY, "a" int, b text, v text, again int REFERENCES kids DEFERRABLE INITIALLY DEFERRED,
		CONSTRAINT "FK 'it'" FOREIGN KEY ("a", b) REFERENCES "Parents" ("A", b) MATCH FULL ON UPDATE CASCADE ON DELETE SET NULL,
		CONSTRAINT no_overlap EXCLUDE USING btree (v WITH =) DEFERRABLE);
	COMMENT ON CONSTRAINT "FK 'it'" ON kids IS 'it''s \ commented';
	ALTER TABLE kids ADD CONSTRAINT unchecked FOREIGN KEY (id) REFERENCES "Parents" ("unique") NOT VALID;
	CREATE TABLE parts (id int, day date, kid int REFERENCES kids, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);
	CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (MINVALUE) TO ('2024-01-01');
	CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM ('2024-01-01') TO (MAXVALUE);
	CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'boom %', TG_NAME; END $$;
	CREATE TRIGGER "Tr 1" BEFORE INSERT OR UPDATE OF v ON kids FOR EACH ROW WHEN (NEW.v = 'never') EXECUTE FUNCTION boom('x');
	CREATE TRIGGER always AFTER INSERT ON kids FOR EACH STATEMENT EXECUTE FUNCTION boom();
	CREATE TRIGGER off AFTER INSERT ON kids FOR EACH STATEMENT EXECUTE FUNCTION boom();
	CREATE TRIGGER whole AFTER DELETE ON parts FOR EACH ROW EXECUTE FUNCTION boom();
	COMMENT ON TRIGGER "Tr 1" ON kids IS 'of a trigger';
	ALTER TABLE kids ENABLE ALWAYS TRIGGER always, DISABLE TRIGGER off;
	CREATE INDEX kids_v ON kids (lower(v), (id + 1) DESC) INCLUDE (b) WHERE id > 0;
	ALTER INDEX kids_v ALTER COLUMN 2 SET STATISTICS 55;
	COMMENT ON INDEX kids_v IS 'of an index';
	ALTER TABLE kids CLUSTER ON kids_pkey;
	CREATE UNIQUE INDEX parents_identity ON "Parents" ("A");
	ALTER TABLE "Parents" REPLICA IDENTITY USING INDEX parents_identity;
	CREATE VIEW needs_key AS SELECT id, v FROM kids GROUP BY id;
	CREATE TABLE serials (id serial PRIMARY KEY)`

const byHandRows = `ALTER TABLE kids DISABLE TRIGGER always;
	INSERT INTO "Parents" SELECT i, 'b' || i, i FROM generate_series(1, 100) i;
	INSERT INTO kids SELECT i, i, 'b' || i, 'v' || i, i - 1 FROM generate_series(1, 100) i WHERE i > 0;
	UPDATE kids SET again = NULL WHERE id = 1;
	SET CONSTRAINTS ALL IMMEDIATE;
	INSERT INTO parts SELECT i, '2023-12-01'::date + i, i FROM generate_series(1, 100) i;
	INSERT INTO serials DEFAULT VALUES;
	ALTER TABLE kids ENABLE ALWAYS TRIGGER always`

func TestSchemaByHand(t *testing.T) {
	for _, apply := range [][]string{{"--rebuild-indexes"}, nil} {
		if apply == nil && !pgtest.Full() {
			break // the other one takes off more
		}
		source, target := pgtest.Pair(t)
		source.Exec(byHand, strings.Replace(byHandRows, "ALTER TABLE kids DISABLE", "BEGIN; ALTER TABLE kids DISABLE", 1)+"; COMMIT")
		e := pgtest.NewEnv(t, source, target)
		// As the tutorials do it.
		e.Bash(`pg_dump -s -d "$1" | psql -qX -v ON_ERROR_STOP=1 -d "$2" >/dev/null`, source.URI, target.URI)
		before := schema(t, target)
		loadInto(t, e, apply, "--slot", source.Name, "--data-only")
		if n := target.Query(`SELECT string_agg(conname, ' ') FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace`) +
			target.Query("SELECT string_agg(tgname, ' ') FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"); n != "NULLNULL" {
			t.Errorf("still there: %s", n)
		}
		pgtest.Equal(t, source, target)
		if len(apply) > 0 {
			if n := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE phase = 'table' AND state = 'done'"); n == "0" {
				t.Error("no index was rebuilt")
			}
		}
		// A partition again, with its schema, which is there.
		loadInto(t, e, apply, "--slot", source.Name, "--table", "public.parts_*", "--reload")
		source.Exec(`UPDATE "Parents" SET "A" = "A" + 1000 WHERE b = 'b5'`, "DELETE FROM parts_1 WHERE id = 9999")
		cutover(t, e, source.Name)
		unpublish(source, source.Name)
		pgtest.Equal(t, source, target)
		if after := schema(t, target); after != before {
			t.Errorf("%v: it is not what it was:\n%s", apply, diff(before, after))
		}
		equalSchema(t, source, target)
	}
}

// Who makes the schema by hand may choose other types.
func TestTypesByHand(t *testing.T) {
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE a (id int PRIMARY KEY, at timestamptz, n numeric)",
		"INSERT INTO a SELECT i, now() + i * interval '1 s', i / 7.0 FROM generate_series(1, 1000) i")
	target.Exec("CREATE TABLE a (id bigint PRIMARY KEY, at timestamptz, n text)")
	load(t, pgtest.NewEnv(t, source, target), "--data-only")
	const rows = "SELECT id, at, n::text FROM a ORDER BY id"
	if source.Query(rows) != target.Query(rows) {
		t.Error("the rows differ")
	}
}

// Without a cutover to come, or when it is wanted, foreign keys and triggers are there when the
// load is.
func TestConstraintsNow(t *testing.T) {
	for _, slot := range []string{"", "now"} {
		source, target := pgtest.Pair(t)
		source.Exec(byHand, strings.Replace(byHandRows, "ALTER TABLE kids DISABLE", "BEGIN; ALTER TABLE kids DISABLE", 1)+"; COMMIT")
		e := pgtest.NewEnv(t, source, target)
		if slot == "" {
			load(t, e)
		} else {
			loadInto(t, e, []string{"--constraints", "now"}, "--slot", slot)
			source.Exec("INSERT INTO serials DEFAULT VALUES", "UPDATE kids SET b = 'b1', a = 1 WHERE id = 7")
			e.Bash(`pgdecode --slot now --until now | pgapply >/dev/null`)
			pgtest.Equal(t, source, target)
			cutover(t, e, slot) // what is ENABLE ALWAYS acts nevertheless, and waits for it
			unpublish(source, slot)
		}
		pgtest.Equal(t, source, target)
		equalSchema(t, source, target)
	}
}

// A role that may not switch triggers off cannot have them while changes are applied.
func TestConstraintsNowDenied(t *testing.T) {
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE a (id int PRIMARY KEY)")
	target.Exec("DO $$ BEGIN CREATE ROLE load_plain LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
		"ALTER DATABASE "+target.Name+" OWNER TO load_plain", "GRANT ALL ON SCHEMA public TO load_plain")
	e := pgtest.NewEnv(t, source, target)
	e.Target = target.As("load_plain", "")
	_, said, _, status := pipe(e, []string{"--constraints", "now"}, []string{"--slot", source.Name, "--no-owner", "--no-acl"})
	if status != 78 || !strings.Contains(said, "may not disable them") {
		t.Errorf("exit status %d\n%s", status, said)
	}
	load(t, e, "--slot", source.Name, "--no-owner", "--no-acl", "--resume")
	pgtest.Equal(t, source, target)
}
