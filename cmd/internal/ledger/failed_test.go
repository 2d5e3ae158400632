package ledger

import (
	"slices"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
)

// An index of a partitioned table is not valid on the target because the indexes of two partitions
// could not be attached: one line says so, with the statements that attach them. The index of a
// constraint has no such line, so its partition's index has its own.
func TestRegressionAttach(t *testing.T) {
	index := inventory.Object{Key: inventory.Key{Class: inventory.Index, Schema: "s", Table: "t", Name: "The i"},
		Kind: "index", Facts: []string{"valid", "yes"}, SQL: `CREATE INDEX "The i" ON ONLY s.t USING btree (a)`}
	invalid := index
	invalid.Facts = []string{"valid", ""}
	attach := []string{`ALTER INDEX s."The i" ATTACH PARTITION s.p1_i`, `ALTER INDEX s."The i" ATTACH PARTITION s.p2_i`,
		"ALTER INDEX s.t_pkey ATTACH PARTITION s.p1_pkey"}
	var failed []progress.Object
	for i, sql := range attach {
		failed = append(failed, progress.Object{ID: int64(i + 1), Type: "INDEX ATTACH", Schema: "s", Name: "p", SQL: sql + ";\n", Error: "refused"})
	}
	lines := Compare(Input{Source: []inventory.Object{index}, Target: []inventory.Object{invalid}, Failed: failed})
	if len(lines) != 2 || !slices.Equal(lines[0].SQL, attach[:2]) || lines[1].SQL[0] != attach[2] {
		t.Errorf("%+v", lines)
	}
	if left := Compare(Input{Source: []inventory.Object{index}, Target: []inventory.Object{index}, Failed: failed[:2]}); len(left) != 0 {
		t.Errorf("left although the indexes were attached by hand: %+v", left)
	}
}

// The statements of a base type come in an order in which a superuser can execute them, and what
// lacks a right is for a superuser.
func TestRegressionShell(t *testing.T) {
	object := func(class, name, kind, sql string) inventory.Object {
		return inventory.Object{Key: inventory.Key{Class: class, Schema: "s", Name: name}, Kind: class, SQL: sql,
			Facts: []string{"owner", "mover", "kind", kind, "language", "internal"}, On: class + " s." + name}
	}
	source := []inventory.Object{object(inventory.Type, "t", "b", ""), object(inventory.Type, "shell", "p", "CREATE TYPE s.shell"),
		object(inventory.Function, "t_in(cstring)", "", "CREATE FUNCTION s.t_in(cstring)")}
	failed := []progress.Object{{ID: 1, Type: "SHELL TYPE", Schema: "s", Name: "shell", SQL: "CREATE TYPE s.shell;", Code: denied},
		{ID: 2, Type: "SHELL TYPE", Schema: "s", Name: "t", SQL: "CREATE TYPE s.t;", Code: denied},
		{ID: 3, Type: "FUNCTION", Schema: "s", Name: "t_in(cstring)", SQL: "CREATE FUNCTION s.t_in(cstring);", Code: "42883"},
		{ID: 4, Type: "TYPE", Schema: "s", Name: "t", SQL: "CREATE TYPE s.t (\n    INPUT = s.t_in\n);", Code: "42883"}}
	var sql []string
	for _, l := range Compare(Input{Source: source, Failed: failed, TargetRole: "mover"}) {
		if l.As != Superuser {
			t.Errorf("%+v", l)
		}
		sql = append(sql, l.SQL[0])
	}
	if want := []string{"CREATE TYPE s.shell", "CREATE TYPE s.t", "CREATE FUNCTION s.t_in(cstring)", "CREATE TYPE s.t (\n    INPUT = s.t_in\n)"}; !slices.Equal(sql, want) {
		t.Errorf("%q", sql)
	}
}
