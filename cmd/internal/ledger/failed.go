package ledger

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgwire"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

// keysOf returns the inventory keys of the objects that a recorded object may be, or be a part of.
// It returns none if an inventory does not contain such objects. known are the existing objects.
// They decide if a name can be read in several ways.
func keysOf(o *progress.Object, known map[inventory.Key]*inventory.Object) []inventory.Key {
	return keys(o.Type, o.Schema, o.Table, o.Name, known)
}

func keys(kind, schema, table, name string, known map[inventory.Key]*inventory.Object) []inventory.Key {
	part := strings.TrimPrefix(name, table+" ")
	one := func(class, table, name string) []inventory.Key {
		return []inventory.Key{{Class: class, Schema: schema, Table: table, Name: name}}
	}
	switch kind {
	case "TABLE", "VIEW", "MATERIALIZED VIEW", "FOREIGN TABLE", "TABLE ATTACH", "MATERIALIZED VIEW DATA":
		return one(inventory.Relation, "", name)
	case "ROW SECURITY", "ROW SECURITY STATE":
		if table != "" {
			name = table
		}
		return one(inventory.Relation, "", name)
	case "INDEX":
		return one(inventory.Index, table, name)
	case "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT":
		if table == "" {
			return split(inventory.DomainConstraint, schema, name, known)
		}
		return one(inventory.Constraint, table, part)
	case "TRIGGER", "TRIGGER STATE":
		return one(inventory.Trigger, table, part)
	case "RULE", "RULE STATE":
		return one(inventory.Rule, table, part)
	case "POLICY":
		return one(inventory.Policy, table, part)
	case "DEFAULT", "COLUMN":
		if table == "" {
			return split(inventory.Column, schema, name, known)
		}
		return one(inventory.Column, table, strings.TrimPrefix(part, table+"."))
	case "FUNCTION", "PROCEDURE", "AGGREGATE":
		return one(inventory.Function, "", strings.Replace(name, "(*)", "()", 1))
	case "TYPE", "DOMAIN", "SHELL TYPE":
		return one(inventory.Type, "", name)
	case "SEQUENCE", "SEQUENCE OWNED BY":
		return one(inventory.Sequence, "", name)
	case "STATISTICS":
		return one(inventory.Statistics, "", name)
	case "SCHEMA":
		return []inventory.Key{{Class: inventory.Schema, Name: name}}
	case "EXTENSION":
		return []inventory.Key{{Class: inventory.Extension, Name: name}}
	case "EVENT TRIGGER":
		return []inventory.Key{{Class: inventory.EventTrigger, Name: name}}
	case "OWNER", "ACL", "COMMENT":
		for _, words := range []int{1, 2, 3} {
			fields := strings.SplitN(name, " ", words+1)
			if len(fields) <= words {
				break
			}
			of, rest := strings.Join(fields[:words], " "), fields[words]
			if kind == "COMMENT" && (of == "CONSTRAINT" || of == "TRIGGER" || of == "RULE" || of == "POLICY") {
				rest, _, _ = strings.Cut(rest, " ON ")
				rest = strings.ReplaceAll(strings.Trim(rest, `"`), `""`, `"`)
			}
			t := table
			if of == "COLUMN" && t != "" {
				rest = strings.TrimPrefix(rest, t+".")
			}
			if k := keys(of, schema, t, rest, known); k != nil {
				return k
			}
		}
	}
	return nil
}

// split finds the object that a name consisting of a table (or domain) and a part stands for.
func split(class, schema, name string, known map[inventory.Key]*inventory.Object) (list []inventory.Key) {
	for i := range len(name) {
		if name[i] != ' ' && name[i] != '.' {
			continue
		}
		k := inventory.Key{Class: class, Schema: schema, Table: name[:i], Name: name[i+1:]}
		if known[k] != nil {
			return []inventory.Key{k}
		}
		list = append(list, k)
	}
	return list
}

// notKept has the kinds of objects that an inventory does not contain.
var notKept = map[string]bool{"PUBLICATION TABLE": true, "PUBLICATION TABLES IN SCHEMA": true, "BLOB": true,
	"LARGE OBJECT": true, "INDEX ATTACH": true, "SEQUENCE OWNED BY": true, "SHELL TYPE": true}

// denied reports whether a statement was refused for lack of a right. That includes a GRANT or
// REVOKE that had no effect.
func denied(f *progress.Object) bool { return f.Code == "42501" || pgwire.Unchanged(f.Code) }

// orders is the order of lines of objects that an inventory does not contain.
var orders = map[string]int{"SHELL TYPE": order[inventory.Type], "INDEX ATTACH": order[inventory.Constraint]}

// failures adds to each line the load's own error, if the load tried and failed to create the
// object. It also adds lines for failures that only the load knows. Objects that exist by now get
// no line.
func (c *comparison) failures() {
	lines, few, own := make(map[inventory.Key][]*Line), c.few(), make(map[inventory.Key]*Line)
	for _, l := range c.lines {
		k := c.Renames.Key(l.key)
		lines[k] = append(lines[k], l)
	}
	for i := range c.Failed {
		f := &c.Failed[i]
		var found []*Line
		known := false
		keys := keysOf(f, c.target)
		if f.Type == "INDEX ATTACH" {
			keys = c.attached(f)
		}
		if f.Type == "SHELL TYPE" && c.becomesType(lines[keys[0]]) && c.target[keys[0]] == nil {
			keys = nil // a line of its own: before the type's functions, which come before the type
		}
		switch {
		case f.Schema == "pg_catalog" || f.Schema == "information_schema":
			keys = nil // rights on the system's objects are in no inventory
		case keys == nil:
			keys = fewOf(f, few)
		}
		for _, k := range keys {
			known = true
			found = append(found, lines[k]...)
		}
		for _, l := range found {
			if !l.failed {
				l.Cause += "; the load was refused: " + f.Error
			}
			l.failed, l.denied = true, l.denied || denied(f)
			if f.Type == "TYPE" && strings.Contains(f.SQL, "\n    INPUT = ") {
				l.order = order[inventory.Other] // behind its functions
			}
			if len(l.SQL) == 0 || f.Type == "INDEX ATTACH" {
				l.SQL = append(l.SQL, list(strings.TrimRight(f.SQL, "; \n"))...)
				l.Remedy = "mend the cause, then on the target: " + first(l.SQL, "")
			}
		}
		if len(found) == 0 && c.isSettled(f, keys) {
			c.settled = append(c.settled, f.ID)
		}
		if len(found) > 0 || known && f.Type != "SEQUENCE OWNED BY" ||
			f.Type == "OWNER" && !strings.HasPrefix(f.Name, "LARGE OBJECT ") ||
			!notKept[f.Type] && !(f.Type == "COMMENT" || f.Type == "ACL" || f.Type == "OWNER") {
			continue
		}
		class := Rest
		if f.Type == "ACL" || f.Type == "OWNER" || f.Type == "SECURITY LABEL" {
			class = Rights
		}
		key := inventory.Key{Class: "failed " + f.Type, Schema: f.Schema, Table: f.Table, Name: f.Name}
		sql := append(list(strings.TrimRight(f.SQL, "; \n")),
			fmt.Sprintf("UPDATE pgsluice.deferred SET state = 'done', error = NULL WHERE id = %d", f.ID))
		if l := own[key]; l != nil { // one of several statements
			l.SQL = append(l.SQL, sql...)
			continue
		}
		own[key] = c.add(Line{key: key, Name: strings.TrimPrefix(f.String(), f.Type+" "),
			Kind: strings.ToLower(f.Type), Problem: "failed", Class: class,
			Cause:  "the load was refused: " + f.Error,
			Remedy: fmt.Sprintf("mend the cause, then on the target: %s", first(list(f.SQL), "")),
			SQL:    sql, order: cmp.Or(orders[f.Type], 20), failed: true, denied: denied(f)})
	}
}

// Refused returns a line for each object that the load could not create, in an order in which a
// superuser can execute their statements. A table or view that failed only because another object
// did has no statement: the next run of the load creates it, for the right owner. loader is the
// role of the load, without quotes.
func Refused(failed []progress.Object, loader string) []Line {
	var c comparison
	owners := make(map[string]string)
	for i := range failed {
		if tokens := (sqltext.Rules{}).Tokens(strings.TrimRight(failed[i].SQL, "; \n")); failed[i].Type == "OWNER" && len(tokens) > 0 {
			owners[failed[i].Schema+"."+failed[i].Name] = tokens[len(tokens)-1].Text
		}
	}
	for i := range failed {
		f := &failed[i]
		l := Line{key: inventory.Key{Class: "failed " + f.Type, Schema: f.Schema, Table: f.Table, Name: f.Name},
			Name: strings.TrimPrefix(f.String(), f.Type+" "), Kind: strings.ToLower(f.Type), Problem: "failed",
			Cause: "the load was refused: " + f.Error, As: Superuser}
		kind, _, _ := strings.Cut(strings.TrimPrefix(f.Type+" "+f.Name, "OWNER "), " ")
		if f.Because != 0 && (kind == "TABLE" || kind == "VIEW" || kind == "MATERIALIZED") {
			l.Remedy = "the next run of the load creates it, once what it needs exists"
		} else {
			l.SQL = list(strings.TrimRight(f.SQL, "; \n"))
			l.refusedAs(f, owners, loader)
			l.Remedy = "on the target: " + first(l.SQL, "mend the cause")
		}
		c.add(l)
	}
	lines := make([]Line, len(c.lines))
	for i, l := range c.lines {
		l.portable()
		lines[i] = *l
	}
	return lines
}

// isSettled reports whether an object without a line has been created by hand. Whether a constraint
// is validated is not compared.
func (c *comparison) isSettled(f *progress.Object, keys []inventory.Key) bool {
	if f.Type == "CHECK CONSTRAINT" || f.Type == "FK CONSTRAINT" || c.renamed() || c.WithoutOwners || c.WithoutRights {
		return false
	}
	return slices.ContainsFunc(keys, func(k inventory.Key) bool { return c.source[k] != nil && c.target[k] != nil })
}

// becomesType reports whether the lines are about a type that has more than a name.
func (c *comparison) becomesType(lines []*Line) bool {
	if len(lines) == 0 {
		return false
	}
	o := c.source[lines[0].key]
	return o != nil && o.Fact("kind") != "p"
}

// attached returns the partitioned index that lacks the index of a partition: its line says that it
// is not valid. It returns none for the index of a constraint or of a partition, which has no line.
func (c *comparison) attached(f *progress.Object) []inventory.Key {
	schema, name := sqltext.Rules{}.AttachedTo(f.SQL)
	for k := range c.target {
		if k.Class == inventory.Index && k.Schema == schema && k.Name == name {
			return []inventory.Key{k}
		}
	}
	return nil
}

// few returns the target's keys of rare objects: security labels, default privileges and class
// Other.
func (c *comparison) few() (list []inventory.Key) {
	for _, side := range []map[inventory.Key]*inventory.Object{c.source, c.target} {
		for k := range side {
			switch k.Class {
			case inventory.Other, inventory.Label, inventory.Privileges:
				list = append(list, c.Renames.Key(k))
			}
		}
	}
	return list
}

// kinds maps pg_dump's lower-case kinds to the inventory's, where they differ.
var kinds = map[string]string{"procedural language": "language", "foreign data wrapper": "foreign-data wrapper", "foreign server": "server"}

// fewOf returns the keys in few whose object a recorded object may be, or whose owner, rights or
// comment it may be.
func fewOf(f *progress.Object, few []inventory.Key) (list []inventory.Key) {
	kind, name := strings.ToLower(f.Type), strings.ToLower(f.Name)
	about := kind == "owner" || kind == "acl" || kind == "comment"
	for _, k := range few {
		k2, n := k.Table, name
		switch k.Class {
		case inventory.Privileges:
			if kind == "default acl" && k.Schema == f.Schema {
				list = append(list, k)
			}
			continue
		case inventory.Label:
			if kind == "security label" && k.Schema == f.Schema &&
				strings.HasSuffix(k.Name, f.Name[strings.LastIndexAny(f.Name, " .")+1:]) {
				list = append(list, k)
			}
			continue
		}
		if strings.HasPrefix(kind, "publication table") {
			if k2 == "publication" && strings.HasPrefix(f.Name, sqltext.Unquoted(k.Name)+" ") {
				list = append(list, k)
			}
			continue
		}
		is := kind == k2 || kinds[kind] == k2
		for _, word := range []string{k2, "foreign data wrapper", "foreign server", "procedural language"} {
			if rest, ok := strings.CutPrefix(name, word+" "); ok && (word == k2 || kinds[word] == k2) && (is || about) {
				is, n = true, rest
			}
		}
		n = strings.ReplaceAll(strings.Trim(n, `"`), " server ", " on server ")
		if is && (k.Schema == f.Schema || k.Schema == "" || f.Schema == "") && strings.Contains(strings.ReplaceAll(strings.ToLower(k.Name), "pg_catalog.", ""), n) {
			list = append(list, k)
		}
	}
	return list
}
