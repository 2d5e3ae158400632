// Package dump gets the schema from pg_dump. It runs pg_dump and reads the table of contents of its
// archive, which has one entry for each object, with the object's statement and dependencies.
package dump

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// An Entry is an object in an archive's table of contents.
type Entry struct {
	ID         int // unique in the archive, not ascending
	CatalogOID uint32
	OID        uint32
	Tag        string // the object's name; for functions with arguments
	Desc       string // TABLE, INDEX, FK CONSTRAINT, COMMENT, …
	Section    Section
	SQL        string // creates it; empty for some kinds
	DropSQL    string
	Schema     string
	Tablespace string
	AccessMeth string
	Owner      string
	Deps       []int // entries that must come before it
}

// A Section is the part of a dump that an entry belongs to.
type Section int

// The sections, as the archive numbers them.
const (
	SectionNone Section = iota + 1
	SectionPreData
	SectionData
	SectionPostData
)

// All supported versions of pg_dump write the same format, except for what these versions added.
const (
	minVersion        = 1<<16 | 12<<8 // 9.0
	versionTableAM    = 1<<16 | 14<<8 // 12
	versionCompressor = 1<<16 | 15<<8 // 16
	versionRelkind    = 1<<16 | 16<<8 // 17
	maxVersion        = 1<<16 | 16<<8 | 255
)

// readTOC reads an archive in custom format up to the end of its table of contents. The entries are
// in an order in which they can be created.
func readTOC(r io.Reader) ([]Entry, error) {
	a := &archive{r: bufio.NewReader(r)}
	version := a.head()
	n := a.int()
	if a.err == nil && n < 0 {
		a.err = errors.New("negative number of entries")
	}
	var entries []Entry
	for i := 0; i < n && a.err == nil; i++ {
		entries = append(entries, a.entry(version))
	}
	if a.err != nil {
		return nil, fmt.Errorf("could not read pg_dump's archive: %w", a.err)
	}
	for i := range entries {
		switch e := &entries[i]; e.Desc {
		case "TABLE", "FOREIGN TABLE", "MATERIALIZED VIEW", "VIEW":
			e.SQL = columnOptions.ReplaceAllStringFunc(e.SQL, withoutAttver)
		}
	}
	return entries, nil
}

// columnOptions matches pg_dump's statement for the options of a column.
var columnOptions = regexp.MustCompile(`(?m)^(ALTER .* ALTER COLUMN .* SET \()([^()]*)(\);\n?)`)

// withoutAttver removes an option that servers since the minor releases of November 2026 use
// internally. An older pg_dump takes it for a user's option, and an older target does not know it.
func withoutAttver(statement string) string {
	m := columnOptions.FindStringSubmatch(statement)
	options := slices.DeleteFunc(strings.Split(m[2], ", "), func(o string) bool { return strings.HasPrefix(o, "pg_attver=") })
	if len(options) == 0 {
		return ""
	}
	return m[1] + strings.Join(options, ", ") + m[3]
}

// archive reads the primitive types of an archive. Its error is sticky.
type archive struct {
	r       *bufio.Reader
	intSize int
	offSize int
	err     error
}

func (a *archive) byte() byte {
	if a.err != nil {
		return 0
	}
	b, err := a.r.ReadByte()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	a.err = err
	return b
}

// int reads a sign byte and a little-endian number.
func (a *archive) int() int {
	negative := a.byte() != 0
	v := 0
	for i := range a.intSize {
		v |= int(a.byte()) << (8 * i)
	}
	if negative {
		return -v
	}
	return v
}

// string reads a length and that many bytes. A missing string is told from an empty one by ok.
func (a *archive) string() (s string, ok bool) {
	n := a.int()
	if a.err != nil || n < 0 {
		return "", false
	}
	if n > 1<<30 {
		a.err = fmt.Errorf("string of %d bytes", n)
		return "", false
	}
	b, err := io.ReadAll(io.LimitReader(a.r, int64(n)))
	if err == nil && len(b) < n {
		err = io.ErrUnexpectedEOF
	}
	a.err = err
	return string(b), err == nil
}

func (a *archive) str() string {
	s, _ := a.string()
	return s
}

// head reads the header and returns the archive's version.
func (a *archive) head() int {
	var magic [5]byte
	for i := range magic {
		magic[i] = a.byte()
	}
	if a.err == nil && string(magic[:]) != "PGDMP" {
		a.err = errors.New("it is not an archive")
	}
	version := int(a.byte())<<16 | int(a.byte())<<8 | int(a.byte())
	if a.err == nil && (version < minVersion || version > maxVersion) {
		a.err = fmt.Errorf("its version %d.%d is not supported", version>>16, version>>8&255)
	}
	a.intSize, a.offSize = int(a.byte()), int(a.byte())
	if a.err == nil && (a.intSize > 8 || a.offSize > 8) {
		a.err = errors.New("its integers are too large")
	}
	if format := a.byte(); a.err == nil && format != 1 {
		a.err = errors.New("it is not in custom format")
	}
	if version >= versionCompressor {
		a.byte()
	} else {
		a.int()
	}
	for range 7 { // date
		a.int()
	}
	a.str() // database
	a.str() // server's version
	a.str() // pg_dump's version
	return version
}

func (a *archive) entry(version int) Entry {
	e := Entry{ID: a.int()}
	a.int() // whether there is data
	e.CatalogOID, e.OID = a.oid(), a.oid()
	e.Tag, e.Desc = a.str(), a.str()
	e.Section = Section(a.int())
	e.SQL, e.DropSQL = a.str(), a.str()
	a.str() // COPY statement
	e.Schema, e.Tablespace = a.str(), a.str()
	if version >= versionTableAM {
		e.AccessMeth = a.str()
	}
	if version >= versionRelkind {
		a.int()
	}
	e.Owner = a.str()
	a.str() // WITH OIDS
	for a.err == nil {
		s, ok := a.string()
		if !ok {
			break
		}
		id, err := strconv.Atoi(s)
		if err != nil {
			a.err = err
		}
		e.Deps = append(e.Deps, id)
	}
	// What the custom format adds: where the entry's data is.
	a.byte()
	for range a.offSize {
		a.byte()
	}
	return e
}

func (a *archive) oid() uint32 {
	s := a.str()
	if a.err != nil {
		return 0
	}
	v, err := strconv.ParseUint(s, 10, 32)
	a.err = err
	return uint32(v)
}
