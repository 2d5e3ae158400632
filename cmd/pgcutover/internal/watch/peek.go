package watch

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/pgoutput"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// A Table is a table of the source, and what was written to it.
type Table struct {
	Schema    string   `json:"schema"`
	Table     string   `json:"table"`
	Inserts   int64    `json:"inserts"`
	Updates   int64    `json:"updates"`
	Deletes   int64    `json:"deletes"`
	Truncates int64    `json:"truncates"`
	Keys      []string `json:"keys"` // of the first rows
}

// Writes are transactions of the source that the target does not have.
type Writes struct {
	Tables       []Table    `json:"tables"`
	Transactions int64      `json:"transactions"`
	From         format.LSN `json:"from_lsn"` // commits from here on were looked at
	To           format.LSN `json:"to_lsn"`   // up to here
	Last         format.LSN `json:"last_lsn"` // end of the last of these transactions; 0: there is none
	LastTime     *time.Time `json:"last_commit_time"`
}

// Clean reports whether there is no such transaction.
func (w *Writes) Clean() bool { return w.Transactions == 0 }

// most is how much of a message is read. It is enough for the description of any relation; of a row
// with larger values, only the table is known.
const most = 256 << 10

// Look finds the transactions with rows that committed on the source at or after an LSN, without
// moving the slot. It cannot tell, and returns an error, if the slot cannot be read, or begins
// later.
func Look(ctx context.Context, c *pgx.Conn, name, database string, from format.LSN) (*Writes, error) {
	info, err := slot.Get(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if err := info.Usable(name, database); err != nil {
		return nil, err
	}
	if info.Active {
		return nil, fault.New(fault.TryAgain, "slot %q is being read by process %d of the source", name, info.ActivePID).
			WithHint("Stop the pgdecode that reads it, then run: pgcutover watch --slot %s", name)
	}
	if info.Confirmed > from {
		return nil, fault.New(fault.Config, "slot %q begins at LSN %v, behind LSN %v, up to which it was looked at", name, info.Confirmed, from).
			WithDetail("Somebody has moved the slot, or made it anew. What was committed in between cannot be seen any more.").
			WithHint("Compare the rows of both sides. To accept it: pgcutover watch --slot %s --accept %v", name, info.Confirmed)
	}
	publications, err := slot.PublicationsOf(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if len(publications) == 0 {
		return nil, fault.New(fault.Config, "the publications of slot %q do not exist any more", name).
			WithHint("Compare the rows of both sides by hand.")
	}
	p := &peek{from: from, relations: make(map[uint32]*relation), found: make(map[uint32]*Table), open: make(map[uint32]*Table)}
	if p.position, err = position(ctx, c); err != nil {
		return nil, err
	}
	// Committed before, even asynchronously, is before the mark.
	to, err := slot.Mark(ctx, c, "watch")
	if err != nil {
		return nil, err
	}
	if to < from {
		return nil, fault.New(fault.Config, "the source is at LSN %v, before LSN %v, up to which the target has everything", to, from).
			WithDetail("It has gone back in time, so positions in its WAL do not compare.").
			WithHint("Compare the rows of both sides by hand.")
	}
	read := p.read
	if info.Plugin == slot.TestDecoding {
		read = p.readLines
	}
	if err := read(ctx, c, name, publications, to); err != nil {
		return nil, err
	}
	return p.writes(to), nil
}

// position returns the OID of pgsluice.streams on the source, or 0. On an old primary, each
// transaction of the stream that leads back changes that table. Such a transaction is believed only
// if no other role could have changed it.
func position(ctx context.Context, c *pgx.Conn) (oid uint32, err error) {
	if progress.Trust(ctx, c) != nil {
		return 0, nil
	}
	err = c.QueryRow(ctx, "SELECT coalesce((SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'pgsluice' AND c.relname = 'streams' AND c.relkind = 'r'), 0)").
		Scan(&oid)
	return oid, err
}

// KnowsPosition reports whether the stream that leads back can be told from others in a slot of an
// old primary.
func KnowsPosition(ctx context.Context, c *pgx.Conn, name string, info *slot.Info) (bool, error) {
	oid, err := position(ctx, c)
	if err != nil || oid == 0 || info.Plugin == slot.TestDecoding {
		return oid != 0, err
	}
	publications, err := slot.PublicationsOf(ctx, c, name)
	if err != nil {
		return false, err
	}
	var carries bool
	err = c.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_catalog.pg_publication_tables WHERE pubname = ANY ($1::pg_catalog.text[]) AND schemaname = 'pgsluice' AND tablename = 'streams')", publications).
		Scan(&carries)
	return carries, err
}

// A peek reads the messages of a slot. Its memory depends on the number of tables, and not on the
// number or size of their rows.
type peek struct {
	from      format.LSN
	position  uint32
	decoder   pgoutput.Decoder
	relations map[uint32]*relation
	found     map[uint32]*Table // by OID

	open  map[uint32]*Table // of the transaction that is being read
	ours  bool              // it belongs to the stream that leads back
	at    format.LSN        // its commit
	count int64
	last  format.LSN
	time  *time.Time
}

type relation struct {
	schema, name string
	keys         []int // columns of the replica identity
}

// read reads the slot up to an LSN.
func (p *peek) read(ctx context.Context, c *pgx.Conn, name string, publications []string, to format.LSN) error {
	rows, err := c.Query(ctx, `SELECT CASE WHEN pg_catalog.octet_length(x.data) > $4 THEN pg_catalog.substr(x.data, 1, $4) ELSE x.data END, pg_catalog.octet_length(x.data) > $4
		FROM pg_catalog.pg_logical_slot_peek_binary_changes($1::pg_catalog.name, $2::pg_catalog.text::pg_catalog.pg_lsn, NULL, 'proto_version', '1', 'publication_names', $3::pg_catalog.text) x`,
		name, to.String(), slot.QuoteAll(publications), int32(most))
	if err != nil {
		return err
	}
	var data []byte
	var cut bool
	_, err = pgx.ForEachRow(rows, []any{&data, &cut}, func() error { return p.message(data, cut) })
	return err
}

// message reads one message; cut is set if its end is missing.
func (p *peek) message(data []byte, cut bool) error {
	if len(data) == 0 {
		return nil
	}
	switch kind := data[0]; kind {
	case 'I', 'U', 'D':
		if len(data) >= 5 {
			p.row(kind, binary.BigEndian.Uint32(data[1:]), data, cut)
		}
		return nil
	case 'R', 'B', 'C', 'T':
	default:
		return nil
	}
	rec, err := p.decoder.Decode(data)
	if err != nil {
		return err
	}
	switch r := rec.(type) {
	case *format.Relation:
		x := &relation{schema: r.Schema, name: r.Name}
		for i, c := range r.Columns {
			if c.Key {
				x.keys = append(x.keys, i)
			}
		}
		p.relations[r.ID] = x
	case *format.Begin:
		clear(p.open)
		p.ours, p.at = false, r.CommitLSN
	case *format.Truncate:
		for _, id := range r.Relations {
			p.touch(id, func(t *Table) { t.Truncates++ })
		}
	case *format.Commit:
		p.commit(r)
	}
	return nil
}

// touch counts a change of a table.
func (p *peek) touch(id uint32, count func(*Table)) *Table {
	if p.at < p.from {
		return nil
	}
	if id == p.position && id != 0 {
		p.ours = true
		return nil
	}
	t := p.open[id]
	if t == nil {
		t = new(Table)
		if r := p.relations[id]; r != nil {
			t.Schema, t.Table = r.schema, r.name
		}
		p.open[id] = t
	}
	count(t)
	return t
}

// keys is how many keys of a table are shown, and keyLength how long they may be.
const keys, keyLength = 5, 60

// row counts a changed row, and keeps the first keys of its table.
func (p *peek) row(kind byte, id uint32, data []byte, cut bool) {
	t := p.touch(id, func(t *Table) {
		switch kind {
		case 'I':
			t.Inserts++
		case 'U':
			t.Updates++
		default:
			t.Deletes++
		}
	})
	if t == nil || cut || len(t.Keys) >= keys {
		return
	}
	rec, err := p.decoder.Decode(data)
	if err != nil {
		return // the row counts; only its key is not known
	}
	var tuple format.Tuple
	switch r := rec.(type) {
	case *format.Insert:
		tuple = r.New
	case *format.Update:
		if tuple = r.New; r.Old != nil {
			tuple = r.Old
		}
	case *format.Delete:
		tuple = r.Old
	}
	if k := p.relations[id].key(tuple); k != "" {
		t.add(k)
	}
}

func (t *Table) add(key string) {
	if !slices.Contains(t.Keys, key) {
		t.Keys = append(t.Keys, key)
	}
}

// key returns a row's key as a text, or "" if the table has none.
func (r *relation) key(tuple format.Tuple) string {
	if r == nil || len(r.keys) == 0 {
		return ""
	}
	values := make([]string, len(r.keys))
	for i, k := range r.keys {
		if k >= len(tuple) {
			return ""
		}
		if v := tuple[k]; v.Kind == format.Null {
			values[i] = "NULL"
		} else {
			values[i] = strings.ToValidUTF8(string(v.Data), "?")
		}
	}
	s := strings.Join(values, ", ")
	if r := []rune(s); len(r) > keyLength {
		s = string(r[:keyLength]) + "…"
	}
	return "(" + s + ")"
}

// commit adds a transaction to what was found, unless the target has it or it has come from there.
func (p *peek) commit(c *format.Commit) {
	if p.ours || len(p.open) == 0 {
		return
	}
	p.count++
	p.last = c.EndLSN
	at := c.Time.Time()
	p.time = &at
	for id, t := range p.open {
		f := p.found[id]
		if f == nil {
			f = &Table{Schema: t.Schema, Table: t.Table, Keys: []string{}}
			p.found[id] = f
		}
		f.Inserts += t.Inserts
		f.Updates += t.Updates
		f.Deletes += t.Deletes
		f.Truncates += t.Truncates
		for _, k := range t.Keys {
			if len(f.Keys) < keys && !slices.Contains(f.Keys, k) {
				f.Keys = append(f.Keys, k)
			}
		}
	}
}

func (p *peek) writes(to format.LSN) *Writes {
	w := &Writes{Tables: []Table{}, Transactions: p.count, From: p.from, To: to, Last: p.last, LastTime: p.time}
	for _, t := range p.found {
		w.Tables = append(w.Tables, *t)
	}
	slices.SortFunc(w.Tables, func(a, b Table) int {
		return strings.Compare(a.Schema+"\x00"+a.Table, b.Schema+"\x00"+b.Table)
	})
	return w
}

// Text names the tables and what was written to them.
func (t *Table) Text() string {
	var parts []string
	for _, x := range []struct {
		n    int64
		what string
	}{{t.Inserts, "inserted"}, {t.Updates, "updated"}, {t.Deletes, "deleted"}, {t.Truncates, "truncated"}} {
		if x.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", x.n, x.what))
		}
	}
	s := text.Escape(t.Schema+"."+t.Table) + ": " + strings.Join(parts, ", ")
	if len(t.Keys) > 0 {
		s += ", such as " + text.Escape(strings.Join(t.Keys, ", "))
	}
	return s
}
