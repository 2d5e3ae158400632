package carried_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, d *pgtest.DB, uri string) *pgx.Conn {
	t.Helper()
	c, err := pgdial.Server{Side: "source", DSN: uri, App: "test"}.Connect(pgtest.Context(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return c
}

func all(*carried.Table) bool { return true }

// contents lists the tables in publications; those of inserts only are marked.
func contents(d *pgtest.DB) string {
	return d.Query(`SELECT string_agg(p.pubname || ': ' || coalesce((SELECT string_agg(r.prrelid::regclass::text, ' ' ORDER BY r.prrelid::regclass::text COLLATE "C")
		FROM pg_publication_rel r WHERE r.prpubid = p.oid), '') || CASE WHEN p.pubupdate THEN '' ELSE ' (inserts)' END, '; ' ORDER BY p.pubname) FROM pg_publication p`)
}

func TestPublish(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	ctx, c := pgtest.Context(t), connect(t, d, d.URI)
	publish := func(want string, noIdentity int) {
		t.Helper()
		s, err := carried.Publish(ctx, c, "Pub", all)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, x := range s.Rows() {
			if len(x.Reasons) > 0 {
				n++
			}
		}
		if got := contents(d); got != want || n != noIdentity {
			t.Errorf("publications %s; %d tables without replica identity", got, n)
		}
	}
	if _, err := slot.RequirePublications(ctx, c, []string{"Pub"}); fault.StatusOf(err) != fault.Unavailable {
		t.Errorf("missing: %v", err)
	}
	publish("Pub: ; Pub_insert_only:  (inserts)", 0)
	d.Exec(`CREATE TABLE a (id int PRIMARY KEY)`, `CREATE TABLE "B b" (id int)`, `CREATE SCHEMA s`,
		`CREATE TABLE s.c (id int); ALTER TABLE s.c REPLICA IDENTITY FULL`)
	publish(`Pub: a s.c; Pub_insert_only: "B b" (inserts)`, 1)
	publish(`Pub: a s.c; Pub_insert_only: "B b" (inserts)`, 1) // again
	if d.Major >= 11 && d.Query("SELECT pubtruncate FROM pg_publication WHERE pubname = 'Pub_insert_only'") != "t" {
		t.Error("truncates are not published")
	}
	// The application can go on as before with a table that has no key.
	d.Exec(`INSERT INTO "B b" VALUES (1)`, `UPDATE "B b" SET id = 2`, `DELETE FROM "B b"`)
	// A table that is made later is added, one that got a key is published as a whole, and no more
	// among those of inserts, and one that lost it is not any more: the source would refuse the
	// application's updates.
	d.Exec(`CREATE TABLE d (id int)`, `CREATE TABLE e (id int PRIMARY KEY)`,
		`ALTER TABLE "B b" ADD PRIMARY KEY (id)`, `ALTER TABLE s.c REPLICA IDENTITY NOTHING`)
	publish(`Pub: "B b" a e; Pub_insert_only: d s.c (inserts)`, 2)
	d.Exec(`INSERT INTO s.c VALUES (1)`, `UPDATE s.c SET id = 2`)
	names, err := slot.RequirePublications(ctx, c, []string{"Pub"})
	if err != nil || strings.Join(names, " ") != "Pub Pub_insert_only" {
		t.Errorf("%q, %v", names, err)
	}
	if _, err := slot.RequirePublications(ctx, c,
		[]string{"Pub", "more"}); fault.StatusOf(err) != fault.Unavailable ||
		!strings.Contains(err.Error(), `"more"`) {
		t.Errorf("missing: %v", err)
	}
	// A role that owns the tables in part only.
	d.Exec("CREATE ROLE part_"+d.Name+" LOGIN", "GRANT CREATE ON DATABASE "+d.Name+" TO part_"+d.Name)
	t.Cleanup(func() { d.Exec("REVOKE CREATE ON DATABASE "+d.Name+" FROM part_"+d.Name, "DROP ROLE part_"+d.Name) })
	if _, err := carried.Publish(ctx, connect(t, d, d.As("part_"+d.Name, "")), "mine", all); fault.StatusOf(err) != fault.Permission {
		t.Errorf("not the owner: %v", err)
	}
}

// A publication that somebody else has made is used if it carries all, and left as it is; else it
// is refused with what is missing.
func TestForeignPublication_C3(t *testing.T) {
	pgtest.Slow(t)
	d := pgtest.Source(t).Database(t, "")
	ctx, c := pgtest.Context(t), connect(t, d, d.URI)
	d.Exec("CREATE TABLE a (id int PRIMARY KEY, v int)", "CREATE TABLE b (id int)")
	for _, x := range []struct {
		from   int
		create string
		lacks  string // in the error; empty: it is good as it is
	}{
		{10, "FOR ALL TABLES", ""},
		{10, "FOR TABLE a, b", ""},
		{10, "FOR TABLE a", "public.b"},
		{10, "FOR ALL TABLES WITH (publish = 'insert')", "public.a is published without UPDATE, DELETE"},
		{15, "FOR TABLES IN SCHEMA public", ""},
		{15, "FOR TABLE b, a WHERE (id > 5)", "(id > 5)"},
		{15, "FOR TABLE b, a (id)", "columns v"},
	} {
		if d.Major < x.from {
			continue
		}
		d.Exec("CREATE PUBLICATION p " + x.create)
		before := d.Query("SELECT p.xmin, (SELECT array_agg(r.xmin::text) FROM pg_publication_rel r) FROM pg_publication p")
		_, err := carried.Publish(ctx, c, "p", all)
		if x.lacks == "" && err != nil || x.lacks != "" &&
			(fault.StatusOf(err) != fault.Config || !strings.Contains(fmt.Sprintf("%+v", detail(err)),
				x.lacks)) {
			t.Errorf("%s: %v (%s)", x.create, err, detail(err))
		}
		if after := d.Query("SELECT p.xmin, (SELECT array_agg(r.xmin::text) FROM pg_publication_rel r) FROM pg_publication p"); after != before {
			t.Errorf("%s: it was altered", x.create)
		}
		d.Exec("DROP PUBLICATION p")
	}
}

func detail(err error) string {
	if f, ok := err.(*fault.Error); ok {
		return f.Detail
	}
	return ""
}

// The server refuses no UPDATE of a table that is said to be carried, and lets none through that is
// said to be refused; where nothing is refused, that is because the table is in the right
// publication.
func TestAsTheServerDoes_C1(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	ctx, c := pgtest.Context(t), connect(t, d, d.URI)
	shapes := map[string]string{
		"keyed":          "CREATE TABLE keyed (id int PRIMARY KEY, v int)",
		"deferred":       "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, v int)",
		"keyless":        "CREATE TABLE keyless (id int, v int)",
		"whole":          "CREATE TABLE whole (id int, v int); ALTER TABLE whole REPLICA IDENTITY FULL",
		"hidden":         "CREATE TABLE hidden (id int PRIMARY KEY, v int); ALTER TABLE hidden REPLICA IDENTITY NOTHING",
		"by_index":       "CREATE TABLE by_index (id int NOT NULL, v int, CONSTRAINT by_index_u UNIQUE (id)); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_u",
		"by_index_gone":  "CREATE TABLE by_index_gone (id int NOT NULL, v int, CONSTRAINT gone_u UNIQUE (id)); ALTER TABLE by_index_gone REPLICA IDENTITY USING INDEX gone_u; ALTER TABLE by_index_gone DROP CONSTRAINT gone_u",
		"deferred_whole": "CREATE TABLE deferred_whole (id int PRIMARY KEY DEFERRABLE, v int); ALTER TABLE deferred_whole REPLICA IDENTITY FULL",
	}
	unusable := []string{"deferred", "keyless", "hidden", "by_index_gone"}
	if d.Major >= 12 {
		shapes["generated_key"] = "CREATE TABLE generated_key (id int, v int, g int GENERATED ALWAYS AS (id * 2) STORED PRIMARY KEY)"
		shapes["generated_index"] = "CREATE TABLE generated_index (id int, v int, g int GENERATED ALWAYS AS (id * 2) STORED NOT NULL, CONSTRAINT generated_u UNIQUE (g)); ALTER TABLE generated_index REPLICA IDENTITY USING INDEX generated_u"
		shapes["generated_beside"] = "CREATE TABLE generated_beside (id int PRIMARY KEY, v int, g int GENERATED ALWAYS AS (id * 2) STORED)"
		shapes["generated_whole"] = "CREATE TABLE generated_whole (id int, v int, g int GENERATED ALWAYS AS (id * 2) STORED); ALTER TABLE generated_whole REPLICA IDENTITY FULL"
		unusable = append(unusable, "generated_key", "generated_index")
	}
	if d.Major >= 18 {
		shapes["virtual_whole"] = "CREATE TABLE virtual_whole (id int, v int, g int GENERATED ALWAYS AS (id * 2) VIRTUAL); ALTER TABLE virtual_whole REPLICA IDENTITY FULL"
		unusable = append(unusable, "generated_whole", "virtual_whole")
	}
	for _, sql := range shapes {
		d.Exec(sql)
	}
	d.Exec("CREATE PUBLICATION everything FOR ALL TABLES")
	s, err := carried.Tables(ctx, c, []string{"everything"})
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Rows()) != len(shapes) {
		t.Errorf("%d tables of %d", len(s.Rows()), len(shapes))
	}
	for _, x := range s.Rows() {
		for _, sql := range []string{"UPDATE %s SET v = 2", "DELETE FROM %s"} {
			_, err := d.Try(fmt.Sprintf("BEGIN; "+sql+"; ROLLBACK", x.Name))
			if refused := len(x.Refused) > 0; refused != (err != nil) || refused != x.Has(carried.Refuses) {
				t.Errorf("%s, "+sql+": the server says %v, we say %v", shapes[x.Name], x.Name, err, x.Reasons)
			}
		}
		if want := !slices.Contains(unusable, x.Name); x.Carried.Update != want || x.Carried.Delete != want ||
			!x.Carried.Insert || (x.Identity.Why(s.Version) == "") != want {
			t.Errorf("%s: %+v, %q", shapes[x.Name], x.Carried, x.Identity.Why(s.Version))
		}
	}
	d.Exec("DROP PUBLICATION everything")
	if s, err = carried.Publish(ctx, c, "ours", all); err != nil {
		t.Fatal(err)
	}
	for _, x := range s.Rows() {
		d.Exec(fmt.Sprintf("BEGIN; UPDATE %s SET v = 2; DELETE FROM %[1]s; ROLLBACK", x.Name))
		if want := !slices.Contains(unusable, x.Name); x.Carried.Update != want || !x.Carried.Insert ||
			x.Has(carried.NoIdentity) == want || len(x.Reasons) > 1 {
			t.Errorf("%s: %+v, %v", shapes[x.Name], x.Carried, x.Reasons)
		}
	}
}

// One partition without identity does not take the updates of the others away, whenever it loses
// it.
func TestPartitions_C2(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	if d.Major < 13 {
		t.Skip("partitioned tables are published from 13 on")
	}
	ctx, c := pgtest.Context(t), connect(t, d, d.URI)
	publish := func(want string, lacking ...string) {
		t.Helper()
		s, err := carried.Publish(ctx, c, "p", all)
		if err != nil {
			t.Fatal(err)
		}
		if got := contents(d); got != want {
			t.Errorf("publications: %s\nwant:         %s", got, want)
		}
		for _, x := range s.Rows() {
			if want := !slices.Contains(lacking, x.Name); x.Carried.Update != want ||
				x.Carried.Delete != want || !x.Carried.Insert || !x.Carried.Truncate ||
				x.Has(carried.NoIdentity) == want {
				t.Errorf("%v: %+v, %v", x, x.Carried, x.Reasons)
			}
			d.Exec(fmt.Sprintf("UPDATE %s SET v = v", x.Name))
		}
	}
	d.Exec("CREATE TABLE whole (id int PRIMARY KEY, v int) PARTITION BY RANGE (id)",
		"CREATE TABLE whole_1 PARTITION OF whole FOR VALUES FROM (0) TO (9)",
		"CREATE TABLE whole_2 PARTITION OF whole FOR VALUES FROM (9) TO (99) PARTITION BY RANGE (id)",
		"CREATE TABLE whole_3 PARTITION OF whole_2 FOR VALUES FROM (9) TO (20)",
		"CREATE TABLE torn (id int, v int) PARTITION BY RANGE (id)",
		"CREATE TABLE torn_1 PARTITION OF torn (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (9)",
		"CREATE TABLE torn_2 PARTITION OF torn FOR VALUES FROM (9) TO (99)")
	publish("p: torn_1 whole; p_insert_only: torn (inserts)", "torn_2")
	// A partition of whichever kind that is made later does not have its updates refused.
	d.Exec("CREATE TABLE torn_3 PARTITION OF torn FOR VALUES FROM (99) TO (999)", "UPDATE torn_3 SET v = 1",
		"CREATE TABLE whole_4 PARTITION OF whole_2 FOR VALUES FROM (20) TO (30)", "UPDATE whole_4 SET v = 1")
	publish("p: torn_1 whole; p_insert_only: torn (inserts)", "torn_2", "torn_3")
	d.Exec("ALTER TABLE whole_3 REPLICA IDENTITY NOTHING")
	publish("p: torn_1 whole_1 whole_4; p_insert_only: torn whole (inserts)", "torn_2", "torn_3", "whole_3")
	d.Exec("ALTER TABLE whole_3 REPLICA IDENTITY DEFAULT", "ALTER TABLE torn_2 ADD PRIMARY KEY (id)")
	publish("p: torn_1 torn_2 whole whole_1 whole_3 whole_4; p_insert_only: torn whole (inserts)", "torn_3")
}

// A partition that is being detached is none any more, for the server and for us.
func TestPendingDetach_C27(t *testing.T) {
	d := pgtest.Source(t).Database(t, "")
	if d.Major < 14 {
		t.Skip("DETACH CONCURRENTLY exists from PostgreSQL 14 on")
	}
	ctx, c := pgtest.Context(t), connect(t, d, d.URI)
	d.Exec("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
		"CREATE TABLE p_1 PARTITION OF p FOR VALUES FROM (0) TO (9)", "CREATE PUBLICATION s FOR TABLE p")
	holder := d.Connect() // whom DETACH waits for
	if _, err := holder.Exec(ctx, "BEGIN; SELECT FROM p"); err != nil {
		t.Fatal(err)
	}
	detacher := d.Connect()
	if _, err := detacher.Exec(ctx, "SET lock_timeout = '100ms'"); err != nil {
		t.Fatal(err)
	}
	if _, err := detacher.Exec(ctx, "ALTER TABLE p DETACH PARTITION p_1 CONCURRENTLY"); err == nil {
		t.Fatal("DETACH does not wait")
	}
	s, err := carried.Tables(ctx, c, []string{"s"})
	if err != nil {
		t.Fatal(err)
	}
	x := s.Rows()[0]
	if !x.Has(carried.DetachPending) || x.Carried.Insert || len(s.Detaching(all)) != 1 {
		t.Errorf("%+v", x)
	}
	if _, err := holder.Exec(ctx, "ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	d.Exec(s.Finalize(x))
	if s, err = carried.Tables(ctx, c, []string{"s"}); err != nil || len(s.Detaching(all)) != 0 || !s.Rows()[0].Has(carried.NotPublished) {
		t.Errorf("%v, %v", s.Rows()[0].Reasons, err)
	}
}
