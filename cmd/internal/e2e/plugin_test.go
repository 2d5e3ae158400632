package e2e

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A slot of test_decoding brings the same rows as one of pgoutput: changes of every kind, large
// transactions, columns that come and go, and tables that are not selected.
func TestPluginTestDecoding(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	source.Exec(varied(source.Major), "CREATE TABLE apart (id int PRIMARY KEY)", "CREATE TABLE logged (a int)")
	env := pgtest.NewEnv(t, source, target)
	env.Vars = []string{"SLOT=" + source.Name}
	env.Bash(`pgextract --slot "$SLOT" --plugin test_decoding --exclude-table apart | pgapply`)
	if plugin := source.Query("SELECT plugin FROM pg_replication_slots WHERE slot_name = '" + source.Name + "'"); plugin != "test_decoding" {
		t.Fatalf("the slot has plugin %s", plugin)
	}
	sync := func() {
		t.Helper()
		env.Bash(`pgdecode --slot "$SLOT" --until now --confirm-from "$1" | pgapply > "$1"`, t.TempDir()+"/applied")
	}
	for k := range often(24, 240) {
		source.Exec(variedStep(k, source.Major))
		if k%5 == 4 {
			sync()
		}
	}
	// Larger than what is held back; with messages, and a table that is not selected.
	source.Exec("BEGIN; INSERT INTO logged SELECT i FROM generate_series(1, 30000) i; SELECT pg_logical_emit_message(true, 'x, sz: 1', E'a\\nb'); INSERT INTO apart VALUES (1); UPDATE documents SET body = repeat('x', 3000000) WHERE id = (SELECT min(id) FROM documents); COMMIT",
		"SELECT pg_logical_emit_message(false, 'y', 'z')", "INSERT INTO apart VALUES (2)")
	sync()
	// Columns change between rows that are read later. The target gets the same changes by hand.
	source.Exec("INSERT INTO people (name) VALUES ('before')", "ALTER TABLE people ADD COLUMN more int DEFAULT 5", "ALTER TABLE people ADD COLUMN here text")
	target.Exec("ALTER TABLE people ADD COLUMN more int DEFAULT 5", "ALTER TABLE people ADD COLUMN here text")
	source.Exec("UPDATE people SET here = 'x', more = NULL WHERE id % 2 = 0", "DELETE FROM people WHERE id % 7 = 0")
	sync()
	source.Exec("DROP TABLE apart")
	target.Exec("DROP TABLE IF EXISTS apart")
	source.Exec("INSERT INTO people (name) VALUES ('after')")
	sync()
	pgtest.Equal(t, source, target)
}

// A key that changes while changes are on their way could make them hit other rows: test_decoding
// does not say which key a row was changed under. That is noticed, and nothing is applied.
func TestPluginKeyChanged(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for _, alter := range []string{
		"ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)",
		"ALTER TABLE t RENAME TO x; ALTER TABLE u RENAME TO t",
		"ALTER TABLE t RENAME TO x",
		"DO $$ BEGIN ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b); EXCEPTION WHEN others THEN NULL; END $$",
	} {
		source, target := pgtest.Pair(t)
		source.Exec("CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL)", "CREATE TABLE u (a int, b int PRIMARY KEY)",
			"INSERT INTO t VALUES (1, 2), (2, 1)", "INSERT INTO u VALUES (1, 2), (2, 1)")
		env := pgtest.NewEnv(t, source, target)
		env.Vars = []string{"SLOT=" + source.Name}
		env.Bash(`pgextract --slot "$SLOT" --plugin test_decoding | pgapply`)
		source.Exec("UPDATE t SET b = 5 WHERE a = 1", alter)
		status, _, errs := env.Run(nil, "pgdecode", "--slot", source.Name, "--until", "now")
		if status != 69 || !strings.Contains(errs, "cannot tell which definition table public.t had") {
			t.Errorf("%s: status %d: %s", alter, status, errs)
		}
	}
	// Changed before a row in the same session, it is known.
	source, target := pgtest.Pair(t)
	source.Exec("CREATE TABLE t (a int PRIMARY KEY, b int NOT NULL)", "INSERT INTO t VALUES (1, 2), (2, 1)")
	env := pgtest.NewEnv(t, source, target)
	env.Vars = []string{"SLOT=" + source.Name}
	env.Bash(`pgextract --slot "$SLOT" --plugin test_decoding | pgapply`)
	alter := "ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY (b)"
	source.Exec(alter, "UPDATE t SET a = 5 WHERE b = 1", "DELETE FROM t WHERE b = 2")
	target.Exec(alter)
	env.Bash(`pgdecode --slot "$SLOT" --until now | pgapply`)
	pgtest.Equal(t, source, target)
}

// test_decoding sends text in the encoding of the database, names of tables, columns and types
// included. pgdecode converts it.
func TestPluginEncodings(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	for _, encoding := range []string{"LATIN1", "WIN1252", "KOI8R", "SQL_ASCII", "EUC_JP"} {
		options := "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING '" + encoding + "'"
		source := pgtest.Source(t).Database(t, options)
		target := pgtest.Target(t).Database(t, strings.Replace(options, encoding, map[bool]string{true: "SQL_ASCII", false: "UTF8"}[encoding == "SQL_ASCII"], 1))
		source.Exec("CREATE TABLE t (id int PRIMARY KEY, b text)")
		env := pgtest.NewEnv(t, source, target)
		env.Vars = []string{"SLOT=" + source.Name}
		if encoding == "EUC_JP" {
			status, _, errs := env.Run(nil, "pgextract", "--slot", source.Name, "--plugin", "test_decoding")
			if status != 78 || !strings.Contains(errs, "has the encoding EUC_JP") {
				t.Errorf("status %d: %s", status, errs)
			}
			continue
		}
		name := `"'` + " || chr(233) || " + `'x"`
		source.Exec(`DO $$ BEGIN EXECUTE 'CREATE TABLE ` + name + ` (` + name + ` int PRIMARY KEY, "b" text)'; END $$`)
		env.Bash(`pgextract --slot "$SLOT" --plugin test_decoding | pgapply`)
		// Every character that the encoding has.
		source.Exec(`DO $$ BEGIN FOR i IN 128..255 LOOP BEGIN
			PERFORM convert(decode(to_hex(i), 'hex'), '`+encoding+`', '`+map[bool]string{true: encoding, false: "UTF8"}[encoding == "SQL_ASCII"]+`');
			INSERT INTO t VALUES (i, convert_from(decode('41' || to_hex(i) || '42', 'hex'), '`+encoding+`')); EXCEPTION WHEN data_exception THEN NULL; END; END LOOP; END $$`,
			`DO $$ BEGIN EXECUTE 'INSERT INTO `+name+` VALUES (1, chr(233))'; EXECUTE 'UPDATE `+name+` SET `+name+` = 2'; END $$`,
			"SELECT pg_logical_emit_message(true, chr(233), 'x' || chr(233))")
		if encoding == "SQL_ASCII" {
			// Such a name is refused, not overlooked.
			status, _, errs := env.Run(nil, "pgdecode", "--slot", source.Name, "--until", "now")
			if status != 78 || !strings.Contains(errs, "has a name that is not UTF-8") {
				t.Errorf("status %d: %s", status, errs)
			}
			continue
		}
		env.Bash(`pgdecode --slot "$SLOT" --until now --confirm-from "$1" | pgapply > "$1"`, t.TempDir()+"/applied")
		const rows = "SET client_encoding = UTF8; SELECT string_agg(id || ':' || b, ' ' ORDER BY id) FROM t"
		if a, b := source.Query(rows), target.Query(rows); a != b || len(a) < 500 {
			t.Errorf("%s: the source has\n%s\nand the target\n%s", encoding, a, b)
		}
	}
}
