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
	// decodeBody decodes the body into the record. It keeps references into the body, and reuses
	// the record's slices.
	decodeBody(body []byte) error
}

// ValueKind says how to interpret a Value.
type ValueKind uint8

// The kinds of values. The zero Value is NULL.
const (
	Null      ValueKind = iota
	Text                // PostgreSQL's text output
	Binary              // PostgreSQL's binary output
	Unchanged           // a TOASTed value that the source did not send because it did not change
	RawText             // text output that is not valid UTF-8
)

// A Value is one column of a tuple. Data is nil for Null and Unchanged.
type Value struct {
	Kind ValueKind
	Data []byte
}

// TextValue returns b as a Text value, or as a RawText value if b is not valid UTF-8. It does not
// copy b.
func TextValue(b []byte) Value {
	if utf8.Valid(b) {
		return Value{Text, b}
	}
	return Value{RawText, b}
}

// A Tuple is one row. It has a value for each column of its relation, in order.
type Tuple []Value

// Header opens a stream. Unknown facts about the source may be zero.
type Header struct {
	Magic   string `msgpack:"magic"`   // set by Writer
	Version uint64 `msgpack:"version"` // set by Writer
	// The newest minor version that the stream uses. Writer raises it if the header needs a newer
	// one.
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

	// These identify this source and its history among others that look alike. The keys are of
	// minor version 1.

	Token string `msgpack:"token,omitempty"` // created together with the slot
	// The source's timelines before Timeline, oldest first.
	History []TimelineEnd `msgpack:"history,omitempty"`
	// The LSN up to which the source's WAL was durable when its clock said Created.
	SourceLSN LSN `msgpack:"source_lsn,omitempty"`
}

// A TimelineEnd is the LSN up to which a timeline belongs to a source's history.
type TimelineEnd struct {
	Timeline uint64
	End      LSN
}

// EndOf returns the LSN up to which a timeline belongs to the source's history. ok is false if the
// timeline does not precede the source's own.
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
	Part     uint64 `msgpack:"part,omitempty"` // counts from 1; 0 means 1 of 1
	Parts    uint64 `msgpack:"parts,omitempty"`
	DataOnly bool   `msgpack:"data_only,omitempty"`
	Tables   uint64 `msgpack:"tables,omitempty"` // of the whole load
	Bytes    uint64 `msgpack:"bytes,omitempty"`  // estimate, for this stream
	Resumed  bool   `msgpack:"resumed,omitempty"`
	// The target must empty tables that were loaded before.
	Reload bool   `msgpack:"reload,omitempty"`
	Scope  string `msgpack:"scope,omitempty"` // ScopeAll or ScopeTables
	// Parts of the schema that the load leaves out: WithoutOwners, WithoutRights.
	Without []string `msgpack:"without,omitempty"`
	// The key of an advisory lock that the source's database holds while the stream is written. Its
	// low 32 bits are the PID of the server process.
	Probe uint64 `msgpack:"probe,omitempty"`
}

// Parts of the schema that a full load may leave out.
const (
	WithoutOwners = "owners"
	WithoutRights = "rights"
)

// Scopes of a full load.
const (
	ScopeAll    = "all"    // all tables of the database to migrate
	ScopeTables = "tables" // only some tables, or only some rows
)

// SameSource reports whether both headers belong to streams of the same slot and database. If so,
// one stream may continue the other.
func (h *Header) SameSource(o *Header) bool {
	return h.SystemID == o.SystemID && h.Database == o.Database && h.Slot == o.Slot
}

// End closes a stream. Writer.End fills it in. Reader compares Frames with its own count.
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
	Complete = "complete" // the requested end
	Stopped  = "stopped"  // interrupted at a boundary
)

// A Relation describes a table. Later records refer to it by ID, the source's OID.
type Relation struct {
	ID              uint32   `msgpack:"id"`
	Schema          string   `msgpack:"schema"`
	Name            string   `msgpack:"name"`
	ReplicaIdentity string   `msgpack:"replica_identity,omitempty"` // "d", "i", "f" or "n"
	Columns         []Column `msgpack:"columns,omitempty"`
	// In a load, what the source's statistics had counted of the table before the snapshot. Only
	// pgcutover reads it.
	Counted string `msgpack:"counted,omitempty"`
}

// A Column of a Relation.
type Column struct {
	Name      string `msgpack:"name"`
	Type      string `msgpack:"type,omitempty"` // as format_type prints it, without a modifier
	OID       uint32 `msgpack:"oid,omitempty"`
	TypeMod   int32  `msgpack:"typmod"`        // -1: none
	Key       bool   `msgpack:"key,omitempty"` // part of the replica identity
	Generated bool   `msgpack:"generated,omitempty"`
	Identity  string `msgpack:"identity,omitempty"` // "a" always, "d" by default
}

// Warning is the Type of a DDL record in a load that creates nothing. Its Name says which part of
// the source, or of its table, the load does not reproduce.
const Warning = "WARNING"

// DDL is one object of the schema (in a full load), or one statement that ran on the source (in a
// change stream).
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

	// For a statement in section Change: the settings under which the source parsed it, and the
	// objects that it created, altered or (DROP …) dropped.
	Settings map[string]string `msgpack:"settings,omitempty"`
	Objects  []Object          `msgpack:"objects,omitempty"`
}

// An Object is an object of a schema as pg_identify_object_as_address prints it. The stream encodes
// it as an array of the three.
type Object struct {
	Type  string
	Names []string
	Args  []string
}

// Sections of DDL.
const (
	PreData  = "pre-data"  // runs before rows are copied
	PostData = "post-data" // runs once the rows of its table are loaded
	Change   = "change"    // run by a transaction of the source
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

// CopyData is a chunk of raw COPY data that ends at the end of a row.
type CopyData struct {
	Part uint32
	Rows uint64 // in this chunk
	Data []byte
}

// CopyEnd closes a part. Its totals are the sums over the part's CopyData.
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

// Fingerprint is the state of an object of the source's schema at the snapshot. Definition and
// Facts are hashes that only the source side computes. A reader compares them with later ones.
type Fingerprint struct {
	Class      string `msgpack:"class"`
	Schema     string `msgpack:"schema,omitempty"`
	Table      string `msgpack:"table,omitempty"`
	Name       string `msgpack:"name"`
	Definition string `msgpack:"definition,omitempty"`
	Facts      string `msgpack:"facts,omitempty"`
}

// LargeObject is a chunk of a large object. The chunk with offset 0 creates the object.
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

// Commit closes a transaction. A reader stores EndLSN as its position.
type Commit struct {
	CommitLSN LSN
	EndLSN    LSN
	Time      Time
}

// Insert, Update, Delete, Truncate, Message and DDL have an XID only inside blocks of transactions
// in progress.
type Insert struct {
	Relation uint32
	New      Tuple
	XID      uint32
}

// Update changes a row. Old is nil if the replica identity did not change (and is not full).
type Update struct {
	Relation uint32
	Old      Tuple
	New      Tuple
	XID      uint32
}

// Delete deletes a row. Old has the replica identity, or the whole row if the identity is full.
type Delete struct {
	Relation uint32
	Old      Tuple
	XID      uint32
}

// Truncate truncates one or several relations in one statement.
type Truncate struct {
	Relations       []uint32
	Cascade         bool
	RestartIdentity bool
	XID             uint32
}

// Message is a logical message from pg_logical_emit_message.
type Message struct {
	Transactional bool
	LSN           LSN
	Prefix        []byte
	Content       []byte
	XID           uint32
}

// StreamStart opens a block of changes of a transaction in progress.
type StreamStart struct {
	XID   uint32
	First bool // the first block of this transaction
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

// StreamAbort rolls back a transaction that was sent in blocks (SubXID = XID), or one of its
// subtransactions.
type StreamAbort struct {
	XID    uint32
	SubXID uint32
	LSN    LSN
	Time   Time
}

// Prepare replaces Commit or StreamCommit in a two-phase transaction.
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

// RollbackPrepared rolls back a prepared transaction.
type RollbackPrepared struct {
	GID           []byte
	XID           uint32
	PrepareEndLSN LSN
	EndLSN        LSN
	Time          Time
}

// Progress says that the stream has sent every transaction with an end LSN up to LSN. Time is the
// source's clock.
type Progress struct {
	LSN  LSN
	Time Time
}

// Unknown is an ignorable record of a kind that this package does not know. A filter writes it to
// forward it.
type Unknown struct {
	K    Kind
	Body []byte
}

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
