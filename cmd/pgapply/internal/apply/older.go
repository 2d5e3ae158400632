package apply

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/sqltext"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/write"
	"github.com/pgsluice/pgsluice/format"
)

// A recorded statement must meet the rows that it met on the source. A table that was loaded again,
// or that an interrupted load read later than others, has its rows and columns as of its snapshot.
// Older changes of its rows are skipped, and so must be older statements. A statement that concerns
// older and newer tables can be neither skipped nor executed.

// A touched is a loaded table that a recorded statement concerns.
type touched struct {
	name     [2]string // on the target
	newer    bool      // its snapshot includes the statement
	inObject bool      // the table is among the statement's objects
}

// included reports whether the loaded tables include a recorded statement of the open transaction.
// It returns an error if they do only in part, or if that is not known.
func (f *follower) included(ctx context.Context, d *format.DDL) (bool, error) {
	if f.tx.commit >= f.progress.snapshot || f.cur.Skip {
		return false, nil
	}
	reach := write.ReachOf(d)
	switch reach {
	case write.None:
		return false, nil
	case write.Unknown:
		return false, f.unclear(d)
	}
	tables, err := f.touched(ctx, d, reach)
	if err != nil {
		return false, err
	}
	some := func(newer, inObject bool) bool {
		return slices.ContainsFunc(tables, func(t touched) bool { return t.newer == newer && t.inObject == inObject })
	}
	named := some(true, true)
	switch {
	case reach == write.Filled && !named:
		return false, f.unclear(d)
	case !named && !some(true, false):
		return false, nil
	case !named, some(false, true), reach == write.Joined && some(false, false):
		return false, f.mixed(d, tables)
	case reach == write.Computed, reach == write.Moved && len(f.Rename) > 0:
		return false, f.unclear(d)
	}
	// What a load has left under an old name is in the way of whatever gets that name: sync stops
	// there.
	f.Log.Info(fmt.Sprintf("the %s of the transaction with commit LSN %v is older than the rows of %s, which include it; it is not repeated",
		d.Type, f.tx.commit, list(tables, true)))
	return true, nil
}

// touched returns the loaded tables that a statement concerns.
func (f *follower) touched(ctx context.Context, d *format.DDL, reach write.Reach) (tables []touched, err error) {
	add := func(name [2]string, inObject bool) {
		lsn, loaded := f.snapshots[name]
		if loaded && !slices.ContainsFunc(tables, func(t touched) bool { return t.name == name }) {
			tables = append(tables, touched{name, lsn > f.tx.commit, inObject})
		}
	}
	var names [][2]string
	for _, o := range d.Objects {
		switch {
		case o.Type == "table" && len(o.Names) == 2, o.Type == "table column" && len(o.Names) == 3:
			schema, name := f.mapper.Target(o.Names[0], o.Names[1])
			names = append(names, [2]string{schema, name})
		case o.Type == "schema" && len(o.Names) == 1:
			f.inSchema(o.Names[0], func(name [2]string) { add(name, true) })
		}
	}
	for _, name := range names {
		add(name, true)
	}
	if d.Type != "CREATE TABLE" && len(names) > 0 {
		heirs, err := catalog.Heirs(ctx, f.control, names)
		if err != nil {
			return nil, f.Server.Explain(err)
		}
		for _, name := range heirs {
			add(name, true)
		}
	}
	if reach != write.Moved && reach != write.Joined {
		return tables, nil
	}
	for _, t := range sqltext.RulesOf(d.Settings).Tokens(d.SQL) {
		if !t.Word && !t.Name {
			continue
		}
		word := sqltext.Unquoted(t.Text)
		if d.Type == "ALTER SCHEMA" {
			f.inSchema(word, func(name [2]string) { add(name, false) })
			continue
		}
		for name := range f.snapshots {
			if name[1] == word {
				add(name, false)
			}
		}
	}
	return tables, nil
}

// inSchema calls do with each loaded table of a schema.
func (f *follower) inSchema(schema string, do func(name [2]string)) {
	for name := range f.snapshots {
		if name[0] == schema {
			do(name)
		}
	}
}

// list names some of the tables: those that are newer than the statement, or those that are not.
func list(tables []touched, newer bool) string {
	const most = 10
	var names []string
	for _, t := range tables {
		if t.newer == newer {
			names = append(names, text.Ident(t.name[0], t.name[1]))
		}
	}
	slices.Sort(names)
	if n := len(names); n > most {
		names = append(names[:most], fmt.Sprintf("%d more", n-most))
	}
	return strings.Join(names, ", ")
}

// mixed is the error for a statement that concerns tables with older and with newer rows.
func (f *follower) mixed(d *format.DDL, tables []touched) error {
	older, reload := list(tables, false), f.reload()
	e := fault.New(fault.Config,
		"cannot apply a schema change of the transaction with commit LSN %v: the rows of %s include it, but not those of all tables that it concerns",
		f.tx.commit, list(tables, true)).WithDetail("The statement: %s", write.Shown(d))
	if older == "" {
		return e.WithHint("%s", f.byHand())
	}
	if len(f.Rename) == 0 && len(tables) < 10 {
		reload = fmt.Sprintf("pgextract --slot %s", text.Shell(f.stream.Key.Slot))
		for _, t := range tables {
			if !t.newer {
				reload += " --table " + text.Shell(plan.QuoteIdent(t.name[0])+"."+plan.QuoteIdent(t.name[1]))
			}
		}
		reload += " --reload | pgapply"
	}
	return e.WithHint("Load %s again, then start sync again: %s. If the source has dropped or renamed them since: make the target's tables as they are on the source, and skip the transaction: pgapply --skip-lsn %v",
		older, reload, f.tx.commit)
}

// unclear is the error for a statement of which nobody can tell which rows it has changed.
func (f *follower) unclear(d *format.DDL) error {
	return fault.New(fault.Config,
		"cannot apply a schema change of the transaction with commit LSN %v: it is older than the rows of some tables, and may have changed them",
		f.tx.commit).WithDetail("The statement: %s", write.Shown(d)).WithHint("%s", f.byHand())
}

// byHand is the hint for a statement that only a person can repeat.
func (f *follower) byHand() string {
	return fmt.Sprintf("Make what the statement concerns on the target as it is on the source, load the tables again whose rows it has changed (%s), and start sync again without the transaction: pgapply --skip-lsn %v",
		f.reload(), f.tx.commit)
}

func (f *follower) reload() string {
	return fmt.Sprintf("pgextract --slot %s --table … --reload | pgapply", text.Shell(f.stream.Key.Slot))
}
