package slot

import (
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
)

// A fence's record leaves the rest of the database's comment as it is, and can be read by anybody.
func TestFenceRecord_F6(t *testing.T) {
	ctx := pgtest.Context(t)
	d := pgtest.Source(t).Database(t, "")
	c := d.Connect()
	record := func(f *Fence) {
		t.Helper()
		x, err := GetDatabase(ctx, c)
		if err != nil {
			t.Fatal(err)
		}
		sql, err := x.Record(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := ReadWrite(ctx, c, sql); err != nil {
			t.Fatal(err)
		}
	}
	comment := "SELECT coalesce(shobj_description(oid, 'pg_database'), '<none>') FROM pg_database WHERE datname = current_database()"
	for _, before := range []string{"", "shop's own\n  comment \\ with\n\n", "pgsluice fence {nothing of ours}"} {
		literal := "NULL"
		if before != "" {
			literal = escapeLiteral(before)
		}
		d.Exec("COMMENT ON DATABASE " + d.Name + " IS " + literal)
		was := d.Query(comment)
		setting := "off"
		want := &Fence{ID: "A", Slot: "mig", Began: time.Now().UTC(), Setting: &setting}
		record(want)
		got, isClosed, err := GetFence(ctx, c)
		if err != nil || got == nil || isClosed || got.ID != "A" || *got.Setting != "off" || !got.Began.Equal(want.Began) {
			t.Errorf("%+v, %v, %v", got, isClosed, err)
		}
		if x, err := GetDatabase(ctx, c); x.InForce() != "" || err != nil {
			t.Errorf("a database that is not closed has fence %q in force, %v", x.InForce(), err)
		}
		d.Exec("ALTER DATABASE " + d.Name + " SET default_transaction_read_only = 'T'")
		if x, err := GetDatabase(ctx, c); x.InForce() != "A" || err != nil {
			t.Errorf("fence %q, %v", x.InForce(), err)
		}
		record(nil)
		if now := d.Query("BEGIN READ WRITE; " + comment); now != was {
			t.Errorf("the comment was %q and is %q", was, now)
		}
		c2 := d.Connect()
		if _, err := c2.Exec(ctx, "BEGIN READ WRITE; ALTER DATABASE "+d.Name+" RESET default_transaction_read_only; COMMIT"); err != nil {
			t.Fatal(err)
		}
	}
}
