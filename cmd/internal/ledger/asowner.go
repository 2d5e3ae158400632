package ledger

import (
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

// Statements that are printed for a superuser contain expressions that other roles wrote. To create
// a materialized view, to add a column or to check a constraint executes them. Even to parse a
// constant may call the checks of a domain. So these statements run as the owner of the object.
// SET ROLE alone is no barrier: the expressions could reset the role. The server refuses that in a
// SECURITY DEFINER function. pgapply executes recorded statements in the same way.

// asOwner has the owner execute the statements of a line that contain expressions, unless only a
// superuser can have written them, or the role that executes them owns the object.
func (c *comparison) asOwner(l *Line) {
	o := c.source[l.key]
	if c.superuserOnly(o) {
		return
	}
	owner := c.author(l)
	if l.As == c.TargetRole && owner == ident(c.bare()) {
		return
	}
	before := first(l.SQL, "")
	own := ""
	if o != nil {
		own = alter(o) + " OWNER TO " + owner
	}
	l.runAs("SET LOCAL ROLE "+owner, own, c.lends(l.key.Schema, owner))
	if after := first(l.SQL, ""); after != before && before != "" {
		l.Remedy = strings.Replace(l.Remedy, before, after, 1)
	}
}

// author returns the role, quoted, whose expressions the statements of a line contain.
func (c *comparison) author(l *Line) string {
	k := l.key
	if index := c.attaches(l); index != nil {
		k = *index
	}
	side, key := c.source, k
	if c.WithoutOwners {
		side, key = c.target, c.Renames.Key(k)
	}
	for _, k := range []inventory.Key{key, {Class: inventory.Type, Schema: key.Schema, Name: key.Table},
		{Class: inventory.Relation, Schema: key.Schema, Name: key.Table}} {
		if o := side[k]; o != nil && o.Fact("owner") != "" {
			return ident(o.Fact("owner"))
		}
	}
	return ident(c.bare())
}

// attaches returns the partitioned index that the first statement of a line attaches an index to.
func (c *comparison) attaches(l *Line) *inventory.Key {
	if len(l.SQL) == 0 {
		return nil
	}
	schema, name := sqltext.Rules{}.AttachedTo(l.SQL[0])
	for k := range c.target {
		if name != "" && (k.Class == inventory.Index || k.Class == inventory.Constraint) && k.Schema == schema && k.Name == name {
			return &k
		}
	}
	return nil
}

// lends returns the schema if a role can create objects in it only for as long as the right is lent
// to it: it may have lost the right, or a superuser has given it the objects.
func (c *comparison) lends(schema, role string) string {
	o := c.target[inventory.Key{Class: inventory.Schema, Name: schema}]
	if o == nil || ident(o.Fact("owner")) == role {
		return ""
	}
	for _, a := range o.ACL {
		if a[1] == "CREATE" && (a[0] == "PUBLIC" || ident(sqltext.Unquoted(a[0])) == role) {
			return ""
		}
	}
	return schema
}

// runAs wraps the statements with expressions: set takes the role of the owner. own is a statement
// that is superfluous then, and lend is a schema in which the owner may not create objects.
func (l *Line) runAs(set, own, lend string) {
	var list, these []string
	made := false
	flush := func() {
		if len(these) > 0 {
			list = append(list, wrap(set, lend, strings.Join(these, ";\n")))
			made, these = true, nil
		}
	}
	for _, sql := range l.SQL {
		switch {
		case evaluates(sql):
			these = append(these, sql)
			continue
		case sql == own && (made || len(these) > 0):
			continue
		}
		flush()
		list = append(list, sql)
	}
	if flush(); made {
		l.SQL = list
	}
}

// wrap returns a transaction that executes statements in a function of the owner. What they leave
// behind in the session does not affect the statements that follow.
func wrap(set, lend, sql string) string {
	tag := "$pgsluice$"
	for strings.Contains(sql, tag) {
		tag = tag[:len(tag)-1] + "_$"
	}
	role := set[strings.LastIndexByte(set, ' ')+1:]
	var list []string
	grants := lend != "" && strings.HasPrefix(set, "SET ") && makes(sql)
	if grants {
		list = append(list, "GRANT CREATE ON SCHEMA "+ident(lend)+" TO "+role)
	}
	list = append(list, set,
		"CREATE FUNCTION pg_temp.pgsluice_statement(pg_catalog.text) RETURNS pg_catalog.void LANGUAGE plpgsql SECURITY DEFINER\n"+
			"  AS 'BEGIN EXECUTE $1; SET CONSTRAINTS ALL IMMEDIATE; END'",
		"SELECT pg_temp.pgsluice_statement("+tag+sql+tag+"::pg_catalog.text)",
		"DROP FUNCTION pg_temp.pgsluice_statement(pg_catalog.text)")
	if grants {
		list = append(list, "SET LOCAL ROLE none", "REVOKE CREATE ON SCHEMA "+ident(lend)+" FROM "+role)
	}
	return "BEGIN;\n" + strings.Join(list, ";\n") + ";\nCOMMIT;\nDISCARD TEMP; RESET ALL;\n" +
		strings.TrimSuffix(strings.ReplaceAll(pgdial.Pasted(), "\n", " "), "; ")
}

// makes reports whether statements create objects in a schema.
func makes(sql string) bool {
	return slices.ContainsFunc(sqltext.Rules{}.Split(sql), func(s sqltext.Statement) bool {
		return s.Word(0) == "CREATE" || slices.Contains(s.Words, "EXCLUDE")
	})
}

// expressions has the kinds of objects whose CREATE may contain expressions.
var expressions = map[string]bool{"AGGREGATE": true, "DOMAIN": true, "FOREIGN TABLE": true, "FUNCTION": true,
	"MATERIALIZED VIEW": true, "POLICY": true, "PROCEDURE": true, "PUBLICATION": true, "RULE": true, "STATISTICS": true,
	"TABLE": true, "TABLE AS": true, "TRIGGER": true, "VIEW": true}

// evaluates reports whether a statement may contain expressions. Any name that is not a reserved
// word may stand in it without quotes.
func evaluates(sql string) bool {
	return slices.ContainsFunc(sqltext.Rules{}.Split(sql), func(s sqltext.Statement) bool {
		verb, kind, _ := strings.Cut(s.Tag(), " ")
		switch {
		case verb == "CREATE" && kind == "INDEX" || verb == "ALTER" && indexed(&s):
			return slices.Contains(s.Words, "WHERE") || nested(s.Text)
		case verb == "CREATE":
			return expressions[kind]
		case verb == "ALTER" && (strings.HasSuffix(kind, "TABLE") || kind == "DOMAIN" || kind == "INDEX"):
			n := len(s.Words)
			return !(n > 3 && s.Words[n-3] == "OWNER" && s.Words[n-2] == "TO") && slices.ContainsFunc(s.Words, func(w string) bool {
				return slices.Contains([]string{"ADD", "ATTACH", "DEFAULT", "INHERIT", "TYPE", "VALIDATE"}, w)
			})
		}
		return false
	})
}

// indexed reports whether a statement adds a constraint that has an index.
func indexed(s *sqltext.Statement) bool {
	for i, w := range s.Words {
		if w == "ADD" && s.Word(i+1) == "CONSTRAINT" { // a reserved word
			kind := s.Word(i + 3)
			return kind == "PRIMARY" || kind == "UNIQUE" || kind == "EXCLUDE"
		}
	}
	return false
}

// nested reports whether a statement has parentheses in others, as expressions have.
func nested(sql string) bool {
	return slices.ContainsFunc(sqltext.Rules{}.Tokens(sql), func(t sqltext.Token) bool { return t.Text == "(" && t.Depth > 0 })
}

// superuserOnly reports whether only a superuser can have created an object.
func (c *comparison) superuserOnly(o *inventory.Object) bool {
	if o == nil {
		return false
	}
	if o.Class == inventory.Function && untrusted(o.Fact("language")) {
		return true
	}
	return c.bySuperuser(o)
}

// untrusted reports whether only a superuser can write functions in a language.
func untrusted(language string) bool {
	return language == "c" || language == "internal" || strings.HasSuffix(language, "u")
}

// refusedAs has the owner execute the statements of an object that the load could not create.
// owners are those that the load could not set, by kind and name. loader is the role of the load.
func (l *Line) refusedAs(f *progress.Object, owners map[string]string, loader string) {
	tokens := sqltext.Rules{}.Tokens(f.SQL)
	for i := range len(tokens) - 1 {
		if strings.EqualFold(tokens[i].Text, "LANGUAGE") && f.Type == "FUNCTION" && untrusted(sqltext.Unquoted(tokens[i+1].Text)) {
			return
		}
	}
	set := "SET LOCAL ROLE " + ident(loader)
	switch owner := owners[f.Schema+"."+f.Type+" "+f.Name]; {
	case owner != "":
		set = "SET LOCAL ROLE " + owner
	case f.Table != "":
		set = "SELECT pg_catalog.set_config('role', pg_catalog.pg_get_userbyid(relowner), true) FROM pg_catalog.pg_class WHERE oid = " +
			literal(qualified(f.Schema, f.Table)) + "::pg_catalog.regclass"
	}
	l.runAs(set, "", "")
}
