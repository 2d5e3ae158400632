package dump

import "strings"

// relations has the kinds of entries that a filter by name treats as tables.
var relations = map[string]bool{"TABLE": true, "VIEW": true, "MATERIALIZED VIEW": true, "FOREIGN TABLE": true}

// A relationName is schema and name of a table.
type relationName struct{ schema, name string }

// belongsTo returns the table that an entry belongs to, or nothing. With it, a filter that drops a
// table by name also finds the table's dependent objects.
func (b *builder) belongsTo(e *Entry) relationName {
	none := relationName{}
	switch {
	case e == nil:
		return none
	case relations[e.Desc], e.Desc == "TABLE ATTACH", e.Desc == "ROW SECURITY":
		return relationName{e.Schema, e.Tag}
	}
	switch e.Desc {
	case "INDEX", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "TRIGGER", "RULE", "POLICY",
		"STATISTICS", "DEFAULT", "PUBLICATION TABLE":
		return b.dependsOn(e)
	case "SEQUENCE":
		if t, ok := b.sequences[e.ID]; ok {
			return t
		}
		return b.dependsOn(e) // of an identity column
	case "SEQUENCE OWNED BY":
		return ownedBy(e.SQL)
	case "INDEX ATTACH":
		// the partition's index is named as the entry is, and the other one is its parent's
		for _, id := range e.Deps {
			if d := b.byID[id]; d != nil && d.Desc != e.Desc && (d.Tag == e.Tag || strings.HasSuffix(d.Tag, " "+e.Tag)) {
				return b.belongsTo(d)
			}
		}
	case "COMMENT", "ACL", "SECURITY LABEL":
		for _, id := range e.Deps {
			if d := b.byID[id]; d != nil && d.Desc != e.Desc && d.Desc != "ACL" {
				return b.belongsTo(d)
			}
		}
	}
	return none
}

// dependsOn returns the entry's own table among those that it depends on. A foreign key depends on
// both of its tables, a rule or trigger on every table that it uses. The entry's own table is in
// the entry's schema, and the entry's tag begins with the table's name.
func (b *builder) dependsOn(e *Entry) relationName {
	var found relationName
	for _, id := range e.Deps {
		t := b.byID[id]
		if t == nil || !relations[t.Desc] {
			continue
		}
		n := relationName{t.Schema, t.Tag}
		if t.Schema == e.Schema && strings.HasPrefix(e.Tag, t.Tag+" ") {
			return n
		}
		if found.name == "" && e.Desc != "FK CONSTRAINT" {
			found = n
		}
	}
	return found
}

// ownedBy returns the table in ALTER SEQUENCE name OWNED BY schema.table.column.
func ownedBy(sql string) relationName {
	const owned = " OWNED BY "
	quoted := false
	for i := range len(sql) {
		if sql[i] == '"' {
			quoted = !quoted // a doubled quote closes and opens it
		}
		if !quoted && strings.HasPrefix(sql[i:], owned) {
			if parts := splitName(strings.TrimRight(sql[i+len(owned):], ";\n")); len(parts) == 3 {
				return relationName{parts[0], parts[1]}
			}
			break
		}
	}
	return relationName{}
}

// splitName returns the parts of a qualified name, without quotes.
func splitName(s string) (parts []string) {
	var part strings.Builder
	quoted := false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"' && quoted && strings.HasPrefix(s[i+1:], `"`):
			i++
			part.WriteByte('"')
		case c == '"':
			quoted = !quoted
		case c == '.' && !quoted:
			parts = append(parts, part.String())
			part.Reset()
		default:
			part.WriteByte(c)
		}
	}
	return append(parts, part.String())
}
