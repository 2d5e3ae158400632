// Package lines turns the lines of the output plugin test_decoding into records. The plugin
// describes no tables and no commit LSNs. So a transaction is held back until it is complete, and
// its tables come from the catalog, which must be that of the change: see known.go.
package lines

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/pgsluice/pgsluice/cmd/internal/ddl"
	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

// A Decoder decodes the lines of one replication session, in order. It owns the records that it
// writes: they are valid until write returns.
type Decoder struct {
	Catalog Catalog
	// CheckText turns text that is not UTF-8 into format.RawText, for sources that do not know the
	// encoding of their text.
	CheckText bool
	// Version is the server's.
	Version int
	// Charset converts the lines. nil: they are UTF-8, or of no encoding.
	Charset *Charset

	parser testdecoding.Parser
	known  known
	xid    uint32 // of the open transaction; 0: none is open
	held   []byte // its lines, each behind its length
	block  bool   // its lines are written as they come
	last   map[string]*described

	insert   format.Insert
	update   format.Update
	delete   format.Delete
	truncate format.Truncate
	newTuple format.Tuple
	oldTuple format.Tuple
}

var errOrder = errors.New("a line of test_decoding is out of order")

// most is how much of a transaction is held back. A larger one is written in a block, whose commit
// LSN a reader learns at its end.
const most = 1 << 20

// Decode decodes a line that came with an LSN, and has the records written that result from it.
// With skipping, the changes of transactions are dropped.
func (d *Decoder) Decode(line []byte, lsn format.LSN, skipping bool, write func(format.Record) error) error {
	line, err := d.convert(line)
	if err != nil {
		return err
	}
	l, err := d.parser.Parse(line)
	if err != nil {
		return err
	}
	switch {
	case l.Kind == testdecoding.Begin:
		if d.xid != 0 {
			return errOrder
		}
		d.xid, d.held, d.block = l.XID, d.held[:0], false
		d.known.own = l.XID
		return nil
	case l.Kind == testdecoding.Commit:
		if l.XID != d.xid || l.Time == 0 {
			return errOrder
		}
		d.xid = 0
		return d.commit(l.XID, lsn, l.Time, write)
	case l.Kind == testdecoding.Message && !l.Transactional:
		return d.message(l, lsn, 0, write)
	case d.xid == 0:
		return errOrder
	case skipping:
		return nil
	case d.block:
		return d.change(l, lsn, d.xid, write)
	}
	d.held = binary.BigEndian.AppendUint64(d.held, uint64(lsn))
	d.held = binary.BigEndian.AppendUint32(d.held, uint32(len(line)))
	d.held = append(d.held, line...)
	if len(d.held) <= most {
		return nil
	}
	d.block = true
	// It has committed, or the server would not send it. Where, is not known yet.
	if err := d.known.verify(d.Catalog, math.MaxUint64); err != nil {
		return err
	}
	if err := write(&format.StreamStart{XID: d.xid, First: true}); err != nil {
		return err
	}
	return d.release(d.xid, write)
}

// commit ends a transaction. The plugin does not tell where the commit record starts, so the commit
// LSN is the last byte before its end: no other commit record is there.
func (d *Decoder) commit(xid uint32, end format.LSN, at format.Time, write func(format.Record) error) error {
	defer d.known.committed(xid)
	if d.block {
		if err := write(&format.StreamStop{}); err != nil {
			return err
		}
		return write(&format.StreamCommit{XID: xid, CommitLSN: end - 1, EndLSN: end, Time: at})
	}
	if len(d.held) > 0 {
		if err := d.known.verify(d.Catalog, end); err != nil {
			return err
		}
	}
	if err := write(&format.Begin{XID: xid, CommitLSN: end - 1, Time: at}); err != nil {
		return err
	}
	if err := d.release(0, write); err != nil {
		return err
	}
	return write(&format.Commit{CommitLSN: end - 1, EndLSN: end, Time: at})
}

// release writes what has been held back.
func (d *Decoder) release(xid uint32, write func(format.Record) error) error {
	for b := d.held; len(b) > 0; {
		lsn, n := format.LSN(binary.BigEndian.Uint64(b)), binary.BigEndian.Uint32(b[8:])
		l, err := d.parser.Parse(b[12 : 12+n])
		if err != nil {
			return err
		}
		if err := d.change(l, lsn, xid, write); err != nil {
			return err
		}
		b = b[12+n:]
	}
	if cap(d.held) > 4*most { // a large row was in it
		d.held = nil
	}
	d.held = d.held[:0]
	return nil
}

// change writes one change or message; xid is set in a block.
func (d *Decoder) change(l *testdecoding.Line, lsn format.LSN, xid uint32, write func(format.Record) error) error {
	switch l.Kind {
	case testdecoding.Message:
		return d.message(l, lsn, xid, write)
	case testdecoding.Truncate:
		return d.truncated(l, xid, write)
	}
	t, err := d.known.table(d.Catalog, l.Tables[0], l.Kind)
	if err != nil || t == nil {
		return err
	}
	if t.recorder {
		return d.statement(l, xid, write)
	}
	switch {
	case l.Kind == testdecoding.Insert && !t.Insert, l.Kind == testdecoding.Update && !t.Update, l.Kind == testdecoding.Delete && !t.Delete:
		return nil
	}
	if d.Version < 120000 { // a table WITH OIDS
		l.Old, l.New = withoutOID(l.Old), withoutOID(l.New)
	}
	r, err := d.describe(t, l, write)
	if err != nil {
		return fmt.Errorf("table %s.%s: %w", t.Schema, t.Name, err)
	}
	rec, err := d.row(r, l, xid)
	if err != nil {
		return fmt.Errorf("table %s.%s: %w", t.Schema, t.Name, err)
	}
	return write(rec)
}

func withoutOID(row []testdecoding.Field) []testdecoding.Field {
	if len(row) > 0 && string(row[0].Name) == "oid" && string(row[0].Type) == "oid" {
		return row[1:]
	}
	return row
}

func (d *Decoder) row(r *described, l *testdecoding.Line, xid uint32) (rec format.Record, err error) {
	full := r.record.ReplicaIdentity == "f"
	if l.Kind != testdecoding.Insert && !full && !r.keyed {
		return nil, errNoIdentity
	}
	id := r.record.ID
	if l.Kind != testdecoding.Insert && l.Old != nil {
		if d.oldTuple, err = r.old(d.oldTuple[:0], l.Old, full, d.CheckText); err != nil {
			return nil, err
		}
	}
	if l.Kind != testdecoding.Delete {
		d.newTuple = r.new(d.newTuple[:0], l.New, d.CheckText)
	}
	switch l.Kind {
	case testdecoding.Insert:
		d.insert = format.Insert{Relation: id, New: d.newTuple, XID: xid}
		return &d.insert, nil
	case testdecoding.Update:
		d.update = format.Update{Relation: id, New: d.newTuple, XID: xid}
		if l.Old != nil {
			d.update.Old = d.oldTuple
		} else if full {
			return nil, errOther
		}
		return &d.update, nil
	}
	if l.Old == nil {
		return nil, errNoIdentity
	}
	d.delete = format.Delete{Relation: id, Old: d.oldTuple, XID: xid}
	return &d.delete, nil
}

// truncated writes nothing if no table of the truncate is carried.
func (d *Decoder) truncated(l *testdecoding.Line, xid uint32, write func(format.Record) error) error {
	d.truncate = format.Truncate{Relations: d.truncate.Relations[:0], Cascade: l.Cascade, RestartIdentity: l.RestartIdentity, XID: xid}
	for _, name := range l.Tables {
		t, err := d.known.table(d.Catalog, name, l.Kind)
		if err != nil {
			return err
		}
		if t == nil || !t.Truncate || t.recorder {
			continue
		}
		if _, err := d.describe(t, l, write); err != nil {
			return err
		}
		d.truncate.Relations = append(d.truncate.Relations, t.ID)
	}
	if len(d.truncate.Relations) == 0 {
		return nil
	}
	return write(&d.truncate)
}

// statement decodes a row of table pgsluice.ddl.
func (d *Decoder) statement(l *testdecoding.Line, xid uint32, write func(format.Record) error) error {
	if l.Kind != testdecoding.Insert {
		return nil
	}
	var query, statement []byte
	for _, f := range l.New {
		switch string(f.Name) {
		case "query":
			query = f.Value.Data
		case "statement":
			statement = f.Value.Data
		}
	}
	rec := ddl.Decode(query, statement)
	if rec == nil {
		return nil
	}
	rec.XID = xid
	return write(rec)
}
