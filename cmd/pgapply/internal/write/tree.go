package write

import (
	"fmt"
	"strings"
	"sync"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
	"github.com/pgsluice/pgsluice/cmd/pgapply/internal/plan"
)

// A tree is a partition tree that is loaded through its root, because the target may put rows into
// other partitions than the source. It is emptied as a whole. Its indexes are built after all of
// its rows are loaded: until then, rows may go to any of its partitions.
type tree struct {
	*catalog.Root
	leaves [][2]string // names of the partitions on the target

	decided bool // anew has decided
	again   bool

	once sync.Once
	err  error
}

// findTrees looks for trees that must be loaded through their roots.
func (l *Loader) findTrees() error {
	leaves, err := catalog.Leaves(l.ctx, l.Control)
	if err != nil {
		return l.Server.Explain(err)
	}
	if l.trees == nil {
		l.trees = make(map[[2]string]*tree)
	}
	byRoot := make(map[uint32]*tree)
	for _, t := range l.trees {
		byRoot[t.OID] = t
	}
	for _, x := range leaves {
		name := [2]string{x.Schema, x.Name}
		if l.trees[name] != nil {
			continue
		}
		t := byRoot[x.Root.OID]
		if t == nil {
			t = &tree{Root: x.Root}
			byRoot[x.Root.OID] = t
		}
		t.leaves = append(t.leaves, name)
		l.trees[name] = t
	}
	return nil
}

// or returns the quoted name of the root, or of the table itself if it is not part of a tree.
func (t *tree) or(table string) string {
	if t == nil {
		return table
	}
	return t.qualified()
}

func (t *tree) qualified() string { return plan.QuoteIdent(t.Schema) + "." + plan.QuoteIdent(t.Name) }

// anew reports whether all partitions of a tree must be loaded again, because the rows to keep
// cannot be told apart from the rows to remove. The goroutine that reads the stream calls it.
func (t *tree) anew(l *Loader) bool {
	if t == nil {
		return false
	}
	if !t.decided {
		t.decided, t.again = true, progress.Torn(l.states, t.leaves, l.Snapshot)
		for _, name := range t.leaves {
			s := l.states[name]
			t.again = t.again || l.Reload && s != nil && s.Snapshot != l.Snapshot && (s.Complete() || len(s.Done) > 0)
		}
	}
	return t.again
}

// prepare makes a tree ready for its first part in this run, unless another process is already
// loading it.
func (t *tree) prepare(l *Loader, s *session) error {
	t.once.Do(func() { t.err = t.ready(l, s) })
	return t.err
}

func (t *tree) ready(l *Loader, s *session) error {
	names := make([]string, len(t.leaves))
	for i, n := range t.leaves {
		names[i] = "(" + progress.Literal(n[0]) + ", " + progress.Literal(n[1]) + ")"
	}
	where := fmt.Sprintf("stream_id = %d AND (schema_name, table_name) IN (%s)", l.Stream.ID, strings.Join(names, ", "))
	const parts = "EXISTS (SELECT FROM pgsluice.parts p WHERE p.stream_id = t.stream_id AND p.schema_name = t.schema_name AND p.table_name = t.table_name)"
	const complete = "status IN ('copied', 'indexing', 'loaded')"
	other := "coalesce(snapshot, '') <> " + progress.Literal(l.Snapshot)
	var known []string
	for _, n := range t.leaves {
		if _, ok := l.targets[n]; ok {
			known = append(known, "("+progress.Literal(n[0])+", "+progress.Literal(n[1])+")")
		}
	}
	// Query again: another process may have emptied tables since the start.
	row, err := s.ask(l.ctx, "BEGIN", "SELECT FROM pgsluice.tables WHERE "+where+" ORDER BY schema_name, table_name FOR UPDATE",
		fmt.Sprintf(`SELECT coalesce(pg_catalog.bool_or(x.has), false), coalesce(pg_catalog.bool_or(x.has AND NOT x.complete AND x.other), false), coalesce(pg_catalog.bool_or(x.has AND x.other), false),
			coalesce(pg_catalog.min(x.name) FILTER (WHERE x.has AND NOT x.known), '')
			FROM (SELECT %[1]s OR %[2]s AS has, %[1]s AS complete, %[3]s AS other, (schema_name, table_name) IN (%[4]s) AS known, schema_name || '.' || table_name AS name FROM pgsluice.tables t WHERE %[5]s) x`,
			complete, parts, other, strings.Join(known, ", "), where))
	if err != nil {
		return err
	}
	some, torn, older, unknown := row[0] == "t", row[1] == "t", row[2] == "t", row[3]
	switch {
	case torn && !l.Reload:
		return t.empty(l, s, where)
	case older && l.Reload && unknown != "":
		return fault.New(fault.Config,
			"cannot load partition %s again without the others: rows of table %s.%s are in other partitions on the target than on the source",
			t.oneOf(l), t.Schema, t.Name).
			WithDetail("The load does not have partition %s.", unknown).
			WithHint("Load the whole table again: pgextract --slot … --table … --reload | pgapply, with patterns that match all of its partitions.")
	case older && l.Reload:
		return t.empty(l, s, where)
	case some:
		return s.exec(l.ctx, "ROLLBACK") // the load of the tree has begun already
	}
	row, err = s.ask(l.ctx, "SELECT EXISTS (SELECT FROM "+t.qualified()+")")
	if err != nil {
		return err
	}
	if row[0] == "t" {
		e := fault.New(fault.Config, "table %q on the target has rows already", t.Schema+"."+t.Name)
		if l.Reload {
			e.Detail = "They were not loaded from this source, so that they are not emptied either."
		}
		return e.WithHint("Empty it (TRUNCATE %s on the target), or leave it out.", text.Ident(t.Schema, t.Name))
	}
	return s.exec(l.ctx, "ROLLBACK")
}

// oneOf returns the name of a partition that this load has.
func (t *tree) oneOf(l *Loader) string {
	for _, n := range t.leaves {
		if _, ok := l.targets[n]; ok {
			return n[0] + "." + n[1]
		}
	}
	return t.Schema + "." + t.Name
}

// empty removes the rows of all partitions, queues the partitions again, and commits the open
// transaction.
func (t *tree) empty(l *Loader, s *session, where string) error {
	sql := "TRUNCATE " + t.qualified()
	for _, n := range t.leaves {
		if x := l.tables[l.targets[n]]; x != nil && x.target != nil && x.target.Referenced {
			sql = "DELETE FROM " + t.qualified()
		}
	}
	return s.exec(l.ctx, sql+"; DELETE FROM pgsluice.parts WHERE "+where+`; UPDATE pgsluice.tables SET status = 'queued', snapshot = NULL, snapshot_lsn = NULL, rows = 0, bytes = 0,
		copied_at = NULL, loaded_at = NULL WHERE `+where+"; COMMIT")
}

// whole removes from copied the tables of trees that still lack rows. Their indexes and constraints
// are not created yet.
func (l *Loader) whole(copied, missing []progress.LoadTable) []progress.LoadTable {
	if len(l.trees) == 0 {
		return copied
	}
	wait := make(map[*tree]bool)
	for _, t := range missing {
		if tree := l.trees[[2]string{t.Schema, t.Name}]; tree != nil {
			wait[tree] = true
		}
	}
	var list []progress.LoadTable
	for _, t := range copied {
		if !wait[l.trees[[2]string{t.Schema, t.Name}]] {
			list = append(list, t)
		}
	}
	return list
}
