package write

import (
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/format"
)

// Without a slot, all tables must be as of one snapshot, because no changes follow that would make
// up for what was written between two of them.

// keeps notes that the target keeps a table that another snapshot has loaded.
func (l *Loader) keeps(t *loadTable) {
	if l.Stream.Key.Slot == "" && !l.Reload && t.state.Complete() && t.state.Snapshot != l.Snapshot {
		l.kept = append(l.kept, t)
	}
}

// oneSnapshot refuses to add rows from this snapshot to tables of the same load that the target
// keeps from another one.
func (l *Loader) oneSnapshot(rel *format.Relation) error {
	if l.Stream.Key.Slot != "" || l.Reload {
		return nil
	}
	var names []string
	for _, t := range l.kept {
		if !t.tree.anew(l) {
			names = append(names, t.String())
		}
	}
	s := l.states[lobTable]
	if rel != nil && l.Whole && l.Objects && s != nil && s.Complete() && s.Snapshot != l.Snapshot {
		names = append(names, "large objects")
	}
	if len(names) == 0 {
		return nil
	}
	what := "large objects"
	hint := "Start again, into an empty database."
	if rel != nil {
		what = "table " + rel.Schema + "." + rel.Name
		hint += " If nothing was written to the source in between, or this table may be newer than the others: " + only(rel)
	}
	return fault.New(fault.Config, "cannot load %s from another snapshot than what the target has already: %s", what, count.Some(names)).
		WithDetail("Without a slot, all tables must be read from one snapshot.").WithHint("%s", hint)
}

// only returns the command that loads tables by themselves, without a slot.
func only(tables ...*format.Relation) string { return "pgextract" + patterns(tables) + " | pgapply" }

// again returns the command that loads tables again.
func again(slot string, tables []*format.Relation) string {
	return "pgextract --slot " + text.Shell(slot) + patterns(tables) + " --reload | pgapply"
}

func patterns(tables []*format.Relation) string {
	var b strings.Builder
	for _, rel := range tables {
		b.WriteString(" --table " + shellPattern(rel))
	}
	return b.String()
}
