package inventory_test

import (
	"os"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestRead(t *testing.T) {
	if pgtest.Source(t).Major < 14 {
		t.Skip("everything.sql has the syntax of PostgreSQL 14; TestPrinted reads older servers")
	}
	d := pgtest.Source(t).Database(t, "")
	sql, err := os.ReadFile("../../pgextract/testdata/everything.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"load_owner", "load_reader", "load_nobody"} {
		_, _ = d.Try("CREATE ROLE " + role)
	}
	d.Exec(string(sql))
	began := time.Now()
	_, list := read(t, d)
	t.Logf("%d objects in %v", len(list), time.Since(began))
	seen := make(map[inventory.Key]bool)
	for _, o := range list {
		if seen[o.Key] {
			t.Errorf("%v comes twice", o.Key)
		}
		seen[o.Key] = true
		if os.Getenv("SHOW") != "" {
			t.Logf("%s %v %q %v def %.100q sql %.150q", o.Kind, o.Key, o.Facts, o.ACL, o.Definition, o.SQL)
		}
	}
}
