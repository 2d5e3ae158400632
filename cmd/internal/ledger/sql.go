package ledger

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// The statements that make the target like the source. There are none if the load renamed schemas
// or tables, because the source's statements use the source's names.

func (c *comparison) renamed() bool { return len(c.Renames.Schemas)+len(c.Renames.Tables) > 0 }

// create returns the statements that create an object with its owner, rights and comment.
func (c *comparison) create(o *inventory.Object) (sql []string) {
	if o.Class == inventory.Setting {
		return list(c.setting(o))
	}
	if o.Class == inventory.Privileges {
		for _, r := range sorted(c.entries(o)) {
			if who := r.grantee; who != "@owner" {
				sql = append(sql, statement(o, "GRANT", r.privilege, who, ""))
			}
		}
		return append(sql, c.withoutPublic(o)...)
	}
	if o.SQL == "" || c.renamed() {
		return nil
	}
	created, behind := o.SQL, ""
	if o.Class == inventory.Sequence { // a column can own it only once both have the same owner
		created, behind, _ = strings.Cut(o.SQL, ";\n")
	}
	sql = append(sql, created)
	if owner := o.Fact("owner"); owner != "" && !c.WithoutOwners && ident(owner) != ident(c.bare()) {
		sql = append(sql, alter(o)+" OWNER TO "+ident(owner))
	}
	sql = append(sql, list(behind)...)
	if o.On != "" && o.Class != inventory.Column && !c.WithoutRights {
		sql = append(sql, c.withoutPublic(o)...)
		for _, r := range sorted(c.entries(o)) {
			if r.grantee == "@owner" || r.grantee == "PUBLIC" && publicByDefault(o) {
				continue
			}
			with := ""
			if c.entries(o)[r] {
				with = " WITH GRANT OPTION"
			}
			sql = append(sql, statement(o, "GRANT", r.privilege, r.grantee, with))
		}
	}
	if s := o.Fact("comment"); s != "" {
		sql = append(sql, comment(o, s))
	}
	return sql
}

// bare returns the target role without quotes.
func (c *comparison) bare() string {
	if strings.HasPrefix(c.TargetRole, `"`) {
		return strings.ReplaceAll(strings.Trim(c.TargetRole, `"`), `""`, `"`)
	}
	return c.TargetRole
}

func publicByDefault(o *inventory.Object) bool {
	return o.Class == inventory.Function || o.Class == inventory.Type || o.Kind == "language"
}

// withoutPublic revokes what PUBLIC gets on new objects by default, if PUBLIC has no rights on the
// source's object.
func (c *comparison) withoutPublic(o *inventory.Object) []string {
	functions := o.Class == inventory.Privileges && (strings.HasSuffix(o.On, " FUNCTIONS") || strings.HasSuffix(o.On, " TYPES"))
	if !functions && !publicByDefault(o) {
		return nil
	}
	for r := range c.entries(o) {
		if r.grantee == "PUBLIC" {
			return nil
		}
	}
	return []string{statement(o, "REVOKE", "ALL", "PUBLIC", "")}
}

// setting returns the statement that sets a parameter for the database. Like pg_dump, it copies
// lists of names as they are, because they are already quoted.
func (c *comparison) setting(o *inventory.Object) string {
	parameter, value := o.Fact("parameter"), o.Fact("value")
	switch parameter {
	case "local_preload_libraries", "search_path", "session_preload_libraries", "shared_preload_libraries", "temp_tablespaces", "unix_socket_directories":
	default:
		value = literal(value)
	}
	if value == "" {
		value = "''"
	}
	set := "SET " + quoteParameter(parameter) + " TO " + value
	if role := o.Fact("role"); role != "" {
		return "ALTER ROLE " + role + " IN DATABASE " + ident(c.Database) + " " + set
	}
	return "ALTER DATABASE " + ident(c.Database) + " " + set
}

// quoteParameter quotes each part of a parameter's name.
func quoteParameter(name string) string {
	parts := strings.Split(name, ".")
	for i, p := range parts {
		parts[i] = ident(p)
	}
	return strings.Join(parts, ".")
}

func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return "E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

// alter returns the start of the ALTER statement for an object.
func alter(o *inventory.Object) string {
	switch o.Class {
	case inventory.Relation, inventory.Sequence, inventory.Schema, inventory.Type, inventory.Function:
		on := o.On
		if o.Kind == "aggregate" {
			on = "AGGREGATE" + strings.TrimPrefix(on, "FUNCTION")
		}
		return "ALTER " + on
	case inventory.Statistics:
		return "ALTER STATISTICS " + qualified(o.Schema, o.Name)
	case inventory.EventTrigger:
		return "ALTER EVENT TRIGGER " + ident(o.Name)
	case inventory.Other:
		return "ALTER " + named(o)
	}
	return "ALTER TABLE " + qualified(o.Schema, o.Table)
}

func qualified(schema, name string) string { return ident(schema) + "." + ident(name) }

// named returns the object in the form that DROP and COMMENT ON use.
func named(o *inventory.Object) string {
	switch o.Class {
	case inventory.Relation:
		kind := strings.ToUpper(strings.TrimPrefix(o.Kind, "partitioned "))
		return kind + " " + qualified(o.Schema, o.Name)
	case inventory.Function:
		return strings.ToUpper(o.Kind) + strings.TrimPrefix(strings.TrimPrefix(o.On, "FUNCTION"), "PROCEDURE")
	case inventory.Type:
		return strings.ToUpper(o.Kind) + " " + qualified(o.Schema, o.Name)
	case inventory.Schema, inventory.Sequence:
		return o.On
	case inventory.Column:
		return "COLUMN " + qualified(o.Schema, o.Table) + "." + ident(o.Name)
	case inventory.Index:
		return "INDEX " + qualified(o.Schema, o.Name)
	case inventory.Statistics:
		return "STATISTICS " + qualified(o.Schema, o.Name)
	case inventory.Constraint:
		return "CONSTRAINT " + ident(o.Name) + " ON " + qualified(o.Schema, o.Table)
	case inventory.DomainConstraint:
		return "CONSTRAINT " + ident(o.Name) + " ON DOMAIN " + qualified(o.Schema, o.Table)
	case inventory.Trigger, inventory.Rule, inventory.Policy:
		return strings.ToUpper(o.Class) + " " + ident(o.Name) + " ON " + qualified(o.Schema, o.Table)
	case inventory.Extension, inventory.EventTrigger:
		return strings.ToUpper(o.Class) + " " + ident(o.Name)
	case inventory.Other:
		return otherName(o)
	}
	return ""
}

func comment(o *inventory.Object, s string) string {
	n := named(o)
	if n == "" {
		return ""
	}
	if s == "" {
		return "COMMENT ON " + n + " IS NULL"
	}
	return "COMMENT ON " + n + " IS " + literal(s)
}

// dropSQL returns the statement that drops an object of the target. It returns none for tables,
// which only the operator may drop.
func dropSQL(o *inventory.Object) string {
	switch o.Class {
	case inventory.Column:
		return "ALTER TABLE " + qualified(o.Schema, o.Table) + " DROP COLUMN " + ident(o.Name)
	case inventory.Constraint:
		return "ALTER TABLE " + qualified(o.Schema, o.Table) + " DROP CONSTRAINT " + ident(o.Name)
	case inventory.DomainConstraint:
		return "ALTER DOMAIN " + qualified(o.Schema, o.Table) + " DROP CONSTRAINT " + ident(o.Name)
	case inventory.Relation:
		if strings.HasSuffix(o.Kind, "table") {
			return ""
		}
	case inventory.Label:
		head, _, _ := strings.Cut(o.SQL, " IS ")
		return head + " IS NULL"
	case inventory.Schema, inventory.Extension, inventory.Privileges, inventory.Setting, inventory.Database:
		return ""
	}
	return "DROP " + named(o)
}

func renameSequence(t *inventory.Object, to inventory.Key) string {
	sql := ""
	if t.Name != to.Name {
		sql = "ALTER SEQUENCE " + qualified(t.Schema, t.Name) + " RENAME TO " + ident(to.Name)
	}
	if t.Schema == to.Schema {
		return sql
	}
	if sql != "" {
		sql += ";\n"
	}
	return sql + "ALTER SEQUENCE " + qualified(t.Schema, to.Name) + " SET SCHEMA " + ident(to.Schema)
}

// redefine returns the statement that gives the target's object the source's definition.
func (c *comparison) redefine(o, t *inventory.Object) string {
	if c.renamed() {
		return ""
	}
	switch {
	case o.Class == inventory.Other:
		return c.redefineOther(o, t)
	case o.Class == inventory.Column && o.Fact("generated") == "" && t.Fact("generated") == "":
		if o.Definition == "" {
			return alter(o) + " ALTER COLUMN " + ident(o.Name) + " DROP DEFAULT"
		}
		return alter(o) + " ALTER COLUMN " + ident(o.Name) + " SET DEFAULT " + o.Definition
	case o.Class == inventory.Relation && o.Fact("partition") != "" && t.Fact("partition") != "":
		return setParents(o, t)
	case o.Class == inventory.Type && o.Kind == "domain":
		if o.Definition == "" {
			return "ALTER DOMAIN " + qualified(o.Schema, o.Name) + " DROP DEFAULT"
		}
		return "ALTER DOMAIN " + qualified(o.Schema, o.Name) + " SET DEFAULT " + o.Definition
	case o.SQL == "":
		return ""
	case o.Class == inventory.Function:
		return o.SQL
	case o.Kind == "view":
		return "CREATE OR REPLACE" + strings.TrimPrefix(o.SQL, "CREATE")
	}
	switch o.Class {
	case inventory.Index, inventory.Constraint, inventory.DomainConstraint, inventory.Trigger, inventory.Rule, inventory.Policy, inventory.Statistics, inventory.EventTrigger:
		sql := dropSQL(t) + ";\n" + strings.Join(c.create(o), ";\n")
		if (t.Class == inventory.Trigger || t.Class == inventory.Rule) && c.pending[t.Key] { // disabled until the cutover
			sql += ";\nALTER TABLE " + qualified(t.Schema, t.Table) + " DISABLE " + strings.ToUpper(t.Class) + " " + ident(t.Name)
		}
		return sql
	}
	return ""
}

// set returns the statement that gives a fact of the target's object the source's value.
func (c *comparison) set(o, t *inventory.Object, fact, is string) string {
	if c.renamed() && fact != "owner" && fact != "comment" ||
		fact == "valid" && strings.Contains(o.SQL, " ON ONLY ") { // until each partition's index is attached
		return ""
	}
	column := " ALTER COLUMN " + ident(o.Name)
	switch {
	case fact == "owner":
		return alter(t) + " OWNER TO " + ident(is)
	case fact == "comment":
		return comment(t, is)
	case o.Class == inventory.Setting:
		return c.setting(o)
	case o.Class == inventory.Label:
		return o.SQL
	case o.Class == inventory.Other:
		return c.setOther(o, t, fact, is)
	case fact == "replica identity":
		return "ALTER TABLE ONLY " + qualified(t.Schema, t.Name) + " REPLICA IDENTITY " + replicaIdentity(is)
	case fact == "clustered" && is != "":
		return "ALTER TABLE " + qualified(t.Schema, t.Table) + " CLUSTER ON " + ident(t.Name)
	case fact == "clustered":
		return "ALTER TABLE " + qualified(t.Schema, t.Table) + " SET WITHOUT CLUSTER"
	case fact == "compression":
		return alter(t) + column + " SET COMPRESSION " + cmp.Or(is, "default")
	case fact == "target":
		return alter(t) + " SET STATISTICS " + cmp.Or(is, "-1")
	case fact == "enabled" && o.Class == inventory.EventTrigger:
		return alter(t) + " " + map[string]string{"O": "ENABLE", "D": "DISABLE", "R": "ENABLE REPLICA", "A": "ENABLE ALWAYS"}[is]
	case fact == "parents":
		return setParents(o, t)
	case fact == "populated":
		return "REFRESH MATERIALIZED VIEW " + qualified(t.Schema, t.Name)
	case strings.HasSuffix(fact, "row security"):
		return alter(t) + rowSecurity(fact, is != "")
	case fact == "labels":
		return addLabels(o, t)
	case fact == "not null" && o.Class == inventory.Column:
		return alter(t) + column + map[bool]string{true: " SET", false: " DROP"}[is != ""] + " NOT NULL"
	case fact == "not null":
		return "ALTER DOMAIN " + qualified(t.Schema, t.Name) + map[bool]string{true: " SET", false: " DROP"}[is != ""] + " NOT NULL"
	case fact == "type" && o.Class == inventory.Column && o.Fact("generated") == "":
		return alter(t) + column + " TYPE " + is
	case fact == "default" && o.Class == inventory.Column, fact == "settings", fact == "source", fact == "security definer", fact == "volatility", fact == "strict", fact == "leakproof", fact == "parallel", fact == "cost", fact == "rows":
		return c.redefine(o, t)
	case fact == "storage" && o.Class == inventory.Column:
		if s, ok := map[string]string{"p": "PLAIN", "e": "EXTERNAL", "x": "EXTENDED", "m": "MAIN"}[is]; ok {
			return alter(t) + column + " SET STORAGE " + s
		}
	case fact == "statistics" && o.Class == inventory.Column:
		if is == "" {
			is = "-1"
		}
		return alter(t) + column + " SET STATISTICS " + is
	case fact == "type" && o.Class == inventory.Sequence:
		return fmt.Sprintf("ALTER SEQUENCE %s AS %s MINVALUE %s MAXVALUE %s", qualified(t.Schema, t.Name), is, o.Fact("minimum"), o.Fact("maximum"))
	case fact == "increment", fact == "minimum", fact == "maximum", fact == "cache", fact == "start":
		word := map[string]string{"increment": "INCREMENT BY", "minimum": "MINVALUE", "maximum": "MAXVALUE", "cache": "CACHE", "start": "START WITH"}[fact]
		return "ALTER SEQUENCE " + qualified(t.Schema, t.Name) + " " + word + " " + is
	case fact == "cycle":
		return "ALTER SEQUENCE " + qualified(t.Schema, t.Name) + map[bool]string{true: " CYCLE", false: " NO CYCLE"}[is != ""]
	case o.Class == inventory.Index, o.Class == inventory.Constraint, o.Class == inventory.Trigger, o.Class == inventory.Rule, o.Class == inventory.Policy, o.Class == inventory.Statistics, o.Class == inventory.EventTrigger:
		return c.redefine(o, t)
	}
	return ""
}

func rowSecurity(fact string, on bool) string {
	words := map[bool]string{true: "ENABLE", false: "DISABLE"}
	if fact == "forced row security" {
		words = map[bool]string{true: "FORCE", false: "NO FORCE"}
	}
	return " " + words[on] + " ROW LEVEL SECURITY"
}

// addLabels returns the statements that add the enum labels that the target lacks. Labels cannot be
// removed.
func addLabels(o, t *inventory.Object) string {
	want, have := labels(o.Fact("labels")), labels(t.Fact("labels"))
	there := make(map[string]bool)
	for _, l := range have {
		there[l] = true
	}
	var sql []string
	for i, l := range want {
		if there[l] {
			continue
		}
		place := ""
		switch {
		case i > 0:
			place = " AFTER " + want[i-1]
		case len(have) > 0:
			place = " BEFORE " + have[0]
		}
		sql = append(sql, "ALTER TYPE "+qualified(t.Schema, t.Name)+" ADD VALUE "+l+place)
	}
	return strings.Join(sql, ";\n")
}

// labels splits a list of quoted labels.
func labels(s string) (list []string) {
	for s != "" {
		end := 1
		if strings.HasPrefix(s, "E'") {
			end = 2
		}
		for end < len(s) && (s[end] != '\'' || end+1 < len(s) && s[end+1] == '\'') {
			if s[end] == '\'' {
				end++
			}
			end++
		}
		end = min(end+1, len(s))
		list = append(list, s[:end])
		s = strings.TrimPrefix(s[end:], ", ")
	}
	return list
}
