package dump

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// schema has at least one object of each kind that pg_dump treats in a way of its own.
const schema = `
CREATE SCHEMA "S s"; COMMENT ON SCHEMA "S s" IS 'a "comment"
of two lines; with a semicolon';
CREATE TYPE "S s".mood AS ENUM ('sad', 'it''s; ok');
CREATE DOMAIN public.short AS text CHECK (length(VALUE) < 10);
CREATE TYPE public.pair AS (a int, b text);
CREATE SEQUENCE public.free START 7;
CREATE FUNCTION public.f(a int, b text DEFAULT 'x;y') RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN a; -- ; "
END $$;
CREATE PROCEDURE public.p() LANGUAGE sql AS 'SELECT 1';
CREATE AGGREGATE public.total(int) (sfunc = int4pl, stype = int);
CREATE OPERATOR public.=== (leftarg = int, rightarg = int, function = int4eq);
CREATE TABLE public.customer (id bigserial PRIMARY KEY, name public.short NOT NULL, m "S s".mood DEFAULT 'sad', UNIQUE (name) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE "S s"."Order ;"" x" (id int GENERATED ALWAYS AS IDENTITY, customer bigint REFERENCES public.customer ON DELETE CASCADE,
	"Sum" numeric(10,2) CHECK ("Sum" >= 0), twice int GENERATED ALWAYS AS (1 + 1) STORED, PRIMARY KEY (id, customer));
CREATE INDEX "I i" ON "S s"."Order ;"" x" (lower("Sum"::text)); CREATE INDEX "I 2" ON "S s"."Order ;"" x" (id) WHERE "Sum" > 5;
ALTER TABLE "S s"."Order ;"" x" CLUSTER ON "I i";
CREATE UNIQUE INDEX u ON public.customer (name, id) INCLUDE (m);
COMMENT ON INDEX public.u IS 'comment';
COMMENT ON CONSTRAINT customer_pkey ON public.customer IS 'primary';
ALTER TABLE public.customer REPLICA IDENTITY USING INDEX customer_pkey;
CREATE TABLE public.part (a int NOT NULL, b int) PARTITION BY RANGE (a);
CREATE TABLE public.part_1 PARTITION OF public.part FOR VALUES FROM (0) TO (10);
CREATE TABLE public.part_2 PARTITION OF public.part DEFAULT;
CREATE INDEX part_b ON public.part (b);
ALTER TABLE public.part ADD PRIMARY KEY (a);
CREATE TABLE public.parent (a int); CREATE TABLE public.child (b int) INHERITS (public.parent);
CREATE TABLE public.self (id int PRIMARY KEY, up int REFERENCES public.self);
CREATE TABLE public."self 2" (id int PRIMARY KEY REFERENCES public.self);
CREATE VIEW public.v AS SELECT * FROM public.customer;
CREATE VIEW public.loop1 AS SELECT 1 AS a; CREATE VIEW public.loop2 AS SELECT * FROM public.loop1; CREATE OR REPLACE VIEW public.loop1 AS SELECT 1 AS a WHERE EXISTS (SELECT 1);
CREATE MATERIALIZED VIEW public.mv AS SELECT id FROM public.customer; CREATE UNIQUE INDEX mv_id ON public.mv (id);
CREATE MATERIALIZED VIEW public.mv2 AS SELECT id FROM public.mv WITH NO DATA;
CREATE FUNCTION public.t() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER tr BEFORE INSERT ON public.customer FOR EACH ROW EXECUTE FUNCTION public.t();
ALTER TABLE public.customer DISABLE TRIGGER tr;
CREATE EVENT TRIGGER ev_DATABASE ON sql_drop EXECUTE FUNCTION public.evf();
CREATE RULE r AS ON UPDATE TO public.v DO INSTEAD NOTHING;
CREATE POLICY pol ON public.customer USING (id > 0); ALTER TABLE public.customer ENABLE ROW LEVEL SECURITY;
CREATE STATISTICS public.st ON id, name FROM public.customer;
ALTER TABLE public.customer ALTER COLUMN id SET STATISTICS 500;
CREATE COLLATION public.coll FROM "C";
CREATE TEXT SEARCH CONFIGURATION public.ts (COPY = simple);
CREATE CAST (public.pair AS text) WITH INOUT AS ASSIGNMENT;
CREATE EXTENSION hstore; CREATE PUBLICATION pub_DATABASE FOR TABLE public.customer;
CREATE PUBLICATION ours_DATABASE FOR TABLE public.customer;
GRANT SELECT ON public.customer TO PUBLIC; GRANT UPDATE (name) ON public.customer TO role_DATABASE;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO role_DATABASE;
ALTER TABLE public.self OWNER TO role_DATABASE; ALTER FUNCTION public.f(int, text) OWNER TO role_DATABASE;
`

// sample makes a database with the schema.
func sample(t testing.TB) *pgtest.DB {
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE ROLE role_"+d.Name, "GRANT CREATE ON SCHEMA public TO role_"+d.Name)
	t.Cleanup(func() { d.Exec("DROP OWNED BY role_"+d.Name+" CASCADE", "DROP ROLE role_"+d.Name) })
	d.Exec("CREATE FUNCTION public.evf() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'",
		strings.ReplaceAll(schema, "DATABASE", d.Name),
		"DROP EVENT TRIGGER ev_"+d.Name+"; CREATE EVENT TRIGGER ev_"+d.Name+
			" ON sql_drop WHEN TAG IN ('DROP SERVER') EXECUTE FUNCTION public.evf()")
	return d
}

func pgDump(t testing.TB, d *pgtest.DB, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("pg_dump", append(args, "--dbname="+d.URI)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// pg_restore reads archives as well: what it lists is what we read.
func TestReadTOC(t *testing.T) {
	d := sample(t)
	for _, args := range [][]string{{"-Fc", "-s"}, {"-Fc", "-s", "--no-privileges"}, {"-Fc"}, {"-Fc", "-Z0"}} {
		archive := pgDump(t, d, args...)
		entries, err := readTOC(iotest.OneByteReader(bytes.NewReader(archive)))
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("pg_restore", "--list")
		cmd.Stdin = bytes.NewReader(archive)
		list, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		byID := make(map[int]*Entry)
		for i := range entries {
			byID[entries[i].ID] = &entries[i]
		}
		lines := regexp.MustCompile(`(?m)^(\d+); (\d+) (\d+) (.*)$`).FindAllStringSubmatch(string(list), -1)
		if len(lines) < 30 {
			t.Fatalf("%v: pg_restore lists only %d entries", args, len(lines))
		}
		for _, l := range lines {
			id, _ := strconv.Atoi(l[1])
			e := byID[id]
			if e == nil {
				t.Errorf("%v: there is no entry %s", args, l[0])
				continue
			}
			name := e.Schema
			if name == "" {
				name = "-"
			}
			// The list shows new lines as spaces.
			want := strings.ReplaceAll(e.Desc+" "+name+" "+e.Tag+" "+e.Owner, "\n", " ")
			if l[4] != want || l[2] != strconv.Itoa(int(e.CatalogOID)) || l[3] != strconv.Itoa(int(e.OID)) {
				t.Errorf("%v: %q is %q for pg_restore", args, want, l[0])
			}
		}
		// Statements and sections: what pg_restore would execute for each section is what the
		// entries have.
		for section, flag := range map[Section]string{SectionPreData: "pre-data", SectionPostData: "post-data"} {
			cmd := exec.Command("pg_restore", "--section="+flag, "-f", "-")
			cmd.Stdin = bytes.NewReader(archive)
			script, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range entries {
				if e.Section == section && !strings.Contains(string(script), strings.TrimSpace(e.SQL)) && !skipped[e.Desc] {
					t.Errorf("%v: pg_restore does not execute in %s:\n%s", args, flag, e.SQL)
				}
			}
		}
	}
}

// toc is an archive of a given version, made by hand, with one entry.
func toc(version byte) []byte {
	var b bytes.Buffer
	number := func(v int) {
		if v < 0 {
			b.WriteByte(1)
			v = -v
		} else {
			b.WriteByte(0)
		}
		b.Write([]byte{byte(v), byte(v >> 8), byte(v >> 16), byte(v >> 24)})
	}
	str := func(s string) {
		number(len(s))
		b.WriteString(s)
	}
	b.WriteString("PGDMP")
	b.Write([]byte{1, version, 0, 4, 8, 1})
	if version >= 15 {
		b.WriteByte(0)
	} else {
		number(-1)
	}
	for range 7 {
		number(0)
	}
	str("db")
	str("15.1")
	str("15.1")
	number(1)
	number(42)
	number(0)
	str("1259")
	str("16384")
	str("t")
	str("TABLE")
	number(int(SectionPreData))
	str("CREATE TABLE t ();")
	str("DROP TABLE t;")
	number(-1) // no COPY statement
	str("public")
	str("")
	if version >= 14 {
		str("heap")
	}
	if version >= 16 {
		number('r')
	}
	str("me")
	str("false")
	str("7")
	number(-1)
	b.WriteByte(1)
	b.Write(make([]byte, 8))
	return b.Bytes()
}

// What was added in versions 12, 16 and 17 of pg_dump is read where it is, and only there.
func TestVersions(t *testing.T) {
	for _, version := range []byte{12, 13, 14, 15, 16} {
		archive := toc(version)
		entries, err := readTOC(bytes.NewReader(archive))
		if err != nil || len(entries) != 1 {
			t.Errorf("1.%d: %v, %v", version, entries, err)
			continue
		}
		e := entries[0]
		if e.ID != 42 || e.OID != 16384 || e.Tag != "t" || e.SQL != "CREATE TABLE t ();" ||
			e.Schema != "public" || e.Owner != "me" || len(e.Deps) != 1 || e.Deps[0] != 7 {
			t.Errorf("1.%d: %+v", version, e)
		}
		// A cut archive is never taken for a short one.
		for n := range len(archive) {
			if _, err := readTOC(bytes.NewReader(archive[:n])); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("1.%d, cut after %d of %d bytes: %v", version, n, len(archive), err)
			}
		}
	}
	for _, version := range []byte{11, 17} {
		if _, err := readTOC(bytes.NewReader(toc(version))); err == nil || !strings.Contains(err.Error(), "version") {
			t.Errorf("1.%d: %v", version, err)
		}
	}
	for name, damage := range map[string]func([]byte){
		"magic":        func(b []byte) { b[0] = 'p' },
		"integer size": func(b []byte) { b[8] = 9 },
		"format":       func(b []byte) { b[10] = 3 },
	} {
		archive := toc(14)
		damage(archive)
		if _, err := readTOC(bytes.NewReader(archive)); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%s: %v", name, err)
		}
	}
	failing := errors.New("disk")
	if _, err := readTOC(io.MultiReader(bytes.NewReader(toc(14)[:60]), iotest.ErrReader(failing))); !errors.Is(err, failing) {
		t.Errorf("got %v", err)
	}
}

// What a server keeps among a column's options for itself is no part of the schema.
func TestColumnOptions(t *testing.T) {
	for sql, want := range map[string]string{
		"CREATE TABLE t (\n    a int\n);\nALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=22159288);\n": "CREATE TABLE t (\n    a int\n);\n",
		"ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=5, pg_attver=1);\n":                           "ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=5);\n",
		"ALTER TABLE ONLY public.t ALTER COLUMN a SET (pg_attver=1, n_distinct=5);":                             "ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=5);",
		"ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=5);\n":                                        "ALTER TABLE ONLY public.t ALTER COLUMN a SET (n_distinct=5);\n",
		"ALTER TABLE ONLY public.t ALTER COLUMN a SET STATISTICS 100;\n":                                        "ALTER TABLE ONLY public.t ALTER COLUMN a SET STATISTICS 100;\n",
	} {
		if got := columnOptions.ReplaceAllStringFunc(sql, withoutAttver); got != want {
			t.Errorf("%q becomes %q", sql, got)
		}
	}
}

// Whatever the bytes: no panic, no end of memory, and what is read can be turned into records.
func FuzzReadTOC(f *testing.F) {
	for _, version := range []byte{12, 14, 15, 16} {
		f.Add(toc(version))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		entries, err := readTOC(bytes.NewReader(b))
		if err != nil && entries != nil {
			t.Error("entries beside an error")
		}
		DDL(entries, Extra{})
	})
}
