package main_test

import (
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// At no time of a load does a role have more rights on the target than on the source. A function
// that may do more than its caller is closed as soon as it exists, also if a role of its rights is
// missing. A table is opened after its row security.
func TestRightsDuringLoad(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	source, target := pgtest.Pair(t)
	app, gone := "app_"+source.Name, "gone_"+source.Name
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec("CREATE ROLE " + app + " LOGIN")
		t.Cleanup(func() { d.Exec("DROP OWNED BY "+app, "DROP ROLE "+app) })
	}
	source.Exec("CREATE ROLE " + gone)
	t.Cleanup(func() { source.Exec("DROP OWNED BY "+gone, "DROP ROLE "+gone) })
	source.Exec(`CREATE TABLE secrets (id int PRIMARY KEY, who text, pad text); INSERT INTO secrets SELECT g, 'boss', repeat('x', 1000) FROM generate_series(1, 3000) g;
		ALTER TABLE secrets ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON secrets USING (who = current_user); GRANT SELECT ON secrets TO `+app,
		`CREATE FUNCTION closed() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'; REVOKE ALL ON FUNCTION closed() FROM PUBLIC`,
		`CREATE FUNCTION lost() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'; REVOKE ALL ON FUNCTION lost() FROM PUBLIC; GRANT ALL ON FUNCTION lost() TO `+gone,
		`CREATE FUNCTION given() RETURNS text LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user::text'; REVOKE ALL ON FUNCTION given() FROM PUBLIC; GRANT ALL ON FUNCTION given() TO `+app,
		`CREATE AGGREGATE total(int) (sfunc = int4pl, stype = int); REVOKE ALL ON FUNCTION total(int) FROM PUBLIC`,
		"CREATE FUNCTION open() RETURNS int LANGUAGE sql AS 'SELECT 1'")
	e := pgtest.NewEnv(t, source, target)
	load := e.Must(nil, "pgextract", "--slot", source.Name)
	const rights = "SELECT string_agg(p.proname || '=' || has_function_privilege(%s, p.oid, 'EXECUTE'), ' ' ORDER BY p.proname) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace"
	want := "closed=false given=true lost=false open=true total=false"
	if status, _, errs := e.Run(load[:len(load)/2], "pgapply"); status != 65 {
		t.Fatalf("a cut load: status %d\n%s", status, errs)
	}
	query := strings.Replace(rights, "%s", "'"+app+"'", 1)
	if got := target.Query(query); got != want {
		t.Errorf("while rows are loaded: %s", got)
	}
	if got := target.Query("SELECT has_table_privilege('" + app + "', 'secrets', 'SELECT')"); got != "f" {
		t.Errorf("while rows are loaded, secrets can be read: %s", got)
	}
	e.Must(e.Must(nil, "pgextract", "--slot", source.Name, "--resume"), "pgapply")
	if got := target.Query(query); got != want {
		t.Errorf("after the load: %s", got)
	}
	const order = "SELECT string_agg(type, ' ' ORDER BY id) FROM pgsluice.deferred WHERE type = 'POLICY' OR name LIKE 'TABLE secrets' AND type = 'ACL' OR type = 'ROW SECURITY'"
	if got := target.Query(order); got != "POLICY ROW SECURITY ACL" && got != "ROW SECURITY POLICY ACL" {
		t.Errorf("the order is %s", got)
	}
	if got := target.Query("SELECT count(*) FROM pgsluice.deferred WHERE state = 'failed' AND type = 'ACL' AND definition LIKE '%" + gone + "%'"); got != "1" {
		t.Errorf("%s rights of a missing role are recorded", got)
	}
	pgtest.Equal(t, source, target)
}
