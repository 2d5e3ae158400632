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
