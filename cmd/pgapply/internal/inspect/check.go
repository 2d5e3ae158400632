package inspect

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/dustin/go-humanize"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/format"
)

// Check reads all streams of in to their end. It returns a summary, or an error that says what is
// wrong and where. It calls warn for findings that are not errors.
func Check(in io.Reader, warn func(string)) (summary string, err error) {
	r := newReader(in)
	r.DropMessages()
	c := checker{warn: warn, loads: make(map[source]*load)}
	for {
		before, at := r.Totals(), r.N()
		rec, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", explain(err)
		}
		if h, ok := rec.(*format.Header); ok && r.Torn() {
			warn(fmt.Sprintf("stream %d was torn, and goes on at byte %d with another header", c.streams, at))
			c.count(before)
			c.open(h)
			continue
		}
		if err := c.record(rec, before); err != nil {
			return "", bad(before.Frames, at, err)
		}
	}
	if err := c.missing(); err != nil {
		return "", err
	}
	return c.summary(), nil
}

// A checker follows streams beyond what Reader checks: what one of them announces, another may
// bring.
type checker struct {
	warn    func(string)
	load    *load // that the current stream belongs to, nil if it is of changes
	parts   map[uint32]*part
	names   map[uint32]string
	gids    map[string]bool // prepared transactions
	loads   map[source]*load
	streams uint64
	total   format.End
}

// A source is what loads are told apart by.
type source struct{ system, database, slot string }

// A load may consist of several streams.
type load struct {
	snapshot string
	parts    uint64 // streams
	seen     map[uint64]bool
	resumed  bool // the target may have what is missing
	tables   map[string]*table
}

// A table of a load, and which of its parts were there.
type table struct {
	relation uint32
	snapshot string
	of       uint64
	done     map[uint64]bool
}

type part struct {
	table *table
	index uint64
}

func (c *checker) open(h *format.Header) {
	c.streams++
	c.parts, c.names, c.gids, c.load = make(map[uint32]*part), make(map[uint32]string), make(map[string]bool), nil
	if h.StreamKind != format.Load {
		return
	}
	info := format.LoadInfo{}
	if h.Load != nil {
		info = *h.Load
	}
	if info.Snapshot == "" {
		info.Snapshot = fmt.Sprintf("%v %d", h.StartLSN, h.Created)
	}
	key := source{h.SystemID, h.Database, h.Slot}
	l := c.loads[key]
	if l == nil {
		l = &load{tables: make(map[string]*table)}
		c.loads[key] = l
	}
	if l.snapshot != info.Snapshot || l.parts != max(info.Parts, 1) {
		l.snapshot, l.parts, l.seen = info.Snapshot, max(info.Parts, 1), make(map[uint64]bool)
	}
	l.seen[max(info.Part, 1)] = true
	l.resumed = info.Resumed
	for _, t := range l.tables {
		t.relation = 0
	}
	c.load = l
}

func (c *checker) record(rec format.Record, before format.End) error {
	switch r := rec.(type) {
	case *format.Header:
		c.open(r)
	case *format.Relation:
		return c.relation(r)
	case *format.CopyBegin:
		c.begin(r)
	case *format.CopyEnd:
		p := c.parts[r.Part]
		p.table.done[p.index] = true
	case *format.Prepare:
		if c.gids[string(r.GID)] {
			return fmt.Errorf("prepare record: transaction %q was prepared already", r.GID)
		}
		c.gids[string(r.GID)] = true
	case *format.CommitPrepared:
		// One that was prepared in another stream has been applied there, or cannot be: only a
		// target knows.
		delete(c.gids, string(r.GID))
	case *format.RollbackPrepared:
		delete(c.gids, string(r.GID))
	case *format.End:
		c.count(before)
		for _, n := range []struct {
			what       string
			said, were uint64
		}{{"transaction", r.Transactions, before.Transactions}, {"change", r.Changes, before.Changes},
			{"row", r.Rows, before.Rows}, {"byte", r.Bytes, before.Bytes}} {
			if n.said != 0 && n.said != n.were {
				c.warn(fmt.Sprintf("the end of stream %d counts %s, %s there", c.streams,
					count.Of(n.said, n.what), count.Word(n.were, "1 was", fmt.Sprintf("%d were", n.were))))
			}
		}
		if r.Reason == format.Stopped && c.load != nil {
			return fmt.Errorf("end record: the full load was stopped before its end")
		}
	}
	return nil
}

func (c *checker) relation(r *format.Relation) error {
	c.names[r.ID] = r.Schema + "." + r.Name
	if c.load == nil {
		return nil
	}
	t := c.load.tables[c.names[r.ID]]
	switch {
	case t == nil:
		c.load.tables[c.names[r.ID]] = &table{relation: r.ID, done: make(map[uint64]bool)}
	case t.relation != 0 && t.relation != r.ID:
		return fmt.Errorf("relation record: table %q is relation %d already", c.names[r.ID], t.relation)
	default:
		t.relation = r.ID
	}
	return nil
}

func (c *checker) begin(r *format.CopyBegin) {
	t := c.load.tables[c.names[r.Relation]]
	if (t.snapshot != c.load.snapshot || t.of != r.Of) && !t.complete() {
		// parts of two snapshots do not fit together
		t.snapshot, t.of, t.done = c.load.snapshot, r.Of, make(map[uint64]bool)
	}
	c.parts[r.Part] = &part{t, r.Index}
}

func (t *table) complete() bool { return t.of > 0 && uint64(len(t.done)) == t.of }

func (c *checker) count(e format.End) {
	c.total.Frames += e.Frames
	c.total.Transactions += e.Transactions
	c.total.Changes += e.Changes
	c.total.Rows += e.Rows
	c.total.Bytes += e.Bytes
}

// missing returns an error if a load has come to its end without all of its tables.
func (c *checker) missing() error {
	var names []string
	for _, l := range c.loads {
		if uint64(len(l.seen)) < l.parts || l.resumed {
			continue
		}
		for name, t := range l.tables {
			if !t.complete() {
				names = append(names, fmt.Sprintf("%s (%d of %s)", name, len(t.done), count.Of(max(t.of, 1), "part")))
			}
		}
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	return fault.New(fault.Data, "the load ends without parts of %s: %s",
		count.Of(len(names), "table"), strings.Join(names, ", "))
}

func (c *checker) summary() string {
	s := fmt.Sprintf("checked %s: %s", count.Of(c.streams, "stream"), count.Of(c.total.Frames+c.streams, "frame"))
	if len(c.loads) > 0 {
		tables := 0
		for l := range maps.Values(c.loads) {
			tables += len(l.tables)
		}
		s += fmt.Sprintf(", %s of %s, %s", count.Of(c.total.Rows, "row"), count.Of(tables, "table"), humanize.Bytes(c.total.Bytes))
	}
	if c.total.Transactions > 0 || len(c.loads) == 0 {
		s += fmt.Sprintf(", %s in %s", count.Of(c.total.Changes, "change"), count.Of(c.total.Transactions, "transaction"))
	}
	return s
}
