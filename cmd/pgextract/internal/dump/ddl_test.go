package dump

import (
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// A function is created without the rights that the source has taken from everybody, and its rights
// follow at once. A table's rights come after its row security.
func TestRights(t *testing.T) {
	t.Parallel()
	const hostile = `"FROM PUBLIC;` + "\n" + `REVOKE ALL ON TABLE victim FROM PUBLIC;"`
	list := DDL([]Entry{
		{ID: 1, Desc: "FUNCTION", Section: SectionPreData, Schema: "app", Tag: "f()", Owner: "o", SQL: "CREATE FUNCTION app.f() …;\n", DropSQL: "DROP FUNCTION app.f();"},
		{ID: 2, Desc: "ACL", Section: SectionNone, Schema: "app", Tag: "FUNCTION f()", Deps: []int{1},
			SQL: "REVOKE ALL ON FUNCTION app.f() FROM PUBLIC;\nREVOKE ALL ON FUNCTION app.f() FROM o;\nGRANT ALL ON FUNCTION app.f() TO r;\n"},
		{ID: 3, Desc: "PROCEDURE", Section: SectionPreData, Schema: "app", Tag: "p(" + hostile + ")", SQL: "CREATE PROCEDURE …;\n"},
		{ID: 4, Desc: "ACL", Section: SectionNone, Schema: "app", Tag: "p(" + hostile + ")", Deps: []int{3}, // as an older pg_dump names it
			SQL: "GRANT ALL ON PROCEDURE app.p(" + hostile + ") TO \"PUBLIC\";\nREVOKE ALL ON PROCEDURE app.p(" + hostile + ") FROM \"PUBLIC\";\n"},
		{ID: 5, Desc: "TABLE", Section: SectionPreData, Schema: "app", Tag: "t", SQL: "CREATE TABLE app.t ();\n"},
		{ID: 6, Desc: "ACL", Section: SectionNone, Schema: "app", Tag: "TABLE t", Deps: []int{5}, SQL: "GRANT SELECT ON TABLE app.t TO PUBLIC;\n"},
		{ID: 7, Desc: "POLICY", Section: SectionPostData, Schema: "app", Tag: "t p", Deps: []int{5}, SQL: "CREATE POLICY …;\n"},
		{ID: 8, Desc: "ROW SECURITY", Section: SectionPostData, Schema: "app", Tag: "t", Deps: []int{5}, SQL: "ALTER TABLE …;\n"},
		{ID: 9, Desc: "ACL", Section: SectionNone, Schema: "pg_catalog", Tag: "FUNCTION pg_ls_dir(text)", SQL: "REVOKE ALL ON FUNCTION pg_catalog.pg_ls_dir(text) FROM PUBLIC;\n"},
	}, Extra{})
	var got []string
	for _, d := range list {
		got = append(got, d.Section+" "+d.Type+" "+d.Name)
	}
	want := []string{"pre-data FUNCTION f()", "pre-data OWNER FUNCTION f()", "pre-data ACL FUNCTION f()", "pre-data PROCEDURE p(" + hostile + ")",
		"pre-data ACL p(" + hostile + ")", "pre-data TABLE t", "pre-data ACL FUNCTION pg_ls_dir(text)", "post-data POLICY t p", "post-data ROW SECURITY t", "post-data ACL TABLE t"}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	if want := "CREATE FUNCTION app.f() …;\nREVOKE ALL ON FUNCTION app.f() FROM PUBLIC;\n"; list[0].SQL != want {
		t.Errorf("%q", list[0].SQL)
	}
	if list[3].SQL != "CREATE PROCEDURE …;\n" || !strings.Contains(list[2].SQL, "GRANT") || list[2].Section != format.PreData {
		t.Errorf("%q %q", list[3].SQL, list[2].SQL)
	}
}
