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
	lines, _ := Compare(Input{Source: []inventory.Object{index}, Target: []inventory.Object{invalid}, Failed: failed})
	if len(lines) != 2 || !slices.Equal(lines[0].SQL, attach[:2]) || lines[1].SQL[0] != attach[2] {
		t.Errorf("%+v", lines)
	}
	left, settled := Compare(Input{Source: []inventory.Object{index}, Target: []inventory.Object{index}, Failed: failed[:2]})
	if len(left) != 0 || !slices.Equal(settled, []int64{1, 2}) {
		t.Errorf("left although the indexes were attached by hand: %+v; settled are %v", left, settled)
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
	failed := []progress.Object{{ID: 1, Type: "SHELL TYPE", Schema: "s", Name: "shell", SQL: "CREATE TYPE s.shell;", Code: "42501"},
		{ID: 2, Type: "SHELL TYPE", Schema: "s", Name: "t", SQL: "CREATE TYPE s.t;", Code: "42501"},
		{ID: 3, Type: "FUNCTION", Schema: "s", Name: "t_in(cstring)", SQL: "CREATE FUNCTION s.t_in(cstring);", Code: "42883"},
		{ID: 4, Type: "TYPE", Schema: "s", Name: "t", SQL: "CREATE TYPE s.t (\n    INPUT = s.t_in\n);", Code: "42883"}}
	var sql []string
	lines, _ := Compare(Input{Source: source, Failed: failed, TargetRole: "mover"})
	for _, l := range lines {
		if l.As != Superuser {
			t.Errorf("%+v", l)
		}
		sql = append(sql, l.SQL[0])
	}
	if want := []string{"CREATE TYPE s.shell", "CREATE TYPE s.t", "CREATE FUNCTION s.t_in(cstring)", "CREATE TYPE s.t (\n    INPUT = s.t_in\n)"}; !slices.Equal(sql, want) {
		t.Errorf("%q", sql)
	}
}

// Rights on the system's objects are in no inventory: the load's failure is all that is known.
func TestRegressionSystemRights(t *testing.T) {
	failed := []progress.Object{{ID: 1, Type: "ACL", Schema: "pg_catalog", Name: "COLUMN pg_authid.rolname", Code: "01007",
		SQL: "GRANT SELECT(rolname) ON TABLE pg_catalog.pg_authid TO a;"}}
	if lines, settled := Compare(Input{Failed: failed}); len(lines) != 1 || lines[0].Class != Rights || lines[0].As != Superuser || settled != nil {
		t.Errorf("%+v %v", lines, settled)
	}
}

// A cast is known by its types, which pg_dump and the server name differently.
func TestRegressionCast(t *testing.T) {
	cast := inventory.Object{Key: inventory.Key{Class: inventory.Other, Table: "cast", Name: "(pg_catalog.text AS s.t)"}, Kind: "cast", SQL: "CREATE CAST"}
	failed := []progress.Object{{ID: 1, Type: "CAST", Name: "CAST (text AS s.t)", Code: "42501", SQL: "CREATE CAST (text AS s.t) WITHOUT FUNCTION;"}}
	if lines, _ := Compare(Input{Source: []inventory.Object{cast}, Failed: failed}); len(lines) != 1 || lines[0].As != Superuser {
		t.Errorf("%+v", lines)
	}
	if _, settled := Compare(Input{Source: []inventory.Object{cast}, Target: []inventory.Object{cast}, Failed: failed}); len(settled) != 1 {
		t.Error("it is not settled although it exists")
	}
}
