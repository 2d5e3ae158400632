package inventory_test

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestRead(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	ctx := pgtest.Context(t)
	sql, err := os.ReadFile("../../pgextract/testdata/everything.sql")
	if err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"load_owner", "load_reader", "load_nobody"} {
		_, _ = d.Try("CREATE ROLE " + role)
	}
	d.Exec(string(sql))
	c, err := pgdial.Server{Side: "source", DSN: d.URI, App: "test"}.Connect(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background())
	began := time.Now()
	list, err := inventory.Read(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
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
