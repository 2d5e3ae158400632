package pgoutput_test

import (
	"encoding/binary"
	"testing"

	"github.com/pgsluice/pgsluice/cmd/internal/pgoutput"
	"github.com/pgsluice/pgsluice/format"
)

// FuzzDecode decodes several messages, each behind its length. Whatever they are, there is a record
// or an error and no panic, and a record that is packed by hand again is decoded to the same
// record.
func FuzzDecode(f *testing.F) {
	var all []byte
	for _, s := range samples {
		all = append(all, pack(uint16(len(s.msg)), s.msg)...)
		if s.msg[0] == 'R' {
			continue
		}
		f.Add(pack(uint16(len(accounts)), accounts, uint16(len(full)), full, uint16(len(s.msg)), s.msg), false)
	}
	f.Add(all, true)
	f.Fuzz(func(t *testing.T, in []byte, checkText bool) {
		d := newDecoder()
		d.CheckText = checkText
		again := &pgoutput.Decoder{CheckText: checkText}
		block := false
		for len(in) >= 2 {
			n := min(int(binary.BigEndian.Uint16(in)), len(in)-2)
			msg := in[2 : 2+n : 2+n]
			in = in[2+n:]
			rec, err := d.Decode(msg)
			if err != nil {
				if rec != nil {
					t.Fatalf("%s comes with %v", text(rec), err)
				}
				return
			}
			if rec == nil {
				continue
			}
			copied, err := again.Decode(repack(rec, block))
			if err != nil {
				t.Fatalf("%s, packed again: %v", text(rec), err)
			}
			_, isRelation := rec.(*format.Relation)
			if got, want := text(copied), text(rec); got != want && !(isRelation && copied == nil) {
				t.Fatalf("%s, packed again, becomes %s", want, got)
			}
			switch rec.(type) {
			case *format.StreamStart:
				block = true
			case *format.StreamStop:
				block = false
			}
		}
	})
}

// repack packs a record as the message that it is decoded from.
func repack(rec format.Record, block bool) []byte {
	in := func(xid uint32, parts ...any) []byte {
		msg := pack(parts...)
		if block {
			msg = inBlock(xid, msg)
		}
		return msg
	}
	const epoch = 946684800 * 1000000
	clock := func(t format.Time) uint64 { return uint64(int64(t) - epoch) }
	switch r := rec.(type) {
	case *format.Relation:
		b := pack('R', r.ID, r.Schema, r.Name, byte([]rune(r.ReplicaIdentity)[0]), uint16(len(r.Columns)))
		for _, c := range r.Columns {
			b = append(b, pack(flag(c.Key), c.Name, c.OID, uint32(c.TypeMod))...)
		}
		return in(1, b)
	case *format.Begin:
		return pack('B', uint64(r.CommitLSN), clock(r.Time), r.XID)
	case *format.Commit:
		return pack('C', byte(0), uint64(r.CommitLSN), uint64(r.EndLSN), clock(r.Time))
	case *format.Insert:
		return in(r.XID, 'I', r.Relation, 'N', tupleOf(r.New))
	case *format.Update:
		if r.Old != nil {
			return in(r.XID, 'U', r.Relation, 'O', tupleOf(r.Old), 'N', tupleOf(r.New))
		}
		return in(r.XID, 'U', r.Relation, 'N', tupleOf(r.New))
	case *format.Delete:
		return in(r.XID, 'D', r.Relation, 'K', tupleOf(r.Old))
	case *format.Truncate:
		b := pack('T', uint32(len(r.Relations)), flag(r.Cascade)|2*flag(r.RestartIdentity))
		for _, id := range r.Relations {
			b = append(b, pack(id)...)
		}
		return in(r.XID, b)
	case *format.Message:
		return in(r.XID, 'M', flag(r.Transactional), uint64(r.LSN), string(r.Prefix), uint32(len(r.Content)), r.Content)
	case *format.StreamStart:
		return pack('S', r.XID, flag(r.First))
	case *format.StreamStop:
		return pack('E')
	case *format.StreamCommit:
		return pack('c', r.XID, byte(0), uint64(r.CommitLSN), uint64(r.EndLSN), clock(r.Time))
	case *format.StreamAbort:
		return pack('A', r.XID, r.SubXID, uint64(r.LSN), clock(r.Time))
	}
	panic("no such record")
}

func tupleOf(t format.Tuple) []byte {
	list := []any{}
	for _, v := range t {
		switch v.Kind {
		case format.Null:
			list = append(list, nil)
		case format.Text, format.RawText:
			list = append(list, string(v.Data))
		case format.Binary:
			list = append(list, append([]byte{}, v.Data...))
		case format.Unchanged:
			list = append(list, unchanged{})
		}
	}
	return tuple(list...)
}
