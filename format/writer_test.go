package format_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/pgsluice/pgsluice/format"
)

// A writer must not make what a reader refuses.
func TestWriterRefusesInvalidRecords(t *testing.T) {
	many := make([]format.Column, 1<<16)
	for i := range many {
		many[i].Name = "a"
	}
	load := []format.Record{&format.Header{StreamKind: format.Load}, relationT()}
	tx := []format.Record{changeHeader(), relationT(), &format.Begin{XID: 1}}
	null := format.Value{}
	unchanged := format.Value{Kind: format.Unchanged}
	tests := []struct {
		name   string
		before []format.Record
		rec    format.Record
	}{
		{"header without kind", nil, &format.Header{}},
		{"header without slot", nil, &format.Header{StreamKind: format.Changes, SystemID: "1", Database: "d"}},
		{"header of 64 KiB", nil, &format.Header{StreamKind: format.Load, Producer: strings.Repeat("x", 65500)}},
		{"relation without id", load, &format.Relation{Name: "t"}},
		{"relation without name", load, &format.Relation{ID: 1}},
		{"column without name", load, &format.Relation{ID: 1, Name: "t", Columns: make([]format.Column, 1)}},
		{"65536 columns", load, &format.Relation{ID: 1, Name: "t", Columns: many}},
		{"ddl without section", load, &format.DDL{SQL: "x"}},
		{"ddl after 65536", load, &format.DDL{Section: format.PostData, After: make([]uint64, 1<<16)}},
		{"copy-begin without format", load, &format.CopyBegin{Part: 1, Relation: 1, Index: 1, Of: 1}},
		{"copy-begin without index", load, &format.CopyBegin{Part: 1, Relation: 1, Format: format.CopyText, Of: 1}},
		{"copy-begin of 65536 columns", load, &format.CopyBegin{Part: 1, Relation: 1, Format: format.CopyText, Index: 1, Of: 1, Columns: make([]string, 1<<16)}},
		{"sequence without name", load, &format.Sequence{}},
		{"end without reason", load, &format.End{Frames: 2}},
		{"value of no kind", tx, &format.Insert{Relation: 1, New: format.Tuple{{Kind: 9}, null}}},
		{"unchanged in insert", tx, &format.Insert{Relation: 1, New: format.Tuple{null, unchanged}}},
		{"unchanged in old", tx, &format.Update{Relation: 1, Old: format.Tuple{null, unchanged}, New: format.Tuple{null, null}}},
		{"unchanged in delete", tx, &format.Delete{Relation: 1, Old: format.Tuple{null, unchanged}}},
		{"truncate of 65536", tx, &format.Truncate{Relations: bytes32(1<<16, 1)}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var out bytes.Buffer
			w := format.NewWriter(&out)
			for _, rec := range test.before {
				must(t, w.Write(rec))
			}
			must(t, w.Flush())
			n := out.Len()
			err := w.Write(test.rec)
			if err == nil {
				t.Fatal("not refused")
			}
			if again := w.Write(test.rec); again != err {
				t.Errorf("then %v, first %v", again, err)
			}
			if w.Flush() != err || w.Close() != err || out.Len() != n {
				t.Errorf("something was written after %v", err)
			}
		})
	}
}

func bytes32(n int, v uint32) []uint32 {
	s := make([]uint32, n)
	for i := range s {
		s[i] = v
	}
	return s
}
