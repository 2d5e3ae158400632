package format_test

import (
	"strings"

	"github.com/pgsluice/pgsluice/format"
)

// loadStream and changeStream have every kind of record between them, small enough to be damaged in
// every bit. One record is so long that its frame has a longer head.

func loadStream() []format.Record {
	return ended(
		&format.Header{StreamKind: format.Load, Producer: "pgextract 1", Created: 1700000000000000, SystemID: "7301", Timeline: 1,
			Database: "shop", ServerVersion: 150020, Encoding: "UTF8", Slot: "mig", Publications: []string{"mig"}, StartLSN: 100,
			Load: &format.LoadInfo{Snapshot: "00000003-1", Part: 1, Parts: 2, Tables: 1, Bytes: 12, Scope: format.ScopeAll}},
		&format.DDL{ID: 1, Section: format.PreData, Type: "TABLE", Schema: "public", Name: "t", Owner: "o",
			SQL: "CREATE TABLE t();" + strings.Repeat(" ", 250)},
		relationT(),
		&format.CopyBegin{Part: 1, Relation: 1, Columns: []string{"a", "b"}, Format: format.CopyText,
			Index: 1, Of: 2, SnapshotLSN: 100, Rows: 3},
		&format.CopyBegin{Part: 2, Relation: 1, Columns: []string{"a", "b"}, Format: format.CopyBinary, Index: 2, Of: 2, Bytes: 9},
		&format.CopyData{Part: 1, Rows: 2, Data: []byte("1\tx\n2\t\\N\n")},
		&format.CopyData{Part: 2, Data: []byte("PGCOPY\n\xff\r\n\x00")},
		&format.CopyData{Part: 1, Rows: 1, Data: []byte("3\ty\n")},
		&format.CopyEnd{Part: 1, Rows: 3, Bytes: 13},
		&format.LargeObject{OID: 99},
		&format.LargeObject{OID: 99, Offset: 0, Data: []byte{0, 1, 2}},
		&format.CopyEnd{Part: 2, Rows: 0, Bytes: 11},
		&format.Sequence{Schema: "public", Name: "s", LastValue: -7, IsCalled: true},
		&format.Unknown{K: 100, Body: []byte{0x91, 0x07}},
		&format.DDL{ID: 2, Section: format.PostData, Type: "CONSTRAINT", Schema: "public", Name: "p",
			Table: "t", SQL: "ALTER;", Index: "CREATE;", Attach: "ALTER;", After: []uint64{1}},
	)
}

func relationT() *format.Relation {
	return &format.Relation{ID: 1, Schema: "public", Name: "t", ReplicaIdentity: "d", Columns: []format.Column{
		{Name: "a", Type: "integer", OID: 23, TypeMod: -1, Key: true, Identity: "a"},
		{Name: "b", Type: "text", OID: 25, TypeMod: 5, Generated: true}}}
}

func changeHeader() *format.Header {
	return &format.Header{StreamKind: format.Changes, SystemID: "7301", Database: "shop", Slot: "mig", StartLSN: 100}
}

func changeStream() []format.Record {
	return ended(
		changeHeader(),
		relationT(),
		&format.Begin{XID: 700, CommitLSN: 200, Time: 1700000000000000},
		&format.Insert{Relation: 1, New: format.Tuple{text("1"), {}}},
		&format.Update{Relation: 1, New: format.Tuple{text(""), {Kind: format.Unchanged}}},
		&format.Update{Relation: 1, Old: row("1", ""),
			New: format.Tuple{{Kind: format.Binary, Data: []byte{0, 1}},
				{Kind: format.RawText, Data: []byte{0xff}}}},
		&format.Delete{Relation: 1, Old: format.Tuple{text("1"), {}}},
		&format.Truncate{Relations: []uint32{1, 1}, Cascade: true, RestartIdentity: true},
		&format.Message{Transactional: true, LSN: 150, Prefix: []byte("p"), Content: []byte("c")},
		&format.DDL{Section: format.Change, Schema: "public", SQL: "ALTER TABLE t;", SearchPath: "public"},
		&format.Commit{CommitLSN: 200, EndLSN: 210, Time: 1700000000000001},
		&format.Progress{LSN: 220, Time: 1700000000000002},
		&format.StreamStart{XID: 701, First: true},
		&format.Insert{Relation: 1, New: row("2", "x"), XID: 702},
		&format.Update{Relation: 1, Old: row("2", "x"), New: row("3", "x"), XID: 701},
		&format.Delete{Relation: 1, Old: row("3", "x"), XID: 701},
		&format.Truncate{Relations: []uint32{1}, XID: 701},
		&format.Message{Transactional: true, LSN: 221, XID: 701},
		&format.StreamStop{},
		&format.Message{LSN: 222, Prefix: []byte("q")},
		&format.StreamAbort{XID: 701, SubXID: 702, LSN: 223, Time: 1},
		&format.StreamCommit{XID: 701, CommitLSN: 230, EndLSN: 240, Time: 2},
		&format.StreamStart{XID: 703, First: true},
		&format.StreamStop{},
		&format.StreamStart{XID: 703},
		&format.StreamStop{},
		&format.StreamAbort{XID: 703, SubXID: 703},
		&format.Begin{XID: 704, CommitLSN: 250},
		&format.Prepare{GID: []byte("g"), XID: 704, PrepareLSN: 250, EndLSN: 260, Time: 3},
		&format.CommitPrepared{GID: []byte("g"), XID: 704, CommitLSN: 270, EndLSN: 280, Time: 4},
		&format.RollbackPrepared{GID: []byte("h"), XID: 705, PrepareEndLSN: 260, EndLSN: 290, Time: 5},
		&format.Unknown{K: 127, Body: []byte{0xc0}},
	)
}

// ended adds the end record.
func ended(recs ...format.Record) []format.Record {
	e := &format.End{Reason: format.Complete, Frames: uint64(len(recs)), Transactions: 1, Changes: 2, Rows: 3, Bytes: 4, LSN: 300}
	return append(recs, e)
}
