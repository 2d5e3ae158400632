package ledger

import (
	"fmt"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// classOf returns the class of risk if an object is missing or different on the target.
func classOf(o *inventory.Object) string {
	switch o.Class {
	case inventory.Constraint, inventory.DomainConstraint:
		return Integrity
	case inventory.Index:
		if o.Kind == "unique index" {
			return Integrity
		}
	case inventory.Sequence:
		return Integrity
	case inventory.Policy, inventory.Privileges, inventory.Label:
		return Rights
	case inventory.Column:
		return Integrity
	}
	return Rest
}

// missing adds the line of an object that the target does not have.
func (c *comparison) missing(o *inventory.Object) {
	l := Line{key: o.Key, Kind: o.Kind, Problem: "missing", Class: classOf(o), Cause: "the target does not have it"}
	if c.Baseline != nil {
		if _, known := c.Baseline[o.Key]; !known {
			l.Cause = "the source has it since the load"
		}
	}
	switch o.Class {
	case inventory.Setting:
		l.Name = settingName(o)
		l.Cause = "the target has no such setting"
	case inventory.Relation:
		if o.Kind == "view" || o.Kind == "materialized view" {
			l.order = order[inventory.Column] + 1
		}
	}
	if l.SQL = c.later(o); l.SQL == nil {
		l.SQL = c.create(o)
	}
	l.Remedy = "on the target: " + first(l.SQL, "create it as it is on the source")
	if o.Class == inventory.Relation && strings.Contains(o.Kind, "table") && o.Kind != "foreign table" {
		l.Remedy = "load it: pgextract --table … --reload | pgapply"
	}
	c.add(l)
}

// notCompared has the facts that do not count as a difference.
var notCompared = map[string]bool{"initial": true, "table schema": true, "table": true, "column": true,
	"feeds": true, "role": true, "parameter": true, "partition": true, "of": true}

// differs adds a line if an object of the source is different on the target. changed means that its
// definition has changed on the source since the load, but not on the target.
func (c *comparison) differs(o, t *inventory.Object, changed bool) {
	var causes, sql []string
	class := Rest
	say := func(cause, statement string) {
		causes = append(causes, cause)
		if statement != "" && !slices.Contains(sql, statement) {
			sql = append(sql, statement)
		}
	}
	if o.Kind != t.Kind && !(c.ByHand && strings.HasSuffix(t.Kind, "table")) {
		say(fmt.Sprintf("on the target it is a %s", t.Kind), "")
		class = classOf(o)
	}
	if o.Class == inventory.Sequence {
		if k := c.Renames.Key(o.Key); t.Key != k {
			say(fmt.Sprintf("on the target it is called %v", t.Key), renameSequence(t, k))
		}
	}
	facts := c.facts(o, t)
	for i := 0; i+1 < len(facts); i += 2 {
		name, is := facts[i], facts[i+1]
		was := t.Fact(name)
		switch {
		case is == was, notCompared[name], name == "owner" &&
			(c.WithoutOwners || is == "" || o.Class == inventory.Database),
			name == "mapping options" && (is == "" || was == ""), name == "populated" && is == "",
			name == "enabled" && c.pending[t.Key], c.waits[t.Key] &&
				(name == "row security" || name == "forced row security"), o.Class == inventory.Schema &&
				name == "comment" && o.Name == "public":
			continue
		}
		say(fmt.Sprintf("%s is %s, on the target %s", name, value(is), value(was)), c.set(o, t, name, is))
		switch name {
		case "owner", "row security", "forced row security", "security definer", "roles", "permissive", "trusted", "label":
			class = Rights
		case "comment":
		default:
			if class == Rest {
				class = classOf(o)
			}
		}
	}
	if changed {
		say("its definition has changed on the source since the load, and not on the target", c.redefine(o, t))
		if class == Rest {
			class = classOf(o)
		}
	}
	if len(causes) == 0 {
		return
	}
	l := Line{key: o.Key, Kind: o.Kind, Problem: "differs", Class: class, Cause: strings.Join(causes, "; "), SQL: sql}
	if o.Class == inventory.Setting {
		l.Name = settingName(o)
	}
	if o.Class == inventory.Relation && strings.HasSuffix(o.Kind, "view") {
		l.order = order[inventory.Column] + 1
	}
	l.Remedy = "on the target: " + first(l.SQL, "make it as it is on the source")
	c.add(l)
}

// facts returns the facts of an object with the names that they have on the target. It adds facts
// that only the target's object has, such as an option or a table of a publication.
func (c *comparison) facts(o, t *inventory.Object) []string {
	if o.Class != inventory.Other && !c.renamed() {
		return o.Facts
	}
	facts, known := make([]string, len(o.Facts)), make(map[string]bool, len(o.Facts)/2)
	for i := range o.Facts {
		if facts[i] = c.Renames.text(o.Facts[i]); i%2 == 0 {
			known[facts[i]] = true
		}
	}
	for i := 0; i+1 < len(t.Facts); i += 2 {
		if name := t.Facts[i]; !known[name] {
			facts = append(facts, name, "")
		}
	}
	return facts
}

func value(s string) string {
	const most = 100
	switch {
	case s == "":
		return "none"
	case len(s) > most:
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}

func settingName(o *inventory.Object) string {
	if r := o.Fact("role"); r != "" {
		return o.Fact("parameter") + " of role " + r
	}
	return o.Fact("parameter")
}
