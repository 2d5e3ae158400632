package main_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// patience bounds every wait for something that should come soon.
const patience = 20 * time.Second

// A decoding is a pgdecode whose stream the test reads.
type decoding struct {
	*pgtest.Process
	t    testing.TB
	pipe *os.File

	mu      sync.Mutex
	rows    map[string]int // committed inserts into table t by their first column
	open    []string       // of the transaction that is open
	headers []format.Header
	last    string // kind of the last record
	beats   int    // progress records
	end     *format.End
	at      format.LSN
	err     error
	paused  sync.Mutex // held while the stream must not be read
}

// decode starts pgdecode on the slot with the database's name, and reads its stream.
func decode(t testing.TB, source *pgtest.DB, args ...string) *decoding {
	t.Helper()
	d := &decoding{t: t, rows: make(map[string]int)}
	d.start(source, args...)
	go d.read()
	return d
}

func (d *decoding) start(source *pgtest.DB, args ...string) {
	d.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		d.t.Fatal(err)
	}
	env := &pgtest.Env{T: d.t, Dir: pgtest.Programs(d.t, false), Source: source.URI}
	d.pipe = r
	d.Process = env.Start(nil, w, "pgdecode", append([]string{"--slot", source.Name}, args...)...)
	_ = w.Close()
	d.t.Cleanup(func() { d.Kill(); _ = r.Close() })
}

func (d *decoding) read() {
	r := format.NewReader(d.pipe)
	for {
		d.paused.Lock()
		rec, err := r.Next()
		d.mu.Lock()
		if err != nil {
			d.err = err
			d.mu.Unlock()
			d.paused.Unlock()
			return
		}
		d.last = rec.Kind().String()
		switch x := rec.(type) {
		case *format.Header:
			d.open = nil
			d.headers = append(d.headers, *x)
		case *format.Insert:
			d.open = append(d.open, string(x.New[0].Data))
		case *format.Commit, *format.StreamCommit:
			for _, row := range d.open {
				d.rows[row]++
			}
			d.open = nil
		case *format.Progress:
			d.beats++
		case *format.End:
			e := *x
			d.end = &e
		}
		d.at = r.Position()
		d.mu.Unlock()
		d.paused.Unlock()
	}
}

// look calls f while nothing changes.
func (d *decoding) look(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

// wait waits until cond, which is called while nothing changes.
func (d *decoding) wait(what string, cond func() bool) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		ok, over := false, !d.Running() && d.drained()
		d.look(func() { ok = cond() })
		if ok {
			return
		}
		if over || time.Now().After(deadline) {
			d.t.Fatalf("did not come: %s; at %v, %d rows, last record %s, error %v; standard error:\n%s",
				what, d.at, len(d.rows), d.last, d.err, d.Errors())
		}
	}
}

func (d *decoding) drained() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err != nil
}

// waitRows waits until n rows have been committed.
func (d *decoding) waitRows(n int) {
	d.t.Helper()
	d.wait(fmt.Sprintf("%d rows", n), func() bool { return len(d.rows) >= n })
}

// complete checks that the rows 1 to n were there, each once.
func (d *decoding) complete(n int) {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.rows) != n {
		d.t.Errorf("%d rows, want %d", len(d.rows), n)
	}
	for row, times := range d.rows {
		if times != 1 {
			d.t.Errorf("row %s was there %d times", row, times)
		}
	}
}

// ended waits for the end of stream and process, and checks the reason and the status.
func (d *decoding) ended(reason string, status int) {
	d.t.Helper()
	if got := d.Wait(patience); got != status {
		d.t.Errorf("exit status %d, want %d; standard error:\n%s", got, status, d.Errors())
	}
	d.wait("the end of the stream", func() bool { return d.err != nil })
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case !errors.Is(d.err, io.EOF):
		d.t.Errorf("the stream ended with %v", d.err)
	case d.end == nil || d.end.Reason != reason:
		d.t.Errorf("end record %+v, want reason %q", d.end, reason)
	}
}

// lines counts the lines of standard error that contain s.
func (d *decoding) lines(s string) (n int) {
	for _, l := range strings.Split(d.Errors(), "\n") {
		if strings.Contains(l, s) {
			n++
		}
	}
	return n
}

// database makes a database with a table t, and a slot and publication that have the database's
// name.
func database(t testing.TB, s *pgtest.Server) *pgtest.DB {
	t.Helper()
	d := s.Database(t, "")
	d.Exec("CREATE TABLE t (a int PRIMARY KEY, b text)", "CREATE PUBLICATION "+d.Name+" FOR ALL TABLES",
		"SELECT pg_create_logical_replication_slot('"+d.Name+"', 'pgoutput')")
	return d
}

// insert inserts rows from to to in one transaction.
func insert(d *pgtest.DB, from, to int) {
	d.Exec(fmt.Sprintf("INSERT INTO t SELECT i, repeat('x', 400) FROM generate_series(%d, %d) i", from, to))
}

// confirmed returns the LSN up to which the slot is acknowledged.
func confirmed(d *pgtest.DB) format.LSN {
	lsn, _ := format.ParseLSN(d.Query("SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '" + d.Name + "'"))
	return lsn
}

// walsender returns the process id of the slot's walsender, "" if there is none.
func walsender(d *pgtest.DB) string {
	return d.Query("SELECT active_pid FROM pg_replication_slots WHERE active AND slot_name = '" + d.Name + "'")
}
