package inspect

import (
	"bufio"
	"encoding/base64"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/pgsluice/pgsluice/format"
)

// JSON prints the records of all streams of in, each as one JSON object on a line of its own.
// SPEC.md says what they look like.
func JSON(in io.Reader, out io.Writer) error {
	r := newReader(in)
	p := &printer{Writer: bufio.NewWriterSize(out, 64<<10), reader: r}
	for {
		rec, err := r.Next()
		if err == nil {
			p.record(rec)
			if r.Buffered() == 0 { // whoever reads it may wait for it
				err = p.Flush()
			}
		} else if e := p.Flush(); e != nil {
			return e
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return explain(err)
		}
	}
}

// A printer writes JSON. Its errors are those of the bufio.Writer, which keeps them.
type printer struct {
	*bufio.Writer
	reader *format.Reader
	tables map[uint32]*format.Relation
	parts  map[uint32]*format.CopyBegin
	comma  bool
	num    [32]byte
}

func (p *printer) str(s string) { _, _ = p.WriteString(s) }

func (p *printer) key(name string) {
	if p.comma {
		p.str(",")
	}
	p.comma = true
	p.str(`"`)
	p.str(name)
	p.str(`":`)
}

func (p *printer) uint(name string, v uint64) {
	p.key(name)
	_, _ = p.Write(strconv.AppendUint(p.num[:0], v, 10))
}

func (p *printer) bool(name string, v bool) {
	p.key(name)
	p.str(strconv.FormatBool(v))
}

func (p *printer) lsn(name string, v format.LSN) {
	p.key(name)
	p.str(`"` + v.String() + `"`)
}

func (p *printer) time(v format.Time) {
	p.key("time")
	p.str(`"` + v.Time().UTC().Format("2006-01-02T15:04:05.000000Z") + `"`)
}

func (p *printer) record(rec format.Record) {
	name := rec.Kind().String()
	if _, ok := rec.(*format.Unknown); ok {
		name = "unknown"
	}
	p.str(`{"record":"` + name + `"`)
	p.comma = true
	switch r := rec.(type) {
	case *format.Header:
		p.tables, p.parts = make(map[uint32]*format.Relation), make(map[uint32]*format.CopyBegin)
		p.fields(reflect.ValueOf(r).Elem())
	case *format.Relation:
		p.tables[r.ID] = r
		p.fields(reflect.ValueOf(r).Elem())
	case *format.CopyBegin:
		p.parts[r.Part] = r
		p.fields(reflect.ValueOf(r).Elem())
		p.table(r.Relation)
	case *format.CopyData:
		b := p.parts[r.Part]
		p.uint("part", uint64(r.Part))
		p.uint("rows", r.Rows)
		p.table(b.Relation)
		p.key("data")
		p.bytes(r.Data)
	case *format.CopyEnd:
		b := p.parts[r.Part]
		p.uint("part", uint64(r.Part))
		p.uint("rows", r.Rows)
		p.uint("bytes", r.Bytes)
		p.table(b.Relation)
		delete(p.parts, r.Part)
	case *format.LargeObject:
		p.uint("oid", uint64(r.OID))
		p.uint("offset", r.Offset)
		p.key("data")
		p.bytes(r.Data)
	case *format.Insert:
		p.change(r.Relation, r.XID)
		p.tuple("new", r.New)
	case *format.Update:
		p.change(r.Relation, r.XID)
		if r.Old != nil {
			p.tuple("old", r.Old)
		}
		p.tuple("new", r.New)
	case *format.Delete:
		p.change(r.Relation, r.XID)
		p.tuple("old", r.Old)
	case *format.Unknown:
		p.uint("number", uint64(r.K))
		p.key("body")
		p.bytes(r.Body)
	case *format.DDL, *format.Sequence, *format.Fingerprint, *format.End:
		p.fields(reflect.ValueOf(r).Elem())
	default:
		p.transaction(rec)
	}
	p.str("}\n")
}

// transaction prints what is about transactions.
func (p *printer) transaction(rec format.Record) {
	gid := func(b []byte) {
		p.key("gid")
		p.bytes(b)
	}
	switch r := rec.(type) {
	case *format.Begin:
		p.uint("xid", uint64(r.XID))
		p.lsn("commit_lsn", r.CommitLSN)
		p.time(r.Time)
	case *format.Commit:
		p.lsn("commit_lsn", r.CommitLSN)
		p.lsn("end_lsn", r.EndLSN)
		p.time(r.Time)
	case *format.Truncate:
		p.truncate(r)
	case *format.Message:
		p.bool("transactional", r.Transactional)
		p.lsn("lsn", r.LSN)
		p.key("prefix")
		p.bytes(r.Prefix)
		p.key("content")
		p.bytes(r.Content)
		p.xid(r.XID)
	case *format.StreamStart:
		p.uint("xid", uint64(r.XID))
		p.bool("first", r.First)
	case *format.StreamStop:
	case *format.StreamCommit:
		p.uint("xid", uint64(r.XID))
		p.lsn("commit_lsn", r.CommitLSN)
		p.lsn("end_lsn", r.EndLSN)
		p.time(r.Time)
	case *format.StreamAbort:
		p.uint("xid", uint64(r.XID))
		p.uint("subxid", uint64(r.SubXID))
		p.lsn("lsn", r.LSN)
		p.time(r.Time)
	case *format.Prepare:
		gid(r.GID)
		p.uint("xid", uint64(r.XID))
		p.lsn("prepare_lsn", r.PrepareLSN)
		p.lsn("end_lsn", r.EndLSN)
		p.time(r.Time)
	case *format.CommitPrepared:
		gid(r.GID)
		p.uint("xid", uint64(r.XID))
		p.lsn("commit_lsn", r.CommitLSN)
		p.lsn("end_lsn", r.EndLSN)
		p.time(r.Time)
	case *format.RollbackPrepared:
		gid(r.GID)
		p.uint("xid", uint64(r.XID))
		p.lsn("prepare_end_lsn", r.PrepareEndLSN)
		p.lsn("end_lsn", r.EndLSN)
		p.time(r.Time)
	case *format.Progress:
		p.lsn("lsn", r.LSN)
		p.time(r.Time)
	}
}

func (p *printer) truncate(r *format.Truncate) {
	p.key("relations")
	p.str("[")
	for i, id := range r.Relations {
		if i > 0 {
			p.str(",")
		}
		p.str(strconv.FormatUint(uint64(id), 10))
	}
	p.str("]")
	p.key("tables")
	p.str("[")
	for i, id := range r.Relations {
		if i > 0 {
			p.str(",")
		}
		p.str("{")
		p.comma = false
		p.table(id)
		p.str("}")
	}
	p.str("]")
	p.bool("cascade", r.Cascade)
	p.bool("restart_identity", r.RestartIdentity)
	p.xid(r.XID)
}

// table adds the name of a relation's table, so that filters can use it.
func (p *printer) table(id uint32) {
	t := p.tables[id]
	p.key("schema")
	p.bytes([]byte(t.Schema))
	p.key("table")
	p.bytes([]byte(t.Name))
}

func (p *printer) change(id, xid uint32) {
	p.uint("relation", uint64(id))
	p.table(id)
	p.xid(xid)
}

func (p *printer) xid(xid uint32) {
	if xid != 0 {
		p.uint("xid", uint64(xid))
	}
}

func (p *printer) tuple(name string, t format.Tuple) {
	p.key(name)
	p.str("[")
	for i, v := range t {
		if i > 0 {
			p.str(",")
		}
		switch {
		case v.Kind == format.Null:
			p.str("null")
		case v.Kind == format.Unchanged:
			p.str(`{"unchanged":true}`)
		case v.Kind == format.Binary:
			p.object("binary", v.Data)
		case v.Kind == format.RawText || !utf8.Valid(v.Data):
			p.object("raw", v.Data)
		default:
			p.text(v.Data)
		}
	}
	p.str("]")
}

// bytes prints bytes as a string if they are text, else as base64.
func (p *printer) bytes(b []byte) {
	if utf8.Valid(b) {
		p.text(b)
		return
	}
	p.object("base64", b)
}

func (p *printer) object(key string, b []byte) {
	p.str(`{"` + key + `":"`)
	e := base64.NewEncoder(base64.StdEncoding, p.Writer)
	_, _ = e.Write(b)
	_ = e.Close()
	p.str(`"}`)
}

const digits = "0123456789abcdef"

// text prints valid UTF-8 as a string. Nothing in it is obeyed by a terminal: characters that
// control are escaped.
func (p *printer) text(b []byte) {
	p.str(`"`)
	start := 0
	for i := 0; i < len(b); {
		c := b[i]
		n := 1
		switch {
		case c == 0xc2 && i+1 < len(b) && b[i+1] < 0xa0: // U+0080 to U+009f
			n, c = 2, b[i+1]
		case c >= ' ' && c != '"' && c != '\\' && c != 0x7f:
			i++
			continue
		}
		_, _ = p.Write(b[start:i])
		switch c {
		case '"', '\\':
			_, _ = p.Write([]byte{'\\', c})
		case '\n':
			p.str(`\n`)
		case '\t':
			p.str(`\t`)
		case '\r':
			p.str(`\r`)
		default:
			_, _ = p.Write([]byte{'\\', 'u', '0', '0', digits[c>>4], digits[c&15]})
		}
		i += n
		start = i
	}
	_, _ = p.Write(b[start:])
	p.str(`"`)
}

// fields prints the fields of a record that is a map, under the keys that it has in the stream;
// what is zero is left out, except for what the map always has.
func (p *printer) fields(v reflect.Value) {
	for i := range v.NumField() {
		name, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("msgpack"), ",")
		if name == "" || option == "omitempty" && v.Field(i).IsZero() {
			continue
		}
		p.key(name)
		p.value(v.Field(i))
	}
}

func (p *printer) value(v reflect.Value) {
	switch x := v.Interface().(type) {
	case format.LSN:
		p.str(`"` + x.String() + `"`)
		return
	case format.Time:
		p.str(`"` + x.Time().UTC().Format("2006-01-02T15:04:05.000000Z") + `"`)
		return
	case string:
		p.bytes([]byte(x))
		return
	case format.Object: // an array in the stream, and here
		p.str("[")
		p.bytes([]byte(x.Type))
		p.str(",")
		p.value(reflect.ValueOf(x.Names))
		p.str(",")
		p.value(reflect.ValueOf(x.Args))
		p.str("]")
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		p.str(strconv.FormatBool(v.Bool()))
	case reflect.Uint32, reflect.Uint64:
		p.str(strconv.FormatUint(v.Uint(), 10))
	case reflect.Int32, reflect.Int64:
		p.str(strconv.FormatInt(v.Int(), 10))
	case reflect.Pointer:
		p.value(v.Elem())
	case reflect.Struct:
		p.str("{")
		p.comma = false
		p.fields(v)
		p.str("}")
		p.comma = true
	case reflect.Slice:
		p.str("[")
		for i := range v.Len() {
			if i > 0 {
				p.str(",")
			}
			p.value(v.Index(i))
		}
		p.str("]")
	case reflect.Map:
		p.str("{")
		p.comma = false
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			if p.comma {
				p.str(",")
			}
			p.text([]byte(strings.ToValidUTF8(k.String(), "\ufffd")))
			p.str(":")
			p.comma = false
			p.value(v.MapIndex(k))
			p.comma = true
		}
		p.str("}")
		p.comma = true
	default:
		panic("inspect: no JSON for " + v.Type().String())
	}
}
