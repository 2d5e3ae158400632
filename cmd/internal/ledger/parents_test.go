package ledger_test

import (
	"context"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/ledger"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// A partition that was attached, detached or given another bound, and a table that inherits from
// another one, are so on the target after the statements that are printed.
func TestParents_C5(t *testing.T) {
	source, target := pgtest.Pair(t)
	ctx := pgtest.Context(t)
	read := func(d *pgtest.DB) []inventory.Object {
		t.Helper()
		c, err := pgdial.Server{Side: "source", DSN: d.URI, App: "test"}.Connect(ctx)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close(context.Background()) }()
		list, err := inventory.Read(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	for _, d := range []*pgtest.DB{source, target} {
		d.Exec(`CREATE SCHEMA "S 1"; CREATE TABLE "S 1".p (a text, b int) PARTITION BY LIST (a)`,
			`CREATE TABLE attached (a text, b int); CREATE TABLE "at'tached tree" (a text, b int) PARTITION BY RANGE (b)`,
			`CREATE TABLE detached PARTITION OF "S 1".p FOR VALUES IN ('d'); CREATE TABLE moved PARTITION OF "S 1".p FOR VALUES IN ('m')`,
			`CREATE TABLE up (a int); CREATE TABLE down (a int); CREATE TABLE alone () INHERITS (up)`,
			`CREATE TABLE q (a text, b int) PARTITION BY LIST (a); CREATE TABLE over PARTITION OF q FOR VALUES IN ('o')`)
	}
	before := read(source)
	source.Exec(`ALTER TABLE "S 1".p ATTACH PARTITION attached FOR VALUES IN (' PARTITION BY ', 'it''s')`,
		`ALTER TABLE q ATTACH PARTITION "at'tached tree" FOR VALUES IN ('t')`,
		`ALTER TABLE "S 1".p DETACH PARTITION detached`, `ALTER TABLE q DETACH PARTITION over`,
		`ALTER TABLE "S 1".p ATTACH PARTITION over FOR VALUES IN ('o')`,
		`ALTER TABLE "S 1".p DETACH PARTITION moved; ALTER TABLE "S 1".p ATTACH PARTITION moved FOR VALUES IN ('n')`,
		"ALTER TABLE down INHERIT up", "ALTER TABLE alone NO INHERIT up")
	in := ledger.Input{Baseline: make(map[inventory.Key]ledger.Baseline), SourceRole: "postgres", TargetRole: "postgres"}
	for i := range before {
		definition, facts := before[i].Fingerprint()
		in.Baseline[before[i].Key] = ledger.Baseline{Definition: definition, Facts: facts, Target: definition}
	}
	compare := func() []ledger.Line {
		in.Source, in.Target = read(source), read(target)
		lines, _ := ledger.Compare(in)
		return lines
	}
	lines := compare()
	if len(lines) != 7 {
		t.Errorf("%d lines: %+v", len(lines), lines)
	}
	for _, l := range lines {
		for _, sql := range l.SQL {
			target.Exec("SET search_path = ''; " + sql)
		}
	}
	for _, l := range compare() {
		t.Errorf("%s %s: %s", l.Problem, l.Name, l.Cause)
	}
}
