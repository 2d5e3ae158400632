package dump

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/format"
)

// Extra is what the catalog knows of objects beyond pg_dump's statements.
type Extra struct {
	// Constraints has, by the OID of the constraint, what a primary key or unique constraint rests
	// on.
	Constraints map[uint32]ConstraintIndex
	// Populated has the OIDs of the materialized views that have data.
	Populated map[uint32]bool
	// Without has the names of publications that are the migration's own.
	Without []string
	NoOwner bool
}

// A ConstraintIndex is the index that a constraint rests on.
type ConstraintIndex struct {
	Create string // CREATE UNIQUE INDEX …
	Kind   string // PRIMARY KEY or UNIQUE
	Index  string // name
	Suffix string // DEFERRABLE …
}

// skipped has the kinds of entries that are no objects to be created on a target.
var skipped = map[string]bool{
	"ENCODING": true, "SEARCHPATH": true, "STDSTRINGS": true, "DATABASE": true, "DATABASE PROPERTIES": true, "TABLE DATA": true,
	"SEQUENCE SET": true, "BLOBS": true, "BLOB": true, "BLOB METADATA": true, "BLOB COMMENTS": true,
	"SUBSCRIPTION": true, "SUBSCRIPTION TABLE": true,
	"STATISTICS DATA": true,
}

// DDL turns entries into records: pre-data objects and post-data objects, each in an order in which
// they can be created. The rights on tables come last: before the row security of their tables,
// they would open all rows.
func DDL(entries []Entry, x Extra) []*format.DDL {
	b := &builder{Extra: x, byID: make(map[int]*Entry, len(entries)), records: make(map[int]uint64), sequences: make(map[int]relationName),
		revoked: make(map[int][]string)}
	for i := range entries {
		e := &entries[i]
		b.byID[e.ID] = e
		if e.Desc == "SEQUENCE OWNED BY" {
			for _, id := range e.Deps {
				b.sequences[id] = ownedBy(e.SQL)
			}
		}
	}
	for i := range entries {
		if e := &entries[i]; e.Desc == "ACL" {
			if f := b.function(e); f != nil {
				b.revoked[f.ID] = revokedFromAll(e.SQL)
			}
		}
	}
	for _, pass := range []Section{SectionPreData, SectionPostData, SectionNone} {
		for i := range entries {
			e := &entries[i]
			if b.section(e) == pass && !skipped[e.Desc] && !ofDatabase(e) && !b.ours(e) {
				b.add(e)
			}
		}
	}
	// Their owners must have been granted what they read, and views may have been completed late.
	for i := range entries {
		b.refresh(&entries[i])
	}
	return b.list
}

// functions has the kinds of objects that everybody may execute unless that is revoked.
var functions = map[string]bool{"FUNCTION": true, "PROCEDURE": true, "AGGREGATE": true}

// section returns the section of an entry. pg_dump has access rights in none. Those on functions
// come with the functions: the indexes of a table may need them.
func (b *builder) section(e *Entry) Section {
	if e.Desc != "ACL" {
		return e.Section
	}
	if kind, _, _ := strings.Cut(e.Tag, " "); functions[kind] {
		return SectionPreData
	}
	if b.function(e) != nil {
		return SectionPreData
	}
	return SectionNone
}

// function returns the function whose access rights an entry has, or nil.
func (b *builder) function(e *Entry) *Entry {
	for _, id := range e.Deps {
		if d := b.byID[id]; d != nil && functions[d.Desc] {
			return d
		}
	}
	return nil
}

// closed has a function created without the rights that everybody has on new functions, if they are
// revoked. It may have more rights than its callers.
func (b *builder) closed(e *Entry) string {
	sql := e.SQL
	for _, s := range b.revoked[e.ID] {
		sql = strings.TrimRight(sql, "\n") + "\n" + s + ";\n"
	}
	return sql
}

// revokedFromAll returns the statements that take rights from everybody.
func revokedFromAll(sql string) (list []string) {
	var rules sqltext.Rules
	for _, s := range rules.Split(sql) {
		tokens := rules.Tokens(s.Text)
		if n := len(tokens); s.Word(0) == "REVOKE" && n > 2 && tokens[n-1].Word && tokens[n-1].Text == "PUBLIC" && tokens[n-2].Text == "FROM" {
			list = append(list, s.Text)
		}
	}
	return list
}

// ofDatabase reports whether an entry grants rights on the database itself, or describes it: the
// target has its own, which may have another name.
func ofDatabase(e *Entry) bool {
	return strings.HasPrefix(e.Tag, "DATABASE ") && (e.Desc == "ACL" || e.Desc == "COMMENT" || e.Desc == "SECURITY LABEL")
}

type builder struct {
	Extra
	byID    map[int]*Entry
	records map[int]uint64 // entry → record
	list    []*format.DDL

	sequences map[int]relationName // sequences that belong to a column
	revoked   map[int][]string     // from everybody, by the function's entry
}

func (b *builder) ours(e *Entry) bool {
	if e.Desc == "EVENT TRIGGER" && strings.HasPrefix(e.Tag, "pgsluice_") {
		return true // of pgcutover ddl install
	}
	for _, name := range b.Without {
		if e.Desc == "PUBLICATION" && e.Tag == name ||
			strings.HasPrefix(e.Desc, "PUBLICATION TABLE") && strings.HasPrefix(e.Tag, name+" ") {
			return true
		}
		if e.Desc == "COMMENT" && (e.Tag == "PUBLICATION "+name || e.Tag == "PUBLICATION "+quote(name)) {
			return true // whose the slot is
		}
	}
	return false
}

func (b *builder) append(d *format.DDL) {
	d.ID = uint64(len(b.list)) + 1
	b.list = append(b.list, d)
}

func (b *builder) add(e *Entry) {
	if strings.TrimSpace(e.SQL) == "" {
		return
	}
	d := &format.DDL{Section: format.PreData, Type: e.Desc, Schema: e.Schema, Name: e.Tag, Owner: e.Owner, SQL: inTablespace(e, b.closed(e))}
	if t := b.belongsTo(e); t.name != "" {
		d.Schema, d.Table = t.schema, t.name
	}
	d.After = b.after(e.Deps...)
	if b.section(e) != SectionPreData {
		d.Section = format.PostData
		if c, ok := b.Constraints[e.OID]; ok && e.Desc == "CONSTRAINT" {
			d.Index = inTablespace(e, c.Create+";")
			d.Attach = "ALTER TABLE ONLY " + quote(e.Schema) + "." + quote(d.Table) + " ADD CONSTRAINT " +
				quote(c.Index) + " " + c.Kind + " USING INDEX " + quote(c.Index) +
				c.Suffix + ";" + strings.TrimRight(afterFirst(e.SQL), "\n")
		} else if rest := afterFirst(e.SQL); e.Desc == "INDEX" && strings.TrimSpace(rest) != "" {
			// What changes the table (CLUSTER ON, REPLICA IDENTITY) must wait for the indexes that
			// others build on it, and would hold its own lock meanwhile.
			d.Index = inTablespace(e, strings.TrimSuffix(e.SQL, rest))
			d.Attach = strings.TrimLeft(rest, "\n")
		}
	}
	b.append(d)
	b.records[e.ID] = d.ID
	if sql := e.OwnerSQL(); sql != "" && !b.NoOwner {
		b.append(&format.DDL{Section: d.Section, Type: "OWNER", Schema: d.Schema, Table: d.Table,
			Name: e.Desc + " " + e.Tag, Owner: e.Owner, SQL: sql, After: []uint64{d.ID}})
	}
}

// after returns the records of entries.
func (b *builder) after(entries ...int) (ids []uint64) {
	for _, e := range entries {
		if id, ok := b.records[e]; ok {
			ids = append(ids, id)
		}
	}
	return ids
}

// refresh adds the statement that fills a materialized view: a dump of the schema alone leaves it
// empty.
func (b *builder) refresh(e *Entry) {
	if e.Desc == "MATERIALIZED VIEW" && b.Populated[e.OID] {
		b.append(&format.DDL{Section: format.PostData, Type: "MATERIALIZED VIEW DATA", Schema: e.Schema, Table: e.Tag, Name: e.Tag,
			SQL: "REFRESH MATERIALIZED VIEW " + quote(e.Schema) + "." + quote(e.Tag) + ";", After: b.after(e.ID)})
	}
}

// inTablespace has sql executed with the tablespace and the table access method that the object
// had.
func inTablespace(e *Entry, sql string) string {
	if e.AccessMeth != "" && e.AccessMeth != "heap" {
		sql = "SET default_table_access_method = " + quote(e.AccessMeth) + ";\n" + sql + "\nSET default_table_access_method = heap;"
	}
	if e.Tablespace != "" {
		sql = "SET default_tablespace = " + quote(e.Tablespace) + ";\n" + sql + "\nRESET default_tablespace;"
	}
	return sql
}

// afterFirst returns what follows the first statement of sql, which has no comments and no dollar
// quotes.
func afterFirst(sql string) string {
	var quoted byte
	for i := range len(sql) {
		switch c := sql[i]; {
		case quoted != 0:
			if c == quoted {
				quoted = 0 // a doubled quote opens it again at once
			}
		case c == '"' || c == '\'':
			quoted = c
		case c == ';':
			return sql[i+1:]
		}
	}
	return ""
}
