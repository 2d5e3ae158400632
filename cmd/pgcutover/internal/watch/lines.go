package watch

import (
	"bytes"
	"context"
	"math"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/carried"
	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/testdecoding"
	"github.com/pgsluice/pgsluice/format"
)

// lines is a peek at a slot of test_decoding, whose lines name tables and tell the commit LSN last.
type lines struct {
	*peek
	parser testdecoding.Parser
	tables map[[2]string]*carried.Table
	keys   map[uint32]map[string]bool // columns of the replica identity
}

// readLines is read for a slot of test_decoding.
func (p *peek) readLines(ctx context.Context, c *pgx.Conn, name string, publications []string, to format.LSN) error {
	l := &lines{peek: p, tables: make(map[[2]string]*carried.Table), keys: make(map[uint32]map[string]bool)}
	state, err := carried.Tables(ctx, c, publications)
	if err != nil {
		return err
	}
	for _, t := range state.Rows() {
		l.tables[[2]string{t.Schema, t.Name}] = t
		p.relations[t.OID] = &relation{schema: t.Schema, name: t.Name, keys: []int{}}
	}
	tables, err := catalog.Tables(ctx, c)
	if err != nil {
		return err
	}
	for _, t := range tables {
		l.keys[t.ID] = make(map[string]bool)
		for _, col := range t.Columns {
			l.keys[t.ID][col.Name] = col.Key
		}
	}
	rows, err := c.Query(ctx, `SELECT x.lsn::pg_catalog.text, pg_catalog.substr(x.data, 1, $3), pg_catalog.length(x.data) > $3
		FROM pg_catalog.pg_logical_slot_peek_changes($1::pg_catalog.name, $2::pg_catalog.text::pg_catalog.pg_lsn, NULL, 'include-timestamp', 'on') x`,
		name, to.String(), int32(most))
	if err != nil {
		return err
	}
	var lsn, data string
	var cut bool
	_, err = pgx.ForEachRow(rows, []any{&lsn, &data, &cut}, func() error { return l.line(lsn, []byte(data), cut) })
	return err
}

// line reads one line; cut is set if its end is missing.
func (l *lines) line(lsn string, data []byte, cut bool) error {
	if bytes.HasPrefix(data, []byte("message: ")) { // whose size was that before its conversion
		return nil
	}
	if cut {
		kind, name := l.parser.Head(data)
		if t := l.table(name); kind != 0 && t != 0 {
			l.row(byte(rowKinds[kind]), t, nil, true)
		}
		return nil
	}
	x, err := l.parser.Parse(data)
	if err != nil {
		return err
	}
	switch x.Kind {
	case testdecoding.Begin:
		clear(l.open)
		l.ours, l.at = false, math.MaxUint64
	case testdecoding.Commit:
		end, err := format.ParseLSN(lsn)
		if err != nil {
			return err
		}
		if end > l.from {
			l.commit(&format.Commit{CommitLSN: end - 1, EndLSN: end, Time: x.Time})
		}
	case testdecoding.Truncate:
		for _, n := range x.Tables {
			if id := l.table(n); id != 0 {
				l.touch(id, func(t *Table) { t.Truncates++ })
			}
		}
	case testdecoding.Insert, testdecoding.Update, testdecoding.Delete:
		id := l.table(x.Tables[0])
		if id == 0 {
			return nil
		}
		l.row(byte(rowKinds[x.Kind]), id, nil, true)
		if t := l.open[id]; t != nil && len(t.Keys) < keys {
			l.key(t, id, x)
		}
	}
	return nil
}

var rowKinds = map[testdecoding.Kind]rune{testdecoding.Insert: 'I', testdecoding.Update: 'U', testdecoding.Delete: 'D'}

// table returns the OID of a table that the slot carries, or 0.
func (l *lines) table(n testdecoding.Name) uint32 {
	if string(n.Schema) == "pgsluice" && string(n.Table) == "streams" {
		return l.position
	}
	t := l.tables[[2]string{string(n.Schema), string(n.Table)}]
	if t == nil || t.Carried == (carried.Operations{}) {
		return 0
	}
	return t.OID
}

// key keeps the key of a row.
func (l *lines) key(t *Table, id uint32, x *testdecoding.Line) {
	fields := x.New
	if x.Old != nil {
		fields = x.Old
	}
	var r relation
	var tuple format.Tuple
	for _, f := range fields {
		if l.keys[id][string(f.Name)] {
			r.keys, tuple = append(r.keys, len(tuple)), append(tuple, f.Value)
		}
	}
	if k := r.key(tuple); k != "" {
		t.add(k)
	}
}
