package main_test

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Values whose text depends on a session's settings arrive as they were.
func TestValues(t *testing.T) {
	source, target := pgtest.Pair(t)
	env := pgtest.NewEnv(t, source, target)
	slot := "v_" + source.Name
	schema := `CREATE SCHEMA s; CREATE TABLE s.other (a int); CREATE TABLE v (id int PRIMARY KEY, c regclass, p regproc, t timestamptz, i interval, f float8, b bytea, m money, d date)`
	source.Exec(schema, "CREATE PUBLICATION "+slot+" FOR ALL TABLES", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')",
		"ALTER DATABASE "+source.Name+" SET search_path = s, public", "ALTER DATABASE "+source.Name+" SET timezone = 'Asia/Kathmandu'",
		"ALTER DATABASE "+source.Name+" SET datestyle = 'SQL, DMY'", "ALTER DATABASE "+source.Name+" SET intervalstyle = 'sql_standard'",
		"ALTER DATABASE "+source.Name+" SET extra_float_digits = 0", "ALTER DATABASE "+source.Name+" SET bytea_output = escape")
	target.Exec(schema)
	source.Exec(`INSERT INTO public.v VALUES (1, 's.other', 'pg_catalog.now', '2020-02-03 04:05:06.789', '-1 year 2 days -03:04', 0.1::float8 + 0.2, '\x00ff5c27', 12.5, '01/02/2020')`,
		"UPDATE public.v SET id = 2, f = 1/3::float8")
	env.Must(env.Must(nil, "pgdecode", "--slot", slot, "--until", "now"), "pgapply", "--adopt")
	query := "SET search_path = ''; SET timezone = UTC; SET datestyle = ISO; SET intervalstyle = postgres; SET bytea_output = hex; SET extra_float_digits = 3; SELECT * FROM public.v"
	if a, b := source.Query(query), target.Query(query); a != b {
		t.Errorf("source: %s\ntarget: %s", a, b)
	}
}
