package pgoutput_test

import (
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pgsluice/pgsluice/cmd/internal/pgoutput"
	"github.com/pgsluice/pgsluice/format"
)

// pack makes a message by hand: runes and bytes are one byte, other integers what their type says,
// strings end with a zero byte.
func pack(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch v := p.(type) {
		case rune:
			b = append(b, byte(v))
		case byte:
			b = append(b, v)
		case uint16:
			b = binary.BigEndian.AppendUint16(b, v)
		case uint32:
			b = binary.BigEndian.AppendUint32(b, v)
		case uint64:
			b = binary.BigEndian.AppendUint64(b, v)
		case string:
			b = append(append(b, v...), 0)
		case []byte:
			b = append(b, v...)
		default:
			panic(fmt.Sprintf("cannot pack %T", p))
		}
	}
	return b
}

// unchanged stands for a value that was not sent.
type unchanged struct{}

// tuple packs a tuple: nil is NULL, a string a text value, a []byte a binary one.
func tuple(values ...any) []byte {
	b := pack(uint16(len(values)))
	for _, v := range values {
		switch v := v.(type) {
		case nil:
			b = append(b, 'n')
		case unchanged:
			b = append(b, 'u')
		case string:
			b = append(b, pack('t', uint32(len(v)), []byte(v))...)
		case []byte:
			b = append(b, pack('b', uint32(len(v)), v)...)
		default:
			panic(fmt.Sprintf("cannot pack %T", v))
		}
	}
	return b
}

// relation packs a relation with columns of type text; those whose name begins with "*" are of the
// replica identity.
func relation(id uint32, schema, name string, identity rune, columns ...string) []byte {
	b := pack('R', id, schema, name, identity, uint16(len(columns)))
	for _, c := range columns {
		c, key := strings.CutPrefix(c, "*")
		b = append(b, pack(flag(key), c, uint32(25), uint32(0xffffffff))...)
	}
	return b
}

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// inBlock puts a transaction id behind a message's kind, as it stands within stream-start and
// stream-stop.
func inBlock(xid uint32, msg []byte) []byte { return pack(msg[0], xid, msg[1:]) }

// at is a time, in the server's microseconds since 2000 and as records print it.
const (
	at     = uint64(694310400_000001)
	atText = "2022-01-01T00:00:00.000001Z"
)

// text prints a record with all that is in it.
func text(rec format.Record) string {
	switch r := rec.(type) {
	case nil:
		return "-"
	case *format.Relation:
		var cols []string
		for _, c := range r.Columns {
			s := fmt.Sprintf("%s %d", c.Name, c.OID)
			if c.TypeMod != -1 {
				s += fmt.Sprintf(" (%d)", c.TypeMod)
			}
			if c.Key {
				s += " key"
			}
			cols = append(cols, s)
		}
		return fmt.Sprintf("relation %d %q.%q identity=%s [%s]", r.ID, r.Schema, r.Name, r.ReplicaIdentity, strings.Join(cols, ", "))
	case *format.Begin:
		return fmt.Sprintf("begin %d commit=%v at %s", r.XID, r.CommitLSN, clock(r.Time))
	case *format.Commit:
		return fmt.Sprintf("commit commit=%v end=%v at %s", r.CommitLSN, r.EndLSN, clock(r.Time))
	case *format.Insert:
		return fmt.Sprintf("insert %d%s new=%s", r.Relation, of(r.XID), values(r.New))
	case *format.Update:
		return fmt.Sprintf("update %d%s old=%s new=%s", r.Relation, of(r.XID), values(r.Old), values(r.New))
	case *format.Delete:
		return fmt.Sprintf("delete %d%s old=%s", r.Relation, of(r.XID), values(r.Old))
	case *format.Truncate:
		return fmt.Sprintf("truncate %v%s cascade=%t restart=%t", r.Relations, of(r.XID), r.Cascade, r.RestartIdentity)
	case *format.Message:
		return fmt.Sprintf("message%s transactional=%t lsn=%v %q %q", of(r.XID), r.Transactional, r.LSN, r.Prefix, r.Content)
	case *format.StreamStart:
		return fmt.Sprintf("stream-start %d first=%t", r.XID, r.First)
	case *format.StreamStop:
		return "stream-stop"
	case *format.StreamCommit:
		return fmt.Sprintf("stream-commit %d commit=%v end=%v at %s", r.XID, r.CommitLSN, r.EndLSN, clock(r.Time))
	case *format.StreamAbort:
		s := fmt.Sprintf("stream-abort %d sub=%d", r.XID, r.SubXID)
		if r.LSN != 0 || r.Time != 0 {
			s += fmt.Sprintf(" lsn=%v at %s", r.LSN, clock(r.Time))
		}
		return s
	}
	return fmt.Sprintf("%#v", rec)
}

func of(xid uint32) string {
	if xid == 0 {
		return ""
	}
	return fmt.Sprintf(" xid=%d", xid)
}

func clock(t format.Time) string { return t.Time().UTC().Format(time.RFC3339Nano) }

func values(t format.Tuple) string {
	if t == nil {
		return "none"
	}
	list := []string{}
	for _, v := range t {
		switch v.Kind {
		case format.Null:
			list = append(list, "null")
		case format.Text:
			list = append(list, fmt.Sprintf("%q", v.Data))
		case format.Binary:
			list = append(list, fmt.Sprintf("\\x%x", v.Data))
		case format.Unchanged:
			list = append(list, "unchanged")
		case format.RawText:
			list = append(list, fmt.Sprintf("raw %q", v.Data))
		}
	}
	return "(" + strings.Join(list, ", ") + ")"
}

// decode decodes messages and returns the text of each record, and the first error.
func decode(d *pgoutput.Decoder, msgs ...[]byte) (recs []string, err error) {
	for _, msg := range msgs {
		rec, err := d.Decode(msg)
		if err != nil {
			return recs, err
		}
		recs = append(recs, text(rec))
	}
	return recs, nil
}

func mustDecode(t testing.TB, d *pgoutput.Decoder, msg []byte) format.Record {
	t.Helper()
	rec, err := d.Decode(msg)
	if err != nil {
		t.Fatal(err)
	}
	return rec
}
