package steps

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/pgsluice/pgsluice/cmd/internal/catalog"
	"github.com/pgsluice/pgsluice/cmd/internal/count"
	"github.com/pgsluice/pgsluice/cmd/internal/fault"
	"github.com/pgsluice/pgsluice/cmd/internal/inventory"
	"github.com/pgsluice/pgsluice/cmd/internal/pgdial"
	"github.com/pgsluice/pgsluice/cmd/internal/progress"
	"github.com/pgsluice/pgsluice/cmd/internal/slot"
	"github.com/pgsluice/pgsluice/cmd/internal/text"
)

// A pair is a table on both sides.
type pair struct {
	schema, name             string // on the source
	targetSchema, targetName string
	// expressions that give a value's text, the same on both sides
	columns []string
	// a partitioned table on the target, whose partitions have the rows
	whole bool
	// partitions on the source that are compared as one; empty: the table itself
	leaves     []catalog.Name
	names, key []string
	bytes      int64

	source, target sum
	problem        string

	types []string // of the columns
	// its rows are too large to be compared as text: columns are, by their hashes
	large      bool
	unverified string // why it could not be compared
	cause      error  // the server's, of that
	remedy     string // what would let it be compared, if that is known
	byCopy     bool   // its rows were hashed here
}

// A sum is a table's content: how many rows, and the sum of a 64-bit hash of each, twice with
// different seeds.
type sum struct {
	rows int64
	sums string
}

func (p *pair) equal() bool {
	return p.problem == "" && p.unverified == "" && p.source.rows == p.target.rows && p.source.sums == p.target.sums
}

// Verify compares every row of every table of the source, and large objects, with the target's, as
// of one snapshot on either side, which Verify takes at its beginning and announces by calling
// ready. The source must be fenced and drained, or the two snapshots would not be of the same
// state. It writes a line for each table, or only for those that differ, and fails if one does:
// only then with status Failed, so that nobody takes what could not be compared for a difference.
func (m *Migration) Verify(ctx context.Context, jobs int, onlyDifferent bool, ready func()) error {
	equal, err := m.verify(ctx, jobs, onlyDifferent, ready)
	if err != nil && equal && fault.StatusOf(err) == fault.Failed {
		e := &fault.Error{Status: fault.Config, Err: fmt.Errorf("could not verify: %w", err)}
		var f *fault.Error
		if errors.As(err, &f) {
			e.Detail, e.Hint = f.Detail, f.Hint
		}
		return e
	}
	return err
}

// verify reports equal unless it has found a difference, also where it fails before it can tell.
func (m *Migration) verify(ctx context.Context, jobs int, onlyDifferent bool, ready func()) (equal bool, err error) {
	began := time.Now()
	t, err := m.target(ctx)
	if err != nil {
		return true, err
	}
	defer t.Close(context.WithoutCancel(ctx))
	stream, err := m.stream(ctx, t)
	if err != nil {
		return true, err
	}
	steps, err := progress.Steps(ctx, t, stream.ID)
	if err != nil {
		return true, m.Target.Explain(err)
	}
	a, err := slot.Hold(ctx, m.Source)
	if err != nil {
		return true, err
	}
	defer a.Release(context.WithoutCancel(ctx))
	b, err := slot.Hold(ctx, m.Target)
	if err != nil {
		return true, err
	}
	defer b.Release(context.WithoutCancel(ctx))
	if err := m.checkSource(ctx, a.Keep, t, stream); err != nil {
		return true, err
	}
	if stream.Ended {
		m.Log.Warn("the target was opened: what has been written to it since then differs from the source")
	}
	fenced, err := isFenced(ctx, a.Keep)
	if err != nil {
		return true, m.Source.Explain(err)
	}
	if !fenced || !finished(steps, "drain") {
		return true, fault.New(fault.Config, "the source is not fenced and drained: what differs now may just not have arrived yet").
			WithHint("First: pgcutover fence --slot %s, and pgcutover drain --slot %s", m.Slot, m.Slot)
	}
	pairs, err := m.pairs(ctx, a.Keep, b.Keep, t, stream)
	if err != nil {
		return true, err
	}
	how, err := m.comparison(ctx, a.Keep, b.Keep)
	if err != nil {
		return true, err
	}
	if ready != nil {
		ready()
	}
	if err := m.sumAll(ctx, pairs, how, jobs, a.Name, b.Name); err != nil {
		return true, err
	}
	if large := tooLarge(pairs); len(large) > 0 {
		if err := m.sumAll(ctx, large, how, jobs, a.Name, b.Name); err != nil {
			return true, err
		}
	}
	if rest := unplanned(pairs); len(rest) > 0 {
		if err := m.sumByCopy(ctx, rest, how, a.Name, b.Name); err != nil {
			return true, err
		}
	}
	return m.report(ctx, t, stream.ID, pairs, how, a.Name, b.Name, onlyDifferent, began)
}

// pairs finds the tables to compare: all that the source has to migrate, or those that were
// selected.
func (m *Migration) pairs(ctx context.Context, a, b, t *pgx.Conn, stream *progress.Stream) ([]*pair, error) {
	tables, err := catalog.Tables(ctx, a)
	if err != nil {
		return nil, m.Source.Explain(err)
	}
	known, err := progress.Tables(ctx, t, stream.ID)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	list, err := m.carried(ctx, a, t, stream, known)
	if err != nil {
		return nil, err
	}
	wanted := make(map[catalog.Name]bool)
	for _, x := range list {
		wanted[catalog.Name{Schema: x.Schema, Name: x.Name}] = true
	}
	renamed := make(map[[2]string][2]string)
	for _, k := range known {
		renamed[[2]string{k.SourceSchema, k.SourceTable}] = [2]string{k.Schema, k.Table}
	}
	old := oldFloats(a, b)
	var pairs []*pair
	var names [][2]string
	for _, x := range tables {
		if x.Kind != "r" || x.Condition != "" || !wanted[catalog.Name{Schema: x.Schema, Name: x.Name}] {
			continue
		}
		p := &pair{schema: x.Schema, name: x.Name, targetSchema: x.Schema, targetName: x.Name, bytes: x.Bytes}
		if to, ok := renamed[[2]string{x.Schema, x.Name}]; ok {
			p.targetSchema, p.targetName = to[0], to[1]
		}
		for _, c := range x.Columns {
			p.names, p.types = append(p.names, c.Name), append(p.types, c.Type)
			p.columns = append(p.columns, textOf(c.Name, c.Type, old))
			if c.Key && x.ReplicaIdentity != "f" {
				p.key = append(p.key, c.Name)
			}
		}
		names = append(names, [2]string{p.targetSchema, p.targetName})
		pairs = append(pairs, p)
	}
	found, err := catalog.LookupAll(ctx, b, names)
	if err != nil {
		return nil, m.Target.Explain(err)
	}
	had := make(map[catalog.Name]map[string]bool) // the columns that the source had at the load
	if err := progress.Fingerprints(ctx, t, stream.ID, func(side string, f *progress.Fingerprint) {
		if side != "source" || f.Class != inventory.Column {
			return
		}
		n := catalog.Name{Schema: f.Schema, Name: f.Table}
		if had[n] == nil {
			had[n] = make(map[string]bool)
		}
		had[n][f.Name] = true
	}); err != nil {
		return nil, m.Target.Explain(err)
	}
	for _, p := range pairs {
		r := found[[2]string{p.targetSchema, p.targetName}]
		if r == nil {
			p.problem = "it does not exist on the target"
			continue
		}
		p.whole = r.Kind == "p"
		for _, c := range p.names {
			if !slices.ContainsFunc(r.Columns, func(x catalog.Column) bool { return x.Name == c }) {
				p.problem = fmt.Sprintf("column %q does not exist on the target", c)
				break
			}
		}
		for _, c := range r.Columns {
			if p.problem == "" && !slices.Contains(p.names, c.Name) && had[catalog.Name{Schema: p.schema, Name: p.name}][c.Name] {
				p.problem = fmt.Sprintf("column %q has been dropped on the source since the load", c.Name)
			}
		}
	}
	return m.merge(ctx, b, pairs)
}

// oldFloats reports whether one of the servers prints floating-point numbers as they were printed
// before version 12: with digits that the other leaves out.
func oldFloats(a, b *pgx.Conn) bool {
	return pgdial.Version(a.PgConn()) < 120000 || pgdial.Version(b.PgConn()) < 120000
}

// textOf returns an expression for a column's value that prints the same on both sides.
func textOf(name, typ string, oldFloats bool) string {
	q := pgx.Identifier{name}.Sanitize()
	if oldFloats {
		switch typ {
		case "real":
			return "pg_catalog.float4send(" + q + ")"
		case "double precision":
			return "pg_catalog.float8send(" + q + ")"
		}
	}
	return q
}

// A comparison says how rows are compared.
type comparison struct {
	text     string // of a row r, as bytes that are the same on both sides
	hash     string // the aggregate that sums a table's rows up
	settings string // of the sessions
}

// comparison finds out how rows can be compared. The server's own hash function is used if both
// sides have the same.
func (m *Migration) comparison(ctx context.Context, a, b *pgx.Conn) (how comparison, err error) {
	if oldFloats(a, b) {
		// Numbers within other values, as in arrays: rounded to 15 digits both versions print them
		// alike.
		how.settings = "; SET extra_float_digits = 0"
	}
	how.text = "r"
	if a.PgConn().ParameterStatus("server_encoding") != b.PgConn().ParameterStatus("server_encoding") {
		how.text = "pg_catalog.convert_to(r, 'UTF8')"
	}
	how.hash = `pg_catalog.sum(('x' || pg_catalog.substr(pg_catalog.md5(` + how.text + `), 1, 16))::bit(64)::bigint)::pg_catalog.text || '/' ||
		pg_catalog.sum(('x' || pg_catalog.substr(pg_catalog.md5(` + how.text + `), 17, 16))::bit(64)::bigint)::pg_catalog.text`
	if how.text != "r" || pgdial.Version(a.PgConn()) < 110000 || pgdial.Version(b.PgConn()) < 110000 {
		return how, nil
	}
	const fast = `pg_catalog.sum(pg_catalog.hashtextextended(r COLLATE "C", 0))::pg_catalog.text || '/' || pg_catalog.sum(pg_catalog.hashtextextended(r COLLATE "C", 1))::pg_catalog.text`
	var x, y string
	probe := "SELECT " + fast + " FROM (VALUES ('pgsluice'), ('')) v(r)"
	if err := a.QueryRow(ctx, probe).Scan(&x); err != nil {
		return how, m.Source.Explain(err)
	}
	if err := b.QueryRow(ctx, probe).Scan(&y); err != nil {
		return how, m.Target.Explain(err)
	}
	if x == y {
		how.hash = fast
	}
	return how, nil
}

func (p *pair) rowText() string {
	if len(p.columns) == 0 {
		return "''"
	}
	if p.large {
		return p.hashes()
	}
	return "ROW(" + strings.Join(p.columns, ", ") + ")::pg_catalog.text"
}

// from returns the table on one side, without those that inherit from it.
func (p *pair) from(target bool) string {
	if !target && len(p.leaves) > 0 {
		return p.fromLeaves()
	}
	if !target {
		return "ONLY " + pgx.Identifier{p.schema, p.name}.Sanitize()
	}
	if p.whole {
		return pgx.Identifier{p.targetSchema, p.targetName}.Sanitize()
	}
	return "ONLY " + pgx.Identifier{p.targetSchema, p.targetName}.Sanitize()
}

func (p *pair) sumSQL(hash string, target bool) string {
	return "SELECT pg_catalog.count(*), coalesce(" + hash + ", '') FROM (SELECT " + p.rowText() + " AS r FROM " + p.from(target) + ") x"
}

// sumAll sums all tables on both sides, jobs of them at a time.
func (m *Migration) sumAll(ctx context.Context, pairs []*pair, how comparison, jobs int, snapshotA, snapshotB string) error {
	queue := append([]*pair(nil), pairs...)
	sort.SliceStable(queue, func(i, j int) bool { return queue[i].bytes > queue[j].bytes })
	g, ctx := errgroup.WithContext(ctx)
	var refused sync.Mutex
	for side, server := range []pgdial.Server{m.Source, m.Target} {
		snapshot := []string{snapshotA, snapshotB}[side]
		var mu sync.Mutex
		next := 0
		for range jobs {
			g.Go(func() error {
				c, err := openSnapshot(ctx, server, snapshot, how.settings)
				if err != nil {
					return err
				}
				defer c.Close(context.WithoutCancel(ctx))
				for n := 1; ; n++ {
					if n%locksAtOnce == 0 {
						// a transaction keeps its locks, and the snapshot is held by another
						if _, err := c.Exec(ctx, "COMMIT; "+inSnapshot(snapshot)); err != nil {
							return server.Explain(err)
						}
					}
					mu.Lock()
					i := next
					next++
					mu.Unlock()
					if i >= len(queue) {
						return nil
					}
					p := queue[i]
					if p.problem != "" {
						continue
					}
					s := &p.source
					if side == 1 {
						s = &p.target
					}
					if err := c.QueryRow(ctx, p.sumSQL(how.hash, side == 1)).Scan(&s.rows, &s.sums); isTooLarge(err) || isOfTable(err) {
						why := err
						_ = c.Close(ctx)
						if c, err = openSnapshot(ctx, server, snapshot, how.settings); err != nil {
							return err
						}
						remedy, err := m.readable(ctx, c, server.Side, p, why)
						if err != nil {
							return server.Explain(err)
						}
						refused.Lock()
						p.unverified, p.cause, p.remedy = server.Side+": "+why.Error(), why, remedy
						refused.Unlock()
					} else if err != nil {
						return server.Explain(fmt.Errorf("could not compare table %s.%s: %w", p.schema, p.name, err))
					}
				}
			})
		}
	}
	return g.Wait()
}

// inSnapshot returns the statements that begin a transaction which reads a snapshot.
func inSnapshot(snapshot string) string {
	return "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT " + slot.QuoteLiteral(snapshot)
}

func openSnapshot(ctx context.Context, server pgdial.Server, snapshot, settings string) (*pgx.Conn, error) {
	c, err := server.Connect(ctx)
	if err != nil {
		return nil, err
	}
	_, err = c.Exec(ctx, inSnapshot(snapshot)+settings+"; "+pgdial.TablesOnly(server.Side))
	if err != nil {
		_ = c.Close(ctx)
		return nil, server.Explain(err)
	}
	return c, nil
}

// report writes a line for each table, or only for those that differ, and what differs in them.
func (m *Migration) report(ctx context.Context, t *pgx.Conn, stream int32, pairs []*pair, how comparison,
	snapshotA, snapshotB string, onlyDifferent bool, began time.Time) (equal bool, err error) {
	var rows int64
	var different, unverified, remedies []string
	for _, p := range pairs {
		name := p.schema + "." + p.name
		if p.unverified != "" && p.problem == "" {
			unverified = append(unverified, name)
			if p.remedy != "" && !slices.Contains(remedies, p.remedy) {
				remedies = append(remedies, p.remedy)
			}
			m.printf("unverified\t%s\t%s\n", name, p.unverified)
			continue
		}
		rows += p.source.rows
		if p.equal() {
			if !onlyDifferent {
				m.printf("equal\t%s\t%d\n", name, p.source.rows)
			}
			continue
		}
		different = append(different, name)
		if p.problem != "" {
			m.printf("different\t%s\t%s\n", name, p.problem)
			continue
		}
		m.printf("different\t%s\t%d rows on the source, %d on the target\n", name, p.source.rows, p.target.rows)
		if p.byCopy { // no query can read its rows
			continue
		}
		if err := m.differences(ctx, p, how, snapshotA, snapshotB); err != nil {
			return false, err
		}
	}
	tables := len(different)
	equal, err = m.largeObjects(ctx, t, stream, snapshotA, snapshotB, onlyDifferent)
	if err != nil {
		return tables == 0, err
	}
	took := time.Since(began).Round(time.Millisecond)
	detail := fmt.Sprintf("%s, %s: all equal", count.Of(len(pairs), "table"), count.Of(rows, "row"))
	if tables > 0 {
		detail = fmt.Sprintf("%d of %s %s: %s", tables, count.Of(len(pairs), "table"),
			count.Word(tables, "differs", "differ"), strings.Join(different, ", "))
	}
	switch {
	case equal:
	case tables > 0:
		detail += "; large objects differ, too"
	default:
		detail = "large objects differ"
	}
	equal = equal && tables == 0
	result := "equal"
	switch {
	case !equal:
		result = "differs"
	case len(unverified) > 0:
		result = ""
		detail = fmt.Sprintf("%s could not be verified: %s; the others are equal",
			count.Of(len(unverified), "table"), strings.Join(unverified, ", "))
	}
	// A difference is recorded too: whoever looks later must not take the migration for a good one.
	if err := progress.StepBegan(ctx, t, stream, "verify", took); err != nil {
		return equal, m.Target.Explain(err)
	}
	if err := progress.StepEndsWith(ctx, t, stream, "verify", detail, result); err != nil {
		return equal, m.Target.Explain(err)
	}
	if !equal {
		return false, fault.New(fault.Failed, "%s", detail).
			WithHint("%s", m.whatNow(ctx, t))
	}
	if len(remedies) > 0 {
		return true, fault.New(fault.Config, "%s", detail).
			WithHint("%s Then again: pgcutover verify --slot %s",
				strings.Join(remedies[:min(len(remedies), 5)], " "), text.Shell(m.Slot))
	}
	if len(unverified) > 0 {
		return true, fault.New(fault.Config, "%s", detail).
			WithHint("The lines of the report say why. Where a row is too large for the server to read as a whole, compare by parts: count(*), and sums of md5 or length of each column, on both sides. "+
				"Where a function does not exist, another one relies on its caller's search path: ALTER FUNCTION … SET search_path = …, then again: pgcutover verify --slot %s", m.Slot)
	}
	m.Log.Info(fmt.Sprintf("verify: %s (%v)", detail, took))
	return true, nil
}

// showDifferences is how many differing rows of a table are shown.
const showDifferences = 10

// differences shows the first rows that differ: by key, or as whole rows where there is none. Both
// sides are read in the same order.
func (m *Migration) differences(ctx context.Context, p *pair, how comparison, snapshotA, snapshotB string) error {
	// The sessions are closed in the middle of their answers, without reading the rest.
	a, err := openSnapshot(ctx, m.Source, snapshotA, how.settings)
	if err != nil {
		return err
	}
	defer a.Close(context.WithoutCancel(ctx))
	b, err := openSnapshot(ctx, m.Target, snapshotB, how.settings)
	if err != nil {
		return err
	}
	defer b.Close(context.WithoutCancel(ctx))
	// Of a row without a key as much as a person can read, and the rest as a hash: it may be huge.
	id := "CASE WHEN pg_catalog.octet_length(r) > 1000 THEN pg_catalog.left(r, 200) || '… ' || pg_catalog.md5(r) ELSE r END"
	if len(p.key) > 0 {
		parts := make([]string, len(p.key))
		for i, k := range p.key {
			parts[i] = pgx.Identifier{k}.Sanitize()
		}
		id = "ROW(" + strings.Join(parts, ", ") + ")::pg_catalog.text"
	}
	query := func(target bool) string {
		if len(p.key) > 0 {
			return `SELECT id COLLATE "C", pg_catalog.md5(` + how.text + `) FROM (SELECT ` + p.rowText() + ` AS r, ` + id + ` AS id FROM ` + p.from(target) + `) x ORDER BY 1, 2`
		}
		return `SELECT (` + id + `) COLLATE "C", pg_catalog.md5(` + how.text + `) FROM (SELECT ` + p.rowText() + ` AS r FROM ` + p.from(target) + `) x ORDER BY 1, 2`
	}
	x, err := a.Query(ctx, query(false))
	if err != nil {
		return m.Source.Explain(err)
	}
	y, err := b.Query(ctx, query(true))
	if err != nil {
		return m.Target.Explain(err)
	}
	left, right := cursorOf(x), cursorOf(y)
	for shown := 0; (left.ok || right.ok) && shown < showDifferences; {
		id, how := left.id, ""
		switch {
		case !right.ok || left.ok && left.id < right.id:
			how = "missing on the target"
			left.next()
		case !left.ok || right.id < left.id:
			id, how = right.id, "only on the target"
			right.next()
		default:
			if left.sum != right.sum {
				how = "different"
			}
			left.next()
			right.next()
		}
		if how != "" {
			m.printf("row\t%s.%s\t%s\t%s\n", p.schema, p.name, id, how)
			shown++
		}
	}
	if left.err != nil {
		return m.Source.Explain(left.err)
	}
	return m.Target.Explain(right.err)
}

// A rowCursor steps through the rows of one side.
type rowCursor struct {
	rows    pgx.Rows
	id, sum string
	ok      bool
	err     error
}

func cursorOf(rows pgx.Rows) *rowCursor {
	c := &rowCursor{rows: rows}
	c.next()
	return c
}

func (c *rowCursor) next() {
	if c.ok = c.rows.Next(); c.ok {
		c.err = c.rows.Scan(&c.id, &c.sum)
		c.ok = c.err == nil
	} else {
		c.err = c.rows.Err()
	}
}
