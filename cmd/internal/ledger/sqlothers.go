package ledger

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// Statements for operators, text search, foreign servers, publications and similar objects.

// Superuser is the value of Line.As for statements that need a superuser.
const Superuser = "superuser"

// as returns the role that may execute a line's statements.
func (c *comparison) as(l *Line) string {
	o := c.source[l.key]
	if o == nil {
		o = c.target[c.Renames.Key(l.key)]
	}
	if l.denied || o != nil && c.bySuperuser(o) {
		return Superuser
	}
	return c.TargetRole
}

// bySuperuser reports whether an object is of a kind that only a superuser can create.
func (c *comparison) bySuperuser(o *inventory.Object) bool {
	switch o.Class {
	case inventory.EventTrigger:
		return true
	case inventory.Function:
		if language := o.Fact("language"); language == "c" || language == "internal" {
			return true
		}
	case inventory.Type:
		if kind := o.Fact("kind"); kind == "b" || kind == "p" {
			return true
		}
	case inventory.Setting:
		if o.Fact("role") != "" {
			return true
		}
	case inventory.Other:
		switch o.Kind {
		case "operator class", "operator family", "text search parser", "text search template",
			"access method", "foreign-data wrapper", "language", "transform":
			return true
		case "publication":
			if o.Fact("all tables") != "" || strings.Contains(o.SQL, "TABLES IN SCHEMA ") {
				return true
			}
		}
	}
	return false
}

// give adds the owner to the statements of an object that a superuser creates for the target role.
func (c *comparison) give(l *Line) {
	o := c.source[l.key]
	if l.As != Superuser || l.Problem != "missing" || o == nil || o.Class == inventory.EventTrigger || c.WithoutOwners || c.renamed() || len(l.SQL) == 0 {
		return
	}
	if owner := o.Fact("owner"); owner != "" && ident(owner) == ident(c.bare()) {
		l.SQL = append(l.SQL, alter(o)+" OWNER TO "+ident(owner))
	}
}

// otherName returns an object of class Other in the form that DROP, ALTER and COMMENT ON use.
func otherName(o *inventory.Object) string {
	switch o.Kind {
	case "foreign-data wrapper":
		return "FOREIGN DATA WRAPPER " + o.Name
	case "user mapping":
		user, server, _ := strings.Cut(o.Name, " on server ")
		return "USER MAPPING FOR " + user + " SERVER " + server
	}
	return strings.ToUpper(o.Kind) + " " + o.Name
}

// replicaIdentity returns a replica identity in the form that ALTER TABLE uses.
func replicaIdentity(is string) string {
	if index, ok := strings.CutPrefix(is, "using index "); ok {
		return "USING INDEX " + index
	}
	return strings.ToUpper(is)
}

// redefineOther returns the statements that drop and recreate an object of a kind that cannot be
// altered and that nothing depends on.
func (c *comparison) redefineOther(o, t *inventory.Object) string {
	if o.SQL == "" {
		return ""
	}
	switch o.Kind {
	case "cast", "transform", "conversion", "publication":
	default:
		return ""
	}
	return "DROP " + named(t) + ";\n" + strings.Join(c.create(o), ";\n")
}

// setOther returns the statement that gives a fact of the target's object the source's value.
func (c *comparison) setOther(o, t *inventory.Object, fact, is string) string {
	word, of, _ := strings.Cut(fact, " ")
	was := t.Fact(fact)
	switch o.Kind {
	case "text search configuration":
		if word != "mapping" {
			return ""
		}
		verb := " ALTER"
		switch "" {
		case is:
			return alter(t) + " DROP MAPPING FOR " + of
		case was:
			verb = " ADD"
		}
		return alter(t) + verb + " MAPPING FOR " + of + " WITH " + is
	case "text search dictionary":
		if fact == "options" && is != "" {
			return alter(t) + " (" + is + ")"
		}
	case "operator":
		if fact == "restrict" || fact == "join" {
			name, _, _ := strings.Cut(is, "(")
			return alter(t) + " SET (" + strings.ToUpper(fact) + " = " + orNone(name) + ")"
		}
	case "operator family":
		number, types, _ := strings.Cut(of, " ")
		drop, add := alter(t)+" DROP "+strings.ToUpper(word)+" "+number+" "+types, alter(t)+" ADD "+strings.ToUpper(word)+" "+number
		if word == "function" {
			add += " " + types
		}
		switch {
		case word != "operator" && word != "function":
			return ""
		case is == "":
			return drop
		case was == "":
			return add + " " + is
		}
		return drop + ";\n" + add + " " + is
	case "server", "foreign-data wrapper":
		switch {
		case word == "option" && is == "":
			return alter(t) + " OPTIONS (DROP " + ident(of) + ")"
		case word == "option" && was == "":
			return alter(t) + " OPTIONS (ADD " + ident(of) + " " + literal(is) + ")"
		case word == "option":
			return alter(t) + " OPTIONS (SET " + ident(of) + " " + literal(is) + ")"
		case fact == "version":
			return alter(t) + " VERSION " + literal(is)
		case fact == "handler" || fact == "validator":
			name, _, _ := strings.Cut(is, "(")
			if is == "" {
				return alter(t) + " NO " + strings.ToUpper(fact)
			}
			return alter(t) + " " + strings.ToUpper(fact) + " " + name
		}
	case "publication":
		switch fact {
		case "publish":
			return alter(t) + " SET (publish = " + literal(is) + ")"
		case "via root":
			return alter(t) + " SET (publish_via_partition_root = " + map[bool]string{true: "true", false: "false"}[is != ""] + ")"
		}
		return c.redefineOther(o, t)
	default:
		return c.redefineOther(o, t)
	}
	return ""
}

func orNone(s string) string {
	if s == "" {
		return "NONE"
	}
	return s
}
