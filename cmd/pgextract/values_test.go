package main_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// typeTables makes a table for each type with its values, one for arrays of it, and one for ranges
// over it where there are.
func typeTables(t *testing.T, d *pgtest.DB) {
	t.Helper()
	var sql strings.Builder
	for _, typ := range pgtest.Types(t, d, pgtest.Target(t).Major) {
		fmt.Fprintf(&sql, "CREATE TABLE %q (id int PRIMARY KEY, v %s, d int DEFAULT 5);\nINSERT INTO %q VALUES (0, NULL);\n",
			"type "+typ.Short, typ.Name, "type "+typ.Short)
		all := typ.Literals()
		for i, v := range all {
			fmt.Fprintf(&sql, "INSERT INTO %q VALUES (%d, %s);\n", "type "+typ.Short, i+1, v)
		}
		if array := typ.Short + "[]"; typ.Array() {
			fmt.Fprintf(&sql, "CREATE TABLE %q (v %s[], w %s[][]);\nINSERT INTO %q VALUES ('{}', NULL), (ARRAY[%s, NULL], ARRAY[ARRAY[%s], ARRAY[%s]]);\n",
				array, typ.Name, typ.Name, array, strings.Join(all, ", "), all[0], all[0])
		}
	}
	d.Exec(sql.String())
	d.Exec(`CREATE TABLE "array bounds" AS SELECT '[-2:0][5:6]={{1,2},{3,NULL},{5,6}}'::int[] AS a`)
}

// Every type that has values arrives, in the format that is chosen and in text.
func TestEveryType(t *testing.T) {
	source, target := pgtest.Pair(t)
	typeTables(t, source)
	e := pgtest.NewEnv(t, source, target)
	load(t, e, "--slot", source.Name)
	pgtest.Equal(t, source, target)
	equalSchema(t, source, target, "--exclude-schema=pgsluice", "--no-publications")
	binary := target.Query("SELECT count(*) FROM pgsluice.tables WHERE status = 'loaded'")
	if n, _ := strconv.Atoi(binary); n < 100 {
		t.Errorf("%d tables were loaded", n)
	}
	text := pgtest.Target(t).Database(t, "")
	e = pgtest.NewEnv(t, source, text)
	load(t, e, "--format", "text")
	pgtest.Equal(t, source, text)
}

// Shapes of tables at the limits.
func TestLimits(t *testing.T) {
	pgtest.Slow(t)
	source, target := pgtest.Pair(t)
	var columns, row []string
	for i := range 1600 {
		columns = append(columns, fmt.Sprintf(`"column number %d" smallint`, i))
		row = append(row, strconv.Itoa(i))
	}
	source.Exec("CREATE TABLE widest ("+strings.Join(columns, ", ")+")", "INSERT INTO widest VALUES ("+strings.Join(row, ", ")+")",
		"INSERT INTO widest DEFAULT VALUES", "CREATE TABLE huge (id int PRIMARY KEY, v bytea)",
		"INSERT INTO huge SELECT 1, decode(repeat(md5('x'), 800000), 'hex') UNION ALL SELECT 2, '\\x00'",
		"CREATE TABLE huge_text (v text)", "ALTER TABLE huge_text ALTER v SET STORAGE EXTERNAL",
		"INSERT INTO huge_text SELECT repeat('0123456789', 20000000)")
	e := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: source.URI, Target: target.URI}
	x, a := startPipe(e, nil, nil)
	peaks := map[string]func() int{"pgextract": x.WatchMemory(), "pgapply": a.WatchMemory()}
	if s := a.Wait(timeout); s != 0 {
		t.Fatalf("pgapply: %d\n%s%s", s, x.Errors(), a.Errors())
	}
	x.Wait(timeout)
	for _, table := range []string{"widest", "huge"} {
		pgtest.EqualTable(t, source, target, table)
	}
	const sum = "SELECT length(v), md5(v) FROM huge_text"
	if a, b := source.Query(sum), target.Query(sum); a != b {
		t.Errorf("a value of 200 MB: %s on the source, %s on the target", a, b)
	}
	// A row is in memory once at most.
	const limit = 260_000 // KiB
	for name, peak := range peaks {
		if peak := peak(); peak == 0 || peak > limit {
			t.Errorf("%s took %d KiB for a row of 200 MB", name, peak)
		} else {
			t.Logf("%s: %d KiB", name, peak)
		}
	}
}
