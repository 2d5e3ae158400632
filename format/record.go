package format

import "unicode/utf8"

// A Record is a pointer to one of the record types of this package: *Header, *End, *Relation, *DDL,
// *CopyBegin, *CopyData, *CopyEnd, *Sequence, *LargeObject, *Fingerprint, *Begin, *Commit, *Insert,
// *Update, *Delete, *Truncate, *Message, *StreamStart, *StreamStop, *StreamCommit, *StreamAbort,
// *Prepare, *CommitPrepared, *RollbackPrepared, *Progress, or *Unknown.
type Record interface {
	// Kind returns the record's number in the stream.
	Kind() Kind
	// appendBody appends the body to b.
	appendBody(b []byte) ([]byte, error)
	// decodeBody sets the record to what the body says. It keeps references into the body, and
	// reuses the record's slices.
	decodeBody(body []byte) error
}

// ValueKind says how a Value is to be understood.
type ValueKind uint8

// The kinds of values. The zero Value is NULL.
const (
	Null      ValueKind = iota
	Text                // PostgreSQL's text output
	Binary              // PostgreSQL's binary output
	Unchanged           // a TOASTed value that was not sent because it did not change
	RawText             // text output that is not UTF-8
)

// A Value is one column of a tuple. Data is nil for Null and Unchanged.
type Value struct {
	Kind ValueKind
	Data []byte
}

// TextValue returns a Text or RawText value, whichever b needs. It does not copy b.
func TextValue(b []byte) Value {
	if utf8.Valid(b) {
		return Value{Text, b}
	}
	return Value{RawText, b}
}

// A Tuple is one row, with a value for each column of its relation, in order.
type Tuple []Value

// Header opens a stream. Time-stamped facts about the source that are unknown may be left zero.
type Header struct {
	Magic   string `msgpack:"magic"`   // set by Writer
	Version uint64 `msgpack:"version"` // set by Writer
	// the newest addition that the stream uses; Writer raises it for those of the header
	Minor         uint64    `msgpack:"minor,omitempty"`
	StreamKind    string    `msgpack:"kind"` // Load, Changes or Repair
	Producer      string    `msgpack:"producer,omitempty"`
	Created       Time      `msgpack:"created,omitempty"`
	SystemID      string    `msgpack:"system_id,omitempty"`
	Timeline      uint64    `msgpack:"timeline,omitempty"`
	Database      string    `msgpack:"database,omitempty"`
	ServerVersion uint64    `msgpack:"server_version,omitempty"`
	Encoding      string    `msgpack:"encoding,omitempty"`
	Slot          string    `msgpack:"slot,omitempty"`
	Publications  []string  `msgpack:"publications,omitempty"`
	StartLSN      LSN       `msgpack:"start_lsn,omitempty"`
	Load          *LoadInfo `msgpack:"load,omitempty"`

	// What tells this source, and its history, apart from others that look alike. These keys are of
	// minor version 1.

	Token string `msgpack:"token,omitempty"` // made together with the slot
	// of the source: the timelines before Timeline, oldest first
	History []TimelineEnd `msgpack:"history,omitempty"`
	// up to where the source's WAL was durable when its clock said Created
	SourceLSN LSN `msgpack:"source_lsn,omitempty"`
}

// A TimelineEnd says up to where a timeline belongs to a source's history.
type TimelineEnd struct {
	Timeline uint64
	End      LSN
}

// EndOf returns up to where a timeline belongs to the source's history; ok is false if it is none
// of the timelines before the source's own.
func (h *Header) EndOf(timeline uint64) (end LSN, ok bool) {
	for _, t := range h.History {
		if t.Timeline == timeline {
			end, ok = t.End, true
		}
	}
	return end, ok
}

// Kinds of streams, for Header.StreamKind.
const (
	Load    = "load"    // a full load: schema and rows of one snapshot
	Changes = "changes" // transactions with their LSNs
	Repair  = "repair"  // transactions without LSNs
)

// LoadInfo is the part of a Header that only full loads have.
type LoadInfo struct {
	Snapshot string `msgpack:"snapshot,omitempty"`
	Part     uint64 `msgpack:"part,omitempty"` // from 1; 0 means 1 of 1
	Parts    uint64 `msgpack:"parts,omitempty"`
	DataOnly bool   `msgpack:"data_only,omitempty"`
	Tables   uint64 `msgpack:"tables,omitempty"` // in the whole load
	Bytes    uint64 `msgpack:"bytes,omitempty"`  // estimate, of this stream
	Resumed  bool   `msgpack:"resumed,omitempty"`
	// tables that have been loaded before are to be emptied
	Reload bool   `msgpack:"reload,omitempty"`
	Scope  string `msgpack:"scope,omitempty"` // ScopeAll or ScopeTables
	// what of the schema is left out: WithoutOwners, WithoutRights
	Without []string `msgpack:"without,omitempty"`
	// the source's database holds an advisory lock of this key while the stream is written, in the
	// server process of its low 32 bits
	Probe uint64 `msgpack:"probe,omitempty"`
}

// What a full load may leave out of the schema.
const (
	WithoutOwners = "owners"
	WithoutRights = "rights"
)

// Scopes of a full load.
const (
	ScopeAll    = "all"    // all tables of the database that are to be migrated
	ScopeTables = "tables" // only some tables, or the rows of some
)

// SameSource reports whether both headers belong to streams of one slot of one database, so that
// one may continue the other.
func (h *Header) SameSource(o *Header) bool {
	return h.SystemID == o.SystemID && h.Database == o.Database && h.Slot == o.Slot
}

// End closes a stream. Writer.End fills it in; Reader has compared Frames with what it saw.
type End struct {
	Reason       string `msgpack:"reason"` // Complete or Stopped
	Frames       uint64 `msgpack:"frames"`
	Transactions uint64 `msgpack:"transactions,omitempty"`
	Changes      uint64 `msgpack:"changes,omitempty"`
	Rows         uint64 `msgpack:"rows,omitempty"`
	Bytes        uint64 `msgpack:"bytes,omitempty"`
	LSN          LSN    `msgpack:"lsn,omitempty"`
}

// Reasons for the end of a stream.
const (
	Complete = "complete" // the end that was asked for
	Stopped  = "stopped"  // interrupted at a boundary
)

// A Relation describes a table. Records that follow refer to it by ID, the source's OID.
type Relation struct {
	ID              uint32   `msgpack:"id"`
	Schema          string   `msgpack:"schema"`
	Name            string   `msgpack:"name"`
	ReplicaIdentity string   `msgpack:"replica_identity,omitempty"` // "d", "i", "f" or "n"
	Columns         []Column `msgpack:"columns,omitempty"`
}

// A Column of a Relation.
type Column struct {
	Name      string `msgpack:"name"`
	Type      string `msgpack:"type,omitempty"` // as format_type prints it, without modifiers
	OID       uint32 `msgpack:"oid,omitempty"`
	TypeMod   int32  `msgpack:"typmod"`        // -1: none
	Key       bool   `msgpack:"key,omitempty"` // part of the replica identity
	Generated bool   `msgpack:"generated,omitempty"`
	Identity  string `msgpack:"identity,omitempty"` // "a" always, "d" by default
}

// Warning is the Type of a DDL record of a load that creates nothing: its Name says what of the
// source, or of its table, does not arrive as it is.
const Warning = "WARNING"

// DDL is one object of the schema (in a full load), or one statement that was executed on the
// source (in a change stream).
type DDL struct {
	ID         uint64   `msgpack:"id,omitempty"`
	Section    string   `msgpack:"section"` // PreData, PostData or Change
	Type       string   `msgpack:"type,omitempty"`
	Schema     string   `msgpack:"schema,omitempty"`
	Name       string   `msgpack:"name,omitempty"`
	Table      string   `msgpack:"table,omitempty"`
	Owner      string   `msgpack:"owner,omitempty"`
	SQL        string   `msgpack:"sql"`
	Index      string   `msgpack:"index,omitempty"`
	Attach     string   `msgpack:"attach,omitempty"`
	After      []uint64 `msgpack:"after,omitempty"`
	SearchPath string   `msgpack:"search_path,omitempty"`
	XID        uint32   `msgpack:"xid,omitempty"`

	// Of a statement in section Change: the settings that it was read with, and what it has
	// created, altered or (DROP …) dropped.
	Settings map[string]string `msgpack:"settings,omitempty"`
	Objects  []Object          `msgpack:"objects,omitempty"`
}

// An Object of a schema, as pg_identify_object_as_address prints it. In the stream it is an array
// of the three.
type Object struct {
	Type  string
	Names []string
	Args  []string
}

// Sections of DDL.
const (
	PreData  = "pre-data"  // to be executed before rows are copied
	PostData = "post-data" // to be executed when the rows of its table are there
	Change   = "change"    // executed by a transaction of the source
)

// CopyBegin opens a part of a table's rows.
type CopyBegin struct {
	Part        uint32   `msgpack:"part"`
	Relation    uint32   `msgpack:"relation"`
	Columns     []string `msgpack:"columns,omitempty"`
	Format      string   `msgpack:"format"` // CopyText or CopyBinary
	Index       uint64   `msgpack:"index"`  // from 1
	Of          uint64   `msgpack:"of"`
	SnapshotLSN LSN      `msgpack:"snapshot_lsn,omitempty"`
	Rows        uint64   `msgpack:"rows,omitempty"`  // estimate
	Bytes       uint64   `msgpack:"bytes,omitempty"` // estimate
}

// COPY formats.
const (
	CopyText   = "text"
	CopyBinary = "binary"
)

// CopyData is a chunk of raw COPY bytes that ends at the end of a row.
type CopyData struct {
	Part uint32
	Rows uint64 // in this chunk
	Data []byte
}

// CopyEnd closes a part; the totals are those of all its CopyData.
type CopyEnd struct {
	Part  uint32
	Rows  uint64
	Bytes uint64
}

// Sequence is a sequence's state.
type Sequence struct {
	Schema    string `msgpack:"schema"`
	Name      string `msgpack:"name"`
	LastValue int64  `msgpack:"last_value"`
	IsCalled  bool   `msgpack:"is_called,omitempty"`
}

// Fingerprint is what an object of the source's schema was at the snapshot. Definition and Facts
// are hashes that only their writer makes: a reader compares them with later ones.
type Fingerprint struct {
	Class      string `msgpack:"class"`
	Schema     string `msgpack:"schema,omitempty"`
	Table      string `msgpack:"table,omitempty"`
	Name       string `msgpack:"name"`
	Definition string `msgpack:"definition,omitempty"`
	Facts      string `msgpack:"facts,omitempty"`
}

// LargeObject is a chunk of a large object; the one with offset 0 creates it.
type LargeObject struct {
	OID    uint32
	Offset uint64
	Data   []byte
}

// Begin opens a transaction.
type Begin struct {
	XID       uint32
	CommitLSN LSN
	Time      Time // of the commit
}

// Commit closes a transaction. EndLSN is what a reader stores as its position.
type Commit struct {
	CommitLSN LSN
	EndLSN    LSN
	Time      Time
}

// Insert, Update, Delete, Truncate, Message and DDL carry an XID inside of blocks of transactions
// in progress only.
type Insert struct {
	Relation uint32
	New      Tuple
	XID      uint32
}

// Update of a row. Old is nil if the replica identity did not change (and is not full).
type Update struct {
	Relation uint32
	Old      Tuple
	New      Tuple
	XID      uint32
}

// Delete of a row. Old has the replica identity, or the whole row where that is full.
type Delete struct {
	Relation uint32
	Old      Tuple
	XID      uint32
}

// Truncate of one or several relations in one statement.
type Truncate struct {
	Relations       []uint32
	Cascade         bool
	RestartIdentity bool
	XID             uint32
}

// Message is a logical message written by pg_logical_emit_message.
type Message struct {
	Transactional bool
	LSN           LSN
	Prefix        []byte
	Content       []byte
	XID           uint32
}

// StreamStart opens a block of changes of a transaction that is still in progress.
type StreamStart struct {
	XID   uint32
	First bool // of this transaction
}

// StreamStop closes a block.
type StreamStop struct{}

// StreamCommit commits a transaction that was sent in blocks.
type StreamCommit struct {
	XID       uint32
	CommitLSN LSN
	EndLSN    LSN
	Time      Time
}

// StreamAbort takes back a transaction that was sent in blocks (SubXID = XID), or one of its
// subtransactions.
type StreamAbort struct {
	XID    uint32
	SubXID uint32
	LSN    LSN
	Time   Time
}

// Prepare stands in the place of Commit or StreamCommit in a two-phase transaction.
type Prepare struct {
	GID        []byte
	XID        uint32
	PrepareLSN LSN
	EndLSN     LSN
	Time       Time
}

// CommitPrepared commits a prepared transaction.
type CommitPrepared struct {
	GID       []byte
	XID       uint32
	CommitLSN LSN
	EndLSN    LSN
	Time      Time
}

// RollbackPrepared takes a prepared transaction back.
type RollbackPrepared struct {
	GID           []byte
	XID           uint32
	PrepareEndLSN LSN
	EndLSN        LSN
	Time          Time
}

// Progress says that every transaction with an end LSN up to LSN stands before it. Time is the
// source's clock.
type Progress struct {
	LSN  LSN
	Time Time
}

// Unknown is an ignorable record of a kind that this package does not know. A filter forwards it by
// writing it.
type Unknown struct {
	K    Kind
	Body []byte
}

// Kind methods.

func (*Header) Kind() Kind           { return KindHeader }
func (*End) Kind() Kind              { return KindEnd }
func (*Relation) Kind() Kind         { return KindRelation }
func (*DDL) Kind() Kind              { return KindDDL }
func (*CopyBegin) Kind() Kind        { return KindCopyBegin }
func (*CopyData) Kind() Kind         { return KindCopyData }
func (*CopyEnd) Kind() Kind          { return KindCopyEnd }
func (*Sequence) Kind() Kind         { return KindSequence }
func (*LargeObject) Kind() Kind      { return KindLargeObject }
func (*Begin) Kind() Kind            { return KindBegin }
func (*Commit) Kind() Kind           { return KindCommit }
func (*Insert) Kind() Kind           { return KindInsert }
func (*Update) Kind() Kind           { return KindUpdate }
func (*Delete) Kind() Kind           { return KindDelete }
func (*Truncate) Kind() Kind         { return KindTruncate }
func (*Message) Kind() Kind          { return KindMessage }
func (*StreamStart) Kind() Kind      { return KindStreamStart }
func (*StreamStop) Kind() Kind       { return KindStreamStop }
func (*StreamCommit) Kind() Kind     { return KindStreamCommit }
func (*StreamAbort) Kind() Kind      { return KindStreamAbort }
func (*Prepare) Kind() Kind          { return KindPrepare }
func (*CommitPrepared) Kind() Kind   { return KindCommitPrepared }
func (*RollbackPrepared) Kind() Kind { return KindRollbackPrepared }
func (*Progress) Kind() Kind         { return KindProgress }
func (*Fingerprint) Kind() Kind      { return KindFingerprint }
func (u *Unknown) Kind() Kind        { return u.K }
