// Package testdecoding parses the lines of PostgreSQL's output plugin test_decoding, from versions
// 9.5 on. The result depends only on the bytes: the package uses no network, no clock and no
// catalog. It is strict: a line that it does not understand completely is an error.
package testdecoding

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"github.com/pgsluice/pgsluice/format"
)

// A Kind is the kind of a line.
type Kind uint8

// Kinds of lines.
const (
	Begin Kind = iota + 1
	Commit
	Insert
	Update
	Delete
	Truncate
	Message
)

// A Line is one line of the plugin. Its slices point into the line, or into the Parser.
type Line struct {
	Kind Kind
	XID  uint32      // of Begin and Commit
	Time format.Time // of Commit

	Tables []Name // one, but for Truncate
	// Old has the columns of the replica identity that are not NULL; nil: the row was not sent, or
	// its key has not changed. New has all columns of the table.
	Old, New                 []Field
	Cascade, RestartIdentity bool // of Truncate

	Transactional   bool // of Message
	Prefix, Content []byte
}

// A Name is the name of a table.
type Name struct{ Schema, Table []byte }

// A Field is a column of a row.
type Field struct {
	Name []byte
	// Type is the type's name as the server's function format_type prints it, without modifiers.
	Type  []byte
	Value format.Value // Null, Unchanged, or Text as the type's output function prints it
}

// A Parser parses lines. It owns what it returns: that is valid until the next call.
type Parser struct {
	line    Line
	tables  []Name
	old     []Field
	new     []Field
	scratch []byte // text with doubled quotes
	rest    []byte
}

// An expected is an error that names what should have stood where parsing stopped.
type expected string

func (e expected) Error() string { return "expected " + string(e) }

const errShort = expected("a closing quote or bracket")

// Parse parses one line.
func (p *Parser) Parse(line []byte) (*Line, error) {
	p.rest = line
	p.line = Line{}
	p.tables, p.old, p.new = p.tables[:0], p.old[:0], p.new[:0]
	// Text with doubled quotes becomes shorter, so this never grows while fields point into it.
	if cap(p.scratch) < len(line) {
		p.scratch = make([]byte, 0, len(line))
	}
	p.scratch = p.scratch[:0]
	var err error
	switch {
	case p.skip("table "):
		err = p.change()
	case p.skip("BEGIN "):
		p.line.Kind = Begin
		p.line.XID, err = p.xid()
	case p.skip("COMMIT "):
		p.line.Kind = Commit
		err = p.commit()
	case p.skip("message: "):
		p.line.Kind = Message
		err = p.message()
	default:
		err = expected("BEGIN, COMMIT, table or message")
	}
	if err == nil && len(p.rest) > 0 {
		err = expected("the end")
	}
	if err != nil {
		return nil, fmt.Errorf("line of test_decoding, at byte %d of %d: %w", len(line)-len(p.rest), len(line), err)
	}
	return &p.line, nil
}

// Head parses the beginning of a line about a row, and returns the row's table. It returns 0 for
// other lines.
func (p *Parser) Head(begin []byte) (Kind, Name) {
	p.rest, p.tables, p.scratch = begin, p.tables[:0], make([]byte, 0, len(begin))
	if !p.skip("table ") || p.table() != nil {
		return 0, Name{}
	}
	for kind, s := range map[Kind]string{Insert: ": INSERT:", Update: ": UPDATE:", Delete: ": DELETE:"} {
		if p.skip(s) {
			return kind, p.tables[0]
		}
	}
	return 0, Name{}
}

// skip removes a text from the front of the rest, and reports whether it was there.
func (p *Parser) skip(s string) bool {
	if len(p.rest) < len(s) || string(p.rest[:len(s)]) != s {
		return false
	}
	p.rest = p.rest[len(s):]
	return true
}

func (p *Parser) expect(s string) error {
	if !p.skip(s) {
		return expected(strconv.Quote(s))
	}
	return nil
}

// until removes and returns what stands before a byte, or all of the rest.
func (p *Parser) until(b byte) []byte {
	i := bytes.IndexByte(p.rest, b)
	if i < 0 {
		i = len(p.rest)
	}
	s := p.rest[:i:i]
	p.rest = p.rest[i:]
	return s
}

func (p *Parser) xid() (uint32, error) {
	n, err := strconv.ParseUint(string(p.until(' ')), 10, 32)
	if err != nil || n == 0 {
		return 0, expected("a transaction ID")
	}
	return uint32(n), nil
}

// commit parses "679 (at 2026-01-01 00:00:00.000001+00)". The session's time zone is UTC.
func (p *Parser) commit() (err error) {
	if p.line.XID, err = p.xid(); err != nil || len(p.rest) == 0 {
		return err
	}
	if err := p.expect(" (at "); err != nil {
		return err
	}
	at, err := time.Parse("2006-01-02 15:04:05.999999Z07", string(p.until(')')))
	if err != nil {
		return expected("a time")
	}
	p.line.Time = format.TimeOf(at)
	return p.expect(")")
}

// message parses "transactional: 1 prefix: p, sz: 5 content:hello". The prefix may contain
// anything, so the size decides where it ends.
func (p *Parser) message() error {
	switch {
	case p.skip("transactional: 1 prefix: "):
		p.line.Transactional = true
	case !p.skip("transactional: 0 prefix: "):
		return expected("a message")
	}
	const size, content = ", sz: ", " content:"
	for at := 0; ; at++ {
		i := bytes.Index(p.rest[at:], []byte(size))
		if i < 0 {
			return expected("the size of the message")
		}
		at += i
		digits, rest, found := bytes.Cut(p.rest[at+len(size):], []byte(content))
		n, err := strconv.ParseUint(string(digits[:min(len(digits), 20)]), 10, 63)
		if found && err == nil && n == uint64(len(rest)) {
			p.line.Prefix, p.line.Content = p.rest[:at:at], rest
			p.rest = nil
			return nil
		}
	}
}

func (p *Parser) change() error {
	if err := p.table(); err != nil {
		return err
	}
	for p.skip(", ") {
		if err := p.table(); err != nil {
			return err
		}
	}
	p.line.Tables = p.tables
	if p.skip(": TRUNCATE:") {
		p.line.Kind = Truncate
		return p.truncate()
	}
	if len(p.tables) != 1 {
		return expected("one table")
	}
	switch {
	case p.skip(": INSERT:"):
		p.line.Kind = Insert
		return p.newRow()
	case p.skip(": UPDATE:"):
		p.line.Kind = Update
		if p.skip(" old-key:") {
			var err error
			if p.line.Old, err = p.row(&p.old); err != nil {
				return err
			}
			if err := p.expect(" new-tuple:"); err != nil {
				return err
			}
		}
		return p.newRow()
	case p.skip(": DELETE:"):
		p.line.Kind = Delete
		if p.skip(" (no-tuple-data)") {
			return nil
		}
		var err error
		p.line.Old, err = p.row(&p.old)
		return err
	}
	return expected("INSERT, UPDATE, DELETE or TRUNCATE")
}

func (p *Parser) newRow() (err error) {
	if p.skip(" (no-tuple-data)") {
		return expected("the new row")
	}
	p.line.New, err = p.row(&p.new)
	return err
}

func (p *Parser) truncate() error {
	if p.skip(" (no-flags)") {
		return nil
	}
	p.line.RestartIdentity = p.skip(" restart_seqs")
	p.line.Cascade = p.skip(" cascade")
	if !p.line.RestartIdentity && !p.line.Cascade {
		return expected("the flags of a truncate")
	}
	return nil
}

func (p *Parser) table() error {
	schema, err := p.identifier()
	if err != nil {
		return err
	}
	if err := p.expect("."); err != nil {
		return err
	}
	name, err := p.identifier()
	p.tables = append(p.tables, Name{schema, name})
	return err
}

// identifier parses a name as the server's function quote_identifier prints it.
func (p *Parser) identifier() ([]byte, error) {
	if p.skip(`"`) {
		return p.quoted('"')
	}
	i := 0
	for i < len(p.rest) && isPlain(p.rest[i], i == 0) {
		i++
	}
	if i == 0 {
		return nil, expected("a name")
	}
	s := p.rest[:i:i]
	p.rest = p.rest[i:]
	return s, nil
}

func isPlain(b byte, first bool) bool {
	return b >= 'a' && b <= 'z' || b == '_' || !first && b >= '0' && b <= '9'
}

// quoted parses the rest of a text between quotes, which are doubled within it.
func (p *Parser) quoted(q byte) ([]byte, error) {
	i := bytes.IndexByte(p.rest, q)
	if i < 0 {
		return nil, errShort
	}
	if i+1 == len(p.rest) || p.rest[i+1] != q { // no quote within
		s := p.rest[:i:i]
		p.rest = p.rest[i+1:]
		return s, nil
	}
	start := len(p.scratch)
	for {
		p.scratch = append(p.scratch, p.rest[:i]...)
		p.rest = p.rest[i+1:]
		if len(p.rest) == 0 || p.rest[0] != q {
			return p.scratch[start:len(p.scratch):len(p.scratch)], nil
		}
		p.scratch = append(p.scratch, q)
		p.rest = p.rest[1:]
		if i = bytes.IndexByte(p.rest, q); i < 0 {
			return nil, errShort
		}
	}
}

// row parses columns up to the end of the line, or up to the new row of an update.
func (p *Parser) row(fields *[]Field) ([]Field, error) {
	row := (*fields)[:0]
	if row == nil {
		row = []Field{} // the row of a table without columns, which is not the same as no row
	}
	for len(p.rest) > 0 && !bytes.HasPrefix(p.rest, []byte(" new-tuple:")) {
		if err := p.expect(" "); err != nil {
			return nil, err
		}
		f, err := p.field()
		if err != nil {
			return nil, err
		}
		row = append(row, f)
	}
	*fields = row
	return row, nil
}

func (p *Parser) field() (f Field, err error) {
	if f.Name, err = p.identifier(); err != nil {
		return f, err
	}
	if err := p.expect("["); err != nil {
		return f, err
	}
	if f.Type, err = p.typeName(); err != nil {
		return f, err
	}
	if err := p.expect("]:"); err != nil {
		return f, err
	}
	f.Value, err = p.value(f.Type)
	return f, err
}

// typeName parses up to the bracket that closes the type. Names within quotes may contain brackets,
// and the type of an array ends with a pair.
func (p *Parser) typeName() ([]byte, error) {
	quoted := false
	for i, b := range p.rest {
		switch {
		case b == '"':
			quoted = !quoted // a doubled quote toggles twice
		case quoted:
		case b == ']' && (i == 0 || p.rest[i-1] != '['):
			if i == 0 {
				return nil, expected("a type")
			}
			s := p.rest[:i:i]
			p.rest = p.rest[i:]
			return s, nil
		}
	}
	return nil, errShort
}

func (p *Parser) value(typ []byte) (format.Value, error) {
	if p.skip("'") {
		s, err := p.quoted('\'')
		return format.Value{Kind: format.Text, Data: s}, err
	}
	if p.skip("B'") {
		s, err := p.quoted('\'')
		if err == nil && len(bytes.Trim(s, "01")) > 0 {
			err = expected("bits")
		}
		return format.Value{Kind: format.Text, Data: s}, err
	}
	s := p.until(' ')
	switch string(s) {
	case "null":
		return format.Value{}, nil
	case "unchanged-toast-datum":
		return format.Value{Kind: format.Unchanged}, nil
	case "true", "false": // the type's output function prints t and f
		if string(typ) != "boolean" {
			return format.Value{}, expected("a value that is not boolean")
		}
		return format.Value{Kind: format.Text, Data: s[:1:1]}, nil
	}
	if !isNumber(s) {
		return format.Value{}, expected("a value")
	}
	return format.Value{Kind: format.Text, Data: s}, nil
}

// isNumber reports whether s is printed without quotes: an integer, an OID, a float or a numeric.
func isNumber(s []byte) bool {
	switch string(s) {
	case "NaN", "Infinity", "-Infinity":
		return true
	}
	digits := 0
	for i, b := range s {
		switch {
		case b >= '0' && b <= '9':
			digits++
		case b == '-' && (i == 0 || s[i-1] == 'e'), b == '+' && i > 0 && s[i-1] == 'e', b == '.', b == 'e' && digits > 0:
		default:
			return false
		}
	}
	return digits > 0
}
