package slot

import (
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// The output plugin finds publications whose names need quotes, and control characters in them.
func TestQuoteAll(t *testing.T) {
	ctx := pgtest.Context(t)
	d := pgtest.Source(t).Database(t, "")
	d.Exec("CREATE TABLE t (id int PRIMARY KEY)", "CREATE PUBLICATION \"a\"\"\n\tb\" FOR TABLE t", "CREATE PUBLICATION \"C,d\" FOR TABLE t",
		"SELECT pg_create_logical_replication_slot('quoted_"+d.Name+"', 'pgoutput')", "INSERT INTO t VALUES (1)")
	var n int
	if err := d.Connect().QueryRow(ctx, "SELECT count(*) FROM pg_logical_slot_peek_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', $2) WHERE get_byte(data, 0) = ascii('I')",
		"quoted_"+d.Name, QuoteAll([]string{"a\"\n\tb", "C,d"})).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d changes, %v", n, err)
	}
}
