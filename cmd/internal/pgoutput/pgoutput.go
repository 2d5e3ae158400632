// Package pgoutput turns the messages of PostgreSQL's output plugin pgoutput, protocol versions 1
// to 4, into records of the stream. The result depends only on the bytes and on the relations seen
// before: the package uses no network and no clock.
package pgoutput

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/ddl"
	"github.com/pgsluice/pgsluice/format"
)

// A Decoder decodes the messages of one replication session, in order. It owns the records that it
// returns: they are valid, with everything they point to, until the next call. Values point into
// the message.
type Decoder struct {
	// CheckText turns text that is not UTF-8 into format.RawText, for sources that do not know the
	// encoding of their text.
	CheckText bool
	// Skip reports whether the relations of a schema are left out, with all their changes.
	Skip func(schema string) bool
	// Recorded reports whether a table named pgsluice.ddl, given by its OID, is the one into which
	// the event triggers of pgcutover ddl install record. Only its rows become ddl records. nil: no
	// table is.
	Recorded func(oid uint32) (bool, error)

	relations map[uint32]*relation
	block     bool // between stream-start and stream-stop

	insert      format.Insert
	update      format.Update
	delete      format.Delete
	begin       format.Begin
	commit      format.Commit
	truncate    format.Truncate
	message     format.Message
	streamStart format.StreamStart
	streamStop  format.StreamStop
	newTuple    format.Tuple
	oldTuple    format.Tuple
}

// A relation is the decoder's state for one relation.
type relation struct {
	id      uint32
	raw     []byte // the message, to recognize an unchanged repetition
	record  *format.Relation
	columns int
	skip    bool
	ddl     *recorded // set for table pgsluice.ddl
}

// recorded has the column indexes of table pgsluice.ddl.
type recorded struct{ query, statement int }

// Relations returns the records of all relations described so far, ordered by OID. A stream that
// starts in the middle of a session begins with them. They must not be used after the next call of
// Decode.
func (d *Decoder) Relations() []*format.Relation {
	var all []*format.Relation
	for _, r := range d.relations {
		if !r.skip {
			all = append(all, r.record)
		}
	}
	slices.SortFunc(all, func(a, b *format.Relation) int { return cmp.Compare(a.ID, b.ID) })
	return all
}

// epoch is PostgreSQL's epoch, 2000-01-01, in microseconds since 1970.
const epoch = 946684800 * 1000000

// Decode decodes one message. It returns nil for a message that has no place in the stream.
func (d *Decoder) Decode(msg []byte) (format.Record, error) {
	if len(msg) == 0 {
		return nil, errors.New("empty replication message")
	}
	c := &cursor{b: msg[1:]}
	rec, err := d.decode(msg[0], c)
	switch {
	case c.err != nil: // it came first
		err = c.err
	case err == nil && len(c.b) > 0:
		err = fmt.Errorf("%d bytes more than expected", len(c.b))
	}
	if err != nil {
		return nil, fmt.Errorf("pgoutput message %q: %w", msg[0], err)
	}
	return rec, nil
}

func (d *Decoder) decode(kind byte, c *cursor) (format.Record, error) {
	switch kind {
	case 'I':
		return d.decodeInsert(d.xid(c), c)
	case 'U':
		return d.decodeUpdate(d.xid(c), c)
	case 'D':
		return d.decodeDelete(d.xid(c), c)
	case 'T':
		return d.decodeTruncate(d.xid(c), c)
	case 'M':
		m := d.messageHead(d.xid(c), c)
		m.Content = c.bytes(c.uint32())
		return m, nil
	case 'R':
		d.xid(c)
		return d.describe(c)
	case 'Y': // type names: read from the catalog instead
		d.xid(c)
		c.skip()
		return nil, nil
	case 'B':
		d.begin.CommitLSN, d.begin.Time, d.begin.XID = c.lsn(), c.time(), c.uint32()
		return &d.begin, nil
	case 'C':
		c.byte() // flags, unused
		d.commit.CommitLSN, d.commit.EndLSN, d.commit.Time = c.lsn(), c.lsn(), c.time()
		return &d.commit, nil
	case 'O':
		c.skip()
		return nil, nil
	case 'S':
		d.streamStart.XID, d.streamStart.First = c.uint32(), c.byte() == 1
		d.block = true
		return &d.streamStart, nil
	case 'E':
		d.block = false
		return &d.streamStop, nil
	case 'c':
		r := &format.StreamCommit{XID: c.uint32()}
		c.byte()
		r.CommitLSN, r.EndLSN, r.Time = c.lsn(), c.lsn(), c.time()
		return r, nil
	case 'A':
		r := &format.StreamAbort{XID: c.uint32(), SubXID: c.uint32()}
		if len(c.b) > 0 { // sent with streaming 'parallel' only
			r.LSN, r.Time = c.lsn(), c.time()
		}
		return r, nil
	}
	return nil, errors.New("unknown kind of replication message")
}

// xid reads the (sub)transaction at the beginning of a change in a block.
func (d *Decoder) xid(c *cursor) uint32 {
	if d.block {
		return c.uint32()
	}
	return 0
}

func (d *Decoder) decodeInsert(xid uint32, c *cursor) (format.Record, error) {
	r, err := d.any(c)
	if err != nil || r.skip && r.ddl == nil {
		c.skip()
		return nil, err
	}
	if t := c.byte(); t != 'N' {
		return nil, fmt.Errorf("unknown kind of tuple %q", t)
	}
	if r.ddl != nil {
		return d.statement(r, xid, c)
	}
	d.insert.XID = xid
	d.insert.Relation = r.id
	d.newTuple = d.tuple(c, d.newTuple, r.columns)
	d.insert.New = d.newTuple
	return &d.insert, nil
}

func (d *Decoder) decodeUpdate(xid uint32, c *cursor) (format.Record, error) {
	r, err := d.relation(c)
	if r == nil {
		c.skip()
		return nil, err
	}
	d.update.XID = xid
	d.update.Relation = r.id
	d.update.Old = nil
	t := c.byte()
	if t == 'K' || t == 'O' {
		d.oldTuple = d.tuple(c, d.oldTuple, r.columns)
		d.update.Old = d.oldTuple
		t = c.byte()
	}
	if t != 'N' {
		return nil, fmt.Errorf("unknown kind of tuple %q", t)
	}
	d.newTuple = d.tuple(c, d.newTuple, r.columns)
	d.update.New = d.newTuple
	return &d.update, nil
}

func (d *Decoder) decodeDelete(xid uint32, c *cursor) (format.Record, error) {
	r, err := d.relation(c)
	if r == nil {
		c.skip()
		return nil, err
	}
	d.delete.XID = xid
	d.delete.Relation = r.id
	if t := c.byte(); t != 'K' && t != 'O' {
		return nil, fmt.Errorf("unknown kind of tuple %q", t)
	}
	d.oldTuple = d.tuple(c, d.oldTuple, r.columns)
	d.delete.Old = d.oldTuple
	return &d.delete, nil
}

// decodeTruncate returns nil if all relations of the truncate are skipped.
func (d *Decoder) decodeTruncate(xid uint32, c *cursor) (format.Record, error) {
	n := c.uint32()
	flags := c.byte()
	d.truncate = format.Truncate{Relations: d.truncate.Relations[:0], Cascade: flags&1 != 0, RestartIdentity: flags&2 != 0, XID: xid}
	for ; n > 0 && c.err == nil; n-- {
		r, err := d.relation(c)
		if err != nil {
			return nil, err
		}
		if r != nil {
			d.truncate.Relations = append(d.truncate.Relations, r.id)
		}
	}
	if len(d.truncate.Relations) == 0 {
		return nil, nil
	}
	return &d.truncate, nil
}

// messageHead reads a logical message up to the length of its content.
func (d *Decoder) messageHead(xid uint32, c *cursor) *format.Message {
	flags := c.byte()
	d.message = format.Message{Transactional: flags&1 != 0, LSN: c.lsn(), Prefix: c.cstring(), XID: xid}
	if !d.message.Transactional {
		d.message.XID = 0
	}
	return &d.message
}

// relation reads a relation's OID. It returns nil if the relation is skipped.
func (d *Decoder) relation(c *cursor) (*relation, error) {
	r, err := d.any(c)
	if err != nil || r.skip {
		return nil, err
	}
	return r, nil
}

// any reads a relation's OID and returns the relation, even if it is skipped.
func (d *Decoder) any(c *cursor) (*relation, error) {
	id := c.uint32()
	r := d.relations[id]
	switch {
	case c.err != nil:
		return nil, c.err
	case r == nil:
		return nil, fmt.Errorf("no description of the relation with OID %d", id)
	}
	return r, nil
}

// statement decodes a row of table pgsluice.ddl.
func (d *Decoder) statement(r *relation, xid uint32, c *cursor) (format.Record, error) {
	d.newTuple = d.tuple(c, d.newTuple, r.columns)
	if c.err != nil {
		return nil, c.err
	}
	rec := ddl.Decode(d.newTuple[r.ddl.query].Data, d.newTuple[r.ddl.statement].Data)
	if rec == nil {
		return nil, nil
	}
	rec.XID = xid
	return rec, nil
}

func (d *Decoder) describe(c *cursor) (format.Record, error) {
	raw := c.b
	r := &format.Relation{ID: c.uint32(), Schema: string(c.cstring()), Name: string(c.cstring()), ReplicaIdentity: string(rune(c.byte()))}
	if r.Schema == "" {
		r.Schema = "pg_catalog"
	}
	for n := c.uint16(); n > 0 && c.err == nil; n-- {
		flags := c.byte()
		r.Columns = append(r.Columns, format.Column{Key: flags&1 != 0, Name: string(c.cstring()),
			OID: c.uint32(), TypeMod: int32(c.uint32())})
	}
	if c.err != nil {
		return nil, c.err
	}
	if old := d.relations[r.ID]; old != nil && bytes.Equal(old.raw, raw) {
		return nil, nil
	}
	if d.relations == nil {
		d.relations = make(map[uint32]*relation)
	}
	skip := d.Skip != nil && d.Skip(r.Schema)
	rel := &relation{id: r.ID, raw: slices.Clone(raw), record: r, columns: len(r.Columns), skip: skip}
	if skip && r.Schema == "pgsluice" && r.Name == "ddl" && d.Recorded != nil {
		ours, err := d.Recorded(r.ID)
		if err != nil {
			return nil, err
		}
		column := func(name string) int {
			return slices.IndexFunc(r.Columns, func(c format.Column) bool { return c.Name == name })
		}
		if at := (recorded{column("query"), column("statement")}); ours && at.query >= 0 && at.statement >= 0 {
			rel.ddl = &at
		}
	}
	d.relations[r.ID] = rel
	if skip {
		return nil, nil
	}
	return r, nil
}

func (d *Decoder) tuple(c *cursor, t format.Tuple, columns int) format.Tuple {
	if t = t[:0]; t == nil {
		t = format.Tuple{} // the row of a table without columns, which is not the same as no row
	}
	n := int(c.uint16())
	if n != columns && c.err == nil {
		c.fail(fmt.Errorf("tuple has %d columns, but the relation has %d", n, columns))
	}
	for ; n > 0 && c.err == nil; n-- {
		switch k := c.byte(); k {
		case 't':
			b := c.bytes(c.uint32())
			if d.CheckText {
				t = append(t, format.TextValue(b))
			} else {
				t = append(t, format.Value{Kind: format.Text, Data: b})
			}
		case 'n':
			t = append(t, format.Value{})
		case 'u':
			t = append(t, format.Value{Kind: format.Unchanged})
		case 'b':
			t = append(t, format.Value{Kind: format.Binary, Data: c.bytes(c.uint32())})
		default:
			c.fail(fmt.Errorf("unknown kind of column %q", k))
		}
	}
	return t
}

// A cursor reads values from the front of a message. Its error is sticky: after the first one,
// every value is zero.
type cursor struct {
	b   []byte
	err error
}

var errShort = errors.New("message ends too early")

func (c *cursor) fail(err error) {
	if c.err == nil {
		c.err = err
	}
	c.b = nil
}

// skip drops the rest of the message.
func (c *cursor) skip() { c.b = nil }

func (c *cursor) bytes(n uint32) []byte {
	if uint64(len(c.b)) < uint64(n) {
		c.fail(errShort)
		return nil
	}
	s := c.b[:n:n]
	c.b = c.b[n:]
	return s
}

func (c *cursor) byte() byte {
	if len(c.b) < 1 {
		c.fail(errShort)
		return 0
	}
	v := c.b[0]
	c.b = c.b[1:]
	return v
}

func (c *cursor) uint16() uint16 {
	if len(c.b) < 2 {
		c.fail(errShort)
		return 0
	}
	v := binary.BigEndian.Uint16(c.b)
	c.b = c.b[2:]
	return v
}

func (c *cursor) uint32() uint32 {
	if len(c.b) < 4 {
		c.fail(errShort)
		return 0
	}
	v := binary.BigEndian.Uint32(c.b)
	c.b = c.b[4:]
	return v
}

func (c *cursor) uint64() uint64 {
	if len(c.b) < 8 {
		c.fail(errShort)
		return 0
	}
	v := binary.BigEndian.Uint64(c.b)
	c.b = c.b[8:]
	return v
}

func (c *cursor) lsn() format.LSN   { return format.LSN(c.uint64()) }
func (c *cursor) time() format.Time { return format.Time(int64(c.uint64()) + epoch) }

func (c *cursor) cstring() []byte {
	i := bytes.IndexByte(c.b, 0)
	if i < 0 {
		c.fail(errShort)
		return nil
	}
	s := c.b[:i:i]
	c.b = c.b[i+1:]
	return s
}
