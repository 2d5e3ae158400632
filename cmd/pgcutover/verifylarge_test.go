package main

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// Rows whose text would be longer than the server can make are compared by their columns.
func TestVerifyLargeRows_C18(t *testing.T) {
	pgtest.Long(t)
	source, target := pgtest.Pair(t)
	if source.Major < 12 || target.Major < 12 {
		t.Skip("no generated columns")
	}
	m := begin(t, source, target)
	// Both sides make the values themselves: the text of the row would have 1.08 GB.
	const value = "bytea GENERATED ALWAYS AS (decode(repeat('00', n), 'hex')) STORED"
	source.Exec("CREATE TABLE large (id int PRIMARY KEY, n int, a "+value+", b "+value+")", "INSERT INTO large VALUES (1, 270000000), (2, 1)")
	m.load()
	m.cut(0, "wait", "caught-up", "--timeout", "30s", "--lag", "0")
	m.cut(0, "fence")
	m.cut(0, "drain")
	out, _ := m.cut(0, "verify")
	says(t, out, "equal\tpublic.large\t2\n")
	target.Exec("UPDATE large SET n = 2 WHERE id = 2")
	out, _ = m.cut(1, "verify")
	says(t, out, "row\tpublic.large\t(2)\tdifferent\n")
}
