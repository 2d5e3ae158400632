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
	for k := range pgtest.Often(24, 240) {
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
	for _, encoding := range []string{"LATIN1", "WIN1252", "KOI8R", "SQL_ASCII"} {
		options := "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING '" + encoding + "'"
		source := pgtest.Source(t).Database(t, options)
		target := pgtest.Target(t).Database(t, strings.Replace(options, encoding, map[bool]string{true: "SQL_ASCII", false: "UTF8"}[encoding == "SQL_ASCII"], 1))
		source.Exec("CREATE TABLE t (id int PRIMARY KEY, b text)")
		env := pgtest.NewEnv(t, source, target)
		env.Vars = []string{"SLOT=" + source.Name}
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

// The same for characters of several bytes: each that the encoding has.
func TestPluginWideEncodings(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	// The longer characters begin like this.
	for encoding, more := range map[string]string{"EUC_JP": "8f", "EUC_JIS_2004": "8f", "EUC_KR": "", "EUC_CN": "", "EUC_TW": "8ea2"} {
		options := "TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING "
		source, target := pgtest.Source(t).Database(t, options+"'"+encoding+"'"), pgtest.Target(t).Database(t, options+"'UTF8'")
		do := func(body string) {
			source.Exec(`DO $$ DECLARE c text; r text; p text; n int := 0; x text := '''' || convert_from('\xc4a1', '` + encoding + `') || '"x'; BEGIN ` + body + ` END $$`)
		}
		source.Exec("CREATE TABLE t (id int PRIMARY KEY, b text)")
		do("EXECUTE format('CREATE TABLE %1$I (%1$I int PRIMARY KEY, b text)', x);")
		env := pgtest.NewEnv(t, source, target)
		env.Vars = []string{"SLOT=" + source.Name}
		env.Bash(`pgextract --slot "$SLOT" --plugin test_decoding | pgapply`)
		do("EXECUTE format('INSERT INTO %I VALUES (1, %L)', x, x); EXECUTE format('UPDATE %1$I SET %1$I = 2', x);")
		do(`FOREACH p IN ARRAY ARRAY['', '` + more + `'] LOOP FOR i IN 142..254 LOOP
				r := '';
				FOR j IN 161..254 LOOP BEGIN
					c := convert_from(decode(p || to_hex(i) || to_hex(j), 'hex'), '` + encoding + `');
					PERFORM convert_to(c, 'UTF8');
					r := r || c || 'a';
				EXCEPTION WHEN data_exception THEN NULL; END; END LOOP;
				IF r <> '' THEN n := n + 1; INSERT INTO t VALUES (n, r); END IF;
			END LOOP; END LOOP;`)
		env.Bash(`pgdecode --slot "$SLOT" --until now --confirm-from "$1" | pgapply > "$1"`, t.TempDir()+"/applied")
		const rows = `SET client_encoding = UTF8; SELECT string_agg(id || ':' || b, ' ' ORDER BY id) FROM t`
		if a, b := source.Query(rows), target.Query(rows); a != b || len(a) < 10000 {
			t.Errorf("%s: the source has %d bytes\n%.500s\nand the target %d\n%.500s", encoding, len(a), a, len(b), b)
		}
		const named = `SET client_encoding = UTF8; SELECT relname || query_to_xml(format('SELECT * FROM %I', relname), true, false, '')::text
			FROM pg_class WHERE relname LIKE '''%' AND relkind = 'r'`
		if a, b := source.Query(named), target.Query(named); a != b || a == "" {
			t.Errorf("%s: the source has %s and the target %s", encoding, a, b)
		}
	}
}
