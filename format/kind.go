package format

import "strconv"

// Kind is the number of a record's kind. The numbers are part of the wire format and never change.
// Kinds up to 63 are critical. A reader may skip a kind from 64 on that it does not know.
type Kind uint8

// The kinds of version 1. SPEC.md describes their bodies.
const (
	KindHeader Kind = 1
	KindEnd    Kind = 2
	// a piece of a long record; users of Reader and Writer never see it
	KindContinued        Kind = 3
	KindRelation         Kind = 4
	KindDDL              Kind = 5
	KindCopyBegin        Kind = 6
	KindCopyData         Kind = 7
	KindCopyEnd          Kind = 8
	KindSequence         Kind = 9
	KindLargeObject      Kind = 10
	KindBegin            Kind = 11
	KindCommit           Kind = 12
	KindInsert           Kind = 13
	KindUpdate           Kind = 14
	KindDelete           Kind = 15
	KindTruncate         Kind = 16
	KindMessage          Kind = 17
	KindStreamStart      Kind = 18
	KindStreamStop       Kind = 19
	KindStreamCommit     Kind = 20
	KindStreamAbort      Kind = 21
	KindPrepare          Kind = 22
	KindCommitPrepared   Kind = 23
	KindRollbackPrepared Kind = 24

	KindProgress    Kind = 64
	KindFingerprint Kind = 66 // 65 is the unknown kind in the test vectors

	firstIgnorable Kind = 64
	maxKind        Kind = 127
)

var kindNames = [...]string{
	KindHeader: "header", KindEnd: "end", KindContinued: "continued", KindRelation: "relation", KindDDL: "ddl",
	KindCopyBegin: "copy-begin", KindCopyData: "copy-data", KindCopyEnd: "copy-end", KindSequence: "sequence",
	KindLargeObject: "large-object", KindBegin: "begin", KindCommit: "commit", KindInsert: "insert",
	KindUpdate: "update", KindDelete: "delete", KindTruncate: "truncate", KindMessage: "message",
	KindStreamStart: "stream-start", KindStreamStop: "stream-stop", KindStreamCommit: "stream-commit",
	KindStreamAbort: "stream-abort", KindPrepare: "prepare", KindCommitPrepared: "commit-prepared",
	KindRollbackPrepared: "rollback-prepared", KindProgress: "progress",
	KindFingerprint: "fingerprint",
}

// Ignorable reports whether a reader that does not know the kind may skip it.
func (k Kind) Ignorable() bool { return k >= firstIgnorable && k <= maxKind }

// known reports whether this package has a record type for the kind.
func (k Kind) known() bool { return int(k) < len(kindNames) && kindNames[k] != "" }

// String returns the kind's name in SPEC.md, or "kind N" for an unknown kind.
func (k Kind) String() string {
	if k.known() {
		return kindNames[k]
	}
	return "kind " + strconv.Itoa(int(k))
}
