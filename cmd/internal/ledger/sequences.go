package ledger

import (
	"slices"

	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
)

// Sequences pairs the source's sequences with the target's. The column that a sequence belongs to,
// or feeds, identifies it better than its name, which may have changed.
type Sequences struct {
	target []inventory.Object
	pairs  map[inventory.Key]*inventory.Object
	found  map[*inventory.Object]bool
}

// MatchSequences pairs the sequences among the objects of both sides.
func MatchSequences(source, target []inventory.Object, r Renames) *Sequences {
	s := &Sequences{target: target, pairs: make(map[inventory.Key]*inventory.Object), found: make(map[*inventory.Object]bool)}
	owned, fed, named := make(map[inventory.Key]*inventory.Object), make(map[inventory.Key]*inventory.Object),
		make(map[inventory.Key]*inventory.Object)
	for i := range target {
		o := &target[i]
		if o.Class != inventory.Sequence {
			continue
		}
		named[o.Key] = o
		if o.Fact("column") != "" {
			owned[owner(o)] = o
		}
		for _, column := range o.Uses() {
			fed[column] = o
		}
	}
	var rest []*inventory.Object
	for i := range source {
		if source[i].Class == inventory.Sequence {
			rest = append(rest, &source[i])
		}
	}
	for _, by := range []func(o *inventory.Object) *inventory.Object{
		// A column may own several sequences, for example after a change from serial to identity.
		func(o *inventory.Object) *inventory.Object {
			t := named[r.Key(o.Key)]
			if t == nil || o.Fact("column") == "" || t.Fact("column") == "" || owner(t) != r.Key(owner(o)) {
				return nil
			}
			return t
		},
		func(o *inventory.Object) *inventory.Object {
			if o.Fact("column") == "" {
				return nil
			}
			return owned[r.Key(owner(o))]
		},
		func(o *inventory.Object) *inventory.Object {
			for _, column := range o.Uses() {
				if t := fed[r.Key(column)]; t != nil && !s.found[t] {
					return t
				}
			}
			return nil
		},
		func(o *inventory.Object) *inventory.Object { return named[r.Key(o.Key)] },
	} {
		rest = slices.DeleteFunc(rest, func(o *inventory.Object) bool {
			t := by(o)
			if t == nil || s.found[t] {
				return false
			}
			s.pairs[o.Key], s.found[t] = t, true
			return true
		})
	}
	return s
}

// owner returns the column that owns a sequence.
func owner(o *inventory.Object) inventory.Key {
	return inventory.Key{Class: inventory.Column, Schema: o.Fact("table schema"), Table: o.Fact("table"), Name: o.Fact("column")}
}

// Find returns the target's sequence for one of the source, or nil.
func (s *Sequences) Find(o *inventory.Object) *inventory.Object { return s.pairs[o.Key] }

// A Left is a sequence of the target that feeds a column and has no counterpart on the source.
type Left struct {
	Sequence *inventory.Object
	Column   string
}

// ID returns the id of the line for the sequence.
func (l Left) ID() string { return ID("sequence", l.Sequence.Key) }

// Left returns the unpaired sequences that feed columns of the given tables.
func (s *Sequences) Left(tables map[[2]string]bool) (list []Left) {
	for i := range s.target {
		o := &s.target[i]
		if o.Class != inventory.Sequence || s.found[o] {
			continue
		}
		for _, f := range o.Uses() {
			if tables[[2]string{f.Schema, f.Table}] {
				list = append(list, Left{o, f.Schema + "." + f.Table + "." + f.Name})
				break
			}
		}
	}
	return list
}
