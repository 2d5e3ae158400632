package pgwire_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
)

const (
	int4OID = 23
	int8OID = 20
	textOID = 25
)

// run runs a batch of which no statement may fail.
func run(t *testing.T, b *pgwire.Batch) *pgwire.Result {
	t.Helper()
	r, err := b.Run()
	must(t, err)
	must(t, r.Err)
	return r
}

func TestBatch(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		if r := run(t, c.Batch(ctx)); len(r.Counts) != 0 || len(r.Row) != 0 {
			t.Errorf("an empty batch has the result %+v", r)
		}
		b := c.Batch(ctx)
		b.Do("BEGIN")
		b.Do("CREATE TABLE t (a int PRIMARY KEY, b text, c bigint)")
		b.Parse("insert", "INSERT INTO t VALUES ($1, $2, $3)")
		for i := range 3 {
			b.Bind("insert", 3, func(p int) bool { return p == 0 })
			b.Bytes([]byte{0, 0, 0, byte(i)})
			if i == 1 {
				b.Null()
			} else {
				b.String(strings.Repeat("é", i))
			}
			b.String("-" + strconv.Itoa(i))
			b.Execute()
		}
		b.Parse("arrays", "INSERT INTO t SELECT * FROM unnest($1::int4[], $2::text[], $3::int8[])")
		b.Bind("arrays", 3, func(int) bool { return true })
		b.Array(int4OID)
		for i := range 4 {
			b.IntElem(int64(10+i), 4)
		}
		b.CloseArray()
		b.Array(textOID)
		b.Elem([]byte("x"))
		b.NullElem()
		b.Elem(nil)
		b.Elem([]byte(`{"y",\}`))
		b.CloseArray()
		b.Array(int8OID)
		b.IntElem(-1<<63, 8)
		b.IntElem(1<<63-1, 8)
		b.NullElem()
		b.IntElem(0, 8)
		b.CloseArray()
		b.Execute()
		b.Bind("arrays", 3, func(int) bool { return true })
		for _, oid := range []uint32{int4OID, textOID, int8OID} {
			b.Array(oid)
			b.CloseArray()
		}
		b.Execute()
		b.Do("UPDATE t SET c = c + 0 WHERE a < 2")
		b.Do("")
		b.Do("COMMIT")
		b.Do("SELECT count(*), NULL, 'é' FROM t")
		r := run(t, b)
		if want := []int64{0, 0, 1, 1, 1, 4, 0, 2, 0, 0, 1}; !slices.Equal(r.Counts, want) {
			t.Errorf("counts %v, want %v", r.Counts, want)
		}
		if want := []string{"7", "", "é"}; !slices.Equal(r.Row, want) {
			t.Errorf("row %q", r.Row)
		}
		want := "0\t\t0\n1\tNULL\t-1\n2\téé\t-2\n10\tx\t-9223372036854775808\n11\tNULL\t9223372036854775807\n12\t\tNULL\n13\t{\"y\",\\}\t0"
		if got := d.Query("SELECT * FROM t ORDER BY a"); got != want {
			t.Errorf("the table has %q", got)
		}
		// The buffer of a huge parameter is used once.
		for range 2 {
			b = c.Batch(ctx)
			b.Bind("insert", 3, nil)
			b.String("100")
			b.String(strings.Repeat("z", 10<<20))
			b.Null()
			b.Execute()
			b.Do("DELETE FROM t WHERE a = 100 AND length(b) = 10485760")
			if r := run(t, b); !slices.Equal(r.Counts, []int64{1, 1}) {
				t.Errorf("counts %v", r.Counts)
			}
		}
	})
}

// Whoever sends everything before reading anything comes to a standstill with the server: it cannot
// send its answers, and does not read.
func TestBatchBothWays(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		const n = 6000
		b := c.Batch(ctx)
		b.Parse("echo", "SELECT $1::text")
		text := strings.Repeat("x", 3000)
		for i := range n {
			b.Bind("echo", 1, nil)
			b.String(strconv.Itoa(i) + text)
			b.Execute()
		}
		r := run(t, b)
		if len(r.Counts) != n || r.Row[0] != strconv.Itoa(n-1)+text {
			t.Errorf("%d answers, the last is %.20q", len(r.Counts), r.Row)
		}
		// Small statements whose answers are large.
		b = c.Batch(ctx)
		b.Parse("large", "SELECT repeat('y', 100000)")
		for range 300 {
			b.Bind("large", 0, nil)
			b.Execute()
		}
		if r := run(t, b); len(r.Counts) != 300 {
			t.Errorf("%d answers", len(r.Counts))
		}
		// Nor do many errors, of which only the first one counts, or many notices.
		must(t, c.Exec(ctx, "SET client_min_messages = notice"))
		b = c.Batch(ctx)
		b.Parse("shout", "DO $$ BEGIN RAISE NOTICE '%', repeat('n', 8000); END $$")
		for range 2500 {
			b.Bind("shout", 0, nil)
			b.Execute()
		}
		if r := run(t, b); len(r.Counts) != 2500 {
			t.Errorf("%d answers", len(r.Counts))
		}
	})
}

func TestBatchErrors(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		d.Exec("CREATE TABLE t (a int PRIMARY KEY)")
		fails := func(want string, counts int, statements ...string) {
			t.Helper()
			b := c.Batch(ctx)
			for _, s := range statements {
				b.Do(s)
			}
			r, err := b.Run()
			must(t, err)
			code(t, r.Err, want)
			if len(r.Counts) != counts {
				t.Errorf("%d statements were executed, not %d", len(r.Counts), counts)
			}
		}
		// What follows the error is skipped, up to the end of the batch.
		fails("23505", 2, "INSERT INTO t VALUES (1)", "INSERT INTO t VALUES (2)", "INSERT INTO t VALUES (1)",
			"INSERT INTO t VALUES (3)", "SELEC")
		// Without BEGIN a batch is one transaction.
		if got := d.Query("SELECT count(*) FROM t"); got != "0" {
			t.Errorf("%s rows", got)
		}
		fails("42601", 0, "SELEC", "INSERT INTO t VALUES (1)")
		fails("22012", 2, "BEGIN", "INSERT INTO t VALUES (1)", "SELECT 1/0", "COMMIT")
		fails("25P02", 0, "INSERT INTO t VALUES (1)") // the transaction is still open, and failed
		must(t, c.Exec(ctx, "ROLLBACK"))
		// An error at the front of a batch that is sent in many pieces.
		b := c.Batch(ctx)
		b.Do("BEGIN")
		b.Do("SELECT 1/0")
		for i := range 30000 {
			b.Do(fmt.Sprintf("INSERT INTO t VALUES (%d)", i))
		}
		r, err := b.Run()
		must(t, err)
		code(t, r.Err, "22012")
		must(t, c.Exec(ctx, "ROLLBACK"))
		b = c.Batch(ctx)
		b.Do("INSERT INTO t VALUES (7)")
		run(t, b)
		if got := d.Query("SELECT a FROM t"); got != "7" {
			t.Errorf("the table has %s", got)
		}
	})
}

func TestBatchCopy(t *testing.T) {
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, false)
		d.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)")
		load := func(before string, rows int, row func(int) string) *pgwire.Result {
			t.Helper()
			b := c.Batch(ctx)
			b.Do("BEGIN")
			b.Do(before)
			b.Do("COPY t FROM STDIN")
			for i := 0; i < rows; {
				buf := b.OpenCopyData()
				for n := len(buf); i < rows && len(buf)-n < 50000; i++ {
					buf = append(buf, row(i)...)
				}
				b.CloseCopyData(buf)
			}
			b.CopyDone()
			b.Do("DELETE FROM t WHERE a = 5")
			b.Do("COMMIT")
			r, err := b.Run()
			must(t, err)
			return r
		}
		good := func(i int) string { return fmt.Sprintf("%d\t%s\n", i, strings.Repeat("x", 100)) }
		r := load("SELECT 1", 20000, good)
		if r.Err != nil || !slices.Equal(r.Counts, []int64{0, 1, 20000, 1, 0}) {
			t.Errorf("counts %v, %v", r.Counts, r.Err)
		}
		// The data is refused at its beginning, in its middle, or at its end; or the COPY has not
		// even begun.
		for _, bad := range []int{0, 10000, 19999} {
			r = load("TRUNCATE t", 20000, func(i int) string {
				if i == bad {
					return "bad\tx\n"
				}
				return good(i)
			})
			code(t, r.Err, "22P02")
			if len(r.Counts) != 2 {
				t.Errorf("counts %v", r.Counts)
			}
			must(t, c.Exec(ctx, "ROLLBACK"))
		}
		r = load("SELECT 1/0", 20000, good)
		code(t, r.Err, "22012")
		must(t, c.Exec(ctx, "ROLLBACK"))
		r = load("TRUNCATE t", 0, good)
		if r.Err != nil || !slices.Equal(r.Counts, []int64{0, 0, 0, 0, 0}) {
			t.Errorf("no rows: counts %v, %v", r.Counts, r.Err)
		}
		r = load("SELECT 1", 10, good)
		if r.Err != nil || d.Query("SELECT count(*) FROM t") != "9" {
			t.Errorf("counts %v, %v", r.Counts, r.Err)
		}
	})
}
