package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// most is how much memory a program may have, in kB.
const most = 64 << 10

// A transaction of a million rows, or ten, passes without being held in memory, however the server
// sends it.
func TestHugeTransaction(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	rows := pgtest.Often(280_000, 4_000_000)
	source, target := pgtest.Pair(t)
	slots := []string{source.Name, source.Name + "_streamed"}
	source.Exec("CREATE TABLE huge (id int PRIMARY KEY, a text, b int)")
	for _, slot := range slots {
		source.Exec("CREATE PUBLICATION "+slot+" FOR TABLE huge", "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput')")
	}
	if _, err := source.Connect().Exec(context.Background(),
		fmt.Sprintf("INSERT INTO huge SELECT i, repeat(md5(i::text), 8), i FROM generate_series(1, %d) i",
			rows)); err != nil {
		t.Fatal(err)
	}
	for n, how := range []struct{ name, workMem, streamed string }{
		{"sent at its commit", "2GB", "f"},
		{"sent while in progress", "64kB", "t"},
	} {
		t.Run(how.name, func(t *testing.T) {
			target.Exec("DROP SCHEMA IF EXISTS pgsluice CASCADE", "DROP TABLE IF EXISTS huge",
				"CREATE TABLE huge (id int PRIMARY KEY, a text, b int)")
			env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: source.URI, Target: target.URI}
			if source.Major >= 14 { // older ones do not know how to send what is in progress
				env.Source += "&logical_decoding_work_mem=" + how.workMem
			}
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			decode := env.Start(nil, w, "pgdecode", "--slot", slots[n], "--until", "now")
			apply := env.Start(r, nil, "pgapply", "--adopt")
			_, _ = r.Close(), w.Close()
			modest(t, decode, apply)
			t.Logf("%v\n%s", time.Since(began).Round(time.Millisecond), decode.Errors())
			pgtest.Equal(t, source, target)
			if source.Major >= 14 {
				pgtest.Wait(t, 10*time.Second, "the server says that the transaction was "+how.name, func() bool {
					return source.Query("SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = '"+
						slots[n]+"'") == how.streamed
				})
			}
		})
	}
}

// Very many transactions are in progress at the same time. Those that do not fit into memory are
// put away, and all are applied in the order of their commits.
func TestManyTransactionsInProgress(t *testing.T) {
	pgtest.Long(t)
	t.Parallel()
	n := uint32(pgtest.Often(10_000, 100_000))
	for _, length := range []int{20, 400} {
		t.Run(fmt.Sprintf("rows of %d bytes", length), func(t *testing.T) {
			target := pgtest.Target(t).Database(t, "")
			target.Exec("CREATE TABLE many (id int PRIMARY KEY, round int, v text)")
			env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Target: target.URI}
			r, pipe, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			apply := env.Start(r, nil, "pgapply", "--adopt")
			_ = r.Close()
			done := make(chan error, 1)
			go func() {
				w := format.NewWriter(pipe)
				done <- errors.Join(manyInProgress(w, n, length), pipe.Close())
			}()
			modest(t, apply)
			if err := <-done; err != nil {
				t.Error(err)
			}
			// Every third was rolled back; the others have a row of each round, and counted
			// themselves in row 0.
			want := fmt.Sprintf("%d\t%d\t%d", n-n/3, n-n/3, n-n/3)
			if got := target.Query("SELECT count(*) FILTER (WHERE round = 1), count(*) FILTER (WHERE round = 2), max(round) FILTER (WHERE id = 0) FROM many WHERE length(v) = " +
				fmt.Sprint(length) + " OR id = 0"); got != want {
				t.Errorf("the target has %q, not %q", got, want)
			}
		})
	}
}

// manyInProgress writes a stream of n transactions that are all in progress before the first one
// ends. Each comes in three blocks.
func manyInProgress(w *format.Writer, n uint32, length int) error {
	var failed error
	write := func(rec format.Record) {
		if failed == nil {
			failed = w.Write(rec)
		}
	}
	value := func(v any) format.Value { return format.TextValue(fmt.Append(nil, v)) }
	lsn := format.LSN(1 << 32)
	write(&format.Header{StreamKind: format.Changes, SystemID: "1", Timeline: 1, Database: "d",
		ServerVersion: 150000, Encoding: "UTF8", Slot: "s", Publications: []string{"s"}, StartLSN: lsn})
	columns := []format.Column{{Name: "id", Type: "integer", OID: 23, TypeMod: -1, Key: true},
		{Name: "round", Type: "integer", OID: 23, TypeMod: -1},
		{Name: "v", Type: "text", OID: 25, TypeMod: -1}}
	write(&format.Relation{ID: 1, Schema: "public", Name: "many", ReplicaIdentity: "d", Columns: columns})
	write(&format.Begin{CommitLSN: lsn, XID: n + 1})
	write(&format.Insert{Relation: 1, New: format.Tuple{value(0), value(0), {}}})
	lsn += 8
	write(&format.Commit{CommitLSN: lsn - 8, EndLSN: lsn})
	text := value(strings.Repeat("x", length))
	for round := range uint32(2) {
		for xid := uint32(1); xid <= n; xid++ {
			write(&format.StreamStart{XID: xid, First: round == 0})
			write(&format.Insert{XID: xid, Relation: 1, New: format.Tuple{value(xid + n*round), value(round + 1), text}})
			write(&format.StreamStop{})
		}
	}
	last := uint32(0)
	for xid := uint32(1); xid <= n; xid++ {
		write(&format.StreamStart{XID: xid})
		write(&format.Update{XID: xid, Relation: 1, New: format.Tuple{value(0), value(last + 1), {}}})
		write(&format.StreamStop{})
		lsn += 8
		if xid%3 == 0 {
			write(&format.StreamAbort{XID: xid, SubXID: xid, LSN: lsn})
			continue
		}
		last++
		write(&format.StreamCommit{XID: xid, CommitLSN: lsn - 8, EndLSN: lsn})
	}
	if failed == nil {
		_, failed = w.End(format.Complete, lsn)
	}
	return failed
}

// modest waits for programs to succeed, and checks how much memory they have taken.
func modest(t *testing.T, programs ...*pgtest.Process) {
	t.Helper()
	modestBelow(t, most, programs...)
}

// modestBelow is modest with a limit of its own, in kB.
func modestBelow(t *testing.T, most int, programs ...*pgtest.Process) {
	t.Helper()
	peaks := make([]func() int, len(programs))
	for i, p := range programs {
		peaks[i] = p.WatchMemory()
	}
	for i, p := range programs {
		name := filepath.Base(p.Path)
		if status := p.Wait(time.Duration(pgtest.Often(3, 15)) * time.Minute); status != 0 {
			t.Fatalf("%s: exit status %d\n%s", name, status, p.Errors())
		}
		peak := peaks[i]()
		t.Logf("%s has taken %d kB", name, peak)
		if peak == 0 || peak > most {
			t.Errorf("%s has taken %d kB of memory, more than %d", name, peak, most)
		}
	}
}
