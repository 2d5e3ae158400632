package e2e

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgtest"
	"github.com/pgsluice/pgsluice/format"
)

// A recording is a full load and the changes after it as files, and what the source looked like
// after each transaction.
type recording struct {
	load    []byte
	changes []byte
	// the same changes; the server has sent large transactions while they were in progress
	streamed []byte
	states   []string // states[k] is the fingerprint after k transactions
	query    string   // that returns it
}

func record(t *testing.T, source *pgtest.DB, env *pgtest.Env) *recording {
	source.Exec(varied(source.Major))
	r := &recording{query: fingerprint(t, source)}
	r.load = env.Must(nil, "pgextract", "--slot", source.Name)
	r.states = append(r.states, source.Query(r.query))
	for k := range 36 {
		source.Exec(variedStep(k, source.Major))
		r.states = append(r.states, source.Query(r.query))
	}
	r.changes = env.Must(nil, "pgdecode", "--slot", source.Name, "--until", "now")
	r.streamed = r.changes
	if source.Major >= 14 {
		r.streamed = env.Must(nil, "pgdecode", "--source", source.URI+"&logical_decoding_work_mem=64kB",
			"--slot", source.Name, "--until", "now")
	}
	// The transactions are as many as states, or nothing below is right.
	for i, stream := range [][]byte{r.changes, r.streamed} {
		n, inProgress := complete(t, stream, len(stream))
		if n != len(r.states)-1 || (inProgress > 0) != (i == 1 && source.Major >= 14) {
			t.Fatalf("the stream has %d transactions with changes, %d of them sent while in progress; %d were made",
				n, inProgress, len(r.states)-1)
		}
	}
	return r
}

// fingerprint returns the query whose result is the same on two databases if all tables of d have
// the same rows there.
func fingerprint(t *testing.T, d *pgtest.DB) string {
	var sql []string
	for name := range strings.SplitSeq(d.Query(tables), "\n") {
		sql = append(sql, fmt.Sprintf("SELECT $t$%s$t$, count(*), sum(('x' || left(md5(x::text), 15))::bit(60)::bigint) FROM ONLY %s x",
			name, name))
	}
	digits := pgtest.Digits(pgtest.Source(t).Major, pgtest.Target(t).Major)
	return fmt.Sprintf("SET extra_float_digits = %d; ", digits) + strings.Join(sql, " UNION ALL ")
}

// frames returns where each frame begins, and the end of the last one.
func frames(t *testing.T, stream []byte) []int {
	t.Helper()
	at := []int{0}
	for n := 0; n < len(stream); {
		head := stream[n:]
		size := 0
		switch head[7] { // 93 kind ce crc crc crc crc, then the body's length
		case 0xc4:
			size = 9 + int(head[8])
		case 0xc5:
			size = 10 + int(binary.BigEndian.Uint16(head[8:]))
		case 0xc6:
			size = 12 + int(binary.BigEndian.Uint32(head[8:]))
		}
		if head[0] != 0x93 || head[2] != 0xce || size == 0 {
			t.Fatalf("no frame at byte %d: % x", n, head[:min(12, len(head))])
		}
		n += size
		at = append(at, n)
	}
	return at
}

// complete returns how many transactions with changes are whole in the first n bytes of a stream,
// and how many of those were sent while in progress.
func complete(t *testing.T, stream []byte, n int) (transactions, inProgress int) {
	t.Helper()
	r := format.NewReader(bytes.NewReader(stream[:n]))
	changes := false
	for {
		rec, err := r.Next()
		if err != nil {
			return transactions, inProgress
		}
		switch rec.(type) {
		case *format.Begin:
			changes = false
		case *format.Insert, *format.Update, *format.Delete, *format.Truncate:
			changes = true
		case *format.Commit:
			if changes {
				transactions++
			}
		case *format.StreamCommit:
			transactions++
			inProgress++
		}
	}
}

// positions returns ascending positions in a stream: frame borders, those next to them, and any
// others.
func positions(rnd *rand.Rand, at []int, borders, others int) []int {
	var list []int
	if borders >= len(at) {
		list = slices.Clone(at)
	} else {
		for range borders {
			list = append(list, at[rnd.IntN(len(at))])
		}
	}
	for range others {
		n := rnd.IntN(at[len(at)-1])
		if rnd.IntN(3) == 0 { // within a frame's head
			n = min(at[rnd.IntN(len(at))]+1+rnd.IntN(12), at[len(at)-1]-1)
		}
		list = append(list, n)
	}
	list = append(list, at[len(at)-2]) // all but the end record
	slices.Sort(list)
	return slices.DeleteFunc(slices.Compact(list), func(n int) bool { return n >= at[len(at)-1] })
}

// Whatever is cut off or damaged: what was whole before it is applied, nothing after it, and
// pgapply says so with status 65.
func TestDamage(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	rnd := random(t)
	source, _ := pgtest.Pair(t)
	env := &pgtest.Env{T: t, Dir: pgtest.Programs(t, true), Source: source.URI}
	rec := record(t, source, env)

	cut := func(stream []byte, n int) []byte { return stream[:n] }
	flip := func(stream []byte, n int) []byte {
		b := slices.Clone(stream)
		b[n] ^= 1 << (n % 8)
		return b
	}
	for _, how := range []struct {
		name    string
		damage  func([]byte, int) []byte
		load    []int
		stream  []byte
		changes []int
	}{
		{"cut", cut, positions(rnd, frames(t, rec.load), pgtest.Often(3, 1000), pgtest.Often(3, 100)), rec.changes,
			positions(rnd, frames(t, rec.changes), pgtest.Often(8, 1000), pgtest.Often(8, 300))},
		{"flip", flip, positions(rnd, frames(t, rec.load), 0, pgtest.Often(5, 100)), rec.changes,
			positions(rnd, frames(t, rec.changes), 0, pgtest.Often(12, 500))},
		{"cut in progress", cut, nil, rec.streamed, positions(rnd, frames(t, rec.streamed), pgtest.Often(5, 300), pgtest.Often(5, 300))},
		{"flip in progress", flip, nil, rec.streamed, positions(rnd, frames(t, rec.streamed), 0, pgtest.Often(10, 500))},
	} {
		t.Run(how.name, func(t *testing.T) {
			t.Parallel()
			target := pgtest.Target(t).Database(t, "")
			env := &pgtest.Env{T: t, Dir: env.Dir, Source: source.URI, Target: target.URI}
			apply := func(stream []byte, want int, what string, n int) {
				t.Helper()
				if status, _, errs := env.Run(stream, "pgapply"); status != want {
					t.Fatalf("%s, byte %d: exit status %d, not %d\n%s", what, n, status, want, errs)
				}
			}
			for _, n := range how.load {
				apply(how.damage(rec.load, n), 65, how.name+" of the full load", n)
				partly(t, target, rec.states[0])
			}
			apply(rec.load, 0, "full load", 0)
			if got := target.Query(rec.query); got != rec.states[0] {
				t.Fatalf("after the full load the target is\n%s\nand the source was\n%s", got, rec.states[0])
			}

			at := frames(t, how.stream)
			for _, n := range how.changes {
				apply(how.damage(how.stream, n), 65, how.name+" of the changes", n)
				good := n // what is before the damage
				if strings.HasPrefix(how.name, "flip") {
					i, exact := slices.BinarySearch(at, n)
					if !exact {
						i--
					}
					good = at[i]
				}
				if k, _ := complete(t, how.stream, good); target.Query(rec.query) != rec.states[k] {
					t.Fatalf("%s of the changes, byte %d: the target is not as the source was after %d transactions", how.name, n, k)
				}
			}
			apply(how.stream, 0, "changes", 0)
			pgtest.Equal(t, source, target)
		})
	}
}

// partly checks that each table is as it should be, empty, or not there.
func partly(t *testing.T, target *pgtest.DB, want string) {
	t.Helper()
	if target.Query(tables) == "" {
		return
	}
	for line := range strings.SplitSeq(target.Query(fingerprint(t, target)), "\n") {
		if _, row, _ := strings.Cut(line, "\t"); !strings.HasPrefix(row, "0\t") && !slices.Contains(strings.Split(want, "\n"), line) {
			t.Errorf("a part of a table's rows is on the target: %s", line)
		}
	}
}
