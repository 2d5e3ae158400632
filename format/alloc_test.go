package format_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// hot has the frequent records, as the changes of one transaction or the chunks of one part that
// can be repeated for ever.
func hot() map[string][]format.Record {
	two := row("4711042", "row 0123456789abcdef")
	data := func(n int) format.Record {
		return &format.CopyData{Part: 1, Rows: 1000, Data: bytes.Repeat([]byte{'x'}, n)}
	}
	return map[string][]format.Record{
		"insert":             {&format.Insert{Relation: 1, New: two}},
		"update":             {&format.Update{Relation: 1, New: two}},
		"update with old":    {&format.Update{Relation: 1, Old: two, New: two}},
		"updates in turn":    {&format.Update{Relation: 1, Old: two, New: two}, &format.Update{Relation: 1, New: two}},
		"delete":             {&format.Delete{Relation: 1, Old: two}},
		"message":            {&format.Message{Transactional: true, Prefix: []byte("p"), Content: []byte("c")}},
		"truncate":           {&format.Truncate{Relations: []uint32{1, 1}}},
		"copy-data":          {data(100)},
		"copy-data, 64 KiB":  {data(64 << 10)},
		"copy-data, 256 KiB": {data(256 << 10)},
	}
}

func hotStart(rec format.Record) []format.Record {
	if rec.Kind() == format.KindCopyData {
		return []format.Record{loadHeader(), relationT(), copyBegin(1)}
	}
	return []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1}}
}

// rounds is how often a record is written before and while allocations are counted: enough to fill
// a buffer several times.
const rounds = 100

func TestWriteDoesNotAllocate(t *testing.T) {
	for name, recs := range hot() {
		t.Run(name, func(t *testing.T) {
			w := format.NewWriter(io.Discard)
			for _, rec := range hotStart(recs[0]) {
				must(t, w.Write(rec))
			}
			round := func() {
				for range rounds {
					for _, rec := range recs {
						must(t, w.Write(rec))
					}
				}
			}
			round()
			if n := testing.AllocsPerRun(5, round); n != 0 {
				t.Errorf("%v allocations in %d rounds", n, rounds)
			}
		})
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	for name, recs := range hot() {
		t.Run(name, func(t *testing.T) {
			start := hotStart(recs[0])
			head := write(t, start...)
			body := write(t, append(start, recs...)...)[len(head):]
			r := format.NewReader(&loop{head: head, body: body})
			for range start {
				_, err := r.Next()
				must(t, err)
			}
			round := func() {
				for range rounds * len(recs) {
					_, err := r.Next()
					must(t, err)
				}
			}
			round()
			if n := testing.AllocsPerRun(5, round); n != 0 {
				t.Errorf("%v allocations in %d rounds", n, rounds)
			}
		})
	}
}

// Whole transactions and blocks, with end LSNs that ascend, so that they cannot be repeated as they
// are.
func TestTransactionsDoNotAllocate(t *testing.T) {
	var out bytes.Buffer
	out.Grow(1 << 20)
	w := format.NewWriter(&out)
	must(t, w.Write(changeHeader()))
	must(t, w.Write(relationT()))
	lsn := format.LSN(1000)
	begin, commit, progress := &format.Begin{}, &format.Commit{}, &format.Progress{}
	start, stop, insert := &format.StreamStart{XID: 7, First: true}, &format.StreamStop{}, &format.Insert{Relation: 1, New: row("1", "2")}
	must(t, w.Write(start)) // the transaction in progress is entered in a table once
	must(t, w.Write(stop))
	start.First = false
	round := func() {
		for range rounds {
			lsn += 10
			*begin = format.Begin{XID: 1, CommitLSN: lsn}
			*commit = format.Commit{CommitLSN: lsn, EndLSN: lsn + 1}
			*progress = format.Progress{LSN: lsn + 2}
			insert.XID = 0
			must(t, w.Write(begin))
			must(t, w.Write(insert))
			must(t, w.Write(commit))
			must(t, w.Write(progress))
			insert.XID = 7
			must(t, w.Write(start))
			must(t, w.Write(insert))
			must(t, w.Write(stop))
		}
	}
	if n := testing.AllocsPerRun(5, round); n != 0 {
		t.Errorf("%v allocations while writing", n)
	}
	must(t, w.Flush())
	r := format.NewReader(&out)
	for range 4 + 7*rounds {
		_, err := r.Next()
		must(t, err)
	}
	if n := testing.AllocsPerRun(4, func() {
		for range 7 * rounds {
			_, err := r.Next()
			must(t, err)
		}
	}); n != 0 {
		t.Errorf("%v allocations while reading", n)
	}
}

func TestCopyPartsDoNotAllocate(t *testing.T) {
	// The end of a part is frequent enough to be free too, though its beginning, a map, is not.
	var out bytes.Buffer
	w := format.NewWriter(&out)
	must(t, w.Write(loadHeader()))
	must(t, w.Write(relationT()))
	for i := range uint32(2 * rounds) {
		must(t, w.Write(copyBegin(i)))
	}
	next := uint32(0)
	end := &format.CopyEnd{}
	if n := testing.AllocsPerRun(rounds-1, func() {
		end.Part = next
		next++
		must(t, w.Write(end))
	}); n != 0 {
		t.Errorf("%v allocations while writing", n)
	}
	must(t, w.Flush())
	r := format.NewReader(&out)
	for range 2 + 2*rounds {
		_, err := r.Next()
		must(t, err)
	}
	if n := testing.AllocsPerRun(rounds-1, func() {
		_, err := r.Next()
		must(t, err)
	}); n != 0 {
		t.Errorf("%v allocations while reading", n)
	}
}
