package carried_test

import (
	"fmt"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// What sync moves between the publications hides no gap of another partition, and makes none.
func TestSiblings_C2(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	if d.Major < 13 {
		t.Skip("partitioned tables are published from 13 on")
	}
	ctx, c := pgtest.Context(t), connect(t, d, d.URI)
	d.Exec("CREATE TABLE p (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
		"CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)",
		"CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (9) TO (99)",
		"CREATE TABLE p3 PARTITION OF p FOR VALUES FROM (99) TO (999)")
	if _, err := carried.Publish(ctx, c, "s", all); err != nil {
		t.Fatal(err)
	}
	loaded := make(map[string]string)
	load := func(tables ...string) {
		for _, x := range tables {
			loaded[x] = "s@0/1." + d.Query("SELECT txid_current()")
		}
	}
	state := func() *carried.State {
		t.Helper()
		s, err := carried.Tables(ctx, c, []string{"s", "s_insert_only"})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	step := func(want, sql string) {
		t.Helper()
		d.Exec(sql)
		for _, m := range state().Moves("s") {
			if err := m.Make(ctx, c); err != nil {
				t.Fatal(err)
			}
		}
		s := state()
		if n := len(s.Moves("s")); n != 0 {
			t.Errorf("after %s: still %d moves", sql, n)
		}
		target := carried.Target{Whole: true, MadeFor: true}
		for _, x := range s.Rows() {
			target.Tables = append(target.Tables, carried.Loaded{Schema: x.Schema, Name: x.Name, OID: x.OID, Snapshot: loaded[x.Name], Complete: true})
		}
		list, err := s.Compare(target, nil)
		if err != nil {
			t.Fatal(err)
		}
		got := make(map[string][]carried.Code)
		for _, x := range list {
			for _, r := range x.Reasons {
				got[x.Name] = append(got[x.Name], r.Code)
			}
		}
		if fmt.Sprint(got) != want {
			t.Errorf("after %s: %v, not %s\n%s", sql, got, want, contents(d))
		}
	}
	load("p1", "p2", "p3")
	step("map[]", "SELECT 1")
	step("map[p1:[no-identity identity-lost] p3:[no-identity identity-lost]]",
		"ALTER TABLE p1 REPLICA IDENTITY NOTHING; ALTER TABLE p3 REPLICA IDENTITY NOTHING")
	step("map[p1:[gap] p3:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY DEFAULT; ALTER TABLE p3 REPLICA IDENTITY DEFAULT")
	step("map[p1:[no-identity identity-lost] p3:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	step("map[p1:[gap] p3:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY DEFAULT")
	load("p1", "p3")
	step("map[]", "SELECT 1")
	d.Exec("CREATE TABLE p4 PARTITION OF p FOR VALUES FROM (999) TO (9999)")
	load("p4")
	step("map[p1:[no-identity]]", "ALTER TABLE p1 REPLICA IDENTITY NOTHING")
	step("map[p1:[no-identity]]", "SELECT 1")
	step("map[p1:[no-identity] p4:[no-identity identity-lost]]", "ALTER TABLE p4 REPLICA IDENTITY NOTHING")
	step("map[p1:[gap] p4:[gap]]", "ALTER TABLE p1 REPLICA IDENTITY DEFAULT; ALTER TABLE p4 REPLICA IDENTITY DEFAULT")
}
