package objects

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

func texts(list []unit) (all []string) {
	for _, u := range list {
		all = append(all, u.sql)
	}
	return all
}

func TestUnits_C17(t *testing.T) {
	for _, c := range []struct {
		kind, sql string
		want      []string
	}{
		{"ACL", "REVOKE ALL ON FUNCTION f() FROM PUBLIC;\nGRANT ALL ON FUNCTION f() TO \"a;b\";\n",
			[]string{"REVOKE ALL ON FUNCTION f() FROM PUBLIC;", "GRANT ALL ON FUNCTION f() TO \"a;b\";"}},
		{"ACL", "GRANT SELECT ON TABLE t TO a;\n", nil},
		{"ACL", "GRANT SELECT ON t TO a WITH GRANT OPTION;\nSET SESSION AUTHORIZATION \"a a\";\nGRANT SELECT ON t TO b;\nGRANT SELECT ON t TO c;\nRESET SESSION AUTHORIZATION;\nGRANT SELECT ON t TO d;",
			[]string{"GRANT SELECT ON t TO a WITH GRANT OPTION;",
				"SET LOCAL ROLE \"a a\";\nGRANT SELECT ON t TO b;\nRESET ROLE;",
				"SET LOCAL ROLE \"a a\";\nGRANT SELECT ON t TO c;\nRESET ROLE;", "GRANT SELECT ON t TO d;"}},
		// One that failed is one statement.
		{"ACL", "SET LOCAL ROLE \"a a\";\nGRANT SELECT ON t TO b;\nRESET ROLE;", nil},
		{"COMMENT", "COMMENT ON LARGE OBJECT 1 IS 'a;b';\nCOMMENT ON LARGE OBJECT 2 IS E'a\\';b';",
			[]string{"COMMENT ON LARGE OBJECT 1 IS 'a;b';", "COMMENT ON LARGE OBJECT 2 IS E'a\\';b';"}},
		{"TABLE", "SET default_table_access_method = \"x\";\nCREATE TABLE t (a int);\n\nALTER TABLE t FORCE ROW LEVEL SECURITY;\nRESET default_table_access_method;",
			[]string{"SET default_table_access_method = \"x\";\nCREATE TABLE t (a int);\nRESET default_table_access_method;",
				"SET default_table_access_method = \"x\";\nALTER TABLE t FORCE ROW LEVEL SECURITY;\nRESET default_table_access_method;"}},
		{"TRIGGER", "CREATE TRIGGER a …;\nALTER TABLE t DISABLE TRIGGER a;", nil},
	} {
		got := units(&progress.Object{Type: c.kind, SQL: c.sql})
		if len(got) < 2 {
			got = nil
		}
		if !slices.Equal(texts(got), c.want) {
			t.Errorf("%s %s:\n%s", c.kind, c.sql, strings.Join(texts(got), "\n--\n"))
		}
		if len(got) > 0 && got[0].must != (c.kind == "TABLE") {
			t.Errorf("%s: must is %v", c.kind, got[0].must)
		}
	}
}

func TestFollows_C17(t *testing.T) {
	const revoke = `REVOKE ALL ON TABLE s."ON t" FROM "a TO b";`
	for sql, want := range map[string]bool{
		`GRANT SELECT ON TABLE s."ON t" TO "a TO b";`:                   true,
		`GRANT SELECT(c) ON TABLE s."ON t" TO "a TO b";`:                true,
		`GRANT SELECT ON TABLE s."ON t" TO "a TO b" WITH GRANT OPTION;`: true,
		`GRANT SELECT ON TABLE s."ON t" TO b;`:                          false,
		`GRANT SELECT ON TABLE s.t TO "a TO b";`:                        false,
	} {
		if follows(sql, revoke) != want {
			t.Errorf("%s: %v", sql, !want)
		}
		if follows(revoke, sql) {
			t.Errorf("%s waits for a GRANT", revoke)
		}
	}
}

func TestPolicyRoles_C24(t *testing.T) {
	l := policyRoles(`CREATE POLICY "a TO b" ON "S s".t AS RESTRICTIVE FOR SELECT TO "x ""y, z", PUBLIC, w USING ((a = 'TO')) WITH CHECK (true);`)
	if l == nil || !slices.Equal(l.names, []string{`"x ""y, z"`, "PUBLIC", "w"}) {
		t.Fatalf("%+v", l)
	}
	if got, want := l.with([]string{"w"}),
		`CREATE POLICY "a TO b" ON "S s".t AS RESTRICTIVE FOR SELECT TO w USING ((a = 'TO')) WITH CHECK (true);`; got != want {
		t.Errorf("%s", got)
	}
	if got, want := l.alter(), `ALTER POLICY "a TO b" ON "S s".t TO "x ""y, z", PUBLIC, w;`; got != want {
		t.Errorf("%s", got)
	}
	if again := policyRoles(l.alter()); again == nil || !slices.Equal(again.names, l.names) || again.alter() != l.alter() {
		t.Errorf("%+v", again)
	}
	for _, sql := range []string{"CREATE POLICY p ON t USING (true);", "CREATE POLICY p ON t FOR ALL;", "CREATE TABLE t (a int);", ""} {
		if l := policyRoles(sql); l != nil {
			t.Errorf("%s: %+v", sql, l)
		}
	}
}

func TestRoles_C6(t *testing.T) {
	for sql, want := range map[[2]string]string{
		{"OWNER", `ALTER TABLE "TO".t OWNER TO "A b";`}:                                                           "A b",
		{"ACL", `SET LOCAL ROLE g; GRANT SELECT ON t TO PUBLIC; RESET ROLE;`}:                                     "g",
		{"ACL", `REVOKE ALL ON t FROM "public";`}:                                                                 "public",
		{"DEFAULT ACL", `ALTER DEFAULT PRIVILEGES FOR ROLE "Q""q" IN SCHEMA s GRANT SELECT ON TABLES TO reader;`}: `Q"q,reader`,
		{"POLICY", `CREATE POLICY p ON t TO a, "B" USING (x = 'TO c');`}:                                          "a,B",
		{"USER MAPPING", `CREATE USER MAPPING FOR who SERVER s;`}:                                                 "who",
		{"INDEX", `CREATE INDEX i ON t (a);`}:                                                                     "",
	} {
		if got := strings.Join(roles(&progress.Object{Type: sql[0], SQL: sql[1]}), ","); got != want {
			t.Errorf("%v: %s", sql, got)
		}
	}
}
