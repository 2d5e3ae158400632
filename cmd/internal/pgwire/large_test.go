package pgwire_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
)

// patiently calls f again while a deadline passes, and sets another one, so short that a large
// message takes many.
func patiently[T any](t *testing.T, c *pgwire.Conn, f func() (T, error)) (T, error) {
	for {
		must(t, c.SetReadDeadline(time.Now().Add(5*time.Millisecond)))
		v, err := f()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return v, err
		}
	}
}

// A large message can be read as a whole, in pieces, in part, or not at all, while deadlines pass;
// what follows it is not touched.
func TestLargeMessages_H11(t *testing.T) {
	pgtest.Slow(t)
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, c := pgtest.Context(t), open(t, d.URI, true)
		d.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "CREATE PUBLICATION p FOR TABLE t",
			"SELECT pg_create_logical_replication_slot('wire_"+d.Name+"', 'pgoutput')")
		sizes := []int{0, 100, 1 << 20, 1<<20 + 1, 5, 2 << 20, 1, 3 << 20, 2 << 20, 7}
		for how := range 4 {
			for i, n := range sizes {
				d.Exec("INSERT INTO t SELECT " + strings.Join([]string{strconv.Itoa(how*100 + i),
					"repeat('0123456789', " + strconv.Itoa(n/10) + ") || repeat('x', " + strconv.Itoa(n%10) +
						")"}, ", "))
			}
		}
		must(t, c.CopyBoth(ctx, "START_REPLICATION SLOT wire_"+d.Name+" LOGICAL 0/0 (proto_version '1', publication_names 'p')"))
		for got := 0; got < 4*len(sizes); {
			msg, err := patiently(t, c, c.Receive)
			must(t, err)
			if msg[0] != 'w' || msg[25] != 'I' {
				continue
			}
			n, how := sizes[got%len(sizes)], got/len(sizes)
			got++
			if n < 1<<20-100 && c.Rest() > 0 {
				t.Errorf("%d bytes are large", n)
			}
			switch how {
			case 0:
				if c.Rest() > 0 {
					msg, err = patiently(t, c, c.Whole)
				}
			case 1:
				msg = bytes.Clone(msg)
				piece := make([]byte, 300_000)
				for err == nil {
					var k int
					k, err = patiently(t, c, func() (int, error) { return c.Read(piece) })
					msg = append(msg, piece[:k]...)
				}
				if err == io.EOF {
					err = nil
				}
			case 2:
				_, err = patiently(t, c, func() (int, error) { return c.Read(make([]byte, 100_000)) })
				if err == io.EOF && c.Rest() == 0 {
					err = nil
				}
				must(t, err)
				continue
			default:
				continue
			}
			must(t, err)
			if !bytes.HasSuffix(msg, []byte(strings.Repeat("0123456789", n/10)+strings.Repeat("x", n%10))) ||
				len(msg) > n+100 || c.Rest() != 0 {
				t.Errorf("message of %d bytes for a value of %d", len(msg), n)
			}
		}
		must(t, c.SetReadDeadline(time.Time{}))
		d.Exec("INSERT INTO t VALUES (1000, repeat('z', 20000000))")
		for c.Rest() == 0 {
			_, err := c.Receive()
			must(t, err)
		}
		d.Exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'wire_" + d.Name + "'")
		if _, err := c.Whole(); err == nil { // the server may have sent all of it by then
			_, err = c.Receive()
			for err == nil {
				_, err = c.Receive()
			}
		}
	})
}

// Rows of any size come out of a COPY and go into another, and through parameters and arrays,
// without being copied.
func TestLargeRows_H11(t *testing.T) {
	pgtest.Slow(t)
	transports(t, func(t *testing.T, d *pgtest.DB) {
		ctx, out, in := pgtest.Context(t), open(t, d.URI, false), open(t, d.URI, false)
		d.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "CREATE TABLE u (LIKE t)", "CREATE TABLE v (LIKE t)",
			"INSERT INTO t SELECT i, repeat(chr(96 + i), i * i * 100000) FROM generate_series(1, 8) i")
		const sums = "SELECT string_agg(a || ' ' || length(b) || ' ' || md5(b), ', ' ORDER BY a) FROM "
		must(t, in.StartCopyIn(ctx, "COPY u FROM STDIN"))
		large := 0
		n, err := out.CopyOut(ctx, "COPY t TO STDOUT", func(row []byte) error {
			all := bytes.Clone(row)
			if out.Rest() > 0 {
				large++
				rest, err := io.ReadAll(out)
				if err != nil {
					return err
				}
				all = append(all, rest...)
			}
			return in.WriteCopyPieces(ctx, all)
		})
		must(t, err)
		k, err := in.EndCopy(ctx, "")
		must(t, err)
		if n != 8 || k != 8 || large != 5 {
			t.Errorf("%d rows out, %d in, %d large", n, k, large)
		}
		// What nobody reads is skipped.
		if n, err := out.CopyOut(ctx, "COPY t TO STDOUT", func([]byte) error { return nil }); err != nil || n != 8 {
			t.Errorf("%d rows, %v", n, err)
		}
		value := func(i int) []byte { return bytes.Repeat([]byte{byte(96 + i)}, i*i*100000) }
		b := in.Batch(ctx)
		b.Parse("one", "INSERT INTO v VALUES ($1, $2)")
		b.Parse("many", "INSERT INTO v SELECT * FROM unnest($1::int4[], $2::text[])")
		for i := 1; i <= 4; i++ {
			b.Bind("one", 2, nil)
			b.Bytes([]byte(strconv.Itoa(i)))
			b.Bytes(value(i))
			b.Execute()
		}
		b.Bind("many", 2, func(int) bool { return true })
		b.Array(int4OID)
		for i := 5; i <= 8; i++ {
			b.IntElem(int64(i), 4)
		}
		b.CloseArray()
		b.Array(textOID)
		for i := 5; i <= 8; i++ {
			b.Elem(value(i))
		}
		b.CloseArray()
		b.Execute()
		b.Do("DELETE FROM v WHERE length(b) < 0")
		if r := run(t, b); !slices.Equal(r.Counts, []int64{1, 1, 1, 1, 4, 0}) {
			t.Errorf("counts %v", r.Counts)
		}
		for _, table := range []string{"u", "v"} {
			if got, want := d.Query(sums+table), d.Query(sums+"t"); got != want {
				t.Errorf("%s has %s, want %s", table, got, want)
			}
		}
		// A refusal is noticed on the way, and the connection stays.
		must(t, in.StartCopyIn(ctx, "COPY u FROM STDIN"))
		err = in.WriteCopyPieces(ctx, append([]byte("x\ty\n"), bytes.Repeat([]byte("1\tx\n"), 5<<20)...))
		if err == nil {
			_, err = in.EndCopy(ctx, "")
		}
		code(t, err, "22P02")
		must(t, in.Exec(ctx, "SELECT 1"))
	})
}
