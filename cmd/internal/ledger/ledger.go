// Package ledger compares source and target. For each object that is missing or different, it says
// why and what to do about it. It queries no server.
package ledger

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
)

// Classes of lines.
const (
	Integrity = "integrity" // the target could accept invalid rows, or hand out a value twice
	Rights    = "rights"
	Rest      = "other"
)

// A Line is one object of the source that is missing or different on the target.
type Line struct {
	// the same in every run for the same object and problem
	ID   string `json:"id"`
	Kind string `json:"kind"`
	Name string `json:"name"`
	// missing, differs, rights, no rights, dropped, sequence, not carried, changed, uncounted,
	// truncated, failed, orphans
	Problem string   `json:"problem"`
	Class   string   `json:"class"`
	Cause   string   `json:"cause"`
	Remedy  string   `json:"remedy"`
	SQL     []string `json:"sql"` // to be executed on the target
	// The role that may execute the statements: the target role of the migration, or superuser.
	As      string `json:"as"`
	Allowed bool   `json:"allowed"`

	key    inventory.Key
	order  int
	waits  bool // the target does not have it yet, and has recorded an older statement for it
	failed bool // the load has tried to create it
	denied bool // for lack of a right, which a superuser has
}

// Baseline is what the load recorded of an object: hashes of its definition and its facts on the
// source, and of its definition on the target when the load was complete. Target is empty if the
// object was not there.
type Baseline struct{ Definition, Facts, Target string }

// Input is the input of Compare.
type Input struct {
	Source, Target []inventory.Object
	// Baseline is what the load brought, or nil if the load recorded nothing.
	Baseline map[inventory.Key]Baseline
	// Selected: the load covered only the objects in the baseline, and what belongs to tables in
	// it. ByHand: the schema was created by hand, so that only changes on the source since then
	// count.
	Selected, ByHand             bool
	WithoutOwners, WithoutRights bool
	Renames                      Renames
	Failed, Pending              []progress.Object
	// Roles of the sessions, quoted where needed. Their own rights serve the migration.
	SourceRole, TargetRole string
	// Ended: the target is in use and may have changed. Only objects that the load could not create
	// count as missing.
	Ended bool
	// Stream is the id of the migration if a cutover follows, or 0.
	Stream int32
	// OldRights: one of the servers does not have the privilege MAINTAIN.
	OldRights bool
	Database  string // of the target
	// Role says whether a role exists on the target.
	Role map[string]bool
}

// ID returns the id of the line for a problem of an object.
func ID(problem string, k inventory.Key) string {
	h := sha256.Sum256([]byte(strings.Join([]string{problem, k.Class, k.Schema, k.Table, k.Name}, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(h[:5]))
}

// add completes a line and appends it.
func (c *comparison) add(l Line) *Line {
	l.ID = ID(l.Problem, l.key)
	switch {
	case l.Name != "":
	case l.key.Class == inventory.Database:
		l.Name = c.Database
	case l.key.Class == inventory.Label:
		l.Name = l.key.Name + " by " + l.key.Table
	case l.key.Class == inventory.Other && l.Kind == l.key.Table: // the name includes the schema
		l.Name = l.key.Name
	default:
		l.Name = l.key.String()
	}
	if l.Class == "" {
		l.Class = Rest
	}
	if l.SQL == nil {
		l.SQL = []string{}
	}
	if l.order == 0 {
		l.order = orderOf(l.key)
	}
	c.lines = append(c.lines, &l)
	return &l
}

// order is the order in which statements can be executed.
var order = map[string]int{
	inventory.Schema: 1, inventory.Extension: 2, inventory.Type: 3, inventory.Function: 4, inventory.Other: 5,
	inventory.Sequence: 5, inventory.Relation: 6, inventory.Column: 7, inventory.DomainConstraint: 8,
	inventory.Index: 11, inventory.Constraint: 12, inventory.Statistics: 13, inventory.Rule: 14,
	inventory.Policy: 15, inventory.Trigger: 16,
	inventory.Privileges: 17, inventory.Setting: 18, inventory.Database: 18, inventory.Label: 18, inventory.EventTrigger: 19,
}

// orderOf returns the position of an object. Languages and collations come before objects that use
// them, and publications come after their tables.
func orderOf(k inventory.Key) int {
	if k.Class == inventory.Other {
		switch k.Table {
		case "language", "collation":
			return order[inventory.Extension]
		case "publication":
			return order[inventory.Privileges]
		}
	}
	return order[k.Class]
}

// Blocking returns the lines that were not allowed.
func Blocking(lines []Line) (list []Line) {
	for _, l := range lines {
		if !l.Allowed {
			list = append(list, l)
		}
	}
	return list
}

type comparison struct {
	Input
	lines     []*Line
	source    map[inventory.Key]*inventory.Object
	target    map[inventory.Key]*inventory.Object
	pending   map[inventory.Key]bool
	waits     map[inventory.Key]bool // tables whose row security waits for the cutover
	awaited   map[inventory.Key]*awaited
	sequences *Sequences
	// relations that are missing or dropped, so that their parts need no lines
	gone    map[inventory.Key]bool
	settled []int64
}

// Compare returns the differences, in an order in which their statements can be executed. settled
// has the IDs of the failed objects that exist by now.
func Compare(in Input) (differ []Line, settled []int64) {
	in.Renames = in.Renames.prepared()
	c := &comparison{Input: in, source: byKey(in.Source), target: byKey(in.Target),
		pending: make(map[inventory.Key]bool), waits: make(map[inventory.Key]bool),
		sequences: MatchSequences(in.Source, in.Target, in.Renames), gone: make(map[inventory.Key]bool)}
	c.await()
	for i := range in.Source {
		c.object(&in.Source[i])
	}
	c.dropped()
	c.sequencesLeft()
	c.failures()
	slices.SortStableFunc(c.lines, func(a, b *Line) int { return cmp.Compare(a.order, b.order) })
	lines := make([]Line, 0, len(c.lines))
	for _, l := range c.lines {
		if l.failed || !in.Ended {
			l.As = c.as(l)
			c.give(l)
			c.asOwner(l)
			l.portable()
			lines = append(lines, *l)
		}
	}
	return lines, c.settled
}

func byKey(list []inventory.Object) map[inventory.Key]*inventory.Object {
	m := make(map[inventory.Key]*inventory.Object, len(list))
	for i := range list {
		m[list[i].Key] = &list[i]
	}
	return m
}

// wanted reports whether an object belongs to what the load was to bring.
func (c *comparison) wanted(k inventory.Key) bool {
	if !c.Selected {
		return true
	}
	if _, ok := c.Baseline[k]; ok {
		return true
	}
	_, ok := c.Baseline[inventory.Key{Class: inventory.Relation, Schema: k.Schema, Name: k.Table}]
	return ok && k.Table != ""
}

// parent returns the table that an object is part of.
func parent(k inventory.Key) (inventory.Key, bool) {
	switch k.Class {
	case inventory.Column, inventory.Index, inventory.Constraint, inventory.Trigger, inventory.Rule, inventory.Policy:
		return inventory.Key{Class: inventory.Relation, Schema: k.Schema, Name: k.Table}, true
	}
	return inventory.Key{}, false
}

func (c *comparison) object(o *inventory.Object) {
	if !c.wanted(o.Key) {
		return
	}
	if p, ok := parent(o.Key); ok && c.gone[p] {
		return
	}
	base, known := c.Baseline[o.Key]
	definition, facts := o.Fingerprint()
	if c.ByHand && known && base.Definition == definition && base.Facts == facts {
		return // unchanged since the target's schema was created by hand
	}
	t := c.counterpart(o)
	if t == nil {
		if o.Class == inventory.Relation {
			c.gone[o.Key] = true
		}
		a := c.awaited[c.Renames.Key(o.Key)]
		switch {
		case a == nil:
			c.missing(o)
		case known && (base.Definition != definition || base.Facts != facts):
			c.awaits(o, a)
		}
		return
	}
	c.differs(o, t, known && base.Definition != definition && base.Target != "" && base.Target == targetDefinition(t))
	if !c.WithoutRights {
		c.rights(o, t)
	}
}

func targetDefinition(o *inventory.Object) string {
	definition, _ := o.Fingerprint()
	return definition
}

// counterpart returns the target's object for one of the source, or nil.
func (c *comparison) counterpart(o *inventory.Object) *inventory.Object {
	if o.Class == inventory.Sequence {
		return c.sequences.Find(o)
	}
	return c.target[c.Renames.Key(o.Key)]
}

// dropped finds objects that existed on the source at the time of the load and no longer do.
func (c *comparison) dropped() {
	var keys []inventory.Key
	for k := range c.Baseline {
		if c.source[k] == nil {
			keys = append(keys, k)
		}
	}
	slices.SortFunc(keys, func(a, b inventory.Key) int {
		return cmp.Or(cmp.Compare(orderOf(a), orderOf(b)), cmp.Compare(a.String(), b.String()))
	})
	for _, k := range keys {
		on := c.Renames.Key(k)
		t := c.target[on]
		if k.Class == inventory.Relation {
			c.gone[k] = true
		}
		a := c.awaited[on]
		if p, ok := parent(k); ok && c.gone[p] && (a == nil || c.target[c.Renames.Key(p)] != nil) {
			continue
		}
		if a != nil && t == nil {
			c.forgets(k, a)
			continue
		}
		if t == nil || c.pending[on] && !c.waits[on] || c.ByHand && c.Baseline[k].Target == "" {
			continue
		}
		if k.Class == inventory.Sequence && (t.Fact("identity") != "" || c.sequences.found[t]) {
			continue // it is dropped with its column, or the column identifies it
		}
		l := Line{key: k, Kind: t.Kind, Problem: "dropped",
			Cause: "the source has dropped it since it was loaded, or named it otherwise",
			SQL:   list(dropSQL(t)), order: -orderOf(k)}
		if l.Class = classOf(t); l.Class == Integrity {
			l.Class = Rest // the source now enforces less than the target
		}
		l.Remedy = "on the target: " + first(l.SQL, "drop it, or rename it as the source has")
		c.add(l)
	}
}

// sequencesLeft finds sequences of the target that feed columns and have no counterpart on the
// source to set them by.
func (c *comparison) sequencesLeft() {
	tables := make(map[[2]string]bool)
	for i := range c.Source {
		if o := &c.Source[i]; o.Class == inventory.Relation && c.wanted(o.Key) {
			tables[c.Renames.table(o.Schema, o.Name)] = true
		}
	}
	for _, l := range c.sequences.Left(tables) {
		c.add(Line{key: l.Sequence.Key, Kind: "sequence", Problem: "sequence", Class: Integrity,
			Cause: "column " + l.Column +
				" of the target takes its values from it, and the source has no such sequence to set it by",
			Remedy: "give the column the default or the identity that it has on the source"})
	}
}

func list(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// first returns the first statement if it fits on a line. Otherwise it returns a reference to
// --sql, or the alternative if there is no statement.
func first(sql []string, or string) string {
	const most = 200
	switch {
	case len(sql) == 0:
		return or
	case len(sql[0]) > most || strings.Contains(sql[0], "\n"):
		return "see --sql"
	}
	return sqltext.Rules{}.Portable(sql[0])
}

// portable makes the statements mean the same in every session: the source printed them for
// standard_conforming_strings = on.
func (l *Line) portable() {
	for i, s := range l.SQL {
		l.SQL[i] = sqltext.Rules{}.Portable(s)
	}
}

// Waits reports whether the object waits for the cutover, with an older statement. The statements
// of the line only replace what is recorded.
func (l *Line) Waits() bool { return l.waits }

// Table returns the source table of a line.
func (l *Line) Table() (schema, table string, ok bool) {
	return l.key.Schema, l.key.Name, l.key.Class == inventory.Relation
}

// NotCarried returns the line of a table whose changes do not reach the target.
func NotCarried(schema, table string) Line {
	var c comparison
	return *c.add(Line{key: inventory.Key{Class: inventory.Relation, Schema: schema, Name: table},
		Kind: "table", Problem: "not carried", Class: Integrity,
		Cause: "what changes in it on the source does not reach the target"})
}

// Changed returns the line of a table that differs, or may differ, because its changes are carried
// only in part. problem is changed, uncounted or truncated: who allows a table that nobody can
// judge has not allowed one that is known to have changed.
func Changed(problem, schema, table string) Line {
	var c comparison
	return *c.add(Line{key: inventory.Key{Class: inventory.Relation, Schema: schema, Name: table},
		Kind: "table", Problem: problem, Class: Integrity})
}

// Orphans returns the line of a foreign key of the source that existing rows violate.
func Orphans(k inventory.Key, cause, remedy string) Line {
	var c comparison
	return *c.add(Line{key: k, Kind: "foreign key", Problem: "orphans", Class: Integrity, Cause: cause, Remedy: remedy})
}
