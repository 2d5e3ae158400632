package sqltext

import "slices"

// kinds lists the object kinds of more than one word: the first word, and the words that may
// follow.
var kinds = map[string][][]string{
	"ACCESS":       {{"METHOD"}},
	"DEFAULT":      {{"PRIVILEGES"}},
	"EVENT":        {{"TRIGGER"}},
	"FOREIGN":      {{"DATA", "WRAPPER"}, {"TABLE"}},
	"LARGE":        {{"OBJECT"}},
	"MATERIALIZED": {{"VIEW"}},
	"OPERATOR":     {{"CLASS"}, {"FAMILY"}},
	"TEXT":         {{"SEARCH", "CONFIGURATION"}, {"SEARCH", "DICTIONARY"}, {"SEARCH", "PARSER"}, {"SEARCH", "TEMPLATE"}},
	"USER":         {{"MAPPING"}},
}

// before has the words that may come between CREATE and the kind.
var before = map[string]bool{"OR": true, "REPLACE": true, "GLOBAL": true, "LOCAL": true, "TEMP": true, "TEMPORARY": true, "UNLOGGED": true,
	"UNIQUE": true, "RECURSIVE": true, "CONSTRAINT": true, "TRUSTED": true, "PROCEDURAL": true}

// kindAt returns the kind of object that is named from word i on, and the index of the word after
// it.
func (s *Statement) kindAt(i int) (string, int) {
	w := s.Word(i)
	for _, more := range kinds[w] {
		if slices.Equal(s.Words[min(i+1, len(s.Words)):min(i+1+len(more), len(s.Words))], more) {
			for _, m := range more {
				w += " " + m
			}
			return w, i + 1 + len(more)
		}
	}
	return w, i + 1
}

// kind returns the kind of object that CREATE, ALTER or DROP names.
func (s *Statement) kind() string {
	i := 1
	if s.Word(0) == "CREATE" {
		for before[s.Word(i)] || s.Word(i) == "DEFAULT" && s.Word(i+1) == "CONVERSION" {
			i++
		}
	} else if s.Word(i) == "PROCEDURAL" {
		i++
	}
	k, _ := s.kindAt(i)
	return k
}

// Tag returns the command tag of a statement as event triggers see it. It returns "" if no event
// trigger sees the statement, or if the tag is not known.
func (s *Statement) Tag() string {
	if s.odd {
		return ""
	}
	switch w := s.Word(0); w {
	case "CREATE":
		k := s.kind()
		if k == "TABLE" && s.has("AS") {
			k = "TABLE AS"
		}
		return "CREATE " + k
	case "ALTER", "DROP":
		return w + " " + s.kind()
	case "COMMENT", "GRANT", "REVOKE":
		return w
	case "SECURITY":
		return "SECURITY LABEL"
	case "REFRESH":
		return "REFRESH MATERIALIZED VIEW"
	case "IMPORT":
		return "IMPORT FOREIGN SCHEMA"
	case "SELECT", "WITH":
		if s.has("INTO") && !s.has("INSERT") && !s.has("MERGE") {
			return "SELECT INTO"
		}
	}
	return ""
}

// global has the kinds of objects that do not belong to a database. No event trigger fires for
// them, nor for event triggers.
var global = map[string]bool{"DATABASE": true, "ROLE": true, "USER": true, "GROUP": true, "TABLESPACE": true,
	"SYSTEM": true, "PARAMETER": true,
	"EVENT TRIGGER": true}

// Fires reports whether the event triggers of ddl install count a statement. They exclude
// publications and subscriptions. They also exclude REINDEX, for which only newer servers fire.
func (s *Statement) Fires() bool {
	switch s.Word(0) {
	case "CREATE", "ALTER", "DROP":
		k := s.kind()
		return !global[k] && k != "PUBLICATION" && k != "SUBSCRIPTION"
	case "COMMENT", "SECURITY":
		i := slices.Index(s.Words, "ON")
		if i < 0 {
			return false
		}
		k, _ := s.kindAt(i + 1)
		return !global[k]
	case "GRANT", "REVOKE":
		i := slices.Index(s.Words, "ON")
		if i < 0 {
			return false // membership of roles
		}
		k, next := s.kindAt(i + 1)
		// A table may have such a name.
		return !global[k] || s.Word(next) == "TO" || s.Word(next) == "FROM"
	}
	return s.Tag() != ""
}

// Unsure reports whether a statement may fire an event trigger although Fires does not recognize
// it.
func (s *Statement) Unsure() bool { return s.odd }
